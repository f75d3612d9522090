//! The tree of sessions and streams with its columns.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};

use crate::cli::records::reason_name;
use crate::cli::text::{count, duration_of, show_bytes, show_duration};
use crate::cli::top::app::{App, Link, Node, shown_from};
use crate::cli::top::canvas::{Pen, Styles};
use crate::cli::top::picture::Figures;
use crate::cli::top::rows::{Column, Row};
use crate::wire::v1;

/// Cells of the fields, without the space between them.
const BAR_CELLS: u16 = 8;
const LAG_CELLS: u16 = 8;
const RATE_CELLS: u16 = 8;
const DELIVERED_CELLS: u16 = 9;
const AGE_CELLS: u16 = 6;
const LEASE_CELLS: u16 = 6;
/// The name is never narrower.
const NAME_CELLS_MIN: u16 = 26;
/// Nor wider, while what a stream follows could use the room.
const NAME_CELLS_MAX: u16 = 34;
/// The topics are worth a column from this width on.
const TOPICS_CELLS_MIN: u16 = 12;

/// The fields of a line; 0 is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fields {
    name: u16,
    topics: u16,
    bar: u16,
    lag: u16,
    rate: u16,
    delivered: u16,
    age: u16,
    lease: u16,
}

impl Fields {
    /// What fits, the least important left out first.
    fn of(width: u16) -> Self {
        let mut fields = Self {
            name: 0,
            topics: 0,
            bar: BAR_CELLS,
            lag: LAG_CELLS,
            rate: RATE_CELLS,
            delivered: DELIVERED_CELLS,
            age: AGE_CELLS,
            lease: LEASE_CELLS,
        };
        let droppable: [fn(&mut Self) -> &mut u16; 3] =
            [|fields| &mut fields.age, |fields| &mut fields.bar, |fields| &mut fields.delivered];
        for field in droppable {
            if fields.left(width) < NAME_CELLS_MIN {
                *field(&mut fields) = 0;
            }
        }
        let left = fields.left(width);
        fields.name = left;
        if left > NAME_CELLS_MIN + TOPICS_CELLS_MIN {
            fields.name = (left / 2).clamp(NAME_CELLS_MIN, NAME_CELLS_MAX);
            fields.topics = left - fields.name - 1;
        }
        fields
    }

    /// What the fields but the name leave of a line.
    fn left(&self, width: u16) -> u16 {
        let fields = [self.bar, self.lag, self.rate, self.delivered, self.age, self.lease];
        let taken: u16 = fields.iter().filter(|field| **field > 0).map(|field| field + 1).sum();
        width.saturating_sub(taken)
    }
}

/// What the tree shows, and the heads of its columns.
pub(crate) fn title(app: &App, part: Rect, buffer: &mut Buffer) {
    let styles = Styles { colours: app.colours };
    let view = &app.view;
    let mut pen = Pen::at(buffer, part, 0);
    let shown = format!(
        " {}, {}",
        count(u64::try_from(app.rows.sessions).unwrap_or(u64::MAX), "session"),
        count(u64::try_from(app.rows.streams).unwrap_or(u64::MAX), "stream"),
    );
    pen.put("─", styles.dim());
    pen.put(&shown, styles.bold());
    if !view.filter.is_empty() {
        pen.put(&format!(" with \"{}\"", view.filter), styles.bold());
    }
    pen.put(&format!(", {}; ", view.column.order(view.reversed)), Style::new());
    pen.put(&format!("lag bars to {} ", show_bytes(app.picture.lag_scale_bytes)), styles.dim());
    pen.rule(styles.dim());

    let fields = Fields::of(part.width);
    let mut pen = Pen::at(buffer, part, 1);
    let head = |column: Column, text: &str| {
        if column != view.column {
            return (text.to_owned(), styles.dim());
        }
        let down = matches!(column, Column::User | Column::Lease) == view.reversed;
        (format!("{}{text}", if down { "▼" } else { "▲" }), styles.bold())
    };
    let (user, style) = head(Column::User, "USER, STREAM");
    pen.left(&user, fields.name, style);
    if fields.topics > 0 {
        pen.skip(1);
        pen.left("CLIENT, TOPICS", fields.topics, styles.dim());
    }
    if fields.bar > 0 {
        pen.skip(1 + fields.bar);
    }
    for (field, column, text) in [
        (fields.lag, Column::Lag, "LAG"),
        (fields.rate, Column::Rate, "EVENT/S"),
        (fields.delivered, Column::Delivered, "BYTES"),
        (fields.age, Column::Age, "AGE"),
        (fields.lease, Column::Lease, "LEASE"),
    ] {
        if field > 0 {
            pen.skip(1);
            let (text, style) = head(column, text);
            pen.right(&text, field, style);
        }
    }
}

