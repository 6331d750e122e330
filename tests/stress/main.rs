//! Twelve kinds of code are preempted every 20 to 50 µs, moving between two kernel threads at almost every
//! stop. Their results must be those of an undisturbed run, and their launchers must not notice.
//!
//! The default run is short. The long one, which continuous integration makes:
//!
//! ```text
//! INGER_STRESS_SECONDS=20 INGER_STRESS_PREEMPTIONS=200000 cargo test --release --test stress
//! ```
//!
//! runs for at least that time, and until each kind was preempted that often. It ends with a table, on
//! standard error.

mod faults;
mod kernels;
mod kinds;

use faults::{CONTROLS, Control};
use inger::{Linger, launch, resume};
use kernels::Modes;
use kinds::{Channel, KINDS, Kind, kernel_mask};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Unfinished functions at one time: less than the libsets that a process can have.
const FUNCTIONS: usize = 8;
const LAUNCHERS: usize = 2;
/// Set by a launcher before each switch: must be there afterwards.
const LAUNCHER_ERRNO: i32 = 1234;

/// The tests of this file use all libsets and all processors: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

// ---------------------------------------------------------------------------------- jobs

/// One place for a function; functions of all kinds follow each other in it.
struct Job {
    index: usize,
    kind: Kind,
    function: Option<Linger<'static, u64>>,
    last_launcher: usize,
}

/// The functions that are not running, by the launcher that is to take them next.
struct Exchange {
    queues: [Mutex<VecDeque<Job>>; LAUNCHERS],
    /// Jobs that are not over.
    open: AtomicUsize,
}

impl Exchange {
    /// Takes only what it was given: or on a busy machine one launcher would do everything.
    fn take(&self, launcher: usize) -> Option<Job> {
        self.queues[launcher].lock().unwrap().pop_front()
    }

    fn give(&self, launcher: usize, job: Job) {
        self.queues[launcher].lock().unwrap().push_back(job);
    }
}

// ---------------------------------------------------------------------------------- a run

#[derive(Default)]
struct Tally {
    preemptions: AtomicU64,
    migrations: AtomicU64,
    completions: AtomicU64,
}

struct Goal {
    time: Duration,
    preemptions: u64,
    /// End at the first failure.
    once: bool,
    /// A run that gets nowhere for this long is stuck.
    patience: Duration,
}

struct Run {
    goal: Goal,
    start: Instant,
    kinds: Vec<Kind>,
    references: [u64; KINDS],
    channels: &'static [Channel],
    exchange: Exchange,
    tallies: [Tally; KINDS],
    failures: Mutex<Vec<String>>,
    failed: AtomicBool,
}

/// xorshift64: the slices must differ, not be random.
struct Sequence(u64);

impl Sequence {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

impl Run {
    /// Context: no function was launched yet by these channels; nothing runs beside it.
    fn new(kinds: Vec<Kind>, goal: Goal) -> Run {
        let channels: Vec<Channel> = (0..FUNCTIONS).map(|_| Channel::new()).collect();
        let channels: &'static [Channel] = channels.leak();
        let jobs = (0..FUNCTIONS).map(|index| Job { index, kind: Kind::Registers, function: None, last_launcher: 0 });
        Run {
            goal,
            start: Instant::now(),
            references: undisturbed(&kinds, &channels[0]),
            kinds,
            channels,
            exchange: Exchange {
                queues: [Mutex::new(jobs.collect()), Mutex::new(VecDeque::new())],
                open: AtomicUsize::new(FUNCTIONS),
            },
            tallies: std::array::from_fn(|_| Tally::default()),
            failures: Mutex::new(Vec::new()),
            failed: AtomicBool::new(false),
        }
    }

    fn fail(&self, failure: String) {
        self.failed.store(true, Relaxed);
        let mut failures = self.failures.lock().unwrap();
        if failures.len() < 20 {
            failures.push(failure);
        }
    }

    fn preemptions(&self, kind: Kind) -> u64 {
        self.tallies[kind as usize].preemptions.load(Relaxed)
    }

    fn is_over(&self) -> bool {
        let reached = |kind: &Kind| self.preemptions(*kind) >= self.goal.preemptions;
        self.failed.load(Relaxed) && self.goal.once
            || self.start.elapsed() >= self.goal.time && self.kinds.iter().all(reached)
    }

    /// Half the time what was preempted least, so that every kind gets on; else any, so that they mix.
    fn next_kind(&self, sequence: &mut Sequence) -> Kind {
        let least = self.kinds.iter().copied().min_by_key(|kind| self.preemptions(*kind));
        match least {
            Some(kind) if sequence.next(2) == 0 => kind,
            _ => self.kinds[sequence.next(self.kinds.len() as u64) as usize],
        }
    }

    fn launch_all(&self) {
        thread::scope(|scope| {
            scope.spawn(|| self.feed());
            scope.spawn(|| self.watch());
            for launcher in 0..LAUNCHERS {
                scope.spawn(move || Launcher::new(self, launcher).run());
            }
        });
    }

