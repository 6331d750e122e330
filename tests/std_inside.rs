//! What ordinary programs do, inside a function that is preempted all the time: files, processes,
//! sleeping, waiting for others; and what must be the same on both sides.

mod support;

use inger::{launch, pause, resume};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::{compute, finish, slots};

/// Runs `work` to completion in slices, and at least in some.
#[track_caller]
fn sliced<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let (result, slices) = finish(launch(work, 50).unwrap(), 50);
    assert!(slices > 2, "only {slices} slices");
    result
}

#[test]
fn files() {
    let _slots = slots(1);
    let path = std::env::temp_dir().join(format!("inger-test-{}", std::process::id()));
    let text = sliced(|| {
        for round in 0..20 {
            let mut file = std::fs::File::create(&path).unwrap();
            for number in 0..100 {
                writeln!(file, "{round} {number}").unwrap();
            }
            drop(file);
            let read = std::fs::read_to_string(&path).unwrap();
            assert_eq!(read.lines().count(), 100);
        }
        assert!(std::fs::metadata(&path).unwrap().is_file());
        assert!(std::fs::read_dir(std::env::temp_dir()).unwrap().any(|entry| entry.unwrap().path() == path));
        let missing = std::fs::File::open(path.with_extension("missing")).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
        std::fs::read_to_string(&path).unwrap()
    });
    assert!(text.starts_with("19 0\n"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    std::fs::remove_file(&path).unwrap();
}

/// Descriptors are the process's: opened inside, used outside, and the other way round.
#[test]
fn descriptors_cross_the_boundary() {
    let _slots = slots(1);
    let (mut reader, mut writer) = support::pipe();
    let mut writer_inside = writer.try_clone().unwrap();
    let file = launch(
        move || {
            writer_inside.write_all(b"inside ").unwrap();
            std::fs::File::open("/proc/self/stat").unwrap()
        },
        u64::MAX,
    );
    let mut file = file.unwrap().completion().unwrap();
    writer.write_all(b"outside").unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "inside outside");
    text.clear();
    file.read_to_string(&mut text).unwrap();
    assert!(text.starts_with(&std::process::id().to_string()));
}

#[test]
fn environment_and_working_directory_are_the_process_s() {
    let _slots = slots(1);
    let (path, directory) = (std::env::var_os("PATH"), std::env::current_dir().unwrap());
    let inside = launch(|| (std::env::var_os("PATH"), std::env::current_dir().unwrap(), std::process::id()), u64::MAX);
    assert_eq!(inside.unwrap().completion(), Some((path, directory, std::process::id())));
}

#[test]
fn environment_is_one() {
    const NAME: &str = "environment_is_one";
    if !support::is_child(NAME) {
        support::succeed(&mut support::child(NAME));
        return;
    }
    // SAFETY: this process has no other thread that uses the environment.
    let inside = launch(|| unsafe { std::env::set_var("INGER_INSIDE", "1") }, u64::MAX);
    assert!(inside.unwrap().is_completion());
    assert_eq!(std::env::var("INGER_INSIDE").as_deref(), Ok("1"));
    // SAFETY: as above.
    unsafe { std::env::set_var("INGER_OUTSIDE", "2") };
    let inside = launch(|| std::env::var("INGER_OUTSIDE"), u64::MAX);
    assert_eq!(inside.unwrap().completion(), Some(Ok("2".into())));
    // A child of a function has both.
    let inside = launch(
        || Command::new("/bin/sh").args(["-c", "echo $INGER_INSIDE$INGER_OUTSIDE"]).output().unwrap().stdout,
        u64::MAX,
    );
    assert_eq!(inside.unwrap().completion().unwrap(), b"12\n");
}

#[test]
fn output() {
    const NAME: &str = "output";
    if !support::is_child(NAME) {
        let output = support::output(&mut support::child(NAME));
        assert!(output.status.success(), "{output:?}");
        let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        for number in 0..200 {
            assert_eq!(stdout.matches(&format!("[out {number}]")).count(), 1, "{stdout}");
            assert_eq!(stderr.matches(&format!("[err {number}]")).count(), 1, "{stderr}");
        }
        assert_eq!(stdout.matches("[outside]").count(), 1);
        return;
    }
    sliced(|| {
        for number in 0..200 {
            println!("[out {number}]");
            eprintln!("[err {number}]");
        }
        // No newline: still in the buffer when the function completes.
        print!("[outside");
    });
    println!("]");
}

#[test]
fn processes() {
    let _slots = slots(1);
    sliced(|| {
        for number in 0..5 {
            let output = Command::new("/bin/sh").arg("-c").arg(format!("echo out {number}; exit {number}")).output();
            let output = output.unwrap();
            assert_eq!(output.stdout, format!("out {number}\n").into_bytes());
            assert_eq!(output.status.code(), Some(number));
        }
        let mut cat = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        cat.stdin.take().unwrap().write_all(b"through cat").unwrap();
        assert_eq!(cat.wait_with_output().unwrap().stdout, b"through cat");
        assert!(Command::new("/nonexistent/program").spawn().is_err());
    });
}

/// A sleep that is interrupted a hundred times takes as long as one that is not.
#[test]
fn sleeping() {
    let _slots = slots(1);
    for ms in [1, 10, 300] {
        let time = Duration::from_millis(ms);
        let start = Instant::now();
        let (elapsed, slices) = finish(
            launch(
                || {
                    let start = Instant::now();
                    thread::sleep(time);
                    start.elapsed()
                },
                100,
            )
            .unwrap(),
            100,
        );
        assert!(elapsed >= time, "{elapsed:?} instead of {time:?}");
        // What interruptions added would be 50 us of timer slack each, and more the longer it takes.
        assert!(start.elapsed() < time + Duration::from_millis(500), "{:?} instead of {time:?}", start.elapsed());
        // On a busy machine a slice takes as long as other threads have the processor, many milliseconds.
        assert!(ms < 300 || slices > 3, "only {slices} slices");
    }
}

/// A caller's own sleep is not cut short by an expiry that has nothing left to time.
#[test]
fn sleeping_outside_after_a_launch() {
    let _slots = slots(1);
    for _ in 0..5 {
        assert!(launch(|| (), 3_000).unwrap().is_completion());
        let start = Instant::now();
        // SAFETY: a plain call.
        assert_eq!(unsafe { libc::usleep(10_000) }, 0);
        assert!(start.elapsed() >= Duration::from_millis(10));
    }
}

/// A system call that is interrupted by a preemption does not show it: `read`, not `read_to_end`, since
/// the latter retries.
#[test]
fn reading_from_a_pipe() {
    let _slots = slots(1);
    let (mut reader, mut writer) = support::pipe();
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..20_u8 {
                thread::sleep(Duration::from_millis(1));
                writer.write_all(&[number]).unwrap();
            }
        });
        let bytes = sliced(move || {
            let mut bytes = Vec::new();
            let mut byte = [0];
            while reader.read(&mut byte).expect("no interruption is visible") == 1 {
                bytes.push(byte[0]);
            }
            bytes
        });
        assert_eq!(bytes, (0..20).collect::<Vec<_>>());
    });
}

