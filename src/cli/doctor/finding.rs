//! What a check found: a verdict, and three sentences for a person.

use serde_json::{Map, Value, json};

use crate::cli::output::Paint;
use crate::cli::text::clean;

/// How bad it is; the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Nothing to do.
    Ok,
    /// It works, but someone should look.
    Warn,
    /// The hub will not start, or not keep its promises.
    Fail,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    fn painted(self, paint: Paint) -> String {
        let word = format!("{:4}", self.word());
        match self {
            Self::Ok => paint.green(&word),
            Self::Warn => paint.yellow(&word),
            Self::Fail => paint.red(&word),
        }
    }
}

/// One check's answer.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// The check's name. Scripts rely on it.
    pub(crate) id: &'static str,
    pub(crate) verdict: Verdict,
    /// What is there, without a full stop.
    pub(crate) found: String,
    /// What that means, in sentences.
    pub(crate) meaning: String,
    /// What to do; empty when there is nothing to do.
    pub(crate) advice: String,
    /// Further lines, when one is not enough.
    pub(crate) details: Vec<String>,
    /// The numbers behind it, for programs. Names carry units.
    values: Map<String, Value>,
}

impl Finding {
    pub(crate) fn ok(id: &'static str, found: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self {
            id,
            verdict: Verdict::Ok,
            found: found.into(),
            meaning: meaning.into(),
            advice: String::new(),
            details: Vec::new(),
            values: Map::new(),
        }
    }

    /// The advice says what to do, to whoever must look.
    pub(crate) fn warn(
        id: &'static str,
        found: impl Into<String>,
        meaning: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Warn, ..Self::ok(id, found, meaning).advice(advice) }
    }

    pub(crate) fn fail(
        id: &'static str,
        found: impl Into<String>,
        meaning: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Fail, ..Self::ok(id, found, meaning).advice(advice) }
    }

    pub(crate) fn advice(self, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..self }
    }

    pub(crate) fn details(self, details: &[String]) -> Self {
        Self { details: details.to_vec(), ..self }
    }

    pub(crate) fn value(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.values.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "id": self.id,
            "verdict": self.verdict.word(),
            "found": self.found,
            "meaning": self.meaning,
            "advice": self.advice,
            "details": self.details,
            "values": self.values,
        })
    }

    /// A line with the verdict; below it what that means and what to do, filled into lines.
    pub(crate) fn lines(&self, paint: Paint) -> Vec<String> {
        let head = format!("{}  {:17}  {}", self.verdict.painted(paint), self.id, clean(&self.found));
        let mut lines = vec![head];
        lines.extend(self.details.iter().map(|detail| format!("{:INDENT$}- {}", "", clean(detail))));
        let meaning = filled(&clean(&self.meaning));
        lines.extend(meaning.iter().map(|line| format!("{:INDENT$}{}", "", paint.dim(line))));
        for (at, line) in filled(&clean(&self.advice)).iter().enumerate() {
            lines.push(format!("{:INDENT$}{} {line}", "", if at == 0 { "→" } else { " " }));
        }
        lines
    }
}

/// Columns before the text: verdict, the longest name, and what parts them.
const INDENT: usize = 25;
/// Columns of filled text beside them. What was found is one line, however long: one can grep it.
const COLUMNS_MAX: usize = 84;

/// Words filled into lines; none without words.
fn filled(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= COLUMNS_MAX => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::captured;

    #[test]
    fn long_sentences_are_filled_and_lose_no_word() {
        let (output, _, _) = captured(false);
        let text = "word ".repeat(100) + &"x".repeat(200);
        let finding = Finding::warn("clock", "found", text.clone(), text.clone());
        let lines = finding.lines(output.paint);
        assert_eq!(lines[0], "warn  clock              found");
        let words: Vec<&str> = lines[1..].iter().flat_map(|line| line.split_whitespace()).collect();
        let expected: Vec<&str> = text.split(' ').chain(["→"]).chain(text.split(' ')).collect();
        assert_eq!(words, expected);
        let is_long = |line: &&String| line.chars().count() > INDENT + 2 + COLUMNS_MAX;
        assert_eq!(lines.iter().filter(is_long).count(), 2, "words that are longer than a line");
        assert_eq!(Finding::ok("clock", "found", "").lines(output.paint).len(), 1);
    }

    #[test]
    fn the_worst_verdict_is_the_greatest() {
        assert!(Verdict::Fail > Verdict::Warn && Verdict::Warn > Verdict::Ok);
    }
}
