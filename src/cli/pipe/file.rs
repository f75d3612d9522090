//! The file of tasks, read strictly: every mistake at once, each with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::base::limits::{PIPELINE_PATIENCE_MAX, PIPELINE_PATIENCE_MIN, PIPELINE_TASKS_MAX};
use crate::base::order::sort_by;
use crate::base::principal::Principal;
use crate::base::topic::Topic;
use crate::cli::hub::{SERVER_DEFAULT, default_user};
use crate::cli::tail::parse_regex;
use crate::cli::text::{clean, parse_duration};
use crate::client::Endpoint;
use crate::config::{environment, variable};

/// Longest part of a wrong value that a mistake repeats, in characters.
const GIVEN_CHARS_MAX: usize = 60;
const HUB_KEYS: &[&str] = &["server", "user", "client_name"];
const TASK_KEYS: &[&str] =
    &["topics", "since", "until", "for", "retries", "skip", "exec", "output", "format", "group"];

/// All of a file, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PipeFile {
    pub(crate) hub: Hub,
    /// By name; at least one.
    pub(crate) tasks: BTreeMap<String, TaskSpec>,
}

/// `[hub]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hub {
    pub(crate) server: Endpoint,
    pub(crate) user: String,
    pub(crate) client_name: String,
}

/// `[task.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskSpec {
    pub(crate) topics: Vec<Topic>,
    /// Begins with all the hub still keeps.
    pub(crate) since_all: bool,
    /// A regular expression.
    pub(crate) until: Option<String>,
    pub(crate) duration: Option<Duration>,
    pub(crate) retries: Option<u32>,
    pub(crate) skip: bool,
    pub(crate) to: Destination,
    pub(crate) json: bool,
    pub(crate) group: Option<String>,
}

/// Where events go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Exec(String),
    Stdout,
    File(PathBuf),
}

/// Every mistake of a file, one per line; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistakes(Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Reads a file.
///
/// # Errors
/// Every mistake.
pub(crate) fn load(path: &Path) -> Result<PipeFile, Mistakes> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(error) => Err(Mistakes(vec![format!("{}: cannot be read: {error}", path.display())])),
    }
}

/// Reads the text of a file.
///
/// # Errors
/// Every mistake.
pub(crate) fn parse(path: &Path, text: &str) -> Result<PipeFile, Mistakes> {
    let mut reader = Reader { path, text, mistakes: Vec::new() };
    let file = match DeTable::parse(text) {
        Ok(document) => reader.document(document.get_ref()),
        Err(error) => {
            let problem = format!("not valid TOML: {}", error.message());
            reader.wrong(&error.span().unwrap_or(0..0), &problem);
            return Err(Mistakes(reader.mistakes));
        }
    };
    if file.tasks.is_empty() && reader.mistakes.is_empty() {
        reader.wrong(&(0..0), "there is no task: write [task.NAME] with its topics below");
    }
    if reader.mistakes.is_empty() { Ok(file) } else { Err(Mistakes(reader.mistakes)) }
}

type Entry<'a, 'i> = (&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>);

/// The parser sorts by name; mistakes are read beside the file.
fn in_file_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<Entry<'a, 'i>> {
    let mut entries: Vec<_> = table.iter().collect();
    sort_by(&mut entries, |(one, _), (other, _)| one.span().start.cmp(&other.span().start));
    entries
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    mistakes: Vec<String>,
}

