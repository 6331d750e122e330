//! What becomes of each object, and of the program: the rules of libgotcha.

use crate::object::Object;
use crate::search::{Environment, Loaded};
use std::path::PathBuf;

/// As `enum object_kind` in libgotcha's internal.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Executable,
    /// Each function has one of its own.
    Copied,
    /// Its functions run in the original, unpreempted.
    Shared,
    /// The dynamic linker.
    Loader,
    /// inger itself.
    Own,
    /// As the program's own code: Rust's standard library.
    Program,
    /// libgcc_s, where copies cannot have their own.
    Unwinder,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Executable | Kind::Program => "program",
            Kind::Copied => "own copy",
            Kind::Shared => "shared",
            Kind::Loader | Kind::Unwinder => "one",
            Kind::Own => "inger",
        }
    }
}

pub(crate) struct Row {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) notes: Vec<String>,
}

pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    /// Who makes the copies.
    pub(crate) engine: &'static str,
    pub(crate) notes: Vec<String>,
    /// Empty: functions can be launched.
    pub(crate) refusals: Vec<String>,
}

const LIBC: &str = "libc.so.6";
const OLDEST_GLIBC: &str = "GLIBC_2.34";

fn classify(index: usize, object: &Object, environment: &Environment, engine: &str) -> Kind {
    let name = object.name();
    let listed = || environment.shared.iter().any(|shared| shared == name || object.path.to_str() == Some(shared));
    if index == 0 {
        Kind::Executable
    } else if object.definitions.contains_key("linger_launch") {
        Kind::Own
    } else if name.starts_with("ld-linux") || name.starts_with("ld.so") {
        Kind::Loader
    } else if name == LIBC {
        Kind::Copied
    } else if name.starts_with("libstd-") && name.len() > 20 {
        Kind::Program
    } else if engine == "clone" && name == "libgcc_s.so.1" {
        Kind::Unwinder
    } else if listed() || object.definitions.contains_key("malloc") {
        Kind::Shared
    } else {
        Kind::Copied
    }
}

/// The library's variables that the program names, so that they are one per process.
fn variables(loaded: &Loaded, index: usize) -> Vec<&str> {
    let home = |name: &String| loaded.objects.iter().skip(1).position(|object| object.definitions.contains_key(name));
    let is_shared =
        |name: &&String| home(name) == Some(index - 1) && loaded.objects[index].definitions[*name].is_variable;
    loaded.objects[0].variables.iter().filter(is_shared).map(String::as_str).collect()
}

fn notes(loaded: &Loaded, kinds: &[Kind], index: usize) -> Vec<String> {
    let object = &loaded.objects[index];
    let mut notes = Vec::new();
    match kinds[index] {
        Kind::Executable => notes.push("its variables are one per process".to_owned()),
        Kind::Shared if object.definitions.contains_key("malloc") => notes.push("defines malloc: not preempted".into()),
        Kind::Shared => notes.push("in LIBGOTCHA_SHARED: not preempted".into()),
        Kind::Loader => notes.push("one per process: not preempted".into()),
        Kind::Unwinder => notes.push("one per process".into()),
        Kind::Copied | Kind::Own | Kind::Program => {}
    }
    if kinds[index] == Kind::Copied {
        if let Some(cause) = &object.uncopyable {
            notes.push(format!("{cause}: copied by the dynamic linker only"));
        }
        let shared = variables(loaded, index);
        if !shared.is_empty() {
            notes.push(format!("the program names {}: one per process", shared.join(", ")));
        }
    }
    if object.tls_size_bytes > 0 && index > 0 {
        let how = if object.needs_static_tls { "static" } else { "dynamic" };
        notes.push(format!("{} bytes of thread-local storage, {how}", object.tls_size_bytes));
    }
    notes
}

