//! A panic inside a function goes on in whoever runs it.

mod support;

use inger::{Error, Linger, launch, pause, resume, timeout};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use support::{compute, finish, slots};

/// The message of a panic, if it has one.
fn text_of(payload: &(dyn std::any::Any + Send)) -> &str {
    let literal = payload.downcast_ref::<&str>().copied();
    literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default()
}

/// Silences the panics that are meant: those of functions, which the harness cannot capture.
fn quietly() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Meant>() && !text_of(info.payload()).starts_with("meant") {
                hook(info);
            }
        }));
    });
}

#[derive(Debug, PartialEq)]
struct Meant(u64, String);

#[test]
fn in_launch() {
    quietly();
    let _slots = slots(1);
    let payload =
        catch_unwind(|| launch(|| -> u32 { panic!("meant: {}", std::hint::black_box(7)) }, u64::MAX)).unwrap_err();
    assert_eq!(payload.downcast_ref::<String>().unwrap(), "meant: 7");
    assert!(!std::thread::panicking());
    assert_eq!(launch(|| 5, u64::MAX).unwrap().completion(), Some(5));
}

#[test]
fn in_resume_leaves_poison() {
    quietly();
    let _slots = slots(1);
    let mut linger = launch(
        || -> u32 {
            pause();
            std::panic::panic_any(Meant(1 << 40, "intact".into()))
        },
        u64::MAX,
    )
    .unwrap();
    let payload = catch_unwind(AssertUnwindSafe(|| drop(resume(&mut linger, u64::MAX)))).unwrap_err();
    assert_eq!(*payload.downcast::<Meant>().unwrap(), Meant(1 << 40, "intact".into()));
    assert!(matches!(linger, Linger::Poison));
    assert!(!linger.is_completion() && !linger.is_continuation() && !linger.yielded());
    assert!(matches!(resume(&mut linger, u64::MAX), Ok(Linger::Poison)));
    assert_eq!(linger.completion(), None);
    assert_eq!(launch(std::thread::panicking, u64::MAX).unwrap().completion(), Some(false));
}

#[test]
fn unwinding_runs_destructors_inside() {
    struct Count<'a>(&'a AtomicUsize);
    impl Drop for Count<'_> {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            self.0.fetch_add(1, Relaxed);
        }
    }
    quietly();
    let _slots = slots(1);
    let drops = AtomicUsize::new(0);
    let captured = Count(&drops);
    let work = || {
        let _captured = captured;
        let _local = Count(&drops);
        panic!("meant");
    };
    assert!(catch_unwind(AssertUnwindSafe(|| launch(work, u64::MAX).map(|_: Linger<'_, ()>| ()))).is_err());
    assert_eq!(drops.load(Relaxed), 2);
}

#[test]
fn caught_inside_it_does_not_show() {
    quietly();
    let _slots = slots(1);
    for _ in 0..200 {
        let linger = launch(|| catch_unwind(|| panic!("meant")).is_err(), 20).unwrap();
        assert!(finish(linger, 20).0);
    }
}

/// A function that is stopped in the middle of unwinding is not panicking outside.
#[test]
fn stopped_while_unwinding() {
    struct Slow;
    impl Drop for Slow {
        fn drop(&mut self) {
            pause();
            compute(Duration::from_millis(5));
        }
    }
    quietly();
    let _slots = slots(2);
    let work = || -> () {
        let _slow = Slow;
        panic!("meant");
    };
    let mut linger = launch(work, u64::MAX).unwrap();
    assert!(linger.yielded());
    assert!(!std::thread::panicking());
    resume(&mut linger, 100).unwrap();
    assert!(linger.is_continuation() && !linger.yielded());
    // Both panic at the same time, one in the other's gap.
    assert!(catch_unwind(|| panic!("meant too")).is_err());
    assert!(catch_unwind(|| launch(|| panic!("meant too"), u64::MAX).map(|_: Linger<'_, ()>| ())).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| drop(resume(&mut linger, u64::MAX)))).is_err());
    assert!(matches!(linger, Linger::Poison));
}

#[test]
fn in_timeout() {
    quietly();
    let _slots = slots(1);
    let result = catch_unwind(|| timeout(Duration::from_secs(10), || -> Result<(), Error> { panic!("meant") }));
    assert!(result.is_err());
}

#[test]
fn in_a_nested_function_passes_through_both() {
    quietly();
    let _slots = slots(2);
    let result = catch_unwind(|| {
        launch(|| launch(|| -> u8 { panic!("meant") }, u64::MAX).unwrap().completion(), u64::MAX).map(|_| ())
    });
    assert!(result.is_err());
    let caught = launch(
        || catch_unwind(|| launch(|| panic!("meant"), u64::MAX).map(|_: Linger<'_, ()>| ())).is_err(),
        1_000_000,
    );
    assert_eq!(caught.unwrap().completion(), Some(true));
}

/// The libset and the stack of a function that panicked are used again.
#[test]
fn many_times() {
    quietly();
    let _slots = slots(1);
    for number in 0..300_u64 {
        let payload = catch_unwind(|| {
            launch(|| std::panic::panic_any(Meant(number, String::new())), u64::MAX).map(|_: Linger<'_, ()>| ())
        });
        assert_eq!(payload.unwrap_err().downcast_ref::<Meant>().unwrap().0, number);
    }
}
