//! What an unfinished function may change, its caller may not look at.

fn main() {
    let mut numbers = vec![1, 2, 3];
    let mut linger = inger::launch(|| numbers.clear(), 0).unwrap();
    let first = &numbers[0];
    inger::resume(&mut linger, 1_000).unwrap();
    println!("{first}");
}
