//! What a pipeline connects to: a house that can be cut off, silent, gone, or another one with the same address.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::topic::Topic;
use crate::client::{
    Batch, Client, ClientError, Credentials, Delivery, HandlerError, Message, Pipeline, PipelineConfig,
    Stopping, Target, TaskEnd, TaskHandle, connect_io,
};
use crate::server::{Core, connection};
use crate::tests::house::{House, settle, within};
use crate::tests::valve::{Tap, pipe};

pub(super) const ROOM: &str = "room/kitchen";

/// The way to a house.
#[derive(Clone)]
pub(super) struct Line(Arc<Mutex<State>>);

struct State {
    /// Who answers; nobody when unset.
    core: Option<Arc<Core>>,
    taps: Vec<Tap>,
    dialled: Vec<Instant>,
}

impl Line {
    pub(super) fn to(house: &House) -> Self {
        let core = Some(Arc::clone(&house.core));
        Self(Arc::new(Mutex::new(State { core, taps: Vec::new(), dialled: Vec::new() })))
    }

    fn dial(&self) -> Result<crate::tests::valve::Valve, ClientError> {
        let mut state = self.0.lock().unwrap();
        state.dialled.push(Instant::now());
        let Some(core) = state.core.clone() else {
            let kind = Some(io::ErrorKind::ConnectionRefused);
            let why = "connection refused".to_owned();
            return Err(ClientError::Connect { endpoint: "the house".to_owned(), why, kind });
        };
        let (ours, tap, theirs) = pipe(256 * 1024);
        state.taps.push(tap);
        let service = core.service.clone();
        service.spawn(async move { connection::run(&core, theirs, "a pipeline", None, None).await });
        Ok(ours)
    }

    async fn connect(self) -> Result<Client, ClientError> {
        connect_io(self.dial()?).await
    }

    /// Every connection so far is gone.
    pub(super) fn cut(&self) {
        self.0.lock().unwrap().taps.drain(..).for_each(|tap| tap.cut());
    }

    /// Nothing moves on any connection so far.
    pub(super) fn hush(&self) {
        self.0.lock().unwrap().taps.iter().for_each(Tap::shut);
    }

    /// Nobody answers from now on; connections are gone.
    pub(super) fn leave(&self) {
        self.0.lock().unwrap().core = None;
        self.cut();
    }

    /// That house answers from now on.
    pub(super) fn move_to(&self, house: &House) {
        self.0.lock().unwrap().core = Some(Arc::clone(&house.core));
    }

    /// When somebody dialled.
    pub(super) fn dialled(&self) -> Vec<Instant> {
        self.0.lock().unwrap().dialled.clone()
    }

    pub(super) fn config(user: &str) -> PipelineConfig {
        let credentials = Credentials::User { user: user.to_owned(), password: String::new() };
        PipelineConfig::new("127.0.0.1:1".parse().unwrap(), credentials)
    }

    pub(super) fn pipeline(&self, user: &str) -> Pipeline {
        self.pipeline_with(user, |_| ())
    }

    /// A pipeline with one task, which follows [`ROOM`] already.
    pub(super) async fn follower(&self, user: &str, task: &str) -> (Pipeline, Seen, TaskHandle) {
        let (pipeline, seen) = (self.pipeline(user), Seen::default());
        let task = pipeline.start(task, [target(ROOM)], seen.handler()).unwrap();
        settle().await;
        (pipeline, seen, task)
    }

    pub(super) fn pipeline_with(&self, user: &str, change: impl FnOnce(&mut PipelineConfig)) -> Pipeline {
        let mut config = Self::config(user);
        change(&mut config);
        let line = self.clone();
        Pipeline::over(config, move || line.clone().connect()).unwrap()
    }
}

pub(super) fn target(topic: &str) -> Target {
    Target::new(Topic::parse(topic).unwrap())
}

/// What a handler was given, by topic.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<BTreeMap<String, Vec<Heard>>>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Event(u64, String),
    Gap(u64, u64, i32),
}

impl Seen {
    /// A handler that notes everything.
    pub(super) fn handler(
        &self,
    ) -> impl FnMut(Batch, Stopping) -> std::future::Ready<Result<(), HandlerError>> + Send + 'static {
        let seen = self.clone();
        move |batch, _| {
            seen.note(batch);
            std::future::ready(Ok(()))
        }
    }

    pub(super) fn note(&self, batch: Batch) {
        let mut seen = self.0.lock().unwrap();
        for delivery in batch.deliveries {
            let (topic, heard) = match delivery {
                Delivery::Event(event) => {
                    let text = String::from_utf8(event.payload.to_vec()).unwrap();
                    (event.topic, Heard::Event(event.sequence, text))
                }
                Delivery::Gap(gap) => (gap.topic, Heard::Gap(gap.from_sequence, gap.to_sequence, gap.reason)),
            };
            seen.entry(topic).or_default().push(heard);
        }
    }

    /// All that was heard of a topic.
    pub(super) fn of(&self, topic: &str) -> Vec<Heard> {
        self.0.lock().unwrap().get(topic).cloned().unwrap_or_default()
    }

    /// The texts of a topic's events.
    pub(super) fn texts(&self, topic: &str) -> Vec<String> {
        let text = |heard| match heard {
            Heard::Event(_, text) => Some(text),
            Heard::Gap(..) => None,
        };
        self.of(topic).into_iter().filter_map(text).collect()
    }
}

/// Publishes texts from somebody else's session.
pub(super) async fn say(house: &mut House, texts: impl IntoIterator<Item = String>) {
    let guest = house.login("speaker", "").await;
    for text in texts {
        within(guest.session.publish(ROOM, text, "", "")).await.unwrap();
    }
    within(guest.session.logout()).await.unwrap();
}

pub(super) fn texts(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("text {number}")).collect()
}

pub(super) fn message(number: u32) -> Message {
    Message::text(ROOM, &format!("text {number}"))
}

pub(super) async fn end(handle: &mut TaskHandle) -> Arc<TaskEnd> {
    within(handle.ended()).await
}

/// Longer than any wait of a pipeline in these tests.
pub(super) const GRACE: Duration = Duration::from_secs(5);
