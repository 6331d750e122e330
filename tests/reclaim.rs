//! What a cancelled function had allocated is freed, and what it had opened closed, if it was launched so: all of that, and
//! nothing else.

mod support;

use inger::{Linger, Options, launch, pause, resume};
use std::ffi::c_void;
use std::fs::File;
use std::hint::black_box;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::Duration;

/// One at a time: they look at the process's heap.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What is allocated and not freed, in the process.
fn heap_bytes() -> usize {
    // SAFETY: a plain call.
    let information = unsafe { libc::mallinfo2() };
    information.uordblks + information.hblkhd
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn reclaiming() -> Options {
    // SAFETY: those of the functions below that share what they allocate see to it that nobody uses it later.
    unsafe { Options::new().reclaim_heap() }
}

fn reclaim<T>(linger: Linger<'_, T>) {
    assert!(linger.is_continuation());
    // SAFETY: nothing outside points into the functions below.
    unsafe { linger.reclaim() };
}

/// Allocates as programs do, frees and moves some, and holds the rest.
fn allocate() -> Vec<Vec<u8>> {
    let mut blocks: Vec<Vec<u8>> = (0..100).map(|number| vec![number; 30 * usize::from(number)]).collect();
    blocks.retain(|block| block.len() % 20 == 0);
    blocks.iter_mut().for_each(|block| block.resize(2_000, 1));
    blocks.push(vec![2; 300_000]);
    blocks
}

/// By how much the heap grows with each round.
fn lost(rounds: usize, mut round: impl FnMut()) -> usize {
    (0..20).for_each(|_| round());
    let before = heap_bytes();
    (0..rounds).for_each(|_| round());
    heap_bytes().saturating_sub(before) / rounds
}

/// The allocator's caches, one for each thread control block, count as allocated. After functions that were stopped anywhere
/// they differ by what they can hold: seven blocks of each size, 200 KB at most. That is little over many rounds.
const SLACK_BYTES: usize = 200;
const MANY_ROUNDS: usize = 3_000;

fn paused_with_blocks() {
    let blocks = allocate();
    pause();
    drop(black_box(blocks));
}

fn endless() {
    loop {
        drop(black_box(allocate()));
    }
}

#[test]
fn blocks_of_a_function_that_is_reclaimed() {
    let _alone = alone();
    assert!(lost(50, || reclaim(launch(paused_with_blocks, u64::MAX).unwrap())) > 300_000);
    let paused = lost(500, || reclaim(reclaiming().launch(paused_with_blocks, u64::MAX).unwrap()));
    assert!(paused < SLACK_BYTES, "{paused} bytes each");
    let mut budget = 0;
    let preempted = lost(MANY_ROUNDS, || {
        budget = budget % 100 + 7;
        reclaim(reclaiming().launch(endless, budget).unwrap());
    });
    assert!(preempted < SLACK_BYTES, "{preempted} bytes each");
}

#[test]
fn blocks_of_a_function_that_is_dropped() {
    let _alone = alone();
    let held = lost(200, || drop(reclaiming().launch(endless, 100).unwrap()));
    // Each abandoned function's control block is lost, and what it caches.
    assert!(held < 100_000, "{held} bytes each");
    let unwound = lost(500, || drop(reclaiming().launch(paused_with_blocks, u64::MAX).unwrap()));
    assert!(unwound < SLACK_BYTES, "{unwound} bytes each");
}

#[test]
fn memory_is_flat() {
    let _alone = alone();
    let round = || reclaim(reclaiming().launch(endless, 30).unwrap());
    (0..1_000).for_each(|_| round());
    let before = resident_bytes();
    (0..10_000).for_each(|_| round());
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 2 << 20, "{grown} bytes in 10,000 rounds");
}

