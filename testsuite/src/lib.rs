//! libtestinger.so: preloaded into a dynamically linked program, it runs the program's `main` inside a preemptible
//! function, to completion or in slices. The program is to notice nothing.
//!
//! What it does is set by the environment, which children inherit: so it holds for all that a program starts. See
//! `testinger --help`.

use inger::{Error, Linger, launch, resume, set_stack_size};
use libc::{c_char, c_int, c_void};
use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

/// What `main` is; the C library passes it the environment too.
type Main = unsafe extern "C-unwind" fn(c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;
type Hook = Option<unsafe extern "C" fn()>;
type StartMain = unsafe extern "C" fn(Main, c_int, *mut *mut c_char, Hook, Hook, Hook, *mut c_void) -> c_int;

/// What the environment says, and the program's `main`.
struct Plan {
    main: Main,
    /// `u64::MAX`: no limit.
    slice_us: u64,
    is_verbose: bool,
}

static PLAN: OnceLock<Plan> = OnceLock::new();

static SLICES: AtomicU64 = AtomicU64::new(0);
static PREEMPTIONS: AtomicU64 = AtomicU64::new(0);

// ---------------------------------------------------------------------------------- start

/// Takes the place of the C library's, which programs call first of all: hands it another `main`.
///
/// # Safety
///
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_start_main(
    main: Main,
    argc: c_int,
    argv: *mut *mut c_char,
    init: Hook,
    fini: Hook,
    rtld_fini: Hook,
    stack_end: *mut c_void,
) -> c_int {
    // Programs that were linked before 2.34 bring their constructors' caller, and mean the old version of it.
    let version = if init.is_some() { c"GLIBC_2.2.5" } else { c"GLIBC_2.34" };
    // SAFETY: both are strings.
    let next = unsafe { libc::dlvsym(libc::RTLD_NEXT, c"__libc_start_main".as_ptr(), version.as_ptr()) };
    if next.is_null() {
        say("the C library has no __libc_start_main");
        // SAFETY: nothing has been started.
        unsafe { libc::_exit(127) }
    }
    PLAN.get_or_init(|| Plan { main, slice_us: slice_us(), is_verbose: is_verbose() });
    // SAFETY: the C library's function of this name has this type; the arguments are the caller's.
    unsafe {
        let next: StartMain = std::mem::transmute(next);
        next(run_main, argc, argv, init, fini, rtld_fini, stack_end)
    }
}

fn variable(name: &CStr) -> Option<&'static str> {
    // SAFETY: a string; no other thread runs yet that could change the environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: not null, and a string of the environment's.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }).and_then(|value| value.to_str().ok())
}

fn slice_us() -> u64 {
    match variable(c"TESTINGER_SLICE_US") {
        None | Some("" | "0") => u64::MAX,
        Some(text) => text.parse().unwrap_or_else(|_| {
            say(&format!("TESTINGER_SLICE_US={text} ignored: not a number of microseconds"));
            u64::MAX
        }),
    }
}

fn is_verbose() -> bool {
    variable(c"TESTINGER_VERBOSE").is_some_and(|value| !matches!(value, "" | "0"))
}

// ---------------------------------------------------------------------------------- main

/// What the program's `main` is called with, and what it has returned.
struct Call {
    argc: c_int,
    argv: *mut *mut c_char,
    environment: *mut *mut c_char,
    mask: libc::sigset_t,
}

// SAFETY: the kernel thread stays the same, and the pointers are the process's arguments.
unsafe impl Send for Call {}

unsafe extern "C-unwind" fn run_main(argc: c_int, argv: *mut *mut c_char, environment: *mut *mut c_char) -> c_int {
    let plan = PLAN.get().expect("set before the C library calls this");
    if plan.is_verbose {
        open_reports();
        // SAFETY: registers a function, which comes after those that the program will register.
        unsafe { libc::atexit(report) };
    }
    set_stack_size(stack_size());
    // Between slices a signal that main has blocked must not be delivered either, and those that it has not are to find
    // it where they would.
    let mask = block_all_signals();
    let call = Call { argc, argv, environment, mask };
    let body = move || {
        let call = call;
        set_mask(&call.mask);
        // SAFETY: the program's main, called as it would be.
        unsafe { (plan.main)(call.argc, call.argv, call.environment) }
    };
    SLICES.fetch_add(1, Relaxed);
    match launch(body, plan.slice_us) {
        Ok(linger) => {
            let status = finish(linger, plan.slice_us, &mask);
            set_mask(&mask);
            status
        }
        Err(Error::Ended) => end_thread(&mask),
        Err(error) => {
            set_mask(&mask);
            if plan.is_verbose {
                say(&format!("runs plainly: {error}"));
            }
            // SAFETY: the program's main, called as it would be.
            unsafe { (plan.main)(argc, argv, environment) }
        }
    }
}

