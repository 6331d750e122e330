//! The function may be resumed by another thread, and has thread-locals of its own.

use std::rc::Rc;

fn main() {
    let shared = Rc::new(1);
    let inside = Rc::clone(&shared);
    let _linger = inger::launch(move || *inside, 1_000);
}
