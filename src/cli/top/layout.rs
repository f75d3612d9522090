//! Where things are on the screen.

use ratatui::layout::Rect;

use crate::cli::top::app::Pane;

/// Least columns and lines that are enough.
pub(crate) const WIDTH_MIN: u16 = 60;
pub(crate) const HEIGHT_MIN: u16 = 15;
/// Lines from which memory and rates have two.
pub(crate) const HEIGHT_ROOMY: u16 = 20;
/// Lines from which sparklines are two high.
const HEIGHT_TALL: u16 = 30;
/// Columns at which the counts fit two lines.
const WIDTH_ROOMY: u16 = 80;
/// Lines of the pane, and rows of the tree it leaves, while there is room for both.
const PANE_LINES_MAX: u16 = 12;
const ROWS_MIN: u16 = 3;

/// The parts, top to bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Version and phase, then the counts.
    pub(crate) header: Rect,
    pub(crate) memory: Rect,
    pub(crate) rates: Rect,
    /// The tree's title and the heads of its columns.
    pub(crate) title: Rect,
    pub(crate) rows: Rect,
    /// Nothing when closed.
    pub(crate) pane: Rect,
    pub(crate) footer: Rect,
}

impl Layout {
    /// The parts of a screen of this size; none when it is too small.
    pub(crate) fn of(width: u16, height: u16, pane: Pane) -> Option<Self> {
        if width < WIDTH_MIN || height < HEIGHT_MIN {
            return None;
        }
        let mut line = 0;
        let mut next = |lines: u16| {
            let part = Rect::new(0, line, width, lines);
            line += lines;
            part
        };
        let header = next(if width < WIDTH_ROOMY { 4 } else { 3 });
        let memory = next(if height < HEIGHT_ROOMY { 1 } else { 2 });
        let rates = next(match height {
            0..HEIGHT_ROOMY => 1,
            HEIGHT_ROOMY..HEIGHT_TALL => 2,
            HEIGHT_TALL.. => 3,
        });
        let title = next(2);
        let left = height - header.height - memory.height - rates.height - title.height - 1;
        let pane_lines = match pane {
            Pane::Closed => 0,
            Pane::Detail | Pane::Ended => (left * 3 / 5).min(PANE_LINES_MAX).min(left - ROWS_MIN),
        };
        Some(Self {
            header,
            memory,
            rates,
            title,
            rows: next(left - pane_lines),
            pane: next(pane_lines),
            footer: next(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fill_every_screen_that_is_large_enough() {
        for width in 0..=200 {
            for height in 0..=70 {
                for pane in [Pane::Closed, Pane::Detail, Pane::Ended] {
                    let Some(layout) = Layout::of(width, height, pane) else {
                        assert!(width < WIDTH_MIN || height < HEIGHT_MIN);
                        continue;
                    };
                    assert_eq!(layout.footer.bottom(), height);
                    assert!(layout.rows.height >= ROWS_MIN, "{width}x{height}");
                    assert_eq!(layout.pane.height > 0, pane != Pane::Closed);
                }
            }
        }
    }
}
