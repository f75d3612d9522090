//! Every bound of the program, with its unit in its name. The defaults are for a Raspberry Pi with 1 GB.

use std::time::Duration;

/// Longest topic name.
pub const TOPIC_BYTES_MAX: usize = 255;
/// Longest user name.
pub const USER_BYTES_MAX: usize = 64;
/// Longest client name.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
/// Longest message id.
pub const MESSAGE_ID_BYTES_MAX: usize = 128;
/// Message ids remembered over all topics, however many there are: the oldest of all give way. Judgement: 28 topics full
/// of them, or 240 publishes a second for the default window, for about 5 MiB. Seven eighths of a power of two: a hash
/// table of twice as many buckets holds them for ever.
pub const REMEMBERED_IDS_MAX: usize = 28 * 1024;
/// Longest content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 128;
/// Longest administrator's note.
pub const NOTE_BYTES_MAX: usize = 512;
/// What an event's encoding adds to its payload at most: names, ids, tags, lengths, time and sequence.
pub const EVENT_OVERHEAD_BYTES_MAX: usize =
    TOPIC_BYTES_MAX + USER_BYTES_MAX + MESSAGE_ID_BYTES_MAX + CONTENT_TYPE_BYTES_MAX + 96;
/// Receipts, gaps and notices a stream may have waiting before its inbound half stops reading.
pub const CONTROL_BYTES_MAX: usize = 16 * 1024;
/// Largest unary request outside the data path (login, admin).
pub const UNARY_BYTES_MAX: usize = 16 * 1024;
/// Ends kept for `ListEnded`, of streams and of sessions each.
pub const ENDED_KEPT_MAX: usize = 512;
/// Largest page of a list, and the one used when the caller names none.
pub const PAGE_SIZE_MAX: usize = 1000;
/// Page size when the caller names none.
pub const PAGE_SIZE_DEFAULT: usize = 100;
/// Largest DATA frame we send: HTTP/2's initial `SETTINGS_MAX_FRAME_SIZE` (RFC 9113, 6.5.2).
pub const DATA_FRAME_BYTES_MAX: usize = MAX_FRAME_SIZE as usize;
/// The same, as the setting is sent.
pub const MAX_FRAME_SIZE: u32 = 16 * 1024;
/// What one stream may have inside h2 at least, and with it the largest capacity it reports.
pub const SEND_BUFFER_BYTES_MIN: usize = 2 * DATA_FRAME_BYTES_MAX;
/// HPACK table of each direction: HTTP/2's initial value (RFC 9113, 6.5.2).
pub const HEADER_TABLE_BYTES: u32 = 4096;
/// Largest header list accepted from a peer.
pub const HEADER_LIST_BYTES_MAX: u32 = 8 * 1024;
/// Resets of streams not yet accepted before the connection is closed (RUSTSEC-2023-0034, h2's own default).
pub const PENDING_RESETS_MAX: usize = 20;
/// Streams reset by us that a connection remembers.
pub const LOCAL_RESETS_MAX: usize = 32;
/// Resets caused by the peer's errors before the connection is closed (RUSTSEC-2024-0003, hyper's default).
pub const LOCAL_ERROR_RESETS_MAX: usize = 1024;
/// How long a reset stream is remembered, so that late frames of it are no error.
pub const RESET_MEMORY: Duration = Duration::from_secs(5);
/// Messages of this size or more go to the kernel from where they are; smaller ones are copied together. Measured on
/// x86-64: 7 KiB cost the same either way, for full frames a delivery costs 10 % less. Memory is slower on a Pi.
pub const LOAN_BYTES_MIN: usize = 4 * 1024;
/// Messages of one connection that may do so in one turn; the oldest of more is copied.
pub const LOANS_MAX: usize = 8;
/// What a connection gathers for one system call, and what it holds when the kernel takes no more.
pub const UNSENT_BYTES_MAX: usize = 64 * 1024;
/// The same while all connections together hold more than their share: one full frame, below which nothing would move.
pub const UNSENT_BYTES_SHORT: usize = DATA_FRAME_BYTES_MAX;
/// All connections together may hold one part in this many of the memory there may be before each holds less.
/// Judgement: beside the idle cost of as many connections as fit, it is what a budget has left.
pub const UNSENT_SHARE: u64 = 16;
/// Messages kept because more streams are expected to take them: as many frames as hold the longest tail by default,
/// which is what a crowd that was away takes one stream after the other.
pub const SHARED_RUNS_BYTES_MAX: usize = 256 * 1024;
/// How many of them; each is looked for among all.
pub const SHARED_RUNS_MAX: usize = 32;
/// Unsent bytes the kernel may hold per TCP connection.
pub const TCP_NOTSENT_BYTES_MAX: u32 = 16 * 1024;
/// How long the first GOAWAY waits for its PING to be answered (grpc-go: 5 s).
pub const GOAWAY_PING_TIMEOUT: Duration = Duration::from_secs(5);
/// A message larger than half of the most window ever granted waits this long for it, then it is sent in parts.
pub const PARTIAL_SEND_AFTER: Duration = Duration::from_secs(1);
/// A cancel this near to the call's deadline is the client's own timer: both run from the same `grpc-timeout`.
pub const DEADLINE_CANCEL_SLACK: Duration = Duration::from_millis(100);
/// A call that is no stream must have its request and its answer within this time, whatever its own deadline.
pub const UNARY_TIMEOUT: Duration = Duration::from_secs(30);
/// Sleep after an accept error that means the machine is out of something.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);
/// A topic that nobody follows and that holds nothing is forgotten after this long.
pub const EMPTY_TOPIC_TIMEOUT: Duration = Duration::from_secs(300);
/// Connections to the admin socket at once: a few people and scripts, each with one.
pub const ADMIN_CONNECTIONS_MAX: u32 = 16;
/// What idle timeouts and tails shrink to at most, in thousandths of their limits. Judgement: a quarter of a long
/// timeout still outlives a reconnect, and a quarter of a tail still serves a short one.
pub const SCALE_LEAST_PERMILLE: u32 = 250;
/// Something waited for memory in this share of the last ten seconds (PSI, some avg10): level ELEVATED at least.
/// Judgement: systemd-oomd kills from 60 %; a tenth is where a machine begins to feel it.
pub const STALLED_ELEVATED_PERMILLE: u32 = 100;
/// Steps of a shed plan that are told.
pub const SHED_STEPS_MAX: usize = 1000;
/// What accounts and resident set may differ by without a warning: pages the allocator keeps for the next time, and
/// code that is paged in as it is used. A debug build pages in about 8 MiB.
pub const ACCOUNTS_SLACK_BYTES: u64 = 8 * 1024 * 1024;
/// How often freed memory is given back while it is not short. Judgement: what is freed and used again sooner need not go.
pub const GIVE_BACK_EVERY: Duration = Duration::from_secs(10);
/// How long the worst loop lag is remembered.
pub const LOOP_LAG_MEMORY: Duration = Duration::from_secs(60);
/// Where the kernel does not tell how many descriptors are open (before 6.2), they are counted every so many ticks.
pub const DESCRIPTORS_COUNT_TICKS: u32 = 30;
/// This part of the time between two watchdog pings is for the answers to the question before: judgement. The ping then
/// follows its question by an eighth of what systemd waits.
pub const WATCHDOG_ANSWER_SHARE: u32 = 4;
/// Tasks of one client pipeline at once: each has a call of its own, and memory for it.
pub const PIPELINE_TASKS_MAX: usize = 4096;
/// Publishes of one client pipeline that wait for their receipts.
pub const PIPELINE_IN_FLIGHT_MAX: usize = 1024;
/// Items a client pipeline hands to a handler at once.
pub const PIPELINE_BATCH_MAX: usize = 256;
/// No time of a client pipeline is shorter.
pub const PIPELINE_PATIENCE_MIN: Duration = Duration::from_millis(1);
/// None is longer: a year, far from what a clock can hold.
pub const PIPELINE_PATIENCE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// After a rate of the hub was reached, so many publishes go one at a time: in order, as fast as the rate admits.
pub const PIPELINE_CAUTIOUS_RECEIPTS: u32 = 32;
/// A pipeline's connection must be made within this time, whoever makes it.
pub const PIPELINE_DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Tasks that were told to stop now are waited for this long: one may block the thread it is on.
pub const PIPELINE_ABORT_TIMEOUT: Duration = Duration::from_secs(1);
/// After a minute without a failure the next one is the first again.
pub const PIPELINE_HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// At most one warning of a kind in this time.
pub const WARN_EVERY: Duration = Duration::from_secs(60);
/// Connections to the metrics page at once: a scraper or two and a person; more wait in the kernel's queue.
pub const METRICS_CONNECTIONS_MAX: usize = 4;
/// A client of the metrics page has this long for the head of its request.
pub const METRICS_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Request and answer together (Prometheus' own `scrape_timeout`: 10 s).
pub const METRICS_CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of a request for the metrics: many times what Prometheus or a browser sends.
pub const METRICS_REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Most header fields of one (Prometheus sends five, a browser fifteen).
pub const METRICS_HEADERS_MAX: usize = 64;
/// Longest metrics page, with room; a test holds it.
pub const METRICS_PAGE_BYTES_MAX: usize = 32 * 1024;
/// Pending connections in the kernel's accept queue: as many as Linux allows by default (`net.core.somaxconn` since
/// 5.4). When 2,000 clients came back at once, the kernel reset half of them at 128, and none at this.
pub const LISTEN_BACKLOG: u32 = 4096;

/// What a stop may take beyond its phases: logging, closing, exiting on a busy machine. Judgement.
pub const STOP_SLACK: Duration = Duration::from_secs(5);
/// What `doctor` reads of one file: the mounts of a machine full of containers, or 1,700 sockets.
pub const DOCTOR_FILE_BYTES_MAX: u64 = 256 * 1024;
/// Names `doctor` takes of one directory: as many as a Pi has processes by default.
pub const DOCTOR_NAMES_MAX: usize = 32 * 1024;
/// Small writes whose fsync `doctor` waits for.
pub const DOCTOR_SYNCS_MAX: usize = 16;
/// No further one is begun after this long: an SD card takes 5 to 50 ms for each, a sick one a second.
pub const DOCTOR_SYNCS_TIMEOUT: Duration = Duration::from_secs(2);
/// A median above this is worth a warning: twice what a usable SD card takes.
pub const DOCTOR_SYNC_SLOW: Duration = Duration::from_millis(100);
/// The same for the slowest: a card that stalls this long when idle stalls for minutes when busy. Judgement.
pub const DOCTOR_SYNC_STALL: Duration = Duration::from_secs(1);
/// No clock is right that shows less, in seconds since 1970: the beginning of 2026, before this was written.
pub const DOCTOR_CLOCK_LEAST_S: u64 = 1_767_225_600;
/// From here a Pi slows down, in thousandths of a degree (its firmware caps the clock at 80 degrees, hard at 85).
pub const DOCTOR_HOT_MILLIDEGREES: i64 = 80_000;

/// Calls of one connection beside its streams: with all streams open a client still heartbeats and logs out.
pub const UNARY_CALLS_PER_CONNECTION_MAX: u32 = 16;
/// Frames without work (PING, SETTINGS, WINDOW_UPDATE and the like) a peer may send at once. grpc-go opens with a
/// handful; nginx closes at 1,000 beyond its requests.
pub const IDLE_FRAMES_BURST: u32 = 1000;
/// The same, per second on and on.
pub const IDLE_FRAMES_PER_SECOND: u32 = 500;
/// The same, for each DATA frame it was sent: two WINDOW_UPDATEs and the PING of a bandwidth estimator (Envoy counts
/// against DATA frames sent, too).
pub const IDLE_FRAMES_PER_DATA_FRAME: u64 = 3;
/// A DATA frame with less, and more to come, does no work: not even a message's prefix.
pub const SMALLEST_DATA_BYTES: usize = 5;
/// What a connection reads before its calls and the other tasks come: a batch of a bulk publisher.
pub const READ_BYTES_PER_TURN_MAX: usize = 64 * 1024;
/// The same, in frames: about a tenth of a millisecond of the smallest messages. h2 closes a connection at 2,048 small
/// frames not yet looked at, with the default connection window; calls run between two turns.
pub const FRAMES_PER_TURN_MAX: u32 = 512;
/// The same, in frames without work.
pub const IDLE_FRAMES_PER_TURN_MAX: u32 = 64;
/// After frames smaller than this, heads included, on average...
pub const DENSE_FRAME_BYTES: usize = 64;
/// ...a read takes no more than this.
pub const DENSE_READ_BYTES_MAX: usize = 2 * 1024;
/// A handshake gives way to a newer one from then on, and earlier only when connections run short. A client sends its
/// preface as soon as it is connected; TCP sends what was lost again after 1 s (RFC 6298). When 2,000 clients of one
/// machine came back at once, the slowest handshake took 40 ms.
pub const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);
/// Connections above a limit that are told so at once; further ones are not.
pub const TURNED_AWAY_MAX: usize = 8;
/// Calls such a connection may have at once.
pub const TURNED_AWAY_CALLS_MAX: u32 = 4;
/// When those who are turned away may come back: at some time within it and twice of it.
pub const TURNED_AWAY_RETRY: Duration = Duration::from_secs(5);

