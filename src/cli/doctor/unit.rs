//! Unit files as systemd reads them (systemd.unit(5), systemd.syntax(7)): the first of its directories that has the unit,
//! then every drop-in. Only what the checks need.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::base::order::map_of;
use crate::cli::doctor::root::Root;

/// Where units are, the strongest first.
const DIRECTORIES: [&str; 6] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// One unit with its drop-ins.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnitFile {
    /// Where it is.
    pub(crate) path: String,
    pub(crate) drop_ins: Vec<String>,
    /// Linked to nothing: it cannot be started.
    pub(crate) is_masked: bool,
    /// Whether something starts it at boot.
    pub(crate) is_enabled: bool,
    /// Files of it that this user may not read.
    pub(crate) unreadable: Vec<String>,
    pub(crate) assignments: Vec<Assignment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    section: String,
    key: String,
    value: String,
}

/// A setting that is a quantity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Setting<T> {
    Unset,
    Infinity,
    Value(T),
    /// As written; systemd logs such a line and passes over it.
    Unclear(String),
}

impl UnitFile {
    /// The unit of that name; none when it is not installed.
    pub(crate) fn read(root: &Root, name: &str) -> Option<Self> {
        let in_directory =
            |directory: &&&str| root.path(&format!("{directory}/{name}")).symlink_metadata().is_ok();
        let path = format!("{}/{name}", DIRECTORIES.iter().find(in_directory)?);
        let mut unit = Self { is_enabled: is_enabled(root, name), ..Self::default() };
        unit.is_masked = root.link_name(&path).as_deref() == Some("null");
        unit.load(root, &path);
        unit.path = path;
        // Of files with one name in several directories, the strongest directory's counts; then the names are in order.
        let mut drop_ins = BTreeMap::new();
        for directory in DIRECTORIES.map(|directory| format!("{directory}/{name}.d")) {
            for file in root.names(&directory).into_iter().filter(|file| file.ends_with(".conf")) {
                let path = format!("{directory}/{file}");
                drop_ins.entry(file).or_insert(path);
            }
        }
        for path in drop_ins.into_values() {
            unit.load(root, &path);
            unit.drop_ins.push(path);
        }
        Some(unit)
    }

    fn load(&mut self, root: &Root, path: &str) {
        match root.text(path) {
            Some(text) => self.assignments.extend(assignments(&text)),
            None => self.unreadable.push(path.to_owned()),
        }
    }

    /// A unit of that text.
    #[cfg(test)]
    pub(crate) fn of(text: &str) -> Self {
        Self { path: "/x".to_owned(), is_enabled: true, assignments: assignments(text), ..Self::default() }
    }

    /// Everything assigned to a key, in order; an empty assignment takes back what was before.
    pub(crate) fn list(&self, section: &str, key: &str) -> Vec<&str> {
        let mut list = Vec::new();
        for assignment in self.assignments.iter().filter(|a| a.section == section && a.key == key) {
            if assignment.value.is_empty() {
                list.clear();
            } else {
                list.push(assignment.value.as_str());
            }
        }
        list
    }

    /// What was assigned last.
    pub(crate) fn last(&self, section: &str, key: &str) -> Option<&str> {
        self.list(section, key).last().copied()
    }

    /// A time of `[Service]`.
    pub(crate) fn time(&self, key: &str) -> Setting<Duration> {
        setting(self.last("Service", key), time)
    }

    /// How long systemd waits for the end; zero is for ever.
    pub(crate) fn stop_timeout(&self) -> Setting<Duration> {
        let is_one = |key: &str| matches!(key, "TimeoutStopSec" | "TimeoutSec");
        let mut of_service = self.assignments.iter().filter(|a| a.section == "Service" && is_one(&a.key));
        let last = of_service.next_back().map(|assignment| assignment.value.as_str());
        match setting(last.filter(|value| !value.is_empty()), time) {
            Setting::Value(Duration::ZERO) => Setting::Infinity,
            other @ (Setting::Unset | Setting::Infinity | Setting::Value(_) | Setting::Unclear(_)) => other,
        }
    }

    /// A size of `[Service]`; a percentage is of that much.
    pub(crate) fn size(&self, key: &str, whole_bytes: Option<u64>) -> Setting<u64> {
        setting(self.last("Service", key), |text| size(text, whole_bytes))
    }