fn block_all_signals() -> libc::sigset_t {
    // SAFETY: zero is a valid value of what the calls fill.
    unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        before
    }
}

/// As the program's own call, which this library's are not: inger knows what the program has blocked, then.
fn set_mask(mask: &libc::sigset_t) {
    // SAFETY: the mask is one.
    unsafe { gotcha::libgotcha_change_mask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}

fn finish(mut linger: Linger<'_, c_int>, slice_us: u64, mask: &libc::sigset_t) -> c_int {
    while linger.is_continuation() {
        PREEMPTIONS.fetch_add(u64::from(!linger.yielded()), Relaxed);
        SLICES.fetch_add(1, Relaxed);
        match resume(&mut linger, slice_us) {
            Ok(_) => {}
            Err(Error::Ended) => end_thread(mask),
            Err(error) => {
                say(&format!("cannot go on: {error}"));
                // SAFETY: ends the process.
                unsafe { libc::abort() }
            }
        }
    }
    linger.completion().expect("a function that is not unfinished has completed")
}

/// What pthread_exit() does to a program's main thread: it unwinds to where the thread began.
fn end_thread(mask: &libc::sigset_t) -> ! {
    unsafe extern "C-unwind" {
        fn pthread_exit(result: *mut c_void) -> !;
    }
    set_mask(mask);
    // SAFETY: nothing of ours is on the stack that would have to be destroyed.
    unsafe { pthread_exit(std::ptr::null_mut()) }
}

/// As much as main() would have.
fn stack_size() -> usize {
    const LEAST: u64 = 8 << 20;
    const MOST: u64 = 1 << 30;
    // SAFETY: zero is a valid value, and what getrlimit() writes to.
    let limit = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_STACK, &mut limit) == 0 { limit.rlim_cur } else { LEAST }
    };
    limit.clamp(LEAST, MOST) as usize
}

// ---------------------------------------------------------------------------------- what is said

/// Where reports go: a duplicate of standard error, which programs close before they end, out of the way of descriptors that
/// they know.
static REPORTS: AtomicI32 = AtomicI32::new(libc::STDERR_FILENO);
/// Or the file that TESTINGER_VERBOSE names, which is opened when there is something to write.
static REPORT_FILE: OnceLock<CString> = OnceLock::new();

fn open_reports() {
    const OUT_OF_THE_WAY: c_int = 200;
    if let Some(path) = variable(c"TESTINGER_VERBOSE").filter(|value| value.starts_with('/')) {
        REPORT_FILE.get_or_init(|| CString::new(path).expect("it has come from a C string"));
        return;
    }
    // SAFETY: makes a descriptor.
    let duplicate = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, OUT_OF_THE_WAY) };
    if duplicate >= 0 {
        REPORTS.store(duplicate, Relaxed);
    }
}

extern "C" fn report() {
    let (slices, preemptions) = (SLICES.load(Relaxed), PREEMPTIONS.load(Relaxed));
    say(&format!("{slices} slices, {preemptions} preemptions"));
}

/// One line on what was standard error at first, past its stream, or in the file.
fn say(what: &str) {
    let mut line = String::new();
    // SAFETY: reads the process's number.
    let _ = writeln!(line, "testinger {}: {what}", unsafe { libc::getpid() });
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
    // SAFETY: a path, and the mode that goes with O_CREAT; the line is that long; the descriptor was opened here.
    unsafe {
        let opened = REPORT_FILE.get().map(|path| libc::open(path.as_ptr(), flags, 0o666));
        libc::write(opened.unwrap_or(REPORTS.load(Relaxed)), line.as_ptr().cast(), line.len());
        if let Some(file) = opened {
            libc::close(file);
        }
    }
}
