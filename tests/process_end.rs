//! Processes, threads and forks that end or go on with functions unfinished. Each in a child.

mod support;

use inger::{Linger, launch, pause, resume};
use std::cell::RefCell;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use support::{child, compute, compute_for_ever, finish, is_child, output, succeed};

fn paused() -> Linger<'static, i32> {
    let work = || {
        pause();
        5
    };
    launch(work, u64::MAX).unwrap()
}

fn preempted() -> Linger<'static, ()> {
    launch(
        || loop {
            std::hint::black_box(format!("{}", 7));
        },
        500,
    )
    .unwrap()
}

/// The status with which a child of this test ends that calls `end` with functions unfinished.
fn status_of(test: &str) -> std::process::ExitStatus {
    let output = output(&mut child(test));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("about to end"), "{output:?}");
    output.status
}

fn about_to_end() {
    std::io::stderr().write_all(b"about to end\n").unwrap();
}

#[test]
fn exit_with_functions_unfinished() {
    const NAME: &str = "exit_with_functions_unfinished";
    if !is_child(NAME) {
        assert_eq!(status_of(NAME).code(), Some(7));
        return;
    }
    let _lingers = (paused(), preempted(), launch(|| (), 0).unwrap());
    about_to_end();
    std::process::exit(7);
}

#[test]
fn exit_inside_a_function() {
    const NAME: &str = "exit_inside_a_function";
    if !is_child(NAME) {
        assert_eq!(status_of(NAME).code(), Some(8));
        return;
    }
    let _lingers = (paused(), preempted());
    about_to_end();
    let _ = launch(|| std::process::exit(8), 1_000_000);
    unreachable!("exit returned");
}