    /// The hard one of a resource limit: `HARD` or `SOFT:HARD`.
    pub(crate) fn hard_limit(&self, key: &str) -> Setting<u64> {
        let hard =
            self.last("Service", key).map(|value| value.rsplit_once(':').map_or(value, |(_, hard)| hard));
        setting(hard, |text| text.parse().ok())
    }

    /// The variables that `Environment=` sets, the last one of a name winning.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let words = self.list("Service", "Environment").into_iter().flat_map(words);
        let pairs = words
            .filter_map(|word| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
        map_of(pairs).into_iter().collect()
    }

    /// What the command line of `ExecStart=` gives a flag: `--flag value` or `--flag=value`.
    pub(crate) fn argument(&self, flag: &str) -> Option<String> {
        let words = words(self.last("Service", "ExecStart")?);
        let mut rest = words.iter().skip_while(|word| {
            word.as_str() != flag && !word.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='))
        });
        let found = rest.next()?;
        found.split_once('=').map(|(_, value)| value.to_owned()).or_else(|| rest.next().cloned())
    }
}

fn setting<T>(text: Option<&str>, parse: impl Fn(&str) -> Option<T>) -> Setting<T> {
    match text {
        None => Setting::Unset,
        Some("infinity") => Setting::Infinity,
        Some(text) => parse(text).map_or_else(|| Setting::Unclear(text.to_owned()), Setting::Value),
    }
}

/// Whether a target wants or requires the unit.
fn is_enabled(root: &Root, name: &str) -> bool {
    DIRECTORIES.iter().any(|directory| {
        root.names(directory)
            .iter()
            .filter(|wanted| wanted.ends_with(".wants") || wanted.ends_with(".requires"))
            .any(|wanted| root.path(&format!("{directory}/{wanted}/{name}")).symlink_metadata().is_ok())
    })
}

/// `Key=value` lines by section. A line that ends with `\` goes on in the next; comments in between are passed over.
fn assignments(text: &str) -> Vec<Assignment> {
    let mut found = Vec::new();
    let mut section = String::new();
    let mut pending = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(part) = line.strip_suffix('\\') {
            pending.push_str(part);
            pending.push(' ');
            continue;
        }
        let whole = std::mem::take(&mut pending) + line;
        if let Some(name) = whole.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = whole.split_once('=') {
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            found.push(Assignment { section: section.clone(), key, value });
        }
    }
    found
}

/// Words parted by blanks, with quotes around what has some.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            Some(_) | None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// `90`, `1min 30s`, `500ms` (systemd.time(7)); a bare number is seconds.
fn time(text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        let unit_us: u64 = match &rest[..letters] {
            "us" | "usec" | "µs" | "μs" => 1,
            "ms" | "msec" => 1_000,
            "" | "s" | "sec" | "second" | "seconds" => 1_000_000,
            "m" | "min" | "minute" | "minutes" => 60_000_000,
            "h" | "hr" | "hour" | "hours" => 3_600_000_000,
            "d" | "day" | "days" => 86_400_000_000,
            "w" | "week" | "weeks" => 604_800_000_000,
            _ => return None,
        };
        sum = sum.checked_add(Duration::from_micros(number.checked_mul(unit_us)?))?;
        rest = rest[letters..].trim_start();
    }
    Some(sum)
}

