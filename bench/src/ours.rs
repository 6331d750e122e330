//! What is measured of this library, in a worker.

use crate::libraries::{Library, empty_program};
use crate::worker::{Measure, batch, singles};
use inger::{Linger, launch, nsnow, pause, resume};
use sha2::{Digest, Sha512};
use std::ffi::{c_char, c_int, c_void};
use std::fmt::Display;
use std::hint::{black_box, spin_loop};
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Barrier, Mutex};
use std::time::Instant;

/// The measure of that name, if there is one.
pub(crate) fn find(name: &str, parameter: u64, folder: &Path) -> Option<Result<Measure, String>> {
    Some(match name {
        "launch" => Ok(launch_and_complete(parameter)),
        "launch-c" => Ok(launch_from_c()),
        "launch-getppid" => Ok(launch_of_a_system_call()),
        "launch-entry" => Ok(part_of_launch(true)),
        "launch-exit" => Ok(part_of_launch(false)),
        "prepare" => Ok(prepare_and_drop()),
        "resume" => pause_and_resume(),
        "resume-preempted" => resume_of_preempted(),
        "overshoot" => Ok(overshoot(parameter)),
        "reclaim" => cancel(parameter, folder, |linger| {
            // SAFETY: the function has shared nothing.
            unsafe { linger.reclaim() }
        }),
        "drop" => cancel(parameter, folder, drop),
        "call" => call(parameter, || _ = black_box(version())),
        "malloc" => call(parameter, malloc_and_free),
        "snprintf" => call(parameter, || print_to_string(black_box(7))),
        "printf" => print_to_stream(parameter),
        "library" => call_from_library(parameter, folder),
        "creation" => Ok(held(|held| held.creation_ns)),
        "memory" => Ok(held(|held| held.memory_bytes)),
        "turns" => Ok(take_turns()),
        "threads" => Ok(threads(parameter)),
        "sha512" => Ok(sha512(parameter)),
        "first" => Ok(first_launch()),
        "limit" => Ok(Box::new(|_| Ok(vec![inger::concurrency_limit() as f64]))),
        "start" => start_of_program(folder, parameter != 0),
        _ => return None,
    })
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn finish<T: Send>(mut linger: Linger<'_, T>) -> Result<(), String> {
    while linger.is_continuation() {
        resume(&mut linger, u64::MAX).map_err(text)?;
    }
    Ok(())
}

fn reclaim(linger: Linger<'_, ()>) {
    // SAFETY: the functions of this file share nothing with others.
    unsafe { linger.reclaim() };
}

fn pause_for_ever() {
    loop {
        pause();
    }
}

fn spin() {
    loop {
        spin_loop();
    }
}

// ---------------------------------------------------------------------------------- launching

/// What a closure that does nothing carries with it: something that has to be dropped.
pub(crate) struct Captured<'a>(&'a AtomicU64);

impl<'a> Captured<'a> {
    pub(crate) fn new(dropped: &'a AtomicU64) -> Self {
        Captured(dropped)
    }
}

impl Drop for Captured<'_> {
    fn drop(&mut self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }
}

fn launch_and_complete(budget_us: u64) -> Measure {
    let dropped = AtomicU64::new(0);
    batch(move || {
        let captured = Captured::new(&dropped);
        finish(launch(move || drop(black_box(captured)), budget_us).map_err(text)?)
    })
}

fn launch_from_c() -> Measure {
    unsafe extern "C" fn nothing(_argument: *mut c_void) {}
    batch(|| {
        // SAFETY: the function needs no argument.
        let linger = unsafe { inger::ffi::linger_launch(Some(nothing), u64::MAX, null_mut()) };
        if linger.is_complete { Ok(()) } else { Err(text(std::io::Error::from_raw_os_error(linger.error))) }
    })
}

/// For comparison where system calls are counted.
fn launch_of_a_system_call() -> Measure {
    batch(|| {
        // SAFETY: asks for a number.
        let function = || _ = black_box(unsafe { libc::getppid() });
        finish(launch(function, u64::MAX).map_err(text)?)
    })
}

