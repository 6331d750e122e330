//! An HTTP server (hyper) that computes 500 µs for most requests and 50 ms for some: how long the short ones take, on an
//! executor that preempts, and on one that does not.
//!
//! The load is open: requests come at times of their own, whether others have been answered or not, and their latency is
//! counted from the time at which they were due.

use crate::Options;
use crate::report::{Report, end_progress, progress};
use clap::{Args, ValueEnum};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use inger_bench::chart::{Series, Text, draw_lines, ns};
use inger_bench::machine::Machine;
use inger_bench::page::Table;
use inger_bench::stats::Readings;
use inger_bench::units::{Unit, show};
use plotters::prelude::*;
use std::cell::RefCell;
use std::convert::Infallible;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

const SHORT_US: u64 = 500;
const LONG_US: u64 = 50_000;

// ---------------------------------------------------------------------------------- the server

/// What runs the handlers.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Executor {
    Turquoise,
    Tokio,
    SpawnBlocking,
}

impl Executor {
    fn label(self) -> &'static str {
        match self {
            Executor::Turquoise => "turquoise",
            Executor::Tokio => "tokio",
            Executor::SpawnBlocking => "tokio, spawn_blocking",
        }
    }
}

#[derive(Args)]
pub(crate) struct Serve {
    executor: Executor,
    /// Kernel threads that run tasks.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, default_value_t = 1000)]
    quantum_us: u64,
    /// What this machine computes in a microsecond.
    #[arg(long)]
    steps_per_us: f64,
    /// A line on standard output for each long request that begins.
    #[arg(long)]
    announce: bool,
}

/// Computes. By steps, not by the clock: what a preempted handler does not get does not count.
fn compute(steps: u64) -> u64 {
    (0..steps).fold(0x9e37_79b9_7f4a_7c15, |state: u64, _| {
        let state = state ^ (state << 13);
        let state = state ^ (state >> 7);
        black_box(state ^ (state << 17))
    })
}

/// The fastest of some readings: nobody has disturbed it.
fn steps_per_us() -> f64 {
    const STEPS: u64 = 1_000_000;
    let reading = |_| {
        let begin = Instant::now();
        black_box(compute(STEPS));
        STEPS as f64 / (begin.elapsed().as_nanos() as f64 / 1e3)
    };
    (0..50).map(reading).fold(0.0, f64::max)
}

/// How a handler does its work.
#[derive(Clone, Copy)]
struct Handler {
    short_steps: u64,
    long_steps: u64,
    is_blocking: bool,
    announces: bool,
}

async fn answer(handler: Handler, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_long = request.uri().path() == "/long";
    if is_long && handler.announces {
        println!("begins");
    }
    let steps = if is_long { handler.long_steps } else { handler.short_steps };
    let result = if handler.is_blocking {
        tokio::task::spawn_blocking(move || compute(steps)).await.unwrap_or_default()
    } else {
        compute(steps)
    };
    black_box(result);
    Ok(Response::new(Full::new(Bytes::from_static(BODY))))
}

const BODY: &[u8] = b"done.";

async fn connection(stream: TcpStream, handler: Handler) {
    let service = service_fn(move |request| answer(handler, request));
    // Who has sent half a request has gone.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Prints the address.
async fn listen() -> Result<TcpListener, String> {
    let failed = |error: std::io::Error| format!("listening: {error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    println!("{}", listener.local_addr().map_err(failed)?);
    Ok(listener)
}

/// Serves until standard input ends.
pub(crate) fn serve(serve: &Serve) -> Result<(), String> {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let steps = |us| (serve.steps_per_us * us as f64) as u64;
    let handler = Handler {
        short_steps: steps(SHORT_US),
        long_steps: steps(LONG_US),
        is_blocking: serve.executor == Executor::SpawnBlocking,
        announces: serve.announce,
    };
    if serve.executor == Executor::Turquoise {
        let quantum = Duration::from_micros(serve.quantum_us);
        let config = turquoise::Config { threads: serve.threads, quantum, ..turquoise::Config::default() };
        let runtime = turquoise::Runtime::new(config).map_err(|error| error.to_string())?;
        return runtime.block_on(async {
            let listener = listen().await?;
            while let Ok((stream, _)) = listener.accept().await {
                drop(turquoise::spawn(connection(stream, handler)));
            }
            Ok(())
        });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(serve.threads).enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let listener = listen().await?;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, handler));
        }
        Ok(())
    })
}

