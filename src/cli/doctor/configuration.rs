//! Which configuration the hub would run with, and whether it is good.

use std::io;
use std::path::{Path, PathBuf};

use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::root::{Root, whole};
use crate::cli::doctor::unit::UnitFile;
use crate::config::machine::Machine;
use crate::config::{Config, Flags, load_read};

/// Where packages and the unit have it.
const FILE_DEFAULT: &str = "/etc/streamward/streamward.toml";

/// Who says what the hub would read.
pub(crate) struct Source<'a> {
    /// `--config`.
    pub(crate) file: Option<&'a Path>,
    pub(crate) unit: Option<&'a UnitFile>,
    /// Of this process.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) mem_total_bytes: u64,
}

/// What came of it. `what` says what was read, for a person.
#[derive(Clone, Debug)]
pub(crate) enum Configuration {
    Good {
        config: Box<Config>,
        what: String,
    },
    Bad {
        mistakes: Vec<String>,
        what: String,
    },
    /// Not for this user.
    Hidden {
        what: String,
    },
}

pub(crate) fn read(root: &Root, source: Source<'_>) -> Configuration {
    let file = path(root, &source);
    let mut what = file.as_ref().map_or_else(|| "the defaults".to_owned(), |path| path.display().to_string());
    let text = file.as_ref().map(|path| (path.as_path(), whole(path)));
    if let Some((_, Err(error))) = &text
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        return Configuration::Hidden { what };
    }
    let (mut environment, mut flags) = (source.environment, Flags::default());
    if let Some(unit) = source.unit {
        for (name, value) in unit.environment() {
            // What is set here is being tried out.
            if !environment.iter().any(|(found, _)| *found == name) {
                environment.push((name, value));
            }
        }
        flags.listen = unit.argument("--listen");
        if unit.last("Service", "EnvironmentFile").is_some() {
            what.push_str("; EnvironmentFile= of the unit is not read");
        }
    }
    // Where the admin socket would be plays no part here.
    let machine = Machine { mem_total_bytes: source.mem_total_bytes, has_runtime_directory: true, uid: None };
    match load_read(&machine, text, environment, &flags) {
        Ok(config) => Configuration::Good { config: Box::new(config), what },
        Err(errors) => {
            Configuration::Bad { mistakes: errors.0.iter().map(ToString::to_string).collect(), what }
        }
    }
}

/// The file: named here, named by the unit, or where it usually is.
fn path(root: &Root, source: &Source<'_>) -> Option<PathBuf> {
    let named = source.file.map(ToOwned::to_owned);
    named.or_else(|| {
        let by_unit = source.unit.and_then(|unit| unit.argument("--config"));
        let path = root.path(by_unit.as_deref().unwrap_or(FILE_DEFAULT));
        // A unit that names a file does not start without it; one in a directory that is closed to us may be there.
        (by_unit.is_some() || !matches!(path.try_exists(), Ok(false))).then_some(path)
    })
}

impl Configuration {
    /// For the checks that can go on without: what a hub with no file would do.
    pub(crate) fn or_defaults(&self) -> Config {
        match self {
            Self::Good { config, .. } => Config::clone(config),
            Self::Bad { .. } | Self::Hidden { .. } => Config::default(),
        }
    }

