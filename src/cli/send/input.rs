//! Where lines come from: standard input, or files one after the other.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{BufReader, Stdin};
use tokio::task::consume_budget;

use crate::cli::exit::{Exit, Failure};
use crate::cli::stdin::{Disk, Line, Lines};

/// Lines of all there is to read.
pub(crate) struct Input {
    present: Reading,
    waiting: VecDeque<(PathBuf, File)>,
    bytes_max: usize,
    bytes_before: u64,
    /// Bytes of all of it, when that is known.
    pub(crate) bytes_all: Option<u64>,
}

enum Reading {
    Stdin(Lines<BufReader<Stdin>>),
    File(PathBuf, Lines<BufReader<Disk>>),
    Nothing,
}

impl Input {
    /// Standard input.
    pub(crate) fn stdin(bytes_max: usize) -> Self {
        let present = Reading::Stdin(Lines::stdin(bytes_max));
        Self { present, waiting: VecDeque::new(), bytes_max, bytes_before: 0, bytes_all: None }
    }

    /// These files. All are opened now, so that the last is not found missing after an hour.
    ///
    /// # Errors
    /// When one cannot be opened or is no regular file.
    pub(crate) fn files(paths: &[PathBuf], bytes_max: usize) -> Result<Self, Failure> {
        let mut waiting = VecDeque::new();
        let mut bytes_all: u64 = 0;
        for path in paths {
            let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
            let (metadata, file) = opened.map_err(|error| unreadable(path, &error))?;
            if !metadata.is_file() {
                let text = format!("{} is no regular file: pipe it into `streamward send`.", path.display());
                return Err(Failure::told(Exit::Io, text));
            }
            bytes_all = bytes_all.saturating_add(metadata.len());
            waiting.push_back((path.clone(), file));
        }
        let present = Reading::Nothing;
        Ok(Self { present, waiting, bytes_max, bytes_before: 0, bytes_all: Some(bytes_all) })
    }

    /// The next line, or none at the end of all. Safe to drop while it waits: nothing is lost.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn next(&mut self) -> Result<Option<Line>, Failure> {
        loop {
            let line = match &mut self.present {
                Reading::Stdin(lines) => {
                    return lines.next().await.map_err(|error| {
                        Failure::told(Exit::Io, format!("cannot read standard input: {error}."))
                    });
                }
                Reading::File(path, lines) => {
                    // A disk never keeps us waiting: signals and the connection get their turn here.
                    consume_budget().await;
                    lines.next().await.map_err(|error| unreadable(path, &error))?
                }
                Reading::Nothing => None,
            };
            if line.is_some() {
                return Ok(line);
            }
            self.bytes_before = self.bytes_read();
            let Some((path, file)) = self.waiting.pop_front() else {
                self.present = Reading::Nothing;
                return Ok(None);
            };
            self.present = Reading::File(path, Lines::new(BufReader::new(Disk(file)), self.bytes_max));
        }
    }

    /// Bytes of the lines so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_before
            + match &self.present {
                Reading::Stdin(lines) => lines.bytes_read,
                Reading::File(_, lines) => lines.bytes_read,
                Reading::Nothing => 0,
            }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::told(Exit::Io, format!("cannot read {}: {error}.", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn files_follow_each_other_and_a_missing_line_break_joins_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let paths = [path("a", "one\ntwo"), path("b", ""), path("c", "three\n")];
        let mut input = Input::files(&paths, 10).unwrap();
        assert_eq!(input.bytes_all, Some(13));
        for text in ["one", "two", "three"] {
            assert_eq!(input.next().await.unwrap(), Some(Line::Whole(text.as_bytes().to_vec())));
        }
        assert_eq!(input.next().await.unwrap(), None);
        assert_eq!(input.next().await.unwrap(), None);
        assert_eq!(input.bytes_read(), 13);
    }

    #[test]
    fn what_is_no_file_is_refused_before_anything_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        for (path, text) in [(missing.as_path(), "missing"), (directory.path(), "no regular file")] {
            let failure = Input::files(&[path.to_owned()], 10).err().unwrap();
            assert_eq!(failure.exit(), Exit::Io);
            assert!(failure.to_string().contains(text), "{failure}");
        }
    }
}
