//! A timer signals the thread it was made for, with its own cookie.

use libsignal::{
    Action, Clock, Disposition, Errno, Flags, Signal, SignalSet, Timer, getpid, gettid, is_timer_expiry, set_action,
};
use std::ffi::c_void;
use std::sync::Barrier;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const COOKIES: [usize; 2] = [0x1111, usize::MAX - 1];

static TAKEN_BY: [AtomicI32; 2] = [const { AtomicI32::new(0) }; 2]; // thread numbers
static TIMER_IDS: [AtomicI32; 2] = [const { AtomicI32::new(-1) }; 2]; // si_timerid
static UNEXPECTED: AtomicUsize = AtomicUsize::new(0); // signals that are no timer's

unsafe extern "C" fn expiry(_: i32, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: a handler with SA_SIGINFO gets a live `siginfo_t`.
    let info = unsafe { &*info };
    match COOKIES.iter().position(|&cookie| is_timer_expiry(info, cookie)) {
        Some(index) => {
            // SAFETY: the signal is a timer's.
            TIMER_IDS[index].store(unsafe { info.si_timerid() }, SeqCst);
            TAKEN_BY[index].store(gettid(), SeqCst);
        }
        None => {
            UNEXPECTED.fetch_add(1, SeqCst);
        }
    }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn each_thread_gets_its_own_timer() {
    let action = Action { disposition: Disposition::Handler(expiry), flags: Flags::RESTART, mask: SignalSet::empty() };
    // SAFETY: `expiry` stores to atomics only.
    unsafe { set_action(Signal::ALRM, &action) }.unwrap();

    // Each thread arms the other's timer, so the thread that arms is not the one signalled.
    let tids = [const { AtomicI32::new(0) }; 2];
    let ready = Barrier::new(2);
    let done = Barrier::new(2);
    thread::scope(|scope| {
        let threads = COOKIES.into_iter().enumerate().map(|(index, cookie)| {
            let (tids, ready, done) = (&tids, &ready, &done);
            scope.spawn(move || {
                tids[index].store(gettid(), SeqCst);
                ready.wait();
                let other = tids[1 - index].load(SeqCst);
                let timer = Timer::new(Clock::Monotonic, Signal::ALRM, other, cookie).unwrap();
                timer.arm_in(1_000_000).unwrap();
                wait_for("no signal came", || TAKEN_BY[index].load(SeqCst) != 0);
                assert_eq!(TAKEN_BY[index].load(SeqCst), other);
                assert_eq!(TIMER_IDS[index].load(SeqCst), timer.id());
                done.wait();
            })
        });
        // The scope's own end would wait for the closures only: joined threads are gone.
        for thread in threads.collect::<Vec<_>>() {
            thread.join().unwrap();
        }
    });
    assert_eq!(UNEXPECTED.load(SeqCst), 0);

    libsignal::send_to_thread(getpid(), gettid(), Signal::ALRM).unwrap();
    assert_eq!(UNEXPECTED.load(SeqCst), 1, "a signal of tgkill is no expiry");

    // A thread of no process, and one that has ended.
    for tid in [i32::MAX, tids[0].load(SeqCst)] {
        let error = Timer::new(Clock::Monotonic, Signal::ALRM, tid, 0).err();
        assert_eq!(error, Some(Errno(libc::EINVAL)));
    }
}
