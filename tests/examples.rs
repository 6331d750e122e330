//! The examples do what their texts say. (`png` has a twin in C: see `c_programs.rs`.)

#[path = "support/c.rs"]
mod c;
mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an example prints, line by line, and its exit status.
fn run(name: &str, arguments: &[&str]) -> (Vec<String>, Option<i32>) {
    let path = Path::new(env!("CARGO_BIN_EXE_inger")).with_file_name("examples").join(name);
    assert!(path.exists(), "cargo builds the examples with all tests: cargo build --example {name}");
    let output = support::output(Command::new(path).args(arguments));
    assert!(output.status.code().is_some(), "{output:?}");
    (String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect(), output.status.code())
}

/// The same, of one that succeeds.
fn lines(name: &str, arguments: &[&str]) -> Vec<String> {
    let (lines, status) = run(name, arguments);
    assert_eq!(status, Some(0), "{lines:?}");
    lines
}

/// Handlers that loop get the error, in turns with others, which get their answers.
#[test]
fn tower() {
    let lines = lines("tower", &[]);
    let answers: Vec<_> = lines.iter().map(|line| line.split(" after ").next().unwrap().trim()).collect();
    let expected = [
        "18446744073709551557: deadline has elapsed",
        "91: 7",
        "18446744073709551533: deadline has elapsed",
        "1000003: 1000003",
        "1: a number greater than 1, please",
    ];
    assert_eq!(answers, expected);
}

#[test]
fn round_robin() {
    let lines = lines("round_robin", &["100"]);
    let after = |what: &str| {
        let rest = lines[0].split(what).nth(1).expect("the number of this");
        rest.split(',').next().expect("it ends").parse::<usize>().expect("a number")
    };
    assert_eq!(after("functions: "), 100);
    // As many as the engine can have.
    assert!((8..=100).contains(&after("at a time: ")), "{lines:?}");
    assert!(after("turns: ") > 150, "the long ones take many: {lines:?}");
}

#[test]
fn anytime() {
    let lines = lines("anytime", &["1000"]);
    let trip = |line: &String| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
    assert!(trip(&lines[2]) < trip(&lines[0]), "{lines:?}");
}

#[test]
fn harness() {
    let (lines, status) = run("harness", &[]);
    assert_eq!(status, Some(1));
    let outcomes: Vec<_> = lines.iter().map(|line| line.split(" ms  ").last().unwrap()).collect();
    let late = "FAILED: time is up";
    let wrong = "FAILED: assertion `left == right` failed";
    assert_eq!(outcomes, ["ok", wrong, late, late, late, "ok", "6 tests, 4 failures"]);
}

#[test]
fn regex_server() {
    let lines = lines("regex_server", &[]);
    let mut answers: Vec<_> = lines.iter().map(|line| line.rsplit_once(", after ").expect("a time").0).collect();
    // These two wait for the end of what runs away; the others for their own.
    assert_eq!(answers.len(), 5, "{lines:?}");
    answers[..3].sort_unstable();
    answers[3..].sort_unstable();
    let expected = [
        "/pcre2 (                   400 Bad Request: PCRE2: error compiling pattern at offset 1: missing closing parenthesis",
        r"/pcre2 [a-z]+@[a-z]+\.org  200 OK: 2 matches",
        r"/regex [a-z]+@[a-z]+\.org  200 OK: 2 matches",
        r"/pcre2 \s+$                422 Unprocessable Entity: this search takes too long",
        "/regex .*[^A-Z]|[A-Z]      422 Unprocessable Entity: this search takes too long",
    ];
    assert_eq!(answers, expected);
}

/// Are the packages there that an example in C is built with? Where all tests have to run, they are.
fn are_installed(packages: &[&str]) -> bool {
    let found = Command::new("pkg-config").arg("--exists").args(packages).status().is_ok_and(|status| status.success());
    assert!(found || std::env::var_os("INGER_CI").is_none(), "{packages:?} are missing");
    if !found {
        println!("skipped: pkg-config does not find {packages:?}");
    }
    found
}

/// Builds an example in C, in each of the variants in which programs are linked.
fn in_each_variant(source: &str, flags: &[&str], libraries: &[&str], check: impl Fn(&Path)) {
    let folder = c::scratch();
    for (variant, variant_flags) in c::VARIANTS {
        let program = folder.path().join(variant);
        let flags = [&["-D_DEFAULT_SOURCE"], flags, variant_flags].concat();
        c::build(&Path::new("examples").join(source), &program, &flags, &[&["-linger"], libraries].concat());
        check(&program);
    }
}

