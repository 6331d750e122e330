//! `inger-check PROGRAM`: what inger will make of a program and its libraries, told from the files, without running any.
//!
//! The rules are those of libgotcha's `objects.c`, `clone_plan.c`, `clone_image.c` and `variables.c`; a test compares the
//! answers with what the library does.

mod object;
mod search;
mod verdict;

use clap::Parser;
use object::Object;
use search::Environment;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use verdict::{Kind, Report};

/// Tells what inger makes of a program and its libraries: which each function has a copy of, which are shared, and what is
/// refused.
///
/// LD_LIBRARY_PATH, LD_PRELOAD, LIBGOTCHA_SHARED, LIBGOTCHA_LOADER and LIBGOTCHA_SKIP count as they would for the program.
/// Libraries that it opens at run time are not seen, nor which variables constructors initialise: of those each function has
/// its own, whoever names them.
///
/// Exit status: 0 if functions can be launched in it, 1 if they are refused, 2 if it cannot be told.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Prints JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Path of the program
    program: PathBuf,
}

fn to_json(report: &Report) -> serde_json::Value {
    let objects = report.rows.iter().map(|row| {
        serde_json::json!({
            "path": row.path,
            "kind": row.kind.name(),
            "isolated": row.kind == Kind::Copied,
            "notes": row.notes,
        })
    });
    serde_json::json!({
        "objects": objects.collect::<Vec<_>>(),
        "engine": report.engine,
        "notes": report.notes,
        "refusals": report.refusals,
    })
}

fn to_table(program: &str, report: &Report) -> String {
    let width = report.rows.iter().map(|row| row.path.to_string_lossy().chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for row in &report.rows {
        let mut notes = row.notes.iter();
        let first = notes.next().map_or("", |note| note);
        lines.push(format!("{:width$}  {:<8}  {first}", row.path.display(), row.kind.name()));
        lines.extend(notes.map(|note| format!("{:width$}  {:<8}  {note}", "", "")));
    }
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(report.refusals.iter().map(|refusal| format!("refused: {refusal}")));
    if report.refusals.is_empty() {
        let copied = report.rows.iter().filter(|row| row.kind == Kind::Copied).count();
        lines.push(format!("{program}: fine; libraries that each function has a copy of: {copied}"));
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let program = arguments.program.display().to_string();
    let report = Object::read(&arguments.program).and_then(|executable| {
        let environment = Environment::of_program(&arguments.program)?;
        verdict::judge(executable, &environment)
    });
    let report = match report {
        Ok(report) => report,
        Err(cause) => {
            eprintln!("inger-check: {program}: {cause}");
            return ExitCode::from(2);
        }
    };
    let text = if arguments.json { format!("{:#}\n", to_json(&report)) } else { to_table(&program, &report) };
    // A reader who has seen enough is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if report.refusals.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
