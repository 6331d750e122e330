//! Every row of the policy table, and what libsets are beside it: what it promises, and that the promise is broken without
//! it.
//!
//! The programs of tests/c_policy, one a topic, are linked with a libinger.so in which rows can be switched
//! off (feature `testing`), and so can those parts of engine and roll back that ask whether they are. Each of their
//! checks is run with everything on, unsliced and in slices of 50 us, and must pass; then once for each row that it
//! guards with that row off, and must fail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

const TOPICS: [&str; 10] =
    ["descriptors", "donation", "heap", "libsets", "loader", "process", "signals", "streams", "threads", "waits"];

/// Rows whose absence no test can show, by reason.
const NOT_SHOWN: [(&str, &str); 16] = [
    (
        "tests/pthread_locks.rs is about these",
        "pthread_cond_clockwait pthread_cond_timedwait pthread_cond_wait pthread_mutex_consistent",
    ),
    ("prevents a coincidence that tests/signal_masks.rs brings about in some of its runs only", "raise"),
    (
        "its work is done by functions that have rows, which the libset's copy calls too",
        "reallocarray getmntent getmntent_r __getmntent_r endmntent __endmntent psiginfo argp_help setmntent",
    ),
    (
        "the copy's own way into the dynamic linker is hooked too: a second line of defence",
        "dlclose dlerror dlinfo dlmopen backtrace",
    ),
    (
        "takes no lock and keeps no state beyond the stream: any copy does the same work, and what the row adds, \
         that the program does not find the stream half changed, is a matter of a few instructions",
        "clearerr_unlocked feof_unlocked ferror_unlocked fileno fileno_unlocked fgetc_unlocked getc_unlocked \
         fputc_unlocked putc_unlocked fgets_unlocked __fgets_unlocked_chk fputs_unlocked fread_unlocked \
         __fread_unlocked_chk fwrite_unlocked _IO_sgetn __uflow __underflow __overflow __wuflow __wunderflow \
         __woverflow __fbufsize __flbf __fpending __fpurge __freadable __freading __fsetlocking __fwritable \
         __fwriting fwide fgetwc_unlocked getwc_unlocked fputwc_unlocked putwc_unlocked fgetws_unlocked \
         __fgetws_unlocked_chk fputws_unlocked fflush_unlocked getchar_unlocked getwchar_unlocked \
         putchar_unlocked putwchar_unlocked _IO_padn _IO_getline _IO_getline_info printf_size __printf_fp \
         _IO_seekoff _IO_seekpos _IO_peekc_locked herror",
    ),
    ("ends the process, and prints the same first", "__assert __assert_fail __assert_perror_fail"),
    (
        "deferred only so that a cancel does not come halfway, where the libset is rolled back anyway and what is \
         open leaks either way",
        "fdopendir setlocale newlocale duplocale freelocale iconv_open iconv_close catopen \
         catclose getpwent setpwent endpwent getgrent setgrent endgrent \
         fmemopen open_memstream open_wmemstream fopencookie",
    ),
    (
        "a walk over or a swap of the one environment: what is lost without the row takes an interruption \
         between two given instructions",
        "getenv secure_getenv putenv clearenv",
    ),
    ("called by an object's own finalisers, which libsets do not run", "__cxa_finalize"),
    ("a bare system call", "unshare setns"),
    (
        "the stack and the list of threads belong to ld.so, which all copies share; the row keeps a function from \
         being stopped while it changes them",
        "pthread_join pthread_tryjoin_np pthread_timedjoin_np pthread_clockjoin_np pthread_detach thrd_join thrd_detach",
    ),
    (
        "these treat the calling thread apart, by pthread_self(), or need no more than an instant of base",
        "pthread_setname_np pthread_getname_np pthread_getcpuclockid pthread_key_create tss_create \
         sigwait",
    ),
    (
        "the kernel restarts these because the handler has SA_RESTART",
        "sem_wait mq_send mq_timedsend mq_receive mq_timedreceive aio_suspend",
    ),
    ("reads the request alone, which is the program's", "aio_error aio_error64 aio_return aio_return64"),
    (
        "as timer_create and aio_read, which are tested: the C library's helper threads are base's; these take a \
         name server, or a message queue's notification",
        "getaddrinfo_a gai_error gai_cancel gai_suspend mq_notify",
    ),
    ("used by other rows only; calls go where they would go without a row", "clock_gettime getsockopt setsockopt"),
];

