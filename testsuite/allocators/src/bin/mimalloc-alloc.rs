//! mimalloc, inside the adapter.

#[global_allocator]
static ALLOCATOR: inger::Alloc<mimalloc::MiMalloc> = inger::Alloc(mimalloc::MiMalloc);

fn main() {
    allocators::main(allocators::check_mimalloc)
}
