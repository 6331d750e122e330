//! A result that borrows lives no longer than what it borrows from.

use inger::launch;

fn longest<'a>(short: &str, long: &'a str) -> &'a str {
    launch(|| if short.len() > long.len() { short } else { long }, u64::MAX).unwrap().completion().unwrap()
}

fn main() {
    println!("{}", longest("a", "bc"));
}
