//! The twelve kinds of code that are preempted. Each gives the same result however often it stops.

use crate::faults::{self, Fault};
use crate::kernels;
use libc::{c_int, c_void};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Registers,
    Vectors,
    X87,
    Direction,
    Rounding,
    Pipe,
    Sleep,
    BlockingRead,
    Errno,
    Heap,
    Vfork,
    Mask,
}

pub(crate) const KINDS: usize = 12;

impl Kind {
    pub(crate) const ALL: [Kind; KINDS] = [
        Kind::Registers,
        Kind::Vectors,
        Kind::X87,
        Kind::Direction,
        Kind::Rounding,
        Kind::Pipe,
        Kind::Sleep,
        Kind::BlockingRead,
        Kind::Errno,
        Kind::Heap,
        Kind::Vfork,
        Kind::Mask,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Registers => "registers, carry, red zone",
            Kind::Vectors => "ymm registers",
            Kind::X87 => "x87 stack, control word",
            Kind::Direction => "direction flag",
            Kind::Rounding => "mxcsr rounding mode",
            Kind::Pipe => "pipe write and read",
            Kind::Sleep => "nanosleep",
            Kind::BlockingRead => "blocking read",
            Kind::Errno => "errno, thread-locals",
            Kind::Heap => "malloc, realloc, free",
            Kind::Vfork => "vfork, waitpid",
            Kind::Mask => "own signal mask",
        }
    }

    /// Runs one function of this kind to its end: one to two milliseconds.
    pub(crate) fn run(self, channel: &Channel) -> u64 {
        let mut hash = Hash::new();
        match self {
            Kind::Registers => hash.words(&kernels::registers(20_000)),
            Kind::Vectors => hash.words(&kernels::vectors(8_000)),
            Kind::X87 => hash.words(&kernels::x87(40_000)),
            Kind::Direction => hash.words(&[direction()]),
            Kind::Rounding => hash.words(&kernels::rounding(60_000)),
            Kind::Pipe => pipe(channel, &mut hash),
            Kind::Sleep => sleep(&mut hash),
            Kind::BlockingRead => blocking_read(channel, &mut hash),
            Kind::Errno => errno(&mut hash),
            Kind::Heap => heap(&mut hash),
            Kind::Vfork => vfork(&mut hash),
            Kind::Mask => mask(&mut hash),
        }
        hash.0
    }
}

/// FNV-1a.
struct Hash(u64);

impl Hash {
    fn new() -> Hash {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn words(&mut self, words: &[u64]) {
        for word in words {
            self.bytes(&word.to_le_bytes());
        }
    }

    /// Something failed, at `place`: the result is not the undisturbed one, and tells where.
    fn fail(&mut self, place: u64, errno: c_int) {
        self.0 = 0xbad0_0000_0000_0000 | place << 32 | errno as u32 as u64;
    }
}

/// What one function talks through: a pipe of its own, and one that the feeder writes to.
pub(crate) struct Channel {
    pipe: [c_int; 2],
    fed: [c_int; 2],
    /// How many bytes functions have asked the feeder for.
    wanted: AtomicU32,
    given: AtomicU32,
}

impl Channel {
    pub(crate) fn new() -> Channel {
        Channel { pipe: make_pipe(), fed: make_pipe(), wanted: AtomicU32::new(0), given: AtomicU32::new(0) }
    }

    /// Writes one of the bytes that are asked for. Called by the feeder only.
    pub(crate) fn feed(&self) {
        let given = self.given.load(Relaxed);
        if given != self.wanted.load(Relaxed) {
            self.given.store(given.wrapping_add(1), Relaxed);
            let byte = 0x5a_u8;
            // SAFETY: the byte is valid for reads.
            assert_eq!(unsafe { libc::write(self.fed[1], (&raw const byte).cast(), 1) }, 1);
        }
    }
}

fn make_pipe() -> [c_int; 2] {
    let mut ends = [0; 2];
    // SAFETY: the array takes two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    ends
}

fn last_errno() -> c_int {
    // SAFETY: the C library gives the address of this thread's errno.
    unsafe { *libc::__errno_location() }
}

fn direction() -> u64 {
    static BYTES: [u8; 4096] = {
        let mut bytes = [0; 4096];
        let mut i = 0;
        while i < bytes.len() {
            bytes[i] = (i * 7 + 3) as u8;
            i += 1;
        }
        bytes
    };
    kernels::direction(50, &BYTES)
}

/// Through the kernel and back: no byte may be lost or come twice.
fn pipe(channel: &Channel, hash: &mut Hash) {
    let mut data = [0_u8; 4096];
    for round in 0..60_usize {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = (hash.0 >> (i & 31)) as u8 ^ i as u8;
        }
        // SAFETY: the buffer is valid for this length. The pipe is empty, so it holds all of it.
        let written = unsafe { libc::write(channel.pipe[1], data.as_ptr().cast(), data.len()) };
        if written != data.len() as isize {
            return hash.fail(1, last_errno());
        }
        let mut read = 0;
        while read < data.len() {
            let rest = &mut data[read..];
            // SAFETY: the buffer is valid for this length.
            let length = unsafe { libc::read(channel.pipe[0], rest.as_mut_ptr().cast(), rest.len().min(512 + round)) };
            if length <= 0 {
                return hash.fail(2, last_errno());
            }
            read += length as usize;
        }
        hash.bytes(&data[..256]);
    }
}

fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sleeps of several slices: neither interrupted, nor short.
fn sleep(hash: &mut Hash) {
    const SLEEP_NS: i64 = 150_000;
    let request = libc::timespec { tv_sec: 0, tv_nsec: SLEEP_NS };
    for i in 0..4 {
        let start_ns = now_ns();
        // SAFETY: the request is valid. The system call itself, where it is not the C library's, fails with EINTR.
        let result = unsafe {
            if faults::is(Fault::RawSleep) {
                libc::syscall(libc::SYS_nanosleep, &request, std::ptr::null_mut::<libc::timespec>()) as c_int
            } else {
                libc::nanosleep(&request, std::ptr::null_mut())
            }
        };
        if result != 0 {
            return hash.fail(1, last_errno());
        }
        if now_ns() - start_ns < SLEEP_NS as u64 {
            return hash.fail(2, 0);
        }
        hash.words(&[i]);
    }
}

/// The byte is not there yet when it is asked for.
fn blocking_read(channel: &Channel, hash: &mut Hash) {
    for _ in 0..4 {
        channel.wanted.fetch_add(1, Relaxed);
        let mut byte = 0_u8;
        // SAFETY: the byte is valid for writes.
        if unsafe { libc::read(channel.fed[0], (&raw mut byte).cast(), 1) } != 1 {
            return hash.fail(1, last_errno());
        }
        hash.bytes(&[byte]);
    }
}

/// A function's errno and thread-locals are its own, and fresh.
fn errno(hash: &mut Hash) {
    thread_local! {
        static CONSTANT: Cell<u64> = const { Cell::new(11) };
        static LAZY: Cell<u64> = Cell::new(black_box(13));
    }
    static SHARED: AtomicI32 = AtomicI32::new(0);
    CONSTANT.set(CONSTANT.get() + 1);
    LAZY.set(LAZY.get() + 1);
    let calls = if cfg!(debug_assertions) { 8_000 } else { 60_000 };
    for i in 0..calls {
        let errno: *mut c_int = if faults::is(Fault::SharedErrno) {
            SHARED.as_ptr()
        } else {
            // SAFETY: as in last_errno.
            unsafe { libc::__errno_location() }
        };
        // SAFETY: errno, or, as a fault, a word that all functions of this kind share; volatile, since
        // other threads then write it too.
        unsafe { errno.write_volatile(i & 0xffff) };
        CONSTANT.set(CONSTANT.get() ^ hash.0);
        LAZY.set(LAZY.get().wrapping_add(CONSTANT.get()));
        black_box(&hash);
        // SAFETY: as above.
        let errno = unsafe { errno.read_volatile() };
        hash.0 = hash.0.wrapping_mul(31).wrapping_add(errno as u64).wrapping_add(LAZY.get());
    }
}

/// The C library's functions, at their own addresses: stored before calls are intercepted, as a table of
/// functions in some library's data may be.
pub(crate) struct StoredAllocator {
    malloc: unsafe extern "C" fn(usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
}

pub(crate) static STORED: OnceLock<StoredAllocator> = OnceLock::new();

/// Before the first launch.
pub(crate) fn store_allocator() {
    // One lock for everybody: a function that stops while it holds it would stop everything.
    // SAFETY: a known parameter.
    assert_eq!(unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) }, 1);
    STORED.get_or_init(|| StoredAllocator { malloc: libc::malloc, free: libc::free });
}

