//! The windows, one a scenario: what happens between two marks, and what must hold afterwards.
//!
//! This code runs in the traced process, up to the end mark in the trunk, and to the end in each branch.

use crate::marks::*;
use inger::{Alloc, Error, Linger, Options, launch, no_preempt, pause, resume};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::hint::black_box;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

/// What must come of the branches together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Success,
    /// A negative control: the defect is in front of some instruction.
    SomeFailure,
    /// A negative control: the defect is in front of exactly so many.
    Failures(usize),
}

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) expect: Expect,
    /// The program's signals arrive too, not only our timer's.
    pub(crate) program_signals: bool,
    run: fn(),
}

const fn good(name: &'static str, run: fn()) -> Scenario {
    Scenario { name, expect: Expect::Success, program_signals: true, run }
}

/// Base's code, reached past interception: only while the code itself runs is it known not to be preemptible,
/// not while a handler of the program runs above it.
const fn raw(name: &'static str, run: fn()) -> Scenario {
    Scenario { name, expect: Expect::Success, program_signals: false, run }
}

const fn control(name: &'static str, expect: Expect, run: fn()) -> Scenario {
    Scenario { name, expect, program_signals: false, run }
}

pub(crate) const ALL: &[Scenario] = &[
    good("launch", a_launch),
    good("launch_prepared", a_launch_prepared),
    good("complete", a_completion),
    good("pause", a_pause),
    good("resume_paused", a_resume_of_a_paused_function),
    good("resume_preempted", a_resume_of_a_preempted_function),
    good("resume_preempted_with_own_mask", a_resume_of_a_function_with_its_own_mask),
    good("resume_chain", a_resume_of_a_chain),
    good("registers", || in_function(|| exhaustive_registers_step(), |()| {})),
    good("handler", a_handler),
    good("handler_deferred", a_handler_that_defers),
    good("handler_in_shared_call", a_handler_in_a_shared_call),
    good("handler_of_chain", a_handler_with_a_chain),
    good("cancel_reclaim", a_reclaim),
    good("cancel_drop", a_drop),
    good("tracked", a_tracked_function_that_is_reclaimed),
    good("no_preempt", || in_function(|| no_preempt(|| black_box(7)), |seven| assert_eq!(seven, 7))),
    good("trampoline", || in_function(|| number(c"-1234567"), |number| assert_eq!(number, -1_234_567))),
    good("malloc_free", || in_function(|| allocate(libc::malloc, libc::free), |()| {})),
    good("allocator", || in_function(allocate_by_adapter, |()| {})),
    raw("malloc_free_by_raw_pointer", a_raw_malloc),
    good("printf", a_printf),
    raw("fputs_by_raw_pointer", a_raw_fputs),
    good("errno", an_errno),
    good("dlsym", a_dlsym),
    good("shared_call", a_shared_call),
    good("setuid", a_setuid),
    good("getenv", a_getenv),
    good("pthread_sigmask", a_mask),
    good("usleep", a_sleep),
    good("signal", a_signal),
    good("signal_to_own_handler", a_signal_to_the_function),
    good("signal_on_alternate_stack", a_signal_on_the_alternate_stack),
    good("signal_that_launches", a_signal_that_launches),
    good("nested", a_nested_launch),
    good("nested_inner_deadline", a_nested_launch_with_a_deadline),
    good("pthread_exit", a_thread_exit),
    good("fork", a_fork),
    // Controls: each is a defect that must be found.
    control("control_torn", Expect::Failures(4), control_torn),
    control("control_lost", Expect::SomeFailure, control_lost),
    control("control_unguarded", Expect::SomeFailure, control_unguarded),
    control("control_undeferred", Expect::SomeFailure, control_undeferred),
];

/// How long the function may take: single-stepping exceeds it at once.
const SHORT_US: u64 = 1;

static PREEMPTIONS: AtomicU32 = AtomicU32::new(0);
static YIELDS: AtomicU32 = AtomicU32::new(0);

// ---------------------------------------------------------------------------------- the process

