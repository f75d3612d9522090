//! The whole screen: header, memory, rates, tree, pane, footer, and what lies over them.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::widgets::{Sparkline, Widget as _};

use crate::cli::records::{phase_name, pressure_name};
use crate::cli::text::{duration_of, show_bytes, show_duration};
use crate::cli::top::app::{App, Link, Mode};
use crate::cli::top::canvas::{Pen, Styles, flow, scale, width};
use crate::cli::top::layout::{HEIGHT_MIN, Layout, WIDTH_MIN};
use crate::cli::top::rates::{Rate, Sample};
use crate::cli::top::{panes, table};
use crate::wire::v1;

/// Steps of a sparkline: eight per line, two lines at most, and some to spare.
const SPARK_STEPS: u64 = 800;

/// One of a sample's rates, and how it reads.
type ReadRate = fn(&Sample) -> Rate;
type ShowRate = fn(Rate) -> String;

/// Draws everything into this area.
pub(crate) fn draw(app: &App, area: Rect, buffer: &mut Buffer) {
    let Some(layout) = Layout::of(area.width, area.height, app.pane) else {
        too_small(area, buffer);
        return;
    };
    draw_parts(app, &layout, buffer);
    match &app.mode {
        Mode::Help => panes::help(area, buffer),
        Mode::Cancel(cancel) => panes::cancel(app, cancel, area, buffer),
        Mode::Browse | Mode::Filter { .. } => {}
    }
}

/// Draws the parts where the layout has them.
pub(crate) fn draw_parts(app: &App, layout: &Layout, buffer: &mut Buffer) {
    header(app, layout.header, buffer);
    memory(app, layout.memory, buffer);
    rates(app, layout.rates, buffer);
    table::title(app, layout.title, buffer);
    table::rows(app, layout.rows, buffer);
    panes::lower(app, layout.pane, buffer);
    footer(app, layout.footer, buffer);
}

fn too_small(area: Rect, buffer: &mut Buffer) {
    let lines = [
        format!("{}x{} is too small:", area.width, area.height),
        format!("{WIDTH_MIN}x{HEIGHT_MIN} at least, or"),
        "streamward status --watch; q quits".to_owned(),
    ];
    for (line, text) in (0..).zip(&lines) {
        Pen::at(buffer, area, line).put(text, Style::new());
    }
}

fn styles(app: &App) -> Styles {
    Styles { colours: app.colours }
}

fn header(app: &App, part: Rect, buffer: &mut Buffer) {
    let styles = styles(app);
    let status = &app.picture.status;
    let mut pen = Pen::at(buffer, part, 0);
    pen.put("streamward ", styles.bold());
    if app.link == Link::Connecting {
        pen.put("connecting", Style::new());
        return;
    }
    let phase = v1::Phase::try_from(status.phase).unwrap_or_default();
    let style = match phase {
        v1::Phase::Running => styles.coloured(Color::Green),
        v1::Phase::Unspecified | v1::Phase::Refusing | v1::Phase::Draining | v1::Phase::Aborting => {
            styles.alarm()
        }
    };
    pen.put(&status.version, Style::new());
    pen.skip(2);
    pen.put(phase_name(status.phase), style);
    pen.skip(2);
    pen.put(&format!("up {}", show_duration(duration_of(status.uptime))), Style::new());
    if let Some(sample) = app.history.last().filter(|_| status.cpu_time.is_some()) {
        pen.skip(2);
        pen.put(&format!("CPU {}", sample.cpu.show_share()), Style::new());
    }
    let (state, style) = match &app.link {
        Link::Lost { why, tries } => {
            let again = if *tries > 0 { format!(" ({tries})") } else { String::new() };
            (format!(" connection lost, retrying{again}: {why} "), styles.alarm())
        }
        Link::Connecting | Link::Live if app.paused => (" PAUSED ".to_owned(), styles.selected()),
        Link::Connecting | Link::Live => (format!("every {}", show_duration(app.interval)), styles.dim()),
    };
    pen.skip(2);
    pen.skip_to_last(width(&state));
    pen.put(&state, style);
    let counts = Rect { y: part.y + 1, height: part.height - 1, ..part };
    flow(buffer, counts, &header_counts(status, styles));
}

fn header_counts(status: &v1::ServerStatus, styles: Styles) -> Vec<(String, Style)> {
    let of = |number: u64, max: u64| match (number, max) {
        (0, _) => "?".to_owned(),
        (number, 0) => number.to_string(),
        (number, max) => format!("{number} of {max}"),
    };
    let near = |number: u64, max: u64| {
        if max > 0 && number >= max - max / 10 { styles.alarm() } else { Style::new() }
    };
    let (threads, threads_max) = (u64::from(status.threads), u64::from(status.threads_max));
    let descriptors = u64::from(status.descriptors);
    let plain = |text: String| (text, Style::new());
    let lag = |lag: Option<prost_types::Duration>| match lag {
        Some(lag) => show_duration(duration_of(Some(lag))),
        None => "?".to_owned(),
    };
    vec![
        plain(format!("connections {}", status.connections)),
        plain(format!("sessions {}", status.sessions)),
        plain(format!("streams {}", status.streams)),
        plain(format!("subscriptions {}", status.subscriptions)),
        plain(format!("topics {}", status.topics)),
        (
            format!("threads {}", of(threads, threads_max)),
            // At its limit is how it should be; above it is not.
            if threads_max > 0 && threads > threads_max { styles.alarm() } else { Style::new() },
        ),
        (
            format!("descriptors {}", of(descriptors, status.descriptors_max)),
            near(descriptors, status.descriptors_max),
        ),
        plain(format!("loop lag {}, worst {}", lag(status.loop_lag), lag(status.loop_lag_max))),
    ]
}

