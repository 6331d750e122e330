//! A test harness that has a time limit for each test, in one process: a test that hangs is one that fails, and the next one
//! is run. Tests that hang inside a library do no harm to those after them, which find the library as new.
//!
//! `cargo run --release --example harness`

use inger::{Error, timeout};
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_millis(100);

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("addition", || assert_eq!([1, 2, 3].iter().sum::<i32>(), 6)),
    ("wrong", || assert_eq!("one".len(), 4)),
    ("loops", || while std::hint::black_box(true) {}),
    ("sleeps", || std::thread::sleep(Duration::from_secs(3600))),
    ("hangs_in_a_library", || {
        let pattern = c"(a*)(a*)(a*)\\1\\2\\3b";
        let text =
            c"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        // SAFETY: regcomp initialises the regex, and the strings end with NUL.
        unsafe {
            let mut regex = std::mem::zeroed();
            assert_eq!(libc::regcomp(&mut regex, pattern.as_ptr(), libc::REG_EXTENDED), 0);
            libc::regexec(&regex, text.as_ptr(), 0, std::ptr::null_mut(), 0);
        }
    }),
    ("text", || assert_eq!(format!("{:>3}", 7), "  7")),
];

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let mut failures = 0;
    for (name, test) in TESTS {
        let start = Instant::now();
        // A panic goes on in the caller of timeout().
        let outcome = match catch_unwind(|| timeout(LIMIT, *test)) {
            Ok(Ok(())) => "ok".to_string(),
            Ok(Err(Error::TimedOut)) => "FAILED: time is up".to_string(),
            Ok(Err(error)) => format!("FAILED: {error}"),
            Err(panic) => format!("FAILED: {}", panic.downcast_ref::<String>().map_or("panic", |text| text.trim())),
        };
        failures += usize::from(outcome != "ok");
        println!("{name:<20} {:>5} ms  {}", start.elapsed().as_millis(), outcome.lines().next().unwrap_or_default());
    }
    println!("{} tests, {failures} failures", TESTS.len());
    ExitCode::from(u8::from(failures != 0))
}
