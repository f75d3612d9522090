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
    details: Vec<String>,
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

    /// A line with the verdict; below it what that means and what to do.
    pub(crate) fn lines(&self, paint: Paint) -> Vec<String> {
        /// Columns before the text: verdict, the longest name, and what parts them.
        const INDENT: &str = "                         ";
        let head = format!("{}  {:17}  {}", self.verdict.painted(paint), self.id, clean(&self.found));
        let mut lines = vec![head];
        lines.extend(self.details.iter().map(|detail| format!("{INDENT}- {}", clean(detail))));
        if !self.meaning.is_empty() {
            lines.push(format!("{INDENT}{}", paint.dim(&clean(&self.meaning))));
        }
        if !self.advice.is_empty() {
            lines.push(format!("{INDENT}→ {}", clean(&self.advice)));
        }
        lines
    }
}
