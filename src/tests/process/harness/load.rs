//! Load: publishers on message streams, followers, and what each of them was told.

use std::collections::BTreeSet;

use streamward::base::reason::EndReason;
use streamward::client::{Item, MessageStream, Receipt, Sender, Session, StreamEnd};
use tokio::task::JoinSet;

use crate::harness::{Server, follow, within};

/// What publishers send to and followers follow.
pub(crate) const TOPIC: &str = "room/load";
/// Publishes of one publisher that wait for their receipts.
const IN_FLIGHT: usize = 4;
/// Bytes of one payload.
const PAYLOAD_BYTES: usize = 100;

/// Many clients, each on a connection of its own.
#[derive(Debug)]
pub(crate) struct Load {
    publishers: JoinSet<Published>,
    followers: JoinSet<Followed>,
}

#[derive(Debug)]
struct Published {
    receipts: Vec<u64>,
    end: StreamEnd,
}

#[derive(Debug)]
struct Followed {
    sequences: Vec<u64>,
    end: StreamEnd,
}

/// What the server told all of them.
#[derive(Debug)]
pub(crate) struct Told {
    /// Sequences that some publisher got a receipt for.
    pub(crate) receipts: BTreeSet<u64>,
    /// What each follower got, in its order.
    pub(crate) followed: Vec<Vec<u64>>,
    /// How every stream ended.
    pub(crate) ends: Vec<StreamEnd>,
}

impl Load {
    /// What the server needs for this load to be slow for nobody: the test's clients share one thread.
    pub(crate) const ENVIRONMENT: [(&str, &str); 4] = [
        ("STREAMWARD_LIMITS_CONNECTIONS_PER_IP_MAX", "100"),
        ("STREAMWARD_LIMITS_LAG_BYTES_MAX", "16MiB"),
        ("STREAMWARD_LIMITS_TAIL_BYTES_MAX", "16MiB"),
        ("STREAMWARD_LIMITS_PING_TIMEOUT", "60s"),
    ];

    /// Starts publishing and following. Every follower is live before the first publish.
    pub(crate) async fn start(server: &Server, publishers: usize, followers: usize) -> Self {
        let mut load = Self { publishers: JoinSet::new(), followers: JoinSet::new() };
        for number in 0..followers {
            let session = server.login(&format!("follower{number}")).await;
            let stream = follow(&session, TOPIC).await;
            load.followers.spawn(read_all(session, stream));
        }
        for number in 0..publishers {
            let session = server.login(&format!("publisher{number}")).await;
            let (sender, stream) = within("a stream", session.open()).await.unwrap();
            load.publishers.spawn(publish_on(session, sender, stream));
        }
        load
    }

    /// Waits until all streams have ended.
    pub(crate) async fn ended(self) -> Told {
        let published = within("the publishers' ends", self.publishers.join_all()).await;
        let followed = within("the followers' ends", self.followers.join_all()).await;
        let ends = published.iter().map(|told| &told.end).chain(followed.iter().map(|told| &told.end));
        Told {
            ends: ends.cloned().collect(),
            receipts: published.iter().flat_map(|told| told.receipts.iter().copied()).collect(),
            followed: followed.into_iter().map(|told| told.sequences).collect(),
        }
    }
}

impl Told {
    /// Everything that has a receipt reached every follower, in order and once; all streams ended with `reason`.
    #[track_caller]
    pub(crate) fn expect_no_loss(&self, reason: EndReason) {
        assert!(!self.receipts.is_empty(), "nothing was published");
        for end in &self.ends {
            assert_eq!(end.reason, Some(reason), "{end:?}");
        }
        for sequences in &self.followed {
            assert!(sequences.is_sorted_by(|before, after| before < after), "out of order or twice");
            let got: BTreeSet<u64> = sequences.iter().copied().collect();
            let lost: Vec<_> = self.receipts.difference(&got).collect();
            assert!(lost.is_empty(), "{} of {} receipts: {lost:?}", lost.len(), self.receipts.len());
        }
    }
}

async fn read_all(session: Session, mut stream: MessageStream) -> Followed {
    let mut sequences = Vec::new();
    let end = loop {
        match stream.next().await {
            Ok(Item::Event(event)) => sequences.push(event.sequence),
            Ok(Item::Draining { .. }) => {}
            Ok(item) => panic!("{item:?}"),
            Err(end) => break end,
        }
    };
    drop(session);
    Followed { sequences, end }
}

async fn publish_on(session: Session, sender: Sender, mut stream: MessageStream) -> Published {
    for _ in 0..IN_FLIGHT {
        publish(&sender).await;
    }
    let mut receipts = Vec::new();
    let end = loop {
        match stream.next().await {
            Ok(Item::Receipt(Receipt { outcome: Ok(position), .. })) => {
                receipts.push(position.sequence);
                publish(&sender).await;
            }
            // Refused: from here on there is nothing to publish for.
            Ok(Item::Receipt(Receipt { outcome: Err(status), .. })) => {
                let refusal = StreamEnd::from_status(*status);
                assert_eq!(refusal.reason, Some(EndReason::ServerDraining), "{refusal:?}");
            }
            Ok(Item::Draining { .. }) => {}
            Ok(item) => panic!("{item:?}"),
            Err(end) => break end,
        }
    };
    drop((session, sender));
    Published { receipts, end }
}

/// A stream that has ended takes nothing any more; reading it tells why.
async fn publish(sender: &Sender) {
    let _ = sender.publish(TOPIC, vec![b'x'; PAYLOAD_BYTES], "", "").await;
}
