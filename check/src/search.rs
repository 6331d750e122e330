//! Where the dynamic linker finds libraries: ld.so(8). (It prefers those of `glibc-hwcaps` folders where there are; these
//! are other builds of the same, and not looked at.)

use crate::object::{Object, is_loadable};
use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const DEFAULT_FOLDERS: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// What the program's start goes by, beside the program.
pub(crate) struct Environment {
    library_path: Vec<String>,
    preloaded: Vec<String>,
    /// LIBGOTCHA_SHARED.
    pub(crate) shared: Vec<String>,
    /// LIBGOTCHA_LOADER, if it is one.
    pub(crate) engine: Option<String>,
    /// LIBGOTCHA_SKIP.
    pub(crate) skipped: Vec<String>,
    cache: HashMap<String, PathBuf>,
}

fn list(variable: &str, separators: &[char]) -> Vec<String> {
    let value = std::env::var(variable).unwrap_or_default();
    if value.is_empty() { Vec::new() } else { value.split(separators).map(String::from).collect() }
}

/// ld.so.cache, as ldconfig prints it: `NAME (libc6,x86-64) => PATH`.
fn read_cache() -> HashMap<String, PathBuf> {
    let mut cache = HashMap::new();
    let output =
        ["ldconfig", "/sbin/ldconfig"].iter().find_map(|program| Command::new(program).arg("-p").output().ok());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for (name, path) in text.lines().filter_map(|line| line.split_once(" => ")) {
        let Some((name, kind)) = name.trim().split_once(" (") else { continue };
        if kind.contains("x86-64") && !kind.contains("hwcap:") {
            cache.entry(name.to_owned()).or_insert_with(|| PathBuf::from(path));
        }
    }
    cache
}

impl Environment {
    /// That of this process; of a program with privileges, which ignores it, an empty one.
    pub(crate) fn of_program(program: &Path) -> Result<Self, String> {
        const SET_ID_BITS: u32 = 0o6000;
        let status = std::fs::metadata(program).map_err(|error| error.to_string())?;
        let cache = read_cache();
        let nothing = Vec::new;
        if status.permissions().mode() & SET_ID_BITS != 0 {
            let (library_path, preloaded, shared, skipped) = (nothing(), nothing(), nothing(), nothing());
            return Ok(Environment { library_path, preloaded, shared, engine: None, skipped, cache });
        }
        let engine = std::env::var("LIBGOTCHA_LOADER").ok().filter(|engine| ["clone", "dlmopen"].contains(&&**engine));
        Ok(Environment {
            library_path: list("LD_LIBRARY_PATH", &[':', ';']),
            preloaded: list("LD_PRELOAD", &[':', ' ']).into_iter().filter(|name| !name.is_empty()).collect(),
            shared: list("LIBGOTCHA_SHARED", &[':']),
            engine,
            skipped: list("LIBGOTCHA_SKIP", &[':']),
            cache,
        })
    }
}

/// A folder or path of `object` with its tokens replaced; an empty one is the current folder.
fn expand(path: &str, object: &Path) -> PathBuf {
    let origin = object.canonicalize().ok().and_then(|path| path.parent().map(Path::to_path_buf)).unwrap_or_default();
    let mut path = path.to_owned();
    for (token, value) in [
        ("ORIGIN", origin.display().to_string()),
        ("LIB", "lib/x86_64-linux-gnu".into()),
        ("PLATFORM", "x86_64".into()),
    ] {
        path = path.replace(&format!("${{{token}}}"), &value).replace(&format!("${token}"), &value);
    }
    PathBuf::from(if path.is_empty() { "." } else { &path })
}

/// The program and its libraries, in the order in which the dynamic linker loads them.
pub(crate) struct Loaded {
    pub(crate) objects: Vec<Object>,
    /// What needs it, for each; the program for itself.
    needed_by: Vec<usize>,
    /// Names that nothing was found for, and who needs them.
    pub(crate) missing: Vec<(String, PathBuf)>,
}

impl Loaded {
    fn find_in(&self, folders: &[String], owner: &Object, name: &str) -> Option<PathBuf> {
        folders.iter().map(|folder| expand(folder, &owner.path).join(name)).find(|path| is_loadable(path))
    }

    /// RPATHs of `owner` and of those that have loaded it; those that have a RUNPATH have none.
    fn find_by_rpath(&self, owner: usize, name: &str) -> Option<PathBuf> {
        let mut index = owner;
        if !self.objects[owner].runpath.is_empty() {
            return None;
        }
        loop {
            let object = &self.objects[index];
            let folders = if object.runpath.is_empty() { object.rpath.as_slice() } else { &[] };
            let found = self.find_in(folders, object, name);
            if found.is_some() || index == 0 {
                return found;
            }
            index = self.needed_by[index];
        }
    }

    fn find(&self, owner: usize, name: &str, environment: &Environment) -> Option<PathBuf> {
        let object = &self.objects[owner];
        if name.contains('/') {
            return Some(expand(name, &object.path)).filter(|path| is_loadable(path));
        }
        self.find_by_rpath(owner, name)
            .or_else(|| self.find_in(&environment.library_path, object, name))
            .or_else(|| self.find_in(&object.runpath, object, name))
            .or_else(|| environment.cache.get(name).filter(|path| is_loadable(path)).cloned())
            .or_else(|| {
                DEFAULT_FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| is_loadable(path))
            })
    }

    fn is_loaded(&self, name: &str) -> bool {
        let is_named = |object: &Object| object.soname.as_deref() == Some(name) || object.path == Path::new(name);
        self.objects.iter().skip(1).any(is_named)
    }

    fn holds_file(&self, path: &Path) -> bool {
        let identity = |path: &Path| std::fs::metadata(path).ok().map(|status| (status.dev(), status.ino()));
        self.objects.iter().any(|object| identity(&object.path) == identity(path))
    }

    fn load(&mut self, owner: usize, name: &str, environment: &Environment) -> Result<(), String> {
        if self.is_loaded(name) {
            return Ok(());
        }
        match self.find(owner, name, environment) {
            Some(path) if self.holds_file(&path) => {}
            Some(path) => {
                let object = Object::read(&path).map_err(|cause| format!("{}: {cause}", path.display()))?;
                self.objects.push(object);
                self.needed_by.push(owner);
            }
            None => self.missing.push((name.to_owned(), self.objects[owner].path.clone())),
        }
        Ok(())
    }

    /// Breadth first, preloaded libraries before what the program needs, the dynamic linker at the latest at the end.
    pub(crate) fn new(executable: Object, environment: &Environment) -> Result<Self, String> {
        let interpreter = executable.interpreter.clone();
        let mut loaded = Loaded { objects: vec![executable], needed_by: vec![0], missing: Vec::new() };
        for name in &environment.preloaded {
            loaded.load(0, name, environment)?;
        }
        // What cannot be preloaded is ignored.
        loaded.missing.clear();
        let mut index = 0;
        while index < loaded.objects.len() {
            for name in loaded.objects[index].needed.clone() {
                loaded.load(index, &name, environment)?;
            }
            index += 1;
        }
        match interpreter {
            Some(path) if is_loadable(&path) => loaded.load(0, &path.display().to_string(), environment)?,
            Some(path) => loaded.missing.push((path.display().to_string(), loaded.objects[0].path.clone())),
            None => {}
        }
        Ok(loaded)
    }
}
