//! What is measured, what it is measured against, and what is hoped for.

use crate::libraries::LARGE_PAGES;
use crate::ours::{INSIDE, NEVER_LAUNCHED, OUTSIDE, PLAINLY};
use crate::worker::{Setup, What, Which};
use inger_bench::units::Unit;

/// How readings are taken.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// In each round, of as many in a row as fill half a millisecond.
    Batch,
    /// In each round, asking for so many.
    Each(u64),
    /// In each round, in a process of its own.
    Fresh,
    /// Once: how many system calls so many make.
    SystemCalls(u64),
}

/// What the median is to be at most.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    Most(f64),
    /// So much more than the row that it is compared with.
    More(f64),
    /// So many times the row that it is compared with.
    Times(f64),
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) setup: Setup,
    pub(crate) what: What,
    pub(crate) how: How,
    pub(crate) unit: Unit,
    /// The row of its section that its ratio is to.
    pub(crate) base: usize,
    pub(crate) goal: Option<Goal>,
    /// Where it is in a plot.
    pub(crate) x: f64,
}

/// Rows that are measured by turns.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) note: &'static str,
    pub(crate) rounds: usize,
    /// Percentiles are the point, not the median.
    pub(crate) is_distribution: bool,
    pub(crate) rows: Vec<Row>,
}

impl Section {
    fn new(name: &'static str, title: &'static str, note: &'static str) -> Self {
        Section { name, title, note, rounds: 60, is_distribution: false, rows: Vec::new() }
    }

    fn rounds(self, rounds: usize) -> Self {
        Section { rounds, ..self }
    }

    fn row(mut self, label: impl Into<String>, setup: &Setup, what: What, how: How) -> Self {
        let (label, setup) = (label.into(), setup.clone());
        self.rows.push(Row { label, setup, what, how, unit: Unit::Ns, base: 0, goal: None, x: 0.0 });
        self
    }

    /// The last row's.
    fn with(mut self, change: impl FnOnce(&mut Row)) -> Self {
        if let Some(row) = self.rows.last_mut() {
            change(row);
        }
        self
    }

    fn goal(self, goal: Goal) -> Self {
        self.with(|row| row.goal = Some(goal))
    }

    fn base(self, base: usize) -> Self {
        self.with(|row| row.base = base)
    }

    fn unit(self, unit: Unit) -> Self {
        self.with(|row| row.unit = unit)
    }

    fn x(self, x: u64) -> Self {
        self.with(|row| row.x = x as f64)
    }
}

/// Long enough that no function of these runs into it.
const NO_LIMIT: u64 = u64::MAX;

pub(crate) fn sections() -> Vec<Section> {
    vec![
        launch(),
        switch(),
        preempted(),
        parts(),
        overshoot(),
        cancel(),
        calls(),
        libsets(),
        threads(),
        libraries(),
        throughput(),
        start(),
        system_calls(),
    ]
}

fn ours() -> Setup {
    Setup::default()
}

fn peer() -> Setup {
    Setup { which: Which::Peer, ..Setup::default() }
}

fn clone_engine() -> Setup {
    Setup { is_clone: true, ..Setup::default() }
}

fn duration(us: u64) -> String {
    if us < 1000 { format!("{us} µs") } else { format!("{} ms", us / 1000) }
}

fn launch() -> Section {
    let mut section = Section::new(
        "launch",
        "Launching a function that does nothing, until it has returned",
        "The function is a closure with a capture that has a destructor. Peers run the same closure, or an empty C function.",
    )
    .row("launch, no limit", &ours(), ("launch", NO_LIMIT), How::Batch)
    .goal(Goal::Most(60.0));
    for us in [5, 10, 20, 50, 100, 1_000, 10_000] {
        section = section.row(format!("launch, {}", duration(us)), &ours(), ("launch", us), How::Batch);
    }
    section
        .row("linger_launch, from C, no limit", &ours(), ("launch-c", 0), How::Batch)
        .row("from the call to the function", &ours(), ("launch-entry", 0), How::Each(1_000))
        .row("from the function's return to the caller", &ours(), ("launch-exit", 0), How::Each(1_000))
        .row("launch of 0 µs, and drop: it never runs", &ours(), ("prepare", 0), How::Batch)
        .row("a plain call", &peer(), ("plain-call", 0), How::Batch)
        .row("corosensei: a coroutine, its stack reused", &peer(), ("corosensei-run", 0), How::Batch)
        .row("wasmtime: a call with epoch interruption", &peer(), ("wasmtime-call", 0), How::Batch)
        .row("a job for a parked thread", &peer(), ("parked-thread", 0), How::Batch)
        .row("pthread_create and pthread_join", &peer(), ("pthread", 0), How::Batch)
        .row("tokio: spawn_blocking with timeout", &peer(), ("tokio", 0), How::Batch)
        .row("vfork, _exit and waitpid", &peer(), ("vfork", 0), How::Batch)
        .row("fork, _exit and waitpid", &peer(), ("fork", 0), How::Batch)
}

