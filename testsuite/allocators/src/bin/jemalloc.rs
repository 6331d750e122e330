//! jemalloc, as it is.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    allocators::main(allocators::check_jemalloc)
}