/// What a function returns is not freed, and neither is it later, when another one in the same libset is cancelled.
#[test]
fn results_stay() {
    let _alone = alone();
    let mut results = Vec::new();
    let lost = lost(200, || {
        let result = reclaiming().launch(allocate, u64::MAX).unwrap().completion().unwrap();
        reclaim(reclaiming().launch(paused_with_blocks, u64::MAX).unwrap());
        assert_eq!(result, allocate());
        results.push(result);
        if results.len() == 5 {
            results.clear();
        }
    });
    assert!(lost < 5 * SLACK_BYTES, "{lost} bytes each");
}

/// Blocks that the launcher or another thread frees before the cancel, and what is allocated in their place. One of them
/// has a mapping to itself, so that its place is used again at once.
#[test]
fn blocks_that_others_free() {
    let _alone = alone();
    let mut used_again = 0;
    let lost = lost(200, || {
        let (sender, receiver) = mpsc::channel::<Vec<u8>>();
        let work = move || {
            for number in 0..100 {
                sender.send(vec![number; 1_000]).unwrap();
            }
            sender.send(Vec::with_capacity(40 << 20)).unwrap();
            // The channel is the launcher's, but what it holds is the function's too.
            std::mem::forget(sender);
            pause();
        };
        let linger = reclaiming().launch(work, u64::MAX).unwrap();
        let mut blocks: Vec<Vec<u8>> = receiver.iter().take(101).collect();
        std::thread::scope(|scope| {
            let half: Vec<_> = blocks.drain(..50).collect();
            scope.spawn(move || drop(half)).join().unwrap();
        });
        let address = blocks[50].as_ptr();
        drop(blocks);
        let mut ours: Vec<Vec<u8>> = (0..100).map(|number| vec![200 - number; 1_000]).collect();
        ours.push(Vec::with_capacity(40 << 20));
        used_again += usize::from(address == ours[100].as_ptr());
        // Nobody uses it from here on.
        std::mem::forget(receiver);
        reclaim(linger);
        let theirs: Vec<Vec<u8>> = (0..100).map(|_| vec![255; 1_000]).collect();
        ours[100].resize(10_000, 100);
        assert!(ours.iter().zip(0..).all(|(block, number)| block.iter().all(|&byte| byte == 200 - number)));
        drop(theirs);
    });
    assert!(lost < 2_000 && used_again > 0, "{lost} bytes each, {used_again} used again");
}

/// Blocks of the launcher's that a function moves and grows stay the launcher's.
#[test]
fn blocks_of_others() {
    let _alone = alone();
    for _ in 0..100 {
        let mut blocks: Vec<Vec<u8>> = (0..50).map(|number| vec![number; 100]).collect();
        let shared = &mut blocks;
        let work = move || {
            shared.iter_mut().for_each(|block| block.resize(5_000, block[0]));
            pause();
        };
        reclaim(reclaiming().launch(work, u64::MAX).unwrap());
        let others = vec![vec![99; 5_000]; 50];
        assert!(blocks.iter().zip(0..50).all(|(block, number)| block.iter().all(|&byte| byte == number)));
        drop(others);
    }
}

#[test]
fn functions_inside_each_other() {
    let _alone = alone();
    // What the inner one has returned is the outer one's. It is preempted in it, and completes later.
    let returned = || {
        let mut inner = reclaiming().launch(allocate, 5).unwrap();
        while inner.is_continuation() {
            resume(&mut inner, 50).unwrap();
        }
        let blocks = inner.completion();
        pause();
        drop(blocks);
    };
    let lost_of_results = lost(200, || reclaim(reclaiming().launch(returned, u64::MAX).unwrap()));
    assert!(lost_of_results < SLACK_BYTES, "{lost_of_results} bytes each");
    // What is cancelled with it.
    let stopped = || {
        let inner = reclaiming().launch(paused_with_blocks, u64::MAX).unwrap();
        pause();
        drop(inner);
    };
    let lost_of_kept = lost(200, || reclaim(reclaiming().launch(stopped, u64::MAX).unwrap()));
    assert!(lost_of_kept < SLACK_BYTES, "{lost_of_kept} bytes each");
    let running = || drop(reclaiming().launch(endless, u64::MAX));
    let lost_of_running = lost(MANY_ROUNDS, || reclaim(launch(running, 50).unwrap()));
    assert!(lost_of_running < SLACK_BYTES, "{lost_of_running} bytes each");
    // One that does not ask for it.
    let plain = || {
        reclaim(launch(paused_with_blocks, u64::MAX).unwrap());
        pause();
    };
    assert!(lost(50, || reclaim(reclaiming().launch(plain, u64::MAX).unwrap())) > 300_000);
}