/// The `[limits]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once.
    pub sessions_max: u32,
    /// Sessions of one user at once.
    pub sessions_per_user_max: u32,
    /// A session ends after this long without heartbeat or traffic.
    pub lease: Duration,
    /// How often clients are told to heartbeat.
    pub heartbeat_interval: Duration,
    /// Streams of one session at once.
    pub streams_per_session_max: u32,
    /// A stream ends after this long without traffic; zero is off.
    pub stream_idle_timeout: Duration,
    /// A connection has this long from its handshake to its first request.
    pub login_timeout: Duration,
    /// Connections at once on the TCP listener; the admin socket has [`ADMIN_CONNECTIONS_MAX`] of its own.
    pub connections_max: u32,
    /// Connections of one IP address at once.
    pub connections_per_ip_max: u32,
    /// Connections that have not finished their handshake; of younger ones than [`HANDSHAKE_GRACE`] more, while as
    /// many connections are free.
    pub half_open_max: u32,
    /// A connection has this long to send its preface and settings.
    pub handshake_timeout: Duration,
    /// A connection without stream and session is closed after this long.
    pub connection_idle_timeout: Duration,
    /// A quiet connection is pinged this often.
    pub ping_interval: Duration,
    /// A ping must be answered within this time.
    pub ping_timeout: Duration,
    /// Streams of one connection at once; other calls beside them have [`UNARY_CALLS_PER_CONNECTION_MAX`] places.
    pub streams_per_connection_max: u32,
    /// Streams a connection may open, and calls it may cancel, per second.
    pub stream_opens_per_second_max: u32,
    /// Largest payload.
    pub message_bytes_max: usize,
    /// What one topic retains.
    pub tail_bytes_max: usize,
    /// What all topics together retain.
    pub tails_bytes_max: usize,
    /// Topics at once.
    pub topics_max: u32,
    /// Topics one stream may follow.
    pub subscriptions_per_stream_max: u32,
    /// Bytes a subscription may lie behind its topic.
    pub lag_bytes_max: usize,
    /// HTTP/2 window of each stream from the client.
    pub stream_window_bytes: u32,
    /// HTTP/2 window of each connection from the client.
    pub connection_window_bytes: u32,
    /// Publishes of one session per second; zero is off.
    pub publishes_per_second_max: u32,
    /// A publish with the message id of one that was accepted less than this before is not accepted again; zero is off.
    pub dedup_window: Duration,
    /// Message ids remembered of one topic, at most [`REMEMBERED_IDS_MAX`] of all.
    pub dedup_ids_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_max: 256,
            sessions_per_user_max: 8,
            lease: Duration::from_secs(90),
            heartbeat_interval: Duration::from_secs(30),
            streams_per_session_max: 16,
            stream_idle_timeout: Duration::ZERO,
            login_timeout: Duration::from_secs(10),
            connections_max: 512,
            connections_per_ip_max: 32,
            half_open_max: 32,
            handshake_timeout: Duration::from_secs(5),
            connection_idle_timeout: Duration::from_secs(60),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(20),
            streams_per_connection_max: 16,
            stream_opens_per_second_max: 50,
            message_bytes_max: 64 * 1024,
            tail_bytes_max: 256 * 1024,
            tails_bytes_max: 32 * 1024 * 1024,
            topics_max: 4096,
            subscriptions_per_stream_max: 64,
            lag_bytes_max: 128 * 1024,
            stream_window_bytes: 32 * 1024,
            connection_window_bytes: 1024 * 1024,
            publishes_per_second_max: 0,
            dedup_window: Duration::from_secs(120),
            dedup_ids_max: 1024,
        }
    }
}

