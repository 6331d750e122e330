//! The variables LIBGOTCHA_*: each in a child, since they are read once.

mod support;

use inger::{Error, concurrency_limit, launch, pause, timeout};
use std::process::Command;
use std::time::Duration;
use support::{child, is_child, succeed};

/// What the library has printed, in the child's standard error.
fn own_lines(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| line.starts_with("libgotcha") || line.starts_with("inger")).collect()
}

fn with(test: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = child(test);
    command.envs(variables.iter().copied());
    command
}

/// Launches until no libset is left; how many functions were unfinished then.
fn launches_possible() -> (usize, Error) {
    let mut lingers = Vec::new();
    loop {
        match launch(pause, u64::MAX) {
            Ok(linger) => lingers.push(linger),
            Err(error) => return (lingers.len(), error),
        }
    }
}

#[test]
fn numgroups_caps() {
    const NAME: &str = "numgroups_caps";
    if !is_child(NAME) {
        for limit in ["0", "1", "3"] {
            let stderr = succeed(&mut with(NAME, &[("LIBGOTCHA_NUMGROUPS", limit)]));
            assert!(own_lines(&stderr).is_empty(), "{stderr}");
        }
        return;
    }
    let limit = std::env::var("LIBGOTCHA_NUMGROUPS").unwrap().parse().unwrap();
    let (count, error) = launches_possible();
    assert_eq!(count, limit);
    assert_eq!(concurrency_limit(), limit);
    assert!(matches!(error, Error::TooManyLibsets { .. }), "{error:?}");
    assert!(error.to_string().contains(&limit.to_string()), "{error}");
}

#[test]
fn skip_makes_it_dormant() {
    const NAME: &str = "skip_makes_it_dormant";
    if !is_child(NAME) {
        let path = std::env::current_exe().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        for list in [name.to_owned(), format!("other:{name}"), format!("{name}:other")] {
            let stderr = succeed(&mut with(NAME, &[("LIBGOTCHA_SKIP", &list)]));
            assert!(own_lines(&stderr).is_empty(), "{stderr}");
        }
        return;
    }
    // Every launch, and nothing else, fails.
    for _ in 0..2 {
        let error = launch(|| (), u64::MAX).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().contains("LIBGOTCHA_SKIP"), "{error}");
    }
    pause();
    assert_eq!(inger::no_preempt(|| 1), 1);
}

#[test]
fn skip_of_others_does_nothing() {
    const NAME: &str = "skip_of_others_does_nothing";
    if !is_child(NAME) {
        let stderr = succeed(&mut with(NAME, &[("LIBGOTCHA_SKIP", "other:environmen:")]));
        assert!(own_lines(&stderr).is_empty(), "{stderr}");
        return;
    }
    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
}

#[test]
fn nonsense_gets_one_line_and_is_ignored() {
    const NAME: &str = "nonsense_gets_one_line_and_is_ignored";
    if !is_child(NAME) {
        for (variable, value) in [
            ("LIBGOTCHA_NUMGROUPS", "many"),
            ("LIBGOTCHA_NUMGROUPS", "-1"),
            ("LIBGOTCHA_NUMGROUPS", ""),
            ("LIBGOTCHA_NUMGROUPS", "12x"),
            ("LIBGOTCHA_NUMGROUPS", "99999999999999999999999"),
            ("LIBGOTCHA_LOADER", "magic"),
            ("LIBGOTCHA_TRACE", "everything"),
            ("LIBGOTCHA_TRACE", "calls,everything,signals"),
            ("LIBGOTCHA_NUMGRUOPS", "3"),
        ] {
            let stderr = succeed(&mut with(NAME, &[(variable, value)]));
            let lines = own_lines(&stderr);
            assert_eq!(lines.len(), 1, "{variable}={value}: {stderr}");
            assert!(lines[0].contains(variable), "{}", lines[0]);
        }
        return;
    }
    for _ in 0..3 {
        assert!(launch(|| (), u64::MAX).unwrap().is_completion());
    }
    assert!(concurrency_limit() >= 11);
}

