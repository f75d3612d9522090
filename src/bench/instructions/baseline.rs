//! Counts, the file that keeps them, and what a count must not do.

use std::fmt::{self, Write as _};

/// A count may be this much more than the baseline's, in thousandths. What varies from run to run is below one:
/// timestamps of four and of five bytes, places in hash tables.
const MORE_PERMILLE_MAX: u64 = 30;
/// Beyond this much less the baseline is to be renewed, or the gain could be lost again unseen.
const LESS_PERMILLE_MAX: u64 = 30;
/// An operation may cost this much more where there is more of everything else.
const BEND_PERMILLE_MAX: u64 = 30;

const HEADER: &str = "\
# Instructions per operation, counted by callgrind: what scripts/test instructions compares with.
# Renewed by scripts/bench-instructions --renew, with the reason in the commit.
";

/// Instructions per operation, in tenths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cost(u64);

impl Cost {
    /// Of so many operations together.
    pub(crate) fn of(instructions: u64, operations: u64) -> Self {
        Self(instructions.saturating_mul(10) / operations.max(1))
    }

    /// How much more this is than `other`, in thousandths; negative for less.
    fn more_permille(self, other: Self) -> i64 {
        let (new, old) = (i128::from(self.0), i128::from(other.0.max(1)));
        i64::try_from((new - old) * 1000 / old).unwrap_or(i64::MAX)
    }

    fn parse(text: &str) -> Option<Self> {
        let (whole, tenth) = text.split_once('.')?;
        (tenth.len() == 1).then_some(())?;
        Some(Self(whole.parse::<u64>().ok()?.checked_mul(10)? + tenth.parse::<u64>().ok()?))
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.0 / 10, self.0 % 10))
    }
}

/// What each case costs.
pub(crate) type Costs = Vec<(String, Cost)>;

/// Counts and what made them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Baseline {
    /// Compiler, C library and processor: with others there are other counts.
    pub(crate) made_with: String,
    pub(crate) costs: Costs,
}

impl Baseline {
    /// Reads the file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut baseline = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            match line.strip_prefix("with ") {
                Some(made_with) => baseline.made_with = made_with.to_owned(),
                None => {
                    let (name, cost) = line.rsplit_once(' ').ok_or_else(|| format!("baseline: {line:?}"))?;
                    let cost = Cost::parse(cost).ok_or_else(|| format!("baseline: {line:?}"))?;
                    baseline.costs.push((name.trim().to_owned(), cost));
                }
            }
        }
        Ok(baseline)
    }

    /// As the file is written.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{HEADER}with {}\n", self.made_with);
        for (name, cost) in &self.costs {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<28} {cost:>10}");
        }
        text
    }

    /// The cost of a case.
    pub(crate) fn cost(&self, name: &str) -> Option<Cost> {
        find(&self.costs, name)
    }
}

fn find(costs: &Costs, name: &str) -> Option<Cost> {
    costs.iter().find(|(known, _)| known == name).map(|(_, cost)| *cost)
}

/// What was found of one thing that is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Good(String),
    /// Good, and to be looked at.
    Renew(String),
    Bad(String),
}

impl Finding {
    /// Whether the test fails.
    pub(crate) fn is_bad(&self) -> bool {
        matches!(self, Self::Bad(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(text) => write!(f, "ok: {text}"),
            Self::Renew(text) => write!(f, "WARN: {text}"),
            Self::Bad(text) => write!(f, "FAILED: {text}"),
        }
    }
}

/// Compares counts with the baseline's, which were made by the same compiler.
pub(crate) fn compare(counted: &Costs, baseline: &Baseline) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, new) in counted {
        let Some(old) = baseline.cost(name) else {
            findings.push(Finding::Bad(format!("{name} is not in the baseline: renew it")));
            continue;
        };
        let more = new.more_permille(old);
        let text = format!("{name:<28} {new:>10} instead of {old:>10}, {}", percent(more));
        findings.push(if more > permille(MORE_PERMILLE_MAX) {
            Finding::Bad(format!("{text}: find out why, or renew the baseline and say why"))
        } else if more < -permille(LESS_PERMILLE_MAX) {
            Finding::Renew(format!("{text}: renew the baseline, or this can be lost unseen"))
        } else {
            Finding::Good(text)
        });
    }
    let gone = baseline.costs.iter().filter(|(name, _)| find(counted, name).is_none());
    findings
        .extend(gone.map(|(name, _)| Finding::Bad(format!("{name} is in the baseline and is not counted"))));
    findings
}

