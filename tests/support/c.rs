//! Building C programs against libinger.so, as a user would.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Where cargo has put libinger.so: beside the programs, or one folder down; the newest counts.
pub(crate) fn library_folder() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_inger")).parent().expect("a program lies in a folder");
    let age = |folder: &PathBuf| folder.join("libinger.so").metadata().and_then(|data| data.modified()).ok();
    let folders = [target.to_path_buf(), target.join("deps")];
    let newest = folders.into_iter().filter(|folder| age(folder).is_some()).max_by_key(age);
    newest.expect("cargo builds libinger.so with the tests")
}

/// Runs a command that has to succeed.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// The C compiler, with the header's folder, no warnings allowed.
pub(crate) fn compiler() -> Command {
    let mut command = Command::new("cc");
    let include = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/include");
    command.args(["-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", include]);
    command
}

/// Pairwise every combination of the three choices.
pub(crate) const VARIANTS: [(&str, &[&str]); 4] = [
    ("pie-now-O2", &["-fPIE", "-pie", "-Wl,-z,now", "-O2"]),
    ("pie-lazy-O0", &["-fPIE", "-pie", "-Wl,-z,lazy", "-O0"]),
    ("nopie-now-O0", &["-fno-pie", "-no-pie", "-Wl,-z,now", "-O0"]),
    ("nopie-lazy-O2", &["-fno-pie", "-no-pie", "-Wl,-z,lazy", "-O2"]),
];

/// A folder of this process's, gone with the last of its users.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Compiles and links; warnings are errors.
pub(crate) fn build(source: &Path, program: &Path, flags: &[&str], libraries: &[&str]) {
    let cplusplus = source.extension().is_some_and(|extension| extension == "cpp") || flags.contains(&"c++");
    let compiler = if cplusplus { "c++" } else { "cc" };
    run(Command::new(compiler)
        .arg(if cplusplus { "-std=c++17" } else { "-std=c11" })
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Iinclude", "-pthread"])
        .args(flags)
        .arg(source)
        .arg("-o")
        .arg(program)
        .arg("-L")
        .arg(library_folder())
        .args(libraries));
}

const LONGEST_RUN: Duration = Duration::from_secs(60);

/// Starts a program; one that hangs is killed, and the test fails by its status.
pub(crate) fn start(program: &Path, arguments: &[&OsStr], environment: &[(&str, &str)]) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LD_LIBRARY_PATH", library_folder())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program has just been built");
    let pid = child.id();
    let (sender, finished) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if finished.recv_timeout(LONGEST_RUN).is_err() {
            // SAFETY: sends a signal; the process has not been waited for, so the pid is still its own.
            unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        }
    });
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let read_stderr = std::thread::spawn(move || read(&mut stderr));
    let stdout = read(&mut stdout);
    let stderr = read_stderr.join().expect("reading does not panic");
    // Not child.wait() alone: the pid stays ours until the watchdog is gone.
    wait_for_exit(pid);
    let _ = sender.send(());
    watchdog.join().expect("the watchdog does not panic");
    Output { status: child.wait().expect("a child of ours"), stdout, stderr }
}

/// Waits for a child's end and leaves it to be waited for.
fn wait_for_exit(pid: u32) {
    // SAFETY: `info` is valid for writes.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        while libc::waitid(libc::P_PID, pid, &mut info, libc::WEXITED | libc::WNOWAIT) != 0 {}
    }
}

fn read(pipe: &mut Option<impl std::io::Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    pipe.as_mut().expect("the output is piped").read_to_end(&mut bytes).expect("a pipe can be read");
    bytes
}

pub(crate) fn describe(what: &str, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
    format!("{what}: {}\nstdout: {}\nstderr: {}", output.status, text(&output.stdout), text(&output.stderr))
}
