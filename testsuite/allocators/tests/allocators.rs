//! Runs every program's jobs, each in a process of its own that is killed if it hangs, and prints a table of what they say.
//!
//! `cargo test --release --manifest-path testsuite/allocators/Cargo.toml --test allocators -- --nocapture`

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// Several times what the longest job takes.
const LIMIT_S: &str = "60";
/// For a job that is expected to hang.
const SHORT_LIMIT_S: &str = "10";

struct Program {
    name: &'static str,
    path: &'static str,
    environment: &'static [(&'static str, &'static str)],
}

/// One arena for all and no caches: every call takes its lock.
const ONE_ARENA: &[(&str, &str)] = &[("_RJEM_MALLOC_CONF", "narenas:1,tcache:false")];

macro_rules! program {
    ($name:literal, $file:literal, $environment:expr) => {
        Program { name: $name, path: env!(concat!("CARGO_BIN_EXE_", $file)), environment: $environment }
    };
}

const WITH_ADAPTER: [Program; 4] = [
    program!("malloc, Alloc", "system-alloc", &[]),
    program!("jemalloc, Alloc", "jemalloc-alloc", &[]),
    program!("jemalloc, one arena, Alloc", "jemalloc-alloc", ONE_ARENA),
    program!("mimalloc, Alloc", "mimalloc-alloc", &[]),
];

const SYSTEM: Program = program!("malloc", "system", &[]);

const WITHOUT: [Program; 3] = [
    program!("jemalloc", "jemalloc", &[]),
    program!("jemalloc, one arena", "jemalloc", ONE_ARENA),
    program!("mimalloc", "mimalloc", &[]),
];

/// What a job says, or how it has ended without.
fn run(program: &Program, job: &str, limit_s: &str) -> Result<String, String> {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", limit_s, program.path, job]).envs(program.environment.iter().copied());
    let output = command.output().expect("timeout, of the coreutils");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let result = match (output.status.code(), output.status.signal()) {
        (Some(0), _) => Ok(String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ")),
        (Some(137), _) | (_, Some(libc::SIGKILL)) => Err("hangs".to_owned()),
        _ => Err(format!("{}: {}", output.status, errors.lines().last().unwrap_or_default())),
    };
    let said = match &result {
        Ok(line) => line.clone(),
        Err(end) => format!("{end}{}", errors.lines().last().map(|line| format!(", after {line}")).unwrap_or_default()),
    };
    println!("{:<26} {job:<12} {said}", program.name);
    result
}

fn succeed(program: &Program, job: &str) {
    run(program, job, LIMIT_S).unwrap_or_else(|end| panic!("{}, {job}: {end}", program.name));
}

fn everything_works<'a>(programs: impl IntoIterator<Item = &'a Program>) {
    for program in programs {
        for job in ["functions", "launcher", "cancels", "lock-cancels", "costs"] {
            succeed(program, job);
        }
    }
}

#[test]
fn with_the_adapter() {
    everything_works(&WITH_ADAPTER);
}

#[test]
fn without_it_the_c_librarys() {
    everything_works([&SYSTEM]);
}

/// Functions among themselves, and threads, get on with any allocator: who waits is stopped, and who holds goes on.
#[test]
fn without_it_functions_get_on() {
    for program in &WITHOUT {
        succeed(program, "functions");
    }
}

/// What else happens without it is not promised; the table tells.
#[test]
fn without_it_launchers_and_cancels() {
    for program in &WITHOUT {
        for job in ["launcher", "cancels", "costs"] {
            let _ = run(program, job, SHORT_LIMIT_S);
        }
    }
}

/// parking_lot's own, which allocates too: with allocators in which functions are stopped, and with others.
#[test]
fn locks() {
    for program in WITH_ADAPTER.iter().chain(&WITHOUT) {
        succeed(program, "locks");
    }
}
