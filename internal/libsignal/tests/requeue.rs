//! Requeued signals arrive with the origin that they had.

use libsignal::{
    Clock, Errno, MaskGuard, Signal, SignalSet, Timer, getpid, gettid, is_timer_expiry, requeue_to_thread,
    send_to_thread,
};
use std::mem;
use std::ptr;
use std::sync::mpsc;
use std::thread;

unsafe extern "C" {
    fn pthread_sigqueue(thread: libc::pthread_t, signal: std::ffi::c_int, value: libc::sigval) -> std::ffi::c_int;
}

/// Takes a pending signal of the calling thread.
///
/// This is the kernel's call, since glibc's `sigtimedwait` reports `SI_TKILL` as `SI_USER`.
fn take(signal: Signal) -> libc::siginfo_t {
    let set = SignalSet::single(signal);
    let timeout = libc::timespec { tv_sec: 10, tv_nsec: 0 };
    // SAFETY: a `siginfo_t` is integers and pointers.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: all three are live and laid out as the kernel's.
    let taken = unsafe {
        libc::syscall(libc::SYS_rt_sigtimedwait, &raw const set, &raw mut info, &raw const timeout, size_of_val(&set))
    };
    assert_eq!(taken, signal.number().into());
    info
}

/// All bytes of a `siginfo_t`.
fn bytes(info: &libc::siginfo_t) -> [u8; 128] {
    // SAFETY: `take` zeroed all of it before the kernel wrote to it, so no byte is uninitialised.
    unsafe { mem::transmute_copy(info) }
}

#[test]
fn an_expiry_survives_requeueing() {
    let _guard = MaskGuard::block_all();
    let timer = Timer::new(Clock::Monotonic, Signal::ALRM, gettid(), 0xabcdef).unwrap();
    timer.arm_in(0).unwrap();
    let first = take(Signal::ALRM);
    assert!(is_timer_expiry(&first, 0xabcdef));

    // SAFETY: the origin is a signal's own.
    unsafe { requeue_to_thread(getpid(), gettid(), Signal::ALRM, &first) }.unwrap();
    let second = take(Signal::ALRM);
    assert!(is_timer_expiry(&second, 0xabcdef));
    assert_eq!(bytes(&second), bytes(&first));
}

#[test]
fn a_signal_of_tgkill_may_be_requeued_to_oneself_only() {
    let _guard = MaskGuard::block_all();
    send_to_thread(getpid(), gettid(), Signal::USR1).unwrap();
    let first = take(Signal::USR1);
    assert_eq!(first.si_code, libc::SI_TKILL);

    // SAFETY: the origin is a signal's own.
    unsafe { requeue_to_thread(getpid(), gettid(), Signal::USR1, &first) }.unwrap();
    assert_eq!(bytes(&take(Signal::USR1)), bytes(&first));

    thread::scope(|scope| {
        let (tell_tid, tid) = mpsc::channel();
        let (finish, finished) = mpsc::channel::<()>();
        scope.spawn(move || {
            tell_tid.send(gettid()).unwrap();
            let _ = finished.recv();
        });
        // SAFETY: the origin is a signal's own.
        let result = unsafe { requeue_to_thread(getpid(), tid.recv().unwrap(), Signal::USR1, &first) };
        drop(finish);
        assert_eq!(result, Err(Errno(libc::EPERM)));
    });
}

#[test]
fn a_queued_value_may_be_requeued_to_another_thread() {
    let _guard = MaskGuard::block_all();
    let value = libc::sigval { sival_ptr: ptr::without_provenance_mut(0x5eed) };
    // SAFETY: the thread is the calling one. The signal goes to it, not to the process, where the
    // main thread would take it and end the process.
    let error = unsafe { pthread_sigqueue(libc::pthread_self(), libc::SIGUSR2, value) };
    assert_eq!(error, 0);
    let first = take(Signal::USR2);
    assert_eq!(first.si_code, libc::SI_QUEUE);

    thread::scope(|scope| {
        let (tell_tid, tid) = mpsc::channel();
        // The receiver inherits the mask.
        let receiver = scope.spawn(move || {
            tell_tid.send(gettid()).unwrap();
            bytes(&take(Signal::USR2))
        });
        // SAFETY: the origin is a signal's own.
        unsafe { requeue_to_thread(getpid(), tid.recv().unwrap(), Signal::USR2, &first) }.unwrap();
        assert_eq!(receiver.join().unwrap(), bytes(&first));
    });
}
