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

/// A kernel thread keeps an idle libset for its next launch; where there are no others, somebody else gets it.
#[test]
fn of_libsets_that_others_keep() {
    if is_child("of_libsets_that_others_keep") {
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let idle = std::thread::spawn(move || {
            assert!(launch(|| (), u64::MAX).unwrap().is_completion());
            done.send(()).unwrap();
            std::thread::park();
            assert!(launch(|| (), u64::MAX).unwrap().is_completion());
        });
        is_done.recv().unwrap();
        let both = [launch(pause, u64::MAX).unwrap(), launch(pause, u64::MAX).unwrap()];
        assert!(matches!(launch(pause, u64::MAX), Err(Error::TooManyLibsets { .. })));
        drop(both);
        idle.thread().unpark();
        return idle.join().unwrap();
    }
    succeed(child("of_libsets_that_others_keep").env("LIBGOTCHA_NUMGROUPS", "2"));
}

/// The same while they use it: nobody gets one that somebody else has.
#[test]
fn of_libsets_that_others_use() {
    const THREADS: usize = 4;
    const LAUNCHES: usize = 20_000;
    thread_local!(static OWNER: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });
    if is_child("of_libsets_that_others_use") {
        let refused = std::sync::atomic::AtomicUsize::new(0);
        let launch_often = |number: usize| {
            let mut finished = 0;
            while finished < LAUNCHES {
                let is_mine = launch(
                    || {
                        let found = OWNER.replace(number);
                        (0..20).for_each(|_| std::hint::spin_loop());
                        found == 0 && OWNER.get() == number
                    },
                    u64::MAX,
                );
                match is_mine {
                    Ok(is_mine) => {
                        assert_eq!(is_mine.completion(), Some(true));
                        finished += 1;
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::TooManyLibsets { .. }), "{error}");
                        refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        std::thread::yield_now();
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            (1..=THREADS).for_each(|number| {
                _ = scope.spawn({
                    let launch_often = &launch_often;
                    move || launch_often(number)
                })
            })
        });
        // More than one thread at a time has wanted the libset, or the test shows nothing.
        assert!(inger::stats().libsets_made == 1);
        return eprintln!("refused: {refused:?}");
    }
    eprintln!("{}", succeed(child("of_libsets_that_others_use").env("LIBGOTCHA_NUMGROUPS", "1")));
}