/// Runs a scenario, and ends the process.
pub(crate) fn run(name: &str) -> ! {
    let Some(scenario) = ALL.iter().find(|scenario| scenario.name == name) else {
        eprintln!("no scenario {name}");
        std::process::exit(2);
    };
    let report = shared_report().expose_provenance();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.to_string();
        let length = text.len().min(REPORT_SIZE - 1);
        // SAFETY: the report has room for this; the process ends.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), std::ptr::with_exposed_provenance_mut(report), length);
            libc::_exit(1)
        }
    }));
    warm_up();
    // SAFETY: the state of this kernel thread.
    let owner = unsafe { (*gotcha::this()).owner }.addr();
    // As src/thread.rs marks its timers' expiries.
    let cookie = 0x1e6e << 48 | owner;
    assert_timers();
    let hello = hello(cookie, report);
    exhaustive_hello(&hello);
    install_counter();
    let before = HostState::now();
    checked(Side::Host, || {
        set_errno(77);
        (scenario.run)();
        assert_eq!(errno(), 77, "errno of the launcher");
    });
    before.check();
    assert_eq!(COUNTED_SIGNALS.load(Relaxed), is_program_signal().into(), "signals of the program");
    check_kept();
    afterwards();
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

fn shared_report() -> *mut u8 {
    // SAFETY: new memory.
    let memory = unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        libc::mmap(null_mut(), REPORT_SIZE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    assert_ne!(memory, libc::MAP_FAILED);
    memory.cast()
}

/// As many idle libsets as a scenario has functions: to make them is not what is tested.
fn warm_up() {
    let inner = || launch(|| number(c"1"), u64::MAX).map(Linger::completion);
    let outer = launch(|| inner().map(|one| (one, number(c"2"))), u64::MAX);
    assert_eq!(outer.unwrap().completion().unwrap().unwrap(), (Some(1), 2));
    // one more, for a drop
    let prepared = [launch(|| (), 0), launch(|| (), 0), launch(|| (), 0)];
    drop(prepared);
}

/// A branch makes its own timer, and gets the first number: the library's must have it too.
fn assert_timers() {
    let exists = |number: i32| {
        let mut setting = [0u64; 4];
        // SAFETY: `setting` is valid for writes.
        unsafe { libc::syscall(libc::SYS_timer_gettime, number, setting.as_mut_ptr()) == 0 }
    };
    assert!(exists(0) && !exists(1), "the library's timer is not the first one");
}

static COUNTED_SIGNALS: AtomicU32 = AtomicU32::new(0);

/// The program's own handlers, of our signal and of another.
fn install_counter() {
    extern "C" fn count(_signal: c_int) {
        COUNTED_SIGNALS.fetch_add(1, Relaxed);
    }
    for signal in [libc::SIGALRM, libc::SIGUSR1] {
        // SAFETY: the handler adds to a counter only.
        let before = unsafe { libc::signal(signal, count as extern "C" fn(c_int) as usize) };
        assert_eq!(before, libc::SIG_DFL);
    }
}

/// What must be the same for the launcher before and after.
#[derive(Debug, PartialEq, Eq)]
struct HostState {
    thread_pointer: usize,
    table: usize,
    libset: i64,
    defer: u32,
    pending: u8,
    is_virtual: u8,
    set: usize,
    owner: usize,
    mask: u64,
}

impl HostState {
    fn now() -> Self {
        let mut mask = 0u64;
        // SAFETY: the state of this kernel thread; `mask` is valid for writes.
        unsafe {
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, null::<u64>(), &raw mut mask, 8);
            let state = gotcha::this();
            HostState {
                thread_pointer: libtimetravel::raw::thread_pointer(),
                table: (*state).table.addr(),
                libset: gotcha::libgotcha_group_thread_get(),
                defer: (*state).defer,
                pending: (*state).pending,
                is_virtual: (*state).is_virtual,
                set: (*state).set.addr(),
                owner: (*state).owner.addr(),
                mask,
            }
        }
    }

    fn check(&self) {
        let now = HostState::now();
        assert_eq!(now, *self);
        assert_eq!((now.libset, now.defer, now.pending, now.is_virtual, now.set), (0, 1, 0, 0, 0));
    }
}

/// The library still does what it should.
fn afterwards() {
    assert_eq!(launch(|| number(c"12"), u64::MAX).unwrap().completion(), Some(12));
    let forever = || -> () {
        loop {
            std::hint::spin_loop();
        }
    };
    let mut spinning = launch(forever, 100).unwrap();
    assert!(spinning.is_continuation() && !spinning.yielded());
    resume(&mut spinning, 100).unwrap();
    assert!(spinning.is_continuation());
    // SAFETY: the loop has shared nothing.
    unsafe { spinning.reclaim() };
    assert_eq!(launch(|| number(c"34"), u64::MAX).unwrap().completion(), Some(34));
    allocate(libc::malloc, libc::free);
}

// ---------------------------------------------------------------------------------- parts

