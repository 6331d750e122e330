//! What the process does on a signal.

use crate::restorer::restorer;
use crate::{Errno, Signal, SignalSet};
use core::ffi::c_void;
use core::{fmt, mem, ops, ptr};
use libc::siginfo_t;
use syscalls::Sysno;

/// A signal handler: signal number, its origin, and the interrupted `ucontext_t`.
pub type Handler = unsafe extern "C" fn(i32, *mut siginfo_t, *mut c_void);

/// What is done when a signal is delivered.
///
/// Two dispositions are equal if they are the same variant and name the same address.
#[derive(Copy, Clone, Debug)]
pub enum Disposition {
    /// The kernel's default for the signal: end, dump core, stop, continue or nothing.
    Default,
    /// Nothing; the signal is discarded.
    Ignore,
    /// The handler is called on the thread that takes the signal.
    ///
    /// Under [`Flags::ONE_ARGUMENT`] it was written for the signal number alone.
    Handler(Handler),
}

impl Disposition {
    /// The handler word of a kernel's `struct sigaction`.
    fn to_word(self) -> *const () {
        match self {
            Disposition::Default => ptr::without_provenance(libc::SIG_DFL),
            Disposition::Ignore => ptr::without_provenance(libc::SIG_IGN),
            Disposition::Handler(handler) => handler as *const (),
        }
    }

    /// Reads the handler word of a kernel's `struct sigaction`.
    ///
    /// # Safety
    /// The kernel returned the word.
    unsafe fn from_word(word: *const ()) -> Disposition {
        match word.addr() {
            libc::SIG_DFL => Disposition::Default,
            libc::SIG_IGN => Disposition::Ignore,
            // SAFETY: the word is not null (that is SIG_DFL), and whoever installed it promised
            // that it is the address of a handler. One that takes the signal number alone may be
            // called with three arguments in this ABI: it does not look at rsi and rdx.
            _ => Disposition::Handler(unsafe { mem::transmute::<*const (), Handler>(word) }),
        }
    }
}

impl PartialEq for Disposition {
    fn eq(&self, other: &Disposition) -> bool {
        ptr::eq(self.to_word(), other.to_word())
    }
}

impl Eq for Disposition {}

/// Modifiers of an [`Action`], combined with `|`.
///
/// # Source
/// sigaction(2)
#[derive(Copy, Clone, PartialEq, Eq, Hash, Default)]
pub struct Flags(u64);

impl Flags {
    /// Go on with an interrupted system call where that is possible, so that code which does not
    /// expect `EINTR` keeps working.
    pub const RESTART: Flags = Flags(libc::SA_RESTART as u64);
    /// Leave the signal open while its handler runs, so that a handler which does not return by
    /// `rt_sigreturn`, but switches away, does not leave it blocked.
    pub const NODEFER: Flags = Flags(libc::SA_NODEFER as u64);
    /// Run the handler on the thread's alternate stack, so that it works when the usual stack has
    /// overflowed.
    pub const ONSTACK: Flags = Flags(libc::SA_ONSTACK as u64);
    /// Set the disposition to [`Disposition::Default`] before the handler runs, so that a second
    /// fault inside the handler of a fault ends the process.
    pub const RESETHAND: Flags = Flags(libc::SA_RESETHAND as u64);
    /// Send no `SIGCHLD` when a child stops or continues, for programs that wait only for its end.
    pub const NOCLDSTOP: Flags = Flags(libc::SA_NOCLDSTOP as u64);
    /// Keep no zombie of an ended child, for programs that never wait for one.
    pub const NOCLDWAIT: Flags = Flags(libc::SA_NOCLDWAIT as u64);
    /// Install the handler without `SA_SIGINFO`, to put back unchanged an action whose handler
    /// takes the signal number alone.
    ///
    /// The kernel then leaves the `siginfo_t` unwritten. [`action`] and [`set_action`] report the
    /// flag for such handlers, and it says nothing about [`Disposition::Default`] and
    /// [`Disposition::Ignore`]. It has no bit in the kernel; there `SA_SIGINFO` is absent.
    pub const ONE_ARGUMENT: Flags = Flags(1 << 63);

