//! Protections that can be switched off, one at a time, to see that the run then fails.
//!
//! Most are single instructions of the library's assembly, and are overwritten in memory: the library
//! needs no hooks for it.

use crate::kinds::Kind;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Fault {
    /// Going on after a preemption does not load vector and floating-point state.
    NoXrstor = 1,
    /// ...does not load the flags.
    NoFlags,
    /// ...does not load rdi.
    NoRdi,
    /// ...uses the red zone.
    RedZone,
    /// ...does not install the function's own signal mask.
    NoOwnMask,
    /// Leaving a function does not bring back its launcher's mxcsr.
    NoMxcsr,
    /// ...its launcher's x87 control word.
    NoX87,
    /// The handler is installed without SA_RESTART.
    NoRestart,
    /// Base's code is preempted, when it is reached through stored pointers.
    SharedCodePreempted,
    /// Functions sleep by a system call of their own.
    RawSleep,
    /// ...change their mask by a system call of their own.
    RawMask,
    /// ...share one errno.
    SharedErrno,
}

/// What shows that a protection is missing.
pub(crate) struct Control {
    pub(crate) fault: Fault,
    /// What runs; empty: everything.
    pub(crate) kinds: &'static [Kind],
    /// The report of the run says one of these.
    pub(crate) reports: &'static [&'static str],
    /// The fault damages whatever code it hits: a crash is as good as a report.
    pub(crate) may_crash: bool,
}