struct Built {
    programs: PathBuf,
    late_library: PathBuf,
}

fn run_to_end(command: &mut Command, what: &str) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(output.status.success(), "{what}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

fn compiler() -> Command {
    let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    // not optimised: the headers' inline versions would be called instead of the functions themselves
    command.args(["-O0", "-g", "-Wall", "-Wextra", "-Wno-deprecated-declarations"]);
    command
}

/// A library with the testing switch, built apart from the one that users get, and the programs.
fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let release = !cfg!(debug_assertions);
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("testing");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--lib", "--features", "testing", "--offline", "--quiet", "--target-dir"]).arg(&target);
        if release {
            cargo.arg("--release");
        }
        run_to_end(cargo.current_dir(root), "cargo build");
        let library = target.join(if release { "release" } else { "debug" });
        let programs = library.join("c_policy");
        std::fs::create_dir_all(&programs).expect("a folder for the programs");
        let sources = root.join("tests/c_policy");
        let constructed = programs.join("libconstructed.so");
        let late_library = programs.join("liblate.so");
        for (output, rename) in [(&constructed, "-Dunused"), (&late_library, "-Dconstructed_count=late_count")] {
            run_to_end(
                compiler().args(["-shared", "-fPIC", rename, "-o"]).arg(output).arg(sources.join("constructed.c")),
                "cc",
            );
        }
        for topic in TOPICS.into_iter().chain(["stored"]) {
            let source = sources.join(topic).with_extension("c");
            let rpath = format!("-Wl,-rpath,{},-rpath,{}", programs.display(), library.display());
            run_to_end(
                compiler()
                    .args(["-o".as_ref(), programs.join(topic).as_os_str(), source.as_os_str()])
                    .arg("-L")
                    .arg(&programs)
                    .arg("-L")
                    .arg(&library)
                    .args(["-lconstructed", "-linger", &rpath]),
                topic,
            );
        }
        Built { programs, late_library }
    })
}

/// A program of the folder. Cargo's search path would give it the library without the switch.
fn program(topic: &str) -> Command {
    let mut command = Command::new(built().programs.join(topic));
    command.env_remove("LD_LIBRARY_PATH");
    if topic == "libsets" {
        command.env("LIBGOTCHA_LOADER", "clone");
    }
    command
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped,
    Failed(String),
}

/// Runs one check; what goes on for longer than the limit is killed, because without its rows a program may
/// have blocked every other signal.
fn run(topic: &str, check: &str, mode: &str, off: Option<&str>, limit: Duration) -> Outcome {
    let mut command = program(topic);
    command.args([check, mode]).env("POLICY_LATE", &built().late_library);
    command.env("POLICY_LIMIT_S", limit.as_secs().to_string());
    if let Some(row) = off {
        command.env("LIBGOTCHA_TEST_OFF", row);
    }
    // What it writes goes with the folder, however it ends.
    let folder = built().programs.join(format!("{topic}-{check}-{mode}-{}", off.unwrap_or("on")));
    std::fs::create_dir_all(&folder).expect("a folder for the check");
    command.current_dir(&folder);
    // A pipe would be held open by what a check leaves running.
    let report = folder.join("report");
    let file = std::fs::File::create(&report).expect("a file for the report");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("the program starts");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            break status;
        }
        if start.elapsed() > limit + Duration::from_secs(1) {
            child.kill().expect("the child is ours");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    let _ = std::fs::remove_dir_all(&folder);
    match status.code() {
        Some(0) => Outcome::Passed,
        Some(77) => {
            assert!(std::env::var_os("INGER_CI").is_none(), "{topic} {check}: {text}");
            eprintln!("{topic} {check}: {}", text.trim());
            Outcome::Skipped
        }
        _ => Outcome::Failed(format!("{topic} {check} {mode}: {status}: {text}")),
    }
}

/// The checks of a topic, and the rows that each guards.
fn checks(topic: &str) -> Vec<(String, Vec<String>)> {
    let output = run_to_end(program(topic).arg("list"), topic);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| {
            let (name, rows) = line.split_once(' ').expect("a name and rows");
            (name.to_owned(), rows.split(',').filter(|row| *row != "-").map(str::to_owned).collect())
        })
        .collect()
}

fn is_excused(row: &str) -> bool {
    NOT_SHOWN.iter().any(|(_, rows)| rows.split_whitespace().any(|excused| excused == row))
}

