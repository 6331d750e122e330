//! The C library's own `regexec`, on a pattern and a text that would keep it busy for minutes: called
//! with a timeout, resumed, overtaken by another call, cancelled.
//!
//! `cargo run --release --example runaway`. Every time that it prints was measured in that run, except
//! for the one that it calls an extrapolation. With the argument `plain` it makes the long call without a
//! timeout, for those who doubt it.

use inger::{Linger, concurrency_limit, launch, resume};
use std::ffi::{CStr, CString, c_int};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

/// Three back-references: the matcher tries every way to divide the text.
const RUNAWAY: &CStr = c"(a*)(a*)(a*)\\1\\2\\3b";
const LETTERS: usize = 120;
const BENIGN: &CStr = c"^([a-z]+)@([a-z]+)\\.(com|org)$";
const ADDRESS: &CStr = c"somebody@example.org";
const BUDGET_US: u64 = 5_000;
const REPEATS: usize = 100;

/// Does the C library find `pattern` in `text`? An error is that of `regcomp` or `regexec`.
fn is_match(pattern: &CStr, text: &CStr) -> Result<bool, c_int> {
    let mut regex = MaybeUninit::uninit();
    // SAFETY: the pattern is a C string, and regcomp initialises the regex if it returns 0.
    let error = unsafe { libc::regcomp(regex.as_mut_ptr(), pattern.as_ptr(), libc::REG_EXTENDED) };
    if error != 0 {
        return Err(error);
    }
    // SAFETY: compiled above, not moved since, and not used after regfree; no matches are asked for.
    let result = unsafe {
        let result = libc::regexec(regex.as_ptr(), text.as_ptr(), 0, std::ptr::null_mut(), 0);
        libc::regfree(regex.as_mut_ptr());
        result
    };
    match result {
        0 => Ok(true),
        libc::REG_NOMATCH => Ok(false),
        error => Err(error),
    }
}

fn letters(count: usize) -> CString {
    CString::new(vec![b'a'; count]).expect("letters are not zeroes")
}

fn timed<T>(action: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = action();
    (result, start.elapsed())
}

fn show(what: &str, time: Duration, outcome: &str) {
    println!("  {what:<44} {time:>12.3?}   {outcome}");
}

fn describe<T: std::fmt::Debug>(linger: &Linger<'_, T>) -> String {
    match linger {
        Linger::Completion(result) => format!("returned {result:?}"),
        Linger::Continuation(_) => "unfinished: a continuation".into(),
        Linger::Poison => "poisoned".into(),
    }
}

/// What the process has allocated and not freed.
fn heap_bytes() -> usize {
    // SAFETY: it only counts.
    unsafe { libc::mallinfo2() }.uordblks
}

/// This kernel thread's processor time, which other programs on the machine do not lengthen.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes; the clock exists, so the call cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Plain calls on short texts, and what they let one expect of the long one: time grows as a power of
/// the length.
fn estimate() -> Duration {
    let mut last = (0.0_f64, 0.0_f64);
    let mut exponent = 1.0;
    for count in [24, 34, 48] {
        let start = processor_time();
        let found = is_match(RUNAWAY, &letters(count));
        let time = processor_time() - start;
        show(&format!("regexec, {count} letters"), time, &format!("{found:?}"));
        let point = ((count as f64).ln(), time.as_secs_f64().ln());
        exponent = (point.1 - last.1) / (point.0 - last.0);
        last = point;
    }
    Duration::from_secs_f64((last.1 + exponent * ((LETTERS as f64).ln() - last.0)).exp())
}

fn print_header(text: &CStr) {
    // SAFETY: returns a string that the C library keeps.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    println!("The pattern {RUNAWAY:?}, searched for by glibc {}'s regexec", version.to_string_lossy());
    println!("in {} times the letter a.", text.count_bytes());
}

