//! The loop of the works that look at each server once a round.

use crate::BenchError;
use crate::report::{Metric, Outcome, Sample};
use crate::servers::Program;

/// Looks at each program once a round, all of them in turn, and notes what was found.
pub(crate) async fn take_turns(
    outcome: &mut Outcome,
    programs: &[Program],
    rounds: usize,
    look: impl AsyncFn(&Program) -> Result<Vec<(&'static Metric, f64)>, BenchError>,
) -> Result<(), BenchError> {
    for round in 0..rounds {
        for program in programs {
            match look(program).await {
                Ok(numbers) => {
                    outcome.push(Sample { case: String::new(), server: program.kind, round, numbers })?;
                }
                Err(error) => outcome.void(program.kind, round, &error)?,
            }
        }
    }
    Ok(())
}
