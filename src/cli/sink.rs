//! Where the events of a task go: lines, JSON documents, or a command per event.

use crate::base::limits::PIPELINE_BATCH_MAX;
use crate::cli::events::{event_json, event_line, tell_notice};
use crate::cli::exec::{Exec, ExecError};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::client::{Batch, Delivery, Item, Stopping};

/// What a task does with its events.
#[derive(Clone)]
pub(crate) struct Sink {
    /// Lines or documents; gaps, too.
    pub(crate) output: Output,
    /// Instead of printing events.
    pub(crate) exec: Option<Exec>,
}

impl Sink {
    /// How many deliveries it takes at once: what a command has done is never done again.
    pub(crate) fn batch_max(&self) -> usize {
        if self.exec.is_some() { 1 } else { PIPELINE_BATCH_MAX }
    }

    /// Takes all of a batch, in order.
    ///
    /// # Errors
    /// When the output cannot be written, or the command failed.
    pub(crate) async fn take(mut self, batch: Batch, stopping: Stopping) -> Result<(), Failure> {
        for delivery in batch.deliveries {
            match (delivery, &self.exec) {
                (Delivery::Event(event), Some(exec)) => {
                    exec.run(&event, &stopping).await.map_err(exec_failure)?;
                }
                (Delivery::Event(event), None) if self.output.json => {
                    self.output.json(&event_json(&event))?;
                }
                (Delivery::Event(event), None) => {
                    self.output.line(&event_line(&event, self.output.paint))?;
                }
                (Delivery::Gap(gap), _) => tell_notice(&Item::Gap(gap), &mut self.output)?,
            }
        }
        Ok(())
    }
}

fn exec_failure(error: ExecError) -> Failure {
    let exit = match error {
        ExecError::System { .. } => Exit::OsError,
        ExecError::Status { .. } => Exit::Command,
        ExecError::Stopped { .. } => Exit::Interrupted,
    };
    Failure::told(exit, format!("{error}."))
}