unsafe extern "C" {
    static stdout: *mut libc::FILE;
    fn flockfile(stream: *mut libc::FILE);
    fn funlockfile(stream: *mut libc::FILE);
}

fn errno() -> i32 {
    // SAFETY: the thread's own variable.
    unsafe { *libc::__errno_location() }
}

fn set_errno(value: i32) {
    // SAFETY: the thread's own variable.
    unsafe { *libc::__errno_location() = value };
}

/// A call of a library's own copy.
fn number(text: &CStr) -> i64 {
    // SAFETY: a C string.
    unsafe { libc::strtol(black_box(text).as_ptr(), null_mut(), 10) }
}

type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);

/// Cut from the top of the heap: two that have seen the same top get the same block.
const BLOCK_SIZE: usize = 100_000;

fn allocate(malloc: Malloc, free: Free) {
    // SAFETY: the blocks are used within their sizes and freed once.
    unsafe {
        let large: *mut usize = malloc(BLOCK_SIZE).cast();
        large.write(0xaaaa);
        let small: *mut usize = malloc(40).cast();
        small.write(0xbbbb);
        assert_eq!((large.read(), small.read()), (0xaaaa, 0xbbbb), "somebody else's memory");
        assert_ne!(large, small);
        free(small.cast());
        free(large.cast());
    }
}

/// By the kernel thread's own malloc().
fn allocate_by_adapter() {
    static ALLOCATOR: Alloc<System> = Alloc(System);
    let layout = Layout::new::<[usize; 10]>();
    // SAFETY: the block is used within its size and freed once.
    unsafe {
        let block: *mut usize = ALLOCATOR.alloc(layout).cast();
        block.write(0xaaaa);
        assert_eq!(block.read(), 0xaaaa, "somebody else's memory");
        ALLOCATOR.dealloc(block.cast(), layout);
    }
}

/// What the launcher has allocated, and keeps to the end.
static KEPT: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

/// What the launcher does while the function is stopped.
fn host_work() {
    for size_bytes in [BLOCK_SIZE, 40] {
        // SAFETY: within the block's size.
        let block = unsafe {
            let block: *mut usize = libc::malloc(size_bytes).cast();
            block.write(0x5555);
            block.expose_provenance()
        };
        if let Some(free) = KEPT.iter().find(|kept| kept.load(Relaxed) == 0) {
            free.store(block, Relaxed);
        }
    }
    assert_eq!(number(c"99"), 99);
    assert_eq!(IN_CALLBACK.load(Relaxed), 0, "stopped inside a call of a shared library");
    // SAFETY: the stream is there; hangs if the function was stopped while it held the lock.
    unsafe {
        flockfile(stdout);
        funlockfile(stdout);
    }
}

fn check_kept() {
    for kept in &KEPT {
        let block: *const usize = std::ptr::with_exposed_provenance(kept.load(Relaxed));
        // SAFETY: a block of host_work's.
        assert!(block.is_null() || unsafe { block.read() } == 0x5555, "the launcher's memory");
    }
}

/// Lets the function go on until it has completed; it is to be preempted `needed` times in all.
fn finish<T: Send>(linger: &mut Linger<'_, T>, needed: u32) {
    assert_eq!(errno(), 77, "errno of the launcher after launch");
    while linger.is_continuation() {
        let counter = if linger.yielded() { &YIELDS } else { &PREEMPTIONS };
        counter.fetch_add(1, Relaxed);
        let enough = PREEMPTIONS.load(Relaxed) >= needed;
        GO.store(enough.into(), Relaxed);
        host_work();
        resume(linger, if enough { u64::MAX } else { SHORT_US }).unwrap();
        assert_eq!(errno(), 77, "errno of the launcher after resume");
    }
}

/// In a function: waits until it has been preempted often enough. A lost expiry makes it wait forever.
fn wait() {
    while GO.load(Relaxed) == 0 {
        std::hint::spin_loop();
    }
}

/// A window within a function: `call`, whose result is checked later.
fn in_function<R, C: FnOnce(R) + Send>(call: impl FnOnce() -> R + Send, check: C) {
    let function = || {
        set_errno(33);
        let mut result = None;
        checked(Side::Function, || {
            exhaustive_start();
            result = Some(call());
            exhaustive_end();
        });
        check(result.unwrap());
        assert_eq!(errno(), 33, "errno of the function");
        wait();
        42
    };
    let mut linger = launch(function, SHORT_US).unwrap();
    finish(&mut linger, 1);
    assert_eq!(linger.completion(), Some(42));
}

