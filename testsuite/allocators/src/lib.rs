//! What the programs do, each with a global allocator of its own, in preemptible functions.
//!
//! A job ends with a line that tells what has happened, or with a panic, or hangs. `tests/allocators.rs` runs all.

use inger::{Linger, launch, no_preempt, resume};
use parking_lot::{Mutex, Once, RwLock};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

/// Of the allocator: a walk over its own lists, which crashes or does not end if they are broken.
pub type Check = fn();

/// Runs the job that is named on the command line.
pub fn main(check: Check) {
    let job = std::env::args().nth(1);
    match job.as_deref() {
        Some("functions") => share(false),
        Some("launcher") => share(true),
        Some("cancels") => cancels(),
        Some("costs") => costs(),
        Some("locks") => locks(),
        Some("lock-cancels") => lock_cancels(),
        _ => panic!("which job? {job:?}"),
    }
    check();
}

const FUNCTIONS: usize = 4;
const THREADS: usize = 2;

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }
}

/// What goes from hand to hand.
struct Block {
    bytes: Vec<u8>,
    mark: u8,
}

impl Block {
    fn new(random: &mut Random, largest_bytes: usize) -> Box<Block> {
        let mark = random.below(255) as u8 + 1;
        let len = match random.below(1000) {
            0 => largest_bytes,
            1..50 => random.below(largest_bytes / 16),
            _ => random.below(512),
        };
        let mut bytes = vec![0; len];
        assert!(bytes.iter().step_by(61).all(|&byte| byte == 0), "not zeroed");
        mark_all(&mut bytes, mark);
        if random.below(3) == 0 {
            // It is moved, or grows where it is.
            bytes.resize(len + random.below(2 * len + 16), 0);
            let grown = &mut bytes[len..];
            mark_all(grown, mark);
            bytes.truncate(len);
        }
        if random.below(4) == 0 {
            bytes.shrink_to_fit();
        }
        Box::new(Block { bytes, mark })
    }

    fn check(&self) {
        assert!(self.bytes.iter().step_by(61).all(|&byte| byte == self.mark), "another's bytes in a block");
    }
}

fn mark_all(bytes: &mut [u8], mark: u8) {
    bytes.iter_mut().step_by(61).for_each(|byte| *byte = mark);
}

const SLOTS: usize = 64;

/// Where blocks change hands, without a lock.
struct Exchange([AtomicPtr<Block>; SLOTS]);

impl Exchange {
    const fn new() -> Exchange {
        Exchange([const { AtomicPtr::new(std::ptr::null_mut()) }; SLOTS])
    }

    /// Takes what somebody has left, and leaves `block`.
    fn swap(&self, slot: usize, block: Option<Box<Block>>) -> Option<Box<Block>> {
        let block = block.map_or(std::ptr::null_mut(), Box::into_raw);
        let other = self.0[slot].swap(block, AcqRel);
        // SAFETY: whoever left it gave it up, and nobody else has taken it.
        (!other.is_null()).then(|| unsafe { Box::from_raw(other) })
    }

    fn round(&self, random: &mut Random, largest_bytes: usize) {
        let block = Block::new(random, largest_bytes);
        if let Some(other) = self.swap(random.below(SLOTS), Some(block)) {
            other.check();
        }
    }

    fn clear(&self) {
        (0..SLOTS).filter_map(|slot| self.swap(slot, None)).for_each(|block| block.check());
    }
}

