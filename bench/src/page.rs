//! Pages with tables and plots.

/// As text of a page.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Cells under headings.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Above everything; the first heading in a terminal.
    pub title: String,
    /// Of all columns but the first.
    pub headings: Vec<String>,
    /// Each with a label, and a cell for each heading.
    pub rows: Vec<(String, Vec<String>)>,
}

impl Table {
    /// For a terminal.
    pub fn text(&self) -> String {
        let label = self.rows.iter().map(|(label, _)| label.chars().count()).chain([self.title.chars().count()]).max();
        let label = label.unwrap_or(0) + 2;
        let line = |name: &str, cells: &[String]| {
            let cells: String = cells.iter().map(|cell| format!("{cell:>13}")).collect();
            format!("{name:<label$}{cells}").trim_end().to_owned() + "\n"
        };
        self.rows.iter().fold(line(&self.title, &self.headings), |text, (name, cells)| text + &line(name, cells))
    }

    /// For a page.
    pub fn html(&self) -> String {
        let headings: String = self.headings.iter().map(|heading| format!("<th>{}", escape(heading))).collect();
        let row = |(label, cells): &(String, Vec<String>)| {
            let cells: String = cells.iter().map(|cell| format!("<td>{}", escape(cell))).collect();
            format!("\n<tr><td>{}{cells}", escape(label))
        };
        let rows: String = self.rows.iter().map(row).collect();
        format!("<h2>{}</h2>\n<table>\n<tr><th>{headings}{rows}\n</table>\n", escape(&self.title))
    }
}

/// How a page begins.
pub fn head(title: &str) -> String {
    format!("{HEAD}<title>{title}</title>\n<h1>{title}</h1>\n")
}

const HEAD: &str = "<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content='width=device-width, initial-scale=1'>
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
";
