//! Whether the kernel can hold a service to its `MemoryMax=`. Raspberry Pi's firmware turns that off.

use crate::cli::doctor::finding::Finding;
use crate::cli::doctor::root::Root;

/// What the kernel and the boot files say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cgroup {
    /// `cgroup.controllers` of the unified hierarchy's root.
    controllers: Option<String>,
    /// `/proc/cgroups`.
    table: Option<String>,
    /// `/proc/cmdline`.
    command_line: Option<String>,
    /// The file that the Pi's firmware takes the command line from, and what is in it.
    boot: Option<(&'static str, String)>,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    V2,
    V1,
    /// Turned off on the kernel's command line.
    Disabled,
    /// Not in this kernel, or not handed down to this container.
    Missing,
    Unknown,
}

/// Where the firmware looks, since Debian 12 and before.
const BOOT_FILES: [&str; 2] = ["/boot/firmware/cmdline.txt", "/boot/cmdline.txt"];
const ENABLE: &str = "cgroup_enable=memory";
const DISABLE: &str = "cgroup_disable=memory";

pub(crate) fn read(root: &Root) -> Cgroup {
    Cgroup {
        controllers: root.text("/sys/fs/cgroup/cgroup.controllers"),
        table: root.text("/proc/cgroups"),
        command_line: root.text("/proc/cmdline"),
        boot: BOOT_FILES.iter().find_map(|path| Some((*path, root.text(path)?))),
    }
}

impl Cgroup {
    fn state(&self) -> State {
        if self.controllers.as_deref().is_some_and(|controllers| has_word(controllers, "memory")) {
            return State::V2;
        }
        match self.table.as_deref().and_then(memory_row) {
            Some((hierarchy, true)) if hierarchy != 0 => State::V1,
            Some((_, false)) => State::Disabled,
            Some(_) | None => {
                let is_disabled = self.command_line.as_deref().is_some_and(|line| has_word(line, DISABLE));
                match (is_disabled, &self.controllers) {
                    (true, _) => State::Disabled,
                    (false, Some(_)) => State::Missing,
                    (false, None) => State::Unknown,
                }
            }
        }
    }

    fn how_to_turn_on(&self) -> String {
        match &self.boot {
            Some((path, line)) if has_word(line, ENABLE) => {
                format!(
                    "{path} has {ENABLE} already: reboot. It must stand on its first line, which is the only one read."
                )
            }
            Some((path, _)) => format!("Append {ENABLE} to the one line of {path} and reboot."),
            None => format!(
                "Take {DISABLE} off the kernel's command line, or append {ENABLE} to it: with GRUB in \
                 GRUB_CMDLINE_LINUX of /etc/default/grub, then update-grub and reboot."
            ),
        }
    }
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|found| found == word)
}

/// Hierarchy and whether it is on, of the memory controller.
fn memory_row(table: &str) -> Option<(u32, bool)> {
    let row = table.lines().find(|line| line.split_whitespace().next() == Some("memory"))?;
    let mut fields = row.split_whitespace().skip(1);
    let hierarchy = fields.next()?.parse().ok()?;
    Some((hierarchy, fields.nth(1)? == "1"))
}

pub(crate) fn judge(cgroup: &Cgroup) -> Finding {
    const ID: &str = "memory_cgroup";
    const WITHOUT: &str = "MemoryMax= of the unit is without effect. The hub's own monitor keeps memory.budget_bytes, \
                           but nothing stops it should it be wrong.";
    match cgroup.state() {
        State::V2 => Finding::ok(ID, "on (cgroup v2)", "The kernel holds the unit to its MemoryMax=."),
        State::V1 => Finding::ok(
            ID,
            "on (cgroup v1)",
            "systemd holds the unit to its MemoryMax=; the hub itself reads only cgroup v2 and keeps its budget.",
        ),
        State::Disabled => Finding::warn(ID, format!("off: {DISABLE}"), WITHOUT, cgroup.how_to_turn_on()),
        State::Missing => Finding::warn(
            ID,
            "not among the controllers of this kernel or container",
            WITHOUT,
            "Use a kernel with CONFIG_MEMCG, or have the container's manager hand the controller down.",
        ),
        State::Unknown => Finding::warn(
            ID,
            "not known: /sys/fs/cgroup/cgroup.controllers and /proc/cgroups do not tell",
            "If it is off, MemoryMax= of the unit is without effect. The hub's own monitor keeps memory.budget_bytes.",
            "Run this on the machine itself, with /proc and /sys mounted.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Verdict;

    const HEAD: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t50\t1\n";

    fn cgroup(controllers: &str, row: &str, command_line: &str) -> Cgroup {
        Cgroup {
            controllers: Some(controllers.to_owned()),
            table: Some(format!("{HEAD}{row}\n")),
            command_line: Some(command_line.to_owned()),
            boot: None,
        }
    }

    #[test]
    fn on_is_well_in_either_version() {
        let v2 = judge(&cgroup("cpuset cpu io memory pids\n", "memory\t0\t50\t1", ""));
        assert_eq!((v2.verdict, &*v2.found), (Verdict::Ok, "on (cgroup v2)"));
        let v1 = judge(&Cgroup { controllers: None, ..cgroup("", "memory\t4\t66\t1", "") });
        assert_eq!((v1.verdict, &*v1.found), (Verdict::Ok, "on (cgroup v1)"));
        // A part of a word is none.
        assert_eq!(judge(&cgroup("cpu memoryx\n", "memory\t0\t1\t1", "")).verdict, Verdict::Warn);
    }

    #[test]
    fn as_raspberry_pi_os_boots_it_is_off_with_the_file_to_change() {
        let mut pi = cgroup(
            "cpuset cpu io pids\n",
            "memory\t0\t50\t0",
            "coherent_pool=1M cgroup_disable=memory quiet",
        );
        pi.boot = Some((BOOT_FILES[0], "console=tty1 root=PARTUUID=1 rootwait\n".to_owned()));
        let finding = judge(&pi);
        assert_eq!(finding.verdict, Verdict::Warn);
        assert!(finding.meaning.contains("own monitor"), "{finding:?}");
        let advice = "Append cgroup_enable=memory to the one line of /boot/firmware/cmdline.txt and reboot.";
        assert_eq!(finding.advice, advice);
        pi.boot = Some((BOOT_FILES[1], "root=PARTUUID=1 cgroup_enable=memory\n".to_owned()));
        let finding = judge(&pi);
        assert!(finding.advice.starts_with("/boot/cmdline.txt has"), "{finding:?}");
        assert!(judge(&Cgroup { boot: None, ..pi }).advice.contains("GRUB"));
    }

    #[test]
    fn off_and_not_known_are_told_apart() {
        assert_eq!(cgroup("cpu\n", "memory\t0\t1\t1", "").state(), State::Missing);
        assert_eq!(cgroup("cpu\n", "", DISABLE).state(), State::Disabled);
        assert_eq!(Cgroup::default().state(), State::Unknown);
        assert_eq!(judge(&Cgroup::default()).verdict, Verdict::Warn);
        assert_eq!(memory_row("memory\n"), None);
        assert_eq!(memory_row("memory x 1 1\n"), None);
    }
}
