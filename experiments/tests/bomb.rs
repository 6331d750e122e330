//! The decompression bomb, in small: whether it is stopped and what it leaves behind, not when.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

struct Decoder {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Decoder {
    /// None: libpng is missing.
    fn start(means: &str, limit_ms: u32) -> Option<Self> {
        let program = env!("CARGO_BIN_EXE_inger-experiments");
        let help = Command::new(program).args(["decode", "--help"]).output().unwrap();
        if !String::from_utf8_lossy(&help.stdout).contains("limit-ms") {
            assert!(std::env::var_os("INGER_CI").is_none(), "libpng is missing");
            println!("skipped: pkg-config does not find libpng");
            return None;
        }
        let limit = format!("--limit-ms={limit_ms}");
        let mut command = Command::new(program);
        let mut child =
            command.args(["decode", means, &limit]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Some(Decoder { child, input, output })
    }

    fn ask(&mut self, request: &str) {
        writeln!(self.input.as_mut().unwrap(), "{request}").unwrap();
    }

    fn number(&mut self) -> u64 {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.split_whitespace().next().unwrap_or_else(|| panic!("it has ended")).parse().unwrap()
    }

    /// How many of them came to their end.
    fn decode(&mut self, what: &str, count: usize) -> u64 {
        self.ask(&format!("{what} {count}"));
        (0..count).map(|_| self.number()).sum()
    }

    fn resident_bytes(&mut self) -> u64 {
        self.ask("memory");
        self.number()
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        drop(self.input.take());
        let status = self.child.wait().unwrap();
        assert!(std::thread::panicking() || status.success());
    }
}

#[test]
fn nothing_stops_it_by_itself() {
    let Some(mut decoder) = Decoder::start("nothing", 10) else { return };
    assert_eq!(decoder.decode("bomb", 1), 1);
}

#[test]
fn a_process_is_stopped() {
    let Some(mut decoder) = Decoder::start("fork", 10) else { return };
    assert_eq!(decoder.decode("bomb", 5), 0);
}

#[test]
fn a_function_is_stopped_and_leaves_nothing_behind() {
    let Some(mut decoder) = Decoder::start("launch", 10) else { return };
    assert_eq!(decoder.decode("bomb", 20), 0);
    let before = decoder.resident_bytes();
    assert_eq!(decoder.decode("bomb", 100), 0);
    let grown = decoder.resident_bytes().saturating_sub(before);
    // Each has begun to fill 400 MB.
    assert!(grown < 2 << 20, "{grown} bytes");
}

#[test]
fn a_function_that_has_the_time_completes() {
    let Some(mut decoder) = Decoder::start("launch", 100_000) else { return };
    assert_eq!(decoder.decode("benign", 20), 20);
    assert_eq!(decoder.decode("bomb", 1), 1);
}
