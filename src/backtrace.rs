//! Where stopped functions stand.
//!
//! The walk over a function's stack needs the function to stay where it is, and is short. What the addresses mean is
//! looked up when it is asked for, in files: the program's and its libraries', and what distributions install below
//! `/usr/lib/debug`. Copies of libraries have the addresses of their originals there.

use crate::task::{State, Stop, Task};
use addr2line::Context;
use addr2line::gimli::{DwarfSections, EndianSlice, LittleEndian, Reader};
use memmap2::Mmap;
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::borrow::Cow;
use std::ffi::{CStr, OsStr};
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where a stopped function stood when [`Linger::backtrace`](crate::Linger::backtrace) was called.
///
/// The addresses are noted at once. Names and lines are looked up when they are asked for first, by
/// [`Backtrace::frames`] or by formatting: that reads the files of the program and of its libraries, and takes
/// milliseconds, or a tenth of a second.
#[derive(Clone, Debug)]
pub struct Backtrace {
    points: Vec<Point>,
    /// In `pause()`, of which nothing is told but that.
    is_paused: bool,
    frames: OnceLock<Vec<Frame>>,
}

/// An address of code, and where that is from.
#[derive(Clone, Debug)]
struct Point {
    address: usize,
    library: Option<PathBuf>,
    offset: usize,
}

/// One call in a [`Backtrace`] that has not returned.
///
/// Calls that the compiler has inlined are frames of their own, with the same address as the one that they are part of.
#[derive(Clone, Debug)]
pub struct Frame {
    point: Point,
    symbol: Symbol,
}

#[derive(Clone, Debug, Default)]
struct Symbol {
    name: Option<String>,
    file: Option<PathBuf>,
    line: Option<u32>,
}

impl Backtrace {
    /// Context: bracketed.
    ///
    /// # Safety
    ///
    /// `task` is the caller's, and has stopped in mid-run.
    pub(crate) unsafe fn capture(task: *mut Task) -> Self {
        // SAFETY: the caller's promise.
        let mut frames = unsafe { Task::frames(task) };
        // SAFETY: as above.
        let is_paused = unsafe { (*task).state } == State::Stopped(Stop::Paused);
        // What the library itself does to stop is of no interest.
        let deferred = crate::preempt::take_pending as *const () as usize;
        if let Some(own) = frames.iter().position(|frame| frame.function == deferred) {
            frames.drain(..=own);
        }
        let points = frames.into_iter().map(|frame| Point::at(frame.instruction)).collect();
        Backtrace { points, is_paused, frames: OnceLock::new() }
    }

    /// The calls, innermost first, to the base of the function's stack.
    ///
    /// A function that was stopped with others running inside it stands where the innermost of these does: their frames
    /// come first. It is shorter where there is code without unwind information.
    pub fn frames(&self) -> &[Frame] {
        self.frames.get_or_init(|| {
            let mut symbols = vec![Vec::new(); self.points.len()];
            for (first, point) in self.points.iter().enumerate() {
                let is_new = self.points[..first].iter().all(|before| before.library != point.library);
                if let (true, Some(library)) = (is_new, &point.library) {
                    // What cannot be read has no names.
                    let _ = look_up(library, &self.points, &mut symbols);
                }
            }
            let frames = self.points.iter().zip(symbols).flat_map(|(point, symbols)| {
                let symbols = if symbols.is_empty() { vec![Symbol::default()] } else { symbols };
                symbols.into_iter().map(|symbol| Frame { point: point.clone(), symbol })
            });
            let frames = frames.collect();
            if self.is_paused { in_pause(frames) } else { frames }
        })
    }
}