/// A runaway, and a benign match while it is unfinished.
fn one_runaway(text: &CStr) -> Result<(), Failure> {
    let heap_before = heap_bytes();
    let (runaway, time) = timed(|| launch(|| is_match(RUNAWAY, text), BUDGET_US));
    let mut runaway = runaway?;
    show(&format!("launch, {} letters, {BUDGET_US} µs", text.count_bytes()), time, &describe(&runaway));
    for _ in 0..3 {
        let (resumed, time) = timed(|| resume(&mut runaway, BUDGET_US).map(|_| ()));
        resumed?;
        show(&format!("resume, {BUDGET_US} µs"), time, &describe(&runaway));
    }
    let (benign, time) = timed(|| launch(|| is_match(BENIGN, ADDRESS), BUDGET_US));
    show("meanwhile: launch, benign (a second libset)", time, &describe(&benign?));
    let (benign, time) = timed(|| launch(|| is_match(BENIGN, ADDRESS), BUDGET_US));
    show("meanwhile: launch, benign", time, &describe(&benign?));
    let (resumed, time) = timed(|| resume(&mut runaway, BUDGET_US).map(|_| ()));
    resumed?;
    show(&format!("resume, {BUDGET_US} µs"), time, &describe(&runaway));
    let ((), time) = timed(|| drop(runaway));
    let leaked_kib = heap_bytes().saturating_sub(heap_before) / 1024;
    show("cancel: drop", time, &format!("its heap, {leaked_kib} KiB, leaks"));
    let (benign, time) = timed(|| launch(|| is_match(BENIGN, ADDRESS), BUDGET_US));
    show("next launch, benign", time, &describe(&benign?));
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Many of them, each followed by a match that has to be right.
fn many_runaways(text: &CStr) -> Result<(), Failure> {
    let budget = Duration::from_millis(1);
    let (mut late, mut cancel, mut benign) = (vec![], vec![], vec![]);
    let mut wrong = 0;
    let start = Instant::now();
    for _ in 0..REPEATS {
        let (runaway, time) = timed(|| launch(|| is_match(RUNAWAY, text), budget.as_micros() as u64));
        let runaway = runaway?;
        wrong += usize::from(!runaway.is_continuation());
        late.push(time.saturating_sub(budget));
        // SAFETY: the function only reads its pattern and text, and has handed out no pointer to its frames.
        let ((), time) = timed(|| unsafe { runaway.reclaim() });
        cancel.push(time);
        let (found, time) = timed(|| launch(|| is_match(BENIGN, ADDRESS), u64::MAX));
        wrong += usize::from(found?.completion() != Some(Ok(true)));
        benign.push(time);
    }
    let mut plain: Vec<_> = (0..REPEATS).map(|_| timed(|| is_match(BENIGN, ADDRESS)).1).collect();
    let median_plain = median(&mut plain);
    println!();
    println!("{REPEATS} times over, in {:.3?}: launch for 1 ms, cancel, launch a benign match", start.elapsed());
    show("runaways came back late by, median", median(&mut late), &format!("at most {:.3?}", late[REPEATS - 1]));
    show("cancel (reclaim), median", median(&mut cancel), &format!("at most {:.3?}", cancel[REPEATS - 1]));
    show("benign match, median", median(&mut benign), &format!("called plainly: {median_plain:.3?}"));
    println!("  wrong answers: {wrong}");
    if wrong == 0 { Ok(()) } else { Err("a launch gave a wrong answer".into()) }
}

fn main() -> Result<(), Failure> {
    let start = Instant::now();
    let text = letters(LETTERS);
    print_header(&text);
    if std::env::args().nth(1).as_deref() == Some("plain") {
        let (found, time) = timed(|| is_match(RUNAWAY, &text));
        show(&format!("regexec, {LETTERS} letters"), time, &format!("{found:?}"));
        return Ok(());
    }
    println!();
    println!("Called plainly, on shorter texts (processor time):");
    let expected = estimate();
    println!("  so {LETTERS} letters would take, by extrapolation, about {:.0} seconds", expected.as_secs_f64());
    println!();
    println!("Called with a timeout, on this kernel thread:");
    let (started, time) = timed(|| launch(|| (), u64::MAX));
    let _ = started?;
    show("first launch (starts the library)", time, &format!("up to {} functions at a time", concurrency_limit()));
    one_runaway(&text)?;
    many_runaways(&text)?;
    println!();
    println!("All of this took {:.3?}.", start.elapsed());
    Ok(())
}
