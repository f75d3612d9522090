//! Where the process stands between start and stop: an ordered value one can watch.

use tokio::sync::watch;

/// The phases, in the order they are passed. None is ever left backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// Nothing new is taken; clients are told.
    Refusing,
    /// What was accepted is being delivered.
    Draining,
    /// What is left is cut.
    Aborting,
}

impl Phase {
    /// As people and logs read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Refusing => "refusing",
            Self::Draining => "draining",
            Self::Aborting => "aborting",
        }
    }
}

/// The one writer of the phase.
#[derive(Debug)]
pub struct PhaseCell(watch::Sender<Phase>);

impl Default for PhaseCell {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }
}

impl PhaseCell {
    /// Moves forward; a phase already passed changes nothing. Returns whether it moved.
    pub fn advance(&self, to: Phase) -> bool {
        self.0.send_if_modified(|phase| {
            let forward = to > *phase;
            if forward {
                *phase = to;
            }
            forward
        })
    }

    /// The phase now.
    #[must_use]
    pub fn get(&self) -> Phase {
        *self.0.borrow()
    }

    /// A receiver that sees every later change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_never_left_backwards() {
        let cell = PhaseCell::default();
        assert!(cell.advance(Phase::Draining));
        assert!(!cell.advance(Phase::Refusing));
        assert!(!cell.advance(Phase::Draining));
        assert_eq!(cell.get(), Phase::Draining);
    }
}
