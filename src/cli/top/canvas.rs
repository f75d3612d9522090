//! Text, bars and styles in cells. Nothing here leaves its part of the screen.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

use crate::wire::v1;

/// Parts of a cell, by eighths.
const EIGHTHS: [&str; 9] = [" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"];

/// Styles that say nothing by colour alone. Only the first eight colours: the terminal's user chose how they look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Styles {
    pub(crate) colours: bool,
}

impl Styles {
    pub(crate) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(crate) fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(crate) fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// What must be seen.
    pub(crate) fn alarm(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED)
    }

    pub(crate) fn coloured(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    /// The level of pressure; its name stands beside.
    pub(crate) fn level(self, pressure: v1::Pressure) -> Style {
        match pressure {
            v1::Pressure::Normal => self.coloured(Color::Green),
            v1::Pressure::Elevated => self.coloured(Color::Yellow),
            v1::Pressure::High => self.coloured(Color::Magenta).add_modifier(Modifier::BOLD),
            v1::Pressure::Critical => self.alarm(),
        }
    }

    /// How near a bar is to being full.
    pub(crate) fn fullness(self, value: u64, full: u64) -> Style {
        if value >= full - full / 4 {
            self.coloured(Color::Red)
        } else if value >= full / 2 {
            self.coloured(Color::Yellow)
        } else {
            self.coloured(Color::Green)
        }
    }
}

/// As many cells as a screen can have.
pub(crate) fn cells(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Cells the text takes.
pub(crate) fn width(text: &str) -> u16 {
    cells(Span::raw(text).width())
}

/// A line of the part: `put` writes from left to right, as far as there is room.
#[derive(Debug)]
pub(crate) struct Pen<'a> {
    buffer: &'a mut Buffer,
    x: u16,
    end: u16,
    y: u16,
}

impl<'a> Pen<'a> {
    /// At the start of the part's line `line`.
    pub(crate) fn at(buffer: &'a mut Buffer, part: Rect, line: u16) -> Self {
        let part = part.intersection(buffer.area);
        let y = part.y.saturating_add(line);
        // No room at all when the line is not there.
        let end = if y < part.bottom() { part.right() } else { part.x };
        Self { buffer, x: part.x, end, y }
    }

    /// Cells left.
    pub(crate) fn room(&self) -> u16 {
        self.end.saturating_sub(self.x)
    }

    /// Writes the text; what does not fit is cut, and that is shown.
    pub(crate) fn put(&mut self, text: &str, style: Style) {
        let room = self.room();
        self.put_within(text, room, style);
    }

    /// Writes at most this many cells.
    fn put_within(&mut self, text: &str, cells: u16, style: Style) {
        let cells = cells.min(self.room());
        if cells == 0 {
            return;
        }
        let is_cut = width(text) > cells;
        let (x, _) = self.buffer.set_stringn(self.x, self.y, text, usize::from(cells), style);
        self.x = x.min(self.end);
        if is_cut && let Some(last) = self.buffer.cell_mut((self.x.saturating_sub(1), self.y)) {
            last.set_symbol("…");
        }
    }

    /// Writes the text into a field of this width.
    pub(crate) fn left(&mut self, text: &str, field: u16, style: Style) {
        let end = self.x.saturating_add(field).min(self.end);
        self.put_within(text, field, style);
        self.x = end;
    }

    /// The same, at the right end of the field.
    pub(crate) fn right(&mut self, text: &str, field: u16, style: Style) {
        let end = self.x.saturating_add(field).min(self.end);
        self.x = self.x.saturating_add(field.saturating_sub(width(text))).min(end);
        self.put_within(text, end.saturating_sub(self.x), style);
        self.x = end;
    }

    /// Goes on this far from the right end of the line.
    pub(crate) fn skip_to_last(&mut self, cells: u16) {
        self.x = self.x.max(self.end.saturating_sub(cells));
    }

    /// Writes one cell over what is there.
    pub(crate) fn put_one(&mut self, symbol: &str, style: Style) {
        if self.room() > 0
            && let Some(cell) = self.buffer.cell_mut((self.x, self.y))
        {
            cell.set_symbol(symbol).set_style(style);
            self.x += 1;
        }
    }

    /// Leaves cells as they are.
    pub(crate) fn skip(&mut self, cells: u16) {
        self.x = self.x.saturating_add(cells).min(self.end);
    }

    /// A bar, full at `full`. Something is never nothing.
    pub(crate) fn bar(&mut self, value: u64, full: u64, field: u16, style: Style) {
        let field = field.min(self.room());
        let eighths = scale(value, full, u64::from(field) * 8);
        for cell in 0..u64::from(field) {
            let part = eighths.saturating_sub(cell * 8).min(8);
            let symbol = EIGHTHS[usize::try_from(part).unwrap_or(8)];
            self.put(if part == 0 { "·" } else { symbol }, if part == 0 { Style::new() } else { style });
        }
    }

    /// The rest of the line as a rule.
    pub(crate) fn rule(&mut self, style: Style) {
        let rest = "─".repeat(usize::from(self.room()));
        self.put(&rest, style);
    }
}

/// `value` of `full` in steps, rounded down but never to nothing, and never beyond.
pub(crate) fn scale(value: u64, full: u64, steps: u64) -> u64 {
    if value == 0 || steps == 0 {
        return 0;
    }
    let scaled = u128::from(value) * u128::from(steps) / u128::from(full.max(1));
    u64::try_from(scaled).unwrap_or(steps).clamp(1, steps)
}

/// Writes the items one after the other, two cells apart, line by line, as long as there are lines.
pub(crate) fn flow(buffer: &mut Buffer, part: Rect, items: &[(String, Style)]) {
    let (mut x, mut line) = (0, 0);
    for (text, style) in items {
        let needed = width(text);
        if x > 0 && x + needed > part.width {
            (x, line) = (0, line + 1);
        }
        let mut pen = Pen::at(buffer, part, line);
        pen.skip(x);
        pen.put(text, *style);
        x = x.saturating_add(needed).saturating_add(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(width: u16, draw: impl Fn(&mut Pen<'_>)) -> String {
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, 1));
        let area = buffer.area;
        draw(&mut Pen::at(&mut buffer, area, 0));
        buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect()
    }

    #[test]
    fn what_does_not_fit_is_cut_and_shown_so() {
        assert_eq!(drawn(5, |pen| pen.put("kitchen", Style::new())), "kitc…");
        assert_eq!(drawn(8, |pen| pen.left("kitchen", 4, Style::new())), "kit…    ");
        assert_eq!(drawn(6, |pen| pen.right("ab", 5, Style::new())), "   ab ");
        assert_eq!(drawn(6, |pen| pen.right("abcdef", 3, Style::new())), "ab…   ");
        assert_eq!(drawn(0, |pen| pen.put("x", Style::new())), "");
    }

    #[test]
    fn bars_are_to_scale_and_something_is_never_nothing() {
        let bar = |value, full| drawn(4, |pen| pen.bar(value, full, 4, Style::new()));
        assert_eq!(bar(0, 100), "····");
        assert_eq!(bar(1, u64::MAX), "▏···");
        assert_eq!(bar(50, 100), "██··");
        assert_eq!(bar(60, 100), "██▍·");
        assert_eq!(bar(u64::MAX, 1), "████");
        assert_eq!(bar(5, 0), "████");
    }
}