    /// `SA_RESTORER`, which libc does not name: the action holds the address of a restorer.
    const RESTORER: Flags = Flags(0x0400_0000);
    /// `SA_SIGINFO`: the handler takes three arguments.
    const SIGINFO: Flags = Flags(libc::SA_SIGINFO as u64);

    /// Returns no flags.
    pub const fn empty() -> Flags {
        Flags(0)
    }

    /// Returns the flags that are in either.
    pub const fn union(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Tells whether all of `other` is set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the flags that are not in `other`.
    pub const fn difference(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

impl ops::BitOr for Flags {
    type Output = Flags;

    fn bitor(self, other: Flags) -> Flags {
        self.union(other)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Flags, &str); 7] = [
            (Flags::RESTART, "RESTART"),
            (Flags::NODEFER, "NODEFER"),
            (Flags::ONSTACK, "ONSTACK"),
            (Flags::RESETHAND, "RESETHAND"),
            (Flags::NOCLDSTOP, "NOCLDSTOP"),
            (Flags::NOCLDWAIT, "NOCLDWAIT"),
            (Flags::ONE_ARGUMENT, "ONE_ARGUMENT"),
        ];
        let mut set = f.debug_set();
        let mut unnamed = *self;
        for (flag, name) in NAMES.into_iter().filter(|(flag, _)| self.contains(*flag)) {
            set.entry(&format_args!("{name}"));
            unnamed = unnamed.difference(flag);
        }
        if unnamed != Flags::empty() {
            set.entry(&format_args!("{:#x}", unnamed.0));
        }
        set.finish()
    }
}

/// What the process does on a signal, and how.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Action {
    /// What is done.
    pub disposition: Disposition,
    /// How the handler is run.
    ///
    /// A value read from the kernel keeps bits that have no name here.
    pub flags: Flags,
    /// The signals that are blocked while the handler runs, besides the signal itself.
    pub mask: SignalSet,
}

impl Action {
    /// Translates to the kernel's structure.
    fn to_kernel(self) -> KernelAction {
        let calling_convention = match self.disposition {
            Disposition::Handler(_) if !self.flags.contains(Flags::ONE_ARGUMENT) => Flags::SIGINFO,
            _ => Flags::empty(),
        };
        let flags = self.flags.difference(Flags::ONE_ARGUMENT);
        KernelAction {
            handler: self.disposition.to_word(),
            flags: flags | calling_convention | Flags::RESTORER,
            restorer: restorer(),
            mask: self.mask,
        }
    }

    /// Translates from the kernel's structure.
    ///
    /// # Safety
    /// The kernel filled `kernel`.
    unsafe fn from_kernel(kernel: &KernelAction) -> Action {
        // SAFETY: the kernel filled the word; the caller promises it.
        let disposition = unsafe { Disposition::from_word(kernel.handler) };
        let flags = kernel.flags.difference(Flags::RESTORER);
        let flags = match disposition {
            Disposition::Handler(_) if flags.contains(Flags::SIGINFO) => flags.difference(Flags::SIGINFO),
            Disposition::Handler(_) => flags | Flags::ONE_ARGUMENT,
            Disposition::Default | Disposition::Ignore => flags,
        };
        Action { disposition, flags, mask: kernel.mask }
    }
}

/// The kernel's `struct sigaction` of x86-64: kernel ABI, do not change.
///
/// # Source
/// `arch/x86/include/uapi/asm/signal.h`
#[repr(C)]
struct KernelAction {
    handler: *const (),  // SIG_DFL, SIG_IGN or an address
    flags: Flags,        // SA_*
    restorer: *const (), // where the handler returns to
    mask: SignalSet,     // blocked while the handler runs
}

