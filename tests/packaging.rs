//! What install.sh installs: a C, a C++ and a CMake program outside of the tree are built with it, and run; the manual
//! page's program too; and nothing is left of it when it is removed.

#[path = "support/c.rs"]
mod c;

use c::{library_folder, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A staged installation: DESTDIR, and what is in it.
struct Installation {
    destination: tempfile::TempDir,
}

const PREFIX: &str = "/opt/inger";

impl Installation {
    fn new() -> Self {
        let installation = Installation { destination: tempfile::tempdir().expect("a temporary folder") };
        run(installation.script().arg(format!("--library={}", library_folder().join("libinger.so").display())));
        installation
    }

    fn script(&self) -> Command {
        let mut command = Command::new("./install.sh");
        command.arg(format!("--prefix={PREFIX}")).env("DESTDIR", self.destination.path());
        command
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.destination.path().join(PREFIX.trim_start_matches('/')).join(inside)
    }

    /// What pkg-config says, word by word.
    fn flags(&self) -> Vec<String> {
        let output = run(Command::new("pkg-config")
            .args(["--cflags", "--libs", "inger"])
            .env("PKG_CONFIG_SYSROOT_DIR", self.destination.path())
            .env("PKG_CONFIG_LIBDIR", self.path("lib/pkgconfig")));
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(String::from).collect()
    }

    /// What a program that is built elsewhere, from this source, prints.
    fn output(&self, compiler: &[&str], name: &str, source: &str) -> String {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (source_path, program) = (folder.path().join(name), folder.path().join("program"));
        std::fs::write(&source_path, source).expect("the folder is new");
        run(Command::new(compiler[0])
            .args(&compiler[1..])
            .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o"])
            .arg(&program)
            .arg(&source_path)
            .args(self.flags())
            .current_dir(folder.path()));
        self.run(&program)
    }

    fn run(&self, program: &Path) -> String {
        let output = run(Command::new(program).env("LD_LIBRARY_PATH", self.path("lib")));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

const C: &str = r#"
#include <libinger.h>
#include <stdio.h>

static void spin(void *is_running) {
	for (;;)
		++*(volatile unsigned *) is_running;
}

int main(void) {
	unsigned count = 0;
	linger_t linger = launch(spin, 1000, &count);
	printf("%d %d %d\n", linger.is_complete, linger.error, count > 0);
	cancel(&linger);
	return 0;
}
"#;

const CPLUSPLUS: &str = r#"
#include <inger.hpp>
#include <iostream>

int main() {
	using namespace std::chrono_literals;
	auto sum = inger::launch([] {
		long sum = 0;
		for (volatile long i = 0; i < 1'000'000; i = i + 1)
			sum += i;
		return sum;
	}, 100us);
	while (!sum.is_complete())
		sum.resume(100us);
	std::cout << sum.get() << '\n';
}
"#;

#[test]
fn programs_elsewhere() {
    let installation = Installation::new();
    assert_eq!(installation.output(&["cc", "-std=c11"], "program.c", C), "0 0 1\n");
    assert_eq!(installation.output(&["c++", "-std=c++17"], "program.cpp", CPLUSPLUS), "499999500000\n");
}

#[test]
fn the_manual_s_program() {
    let installation = Installation::new();
    let page =
        std::fs::read_to_string(installation.path("share/man/man3/linger_launch.3")).expect("a link to the page");
    let (_, rest) = page.split_once(".EX\n").expect("an example");
    let source = rest.split_once(".EE\n").expect("its end").0.replace("\\e", "\\");
    let output = installation.output(&["cc", "-std=c11"], "sort.c", &source);
    assert!(output.starts_with("sorted in ") && output.ends_with(" slices of a millisecond\n"), "{output}");
    if Command::new("man").arg("--version").output().is_ok() {
        let shown =
            run(Command::new("man").args(["--warnings", "-l"]).arg(installation.path("share/man/man3/libinger.3")));
        assert_eq!(String::from_utf8_lossy(&shown.stderr), "");
    }
}

#[test]
fn with_cmake() {
    if Command::new("cmake").arg("--version").output().is_err() {
        assert!(std::env::var_os("INGER_CI").is_none(), "cmake is missing");
        println!("skipped: there is no cmake");
        return;
    }
    // CMake's file knows the places where the library is in the end.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let prefix = folder.path().join("installed");
    run(Command::new("./install.sh")
        .arg(format!("--prefix={}", prefix.display()))
        .arg(format!("--library={}", library_folder().join("libinger.so").display())));
    let lists = "cmake_minimum_required(VERSION 3.16)\n\
        project(program CXX)\n\
        set(CMAKE_CXX_STANDARD 17)\n\
        find_package(inger 0.1 REQUIRED)\n\
        add_executable(program program.cpp)\n\
        target_link_libraries(program inger::inger)\n";
    std::fs::write(folder.path().join("CMakeLists.txt"), lists).expect("the folder is new");
    std::fs::write(folder.path().join("program.cpp"), CPLUSPLUS).expect("the folder is new");
    let build = folder.path().join("build");
    let prefix_path = format!("-DCMAKE_PREFIX_PATH={}", prefix.display());
    run(Command::new("cmake").arg("-S").arg(folder.path()).arg("-B").arg(&build).arg(prefix_path));
    run(Command::new("cmake").arg("--build").arg(&build));
    // It finds the library by itself.
    let output = run(&mut Command::new(build.join("program")));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "499999500000\n");
}

#[test]
fn nothing_is_left_of_it() {
    let installation = Installation::new();
    let shared = installation.path("include/somebody_elses.h");
    std::fs::write(&shared, "").expect("the folder is there");
    // Twice: over itself.
    run(installation.script().arg(format!("--library={}", library_folder().join("libinger.so").display())));
    run(installation.script().arg("--uninstall"));
    let mut left = Vec::new();
    let mut folders = vec![installation.destination.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { left.push(path) }
        }
    }
    assert_eq!(left, [shared]);
}

#[test]
fn mistakes() {
    for (arguments, message, code) in [
        (["--prefix=relative"].as_slice(), "not an absolute path: relative", 1),
        (&["--library=/nonexistent/libinger.so"], "cargo build --release", 1),
        (&["--unknown"], "unknown argument: --unknown", 2),
    ] {
        let destination = tempfile::tempdir().expect("a temporary folder");
        let output = Command::new("./install.sh").args(arguments).env("DESTDIR", destination.path()).output();
        let output = output.expect("a script");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && errors.contains(message), "{errors}");
        assert_eq!(std::fs::read_dir(destination.path()).expect("the folder").count(), 0);
    }
    let help = run(Command::new("./install.sh").arg("--help"));
    assert!(String::from_utf8_lossy(&help.stdout).contains("--uninstall"));
}
