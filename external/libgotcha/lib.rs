//! A private copy of every shared library for each unit of work, and calls routed to it.
//!
//! This crate is the Rust view of the C library `libgotcha` (its interface: `include/libgotcha.h`).
//! A *libset* is a full set of copies of the program's shared libraries; libset 0, the *starting
//! libset*, is what the dynamic linker loaded. Dynamic calls go to the copy that belongs to the calling
//! thread's *next libset*. The crate is made for *control libraries*, such as `inger`, that switch
//! libsets, stacks and thread pointers; it is unsafe by nature.

mod bindings;
pub use bindings::*;

use std::ffi::{CStr, c_long, c_void};
use std::sync::atomic::{Ordering::SeqCst, compiler_fence};

/// Why a call failed: an errno value, and the cause as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Errno value: what kind of failure.
    pub errno: i32,
    /// The cause, naming what was found.
    pub cause: String,
}

impl Error {
    fn last(errno: i32) -> Self {
        // SAFETY: the library returns a string of its own, never null.
        let cause = unsafe { CStr::from_ptr(libgotcha_error()) };
        Error { errno, cause: cause.to_string_lossy().into_owned() }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.cause)
    }
}

impl std::error::Error for Error {}

/// Starts interception; idempotent.
///
/// # Errors
///
/// `ENOSYS` on a system that the library does not know, `EBUSY` if another copy of it is at work in the
/// process, `ECANCELED` if it is dormant by `LIBGOTCHA_SKIP`, `ENOMEM`.
pub fn init() -> Result<(), Error> {
    // SAFETY: may be called at any time from ordinary code.
    match unsafe { libgotcha_init() } {
        0 => Ok(()),
        error => Err(Error::last(-error)),
    }
}

/// Adds the library of that file name to those that are not copied.
///
/// # Errors
///
/// `EBUSY` after [`init`], `ENOMEM`.
pub fn share(name: &CStr) -> Result<(), Error> {
    // SAFETY: a string; may be called at any time from ordinary code.
    match unsafe { libgotcha_share(name.as_ptr()) } {
        0 => Ok(()),
        error => Err(Error::last(-error)),
    }
}

/// Before the first function of which that is noted, after [`init`]: a sum of `LIBGOTCHA_TRACKS_...`.
///
/// # Errors
///
/// `ENOSYS` if the heap is to be, and the process has another than the C library's; `ENOMEM`.
pub fn track_start(what: u32) -> Result<(), Error> {
    // SAFETY: may be called at any time from ordinary code.
    match unsafe { libgotcha_track_start(what as i32) } {
        0 => Ok(()),
        error => Err(Error::last(-error)),
    }
}

/// Takes a free libset, making one if there is none.
///
/// # Errors
///
/// `EAGAIN` when the limit is reached.
pub fn group_new() -> Result<c_long, Error> {
    // SAFETY: may be called at any time from ordinary code.
    match unsafe { libgotcha_group_new() } {
        -1 => Err(Error::last(libc::EAGAIN)),
        group => Ok(group),
    }
}

impl libgotcha_tcb {
    /// Makes a thread control block for `group` and code on the given stack.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINVAL` for a libset that does not exist.
    ///
    /// # Safety
    ///
    /// `stack` is the lowest address of `stack_size_bytes` writable bytes that outlive the block.
    pub unsafe fn new(group: c_long, stack: *mut u8, stack_size_bytes: usize) -> Result<Self, Error> {
        let mut tcb = libgotcha_tcb { thread_pointer: 0, blocks: std::ptr::null_mut() };
        // SAFETY: the caller's promise about the stack; `tcb` is valid for writes.
        match unsafe { libgotcha_tcb_new(group, stack.cast(), stack_size_bytes, &mut tcb) } {
            0 => Ok(tcb),
            error => Err(Error::last(-error)),
        }
    }
}

/// The state of the thread control block that is current now.
///
/// Evaluated afresh at each call: a switch of thread pointers in between changes the answer.
#[inline(always)]
pub fn this() -> *mut libgotcha_thread {
    let address: *mut libgotcha_thread;
    // SAFETY: %fs:0 holds the thread pointer (psABI), and the GOT word the variable's offset from it.
    // Neither memory is written; not `pure`, because the thread pointer is not visible to the compiler.
    unsafe {
        std::arch::asm!(
            "mov {address}, qword ptr fs:[0]",
            "add {address}, qword ptr [rip + libgotcha_tls@GOTTPOFF]",
            address = out(reg) address,
            options(nostack, readonly),
        );
    }
    address
}

/// Crosses into the starting libset, on the same thread pointer, and defers preemption until [`leave`]; nests. Returns the
/// table to go back to.
///
/// What `shared_enter` and `shared_leave` of `internal.h` are to calls of shared functions, this is to the control
/// library's own code; the shared hook does not see it.
///
/// # Safety
///
/// The current thread control block is one that the library knows: a kernel thread's own, or one that it has made.
#[inline]
pub unsafe fn enter() -> *mut *mut c_void {
    // SAFETY: the caller's promise. Volatile, and in this order: a handler reads it.
    unsafe {
        let state = this();
        let defer = &raw mut (*state).defer;
        defer.write_volatile(defer.read_volatile() + 1);
        compiler_fence(SeqCst);
        let table = (*state).table;
        (&raw mut (*state).table).write_volatile((&raw mut libgotcha_starting_table).cast());
        compiler_fence(SeqCst);
        table
    }
}

/// Ends what [`enter`] has begun, and makes up for a preemption that came in between: may come back on another kernel
/// thread.
///
/// # Safety
///
/// `table` is what the matching call of [`enter`] returned, on the same thread control block.
#[inline]
pub unsafe fn leave(table: *mut *mut c_void) {
    // SAFETY: the caller's promise; as in enter.
    unsafe {
        let state = this();
        compiler_fence(SeqCst);
        (&raw mut (*state).table).write_volatile(table);
        compiler_fence(SeqCst);
        let defer = &raw mut (*state).defer;
        let left = defer.read_volatile() - 1;
        defer.write_volatile(left);
        if left == 0 && (&raw const (*state).pending).read_volatile() != 0 {
            libgotcha_take_pending();
        }
    }
}