/// What is traced is told, and nothing else, and it does what it does without.
#[test]
fn traces() {
    const NAME: &str = "traces";
    if !is_child(NAME) {
        let stderr_with = |words| {
            let mut command = with(NAME, &[("LIBGOTCHA_TRACE", words)]);
            let output = support::output(&mut command);
            assert!(output.status.success(), "{output:?}");
            // By the C library, from inside.
            assert!(String::from_utf8_lossy(&output.stdout).contains("1.500 text 12\n"), "{output:?}");
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        let count = |stderr: &str, what: &str| {
            let lines = own_lines(stderr).into_iter();
            lines.filter(|line| line.split(' ').nth(2) == Some(&format!("{what}:"))).count()
        };
        for (words, traced) in [
            ("", [false, false, false]),
            ("libsets", [true, false, false]),
            ("calls", [false, true, false]),
            ("signals", [false, false, true]),
            ("signals,libsets,calls", [true, true, true]),
        ] {
            let stderr = stderr_with(words);
            let found = ["libsets", "calls", "signals"].map(|what| count(&stderr, what) > 0);
            assert_eq!(found, traced, "{words}: {stderr}");
            for (word, line) in [
                ("calls", "libset 1: malloc"),
                ("calls", "libset 1: printf"),
                ("calls", "libset 1: raise"),
                ("signals", "preempted, after the deadline by "),
                ("signals", "expiry: preemption is deferred, after the deadline by "),
                ("signals", "the program's: signal 14"),
            ] {
                assert_eq!(stderr.contains(line), words.contains(word), "{words}, {line}: {stderr}");
            }
        }
        return;
    }
    extern "C" fn ignore(_signal: libc::c_int) {}
    // SAFETY: the handler does nothing; the format fits its arguments.
    unsafe { libc::signal(libc::SIGALRM, ignore as *const () as usize) };
    let work = || {
        let text = std::ffi::CString::new("text").unwrap();
        // SAFETY: as above; there is no such signal, and no such process.
        unsafe {
            libc::printf(c"%.3f %s %d\n".as_ptr(), 1.5, text.as_ptr(), 12);
            assert_eq!(libc::kill(i32::MAX, 0), -1);
            assert_eq!(*libc::__errno_location(), libc::ESRCH);
            libc::raise(libc::SIGALRM);
        }
        inger::no_preempt(|| support::compute(Duration::from_millis(5)));
        support::compute(Duration::from_millis(5));
        7
    };
    assert_eq!(support::finish(launch(work, 1_000).unwrap(), 1_000).0, 7);
}

#[test]
fn the_original_s_variables_are_silent() {
    const NAME: &str = "the_original_s_variables_are_silent";
    if !is_child(NAME) {
        let obsolete = ["NOGLOBALS", "ABORTSEGV", "NODYNAMIC", "SHAREDLIBC"].map(|name| format!("LIBGOTCHA_{name}"));
        let variables: Vec<_> = obsolete.iter().map(|name| (name.as_str(), "1")).collect();
        let stderr = succeed(&mut with(NAME, &variables));
        assert!(own_lines(&stderr).is_empty(), "{stderr}");
        return;
    }
    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
}

/// They are read once: what the program sets later changes nothing.
#[test]
fn are_read_at_the_first_launch_only() {
    const NAME: &str = "are_read_at_the_first_launch_only";
    if !is_child(NAME) {
        let stderr = succeed(&mut child(NAME));
        assert!(own_lines(&stderr).is_empty(), "{stderr}");
        return;
    }
    assert!(launch(|| (), u64::MAX).unwrap().is_completion());
    // SAFETY: this process has no other thread that uses the environment.
    unsafe { std::env::set_var("LIBGOTCHA_NUMGROUPS", "nonsense") };
    assert!(launches_possible().0 >= 11);
}

#[test]
fn without_fsgsbase_it_works_too() {
    const NAME: &str = "without_fsgsbase_it_works_too";
    if !is_child(NAME) {
        succeed(&mut with(NAME, &[("LIBGOTCHA_NOFSGSBASE", "1")]));
        return;
    }
    for _ in 0..100 {
        let work = || {
            support::compute(Duration::from_micros(300));
            format!("{:?}", std::thread::current().id())
        };
        support::finish(launch(work, 50).unwrap(), 50);
    }
}

/// Before anything was launched, which it must not make impossible.
#[test]
fn the_limit_may_be_asked_first() {
    const NAME: &str = "the_limit_may_be_asked_first";
    if !is_child(NAME) {
        succeed(&mut child(NAME));
        let path = std::env::current_exe().unwrap();
        succeed(&mut with(NAME, &[("LIBGOTCHA_SKIP", path.file_name().unwrap().to_str().unwrap())]));
        return;
    }
    let is_skipped = std::env::var_os("LIBGOTCHA_SKIP").is_some();
    assert_eq!(concurrency_limit() >= 11, !is_skipped);
    let result = timeout(Duration::from_millis(1), support::compute_for_ever);
    assert!(if is_skipped { matches!(result, Err(Error::Unsupported { .. })) } else { result == Err(Error::TimedOut) });
}
