//! Scripts: what clients do, step by step, on the paused clock. What they must have seen is in `model`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::crowd::payload;
use super::house::{EPOCH, House, follow, settle};
use super::peer::{Line, Options, Peer};
use crate::base::reason::EndReason;
use crate::daemon::monitor::Monitor;
use crate::runtime::pressure::Level;
use crate::wire::v1;
use crate::wire::v1::subscription::Start;

/// Topics of a script.
pub(super) const TOPICS: u8 = 6;

/// Where a scripted subscription starts.
#[derive(Clone, Copy, Debug)]
pub(super) enum From {
    Now,
    Retained,
    /// After the last sequence any earlier stream of this client saw in the topic.
    LastSeen,
    /// After this share of all sequences, in 1/256.
    Share(u8),
}

/// A way a client ends, named as it does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    HalfClose,
    Cancel,
    Cut,
    Garbage,
    LogOut,
    LogOutInBand,
    /// Another connection logs in under the same name.
    TakeOver,
    AdminStream,
    AdminSession,
}

/// One thing that happens. Clients are named by number; a step of one that is not there does nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Connects, logs in and opens a stream; what the client had before is cut.
    Open {
        client: u8,
        window: u32,
        deadline: Option<u16>,
    },
    Subscribe {
        client: u8,
        topic: u8,
        from: From,
        skip: bool,
    },
    Unsubscribe {
        client: u8,
        topic: u8,
    },
    Publish {
        client: u8,
        topic: u8,
        count: u8,
    },
    /// Sends one of the last publishes again under its id, as its user.
    Repeat {
        client: u8,
        back: u8,
    },
    Heartbeat {
        client: u8,
    },
    /// The same by a call of its own.
    Beat {
        client: u8,
    },
    /// Grants no more window.
    Stall {
        client: u8,
    },
    /// Grants what was read meanwhile.
    Resume {
        client: u8,
    },
    End {
        client: u8,
        exit: Exit,
    },
    Advance {
        millis: u32,
    },
    /// The monitor finds this much of the memory used; the level stays.
    Pressure {
        permille: u16,
    },
    /// How many events of a topic the client's stream has.
    Expect {
        client: u8,
        topic: u8,
        events: usize,
    },
}

/// For how long and how many of a topic ids are remembered in a script: often enough for none of both.
pub(super) const DEDUP_WINDOW: Duration = Duration::from_secs(20);
pub(super) const DEDUP_IDS_MAX: u32 = 16;

/// A cause the script brought about, and when.
pub(super) type Caused = Option<(Instant, EndReason)>;

pub(super) struct Stream {
    pub(super) client: u8,
    pub(super) session: String,
    pub(super) number: u64,
    pub(super) line: Line,
    pub(super) deadline_at: Option<Instant>,
    /// When its client last spoke on it or sent a heartbeat.
    pub(super) heard_at: Instant,
    /// Its window is 0 for ever.
    pub(super) is_deaf: bool,
    /// It may have become slow.
    pub(super) has_stalled: bool,
    pub(super) is_stalled: bool,
    pub(super) caused: Caused,
    /// Newest sequence when it was asked to end in a way that delivers first, if it was reading then.
    pub(super) owed_through: Option<u64>,
    pub(super) follows: BTreeSet<String>,
    /// Ids of all publishes on it.
    pub(super) asked: Vec<u64>,
}

pub(super) struct Login {
    pub(super) id: String,
    pub(super) heard_at: Instant,
    pub(super) caused: Caused,
}

/// The client's connection and where its stream and login stand in the lists.
struct Guest {
    peer: Peer,
    stream: usize,
    login: usize,
}

