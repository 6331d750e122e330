//! A function to switch to, and what the raw tests share.
#![allow(dead_code, reason = "each test binary uses its part")]

use libtimetravel::Stack;
use libtimetravel::raw::{self, Context};
use std::ffi::c_void;

/// The code with which a [`Task`] suspends itself.
pub(crate) const SUSPENDED: usize = 7;

/// A raw function with its stack; what a run time built on the crate would have.
pub(crate) struct Task {
    pub(crate) func: Context,
    pub(crate) host: *mut Context, // that of the latest enter or reenter
    body: fn(&mut Task),
    stack: Stack,
}

// SAFETY: the tests' bodies keep nothing of a kernel thread's in their frames.
unsafe impl Send for Task {}

impl Task {
    /// Boxed, because the body has its address.
    pub(crate) fn new(thread_pointer: usize, body: fn(&mut Task)) -> Box<Self> {
        let stack = Stack::new(1 << 20).unwrap();
        Box::new(Task { func: Context::new(thread_pointer), host: std::ptr::null_mut(), body, stack })
    }

    /// The thread pointer to come back to is the caller's.
    #[inline(never)]
    pub(crate) fn enter(&mut self) -> usize {
        let mut host = Context::new(raw::thread_pointer());
        self.host = &raw mut host;
        let (func, top) = (&raw mut self.func, self.stack.top());
        // SAFETY: the contexts and the stack outlive the call, and `entry` returns the current host.
        unsafe { raw::enter(&raw mut host, func, top, entry, (&raw mut *self).cast()) }
    }

    #[inline(never)]
    pub(crate) fn reenter(&mut self) -> usize {
        let mut host = Context::new(raw::thread_pointer());
        self.host = &raw mut host;
        // SAFETY: the tests call this only after `enter` or `reenter` has returned SUSPENDED.
        unsafe { raw::reenter(&raw mut host, &raw mut self.func) }
    }

    /// Called by the body.
    #[inline(never)]
    pub(crate) fn suspend(&mut self) {
        // SAFETY: called on the function's stack, so both contexts are those of the latest entry.
        unsafe { raw::leave(&raw mut self.func, self.host, SUSPENDED) }
    }
}

#[inline(never)]
unsafe extern "C" fn entry(arg: *mut c_void) -> *mut Context {
    // SAFETY: `enter` passes its Box's content, which is not touched elsewhere while this runs.
    let task = unsafe { &mut *arg.cast::<Task>() };
    (task.body)(task);
    task.host
}