/// Looks whether the second of each pair costs as much as the first.
pub(crate) fn bends(counted: &Costs, pairs: &[(&str, &str)]) -> Vec<Finding> {
    let look = |(few, many): &(&str, &str)| {
        let (Some(of_few), Some(of_many)) = (find(counted, few), find(counted, many)) else {
            return Finding::Bad(format!("{few} and {many} are to be compared and were not counted"));
        };
        let more = of_many.more_permille(of_few);
        let text = format!("{many:<28} {of_many:>10} beside     {of_few:>10}, {} of {few}", percent(more));
        if more > permille(BEND_PERMILLE_MAX) {
            Finding::Bad(format!("{text}: the cost grows with the number"))
        } else {
            Finding::Good(text)
        }
    };
    pairs.iter().map(look).collect()
}

fn permille(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn percent(permille: i64) -> String {
    let sign = if permille < 0 { '-' } else { '+' };
    format!("{sign}{}.{} %", permille.abs() / 10, permille.abs() % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(costs: &[(&str, u64)]) -> Costs {
        costs.iter().map(|(name, cost)| ((*name).to_owned(), Cost::of(*cost, 1))).collect()
    }

    fn baseline(of: &[(&str, u64)]) -> Baseline {
        Baseline { made_with: "rustc 1".into(), costs: costs(of) }
    }

    fn compared(new: u64) -> Finding {
        let findings = compare(&costs(&[("lone", new)]), &baseline(&[("lone", 1000)]));
        assert_eq!(findings.len(), 1);
        findings[0].clone()
    }

    #[test]
    fn more_than_three_percent_more_fails() {
        assert!(matches!(compared(1000), Finding::Good(_)));
        assert!(matches!(compared(1030), Finding::Good(_)));
        assert!(compared(1031).is_bad());
        assert!(compared(2000).is_bad());
    }

    #[test]
    fn much_less_asks_for_a_new_baseline_and_does_not_fail() {
        assert!(matches!(compared(970), Finding::Good(_)));
        assert!(matches!(compared(969), Finding::Renew(_)));
        assert!(!compared(1).is_bad());
    }

    #[test]
    fn a_case_without_a_baseline_and_one_that_is_gone_fail() {
        let findings = compare(&costs(&[("new", 1)]), &baseline(&[("old", 1)]));
        assert_eq!(findings.iter().filter(|finding| finding.is_bad()).count(), 2, "{findings:?}");
    }

    #[test]
    fn growth_with_the_number_fails_and_so_does_a_pair_that_was_not_counted() {
        let counted = costs(&[("few", 1000), ("flat", 1030), ("cheaper", 500), ("bent", 1031)]);
        let look = |many| bends(&counted, &[("few", many)])[0].is_bad();
        assert_eq!([look("flat"), look("cheaper"), look("bent"), look("gone")], [false, false, true, true]);
    }

    #[test]
    fn the_file_reads_as_it_was_written() {
        let baseline = Baseline {
            made_with: "rustc 1.95.0, GNU C 2.36".into(),
            costs: vec![("lone".into(), Cost::of(75_667_368, 10_000)), ("x".into(), Cost::of(7, 1))],
        };
        assert!(baseline.text().contains("lone                             7566.7\n"), "{}", baseline.text());
        assert_eq!(Baseline::parse(&baseline.text()), Ok(baseline));
        assert!(Baseline::parse("lone many\n").is_err() && Baseline::parse("lone\n").is_err());
    }

    #[test]
    fn the_baseline_in_the_repository_is_of_these_cases() {
        let text = include_str!("baseline.txt");
        let baseline = Baseline::parse(text).unwrap();
        assert_eq!(baseline.text(), text, "written by hand?");
        let names: Vec<_> = baseline.costs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, crate::cases::CASES.map(|case| case.name));
        assert!(crate::cases::FLAT.iter().all(|(few, many)| names.contains(few) && names.contains(many)));
    }
}