// ---------------------------------------------------------------------------------- life of a function

/// What the process has: bytes of the heap, descriptors.
fn possessions() -> (usize, usize) {
    // SAFETY: plain calls.
    unsafe {
        let heap = libc::mallinfo2();
        let descriptors = (0..256).filter(|&number| libc::fcntl(number, libc::F_GETFD) >= 0).count();
        // Most are not open.
        set_errno(77);
        (heap.uordblks + heap.hblkhd, descriptors)
    }
}

/// Wherever it was stopped, it leaves neither block nor descriptor, and nothing is given back twice.
fn a_tracked_function_that_is_reclaimed() {
    // SAFETY: what the functions allocate and open nobody else uses.
    let options = unsafe { Options::new().reclaim_heap().close_descriptors() };
    let acquire = || {
        // SAFETY: plain calls; the block is not used.
        unsafe {
            let block = libc::malloc(BLOCK_SIZE / 2);
            let first = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
            let block = libc::realloc(block, BLOCK_SIZE);
            let second = libc::dup(first);
            libc::close(first);
            (block.expose_provenance(), second)
        }
    };
    let release = |(block, descriptor): (usize, c_int)| {
        // SAFETY: acquire's.
        unsafe {
            libc::close(descriptor);
            libc::free(std::ptr::with_exposed_provenance_mut(block));
        }
    };
    assert!(options.launch(|| release(acquire()), u64::MAX).unwrap().is_completion());
    let (heap_bytes, descriptors) = possessions();
    let function = || -> () {
        exhaustive_start();
        let held = acquire();
        release(black_box(held));
        exhaustive_end();
        loop {
            std::hint::spin_loop();
        }
    };
    let linger = options.launch(function, SHORT_US).unwrap();
    assert!(linger.is_continuation());
    // SAFETY: nothing outside points into the function.
    unsafe { linger.reclaim() };
    let after = possessions();
    assert_eq!(after.1, descriptors, "descriptors");
    assert!(after.0 < heap_bytes + BLOCK_SIZE / 2 - 1000, "{} bytes, then {}", heap_bytes, after.0);
    host_work();
}

fn a_launch() {
    let function = || {
        exhaustive_end();
        wait();
        42
    };
    exhaustive_start();
    let mut linger = launch(function, SHORT_US).unwrap();
    finish(&mut linger, 1);
    assert_eq!(linger.completion(), Some(42));
}

fn a_launch_prepared() {
    let function = || {
        wait();
        42
    };
    exhaustive_start();
    let mut linger = launch(function, 0).unwrap();
    exhaustive_end();
    resume(&mut linger, SHORT_US).unwrap();
    finish(&mut linger, 1);
    assert_eq!(linger.completion(), Some(42));
}

static DROPS: AtomicU32 = AtomicU32::new(0);

/// With a thread-local whose destructor runs at completion.
fn a_completion() {
    struct Counted(Cell<u32>);
    impl Drop for Counted {
        fn drop(&mut self) {
            DROPS.fetch_add(self.0.get(), Relaxed);
        }
    }
    thread_local!(static COUNTED: Counted = const { Counted(Cell::new(0)) });
    let function = || {
        COUNTED.with(|counted| counted.0.set(1));
        exhaustive_start();
        42
    };
    let mut linger = launch(function, SHORT_US).unwrap();
    exhaustive_end();
    finish(&mut linger, 1);
    assert_eq!(linger.completion(), Some(42));
    assert_eq!(DROPS.load(Relaxed), 1, "destructors of thread-locals");
}

fn a_pause() {
    let function = || {
        set_errno(33);
        checked(Side::Function, || {
            exhaustive_start();
            pause();
        });
        assert_eq!(errno(), 33, "errno of the function");
        wait();
        42
    };
    let mut linger = launch(function, SHORT_US).unwrap();
    exhaustive_end();
    finish(&mut linger, 1);
    assert_eq!(linger.completion(), Some(42));
    assert_eq!(YIELDS.load(Relaxed), 1);
}

fn a_resume_of_a_paused_function() {
    let function = || {
        set_errno(33);
        checked(Side::Function, || {
            pause();
            exhaustive_end();
        });
        assert_eq!(errno(), 33, "errno of the function");
        wait();
        42
    };
    let mut linger = launch(function, u64::MAX).unwrap();
    assert!(linger.yielded());
    exhaustive_start();
    resume(&mut linger, SHORT_US).unwrap();
    finish(&mut linger, 1);
    assert_eq!(linger.completion(), Some(42));
    assert_eq!(YIELDS.load(Relaxed), 0);
}