/// `256M` with binary units, or `25%`.
fn size(text: &str, whole_bytes: Option<u64>) -> Option<u64> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u64 = percent.trim().parse().ok()?;
        return (whole_bytes? / 100).checked_mul(percent);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match text[digits..].trim() {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn times_are_read_as_systemd_does() {
        for (text, seconds) in
            [("90", 90), ("90s", 90), ("1min 30s", 90), ("1m30s", 90), ("2 h", 7200), ("0", 0)]
        {
            assert_eq!(time(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(time("500ms 5us"), Some(Duration::from_micros(500_005)));
        for text in ["", " ", "s", "1.5s", "-1", "1 parsec", "99999999999999999999", "18446744073709551615w"]
        {
            assert_eq!(time(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_systemd_does() {
        for (text, bytes) in [("256M", 256 << 20), ("1G", 1 << 30), ("4096", 4096), ("25%", 250)] {
            assert_eq!(size(text, Some(1000)), Some(bytes), "{text}");
        }
        assert_eq!(size("25%", None), None);
        assert_eq!(size("9999999999999999999%", Some(1 << 30)), None);
        for text in ["", "M", "x", "1X", "-1M", "99999999999T", "18446744073709551616"] {
            assert_eq!(size(text, Some(1)), None, "{text:?}");
        }
    }

    #[test]
    fn the_last_assignment_counts_and_an_empty_one_takes_back() {
        let unit = UnitFile::of(
            "[Unit]\nTimeoutStopSec=1\n[Service]\nTimeoutSec=5\n# TimeoutStopSec=6\nTimeoutStopSec = 7s\n\
             Environment=A=1 \"B=x y\"\nEnvironment=A=2 \\\n  ; no\n  C=3\nMemoryMax=1G\nMemoryMax=\n\
             LimitNOFILE=10:20\nWatchdogSec=infinity\nNonsense\n",
        );
        assert_eq!(unit.stop_timeout(), Setting::Value(Duration::from_secs(7)));
        assert_eq!(unit.size("MemoryMax", None), Setting::Unset);
        assert_eq!(unit.hard_limit("LimitNOFILE"), Setting::Value(20));
        assert_eq!(unit.time("WatchdogSec"), Setting::Infinity);
        assert_eq!(unit.time("RestartSec"), Setting::Unset);
        let pairs =
            [("A", "2"), ("B", "x y"), ("C", "3")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(unit.environment(), pairs);
        let both = UnitFile::of("[Service]\nTimeoutStopSec=7\nTimeoutSec=0\n");
        assert_eq!(both.stop_timeout(), Setting::Infinity, "both keys are one setting");
    }

    #[test]
    fn arguments_are_found_in_either_form() {
        let unit = UnitFile::of(
            "[Service]\nExecStart=/old --config /old\nExecStart=\nExecStart=/x serve --config '/a b' --listen=[::]:1\n",
        );
        assert_eq!(unit.argument("--config").as_deref(), Some("/a b"));
        assert_eq!(unit.argument("--listen").as_deref(), Some("[::]:1"));
        assert_eq!(unit.argument("--list"), None);
        assert_eq!(UnitFile::of("[Service]\nExecStart=/x --config\n").argument("--config"), None);
    }

    #[test]
    fn the_strongest_directory_counts_then_drop_ins_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.path(path).parent().unwrap()).unwrap();
            fs::write(root.path(path), text).unwrap();
        };
        assert!(UnitFile::read(&root, "x.service").is_none());
        let set = |value: u32| format!("[Service]\nLimitNOFILE={value}\n");
        write("/lib/systemd/system/x.service", &set(1));
        assert_eq!(UnitFile::read(&root, "x.service").unwrap().path, "/lib/systemd/system/x.service");
        write("/etc/systemd/system/x.service", &set(2));
        write("/usr/lib/systemd/system/x.service.d/20.conf", &set(3));
        write("/etc/systemd/system/x.service.d/10.conf", &set(4));
        write("/etc/systemd/system/x.service.d/30.conf.bak", &set(5));
        let unit = UnitFile::read(&root, "x.service").unwrap();
        assert_eq!(unit.path, "/etc/systemd/system/x.service");
        assert_eq!(unit.hard_limit("LimitNOFILE"), Setting::Value(3), "the name decides, not the directory");
        assert_eq!(unit.drop_ins.len(), 2);
        write("/etc/systemd/system/x.service.d/20.conf", "");
        let unit = UnitFile::read(&root, "x.service").unwrap();
        assert_eq!(unit.hard_limit("LimitNOFILE"), Setting::Value(4), "an empty file hides its namesake");
        assert!(!unit.is_enabled && !unit.is_masked);
        fs::create_dir_all(root.path("/etc/systemd/system/multi-user.target.wants")).unwrap();
        let link = root.path("/etc/systemd/system/multi-user.target.wants/x.service");
        std::os::unix::fs::symlink("/nowhere/x.service", link).unwrap();
        assert!(UnitFile::read(&root, "x.service").unwrap().is_enabled, "links of an image lead elsewhere");
        fs::remove_file(root.path("/etc/systemd/system/x.service")).unwrap();
        std::os::unix::fs::symlink("/dev/null", root.path("/etc/systemd/system/x.service")).unwrap();
        assert!(UnitFile::read(&root, "x.service").unwrap().is_masked);
    }
}
