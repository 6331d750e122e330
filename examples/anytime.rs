//! A search that has an answer whenever it is asked: a round trip of 200 places, which gets shorter for as long as there is
//! time. It never looks at a clock; at its deadline it is stopped, and its best trip so far is the answer.
//!
//! `cargo run --release --example anytime [MILLISECONDS]`

use inger::{Error, no_preempt, timeout};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PLACES: usize = 200;

type Place = (f64, f64);

/// Numbers from 0 to 1 that look random, the same each time.
fn random() -> impl FnMut() -> f64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn length(trip: &[Place]) -> f64 {
    let distance = |a: &Place, b: &Place| (a.0 - b.0).hypot(a.1 - b.1);
    trip.windows(2).map(|pair| distance(&pair[0], &pair[1])).sum::<f64>() + distance(&trip[0], &trip[trip.len() - 1])
}

/// Turns pieces of the trip round, and keeps what makes it shorter. Never ends.
fn improve(best: &Mutex<Vec<Place>>, mut random: impl FnMut() -> f64) {
    let mut trip = no_preempt(|| best.lock().expect("nobody panics").clone());
    let mut shortest = length(&trip);
    loop {
        let (a, b) = ((random() * PLACES as f64) as usize, (random() * PLACES as f64) as usize);
        let piece = a.min(b)..a.max(b);
        trip[piece.clone()].reverse();
        let now = length(&trip);
        if now < shortest {
            shortest = now;
            // Stopped in here it would keep the lock, which main() wants.
            no_preempt(|| best.lock().expect("nobody panics").clone_from(&trip));
        } else {
            trip[piece].reverse();
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let limit = Duration::from_millis(std::env::args().nth(1).map_or(Ok(50), |argument| argument.parse())?);
    let mut random = random();
    let places: Vec<Place> = (0..PLACES).map(|_| (random(), random())).collect();
    println!("trip as it comes:  {:.3}", length(&places));

    let best = Mutex::new(places);
    let start = Instant::now();
    match timeout(limit, || improve(&best, random)) {
        Err(Error::TimedOut) => println!("stopped after      {:?}", start.elapsed()),
        Err(error) => return Err(error.into()),
        Ok(()) => unreachable!("it never ends"),
    }
    let best = best.into_inner()?;
    assert_eq!(best.len(), PLACES);
    println!("best trip by then: {:.3}", length(&best));
    Ok(())
}
