//! One run of the command against one hub: what every measurement that publishes goes through.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::bench::common::{CommonArgs, run_name, void_text, watched};
use crate::cli::bench::crew::{Crew, CrewArgs, Plan};
use crate::cli::bench::ground::{stopped, void};
use crate::cli::bench::meter::{Meter, ServerReading};
use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::Interrupt;
use crate::cli::output::Output;
use crate::load::error::LoadError;
use crate::runtime::cpu::process_time;

/// The hub, the options, and where results go.
pub(crate) struct Run<'a> {
    pub(crate) common: &'a CommonArgs,
    pub(crate) output: &'a mut Output,
    pub(crate) meter: Meter,
    /// What the clients of this run are called.
    pub(crate) name: String,
    addr: SocketAddr,
    interrupt: Interrupt,
}

/// Why a run ended before it was over.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The user stopped it.
    Interrupted,
    /// What was measured means nothing, and why.
    Void(String),
}

/// Both processes' clocks at the beginning of a measurement.
pub(crate) struct Clocks {
    server: ServerReading,
    load: Duration,
}

/// What a measurement took of both processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) server_cpu: Option<Duration>,
    pub(crate) load_cpu: Duration,
    /// The server's at the end.
    pub(crate) rss_bytes: Option<u64>,
}

impl<'a> Run<'a> {
    /// Finds the hub and where its readings come from.
    pub(crate) async fn start(common: &'a CommonArgs, output: &'a mut Output) -> Result<Self, Failure> {
        let interrupt = Interrupt::new()?;
        let addr = common.address().await?;
        let meter = Meter::open(common, output).await?;
        Ok(Self { common, output, meter, name: run_name()?, addr, interrupt })
    }

    /// Opens everything of the plan, and makes sure that the readings are this hub's.
    pub(crate) async fn open(&mut self, args: &CrewArgs, plan: Plan) -> Result<Result<Crew, Stop>, Failure> {
        let mut crew = Crew::new(self.addr, &self.name, args, plan);
        let (opened, all) = (crew.opened(), crew.connections());
        let line = move || format!("connecting: {} of {all}", opened.get());
        let opened = match self.watch(crew.open(), line).await {
            Some(Ok(())) => self.meter.check(&crew.epoch, self.common, self.output).await,
            Some(Err((who, error))) => Err(self.common.failure(&who, &error)),
            None => {
                crew.leave().await;
                return Ok(Err(Stop::Interrupted));
            }
        };
        match opened {
            Ok(()) => Ok(Ok(crew)),
            Err(failure) => {
                crew.leave().await;
                Err(failure)
            }
        }
    }

    /// What `work` gives, while a line says how far it is; none when the user stopped it.
    pub(crate) async fn watch<T>(
        &mut self,
        work: impl Future<Output = T>,
        line: impl FnMut() -> String,
    ) -> Option<T> {
        watched(work, line, &mut self.interrupt, self.output).await
    }

    /// Reads the clocks.
    pub(crate) async fn clocks(&self) -> Result<Clocks, Failure> {
        // The load's last: the reading itself is not the measurement's.
        let server = self.meter.read().await?;
        Ok(Clocks { server, load: process_time() })
    }

    /// What was used since.
    pub(crate) async fn cost(&self, before: &Clocks) -> Result<Cost, Failure> {
        let load_cpu = process_time().saturating_sub(before.load);
        let after = self.meter.read().await?;
        Ok(Cost { server_cpu: after.cpu_since(&before.server), load_cpu, rss_bytes: after.rss_bytes })
    }

    /// How a run ends: after its results were told.
    pub(crate) fn end(&self, stop: Option<&Stop>) -> Result<Exit, Failure> {
        match stop {
            None => Ok(Exit::Ok),
            Some(Stop::Interrupted) => Err(stopped()),
            Some(Stop::Void(why)) => Err(void(why)),
        }
    }

    /// What every document begins with, and why it is void if it is.
    pub(crate) async fn head(&self, work: &str, stop: Option<&Stop>) -> Value {
        // A server that has gone is told by its last measurement.
        let status = self.meter.status().await.ok().flatten();
        let void = match stop {
            Some(Stop::Void(why)) => Some(why),
            Some(Stop::Interrupted) | None => None,
        };
        json!({
            "work": work, "server": self.common.server.as_str(), "server_version": status.map(|status| status.version),
            "void": void, "stopped_early": matches!(stop, Some(Stop::Interrupted)),
        })
    }
}

/// The first fault of the subscribers, or else that of the publisher.
pub(crate) fn faulty(crew: &Crew, error: LoadError) -> Stop {
    let (who, error) = crew.arrivals.take_fault().unwrap_or_else(|| ("the publisher".to_owned(), error));
    Stop::Void(void_text(&who, &error))
}

/// The document with more keys.
pub(crate) fn with(mut document: Value, more: Value) -> Value {
    if let (Some(document), Value::Object(more)) = (document.as_object_mut(), more) {
        document.extend(more);
    }
    document
}

/// CPU time per delivery, in microseconds.
pub(crate) fn per_delivery_us(cpu: Duration, deliveries: u64) -> Option<f64> {
    (deliveries > 0).then(|| cpu.as_secs_f64() * 1e6 / deliveries as f64)
}

/// The counts of whole seconds: what came after the last one is no second.
pub(crate) fn whole_seconds(per_second: &[u64], took: Duration) -> &[u64] {
    let whole = usize::try_from(took.as_secs()).unwrap_or(usize::MAX).min(per_second.len());
    &per_second[..whole]
}
