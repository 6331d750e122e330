//! The same, inside the adapter.

#[global_allocator]
static ALLOCATOR: inger::Alloc<std::alloc::System> = inger::Alloc(std::alloc::System);

fn main() {
    allocators::main(|| ())
}