/// A function that comes to its end while another waits for a lock, on that one's time: its result is its launcher's, also
/// if the other is cancelled then.
#[test]
fn results_of_functions_on_donated_time() {
    let _alone = alone();
    static LOCK: Mutex<()> = Mutex::new(());
    static IS_DONE: AtomicBool = AtomicBool::new(false);
    let held = LOCK.lock().unwrap();
    let work = || {
        support::compute(Duration::from_millis(3));
        let blocks = allocate();
        IS_DONE.store(true, Relaxed);
        blocks
    };
    let mut donated = reclaiming().launch(work, 100).unwrap().donatable();
    let mut waiting = reclaiming().launch(|| drop(LOCK.lock()), 1_000).unwrap();
    while !IS_DONE.load(Relaxed) {
        assert!(donated.is_continuation() && waiting.is_continuation());
        resume(&mut waiting, 1_000).unwrap();
    }
    resume(&mut waiting, 10_000).unwrap();
    reclaim(waiting);
    let others = allocate();
    let result = resume(&mut donated, u64::MAX).unwrap();
    assert!(matches!(result, Linger::Completion(blocks) if *blocks == others));
    drop(held);
}

/// Functions on several threads, which hand blocks to other threads and are stopped anywhere.
#[test]
fn on_many_threads() {
    let _alone = alone();
    let lost = lost(3, || {
        let slots: Vec<AtomicUsize> = (0..64).map(|_| AtomicUsize::new(0)).collect();
        let exchange = |slot: usize, block: usize| {
            let old = slots[slot % 64].swap(block, Relaxed);
            // SAFETY: whoever takes an address out is the only one to have it; free() takes null.
            unsafe { libc::free(old as *mut c_void) };
        };
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // What is in the slots may be freed by a cancel: so only what these threads have allocated.
            for thread in 0..2_usize {
                let (exchange, is_over) = (&exchange, &is_over);
                scope.spawn(move || {
                    let mut slot = thread;
                    while !is_over.load(Relaxed) {
                        slot += 7;
                        // SAFETY: a plain call.
                        exchange(slot, unsafe { libc::malloc(slot % 300) } as usize);
                    }
                });
            }
            let launchers: Vec<_> = (0..3)
                .map(|thread| {
                    let exchange = &exchange;
                    scope.spawn(move || {
                        for round in 0..300 {
                            let work = move || {
                                let mut slot = thread;
                                loop {
                                    slot += 5;
                                    drop(black_box(allocate()));
                                    inger::no_preempt(|| exchange(slot, 0));
                                }
                            };
                            reclaim(reclaiming().launch::<(), _>(work, 20 + round % 50).unwrap());
                        }
                    })
                })
                .collect();
            launchers.into_iter().for_each(|launcher| launcher.join().unwrap());
            is_over.store(true, Relaxed);
        });
        (0..64).for_each(|slot| exchange(slot, 0));
    });
    // Threads come and go, with the allocator's caches.
    assert!(lost < 500_000, "{lost} bytes each");
}

