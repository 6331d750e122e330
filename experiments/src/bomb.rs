//! A decompression bomb: images are decoded by libpng, and get 10 ms. One is as they should be. The other is a file of
//! some 100 KB that becomes 400 MB.
//!
//! Ways to enforce the limit take turns, each in a process of its own, with "nothing", which does not.

use crate::Options;
use crate::report::{Report, end_progress, progress};
use clap::{Args, ValueEnum};
use inger_bench::chart::{Series, Text, draw_lines, ns};
use inger_bench::machine::Machine;
use inger_bench::page::Table;
use inger_bench::stats::Readings;
use inger_bench::units::{Unit, show};
use plotters::prelude::*;
use std::ffi::{c_int, c_uint, c_void};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

const LIMIT_MS: u64 = 10;
/// The size of the file that the paper's measurement decoded.
const BENIGN_BYTES: f64 = 332e3;
const BENIGN_NOISE: c_uint = 32;
const BOMB_SIDE: c_uint = 10_000;

// ---------------------------------------------------------------------------------- decoding

/// bomb.c has the other half.
#[repr(C)]
struct Job {
    file: *const c_void,
    file_bytes: usize,
    pixels: *mut u8,
    is_done: c_int,
}
// SAFETY: the file outlives it, and it is used by one thread at a time.
unsafe impl Send for Job {}

unsafe extern "C" {
    fn bomb_pixels_bytes(file: *const c_void, file_bytes: usize) -> usize;
    fn bomb_decode(job: *mut Job);
    safe fn bomb_decode_cancellably(job: *mut c_void) -> *mut c_void;
    fn bomb_make_image(side: c_uint, noise: c_uint, file: *mut *mut c_void) -> usize;
    fn pthread_clockjoin_np(
        thread: libc::pthread_t,
        result: *mut *mut c_void,
        clock: libc::clockid_t,
        end: *const libc::timespec,
    ) -> c_int;
}

impl Job {
    fn new(file: &[u8]) -> Self {
        Job { file: file.as_ptr().cast(), file_bytes: file.len(), pixels: null_mut(), is_done: 0 }
    }

    fn decode(&mut self) {
        // SAFETY: a job of new()'s, whose file is still there.
        unsafe { bomb_decode(self) };
    }

    /// After decode().
    fn finish(self) -> bool {
        // SAFETY: bomb_decode() has allocated them, or they are null.
        unsafe { libc::free(self.pixels.cast()) };
        self.is_done != 0
    }
}

/// What enforces the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Means {
    Nothing,
    Thread,
    Fork,
    Launch,
}

/// How a decoding went.
struct Outcome {
    is_done: bool,
    /// When the caller could go on, with the decoding over...
    stopped: Duration,
    /// ...and with nothing left to tidy up.
    tidied: Duration,
}

impl Means {
    fn label(self) -> &'static str {
        match self {
            Means::Nothing => "nothing",
            Means::Thread => "thread, pthread_cancel",
            Means::Fork => "fork, SIGKILL",
            Means::Launch => "launch, reclaim",
        }
    }

    fn decode(self, file: &[u8], limit: Duration) -> Result<Outcome, String> {
        match self {
            Means::Nothing => Ok(plainly(file)),
            Means::Thread => by_thread(file, limit),
            Means::Fork => by_fork(file, limit),
            Means::Launch => by_launch(file, limit),
        }
    }
}

fn plainly(file: &[u8]) -> Outcome {
    let begin = Instant::now();
    let mut job = Job::new(file);
    job.decode();
    let is_done = job.finish();
    let time = begin.elapsed();
    Outcome { is_done, stopped: time, tidied: time }
}

fn failed(what: &str, errno: c_int) -> String {
    format!("{what}: {}", std::io::Error::from_raw_os_error(errno))
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec { tv_sec: time.as_secs() as libc::time_t, tv_nsec: time.subsec_nanos().into() }
}

