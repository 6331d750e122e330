//! A launch that fails for want of memory or descriptors says so, and leaves nothing behind that a later one misses.

mod support;

use inger::{Error, launch, pause};
use support::{child, is_child, succeed};

/// Sets a soft limit, which the hard one allows.
fn limit(resource: libc::__rlimit_resource_t, value: Option<u64>) {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for both.
    unsafe {
        assert_eq!(libc::getrlimit(resource, &mut limits), 0);
        limits.rlim_cur = value.unwrap_or(limits.rlim_max);
        assert_eq!(libc::setrlimit(resource, &limits), 0);
    }
}

fn address_space_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

const UNFINISHED: usize = 4;

/// Everything has been started: what fails is making a libset, its TCB and its stack, at one point after the other.
fn makes_libsets_under(resource: libc::__rlimit_resource_t, value: impl Fn() -> u64) {
    let _first = launch(pause, u64::MAX).unwrap();
    let value = value();
    limit(resource, Some(value));
    let failed = launch(pause, u64::MAX);
    limit(resource, None);
    match &failed {
        Err(Error::TooManyLibsets { cause } | Error::Unsupported { cause }) => eprintln!("failed: {cause}"),
        Err(Error::Os { .. }) => eprintln!("failed: {}", failed.as_ref().unwrap_err()),
        Err(error) => panic!("{error:?}"),
        Ok(linger) => assert!(linger.yielded()),
    }
    let others: Vec<_> = (0..UNFINISHED).map(|_| launch(pause, u64::MAX).unwrap()).collect();
    assert!(others.iter().all(|linger| linger.yielded()));
    // What functions of a libset that was made in two attempts do.
    let text = launch(|| format!("{:?}", std::fs::metadata("/").unwrap().is_dir()), u64::MAX).unwrap();
    assert_eq!(text.completion().as_deref(), Some("true"));
}

const STEP_BYTES: u64 = 64 << 10;
const STEPS: u64 = 150;

#[test]
fn of_memory() {
    if is_child("of_memory") {
        let step: u64 = std::env::var("STEP").unwrap().parse().unwrap();
        return makes_libsets_under(libc::RLIMIT_AS, || address_space_bytes() + step * STEP_BYTES);
    }
    for engine in ["dlmopen", "clone"] {
        let fails = |step: &u64| {
            let mut command = child("of_memory");
            succeed(command.env("LIBGOTCHA_LOADER", engine).env("STEP", step.to_string())).contains("failed: ")
        };
        let failures = (0..STEPS).filter(fails).count();
        assert!(failures >= 3, "{engine}: only {failures} launches failed");
    }
}

#[test]
fn of_descriptors() {
    if is_child("of_descriptors") {
        return makes_libsets_under(libc::RLIMIT_NOFILE, || 0);
    }
    for engine in ["dlmopen", "clone"] {
        let text = succeed(child("of_descriptors").env("LIBGOTCHA_LOADER", engine));
        assert!(text.contains("Too many open files"), "{engine}: {text}");
    }
}