    /// Gives readers their bytes, late enough for them to block.
    fn feed(&self) {
        while self.exchange.open.load(Relaxed) > 0 {
            thread::sleep(Duration::from_micros(50));
            self.channels.iter().for_each(Channel::feed);
        }
    }

    /// A run that is stuck ends here, with what it has come to.
    fn watch(&self) {
        let progress = || self.tallies.iter().map(|tally| tally.preemptions.load(Relaxed)).sum::<u64>();
        let (mut seen, mut since) = (progress(), Instant::now());
        while self.exchange.open.load(Relaxed) > 0 {
            thread::sleep(Duration::from_millis(20));
            let now = progress();
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > self.goal.patience {
                let _ = writeln!(Console, "FAILED stuck");
                self.report();
                // SAFETY: ends the process, without the exit handlers, which might wait too.
                unsafe { libc::_exit(1) };
            }
        }
    }

    /// Allocates nothing: the run may be stuck for the sake of the allocator.
    fn report(&self) {
        let seconds = self.start.elapsed().as_secs_f64();
        let _ = write!(
            Console,
            "\n{:28}{:>12}{:>12}{:>10}{:>12}\n",
            "kind", "preemptions", "migrations", "results", "per second"
        );
        for kind in &self.kinds {
            let tally = &self.tallies[*kind as usize];
            let preemptions = tally.preemptions.load(Relaxed);
            let (migrations, results) = (tally.migrations.load(Relaxed), tally.completions.load(Relaxed));
            let rate = preemptions as f64 / seconds;
            let _ = writeln!(Console, "{:28}{preemptions:>12}{migrations:>12}{results:>10}{rate:>12.0}", kind.name());
        }
        let _ = writeln!(Console, "{seconds:.1} s, {LAUNCHERS} launchers");
        for failure in self.failures.try_lock().iter().flat_map(|failures| failures.iter()) {
            let _ = writeln!(Console, "FAILED {failure}");
        }
    }
}

/// Standard error, past the test harness, which keeps what passing tests print to itself.
struct Console;

impl std::fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        std::io::stderr().write_all(text.as_bytes()).map_err(|_| std::fmt::Error)
    }
}

/// The kinds that this processor can run.
fn available_kinds() -> Vec<Kind> {
    let mut kinds = Kind::ALL.to_vec();
    if !std::is_x86_feature_detected!("avx2") {
        let _ = writeln!(Console, "skipped: ymm registers, which need AVX2");
        assert!(std::env::var_os("INGER_CI").is_none(), "skipped a kind");
        kinds.retain(|kind| *kind != Kind::Vectors);
    }
    kinds
}

/// The results without preemption.
fn undisturbed(kinds: &[Kind], channel: &Channel) -> [u64; KINDS] {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                thread::sleep(Duration::from_micros(50));
                channel.feed();
            }
        });
        // On a thread of its own: a function's thread-locals are fresh.
        let run = |kind: Kind| scope.spawn(move || kind.run(channel)).join().unwrap();
        let mut references = [0; KINDS];
        for kind in kinds {
            references[*kind as usize] = run(*kind);
            assert_eq!(references[*kind as usize], run(*kind), "{}: not deterministic", kind.name());
        }
        done.store(true, Relaxed);
        references
    })
}

// ---------------------------------------------------------------------------------- launchers

struct Launcher<'a> {
    run: &'a Run,
    number: usize,
    modes: Modes,
    mask: u64,
    sequence: Sequence,
}