#[test]
fn sockets() {
    let _slots = slots(1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(5));
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"ping").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "pong");
        });
        sliced(|| {
            let (mut stream, _) = listener.accept().expect("no interruption is visible");
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"ping");
            // Nothing comes for 20 ms, exactly.
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let start = Instant::now();
            let error = stream.read(&mut word).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            assert!(start.elapsed() >= Duration::from_millis(19), "{:?}", start.elapsed());
            stream.write_all(b"pong").unwrap();
        });
    });
}

fn errno() -> i32 {
    // SAFETY: a plain call; the address is this thread's.
    unsafe { *libc::__errno_location() }
}

fn set_errno(value: i32) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value }
}

#[test]
fn errno_is_each_side_s_own() {
    let _slots = slots(1);
    set_errno(41);
    let mut linger = launch(
        || {
            set_errno(42);
            for _ in 0..10 {
                pause();
                if errno() != 42 {
                    return Err(errno());
                }
            }
            compute(Duration::from_millis(2));
            Ok(errno())
        },
        u64::MAX,
    )
    .unwrap();
    while linger.is_continuation() {
        assert_eq!(errno(), 41);
        resume(&mut linger, 200).unwrap();
    }
    assert_eq!(errno(), 41);
    assert_eq!(linger.completion(), Some(Ok(42)));
    // Failed calls inside set it inside.
    let inside = launch(
        || {
            // SAFETY: a plain call, which fails.
            let result = unsafe { libc::close(-1) };
            (result, std::io::Error::last_os_error().raw_os_error())
        },
        u64::MAX,
    );
    assert_eq!(inside.unwrap().completion(), Some((-1, Some(libc::EBADF))));
    assert_eq!(errno(), 41);
    assert!(launch(support::compute_for_ever, 100).unwrap().is_continuation());
    assert_eq!(errno(), 41, "after a timeout and a drop");
}