/// To the function's first instructions, or from its last: with one reading of the clock, which is taken off.
fn part_of_launch(is_entry: bool) -> Measure {
    let clock_ns = clock_ns();
    Box::new(move |count| {
        let mut sum_ns = 0;
        for _ in 0..count {
            let start_ns = nsnow();
            let inside_ns = launch(nsnow, u64::MAX).map_err(text)?.completion().ok_or("unfinished")?;
            sum_ns += if is_entry { inside_ns - start_ns } else { nsnow() - inside_ns };
        }
        Ok(vec![sum_ns as f64 / count as f64 - clock_ns])
    })
}

/// What two readings of the clock, one after the other, differ by.
fn clock_ns() -> f64 {
    let mut differences: Vec<u64> = (0..1001)
        .map(|_| {
            let start_ns = nsnow();
            nsnow() - start_ns
        })
        .collect();
    differences.sort_unstable();
    differences[500] as f64
}

fn prepare_and_drop() -> Measure {
    batch(|| launch(spin, 0).map(drop).map_err(text))
}

/// From the call to the result, the first time in a process: once in a worker.
fn first_launch() -> Measure {
    singles(|| {
        let start = Instant::now();
        finish(launch(|| (), u64::MAX).map_err(text)?)?;
        Ok(start.elapsed().as_nanos() as f64)
    })
}

// ---------------------------------------------------------------------------------- stopping and going on

fn pause_and_resume() -> Result<Measure, String> {
    let mut linger = launch(pause_for_ever, u64::MAX).map_err(text)?;
    Ok(batch(move || resume(&mut linger, u64::MAX).map(drop).map_err(text)))
}

/// From the call of `resume` to the next instructions of a function that was preempted.
fn resume_of_preempted() -> Result<Measure, String> {
    static IS_ASKED: AtomicBool = AtomicBool::new(false);
    static SEEN_NS: AtomicU64 = AtomicU64::new(0);
    fn answer() {
        loop {
            if IS_ASKED.load(Relaxed) {
                SEEN_NS.store(nsnow(), Relaxed);
                IS_ASKED.store(false, Relaxed);
                pause();
            }
        }
    }
    let mut linger = launch(answer, 20).map_err(text)?;
    let clock_ns = clock_ns();
    Ok(singles(move || {
        while resume(&mut linger, 20).map_err(text)?.yielded() {}
        IS_ASKED.store(true, Relaxed);
        let start_ns = nsnow();
        resume(&mut linger, u64::MAX).map_err(text)?;
        Ok((SEEN_NS.load(Relaxed) - start_ns) as f64 - clock_ns)
    }))
}

/// How much later than asked for a function that does not end is stopped.
fn overshoot(budget_us: u64) -> Measure {
    singles(move || {
        let start = Instant::now();
        let linger = launch(spin, budget_us).map_err(text)?;
        let elapsed_ns = start.elapsed().as_nanos() as f64;
        reclaim(linger);
        Ok(elapsed_ns - budget_us as f64 * 1e3)
    })
}

