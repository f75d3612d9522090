//! The TOML file, read strictly and with the place of every value.

use std::io;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::base::order::sort_by;
use crate::config::error::{ConfigError, Place, repeat};
use crate::config::keys;
use crate::config::loading::Loading;
use crate::config::value::Raw;

type Entry<'a, 'i> = (&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>);

/// Sets every key of the file; false when it could not be read at all.
pub(crate) fn apply(loading: &mut Loading, path: &Path, text: io::Result<String>) -> bool {
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            loading.errors.push(ConfigError::Unreadable { path: path.into(), problem: error.to_string() });
            return false;
        }
    };
    let source = Source { path, text: &text };
    match DeTable::parse(&text) {
        Ok(document) => {
            for (name, value) in in_file_order(document.get_ref()) {
                apply_section(loading, &source, name, value);
            }
            true
        }
        Err(error) => {
            let place = source.place(&error.span().unwrap_or(0..0));
            loading.errors.push(ConfigError::Syntax { place, problem: error.message().to_owned() });
            false
        }
    }
}

fn apply_section(
    loading: &mut Loading,
    source: &Source<'_>,
    name: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
) {
    let section = name.get_ref().as_ref();
    let place = source.place(&name.span());
    let Some(known) = keys::section(section) else {
        let nearest = keys::nearest_section(section);
        loading.errors.push(ConfigError::UnknownSection { place, name: section.to_owned(), nearest });
        return;
    };
    let given = source.text.get(value.span()).unwrap_or_default();
    let Some(table) = value.get_ref().as_table() else {
        let expected = format!("[{known}] on a line of its own, once, and its keys below");
        let given = repeat(given);
        loading.errors.push(ConfigError::Invalid { place, key: known, given, expected });
        return;
    };
    for (name, value) in in_file_order(table) {
        let full = format!("{section}.{}", name.get_ref());
        if keys::find(&full).is_some() {
            let given = source.text.get(value.span()).unwrap_or_default();
            loading.set(&full, &raw(value.get_ref()), given, source.place(&value.span()));
        } else {
            loading.errors.push(ConfigError::UnknownKey {
                place: source.place(&name.span()),
                nearest: keys::nearest_key(section, name.get_ref()),
                name: full,
            });
        }
    }
}

/// The parser sorts by name; errors are read beside the file.
fn in_file_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<Entry<'a, 'i>> {
    let mut entries: Vec<_> = table.iter().collect();
    sort_by(&mut entries, |(one, _), (other, _)| one.span().start.cmp(&other.span().start));
    entries
}

fn raw<'a>(value: &'a DeValue<'_>) -> Raw<'a> {
    match value {
        DeValue::String(text) => Raw::Text(text),
        DeValue::Integer(integer) => {
            Raw::Integer(u64::from_str_radix(integer.as_str(), integer.radix()).ok())
        }
        DeValue::Boolean(on) => Raw::Boolean(*on),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => Raw::Other,
    }
}

struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place::File {
            path: self.path.into(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}
