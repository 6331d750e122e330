//! What else a program could do; measured in workers that never launch, so that nothing of ours is in its way.

use crate::ours::Captured;
use crate::worker::{Measure, batch, singles};
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};
use std::ffi::{c_int, c_void};
use std::hint::{black_box, spin_loop};
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

/// The measure of that name, if there is one.
pub(crate) fn find(name: &str, parameter: u64) -> Option<Result<Measure, String>> {
    let budget = Duration::from_micros(parameter);
    Some(match name {
        "plain-call" => Ok(plain_call()),
        "fork" => Ok(batch(|| wait_for(fork(|| ())?))),
        "vfork" => Ok(vfork()),
        "pthread" => Ok(batch(|| join(create(return_at_once)?))),
        "parked-thread" => {
            let mut hand_over = parked_thread();
            Ok(batch(move || {
                hand_over();
                Ok(())
            }))
        }
        "wake" => {
            let mut hand_over = parked_thread();
            Ok(singles(move || Ok(hand_over())))
        }
        "tokio" => tokio_spawn_blocking(),
        "corosensei-run" => corosensei_run(),
        "corosensei-switch" => Ok(corosensei_switch()),
        "swapcontext" => swapcontext(),
        "pthread-cancel" => Ok(cancel_thread()),
        "kill" => Ok(kill_process()),
        "pthread-overshoot" => Ok(overshoot(budget, move || time_out_thread(budget))),
        "process-overshoot" => Ok(overshoot(budget, move || time_out_process(budget))),
        "tokio-overshoot" => tokio_overshoot(budget),
        #[cfg(feature = "wasmtime")]
        "wasmtime-call" => wasm::call(),
        #[cfg(feature = "wasmtime")]
        "wasmtime-overshoot" => wasm::overshoot(budget),
        #[cfg(not(feature = "wasmtime"))]
        "wasmtime-call" | "wasmtime-overshoot" => Err("built without the feature wasmtime".to_owned()),
        _ => return None,
    })
}

fn check(result: c_int) -> Result<(), String> {
    if result == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(result).to_string()) }
}

/// By how much `operation`, which is to take as long as `budget`, takes longer.
fn overshoot(budget: Duration, mut operation: impl FnMut() -> Result<(), String> + 'static) -> Measure {
    singles(move || {
        let start = Instant::now();
        operation()?;
        Ok(start.elapsed().as_nanos() as f64 - budget.as_nanos() as f64)
    })
}

fn plain_call() -> Measure {
    #[inline(never)]
    fn call<T>(function: impl FnOnce() -> T) -> T {
        function()
    }
    let dropped = AtomicU64::new(0);
    batch(move || {
        let captured = Captured::new(&dropped);
        call(move || drop(black_box(captured)));
        Ok(())
    })
}

// ---------------------------------------------------------------------------------- processes

/// A child process that calls `function` and ends.
fn fork(function: impl FnOnce()) -> Result<libc::pid_t, String> {
    // SAFETY: the process has one thread, or the child makes system calls only.
    match unsafe { libc::fork() } {
        0 => {
            function();
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        -1 => Err(std::io::Error::last_os_error().to_string()),
        pid => Ok(pid),
    }
}

fn wait_for(pid: libc::pid_t) -> Result<(), String> {
    // SAFETY: the child is ours, and its status is not asked for.
    let waited = unsafe { libc::waitpid(pid, null_mut(), 0) };
    if waited == pid { Ok(()) } else { Err(std::io::Error::last_os_error().to_string()) }
}

fn kill(pid: libc::pid_t) {
    // SAFETY: the child is ours, and was not waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// What vfork is, on a stack of its own: a function that returns twice is not for Rust.
fn vfork() -> Measure {
    extern "C" fn exit_at_once(_argument: *mut c_void) -> c_int {
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) }
    }
    let mut stack = vec![0_u128; 4096];
    batch(move || {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the child runs on `stack`, which nobody uses meanwhile, and touches nothing else.
        match unsafe { libc::clone(exit_at_once, stack.as_mut_ptr_range().end.cast(), flags, null_mut()) } {
            -1 => Err(std::io::Error::last_os_error().to_string()),
            pid => wait_for(pid),
        }
    })
}

