//! Plots: the same charts in the terminal and as SVG.

use std::fs;
use std::io;
use std::path::Path;

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, SeriesLabelPosition};
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _};
use plotters::element::PathElement;
use plotters::prelude::DrawingBackend;
use plotters::series::LineSeries;
use plotters::style::{BLACK, Color as _, RGBColor, WHITE};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{self, GraphType, LegendPosition, Widget as _};

use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Output, Paint};
use crate::load::latencies::Latencies;

/// Lines of a chart in the terminal.
const TERMINAL_LINES: u16 = 16;
/// Columns of it.
const TERMINAL_COLUMNS: u16 = 80;
/// Pixels of a chart as SVG.
const SVG_WIDTH: u32 = 900;
const SVG_HEIGHT: u32 = 320;
/// Points of a percentile curve: enough for a smooth line.
const CURVE_POINTS: u32 = 60;
/// Dark enough on white, and told apart by people who see few colours (Okabe and Ito).
const SVG_COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
/// Each series has a marker of its own, too: colours may be off.
const TERMINAL_SERIES: [(Marker, Color); 4] = [
    (Marker::Braille, Color::Cyan),
    (Marker::Dot, Color::Yellow),
    (Marker::Block, Color::Green),
    (Marker::HalfBlock, Color::Red),
];

/// What a value along the horizontal axis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Across {
    /// Seconds since the beginning.
    Seconds,
    /// How many nines the quantile has: 1 is 90 %, 2 is 99 %.
    Nines,
}

/// A named line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines over one axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chart {
    /// What it shows, with the unit of the vertical axis.
    pub(crate) title: String,
    pub(crate) across: Across,
    pub(crate) series: Vec<Series>,
}

impl Series {
    /// Counts of each second.
    pub(crate) fn per_second(name: &str, counts: &[u64]) -> Self {
        let points = (0_u32..).zip(counts).map(|(second, count)| (f64::from(second), *count as f64));
        Self { name: name.to_owned(), points: points.collect() }
    }

    /// The percentile curve in milliseconds, as far as there is at least one value beyond each point.
    pub(crate) fn percentiles(name: &str, latencies: &Latencies) -> Self {
        let nines_max = (latencies.count().max(2) as f64).log10();
        let points = (0..=CURVE_POINTS).map(|step| {
            let nines = nines_max * f64::from(step) / f64::from(CURVE_POINTS);
            let latency = latencies.quantile(1.0 - 10_f64.powf(-nines));
            (nines, latency.as_secs_f64() * 1000.0)
        });
        Self { name: name.to_owned(), points: points.collect() }
    }
}

impl Across {
    fn label(self, value: f64) -> String {
        match self {
            Self::Seconds if value < 10.0 && value.fract() > 0.0 => format!("{value:.1}s"),
            Self::Seconds => format!("{value:.0}s"),
            Self::Nines => {
                // 90 %, 99 %, 99.9 %: a digit behind the point for each nine after the second.
                let percent = 100.0 * (1.0 - 10_f64.powf(-value));
                let digits = (2_u32..7).filter(|nines| value > f64::from(*nines)).count();
                format!("{percent:.digits$}%")
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Seconds => "time",
            Self::Nines => "percentile",
        }
    }
}

impl Chart {
    /// The ends of both axes; the vertical one begins at 0.
    fn bounds(&self) -> ([f64; 2], [f64; 2]) {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let right = points().map(|point| point.0).fold(0.0, f64::max);
        let top = points().map(|point| point.1).fold(0.0, f64::max);
        // An axis without length cannot be drawn on.
        ([0.0, right.max(1.0)], [0.0, if top > 0.0 { top * 1.05 } else { 1.0 }])
    }

    /// The chart in cells.
    fn lines(&self, columns: u16, paint: Paint) -> Vec<String> {
        let (across, up) = self.bounds();
        let labels = |bounds: [f64; 2], label: &dyn Fn(f64) -> String| -> Vec<Line<'static>> {
            (0..=4).map(|quarter| Line::from(label(bounds[1] * f64::from(quarter) / 4.0))).collect()
        };
        let styled = self.series.iter().zip(TERMINAL_SERIES.iter().cycle());
        let datasets = styled.map(|(series, (marker, colour))| {
            widgets::Dataset::default()
                .name(series.name.clone())
                .marker(*marker)
                .graph_type(GraphType::Line)
                .style(Style::new().fg(*colour))
                .data(&series.points)
        });
        let chart = widgets::Chart::new(datasets.collect())
            .x_axis(
                widgets::Axis::default()
                    .bounds(across)
                    .labels(labels(across, &|value| self.across.label(value))),
            )
            .y_axis(widgets::Axis::default().bounds(up).labels(labels(up, &short)))
            .legend_position(if self.series.len() > 1 { Some(LegendPosition::TopLeft) } else { None });
        let area = Rect::new(0, 0, columns, TERMINAL_LINES);
        let mut buffer = Buffer::empty(area);
        chart.render(area, &mut buffer);
        let rows = buffer.content().chunks(usize::from(columns));
        rows.map(|row| {
            let cells = row.iter().map(|cell| painted(paint, cell.symbol(), cell.fg));
            cells.collect::<String>().trim_end().to_owned()
        })
        .collect()
    }

