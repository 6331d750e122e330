//! Steps a process through a window, and at each instruction of it splits off a branch in which our
//! timer's signal arrives there.
//!
//! The *trunk* never sees that signal, except where a mark asks for it: it shows what code there is to
//! interrupt. Its functions have budgets of 1 µs, which single-stepping exceeds at once; so a branch, a copy
//! of the trunk with a timer like the one it had, is the trunk interrupted at that instruction by
//! an expiry, with the deadline passed. It runs on at full speed and checks itself.

use crate::marks::{self, Hello, REPORT_SIZE};
use std::collections::HashMap;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// What happens at each instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Our timer expires, and the deadline has passed.
    Expiry,
    /// The program gets a signal of its own, for which it has a handler; our timer expires soon after.
    Program(i32),
}

/// How a scenario is run.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// What happens, and that it does at every n-th instruction.
    pub(crate) events: &'static [(Event, usize)],
    /// An instruction in a loop is branched at so many times.
    pub(crate) visits_max: usize,
    /// Give up after so many failures.
    pub(crate) failures_max: usize,
    /// How long a branch may take.
    pub(crate) patience: Duration,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) instructions: usize,
    pub(crate) branches: usize,
    pub(crate) failures: Vec<String>,
}

/// After a signal of the program, the expiry that the trunk has lost.
const SOON_NS: u64 = 50_000;

/// In a signal mask.
const ALARM: u64 = 1 << (libc::SIGALRM - 1);

struct Trunk {
    process: Child,
    pid: i32,
    hello: Hello,
}

/// Runs the scenario in a process of its own.
pub(crate) fn run(scenario: &str, options: Options) -> Result<Outcome, String> {
    let mut trunk = Trunk::new(scenario)?;
    let outcome = trunk.explore(options);
    let _ = trunk.process.kill();
    let _ = trunk.process.wait();
    outcome
}

#[derive(Debug)]
enum Halt {
    /// A mark, with its meaning.
    Mark(u8),
    /// One instruction was executed.
    Step,
    /// Another breakpoint.
    Breakpoint,
    Signal(i32),
}

impl Trunk {
    fn new(scenario: &str) -> Result<Trunk, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.env(crate::SCENARIO_VARIABLE, scenario).env("LIBGOTCHA_SHARED", crate::SHARED_LIBRARY);
        // SAFETY: one system call, between fork and exec.
        unsafe {
            command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let process = command.spawn().map_err(|error| format!("{scenario}: {error}"))?;
        let pid = process.id() as i32;
        let hello = Hello { branch: 0, ends: [0; 3], cookie: 0, delay_ns: 0, report: 0 };
        let mut trunk = Trunk { process, pid, hello };
        wait(pid)?; // the exec
        request(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_EXITKILL as usize)?;
        let Halt::Mark(marks::HELLO) = trunk.go_on(libc::PTRACE_CONT, 0)? else {
            return Err("no hello".into());
        };
        let address = registers(pid)?.rdi as usize;
        trunk.hello = read(pid, address)?;
        Ok(trunk)
    }

    /// Lets it run until something happens that concerns us; genuine expiries and ends of children do not.
    fn go_on(&self, how: u32, signal: i32) -> Result<Halt, String> {
        request(how, self.pid, 0, signal as usize)?;
        loop {
            let status = wait(self.pid)?;
            if !libc::WIFSTOPPED(status) {
                let message = self.report_after_end(status);
                return Err(format!("the trunk has ended: {message}"));
            }
            match libc::WSTOPSIG(status) {
                libc::SIGTRAP => return self.classify(),
                libc::SIGALRM | libc::SIGCHLD => request(how, self.pid, 0, 0)?,
                signal => return Ok(Halt::Signal(signal)),
            }
        }
    }

    fn report_after_end(&self, status: i32) -> String {
        describe(ExitStatus::from_raw(status))
    }