fn wait_for_ever() {
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

fn spin() {
    loop {
        spin_loop();
    }
}

/// The end of a process that waits.
fn kill_process() -> Measure {
    singles(|| {
        let pid = fork(wait_for_ever)?;
        thread::sleep(Duration::from_millis(1));
        let start = Instant::now();
        kill(pid);
        wait_for(pid)?;
        Ok(start.elapsed().as_nanos() as f64)
    })
}

fn time_out_process(budget: Duration) -> Result<(), String> {
    let pid = fork(spin)?;
    thread::sleep(budget);
    kill(pid);
    wait_for(pid)
}

// ---------------------------------------------------------------------------------- threads

type ThreadFunction = extern "C-unwind" fn(*mut c_void) -> *mut c_void;

extern "C-unwind" fn return_at_once(argument: *mut c_void) -> *mut c_void {
    argument
}

fn create(function: ThreadFunction) -> Result<libc::pthread_t, String> {
    // SAFETY: the types differ in that cancelling may unwind the frames of this one, which own nothing.
    let function: extern "C" fn(*mut c_void) -> *mut c_void = unsafe { std::mem::transmute(function) };
    let mut thread = 0;
    // SAFETY: `thread` is valid for writes; the functions of this file need no argument.
    check(unsafe { libc::pthread_create(&mut thread, null(), function, null_mut()) })?;
    Ok(thread)
}

fn join(thread: libc::pthread_t) -> Result<(), String> {
    // SAFETY: the thread was created by `create`, and is joined once.
    check(unsafe { libc::pthread_join(thread, null_mut()) })
}

unsafe extern "C" {
    fn pthread_setcanceltype(new: c_int, old: *mut c_int) -> c_int;
}
const PTHREAD_CANCEL_ASYNCHRONOUS: c_int = 1;

/// A loop that can be cancelled anywhere.
extern "C-unwind" fn spin_cancellably(_argument: *mut c_void) -> *mut c_void {
    let mut old = 0;
    // SAFETY: nothing in this thread minds being cancelled.
    unsafe { pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &mut old) };
    loop {
        spin_loop();
    }
}

/// The end of a thread that runs: pthread_cancel and pthread_join.
fn cancel_thread() -> Measure {
    singles(|| {
        let thread = create(spin_cancellably)?;
        thread::sleep(Duration::from_millis(1));
        let start = Instant::now();
        // SAFETY: the thread was not joined.
        check(unsafe { libc::pthread_cancel(thread) })?;
        join(thread)?;
        Ok(start.elapsed().as_nanos() as f64)
    })
}

fn time_out_thread(budget: Duration) -> Result<(), String> {
    let thread = create(spin_cancellably)?;
    thread::sleep(budget);
    // SAFETY: the thread was not joined.
    check(unsafe { libc::pthread_cancel(thread) })?;
    join(thread)
}

/// A thread that waits for jobs. The returned function hands it one, waits until that is done, and returns how many
/// ns passed until it began.
fn parked_thread() -> impl FnMut() -> f64 {
    let shared = Arc::new((AtomicBool::new(false), AtomicU64::new(0)));
    let (origin, asker) = (Instant::now(), thread::current());
    let since_origin_ns = move || origin.elapsed().as_nanos() as u64;
    let its_own = shared.clone();
    let worker = thread::spawn(move || {
        let (has_job, began_ns) = &*its_own;
        loop {
            while !has_job.load(Acquire) {
                thread::park();
            }
            began_ns.store(since_origin_ns(), Relaxed);
            has_job.store(false, Release);
            asker.unpark();
        }
    });
    move || {
        let (has_job, began_ns) = &*shared;
        let start_ns = since_origin_ns();
        has_job.store(true, Release);
        worker.thread().unpark();
        while has_job.load(Acquire) {
            thread::park();
        }
        (began_ns.load(Relaxed) - start_ns) as f64
    }
}

// ---------------------------------------------------------------------------------- tokio

fn tokio_runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(|error| error.to_string())
}

/// A function that returns in time.
fn tokio_spawn_blocking() -> Result<Measure, String> {
    let runtime = tokio_runtime()?;
    let dropped: &'static AtomicU64 = Box::leak(Box::default());
    Ok(batch(move || {
        let captured = Captured::new(dropped);
        let result = runtime.block_on(async move {
            let job = tokio::task::spawn_blocking(move || drop(black_box(captured)));
            tokio::time::timeout(Duration::from_secs(10), job).await
        });
        result.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }))
}

/// The caller gets its time-out, but the function goes on: here it is told to end afterwards.
fn tokio_overshoot(budget: Duration) -> Result<Measure, String> {
    let runtime = tokio_runtime()?;
    Ok(singles(move || {
        let is_over = Arc::new(AtomicBool::new(false));
        let its_own = is_over.clone();
        let start = Instant::now();
        let result = runtime.block_on(async move {
            let job = tokio::task::spawn_blocking(move || {
                while !its_own.load(Relaxed) {
                    spin_loop();
                }
            });
            tokio::time::timeout(budget, job).await
        });
        let elapsed_ns = start.elapsed().as_nanos() as f64;
        is_over.store(true, Relaxed);
        if result.is_ok() { Err("the function ended".to_owned()) } else { Ok(elapsed_ns - budget.as_nanos() as f64) }
    }))
}

// ---------------------------------------------------------------------------------- coroutines: nobody stops them

/// Made on a stack that was used before, run, and over.
fn corosensei_run() -> Result<Measure, String> {
    let dropped: &'static AtomicU64 = Box::leak(Box::default());
    let mut idle = Some(DefaultStack::default());
    Ok(batch(move || {
        let captured = Captured::new(dropped);
        let stack = idle.take().ok_or("it has yielded")?;
        let mut coroutine: Coroutine<(), (), ()> = Coroutine::with_stack(stack, move |_, ()| drop(black_box(captured)));
        if let CoroutineResult::Return(()) = coroutine.resume(()) {
            idle = Some(coroutine.into_stack());
        }
        Ok(())
    }))
}

