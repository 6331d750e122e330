//! Masks: what the kernel blocks is what the calls say, and libc sees the same.

use libsignal::{
    MaskGuard, Signal, SignalSet, block, getpid, gettid, send_to_thread, set_thread_mask, thread_mask, unblock,
};
use std::mem;

/// The calling thread's mask as libc sees it.
fn libc_mask() -> SignalSet {
    // SAFETY: a null set leaves the mask as it is; `sigset_t` is integers.
    let set = unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut set), 0);
        set
    };
    // SAFETY: `set` is initialised.
    (1..=64)
        .filter(|&number| unsafe { libc::sigismember(&set, number) } == 1)
        .map(|number| Signal::new(number).unwrap())
        .collect()
}

#[test]
fn block_unblock_and_set_return_the_mask_before() {
    let usr1 = SignalSet::single(Signal::USR1);
    let usr2 = SignalSet::single(Signal::USR2);
    set_thread_mask(&SignalSet::empty());

    assert_eq!(block(&usr1), SignalSet::empty());
    assert_eq!(block(&usr2), usr1);
    assert_eq!(thread_mask(), usr1.union(&usr2));
    assert_eq!(libc_mask(), usr1.union(&usr2));
    assert_eq!(unblock(&usr1), usr1.union(&usr2));
    assert_eq!(set_thread_mask(&usr1), usr2);
    assert_eq!(set_thread_mask(&SignalSet::empty()), usr1);
    assert_eq!(libc_mask(), SignalSet::empty());
}

#[test]
fn guards_nest_and_restore() {
    let usr1 = SignalSet::single(Signal::USR1);
    set_thread_mask(&usr1);
    {
        let outer = MaskGuard::block(&SignalSet::single(Signal::USR2));
        assert_eq!(outer.saved_mask(), usr1);
        let both = thread_mask();
        {
            let _inner = MaskGuard::block_all();
            // All but the two that cannot be blocked, glibc's own 32 and 33 included.
            let mut all = SignalSet::full();
            all.remove(Signal::KILL);
            all.remove(Signal::STOP);
            assert_eq!(thread_mask(), all);
        }
        assert_eq!(thread_mask(), both);
    }
    assert_eq!(thread_mask(), usr1);
}

#[test]
fn a_mask_belongs_to_its_thread() {
    let usr2 = SignalSet::single(Signal::USR2);
    set_thread_mask(&SignalSet::empty());
    std::thread::spawn(move || set_thread_mask(&usr2)).join().unwrap();
    assert_eq!(thread_mask(), SignalSet::empty());
}

#[test]
fn a_blocked_signal_stays_pending() {
    let guard = MaskGuard::block_all();
    // The default action of SIGUSR1 would end the process.
    send_to_thread(getpid(), gettid(), Signal::USR1).unwrap();
    // SAFETY: `set` and `timeout` are live.
    let taken = unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGUSR1);
        let timeout = libc::timespec { tv_sec: 10, tv_nsec: 0 };
        libc::sigtimedwait(&set, std::ptr::null_mut(), &timeout)
    };
    assert_eq!(taken, libc::SIGUSR1);
    drop(guard);
}