/// The ladder: used of what may be used, with the places where the levels begin.
fn memory(app: &App, part: Rect, buffer: &mut Buffer) {
    let styles = styles(app);
    let status = &app.picture.status;
    let memory = status.memory.unwrap_or_default();
    let pressure = v1::Pressure::try_from(status.pressure).unwrap_or_default();
    let name = pressure_name(status.pressure);
    let mut pen = Pen::at(buffer, part, 0);
    pen.put("memory ", styles.bold());
    if memory.ceiling_bytes == 0 {
        pen.put(name, styles.level(pressure));
        pen.put(&format!("  {} resident; no budget told", show_bytes(status.rss_bytes)), Style::new());
        return;
    }
    let percent = memory.used_bytes.saturating_mul(100) / memory.ceiling_bytes;
    let used = format!(" {percent}% of {} ", show_bytes(memory.ceiling_bytes));
    let field = pen.room().saturating_sub(width(&used) + width(name));
    let full = memory.ceiling_bytes;
    pen.bar(memory.used_bytes, full, field, styles.level(pressure));
    pen.put(&used, Style::new());
    pen.put(name, styles.level(pressure));
    let bar = Rect { x: part.x + width("memory "), width: field, height: 1, ..part };
    for (mark, at) in
        [("E", memory.elevated_percent), ("H", memory.high_percent), ("C", memory.critical_percent)]
    {
        let x = scale(u64::from(at), 100, u64::from(field));
        if at > 0
            && let Ok(x) = u16::try_from(x)
        {
            let mut pen = Pen::at(buffer, bar, 0);
            pen.skip(x.min(field.saturating_sub(1)));
            let reached = u64::from(at) <= percent;
            pen.put_one(mark, if reached { styles.selected() } else { styles.bold() });
        }
    }
    let details = format!(
        "       budget {}, resident {}, accounts {}, tails {} of {}",
        show_bytes(memory.budget_bytes),
        show_bytes(status.rss_bytes),
        show_bytes(memory.accounts_bytes),
        show_bytes(status.tails_bytes),
        show_bytes(status.tails_bytes_max),
    );
    Pen::at(buffer, part, 1).put(&details, styles.dim());
}

fn rates(app: &App, part: Rect, buffer: &mut Buffer) {
    let styles = styles(app);
    let third = part.width / 3;
    let last = app.history.last();
    let parts: [(&str, ReadRate, ShowRate); 3] = [
        ("events in", |sample| sample.events_in, Rate::show),
        ("events out", |sample| sample.events_out, Rate::show),
        ("bytes out", |sample| sample.bytes_out, Rate::show_bytes),
    ];
    for (at, (name, rate, show)) in (0..).zip(parts) {
        let now = last.map_or_else(|| "?".to_owned(), |sample| show(rate(sample)));
        let column = Rect { x: part.x + at * third, width: third.saturating_sub(2), ..part };
        let (values, time) = app.history.newest(usize::from(column.width), rate);
        let mut pen = Pen::at(buffer, column, 0);
        pen.put(name, styles.bold());
        pen.put(&format!(" {now}/s"), Style::new());
        if !time.is_zero() {
            let span = show_duration(time);
            pen.skip(1);
            pen.skip_to_last(width(&span));
            pen.put(&span, styles.dim());
        }
        let top = values.iter().copied().max().unwrap_or(0);
        let data: Vec<u64> = values.iter().map(|value| scale(*value, top, SPARK_STEPS)).collect();
        let line = Rect { y: column.y + 1, height: column.height - 1, ..column };
        // The newest at the right end: time runs the same way however few there are.
        let used = u16::try_from(data.len()).unwrap_or(line.width).min(line.width);
        let line = Rect { x: line.x + (line.width - used), width: used, ..line };
        Sparkline::default()
            .data(data)
            .max(SPARK_STEPS)
            .style(styles.coloured(Color::Cyan))
            .render(line.intersection(buffer.area), buffer);
    }
}

fn footer(app: &App, part: Rect, buffer: &mut Buffer) {
    let styles = styles(app);
    let mut pen = Pen::at(buffer, part, 0);
    if matches!(app.mode, Mode::Filter { .. }) {
        pen.put("filter: ", styles.bold());
        panes::input(&mut pen, &app.view.filter, 26);
        pen.put("  Enter keeps, Esc drops", styles.dim());
    } else if app.message.is_empty() {
        let keys = "q quit  ? help  s sort  / filter  Enter inspect  c cancel  e ended  p pause";
        pen.put(keys, styles.dim());
    } else {
        pen.put(&app.message, styles.bold());
    }
}
