//! Says what is in a checkpoint, an error map, an exported foam or any other safetensors file.
//!
//! ```text
//! cargo run --release --example inspect -- runs/fox
//! cargo run --release --example inspect -- runs/fox --validate
//! cargo run --release --example inspect -- --diff runs/fox runs/fox-2
//! ```

mod contents;
mod difference;
mod statistics;
#[path = "../support/mod.rs"]
mod support;
mod validate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use contents::{Contents, Row, leaves};
use difference::Difference;
use serde_json::{Value, json};
use statistics::{Cells, ErrorMap, Position, Quantiles};
use support::checkpoint::CHECKPOINT;
use validate::{Check, validate};

/// Arrays of the header that are longer are told by their length.
const LONGEST_ARRAY: usize = 6;

/// Says what is in a run's checkpoint, or in any safetensors file.
#[derive(Debug, Parser)]
struct Args {
    /// A run's folder or a safetensors file.
    #[arg(required_unless_present = "diff")]
    file: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Says how two files differ instead; exit status 1 if they do.
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["file", "validate"])]
    diff: Option<Vec<PathBuf>>,
    /// Checks instead that the file is sound; exit status 1 if it is not.
    #[arg(long)]
    validate: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let fine = match (&args.diff, &args.file) {
        (Some(files), _) => {
            let difference = Difference::of(&open(&files[0])?, &open(&files[1])?)?;
            print(args.json, &difference, print_difference)?;
            difference.is_none()
        }
        (None, file) => {
            let contents = open(file.as_ref().context("no file")?)?;
            if args.validate {
                let checks = validate(&contents)?;
                print(args.json, &checks, |checks| print_checks(checks))?;
                checks.iter().all(|check| check.failed.is_none())
            } else {
                report(&contents, args.json)?;
                true
            }
        }
    };
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open(path: &Path) -> Result<Contents> {
    Contents::read(&if path.is_dir() { path.join(CHECKPOINT) } else { path.to_path_buf() })
}

fn print<T: serde::Serialize>(as_json: bool, value: &T, plain: impl Fn(&T)) -> Result<()> {
    match as_json {
        true => println!("{}", serde_json::to_string_pretty(value)?),
        false => plain(value),
    }
    Ok(())
}

fn report(contents: &Contents, as_json: bool) -> Result<()> {
    let table = contents.table()?;
    let position = contents.header.as_ref().and_then(Position::of);
    let has_foam = contents.header.is_some() && table.iter().any(|row| row.name == "foam.points");
    let cells = has_foam.then(|| Cells::of(contents));
    let error_map = ErrorMap::of(contents)?;
    if as_json {
        let told = cells.map(|cells| cells.map_or_else(|error| json!({ "error": error.to_string() }), |c| json!(c)));
        let all = json!({
            "file": contents.path, "tensors": table, "header": contents.header, "metadata": contents.metadata,
            "position": position, "cells": told, "error_map": error_map,
        });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!("{}", contents.path.display());
    print_table(&table);
    for (key, value) in leaves(contents.header.as_ref().unwrap_or(&Value::Null), LONGEST_ARRAY) {
        // A file without a header has no fields.
        if !key.is_empty() {
            println!("{key} = {value}");
        }
    }
    contents.metadata.iter().for_each(|(key, value)| println!("metadata {key} = {value}"));
    if let Some(Position { step, progress, num_rays, learning_rates }) = position {
        let rays = num_rays.map_or(String::new(), |rays| format!(", {rays} rays"));
        println!("\nstep {step}, {:.1} % of the schedules{rays}", 100.0 * progress);
        learning_rates.iter().for_each(|(group, rate)| println!("learning rate of {group}: {rate:.3e}"));
    }
    match cells {
        Some(Ok(cells)) => print_cells(&cells),
        Some(Err(error)) => println!("\nthe foam cannot be read: {error}"),
        None => {}
    }
    if let Some(map) = error_map {
        let share = 100.0 * map.visited_share;
        println!("\nerror map: {} of {} entries visited ({share:.1} %)", map.visited, map.num_entries);
        print_quantiles("error", map.errors.as_ref());
    }
    Ok(())
}

fn print_table(table: &[Row]) {
    let shape = |row: &Row| format!("{:?}", row.shape);
    let width = |of: &dyn Fn(&Row) -> usize| table.iter().map(of).max().unwrap_or(0).max(6);
    let (name, dims) = (width(&|row| row.name.chars().count()), width(&|row| shape(row).len()));
    println!(
        "{:name$}  {:5}  {:dims$}  {:>11}  {:>11}  {:>11}  {:>6}  {:>12}",
        "tensor", "dtype", "shape", "min", "mean", "max", "NaN", "bytes"
    );
    let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4e}"));
    for row in table {
        println!(
            "{:name$}  {:5}  {:dims$}  {:>11}  {:>11}  {:>11}  {:>6}  {:>12}",
            row.name,
            row.dtype,
            shape(row),
            number(row.min),
            number(row.mean),
            number(row.max),
            row.nan,
            row.bytes
        );
    }
    let (values, bytes) = (table.len(), table.iter().map(|row| row.bytes).sum::<usize>());
    println!("{values} tensors, {bytes} bytes");
}

fn print_cells(cells: &Cells) {
    println!("\n{} cells, {} SH coefficients a channel", cells.num_cells, cells.num_coefficients);
    print_quantiles("neighbours", cells.neighbors.as_ref());
    print_quantiles("density", cells.density.as_ref());
    print_quantiles("volume", cells.volume.as_ref());
    let most = cells.volume_histogram.values().copied().max().unwrap_or(1);
    for (power, count) in &cells.volume_histogram {
        const BAR: u64 = 50;
        let bar = "#".repeat((count * BAR).div_ceil(most) as usize);
        println!("  1e{power:<4} {count:>8}  {bar}");
    }
    if cells.num_volumes < cells.num_cells {
        println!("  (volumes of {} cells, evenly over all)", cells.num_volumes);
    }
}

fn print_quantiles(what: &str, quantiles: Option<&Quantiles>) {
    if let Some(q) = quantiles {
        println!(
            "{what:10}  min {:.3e}  5% {:.3e}  25% {:.3e}  median {:.3e}  75% {:.3e}  95% {:.3e}  max {:.3e}  mean {:.3e}",
            q.min, q.p05, q.p25, q.median, q.p75, q.p95, q.max, q.mean
        );
    }
}

fn print_checks(checks: &[Check]) {
    for Check { name, failed } in checks {
        match failed {
            None => println!("ok      {name}"),
            Some(found) => println!("FAILED  {name}: {found}"),
        }
    }
}

fn print_difference(difference: &Difference) {
    difference.only_in_a.iter().for_each(|name| println!("only in A: {name}"));
    difference.only_in_b.iter().for_each(|name| println!("only in B: {name}"));
    for (name, changed) in &difference.changed {
        match &changed.kinds {
            Some([a, b]) => println!("{name}: {a} in A, {b} in B"),
            None => println!(
                "{name}: {} values differ, by {:.3e} at most, and by {:.3e} of the larger one",
                changed.count, changed.absolute, changed.relative
            ),
        }
    }
    for (name, [a, b]) in &difference.header {
        let told = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
        println!("{name}: {} in A, {} in B", told(a), told(b));
    }
    if difference.is_none() {
        println!("no difference");
    }
}
