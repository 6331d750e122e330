//! Where measuring is done: in processes of this program's own, each with the environment that it needs. One that fails
//! takes nothing else with it.
//!
//! A worker says `ok` when it is ready. Then it reads lines, `measure parameter count`, and answers each with a line,
//! `ok` and the readings, or `error` and the cause.

use crate::libraries::Library;
use crate::{ours, parts, peers};
use clap::Args;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// Something to be measured: called with how often, returns readings.
pub(crate) type Measure = Box<dyn FnMut(u64) -> Result<Vec<f64>, String>>;

/// The name of a measure, and what it is called with.
pub(crate) type What = (&'static str, u64);

/// The time of one among many in a row, in ns. For what takes less than reading the clock does.
pub(crate) fn batch(mut operation: impl FnMut() -> Result<(), String> + 'static) -> Measure {
    Box::new(move |count| {
        let start = Instant::now();
        (0..count).try_for_each(|_| operation())?;
        Ok(vec![start.elapsed().as_nanos() as f64 / count as f64])
    })
}

/// Each one's own time, in ns, which the operation takes itself.
pub(crate) fn singles(mut operation: impl FnMut() -> Result<f64, String> + 'static) -> Measure {
    Box::new(move |count| (0..count).map(|_| operation()).collect())
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Which {
    #[default]
    Ours,
    /// Has loaded the large library.
    Large,
    /// Never launches.
    Peer,
}

/// What a worker is like.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub(crate) struct Setup {
    /// Loads as many libraries besides its own.
    #[arg(long, default_value_t = 0)]
    pub(crate) libraries: usize,
    /// Holds as many unfinished functions.
    #[arg(long, default_value_t = 0)]
    pub(crate) held: usize,
    /// Loads nothing but what it is linked with.
    #[arg(long)]
    pub(crate) bare: bool,
    /// By its environment.
    #[arg(skip)]
    pub(crate) is_clone: bool,
    /// Which of several that are otherwise alike: what one row's measure does to its process is not to be seen in
    /// another's.
    #[arg(skip)]
    pub(crate) which: Which,
}

// ---------------------------------------------------------------------------------- its own side

/// Reads and answers until there is nothing more to read.
pub(crate) fn serve(setup: &Setup, folder: &Path) {
    let mut answer = std::io::stdout();
    let mut say = |line: String| {
        // Whoever asked is gone if this fails; then so is the input.
        let _ = writeln!(answer, "{}", line.replace('\n', " "));
    };
    match prepare(setup, folder) {
        Ok(()) => say("ok".to_owned()),
        Err(cause) => return say(format!("error {cause}")),
    }
    let mut measures = HashMap::new();
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match carry_out(&mut measures, &line, folder) {
            Ok(readings) => {
                let readings: Vec<String> = readings.iter().map(f64::to_string).collect();
                say(format!("ok {}", readings.join(" ")));
            }
            Err(cause) => say(format!("error {cause}")),
        }
    }
    // Held functions end with the process.
    std::process::exit(0);
}

fn prepare(setup: &Setup, folder: &Path) -> Result<(), String> {
    if !setup.bare {
        Library::open(Path::new("libm.so.6"))?;
        Library::open(Path::new("libstdc++.so.6"))?;
    }
    for number in 0..setup.libraries {
        Library::open_numbered(folder, number)?;
    }
    ours::hold(setup.held)
}

fn carry_out(measures: &mut HashMap<String, Measure>, line: &str, folder: &Path) -> Result<Vec<f64>, String> {
    let words: Vec<&str> = line.split(' ').collect();
    let &[name, parameter, count] = words.as_slice() else { return Err(format!("unknown request: {line}")) };
    let number = |word: &str| word.parse::<u64>().map_err(|error| format!("{word}: {error}"));
    let measure = match measures.entry(format!("{name} {parameter}")) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(find(name, number(parameter)?, folder)?),
    };
    measure(number(count)?)
}

fn find(name: &str, parameter: u64, folder: &Path) -> Result<Measure, String> {
    if let Some(measure) = ours::find(name, parameter, folder) {
        return measure;
    }
    peers::find(name, parameter)
        .or_else(|| parts::find(name, parameter))
        .unwrap_or_else(|| Err(format!("there is no measure {name}")))
}