    fn classify(&self) -> Result<Halt, String> {
        // SAFETY: a siginfo_t holds integers and pointers.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        request(libc::PTRACE_GETSIGINFO, self.pid, 0, (&raw mut info).addr())?;
        // asm-generic/siginfo.h: SI_KERNEL is what int3 gives, TRAP_TRACE and TRAP_BRKPT are steps
        const SI_KERNEL: i32 = 0x80;
        if info.si_code != SI_KERNEL {
            return Ok(Halt::Step);
        }
        let code: [u8; 4] = read(self.pid, registers(self.pid)?.rip as usize)?;
        Ok(if code[..3] == [0x0f, 0x1f, 0x40] { Halt::Mark(code[3]) } else { Halt::Breakpoint })
    }

    fn explore(&mut self, options: Options) -> Result<Outcome, String> {
        self.advance_to_start()?;
        let mut outcome = Outcome::default();
        let mut visits = HashMap::new();
        loop {
            let registers = self.registers_after_step()?;
            if self.hello.ends.contains(&(registers.rip as usize)) {
                return Ok(outcome);
            }
            let visit: &mut usize = visits.entry(registers.rip).or_default();
            *visit += 1;
            let events = options.events.iter().filter(|(_, stride)| outcome.instructions % stride == 0);
            for &(event, _) in events.filter(|_| *visit <= options.visits_max) {
                // The kernel keeps one pending signal of a number: ours and the program's would be one.
                if event == Event::Program(libc::SIGALRM) && mask(self.pid)? & ALARM != 0 {
                    continue;
                }
                outcome.branches += 1;
                if let Err(cause) = self.branch(&registers, event, options.patience)? {
                    let place = self.place(registers.rip as usize);
                    let text = format!("{event:?} at instruction {}, {place}: {cause}", outcome.instructions);
                    outcome.failures.push(text);
                    if outcome.failures.len() == options.failures_max {
                        return Ok(outcome);
                    }
                }
            }
            self.step()?;
            outcome.instructions += 1;
        }
    }

    /// Up to the mark that starts the window.
    fn advance_to_start(&self) -> Result<(), String> {
        let mut signal = 0;
        loop {
            signal = match self.go_on(libc::PTRACE_CONT, signal)? {
                Halt::Mark(marks::START) => return Ok(()),
                Halt::Mark(marks::EXPIRE) => {
                    set_expiry(self.pid, self.hello.cookie)?;
                    libc::SIGALRM
                }
                Halt::Mark(marks::EXPIRE_START) => {
                    set_expiry(self.pid, self.hello.cookie)?;
                    // stops in front of the handler's first instruction
                    return match self.go_on(libc::PTRACE_SINGLESTEP, libc::SIGALRM)? {
                        Halt::Step => Ok(()),
                        _ => Err("the handler was not entered".into()),
                    };
                }
                Halt::Signal(signal) => signal,
                _ => return Err("a breakpoint that is no mark".into()),
            };
        }
    }

    fn step(&self) -> Result<(), String> {
        let mut signal = 0;
        loop {
            match self.go_on(libc::PTRACE_SINGLESTEP, signal)? {
                Halt::Step => return Ok(()),
                Halt::Signal(other) => signal = other,
                Halt::Mark(_) | Halt::Breakpoint => return Err("a breakpoint within the window".into()),
            }
        }
    }

    /// Of a step over popfq the kernel believes that it has set the trap flag, and leaves it set. Nothing here does.
    fn registers_after_step(&self) -> Result<libc::user_regs_struct, String> {
        const TRAP_FLAG: u64 = 1 << 8;
        let mut registers = registers(self.pid)?;
        if registers.eflags & TRAP_FLAG != 0 {
            registers.eflags &= !TRAP_FLAG;
            set_registers(self.pid, &registers)?;
        }
        Ok(registers)
    }