/// Blocks of many sizes, some through the stored pointers, of which a few stay allocated for a while.
fn heap(hash: &mut Hash) {
    let Some(stored) = STORED.get() else { return hash.fail(1, 0) };
    let mut held: [(*mut u8, usize); 16] = [(std::ptr::null_mut(), 0); 16];
    let rounds = if cfg!(debug_assertions) { 3_000 } else { 8_000 };
    for i in 0..rounds {
        let size_bytes = 1 + (i * 131) % 1500;
        let (old, old_size_bytes) = held[i % held.len()];
        // SAFETY: what is held was allocated, with that size, and is freed or moved once; all of a block is
        // written before it is read.
        unsafe {
            let block = match i % 3 {
                0 if !old.is_null() => {
                    check_block(old, old_size_bytes, hash);
                    libc::realloc(old.cast(), size_bytes).cast::<u8>()
                }
                way => {
                    let (allocate, free) = if way == 1 { (stored.malloc, stored.free) } else { own_allocator() };
                    if !old.is_null() {
                        check_block(old, old_size_bytes, hash);
                        free(old.cast());
                    }
                    allocate(size_bytes).cast::<u8>()
                }
            };
            if block.is_null() {
                return hash.fail(2, last_errno());
            }
            block.write_bytes(size_bytes as u8, size_bytes);
            held[i % held.len()] = (block, size_bytes);
        }
    }
    for (block, size_bytes) in held {
        // SAFETY: as above.
        unsafe {
            check_block(block, size_bytes, hash);
            libc::free(block.cast());
        }
    }
}

fn own_allocator() -> (unsafe extern "C" fn(usize) -> *mut c_void, unsafe extern "C" fn(*mut c_void)) {
    (libc::malloc, libc::free)
}

/// Is the block still as it was written? Its first and last bytes say.
///
/// # Safety
///
/// `block` has `size_bytes` bytes, all written.
unsafe fn check_block(block: *mut u8, size_bytes: usize, hash: &mut Hash) {
    // SAFETY: the caller's promise.
    let (first, last) = unsafe { (block.read(), block.add(size_bytes - 1).read()) };
    hash.bytes(&[first, last]);
}

/// The child borrows the function's memory and stack; waiting for it is not interrupted.
fn vfork(hash: &mut Hash) {
    for status in [7, 8] {
        let child = kernels::vfork(status);
        if child < 0 {
            return hash.fail(1, last_errno());
        }
        let mut found = 0;
        // SAFETY: the word is valid for writes.
        if unsafe { libc::waitpid(child, &mut found, 0) } != child {
            return hash.fail(2, last_errno());
        }
        hash.words(&[found as u64]);
    }
}

/// A function that blocks a signal keeps it blocked, wherever it goes on; its launchers do not.
fn mask(hash: &mut Hash) {
    // SAFETY: the sets are valid, and initialised before they are read.
    unsafe {
        let mut block: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut block);
        libc::sigaddset(&mut block, libc::SIGUSR2);
        set_mask(libc::SIG_BLOCK, &block, &mut before);
        if libc::sigismember(&before, libc::SIGUSR2) != 0 {
            return hash.fail(1, 0);
        }
        hash.words(&kernels::registers(5_000));
        let inside = kernel_mask();
        hash.words(&kernels::registers(5_000));
        let mut after: libc::sigset_t = std::mem::zeroed();
        set_mask(libc::SIG_SETMASK, &before, &mut after);
        if inside & SIGUSR2_BIT == 0 || libc::sigismember(&after, libc::SIGUSR2) != 1 {
            return hash.fail(2, 0);
        }
        hash.words(&kernels::registers(5_000));
        if kernel_mask() & SIGUSR2_BIT != 0 {
            hash.fail(3, 0);
        }
        // Ends with a mask of its own, which the launcher must not inherit.
        set_mask(libc::SIG_BLOCK, &block, &mut before);
    }
}

const SIGUSR2_BIT: u64 = 1 << (libc::SIGUSR2 - 1);

/// # Safety
///
/// As for pthread_sigmask.
unsafe fn set_mask(how: c_int, set: &libc::sigset_t, old: &mut libc::sigset_t) {
    // SAFETY: the caller's promise. The system call itself, as a fault, is not known to be the function's own.
    unsafe {
        if faults::is(Fault::RawMask) {
            libc::syscall(libc::SYS_rt_sigprocmask, how, set, old, 8);
        } else {
            libc::pthread_sigmask(how, set, old);
        }
    }
}

/// The mask of this kernel thread, as the kernel has it.
pub(crate) fn kernel_mask() -> u64 {
    let mut mask = 0_u64;
    // SAFETY: the word is as long as a set is to the kernel.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, std::ptr::null::<u64>(), &mut mask, 8) };
    mask
}
