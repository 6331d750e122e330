//! Frames that something may point into are not reused without a promise.

fn main() {
    inger::launch(|| 1, 0).unwrap().reclaim();
}
