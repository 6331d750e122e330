//! The alternate stack: handlers with `ONSTACK` run on it, others do not.

use libsignal::{
    Action, Disposition, Errno, Flags, Signal, SignalSet, alternate_stack, getpid, gettid, send_to_thread, set_action,
    set_alternate_stack,
};
use std::ffi::c_void;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

static STACK_POINTER: AtomicUsize = AtomicUsize::new(0); // the address of a handler's local
static STACK_FLAGS: AtomicI32 = AtomicI32::new(-1); // `ss_flags` as seen by the handler

unsafe extern "C" fn record(_: i32, _: *mut libc::siginfo_t, _: *mut c_void) {
    let local = 0u8;
    STACK_POINTER.store((&raw const local).addr(), SeqCst);
    STACK_FLAGS.store(alternate_stack().map_or(-1, |stack| stack.ss_flags), SeqCst);
}

fn runs_within(flags: Flags, range: &Range<*mut u8>) -> bool {
    let action = Action { disposition: Disposition::Handler(record), flags, mask: SignalSet::empty() };
    // SAFETY: `record` stores to atomics only.
    unsafe { set_action(Signal::USR1, &action) }.unwrap();
    send_to_thread(getpid(), gettid(), Signal::USR1).unwrap();
    (range.start.addr()..range.end.addr()).contains(&STACK_POINTER.load(SeqCst))
}

#[test]
fn handlers_run_on_the_stack_that_their_flags_name() {
    let mut memory = vec![0u8; 256 << 10];
    let range = memory.as_mut_ptr_range();
    let ours = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
    // SAFETY: `memory` lives until the previous stack is back, and is used for nothing else.
    let before = unsafe { set_alternate_stack(&ours) }.unwrap();

    let now = alternate_stack().unwrap();
    assert_eq!((now.ss_sp, now.ss_size, now.ss_flags), (ours.ss_sp, ours.ss_size, 0));
    assert!(runs_within(Flags::ONSTACK, &range));
    assert_eq!(STACK_FLAGS.load(SeqCst), libc::SS_ONSTACK);
    assert!(!runs_within(Flags::empty(), &range));
    assert_eq!(STACK_FLAGS.load(SeqCst), 0);

    let tiny = libc::stack_t { ss_size: 64, ..ours };
    // SAFETY: the kernel refuses it.
    let error = unsafe { set_alternate_stack(&tiny) }.err();
    assert_eq!(error, Some(Errno(libc::ENOMEM)));

    let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: no stack is named.
    unsafe { set_alternate_stack(&none) }.unwrap();
    assert_eq!(alternate_stack().unwrap().ss_flags, libc::SS_DISABLE);
    assert!(!runs_within(Flags::ONSTACK, &range), "without one, the usual stack serves");

    // SAFETY: it is the stack that the standard library set up for this thread, or none.
    unsafe { set_alternate_stack(&before) }.unwrap();
    drop(memory);
}