/// A server in a process of its own.
struct Server {
    process: Child,
    /// Ends it.
    _input: ChildStdin,
    address: SocketAddr,
}

impl Server {
    fn start(executor: Executor, quantum_us: u64, steps_per_us: f64) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("a server: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        let value = executor.to_possible_value().expect("none is skipped");
        command.args(["serve", value.get_name(), "--steps-per-us", &steps_per_us.to_string()]);
        command.args(["--quantum-us", &quantum_us.to_string()]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (input, output) = (process.stdin.take().expect("a pipe"), process.stdout.take().expect("a pipe"));
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).map_err(failed)?;
        let address = line.trim().parse().map_err(|_| format!("a server: {line:?} is no address"))?;
        Ok(Server { process, _input: input, address })
    }

    /// Its processor time until now.
    fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        // SAFETY: asks for a constant.
        (ticks(11) + ticks(12)) / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// ---------------------------------------------------------------------------------- the load

/// A small generator: the same arrivals for everybody.
struct Random(u64);

impl Random {
    /// In 0..1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A request: when it is due, from the beginning on, and whether it is a long one.
#[derive(Clone, Copy)]
struct Arrival {
    due: Duration,
    is_long: bool,
}

/// Arrivals of a Poisson process.
fn arrivals(rate: f64, long_percent: f64, time: Duration, seed: u64) -> Vec<Arrival> {
    let mut random = Random(seed);
    let mut now_s = 0.0;
    std::iter::from_fn(|| {
        now_s -= (1.0 - random.next()).ln() / rate;
        Some(Arrival { due: Duration::from_secs_f64(now_s), is_long: random.next() * 100.0 < long_percent })
    })
    .take_while(|arrival| arrival.due < time)
    .collect()
}

async fn request(stream: &mut TcpStream, is_long: bool) -> std::io::Result<()> {
    let text: &[u8] =
        if is_long { b"GET /long HTTP/1.1\r\nhost: a\r\n\r\n" } else { b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" };
    stream.write_all(text).await?;
    let (mut answer, mut length) = ([0; 512], 0);
    while !answer[..length].ends_with(BODY) {
        match stream.read(&mut answer[length..]).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => length += count,
        }
    }
    Ok(())
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// More connections than that are not opened: then the server does not keep up at all.
const MOST_CONNECTIONS: usize = 1000;

/// Latencies, in ns.
#[derive(Default)]
struct Latencies {
    short: Vec<f64>,
    long: Vec<f64>,
    failed: usize,
}

/// Sends each request when it is due, on a connection that is free, or a new one.
fn open_loop(address: SocketAddr, arrivals: &[Arrival]) -> Result<Latencies, String> {
    let (sender, mut due) = tokio::sync::mpsc::unbounded_channel();
    let schedule = arrivals.to_vec();
    // tokio's timers are for milliseconds.
    let pacer = std::thread::spawn(move || {
        let begin = Instant::now();
        for arrival in schedule {
            let time = begin + arrival.due;
            std::thread::sleep(time.saturating_duration_since(Instant::now()));
            if sender.send((time, arrival.is_long)).is_err() {
                return;
            }
        }
    });
    let result = Rc::new(RefCell::new(Latencies::default()));
    let outcome = Rc::clone(&result);
    let run = async move {
        let free = Rc::new(RefCell::new(Vec::new()));
        let mut requests = Vec::new();
        let mut connections = 0;
        while let Some((time, is_long)) = due.recv().await {
            let stream: Option<TcpStream> = free.borrow_mut().pop();
            if stream.is_none() && connections == MOST_CONNECTIONS {
                outcome.borrow_mut().failed += 1;
                continue;
            }
            connections += usize::from(stream.is_none());
            let (free, outcome) = (Rc::clone(&free), Rc::clone(&outcome));
            requests.push(tokio::task::spawn_local(async move {
                let answered = async {
                    let mut stream = match stream {
                        Some(stream) => stream,
                        None => connect(address).await?,
                    };
                    request(&mut stream, is_long).await.map(|()| stream)
                };
                let answered: std::io::Result<TcpStream> = answered.await;
                let mut outcome = outcome.borrow_mut();
                match answered {
                    Err(_) => outcome.failed += 1,
                    Ok(stream) => {
                        let latency = time.elapsed().as_nanos() as f64;
                        if is_long {
                            outcome.long.push(latency)
                        } else {
                            outcome.short.push(latency)
                        }
                        free.borrow_mut().push(stream);
                    }
                }
            }));
        }
        for request in requests {
            let _ = request.await;
        }
    };
    on_one_thread(run)?;
    pacer.join().map_err(|_| "the load's clock has panicked")?;
    Ok(result.take())
}

/// As many requests as the server answers, a few at a time, for about that long; how many in a second. Which of them are
/// long is chance: what is counted is their work, in requests of the average kind.
fn closed_loop(address: SocketAddr, long_percent: f64, time: Duration, seed: u64) -> Result<f64, String> {
    const AT_A_TIME: u64 = 16;
    let answered = Rc::new(RefCell::new((0_u64, 0_usize)));
    let count = Rc::clone(&answered);
    let begin = Instant::now();
    let run = async move {
        let clients: Vec<_> = (0..AT_A_TIME)
            .map(|client| {
                let count = Rc::clone(&count);
                tokio::task::spawn_local(async move {
                    let mut random = Random(seed.wrapping_add(client << 32));
                    let Ok(mut stream) = connect(address).await else { return };
                    while begin.elapsed() < time {
                        let is_long = random.next() * 100.0 < long_percent;
                        match request(&mut stream, is_long).await {
                            Ok(()) => count.borrow_mut().0 += if is_long { LONG_US } else { SHORT_US },
                            Err(_) => return count.borrow_mut().1 += 1,
                        }
                    }
                })
            })
            .collect();
        for client in clients {
            let _ = client.await;
        }
    };
    on_one_thread(run)?;
    let (work_us, failed) = answered.take();
    if failed > 0 || work_us == 0 {
        return Err(format!("{failed} requests have failed"));
    }
    Ok(work_us as f64 / mean_us(long_percent) / begin.elapsed().as_secs_f64())
}

fn on_one_thread(future: impl Future<Output = ()>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.map_err(|error| error.to_string())?, future);
    Ok(())
}

// ---------------------------------------------------------------------------------- the experiment

const EXECUTORS: [Executor; 3] = [Executor::Turquoise, Executor::Tokio, Executor::SpawnBlocking];
const LONG_PERCENTS: [f64; 3] = [0.0, 2.0, 5.0];
/// How much of the processors the open load asks for.
const UTILISATION: f64 = 0.5;

/// What a request of that mixture computes.
fn mean_us(long_percent: f64) -> f64 {
    SHORT_US as f64 + (LONG_US - SHORT_US) as f64 * long_percent / 100.0
}

/// Of the open load, in requests per second.
fn rate(long_percent: f64) -> f64 {
    let processors = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    UTILISATION * processors * 1e6 / mean_us(long_percent)
}

/// What came of one server with one load, of all rounds.
#[derive(Default)]
struct Measured {
    /// Of each round.
    latencies: Vec<Latencies>,
    throughputs: Vec<f64>,
    /// Of a request in the open load, in µs, and how many there were.
    cpu_us: f64,
}

impl Measured {
    fn add(&mut self, server: &Server, percent: f64, time: Duration, round: u64) -> Result<(), String> {
        // Connections, code, libsets.
        closed_loop(server.address, percent, time / 10, round)?;
        let schedule = arrivals(rate(percent), percent, time, 100 + round);
        let before_s = server.cpu_s();
        let latencies = open_loop(server.address, &schedule)?;
        self.cpu_us += (server.cpu_s() - before_s) * 1e6;
        self.latencies.push(latencies);
        self.throughputs.push(closed_loop(server.address, percent, time, round)?);
        Ok(())
    }

