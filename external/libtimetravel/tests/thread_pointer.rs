//! The thread pointer follows the switches, by the method that the kernel allows.
#![cfg(not(miri))]

mod common;
#[path = "common/thread_pointer.rs"]
mod thread_pointer;

use libtimetravel::{ThreadPointerMethod, thread_pointer_method};

#[test]
fn follows_the_switches() {
    thread_pointer::follows_every_switch();
    thread_pointer::follows_to_another_kernel_thread();
}

#[test]
fn wrfsbase_is_used_where_the_kernel_announces_it() {
    // SAFETY: no preconditions.
    let announced = unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 != 0;
    assert_eq!(thread_pointer_method() == ThreadPointerMethod::Wrfsbase, announced);
}
