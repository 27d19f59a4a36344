//! Two plain SVG plots: bars with their range, and latency by percentile.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use crate::report::enough;

const WIDTH: f64 = 860.0;
const COLOURS: [&str; 8] =
    ["#888888", "#0b6e4f", "#5bba6f", "#b5179e", "#009639", "#1f77b4", "#8ab6d6", "#e07a1f"];

fn page(title: &str, height: f64, inner: &str) -> String {
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"16\" y=\"24\" font-size=\"15\">{title}</text>\n{inner}</svg>\n"
    )
}

/// Horizontal bars: name, median, lowest, highest.
pub fn bars(title: &str, bars: &[(&str, f64, f64, f64)]) -> String {
    let most = bars.iter().map(|b| b.3).fold(0.0, f64::max).max(1e-9);
    let scale = 600.0 / most;
    let mut inner = String::new();
    for (i, (name, mid, low, high)) in bars.iter().enumerate() {
        let y = 44.0 + i as f64 * 28.0;
        let colour = if name.starts_with("selvedge") { COLOURS[1] } else { COLOURS[5] };
        let (bar, from, to) = (mid.max(0.0) * scale, 130.0 + low * scale, 130.0 + high * scale);
        let middle = y + 10.0;
        let _ = writeln!(
            inner,
            "<text x=\"124\" y=\"{0:.1}\" text-anchor=\"end\">{name}</text><rect x=\"130\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"20\" fill=\"{colour}\"/>\
             <line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"black\"/>\
             <text x=\"{1:.1}\" y=\"{0:.1}\">{mid:.3}</text>",
            y + 15.0,
            to.max(130.0 + bar) + 8.0
        );
    }
    page(title, 60.0 + bars.len() as f64 * 28.0, &inner)
}

/// Latency over percentile, both logarithmic; a curve ends where fewer than a hundred samples lie beyond.
pub fn latency(title: &str, curves: &[(&str, Histogram<u64>)]) -> String {
    let (left, top, wide, high) = (70.0, 44.0, 620.0, 360.0);
    let low = curves.iter().map(|c| c.1.min().max(1000)).min().unwrap_or(1000) as f64;
    let most = curves.iter().map(|c| c.1.value_at_quantile(0.9999)).max().unwrap_or(1_000_000) as f64;
    let (low, most) = (low.log10().floor(), most.log10().ceil());
    let x = |quantile: f64| left + wide * (-(1.0 - quantile).log10() / 4.0).min(1.0);
    let y = |ns: f64| top + high * (1.0 - (ns.log10() - low) / (most - low).max(1.0));
    let mut inner = String::new();
    for (label, quantile) in [("p0", 0.0), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)]
    {
        let at = x(quantile);
        let _ = writeln!(
            inner,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{0:.1}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{1:.1}\" text-anchor=\"middle\">{label}</text>",
            top + high,
            top + high + 18.0
        );
    }
    let mut decade = low;
    while decade <= most {
        let ns = 10f64.powf(decade);
        let _ = writeln!(
            inner,
            "<line x1=\"{left}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#ddd\"/><text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{4} us</text>",
            left + wide,
            y(ns),
            left - 6.0,
            y(ns) + 4.0,
            ns / 1000.0
        );
        decade += 1.0;
    }
    for (i, (name, histogram)) in curves.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let mut points = String::new();
        for step in 0..=400 {
            let quantile = 1.0 - 10f64.powf(-4.0 * f64::from(step) / 400.0);
            if !enough(histogram.len(), quantile) {
                break;
            }
            let _ = write!(
                points,
                "{:.1},{:.1} ",
                x(quantile),
                y(histogram.value_at_quantile(quantile).max(1) as f64)
            );
        }
        let line = top + 16.0 + i as f64 * 20.0;
        let _ = writeln!(
            inner,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\"/><text x=\"{:.1}\" y=\"{line:.1}\" fill=\"{colour}\">{name}</text>",
            left + wide + 12.0
        );
    }
    page(title, top + high + 40.0, &inner)
}