impl<'a> Launcher<'a> {
    /// Launchers differ in all that a function might carry from one to the other.
    fn new(run: &'a Run, number: usize) -> Self {
        let (modes, blocked) = [(Modes::DOWN, libc::SIGUSR1), (Modes::UP, libc::SIGWINCH)][number];
        // SAFETY: the set is valid, and initialised before it is read.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, blocked);
            assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()), 0);
        }
        Launcher { run, number, modes, mask: kernel_mask(), sequence: Sequence(88172645463325252 + number as u64) }
    }

    fn run(mut self) {
        while self.run.exchange.open.load(Relaxed) > 0 {
            match self.run.exchange.take(self.number) {
                Some(job) => self.step(job),
                None => thread::yield_now(),
            }
        }
    }

    /// Lets a function go on for a slice, and passes it on.
    fn step(&mut self, mut job: Job) {
        if job.function.is_none() {
            if self.run.is_over() {
                self.run.exchange.open.fetch_sub(1, Relaxed);
                return;
            }
            job.kind = self.run.next_kind(&mut self.sequence);
        }
        let budget_us = 20 + self.sequence.next(31);
        let (kind, channel) = (job.kind, &self.run.channels[job.index]);
        let tally = &self.run.tallies[kind as usize];
        let stopped = match job.function.take() {
            None => self.undamaged(kind, || launch(move || kind.run(channel), budget_us)),
            Some(mut function) => {
                tally.migrations.fetch_add((job.last_launcher != self.number).into(), Relaxed);
                self.undamaged(kind, || resume(&mut function, budget_us).map(drop)).map(|()| function)
            }
        };
        match stopped {
            Ok(Linger::Completion(result)) => {
                tally.completions.fetch_add(1, Relaxed);
                self.check(kind, result);
            }
            Ok(function) if function.is_continuation() && !function.yielded() => {
                tally.preemptions.fetch_add(1, Relaxed);
                job.function = Some(function);
            }
            other => self.run.fail(format!("{}: {other:?}", kind.name())),
        }
        job.last_launcher = self.number;
        // Mostly to the other launcher; going on where one has stopped is to be seen too.
        let next = if self.sequence.next(8) == 0 { self.number } else { (self.number + 1) % LAUNCHERS };
        self.run.exchange.give(next, job);
    }

    fn check(&self, kind: Kind, result: u64) {
        let expected = self.run.references[kind as usize];
        if result != expected {
            self.run.fail(format!("{}: result {result:#018x}, undisturbed {expected:#018x}", kind.name()));
        }
    }

    /// Carries out a switch: this kernel thread's modes, errno and signal mask are then as they were.
    fn undamaged<R>(&self, kind: Kind, switch: impl FnOnce() -> R) -> R {
        // SAFETY: the address is that of this thread's errno. Nothing here, nor in the library or the functions,
        // does floating-point arithmetic but in modes of its own.
        let (result, errno, modes) = unsafe {
            *libc::__errno_location() = LAUNCHER_ERRNO;
            self.modes.set();
            let result = switch();
            let modes = Modes::current();
            Modes::DEFAULT.set();
            (result, *libc::__errno_location(), modes)
        };
        let mask = kernel_mask();
        if errno != LAUNCHER_ERRNO {
            self.run.fail(format!("launcher's errno: {errno}, after {}", kind.name()));
        }
        if modes != self.modes {
            self.run.fail(format!("launcher's modes: {modes:x?}, had {:x?}, after {}", self.modes, kind.name()));
        }
        if mask != self.mask {
            self.run.fail(format!("launcher's mask: {mask:#x}, had {:#x}, after {}", self.mask, kind.name()));
        }
        result
    }
}

// ---------------------------------------------------------------------------------- tests

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")),
        Err(_) => default,
    }
}

#[test]
fn every_kind_of_code_is_preempted_unharmed() {
    let _alone = alone();
    kinds::store_allocator();
    let goal = Goal {
        time: Duration::from_secs(setting("INGER_STRESS_SECONDS", 3)),
        preemptions: setting("INGER_STRESS_PREEMPTIONS", 5_000),
        once: false,
        patience: Duration::from_secs(60),
    };
    let run = Run::new(available_kinds(), goal);
    run.launch_all();
    run.report();
    for kind in &run.kinds {
        let tally = &run.tallies[*kind as usize];
        let (preemptions, migrations) = (tally.preemptions.load(Relaxed), tally.migrations.load(Relaxed));
        assert!(migrations >= preemptions / 2, "{}: {migrations} migrations", kind.name());
    }
    assert!(!run.failed.load(Relaxed), "see the report above");
}

/// The number of the control, in the child.
const FAULT: &str = "INGER_STRESS_FAULT";
/// A fault shows within milliseconds, and a child notices if it is stuck.
const CONTROL_LIMIT: Duration = Duration::from_secs(60);

#[test]
fn each_protection_is_needed() {
    if let Ok(index) = std::env::var(FAULT) {
        return run_without_protection(&CONTROLS[index.parse::<usize>().unwrap()]);
    }
    let _alone = alone();
    let mut unnoticed = String::new();
    for (index, control) in CONTROLS.iter().enumerate() {
        let (status, report) = run_child(index);
        let reported =
            |line: &str| line.starts_with("FAILED") && control.reports.iter().any(|part| line.contains(part));
        let noticed = match status.code() {
            Some(code) => code != 0 && report.lines().any(reported),
            None => control.may_crash,
        };
        if !noticed {
            let _ = writeln!(unnoticed, "{:?} with {:?}: {status}\n{report}", control.fault, control.kinds);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed}");
}

fn run_child(index: usize) -> (ExitStatus, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "each_protection_is_needed", "--nocapture"])
        .env(FAULT, index.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < CONTROL_LIMIT, "{:?}: the child hangs", CONTROLS[index].fault);
        thread::sleep(Duration::from_millis(5));
    };
    // The report fits into the pipe.
    (status, String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr).into_owned())
}

/// In the child.
fn run_without_protection(control: &Control) {
    kinds::store_allocator();
    let mut kinds = available_kinds();
    kinds.retain(|kind| control.kinds.is_empty() || control.kinds.contains(kind));
    let goal = Goal { time: Duration::from_secs(5), preemptions: 0, once: true, patience: Duration::from_secs(3) };
    let run = Run::new(kinds, goal);
    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
    faults::inject(control.fault);
    run.launch_all();
    run.report();
    assert!(!run.failed.load(Relaxed), "see the report above");
}
