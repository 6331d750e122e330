//! testinger: what it does with programs that end in each way, and with those that it cannot take.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Where cargo has put libtestinger.so: beside the program, or one folder down; the newest counts.
fn library() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_testinger")).parent().expect("a program lies in a folder");
    let age = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).ok();
    let places = [target.join("libtestinger.so"), target.join("deps/libtestinger.so")];
    places.into_iter().filter(|path| age(path).is_some()).max_by_key(age).expect("cargo builds it with the tests")
}

fn testinger(options: &[&str], command: &[&str]) -> Command {
    let mut testinger = Command::new(env!("CARGO_BIN_EXE_testinger"));
    testinger.args(options).args(command).env("TESTINGER_LIBRARY", library()).stdin(Stdio::null());
    testinger
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the program has been built")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// The preemptions that the last report counts.
fn preemptions(stderr: &[u8]) -> Option<u64> {
    let report = text(stderr).lines().rev().find(|line| line.ends_with(" preemptions"))?;
    report.split(' ').rev().nth(1)?.parse().ok()
}

/// A C program, built in `folder`.
fn build(folder: &Path, source: &str, flags: &[&str]) -> String {
    let (file, program) = (folder.join("program.c"), folder.join("program"));
    std::fs::write(&file, source).expect("a file in a folder of our own");
    let status = Command::new("cc").args(flags).arg(&file).arg("-o").arg(&program).status().expect("a C compiler");
    assert!(status.success());
    program.to_str().expect("a path that is text").to_owned()
}

/// Not of dash, which ends by _exit(), past all reports.
const SHELL: &str = "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; echo $i; echo error >&2; exit 5";

#[test]
fn whole() {
    let output = output(&mut testinger(&["--verbose"], &["bash", "-c", SHELL]));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(5), "20000\n"));
    assert!(text(&output.stderr).starts_with("error\n"), "{output:?}");
    assert_eq!(preemptions(&output.stderr), Some(0), "{output:?}");
}

#[test]
fn in_slices() {
    let output = output(&mut testinger(&["--slice", "200", "--verbose"], &["bash", "-c", SHELL]));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(5), "20000\n"));
    assert!(preemptions(&output.stderr) > Some(3), "{output:?}");
}

#[test]
fn killed_by_a_signal() {
    let output = output(&mut testinger(&["-s", "200"], &["sh", "-c", "kill -USR1 $$; echo still here"]));
    assert_eq!((output.status.signal(), output.stdout.len()), (Some(libc::SIGUSR1), 0), "{output:?}");
}

/// What it starts runs in the same way, and after an exec too.
#[test]
fn whole_tree() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let reports = folder.path().join("reports");
    let mut command = testinger(&["-s", "200"], &["bash", "-c", "bash -c ':'; bash -c 'exec bash -c :'; exit"]);
    let output = output(command.env("TESTINGER_VERBOSE", &reports));
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(std::fs::read_to_string(reports).expect("reports were written").lines().count(), 3);
}

#[test]
fn main_that_ends_its_thread() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = r#"
        #include <pthread.h>
        #include <stdio.h>
        #include <unistd.h>
        static void *work(void *unused) { usleep(50000); puts("the last thread"); return unused; }
        int main(void) {
            pthread_t thread;
            pthread_create(&thread, NULL, work, NULL);
            pthread_exit(NULL);
        }
    "#;
    let program = build(folder.path(), source, &["-pthread"]);
    let output = output(&mut testinger(&["-s", "200"], &[&program]));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "the last thread\n"), "{output:?}");
}

/// A signal that the program has blocked comes when it opens its mask, and at no other time.
#[test]
fn blocked_signals_between_slices() {
    // That of inger's own timer is the program's too.
    for (signal, timer) in [("SIGVTALRM", "ITIMER_VIRTUAL"), ("SIGALRM", "ITIMER_REAL")] {
        blocked_between_slices(&[&format!("-DSIGNAL={signal}"), &format!("-DTIMER={timer}")]);
    }
}

fn blocked_between_slices(defines: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = r#"
        #define _GNU_SOURCE
        #include <signal.h>
        #include <sys/time.h>
        static volatile int blocked, early, caught;
        static void handle(int unused) { (void) unused; caught++; early += blocked; }
        int main(void) {
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGNAL);
            signal(SIGNAL, handle);
            struct itimerval timer = { { 0, 1000 }, { 0, 1000 } };
            setitimer(TIMER, &timer, 0);
            while (caught < 50) {
                sigprocmask(SIG_BLOCK, &set, 0);
                blocked = 1;
                for (volatile int i = 0; i < 1000000; i++)
                    ;
                blocked = 0;
                sigprocmask(SIG_UNBLOCK, &set, 0);
            }
            return early;
        }
    "#;
    let program = build(folder.path(), source, defines);
    for options in [&[][..], &["-s", "200"]] {
        let output = output(&mut testinger(options, &["timeout", "60", &program]));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

/// As deep as the limit of the process allows.
#[test]
fn deep_stack() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = r#"
        static int use(int depth) {
            volatile char large[1 << 16];
            large[0] = depth;
            return depth ? use(depth - 1) + large[0] - (char) depth : 0;
        }
        int main(void) { return use(100); }
    "#;
    let program = build(folder.path(), source, &["-O0"]);
    let output = output(&mut testinger(&[], &["sh", "-c", &format!("ulimit -s 8192; {program}")]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn what_runs_plainly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = "#include <stdio.h>\nint main(void) { puts(\"static\"); return 3; }\n";
    let program = build(folder.path(), source, &["-static"]);
    let plain = output(&mut testinger(&["-v", "-s", "200"], &[&program]));
    assert_eq!((plain.status.code(), text(&plain.stdout), text(&plain.stderr)), (Some(3), "static\n", ""));

    let skipped = output(testinger(&["-v"], &["bash", "-c", SHELL]).env("LIBGOTCHA_SKIP", "bash"));
    assert_eq!((skipped.status.code(), text(&skipped.stdout)), (Some(5), "20000\n"));
    assert!(text(&skipped.stderr).contains("runs plainly: ") && text(&skipped.stderr).contains("LIBGOTCHA_SKIP"));
    assert_eq!(output(testinger(&[], &["true"]).env("LIBGOTCHA_SKIP", "true")).stderr.len(), 0);
}

#[test]
fn wrong_use() {
    for options in [&["--slice", "0", "true"][..], &["--slice", "x", "true"], &["--wrong", "true"], &[]] {
        let output = output(&mut testinger(options, &[]));
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{options:?}");
        assert!(text(&output.stderr).contains("testinger --help"), "{options:?}");
    }
    assert_eq!(output(&mut testinger(&[], &["/nonexistent"])).status.code(), Some(127));
    let help = output(&mut testinger(&["--help"], &[]));
    assert!(help.status.success() && text(&help.stdout).starts_with("Usage: testinger"));
}
