//! Rounding modes and exception flags on both sides of a switch.
#![cfg(not(miri))]

mod common;

use common::{SUSPENDED, Task};
use libtimetravel::raw::COMPLETED;
use std::arch::asm;

const TO_NEAREST: u32 = 0;
const DOWN: u32 = 1;
const UP: u32 = 2;
const TO_ZERO: u32 = 3;
const DIVIDE_BY_ZERO: u32 = 1 << 2;
const INEXACT: u32 = 1 << 5;

fn mxcsr() -> u32 {
    let mut value = 0_u32;
    // SAFETY: stores to a local.
    unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
    value
}

fn set_mxcsr(value: u32) {
    // SAFETY: no code between here and the restoration depends on floating point.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags)) };
}

fn x87() -> u16 {
    let mut value = 0_u16;
    // SAFETY: stores to a local.
    unsafe { asm!("fnstcw [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
    value
}

fn set_rounding(mode: u32) {
    set_mxcsr(mxcsr() & !(3 << 13) | mode << 13);
    let control = x87() & !(3 << 10) | (mode << 10) as u16;
    // SAFETY: as for mxcsr.
    unsafe { asm!("fldcw [{}]", in(reg) &raw const control, options(nostack, preserves_flags)) };
}

/// The mode, if both units agree.
fn rounding() -> u32 {
    let (sse, x87) = (mxcsr() >> 13 & 3, u32::from(x87() >> 10 & 3));
    assert_eq!(sse, x87);
    sse
}

#[test]
fn a_fresh_function_inherits_and_a_completed_one_changes_nothing() {
    let mut task = Task::new(0, |_| {
        assert_eq!(rounding(), UP);
        set_rounding(DOWN);
    });
    set_rounding(UP);
    assert_eq!(task.enter(), COMPLETED);
    assert_eq!(rounding(), UP);
    set_rounding(TO_NEAREST);
}

#[test]
fn each_side_keeps_its_rounding_across_suspensions() {
    let mut task = Task::new(0, |task| {
        set_rounding(DOWN);
        task.suspend();
        assert_eq!(rounding(), DOWN);
        set_rounding(TO_ZERO);
        task.suspend();
        assert_eq!(rounding(), TO_ZERO);
    });
    assert_eq!(task.enter(), SUSPENDED);
    assert_eq!(rounding(), TO_NEAREST);
    set_rounding(UP);
    assert_eq!(task.reenter(), SUSPENDED);
    assert_eq!(rounding(), UP);
    // Completes to another launcher call than it was entered by.
    assert_eq!(task.reenter(), COMPLETED);
    assert_eq!(rounding(), UP);
    set_rounding(TO_NEAREST);
}

#[test]
fn exception_flags_accumulate() {
    let mut task = Task::new(0, |task| {
        set_mxcsr(mxcsr() | DIVIDE_BY_ZERO);
        task.suspend();
        assert_eq!(mxcsr() & (DIVIDE_BY_ZERO | INEXACT), DIVIDE_BY_ZERO | INEXACT);
        set_rounding(DOWN);
    });
    set_mxcsr(mxcsr() & !0x3f);
    assert_eq!(task.enter(), SUSPENDED);
    assert_eq!(mxcsr() & 0x3f, DIVIDE_BY_ZERO, "raised by the function, as in a call");
    set_mxcsr(mxcsr() & !0x3f | INEXACT);
    assert_eq!(task.reenter(), COMPLETED);
    assert_eq!(mxcsr() & 0x3f, DIVIDE_BY_ZERO | INEXACT);
    assert_eq!(rounding(), TO_NEAREST);
}