/// Not a thread of Rust's, which must not be cancelled. What it has allocated is lost then.
fn by_thread(file: &[u8], limit: Duration) -> Result<Outcome, String> {
    extern "C" fn body(job: *mut c_void) -> *mut c_void {
        bomb_decode_cancellably(job)
    }
    let begin = Instant::now();
    let mut job = Job::new(file);
    let mut thread = 0;
    // SAFETY: the job outlives the thread, which is joined below.
    let errno = unsafe { libc::pthread_create(&mut thread, null(), body, (&raw mut job).cast()) };
    if errno != 0 {
        return Err(failed("pthread_create", errno));
    }
    let mut end = timespec(Duration::ZERO);
    // SAFETY: `end` is valid for writes; the thread is joined once.
    let is_joined = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut end);
        end = timespec(Duration::new(end.tv_sec as u64, end.tv_nsec as u32) + limit);
        pthread_clockjoin_np(thread, null_mut(), libc::CLOCK_MONOTONIC, &end) == 0
    };
    if is_joined {
        let is_done = job.finish();
        let time = begin.elapsed();
        return Ok(Outcome { is_done, stopped: time, tidied: time });
    }
    // SAFETY: as above.
    unsafe {
        libc::pthread_cancel(thread);
        libc::pthread_join(thread, null_mut());
    }
    let time = begin.elapsed();
    Ok(Outcome { is_done: false, stopped: time, tidied: time })
}

