//! mimalloc, as it is.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    allocators::main(allocators::check_mimalloc)
}
