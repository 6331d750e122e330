//! Actions: what is set is what runs, and what was there before comes back unchanged.

use libsignal::{
    Action, Disposition, Errno, Flags, Signal, SignalSet, action, getpid, gettid, send_to_thread, set_action,
    thread_mask,
};
use std::ffi::c_void;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

/// Sends the calling thread a signal, which a handler takes before this returns.
fn raise(signal: Signal) {
    send_to_thread(getpid(), gettid(), signal).unwrap();
}

/// The action of a signal as libc sees it.
fn libc_action(signal: Signal) -> libc::sigaction {
    // SAFETY: a null action installs nothing; `sigaction` is integers and pointers.
    unsafe {
        let mut old: libc::sigaction = mem::zeroed();
        assert_eq!(libc::sigaction(signal.number(), ptr::null(), &mut old), 0);
        old
    }
}

static TAKEN: AtomicI32 = AtomicI32::new(0); // si_code of the signal taken last
static SENDER: AtomicI32 = AtomicI32::new(0); // its si_pid
static MASK_INSIDE: AtomicU64 = AtomicU64::new(0); // the mask while its handler ran

unsafe extern "C" fn record(_: i32, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: a handler with SA_SIGINFO gets a live `siginfo_t`, and tgkill set the sender.
    unsafe {
        SENDER.store((*info).si_pid(), SeqCst);
        TAKEN.store((*info).si_code, SeqCst);
    }
    MASK_INSIDE.store(thread_mask().bits(), SeqCst);
}

#[test]
fn a_handler_gets_the_origin_and_the_mask() {
    let usr1 = Action {
        disposition: Disposition::Handler(record),
        flags: Flags::RESTART,
        mask: SignalSet::single(Signal::TERM),
    };
    // SAFETY: `record` stores to atomics only.
    let before = unsafe { set_action(Signal::USR1, &usr1) }.unwrap();
    assert_eq!(before.disposition, Disposition::Default);
    assert_eq!(action(Signal::USR1), Ok(usr1));

    let mask_outside = thread_mask();
    raise(Signal::USR1);
    assert_eq!(TAKEN.load(SeqCst), libc::SI_TKILL);
    assert_eq!(SENDER.load(SeqCst), getpid());
    let mask_inside = SignalSet::from_bits(MASK_INSIDE.load(SeqCst));
    assert!(mask_inside.contains(Signal::USR1) && mask_inside.contains(Signal::TERM));
    assert_eq!(thread_mask(), mask_outside);

    let nodefer = Action { flags: Flags::NODEFER, mask: SignalSet::empty(), ..usr1 };
    // SAFETY: as above.
    assert_eq!(unsafe { set_action(Signal::USR1, &nodefer) }, Ok(usr1));
    raise(Signal::USR1);
    assert_eq!(MASK_INSIDE.load(SeqCst), mask_outside.bits());

    // SAFETY: the action is the one of the program's start.
    assert_eq!(unsafe { set_action(Signal::USR1, &before) }, Ok(nodefer));
    assert_eq!(action(Signal::USR1), Ok(before));
}

#[test]
fn ignored_and_reset_as_the_flags_say() {
    let ignore = Action { disposition: Disposition::Ignore, flags: Flags::empty(), mask: SignalSet::empty() };
    // SAFETY: no handler is involved.
    unsafe { set_action(Signal::HUP, &ignore) }.unwrap();
    raise(Signal::HUP); // would end the process
    assert_eq!(libc_action(Signal::HUP).sa_sigaction, libc::SIG_IGN);

    let once = Action { disposition: Disposition::Handler(record), flags: Flags::RESETHAND, mask: SignalSet::empty() };
    // SAFETY: `record` stores to atomics only.
    unsafe { set_action(Signal::HUP, &once) }.unwrap();
    raise(Signal::HUP);
    assert_eq!(action(Signal::HUP).unwrap().disposition, Disposition::Default);
}

