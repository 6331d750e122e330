//! Where stopped functions stand: in a library's copy, in `pause`, with others inside.

mod support;

use inger::{Backtrace, Linger, launch, pause, resume};
use std::ffi::{CString, OsString};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{child, compute_for_ever, finish, is_child, slots, succeed};

/// The C library's search for this takes minutes.
#[inline(never)]
fn search_with_libc() -> bool {
    let pattern = CString::new("(a*)(a*)(a*)\\1\\2\\3b").unwrap();
    let text = CString::new("a".repeat(120)).unwrap();
    let mut regex = MaybeUninit::<libc::regex_t>::uninit();
    // SAFETY: the strings end, and the expression is initialised once regcomp has succeeded.
    unsafe {
        assert_eq!(libc::regcomp(regex.as_mut_ptr(), pattern.as_ptr(), libc::REG_EXTENDED), 0);
        let found = libc::regexec(regex.as_ptr(), text.as_ptr(), 0, std::ptr::null_mut(), 0) == 0;
        libc::regfree(regex.as_mut_ptr());
        found
    }
}

/// Where in the trace a function of that name first is.
fn position(trace: &Backtrace, name: &str) -> Option<usize> {
    trace.frames().iter().position(|frame| frame.name().is_some_and(|found| found.contains(name)))
}

/// The names occur in the trace, in this order, and it ends where the function's stack begins.
#[track_caller]
fn assert_trace(trace: &Backtrace, names: &[&str]) {
    let mut after = 0;
    for name in names {
        let rest = &trace.frames()[after..];
        let found = rest.iter().position(|frame| frame.name().is_some_and(|found| found.contains(name)));
        after += found.unwrap_or_else(|| panic!("no {name} in its place in:\n{trace}")) + 1;
    }
    let last = trace.frames().last().and_then(|frame| frame.name());
    assert_eq!(last, Some("libtimetravel_function_base"), "{trace}");
}

#[test]
fn preempted_in_a_library_s_copy() {
    let _slots = slots(1);
    let mut linger = launch(search_with_libc, 20_000).unwrap();
    // It has to get there, on a machine that is busy.
    while position(&linger.backtrace().unwrap(), "regexec").is_none() {
        resume(&mut linger, 20_000).unwrap();
    }
    for _ in 0..5 {
        let trace = linger.backtrace().expect("a search that takes minutes");
        println!("{trace}");
        assert_trace(&trace, &["regexec", "search_with_libc"]);
        // As addr2line takes it.
        let frame = &trace.frames()[position(&trace, "regexec").unwrap()];
        let name = frame.library().and_then(Path::file_name).unwrap();
        assert!(name.to_string_lossy().starts_with("libc"), "{frame}");
        // It is a copy's: the original's address is another one, whose distance from the file's is another.
        let original = libc::regexec as *const () as usize;
        assert_ne!(frame.address() - frame.offset(), original & !0xfff);
        resume(&mut linger, 1_000).unwrap();
    }
}

/// The line that calls it is there, and nothing of what `pause` does.
#[test]
fn paused() {
    #[inline(never)]
    fn pausing() -> u32 {
        pause();
        line!() - 1
    }
    let _slots = slots(1);
    let mut linger = launch(pausing, u64::MAX).unwrap();
    let trace = linger.backtrace().unwrap();
    assert_trace(&trace, &["inger::pause", "pausing"]);
    assert_eq!(position(&trace, "inger::pause"), Some(0), "{trace}");
    let frame = trace.frames()[position(&trace, "pausing").unwrap()].clone();
    let (line, _) = finish(linger, u64::MAX);
    assert!(frame.file().is_some_and(|file| file.ends_with("tests/backtrace.rs")), "{trace}");
    assert_eq!(frame.line(), Some(line), "{trace}");
    assert!(trace.to_string().contains(&format!("tests/backtrace.rs:{line}\n")), "{trace}");
}

/// Functions inside a function that is stopped stand first, and then their launcher.
#[test]
fn with_others_inside() {
    #[inline(never)]
    fn outer() {
        drop(launch(middle, u64::MAX).unwrap());
    }
    #[inline(never)]
    fn middle() {
        drop(launch(inner, u64::MAX).unwrap());
    }
    #[inline(never)]
    fn inner() {
        compute_for_ever();
    }
    let _slots = slots(3);
    // By the time that the innermost has begun.
    let mut linger = launch(outer, 100).unwrap();
    let base = "libtimetravel_function_base";
    let mut trace = linger.backtrace().unwrap();
    while position(&trace, "inner").is_none() {
        resume(&mut linger, 100).unwrap();
        trace = linger.backtrace().unwrap();
    }
    assert_trace(&trace, &["::inner", base, "::middle", base, "::outer"]);
}

/// Taken by a function, of one inside.
#[test]
fn by_a_function() {
    let _slots = slots(2);
    let trace = launch(
        || {
            let mut inner = launch(compute_for_ever, 100).unwrap();
            loop {
                let trace = inner.backtrace().unwrap();
                if position(&trace, "compute_for_ever").is_some() {
                    return trace;
                }
                resume(&mut inner, 100).unwrap();
            }
        },
        u64::MAX,
    );
    assert_trace(&trace.unwrap().completion().unwrap(), &["compute_for_ever"]);
}

