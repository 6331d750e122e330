//! There is one owner of a continuation.

fn main() {
    let mut linger = inger::launch(|| 1, 0).unwrap();
    let mut other = linger;
    inger::resume(&mut other, 1_000).unwrap();
    inger::resume(&mut linger, 1_000).unwrap();
}
