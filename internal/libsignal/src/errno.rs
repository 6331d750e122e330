//! The error of a system call.

use core::fmt;
use std::io;

/// The error number that a system call returned, such as `EAGAIN`.
///
/// It comes from the call's own result; the thread's `errno` is neither read nor written.
/// `Display` writes the name and the usual description.
///
/// # Examples
/// ```
/// use libsignal::Errno;
///
/// assert_eq!(Errno(libc::EINVAL).to_string(), "EINVAL (Invalid argument)");
/// assert_eq!(std::io::Error::from(Errno(libc::EINVAL)).raw_os_error(), Some(libc::EINVAL));
/// ```
///
/// # Source
/// errno(3), syscall(2)
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// Takes over the error of a call that went through the `syscalls` crate.
    pub(crate) fn from_kernel(error: syscalls::Errno) -> Errno {
        Errno(error.into_raw())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match syscalls::Errno::new(self.0).name_and_description() {
            Some((name, description)) => write!(f, "{name} ({description})"),
            None => write!(f, "error number {}", self.0),
        }
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for io::Error {
    fn from(error: Errno) -> io::Error {
        io::Error::from_raw_os_error(error.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_number_is_written_as_such() {
        assert_eq!(Errno(3999).to_string(), "error number 3999");
    }

    #[test]
    fn the_kind_is_that_of_the_standard_library() {
        assert_eq!(io::Error::from(Errno(libc::EAGAIN)).kind(), io::ErrorKind::WouldBlock);
    }
}
