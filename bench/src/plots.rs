//! The plots, as SVG.

use crate::plan::{Row, Unit};
use crate::report::show;
use crate::stats::Readings;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::error::Error;
use std::ops::Range;

type Rows = [(Row, Result<Readings, String>)];
type Point = (f64, f64);
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The plot of that section, if it has one and there is something to be seen.
pub(crate) fn draw(section: &str, rows: &Rows) -> Result<Option<String>, String> {
    let mut svg = String::new();
    let result = match section {
        "overshoot" => draw_overshoot(&mut svg, rows),
        "libsets" => draw_libsets(&mut svg, rows),
        "throughput" => draw_throughput(&mut svg, rows),
        _ => return Ok(None),
    };
    result.map_err(|error| format!("plot of {section}: {error}"))?;
    Ok((!svg.is_empty()).then_some(svg))
}

fn colour(index: usize) -> RGBAColor {
    Palette99::pick(index).to_rgba()
}

/// A line with its name, in one colour.
struct Series {
    name: String,
    points: Vec<Point>,
}

/// The smallest range that holds all of them, with a little around it; a logarithmic one.
fn range(numbers: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let least = numbers.clone().fold(f64::INFINITY, f64::min);
    let most = numbers.fold(0.0, f64::max);
    least * 0.8..most * 1.25
}

/// What a chart says beside its lines.
struct Text<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
}

fn draw_lines(
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

fn ns(number: &f64) -> String {
    show(*number, Unit::Ns)
}

/// What there is of rows whose label begins so: (x, median).
fn medians(rows: &Rows, label: &str) -> Vec<Point> {
    let wanted = rows.iter().filter(|(row, _)| row.label.starts_with(label));
    wanted.filter_map(|(row, readings)| Some((row.x, readings.as_ref().ok()?.median()))).collect()
}

/// Shares of readings in ranges each a quarter larger than the one before.
fn histogram(readings: &Readings) -> Vec<Point> {
    const LEAST_NS: f64 = 100.0;
    const STEP: f64 = 1.25;
    let all = readings.all();
    let bin = |reading: f64| (reading.max(LEAST_NS) / LEAST_NS).log(STEP) as i32;
    let (first, last) = (bin(all[0]), bin(all[all.len() - 1]));
    let share = |index: i32| {
        let count = all.iter().filter(|reading| bin(**reading) == index).count();
        let middle_ns = LEAST_NS * STEP.powf(f64::from(index) + 0.5);
        (middle_ns, 100.0 * count as f64 / all.len() as f64)
    };
    (first - 1..=last + 1).map(share).collect()
}

fn draw_overshoot(svg: &mut String, rows: &Rows) -> Result<(), Box<dyn Error>> {
    let series: Vec<Series> = rows
        .iter()
        .filter_map(|(row, readings)| {
            Some(Series { name: row.label.clone(), points: histogram(readings.as_ref().ok()?) })
        })
        .collect();
    if series.is_empty() {
        return Ok(());
    }
    let area = SVGBackend::with_string(svg, (900, 460)).into_drawing_area();
    let most = series.iter().flat_map(|one| &one.points).fold(0.0, |most: f64, point| most.max(point.1));
    let text = Text { title: "How late a time-out is", x: "late by", y: "share of time-outs" };
    draw_lines(&area, &text, &series, &ns, 0.0..most * 1.1, &|share| format!("{share:.0}%"))?;
    area.present()?;
    Ok(())
}

fn draw_libsets(svg: &mut String, rows: &Rows) -> Result<(), Box<dyn Error>> {
    let series = |label: &str| Series { name: label.to_owned(), points: medians(rows, label) };
    let costs = [series("launch of one more"), series("resume to the next pause, by turns")];
    let making = [series("making one, with its function")];
    if costs.iter().chain(&making).any(|one| one.points.is_empty()) {
        return Ok(());
    }
    let area = SVGBackend::with_string(svg, (900, 420)).into_drawing_area();
    let halves = area.split_evenly((1, 2));
    let count = |number: &f64| format!("{number:.0}");
    let charts = [("Cost against libsets in use", &costs[..]), ("Making libsets", &making[..])];
    for (half, (title, series)) in halves.iter().zip(charts) {
        let most = series.iter().flat_map(|one| &one.points).fold(0.0, |most: f64, point| most.max(point.1));
        draw_lines(half, &Text { title, x: "libsets", y: "" }, series, &count, 0.0..most * 1.4, &ns)?;
    }
    area.present()?;
    Ok(())
}

fn draw_throughput(svg: &mut String, rows: &Rows) -> Result<(), Box<dyn Error>> {
    let Some((_, Ok(plain))) = rows.first() else { return Ok(()) };
    let of_plain = |(quantum_us, ns): Point| (quantum_us * 1e3, 100.0 * plain.median() / ns);
    let points: Vec<Point> = medians(rows, "quanta").into_iter().map(of_plain).collect();
    if points.is_empty() {
        return Ok(());
    }
    let area = SVGBackend::with_string(svg, (900, 420)).into_drawing_area();
    let least = points.iter().fold(100.0, |least: f64, point| least.min(point.1));
    let text = Text { title: "Throughput of SHA-512 under preemption", x: "quantum", y: "of a plain call's" };
    let series = [Series { name: "inger".to_owned(), points }];
    draw_lines(&area, &text, &series, &ns, (least - 5.0).max(0.0)..105.0, &|share| format!("{share:.0}%"))?;
    area.present()?;
    Ok(())
}
