//! Programs whose libraries the dynamic linker binds, finds and opens in special ways: what that means does not
//! change once libsets exist. Former defects, one scenario each; with both engines.

#[path = "support/c.rs"]
mod c;

use c::library_folder;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

const ENGINES: [&str; 2] = ["dlmopen", "clone"];

fn compile(folder: &Path, arguments: &[&str]) {
    c::run(c::compiler().args(["-std=gnu11", "-O1", "-fPIC"]).args(arguments).current_dir(folder));
}

/// The program, and its libraries in the same folder and two below it.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path();
            std::fs::create_dir_all(path.join("needed/plugins")).expect("folders");
            let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c_loading");
            let library = sources.join("library.c").display().to_string();
            let build = |output: &str, flags: &[&str]| {
                compile(path, &[&["-shared", &library, "-o", output], flags].concat());
            };
            build("a.so", &["-DPLUGIN", "-DNAME=\"a\"", "-Wl,-z,lazy"]);
            build("b.so", &["-DPLUGIN", "-DNAME=\"b\"", "-Wl,-z,lazy"]);
            build("preload.so", &["-DINTERPOSES"]);
            build("needed/plugins/plugin.so", &["-DNAME=\"plugin\""]);
            let runpath = ["-DNAME=\"main\"", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/plugins"];
            build("needed/libmain.so", &runpath);
            let thread_locals = sources.join("thread_locals.c").display().to_string();
            for (output, model, dialect) in [
                ("tls_static.so", "initial-exec", "gnu"),
                ("tls_dynamic.so", "global-dynamic", "gnu"),
                ("tls_descriptor.so", "global-dynamic", "gnu2"),
            ] {
                let flags = [format!("-DMODEL=\"{model}\""), format!("-mtls-dialect={dialect}")];
                compile(path, &["-shared", &thread_locals, "-o", output, &flags[0], &flags[1]]);
            }
            build("slow.so", &["-DSLEEPS", "-Lneeded", "-lmain"]);
            let program = sources.join("program.c").display().to_string();
            let inger = format!("-L{}", library_folder().display());
            let rpath = format!("-Wl,-rpath,{}", library_folder().display());
            compile(path, &[&program, "-o", "program", &inger, "-linger", &rpath, "-Lneeded", "-lmain", "-pthread"]);
            folder
        })
        .path()
}

/// Runs one scenario with each engine; `environment` goes to the program alone.
fn run(scenario: &str, environment: &[(&str, &str)]) {
    for engine in ENGINES {
        let output = Command::new("timeout")
            .args(["-s", "KILL", "30", "env", "LD_LIBRARY_PATH=needed"])
            .args(environment.iter().map(|(name, value)| format!("{name}={value}")))
            .args(["./program", scenario])
            .env("LIBGOTCHA_LOADER", engine)
            .current_dir(folder())
            .output()
            .expect("timeout(1)");
        let text = [&output.stdout[..], &output.stderr].concat();
        assert!(output.status.success(), "{engine}: {}\n{}", output.status, String::from_utf8_lossy(&text));
    }
}

#[test]
fn local_scopes() {
    run("scope_local", &[]);
    run("scope_lazy", &[]);
}

#[test]
fn own_definitions_first() {
    run("scope_deep", &[]);
}

#[test]
fn libsets_after_dlopen() {
    run("late", &[]);
}

#[test]
fn functions_named_like_the_c_librarys() {
    run("same_name", &[]);
}

#[test]
fn next_definition() {
    run("next", &[]);
}

#[test]
fn interposed_by_a_preloaded_library() {
    run("preloaded", &[("LD_PRELOAD", "./preload.so")]);
}

#[test]
fn constructor_beside_a_launch() {
    run("constructor_beside_launch", &[]);
}

#[test]
fn addresses_of_functions_are_known() {
    run("addresses", &[]);
}

#[test]
fn descriptors_closed_by_the_program() {
    run("closed_descriptors", &[]);
}

#[test]
fn relative_path_and_chdir() {
    run("relative_path", &[]);
}

#[test]
fn search_path_of_the_caller() {
    run("search_path", &[]);
}

#[test]
fn thread_locals_of_libraries_that_the_program_opens_late() {
    run("tls_opened_by_program", &[]);
}

#[test]
fn thread_locals_of_libraries_that_a_function_opens() {
    run("tls_opened_inside", &[]);
}

#[test]
fn thread_locals_of_libraries_opened_while_a_function_is_paused() {
    run("tls_opened_while_paused", &[]);
}

#[test]
fn thread_locals_of_libraries_that_a_functions_thread_opens() {
    run("tls_opened_by_thread", &[]);
}