fn resume_preempted(function: impl FnOnce() -> u64 + Send) {
    let mut linger = launch(function, SHORT_US).unwrap();
    assert!(linger.is_continuation() && !linger.yielded());
    PREEMPTIONS.store(1, Relaxed);
    exhaustive_start();
    resume(&mut linger, SHORT_US).unwrap();
    finish(&mut linger, 2);
    assert_eq!(linger.completion(), Some(42));
}

/// Ends in the tail of the signal handler that had preempted it.
fn a_resume_of_a_preempted_function() {
    resume_preempted(|| {
        checked(Side::Function, || exhaustive_registers_resume());
        42
    });
}

fn blocked(signal: c_int) -> bool {
    let mut mask = 0u64;
    // SAFETY: `mask` is valid for writes.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, null::<u64>(), &raw mut mask, 8) };
    mask >> (signal - 1) & 1 != 0
}

fn set_blocked(how: c_int, signal: c_int) -> bool {
    // SAFETY: the sets are filled before they are used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, signal);
        assert_eq!(libc::pthread_sigmask(how, &set, &mut old), 0);
        libc::sigismember(&old, signal) == 1
    }
}

/// It leaves the handler by rt_sigreturn.
fn a_resume_of_a_function_with_its_own_mask() {
    resume_preempted(|| {
        assert!(!set_blocked(libc::SIG_BLOCK, libc::SIGUSR1));
        checked(Side::Function, || exhaustive_registers_resume());
        assert!(blocked(libc::SIGUSR1), "mask of the function");
        42
    });
    assert!(!blocked(libc::SIGUSR1), "mask of the launcher");
}

fn a_resume_of_a_chain() {
    resume_preempted(|| {
        let inner = || {
            checked(Side::Function, || exhaustive_registers_resume());
            41
        };
        launch(inner, u64::MAX).unwrap().completion().unwrap() + 1
    });
}

// ---------------------------------------------------------------------------------- what follows an expiry

fn handle(function: impl FnOnce() -> u64 + Send) {
    let mut linger = launch(function, SHORT_US).unwrap();
    exhaustive_end();
    finish(&mut linger, 1);
    assert_eq!(linger.completion(), Some(42));
}

fn a_handler() {
    handle(|| {
        checked(Side::Function, || exhaustive_registers_handler());
        42
    });
}

fn a_handler_that_defers() {
    handle(|| {
        checked(Side::Function, || no_preempt(|| exhaustive_expire_start()));
        wait();
        42
    });
}

fn a_handler_in_a_shared_call() {
    handle(|| {
        checked(Side::Function, || {
            // SAFETY: left below, on the same TCB.
            let table = unsafe { gotcha::enter() };
            exhaustive_expire_start();
            // SAFETY: undoes enter.
            unsafe { gotcha::leave(table) };
        });
        wait();
        42
    });
}

fn a_handler_with_a_chain() {
    handle(|| {
        let inner = || {
            checked(Side::Function, || exhaustive_registers_handler());
            41
        };
        launch(inner, u64::MAX).unwrap().completion().unwrap() + 1
    });
}

// ---------------------------------------------------------------------------------- cancellation

fn preempted() -> Linger<'static, u64> {
    let function = || {
        exhaustive_expire();
        wait();
        42
    };
    let linger = launch(function, SHORT_US).unwrap();
    assert!(linger.is_continuation());
    linger
}

fn a_reclaim() {
    let linger = preempted();
    exhaustive_start();
    // SAFETY: the function has shared nothing.
    unsafe { linger.reclaim() };
    exhaustive_end();
}

fn a_drop() {
    let linger = preempted();
    exhaustive_start();
    drop(linger);
    exhaustive_end();
}

// ---------------------------------------------------------------------------------- calls

unsafe fn base<F: Copy>(name: &CStr) -> F {
    const { assert!(size_of::<F>() == size_of::<usize>()) };
    // SAFETY: a C string.
    let function = unsafe { gotcha::libgotcha_base(name.as_ptr()) };
    assert!(!function.is_null());
    // SAFETY: the caller asks for the type of the function of this name.
    unsafe { std::mem::transmute_copy(&function) }
}

/// Through pointers as a program may have stored before interception.
fn a_raw_malloc() {
    // SAFETY: these are their types.
    let (malloc, free): (Malloc, Free) = unsafe { (base(c"malloc"), base(c"free")) };
    in_function(move || allocate(malloc, free), |()| {});
}