    /// One branch, from these registers of the trunk. The outer error is the tracer's, the inner the branch's.
    fn branch(
        &self,
        registers: &libc::user_regs_struct,
        event: Event,
        patience: Duration,
    ) -> Result<Result<(), String>, String> {
        let delay_ns = if event == Event::Expiry { 0 } else { SOON_NS };
        write(self.pid, self.hello.delay_ns, &delay_ns.to_ne_bytes())?;
        write(self.pid, self.hello.report, &[0])?;
        let mut away = *registers;
        away.rip = self.hello.branch as u64;
        // not in a system call, else the kernel might restart it
        away.orig_rax = u64::MAX;
        set_registers(self.pid, &away)?;
        let halt = self.go_on(libc::PTRACE_CONT, 0)?;
        let Halt::Breakpoint = halt else {
            return Err(format!("no branch, but {halt:?}"));
        };
        let branch = self::registers(self.pid)?.rax as i32;
        set_registers(self.pid, registers)?;
        if branch <= 0 {
            return Err(format!("clone: {}", std::io::Error::from_raw_os_error(-branch)));
        }
        wait(branch)?; // its first stop, which the kernel makes
        // its timer may expire before it is where the trunk is: then the signal waits
        let mask = mask(branch)?;
        set_mask(branch, mask | ALARM)?;
        request(libc::PTRACE_CONT, branch, 0, 0)?;
        let status = wait(branch)?;
        if !libc::WIFSTOPPED(status) || libc::WSTOPSIG(status) != libc::SIGTRAP {
            return Err(format!("the branch did not start: {}", describe(ExitStatus::from_raw(status))));
        }
        set_mask(branch, mask)?;
        let timer = self::registers(branch)?.rax as i64;
        if timer != 0 {
            return Err(format!("the branch's timer has number {timer}, not that of the trunk's"));
        }
        set_registers(branch, registers)?;
        let signal = match event {
            Event::Expiry => {
                set_expiry(branch, self.hello.cookie)?;
                libc::SIGALRM
            }
            // of another number than the present one: the kernel makes it one that a user sent
            Event::Program(signal) => signal,
        };
        request(libc::PTRACE_DETACH, branch, 0, signal as usize)?;
        self.judge(branch, patience)
    }

    fn judge(&self, branch: i32, patience: Duration) -> Result<Result<(), String>, String> {
        let ended = wait_for_end(branch, patience)?;
        if !ended {
            let place = std::fs::read_to_string(format!("/proc/{branch}/syscall")).unwrap_or_default();
            // SAFETY: the branch is our child and was not waited for.
            unsafe { libc::kill(branch, libc::SIGKILL) };
            wait(branch)?;
            return Ok(Err(format!("hangs ({})", place.trim())));
        }
        let status = ExitStatus::from_raw(wait(branch)?);
        if status.success() {
            return Ok(Ok(()));
        }
        let report: [u8; REPORT_SIZE] = read(self.pid, self.hello.report)?;
        let length = report.iter().position(|&byte| byte == 0).unwrap_or(REPORT_SIZE);
        Ok(Err(format!("{} {}", describe(status), String::from_utf8_lossy(&report[..length]))))
    }

    /// File and offset from its start in memory, for addr2line, of an address in the trunk.
    fn place(&self, address: usize) -> String {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap_or_default();
        let mut file = ("", 0);
        for line in maps.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            let Some((start, end)) = fields[0].split_once('-') else { continue };
            let bound = |text| usize::from_str_radix(text, 16).unwrap_or(0);
            let name = fields.get(5).copied().unwrap_or("anonymous memory");
            // a library's first mapping is that of its file's start; each copy of it has one
            if file.0 != name || fields[2] == "00000000" {
                file = (name, bound(start));
            }
            if (bound(start)..bound(end)).contains(&address) {
                return format!("{name}+{:#x}", address - file.1);
            }
        }
        format!("{address:#x}")
    }
}

// ---------------------------------------------------------------------------------- system calls

