//! `return_from_signal`: what the interrupted code had in its registers, flags, vector state and red zone
//! survives; also if the function is suspended inside the handler.
#![cfg(not(miri))]

mod common;

use common::{SUSPENDED, Task};
use libtimetravel::raw::{self, COMPLETED, Gate, Return};
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

/// What the kernel below holds while it is interrupted, in the order in which it stores it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    general: [u64; 15],  // rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 .. r15
    red_zone: [u64; 16], // -8(%rsp) downwards
    flags: u64,
    vector: [[u64; 4]; 16], // ymm0 .. ymm15
}

// void hold(in rdi, out rsi, turns rdx): loads *in everywhere, turns rcx down to 0 without a flag changed,
// takes a breakpoint trap, and stores everything to *out.
std::arch::global_asm!(
    r#"
	.text
	.type	hold, @function
hold:
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rsi
	sub	$768, %rsp		/* room for out */
	.set	offset, 0
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	256 + offset(%rdi), %ymm\n
	.set	offset, offset + 32
	.endr
	push	248(%rdi)
	popf
	.set	offset, 0
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	mov	120 + offset(%rdi), %rax
	mov	%rax, -8 - offset(%rsp)
	.set	offset, offset + 8
	.endr
	mov	%rdx, %rcx
	mov	(%rdi), %rax
	mov	8(%rdi), %rbx
	mov	24(%rdi), %rdx
	mov	32(%rdi), %rsi
	mov	48(%rdi), %rbp
	mov	56(%rdi), %r8
	mov	64(%rdi), %r9
	mov	72(%rdi), %r10
	mov	80(%rdi), %r11
	mov	88(%rdi), %r12
	mov	96(%rdi), %r13
	mov	104(%rdi), %r14
	mov	112(%rdi), %r15
	mov	40(%rdi), %rdi
1:	lea	-1(%rcx), %rcx
	jrcxz	2f
	jmp	1b
2:	int3
	mov	%rax, (%rsp)
	mov	%rbx, 8(%rsp)
	mov	%rcx, 16(%rsp)
	mov	%rdx, 24(%rsp)
	mov	%rsi, 32(%rsp)
	mov	%rdi, 40(%rsp)
	mov	%rbp, 48(%rsp)
	mov	%r8, 56(%rsp)
	mov	%r9, 64(%rsp)
	mov	%r10, 72(%rsp)
	mov	%r11, 80(%rsp)
	mov	%r12, 88(%rsp)
	mov	%r13, 96(%rsp)
	mov	%r14, 104(%rsp)
	mov	%r15, 112(%rsp)
	.set	offset, 0
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	mov	-8 - offset(%rsp), %rax
	mov	%rax, 120 + offset(%rsp)
	.set	offset, offset + 8
	.endr
	pushf
	pop	%rax
	mov	%rax, 248(%rsp)
	.set	offset, 0
	.irp	n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	%ymm\n, 256 + offset(%rsp)
	.set	offset, offset + 32
	.endr
	vzeroupper
	cld
	mov	%rsp, %rsi
	mov	768(%rsp), %rdi
	mov	$96, %ecx
	rep movsq
	add	$776, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	ret
	.size	hold, . - hold
"#,
    options(att_syntax)
);

unsafe extern "C" {
    fn hold(input: *const State, output: *mut State, turns: u64);
}

/// Carry, parity, adjust, zero, sign, direction, overflow.
const ARITHMETIC_FLAGS: u64 = 0xcd5;
/// Bit 1 always reads as 1, bit 9 (interrupts) is 1 in user mode.
const FIXED_FLAGS: u64 = 0x202;

struct SharedGate(UnsafeCell<Gate>);
// SAFETY: one test at a time uses it, on one kernel thread.
unsafe impl Sync for SharedGate {}

static GATE: SharedGate = SharedGate(UnsafeCell::new(Gate { defer: 0, pending: 0 }));
static SIGRETURN: AtomicBool = AtomicBool::new(false);
static HANDLED: AtomicUsize = AtomicUsize::new(0);
static PENDING_TAKEN: AtomicU32 = AtomicU32::new(0);
/// The function to suspend, or null.
static RUNNING: AtomicPtr<Task> = AtomicPtr::new(std::ptr::null_mut());

/// The tests share the handler's state.
fn exclusive() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Destroys what it may, suspends the running function if there is one, and returns by the call under test.
unsafe extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, uc: *mut c_void) {
    let uc = uc.cast::<libc::ucontext_t>();
    let gate = GATE.0.get();
    // SAFETY: the kernel passes a ucontext_t, and the gate is this thread's.
    let (rip, preemptible) = unsafe {
        let preemptible = (&raw const (*gate).defer).read_volatile() == 0;
        (&raw mut (*gate).defer).write_volatile(1);
        ((*uc).uc_mcontext.gregs[libc::REG_RIP as usize] as usize, preemptible)
    };
    if !preemptible {
        return;
    }
    HANDLED.fetch_add(1, Relaxed);
    // SAFETY: leaves nothing behind that compiled code expects.
    unsafe {
        std::arch::asm!("vpcmpeqd ymm0, ymm0, ymm0", "vmovdqa ymm15, ymm0", "vmovdqa ymm7, ymm0", "vzeroupper",
            out("ymm0") _, out("ymm7") _, out("ymm15") _);
    }
    let running = RUNNING.load(Relaxed);
    if !running.is_null() && !raw::return_window().contains(&rip) {
        // SAFETY: the signal came while the function ran, the gate being open only then.
        unsafe { &mut *running }.suspend();
    }
    let how = if SIGRETURN.load(Relaxed) { Return::Sigreturn } else { Return::Fast };
    loop {
        // SAFETY: the arguments of this handler; SA_NODEFER and an empty mask.
        unsafe { raw::return_from_signal(uc, gate, how) };
        // SAFETY: as above.
        unsafe {
            assert_eq!((&raw const (*gate).defer).read_volatile(), 1);
            (&raw mut (*gate).pending).write_volatile(0);
        }
        PENDING_TAKEN.fetch_add(1, Relaxed);
    }
}