static TAKEN_BY_ONE_ARGUMENT: AtomicI32 = AtomicI32::new(0);

extern "C" fn one_argument(signal: i32) {
    TAKEN_BY_ONE_ARGUMENT.fetch_add(signal, SeqCst);
}

#[test]
fn a_handler_of_one_argument_round_trips() {
    // SAFETY: `one_argument` adds to an atomic only.
    unsafe {
        let mut old_style: libc::sigaction = mem::zeroed();
        old_style.sa_sigaction = one_argument as *const () as usize;
        old_style.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
        libc::sigaddset(&mut old_style.sa_mask, libc::SIGTERM);
        assert_eq!(libc::sigaction(libc::SIGUSR2, &old_style, ptr::null_mut()), 0);
    }
    let before = libc_action(Signal::USR2);

    let ours = Action { disposition: Disposition::Handler(record), flags: Flags::empty(), mask: SignalSet::empty() };
    // SAFETY: `record` stores to atomics only.
    let saved = unsafe { set_action(Signal::USR2, &ours) }.unwrap();
    assert_eq!(saved.flags, Flags::RESTART | Flags::NOCLDSTOP | Flags::ONE_ARGUMENT);
    assert_eq!(saved.mask, SignalSet::single(Signal::TERM));

    // SAFETY: the handler is `one_argument` again, with its flags.
    assert_eq!(unsafe { set_action(Signal::USR2, &saved) }, Ok(ours));
    let after = libc_action(Signal::USR2);
    assert_eq!(after.sa_sigaction, before.sa_sigaction);
    assert_eq!(after.sa_flags, before.sa_flags);
    assert_eq!(after.sa_flags & libc::SA_SIGINFO, 0);
    // SAFETY: the mask is initialised.
    let blocks_term = unsafe { libc::sigismember(&after.sa_mask, libc::SIGTERM) };
    assert_eq!(blocks_term, 1);
    assert_eq!(action(Signal::USR2), Ok(saved));

    raise(Signal::USR2);
    assert_eq!(TAKEN_BY_ONE_ARGUMENT.load(SeqCst), libc::SIGUSR2);
}

#[test]
fn a_handler_set_by_libc_round_trips() {
    // SAFETY: `record` stores to atomics only.
    unsafe {
        let mut theirs: libc::sigaction = mem::zeroed();
        theirs.sa_sigaction = record as *const () as usize;
        theirs.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGWINCH, &theirs, ptr::null_mut()), 0);
    }
    let before = libc_action(Signal::WINCH);
    let saved = action(Signal::WINCH).unwrap();
    assert_eq!(saved.disposition, Disposition::Handler(record));
    assert_eq!(saved.flags, Flags::ONSTACK);
    // SAFETY: it is the action that is in place.
    assert_eq!(unsafe { set_action(Signal::WINCH, &saved) }, Ok(saved));
    let after = libc_action(Signal::WINCH);
    assert_eq!(after.sa_sigaction, before.sa_sigaction);
    assert_eq!(after.sa_flags, before.sa_flags);
}

#[test]
fn kill_and_stop_cannot_be_handled() {
    let ignore = Action { disposition: Disposition::Ignore, flags: Flags::empty(), mask: SignalSet::empty() };
    for signal in [Signal::KILL, Signal::STOP] {
        // SAFETY: no handler is involved.
        let result = unsafe { set_action(signal, &ignore) };
        assert_eq!(result, Err(Errno(libc::EINVAL)));
        assert_eq!(action(signal).unwrap().disposition, Disposition::Default);
    }
}

#[test]
fn a_missing_thread_is_an_error() {
    assert_eq!(send_to_thread(getpid(), i32::MAX, Signal::USR1), Err(Errno(libc::ESRCH)));
    assert_eq!(send_to_thread(getpid(), 0, Signal::USR1), Err(Errno(libc::EINVAL)));
}