/// Functions and threads, and the launcher too if it `allocates`, make, change and free blocks, most of them others'.
fn share(allocates: bool) {
    const PREEMPTIONS: usize = 10_000;
    const LARGEST_BYTES: usize = 1 << 20;
    let (exchange, ends, rounds) = (Exchange::new(), AtomicBool::new(false), AtomicUsize::new(0));
    let work = |seed: u64| {
        let mut random = Random(seed);
        while !ends.load(Relaxed) {
            exchange.round(&mut random, LARGEST_BYTES);
            rounds.fetch_add(1, Relaxed);
        }
    };
    let mut random = Random(7);
    let mut preemptions = 0;
    let work = &work;
    std::thread::scope(|scope| {
        (0..THREADS).for_each(|thread| drop(scope.spawn(move || work(1 + thread as u64))));
        let mut functions: [_; FUNCTIONS] =
            std::array::from_fn(|function| launch(move || work(100 + function as u64), 0).expect("a launch"));
        while functions.iter().any(Linger::is_continuation) {
            for function in functions.iter_mut().filter(|function| function.is_continuation()) {
                resume(function, 20 + random.below(80) as u64).expect("a function that can go on");
                preemptions += usize::from(function.is_continuation());
                if allocates {
                    exchange.round(&mut random, LARGEST_BYTES);
                }
            }
            ends.store(preemptions > PREEMPTIONS, Relaxed);
        }
    });
    exchange.clear();
    println!("{preemptions} preemptions, {} blocks", rounds.load(Relaxed));
}

/// What the process has in memory.
fn resident_bytes() -> usize {
    let numbers = std::fs::read_to_string("/proc/self/statm").expect("a process's own file");
    let pages: usize = numbers.split(' ').nth(1).and_then(|number| number.parse().ok()).expect("its second number");
    pages * 4096
}

/// Functions that are cancelled in the middle of what they do with the heap; others of its users go on.
fn cancels() {
    const CANCELS: usize = 10_000;
    const LARGEST_BYTES: usize = 1 << 12;
    static EXCHANGE: Exchange = Exchange::new();
    let mut random = Random(7);
    let mut cancel = |number: usize| {
        let work = move || -> () {
            let mut random = Random(number as u64 + 1);
            loop {
                EXCHANGE.round(&mut random, LARGEST_BYTES);
            }
        };
        let linger = launch(work, 20 + random.below(60) as u64).expect("a launch");
        assert!(linger.is_continuation());
        // SAFETY: nothing outside points into the function, except for what the allocator does: that is the test.
        unsafe { linger.reclaim() };
        if number % 100 == 99 {
            eprintln!("{} cancels", number + 1);
        }
        for _ in 0..5 {
            EXCHANGE.round(&mut random, LARGEST_BYTES);
        }
    };
    (0..CANCELS / 10).for_each(&mut cancel);
    let before_bytes = resident_bytes();
    (CANCELS / 10..CANCELS).for_each(&mut cancel);
    let grown_bytes = resident_bytes().saturating_sub(before_bytes) / (CANCELS - CANCELS / 10);
    EXCHANGE.clear();
    share(true);
    println!("{CANCELS} cancels, {grown_bytes} bytes lost by each");
}

/// The median of some runs, in ns for each of `count`.
fn time(count: u32, mut body: impl FnMut()) -> f64 {
    let mut runs: [_; 21] = std::array::from_fn(|_| {
        let start = Instant::now();
        (0..count).for_each(|_| body());
        start.elapsed().as_nanos() as f64 / f64::from(count)
    });
    runs.sort_by(f64::total_cmp);
    runs[10]
}

fn costs() {
    let pair = || drop(std::hint::black_box(Box::new([0_u64; 4])));
    let outside = time(1000, pair);
    let inside = launch(|| time(1000, pair), u64::MAX).ok().and_then(Linger::completion).expect("it returns");
    let empty = time(1000, || drop(launch(|| (), 1_000_000)));
    let one = time(1000, || drop(launch(pair, 1_000_000)));
    println!(
        "a block outside {outside:.1} ns, inside {inside:.1} ns; a launch {empty:.0} ns, with a block {one:.0} ns"
    );
}

/// Computes for about this long. Time that it is not running does not count.
fn compute(time: Duration) {
    let (mut left, mut last) = (time, Instant::now());
    while !left.is_zero() {
        let now = Instant::now();
        if now - last < Duration::from_micros(10) {
            left = left.saturating_sub(now - last);
        }
        last = now;
    }
}

