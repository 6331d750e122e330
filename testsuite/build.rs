//! libtestinger.so exports what it interposes, and nothing of the libraries in it: with the whole workspace, inger is
//! built with its C interface.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
}
