//! What a client saw of one stream, in order, with the time of each thing.

use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::time::Instant;

use crate::base::reason::EndReason;
use crate::client::{Item, MessageStream, Receipt, StreamEnd};
use crate::wire::v1;

/// Shared with the task that reads the stream.
#[derive(Clone, Default)]
pub(super) struct Tape(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    has_head: bool,
    items: Vec<(Instant, Item)>,
    end: Option<(Instant, StreamEnd)>,
}

impl Tape {
    /// The answer has begun.
    pub(super) fn begin(&self) {
        self.0.lock().unwrap().has_head = true;
    }

    pub(super) fn push(&self, item: Item) {
        let mut seen = self.0.lock().unwrap();
        assert!(seen.end.is_none(), "{item:?} after the end");
        seen.items.push((Instant::now(), item));
    }

    pub(super) fn finish(&self, end: StreamEnd) {
        self.0.lock().unwrap().end = Some((Instant::now(), end));
    }

    /// Reads a stream of the library to its end.
    pub(super) async fn record(self, mut stream: MessageStream) {
        self.begin();
        loop {
            match stream.next().await {
                Ok(item) => self.push(item),
                Err(end) => return self.finish(end),
            }
        }
    }

    pub(super) fn has_head(&self) -> bool {
        self.0.lock().unwrap().has_head
    }

    pub(super) fn items(&self) -> Vec<(Instant, Item)> {
        self.0.lock().unwrap().items.clone()
    }

    /// How it ended. Fails when it has not.
    pub(super) fn end(&self) -> StreamEnd {
        self.0.lock().unwrap().end.as_ref().expect("the stream has not ended").1.clone()
    }

    pub(super) fn ended_at(&self) -> Instant {
        self.0.lock().unwrap().end.as_ref().expect("the stream has not ended").0
    }

    pub(super) fn is_live(&self) -> bool {
        self.0.lock().unwrap().end.is_none()
    }

    /// The reason the end told, `None` for an end without one. Fails when it has not ended.
    pub(super) fn reason(&self) -> Option<EndReason> {
        self.end().reason
    }

    /// Fails unless the stream ended with this reason and its gRPC code, and the status says so in full.
    pub(super) fn assert_ended(&self, reason: EndReason) {
        let end = self.end();
        assert_eq!(end.reason, Some(reason), "{end:?}");
        assert_eq!(end.status.code() as i32, i32::from(reason.code() as u8), "{end:?}");
    }

    fn filtered<T>(&self, choose: impl Fn(&Item) -> Option<T>) -> Vec<T> {
        self.0.lock().unwrap().items.iter().filter_map(|(_, item)| choose(item)).collect()
    }

    pub(super) fn all_events(&self) -> Vec<v1::Event> {
        self.filtered(|item| if let Item::Event(event) = item { Some(event.clone()) } else { None })
    }

    /// Sequences and payloads of one topic, in the order of their arrival.
    pub(super) fn events(&self, topic: &str) -> Vec<(u64, Bytes)> {
        self.filtered(|item| {
            let Item::Event(event) = item else { return None };
            (event.topic == topic).then(|| (event.sequence, event.payload.clone()))
        })
    }

    pub(super) fn sequences(&self, topic: &str) -> Vec<u64> {
        self.events(topic).into_iter().map(|(sequence, _)| sequence).collect()
    }

    pub(super) fn gaps(&self) -> Vec<v1::Gap> {
        self.filtered(|item| if let Item::Gap(gap) = item { Some(gap.clone()) } else { None })
    }

    pub(super) fn receipts(&self) -> Vec<Receipt> {
        self.filtered(|item| if let Item::Receipt(receipt) = item { Some(receipt.clone()) } else { None })
    }

    pub(super) fn subscribed(&self) -> Vec<v1::Subscribed> {
        self.filtered(|item| if let Item::Subscribed(live) = item { Some(live.clone()) } else { None })
    }

    /// Topics and statuses of refused subscriptions.
    pub(super) fn refused(&self) -> Vec<(String, tonic::Status)> {
        self.filtered(|item| {
            if let Item::Refused { topic, status } = item {
                Some((topic.clone(), (**status).clone()))
            } else {
                None
            }
        })
    }
}

impl fmt::Debug for Tape {
    /// Payloads by their length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.0.lock().unwrap();
        let mut list = f.debug_list();
        for (_, item) in &seen.items {
            if let Item::Event(event) = item {
                let (topic, bytes) = (&event.topic, event.payload.len());
                list.entry(&format_args!("{topic} {} ({bytes} bytes)", event.sequence));
            } else {
                list.entry(item);
            }
        }
        list.entry(&seen.end).finish()
    }
}
