//! A function that held its own continuation could resume itself.

use inger::{Linger, launch, resume};

fn main() {
    let mut slot: Option<Linger<'_, ()>> = None;
    slot = Some(
        launch(
            || {
                resume(slot.as_mut().unwrap(), 1_000).unwrap();
            },
            0,
        )
        .unwrap(),
    );
    drop(slot);
}
