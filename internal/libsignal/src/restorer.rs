//! The return from a signal handler, and all assembly of the crate.
//!
//! On x86-64 the kernel lets a handler return to the *restorer* named in the action:
//! ```text
//!   higher addresses
//!   | siginfo_t, ucontext_t         |
//!   +-------------------------------+ <- rsp in the restorer
//!   | address of the restorer       | <- rsp at the handler's first instruction
//!   lower addresses
//! ```
//! It is not a function: nobody calls it, and `rt_sigreturn` finds the interrupted registers right
//! at rsp.

use core::arch::global_asm;

/// The bytes of the restorer: `mov $15, %rax; syscall`, where 15 is `rt_sigreturn`.
///
/// libgcc (`x86_64_fallback_frame_state`), gdb (`amd64_linux_sigtramp_start`) and libunwind tell a
/// signal frame by exactly these bytes, so the assembler may not choose a shorter encoding.
#[cfg(test)]
const RESTORER_BYTES: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05];

// Three details let the unwinders get this far:
// - No CFI. libgcc compares the bytes only at addresses that no FDE covers.
// - The nop in front. libgcc looks up "return address minus one", as it would after a call; that
//   byte must not belong to another function's FDE.
// - The name. gdb compares the bytes only where no symbol is found or where its name contains
//   "sigaction" (elsewhere it wants `__restore_rt`).
global_asm!(
    ".pushsection .text.libsignal_sigaction_restorer, \"ax\", @progbits",
    ".p2align 4",
    "nop",
    ".p2align 4",
    ".globl libsignal_sigaction_restorer",
    ".hidden libsignal_sigaction_restorer",
    ".type libsignal_sigaction_restorer, @function",
    "libsignal_sigaction_restorer:", // at this point rsp points to the frame's ucontext_t
    ".byte 0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00", // mov $15, %rax
    ".byte 0x0f, 0x05",              // syscall; does not return
    ".size libsignal_sigaction_restorer, . - libsignal_sigaction_restorer",
    ".popsection",
);

unsafe extern "C" {
    fn libsignal_sigaction_restorer();
}

/// The address of the restorer, for `rt_sigaction`.
#[inline]
pub(crate) fn restorer() -> *const () {
    libsignal_sigaction_restorer as *const ()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_that_unwinders_look_for() {
        // SAFETY: the restorer is nine bytes of readable text.
        let bytes = unsafe { restorer().cast::<[u8; 9]>().read() };
        assert_eq!(bytes, RESTORER_BYTES);
    }
}