/// What is around the operations whose system calls are counted: calls that fail.
pub(crate) const MARK: &str = "inger-bench-mark";

/// Does something `count` times, between two marks.
pub(crate) fn repeat(name: &str, parameter: u64, count: u64, folder: &Path) -> Result<(), String> {
    let mark = || {
        // SAFETY: the text is as long as said; there is no such descriptor.
        unsafe { libc::write(-1, MARK.as_ptr().cast(), MARK.len()) };
    };
    prepare(&Setup::default(), folder)?;
    let mut measure = find(name, parameter, folder)?;
    measure(1000)?;
    mark();
    let result = measure(count);
    mark();
    result.map(drop)
}

// ---------------------------------------------------------------------------------- the side that asks

pub(crate) struct Worker {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What it writes to standard error.
    errors: File,
    is_dead: bool,
}

/// The longest that anything takes.
const PATIENCE_MS: i32 = 180_000;

impl Worker {
    pub(crate) fn start(setup: &Setup, folder: &Path) -> Result<Self, String> {
        Worker::spawn(setup, folder).map_err(|error| format!("starting a worker: {error}")).and_then(|mut worker| {
            worker.answer()?;
            Ok(worker)
        })
    }

    fn spawn(setup: &Setup, folder: &Path) -> std::io::Result<Self> {
        let errors = tempfile::tempfile_in(folder)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("worker").arg("--folder").arg(folder);
        command.args(["--libraries", &setup.libraries.to_string(), "--held", &setup.held.to_string()]);
        if setup.bare {
            command.arg("--bare");
        }
        if setup.is_clone {
            command.env("LIBGOTCHA_LOADER", "clone");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
        let mut child = command.spawn()?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(requests), Some(answers)) = (requests, answers) else { unreachable!("both are piped") };
        Ok(Worker { child, requests, answers: BufReader::new(answers), errors, is_dead: false })
    }

    pub(crate) fn measure(&mut self, (name, parameter): What, count: u64) -> Result<Vec<f64>, String> {
        if let Err(error) = writeln!(self.requests, "{name} {parameter} {count}") {
            return Err(self.obituary(&error.to_string()));
        }
        let answer = self.answer()?;
        answer.split_whitespace().map(|word| word.parse().map_err(|_| format!("unknown answer: {answer}"))).collect()
    }

    fn answer(&mut self) -> Result<String, String> {
        let mut wait = libc::pollfd { fd: self.answers.get_ref().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, which stays open.
        if unsafe { libc::poll(&mut wait, 1, PATIENCE_MS) } == 0 {
            let _ = self.child.kill();
            return Err(self.obituary("no answer"));
        }
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) | Err(_) => Err(self.obituary("ended")),
            Ok(_) => match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
                ("ok", readings) => Ok(readings.to_owned()),
                ("error", cause) => Err(cause.to_owned()),
                _ => Err(format!("unknown answer: {}", line.trim_end())),
            },
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// Why the process is of no more use.
    fn obituary(&mut self, what: &str) -> String {
        self.is_dead = true;
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let mut errors = String::new();
        let _ = self.errors.rewind().and_then(|()| self.errors.read_to_string(&mut errors));
        format!("{what}: {status}: {}", errors.lines().last().unwrap_or("no message"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It has nothing that needs to be put in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many system calls `count` operations make, by strace.
pub(crate) fn count_system_calls((name, parameter): What, count: u64, folder: &Path) -> Result<u64, String> {
    let log = folder.join(format!("{name}-{parameter}.strace"));
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&log).arg(program);
    command.arg("repeat").arg("--folder").arg(folder).args([name, &parameter.to_string(), &count.to_string()]);
    let output = command.output().map_err(|error| format!("strace: {error}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("strace: {}: {}", output.status, errors.lines().last().unwrap_or("no message")));
    }
    let log = std::fs::read_to_string(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let lines = log.lines().skip_while(|line| !line.contains(MARK)).skip(1);
    // The others tell of signals.
    Ok(lines.take_while(|line| !line.contains(MARK)).filter(|line| line.contains('(')).count() as u64)
}
