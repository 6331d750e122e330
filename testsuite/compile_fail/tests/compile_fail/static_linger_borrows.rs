//! What outlives every frame borrows from none.

use inger::{Linger, launch};
use std::sync::Mutex;

static KEPT: Mutex<Option<Linger<'static, usize>>> = Mutex::new(None);

fn main() {
    let text = String::from("of this frame");
    *KEPT.lock().unwrap() = Some(launch(|| text.len(), 0).unwrap());
}
