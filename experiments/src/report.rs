//! What an experiment says in the end: on the terminal, and as a page.

use inger_bench::machine::Machine;
use inger_bench::page::{Table, escape, head};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::Path;

/// What came of an experiment.
pub(crate) struct Report {
    /// The subcommand: the page's name, too.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What was done.
    pub(crate) note: String,
    pub(crate) machine: Machine,
    pub(crate) tables: Vec<Table>,
    /// Each with a name: SVG.
    pub(crate) plots: Vec<(&'static str, String)>,
}

impl Report {
    /// Prints the tables, and writes the page and its plots into `folder`.
    pub(crate) fn publish(&self, folder: &Path) -> Result<(), String> {
        for (name, fact) in &self.machine.facts {
            println!("{name:<10} {fact}");
        }
        for table in &self.tables {
            println!("\n{}", table.text().trim_end());
        }
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let write = |name: String, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display())).map(|()| path)
        };
        for (name, plot) in &self.plots {
            write(format!("{}-{name}.svg", self.name), plot)?;
        }
        let path = write(format!("{}.html", self.name), &self.page())?;
        println!("\nwritten: {}", path.display());
        Ok(())
    }

    fn page(&self) -> String {
        let mut page = head(self.title);
        let _ = writeln!(page, "<p>{}", escape(&self.note));
        page.push_str("<table class=machine>\n");
        for (name, fact) in &self.machine.facts {
            let _ = writeln!(page, "<tr><th>{name}<td>{}", escape(fact));
        }
        page.push_str("</table>\n");
        self.tables.iter().for_each(|table| page.push_str(&table.html()));
        self.plots.iter().for_each(|(_, plot)| page.push_str(plot));
        let _ = writeln!(
            page,
            "<p>To make this page anew: <code>cargo run --release -p inger-experiments -- {}</code>.\n</html>",
            self.name
        );
        page
    }
}

/// On standard error: one line, which is written again and again if that is a terminal.
pub(crate) fn progress(what: &str) {
    let mut errors = std::io::stderr();
    let _ = if errors.is_terminal() { write!(errors, "\r\x1b[K{what}") } else { writeln!(errors, "{what}") };
}

/// After the last [`progress`].
pub(crate) fn end_progress() {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
}