/// Of a function that has written to as many pages of the large library's variables, which is loaded if there are any.
fn cancel(pages: u64, folder: &Path, cancel: fn(Linger<'static, ()>)) -> Result<Measure, String> {
    // Before a library's functions are looked up: addresses that were found earlier lead to the original library.
    finish(launch(|| (), u64::MAX).map_err(text)?)?;
    let library = if pages > 0 { Some(Library::open_large(folder)?) } else { None };
    let dirty = library.as_ref().map(|library| library.taking_count("dirty")).transpose()?;
    let is_dirty = library.as_ref().map(|library| library.is_dirty()).transpose()?;
    let clock_ns = clock_ns();
    Ok(singles(move || {
        let function = move || {
            if let Some(dirty) = dirty {
                dirty(pages as c_int);
            }
            pause();
        };
        let linger = launch(function, u64::MAX).map_err(text)?;
        let start_ns = nsnow();
        cancel(linger);
        let elapsed_ns = (nsnow() - start_ns) as f64 - clock_ns;
        if is_dirty.is_none_or(|is_dirty| is_dirty() == 0) {
            Ok(elapsed_ns)
        } else {
            Err("the original library was written to".to_owned())
        }
    }))
}

// ---------------------------------------------------------------------------------- calls

/// Where calls are made; a measure's parameter.
pub(crate) const NEVER_LAUNCHED: u64 = 0;
pub(crate) const OUTSIDE: u64 = 1;
pub(crate) const INSIDE: u64 = 2;

fn call(place: u64, operation: impl Fn() + Copy + Send + Sync + 'static) -> Result<Measure, String> {
    if place != NEVER_LAUNCHED {
        finish(launch(|| (), u64::MAX).map_err(text)?)?;
    }
    let round = move |count: u64| {
        let start = Instant::now();
        (0..count).for_each(|_| operation());
        start.elapsed().as_nanos() as f64 / count as f64
    };
    Ok(Box::new(move |count| {
        if place != INSIDE {
            return Ok(vec![round(count)]);
        }
        let mut linger = launch(|| round(count), u64::MAX).map_err(text)?;
        resume(&mut linger, u64::MAX).map_err(text)?;
        linger.completion().map(|reading| vec![reading]).ok_or("unfinished".to_owned())
    }))
}

/// A function that compilers know nothing of, and which does nothing.
fn version() -> *const c_char {
    // SAFETY: returns a constant string.
    unsafe { libc::gnu_get_libc_version() }
}

fn malloc_and_free() {
    // SAFETY: what was allocated is freed, once.
    unsafe { libc::free(black_box(libc::malloc(black_box(64)))) };
}

fn print_to_string(number: c_int) {
    let mut text = [0 as c_char; 32];
    // SAFETY: the buffer is as long as said; the format takes what is passed.
    unsafe { libc::snprintf(text.as_mut_ptr(), text.len(), c"%d".as_ptr(), number) };
    black_box(text);
}

/// To a stream that the program has opened.
fn print_to_stream(place: u64) -> Result<Measure, String> {
    #[derive(Clone, Copy)]
    struct Stream(*mut libc::FILE);
    // SAFETY: streams have locks.
    unsafe impl Send for Stream {}
    // SAFETY: as above.
    unsafe impl Sync for Stream {}
    impl Stream {
        fn print(self, number: c_int) {
            // SAFETY: the stream stays open; the format takes what is passed.
            unsafe { libc::fprintf(self.0, c"%d\n".as_ptr(), number) };
        }
    }
    // SAFETY: both are strings.
    let stream = Stream(unsafe { libc::fopen(c"/dev/null".as_ptr(), c"w".as_ptr()) });
    if stream.0.is_null() {
        return Err(text(std::io::Error::last_os_error()));
    }
    call(place, move || stream.print(black_box(7)))
}

/// From one library to another, as many in a row as there are in a batch.
fn call_from_library(place: u64, folder: &Path) -> Result<Measure, String> {
    if place != NEVER_LAUNCHED {
        finish(launch(|| (), u64::MAX).map_err(text)?)?;
    }
    const CALLS: c_int = 1000;
    let function = Library::open_small(folder)?.taking_count("call")?;
    let mut measure = call(place, move || function(CALLS))?;
    Ok(Box::new(move |count| {
        let readings = measure(count.div_ceil(CALLS as u64))?;
        Ok(readings.iter().map(|reading| reading / f64::from(CALLS)).collect())
    }))
}

// ---------------------------------------------------------------------------------- many

/// Unfinished functions that a worker holds, and what each of them took.
struct Held {
    functions: Vec<Linger<'static, ()>>,
    creation_ns: f64,
    memory_bytes: f64,
}

static HELD: Mutex<Held> = Mutex::new(Held { functions: Vec::new(), creation_ns: 0.0, memory_bytes: 0.0 });

fn with_held<T>(use_it: impl FnOnce(&mut Held) -> T) -> T {
    use_it(&mut HELD.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Makes a worker hold as many. One more exists, and is free: the process's first, which costs more than the others.
pub(crate) fn hold(count: usize) -> Result<(), String> {
    if count == 0 {
        return Ok(());
    }
    let first = launch(pause_for_ever, u64::MAX).map_err(text)?;
    let mut functions = Vec::with_capacity(count);
    let (before_bytes, start) = (resident_bytes()?, Instant::now());
    for number in 0..count {
        functions.push(launch(pause_for_ever, u64::MAX).map_err(|error| format!("the {}th: {error}", number + 1))?);
    }
    let creation_ns = start.elapsed().as_nanos() as f64 / count as f64;
    let memory_bytes = (resident_bytes()? - before_bytes) / count as f64;
    reclaim(first);
    with_held(|held| *held = Held { functions, creation_ns, memory_bytes });
    Ok(())
}

/// Of pages that several mappings share, each has its part.
fn resident_bytes() -> Result<f64, String> {
    let status = std::fs::read_to_string("/proc/self/smaps_rollup").map_err(text)?;
    let line = status.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim_end_matches("kB").trim().parse::<f64>().ok());
    Ok(kib.ok_or("/proc/self/smaps_rollup: not as expected")? * 1024.0)
}

fn held(field: fn(&Held) -> f64) -> Measure {
    Box::new(move |_| Ok(vec![with_held(|held| field(held))]))
}

/// Pause and resume, each time of another one of those held.
fn take_turns() -> Measure {
    let mut next = 0;
    Box::new(move |count| {
        with_held(|held| {
            let start = Instant::now();
            for _ in 0..count {
                next = if next + 1 < held.functions.len() { next + 1 } else { 0 };
                resume(&mut held.functions[next], u64::MAX).map_err(text)?;
            }
            Ok(vec![start.elapsed().as_nanos() as f64 / count as f64])
        })
    })
}

/// Launch to completion by as many threads at the same time: processor time of each.
fn threads(threads: u64) -> Measure {
    Box::new(move |count| {
        let barrier = Barrier::new(threads as usize);
        let launch_them = || {
            let mut measure = launch_and_complete(u64::MAX);
            let warm_up = measure(count / 8);
            barrier.wait();
            warm_up?;
            let start_ns = processor_ns();
            measure(count)?;
            Ok((processor_ns() - start_ns) / count as f64)
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(launch_them)).collect();
            all.into_iter().map(|one| one.join().map_err(|_| "a thread panicked".to_owned())?).collect()
        })
    })
}

