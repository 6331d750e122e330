//! Charts with lines, as SVG.

use crate::units::{Unit, show};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::error::Error;
use std::ops::Range;

/// x and y.
pub type Point = (f64, f64);
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn colour(index: usize) -> RGBAColor {
    Palette99::pick(index).to_rgba()
}

/// A line with its name, in one colour.
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// From left to right.
    pub points: Vec<Point>,
}

/// The smallest range that holds all of them, with a little around it; a logarithmic one.
fn range(numbers: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let least = numbers.clone().fold(f64::INFINITY, f64::min);
    let most = numbers.fold(0.0, f64::max);
    least * 0.8..most * 1.25
}

/// What a chart says beside its lines.
pub struct Text<'a> {
    /// Above.
    pub title: &'a str,
    /// Below.
    pub x: &'a str,
    /// On the left.
    pub y: &'a str,
}

/// Draws lines over a logarithmic x axis.
///
/// # Errors
///
/// What plotters finds wrong.
pub fn draw_lines(
    area: &Area,
    text: &Text,
    series: &[Series],
    x_label: &dyn Fn(&f64) -> String,
    y: Range<f64>,
    y_label: &dyn Fn(&f64) -> String,
) -> Result<(), Box<dyn Error>> {
    let x = range(series.iter().flat_map(|one| one.points.iter().map(|point| point.0)));
    let mut builder = ChartBuilder::on(area);
    builder.caption(text.title, ("sans-serif", 18)).margin(12).x_label_area_size(40).y_label_area_size(70);
    let mut chart = builder.build_cartesian_2d(x.log_scale(), y)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(text.x).y_desc(text.y).x_label_formatter(x_label).y_label_formatter(y_label);
    mesh.light_line_style(WHITE).draw()?;
    for (index, one) in series.iter().enumerate() {
        let line = LineSeries::new(one.points.iter().copied(), colour(index).stroke_width(2)).point_size(2);
        let legend = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour(index).stroke_width(2));
        chart.draw_series(line)?.label(&one.name).legend(legend);
    }
    if series.len() == 1 {
        return Ok(());
    }
    let mut labels = chart.configure_series_labels();
    labels
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// A label: nanoseconds.
pub fn ns(number: &f64) -> String {
    show(*number, Unit::Ns)
}