/// There and back.
fn corosensei_switch() -> Measure {
    let mut coroutine: Coroutine<(), (), ()> = Coroutine::new(|yielder, ()| {
        loop {
            yielder.suspend(());
        }
    });
    batch(move || match coroutine.resume(()) {
        CoroutineResult::Yield(()) => Ok(()),
        CoroutineResult::Return(()) => Err("it returned".to_owned()),
    })
}

/// There and back; each way contains a system call.
fn swapcontext() -> Result<Measure, String> {
    struct Contexts {
        outside: MaybeUninit<libc::ucontext_t>,
        inside: MaybeUninit<libc::ucontext_t>,
        stack: Vec<u128>,
    }
    static CONTEXTS: AtomicPtr<Contexts> = AtomicPtr::new(null_mut());
    extern "C" fn switch_back() {
        loop {
            // SAFETY: set before this runs; swapcontext below has filled `outside`.
            unsafe {
                let contexts = CONTEXTS.load(Relaxed);
                libc::swapcontext((*contexts).inside.as_mut_ptr(), (*contexts).outside.as_ptr());
            }
        }
    }
    let contexts = Box::leak(Box::new(Contexts {
        outside: MaybeUninit::zeroed(),
        inside: MaybeUninit::zeroed(),
        stack: vec![0; 8192],
    }));
    // SAFETY: the context is filled by getcontext, and its stack is nobody else's.
    unsafe {
        let inside = contexts.inside.as_mut_ptr();
        if libc::getcontext(inside) != 0 {
            return Err(std::io::Error::last_os_error().to_string());
        }
        (*inside).uc_stack.ss_sp = contexts.stack.as_mut_ptr().cast();
        (*inside).uc_stack.ss_size = size_of_val(contexts.stack.as_slice());
        libc::makecontext(inside, switch_back, 0);
    }
    CONTEXTS.store(contexts, Relaxed);
    Ok(batch(|| {
        let contexts = CONTEXTS.load(Relaxed);
        // SAFETY: both are contexts, one of them this thread's own.
        unsafe { libc::swapcontext((*contexts).outside.as_mut_ptr(), (*contexts).inside.as_ptr()) };
        Ok(())
    }))
}

// ---------------------------------------------------------------------------------- WebAssembly

/// Code that was compiled for being stopped: it looks at a counter in each loop and function.
#[cfg(feature = "wasmtime")]
mod wasm {
    use super::*;
    use wasmtime::{Config, Engine, Instance, Module, Store, Trap, TypedFunc};

    /// `(module (func (export "nop")) (func (export "spin") (loop (br 0))))`
    const MODULE: &[u8] = b"\0asm\x01\0\0\0\
        \x01\x04\x01\x60\0\0\
        \x03\x03\x02\0\0\
        \x07\x0e\x02\x03nop\0\0\x04spin\0\x01\
        \x0a\x0c\x02\x02\0\x0b\x07\0\x03\x40\x0c\0\x0b\x0b";

    fn text(error: wasmtime::Error) -> String {
        format!("{error:#}")
    }

    type Instance = (Engine, Store<()>, TypedFunc<(), ()>);

    fn instance(function: &str) -> Result<Instance, String> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        let engine = Engine::new(&config).map_err(text)?;
        let module = Module::new(&engine, MODULE).map_err(text)?;
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1);
        let instance = Instance::new(&mut store, &module, &[]).map_err(text)?;
        let function = instance.get_typed_func(&mut store, function).map_err(text)?;
        Ok((engine, store, function))
    }

    pub(super) fn call() -> Result<Measure, String> {
        let (_engine, mut store, function) = instance("nop")?;
        Ok(batch(move || {
            store.set_epoch_deadline(1);
            function.call(&mut store, ()).map_err(text)
        }))
    }

    /// Stopped by a thread that is told of each call, and sleeps until its end: no tick, which would be coarser.
    pub(super) fn overshoot(budget: Duration) -> Result<Measure, String> {
        let (engine, mut store, function) = instance("spin")?;
        let (start_watching, is_watching) = std::sync::mpsc::channel::<Instant>();
        thread::spawn(move || {
            for deadline in is_watching {
                thread::sleep(deadline.saturating_duration_since(Instant::now()));
                engine.increment_epoch();
            }
        });
        Ok(super::overshoot(budget, move || {
            store.set_epoch_deadline(1);
            start_watching.send(Instant::now() + budget).map_err(|error| error.to_string())?;
            match function.call(&mut store, ()) {
                Err(error) if error.downcast_ref() == Some(&Trap::Interrupt) => Ok(()),
                Err(error) => Err(text(error)),
                Ok(()) => Err("it returned".to_owned()),
            }
        }))
    }
}
