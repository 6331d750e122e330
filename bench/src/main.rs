//! Measures inger beside what else a program could use, by turns in the same run; prints a table, and writes
//! `report.html` with plots.

mod libraries;
mod ours;
mod parts;
mod peers;
mod plan;
mod plots;
mod report;
mod worker;

use clap::{Parser, Subcommand};
use inger_bench::machine::Machine;
use inger_bench::stats::Readings;
use plan::{How, Row, Section};
use report::{Measured, Report};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use worker::{Setup, Worker};

/// Measures inger beside its peers, and prints a table.
///
/// Everything is measured by turns, in rounds, in processes of its own; what is told is the median, and what counts is
/// the ratio. LIBGOTCHA_LOADER and the library's other variables are handed on.
#[derive(Parser)]
#[command(name = "inger-bench")]
struct Arguments {
    /// Fewer rounds: half a minute instead of one or two, and less to be relied on.
    #[arg(long)]
    quick: bool,
    /// Only sections that have this in their name: launch, switch, preempted, overshoot, cancel, calls, libsets,
    /// threads, libraries, throughput, start, system-calls.
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Where report.html and the plots go.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR")))]
    out: PathBuf,
    #[command(subcommand)]
    part: Option<Part>,
}

/// This program, run by itself.
#[derive(Subcommand)]
enum Part {
    /// Answers requests.
    #[command(hide = true)]
    Worker {
        #[command(flatten)]
        setup: Setup,
        #[arg(long)]
        folder: PathBuf,
    },
    /// Does one thing many times.
    #[command(hide = true)]
    Repeat {
        #[arg(long)]
        folder: PathBuf,
        name: String,
        parameter: u64,
        count: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.part {
        Some(Part::Worker { setup, folder }) => {
            worker::serve(setup, folder);
            Ok(())
        }
        Some(Part::Repeat { folder, name, parameter, count }) => worker::repeat(name, *parameter, *count, folder),
        None => run(&arguments),
    };
    if let Err(cause) = result {
        eprintln!("inger-bench: {cause}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Set when the user wants it to end: the temporary folder has to go first.
static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_signal: libc::c_int) {
    IS_INTERRUPTED.store(true, Relaxed);
}

fn run(arguments: &Arguments) -> Result<(), String> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does nothing but store to an atomic.
        unsafe { libc::signal(signal, interrupt as *const () as libc::sighandler_t) };
    }
    let pattern = arguments.only.as_deref().unwrap_or("");
    let sections: Vec<Section> = plan::sections().into_iter().filter(|one| one.name.contains(pattern)).collect();
    if sections.is_empty() {
        return Err(format!("no section has {pattern} in its name"));
    }
    std::fs::create_dir_all(&arguments.out).map_err(|error| format!("{}: {error}", arguments.out.display()))?;
    let folder = tempfile::Builder::new()
        .prefix("inger-bench-")
        .tempdir()
        .map_err(|error| format!("a temporary folder: {error}"))?;
    let mut machine = Machine::look(arguments.quick, Some(&limit(folder.path())));
    let mut measured = Vec::new();
    for section in sections {
        measured.push(measure(section, arguments.quick, folder.path()));
        if IS_INTERRUPTED.load(Relaxed) {
            return Err("interrupted".to_owned());
        }
    }
    machine.look_again();
    let report = Report { machine, measured };
    println!("{}", report.table());
    report.write(&arguments.out)?;
    println!("written: {}", arguments.out.join("report.html").display());
    Ok(())
}

/// How many functions there can be at a time, by default.
fn limit(folder: &Path) -> String {
    let limit = Worker::start(&Setup::default(), folder).and_then(|mut worker| worker.measure(("limit", 0), 1));
    limit.map_or_else(|cause| format!("({cause})"), |limit| limit.iter().map(f64::to_string).collect())
}

// ---------------------------------------------------------------------------------- one section

/// A row, and what there is of it so far.
struct Line {
    row: Row,
    /// Its worker, among those of the section.
    worker: usize,
    /// What each round asks for.
    count: u64,
    readings: Result<Vec<f64>, String>,
}

fn measure(section: Section, is_quick: bool, folder: &Path) -> Measured {
    let Section { name, title, note, rounds, is_distribution, rows } = section;
    let rounds = if is_quick { rounds.div_ceil(6) } else { rounds };
    let mut setups: Vec<Setup> = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let known = setups.iter().position(|setup| *setup == row.setup);
        let worker = known.unwrap_or_else(|| {
            setups.push(row.setup.clone());
            setups.len() - 1
        });
        lines.push(Line { row, worker, count: 1, readings: Ok(Vec::new()) });
    }
    let mut workers: Vec<Place> = setups.iter().map(|_| Place::default()).collect();
    for round in 0..rounds {
        for line in &mut lines {
            progress(name, &format!("round {} of {rounds}: {}", round + 1, line.row.label.trim()));
            line.go_on(&mut workers[line.worker], folder);
        }
    }
    progress(name, "done");
    let rows = lines.into_iter().map(|line| {
        let readings = line.readings.and_then(|readings| Readings::new(readings).ok_or("no readings".to_owned()));
        (line.row, readings)
    });
    Measured { name, title, note, is_distribution, rows: rows.collect() }
}

