//! The documents say what is so: the tests that they name are there, their links lead somewhere, and the commands of
//! docs/debugging.md, run as they stand, print what is shown there.

#[path = "support/c.rs"]
mod c;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// What stands between each two of these.
fn between<'a>(text: &'a str, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).filter_map(move |rest| rest.split_once(end)).map(|(inside, _)| inside)
}

// ---------------------------------------------------------------------------------- tests that are named

/// In the last column of a table: a file of `tests/`, and after it tests in it.
#[test]
fn tests_that_limits_names_exist() {
    let limits = read("docs/limits.md");
    let mut checked = 0;
    for row in limits.lines().filter_map(|line| line.strip_suffix(" |")) {
        let column = row.rsplit(" | ").next().expect("a column");
        let mut file = String::new();
        for word in column.split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                file = read(Path::new("tests").join(word));
            } else {
                assert!(file.contains(&format!("fn {word}()")), "{row}: there is no such test as {word}");
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "{checked} tests are named");
}

/// Files below these folders.
fn files_below(folders: &[&str]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    while let Some(position) = found.iter().position(|path| path.is_dir()) {
        let folder = found.swap_remove(position);
        found.extend(std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()));
    }
    found
}

/// In the last column of the table of invariants: files, tests in whatever file, and parts of their names.
#[test]
fn tests_of_invariants_exist() {
    let architecture = read("ARCHITECTURE.md");
    let files = files_below(&["tests", "external/libgotcha/tests", "external/libtimetravel/tests"]);
    let texts: String =
        files.iter().map(|path| String::from_utf8_lossy(&std::fs::read(path).expect("a file")).into_owned()).collect();
    let mut checked = 0;
    for row in architecture.lines().filter(|line| line.starts_with("| I")) {
        let column = row.trim_end_matches(" |").rsplit(" | ").next().expect("a column");
        for word in column.split('`').skip(1).step_by(2) {
            let is_file = word.ends_with(".rs") || word.ends_with(".c");
            let found = if is_file {
                files.iter().any(|path| path.ends_with(word))
            } else {
                texts.contains(word.trim_matches('.'))
            };
            assert!(found, "{row}: there is no {word}");
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked} tests are named");
}

// ---------------------------------------------------------------------------------- links

/// As GitHub makes them.
fn anchors(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
    })
}

#[test]
fn links_lead_somewhere() {
    let mut documents: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from).into();
    documents.extend(std::fs::read_dir("docs").expect("a folder").map(|entry| entry.expect("an entry").path()));
    for document in documents.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        for link in between(&read(document), "](", ")").filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { document.clone() } else { document.with_file_name("").join(path) };
            let text = read(&target);
            assert!(anchor.is_empty() || anchors(&text).any(|found| found == anchor), "{}: {link}", document.display());
        }
    }
}

// ---------------------------------------------------------------------------------- debugging

/// Whether these words, each of them in order, are in the text; `...` stands for anything.
fn shows(text: &str, expected: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = words(text);
    let mut rest = text.as_str();
    words(expected).split("...").all(|part| match rest.split_once(part.trim()) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[test]
fn what_is_shown_is_looked_for_in_order() {
    assert!(shows("one two\n  three", "one ... three"));
    assert!(shows("one two three", "two"));
    assert!(!shows("one two three", "three ... one"));
    assert!(!shows("one two", "one three"));
}

/// Whether there is such a tool, and it may be used; where all tests have to run, there is.
fn is_usable(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("INGER_CI").is_none(), "{tool} is not installed");
        println!("skipped: {tool} is not installed");
        return false;
    }
    // Whether programs may be profiled is for a machine's owner to say.
    let profile = ["record", "-q", "-e", "cpu-clock:u", "-o", "/dev/null", "true"];
    let may_profile = || Command::new(tool).args(profile).output().is_ok_and(|output| output.status.success());
    if tool == "perf" && !may_profile() {
        println!("skipped: perf may not be used");
        return false;
    }
    true
}

/// A folder like this repository's after a release build, with the README's C program.
fn folder_with_program() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = read("README.md");
    let program = between(&program, "```c\n", "```").next().expect("a program in C");
    std::fs::write(folder.path().join("search.c"), program).expect("the folder is new");
    std::fs::copy("include/libinger.h", folder.path().join("libinger.h")).expect("the folder is new");
    std::fs::create_dir(folder.path().join("target")).expect("the folder is new");
    std::os::unix::fs::symlink(c::library_folder(), folder.path().join("target/release")).expect("the folder is new");
    folder
}

/// A block of commands, and what it prints.
fn run(folder: &Path, commands: &str) -> String {
    // Into a file: perf would write its data into a pipe.
    let path = folder.join("output");
    let output = File::create(&path).expect("a folder of ours");
    Command::new("timeout")
        .args(["-s", "KILL", "120", "sh", "-c", commands])
        .current_dir(folder)
        // Cargo's search path may lead to an older build.
        .env("LD_LIBRARY_PATH", c::library_folder())
        .env_remove("LIBGOTCHA_LOADER")
        .stdin(Stdio::null())
        .stderr(output.try_clone().expect("a descriptor"))
        .stdout(output)
        .status()
        .expect("timeout is part of coreutils");
    String::from_utf8_lossy(&std::fs::read(path).expect("the output")).into_owned()
}

#[test]
fn debugging_shows_what_is_shown() {
    let document = read("docs/debugging.md");
    let folder = folder_with_program();
    for block in document.split("```sh\n").skip(1) {
        let (commands, rest) = block.split_once("```").expect("the block's end");
        let expected = between(rest, "```text\n", "```").next().expect("what it shows");
        let tool = ["gdb", "valgrind", "perf"].into_iter().find(|tool| commands.contains(&format!("{tool} ")));
        if tool.is_none_or(is_usable) {
            let text = run(folder.path(), commands);
            assert!(shows(&text, expected), "{commands}\n{text}");
        }
    }
}

/// Of the compiler's sanitizers two are refused, by name, and one works.
#[test]
fn sanitizers() {
    let source = r#"
        #include <libinger.h>
        #include <stdio.h>
        static void shift(void *bits) { *(volatile int *) bits = 1 << *(int *) bits; }
        int main(void) {
            int bits = 40;
            linger_t linger = launch(shift, UINT64_MAX, &bits);
            printf("complete: %d, error: %s\n", linger.is_complete, linger.error ? linger_error() : "none");
            return 0;
        }
    "#;
    let folder = folder_with_program();
    std::fs::write(folder.path().join("shift.c"), source).expect("the folder is new");
    for (sanitizer, library, expected) in [
        ("undefined", "libubsan", "shift exponent 40 is too large ... complete: 1, error: none"),
        ("address", "libasan", "complete: 0, error: unsupported: ... sanitizer's runtime"),
        ("thread", "libtsan", "complete: 0, error: unsupported: ... sanitizer's runtime"),
    ] {
        let compile = format!("cc -fsanitize={sanitizer} shift.c -I. -Ltarget/release -linger -o shift");
        let errors = run(folder.path(), &compile);
        if errors.contains(&format!("cannot find -l{}", library.trim_start_matches("lib"))) || errors.contains(library)
        {
            assert!(std::env::var_os("INGER_CI").is_none(), "{errors}");
            println!("skipped: there is no {library}");
            continue;
        }
        // What is printed comes in either order.
        let text = run(folder.path(), "./shift");
        assert!(expected.split("...").all(|part| shows(&text, part)), "{sanitizer}: {errors}{text}");
    }
}