pub(super) struct Stage {
    pub(super) house: House,
    pub(super) talker: Peer,
    /// Follows everything from the start and always reads: the order of events as it was.
    pub(super) witness: Line,
    /// Where the talker publishes.
    pub(super) speaker: Line,
    guests: BTreeMap<u8, Guest>,
    pub(super) streams: Vec<Stream>,
    pub(super) logins: Vec<Login>,
    /// Topic of every publish, and whether a guest sent it; the n-th has id n.
    said: Vec<(String, bool)>,
    /// Ids of all publishes over the talker's stream.
    pub(super) asked: Vec<u64>,
    pub(super) monitor: Monitor,
    pub(super) level: Level,
    /// How long streams may be idle, from each of these times on; zero is off.
    pub(super) idle_timeouts: Vec<(Instant, Duration)>,
}

pub(super) fn topic(number: u8) -> String {
    format!("room/{number}")
}

impl Stage {
    /// `idle_timeout` is that of streams; zero is off.
    pub(super) async fn new(idle_timeout: Duration) -> Self {
        let mut house = House::with(|limits, _| {
            limits.stream_idle_timeout = idle_timeout;
            limits.lag_bytes_max = 3000;
            limits.tail_bytes_max = 5000;
            limits.tails_bytes_max = 6000;
            limits.sessions_per_user_max = 64;
            (limits.dedup_window, limits.dedup_ids_max) = (DEDUP_WINDOW, DEDUP_IDS_MAX);
        });
        let mut talker = house.user("talker").await;
        let witness = talker.follow((0..TOPICS).map(|number| follow(&topic(number)))).await;
        let speaker = talker.open().await;
        Self {
            house,
            talker,
            witness,
            speaker,
            guests: BTreeMap::new(),
            streams: Vec::new(),
            logins: Vec::new(),
            said: Vec::new(),
            asked: Vec::new(),
            monitor: Monitor::new(1 << 30, 2),
            level: Level::Normal,
            idle_timeouts: vec![(Instant::now(), idle_timeout)],
        }
    }

    pub(super) async fn run(&mut self, steps: &[Step]) {
        for step in steps {
            if std::env::var_os("STREAMWARD_TRACE").is_some() {
                eprintln!("{:?} {step:?}", self.house.core.hub().started_at().elapsed());
            }
            self.step(*step).await;
            self.house.assert_accounts();
            settle().await;
            self.house.assert_sound();
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Open { client, window, deadline } => self.open(client, window, deadline).await,
            Step::Subscribe { client, topic, from, skip } => self.subscribe(client, topic, from, skip),
            Step::Unsubscribe { client, topic: number } => {
                let topic = topic(number);
                if let Some(stream) = self.speak(client, |line| line.unsubscribe(&topic)) {
                    stream.follows.remove(&topic);
                }
            }
            Step::Publish { client, topic, count } => self.publish(client, topic, count).await,
            Step::Repeat { client, back } => self.repeat(client, back),
            Step::Heartbeat { client } => drop(self.speak(client, Line::heartbeat)),
            Step::Beat { client } => self.beat(client).await,
            Step::Stall { client } => {
                if let Some(stream) = self.stream_mut(client) {
                    (stream.has_stalled, stream.is_stalled) = (true, true);
                    stream.line.stall();
                }
            }
            Step::Resume { client } => {
                if let Some(stream) = self.stream_mut(client) {
                    stream.is_stalled = false;
                    stream.line.go_on();
                }
            }
            Step::End { client, exit } => self.end(client, exit).await,
            Step::Advance { millis } => self.advance(millis).await,
            Step::Pressure { permille } => self.pressure(permille).await,
            Step::Expect { client, topic: number, events } => {
                let stream = self.stream_mut(client).expect("a client that is there");
                let seen = stream.line.tape.events(&topic(number)).len();
                assert_eq!(seen, events, "{step:?}: {:?}", stream.line.tape);
            }
        }
    }

    fn stream_mut(&mut self, client: u8) -> Option<&mut Stream> {
        let at = self.guests.get(&client)?.stream;
        self.streams.get_mut(at)
    }

