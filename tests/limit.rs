//! How many functions can be unfinished at a time, and what the next one gets. One test, which takes all
//! libsets of its process; and what errors say.

mod support;

use inger::{Error, Linger, concurrency_limit, launch, pause, resume};

#[test]
fn the_limit_is_met_and_left_again() {
    let promised = concurrency_limit();
    for round in 0..3 {
        let mut lingers: Vec<Linger<'_, usize>> = Vec::new();
        let error = loop {
            let number = lingers.len();
            let work = move || {
                pause();
                number
            };
            match launch(work, u64::MAX) {
                Ok(linger) => lingers.push(linger),
                Err(error) => break error,
            }
            assert!(lingers.len() <= promised, "more than promised");
        };
        assert!(matches!(error, Error::TooManyLibsets { .. }), "{error:?}");
        assert!(error.to_string().starts_with("too many libsets: "), "{error}");
        assert_eq!(error.errno(), libc::EAGAIN);
        assert!(lingers.len() >= 11, "only {} at a time: {error}", lingers.len());
        // Once met it is known.
        assert_eq!(concurrency_limit(), lingers.len());

        // The others are none the worse; one that ends makes room for one.
        assert!(resume(&mut lingers[0], u64::MAX).unwrap().is_completion());
        let again = launch(pause, u64::MAX).unwrap();
        assert!(launch(|| (), u64::MAX).is_err());
        match round {
            0 => drop(again),
            // SAFETY: nothing outside points into the function.
            _ => unsafe { again.reclaim() },
        }
        assert!(launch(|| (), u64::MAX).unwrap().is_completion());
        for (number, linger) in lingers.into_iter().enumerate() {
            assert_eq!(support::finish(linger, u64::MAX).0, number);
        }
    }
}

#[test]
fn errors_say_what_happened() {
    let as_error: &dyn std::error::Error = &Error::TimedOut;
    assert_eq!(as_error.to_string(), "the function did not finish within its budget");
    assert_eq!(Error::Ended.to_string(), "the function ended its thread instead of returning");
    let error = Error::Os { operation: "timer_create", errno: libc::EAGAIN };
    assert_eq!(error.to_string(), "timer_create: Resource temporarily unavailable (os error 11)");
    assert_eq!(Error::TooManyLibsets { cause: "all 3 in use".into() }.to_string(), "too many libsets: all 3 in use");
    assert_eq!(Error::Unsupported { cause: "glibc 2.17".into() }.to_string(), "unsupported: glibc 2.17");
    assert!(Error::TooManyAbandoned { count: 12 }.to_string().starts_with("12 functions were abandoned"));
    let errnos = [
        (Error::TimedOut, libc::ETIMEDOUT),
        (Error::Ended, libc::ECANCELED),
        (Error::Os { operation: "x", errno: 5 }, 5),
        (Error::Unsupported { cause: String::new() }, libc::ENOSYS),
        (Error::TooManyAbandoned { count: 1 }, libc::EAGAIN),
    ];
    for (error, errno) in errnos {
        assert_eq!(error.errno(), errno, "{error:?}");
        assert_eq!(error.clone(), error);
    }
    fn is_a_good_error<T: std::error::Error + Send + Sync + 'static>() {}
    is_a_good_error::<Error>();
}
