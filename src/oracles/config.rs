//! Any file and any environment: a configuration that can be written and read again, or mistakes with their places.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::bill;
use crate::config::keys::find;
use crate::config::machine::Machine;
use crate::config::reference::written;
use crate::config::{Change, Config, ConfigError, ConfigErrors, Flags, Place, changes, load_read, with_live};

/// Longest value an error repeats.
const GIVEN_CHARS_MAX: usize = 60;
/// Longest error, with control characters written out.
const TOLD_BYTES_MAX: usize = 2000;
const FILE: &str = "/etc/x.toml";

/// The file, then `NAME=VALUE` for each variable, `--listen=VALUE` or `--admin-socket=VALUE`; zero bytes between.
pub fn config(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let text = parts.next().unwrap_or_default();
    let given = Given::from_parts(parts);
    let loaded = load(Some(text), given.environment.clone(), &given.flags);
    let reversed = load(Some(text), given.environment.clone().into_iter().rev(), &given.flags);
    assert_eq!(loaded, reversed, "the order of variables matters");
    match loaded {
        Ok(config) => check_sound(&config),
        Err(ConfigErrors(errors)) => {
            assert!(!errors.is_empty());
            errors.iter().for_each(|error| check_error(error, text, &given));
        }
    }
}

fn load(
    file: Option<&[u8]>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &Flags,
) -> Result<Config, ConfigErrors> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(io::Error::other);
    load_read(&machine(), file.map(|bytes| (Path::new(FILE), text(bytes))), environment, flags)
}

/// Of a Pi with 1 GB, for everyone who runs this.
fn machine() -> Machine {
    Machine { mem_total_bytes: 1 << 30, has_runtime_directory: false, uid: Some(1000) }
}

struct Given {
    environment: Vec<(String, String)>,
    flags: Flags,
}

impl Given {
    fn from_parts<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut variables = BTreeMap::new();
        let mut flags = Flags::default();
        for part in parts {
            let part = String::from_utf8_lossy(part);
            match part.split_once('=') {
                Some(("--listen", value)) => flags.listen = Some(value.to_owned()),
                Some(("--admin-socket", value)) => flags.admin_socket = Some(PathBuf::from(value)),
                Some((name, value)) => drop(variables.insert(name.to_owned(), value.to_owned())),
                None => {}
            }
        }
        Self { environment: variables.into_iter().collect(), flags }
    }
}

/// Written to a file or to variables, it is read as the same.
fn check_sound(config: &Config) {
    let text = written(config);
    assert_eq!(load(Some(text.as_bytes()), [], &Flags::default()).as_ref(), Ok(config), "{text}");
    let default = Config::default();
    let start = load(None, [], &Flags::default()).expect("the defaults are sound");
    let variable = |change: Change| Some((find(change.key)?.1.variable(), change.new));
    let variables: Vec<_> = changes(&start, config).into_iter().filter_map(variable).collect();
    assert_eq!(load(None, variables, &Flags::default()).as_ref(), Ok(config));

    assert_eq!(changes(&default, config).is_empty(), default == *config);
    let live = with_live(&default, config);
    assert!(changes(&default, &live).iter().all(|change| change.live));
    assert!(changes(&live, config).iter().all(|change| !change.live));
    let budget_bytes = bill::budget_bytes(&config.memory, machine().mem_total_bytes);
    assert!(!bill::render(&bill::bill(&config.limits), budget_bytes).is_empty());
}

/// The error is where it says, and repeats what is there.
fn check_error(error: &ConfigError, text: &[u8], given: &Given) {
    let told = error.to_string();
    assert!(!told.chars().any(char::is_control), "not one line: {told:?}");
    assert!(told.len() <= TOLD_BYTES_MAX, "{} bytes: {told}", told.len());
    match error {
        ConfigError::Unreadable { path: named, .. } => {
            assert_eq!(named, Path::new(FILE));
            assert!(str::from_utf8(text).is_err(), "{told}");
        }
        ConfigError::UnknownVariable { name, .. } => {
            assert!(given.environment.iter().any(|(set, _)| set == name), "{told}");
        }
        ConfigError::Invalid { place, key, given: repeated, .. } => {
            let at = check_place(place, text, given, &told);
            let start = repeated.strip_suffix('\u{2026}').unwrap_or(repeated);
            let is_there = printed(&at).starts_with(start) || repeated == "empty" && at.is_empty();
            let is_replaced = at.contains(char::REPLACEMENT_CHARACTER) && matches!(place, Place::Variable(_));
            // A section's mistake is shown at its name.
            assert!(find(key).is_none() || is_there || is_replaced, "{told}");
        }
        ConfigError::Syntax { place, .. }
        | ConfigError::UnknownSection { place, .. }
        | ConfigError::UnknownKey { place, .. }
        | ConfigError::Conflict { place, .. }
        | ConfigError::OpenOnNetwork { place, .. }
        | ConfigError::MetricsOnNetwork { place, .. }
        | ConfigError::OverBudget { place, .. } => drop(check_place(place, text, given, &told)),
    }
}

/// As much of it as an error repeats.
fn printed(text: &str) -> String {
    let print =
        |char: char| if char.is_control() { char.escape_default().to_string() } else { char.to_string() };
    text.chars().take(GIVEN_CHARS_MAX).map(print).collect()
}

/// What is at the place, to the end of its source. Nothing is wrong with the defaults alone.
fn check_place(place: &Place, text: &[u8], given: &Given, told: &str) -> String {
    match place {
        Place::Default => None,
        Place::File { path: named, line, column } => {
            assert_eq!(named, Path::new(FILE));
            let text = str::from_utf8(text).expect("only text has places");
            let mut lines = text.split('\n').skip(line - 1);
            let here = lines.next().expect("the line is there");
            assert!(*column <= here.chars().count() + 1, "{told}");
            let rest: Vec<String> = std::iter::once(here.chars().skip(column - 1).collect())
                .chain(lines.map(str::to_owned))
                .collect();
            Some(rest.join("\n"))
        }
        Place::Variable(name) => {
            given.environment.iter().find(|(set, _)| set == name).map(|(_, value)| value.clone())
        }
        Place::Flag("--listen") => given.flags.listen.clone(),
        Place::Flag(_) => given.flags.admin_socket.as_ref().map(|path| path.display().to_string()),
    }
    .expect("every mistake is of someone who set something")
}