    /// Whether the client has a stream that nothing has ended yet.
    fn is_up(&self, client: u8) -> bool {
        let stream = self.guests.get(&client).map(|guest| &self.streams[guest.stream]);
        stream.is_some_and(|stream| {
            stream.caused.is_none()
                && stream.line.tape.is_live()
                && self.house.live(stream.number).is_some_and(|key| !self.house.is_ending(key))
        })
    }

    /// Sends a frame on a stream that is up; it counts as traffic.
    fn speak(&mut self, client: u8, say: impl FnOnce(&mut Line)) -> Option<&mut Stream> {
        if !self.is_up(client) {
            return None;
        }
        let guest = &self.guests[&client];
        self.logins[guest.login].heard_at = Instant::now();
        let stream = &mut self.streams[guest.stream];
        stream.heard_at = Instant::now();
        say(&mut stream.line);
        Some(stream)
    }

    async fn beat(&mut self, client: u8) {
        let Some(guest) = self.guests.get(&client) else { return };
        let mut caller = self.house.peer().await;
        caller.borrow_session(&guest.peer);
        let has_session = self.house.has_session(&self.logins[guest.login].id);
        let (is_up, now) = (self.is_up(client), Instant::now());
        assert_eq!(caller.heartbeat().await.is_ok(), has_session);
        let guest = &self.guests[&client];
        if has_session {
            self.logins[guest.login].heard_at = now;
        }
        if is_up {
            self.streams[guest.stream].heard_at = now;
        }
    }

    async fn open(&mut self, client: u8, window: u32, deadline: Option<u16>) {
        self.end(client, Exit::Cut).await;
        settle().await;
        let login = self.guests.get(&client).map(|guest| &self.logins[guest.login].id);
        let takes_over = login.is_some_and(|id| self.house.has_session(id));
        if !self.admits_login(takes_over) {
            return self.be_refused(client).await;
        }
        if let Some(old) = self.guests.remove(&client) {
            self.logins[old.login].caused.get_or_insert((Instant::now(), EndReason::SessionTakenOver));
        }
        let mut owner = self.house.peer().await;
        owner.login("guest", &format!("client{client}")).await;
        let mut peer = self.house.peer_with(Options { window, ..Options::default() }).await;
        peer.borrow_session(&owner);
        let timeout = deadline.map(|seconds| format!("{seconds}S"));
        let opened_at = Instant::now();
        let line = peer.open_for(timeout.as_deref()).await;
        assert!(line.tape.has_head(), "{:?}", line.tape);
        let session = owner.session_id.clone();
        self.logins.push(Login { id: session.clone(), heard_at: opened_at, caused: None });
        self.streams.push(Stream {
            client,
            session,
            number: self.house.newest_stream(),
            line,
            deadline_at: deadline.map(|seconds| opened_at + Duration::from_secs(seconds.into())),
            heard_at: opened_at,
            is_deaf: window == 0,
            has_stalled: window < 1000,
            is_stalled: false,
            caused: None,
            owed_through: None,
            follows: BTreeSet::new(),
            asked: Vec::new(),
        });
        let guest = Guest { peer, stream: self.streams.len() - 1, login: self.logins.len() - 1 };
        self.guests.insert(client, guest);
    }

    fn subscribe(&mut self, client: u8, number: u8, from: From, skip: bool) {
        let topic = topic(number);
        let own = self.streams.iter().filter(|stream| stream.client == client);
        let seen = own.filter_map(|stream| stream.line.tape.sequences(&topic).pop()).max().unwrap_or(0);
        let newest = self.house.core.hub().last_sequence();
        let start = match from {
            From::Now => None,
            From::Retained => Some(Start::AllRetained(true)),
            From::LastSeen => Some(after(seen)),
            From::Share(share) => Some(after(newest * u64::from(share) / 256)),
        };
        let mut wanted = v1::Subscription { topic: topic.clone(), start, ..Default::default() };
        if skip {
            wanted.set_overflow(v1::Overflow::Skip);
        }
        if let Some(stream) = self.speak(client, |line| line.subscribe(wanted)) {
            stream.follows.insert(topic);
        }
    }