/// The child of a fork has the function too, and what it has; and forks that come while others allocate, in a function or
/// out of it, leave the child able to.
#[test]
fn in_the_child_of_a_fork() {
    let _alone = alone();
    let linger = reclaiming().launch(paused_with_blocks, u64::MAX).unwrap();
    // SAFETY: the child calls what is allowed where one thread is left: it is the one that the tests run on, or allocates
    // by the C library alone, whose locks a fork keeps.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let own = reclaiming().launch(paused_with_blocks, u64::MAX).unwrap();
        let before = heap_bytes();
        reclaim(own);
        let between = heap_bytes();
        reclaim(linger);
        let is_freed = before - between > 300_000 && between - heap_bytes() > 300_000;
        // SAFETY: ends the child.
        unsafe { libc::_exit(if is_freed { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: waits for our child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    reclaim(linger);

    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    reclaim(reclaiming().launch(endless, 300).unwrap());
                }
            });
        }
        for _ in 0..300 {
            // SAFETY: as above; it allocates at once.
            let child = unsafe { libc::fork() };
            if child == 0 {
                drop(black_box(allocate()));
                reclaim(reclaiming().launch(paused_with_blocks, u64::MAX).unwrap());
                // SAFETY: ends the child.
                unsafe { libc::_exit(0) };
            }
            let mut status = -1;
            // SAFETY: waits for our child.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0);
        }
        is_over.store(true, Relaxed);
    });
}

fn open_count() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Files, sockets and pipes of Rust's standard library, and copies of them.
fn open() -> Vec<OwnedFd> {
    let file = File::open("/dev/null").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    let (reader, writer) = support::pipe();
    let copy = file.try_clone().unwrap();
    vec![file.into(), listener.into(), one.into(), other.into(), reader.into(), writer.into(), copy.into()]
}

#[test]
fn descriptors() {
    let _alone = alone();
    // SAFETY: nobody uses what the functions below have opened, nor closes it.
    let options = unsafe { Options::new().close_descriptors() };
    let hold = || {
        let descriptors = open();
        pause();
        drop(black_box(descriptors));
    };
    let churn = || loop {
        drop(black_box(open()));
    };
    let before = open_count();
    for round in 0..200 {
        reclaim(options.launch(hold, u64::MAX).unwrap());
        reclaim(options.launch::<(), _>(churn, 10 + round).unwrap());
        drop(options.launch::<(), _>(churn, 10 + round).unwrap());
        assert_eq!(open_count(), before, "round {round}");
    }
    // What a function returns is not closed, unless it is part of one that is cancelled.
    let returned = options.launch(open, u64::MAX).unwrap().completion().unwrap();
    assert_eq!(open_count(), before + returned.len());
    let outer = || {
        let descriptors = options.launch(open, u64::MAX).unwrap().completion();
        pause();
        drop(descriptors);
    };
    reclaim(options.launch(outer, u64::MAX).unwrap());
    assert_eq!(open_count(), before + returned.len());
    // One that closes descriptors alone is not given the heap of those inside.
    let blocks_and_descriptors = || {
        let inner = reclaiming().launch(allocate, u64::MAX).unwrap().completion();
        pause();
        drop(inner);
    };
    assert!(lost(20, || reclaim(options.launch(blocks_and_descriptors, u64::MAX).unwrap())) > 300_000);
}

/// Threads that it has started may use its blocks.
#[test]
fn not_while_threads_of_its_own_live() {
    let _alone = alone();
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    static IS_SOUND: AtomicBool = AtomicBool::new(false);
    let work = || {
        let block = vec![7; 100_000];
        std::thread::spawn(move || {
            while !IS_OVER.load(Relaxed) {
                std::thread::yield_now();
            }
            IS_SOUND.store(block.iter().all(|&byte| byte == 7), Relaxed);
            IS_OVER.store(false, Relaxed);
        });
        pause();
    };
    reclaim(reclaiming().launch(work, u64::MAX).unwrap());
    let others = vec![vec![9_u8; 100_000]; 10];
    IS_OVER.store(true, Relaxed);
    while IS_OVER.load(Relaxed) {
        std::thread::yield_now();
    }
    assert!(IS_SOUND.load(Relaxed));
    drop(others);
}
