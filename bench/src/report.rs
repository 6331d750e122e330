//! The table, and the page that has it with plots.

use crate::plan::{Goal, Row};
use crate::plots;
use inger_bench::machine::Machine;
use inger_bench::page::{escape, head};
use inger_bench::stats::Readings;
use inger_bench::units::show;
use std::fmt::Write as _;
use std::path::Path;

/// A section with what came of it.
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) note: &'static str,
    pub(crate) is_distribution: bool,
    /// Each row's readings, or why there are none.
    pub(crate) rows: Vec<(Row, Result<Readings, String>)>,
}

pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) measured: Vec<Measured>,
}

// ---------------------------------------------------------------------------------- rows

/// One line, as it is shown.
struct Line {
    label: String,
    cells: Vec<String>,
    goal: String,
    /// Why there is no measurement.
    failure: Option<String>,
    is_missed: bool,
}

impl Measured {
    fn headings(&self) -> Vec<&'static str> {
        if self.is_distribution {
            vec!["p1", "p50", "p99", "p99.9", "early", "ratio"]
        } else {
            vec!["median", "p5", "p95", "ratio"]
        }
    }

    fn lines(&self) -> Vec<Line> {
        self.rows.iter().map(|(row, readings)| self.line(row, readings)).collect()
    }

    fn line(&self, row: &Row, readings: &Result<Readings, String>) -> Line {
        let label = row.label.clone();
        let readings = match readings {
            Ok(readings) => readings,
            Err(cause) => {
                let failure = Some(cause.clone());
                return Line { label, cells: Vec::new(), goal: String::new(), failure, is_missed: false };
            }
        };
        let base = self.rows[row.base].1.as_ref().ok().map(Readings::median);
        let median = readings.median();
        let show = |number| show(number, row.unit);
        let mut cells: Vec<String> = if self.is_distribution {
            let early = readings.all().iter().filter(|reading| **reading < 0.0).count();
            let percentiles = [1.0, 50.0, 99.0, 99.9].map(|percent| show(readings.percentile(percent)));
            percentiles.into_iter().chain([format!("{early} of {}", readings.all().len())]).collect()
        } else {
            [median, readings.percentile(5.0), readings.percentile(95.0)].map(show).into()
        };
        cells.push(base.filter(|base| *base > 0.0).map_or(String::new(), |base| ratio(median / base)));
        let (goal, is_missed) = judge(row, median, base);
        Line { label, cells, goal, failure: None, is_missed }
    }
}

/// The goal as it is shown, and whether it is missed.
fn judge(row: &Row, median: f64, base: Option<f64>) -> (String, bool) {
    let Some(goal) = row.goal else { return (String::new(), false) };
    let (text, most) = match goal {
        Goal::Most(most) => (format!("≤ {}", show(most, row.unit)), Some(most)),
        Goal::More(more) => (format!("≤ +{}", show(more, row.unit)), base.map(|base| base + more)),
        Goal::Times(times) => (format!("≤ {times}×"), base.map(|base| base * times)),
    };
    match most {
        None => (text, false),
        Some(most) if median <= most => (format!("{text} met"), false),
        Some(_) => (format!("{text} MISSED"), true),
    }
}

fn ratio(ratio: f64) -> String {
    let digits = if ratio < 0.1 {
        4
    } else if ratio < 10.0 {
        2
    } else {
        0
    };
    format!("{ratio:.digits$}")
}

// ---------------------------------------------------------------------------------- the two forms

impl Report {
    /// For a terminal.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for (name, fact) in &self.machine.facts {
            let _ = writeln!(text, "{name:<10} {fact}");
        }
        for section in &self.measured {
            let headings: String = section.headings().iter().map(|heading| format!("{heading:>12}")).collect();
            let _ = writeln!(text, "\n{:<56}{headings}  goal", section.title);
            for line in section.lines() {
                let _ = match line.failure {
                    Some(cause) => writeln!(text, "  {:<54}  not measured: {cause}", line.label),
                    None => {
                        let cells: String = line.cells.iter().map(|cell| format!("{cell:>12}")).collect();
                        writeln!(text, "{}", format!("  {:<54}{cells}  {}", line.label, line.goal).trim_end())
                    }
                };
            }
        }
        text.push_str(
            "\nratio: of the medians, to the section's first line or, where lines are grouped, to the group's.\n",
        );
        text
    }

    /// Writes the page and the plots into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), String> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
        };
        let mut plots = Vec::new();
        for section in &self.measured {
            if let Some(plot) = plots::draw(section.name, &section.rows)? {
                write(&format!("{}.svg", section.name), &plot)?;
                plots.push((section.name, plot));
            }
        }
        write("report.html", &self.page(&plots))
    }

    fn page(&self, plots: &[(&str, String)]) -> String {
        let mut page = head("inger, measured") + INTRODUCTION;
        page.push_str("<table class=machine>\n");
        for (name, fact) in &self.machine.facts {
            let _ = writeln!(page, "<tr><th>{name}<td>{}", escape(fact));
        }
        page.push_str("</table>\n");
        for section in &self.measured {
            let _ = writeln!(page, "<h2>{}</h2>\n<p>{}</p>\n<table>\n<tr><th>", section.title, escape(section.note));
            section.headings().iter().chain(&["goal"]).for_each(|heading| page.push_str(&format!("<th>{heading}")));
            for line in section.lines() {
                let class = if line.is_missed { " class=missed" } else { "" };
                let _ = write!(page, "\n<tr{class}><td>{}", escape(&line.label).replace("  ", "&emsp;"));
                match line.failure {
                    Some(cause) => {
                        let columns = section.headings().len() + 1;
                        let _ = write!(page, "<td class=failure colspan={columns}>not measured: {}", escape(&cause));
                    }
                    None => line
                        .cells
                        .iter()
                        .chain([&line.goal])
                        .for_each(|cell| page.push_str(&format!("<td>{}", escape(cell)))),
                }
            }
            page.push_str("\n</table>\n");
            for (_, plot) in plots.iter().filter(|(name, _)| *name == section.name) {
                page.push_str(plot);
            }
        }
        page.push_str(TAIL);
        page
    }
}

const INTRODUCTION: &str = "<p>Medians of many readings, taken by turns in the same run. The columns beside the median say how the readings spread.
<em>Ratio</em> is of the medians, to the section's first line or, where lines are grouped, to the group's. Ratios are the
claim: times are this machine's.
";

const TAIL: &str = "<p>To make this page anew: <code>cargo run --release -p inger-bench</code>.\n</html>\n";
