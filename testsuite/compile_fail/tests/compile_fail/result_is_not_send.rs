//! What a function returns comes from a thread of its own.

use std::rc::Rc;

fn main() {
    let _linger = inger::launch(|| Rc::new(1), 1_000);
    let _result = inger::timeout(std::time::Duration::from_secs(1), || Rc::new(1));
}
