//! A client that behaves: it heartbeats, reads all it is sent, and comes back where it was.

use std::rc::Rc;
use std::time::Duration;

use streamward::wire::v1;
use streamward::wire::v1::{client_frame, notice, subscription};
use tokio::time::{Instant, interval, sleep_until, timeout};

use crate::crowd::{Phase, QUIET_PATIENCE, Storm, TOPICS, note, topic};
use crate::dice::Dice;
use crate::ledger::Heard;
use crate::peer::{Failure, Peer, Stream};

/// A third of the lease that the storm's server is given.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);
/// Topics one reader follows.
const FOLLOWED: usize = 4;

/// Why a stay on one connection is over.
enum Over {
    /// It was long enough.
    Enough,
    /// Everything that was accepted has come.
    CaughtUp,
    /// The stream ended or broke.
    Ended(Failure),
}

struct Reader {
    storm: Rc<Storm>,
    client: u32,
    topics: Vec<usize>,
    heard: Vec<Heard>,
    epoch: String,
    overflow: v1::Overflow,
}

/// Comes in, reads, leaves, comes back, until the storm is over; then checks what it got.
pub(crate) async fn live(storm: Rc<Storm>, client: u32) {
    let mut dice = Dice::new(storm.seed, u64::from(client), 0);
    let first = dice.below(TOPICS);
    let mut reader = Reader {
        client,
        topics: (0..FOLLOWED).map(|at| (first + at * 3) % TOPICS).collect(),
        heard: (0..FOLLOWED).map(|_| Heard::default()).collect(),
        epoch: String::new(),
        overflow: if dice.below(2) == 0 { v1::Overflow::Disconnect } else { v1::Overflow::Skip },
        storm,
    };
    let mut caught_up = false;
    while reader.storm.phase() == Phase::Blowing {
        let storm = Rc::clone(&reader.storm);
        let retry = match storm.come_in(storm.dial(client), &format!("reader{client}")).await {
            Ok(mut peer) => {
                let until = Instant::now() + dice.between(Duration::from_secs(10), Duration::from_secs(60));
                let over = reader.stay(&mut peer, until).await.unwrap_or_else(Over::Ended);
                caught_up = matches!(over, Over::CaughtUp);
                let retry = if let Over::Ended(end) = &over { storm.stream_ended(end) } else { None };
                peer.log_out().await.ok();
                retry
            }
            Err(retry) => retry,
        };
        storm.wait(retry, &mut dice).await;
    }
    reader.check(caught_up);
}

impl Reader {
    /// One stream from where the last one ended.
    async fn stay(&mut self, peer: &mut Peer, until: Instant) -> Result<Over, Failure> {
        let storm = Rc::clone(&self.storm);
        let mut stream = peer.open("MessageService/Connect").await?;
        for subscription in self.subscriptions() {
            stream.frame(client_frame::Kind::Subscribe(subscription))?;
        }
        let mut beats = interval(HEARTBEAT);
        loop {
            tokio::select! {
                frame = stream.next::<v1::ServerFrame>() => self.take(frame?),
                _ = beats.tick() => stream.frame(client_frame::Kind::Heartbeat(v1::Heartbeat {}))?,
                () = sleep_until(until) => return Ok(Over::Enough),
                () = storm.reaches(Phase::Closing) => break,
            }
        }
        timeout(QUIET_PATIENCE, self.catch_up(&mut stream)).await.unwrap_or_else(|_| {
            let late = self.positions();
            Err(Failure::Broken(format!("what was accepted did not come: {late}")))
        })
    }

    /// Nobody publishes any more: reads until the last accepted event of each topic.
    async fn catch_up(&mut self, stream: &mut Stream) -> Result<Over, Failure> {
        loop {
            let at_end = {
                let accepted = self.storm.accepted.borrow();
                let mut topics = self.topics.iter().zip(&self.heard);
                topics.all(|(topic, heard)| heard.position() >= Some(accepted[*topic].last()))
            };
            if at_end {
                return Ok(Over::CaughtUp);
            }
            let frame = stream.next().await?;
            self.take(frame);
        }
    }

    fn positions(&self) -> String {
        let accepted = self.storm.accepted.borrow();
        let all = self.topics.iter().zip(&self.heard);
        all.map(|(topic, heard)| format!("{:?} of {}, ", heard.position(), accepted[*topic].last())).collect()
    }

    fn subscriptions(&self) -> Vec<v1::Subscription> {
        let all = self.topics.iter().zip(&self.heard);
        let subscription = |(number, heard): (&usize, &Heard)| v1::Subscription {
            topic: topic(*number),
            start: heard.position().map(|sequence| {
                subscription::Start::After(v1::Position { epoch: self.epoch.clone(), sequence })
            }),
            overflow: self.overflow.into(),
        };
        all.map(subscription).collect()
    }

    fn take(&mut self, frame: v1::ServerFrame) {
        for notice in frame.notices {
            match notice.kind {
                Some(notice::Kind::Subscribed(subscribed)) => self.subscribed(subscribed),
                Some(notice::Kind::Refused(refused)) => {
                    self.storm.count(format!(
                        "subscriptions refused: {:?}",
                        refused.error.map(|error| error.message)
                    ));
                }
                _ => {}
            }
        }
        for gap in frame.gaps {
            if let Some(at) = self.at(&gap.topic) {
                self.heard[at].gap(gap.from_sequence, gap.to_sequence);
            }
        }
        for event in frame.events {
            let at = self.at(&event.topic);
            let block = at.and_then(|at| self.storm.blocks.get(self.topics[at]));
            let is_whole = block.is_some_and(|block| block.starts_with(&event.payload));
            let in_order = at.is_some_and(|at| self.heard[at].event(event.sequence));
            if !is_whole || !in_order {
                let text = format!(
                    "reader{}: {} {} whole {is_whole}, in order {in_order}",
                    self.client, event.topic, event.sequence
                );
                note(&self.storm.misheard, text);
            }
        }
    }

    fn subscribed(&mut self, subscribed: v1::Subscribed) {
        let Some(position) = subscribed.position else { return };
        if let Some(at) = self.at(&subscribed.topic) {
            self.heard[at].subscribed(position.sequence);
        }
        self.epoch = position.epoch;
        self.storm.count(if subscribed.recovered {
            "subscriptions complete"
        } else {
            "subscriptions told incomplete"
        });
    }

    fn at(&self, name: &str) -> Option<usize> {
        self.topics.iter().position(|number| topic(*number) == name)
    }

    /// Compares what came with what was accepted.
    fn check(mut self, caught_up: bool) {
        let mut all = self.storm.accepted.borrow_mut();
        for (number, heard) in self.topics.iter().zip(&mut self.heard) {
            let accepted = &mut all[*number];
            let through = if caught_up { accepted.last() } else { 0 };
            let lost = heard.lost(accepted, through);
            if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
                let text = format!(
                    "reader{}: {} of {} lost, {first} to {last}",
                    self.client,
                    lost.len(),
                    topic(*number)
                );
                note(&self.storm.misheard, text);
            }
            let storm = &self.storm;
            storm.lost.set(storm.lost.get() + lost.len() as u64);
            storm.heard.set(storm.heard.get() + heard.len() as u64);
            storm.gaps.set(storm.gaps.get() + heard.gaps() as u64);
        }
    }
}