fn install(signal: libc::c_int) {
    // SAFETY: zero is a valid sigaction; the handler has the signature that SA_SIGINFO wants.
    // SA_NODEFER: the fast return does not restore the mask. SA_RESTART: joins and waits go on.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

fn set_gate(defer: u32, pending: u8) {
    // SAFETY: the gate is this thread's; the fences keep the compiler from moving the code under test.
    unsafe {
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
        (&raw mut (*GATE.0.get()).pending).write_volatile(pending);
        (&raw mut (*GATE.0.get()).defer).write_volatile(defer);
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    }
}

fn have_avx() -> bool {
    let have = std::arch::is_x86_feature_detected!("avx");
    if !have {
        println!("skipped: no AVX");
    }
    have
}

fn pattern(seed: u64) -> State {
    let mut word = seed;
    let mut next = || {
        word = word.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        word
    };
    State {
        general: std::array::from_fn(|_| next()),
        red_zone: std::array::from_fn(|_| next()),
        flags: (next() >> 20) & ARITHMETIC_FLAGS | FIXED_FLAGS,
        vector: std::array::from_fn(|_| std::array::from_fn(|_| next())),
    }
}

/// Runs `hold` once, and compares; rcx has been counted down.
fn check_hold(seed: u64, turns: u64) {
    let mut input = pattern(seed);
    let mut output = pattern(!seed);
    // SAFETY: both structures have the layout that `hold` is written for.
    unsafe { hold(&input, &mut output, turns) };
    input.general[2] = 0;
    assert!(input == output, "seed {seed}: {input:x?} became {output:x?}");
}

fn check_all(sigreturn: bool) {
    SIGRETURN.store(sigreturn, Relaxed);
    RUNNING.store(std::ptr::null_mut(), Relaxed);
    install(libc::SIGTRAP);
    let before = HANDLED.load(Relaxed);
    for seed in 0..1000 {
        set_gate(0, 0);
        check_hold(seed, 1);
    }
    assert_eq!(HANDLED.load(Relaxed) - before, 1000);
}

#[test]
fn fast_restores_everything() {
    let _exclusive = exclusive();
    if have_avx() {
        check_all(false);
    }
}

#[test]
fn sigreturn_restores_everything() {
    let _exclusive = exclusive();
    if have_avx() {
        check_all(true);
    }
}

#[test]
fn flags_include_the_direction_flag() {
    let with = (0..1000).filter(|&seed| pattern(seed).flags & 0x400 != 0).count();
    assert!((300..700).contains(&with), "{with}");
}

#[test]
fn pending_returns_to_the_handler_with_the_gate_closed() {
    let _exclusive = exclusive();
    if !have_avx() {
        return;
    }
    install(libc::SIGTRAP);
    RUNNING.store(std::ptr::null_mut(), Relaxed);
    for sigreturn in [false, true] {
        SIGRETURN.store(sigreturn, Relaxed);
        let before = PENDING_TAKEN.load(Relaxed);
        set_gate(0, 1);
        check_hold(5, 1);
        assert_eq!(PENDING_TAKEN.load(Relaxed) - before, 1);
        // SAFETY: the gate is this thread's.
        assert_eq!(unsafe { (GATE.0.get().read_volatile().defer, GATE.0.get().read_volatile().pending) }, (0, 0));
    }
}

fn signal_often(target: libc::pthread_t, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        // SAFETY: the target joins this thread before it ends.
        unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
        std::thread::sleep(std::time::Duration::from_micros(20));
    }
}

/// Suspends a function wherever a signal from another kernel thread meets it.
fn preempt(sigreturn: bool) {
    SIGRETURN.store(sigreturn, Relaxed);
    install(libc::SIGTRAP);
    install(libc::SIGUSR1);
    set_gate(1, 0);
    let stop = AtomicBool::new(false);
    // SAFETY: no preconditions.
    let target = unsafe { libc::pthread_self() };
    let mut suspensions = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| signal_often(target, &stop));
        let mut task = Task::new(0, |_| {
            for seed in 0..3000 {
                set_gate(0, 0);
                check_hold(seed, 4000);
                set_gate(1, 0);
            }
        });
        RUNNING.store(&raw mut *task, Relaxed);
        let mut code = task.enter();
        while code == SUSPENDED {
            suspensions += 1;
            code = task.reenter();
        }
        assert_eq!(code, COMPLETED);
        stop.store(true, Relaxed);
    });
    RUNNING.store(std::ptr::null_mut(), Relaxed);
    // Each `hold` traps once; anything above came from SIGUSR1.
    assert!(suspensions > 3000 + 50, "only {suspensions} suspensions");
    println!("{suspensions} suspensions");
}

#[test]
fn preempted_anywhere_and_continued_fast() {
    let _exclusive = exclusive();
    if have_avx() {
        preempt(false);
    }
}

#[test]
fn preempted_anywhere_and_continued_by_sigreturn() {
    let _exclusive = exclusive();
    if have_avx() {
        preempt(true);
    }
}