#[test]
fn exit_inside_a_nested_function_that_was_preempted() {
    const NAME: &str = "exit_inside_a_nested_function_that_was_preempted";
    if !is_child(NAME) {
        assert_eq!(status_of(NAME).code(), Some(9));
        return;
    }
    about_to_end();
    let inner = || {
        compute(Duration::from_millis(2));
        std::process::exit(9)
    };
    let linger = launch(|| drop(launch(inner, u64::MAX).map(|_: Linger<'_, ()>| ())), 200).unwrap();
    finish(linger, 200);
    unreachable!("exit returned");
}

#[test]
fn abort_inside_a_function() {
    const NAME: &str = "abort_inside_a_function";
    if !is_child(NAME) {
        assert_eq!(status_of(NAME).signal(), Some(libc::SIGABRT));
        return;
    }
    about_to_end();
    let _ = launch(|| -> () { std::process::abort() }, u64::MAX);
}

/// Destructors of statics do not run in Rust; those of thread-locals do, and may hold continuations.
#[test]
fn continuations_in_statics_and_thread_locals() {
    const NAME: &str = "continuations_in_statics_and_thread_locals";
    if !is_child(NAME) {
        assert_eq!(status_of(NAME).code(), Some(0));
        return;
    }
    static KEPT: Mutex<Option<Linger<'static, i32>>> = Mutex::new(None);
    thread_local!(static LOCAL: RefCell<Vec<Linger<'static, ()>>> = const { RefCell::new(Vec::new()) });
    *KEPT.lock().unwrap() = Some(paused());
    LOCAL.with_borrow_mut(|local| local.push(preempted()));
    thread::spawn(|| LOCAL.with_borrow_mut(|local| local.extend([preempted(), launch(|| (), 0).unwrap()])))
        .join()
        .unwrap();
    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
    about_to_end();
}

#[test]
fn a_thread_ends_with_functions_unfinished() {
    const NAME: &str = "a_thread_ends_with_functions_unfinished";
    if !is_child(NAME) {
        succeed(&mut child(NAME));
        return;
    }
    for _ in 0..30 {
        let (paused, preempted) = thread::spawn(|| (paused(), preempted())).join().unwrap();
        // They live on.
        let ((result, _), mut preempted) = (finish(paused, 1_000_000), preempted);
        assert_eq!(result, 5);
        resume(&mut preempted, 200).unwrap();
        assert!(preempted.is_continuation());
        // SAFETY: nothing outside points into the function.
        unsafe { preempted.reclaim() };
    }
}

/// By pthread_exit(), which unwinds, and takes the thread's own timer with it.
#[test]
fn a_thread_exits_by_itself() {
    const NAME: &str = "a_thread_exits_by_itself";
    if !is_child(NAME) {
        succeed(&mut child(NAME));
        return;
    }
    // As libc's, but through their callers' frames an exit may unwind.
    type Body = extern "C-unwind" fn(*mut libc::c_void) -> *mut libc::c_void;
    unsafe extern "C-unwind" {
        fn pthread_create(
            thread: *mut libc::pthread_t,
            attributes: *const libc::pthread_attr_t,
            body: Body,
            argument: *mut libc::c_void,
        ) -> i32;
        fn pthread_exit(value: *mut libc::c_void) -> !;
    }
    extern "C-unwind" fn body(_: *mut libc::c_void) -> *mut libc::c_void {
        std::mem::forget(paused());
        assert!(launch(compute_for_ever, 300).unwrap().is_continuation());
        // SAFETY: no frame in between owns anything.
        unsafe { pthread_exit(std::ptr::without_provenance_mut(3)) }
    }
    let mut thread = 0;
    let mut value = std::ptr::null_mut();
    // SAFETY: plain calls, with valid pointers.
    unsafe {
        assert_eq!(pthread_create(&mut thread, std::ptr::null(), body, std::ptr::null_mut()), 0);
        assert_eq!(libc::pthread_join(thread, &mut value), 0);
    }
    assert_eq!(value.addr(), 3);
    assert!(launch(compute_for_ever, 300).unwrap().is_continuation());
}

/// Forks; the exit status of the child, which runs `in_child`.
fn fork(in_child: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child runs only what this test does, and ends without unwinding.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            libc::alarm(20);
            libc::_exit(if in_child() { 0 } else { 1 });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
        status
    }
}

#[test]
fn fork_with_functions_unfinished() {
    const NAME: &str = "fork_with_functions_unfinished";
    if !is_child(NAME) {
        succeed(&mut child(NAME));
        return;
    }
    let (mut first, mut second) = (paused(), preempted());
    for _ in 0..3 {
        let in_child = || {
            // New ones are preempted, by the child's own timer; the inherited ones go on.
            let fresh = launch(compute_for_ever, 1_000).unwrap();
            resume(&mut second, 1_000).unwrap();
            resume(&mut first, u64::MAX).unwrap();
            let ((), _) = finish(launch(|| compute(Duration::from_millis(2)), 100).unwrap(), 100);
            fresh.is_continuation() && second.is_continuation() && first.is_completion()
        };
        assert_eq!(fork(in_child), 0);
    }
    // The parent's are what they were.
    assert!(first.yielded());
    resume(&mut second, 500).unwrap();
    assert!(second.is_continuation());
    assert_eq!(finish(first, u64::MAX).0, 5);
    assert!(launch(compute_for_ever, 500).unwrap().is_continuation());
}

/// A function forks: in the child it goes on, preempted by the child's own timer, in a copy of its caller.
#[test]
fn fork_inside_a_function() {
    const NAME: &str = "fork_inside_a_function";
    if !is_child(NAME) {
        let stderr = succeed(&mut child(NAME));
        assert_eq!(stderr.matches("child done").count(), 3, "{stderr}");
        assert_eq!(stderr.matches("parent done").count(), 3, "{stderr}");
        return;
    }
    for slice_us in [u64::MAX, 1_000, 100] {
        let work = || {
            // SAFETY: the process has no other thread that holds a lock.
            let pid = unsafe { libc::fork() };
            compute(Duration::from_millis(3));
            pid
        };
        let (pid, slices) = finish(launch(work, slice_us).unwrap(), slice_us);
        assert!(slice_us == u64::MAX || slices > 1, "only {slices} slices");
        if pid == 0 {
            // The child has everything that its caller has.
            assert!(launch(compute_for_ever, 500).unwrap().is_continuation());
            std::io::stderr().write_all(b"child done\n").unwrap();
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: waits for our child.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
        std::io::stderr().write_all(b"parent done\n").unwrap();
    }
}

/// A child forked while other threads change dispositions and masks finds their locks free.
#[test]
fn fork_while_other_threads_change_dispositions() {
    const NAME: &str = "fork_while_other_threads_change_dispositions";
    if !is_child(NAME) {
        succeed(&mut child(NAME));
        return;
    }
    extern "C" fn nothing(_signal: libc::c_int) {}
    let change = |signal| {
        // SAFETY: the handler does nothing; the structure is of integers.
        unsafe {
            let handler = nothing as *const () as usize;
            libc::signal(signal, handler);
            let mut action: libc::sigaction = std::mem::zeroed();
            assert_eq!(libc::sigaction(signal, std::ptr::null(), &mut action), 0);
            assert!(action.sa_sigaction == handler || action.sa_sigaction == libc::SIG_IGN);
            action.sa_sigaction = libc::SIG_IGN;
            assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
        }
    };
    // The library starts: until then calls go to the C library, and what it finds it takes over.
    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for signal in [libc::SIGUSR1, libc::SIGALRM] {
            let (change, done) = (&change, &done);
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    change(signal);
                    // Inside a function too.
                    finish(launch(|| change(signal), 20).unwrap(), 20);
                }
            });
        }
        for _ in 0..200 {
            let in_child = || {
                change(libc::SIGUSR1);
                change(libc::SIGALRM);
                launch(compute_for_ever, 200).unwrap().is_continuation()
            };
            assert_eq!(fork(in_child), 0);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// A child forked while other threads launch finds the pools whole.
#[test]
fn fork_while_other_threads_launch() {
    const NAME: &str = "fork_while_other_threads_launch";
    if !is_child(NAME) {
        succeed(&mut child(NAME));
        return;
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    finish(launch(|| compute(Duration::from_micros(30)), 50).unwrap(), 50);
                }
            });
        }
        for _ in 0..50 {
            let in_child = || {
                (0..20).all(|_| launch(|| (), u64::MAX).unwrap().is_completion())
                    && launch(compute_for_ever, 200).unwrap().is_continuation()
            };
            assert_eq!(fork(in_child), 0);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