fn switch() -> Section {
    Section::new("switch", "Into a paused function and back out of it", "")
        .row("resume, to the next pause", &ours(), ("resume", 0), How::Batch)
        .goal(Goal::Most(70.0))
        .row("corosensei: resume, to the next suspend", &peer(), ("corosensei-switch", 0), How::Batch)
        .row("swapcontext, there and back", &peer(), ("swapcontext", 0), How::Batch)
        .row("a job for a parked thread", &peer(), ("parked-thread", 0), How::Batch)
}

fn preempted() -> Section {
    Section::new(
        "preempted",
        "Letting a preempted function go on: until it runs",
        "Single readings, less what reading the clock takes.",
    )
    .row("resume of a preempted function", &ours(), ("resume-preempted", 0), How::Each(50))
    .goal(Goal::Most(250.0))
    .row("waking a parked thread", &peer(), ("wake", 0), How::Each(50))
}

fn parts() -> Section {
    Section::new(
        "parts",
        "What the machine charges for what these consist of",
        "Measured in a process that never launches. A launch and a resume contain one of the switches, which contains the two lines \
         above it; with a limit, one reading of the clock; to arm, to wait for the signal and the switches are what a time-out \
         consists of, but for what is made up for by arming early.",
    )
    .row("setting the thread pointer, twice", &peer(), ("thread-pointer", 0), How::Batch)
    .row("storing mxcsr and the x87 control word, twice", &peer(), ("control-words", 0), How::Batch)
    .row("a switch, there and back by the function's end", &peer(), ("enter", 0), How::Batch)
    .row("a switch, there and back by leaving", &peer(), ("reenter", 0), How::Batch)
    .row("reading the clock", &peer(), ("clock", 0), How::Batch)
    .row("arming a timer", &peer(), ("arm", 0), How::Each(20))
    .row("how late its signal is, after 1 ms", &peer(), ("alarm", 1_000), How::Each(5))
    .row("how late its signal is, after 100 µs", &peer(), ("alarm", 100), How::Each(5))
}

fn overshoot() -> Section {
    let mut section = Section::new(
        "overshoot",
        "How late a time-out is",
        "A loop without end is launched; the reading is by how much more than the budget the call takes. The peers \
         create and end what runs the loop. tokio's function goes on after its time-out.",
    );
    section.is_distribution = true;
    for us in [1_000, 5, 10, 20, 50, 100, 10_000] {
        // The longest are asked for less often: they take most of the time.
        let count = if us <= 100 { 150 } else { 25 };
        section = section.row(format!("launch, {}", duration(us)), &ours(), ("overshoot", us), How::Each(count)).x(us);
        if us == 1_000 {
            section = section.goal(Goal::Most(10_000.0));
        }
    }
    for (label, name) in [
        ("a thread, sleep, pthread_cancel, join", "pthread-overshoot"),
        ("a process, sleep, kill, waitpid", "process-overshoot"),
        ("tokio: spawn_blocking with timeout", "tokio-overshoot"),
        ("wasmtime: epoch, raised by a thread that sleeps", "wasmtime-overshoot"),
    ] {
        section = section.row(format!("{label}, 1 ms"), &peer(), (name, 1_000), How::Each(25));
    }
    section.rounds(40)
}

fn cancel() -> Section {
    let bare = Setup { bare: true, ..ours() };
    let large = Setup { which: Which::Large, ..ours() };
    let section = Section::new(
        "cancel",
        "Cancelling",
        "Of functions that are paused. Pages written are those of one more library, which has 4 MiB of variables.",
    )
    .row("reclaim", &ours(), ("reclaim", 0), How::Each(50))
    .goal(Goal::Most(10_000.0))
    .row("reclaim, neither libstdc++ nor libm", &bare, ("reclaim", 0), How::Each(50));
    let mut section = section.goal(Goal::Most(4_000.0));
    for pages in [1, 16, 64, 256, LARGE_PAGES as u64] {
        section = section.row(format!("reclaim, pages written: {pages}"), &large, ("reclaim", pages), How::Each(50));
    }
    section
        // Each one leaks, so that there cannot be very many.
        .row("drop", &ours(), ("drop", 0), How::Each(20))
        .row("pthread_cancel and pthread_join", &peer(), ("pthread-cancel", 0), How::Each(5))
        .row("kill and waitpid", &peer(), ("kill", 0), How::Each(5))
}