/// Of the calling thread.
fn processor_ns() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes; the clock exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

// ---------------------------------------------------------------------------------- work

/// A quantum that never ends: the work is called plainly.
pub(crate) const PLAINLY: u64 = 0;

/// Processor time for a MiB, hashed in quanta of so many microseconds. The count is in MiB.
fn sha512(quantum_us: u64) -> Measure {
    Box::new(move |count| {
        let hash = || {
            let chunk = [7_u8; 64 << 10];
            let mut hasher = Sha512::new();
            (0..count * 16).for_each(|_| hasher.update(black_box(&chunk)));
            black_box(hasher.finalize()[0]);
        };
        let start_ns = processor_ns();
        if quantum_us == PLAINLY {
            hash();
        } else {
            let mut linger = launch(hash, quantum_us).map_err(text)?;
            while linger.is_continuation() {
                resume(&mut linger, quantum_us).map_err(text)?;
            }
        }
        Ok(vec![(processor_ns() - start_ns) / count as f64])
    })
}

/// From asking for a program to its end.
fn start_of_program(folder: &Path, is_linked: bool) -> Result<Measure, String> {
    let program = empty_program(folder, is_linked)?;
    Ok(singles(move || {
        let start = Instant::now();
        let status = Command::new(&program).stdin(Stdio::null()).status().map_err(text)?;
        let elapsed_ns = start.elapsed().as_nanos() as f64;
        if status.success() { Ok(elapsed_ns) } else { Err(text(status)) }
    }))
}
