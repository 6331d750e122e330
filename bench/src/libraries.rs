//! What the measures need of C: libraries to be loaded, and programs whose start is timed. Compiled on demand into the
//! run's temporary folder.

use std::ffi::{CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Pages of writable data in the large library.
pub(crate) const LARGE_PAGES: usize = 1024;

const LIBRARY: &str = "
#include <gnu/libc-version.h>
static volatile char pages[PAGES][4096];
void dirty(int count) { for (int page = 0; page < count; page++) pages[page][0]++; }
int is_dirty(void) { return pages[0][0]; }
void call(int count) { while (count--) gnu_get_libc_version(); }
";

fn compile(folder: &Path, name: &str, source: &str, options: &[&str]) -> Result<PathBuf, String> {
    let output = folder.join(name);
    if output.exists() {
        return Ok(output);
    }
    let input = folder.join(format!("{name}.c"));
    std::fs::write(&input, source).map_err(|error| format!("{}: {error}", input.display()))?;
    let result = Command::new("cc").arg("-O2").arg(&input).arg("-o").arg(&output).args(options).output();
    let result = result.map_err(|error| format!("cc: {error}"))?;
    let first_line = |text: &[u8]| String::from_utf8_lossy(text).lines().next().unwrap_or_default().to_owned();
    if result.status.success() { Ok(output) } else { Err(format!("cc: {}", first_line(&result.stderr))) }
}

fn small(folder: &Path) -> Result<PathBuf, String> {
    compile(folder, "small.so", LIBRARY, &["-DPAGES=4", "-fPIC", "-shared"])
}

/// A loaded library.
pub(crate) struct Library(*mut c_void);

impl Library {
    /// Opens one by its path or its name; it is never closed.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: the path is a string; what is opened here has no constructors that ask for something.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() { Err(last_error()) } else { Ok(Library(handle)) }
    }

    /// One more library, which differs from the others in its name only.
    pub(crate) fn open_numbered(folder: &Path, number: usize) -> Result<Self, String> {
        let copy = folder.join(format!("numbered-{number}.so"));
        if !copy.exists() {
            std::fs::copy(small(folder)?, &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
        }
        Library::open(&copy)
    }

    pub(crate) fn open_large(folder: &Path) -> Result<Self, String> {
        let pages = format!("-DPAGES={LARGE_PAGES}");
        Library::open(&compile(folder, "large.so", LIBRARY, &[&pages, "-fPIC", "-shared"])?)
    }

    pub(crate) fn open_small(folder: &Path) -> Result<Self, String> {
        Library::open(&small(folder)?)
    }

    fn symbol(&self, name: &str) -> Result<*mut c_void, String> {
        let name = CString::new(name).map_err(|error| error.to_string())?;
        // SAFETY: the handle was never closed, and the name is a string.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if address.is_null() { Err(last_error()) } else { Ok(address) }
    }

    /// `dirty` or `call` of [`LIBRARY`].
    pub(crate) fn taking_count(&self, name: &str) -> Result<extern "C" fn(c_int), String> {
        // SAFETY: the type is that of the two functions.
        Ok(unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(c_int)>(self.symbol(name)?) })
    }

    pub(crate) fn is_dirty(&self) -> Result<extern "C" fn() -> c_int, String> {
        // SAFETY: the type is that of the function.
        Ok(unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(self.symbol("is_dirty")?) })
    }
}

fn last_error() -> String {
    // SAFETY: dlerror returns null or a string, which is copied at once.
    unsafe {
        let message = libc::dlerror();
        if message.is_null() {
            return "dlsym: null".to_owned();
        }
        std::ffi::CStr::from_ptr(message).to_string_lossy().into_owned()
    }
}

/// A C program that does nothing, linked with libinger.so or not.
pub(crate) fn empty_program(folder: &Path, is_linked: bool) -> Result<PathBuf, String> {
    const SOURCE: &str = "int main(void) { return 0; }\n";
    if !is_linked {
        return compile(folder, "unlinked", SOURCE, &[]);
    }
    let library = libinger()?;
    let library = library.to_str().ok_or("the path of libinger.so is not text")?;
    let run_path = format!("-Wl,-rpath,{library}");
    compile(folder, "linked", SOURCE, &["-L", library, &run_path, "-Wl,--no-as-needed", "-linger"])
}

/// The folder of libinger.so, which cargo builds with this program's dependencies: the newest counts.
fn libinger() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = program.parent().ok_or("a program lies in a folder")?;
    let age = |folder: &PathBuf| folder.join("libinger.so").metadata().and_then(|data| data.modified()).ok();
    let folders = [target.to_path_buf(), target.join("deps")];
    let newest = folders.into_iter().filter(|folder| age(folder).is_some()).max_by_key(age);
    newest.ok_or(format!("no libinger.so in {} or its deps", target.display()))
}