/// The `[memory]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the process may hold; 0 means min(25 % of RAM, 256 MiB).
    pub budget_bytes: u64,
    /// Level ELEVATED from here, percent of the budget.
    pub elevated_percent: u8,
    /// Level HIGH from here.
    pub high_percent: u8,
    /// Level CRITICAL from here.
    pub critical_percent: u8,
    /// A level is left this far below where it began.
    pub hysteresis_percent: u8,
    /// Streams and sessions ended per tick at most.
    pub ends_per_tick_max: u32,
    /// How often memory is looked at.
    pub tick: Duration,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            budget_bytes: 0,
            elevated_percent: 70,
            high_percent: 85,
            critical_percent: 95,
            hysteresis_percent: 5,
            ends_per_tick_max: 16,
            tick: Duration::from_secs(1),
        }
    }
}

/// The `[shutdown]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// How long delivering what was accepted may take.
    pub drain_timeout: Duration,
    /// How long an ended stream's status may take to leave.
    pub flush_timeout: Duration,
    /// When clients are told to come back, before spreading.
    pub retry_after: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            drain_timeout: Duration::from_secs(20),
            flush_timeout: Duration::from_secs(2),
            retry_after: Duration::from_secs(5),
        }
    }
}

impl Shutdown {
    /// How long a stop may take: draining, flushing before and after the cut, and [`STOP_SLACK`] for the way out. A
    /// service manager that kills earlier cuts streams that could have been delivered.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.drain_timeout + 2 * self.flush_timeout + STOP_SLACK
    }
}