/// Into the buffer of the one shared stdout, which the first call allocates.
fn print(call: impl FnOnce() -> c_int + Send) {
    in_function(call, |result| assert!(result > 0));
    let mut text = [0u8; 100];
    // SAFETY: the buffer is as long as said.
    let length = unsafe {
        let file = libc::memfd_create(c"stdout".as_ptr(), 0);
        libc::dup2(file, 1);
        assert_eq!(libc::fflush(stdout), 0);
        libc::pread(1, text.as_mut_ptr().cast(), text.len(), 0)
    };
    assert_eq!(&text[..length as usize], b"42 forty-two\n");
}

fn a_printf() {
    // SAFETY: the format's arguments are as it says.
    print(|| unsafe { libc::printf(c"%d %s\n".as_ptr(), 42, c"forty-two".as_ptr()) });
}

fn a_raw_fputs() {
    type Fputs = unsafe extern "C" fn(*const c_char, *mut libc::FILE) -> c_int;
    // SAFETY: this is its type.
    let fputs: Fputs = unsafe { base(c"fputs") };
    // SAFETY: a C string, and a stream.
    print(move || unsafe { fputs(c"42 forty-two\n".as_ptr(), stdout) });
}

/// A call that fails sets it, whatever happens in between.
fn an_errno() {
    // SAFETY: there is no such descriptor.
    let call = || unsafe { (libc::close(-1), errno(), libc::malloc(usize::MAX), errno()) };
    in_function(call, |results| {
        assert_eq!(results, (-1, libc::EBADF, null_mut(), libc::ENOMEM));
        set_errno(33);
    });
}

fn a_dlsym() {
    // SAFETY: a C string.
    let look_up = || unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"strtol".as_ptr()) }.addr();
    let outside = look_up();
    in_function(look_up, move |inside| assert!(inside != 0 && inside == outside));
}

/// Functions of the library that [`crate::SHARED_LIBRARY`] names.
#[derive(Clone, Copy)]
struct Shared {
    twenty: Twenty,
    doubles: Doubles,
    call: unsafe extern "C" fn(Callback, *mut c_void) -> i64,
    fail: unsafe extern "C" fn(c_int) -> c_int,
}

type Callback = extern "C" fn(*mut c_void) -> i64;
#[rustfmt::skip]
type Twenty = unsafe extern "C" fn(i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64) -> i64;
type Doubles = unsafe extern "C" fn(f64, f64, f64, f64, f64, f64, f64, f64, f64, f64) -> f64;

impl Shared {
    /// Opens the library now: the libsets that are there know nothing of it.
    fn open() -> Shared {
        let path = std::ffi::CString::new(crate::SHARED_LIBRARY).unwrap();
        // SAFETY: C strings; the library does nothing when it is opened.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null(), "{path:?} cannot be opened");
        unsafe fn find<F: Copy>(library: *mut c_void, name: &CStr) -> F {
            const { assert!(size_of::<F>() == size_of::<usize>()) };
            // SAFETY: the library is open; a C string.
            let function = unsafe { libc::dlsym(library, name.as_ptr()) };
            assert!(!function.is_null());
            // SAFETY: the caller asks for the type of the function of this name.
            unsafe { std::mem::transmute_copy(&function) }
        }
        // SAFETY: these are their types: tests/c/shared.h.
        unsafe {
            Shared {
                twenty: find(library, c"shared_twenty"),
                doubles: find(library, c"shared_doubles"),
                call: find(library, c"shared_call"),
                fail: find(library, c"shared_fail"),
            }
        }
    }
}

static IN_CALLBACK: AtomicU32 = AtomicU32::new(0);

/// Code that could be preempted if it were not for its caller.
extern "C" fn callback(argument: *mut c_void) -> i64 {
    IN_CALLBACK.store(1, Relaxed);
    let result = number(c"17") + argument.addr() as i64;
    IN_CALLBACK.store(0, Relaxed);
    result
}

/// The first call on a TCB makes room for calls.
fn shared_calls(shared: Shared) {
    let calls = move || {
        // SAFETY: the functions are of these types.
        unsafe {
            let sum = (shared.twenty)(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20);
            let difference = (shared.doubles)(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0);
            let called = (shared.call)(callback, std::ptr::without_provenance_mut(20));
            let failed = ((shared.fail)(libc::EDOM), errno());
            set_errno(33);
            (sum, difference, called, failed)
        }
    };
    let expected = ((1..=20).map(|n| n << (n - 1)).sum(), -4.0 + 0.9, 38, (-1, libc::EDOM));
    in_function(calls, |results| assert_eq!(results, expected));
}

