//! What a function that may go on without its handle has borrowed could be gone.

fn main() {
    let number = 7;
    let linger = inger::launch(|| number + 1, 100).unwrap();
    drop(linger.donatable());
}
