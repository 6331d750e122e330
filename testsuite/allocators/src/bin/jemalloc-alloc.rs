//! jemalloc, inside the adapter.

#[global_allocator]
static ALLOCATOR: inger::Alloc<tikv_jemallocator::Jemalloc> = inger::Alloc(tikv_jemallocator::Jemalloc);

fn main() {
    allocators::main(allocators::check_jemalloc)
}