/// Runs it, `input` being its standard input.
fn run_c(program: &Path, arguments: &[PathBuf], input: &Path) -> (Vec<String>, Option<i32>) {
    let output = Command::new("timeout")
        .args(["-s", "KILL", "60"])
        .arg(program)
        .args(arguments)
        .env("LD_LIBRARY_PATH", c::library_folder())
        .stdin(File::open(input).expect("the input"))
        .output()
        .expect("timeout is part of coreutils");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect(), output.status.code())
}

/// A PNG file of one pixel.
const PIXEL: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\
    \0\0\0\nIDATx\x9cch\0\0\0\x82\0\x81w\xcdr\xb6\0\0\0\0IEND\xaeB`\x82";

#[test]
fn thumbnails() {
    if !are_installed(&["libpng", "libjpeg"]) {
        return;
    }
    in_each_variant("thumbnails.c", &[], &["-lpng16", "-ljpeg"], |program| {
        let expected = [
            "small.png: 160 x 120 to 64 x 48",
            "bomb.png: not done after 10 ms, cancelled",
            "small.jpg: 160 x 120 to 64 x 48",
            "large.jpg: not done after 10 ms, cancelled",
            "again.png: 120 x 160 to 48 x 64",
        ];
        let nothing = Path::new("/dev/null");
        let (lines, status) = run_c(program, &[], nothing);
        assert_eq!((lines, status), (expected.map(String::from).into(), Some(0)));

        // Files: what has a thumbnail, and what has not.
        let folder = c::scratch();
        let [good, bogus, text] = ["good.png", "bogus.jpg", "text.png"].map(|name| folder.path().join(name));
        std::fs::write(&good, PIXEL).expect("a new file");
        std::fs::write(&bogus, b"\xff\xd8\xff\xc0\0\x02").expect("a new file");
        std::fs::write(&text, "no PNG file").expect("a new file");
        let (lines, status) = run_c(program, &[good.clone(), bogus, text], nothing);
        assert_eq!(status, Some(1), "{lines:?}");
        let good = format!("{}.thumbnail.png", good.display());
        assert!(lines[0].ends_with("good.png: 1 x 1 to 1 x 1"), "{lines:?}");
        assert!(std::fs::read(&good).expect("a thumbnail").starts_with(b"\x89PNG"));
        assert!(lines[1].ends_with("bogus.jpg: Bogus marker length"), "{lines:?}");
        assert!(lines[2].ends_with("text.png: Not a PNG file"), "{lines:?}");
        assert_eq!(run_c(program, &[good.into()], nothing).1, Some(0));
    });
}

#[test]
fn plugins() {
    if !are_installed(&["lua5.4"]) {
        return;
    }
    let folder = c::scratch();
    let library = folder.path().join("distinct.so");
    c::run(c::compiler().args(["-shared", "-fPIC", "examples/plugins/distinct.c", "-o"]).arg(&library));
    let output = c::run(Command::new("pkg-config").args(["--cflags", "lua5.4"])).stdout;
    let flags = String::from_utf8(output).expect("text");
    let flags: Vec<_> = flags.split_whitespace().collect();
    let input = folder.path().join("lines");
    let text = [
        "to be or not to be",
        "a b c d e f g h i",
        "one two",
        "=6 * 7",
        "=(function() while true do end end)()",
        "=x.y",
    ];
    std::fs::write(&input, text.join("\n")).expect("a new file");
    let scripts = ["longest.lua", "calculate.lua"].map(|name| Path::new("examples/plugins").join(name));
    let plugins = [&[library][..], &scripts].concat();
    in_each_variant("plugins/host.c", &flags, &["-llua5.4", "-ldl"], |program| {
        let (lines, status) = run_c(program, &plugins, &input);
        let answer =
            |line: &String| line.split_once(".so: ").or(line.split_once(".lua: ")).map(|(_, answer)| answer.to_owned());
        let answers: Vec<_> = lines.iter().filter_map(answer).collect();
        let expected = [
            ["4 different words", "not", "nothing to calculate"],
            // Its table is full...
            ["stopped after 10 ms", "a", "nothing to calculate"],
            // ... and empty again.
            ["2 different words", "one", "nothing to calculate"],
            ["3 different words", "", "42"],
            ["6 different words", "function", "stopped after 10 ms"],
            ["1 different words", "x", "[string \"return x.y\"]:1: attempt to index a nil value (global 'x')"],
        ];
        let expected = expected.concat().into_iter().map(String::from).collect();
        assert_eq!((answers, status), (expected, Some(0)));
    });
}
