//! Memory to run on: a mapping with a guard page at its low end.

use std::io;
use std::ptr::NonNull;

/// Linux 6.13, `include/uapi/asm-generic/mman-common.h`: fault on access, without a mapping of its own.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// A stack: memory that grows downwards from [`top`](Stack::top), with a guard page below.
///
/// The memory is reserved at once and committed as it is touched. It is unmapped on drop.
///
/// # Invariants
///
/// `base..base + mapped_bytes` is a private mapping owned by this value; its first page faults on
/// access, and the rest is readable and writable.
#[derive(Debug)]
pub struct Stack {
    base: NonNull<u8>,   // lowest address of the mapping, which is that of the guard page
    mapped_bytes: usize, // a multiple of the page size, guard page included
    guard_bytes: usize,  // the page size
}

// SAFETY: `base` is the only field that is not plain data, and the mapping belongs to this value alone;
// no kernel thread is special to it.
unsafe impl Send for Stack {}
// SAFETY: as above; a shared reference only tells addresses.
unsafe impl Sync for Stack {}

impl Stack {
    /// Maps a stack of at least `size_bytes`, rounded up to whole pages, and its guard page.
    ///
    /// # Errors
    ///
    /// Those of mmap(2) and mprotect(2). InvalidInput if `size_bytes` is 0 or too large to round up.
    ///
    /// ```
    /// let stack = libtimetravel::Stack::new(64 * 1024)?;
    /// assert!(stack.size_bytes() >= 64 * 1024);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn new(size_bytes: usize) -> io::Result<Self> {
        let guard_bytes = page_size_bytes();
        let mapped_bytes = mapped_size_bytes(size_bytes, guard_bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let stack = Stack { base: map(mapped_bytes)?, mapped_bytes, guard_bytes };
        stack.install_guard()?;
        Ok(stack)
    }

    /// The address just above the stack, where execution starts; page aligned.
    pub fn top(&self) -> *mut u8 {
        self.base.as_ptr().wrapping_add(self.mapped_bytes)
    }

    /// The lowest address that may be used; the guard page is below.
    pub fn bottom(&self) -> *mut u8 {
        self.base.as_ptr().wrapping_add(self.guard_bytes)
    }

    /// The usable size, without the guard page.
    pub fn size_bytes(&self) -> usize {
        self.mapped_bytes - self.guard_bytes
    }

    /// A guard marker costs the kernel no mapping of its own; before Linux 6.13, an inaccessible page does.
    fn install_guard(&self) -> io::Result<()> {
        if cfg!(miri) {
            return Ok(()); // Miri knows neither call.
        }
        let base = self.base.as_ptr().cast();
        // SAFETY: the page belongs to this mapping, and nothing is stored in it yet.
        if unsafe { libc::madvise(base, self.guard_bytes, MADV_GUARD_INSTALL) } == 0 {
            return Ok(());
        }
        // SAFETY: as above.
        match unsafe { libc::mprotect(base, self.guard_bytes, libc::PROT_NONE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: by the invariant, the mapping is ours; whoever ran on it needed `&self` or a promise.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
        debug_assert_eq!(result, 0, "munmap of a stack: {}", io::Error::last_os_error());
    }
}

/// MAP_NORESERVE: most of a stack is never touched. MAP_STACK: no huge pages, which would commit
/// 2 MiB at the first touch.
fn map(size_bytes: usize) -> io::Result<NonNull<u8>> {
    let advice = if cfg!(miri) { 0 } else { libc::MAP_NORESERVE | libc::MAP_STACK };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | advice;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no existing memory.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), size_bytes, prot, flags, -1, 0) };
    match address {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        _ => NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapping at address 0")),
    }
}

fn page_size_bytes() -> usize {
    // SAFETY: sysconf has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("sysconf(_SC_PAGESIZE) cannot fail on Linux")
}

/// Whole pages for `size_bytes`, and one more; None if that is not a sensible size.
fn mapped_size_bytes(size_bytes: usize, page_bytes: usize) -> Option<usize> {
    if size_bytes == 0 {
        return None;
    }
    size_bytes.checked_next_multiple_of(page_bytes)?.checked_add(page_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!(mapped_size_bytes(1, 4096), Some(8192));
        assert_eq!(mapped_size_bytes(4096, 4096), Some(8192));
        assert_eq!(mapped_size_bytes(4097, 4096), Some(12288));
        assert_eq!(mapped_size_bytes(0, 4096), None);
        assert_eq!(mapped_size_bytes(usize::MAX, 4096), None);
        assert_eq!(mapped_size_bytes(usize::MAX - 4095, 4096), None);
    }

    #[test]
    fn size_zero_is_refused() {
        assert_eq!(Stack::new(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn all_of_the_stack_is_writable() {
        let stack = Stack::new(3 * 4096).unwrap();
        assert_eq!(stack.top().addr() - stack.bottom().addr(), stack.size_bytes());
        // SAFETY: the range is the stack's usable memory, and nobody runs on it.
        unsafe { stack.bottom().write_bytes(0xa5, stack.size_bytes()) };
    }

    #[cfg(not(miri))]
    #[test]
    fn too_large_is_an_error() {
        assert_eq!(Stack::new(1 << 60).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
    }
}