const fn control(fault: Fault, kinds: &'static [Kind], reports: &'static [&'static str], may_crash: bool) -> Control {
    Control { fault, kinds, reports, may_crash }
}

pub(crate) const CONTROLS: &[Control] = &[
    control(Fault::NoXrstor, &[Kind::Vectors], &["ymm registers"], true),
    control(Fault::NoXrstor, &[Kind::X87], &["x87 stack"], true),
    control(Fault::NoXrstor, &[Kind::Rounding], &["mxcsr"], true),
    control(Fault::NoFlags, &[Kind::Registers], &["registers"], true),
    control(Fault::NoFlags, &[Kind::Direction], &["direction flag"], true),
    control(Fault::NoRdi, &[Kind::Registers], &["registers"], true),
    control(Fault::RedZone, &[Kind::Registers], &["registers"], true),
    control(Fault::NoOwnMask, &[Kind::Mask], &["own signal mask"], false),
    control(Fault::NoMxcsr, &[], &["launcher's modes"], false),
    control(Fault::NoX87, &[], &["launcher's modes"], false),
    control(Fault::NoRestart, &[], &["vfork"], false),
    control(Fault::SharedCodePreempted, &[Kind::Heap], &["stuck"], true),
    control(Fault::RawSleep, &[], &["nanosleep"], false),
    control(Fault::RawMask, &[], &["launcher's mask", "own signal mask"], false),
    control(Fault::SharedErrno, &[], &["errno"], false),
];

static CURRENT: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn is(fault: Fault) -> bool {
    CURRENT.load(Relaxed) == fault as usize
}

/// Switches `fault` on, for the rest of this process. After a first launch.
pub(crate) fn inject(fault: Fault) {
    CURRENT.store(fault as usize, Relaxed);
    let resume = "libtimetravel_continue_interrupted";
    let leave = "libtimetravel_leave";
    match fault {
        // xrstor64 (%rbx)
        Fault::NoXrstor => overwrite(resume, &[0x48, 0x0f, 0xae, 0x2b], &[0x0f, 0x1f, 0x40, 0x00]),
        // mov 176(%rsp), %rdx: becomes mov $0x202, %edx
        Fault::NoFlags => overwrite(
            resume,
            &[0x48, 0x8b, 0x94, 0x24, 0xb0, 0, 0, 0],
            &[0xba, 0x02, 0x02, 0x00, 0x00, 0x0f, 0x1f, 0x00],
        ),
        // mov 104(%rsp), %rdi; not a register that the handler would preserve anyway
        Fault::NoRdi => overwrite(resume, &[0x48, 0x8b, 0x7c, 0x24, 0x68], &[0x0f, 0x1f, 0x44, 0x00, 0x00]),
        Fault::RedZone => {
            // lea -144(%rcx), %rcx: becomes lea -16(%rcx), %rcx
            overwrite(resume, &[0x48, 0x8d, 0x89, 0x70, 0xff, 0xff, 0xff], &[0x48, 0x8d, 0x89, 0xf0, 0xff, 0xff, 0xff]);
            // ret $128: becomes ret $0
            overwrite(resume, &[0xc2, 0x80, 0x00], &[0xc2, 0x00, 0x00]);
        }
        // test %edx, %edx: becomes xor %edx, %edx, so that rt_sigreturn is never used
        Fault::NoOwnMask => overwrite(resume, &[0x85, 0xd2], &[0x31, 0xd2]),
        // ldmxcsr 8(%rsp)
        Fault::NoMxcsr => overwrite(leave, &[0x0f, 0xae, 0x54, 0x24, 0x08], &[0x0f, 0x1f, 0x44, 0x00, 0x00]),
        // fldcw 4(%rsp)
        Fault::NoX87 => overwrite(leave, &[0xd9, 0x6c, 0x24, 0x04], &[0x0f, 0x1f, 0x40, 0x00]),
        Fault::NoRestart => clear_restart(),
        // xor %eax, %eax; ret
        Fault::SharedCodePreempted => overwrite_start("libgotcha_is_shared_code", &[0x31, 0xc0, 0xc3]),
        Fault::RawSleep | Fault::RawMask | Fault::SharedErrno => {}
    }
}

/// Takes SA_RESTART off the preemption signal's handler, behind the library's back.
fn clear_restart() {
    /// The kernel's struct sigaction (include/linux/signal_types.h).
    #[repr(C)]
    #[derive(Default)]
    struct KernelAction {
        handler: usize,
        flags: u64,
        restorer: usize,
        mask: u64,
    }
    let mut action = KernelAction::default();
    // SAFETY: the structures are the kernel's, with sets of 8 bytes.
    unsafe {
        let none = std::ptr::null_mut::<KernelAction>();
        assert_eq!(libc::syscall(libc::SYS_rt_sigaction, libc::SIGALRM, none, &mut action, 8), 0);
        assert_ne!(action.flags & libc::SA_RESTART as u64, 0);
        action.flags &= !(libc::SA_RESTART as u64);
        assert_eq!(libc::syscall(libc::SYS_rt_sigaction, libc::SIGALRM, &action, none, 8), 0);
    }
}

/// Replaces the one occurrence of the bytes `from` in a function.
fn overwrite(function: &str, from: &[u8], to: &[u8]) {
    let (start, size_bytes) = locate(function);
    // SAFETY: the function's code, which stays mapped.
    let code = unsafe { std::slice::from_raw_parts(start as *const u8, size_bytes) };
    let mut places = code.windows(from.len()).enumerate().filter(|(_, window)| *window == from);
    let (offset, _) = places.next().unwrap_or_else(|| panic!("{function}: the instruction is not there"));
    assert!(places.next().is_none(), "{function}: the instruction is there twice");
    assert_eq!(from.len(), to.len());
    write_code(start + offset, to);
}

fn overwrite_start(function: &str, to: &[u8]) {
    let (start, size_bytes) = locate(function);
    assert!(to.len() <= size_bytes);
    write_code(start, to);
}

fn write_code(address: usize, bytes: &[u8]) {
    let page = address & !4095;
    let size_bytes = address + bytes.len() - page;
    // SAFETY: the pages are this program's code; nobody runs these instructions now.
    unsafe {
        let protect = |access| assert_eq!(libc::mprotect(page as *mut libc::c_void, size_bytes, access), 0);
        protect(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len());
        protect(libc::PROT_READ | libc::PROT_EXEC);
    }
}

/// Where a function of this program is in memory, by the symbol table of its file; and its size.
fn locate(name: &str) -> (usize, usize) {
    let file = fs::read("/proc/self/exe").unwrap();
    let word = |offset: usize| u64::from_le_bytes(file[offset..offset + 8].try_into().unwrap()) as usize;
    let half = |offset: usize| u16::from_le_bytes(file[offset..offset + 2].try_into().unwrap()) as usize;
    let int = |offset: usize| u32::from_le_bytes(file[offset..offset + 4].try_into().unwrap()) as usize;
    // Elf64_Ehdr: e_shoff, e_shentsize, e_shnum. Elf64_Shdr: sh_type, sh_offset, sh_size, sh_link.
    let section = |index: usize| word(0x28) + index * half(0x3a);
    const SHT_SYMTAB: usize = 2;
    let table = (0..half(0x3c)).map(section).find(|header| int(header + 4) == SHT_SYMTAB);
    let table = table.expect("this program has no symbol table: it was stripped");
    let strings = word(section(int(table + 0x28)) + 0x18);
    let value_of = |name: &str| {
        // Elf64_Sym: st_name, st_value, st_size.
        let symbols = (word(table + 0x18)..word(table + 0x18) + word(table + 0x20)).step_by(24);
        let mut named = symbols.filter(|symbol| {
            let start = strings + int(*symbol);
            file[start..].starts_with(name.as_bytes()) && file[start + name.len()] == 0
        });
        let symbol = named.next().unwrap_or_else(|| panic!("no symbol {name}"));
        (word(symbol + 8), word(symbol + 16))
    };
    // A function that is known both ways tells where the file was mapped.
    let (base_value, _) = value_of("stress_anchor");
    let (value, size_bytes) = value_of(name);
    (stress_anchor as extern "C" fn() as usize - base_value + value, size_bytes)
}

// SAFETY: no other symbol of this name exists.
#[unsafe(no_mangle)]
extern "C" fn stress_anchor() {}
