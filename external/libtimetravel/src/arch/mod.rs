//! One file for each architecture; it holds all of the assembly for it.

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_pointer_width = "64"))]
pub(crate) mod x86_64;
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_pointer_width = "64"))]
pub(crate) use x86_64 as current;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_pointer_width = "64")))]
compile_error!("libtimetravel supports x86-64 Linux only");
