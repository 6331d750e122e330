//! The calling thread's alternate signal stack.

use crate::Errno;
use core::ptr;
use libc::stack_t;
use syscalls::Sysno;

/// Returns the calling thread's alternate signal stack.
///
/// `ss_flags` holds `SS_DISABLE` if there is none, and `SS_ONSTACK` if the caller runs on it.
///
/// # Errors
/// None are known.
///
/// # Source
/// sigaltstack(2)
#[inline]
pub fn alternate_stack() -> Result<stack_t, Errno> {
    // SAFETY: nothing is set.
    unsafe { sigaltstack(ptr::null()) }
}

/// Sets the calling thread's alternate signal stack, and returns the one of before.
///
/// `ss_flags` of `SS_DISABLE` means none. Handlers with [`Flags::ONSTACK`](crate::Flags::ONSTACK)
/// run on it.
///
/// # Errors
/// - `EPERM`: the caller runs on the alternate stack in use.
/// - `ENOMEM`: the stack is smaller than the kernel's minimum (`AT_MINSIGSTKSZ`).
/// - `EINVAL`: unknown flags.
///
/// # Safety
/// The memory is writable, nothing else uses it, and it stays so until another stack has been set
/// or the thread has ended.
///
/// # Source
/// sigaltstack(2)
#[inline]
pub unsafe fn set_alternate_stack(stack: &stack_t) -> Result<stack_t, Errno> {
    // SAFETY: the caller answers for the memory.
    unsafe { sigaltstack(stack) }
}

/// Sets the alternate stack unless `new` is null, and returns that of before.
///
/// # Safety
/// `new` is null or live, and then as [`set_alternate_stack`] wants it.
#[inline]
unsafe fn sigaltstack(new: *const stack_t) -> Result<stack_t, Errno> {
    let mut old = stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: `new` is null or live, which the caller promises, and `old` is live; libc's type is
    // laid out as the kernel's.
    unsafe { syscalls::syscall2(Sysno::sigaltstack, new as usize, &raw mut old as usize) }
        .map_err(Errno::from_kernel)?;
    Ok(old)
}
