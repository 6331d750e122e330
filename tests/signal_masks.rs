//! Signal masks on both sides, and threads that keep all signals blocked. A preemption gets through
//! everywhere, and nothing of it shows in what the program sees.

mod support;

use inger::{launch, pause, resume};
use std::mem::MaybeUninit;
use std::thread;
use std::time::{Duration, Instant};
use support::{child, compute, compute_for_ever, finish, is_child, slots, succeed};

fn set(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises it; the numbers are valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

fn all() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises it.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn change(how: i32, set: &libc::sigset_t) {
    // SAFETY: a plain call.
    assert_eq!(unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) }, 0);
}

/// The signals that this thread has blocked, as it sees it.
fn blocked() -> Vec<i32> {
    let mut mask = MaybeUninit::uninit();
    // SAFETY: reads the mask, which initialises it.
    let mask = unsafe {
        assert_eq!(libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), mask.as_mut_ptr()), 0);
        mask.assume_init()
    };
    // SAFETY: the numbers are valid.
    (1..32).filter(|signal| unsafe { libc::sigismember(&mask, *signal) } == 1).collect()
}

/// Timeouts are honoured on this thread, and a preempted function completes.
#[track_caller]
fn assert_preempts() {
    let start = Instant::now();
    assert!(launch(compute_for_ever, 2_000).unwrap().is_continuation());
    assert!(start.elapsed() >= Duration::from_millis(2));
    let (_, slices) = finish(launch(|| compute(Duration::from_millis(3)), 100).unwrap(), 100);
    assert!(slices > 2, "only {slices} slices");
}

/// On a thread of its own, as it changes the mask.
fn on_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(body).join().unwrap())
}

#[test]
fn each_side_keeps_its_own() {
    let _slots = slots(1);
    on_a_thread(|| {
        change(libc::SIG_SETMASK, &set(&[libc::SIGUSR1]));
        let mut linger = launch(
            || {
                let inherited = blocked();
                change(libc::SIG_SETMASK, &set(&[libc::SIGUSR2, libc::SIGTERM]));
                let mut seen = Vec::new();
                for _ in 0..5 {
                    pause();
                    compute(Duration::from_micros(500));
                    seen.push(blocked());
                }
                (inherited, seen)
            },
            u64::MAX,
        )
        .unwrap();
        while linger.is_continuation() {
            assert_eq!(blocked(), [libc::SIGUSR1]);
            resume(&mut linger, 100).unwrap();
        }
        assert_eq!(blocked(), [libc::SIGUSR1]);
        let (inherited, seen) = linger.completion().unwrap();
        assert_eq!(inherited, [libc::SIGUSR1]);
        assert!(seen.iter().all(|mask| *mask == [libc::SIGUSR2, libc::SIGTERM]), "{seen:?}");
    });
}

#[test]
fn the_callers_mask_is_back_after_a_cancel() {
    let _slots = slots(1);
    on_a_thread(|| {
        for preempted in [false, true] {
            let work = || {
                change(libc::SIG_BLOCK, &set(&[libc::SIGUSR2]));
                if preempted {
                    compute_for_ever();
                }
                pause();
            };
            drop(launch(work, 500).unwrap());
            assert_eq!(blocked(), [] as [i32; 0]);
            assert!(launch(blocked, u64::MAX).unwrap().completion().unwrap().is_empty());
        }
    });
}

#[test]
fn a_mask_moves_with_its_function() {
    let _slots = slots(1);
    let mut linger = launch(
        || {
            change(libc::SIG_SETMASK, &set(&[libc::SIGUSR2]));
            pause();
            compute(Duration::from_millis(2));
            blocked()
        },
        u64::MAX,
    )
    .unwrap();
    on_a_thread(|| {
        change(libc::SIG_SETMASK, &set(&[libc::SIGUSR1]));
        resume(&mut linger, 500).unwrap();
        assert_eq!(blocked(), [libc::SIGUSR1]);
    });
    assert_eq!(finish(linger, 500).0, [libc::SIGUSR2]);
}