impl KernelAction {
    /// A value for the kernel to overwrite.
    const EMPTY: KernelAction =
        KernelAction { handler: ptr::null(), flags: Flags::empty(), restorer: ptr::null(), mask: SignalSet::empty() };
}

/// Sets what the process does on a signal, and returns what it did before.
///
/// A handler is installed with `SA_SIGINFO` (but see [`Flags::ONE_ARGUMENT`]) and returns through
/// this crate's own restorer. Debuggers and the unwinder of libgcc recognise its bytes, so
/// backtraces pass through such a handler. A returned action, given to this function again, puts
/// back the same disposition, flags and mask, also when libc's `sigaction` had set it with a
/// handler of one argument; the restorer is then this crate's instead of libc's.
///
/// # Errors
/// `EINVAL` if the signal is `SIGKILL` or `SIGSTOP`.
///
/// # Safety
/// - A handler may be called on any thread, between any two instructions, until the action has
///   been replaced and calls under way have returned. It must be sound to run there, and it and
///   this crate's code must stay mapped.
/// - Without [`Flags::ONE_ARGUMENT`], and only then, may the handler read its second argument.
/// - Actions belong to the process: nobody else may rely on the one that is replaced.
///
/// # Examples
/// ```
/// use libsignal::{Action, Disposition, Flags, Signal, SignalSet, set_action};
///
/// let ignore = Action {
///     disposition: Disposition::Ignore,
///     flags: Flags::empty(),
///     mask: SignalSet::empty(),
/// };
/// // SAFETY: nothing else in this program uses SIGUSR1, and no handler is involved.
/// let before = unsafe { set_action(Signal::USR1, &ignore) }?;
/// assert_eq!(before.disposition, Disposition::Default);
/// # Ok::<(), libsignal::Errno>(())
/// ```
///
/// # Source
/// rt_sigaction(2), sigreturn(2)
#[inline]
pub unsafe fn set_action(signal: Signal, action: &Action) -> Result<Action, Errno> {
    let new = action.to_kernel();
    // SAFETY: the caller answers for the handler; the restorer is this crate's.
    unsafe { rt_sigaction(signal, Some(&new)) }
}

/// Returns what the process does on a signal.
///
/// # Errors
/// None are known; every [`Signal`] has an action, that of `SIGKILL` and `SIGSTOP` is the default.
///
/// # Source
/// rt_sigaction(2)
#[inline]
pub fn action(signal: Signal) -> Result<Action, Errno> {
    // SAFETY: nothing is installed.
    unsafe { rt_sigaction(signal, None) }
}

/// Sets the kernel's action of a signal if one is given, and returns that of before.
///
/// # Safety
/// As for [`set_action`]; and the restorer is one.
#[inline]
unsafe fn rt_sigaction(signal: Signal, new: Option<&KernelAction>) -> Result<Action, Errno> {
    let mut old = KernelAction::EMPTY;
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null or live and `old` is live, both laid out as the kernel's structure
    // with a mask of the size given last. The caller answers for what the action does.
    unsafe {
        syscalls::syscall4(
            Sysno::rt_sigaction,
            signal.number() as usize,
            new as usize,
            &raw mut old as usize,
            size_of::<SignalSet>(),
        )
    }
    .map_err(Errno::from_kernel)?;
    // SAFETY: the call succeeded, so the kernel filled `old`.
    Ok(unsafe { Action::from_kernel(&old) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_listed_by_name() {
        let flags = Flags::RESTART | Flags::ONE_ARGUMENT | Flags(0x800);
        assert_eq!(format!("{flags:?}"), "{RESTART, ONE_ARGUMENT, 0x800}");
    }

    #[test]
    fn the_kernels_structure_has_its_size() {
        assert_eq!(size_of::<KernelAction>(), 32);
    }
}
