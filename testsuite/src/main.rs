//! testinger: runs a program with libtestinger.so preloaded.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const HELP: &str = "\
Usage: testinger [--slice MICROSECONDS] [--verbose] [--] PROGRAM [ARGUMENT]...

Runs PROGRAM, an ordinary dynamically linked one, and all programs that it starts, with main() inside a preemptible
function. Output, exit status and signals are those of a plain run.

  -s, --slice MICROSECONDS  preempt it whenever so much time has passed, and resume it at once (TESTINGER_SLICE_US);
                            otherwise it runs to completion
  -v, --verbose             say on standard error when a program runs plainly and why, and at exit how often it was
                            preempted (TESTINGER_VERBOSE=1; the path of a file instead of 1: append it there)
  -h, --help                this help

Programs run plainly that are linked statically or set-user-ID (these do not load libtestinger.so, and nothing is said),
that LIBGOTCHA_SKIP names, or in which the library refuses to start. libtestinger.so lies beside this program, or
where TESTINGER_LIBRARY says.
";

fn fail(message: &str) -> ExitCode {
    eprintln!("testinger: {message}\nTry 'testinger --help'.");
    ExitCode::from(125)
}

fn library() -> Option<PathBuf> {
    let library = match std::env::var_os("TESTINGER_LIBRARY") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe().ok()?.with_file_name("libtestinger.so"),
    };
    library.canonicalize().ok()
}

/// The library comes before what is preloaded anyway.
fn preloaded(library: PathBuf) -> OsString {
    let mut list = library.into_os_string();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        list.push(":");
        list.push(others);
    }
    list
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    let mut command_environment: Vec<(&str, OsString)> = Vec::new();
    while let Some(option) = arguments.next_if(|argument| argument.as_encoded_bytes().starts_with(b"-")) {
        match option.to_str() {
            Some("--") => break,
            Some("-h" | "--help") => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            Some("-v" | "--verbose") => command_environment.push(("TESTINGER_VERBOSE", "1".into())),
            Some("-s" | "--slice") => match arguments.next() {
                Some(slice) if slice.to_str().is_some_and(|text| text.parse::<u64>().is_ok_and(|us| us > 0)) => {
                    command_environment.push(("TESTINGER_SLICE_US", slice));
                }
                _ => return fail("--slice needs a number of microseconds"),
            },
            _ => return fail(&format!("unknown option {}", option.to_string_lossy())),
        }
    }
    let Some(program) = arguments.next() else { return fail("no program is named") };
    let Some(library) = library() else {
        return fail("libtestinger.so is not there: build it, or set TESTINGER_LIBRARY");
    };
    let mut command = Command::new(&program);
    command.args(arguments).envs(command_environment).env("LD_PRELOAD", preloaded(library));
    let error = command.exec();
    eprintln!("testinger: {}: {error}", program.to_string_lossy());
    ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}