/// The program may think that it has blocked the preemption signal; timeouts do not care.
#[test]
fn a_thread_that_blocks_all_signals() {
    let _slots = slots(2);
    on_a_thread(|| {
        change(libc::SIG_SETMASK, &all());
        let before = blocked();
        assert!(before.contains(&libc::SIGALRM));
        assert_preempts();
        assert_eq!(blocked(), before);
        let inside = launch(blocked, u64::MAX).unwrap().completion().unwrap();
        assert_eq!(inside, before);
    });
}

#[test]
fn a_thread_that_blocks_all_signals_after_its_first_launch() {
    let _slots = slots(2);
    on_a_thread(|| {
        assert_preempts();
        change(libc::SIG_SETMASK, &all());
        assert_preempts();
        change(libc::SIG_UNBLOCK, &set(&[libc::SIGALRM]));
        assert_preempts();
        assert!(!blocked().contains(&libc::SIGALRM));
    });
}

#[test]
fn a_function_that_blocks_all_signals() {
    let _slots = slots(1);
    let work = || {
        change(libc::SIG_SETMASK, &all());
        compute_for_ever();
    };
    let start = Instant::now();
    assert!(launch(work, 2_000).unwrap().is_continuation());
    assert!(start.elapsed() >= Duration::from_millis(2));
}

/// Signals that the program sends itself; in children, as they go to the process.
#[test]
fn a_thread_that_waits_for_signals() {
    const NAME: &str = "a_thread_that_waits_for_signals";
    if !is_child(NAME) {
        succeed(&mut child(NAME));
        return;
    }
    // Every thread has them blocked, one waits: the textbook way.
    let waited_for = set(&[libc::SIGALRM, libc::SIGUSR1]);
    on_a_thread(|| {
        change(libc::SIG_BLOCK, &waited_for);
        for round in 0..20 {
            assert_preempts();
            let sent = if round % 2 == 0 { libc::SIGUSR1 } else { libc::SIGALRM };
            // SAFETY: plain calls.
            let received = unsafe {
                libc::pthread_kill(libc::pthread_self(), sent);
                let mut received = 0;
                assert_eq!(libc::sigwait(&waited_for, &mut received), 0);
                received
            };
            assert_eq!(received, sent);
        }
        // Inside a function too.
        let work = || {
            // SAFETY: plain calls.
            unsafe {
                libc::raise(libc::SIGUSR1);
                let mut received = 0;
                assert_eq!(libc::sigwait(&waited_for, &mut received), 0);
                received
            }
        };
        assert_eq!(launch(work, u64::MAX).unwrap().completion(), Some(libc::SIGUSR1));
        // Nothing has come: our own timer's expiries are not the program's signals.
        let moment = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        // SAFETY: the pointers are valid or null.
        assert_eq!(unsafe { libc::sigtimedwait(&waited_for, std::ptr::null_mut(), &moment) }, -1);
    });
}

/// One thread sits in sigwait() while another launches.
#[test]
fn another_thread_in_sigwait() {
    const NAME: &str = "another_thread_in_sigwait";
    if !is_child(NAME) {
        succeed(&mut child(NAME));
        return;
    }
    let waited_for = set(&[libc::SIGALRM, libc::SIGTERM]);
    on_a_thread(|| {
        change(libc::SIG_BLOCK, &waited_for);
        thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            let waited_for = &waited_for;
            let waiter = scope.spawn(move || {
                // SAFETY: a plain call.
                tell.send(unsafe { libc::pthread_self() }).unwrap();
                // A launching thread itself.
                assert_preempts();
                let mut received = 0;
                // SAFETY: plain calls.
                assert_eq!(unsafe { libc::sigwait(waited_for, &mut received) }, 0);
                received
            });
            for _ in 0..20 {
                assert_preempts();
            }
            assert!(!waiter.is_finished(), "our timers' expiries are not the program's signals");
            // SAFETY: the thread is not joined yet.
            unsafe { libc::pthread_kill(told.recv().unwrap(), libc::SIGTERM) };
            assert_eq!(waiter.join().unwrap(), libc::SIGTERM);
        });
    });
}