/// What is seen of the program alone.
fn refusal_of_program(executable: &Object, environment: &Environment) -> Option<String> {
    if let Some(machine) = &executable.foreign_machine {
        return Some(format!("a program for another machine ({machine}): x86-64 is needed"));
    }
    let Some(interpreter) = &executable.interpreter else {
        return Some("a static program: its C library cannot be copied".into());
    };
    let name = interpreter.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !name.starts_with("ld-linux") && !name.starts_with("ld.so") {
        return Some(format!("not a program of the GNU C library: its dynamic linker is {}", interpreter.display()));
    }
    let is_skipped = environment.skipped.iter().any(|skipped| skipped == executable.name());
    is_skipped.then(|| "listed in LIBGOTCHA_SKIP".into())
}

fn refusals_of_objects(loaded: &Loaded) -> Vec<String> {
    const SANITIZERS: [&str; 4] = ["__asan_init", "__tsan_init", "__msan_init", "__hwasan_init"];
    let mut refusals: Vec<_> = loaded
        .missing
        .iter()
        .map(|(name, owner)| format!("{} needs {name}, which is not found", owner.display()))
        .collect();
    for object in &loaded.objects {
        if let Some(symbol) = SANITIZERS.iter().find(|name| object.definitions.contains_key(**name)) {
            refusals.push(format!("{} contains a sanitizer's runtime ({symbol})", object.path.display()));
        }
    }
    match loaded.objects.iter().find(|object| object.name() == LIBC) {
        None => refusals.push(format!("not a program of the GNU C library: no {LIBC} among its objects")),
        Some(libc) if !libc.versions.iter().any(|version| version == OLDEST_GLIBC) => {
            refusals.push(format!("{}: glibc 2.34 or later is needed", libc.path.display()));
        }
        Some(_) => {}
    }
    refusals
}

/// The engine that copies these, and what is to be said about that.
fn choose_engine(loaded: &Loaded, environment: &Environment) -> (&'static str, Option<String>, Option<String>) {
    if environment.engine.as_deref() == Some("dlmopen") {
        return ("dlmopen", None, None);
    }
    let is_copied = |(index, object): &(usize, &Object)| classify(*index, object, environment, "clone") == Kind::Copied;
    let uncopyable = loaded.objects.iter().enumerate().filter(is_copied).find_map(|(_, object)| {
        object.uncopyable.as_ref().map(|cause| format!("{} has {cause}", object.path.display()))
    });
    match uncopyable {
        None => ("clone", None, None),
        Some(cause) if environment.engine.is_some() => {
            ("clone", None, Some(format!("{cause} (LIBGOTCHA_LOADER=clone)")))
        }
        Some(cause) => {
            ("dlmopen", Some(format!("{cause}: the dynamic linker makes all copies, for about 11 functions")), None)
        }
    }
}

/// Libraries, other than the C library, that open others.
fn note_openers(loaded: &Loaded) -> Option<String> {
    let opens = |object: &&Object| object.undefined.iter().any(|name| name == "dlopen" || name == "dlmopen");
    let openers: Vec<_> = loaded.objects.iter().filter(opens).map(Object::name).collect();
    (!openers.is_empty())
        .then(|| format!("opened at run time, and not seen here: what {} may open", openers.join(", ")))
}

pub(crate) fn judge(executable: Object, environment: &Environment) -> Result<Report, String> {
    if !executable.is_executable {
        return Err("a library, or part of a program: name a program".into());
    }
    if let Some(refusal) = refusal_of_program(&executable, environment) {
        let row = Row { path: executable.path, kind: Kind::Executable, notes: Vec::new() };
        return Ok(Report { rows: vec![row], engine: "none", notes: Vec::new(), refusals: vec![refusal] });
    }
    let loaded = Loaded::new(executable, environment)?;
    let mut refusals = refusals_of_objects(&loaded);
    let (engine, note, refusal) = choose_engine(&loaded, environment);
    refusals.extend(refusal);
    let kinds: Vec<_> =
        loaded.objects.iter().enumerate().map(|(index, object)| classify(index, object, environment, engine)).collect();
    let rows = loaded.objects.iter().enumerate().map(|(index, object)| Row {
        path: object.path.clone(),
        kind: kinds[index],
        notes: notes(&loaded, &kinds, index),
    });
    let rows = rows.collect();
    Ok(Report { rows, engine, notes: note.into_iter().chain(note_openers(&loaded)).collect(), refusals })
}