/// The rows around the selected one.
pub(crate) fn rows(app: &App, part: Rect, buffer: &mut Buffer) {
    let styles = Styles { colours: app.colours };
    let rows = &app.rows.rows;
    if rows.is_empty() {
        let text = match (&app.link, app.view.filter.is_empty()) {
            (Link::Connecting, _) => "",
            (Link::Live | Link::Lost { .. }, true) => "  nobody is logged in",
            (Link::Live | Link::Lost { .. }, false) => "  nothing matches the filter",
        };
        Pen::at(buffer, part, 0).put(text, styles.dim());
        return;
    }
    let page = usize::from(part.height);
    let offset = shown_from(app.offset, app.selected, rows.len(), page);
    let fields = Fields::of(part.width);
    for (line, (at, row)) in (0..).zip(rows.iter().enumerate().skip(offset).take(page)) {
        let Some(node) = app.node(*row) else { continue };
        let is_last = !matches!(rows.get(at + 1), Some(Row::Stream(..)));
        let mut pen = Pen::at(buffer, part, line);
        match node {
            Node::Session(session) => {
                let folded = app.view.folded.contains(&session.info.id);
                session_row(&mut pen, &session.info, &session.figures, folded, fields, app);
            }
            Node::Stream(_, stream) => {
                stream_row(&mut pen, &stream.info, &stream.figures, is_last, fields, app)
            }
        }
        if at == app.selected && app.selection_shown {
            let row = Rect { y: part.y + line, height: 1, ..part };
            buffer.set_style(row.intersection(buffer.area), styles.selected());
        }
    }
    // On the last line there is, so that nobody takes the list for whole.
    if app.rows.more > 0 && offset + page >= rows.len() {
        let text = format!("  … and {} more: narrow with / ", grouped(app.rows.more));
        Pen::at(buffer, part, part.height.saturating_sub(1)).put(&text, styles.alarm());
    }
}

fn session_row(
    pen: &mut Pen<'_>,
    info: &v1::SessionInfo,
    figures: &Figures,
    folded: bool,
    fields: Fields,
    app: &App,
) {
    let styles = Styles { colours: app.colours };
    let mark = match (info.streams, folded) {
        (0, _) => "  ",
        (_, true) => "▸ ",
        (_, false) => "▾ ",
    };
    // What is hidden is counted where it is not cut off.
    let hidden = if folded { format!(" +{}", info.streams) } else { String::new() };
    let client = if fields.topics == 0 && !info.client_name.is_empty() {
        format!(" ({})", info.client_name)
    } else {
        String::new()
    };
    let name = format!("{}{hidden}{client} {}", info.user, info.id);
    pen.put(mark, Style::new());
    pen.left(&name, fields.name.saturating_sub(2), styles.bold());
    if fields.topics > 0 {
        pen.skip(1);
        let text = ending(info.ending).unwrap_or_else(|| info.client_name.clone());
        pen.left(&text, fields.topics, Style::new());
    }
    let lease = show_duration(duration_of(info.lease_left));
    numbers(pen, figures, Some(&lease), !folded, fields, app);
}

fn stream_row(
    pen: &mut Pen<'_>,
    info: &v1::StreamInfo,
    figures: &Figures,
    is_last: bool,
    fields: Fields,
    app: &App,
) {
    let topics: Vec<&str> =
        info.subscriptions.iter().map(|subscription| subscription.topic.as_str()).collect();
    let topics = ending(info.ending).unwrap_or_else(|| topics.join(", "));
    pen.put(if is_last { "  └ " } else { "  ├ " }, Style::new());
    let name = if fields.topics == 0 {
        format!("{} {topics}", info.id)
    } else {
        format!("{} {}", info.id, info.rpc)
    };
    pen.left(&name, fields.name.saturating_sub(4), Styles { colours: app.colours }.coloured(Color::Cyan));
    if fields.topics > 0 {
        pen.skip(1);
        pen.left(&topics, fields.topics, Style::new());
    }
    numbers(pen, figures, None, false, fields, app);
}

/// The columns of numbers. The sums of an open session are shown dimmed: its streams have the same below.
fn numbers(
    pen: &mut Pen<'_>,
    figures: &Figures,
    lease: Option<&str>,
    dimmed: bool,
    fields: Fields,
    app: &App,
) {
    let styles = Styles { colours: app.colours };
    let style = if dimmed { styles.dim() } else { Style::new() };
    let scale = app.picture.lag_scale_bytes;
    if fields.bar > 0 {
        pen.skip(1);
        if dimmed {
            pen.skip(fields.bar);
        } else {
            pen.bar(figures.lag_bytes, scale, fields.bar, styles.fullness(figures.lag_bytes, scale));
        }
    }
    let rate = figures.events_per_second.map_or_else(|| "-".to_owned(), |rate| rate.show());
    for (field, text, style) in [
        (fields.lag, show_bytes(figures.lag_bytes).as_str(), style),
        (fields.rate, rate.as_str(), style),
        (fields.delivered, show_bytes(figures.bytes_delivered).as_str(), style),
        (fields.age, show_duration(figures.age).as_str(), style),
        (fields.lease, lease.unwrap_or_default(), Style::new()),
    ] {
        if field > 0 {
            pen.skip(1);
            pen.right(text, field, style);
        }
    }
}

fn ending(reason: i32) -> Option<String> {
    reason_name(reason).map(|reason| format!("ending: {reason}"))
}

/// `4,000`.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
