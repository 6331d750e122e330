//! The thread pointer follows the switches by the system call. A binary of its own: the choice is the process's.
#![cfg(not(miri))]

mod common;
#[path = "common/thread_pointer.rs"]
mod thread_pointer;

use libtimetravel::{ThreadPointerMethod, thread_pointer_method, use_arch_prctl};

#[test]
fn follows_the_switches() {
    use_arch_prctl();
    assert_eq!(thread_pointer_method(), ThreadPointerMethod::ArchPrctl);
    thread_pointer::follows_every_switch();
    thread_pointer::follows_to_another_kernel_thread();
}