fn request(what: u32, pid: i32, address: usize, data: usize) -> Result<(), String> {
    // SAFETY: the requests used write to what `data` points to only, which their callers provide.
    match unsafe { libc::ptrace(what, pid, address, data) } {
        -1 => Err(format!("ptrace request {what:#x}: {}", std::io::Error::last_os_error())),
        _ => Ok(()),
    }
}

fn wait(pid: i32) -> Result<i32, String> {
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    match unsafe { libc::waitpid(pid, &mut status, libc::__WALL) } {
        -1 => Err(format!("waitpid: {}", std::io::Error::last_os_error())),
        _ => Ok(status),
    }
}

/// False: it goes on.
fn wait_for_end(pid: i32, patience: Duration) -> Result<bool, String> {
    // SAFETY: opens a descriptor of our child, polls and closes it.
    unsafe {
        let descriptor = libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32;
        if descriptor < 0 {
            return Err(format!("pidfd_open: {}", std::io::Error::last_os_error()));
        }
        let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        let ready = libc::poll(&mut poll, 1, patience.as_millis() as i32);
        libc::close(descriptor);
        Ok(ready == 1)
    }
}

fn registers(pid: i32) -> Result<libc::user_regs_struct, String> {
    // SAFETY: the structure holds integers.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    request(libc::PTRACE_GETREGS, pid, 0, (&raw mut registers).addr())?;
    Ok(registers)
}

fn set_registers(pid: i32, registers: &libc::user_regs_struct) -> Result<(), String> {
    request(libc::PTRACE_SETREGS, pid, 0, (&raw const *registers).addr())
}

fn mask(pid: i32) -> Result<u64, String> {
    let mut mask = 0u64;
    request(libc::PTRACE_GETSIGMASK, pid, size_of::<u64>(), (&raw mut mask).addr())?;
    Ok(mask)
}

fn set_mask(pid: i32, mask: u64) -> Result<(), String> {
    request(libc::PTRACE_SETSIGMASK, pid, size_of::<u64>(), (&raw const mask).addr())
}

/// The signal that a stopped process is about to get becomes an expiry of its timer.
fn set_expiry(pid: i32, cookie: usize) -> Result<(), String> {
    /// `siginfo_t` as the kernel fills it for a timer.
    #[repr(C)]
    struct Expiry {
        signal: i32,
        errno: i32,
        code: i32,
        padding: i32,
        timer: i32,
        overrun: i32,
        cookie: usize,
        rest: [u64; 12],
    }
    const { assert!(size_of::<Expiry>() == size_of::<libc::siginfo_t>()) };
    let info = Expiry {
        signal: libc::SIGALRM,
        errno: 0,
        code: libc::SI_TIMER,
        padding: 0,
        timer: 0,
        overrun: 0,
        cookie,
        rest: [0; 12],
    };
    request(libc::PTRACE_SETSIGINFO, pid, 0, (&raw const info).addr())
}

/// Reads a value of integers from the process's memory.
fn read<T>(pid: i32, address: usize) -> Result<T, String> {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    let local = libc::iovec { iov_base: value.as_mut_ptr().cast(), iov_len: size_of::<T>() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: size_of::<T>() };
    // SAFETY: `local` is valid for writes; callers ask for types of which all values are valid.
    unsafe {
        match libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) {
            read if read == size_of::<T>() as isize => Ok(value.assume_init()),
            _ => Err(format!("process_vm_readv: {}", std::io::Error::last_os_error())),
        }
    }
}

fn write(pid: i32, address: usize, bytes: &[u8]) -> Result<(), String> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
    // SAFETY: `local` is valid for reads.
    match unsafe { libc::process_vm_writev(pid, &local, 1, &remote, 1, 0) } {
        written if written == bytes.len() as isize => Ok(()),
        _ => Err(format!("process_vm_writev: {}", std::io::Error::last_os_error())),
    }
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}
