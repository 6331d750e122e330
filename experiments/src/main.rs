//! The paper's experiments, each one command: measures, prints a table, writes a page with plots.

#[cfg(has_libpng)]
mod bomb;
#[cfg(not(has_libpng))]
#[path = "no_bomb.rs"]
mod bomb;
mod head_of_line;
mod report;

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// What inger is for, measured beside what a program could do without it.
#[derive(Parser)]
#[command(name = "inger-experiments")]
struct Arguments {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    /// An HTTP server, some of whose requests take a hundred times as long as the others: what these wait for.
    HeadOfLine(head_of_line::HeadOfLine),
    /// A file that decompresses to 400 MB: libpng is to decode it, but gets 10 ms.
    Bomb(Options),
    /// The decoder of that, for a process of its own.
    #[command(hide = true)]
    Decode(bomb::Decode),
    /// The server of the first, for a process of its own.
    #[command(hide = true)]
    Serve(head_of_line::Serve),
}

/// What all experiments take.
#[derive(Args)]
struct Options {
    /// Fewer measurements, and less to be relied on.
    #[arg(long)]
    quick: bool,
    /// Where the page and its plots go.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/reports"))]
    out: PathBuf,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().experiment {
        Experiment::HeadOfLine(options) => head_of_line::run(&options),
        Experiment::Bomb(options) => bomb::run(&options),
        Experiment::Decode(decode) => bomb::work(&decode),
        Experiment::Serve(serve) => head_of_line::serve(&serve),
    };
    if let Err(cause) = result {
        eprintln!("inger-experiments: {cause}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
