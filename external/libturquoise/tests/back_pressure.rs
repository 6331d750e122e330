//! Fewer libsets than tasks that could use one.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use support::{child, compute, is_child, runtime, watched};
use turquoise::{Config, Runtime};

/// Tasks that compute beyond their quanta; also how many of them had begun and not ended, at most.
fn compute_many(runtime: &Runtime, count: usize) -> usize {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            runtime.spawn(async move {
                for _ in 0..2 {
                    most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                    compute(Duration::from_micros(500));
                    now.fetch_sub(1, SeqCst);
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
                number
            })
        })
        .collect();
    for (number, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.join().unwrap(), number);
    }
    most.load(SeqCst)
}

#[test]
fn a_bound_of_the_runtime() {
    watched(|| {
        let quantum = Duration::from_micros(100);
        let config = Config { threads: 2, quantum, max_started: 3, ..Config::default() };
        let runtime = Runtime::new(config).unwrap();
        let most = compute_many(&runtime, 200);
        assert!((2..=3).contains(&most), "{most}");
        assert_eq!(runtime.stats().waits_for_libsets, 0);
        assert!(runtime.stats().preemptions > 100);
    });
}

/// Nothing fails: tasks wait.
#[test]
fn libsets_run_out() {
    const NAME: &str = "libsets_run_out";
    if is_child(NAME) {
        return watched(|| {
            let runtime = runtime(2, Duration::from_micros(100));
            let most = compute_many(&runtime, 200);
            assert!(most <= 4 && runtime.stats().waits_for_libsets > 0, "{most}: {runtime:?}");
        });
    }
    let output = child(NAME, &[("LIBGOTCHA_NUMGROUPS", "4")]);
    assert!(output.status.success(), "{output:?}");
}

/// Others than the runtime's tasks have them all, and give them back after a while.
#[test]
fn libsets_are_elsewhere() {
    const NAME: &str = "libsets_are_elsewhere";
    if is_child(NAME) {
        return watched(|| {
            let runtime = runtime(2, Duration::from_micros(100));
            let mut others = Vec::new();
            while let Ok(linger) = inger::launch(inger::pause, u64::MAX) {
                others.push(linger);
            }
            let tasks: Vec<_> = (0..4).map(|number| runtime.spawn_fn(move || number)).collect();
            // Both workers try again and again, also at the same time.
            while runtime.stats().waits_for_libsets < 200 {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(tasks.iter().all(|task| !task.is_finished()));
            others.pop();
            for (number, task) in tasks.into_iter().enumerate() {
                assert_eq!(task.join().unwrap(), number);
            }
            compute_many(&runtime, 20);
            assert!(others.len() < 4);
        });
    }
    let output = child(NAME, &[("LIBGOTCHA_NUMGROUPS", "4")]);
    assert!(output.status.success(), "{output:?}");
}

/// The runtime has one itself.
#[test]
fn none_for_tasks() {
    const NAME: &str = "none_for_tasks";
    if is_child(NAME) {
        return watched(|| {
            let failed = Runtime::new(Config::default());
            assert!(matches!(failed, Err(turquoise::Error::TooManyLibsets { .. })), "{failed:?}");
            // What it had is free again.
            assert!(inger::launch(|| (), u64::MAX).is_ok());
        });
    }
    let output = child(NAME, &[("LIBGOTCHA_NUMGROUPS", "1")]);
    assert!(output.status.success(), "{output:?}");
}
