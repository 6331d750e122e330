//! One signal number.

use core::fmt;
use core::num::NonZeroU8;

/// A signal number that the kernel knows: 1 to 64.
///
/// `Display` writes the usual name (`SIGALRM`, `SIGRTMIN+2`); `SIGRTMIN` is glibc's, number 34.
/// The two real-time signals that glibc keeps for itself appear as `SIG32` and `SIG33`.
///
/// # Invariants
/// The number is at least 1 and at most 64.
///
/// # Examples
/// ```
/// use libsignal::Signal;
///
/// assert_eq!(Signal::new(14), Some(Signal::ALRM));
/// assert_eq!(Signal::new(0), None);
/// assert_eq!(Signal::ALRM.to_string(), "SIGALRM");
/// ```
///
/// # Source
/// signal(7)
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(NonZeroU8);

/// Defines a constant for each standard signal, and the table of their names.
macro_rules! standard_signals {
    ($($(#[$doc:meta])* $name:ident = $number:ident,)*) => {
        impl Signal {
            $($(#[$doc])* pub const $name: Signal = Signal::new(libc::$number).unwrap();)*

            /// The name of a standard signal, `None` for a real-time signal.
            const fn standard_name(self) -> Option<&'static str> {
                match self {
                    $(Signal::$name => Some(stringify!($number)),)*
                    _ => None,
                }
            }
        }
    };
}

standard_signals! {
    /// The controlling terminal was closed.
    HUP = SIGHUP,
    /// Interrupt from the keyboard.
    INT = SIGINT,
    /// Quit from the keyboard.
    QUIT = SIGQUIT,
    /// Illegal instruction.
    ILL = SIGILL,
    /// Breakpoint or single step.
    TRAP = SIGTRAP,
    /// `abort` was called.
    ABRT = SIGABRT,
    /// Access to memory that nothing stands behind.
    BUS = SIGBUS,
    /// Arithmetic error.
    FPE = SIGFPE,
    /// Ends the process; can be neither handled nor blocked.
    KILL = SIGKILL,
    /// For the program's own use.
    USR1 = SIGUSR1,
    /// Access to memory without permission.
    SEGV = SIGSEGV,
    /// For the program's own use.
    USR2 = SIGUSR2,
    /// Write to a pipe that nobody reads.
    PIPE = SIGPIPE,
    /// A timer expired.
    ALRM = SIGALRM,
    /// Request to terminate.
    TERM = SIGTERM,
    /// Coprocessor stack fault; unused on Linux.
    STKFLT = SIGSTKFLT,
    /// A child process stopped or ended.
    CHLD = SIGCHLD,
    /// Continue if stopped.
    CONT = SIGCONT,
    /// Stops the process; can be neither handled nor blocked.
    STOP = SIGSTOP,
    /// Stop request from the terminal.
    TSTP = SIGTSTP,
    /// A background process reads from the terminal.
    TTIN = SIGTTIN,
    /// A background process writes to the terminal.
    TTOU = SIGTTOU,
    /// Urgent data on a socket.
    URG = SIGURG,
    /// The soft limit of CPU time was passed.
    XCPU = SIGXCPU,
    /// The limit of a file's size was passed.
    XFSZ = SIGXFSZ,
    /// A timer of the process's user CPU time expired.
    VTALRM = SIGVTALRM,
    /// A timer of the process's CPU time expired.
    PROF = SIGPROF,
    /// The terminal's window changed its size.
    WINCH = SIGWINCH,
    /// Input or output is possible.
    IO = SIGIO,
    /// Power failure.
    PWR = SIGPWR,
    /// Unknown system call.
    SYS = SIGSYS,
}

impl Signal {
    /// The highest signal number.
    pub(crate) const MAX: i32 = 64;

    /// Returns the signal of that number, or `None` if it is not in 1 to 64.
    pub const fn new(number: i32) -> Option<Signal> {
        if number < 1 || number > Signal::MAX {
            return None;
        }
        // The range check above makes the cast exact.
        match NonZeroU8::new(number as u8) {
            Some(number) => Some(Signal(number)),
            None => None,
        }
    }

    /// Returns the signal's number, 1 to 64.
    pub const fn number(self) -> i32 {
        self.0.get() as i32
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// glibc's `SIGRTMIN`, the first real-time signal that it leaves to programs.
        const FIRST_REAL_TIME: i32 = 34;
        match (self.standard_name(), self.number()) {
            (Some(name), _) => f.write_str(name),
            (None, FIRST_REAL_TIME) => f.write_str("SIGRTMIN"),
            (None, number @ FIRST_REAL_TIME..) => {
                write!(f, "SIGRTMIN+{}", number - FIRST_REAL_TIME)
            }
            (None, number) => write!(f, "SIG{number}"),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_numbers_are_signals() {
        for number in [i32::MIN, -1, 0, 65, 256 + 14, i32::MAX] {
            assert_eq!(Signal::new(number), None, "{number}");
        }
        for number in 1..=64 {
            assert_eq!(Signal::new(number).unwrap().number(), number);
        }
    }

    #[test]
    fn every_signal_below_32_has_a_name() {
        for number in 1..32 {
            assert!(Signal::new(number).unwrap().standard_name().is_some(), "{number}");
        }
    }

    #[test]
    fn real_time_signals_count_from_glibcs_first() {
        let name = |number| Signal::new(number).unwrap().to_string();
        assert_eq!(libc::SIGRTMIN(), 34);
        assert_eq!(name(32), "SIG32");
        assert_eq!(name(33), "SIG33");
        assert_eq!(name(34), "SIGRTMIN");
        assert_eq!(name(64), "SIGRTMIN+30");
    }
}