    fn draw_svg<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, plotters::coord::Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let (across, up) = self.bounds();
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(across[0]..across[1], up[0]..up[1])?;
        chart
            .configure_mesh()
            .x_desc(self.across.name())
            .x_label_formatter(&|value| self.across.label(*value))
            .y_label_formatter(&|value| short(*value))
            .draw()?;
        for (series, colour) in self.series.iter().zip(SVG_COLOURS.iter().cycle()) {
            let line = LineSeries::new(series.points.iter().copied(), colour.stroke_width(2));
            let sample = |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], colour.stroke_width(2));
            chart.draw_series(line)?.label(series.name.clone()).legend(sample);
        }
        if self.series.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE)
                .border_style(BLACK)
                .draw()?;
        }
        Ok(())
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.1}M", value / 1e6)
    } else if value >= 1e4 {
        format!("{:.0}k", value / 1e3)
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.1}")
    } else if value > 0.0 {
        format!("{value:.2}")
    } else {
        "0".to_owned()
    }
}

/// What gives a text its colour.
type Painter = fn(Paint, &str) -> String;

fn painted(paint: Paint, symbol: &str, colour: Color) -> String {
    let colours: [(Color, Painter); 4] = [
        (Color::Cyan, Paint::cyan),
        (Color::Yellow, Paint::yellow),
        (Color::Green, Paint::green),
        (Color::Red, Paint::red),
    ];
    let known = colours.iter().find(|(known, _)| *known == colour);
    known.map_or_else(|| symbol.to_owned(), |(_, with)| with(paint, symbol))
}

/// All charts below each other, as one SVG document.
fn svg(charts: &[Chart]) -> Result<String, String> {
    let mut text = String::new();
    let rows = u32::try_from(charts.len()).unwrap_or(1).max(1);
    {
        let root = SVGBackend::with_string(&mut text, (SVG_WIDTH, SVG_HEIGHT * rows)).into_drawing_area();
        let wrong = |error: DrawingAreaErrorKind<_>| error.to_string();
        root.fill(&WHITE).map_err(wrong)?;
        for (area, chart) in root.split_evenly((charts.len().max(1), 1)).iter().zip(charts) {
            chart.draw_svg(area).map_err(wrong)?;
        }
        root.present().map_err(wrong)?;
    }
    Ok(text)
}

/// Whole or not at all: readers see the old file or the new one.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // Nothing is there to remove when it could not be made.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Draws the charts where they were asked for.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn draw(
    charts: &[Chart],
    plot: bool,
    file: Option<&Path>,
    output: &mut Output,
) -> Result<(), Failure> {
    // A line needs two points.
    let charts: Vec<Chart> =
        charts.iter().filter(|chart| chart.series.iter().any(|s| s.points.len() > 1)).cloned().collect();
    if plot {
        for chart in &charts {
            output.line("")?;
            output.line(&output.paint.bold(&chart.title))?;
            for line in chart.lines(TERMINAL_COLUMNS, output.paint) {
                output.line(&line)?;
            }
        }
    }
    let Some(path) = file else { return Ok(()) };
    let cannot = |why: String| Failure::told(Exit::Io, format!("cannot write {}: {why}.", path.display()));
    let text = svg(&charts).map_err(cannot)?;
    write_whole(path, &text).map_err(|error| cannot(error.to_string()))?;
    output.notice(&format!("wrote {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::captured;
    use std::time::Duration;

    fn chart() -> Chart {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|micros| latencies.record(Duration::from_micros(micros)));
        let (first, second) =
            (Series::percentiles("a & b", &latencies), Series::percentiles("two", &latencies));
        Chart { title: "Latency, <ms>".to_owned(), across: Across::Nines, series: vec![first, second] }
    }

    #[test]
    fn the_percentile_curve_rises_and_ends_with_the_longest() {
        let points = chart().series[0].points.clone();
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{points:?}");
        let last = points.last().unwrap();
        assert!((last.0 - 3.0).abs() < 1e-9 && (last.1 - 1.0).abs() < 0.01, "{last:?}");
    }

    #[test]
    fn nines_are_labelled_as_percentiles() {
        for (nines, label) in
            [(0.0, "0%"), (1.0, "90%"), (2.0, "99%"), (3.0, "99.9%"), (4.0, "99.99%"), (5.3, "99.9995%")]
        {
            assert_eq!(Across::Nines.label(nines), label);
        }
        for (seconds, label) in [(0.0, "0s"), (2.5, "2.5s"), (5.0, "5s"), (12.5, "12s")] {
            assert_eq!(Across::Seconds.label(seconds), label);
        }
    }

    #[test]
    fn the_terminal_gets_a_chart_with_its_title_axes_and_legend() {
        let (mut output, out, _) = captured(false);
        draw(&[chart()], true, None, &mut output).unwrap();
        let text = out.text();
        for part in ["Latency, <ms>", "99.9%", "1.0", "two"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let empty = Chart { series: Vec::new(), ..chart() };
        let (mut output, out, _) = captured(false);
        draw(&[empty], true, None, &mut output).unwrap();
        assert_eq!(out.text(), "", "nothing to draw");
    }

    #[test]
    fn a_file_is_replaced_whole_and_names_are_escaped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plot.svg");
        fs::write(&path, "old").unwrap();
        let (mut output, _, err) = captured(false);
        let seconds = Chart {
            title: "Deliveries per second".to_owned(),
            across: Across::Seconds,
            series: vec![Series::per_second("x", &[1, 5, 3])],
        };
        draw(&[chart(), seconds], false, Some(&path), &mut output).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        assert!(
            text.contains("&lt;ms&gt;") && text.contains("a &amp; b") && !text.contains("<ms>"),
            "{text}"
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing beside it");
        assert!(err.text().contains("wrote "), "{}", err.text());
        let nowhere = directory.path().join("no/plot.svg");
        let failure = draw(&[chart()], false, Some(&nowhere), &mut output).unwrap_err();
        assert_eq!(failure.exit(), Exit::Io);
    }
}