/// Is the row's absence noticed? Some are by an interruption in the right place, a window of some instructions: most by
/// the first or second attempt, those of setbuf and its like by about one in four.
fn is_missed(topic: &str, check: &str, row: &str) -> bool {
    const SLICED_ATTEMPTS: usize = 40;
    let limit = Duration::from_secs(2);
    let mut modes = std::iter::once("plain").chain(std::iter::repeat_n("sliced", SLICED_ATTEMPTS));
    modes.any(|mode| matches!(run(topic, check, mode, Some(row), limit), Outcome::Failed(_)))
}

fn test_check(topic: &str, check: &str, rows: &[String]) -> Vec<String> {
    let mut failures = Vec::new();
    for mode in ["plain", "sliced"] {
        if let Outcome::Failed(what) = run(topic, check, mode, None, Duration::from_secs(20)) {
            failures.push(what);
        }
    }
    for row in rows.iter().filter(|row| !is_excused(row)) {
        if !is_missed(topic, check, row) {
            failures.push(format!("{topic} {check}: passes without the row {row}"));
        }
    }
    failures
}

/// Several at a time: many wait, and without their rows some hang until they are killed.
fn test_topic(topic: &str) {
    let checks = checks(topic);
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((check, rows)) = checks.get(next.fetch_add(1, Relaxed)) {
                    let found = test_check(topic, check, rows);
                    failures.lock().expect("nobody panics").extend(found);
                }
            });
        }
    });
    let failures = failures.into_inner().expect("nobody panics");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn descriptors() {
    test_topic("descriptors");
}

#[test]
fn donation() {
    test_topic("donation");
}

#[test]
fn heap() {
    test_topic("heap");
}

#[test]
fn libsets() {
    test_topic("libsets");
}

#[test]
fn loader() {
    test_topic("loader");
}

#[test]
fn process() {
    test_topic("process");
}

#[test]
fn signals() {
    test_topic("signals");
}

#[test]
fn streams() {
    test_topic("streams");
}

#[test]
fn threads() {
    test_topic("threads");
}

#[test]
fn waits() {
    test_topic("waits");
}

/// What no row reaches: base's own code, called through pointers stored before the first launch.
#[test]
fn stored_pointers() {
    let outcome = run("stored", "stored", "sliced", None, Duration::from_secs(100));
    assert_eq!(outcome, Outcome::Passed);
    let Outcome::Failed(what) = run("stored", "stored", "sliced", Some("backstop"), Duration::from_secs(100)) else {
        panic!("100,000 preemptions inside the allocator went unnoticed");
    };
    assert!(!what.contains("signal: 14") && !what.contains("signal: 9"), "only slow: {what}");
}

/// On a C library whose insides the default engine does not know the other one works; asked for by name, it is refused.
#[test]
fn unknown_c_library() {
    let output = |engine: Option<&str>| {
        let mut command = program("heap");
        command
            .args(["free", "plain"])
            .env_remove("LIBGOTCHA_LOADER")
            .envs(engine.map(|name| ("LIBGOTCHA_LOADER", name)));
        command.env("LIBGOTCHA_TEST_OFF", "clone_engine").env("LIBGOTCHA_TRACE", "libsets");
        let output = command.output().expect("the program starts");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (works, trace) = output(None);
    assert!(works && trace.contains("by dlmopen, at most 15: unsupported C library"), "{trace}");
    let (works, trace) = output(Some("clone"));
    assert!(!works && !trace.contains("dlmopen"), "{trace}");
}

#[test]
fn every_row_has_a_test_or_a_reason() {
    let output =
        program("heap").args(["free", "plain"]).env("LIBGOTCHA_TEST_OFF", "?").output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    // Several names of one function have one address, and one row.
    let addresses: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("row ")?.split_once(' ')).collect();
    assert!(addresses.len() > 300, "{text}");
    let tested: BTreeSet<String> = TOPICS.iter().flat_map(|topic| checks(topic)).flat_map(|(_, rows)| rows).collect();
    let covered: BTreeSet<&str> =
        addresses.iter().filter(|(name, _)| tested.contains(**name)).map(|(_, address)| *address).collect();
    let missing: Vec<&str> = addresses
        .iter()
        .filter(|(name, address)| !covered.contains(*address) && !is_excused(name))
        .map(|(name, _)| *name)
        .collect();
    assert!(missing.is_empty(), "rows without a test or a reason: {missing:?}");
}
