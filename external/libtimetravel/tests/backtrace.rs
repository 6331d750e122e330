//! A backtrace taken inside a function goes on in its present launcher.
#![cfg(not(miri))]

mod common;

use common::{SUSPENDED, Task};
use libtimetravel::raw::COMPLETED;
use std::backtrace::Backtrace;
use std::sync::Mutex;

static TRACE: Mutex<String> = Mutex::new(String::new());

#[inline(never)]
fn innermost() {
    *TRACE.lock().unwrap() = Backtrace::force_capture().to_string();
}

#[inline(never)]
fn first_launcher(task: &mut Task) -> usize {
    std::hint::black_box(task.enter())
}

#[inline(never)]
fn second_launcher(task: &mut Task) -> usize {
    std::hint::black_box(task.reenter())
}

/// The names occur in the trace, in this order.
fn assert_trace(names: &[&str]) {
    let trace = TRACE.lock().unwrap();
    let mut rest = trace.as_str();
    for name in names {
        let at = rest.find(name).unwrap_or_else(|| panic!("no {name} in its place in:\n{trace}"));
        rest = &rest[at..];
    }
}

#[test]
fn leads_to_the_launcher_also_after_it_changed() {
    let mut task = Task::new(0, |task| {
        innermost();
        task.suspend();
        innermost();
    });
    assert_eq!(first_launcher(&mut task), SUSPENDED);
    assert_trace(&["innermost", "common::entry", "function_base", "first_launcher", "thread_start"]);
    std::thread::spawn(move || assert_eq!(second_launcher(&mut task), COMPLETED)).join().unwrap();
    assert_trace(&["innermost", "common::entry", "function_base", "second_launcher", "thread_start"]);
    assert!(!TRACE.lock().unwrap().contains("first_launcher"));
}

#[test]
fn coroutine_in_coroutine() {
    use libtimetravel::{Coroutine, Stack, Step};
    let stack = || Stack::new(1 << 20).unwrap();
    let mut outer = Coroutine::<(), (), String>::new(stack(), move |_, ()| {
        let mut inner = Coroutine::<(), (), String>::new(stack(), |_, ()| Backtrace::force_capture().to_string());
        match inner.resume(()) {
            Step::Return(trace) => trace,
            Step::Yield(()) => unreachable!(),
        }
    });
    let Step::Return(trace) = outer.resume(()) else { unreachable!() };
    assert_eq!(trace.matches("libtimetravel_function_base").count(), 2, "{trace}");
    assert!(trace.contains("thread_start"), "{trace}");
}
