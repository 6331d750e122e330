//! gdb's backtrace goes from a function's stack to its launcher, before and after a suspension, and from
//! every instruction of a switch.
#![cfg(not(miri))]

mod common;

use common::Task;
use libtimetravel::raw::{self, Gate, Return};
use std::ffi::c_void;
use std::process::Command;

const CHILD: &str = "LIBTIMETRAVEL_GDB_CHILD";

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gdb_test_stop_here() {
    std::hint::black_box(());
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gdb_test_first_launcher(task: &mut Task) {
    std::hint::black_box(task.enter());
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gdb_test_second_launcher(task: &mut Task) {
    std::hint::black_box(task.reenter());
}

unsafe extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, uc: *mut c_void) {
    let mut gate = Gate { defer: 1, pending: 0 };
    // SAFETY: the kernel's ucontext_t; SA_NODEFER and an empty mask; a shadow stack would have ended `enter`.
    unsafe { raw::return_from_signal(uc.cast(), &raw mut gate, Return::Fast) };
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gdb_test_interrupted() {
    // SAFETY: zero is a valid sigaction; the handler has the signature that SA_SIGINFO wants.
    // SA_NODEFER: the fast return does not restore the mask.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
        assert_eq!(libc::raise(libc::SIGUSR1), 0);
    }
}

/// What gdb debugs: this same test, told so by the environment.
fn debuggee() {
    let mut task = Task::new(0, |task| {
        gdb_test_stop_here();
        task.suspend();
        gdb_test_stop_here();
    });
    gdb_test_first_launcher(&mut task);
    gdb_test_second_launcher(&mut task);
    gdb_test_interrupted();
}

/// The output of a gdb that runs `commands` on the child; None, and the reason printed, if there is none.
fn gdb(commands: &[&str]) -> Option<String> {
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-ex", "set confirm off", "-ex", "set debuginfod enabled off"]);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    gdb.arg("--args").arg(std::env::current_exe().unwrap());
    gdb.args(["--exact", "backtraces_cross_the_switch", "--test-threads=1", "--nocapture"]).env(CHILD, "1");
    let output = match gdb.output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: gdb cannot be run: {error}");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if text.contains("ptrace: Operation not permitted") {
        println!("skipped: gdb may not trace");
        return None;
    }
    Some(text)
}

#[test]
fn backtraces_cross_the_switch() {
    if std::env::var_os(CHILD).is_some() {
        return debuggee();
    }
    let Some(text) = gdb(&["break gdb_test_stop_here", "run", "bt", "echo === second\\n", "continue", "bt", "kill"])
    else {
        return;
    };
    let (first, second) = text.split_once("=== second").expect(&text);
    assert!(first.contains("gdb_test_first_launcher"), "{text}");
    assert!(first.contains("start_thread") || first.contains("clone"), "{text}");
    assert!(second.contains("gdb_test_second_launcher"), "{text}");
    assert!(!second.contains("gdb_test_first_launcher"), "{text}");
    assert!(!text.contains("corrupt stack"), "{text}");
}

/// The backtraces after each single step: `count` steps from the start of each symbol, once `first` is reached.
fn backtraces_while_stepping(steps: &[(&str, usize)], first: &str) -> Option<Vec<String>> {
    let script = std::env::temp_dir().join(format!("libtimetravel-gdb-{}-{first}", std::process::id()));
    // In C's syntax, symbols without debug information have addresses.
    let mut lines = String::from("set language c\nhandle SIGUSR1 nostop noprint pass\n");
    for (symbol, count) in steps {
        lines += &format!("tbreak *&{symbol}\ncontinue\nset $n = 0\n");
        lines += &format!("while $n < {count}\nstepi\necho === step\\n\nbt\nset $n = $n + 1\nend\n");
    }
    std::fs::write(&script, lines).unwrap();
    let text = gdb(&[&format!("tbreak {first}"), "run", &format!("source {}", script.display()), "kill"]);
    std::fs::remove_file(&script).unwrap();
    let text = text?;
    let traces: Vec<_> = text.split("=== step").skip(1).map(String::from).collect();
    assert_eq!(traces.len(), steps.iter().map(|(_, count)| count).sum(), "{text}");
    for trace in &traces {
        assert!(trace.contains("start_thread") && !trace.contains("corrupt stack"), "{trace}");
    }
    Some(traces)
}

#[test]
fn every_instruction_of_a_switch_has_a_backtrace() {
    // The last goes on to the completion and beyond; the others stop before the next symbol's start.
    let steps = [("libtimetravel_enter", 24), ("libtimetravel_leave", 38), ("libtimetravel_reenter", 150)];
    let Some(traces) = backtraces_while_stepping(&steps, "gdb_test_first_launcher") else { return };
    let (first, second) = traces.split_at(24 + 38);
    assert!(first.iter().all(|trace| trace.contains("gdb_test_first_launcher")), "{first:#?}");
    assert!(second[..46].iter().all(|trace| trace.contains("gdb_test_second_launcher")), "{second:#?}");
    let completing = second.iter().filter(|trace| trace.contains("#0  <signal handler called>"));
    assert!(completing.count() > 10, "not completed: {second:#?}");
}

#[test]
fn every_instruction_of_a_return_from_a_signal_has_a_backtrace() {
    let steps = [("libtimetravel_return_from_signal", 40)];
    let Some(traces) = backtraces_while_stepping(&steps, "gdb_test_interrupted") else { return };
    assert!(traces.iter().all(|trace| trace.contains("gdb_test_interrupted")), "{traces:#?}");
    assert!(!traces[39].contains("signal handler called"), "not back yet: {}", traces[39]);
}
