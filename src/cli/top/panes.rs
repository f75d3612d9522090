//! What lies below the tree and over it: the selected node, recent ends, the cancel question, help.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Block, Clear, Widget as _};

use crate::cli::records::reason_name;
use crate::cli::text::{count, duration_of, show_bytes, show_duration, show_time};
use crate::cli::top::app::{App, Cancel, Node, Pane};
use crate::cli::top::canvas::{Pen, Styles, cells, width};
use crate::cli::top::picture::{Figures, Session, Stream};
use crate::cli::top::table::grouped;

/// Cells of the help and of the question.
const HELP_CELLS: u16 = 56;
const CANCEL_CELLS: u16 = 70;

const HELP: [&str; 14] = [
    "↑ ↓ PgUp PgDn Home End   select",
    "← →                      fold, unfold a session",
    "s S                      next column to sort by, reverse",
    "/                        filter: user, client, id, topic",
    "Enter                    all about the selected one",
    "c                        cancel the selected one",
    "e                        recent ends",
    "p                        pause, go on",
    "+ -                      look less often, more often",
    "Ctrl-L Ctrl-Z            draw anew, suspend",
    "Esc                      close, or quit",
    "q Ctrl-C                 quit",
    "Bars: lag to the largest. ▼ ▲: sorted by, which way.",
    "E H C: where pressure ELEVATED, HIGH, CRITICAL begins.",
];

/// The pane below the tree.
pub(crate) fn lower(app: &App, part: Rect, buffer: &mut Buffer) {
    if part.height == 0 {
        return;
    }
    let styles = Styles { colours: app.colours };
    let (title, lines) = match app.pane {
        Pane::Closed => return,
        Pane::Detail => match app.selected_node() {
            Some(node) => (format!(" {} ", node.id()), detail(&node, part.height.saturating_sub(1))),
            None => (" nothing is selected ".to_owned(), Vec::new()),
        },
        Pane::Ended => (
            format!(" recent ends, {} ", grouped(app.picture.ended.len())),
            ended(app, part.height.saturating_sub(1)),
        ),
    };
    let mut pen = Pen::at(buffer, part, 0);
    pen.put("─", styles.dim());
    pen.put(&title, styles.bold());
    pen.rule(styles.dim());
    for (line, text) in (1..).zip(lines) {
        Pen::at(buffer, part, line).put(&text, Style::new());
    }
}

fn detail(node: &Node<'_>, lines: u16) -> Vec<String> {
    match node {
        Node::Session(session) => session_detail(session),
        Node::Stream(session, stream) => stream_detail(session, stream, usize::from(lines)),
    }
}

fn named(user: &str, client_name: &str) -> String {
    if client_name.is_empty() { user.to_owned() } else { format!("{user} ({client_name})") }
}

fn delivered(figures: &Figures) -> String {
    let rate = match (figures.events_per_second, figures.bytes_per_second) {
        (Some(events), Some(bytes)) => format!(", now {}/s and {}/s", events.show(), bytes.show_bytes()),
        (Some(_) | None, _) => String::new(),
    };
    format!("{} delivered{rate}", show_bytes(figures.bytes_delivered))
}

fn session_detail(session: &Session) -> Vec<String> {
    let info = &session.info;
    let mut lines = vec![
        format!("session of {}", named(&info.user, &info.client_name)),
        format!("since {}, {} ago", show_time(info.started_at.as_ref()), show_duration(session.figures.age)),
        format!("lease runs out in {} if nothing renews it", show_duration(duration_of(info.lease_left))),
        format!("{}, {}", count(info.streams, "stream"), delivered(&session.figures)),
        format!("largest lag {}", show_bytes(session.figures.lag_bytes)),
        format!(
            "uses {}",
            if info.connection_ids.is_empty() {
                "no connection".to_owned()
            } else {
                info.connection_ids.join(", ")
            }
        ),
    ];
    lines.extend(reason_name(info.ending).map(|reason| format!("ending: {reason}")));
    lines
}