fn a_shared_call() {
    shared_calls(Shared::open());
}

fn a_setuid() {
    // SAFETY: changes nothing.
    in_function(|| unsafe { libc::setuid(libc::getuid()) }, |result| assert_eq!(result, 0));
}

fn a_getenv() {
    // SAFETY: the variable is there, and nobody changes it.
    let get = || unsafe { CStr::from_ptr(libc::getenv(c"INGER_EXHAUSTIVE".as_ptr())).to_bytes() == b"getenv" };
    in_function(get, |right| assert!(right));
}

fn a_mask() {
    let change = || {
        let before = set_blocked(libc::SIG_BLOCK, libc::SIGUSR2);
        let within = blocked(libc::SIGUSR2);
        (before, within, set_blocked(libc::SIG_UNBLOCK, libc::SIGUSR2))
    };
    in_function(change, |blocked| assert_eq!(blocked, (false, true, true)));
}

fn a_sleep() {
    let sleep = || {
        let start_ns = inger::nsnow();
        // SAFETY: has no preconditions.
        (unsafe { libc::usleep(30) }, inger::nsnow() - start_ns)
    };
    in_function(sleep, |(result, slept_ns)| {
        if result != 0 {
            assert!(is_program_signal() && errno() == libc::EINTR, "interrupted");
            set_errno(33);
        } else {
            assert!(slept_ns >= 30_000);
        }
    });
}

static HANDLED: AtomicUsize = AtomicUsize::new(0);

/// Skips the illegal instruction.
extern "C" fn on_signal(signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    HANDLED.fetch_add(signal as usize, Relaxed);
    // SAFETY: the kernel's frame.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += 2 };
}

/// The same, and launches.
extern "C" fn on_signal_launch(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    assert_eq!(launch(|| 8, u64::MAX).unwrap().completion(), Some(8));
    on_signal(signal, info, context);
}

fn install(handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void), flags: c_int) {
    // SAFETY: the handlers are written for this; every signal is blocked in them.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | flags;
        libc::sigfillset(&mut action.sa_mask);
        assert_eq!(libc::sigaction(libc::SIGILL, &action, null_mut()), 0);
    }
}

/// A signal that needs no thread's number: that of a branch is not the trunk's.
fn fault() -> usize {
    // SAFETY: the handler goes on behind the instruction.
    unsafe { std::arch::asm!("ud2") };
    HANDLED.load(Relaxed)
}

/// The program's handler, installed outside of functions.
fn a_signal() {
    install(on_signal, 0);
    in_function(fault, |handled| assert_eq!(handled, libc::SIGILL as usize));
}

fn a_signal_to_the_function() {
    let install_and_fault = || {
        install(on_signal, 0);
        fault()
    };
    in_function(install_and_fault, |handled| assert_eq!(handled, libc::SIGILL as usize));
}

fn a_signal_on_the_alternate_stack() {
    const SIZE: usize = 64 << 10;
    let memory = Box::leak(Box::new([0_u8; SIZE]));
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIZE };
    // SAFETY: the memory is never freed.
    assert_eq!(unsafe { libc::sigaltstack(&stack, null_mut()) }, 0);
    install(on_signal, libc::SA_ONSTACK);
    in_function(fault, |handled| assert_eq!(handled, libc::SIGILL as usize));
}

fn a_signal_that_launches() {
    install(on_signal_launch, 0);
    in_function(fault, |handled| assert_eq!(handled, libc::SIGILL as usize));
}

fn a_nested_launch() {
    let nested = || launch(|| number(c"56"), u64::MAX).unwrap().completion();
    in_function(nested, |result| assert_eq!(result, Some(56)));
}

/// The inner function's own deadline: the outer one goes on.
fn a_nested_launch_with_a_deadline() {
    let function = || {
        let mut inner = None;
        set_errno(77);
        checked(Side::Function, || {
            exhaustive_start();
            inner = Some(launch(|| number(c"56"), SHORT_US).unwrap());
            exhaustive_end();
        });
        let mut inner = inner.unwrap();
        finish(&mut inner, 1);
        inner.completion()
    };
    let outer = launch(function, u64::MAX).unwrap();
    assert_eq!(outer.completion(), Some(Some(56)));
}

