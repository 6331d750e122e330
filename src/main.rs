//! Prints libinger.h.

fn main() {
    print!("{}", include_str!("../include/libinger.h"));
}
