//! Charts as one SVG document: rectangles, lines and text, nothing from elsewhere. By hand, because a plotting library
//! that can do this is 100 KB of program.

use std::fmt::{self, Write as _};

use crate::cli::bench::plot::{Chart, short};

/// Pixels of a chart.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 320.0;
/// Where its axes are.
const LEFT: f64 = 82.0;
const RIGHT: f64 = WIDTH - 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = HEIGHT - 52.0;
/// Between the lines of the legend.
const LEGEND_LINE: f64 = 18.0;
const MIDDLE: &str = "text-anchor=\"middle\"";
/// Steps of an axis, at most.
const STEPS_MAX: u32 = 8;
/// Dark enough on white, and told apart by people who see few colours (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// All charts below each other.
///
/// # Errors
/// Never: writing into memory does not fail.
pub(super) fn document(charts: &[Chart]) -> Result<String, fmt::Error> {
    let height = HEIGHT * charts.len().max(1) as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (at, chart) in charts.iter().enumerate() {
        writeln!(out, "<g transform=\"translate(0 {})\">", HEIGHT * at as f64)?;
        draw(&mut out, chart)?;
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    Ok(out)
}

fn draw(out: &mut String, chart: &Chart) -> fmt::Result {
    // Both axes begin at 0.
    let ([_, right], [_, top]) = chart.bounds();
    let x = |value: f64| LEFT + value / right * (RIGHT - LEFT);
    let y = |value: f64| BOTTOM - value / top * (BOTTOM - TOP);
    let centre = f64::midpoint(LEFT, RIGHT);
    text(out, [centre, TOP - 16.0], "text-anchor=\"middle\" font-size=\"18\"", &chart.title)?;
    text(out, [centre, HEIGHT - 10.0], MIDDLE, chart.across.name())?;
    for value in steps(right) {
        line(out, [x(value), TOP], [x(value), BOTTOM], "#ddd")?;
        text(out, [x(value), BOTTOM + 18.0], MIDDLE, &chart.across.label(value))?;
    }
    for value in steps(top) {
        line(out, [LEFT, y(value)], [RIGHT, y(value)], "#ddd")?;
        text(out, [LEFT - 8.0, y(value) + 4.0], "text-anchor=\"end\"", &short(value))?;
    }
    line(out, [LEFT, TOP], [LEFT, BOTTOM], "black")?;
    line(out, [LEFT, BOTTOM], [RIGHT, BOTTOM], "black")?;
    for (series, colour) in chart.series.iter().zip(COLOURS.iter().cycle()) {
        write!(out, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"")?;
        for (across, up) in &series.points {
            write!(out, "{:.1},{:.1} ", x(*across), y(*up))?;
        }
        out.push_str("\"/>\n");
    }
    if chart.series.len() > 1 { legend(out, chart) } else { Ok(()) }
}

/// The names of the lines, over the chart's upper left, where a curve that rises is not.
fn legend(out: &mut String, chart: &Chart) -> fmt::Result {
    for (at, (series, colour)) in chart.series.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let up = TOP + LEGEND_LINE * (at as f64 + 0.75);
        line(out, [LEFT + 12.0, up], [LEFT + 32.0, up], colour)?;
        text(out, [LEFT + 38.0, up + 4.0], "", &series.name)?;
    }
    Ok(())
}

/// Round values from 0 to `end`: 1, 2 or 5 times a power of ten apart.
fn steps(end: f64) -> impl Iterator<Item = f64> {
    let least = end / f64::from(STEPS_MAX);
    let power = 10_f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(|step| *step >= least);
    let step = step.unwrap_or(10.0 * power);
    (0..=STEPS_MAX).map(move |count| f64::from(count) * step).take_while(move |value| *value <= end)
}

fn line(out: &mut String, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], colour: &str) -> fmt::Result {
    let ends = format_args!("x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"");
    writeln!(out, "<line {ends} stroke=\"{colour}\"/>")
}

fn text(out: &mut String, [x, y]: [f64; 2], how: &str, text: &str) -> fmt::Result {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {how}>{text}</text>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::plot::{Across, Series};

    #[test]
    fn steps_are_round_begin_at_0_and_stay_on_the_axis() {
        for (end, expected) in [
            (1.0, vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
            (5.3, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            (10.0, vec![0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
            (80_000.0, (0..=8).map(|n| f64::from(n) * 10_000.0).collect()),
        ] {
            let steps: Vec<f64> = steps(end).collect();
            assert!(
                steps.len() == expected.len()
                    && steps.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9 * end),
                "{end}: {steps:?}"
            );
        }
        for exponent in -12..12 {
            for digit in 1..100 {
                let end = f64::from(digit) * 10_f64.powi(exponent);
                assert!((2..=9).contains(&steps(end).count()), "{end}");
            }
        }
    }

    #[test]
    fn every_point_lies_between_the_axes_and_every_line_has_its_name() {
        let series = |name: &str, counts: &[u64]| Series::per_second(name, counts);
        let chart = Chart {
            title: "a".to_owned(),
            across: Across::Seconds,
            series: vec![series("one", &[1, 900_000, 3]), series("t<o", &[0, 0])],
        };
        let text = document(&[chart.clone(), chart]).unwrap();
        let points = text.split("points=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        let points: Vec<(f64, f64)> = points
            .flat_map(|points| points.split_whitespace())
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert_eq!(points.len(), 10);
        for (x, y) in points {
            assert!((LEFT..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y), "{x} {y}");
        }
        assert_eq!(text.matches(">one</text>").count(), 2);
        assert_eq!(text.matches(">t&lt;o</text>").count(), 2);
        assert_eq!(text.matches("<g ").count(), text.matches("</g>").count());
    }
}
