//! Arming and disarming: in the past, in no time, far away, not at all, and after a fork.

use libsignal::{Clock, Errno, MaskGuard, Signal, Timer, getpid, gettid, is_timer_expiry, now_ns};
use std::mem;
use std::time::Duration;

const COOKIE: usize = 0xc00c1e;
const SECOND_NS: u64 = 1_000_000_000;

/// Takes the timer's pending signal, or returns `None` after a while.
fn take_expiry(wait: Duration) -> Option<libc::siginfo_t> {
    // SAFETY: all three are live, and integers and pointers.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGALRM);
        let mut info: libc::siginfo_t = mem::zeroed();
        let timeout = libc::timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        (libc::sigtimedwait(&set, &mut info, &timeout) == libc::SIGALRM).then_some(info)
    }
}

/// A timer of the calling thread, whose signals stay pending while the guard lives.
fn timer(clock: Clock) -> (MaskGuard, Timer) {
    let guard = MaskGuard::block_all();
    (guard, Timer::new(clock, Signal::ALRM, gettid(), COOKIE).unwrap())
}

const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_millis(30);

#[test]
fn a_deadline_in_the_past_fires_at_once() {
    let (_guard, timer) = timer(Clock::Monotonic);
    for deadline_ns in [0, 1, now_ns(Clock::Monotonic) - 1] {
        timer.arm_at(deadline_ns).unwrap();
        let info = take_expiry(SOON).expect("the timer fires");
        assert!(is_timer_expiry(&info, COOKIE));
        assert!(!is_timer_expiry(&info, COOKIE + 1));
        assert_eq!(timer.remaining_ns(), 0, "it fires once");
    }
    assert_eq!(timer.overrun(), 0);
}

#[test]
fn no_time_at_all_fires_at_once() {
    let (_guard, timer) = timer(Clock::Monotonic);
    timer.arm_in(0).unwrap();
    assert!(take_expiry(SOON).is_some());
}

#[test]
fn it_does_not_fire_early() {
    let (_guard, timer) = timer(Clock::Monotonic);
    let start_ns = now_ns(Clock::Monotonic);
    timer.arm_in(5_000_000).unwrap();
    assert!(take_expiry(SOON).is_some());
    assert!(now_ns(Clock::Monotonic) - start_ns >= 5_000_000);

    let deadline_ns = now_ns(Clock::Monotonic) + 5_000_000;
    timer.arm_at(deadline_ns).unwrap();
    assert!(take_expiry(SOON).is_some());
    assert!(now_ns(Clock::Monotonic) >= deadline_ns);
}

#[test]
fn a_disarmed_timer_is_silent() {
    let (_guard, timer) = timer(Clock::Monotonic);
    assert_eq!(timer.remaining_ns(), 0, "a new timer is not armed");
    timer.arm_in(NEVER.as_nanos() as u64 / 2).unwrap();
    timer.disarm().unwrap();
    assert_eq!(timer.remaining_ns(), 0);
    assert!(take_expiry(NEVER).is_none());
}

#[test]
fn arming_again_replaces_the_expiry() {
    let (_guard, timer) = timer(Clock::Monotonic);
    timer.arm_in(NEVER.as_nanos() as u64 / 2).unwrap();
    timer.arm_in(60 * SECOND_NS).unwrap();
    let remaining_ns = timer.remaining_ns();
    assert!((50 * SECOND_NS..=60 * SECOND_NS).contains(&remaining_ns), "{remaining_ns}");
    assert!(take_expiry(NEVER).is_none());
}

#[test]
fn the_end_of_time_is_not_reached() {
    let (_guard, timer) = timer(Clock::Monotonic);
    timer.arm_in(u64::MAX).unwrap();
    assert!(take_expiry(NEVER).is_none());
    assert!(timer.remaining_ns() > SECOND_NS);
    timer.arm_at(u64::MAX).unwrap();
    assert!(take_expiry(NEVER).is_none());
    assert!(timer.remaining_ns() > SECOND_NS);
}

#[test]
fn a_dropped_timer_is_silent() {
    let (_guard, timer) = timer(Clock::Monotonic);
    timer.arm_in(NEVER.as_nanos() as u64 / 2).unwrap();
    drop(timer);
    assert!(take_expiry(NEVER).is_none());
}

#[test]
fn cpu_time_passes_only_while_the_thread_runs() {
    let (_guard, timer) = timer(Clock::ThreadCpu);
    timer.arm_in(20_000_000).unwrap();
    assert!(take_expiry(NEVER).is_none(), "sleeping uses no CPU time");
    let start_ns = now_ns(Clock::ThreadCpu);
    while timer.remaining_ns() > 0 {
        assert!(now_ns(Clock::ThreadCpu) - start_ns < 5 * SECOND_NS);
    }
    assert!(take_expiry(SOON).is_some());
    assert!(now_ns(Clock::ProcessCpu) >= now_ns(Clock::ThreadCpu));
}

#[test]
fn clocks_agree_with_libc() {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let before_ns = now_ns(Clock::Monotonic);
    // SAFETY: `now` is live.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    assert_eq!(result, 0);
    let after_ns = now_ns(Clock::Monotonic);
    let libc_ns = now.tv_sec as u64 * SECOND_NS + now.tv_nsec as u64;
    assert!((before_ns..=after_ns).contains(&libc_ns));
}

#[test]
fn a_child_has_no_timers() {
    let (_guard, timer) = timer(Clock::Monotonic);
    timer.arm_in(60 * SECOND_NS).unwrap();
    let parent = getpid();
    // SAFETY: the child makes system calls and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let absent = timer.arm_in(1) == Err(Errno(libc::EINVAL))
            && timer.disarm() == Err(Errno(libc::EINVAL))
            && timer.remaining_ns() == 0
            && timer.overrun() == 0
            && getpid() != parent;
        timer.forget();
        // SAFETY: _exit ends the child without running anything.
        unsafe { libc::_exit(if absent { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `status` is live.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert!(timer.remaining_ns() > 50 * SECOND_NS, "the parent's is untouched");
}