    pub(crate) fn judge(&self) -> Finding {
        const ID: &str = "configuration";
        const INSTEAD: &str = "Below the defaults are judged instead, and not where the hub listens.";
        match self {
            Self::Good { what, .. } => Finding::ok(ID, what, "Good: no mistakes."),
            Self::Bad { mistakes, what } => {
                let count = match mistakes.len() {
                    1 => "1 mistake".to_owned(),
                    count => format!("{count} mistakes"),
                };
                Finding::fail(
                    ID,
                    format!("{what}: {count}"),
                    format!("The hub does not start with it. {INSTEAD}"),
                    "Correct them; `streamward check-config --config FILE` looks again.",
                )
                .details(mistakes)
            }
            Self::Hidden { what } => {
                Finding::warn(ID, format!("{what}: this user may not read it"), INSTEAD, "Run this as root.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;
    use std::fs;
    use std::time::Duration;

    fn source<'a>(
        file: Option<&'a Path>,
        unit: Option<&'a UnitFile>,
        environment: &[(&str, &str)],
    ) -> Source<'a> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Source { file, unit, environment: environment.collect(), mem_total_bytes: 1 << 30 }
    }

    fn lease(configuration: &Configuration) -> u64 {
        match configuration {
            Configuration::Good { config, .. } => config.limits.lease.as_secs(),
            Configuration::Bad { .. } | Configuration::Hidden { .. } => panic!("{configuration:?}"),
        }
    }

    #[test]
    fn the_file_is_the_one_named_here_or_by_the_unit_or_where_it_usually_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let write = |path: &str, seconds: u32| {
            fs::create_dir_all(root.path(path).parent().unwrap()).unwrap();
            fs::write(root.path(path), format!("[limits]\nlease = \"{seconds}s\"\n")).unwrap();
        };
        let found = |file: Option<&Path>, unit: Option<&UnitFile>| read(&root, source(file, unit, &[]));
        assert_eq!(lease(&found(None, None)), 90, "the default");
        write(FILE_DEFAULT, 71);
        assert_eq!(lease(&found(None, None)), 71);
        write("/opt/hub.toml", 72);
        let unit = UnitFile::of("[Service]\nExecStart=/x serve --config /opt/hub.toml\n");
        assert_eq!(lease(&found(None, Some(&unit))), 72);
        write("/new.toml", 73);
        assert_eq!(lease(&found(Some(&root.path("/new.toml")), Some(&unit))), 73);
        fs::remove_file(root.path("/opt/hub.toml")).unwrap();
        assert_eq!(found(None, Some(&unit)).judge().verdict, Verdict::Fail, "the hub would not start");
    }

    #[test]
    fn a_file_that_may_be_there_is_not_taken_for_none() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        fs::create_dir_all(root.path("/etc")).unwrap();
        fs::write(root.path("/etc/streamward"), "in the way of the directory").unwrap();
        assert_eq!(read(&root, source(None, None, &[])).judge().verdict, Verdict::Fail);
    }

    #[test]
    fn the_units_variables_and_flags_count_and_those_set_here_win() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let unit = UnitFile::of(
            "[Service]\nExecStart=/x serve --listen 127.0.0.1:7\nEnvironment=STREAMWARD_LIMITS_LEASE=74s\n\
             Environment=STREAMWARD_LIMITS_TOPICS_MAX=300\nEnvironmentFile=/y\n",
        );
        let found = read(&root, source(None, Some(&unit), &[("STREAMWARD_LIMITS_TOPICS_MAX", "200")]));
        let Configuration::Good { config, what } = &found else { panic!("{found:?}") };
        assert_eq!((config.limits.lease, config.limits.topics_max), (Duration::from_secs(74), 200));
        assert_eq!(config.server.listen.port(), 7);
        assert!(what.contains("EnvironmentFile"), "{what}");
    }

    #[test]
    fn every_mistake_is_told_and_the_defaults_are_judged_instead() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        fs::write(root.path("/x.toml"), "[limits]\nleese = 1\ntopics_max = -1\n").unwrap();
        let found = read(&root, source(Some(&root.path("/x.toml")), None, &[]));
        let finding = found.judge();
        assert_eq!((finding.verdict, finding.details.len()), (Verdict::Fail, 2), "{finding:?}");
        assert!(finding.found.ends_with("2 mistakes"), "{finding:?}");
        assert_eq!(found.or_defaults(), Config::default());
        let hidden = Configuration::Hidden { what: "x".to_owned() };
        assert_eq!((hidden.judge().verdict, hidden.or_defaults()), (Verdict::Warn, Config::default()));
    }
}