    /// A quarter goes over the client's own stream, the rest over the talker's.
    async fn publish(&mut self, client: u8, number: u8, count: u8) {
        let topic = topic(number);
        for at in 0..count {
            let is_turn = self.said.len() % 4 == 3;
            if is_turn {
                // What was sent before may end the client's stream: then it would be heard of no more.
                settle().await;
            }
            let own = is_turn && self.is_up(client);
            self.said.push((topic.clone(), own));
            self.send(client, self.said.len() as u64);
            // Nobody who reads may become slow by what comes at once, or lose its place in a tail that shrank. Before
            // the last one everybody has run: it judges all who are slow.
            let is_short = self.level >= Level::High;
            if own || at % 8 == 7 || is_short || at + 2 == count {
                settle().await;
            }
        }
    }

    /// Sends the publish of that id, over a stream of the user whose it is.
    fn send(&mut self, client: u8, id: u64) {
        let (topic, is_guest) = self.said[usize::try_from(id - 1).unwrap()].clone();
        if !is_guest {
            self.speaker.publish(&topic, payload(id), &id.to_string());
            self.asked.push(id);
        } else if let Some(stream) =
            self.speak(client, |line| line.publish(&topic, payload(id), &id.to_string()))
        {
            stream.asked.push(id);
        }
    }

    fn repeat(&mut self, client: u8, back: u8) {
        let id = self.said.len() as u64;
        if let Some(id) = id.checked_sub(back.into()).filter(|id| *id > 0) {
            self.send(client, id);
        }
    }

    /// Lets time pass; the talker stays logged in.
    async fn advance(&mut self, millis: u32) {
        let until = Instant::now() + Duration::from_millis(millis.into());
        self.talker.heartbeat().await.unwrap();
        while Instant::now() < until {
            let interval = self.house.core.limits().told_heartbeat_interval();
            tokio::time::sleep(interval.min(until - Instant::now())).await;
            self.talker.heartbeat().await.unwrap();
        }
    }

    /// Notes the first cause of a stream, and of its session.
    fn cause(&mut self, client: u8, stream: Option<EndReason>, session: Option<EndReason>) {
        let (now, newest) = (Instant::now(), self.house.core.hub().last_sequence());
        let is_up = self.is_up(client);
        let Some(guest) = self.guests.get(&client) else { return };
        if let Some(reason) = stream.filter(|_| is_up) {
            let stream = &mut self.streams[guest.stream];
            stream.caused = Some((now, reason));
            stream.owed_through = (reason.delivers_first() && !stream.has_stalled).then_some(newest);
        }
        if let Some(reason) = session {
            self.logins[guest.login].caused.get_or_insert((now, reason));
        }
    }

    async fn end(&mut self, client: u8, exit: Exit) {
        use EndReason as Reason;
        if !self.guests.contains_key(&client) {
            return;
        }
        let is_up = self.is_up(client);
        match exit {
            Exit::HalfClose | Exit::Cancel | Exit::Garbage | Exit::LogOutInBand if !is_up => {}
            Exit::HalfClose => self.end_line(client, Reason::Completed, None, Line::half_close),
            Exit::Cancel => self.end_line(client, Reason::ClientCancelled, None, Line::reset),
            Exit::Garbage => {
                // A sign of life all the same.
                let login = self.guests[&client].login;
                let stream = self.guests[&client].stream;
                (self.logins[login].heard_at, self.streams[stream].heard_at) =
                    (Instant::now(), Instant::now());
                self.end_line(client, Reason::InvalidRequest, None, |line| {
                    line.send_bytes(Bytes::from_static(&[9; 16]));
                });
            }
            Exit::LogOutInBand => {
                let session = Some(Reason::SessionLoggedOut);
                self.end_line(client, Reason::Completed, session, Line::logout);
            }
            Exit::Cut => {
                self.cause(client, Some(Reason::ConnectionLost), None);
                self.guests[&client].peer.tap.cut();
            }
            Exit::LogOut | Exit::TakeOver | Exit::AdminStream | Exit::AdminSession => {
                self.end_by_call(client, exit).await;
            }
        }
    }