/// The program's SIGALRM comes from elsewhere at any moment, and launches go on meanwhile, with expiries of our own:
/// each is received once, however it is waited for, and it is the program's.
#[test]
fn signals_from_elsewhere_reach_who_waits_for_them() {
    use std::os::unix::process::CommandExt;
    const NAME: &str = "signals_from_elsewhere_reach_who_waits_for_them";
    if !is_child(NAME) {
        let mut command = child(NAME);
        // SAFETY: one system call between fork and exec. No thread of the child is to get the signal unasked.
        unsafe {
            command.pre_exec(|| {
                change(libc::SIG_BLOCK, &set(&[libc::SIGALRM]));
                Ok(())
            });
        }
        succeed(&mut command);
        return;
    }
    let alarm = set(&[libc::SIGALRM]);
    // SAFETY: plain calls, with valid pointers or null.
    let descriptor = unsafe { libc::signalfd(-1, &alarm, libc::SFD_CLOEXEC) };
    let wait = |way: u32| {
        // SAFETY: as above; the structures are of integers, and filled by the calls.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            match way {
                0 => {
                    let mut received = 0;
                    assert_eq!(libc::sigwait(&alarm, &mut received), 0);
                    return (received, libc::SI_USER);
                }
                1 => assert_eq!(libc::sigwaitinfo(&alarm, &mut info), libc::SIGALRM),
                2 => {
                    let long = libc::timespec { tv_sec: 30, tv_nsec: 0 };
                    assert_eq!(libc::sigtimedwait(&alarm, &mut info, &long), libc::SIGALRM);
                }
                _ => {
                    let mut received: libc::signalfd_siginfo = std::mem::zeroed();
                    let size = size_of_val(&received);
                    assert_eq!(libc::read(descriptor, (&raw mut received).cast(), size), size as isize);
                    return (received.ssi_signo as i32, received.ssi_code);
                }
            }
            (info.si_signo, info.si_code)
        }
    };
    let (ask, asked) = std::sync::mpsc::channel::<u64>();
    thread::scope(|scope| {
        scope.spawn(move || {
            for delay_us in asked {
                compute(Duration::from_micros(delay_us));
                // SAFETY: plain calls.
                assert_eq!(unsafe { libc::kill(libc::getpid(), libc::SIGALRM) }, 0);
            }
        });
        let wait = &wait;
        scope.spawn(move || {
            for round in 0..2_000_u64 {
                ask.send(round * 7 % 120).unwrap();
                let budget_us = 20 + round * 3 % 50;
                let mut linger = launch(|| compute(Duration::from_micros(50)), budget_us).unwrap();
                let received = wait(round as u32 % 4);
                assert_eq!(received, (libc::SIGALRM, libc::SI_USER), "round {round}");
                resume(&mut linger, u64::MAX).unwrap();
                assert!(linger.is_completion());
            }
            assert_preempts();
        });
    });
}

#[test]
fn a_signalfd_for_the_preemption_signal() {
    const NAME: &str = "a_signalfd_for_the_preemption_signal";
    if !is_child(NAME) {
        succeed(&mut child(NAME));
        return;
    }
    on_a_thread(|| {
        let alarm = set(&[libc::SIGALRM]);
        change(libc::SIG_BLOCK, &alarm);
        // SAFETY: plain calls.
        let descriptor = unsafe { libc::signalfd(-1, &alarm, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        assert!(descriptor >= 0);
        let mut received: libc::signalfd_siginfo =
            // SAFETY: a plain structure of integers.
            unsafe { std::mem::zeroed() };
        let mut read = || {
            let size = size_of_val(&received);
            // SAFETY: the buffer is as long as said.
            let length = unsafe { libc::read(descriptor, (&raw mut received).cast(), size) };
            (length == size as isize).then_some(received.ssi_signo as i32)
        };
        for _ in 0..5 {
            assert_preempts();
            assert_eq!(read(), None, "our timer's expiries are not the program's signals");
            // SAFETY: plain calls.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGALRM) };
            assert_eq!(read(), Some(libc::SIGALRM));
            assert_eq!(read(), None);
        }
        // Sent while a function runs, read afterwards.
        // SAFETY: plain calls.
        let send = || unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGALRM) };
        let linger = launch(
            || {
                send();
                compute(Duration::from_millis(1));
            },
            u64::MAX,
        );
        assert!(linger.unwrap().is_completion());
        assert_preempts();
        // SAFETY: plain calls.
        assert_eq!(read(), Some(libc::SIGALRM));
    });
}