/// The same, with one frame for `pause` instead of what it does. In Rust it is part of the function that calls it, so that
/// only names tell where it begins; what is not named is the caller's.
fn in_pause(mut frames: Vec<Frame>) -> Vec<Frame> {
    let in_c = frames.iter().position(|frame| frame.name() == Some("linger_pause"));
    let own = frames.iter().take_while(|frame| frame.name().is_some_and(|name| name.starts_with("inger::"))).count();
    // Short debug information leaves out where a name is from.
    let in_rust = frames.iter().position(|frame| matches!(frame.name(), Some("pause" | "inger::linger::pause")));
    match (in_c, in_rust.map_or(own, |pause| own.max(pause + 1))) {
        (Some(pause), _) => _ = frames.drain(..pause),
        (None, own) => {
            let Some(first) = frames.get(own) else { return frames };
            let symbol = Symbol { name: Some("inger::pause".into()), ..Symbol::default() };
            let pause = Frame { point: first.point.clone(), symbol };
            frames.splice(..own, [pause]);
        }
    }
    frames
}

impl Point {
    /// Context: bracketed.
    fn at(address: usize) -> Self {
        let mut place = gotcha::libgotcha_place { file: std::ptr::null(), address: 0 };
        // SAFETY: `place` is valid for writes. The name stays while the library is loaded, in which a function stands.
        let found = unsafe { gotcha::libgotcha_find_place(address, &mut place) };
        let library = found.then(|| {
            // SAFETY: as above.
            let name = OsStr::from_bytes(unsafe { CStr::from_ptr(place.file) }.to_bytes());
            let executable = (name == "/proc/self/exe").then(|| std::fs::read_link(name).ok()).flatten();
            executable.unwrap_or_else(|| name.into())
        });
        Point { address, library, offset: place.address }
    }
}

impl Frame {
    /// The address of the instruction; of a call, an address within it.
    pub fn address(&self) -> usize {
        self.point.address
    }

    /// The function's name, as it is written in its language; `None` if nothing tells.
    pub fn name(&self) -> Option<&str> {
        self.symbol.name.as_deref()
    }

    /// The source file, if there is debug information.
    pub fn file(&self) -> Option<&Path> {
        self.symbol.file.as_deref()
    }

    /// The line in that file.
    pub fn line(&self) -> Option<u32> {
        self.symbol.line
    }

    /// The library, or the executable. Copies are called by their original's name.
    pub fn library(&self) -> Option<&Path> {
        self.point.library.as_deref()
    }

    /// The address in the library's file, as addr2line(1) takes it: the same in all copies and in all runs.
    pub fn offset(&self) -> usize {
        self.point.offset
    }
}

/// `NAME at FILE:LINE`, or `NAME in LIBRARY+OFFSET` where the line is not known.
impl fmt::Display for Frame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name().unwrap_or("??"))?;
        match (self.file(), self.line(), self.library()) {
            (Some(file), Some(line), _) => write!(formatter, " at {}:{line}", file.display()),
            (_, _, Some(library)) => write!(formatter, " in {}+{:#x}", library.display(), self.offset()),
            _ => write!(formatter, " at {:#x}", self.address()),
        }
    }
}

/// A line for each frame, numbered.
impl fmt::Display for Backtrace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.frames().iter().enumerate().try_for_each(|(number, frame)| writeln!(formatter, "{number:>4}: {frame}"))
    }
}

// ---------------------------------------------------------------------------------- names and lines

type Failure = Box<dyn std::error::Error>;

/// Tells what is known of the points that are in `library`; where functions were inlined, of each.
fn look_up(library: &Path, points: &[Point], symbols: &mut [Vec<Symbol>]) -> Result<(), Failure> {
    let is_there = |(point, _): &(&Point, _)| point.library.as_deref() == Some(library);
    let mut found: Vec<_> = points.iter().zip(symbols).filter(is_there).collect();
    let map = map(library)?;
    let object = object::File::parse(&*map)?;
    let separate = separate_debug_file(&object).and_then(|path| self::map(&path).ok());
    // What cannot be read is as if it were not there.
    let separate = separate.as_ref().and_then(|map| object::File::parse(&**map).ok());
    // What was not inlined is a symbol, with its whole name, which short debug information leaves out.
    add_names(&object, &mut found);
    if let Some(separate) = &separate {
        add_names(separate, &mut found);
    }
    add_lines(separate.as_ref().unwrap_or(&object), &mut found)
}

