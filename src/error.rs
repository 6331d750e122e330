//! What can go wrong.

use std::fmt;

/// Why a function could not be launched or resumed, or did not finish.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Every libset that this process may have holds an unfinished function.
    TooManyLibsets {
        /// The limit, and what it comes from.
        cause: String,
    },
    /// More functions were dropped in mid-run than memory is set aside for; see
    /// [`Linger`](crate::Linger), Cancellation.
    TooManyAbandoned {
        /// How many there are.
        count: usize,
    },
    /// The operating system refused something.
    Os {
        /// What was tried.
        operation: &'static str,
        /// The errno value.
        errno: i32,
    },
    /// This process cannot run preemptible functions.
    Unsupported {
        /// What was found.
        cause: String,
    },
    /// This is to be done before the first launch.
    TooLate {
        /// What.
        cause: String,
    },
    /// The function did not finish within its budget, and was cancelled.
    TimedOut,
    /// The function ended its thread (`pthread_exit`) instead of returning.
    Ended,
    /// The function that had launched this one was cancelled, and this one with it.
    Cancelled,
}

impl Error {
    /// The errno value that the C interface reports for this error.
    pub fn errno(&self) -> i32 {
        match self {
            Error::TooManyLibsets { .. } | Error::TooManyAbandoned { .. } => libc::EAGAIN,
            Error::Os { errno, .. } => *errno,
            Error::Unsupported { .. } => libc::ENOSYS,
            Error::TooLate { .. } => libc::EBUSY,
            Error::TimedOut => libc::ETIMEDOUT,
            Error::Ended | Error::Cancelled => libc::ECANCELED,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::TooManyLibsets { cause } => write!(formatter, "too many libsets: {cause}"),
            Error::TooManyAbandoned { count } => {
                write!(formatter, "{count} functions were abandoned in mid-run; their stacks are never reused")
            }
            Error::Os { operation, errno } => {
                write!(formatter, "{operation}: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Error::Unsupported { cause } => write!(formatter, "unsupported: {cause}"),
            Error::TooLate { cause } => formatter.write_str(cause),
            Error::TimedOut => formatter.write_str("the function did not finish within its budget"),
            Error::Ended => formatter.write_str("the function ended its thread instead of returning"),
            Error::Cancelled => formatter.write_str("the function was cancelled with the one that had launched it"),
        }
    }
}

impl std::error::Error for Error {}

impl From<gotcha::Error> for Error {
    fn from(error: gotcha::Error) -> Self {
        match error.errno {
            libc::EAGAIN => Error::TooManyLibsets { cause: error.cause },
            libc::ENOMEM => Error::Os { operation: "allocating a libset", errno: libc::ENOMEM },
            _ => Error::Unsupported { cause: error.cause },
        }
    }
}

/// What the library's own calls leave in errno is not for the program to see.
///
/// Context: bracketed, and left on the same TCB.
pub(crate) struct ErrnoGuard(i32);

impl ErrnoGuard {
    pub(crate) fn new() -> Self {
        // SAFETY: the C library gives the address of this TCB's errno.
        ErrnoGuard(unsafe { *libc::__errno_location() })
    }
}

impl Drop for ErrnoGuard {
    fn drop(&mut self) {
        // SAFETY: as in new.
        unsafe { *libc::__errno_location() = self.0 };
    }
}