fn stream_detail(session: &Session, stream: &Stream, room: usize) -> Vec<String> {
    let info = &stream.info;
    let deadline = info.deadline_left.map_or_else(
        || "no deadline".to_owned(),
        |left| format!("deadline in {}", show_duration(duration_of(Some(left)))),
    );
    let mut lines = vec![
        format!(
            "{} of {}, {}",
            info.rpc,
            named(&session.info.user, &session.info.client_name),
            session.info.id
        ),
        format!("over {} from {}", info.connection_id, info.peer),
        format!(
            "since {}, {} ago, {deadline}",
            show_time(info.started_at.as_ref()),
            show_duration(stream.figures.age)
        ),
        format!("{}, {}", count(info.events_delivered, "event"), delivered(&stream.figures)),
        format!("last #{}, lag {} in all", info.last_sequence, show_bytes(info.lag_bytes)),
    ];
    lines.extend(reason_name(info.ending).map(|reason| format!("ending: {reason}")));
    let topics = &info.subscriptions;
    let room = room.saturating_sub(lines.len());
    let shown = if topics.len() > room { room.saturating_sub(1) } else { topics.len() };
    for subscription in &topics[..shown] {
        lines.push(format!("  {} lag {}", subscription.topic, show_bytes(subscription.lag_bytes)));
    }
    if shown < topics.len() {
        lines.push(format!("  … and {} topics more", grouped(topics.len() - shown)));
    }
    lines
}

fn ended(app: &App, lines: u16) -> Vec<String> {
    let all = &app.picture.ended;
    if all.is_empty() {
        return vec!["nothing has ended yet".to_owned()];
    }
    let room = usize::from(lines);
    let shown = if all.len() > room { room.saturating_sub(1) } else { all.len() };
    let mut texts: Vec<String> = all[..shown]
        .iter()
        .map(|ended| {
            // The day is today's, nearly always: streamward ended tells it.
            let when = show_time(ended.ended_at.as_ref());
            let when = when.get(11..19).unwrap_or_default();
            let reason = reason_name(ended.reason).unwrap_or_default();
            let who = named(&ended.user, &ended.client_name);
            let note = if ended.note.is_empty() { String::new() } else { format!(": {}", ended.note) };
            format!("{when} {reason:<18} {} {who}, by {}{note}", ended.id, ended.asked_by)
        })
        .collect();
    if shown < all.len() {
        texts.push(format!("… and {} more: streamward ended", grouped(all.len() - shown)));
    }
    texts
}

/// A box in the middle of the area, as large as fits; its inside.
fn over(area: Rect, inner: (u16, u16), title: &str, buffer: &mut Buffer) -> Rect {
    let (width, height) =
        (inner.0.saturating_add(4).min(area.width), inner.1.saturating_add(2).min(area.height));
    let outer =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    Clear.render(outer, buffer);
    let block = Block::bordered().title(title.to_owned());
    let inside = block.inner(outer);
    block.render(outer, buffer);
    Rect { x: inside.x + 1, width: inside.width.saturating_sub(2), ..inside }
}

/// The keys.
pub(crate) fn help(area: Rect, buffer: &mut Buffer) {
    let inside = over(area, (HELP_CELLS, cells(HELP.len())), " Keys ", buffer);
    for (line, text) in (0..).zip(HELP) {
        Pen::at(buffer, inside, line).put(text, Style::new());
    }
}

/// The question before a cancel.
pub(crate) fn cancel(app: &App, cancel: &Cancel, area: Rect, buffer: &mut Buffer) {
    let styles = Styles { colours: app.colours };
    let title = format!(" Cancel {}? ", cancel.label);
    let inside = over(area, (CANCEL_CELLS, 5), &title, buffer);
    let (text, keys, style) = match &cancel.counted {
        None => ("counting what would end", "Esc: leave it", styles.dim()),
        Some(Ok(counted)) => (counted.as_str(), "Enter: cancel it    Esc: leave it", styles.bold()),
        Some(Err(why)) => (why.as_str(), "Esc: leave it", styles.alarm()),
    };
    Pen::at(buffer, inside, 0).put(text, style);
    let mut pen = Pen::at(buffer, inside, 2);
    pen.put("Note to the client: ", Style::new());
    let room = pen.room();
    input(&mut pen, &cancel.note, room);
    Pen::at(buffer, inside, 4).put(keys, styles.dim());
}

/// A line one types into, its end in view, with a cursor.
pub(crate) fn input(pen: &mut Pen<'_>, text: &str, field: u16) {
    let styles = Styles { colours: false };
    let mut shown = text;
    while width(shown) >= field {
        let mut rest = shown.chars();
        if rest.next().is_none() {
            break;
        }
        shown = rest.as_str();
    }
    pen.put(shown, Style::new());
    pen.put_one(" ", styles.selected());
}
