//! The plots, as SVG.

use crate::plan::Row;
use inger_bench::chart::{Point, Series, Text, draw_lines, ns};
use inger_bench::stats::Readings;
use plotters::prelude::*;
use std::error::Error;

type Rows = [(Row, Result<Readings, String>)];

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