/// The pixels are in memory that both processes have.
fn by_fork(file: &[u8], limit: Duration) -> Result<Outcome, String> {
    let errno = || std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let begin = Instant::now();
    let mut job = Job::new(file);
    // SAFETY: the child of a process with one thread; it and the memory are ours.
    unsafe {
        let size_bytes = bomb_pixels_bytes(job.file, job.file_bytes);
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let pixels = libc::mmap(null_mut(), size_bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if pixels == libc::MAP_FAILED {
            return Err(failed("mmap", errno()));
        }
        job.pixels = pixels.cast();
        let child = libc::fork();
        if child == 0 {
            job.decode();
            libc::_exit(if job.is_done != 0 { 0 } else { 1 });
        }
        if child < 0 {
            return Err(failed("fork", errno()));
        }
        let descriptor = libc::syscall(libc::SYS_pidfd_open, child, 0) as c_int;
        let mut end = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        if libc::ppoll(&mut end, 1, &timespec(limit), null()) <= 0 {
            libc::kill(child, libc::SIGKILL);
        }
        let mut status = 1;
        libc::waitpid(child, &mut status, 0);
        let stopped = begin.elapsed();
        libc::close(descriptor);
        libc::munmap(pixels, size_bytes);
        Ok(Outcome { is_done: status == 0, stopped, tidied: begin.elapsed() })
    }
}

fn by_launch(file: &[u8], limit: Duration) -> Result<Outcome, String> {
    // SAFETY: what the function has allocated is in its job alone, which nobody looks at if it is cancelled.
    let options = unsafe { inger::Options::new().reclaim_heap() };
    let begin = Instant::now();
    let job = Job::new(file);
    let decode = move || {
        let mut job = job;
        job.decode();
        job
    };
    let linger = options.launch(decode, limit.as_micros() as u64).map_err(|error| error.to_string())?;
    let stopped = begin.elapsed();
    let is_done = match linger {
        inger::Linger::Completion(job) => job.finish(),
        unfinished => {
            // SAFETY: the decoder has shared nothing.
            unsafe { unfinished.reclaim() };
            false
        }
    };
    Ok(Outcome { is_done, stopped: if is_done { begin.elapsed() } else { stopped }, tidied: begin.elapsed() })
}

// ---------------------------------------------------------------------------------- the worker

#[derive(Args)]
pub(crate) struct Decode {
    means: Means,
    #[arg(long, default_value_t = LIMIT_MS)]
    limit_ms: u64,
}

/// Answers requests on standard input: `benign N` and `bomb N` by a line for each of that many decodings, with whether it
/// came to its end, and both times; `memory` by how much the process has.
pub(crate) fn work(decode: &Decode) -> Result<(), String> {
    let images = Images::make()?;
    let mut output = std::io::stdout().lock();
    for request in std::io::stdin().lines() {
        let request = request.map_err(|error| error.to_string())?;
        let (what, count) = request.split_once(' ').unwrap_or((&request, "1"));
        let count: usize = count.parse().map_err(|_| format!("not a number: {count}"))?;
        let mut answer = String::new();
        if what == "memory" {
            answer = format!("{}\n", resident_bytes());
        } else {
            let file = if what == "bomb" { &images.bomb } else { &images.benign };
            for _ in 0..count {
                let outcome = decode.means.decode(file, Duration::from_millis(decode.limit_ms))?;
                let (stopped, tidied) = (outcome.stopped.as_nanos(), outcome.tidied.as_nanos());
                answer += &format!("{} {stopped} {tidied}\n", u8::from(outcome.is_done));
            }
        }
        output.write_all(answer.as_bytes()).and_then(|()| output.flush()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// What a worker has answered about one decoding.
struct Reading {
    is_done: bool,
    stopped_ns: f64,
    tidied_ns: f64,
}

impl Worker {
    fn start(means: Means) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let name = means.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut command = Command::new(program);
        command.args(["decode", &name]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("starting a worker: {error}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().map(BufReader::new).ok_or("no pipe")?;
        Ok(Worker { child, input, output })
    }

    fn ask(&mut self, request: &str) -> Result<(), String> {
        let input = self.input.as_mut().ok_or("no pipe")?;
        writeln!(input, "{request}").map_err(|error| format!("a worker has ended: {error}"))
    }

    fn numbers(&mut self) -> Result<Vec<f64>, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|error| error.to_string())?;
        let numbers: Vec<f64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        if numbers.is_empty() { Err("a worker has ended".to_owned()) } else { Ok(numbers) }
    }

    fn decode(&mut self, what: &str, count: usize) -> Result<Vec<Reading>, String> {
        self.ask(&format!("{what} {count}"))?;
        let reading = |_| match self.numbers()?[..] {
            [is_done, stopped_ns, tidied_ns] => Ok(Reading { is_done: is_done != 0.0, stopped_ns, tidied_ns }),
            _ => Err("not a reading".to_owned()),
        };
        (0..count).map(reading).collect()
    }

    fn memory(&mut self) -> Result<f64, String> {
        self.ask("memory")?;
        Ok(self.numbers()?[0])
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

// ---------------------------------------------------------------------------------- the images

fn make_image(side: c_uint, noise: c_uint) -> Result<Vec<u8>, String> {
    let mut file = null_mut();
    // SAFETY: the pointer is valid for writes; the contents are copied, and freed.
    unsafe {
        let size_bytes = bomb_make_image(side, noise, &mut file);
        if size_bytes == 0 {
            return Err("libpng cannot make an image".to_owned());
        }
        let contents = std::slice::from_raw_parts(file.cast::<u8>(), size_bytes).to_vec();
        libc::free(file);
        Ok(contents)
    }
}

/// Files' contents.
struct Images {
    benign: Vec<u8>,
    bomb: Vec<u8>,
}

impl Images {
    fn make() -> Result<Self, String> {
        const FIRST_SIDE: f64 = 500.0;
        let first_bytes = make_image(FIRST_SIDE as c_uint, BENIGN_NOISE)?.len() as f64;
        let side = FIRST_SIDE * (BENIGN_BYTES / first_bytes).sqrt();
        Ok(Images { benign: make_image(side as c_uint, BENIGN_NOISE)?, bomb: make_image(BOMB_SIDE, 0)? })
    }
}

// ---------------------------------------------------------------------------------- the experiment

const ALL: [Means; 4] = [Means::Nothing, Means::Thread, Means::Fork, Means::Launch];

/// How many, of each.
struct Plan {
    rounds: usize,
    benign: usize,
    bombs: [usize; 4],
}

/// What came of one means.
#[derive(Default)]
struct Measured {
    benign_ns: Vec<f64>,
    /// Of each round, so that what else the machine does falls on all means.
    benign_medians_ns: Vec<f64>,
    stopped_ns: Vec<f64>,
    tidied_ns: Vec<f64>,
    bytes_grown: f64,
}

pub(crate) fn run(options: &Options) -> Result<(), String> {
    let plan = if options.quick {
        Plan { rounds: 10, benign: 10, bombs: [1, 20, 50, 300] }
    } else {
        Plan { rounds: 50, benign: 20, bombs: [3, 100, 300, 10_000] }
    };
    let images = Images::make()?;
    let mut machine = Machine::look(options.quick, None);
    let mut workers = ALL.into_iter().map(Worker::start).collect::<Result<Vec<_>, _>>()?;
    let mut all: [Measured; 4] = Default::default();
    for worker in &mut workers {
        // The heap, code, libsets.
        worker.decode("benign", 20)?;
    }
    for round in 0..plan.rounds {
        progress(&format!("benign images: round {} of {}", round + 1, plan.rounds));
        for (worker, measured) in workers.iter_mut().zip(&mut all) {
            let readings: Vec<f64> =
                worker.decode("benign", plan.benign)?.iter().map(|reading| reading.tidied_ns).collect();
            measured.benign_medians_ns.push(median(&readings));
            measured.benign_ns.extend(readings);
        }
    }
    for ((worker, measured), (means, count)) in workers.iter_mut().zip(&mut all).zip(ALL.into_iter().zip(plan.bombs)) {
        progress(&format!("bombs: {count} of them, {}", means.label()));
        // The first ones make what later ones use again.
        worker.decode("bomb", count.div_ceil(50))?;
        let before = worker.memory()?;
        for reading in worker.decode("bomb", count)? {
            if reading.is_done && means != Means::Nothing {
                return Err(format!("{}: the bomb was decoded", means.label()));
            }
            measured.stopped_ns.push(reading.stopped_ns);
            measured.tidied_ns.push(reading.tidied_ns);
        }
        measured.bytes_grown = worker.memory()? - before;
    }
    end_progress();
    machine.look_again();
    let tables = vec![benign_table(&all), bomb_table(&all)];
    let plots = vec![("stopped", plot(&all).map_err(|error| format!("the plot: {error}"))?)];
    let note = format!(
        "libpng decodes a grey image of {} to RGBA, and one of {} that has {BOMB_SIDE} pixels a side. Both get {LIMIT_MS} ms, in ways that take \
         turns, each in a process of its own. A time is from the call to when the caller goes on: of a benign image with \
         its pixels, of a bomb when it has been stopped, and when everything is tidied up.",
        show(images.benign.len() as f64, Unit::Bytes),
        show(images.bomb.len() as f64, Unit::Bytes),
    );
    Report { name: "bomb", title: "A decompression bomb", note, machine, tables, plots }.publish(&options.out)
}

fn median(numbers: &[f64]) -> f64 {
    Readings::new(numbers.to_vec()).map_or(f64::NAN, |readings| readings.median())
}

fn benign_table(all: &[Measured; 4]) -> Table {
    let headings = ["median", "p90", "more"].map(str::to_owned).into();
    let line = |(means, measured): (Means, &Measured)| {
        let readings = Readings::new(measured.benign_ns.clone());
        let mut cells: Vec<String> = [50.0, 90.0]
            .map(|percent| readings.as_ref().map_or("-".to_owned(), |all| show(all.percentile(percent), Unit::Ns)))
            .into();
        // Round by round.
        let plain = &all[0].benign_medians_ns;
        let ratios: Vec<f64> = measured.benign_medians_ns.iter().zip(plain).map(|(own, plain)| own / plain).collect();
        cells.push(if means == Means::Nothing {
            String::new()
        } else {
            format!("{:+.1}%", 100.0 * (median(&ratios) - 1.0))
        });
        (means.label().to_owned(), cells)
    };
    Table { title: "benign image".to_owned(), headings, rows: ALL.into_iter().zip(all).map(line).collect() }
}

fn bomb_table(all: &[Measured; 4]) -> Table {
    let headings = ["bombs", "stopped", "p99", "at most", "tidied", "p99", "memory grown"].map(str::to_owned).into();
    let line = |(means, measured): (Means, &Measured)| {
        let mut cells = vec![measured.stopped_ns.len().to_string()];
        for (times, percents) in
            [(&measured.stopped_ns, [50.0, 99.0, 100.0].as_slice()), (&measured.tidied_ns, &[50.0, 99.0])]
        {
            let Some(readings) = Readings::new(times.clone()) else { continue };
            cells.extend(percents.iter().map(|&percent| precisely(readings.percentile(percent))));
        }
        cells.push(show(measured.bytes_grown, Unit::Bytes));
        (means.label().to_owned(), cells)
    };
    Table { title: "bomb".to_owned(), headings, rows: ALL.into_iter().zip(all).map(line).collect() }
}

/// By the microsecond: the limit is a thousand times as long as what it is exceeded by.
fn precisely(time_ns: f64) -> String {
    format!("{:.3} ms", time_ns / 1e6)
}

/// How many of the bombs were stopped within what time.
fn plot(all: &[Measured; 4]) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (900, 450)).into_drawing_area();
    let series = ALL.into_iter().zip(all).skip(1).filter_map(|(means, measured)| {
        let readings = Readings::new(measured.stopped_ns.clone())?;
        // Later than the limit by how much.
        let point = |step: u32| {
            let percent = f64::from(step) / 5.0;
            ((readings.percentile(percent) - (LIMIT_MS * 1_000_000) as f64).max(1e3), percent)
        };
        Some(Series { name: means.label().to_owned(), points: (1..500).map(point).collect() })
    });
    let text = Text { title: "Bombs, with a limit of 10 ms", x: "stopped later than that by", y: "of the bombs" };
    draw_lines(&area, &text, &series.collect::<Vec<_>>(), &ns, 0.0..101.0, &|share| format!("{share:.0}%"))?;
    area.present()?;
    drop(area);
    Ok(svg)
}
