//! How far a long input is: one line on a terminal's stderr, drawn again and again.

use std::time::Duration;

use tokio::time::Instant;

use crate::cli::output::Output;
use crate::cli::text::{count, show_bytes};

/// What is done sooner needs no line.
const SHOW_AFTER: Duration = Duration::from_secs(1);
/// As often as an eye wants it.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// What is done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Events that have their receipts.
    pub(crate) events: u64,
    /// Bytes of the input that are read.
    pub(crate) bytes: u64,
    /// Bytes of the whole input, when that is known.
    pub(crate) bytes_all: Option<u64>,
}

/// When to draw.
#[derive(Debug)]
pub(crate) struct Progress {
    begun_at: Instant,
    due: Instant,
    is_drawn: bool,
}

impl Progress {
    /// Nothing is done.
    pub(crate) fn new(now: Instant) -> Self {
        Self { begun_at: now, due: now + SHOW_AFTER, is_drawn: false }
    }

    /// Draws the line if it is due and there is a terminal.
    pub(crate) fn draw(&mut self, done: Done, now: Instant, output: &mut Output) {
        if now < self.due || !output.shows_progress() {
            return;
        }
        output.progress(&text(done, now - self.begun_at));
        (self.due, self.is_drawn) = (now + DRAW_EVERY, true);
    }

    /// Takes the line away: something else is to be said, or it is over.
    pub(crate) fn clear(&mut self, output: &mut Output) {
        if std::mem::take(&mut self.is_drawn) {
            output.progress("");
        }
    }
}

/// `1200 events, 35 KiB, 400/s, 12 %`.
fn text(done: Done, elapsed: Duration) -> String {
    let per_second = u128::from(done.events) * 1000 / elapsed.as_millis().max(1);
    let mut text = format!("{}, {}, {per_second}/s", count(done.events, "event"), show_bytes(done.bytes));
    if let Some(all) = done.bytes_all.filter(|all| *all > 0) {
        let percent = u128::from(done.bytes.min(all)) * 100 / u128::from(all);
        text.push_str(&format!(", {percent} %"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::captured;

    #[test]
    fn it_tells_count_bytes_rate_and_share() {
        let done = Done { events: 1200, bytes: 36_000, bytes_all: Some(300_000) };
        assert_eq!(text(done, Duration::from_secs(3)), "1200 events, 35.1 KiB, 400/s, 12 %");
        assert_eq!(
            text(Done { bytes_all: None, ..done }, Duration::ZERO),
            "1200 events, 35.1 KiB, 1200000/s"
        );
        assert_eq!(text(Done::default(), Duration::ZERO), "0 events, 0 B, 0/s");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_drawn_after_a_second_on_a_terminal_only_and_then_taken_away() {
        let (mut output, _, err) = captured(false);
        let begun_at = Instant::now();
        let mut progress = Progress::new(begun_at);
        let done = Done::default();
        progress.draw(done, begun_at + 2 * SHOW_AFTER, &mut output);
        assert_eq!(err.text(), "", "no terminal");
        output.pretend_terminal();
        progress.draw(done, begun_at, &mut output);
        progress.clear(&mut output);
        assert_eq!(err.text(), "", "too soon");
        progress.draw(done, begun_at + SHOW_AFTER, &mut output);
        progress.draw(done, begun_at + SHOW_AFTER, &mut output);
        assert_eq!(err.text(), "\r\x1b[K0 events, 0 B, 0/s", "once");
        progress.clear(&mut output);
        assert_eq!(err.text(), "\r\x1b[K0 events, 0 B, 0/s\r\x1b[K");
        progress.draw(done, begun_at + 2 * SHOW_AFTER, &mut output.with_json(true));
        progress.clear(&mut output);
        assert_eq!(err.text(), "\r\x1b[K0 events, 0 B, 0/s\r\x1b[K", "not beside documents");
    }
}