    fn end_line(
        &mut self,
        client: u8,
        reason: EndReason,
        session: Option<EndReason>,
        say: impl FnOnce(&mut Line),
    ) {
        self.cause(client, Some(reason), session);
        if let Some(stream) = self.stream_mut(client) {
            say(&mut stream.line);
        }
    }

    async fn end_by_call(&mut self, client: u8, exit: Exit) {
        use EndReason as Reason;
        let guest = &self.guests[&client];
        let (session, number) = (self.logins[guest.login].id.clone(), self.streams[guest.stream].number);
        if !self.house.has_session(&session) {
            return;
        }
        if exit == Exit::AdminStream {
            let is_there = self.house.live(number).is_some();
            self.cause(client, Some(Reason::AdminCancelled), None);
            let mut admin = self.house.admin().await;
            let done = admin.cancel(&format!("stream/{number}"), "script", false).await;
            return assert_eq!(done.is_ok(), is_there);
        }
        let mut caller = self.house.peer().await;
        caller.borrow_session(&self.guests[&client].peer);
        if exit == Exit::LogOut {
            self.cause(client, Some(Reason::SessionLoggedOut), Some(Reason::SessionLoggedOut));
            caller.logout().await.unwrap();
        } else if exit == Exit::AdminSession {
            self.cause(client, Some(Reason::AdminCancelled), Some(Reason::AdminCancelled));
            let mut admin = self.house.admin().await;
            admin.cancel(&session, "script", false).await.unwrap();
        } else if !self.admits_login(true) {
            self.be_refused(client).await;
        } else {
            self.cause(client, Some(Reason::SessionTakenOver), Some(Reason::SessionTakenOver));
            let granted = caller.login("guest", &format!("client{client}")).await;
            let caused = Some((Instant::now(), Reason::SessionLoggedOut));
            self.logins.push(Login { id: granted.session_id, heard_at: Instant::now(), caused });
            caller.logout().await.unwrap();
        }
    }

    /// Gives a connection the session of a client; false when it has none. What it calls is traffic.
    pub(super) fn borrow(&mut self, client: u8, peer: &mut Peer) -> bool {
        let Some(guest) = self.guests.get(&client) else { return false };
        if !self.house.has_session(&self.logins[guest.login].id) {
            return false;
        }
        peer.borrow_session(&guest.peer);
        self.logins[guest.login].heard_at = Instant::now();
        true
    }

    /// Everyone reads again, long enough for what is sent in parts.
    pub(super) async fn let_all_read(&mut self) {
        for stream in &mut self.streams {
            stream.is_stalled = false;
            stream.line.go_on();
        }
        self.advance(5000).await;
        settle().await;
    }

    /// Every client's connection is gone.
    pub(super) fn cut_all(&mut self) {
        let clients: Vec<u8> = self.guests.keys().copied().collect();
        for client in clients {
            self.cause(client, Some(EndReason::ConnectionLost), None);
            self.guests[&client].peer.tap.cut();
        }
    }

    /// What the server's own stop ends.
    pub(super) fn drain_all(&mut self) {
        let clients: Vec<u8> = self.guests.keys().copied().collect();
        for client in clients {
            self.cause(client, Some(EndReason::ServerDraining), Some(EndReason::ServerDraining));
        }
    }

    /// Lets go of every connection and checks that nothing is left.
    pub(super) async fn close(self) {
        self.assert_warnings();
        drop((self.guests, self.talker, self.streams, self.witness, self.speaker));
        self.house.close().await;
    }
}

fn after(sequence: u64) -> Start {
    Start::After(v1::Position { epoch: EPOCH.to_owned(), sequence })
}