impl Limits {
    /// How often clients are told to heartbeat: often enough for the idle timeout of their streams too.
    #[must_use]
    pub fn told_heartbeat_interval(&self) -> Duration {
        if self.stream_idle_timeout.is_zero() {
            return self.heartbeat_interval;
        }
        self.heartbeat_interval.min(self.stream_idle_timeout / 2)
    }

    /// The largest encoded event: what one message may take in a tail.
    #[must_use]
    pub const fn event_bytes_max(&self) -> usize {
        self.message_bytes_max + EVENT_OVERHEAD_BYTES_MAX
    }

    /// Calls of one connection at once, streams among them (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    #[must_use]
    pub const fn calls_per_connection_max(&self) -> u32 {
        self.streams_per_connection_max.saturating_add(UNARY_CALLS_PER_CONNECTION_MAX)
    }

    /// A session not heard of for longer than this has missed a heartbeat: one and a half intervals, as MQTT counts
    /// (5.0, 3.1.2.10).
    #[must_use]
    pub fn stale_after(&self) -> Duration {
        self.told_heartbeat_interval() * 3 / 2
    }

    /// What one stream may have inside h2: a message of the largest size leaves whole, because a status can follow
    /// only a whole one.
    #[must_use]
    pub const fn send_buffer_bytes_max(&self) -> usize {
        let message = self.event_bytes_max() + 5;
        if message > SEND_BUFFER_BYTES_MIN { message } else { SEND_BUFFER_BYTES_MIN }
    }
}

const _: () = assert!(SEND_BUFFER_BYTES_MIN >= DATA_FRAME_BYTES_MAX, "capacity must reach one full frame");
const _: () =
    assert!(WATCHDOG_ANSWER_SHARE >= 2, "question and ping fit between two pings, with room for a late turn");
const _: () = assert!(CONTROL_BYTES_MAX <= DATA_FRAME_BYTES_MAX);