/// The names of the functions that the points are in; of several the one that others know. The nearest symbol before it,
/// as is common, would be any function's, in a library that has names of what it exports only.
fn add_names(object: &object::File<'_>, points: &mut [(&Point, &mut Vec<Symbol>)]) {
    let is_function = |symbol: &object::Symbol<'_, '_>| symbol.kind() == SymbolKind::Text && symbol.is_definition();
    for symbol in object.dynamic_symbols().chain(object.symbols()).filter(is_function) {
        let (start, size) = (symbol.address(), symbol.size());
        for (point, symbols) in points.iter_mut() {
            if (point.offset as u64).wrapping_sub(start) < size && symbols.is_empty() {
                let name = symbol.name().ok().map(|name| addr2line::demangle_auto(name.into(), None).into_owned());
                symbols.push(Symbol { name, ..Symbol::default() });
            }
        }
    }
}

fn add_lines(object: &object::File<'_>, points: &mut [(&Point, &mut Vec<Symbol>)]) -> Result<(), Failure> {
    let sections = DwarfSections::load(|section| -> Result<Cow<'_, [u8]>, object::Error> {
        let section = object.section_by_name(section.name());
        section.map_or(Ok(Cow::default()), |section| section.uncompressed_data())
    })?;
    let context = Context::from_dwarf(sections.borrow(|section| EndianSlice::new(section, LittleEndian)))?;
    for (point, symbols) in points {
        // Of a point whose unit cannot be read the name stays; others may be in units that can.
        let Ok(found) = functions_at(&context, point.offset as u64) else { continue };
        let whole_name = symbols.pop().and_then(|symbol| symbol.name);
        symbols.extend(found);
        let Symbol { name, file, line } = symbols.pop().unwrap_or_default();
        symbols.push(Symbol { name: whole_name.or(name), file, line });
    }
    Ok(())
}

/// The functions at an address, innermost first: all but the last were inlined.
fn functions_at<R: Reader>(context: &Context<R>, address: u64) -> Result<Vec<Symbol>, addr2line::gimli::Error> {
    let mut frames = context.find_frames(address).skip_all_loads()?;
    let mut symbols = Vec::new();
    while let Some(frame) = frames.next()? {
        let location = frame.location.as_ref();
        symbols.push(Symbol {
            name: frame.function.as_ref().and_then(|function| Some(function.demangle().ok()?.into_owned())),
            file: location.and_then(|location| location.file).map(PathBuf::from),
            line: location.and_then(|location| location.line),
        });
    }
    Ok(symbols)
}

fn map(path: &Path) -> std::io::Result<Mmap> {
    // SAFETY: of files that programs are run from others keep their hands off: they are mapped already, as code.
    unsafe { Mmap::map(&File::open(path)?) }
}

/// Where distributions install debug information that is not in the library itself.
fn separate_debug_file(object: &object::File<'_>) -> Option<PathBuf> {
    if object.section_by_name(".debug_info").is_some() {
        return None;
    }
    let [first, rest @ ..] = object.build_id().ok()?? else { return None };
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("/usr/lib/debug/.build-id/{first:02x}/{rest}.debug").into())
}

#[cfg(test)]
mod tests {
    use crate::{launch, resume};
    use libtimetravel::raw;

    /// Also on the way into a library, where calls are sent on by code that unwinders know nothing of.
    #[test]
    fn to_the_base_from_wherever_it_is_stopped() {
        let call_for_ever = || {
            loop {
                // SAFETY: reads its argument only.
                std::hint::black_box(unsafe { libc::toupper(std::hint::black_box(1)) });
            }
        };
        let mut linger = launch::<(), _>(call_for_ever, 20).unwrap();
        for _ in 0..3_000 {
            resume(&mut linger, 20).unwrap();
            let backtrace = linger.backtrace().expect("a loop without an end");
            let last = backtrace.points.last().map_or(0, |point| point.address);
            assert!(raw::function_base().contains(&last), "{backtrace}");
        }
    }
}
