//! What can be wrong with a configuration, and where.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::base::bill::size_text;

/// Longest part of a wrong name or value that an error repeats, in characters.
const GIVEN_CHARS_MAX: usize = 60;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody set it.
    Default,
    /// A place in the file; line and column count from 1, the column in characters.
    File {
        /// The file as named on the command line.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A command line flag.
    Flag(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One mistake. Its text says where, what and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot be read: {problem}; check the path and that this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// The file is not TOML.
    #[error("{place}: not valid TOML: {problem}")]
    Syntax {
        /// Where reading stopped.
        place: Place,
        /// What the parser said.
        problem: String,
    },
    /// A section that does not exist.
    #[error("{place}: there is no section {}; {}", repeat(.name), advice(.nearest.as_deref()))]
    UnknownSection {
        /// Where it is.
        place: Place,
        /// The name as given.
        name: String,
        /// What was probably meant: `[limits]`, or `limits.lease` when a section line was forgotten.
        nearest: Option<String>,
    },
    /// A key that does not exist.
    #[error("{place}: there is no key {}; {}", repeat(.name), advice(.nearest.as_deref()))]
    UnknownKey {
        /// Where it is.
        place: Place,
        /// Section and key as given.
        name: String,
        /// The existing key most like it.
        nearest: Option<String>,
    },
    /// A variable of ours that sets nothing.
    #[error("{}: there is no such variable; {}", repeat(.name), advice(.nearest.as_deref()))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The existing variable most like it.
        nearest: Option<String>,
    },
    /// A value that is not of its key's kind, or outside its bounds.
    #[error("{place}: {key} cannot be {given}; write {expected}")]
    Invalid {
        /// Where it is.
        place: Place,
        /// The key, for example `limits.lease`.
        key: &'static str,
        /// What was given, as errors repeat it.
        given: String,
        /// What may be given.
        expected: String,
    },
    /// Two values that do not go together.
    #[error("{place}: {problem}")]
    Conflict {
        /// Where the first of them was set, or the second when the first was not.
        place: Place,
        /// The two keys.
        keys: [&'static str; 2],
        /// The rule, with both values.
        problem: String,
    },
    /// Anyone on the network could log in under any name.
    #[error(
        "{place}: server.listen = {listen} can be reached from other machines while auth.mode = open lets anyone \
         log in under any name; listen on 127.0.0.1, or set auth.allow_open = true if everyone there is trusted"
    )]
    OpenOnNetwork {
        /// Where the address was set.
        place: Place,
        /// The address.
        listen: SocketAddr,
    },
    /// The metrics would be there for whoever reaches the address.
    #[error(
        "{place}: server.metrics_listen = {listen} can be reached from other machines, and the metrics page asks \
         nobody who they are; listen on 127.0.0.1 and reach it through an SSH tunnel or a reverse proxy that does"
    )]
    MetricsOnNetwork {
        /// Where the address was set.
        place: Place,
        /// The address.
        listen: SocketAddr,
    },
    /// The limits admit more than the memory can hold before anyone does anything.
    #[error(
        "{place}: at these limits the idle cost and the tails are {}, more than the memory budget of {}; lower \
         limits.connections_max or limits.tails_bytes_max, or raise memory.budget_bytes",
        size_text(*.idle_bytes), size_text(*.budget_bytes)
    )]
    OverBudget {
        /// Where the first of the keys that matter was set.
        place: Place,
        /// Idle cost at the maxima, tails included.
        idle_bytes: u64,
        /// The budget in force.
        budget_bytes: u64,
    },
}

/// What was given, as errors repeat it: never a second line, nor a screenful.
pub(crate) fn repeat(given: &str) -> String {
    if given.is_empty() {
        return "empty".to_owned();
    }
    let mut repeated = String::new();
    let mut chars = given.chars();
    for char in chars.by_ref().take(GIVEN_CHARS_MAX) {
        if char.is_control() {
            repeated.extend(char.escape_default());
        } else {
            repeated.push(char);
        }
    }
    if chars.next().is_some() {
        repeated.push('…');
    }
    repeated
}

fn advice(nearest: Option<&str>) -> String {
    match nearest {
        Some(name) => format!("did you mean {name}?"),
        None => "remove it".to_owned(),
    }
}

/// Every mistake of a configuration, one per line; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct ConfigErrors(pub Vec<ConfigError>);

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
