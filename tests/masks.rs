//! A function's own signal mask goes where the function goes; its launcher's stays with the launcher. Also
//! where the launcher is a function, and where it is another one each time.

use inger::{launch, pause, resume};
use libc::{SIGUSR1, SIGUSR2, SIGWINCH, c_int};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// As the kernel has it.
fn kernel_mask() -> u64 {
    let mut mask = 0_u64;
    // SAFETY: the word is as long as a set is to the kernel.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, std::ptr::null::<u64>(), &mut mask, 8) };
    mask
}

fn change(how: c_int, signal: c_int) {
    // SAFETY: the set is valid, and initialised before it is read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        assert_eq!(libc::pthread_sigmask(how, &set, std::ptr::null_mut()), 0);
    }
}

/// Runs on a kernel thread that blocks `signal`, and nothing else.
fn on_thread_blocking<R: Send>(signal: c_int, body: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            change(libc::SIG_BLOCK, signal);
            let result = body();
            assert_eq!(kernel_mask(), bit(signal));
            result
        });
        thread.join().unwrap()
    })
}

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

#[test]
fn a_nested_launch_leaves_its_launchers_own_mask() {
    let masks = on_thread_blocking(SIGUSR1, || {
        let outer = launch(
            || {
                change(libc::SIG_BLOCK, SIGUSR2);
                let mut masks = vec![kernel_mask()];
                let mut inner = launch(spin, 1_000).unwrap();
                masks.push(kernel_mask());
                resume(&mut inner, 1_000).unwrap();
                masks.push(kernel_mask());
                // SAFETY: the loop has shared nothing.
                unsafe { inner.reclaim() };
                let inner = launch(
                    || {
                        change(libc::SIG_BLOCK, SIGWINCH);
                        pause();
                        kernel_mask()
                    },
                    u64::MAX,
                );
                masks.push(kernel_mask());
                let mut inner = inner.unwrap();
                resume(&mut inner, u64::MAX).unwrap();
                masks.push(kernel_mask());
                assert_eq!(inner.completion(), Some(bit(SIGUSR1) | bit(SIGUSR2) | bit(SIGWINCH)));
                masks
            },
            u64::MAX,
        );
        outer.unwrap().completion().unwrap()
    });
    assert_eq!(masks, [bit(SIGUSR1) | bit(SIGUSR2); 5]);
}

/// The deadline of the outer function passes while the inner one runs, each with a mask of its own.
#[test]
fn masks_of_a_chain_that_stops_and_moves() {
    let mut outer = on_thread_blocking(SIGUSR1, || {
        launch(
            || {
                change(libc::SIG_BLOCK, SIGUSR2);
                let inner = launch(
                    || {
                        change(libc::SIG_BLOCK, SIGWINCH);
                        let start = std::time::Instant::now();
                        while start.elapsed().as_millis() < 30 {
                            assert_eq!(kernel_mask(), bit(SIGUSR1) | bit(SIGUSR2) | bit(SIGWINCH));
                        }
                    },
                    u64::MAX,
                );
                assert!(inner.unwrap().is_completion());
                kernel_mask()
            },
            1_000,
        )
        .unwrap()
    });
    while outer.is_continuation() {
        on_thread_blocking(libc::SIGCHLD, || {
            resume(&mut outer, 2_000).unwrap();
        });
    }
    assert_eq!(outer.completion(), Some(bit(SIGUSR1) | bit(SIGUSR2)));
}

/// Without a mask of its own, a function has that of the kernel thread that it is on.
#[test]
fn a_function_without_a_mask_follows_its_launcher() {
    fn spin_for_a_while() -> u64 {
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 5 {
            std::hint::spin_loop();
        }
        kernel_mask()
    }
    let mut function = on_thread_blocking(SIGUSR1, || launch(spin_for_a_while, 500).unwrap());
    assert!(function.is_continuation());
    on_thread_blocking(SIGUSR2, || {
        resume(&mut function, u64::MAX).unwrap();
    });
    assert_eq!(function.completion(), Some(bit(SIGUSR2)));

    let mut function = on_thread_blocking(SIGUSR1, || {
        let function = || {
            pause();
            kernel_mask()
        };
        launch(function, u64::MAX).unwrap()
    });
    on_thread_blocking(SIGUSR2, || {
        resume(&mut function, u64::MAX).unwrap();
    });
    assert_eq!(function.completion(), Some(bit(SIGUSR2)));
}

/// A mask of its own that happens to be that of the thread: still its own.
#[test]
fn an_own_mask_that_equals_the_launchers_is_kept() {
    let (is_changed, is_elsewhere) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut function = on_thread_blocking(SIGUSR1, || {
        let function = || {
            change(libc::SIG_BLOCK, SIGUSR1);
            is_changed.store(true, Relaxed);
            while !is_elsewhere.load(Relaxed) {
                std::hint::spin_loop();
            }
            kernel_mask()
        };
        let mut function = launch(function, 500).unwrap();
        while !is_changed.load(Relaxed) {
            resume(&mut function, 500).unwrap();
        }
        function
    });
    assert!(function.is_continuation());
    is_elsewhere.store(true, Relaxed);
    on_thread_blocking(SIGUSR2, || {
        resume(&mut function, u64::MAX).unwrap();
    });
    assert_eq!(function.completion(), Some(bit(SIGUSR1)));
}