fn a_thread_exit() {
    unsafe extern "C" {
        fn pthread_exit(value: *mut c_void) -> !;
    }
    let function = || -> u64 {
        exhaustive_start();
        // SAFETY: the function's frames own nothing.
        unsafe { pthread_exit(null_mut()) }
    };
    let mut ended = launch(function, SHORT_US);
    exhaustive_end();
    while let Ok(linger) = &mut ended {
        assert!(linger.is_continuation() && !linger.yielded());
        if let Err(error) = resume(linger, u64::MAX) {
            ended = Err(error);
        }
    }
    assert_eq!(ended.unwrap_err(), Error::Ended);
    set_errno(77);
}

fn a_fork() {
    let fork = || {
        // SAFETY: the child makes one system call.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(7);
            }
            child
        }
    };
    in_function(fork, |child| {
        let mut status = 0;
        // SAFETY: `status` is valid for writes.
        let waited = unsafe { libc::waitpid(child, &mut status, 0) };
        // a child that the trunk had before the branch is not the branch's
        assert!(waited == child && libc::WEXITSTATUS(status) == 7 || waited == -1 && errno() == libc::ECHILD);
        set_errno(33);
    });
}

// ---------------------------------------------------------------------------------- controls

static TORN: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

/// Finds a gap of a single instruction, and each one of several.
fn control_torn() {
    let function = || {
        exhaustive_start();
        // SAFETY: two words.
        unsafe { exhaustive_torn(TORN[0].as_ptr(), TORN[1].as_ptr()) };
        exhaustive_end();
        wait();
        42
    };
    let mut linger = launch(function, SHORT_US).unwrap();
    assert_eq!(TORN[0].load(Relaxed), TORN[1].load(Relaxed), "torn");
    finish(&mut linger, 1);
}

/// A critical section that does not make up for what it has put off.
fn control_lost() {
    let broken = || {
        // SAFETY: the state of the function's TCB.
        let defer = unsafe { &raw mut (*gotcha::this()).defer };
        // SAFETY: as before.
        unsafe { defer.write_volatile(1) };
        black_box(1);
        // SAFETY: as before.
        unsafe { defer.write_volatile(0) };
    };
    in_function(broken, |()| {});
}

/// Without the check for code that must not be preempted.
fn control_unguarded() {
    let check = gotcha::libgotcha_is_shared_code as *const () as usize;
    // xor %eax,%eax; ret
    const FALSE: [u8; 3] = [0x31, 0xc0, 0xc3];
    // SAFETY: the function, which nobody is running, gets a new body, no longer than its old one.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        assert_eq!(libc::mprotect((check & !4095) as *mut c_void, 8192, protection), 0);
        std::ptr::copy_nonoverlapping(FALSE.as_ptr(), check as *mut u8, FALSE.len());
    }
    a_raw_fputs();
}

/// Without the counter by which calls of shared libraries put preemption off.
fn control_undeferred() {
    let shared = Shared::open();
    let thunk = launch(move || thunk_of(shared.twenty as *const u8), u64::MAX).unwrap().completion().unwrap();
    // incl %fs:8(%rax) becomes a no-op, decl %fs:8(%rcx) a comparison that finds equality
    let changes: [([u8; 4], [u8; 4]); 2] =
        [([0x64, 0xff, 0x40, 0x08], [0x0f, 0x1f, 0x40, 0x00]), ([0x64, 0xff, 0x49, 0x08], [0x39, 0xc0, 0x66, 0x90])];
    // SAFETY: the code of the thunk, which nobody is running.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        assert_eq!(libc::mprotect((thunk & !4095) as *mut c_void, 8192, protection), 0);
        let code = std::slice::from_raw_parts_mut(thunk as *mut u8, 300);
        for (from, to) in changes {
            let at = code.windows(4).position(|bytes| bytes == from).unwrap();
            code[at..at + 4].copy_from_slice(&to);
        }
    }
    shared_calls(shared);
}

/// Where calls from inside this libset lead, by their trampoline: src/intercept.c in external/libgotcha.
fn thunk_of(trampoline: *const u8) -> usize {
    // SAFETY: trampolines, tables and entries are what that file says.
    unsafe {
        let word = trampoline.add(12).cast::<i32>().read_unaligned() as usize;
        let entry: *const u8 = (*gotcha::this()).table.byte_add(word).read().cast();
        let distance = entry.add(8).cast::<i32>().read_unaligned() as isize;
        entry.offset(12 + distance).cast::<usize>().read_unaligned()
    }
}
