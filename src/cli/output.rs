//! The one writer: lines for people, JSON for programs, notices on stderr.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::cli::exit::Failure;
use crate::cli::text::clean_json;
use crate::config::{environment, variable};

/// A place to write to that clones share.
#[derive(Clone)]
struct Place(Arc<Mutex<dyn Write + Send>>);

impl Place {
    fn new(place: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(place)))
    }

    fn lock(&self) -> MutexGuard<'_, dyn Write + Send + 'static> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut place = self.lock();
        place.write_all(bytes)?;
        place.flush()
    }
}

/// Where a command writes; clones write to the same places. Text is coloured only on a terminal, and not when
/// `NO_COLOR` is set.
#[derive(Clone)]
pub(crate) struct Output {
    out: Place,
    err: Place,
    /// Paints what goes to stdout.
    pub(crate) paint: Paint,
    err_paint: Paint,
    terminal: bool,
    /// Whether stderr is one.
    err_terminal: bool,
    /// Results are JSON documents, one per line.
    pub(crate) json: bool,
}

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    fn on(is_terminal: bool, environment: &[(String, String)]) -> Self {
        let is_dumb = variable(environment, "TERM").is_none_or(|terminal| terminal == "dumb");
        Self { on: is_terminal && variable(environment, "NO_COLOR").is_none() && !is_dumb }
    }

    /// Whether there are any.
    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    /// Less important.
    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// Headings and names.
    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// Topics and ids.
    pub(crate) fn cyan(self, text: &str) -> String {
        self.with("36", text)
    }

    /// What is well.
    pub(crate) fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    /// What is worth a look.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.with("33", text)
    }

    /// What is wrong.
    pub(crate) fn red(self, text: &str) -> String {
        self.with("31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Output {
    /// The process's stdout and stderr.
    pub(crate) fn stdio(json: bool) -> Self {
        let environment = environment();
        Self {
            out: Place::new(io::stdout()),
            err: Place::new(io::stderr()),
            paint: Paint::on(io::stdout().is_terminal(), &environment),
            err_paint: Paint::on(io::stderr().is_terminal(), &environment),
            terminal: io::stdout().is_terminal() && io::stderr().is_terminal(),
            err_terminal: io::stderr().is_terminal(),
            json,
        }
    }

    /// An output of the test's own.
    #[cfg(test)]
    pub(crate) fn plain(
        out: impl Write + Send + 'static,
        err: impl Write + Send + 'static,
        json: bool,
    ) -> Self {
        let paint = Paint { on: false };
        let (out, err) = (Place::new(out), Place::new(err));
        Self { out, err, paint, err_paint: paint, terminal: false, err_terminal: false, json }
    }

    /// As if stderr were a terminal.
    #[cfg(test)]
    pub(crate) fn pretend_terminal(&mut self) {
        self.err_terminal = true;
    }

    /// The same, with results of this kind.
    pub(crate) fn with_json(&self, json: bool) -> Self {
        Self { json, ..self.clone() }
    }

    /// The same, with results to that place instead of stdout.
    pub(crate) fn redirected(&self, out: impl Write + Send + 'static) -> Self {
        Self { out: Place::new(out), paint: Paint { on: false }, terminal: false, ..self.clone() }
    }

    /// Whether a line on stderr can be drawn and drawn again.
    pub(crate) fn shows_progress(&self) -> bool {
        self.err_terminal && !self.json
    }

    /// Draws the last line of stderr again; an empty one takes it away.
    pub(crate) fn progress(&mut self, text: &str) {
        // A closed stderr is nobody's loss.
        let _ = self.err.write(format!("\r\x1b[K{text}").as_bytes());
    }

    /// Whether text goes to a terminal, where someone may wonder whether it works.
    pub(crate) fn person_waits(&self) -> bool {
        self.terminal && !self.json
    }

    /// A line of the result. The caller has made foreign text harmless.
    ///
    /// # Errors
    /// [`Failure::PipeClosed`] when nobody reads any more, [`Failure::Output`] otherwise.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        // One write per line, so that lines of several programs on one terminal do not mix.
        Ok(self.out.write(format!("{text}\n").as_bytes())?)
    }

    /// Lines of a table, the first one being its header.
    ///
    /// # Errors
    /// As for [`line`](Self::line).
    pub(crate) fn table(&mut self, lines: &[String]) -> Result<(), Failure> {
        for (at, line) in lines.iter().enumerate() {
            if at == 0 {
                self.line(&self.paint.bold(line))?;
            } else {
                self.line(line)?;
            }
        }
        Ok(())
    }

    /// One JSON document on a line of its own.
    ///
    /// # Errors
    /// As for [`line`](Self::line).
    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(&clean_json(&value.to_string()))
    }

    /// Bytes as they are, for completion scripts.
    ///
    /// # Errors
    /// As for [`line`](Self::line).
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.out.write(bytes)?)
    }

    /// After Ctrl-C on a terminal: what comes next begins on a line of its own.
    pub(crate) fn interrupted(&mut self) {
        if self.terminal {
            let _ = self.err.write(b"\n");
        }
    }

    /// Something worth knowing beside the result, on stderr.
    pub(crate) fn notice(&mut self, text: &str) {
        let line = format!("{}\n", self.err_paint.yellow(&format!("-- {text}")));
        // A closed stderr is nobody's loss.
        let _ = self.err.write(line.as_bytes());
    }

    /// Why the command failed, on stderr.
    pub(crate) fn error(&mut self, text: &str) {
        let line = format!("{} {text}\n", self.err_paint.red("streamward:"));
        let _ = self.err.write(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;
    use crate::cli::tests::captured;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_ends_the_command_quietly() {
        let (mut output, _, _) = captured(false);
        output.out = Place::new(Closed);
        output.err = Place::new(Closed);
        output.notice("nobody hears this");
        let failure = output.line("x").unwrap_err();
        assert!(matches!(failure, Failure::PipeClosed));
        assert_eq!(failure.exit(), Exit::Ok);
    }

    #[test]
    fn results_and_notices_go_different_ways() {
        let (mut output, out, err) = captured(true);
        output.json(&serde_json::json!({"a": "\u{9b}"})).unwrap();
        output.notice("n");
        output.error("e");
        assert_eq!(out.text(), "{\"a\":\"\\u009b\"}\n");
        assert_eq!(err.text(), "-- n\nstreamward: e\n");
    }

    #[test]
    fn colours_are_for_terminals() {
        assert_eq!(Paint { on: true }.dim("x"), "\x1b[2mx\x1b[0m");
        assert_eq!(Paint { on: false }.dim("x"), "x");
        let environment = |name: &str, value: &str| {
            vec![("TERM".to_owned(), "xterm".to_owned()), (name.to_owned(), value.to_owned())]
        };
        assert!(Paint::on(true, &environment("NO_COLOR", "")).on);
        assert!(!Paint::on(true, &environment("NO_COLOR", "1")).on);
        assert!(!Paint::on(true, &environment("TERM", "dumb")).on);
        assert!(!Paint::on(true, &[]).on);
        assert!(!Paint::on(false, &environment("A", "")).on);
    }
}