impl Line {
    /// Takes the readings of one round, unless something went wrong before.
    fn go_on(&mut self, worker: &mut Place, folder: &Path) {
        let Ok(readings) = &mut self.readings else { return };
        if IS_INTERRUPTED.load(Relaxed) {
            return;
        }
        match next(&self.row, &mut self.count, worker, folder) {
            Ok(more) => readings.extend(more),
            Err(cause) => self.readings = Err(cause),
        }
    }
}

/// Where a worker is, once it is needed; or why it cannot be started.
#[derive(Default)]
struct Place(Option<Result<Worker, String>>);

impl Place {
    fn measure(&mut self, row: &Row, count: u64, folder: &Path) -> Result<Vec<f64>, String> {
        let worker = self.0.get_or_insert_with(|| Worker::start(&row.setup, folder));
        let worker = worker.as_mut().map_err(|cause| cause.clone())?;
        let result = worker.measure(row.what, count);
        if worker.is_dead() {
            // Other rows need another one.
            self.0 = None;
        }
        result
    }
}

/// How long a batch is to take: so short that most are not interrupted.
const BATCH_NS: f64 = 500_000.0;

fn next(row: &Row, count: &mut u64, worker: &mut Place, folder: &Path) -> Result<Vec<f64>, String> {
    match row.how {
        How::Fresh => Worker::start(&row.setup, folder)?.measure(row.what, 1),
        How::SystemCalls(count) => Ok(vec![worker::count_system_calls(row.what, count, folder)? as f64]),
        How::Each(count) => worker.measure(row, count, folder),
        How::Batch => {
            if *count == 1 {
                *count = calibrate(|count| worker.measure(row, count, folder))?;
            }
            // Another process has had the caches meanwhile.
            worker.measure(row, count.div_ceil(8), folder)?;
            worker.measure(row, *count, folder)
        }
    }
}

/// How many operations make a batch.
fn calibrate(mut measure: impl FnMut(u64) -> Result<Vec<f64>, String>) -> Result<u64, String> {
    let mut count = 1;
    loop {
        let ns = measure(count)?.first().copied().unwrap_or(BATCH_NS).max(0.1);
        let enough = (BATCH_NS / ns).ceil();
        if enough <= 2.0 * count as f64 {
            return Ok((enough as u64).max(1));
        }
        // The first ones are slower than those to come.
        count = (count * 50).min(enough as u64);
    }
}

/// On standard error: one line, which is written again and again if that is a terminal.
fn progress(section: &str, what: &str) {
    let mut errors = std::io::stderr();
    let is_terminal = errors.is_terminal();
    if is_terminal {
        let end = if what == "done" { "\n" } else { "" };
        let _ = write!(errors, "\r\x1b[K{section}: {what}{end}");
    } else if what == "done" {
        let _ = writeln!(errors, "{section}: {what}");
    }
}