impl Reader<'_> {
    /// Notes a mistake with its place; line and column count from 1, the column in characters.
    fn wrong(&mut self, span: &Range<usize>, problem: &str) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
        self.mistakes.push(format!("{}:{line}:{column}: {problem}", self.path.display()));
    }

    /// A value that its key cannot have.
    fn cannot(&mut self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let given = self.text.get(value.span()).unwrap_or_default();
        let mut shown: String = given.chars().take(GIVEN_CHARS_MAX).collect();
        if shown.len() < given.len() {
            shown.push('…');
        }
        let problem = format!("{} cannot be {}; write {expected}", clean(key), clean(&shown));
        self.wrong(&value.span(), &problem);
    }

    fn unknown(&mut self, name: &Spanned<DeString<'_>>, within: &str, keys: &[&str]) {
        let given = clean(name.get_ref()).into_owned();
        let problem = format!("there is no key {given} in {within}; there are {}", keys.join(", "));
        self.wrong(&name.span(), &problem);
    }

    fn document(&mut self, document: &DeTable<'_>) -> PipeFile {
        let environment = environment();
        let server = variable(&environment, "STREAMWARD_SERVER").and_then(|server| server.parse().ok());
        let server = server.or_else(|| SERVER_DEFAULT.parse().ok());
        let mut hub = (server, default_user(&environment), String::new());
        let mut tasks = BTreeMap::new();
        for (name, value) in in_file_order(document) {
            match (name.get_ref().as_ref(), value.get_ref().as_table()) {
                ("hub", Some(table)) => self.hub(table, &mut hub),
                ("task", Some(table)) => self.tasks(table, &mut tasks),
                ("hub" | "task", None) => {
                    self.cannot(name.get_ref(), value, "[hub], or [task.NAME], on a line of its own");
                }
                _ => self.unknown(name, "the file", &["hub", "task"]),
            }
        }
        let (server, user, client_name) = hub;
        // The default is an address; a wrong one given is a mistake noted.
        let server = server.unwrap_or_else(|| Endpoint::Unix(PathBuf::new()));
        PipeFile { hub: Hub { server, user, client_name }, tasks }
    }

    fn hub(&mut self, table: &DeTable<'_>, hub: &mut (Option<Endpoint>, String, String)) {
        for (name, value) in in_file_order(table) {
            let key = format!("hub.{}", name.get_ref());
            match name.get_ref().as_ref() {
                "server" => {
                    let expected = "an address such as \"127.0.0.1:50051\" or \"unix:/run/x.sock\"";
                    hub.0 = self.text_as(&key, value, expected, |text| text.parse().ok());
                }
                "user" => {
                    let expected = "a user name of letters, digits, `.`, `_` and `-`";
                    let user = |text: &str| Principal::new(text, "").is_ok().then(|| text.to_owned());
                    hub.1 = self.text_as(&key, value, expected, user).unwrap_or_default();
                }
                "client_name" => {
                    let expected = "a short name without control characters";
                    let name = |text: &str| Principal::new("anyone", text).is_ok().then(|| text.to_owned());
                    hub.2 = self.text_as(&key, value, expected, name).unwrap_or_default();
                }
                _ => self.unknown(name, "[hub]", HUB_KEYS),
            }
        }
    }

    fn tasks(&mut self, table: &DeTable<'_>, tasks: &mut BTreeMap<String, TaskSpec>) {
        for (name, value) in in_file_order(table) {
            let task = name.get_ref().to_string();
            if tasks.len() == PIPELINE_TASKS_MAX {
                self.wrong(&name.span(), &format!("there are more than {PIPELINE_TASKS_MAX} tasks"));
                return;
            }
            match value.get_ref().as_table() {
                _ if task.is_empty() => self.wrong(&name.span(), "a task needs a name"),
                Some(table) => {
                    if let Some(spec) = self.task(&task, &name.span(), table) {
                        tasks.insert(task, spec);
                    }
                }
                None => self.cannot(&format!("task.{task}"), value, "[task.NAME] on a line of its own"),
            }
        }
    }

    /// A task; none when a mistake was noted.
    fn task(&mut self, task: &str, place: &Range<usize>, table: &DeTable<'_>) -> Option<TaskSpec> {
        let mistakes = self.mistakes.len();
        let mut spec = TaskSpec {
            topics: Vec::new(),
            since_all: false,
            until: None,
            duration: None,
            retries: None,
            skip: false,
            to: Destination::Stdout,
            json: false,
            group: None,
        };
        for (name, value) in in_file_order(table) {
            self.task_key(&format!("task.{task}.{}", name.get_ref()), name, value, &mut spec);
        }
        let has = |key: &str| table.iter().any(|(name, _)| name.get_ref() == key);
        let name = clean(task);
        if !has("topics") {
            self.wrong(place, &format!("task.{name} has no topics: write topics = [\"room/NAME\"]"));
        }
        match (has("exec"), has("output")) {
            (true, true) => self.wrong(place, &format!("task.{name} has both exec and output; remove one")),
            (false, false) => {
                self.wrong(
                    place,
                    &format!("task.{name} does nothing: write exec = \"COMMAND\", or output = \"stdout\""),
                );
            }
            (true, false) if has("format") => {
                self.wrong(place, &format!("task.{name} has a format without an output; remove it"));
            }
            (_, _) => {}
        }
        (self.mistakes.len() == mistakes).then_some(spec)
    }

    fn task_key(
        &mut self,
        key: &str,
        name: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        spec: &mut TaskSpec,
    ) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        match name.get_ref().as_ref() {
            "topics" => spec.topics = self.topics(key, value),
            "since" => {
                let all = |text: &str| ["now", "all"].contains(&text).then_some(text == "all");
                spec.since_all = self.text_as(key, value, "\"now\" or \"all\"", all).unwrap_or_default();
            }
            "until" => {
                let regex = |text: &str| parse_regex(text).ok().map(|_| text.to_owned());
                spec.until = self.text_as(key, value, "a regular expression", regex);
            }
            "for" => {
                let possible = PIPELINE_PATIENCE_MIN..=PIPELINE_PATIENCE_MAX;
                let time = |text: &str| parse_duration(text).ok().filter(|time| possible.contains(time));
                spec.duration = self.text_as(key, value, "a duration such as \"90s\" or \"10m\"", time);
            }
            "retries" => {
                let integer = value.get_ref().as_integer();
                spec.retries =
                    integer.and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
                if spec.retries.is_none() {
                    self.cannot(key, value, &format!("a whole number from 0 to {}", u32::MAX));
                }
            }
            "skip" => match value.get_ref().as_bool() {
                Some(skip) => spec.skip = skip,
                None => self.cannot(key, value, "true or false"),
            },
            "exec" => {
                if let Some(command) = self.text_as(key, value, "a command for the shell", some) {
                    spec.to = Destination::Exec(command);
                }
            }
            "output" => {
                let to = |text: &str| match text {
                    "" => None,
                    "stdout" => Some(Destination::Stdout),
                    path => Some(Destination::File(path.into())),
                };
                if let Some(to) = self.text_as(key, value, "\"stdout\" or the path of a file", to) {
                    spec.to = to;
                }
            }
            "format" => {
                let json = |text: &str| ["text", "json"].contains(&text).then_some(text == "json");
                spec.json = self.text_as(key, value, "\"text\" or \"json\"", json).unwrap_or_default();
            }
            "group" => spec.group = self.text_as(key, value, "a name", some),
            _ => self.unknown(name, "a task", TASK_KEYS),
        }
    }

    fn topics(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Vec<Topic> {
        let expected = "topics such as [\"room/NAME\"]";
        let Some(values) = value.get_ref().as_array().filter(|values| !values.is_empty()) else {
            self.cannot(key, value, expected);
            return Vec::new();
        };
        let (mut topics, mut seen) = (Vec::new(), BTreeSet::new());
        for value in values.iter() {
            let expected = "a topic such as \"room/NAME\" or \"user/NAME\"";
            let Some(topic) = self.text_as(key, value, expected, |text| Topic::parse(text).ok()) else {
                continue;
            };
            if seen.insert(topic.clone()) {
                topics.push(topic);
            } else {
                self.wrong(&value.span(), &format!("{} names {topic} twice", clean(key)));
            }
        }
        topics
    }

    /// Text as something else; none, with the mistake noted, when it is not.
    fn text_as<T>(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let found = value.get_ref().as_str().and_then(read);
        if found.is_none() {
            self.cannot(key, value, expected);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PipeFile, Mistakes> {
        parse(Path::new("p.toml"), text)
    }

    #[test]
    fn a_full_file_is_read() {
        let file = read(
            "[hub]\nserver = \"unix:/x\"\nuser = \"pi\"\nclient_name = \"pipes\"\n\
             [task.door]\ntopics = [\"room/a\", \"room/b\"]\nsince = \"all\"\nuntil = \"^x$\"\nfor = \"10m\"\n\
             retries = 0x10\nskip = true\noutput = \"f.jsonl\"\nformat = \"json\"\ngroup = \"g\"\n\
             [task.'a b']\ntopics = [\"user/pi\"]\nexec = \"true\"\n",
        )
        .unwrap();
        assert_eq!((file.hub.user.as_str(), file.hub.server.to_string().as_str()), ("pi", "unix:/x"));
        let door = &file.tasks["door"];
        let topics: Vec<_> = door.topics.iter().map(Topic::as_str).collect();
        assert_eq!(topics, ["room/a", "room/b"]);
        assert_eq!((door.since_all, door.skip, door.json, door.retries), (true, true, true, Some(16)));
        assert_eq!((door.until.as_deref(), door.duration), (Some("^x$"), Some(Duration::from_secs(600))));
        assert_eq!((&door.to, door.group.as_deref()), (&Destination::File("f.jsonl".into()), Some("g")));
        assert_eq!(file.tasks["a b"].to, Destination::Exec("true".to_owned()));
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_line() {
        let mistakes = read(
            "[hub]\nserver = \"pi\"\nport = 1\n[tusk.x]\n[task.a]\ntopics = [\"room/a\", \"hall/b\", \"room/a\"]\n\
             since = 5\nuntil = \"(\"\nfor = \"10\"\nretries = -1\nskip = 1\nexec = \"\"\nformat = \"xml\"\n\
             [task.b]\nexec = \"true\"\noutput = \"stdout\"\n[task.c]\ntopics = []\ncolour = 1\n",
        )
        .unwrap_err()
        .to_string();
        let lines: Vec<&str> = mistakes.lines().collect();
        for (line, expected) in lines.iter().zip([
            "p.toml:2:10: hub.server cannot be \"pi\"; write an address",
            "p.toml:3:1: there is no key port in [hub]; there are server, user, client_name",
            "p.toml:4:2: there is no key tusk in the file; there are hub, task",
            "p.toml:6:21: task.a.topics cannot be \"hall/b\"; write a topic",
            "p.toml:6:31: task.a.topics names room/a twice",
            "p.toml:7:9: task.a.since cannot be 5; write \"now\" or \"all\"",
            "p.toml:8:9: task.a.until cannot be \"(\"; write a regular expression",
            "p.toml:9:7: task.a.for cannot be \"10\"; write a duration",
            "p.toml:10:11: task.a.retries cannot be -1; write a whole number from 0",
            "p.toml:11:8: task.a.skip cannot be 1; write true or false",
            "p.toml:12:8: task.a.exec cannot be \"\"; write a command",
            "p.toml:13:10: task.a.format cannot be \"xml\"; write \"text\"",
            "p.toml:5:7: task.a has a format without an output",
            "p.toml:14:7: task.b has no topics",
            "p.toml:14:7: task.b has both exec and output",
            "p.toml:18:10: task.c.topics cannot be []; write topics",
            "p.toml:19:1: there is no key colour in a task; there are topics",
            "p.toml:17:7: task.c does nothing",
        ]) {
            assert!(line.starts_with(expected), "{line:?} is not {expected:?}");
        }
        assert_eq!(lines.len(), 18, "{mistakes}");
    }

    #[test]
    fn what_is_no_toml_and_a_file_without_tasks_are_refused() {
        assert!(read("[task.a\n").unwrap_err().to_string().starts_with("p.toml:1:"));
        assert!(read("[hub]\n").unwrap_err().to_string().contains("there is no task"));
        assert!(read("task = 1\n").unwrap_err().to_string().contains("[task.NAME]"));
    }
}
