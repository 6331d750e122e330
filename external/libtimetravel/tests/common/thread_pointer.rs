//! A function with a thread pointer of its own: a hand-made block, and a leaf that looks at it.

use crate::common::{SUSPENDED, Task};
use libtimetravel::raw::{self, COMPLETED};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the function saw at %fs:0.
static SEEN: AtomicUsize = AtomicUsize::new(0);

thread_local! { static MINE: Cell<u32> = const { Cell::new(0) } }

/// A block that has what compiled code looks at: itself at 0 and 0x10, and the stack protector's value
/// at 0x28. No TLS below it, so its users must be leaves.
fn block() -> (Box<[usize; 64]>, usize) {
    let mut block = Box::new([0_usize; 64]);
    let address = block.as_ptr().addr();
    block[0] = address;
    block[2] = address;
    (block, address)
}

fn look() {
    SEEN.store(raw::thread_pointer(), Ordering::Relaxed);
}

pub(crate) fn follows_every_switch() {
    let (block, address) = block();
    let mine = raw::thread_pointer();
    MINE.set(42);
    let mut task = Task::new(address, |task| {
        for _ in 0..100 {
            look();
            task.suspend();
        }
        look();
    });
    assert_eq!(task.enter(), SUSPENDED);
    for _ in 0..100 {
        assert_eq!(SEEN.swap(0, Ordering::Relaxed), address);
        assert_eq!((raw::thread_pointer(), MINE.get()), (mine, 42));
        let code = task.reenter();
        assert!(code == SUSPENDED || code == COMPLETED);
    }
    assert_eq!(SEEN.load(Ordering::Relaxed), address);
    assert_eq!((raw::thread_pointer(), MINE.get()), (mine, 42));
    drop(block);
}

pub(crate) fn follows_to_another_kernel_thread() {
    let (block, address) = block();
    let mut task = Task::new(address, |task| {
        task.suspend();
        look();
    });
    assert_eq!(task.enter(), SUSPENDED);
    std::thread::spawn(move || {
        let theirs = raw::thread_pointer();
        MINE.set(43);
        SEEN.store(0, Ordering::Relaxed);
        assert_eq!(task.reenter(), COMPLETED);
        assert_eq!(SEEN.load(Ordering::Relaxed), address);
        assert_eq!((raw::thread_pointer(), MINE.get()), (theirs, 43));
    })
    .join()
    .unwrap();
    drop(block);
}
