//! What another file changes.

use std::collections::BTreeMap;

use crate::cli::pipe::file::TaskSpec;

/// What is to be done with tasks, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// No longer in the file.
    pub(crate) removed: Vec<String>,
    /// In it with other words.
    pub(crate) changed: Vec<String>,
    /// New in it.
    pub(crate) added: Vec<String>,
}

/// What is to be done; of tasks that are the same nothing is.
pub(crate) fn plan(old: &BTreeMap<String, TaskSpec>, new: &BTreeMap<String, TaskSpec>) -> Plan {
    let mut plan = Plan::default();
    plan.removed.extend(old.keys().filter(|name| !new.contains_key(*name)).cloned());
    for (name, spec) in new {
        match old.get(name) {
            None => plan.added.push(name.clone()),
            Some(before) if before != spec => plan.changed.push(name.clone()),
            Some(_) => {}
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pipe::file::parse;
    use std::path::Path;

    fn tasks(text: &str) -> BTreeMap<String, TaskSpec> {
        let task = |part: &str| {
            let (name, topic) = part.split_once('=').unwrap();
            format!("[task.{name}]\ntopics = [\"room/{topic}\"]\noutput = \"stdout\"\n")
        };
        parse(Path::new("p"), &text.split(' ').map(task).collect::<String>()).unwrap().tasks
    }

    #[test]
    fn only_what_differs_is_touched() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let planned = plan(&tasks("a=1 b=1 c=1"), &tasks("b=1 c=2 d=1"));
        assert_eq!(planned, Plan { removed: names(&["a"]), changed: names(&["c"]), added: names(&["d"]) });
        assert_eq!(plan(&tasks("a=1 b=2"), &tasks("b=2 a=1")), Plan::default());
    }
}
