//! What programs do, one behaviour at a time: outside, and inside a function in slices of 50 µs, where it
//! cannot tell. Each has its own process, and is repeated until it was preempted at least 200 times.

#[path = "support/c.rs"]
mod c;

use c::{VARIANTS, build, describe, run, scratch, start};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

/// Builds a program of tests/behaviours, in two of the variants, and runs all that is in it.
fn unchanged_inside(source: &str, libraries: &[&str], arguments: &[&OsStr]) {
    let folder = scratch();
    for (variant, flags) in [VARIANTS[0], VARIANTS[2]] {
        let program = folder.path().join(variant);
        let libraries: Vec<_> = ["-linger"].iter().chain(libraries).copied().collect();
        build(&Path::new("tests/behaviours").join(source), &program, flags, &libraries);
        let names = start(&program, &[], &[]);
        assert!(names.status.success(), "{}", describe(source, &names));
        let names = String::from_utf8(names.stdout).expect("names are text");
        assert!(names.lines().count() > 3, "{source} has nothing in it");
        for name in names.lines() {
            let begin = Instant::now();
            let arguments: Vec<_> = [name.as_ref()].iter().chain(arguments).copied().collect();
            let output = start(&program, &arguments, &[]);
            assert!(output.status.success(), "{}", describe(&format!("{source}, {name} ({variant})"), &output));
            println!("{variant} {:?} {}", begin.elapsed(), String::from_utf8_lossy(&output.stdout).trim_end());
        }
    }
}

#[test]
fn input_and_output() {
    unchanged_inside("io.c", &[], &[]);
}

#[test]
fn signals_and_timers() {
    unchanged_inside("signals.c", &[], &[]);
}

#[test]
fn processes() {
    unchanged_inside("processes.c", &[], &[]);
}

#[test]
fn threads() {
    unchanged_inside("threads.c", &[], &[]);
}

#[test]
fn threads_of_cplusplus() {
    unchanged_inside("threads.cpp", &[], &[]);
}

#[test]
fn jumps_and_contexts() {
    unchanged_inside("jumps.c", &[], &[]);
}

#[test]
fn memory_and_stacks() {
    unchanged_inside("memory.c", &[], &[]);
}

#[test]
fn floating_point() {
    unchanged_inside("floating.c", &["-lm"], &[]);
}

#[test]
fn locales_name_services_and_plugins() {
    let folder = scratch();
    let plugin = folder.path().join("plugin.so");
    let source = "tests/behaviours/plugin.c";
    run(c::compiler().args(["-O1", "-shared", "-fPIC", source, "-lm", "-o"]).arg(&plugin));
    unchanged_inside("libraries.c", &["-lm", "-ldl"], &[plugin.as_os_str()]);
}
