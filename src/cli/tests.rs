//! The command line as a whole, and what the commands' tests share.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use clap::{CommandFactory as _, Parser as _};

use crate::cli::Cli;
use crate::cli::output::Output;

/// A writer whose bytes the test reads back.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An output without colours, with its stdout and stderr.
pub(crate) fn captured(json: bool) -> (Output, Shared, Shared) {
    let (out, err) = (Shared::default(), Shared::default());
    (Output::plain(out.clone(), err.clone(), json), out, err)
}

#[test]
fn the_command_line_is_well_formed_and_every_command_has_examples() {
    let mut command = Cli::command();
    command.clone().debug_assert();
    command.build();
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        let help = sub.render_long_help().to_string();
        assert!(help.contains("Examples:"), "{}", sub.get_name());
    }
}

#[test]
fn wrong_command_lines_are_refused() {
    for line in [
        "streamward send",
        "streamward send hall/a x",
        "streamward send room/a x --file y",
        "streamward tail",
        "streamward tail room/a --epoch e",
        "streamward tail room/a --max 0",
        "streamward tail room/a --for 5",
        "streamward tail room/a --user a/b",
        "streamward tail room/a --server https://x:1",
        "streamward tail room/a --until (",
        "streamward tail room/a --retries -1",
        "streamward send room/a x --lines y",
        "streamward send room/a x --skip-lines 1",
        "streamward send room/a --resume 12",
        "streamward pipe",
        "streamward chat @",
        "streamward cancel 42",
        "streamward streams --session stream/1",
        "streamward shed",
        "streamward status --interval 1ms",
        "streamward completions cmd",
        "streamward bench",
        "streamward bench fanout --in-flight 0",
        "streamward bench fanout --subscribers 1,,2",
        "streamward bench fanout --publishers 0",
        "streamward bench fanout --size 7",
        "streamward bench fanout --duration 1s --messages 1",
        "streamward bench fanout --server unix:/x",
        "streamward bench fanout --plot --json",
        "streamward bench latency --rate 0",
        "streamward bench slow --stalled 0",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).map(|_| line).unwrap_err();
        assert!(error.use_stderr(), "{line}");
    }
}

#[test]
fn text_may_begin_with_a_dash_after_two_of_them() {
    assert!(Cli::try_parse_from(["streamward", "send", "room/a", "--", "-5 degrees"]).is_ok());
    assert!(Cli::try_parse_from(["streamward", "send", "room/a", "-5"]).is_ok());
}