/// Four functions and a thread take parking_lot's locks, and are stopped with them held. The launcher tries them. Nevertheless
/// it waits: who gives one back that others wait for takes the lock of their queue, which a function may hold. So they are
/// donatable.
fn locks() {
    const ROUNDS: usize = 500;
    static LOCKS: (Mutex<usize>, RwLock<(usize, usize)>, Once) = (Mutex::new(0), RwLock::new((0, 0)), Once::new());
    static INITIALISED: AtomicUsize = AtomicUsize::new(0);
    let (mutex, lock, _) = &LOCKS;
    let work = || {
        let (mutex, lock, once) = &LOCKS;
        once.call_once(|| {
            compute(Duration::from_millis(1));
            INITIALISED.fetch_add(1, Relaxed);
        });
        assert_eq!(INITIALISED.load(Relaxed), 1);
        for round in 0..ROUNDS {
            let mut count = mutex.lock();
            let before = *count;
            compute(Duration::from_micros(30));
            *count = before + 1;
            drop(count);
            if round % 4 == 0 {
                let mut pair = lock.write();
                pair.0 += 1;
                compute(Duration::from_micros(30));
                pair.1 += 1;
            } else {
                let pair = lock.read();
                compute(Duration::from_micros(10));
                assert_eq!(pair.0, pair.1);
            }
        }
    };
    let (mut preemptions, mut held, mut taken) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(work);
        let mut functions: [_; FUNCTIONS] = std::array::from_fn(|_| launch(work, 0).expect("a launch").donatable());
        while functions.iter().any(Linger::is_continuation) {
            for function in functions.iter_mut().filter(|function| function.is_continuation()) {
                resume(function, 50).expect("a function that can go on");
                preemptions += usize::from(function.is_continuation());
                match mutex.try_lock() {
                    Some(mut count) => {
                        *count += 1;
                        taken += 1;
                    }
                    None => held += 1,
                }
                if let Some(pair) = lock.try_read() {
                    assert_eq!(pair.0, pair.1);
                }
            }
        }
    });
    let all = (FUNCTIONS + 1) * ROUNDS;
    assert_eq!((*mutex.lock(), *lock.read()), (all + taken, (all / 4, all / 4)));
    assert!(preemptions > 1000 && held > 500, "{preemptions} preemptions, {held} with the mutex held");
    println!("{preemptions} preemptions, {held} with the mutex held, {taken} times taken by the launcher");
}

/// Functions that take parking_lot's locks unpreempted, and are cancelled; their launcher takes them, too.
fn lock_cancels() {
    const CANCELS: usize = 10_000;
    static COUNT: Mutex<usize> = Mutex::new(0);
    let mut before = 0;
    for number in 0..CANCELS {
        let work = || -> () {
            loop {
                no_preempt(|| *COUNT.lock() += 1);
            }
        };
        let linger = launch(work, 20 + number as u64 % 40).expect("a launch");
        assert!(linger.is_continuation());
        // SAFETY: nothing outside points into the function: in the section it does not wait, since nobody holds the lock.
        unsafe { linger.reclaim() };
        let now = *COUNT.lock();
        assert!(now >= before);
        before = now;
    }
    assert!(before > 5000, "only {before} times taken");
    println!("{CANCELS} cancels, {before} times taken");
}

/// jemalloc's statistics: a walk over what it keeps for each thread.
pub fn check_jemalloc() {
    unsafe extern "C" fn ignore(_: *mut libc::c_void, _: *const libc::c_char) {}
    // SAFETY: the callback keeps nothing.
    unsafe { tikv_jemalloc_sys::malloc_stats_print(Some(ignore), std::ptr::null_mut(), std::ptr::null()) };
}

/// Takes back what threads have left to mimalloc, and gives up what is free.
pub fn check_mimalloc() {
    // SAFETY: may be called at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