    fn count(&self) -> usize {
        self.latencies.iter().map(|round| round.short.len() + round.long.len()).sum()
    }

    fn failed(&self) -> usize {
        self.latencies.iter().map(|round| round.failed).sum()
    }

    /// The median of the rounds: what else the machine does in one of them does not count.
    fn short_percentile(&self, percent: f64) -> Option<f64> {
        let of_round = |round: &Latencies| Some(Readings::new(round.short.clone())?.percentile(percent));
        let rounds: Option<Vec<f64>> = self.latencies.iter().map(of_round).collect();
        Some(Readings::new(rounds?)?.median())
    }
}

#[derive(Args)]
pub(crate) struct HeadOfLine {
    #[command(flatten)]
    options: Options,
    /// How long a task of turquoise's runs before others have their turn.
    #[arg(long, default_value_t = 2000)]
    quantum_us: u64,
}

/// The whole experiment.
pub(crate) fn run(options: &HeadOfLine) -> Result<(), String> {
    let (rounds, time) =
        if options.options.quick { (2, Duration::from_secs(1)) } else { (5, Duration::from_millis(1200)) };
    let steps = steps_per_us();
    let mut machine = Machine::look(options.options.quick, None);
    let mut all: Vec<Vec<Measured>> = Vec::new();
    all.resize_with(LONG_PERCENTS.len(), || EXECUTORS.map(|_| Measured::default()).into());
    for round in 0..rounds {
        for (percent, row) in LONG_PERCENTS.into_iter().zip(&mut all) {
            for (executor, measured) in EXECUTORS.into_iter().zip(row) {
                progress(&format!("round {} of {rounds}: {percent}% long, {}", round + 1, executor.label()));
                let server = Server::start(executor, options.quantum_us, steps)?;
                measured.add(&server, percent, time, round)?;
            }
        }
    }
    end_progress();
    machine.look_again();
    let tables = LONG_PERCENTS.into_iter().zip(&all).map(|(percent, row)| table(percent, row)).collect();
    let plots = vec![("latency", plot(&all).map_err(|error| format!("the plot: {error}"))?)];
    let note = format!(
        "hyper on two kernel threads, turquoise with a quantum of {} µs; requests compute {SHORT_US} µs, some of them {} ms. Latencies are those of the short ones, \
         under an open load of {:.0}% of all processors, from the moment at which a request was due. Throughput is under a \
         closed load, of 16 at a time. Each is the median of {rounds} rounds, by turns. The generator of the load is another process on the same processors.",
        options.quantum_us,
        LONG_US / 1000,
        UTILISATION * 100.0,
    );
    let title = "Head-of-line blocking";
    Report { name: "head-of-line", title, note, machine, tables, plots }.publish(&options.options.out)
}

fn median(numbers: &[f64]) -> f64 {
    Readings::new(numbers.to_vec()).map_or(f64::NAN, |readings| readings.median())
}

fn table(percent: f64, row: &[Measured]) -> Table {
    let headings = ["p50", "p90", "p99", "p99.9", "long, p50", "requests/s", "of tokio's", "CPU/request", "failed"];
    let plain = median(&row[1].throughputs);
    let line = |(executor, measured): (Executor, &Measured)| {
        let time = |percent| measured.short_percentile(percent).map_or("-".to_owned(), |ns| show(ns, Unit::Ns));
        let long = median(&measured.latencies.iter().flat_map(|round| round.long.clone()).collect::<Vec<_>>());
        let throughput = median(&measured.throughputs);
        let mut cells: Vec<String> = [50.0, 90.0, 99.0, 99.9].map(time).into();
        cells.push(if long.is_nan() { "-".to_owned() } else { show(long, Unit::Ns) });
        cells.push(format!("{throughput:.0}"));
        cells.push(format!("{:.1}%", 100.0 * throughput / plain));
        cells.push(show(measured.cpu_us * 1e3 / measured.count() as f64, Unit::Ns));
        cells.push(measured.failed().to_string());
        (executor.label().to_owned(), cells)
    };
    Table {
        title: format!("{percent}% long, {:.0} requests/s", rate(percent)),
        headings: headings.map(str::to_owned).into(),
        rows: EXECUTORS.into_iter().zip(row).map(line).collect(),
    }
}

/// How many of the short requests were answered within what time.
fn plot(all: &[Vec<Measured>]) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (900, 1200)).into_drawing_area();
    for ((percent, row), part) in LONG_PERCENTS.into_iter().zip(all).zip(area.split_evenly((3, 1))) {
        let series = EXECUTORS.into_iter().zip(row).filter_map(|(executor, measured)| {
            let point = |step: u32| {
                let percent = f64::from(step) / 5.0;
                Some((measured.short_percentile(percent)?, percent))
            };
            let points: Option<Vec<_>> = (1..500).map(point).collect();
            Some(Series { name: executor.label().to_owned(), points: points? })
        });
        let title = format!("Short requests, with {percent}% long ones");
        let text = Text { title: &title, x: "answered within", y: "of the short ones" };
        draw_lines(&part, &text, &series.collect::<Vec<_>>(), &ns, 0.0..101.0, &|share| format!("{share:.0}%"))?;
    }
    area.present()?;
    drop(area);
    Ok(svg)
}
