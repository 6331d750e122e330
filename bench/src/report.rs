//! The table, and the page that has it with plots.

use crate::plan::{Goal, Row, Unit};
use crate::plots;
use crate::stats::Readings;
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

// ---------------------------------------------------------------------------------- the machine

/// What the numbers depend on.
pub(crate) struct Machine {
    facts: Vec<(&'static str, String)>,
    is_quick: bool,
    load_before: String,
}

impl Machine {
    /// `limit` is what our workers find.
    pub(crate) fn look(is_quick: bool, limit: &str) -> Self {
        let loader = std::env::var("LIBGOTCHA_LOADER").ok();
        let facts = vec![
            ("date", now()),
            ("processor", processor()),
            ("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease"))),
            ("C library", c_library()),
            ("clock", read("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
            ("engine", format!("{}, up to {limit} functions at a time", loader.as_deref().unwrap_or("the default"))),
            ("version", format!("inger {}, compiled {}", env!("CARGO_PKG_VERSION"), profile())),
        ];
        Machine { facts, is_quick, load_before: load() }
    }

    /// After the measurements: was the machine used for something else meanwhile?
    pub(crate) fn look_again(&mut self) {
        self.facts
            .push(("load", format!("{} before, {} after (processes that want to run)", self.load_before, load())));
        if self.is_quick {
            self.facts.push(("rounds", "few (--quick)".to_owned()));
        }
    }
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) { "without optimisation: not to be compared" } else { "with optimisation" }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or("unknown".to_owned(), |text| text.trim().to_owned())
}

fn load() -> String {
    read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned()
}

fn processor() -> String {
    let text = read("/proc/cpuinfo");
    let field = |name: &str| text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(": "));
    let is_virtual = field("flags").is_some_and(|(_, flags)| flags.split(' ').any(|flag| flag == "hypervisor"));
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    let model = field("model name").map_or("unknown", |(_, model)| model);
    format!("{model}, {count} of them{}", if is_virtual { ", virtual machine" } else { "" })
}

fn c_library() -> String {
    // SAFETY: returns a constant string.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    format!("glibc {}", version.to_string_lossy())
}

fn now() -> String {
    let mut text = [0_u8; 64];
    // SAFETY: the buffer is as long as said, and strftime ends what it writes; the others are valid for writes.
    let length = unsafe {
        let seconds = libc::time(std::ptr::null_mut());
        let mut fields: libc::tm = std::mem::zeroed();
        libc::gmtime_r(&seconds, &mut fields);
        libc::strftime(text.as_mut_ptr().cast(), text.len(), c"%Y-%m-%d %H:%M UTC".as_ptr(), &fields)
    };
    String::from_utf8_lossy(&text[..length]).into_owned()
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

/// With three digits, and a unit that keeps the number short.
pub(crate) fn show(number: f64, unit: Unit) -> String {
    const NS: &[(f64, &str)] = &[(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")];
    const BYTES: &[(f64, &str)] = &[(1.0, "B"), (1024.0, "KiB"), (1024.0 * 1024.0, "MiB")];
    let units = match unit {
        Unit::Ns => NS,
        Unit::Bytes => BYTES,
        Unit::Calls => return format!("{number:.0}"),
    };
    let fits = |(size, _): &&(f64, &str)| number.abs() >= *size;
    let (size, name) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    let scaled = number / size;
    let digits = if scaled.abs() >= 100.0 {
        0
    } else if scaled.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$} {name}")
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
        let mut page = String::from(HEAD);
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const HEAD: &str = "<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content='width=device-width, initial-scale=1'>
<title>inger, measured</title>
<style>
body { font: 15px/1.4 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .2em .7em; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
.machine td { text-align: left; white-space: normal }
.missed td:last-child { color: #b00; font-weight: bold }
.failure { text-align: left; white-space: normal; color: #777 }
svg { max-width: 100%; height: auto }
</style>
<h1>inger, measured</h1>
<p>Medians of many readings, taken by turns in the same run. The columns beside the median say how the readings spread.
<em>Ratio</em> is of the medians, to the section's first line or, where lines are grouped, to the group's. Ratios are the
claim: times are this machine's.
";

const TAIL: &str = "<p>To make this page anew: <code>cargo run --release -p inger-bench</code>.\n</html>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(show(0.0, Unit::Ns), "0.00 ns");
        assert_eq!(show(137.4, Unit::Ns), "137 ns");
        assert_eq!(show(1_340.0, Unit::Ns), "1.34 µs");
        assert_eq!(show(25_400_000.0, Unit::Ns), "25.4 ms");
        assert_eq!(show(-1_500.0, Unit::Ns), "-1.50 µs");
        assert_eq!(show(165.0 * 1024.0, Unit::Bytes), "165 KiB");
        assert_eq!(show(100_000.0, Unit::Calls), "100000");
    }
}
