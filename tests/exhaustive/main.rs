//! Exhaustive preemption: at every single instruction of the library's windows in turn, our timer
//! expires and the deadline has passed; results, registers and state are checked each time.
//!
//! Each scenario runs in a process of its own, which is single-stepped from one mark to another (`tracer`).
//! It tests one expiry at a time, not several within one window, except where a scenario's window is
//! what follows an expiry. At the same places, but at fewer of them, signals of the program arrive.
//! An instruction in a loop is interrupted in its first rounds only, and in a debug build, whose code is
//! several times as long, only every so many-th one is; with `INGER_CI` set and without
//! debug assertions all are.

mod marks;
mod scenarios;
mod tracer;

use scenarios::{Expect, Scenario};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tracer::{Event, Options, Outcome};

pub(crate) const SCENARIO_VARIABLE: &str = "INGER_EXHAUSTIVE";

/// Built from tests/c; its name is in the processes' `LIBGOTCHA_SHARED`.
pub(crate) const SHARED_LIBRARY: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/libexhaustive_shared.so");

fn build_shared_library() {
    let output = std::process::Command::new("cc")
        .args(["-std=gnu11", "-O1", "-shared", "-fPIC", "tests/c/shared_library.c", "-o", SHARED_LIBRARY])
        .output()
        .expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(SCENARIO_VARIABLE) {
        scenarios::run(&name);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        scenarios::ALL.iter().for_each(|scenario| println!("{}: test", scenario.name));
        return ExitCode::SUCCESS;
    }
    build_shared_library();
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let queue = Mutex::new(scenarios::ALL.iter().filter(|scenario| wanted(scenario.name)));
    let failed = AtomicBool::new(false);
    let workers = if arguments.iter().any(|argument| argument == "--test-threads=1") { 1 } else { 2 };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some(scenario) = next else { break };
                    if !run_one(scenario) {
                        failed.store(true, Relaxed);
                    }
                }
            });
        }
    });
    if failed.into_inner() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// All that happens, at each instruction.
const THOROUGH: &[(Event, usize)] =
    &[(Event::Expiry, 1), (Event::Program(libc::SIGALRM), 1), (Event::Program(libc::SIGUSR1), 1)];
/// Primes, so that no loop is always met at the same place.
const FAIR: &[(Event, usize)] =
    &[(Event::Expiry, 1), (Event::Program(libc::SIGALRM), 5), (Event::Program(libc::SIGUSR1), 7)];
const QUICK: &[(Event, usize)] =
    &[(Event::Expiry, 7), (Event::Program(libc::SIGALRM), 29), (Event::Program(libc::SIGUSR1), 31)];
const EXPIRY: &[(Event, usize)] = &[(Event::Expiry, 1)];

fn options(scenario: &Scenario) -> Options {
    let events = match () {
        () if !scenario.program_signals => EXPIRY,
        () if cfg!(debug_assertions) => QUICK,
        () if std::env::var_os("INGER_CI").is_some() => THOROUGH,
        () => FAIR,
    };
    let (failures_max, patience) = match scenario.expect {
        Expect::Success => (5, Duration::from_secs(10)),
        Expect::SomeFailure => (1, Duration::from_secs(1)),
        Expect::Failures(count) => (count + 1, Duration::from_secs(10)),
    };
    Options { events, visits_max: 4, failures_max, patience }
}

fn run_one(scenario: &Scenario) -> bool {
    let start = Instant::now();
    let outcome = tracer::run(scenario.name, options(scenario));
    let seconds = start.elapsed().as_secs_f64();
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(cause) => {
            println!("exhaustive {}: FAILED: {cause}", scenario.name);
            return false;
        }
    };
    let found = outcome.failures.len();
    let passed = match scenario.expect {
        Expect::Success => found == 0 && outcome.branches > 0,
        Expect::SomeFailure => found > 0,
        Expect::Failures(count) => found == count,
    };
    let verdict = match (passed, scenario.expect) {
        (true, Expect::Success) => "ok",
        (true, _) => "ok: found, as it should be",
        (false, Expect::Success) => "FAILED",
        (false, _) => "FAILED: the negative control was not found as it should be",
    };
    let Outcome { instructions, branches, .. } = outcome;
    println!(
        "exhaustive {}: {instructions} instructions, {branches} branches, {seconds:.1} s ... {verdict}",
        scenario.name
    );
    if !passed {
        outcome.failures.iter().for_each(|failure| println!("    {failure}"));
    }
    passed
}
