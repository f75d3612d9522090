//! What the works' tests share.

use clap::Args;

/// The arguments of a command line of words.
pub(crate) fn parsed<T: Args>(line: &str) -> T {
    let command = T::augment_args(clap::Command::new("bench"));
    let matches = command.try_get_matches_from(line.split(' ')).unwrap();
    T::from_arg_matches(&matches).unwrap()
}
