//! Where a suspended function stands: the frames on its stack, from outside.
//!
//! The process's unwinder (libgcc_s, which Rust's standard library links) walks the stack of whoever calls it. So it is
//! called from a frame whose unwind information says that its caller is the suspended execution.

use crate::arch::current as arch;
use crate::raw::{self, Context};
use std::ffi::{c_int, c_void};

unsafe extern "C" {
    // Itanium C++ ABI, "Exception Handling", level I; GetIPInfo is GCC's.
    fn _Unwind_Backtrace(visit: extern "C" fn(*mut c_void, *mut c_void) -> c_int, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIPInfo(frame: *mut c_void, is_exact: *mut c_int) -> usize;
    fn _Unwind_GetRegionStart(frame: *mut c_void) -> usize;
}

/// The registers of an execution that does not run now.
#[derive(Clone, Copy, Debug)]
pub struct Registers(arch::Registers);

impl Registers {
    /// Those of a function that has been suspended by [`raw::leave`], or of a host that waits for one.
    ///
    /// # Safety
    ///
    /// `context` is suspended, and stays so meanwhile.
    #[must_use]
    pub unsafe fn suspended(context: &Context) -> Self {
        // SAFETY: the caller's promise, and Context's invariant.
        let mut registers = unsafe { arch::suspended_registers(context.sp) };
        // Of the call, not of what comes after it.
        registers[arch::RIP] -= 1;
        Registers(registers)
    }

    /// Those of code that a signal has interrupted: the third argument of the handler.
    #[must_use]
    pub fn interrupted(uc: &libc::ucontext_t) -> Self {
        Registers(arch::interrupted_registers(uc))
    }

    /// The address of the instruction.
    #[must_use]
    pub fn instruction(&self) -> usize {
        self.0[arch::RIP]
    }

    /// Those of its caller, where the function has done nothing but to be called.
    ///
    /// # Safety
    ///
    /// So it is, and its stack stays as it is meanwhile.
    #[must_use]
    pub unsafe fn of_caller(&self) -> Self {
        let mut caller = *self;
        // SAFETY: the caller's promise: the return address is what the stack pointer points to.
        caller.0[arch::RIP] = unsafe { (self.0[arch::RSP] as *const usize).read() } - 1;
        caller.0[arch::RSP] += size_of::<usize>();
        caller
    }
}

/// One function that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Frame {
    /// The address of the instruction; of a call, an address within it.
    pub instruction: usize,
    /// The address at which the function's code begins; 0 if it has no unwind information.
    pub function: usize,
}

struct Walk<'a> {
    visit: &'a mut dyn FnMut(Frame),
    has_begun: bool,
}

extern "C" fn visit_frame(frame: *mut c_void, walk: *mut c_void) -> c_int {
    const GO_ON: c_int = 0; // _URC_NO_REASON
    const END: c_int = 5; // _URC_END_OF_STACK
    // SAFETY: `walk` is that of `begin`, for which this call waits.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    let mut is_exact = 0;
    // SAFETY: the unwinder's own frame.
    let (address, function) = unsafe { (_Unwind_GetIPInfo(frame, &mut is_exact), _Unwind_GetRegionStart(frame)) };
    if address == 0 {
        return END;
    }
    let instruction = if is_exact == 0 { address - 1 } else { address };
    if !walk.has_begun {
        walk.has_begun = arch::call_from().contains(&instruction);
        return GO_ON;
    }
    (walk.visit)(Frame { instruction, function });
    if raw::function_base().contains(&instruction) { END } else { GO_ON }
}

unsafe extern "C" fn begin(walk: *mut c_void) {
    // SAFETY: visit_frame takes what it is given here.
    unsafe { _Unwind_Backtrace(visit_frame, walk) };
}

/// Calls `visit` for each frame, the innermost first, to the base of the function's stack, or as far as there is
/// unwind information.
///
/// Nothing of the suspended execution is changed.
///
/// # Safety
///
/// The stack of the execution that has these registers stays as it is meanwhile, and so do its callers'.
pub unsafe fn walk(registers: &Registers, mut visit: impl FnMut(Frame)) {
    let mut walk = Walk { visit: &mut visit, has_begun: false };
    // SAFETY: `begin` takes the walk; the unwinder reads the stack that is promised.
    unsafe { arch::libtimetravel_call_from(&registers.0, begin, (&raw mut walk).cast()) };
}
