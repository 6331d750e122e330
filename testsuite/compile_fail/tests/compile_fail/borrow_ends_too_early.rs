//! A continuation holds its captures' borrows.

fn main() {
    let linger = {
        let text = String::from("short-lived");
        inger::launch(|| text.len(), 0)
    };
    drop(linger);
}