fn calls() -> Section {
    let mut section = Section::new(
        "calls",
        "Calls of the C library",
        "Before a process launches anything, later on (when calls of the program are intercepted), and inside a function.",
    );
    for (label, name, goal) in [
        ("one that does nothing", "call", Some(Goal::More(1.2))),
        ("malloc and free", "malloc", Some(Goal::More(2.0))),
        ("snprintf", "snprintf", None),
        ("fprintf, to a stream opened outside", "printf", None),
        ("the first one, from another library", "library", None),
    ] {
        let base = section.rows.len();
        section = section
            .row(format!("{label}: never launched"), &peer(), (name, NEVER_LAUNCHED), How::Batch)
            .base(base)
            .row("  outside", &ours(), (name, OUTSIDE), How::Batch)
            .base(base)
            .with(|row| row.goal = goal)
            .row("  inside a function", &ours(), (name, INSIDE), How::Batch)
            .base(base)
            .with(|row| row.goal = goal);
    }
    section
}

/// Numbers of libsets; the plot has a point for each.
const LIBSETS: [u64; 8] = [1, 10, 100, 300, 1_000, 2_000, 3_000, 5_000];

fn libsets() -> Section {
    let mut section = Section::new(
        "libsets",
        "Many functions at a time",
        "With so many paused functions, each with its libset; LIBGOTCHA_LOADER=clone.",
    );
    for (label, name, how, unit) in [
        ("launch of one more", "launch", How::Batch, Unit::Ns),
        ("resume to the next pause, by turns", "turns", How::Each(5_000), Unit::Ns),
        ("making one, with its function", "creation", How::Each(1), Unit::Ns),
        ("resident memory of one", "memory", How::Each(1), Unit::Bytes),
    ] {
        let base = section.rows.len();
        for count in LIBSETS {
            let setup = Setup { held: count as usize, ..clone_engine() };
            let parameter = if name == "launch" { NO_LIMIT } else { 0 };
            section = section.row(format!("{label}: {count}"), &setup, (name, parameter), how);
            section = section.base(base).unit(unit).x(count);
            if count == 1_000 && name == "launch" {
                section = section.goal(Goal::Times(1.2));
            }
        }
    }
    section.rounds(20)
}

fn threads() -> Section {
    let mut section = Section::new(
        "threads",
        "Launching by many threads at the same time",
        "Processor time of each thread for a launch to completion; LIBGOTCHA_LOADER=clone.",
    );
    for count in [1, 2, 4, 8, 16, 32, 64] {
        section = section.row(format!("threads: {count}"), &clone_engine(), ("threads", count), How::Each(2_000));
        if count == 64 {
            section = section.goal(Goal::Times(1.2));
        }
    }
    section.rounds(20)
}

fn libraries() -> Section {
    let mut section = Section::new(
        "libraries",
        "Many libraries",
        "Loaded besides libc, libm, libstdc++ and libgcc_s, each with 16 KiB of variables.",
    );
    for (label, name, how) in [
        ("launch, no limit", "launch", How::Batch),
        ("reclaim", "reclaim", How::Each(20)),
        ("the first launch of a process", "first", How::Fresh),
    ] {
        let base = section.rows.len();
        for count in [0, 5, 20, 50, 100] {
            let setup = Setup { libraries: count, ..ours() };
            let parameter = if name == "launch" { NO_LIMIT } else { 0 };
            section = section.row(format!("{label}, {count} more"), &setup, (name, parameter), how).base(base);
        }
    }
    section.rounds(15)
}

fn throughput() -> Section {
    let mut section = Section::new(
        "throughput",
        "What preemption costs those who compute",
        "Processor time for a MiB of SHA-512, in functions that are resumed each time as soon as they are preempted.",
    )
    .row("called plainly", &peer(), ("sha512", PLAINLY), How::Each(32));
    for us in [20, 50, 100, 200, 500, 1_000, 10_000] {
        section = section.row(format!("quanta of {}", duration(us)), &ours(), ("sha512", us), How::Each(32)).x(us);
    }
    section.rounds(20)
}

fn start() -> Section {
    Section::new(
        "start",
        "The start of a program that never launches",
        "An empty C program, from asking for it to its end.",
    )
    .row("not linked with libinger.so", &peer(), ("start", 0), How::Each(10))
    .row("linked with libinger.so", &peer(), ("start", 1), How::Each(10))
    .goal(Goal::More(300_000.0))
}

fn system_calls() -> Section {
    const COUNT: u64 = 100_000;
    let mut section = Section::new(
        "system-calls",
        "System calls, in 100,000 of each",
        "Counted by strace, after the first thousand. The last line shows that it counts.",
    )
    .rounds(1);
    for (label, what) in [
        ("launch and complete, no limit", ("launch", NO_LIMIT)),
        ("launch and complete, 10 s", ("launch", 10_000_000)),
        ("resume, to the next pause", ("resume", 0)),
        ("launch of a function that calls getppid", ("launch-getppid", 0)),
    ] {
        section = section.row(label, &ours(), what, How::SystemCalls(COUNT)).unit(Unit::Calls);
        if what.0 != "launch-getppid" {
            section = section.goal(Goal::Most(0.0));
        }
    }
    section
}
