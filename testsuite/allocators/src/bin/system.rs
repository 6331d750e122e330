//! The C library's malloc, which functions share unpreempted.

#[global_allocator]
static ALLOCATOR: std::alloc::System = std::alloc::System;

fn main() {
    allocators::main(|| ())
}
