//! The counterpart of the others: the same programs without their mistake compile, and run.

use inger::{Linger, launch, resume};
use std::sync::{Arc, Mutex};

static KEPT: Mutex<Option<Linger<'static, usize>>> = Mutex::new(None);

fn later<'a>(text: &'a str) -> Linger<'a, usize> {
    launch(move || text.len(), 0).unwrap()
}

fn main() {
    let counter = Arc::new(1);
    assert_eq!(launch(|| Arc::clone(&counter), u64::MAX).unwrap().completion().as_deref(), Some(&1));

    let mut text = String::from("borrowed");
    {
        let mut linger = later(&text);
        assert!(resume(&mut linger, u64::MAX).unwrap().is_completion());
        assert_eq!(linger.completion(), Some(8));
    }
    text.push('!');

    let mut linger = launch(|| text.push('?'), 0).unwrap();
    resume(&mut linger, u64::MAX).unwrap();
    drop(linger);
    assert_eq!(text, "borrowed!?");

    *KEPT.lock().unwrap() = Some(launch(move || text.len(), 0).unwrap());

    let linger = launch(std::thread::panicking, 0).unwrap();
    // SAFETY: nothing outside points into the function.
    unsafe { linger.reclaim() };
}
