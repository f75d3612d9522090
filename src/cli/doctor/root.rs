//! Where the machine is read: at `/`, or below a directory that looks like one. Every read is bounded.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::base::limits::{DOCTOR_FILE_BYTES_MAX, DOCTOR_NAMES_MAX};
use crate::base::order::sort_by;

/// The directory that stands for `/`.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    pub(crate) fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Where that absolute path lies. Symbolic links are followed as the system does.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The start of a file.
    pub(crate) fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        head(&self.path(path), DOCTOR_FILE_BYTES_MAX)
    }

    /// The same as text, for files that the kernel writes and that may go on: what is needed stands first.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        self.bytes(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The one word or line that a file holds.
    pub(crate) fn word(&self, path: &str) -> Option<String> {
        // Strings of the device tree end with a zero.
        self.text(path).map(|text| text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
    }

    /// The names in a directory, sorted; none when it is not there.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else { return Vec::new() };
        let name = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
        let mut names: Vec<String> = entries.take(DOCTOR_NAMES_MAX).filter_map(name).collect();
        sort_by(&mut names, Ord::cmp);
        names
    }

    /// The last name of what a symbolic link leads to.
    pub(crate) fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }
}

/// A file that must be read whole or not at all.
///
/// # Errors
/// When it cannot be read, is no text, or is longer than what is read of one file.
pub(crate) fn whole(path: &Path) -> io::Result<String> {
    let bytes = head(path, DOCTOR_FILE_BYTES_MAX + 1)?;
    if bytes.len() as u64 > DOCTOR_FILE_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {DOCTOR_FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8"))
}

fn head(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_bounded_and_what_must_be_whole_is_not_cut() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let most = usize::try_from(DOCTOR_FILE_BYTES_MAX).unwrap();
        fs::write(root.path("/long"), vec![b'x'; most + 10]).unwrap();
        assert_eq!(root.text("/long").unwrap().len(), most);
        assert!(whole(&root.path("/long")).unwrap_err().to_string().contains("longer than"));
        fs::write(root.path("/fits"), vec![b'x'; most]).unwrap();
        assert_eq!(whole(&root.path("/fits")).unwrap().len(), most);
        assert!(whole(&root.path("/none")).is_err());
        assert_eq!(root.text("/none"), None);
    }

    #[test]
    fn a_string_of_the_device_tree_has_no_zero() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        fs::write(root.path("/model"), "Raspberry Pi 5 Model B Rev 1.0\0").unwrap();
        assert_eq!(root.word("/model").as_deref(), Some("Raspberry Pi 5 Model B Rev 1.0"));
    }
}