unsafe extern "C" {
    fn fegetround() -> i32;
    fn fesetround(round: i32) -> i32;
}
const TO_NEAREST: i32 = 0;
const DOWNWARD: i32 = 0x400;
const UPWARD: i32 = 0x800;

fn rounding() -> (i32, bool) {
    let (one, three) = std::hint::black_box((1.0_f64, 3.0_f64));
    // SAFETY: a plain call.
    (unsafe { fegetround() }, one / three * three < one)
}

fn set_rounding(round: i32) {
    // SAFETY: a plain call.
    assert_eq!(unsafe { fesetround(round) }, 0);
}

#[test]
fn rounding_mode_is_each_side_s_own() {
    let _slots = slots(1);
    set_rounding(UPWARD);
    let mut linger = launch(
        || {
            let inherited = rounding().0;
            set_rounding(DOWNWARD);
            for _ in 0..10 {
                pause();
                assert_eq!(rounding(), (DOWNWARD, true));
            }
            compute(Duration::from_millis(2));
            (inherited, rounding().0)
        },
        u64::MAX,
    )
    .unwrap();
    while linger.is_continuation() {
        assert_eq!(rounding(), (UPWARD, false));
        resume(&mut linger, 200).unwrap();
    }
    assert_eq!(rounding().0, UPWARD);
    // As a thread, it starts with its creator's.
    assert_eq!(linger.completion(), Some((UPWARD, DOWNWARD)));
    set_rounding(TO_NEAREST);
    // Set outside while a function is paused: each keeps its own.
    let mut linger = launch(
        || {
            pause();
            rounding().0
        },
        u64::MAX,
    )
    .unwrap();
    set_rounding(DOWNWARD);
    resume(&mut linger, u64::MAX).unwrap();
    assert_eq!((linger.completion(), rounding().0), (Some(TO_NEAREST), DOWNWARD));
    set_rounding(TO_NEAREST);
}

#[test]
fn random_numbers_and_hash_maps() {
    let _slots = slots(1);
    let sum = sliced(|| {
        let mut map = std::collections::HashMap::new();
        for number in 0..100_000_u64 {
            *map.entry(number * 7919 % 1000).or_insert(0) += number;
        }
        map.values().sum::<u64>()
    });
    assert_eq!(sum, 99_999 * 100_000 / 2);
}

#[test]
fn time() {
    let _slots = slots(1);
    let before = std::time::SystemTime::now();
    let inside = launch(|| (std::time::SystemTime::now(), Instant::now()), u64::MAX).unwrap().completion().unwrap();
    assert!(inside.0 >= before && inside.0 <= std::time::SystemTime::now());
    assert!(inside.1 <= Instant::now());
}