/// Also where a preemption was put off, and on donated time.
#[test]
fn preempted_after_a_section() {
    #[inline(never)]
    fn sections() {
        inger::no_preempt(|| support::compute(std::time::Duration::from_millis(1)));
        compute_for_ever();
    }
    let _slots = slots(1);
    for _ in 0..5 {
        let mut linger = launch(sections, 100).unwrap();
        let trace = linger.backtrace().unwrap();
        // Else it was stopped before.
        if position(&trace, "sections").is_some() {
            assert_trace(&trace, &["sections"]);
        }
        for own in ["stop_deferred", "take_pending", "::stop"] {
            assert_eq!(position(&trace, own), None, "{trace}");
        }
    }
}

/// Compiles `function`, C, into `folder`, with what `damage` makes of its assembly.
fn compile(folder: &Path, name: &str, function: &str, damage: impl Fn(String) -> String) -> PathBuf {
    let [source, assembly, object] = ["c", "s", "o"].map(|kind| folder.join(name).with_extension(kind));
    std::fs::write(&source, function).unwrap();
    run(Command::new("cc").args(["-S", "-g", "-O0", "-fPIC", "-o"]).args([&assembly, &source]));
    std::fs::write(&assembly, damage(std::fs::read_to_string(&assembly).unwrap())).unwrap();
    run(Command::new("cc").args(["-c", "-o"]).args([&object, &assembly]));
    object
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// What cannot be read of one source file's debug information says nothing of others'; the names are symbols.
#[test]
fn with_malformed_debug_information() {
    if is_child("with_malformed_debug_information") {
        return walk_through(std::env::var_os("LIBRARY").unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let undefined_abbreviation = |assembly: String| {
        let (code, information) = assembly.split_once(".debug_info").unwrap();
        let mut parts = information.splitn(3, ".uleb128 ");
        let (unit, first, rest) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let (_, rest) = rest.split_once('\n').unwrap();
        format!("{code}.debug_info{unit}.uleb128 {first}.uleb128 0x77\n{rest}")
    };
    let broken = "void broken(void (*next)(void)) { next(); }\n";
    let sound = "void broken(void (*)(void));\nvoid sound(void (*next)(void)) {\n\tbroken(next);\n}\n";
    let objects = [
        compile(folder.path(), "broken", broken, undefined_abbreviation),
        compile(folder.path(), "sound", sound, |assembly| assembly),
    ];
    let library = folder.path().join("libhalf_broken.so");
    run(Command::new("cc").args(["-shared", "-o"]).arg(&library).args(&objects));
    succeed(child("with_malformed_debug_information").env("LIBRARY", &library));
}

/// In a process of its own, since the library's file does not stay.
fn walk_through(library: OsString) {
    let library = CString::new(library.into_encoded_bytes()).unwrap();
    // SAFETY: the library is ours, and stays; the function has that type.
    let sound: extern "C" fn(extern "C" fn()) = unsafe {
        let handle = libc::dlopen(library.as_ptr(), libc::RTLD_NOW);
        assert!(!handle.is_null());
        std::mem::transmute(libc::dlsym(handle, c"sound".as_ptr()))
    };
    extern "C" fn stop() {
        pause();
    }
    let _slots = slots(1);
    let mut linger = launch(|| sound(stop), u64::MAX).unwrap();
    let trace = linger.backtrace().unwrap();
    finish(linger, u64::MAX);
    assert_trace(&trace, &["stop", "broken", "sound"]);
    let frame = |name| &trace.frames()[position(&trace, name).unwrap()];
    assert_eq!(frame("broken").line(), None, "{trace}");
    assert_eq!(frame("sound").line(), Some(3), "{trace}");
}

#[test]
fn of_what_stands_nowhere() {
    let _slots = slots(2);
    assert!(launch(|| 1, u64::MAX).unwrap().backtrace().is_none(), "it has returned");
    assert!(launch(|| 1, 0).unwrap().backtrace().is_none(), "it has not started");
    assert!(Linger::<()>::Poison.backtrace().is_none());
    let ended = launch(
        || {
            // SAFETY: no frame of this function has anything to drop.
            unsafe { libc::pthread_exit(std::ptr::null_mut()) }
        },
        u64::MAX,
    );
    drop(ended.map(|mut linger: Linger<'_, ()>| assert!(linger.backtrace().is_none())));
}

/// Looking does not change what it looks at, wherever that stands.
#[test]
fn goes_on_as_before() {
    let _slots = slots(1);
    let work = || {
        let mut numbers: Vec<u64> = (0..100_000_u64).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        numbers.sort_unstable();
        numbers.iter().fold(0_u64, |sum, number| sum.rotate_left(1) ^ number)
    };
    let expected = work();
    let mut linger = launch(work, 20).unwrap();
    let mut traces = 0;
    while linger.is_continuation() {
        assert!(linger.backtrace().is_some());
        traces += 1;
        resume(&mut linger, 20).unwrap();
    }
    assert!(traces > 10);
    assert_eq!(linger.completion(), Some(expected));
}
