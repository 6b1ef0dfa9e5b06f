//! Curves as SVG.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::folder::write_atomic;

const SIZE: (u32, u32) = (840, 480);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(60, 60, 66);
const GRID: RGBColor = RGBColor(226, 226, 230);
/// Colours that stay apart for colour-blind eyes (Okabe and Ito, "Color universal design", 2008).
const PALETTE: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// One curve.
#[derive(Debug, Clone)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// x and y, in the order in which they are joined.
    pub points: Vec<(f64, f64)>,
}

/// Draws curves over one pair of axes into an SVG file. Points that cannot be drawn (not finite, or not positive on
/// a logarithmic axis) are left out.
pub fn plot_curves(
    path: &Path,
    title: &str,
    x_label: &str,
    y_label: &str,
    series: &[Series],
    log_y: bool,
) -> Result<()> {
    let drawable = |&(x, y): &(f64, f64)| x.is_finite() && y.is_finite() && (!log_y || y > 0.0);
    let curves: Vec<Series> = series
        .iter()
        .map(|s| Series { name: s.name.clone(), points: s.points.iter().copied().filter(drawable).collect() })
        .collect();
    let all = || curves.iter().flat_map(|s| &s.points);
    ensure!(all().next().is_some(), "{}: no point can be drawn", path.display());
    let ends = |of: fn(&(f64, f64)) -> f64| {
        all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let (left, right) = ends(|p| p.0);
    let (low, high) = ends(|p| p.1);
    let right = if right > left { right } else { left + 1.0 };
    let text = Text { title, x_label, y_label };
    let svg = if log_y {
        // A tenth of the axis' length above and below, and at least a factor of 1.1.
        let room = (high / low).powf(0.05).max(1.1);
        draw(&text, &curves, left..right, (low / room..high * room).log_scale())
    } else {
        let room = if high > low { 0.05 * (high - low) } else { high.abs().max(1.0) * 0.05 };
        draw(&text, &curves, left..right, low - room..high + room)
    };
    let svg = svg.map_err(|e| anyhow!("{}: {e}", path.display()))?;
    write_atomic(path, svg.as_bytes())
}

struct Text<'a> {
    title: &'a str,
    x_label: &'a str,
    y_label: &'a str,
}

fn draw<Y>(text: &Text, curves: &[Series], x: std::ops::Range<f64>, y: Y) -> Result<String, Box<dyn std::error::Error>>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(text.title, (FONT, 20).into_font().color(&INK))
            .margin(16)
            .margin_right(28)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc(text.x_label)
            .y_desc(text.y_label)
            .x_label_formatter(&|v| plain(*v))
            .y_label_formatter(&|v| plain(*v))
            .label_style((FONT, 14).into_font().color(&INK))
            .axis_desc_style((FONT, 15).into_font().color(&INK))
            .draw()?;
        for (curve, &colour) in curves.iter().zip(PALETTE.iter().cycle()) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), style))?
                .label(curve.name.as_str())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            // A curve of one point has no line.
            if let [point] = curve.points[..] {
                chart.draw_series([Circle::new(point, 3, colour.filled())])?;
            }
        }
        if curves.len() > 1 {
            // In the corner that the first curve leaves free.
            let rises = curves.iter().find_map(|s| Some(s.points.last()?.1 > s.points.first()?.1));
            let place =
                if rises == Some(true) { SeriesLabelPosition::LowerRight } else { SeriesLabelPosition::UpperRight };
            chart
                .configure_series_labels()
                .position(place)
                .background_style(WHITE.mix(0.85))
                .border_style(GRID)
                .label_font((FONT, 14).into_font().color(&INK))
                .draw()?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// A number of an axis, without the noise of its last digits.
fn plain(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.0e}");
    }
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_string() } else { text.to_string() }
}
