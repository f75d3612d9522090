//! What is asked of the machine: how much memory it has, who runs us, whether systemd made our directory.

use std::path::{Path, PathBuf};

use crate::config::ADMIN_SOCKET_DEFAULT;
use crate::config::value::socket_path;

/// What a machine has when it does not say: the Pi the defaults are for.
const MEM_TOTAL_BYTES_UNKNOWN: u64 = 1024 * 1024 * 1024;

/// The facts that defaults depend on.
pub(crate) struct Machine {
    pub(crate) mem_total_bytes: u64,
    pub(crate) has_runtime_directory: bool,
    /// Effective user id; `None` without `/proc`.
    pub(crate) uid: Option<u64>,
}

impl Machine {
    pub(crate) fn read() -> Self {
        let runtime_directory = Path::new(ADMIN_SOCKET_DEFAULT).parent();
        Self {
            mem_total_bytes: mem_total_bytes(),
            has_runtime_directory: runtime_directory.is_some_and(Path::is_dir),
            // Not the owner of /proc/self: that is root when the binary has file capabilities.
            uid: std::fs::read_to_string("/proc/self/status").ok().and_then(|text| number(&text, "Uid:", 1)),
        }
    }

    /// Where the admin socket goes when nobody says.
    pub(crate) fn admin_socket(&self, xdg_runtime_dir: Option<&str>) -> PathBuf {
        if self.has_runtime_directory || self.uid == Some(0) {
            return ADMIN_SOCKET_DEFAULT.into();
        }
        let in_directory =
            xdg_runtime_dir.map(|directory| Path::new(directory).join("streamward/admin.sock"));
        if let Some(path) = in_directory.filter(|path| path.to_str().and_then(socket_path).is_some()) {
            return path;
        }
        let user = self.uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
        Path::new("/tmp").join(format!("streamward-{user}")).join("admin.sock")
    }
}

/// The machine's RAM as `/proc/meminfo` gives it, in bytes; 1 GiB when that cannot be read.
#[must_use]
pub fn mem_total_bytes() -> u64 {
    let kibibytes =
        std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| number(&text, "MemTotal:", 0));
    kibibytes.map_or(MEM_TOTAL_BYTES_UNKNOWN, |kibibytes| kibibytes.saturating_mul(1024))
}

/// The number in a column (from 0) after a label of a `/proc` file.
pub(crate) fn number(text: &str, label: &str, column: usize) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_by_label_and_column() {
        let text = "Name:\tx\nUid:\t1000\t1001\t1000\t1000\nMemTotal:        931508 kB\n";
        assert_eq!(number(text, "Uid:", 1), Some(1001));
        assert_eq!(number(text, "MemTotal:", 0), Some(931_508));
        assert_eq!(number(text, "MemFree:", 0), None);
        assert_eq!(number("MemTotal:\n", "MemTotal:", 0), None);
        assert!(mem_total_bytes() >= 64 * 1024 * 1024);
    }

    #[test]
    fn the_admin_socket_is_where_this_user_may_make_it() {
        let machine = |has_runtime_directory, uid| Machine { mem_total_bytes: 0, has_runtime_directory, uid };
        let path = |machine: &Machine, xdg| machine.admin_socket(xdg).display().to_string();
        assert_eq!(path(&machine(true, Some(1000)), Some("/run/user/1000")), ADMIN_SOCKET_DEFAULT);
        assert_eq!(path(&machine(false, Some(0)), None), ADMIN_SOCKET_DEFAULT);
        let user = machine(false, Some(1000));
        assert_eq!(path(&user, Some("/run/user/1000")), "/run/user/1000/streamward/admin.sock");
        // What no socket can have is as good as unset: the hub starts, and the commands look there too.
        let long = format!("/{}", "x".repeat(107));
        for unusable in ["relative", &long, "/run/\u{fffd}"] {
            assert_eq!(path(&user, Some(unusable)), "/tmp/streamward-1000/admin.sock");
        }
        assert_eq!(path(&user, None), "/tmp/streamward-1000/admin.sock");
        assert_eq!(path(&machine(false, None), None), "/tmp/streamward-unknown/admin.sock");
    }
}
