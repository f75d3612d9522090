//! The annotated defaults: what is shipped as `systemd/streamward.toml`.

use crate::config::Config;
use crate::config::keys::{KEYS, SECTIONS};
use crate::config::value::literal;

const HEAD: &str = "\
# Streamward's configuration. Every key is here with its default; what is left out keeps it.
#
# Durations are \"500ms\", \"90s\", \"10m\", \"1h\"; sizes are bytes, or \"64KiB\", \"1MiB\".
# Each key can also be set as STREAMWARD_<SECTION>_<KEY>, for example STREAMWARD_LIMITS_LEASE=2m, which wins
# over this file. Check with: streamward serve --config FILE --check-config
# Reload with SIGHUP: [server] and [auth] need a restart, everything else is taken at once.
";

/// Columns of a comment line, its `# ` included.
const COLUMNS_MAX: usize = 110;

/// The whole default configuration as TOML, with a comment on each key.
#[must_use]
pub fn reference() -> String {
    written(&Config::default())
}

/// A configuration in the reference's form.
pub(crate) fn written(config: &Config) -> String {
    let mut config = config.clone();
    let mut lines = vec![HEAD.trim_end().to_owned()];
    for (section, about) in SECTIONS {
        lines.extend([String::new(), format!("# {about}"), format!("[{section}]")]);
        for key in KEYS.iter().filter(|key| key.section() == *section) {
            lines.extend(comment(key.help));
            lines.push(format!("{} = {}", key.short(), literal(key, &mut config)));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Words filled into comment lines.
fn comment(text: &str) -> Vec<String> {
    let mut lines = vec!["#".to_owned()];
    for word in text.split_whitespace() {
        if lines.last().is_some_and(|line| line.len() + 1 + word.len() > COLUMNS_MAX) {
            lines.push("#".to_owned());
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines
}
