//! A thousand functions that compute, on one kernel thread, in turns of 200 µs: a scheduler in a few lines. None of them
//! knows of the others, or waits for the long ones among them.
//!
//! `cargo run --release --example round_robin [FUNCTIONS]`

use inger::{Error, Linger, concurrency_limit, launch, resume};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const QUANTUM_US: u64 = 200;

/// The longest of the sequences that begin below `limit`: halve what is even, else take three times as much and one.
fn longest_sequence(limit: u64) -> u64 {
    let length = |start: u64| {
        std::iter::successors(Some(start), |&number| match number {
            1 => None,
            number if number % 2 == 0 => Some(number / 2),
            number => Some(3 * number + 1),
        })
        .count()
    };
    (1..limit).max_by_key(|&start| length(start)).unwrap_or(0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(1000), |argument| argument.parse())?;
    // Every tenth is a hundred times as long.
    let work = |number: usize| if number % 10 == 0 { 100_000 } else { 1_000 };

    let start = Instant::now();
    let mut waiting = 0..count;
    let mut running: VecDeque<(usize, Linger<'_, u64>)> = VecDeque::new();
    let (mut turns, mut most) = (0_u64, 0);
    let mut finished: Vec<(usize, Duration)> = Vec::new();
    loop {
        // All at once, or as many as the system grants.
        while running.len() < concurrency_limit() {
            let Some(number) = waiting.next() else { break };
            match launch(move || longest_sequence(work(number)), 0) {
                Ok(linger) => running.push_back((number, linger)),
                Err(Error::TooManyLibsets { .. }) if !running.is_empty() => {
                    waiting.start = number;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        most = most.max(running.len());
        let Some((number, mut linger)) = running.pop_front() else { break };
        resume(&mut linger, QUANTUM_US)?;
        turns += 1;
        match linger {
            Linger::Completion(result) => {
                assert!(result < work(number));
                finished.push((number, start.elapsed()));
            }
            linger => running.push_back((number, linger)),
        }
    }

    let median = |long: bool| {
        let mut times: Vec<_> =
            finished.iter().filter(|(number, _)| (number % 10 == 0) == long).map(|(_, at)| *at).collect();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    println!("functions: {count}, unfinished at a time: {most}, turns: {turns}, on one kernel thread");
    println!("short ones were done after (median): {:?}", median(false));
    println!("long ones were done after (median):  {:?}", median(true));
    println!("all were done after:                 {:?}", start.elapsed());
    Ok(())
}
