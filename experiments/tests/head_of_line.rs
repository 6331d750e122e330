//! Head-of-line blocking, in small: who is answered first, not when.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

/// So many that a long request takes 100,000,000.
const STEPS_PER_US: &str = "2000";

/// Sends a long request, and a short one once that is being computed, to a server with one thread. Is the long one
/// answered when the short one is?
fn long_one_is_first(executor: &str) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inger-experiments"));
    command.args(["serve", executor, "--threads=1", "--announce", "--steps-per-us", STEPS_PER_US]);
    let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let address = lines.next().unwrap().unwrap();
    let send = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        stream
    };
    let long = send("/long");
    assert_eq!(lines.next().unwrap().unwrap(), "begins");
    let mut short = send("/");
    let mut answer = [0; 512];
    assert!(short.read(&mut answer).unwrap() > 0);
    long.set_nonblocking(true).unwrap();
    let is_first = match long.peek(&mut answer) {
        Ok(count) => count > 0,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    };
    long.set_nonblocking(false).unwrap();
    assert!((&long).read(&mut answer).unwrap() > 0 && answer.starts_with(b"HTTP/1.1 200"), "it is answered in the end");
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
    is_first
}

#[test]
fn short_requests_wait_for_long_ones_on_tokio() {
    assert!(long_one_is_first("tokio"));
}

#[test]
fn short_requests_pass_long_ones_on_turquoise() {
    assert!(!long_one_is_first("turquoise"));
}
