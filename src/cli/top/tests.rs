//! The whole of `top` without a terminal: looks and keys go in, screens and actions come out.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};

use crate::cli::top::app::{Action, App, Ask, Event, Link, Mode, News, Pane};
use crate::cli::top::draw::draw;
use crate::cli::top::keys::Key;
use crate::cli::top::picture::Look;
use crate::cli::top::rows::{Column, ROWS_MAX};
use crate::wire::v1;

const MIB: u64 = 1024 * 1024;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

fn status(uptime: i64, events: u64) -> v1::ServerStatus {
    v1::ServerStatus {
        version: "0.1.0".to_owned(),
        epoch: "e".to_owned(),
        phase: v1::Phase::Running.into(),
        started_at: at(1_000_000),
        uptime: seconds(uptime),
        connections: 3,
        sessions: 2,
        streams: 3,
        subscriptions: 4,
        topics: 2,
        last_sequence: events,
        events_delivered: 2 * events,
        bytes_delivered: 2048 * events,
        tails_bytes: MIB,
        tails_bytes_max: 32 * MIB,
        rss_bytes: 14 * MIB,
        threads: 1,
        threads_max: 2,
        descriptors: 18,
        descriptors_max: 1024,
        pressure: v1::Pressure::Elevated.into(),
        memory: Some(v1::MemoryStatus {
            budget_bytes: 32 * MIB,
            ceiling_bytes: 20 * MIB,
            used_bytes: 15 * MIB,
            accounts_bytes: 12 * MIB,
            elevated_percent: 70,
            high_percent: 85,
            critical_percent: 95,
            ..Default::default()
        }),
        loop_lag: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        loop_lag_max: Some(prost_types::Duration { seconds: 0, nanos: 12_000_000 }),
        ..Default::default()
    }
}

fn session(at_slot: u32, user: &str, streams: u32, started: i64, lease: i64) -> v1::SessionInfo {
    v1::SessionInfo {
        id: format!("session/{at_slot}.{at_slot}"),
        user: user.to_owned(),
        client_name: "laptop".to_owned(),
        started_at: at(started),
        lease_left: seconds(lease),
        streams,
        connection_ids: vec![format!("connection/{at_slot}")],
        ending: 0,
    }
}

fn stream(number: u32, owner: u32, events: u64, topics: &[(&str, u64)]) -> v1::StreamInfo {
    let subscription = |(topic, lag_bytes): &(&str, u64)| v1::SubscriptionInfo {
        topic: (*topic).to_owned(),
        lag_bytes: *lag_bytes,
    };
    v1::StreamInfo {
        id: format!("stream/{number}"),
        session_id: format!("session/{owner}.{owner}"),
        connection_id: format!("connection/{owner}"),
        rpc: "Connect".to_owned(),
        peer: "127.0.0.1:40000".to_owned(),
        started_at: at(1_000_010),
        subscriptions: topics.iter().map(subscription).collect(),
        events_delivered: events,
        bytes_delivered: 1024 * events,
        last_sequence: events,
        lag_bytes: topics.iter().fold(0, |sum: u64, (_, lag)| sum.saturating_add(*lag)),
        ..Default::default()
    }
}

/// Two sessions, three streams, one of them behind; `step` looks after the first.
fn house(step: u64) -> Look {
    let events = 100 * step;
    let uptime = 100 + 2 * i64::try_from(step).unwrap();
    Look {
        status: status(uptime, events),
        sessions: vec![session(0, "anna", 1, 1_000_010, 80), session(1, "bob", 2, 1_000_050, 60)],
        streams: vec![
            stream(1, 0, events, &[("room/kitchen", 0)]),
            stream(2, 1, events, &[("room/kitchen", 0), ("room/hall", 65_536)]),
            stream(3, 1, 0, &[("user/bob", 0)]),
        ],
        ended: Vec::new(),
    }
}

fn app(width: u16, height: u16) -> App {
    let mut app = App::new(Duration::from_secs(2), true);
    app.apply(Event::Size(width, height));
    app
}

fn looked(width: u16, height: u16) -> App {
    let mut app = app(width, height);
    for step in 0..3 {
        look(&mut app, house(step));
    }
    app
}

fn look(app: &mut App, look: Look) {
    app.apply(Event::News(News::Look(Box::new(look))));
}

fn screen(app: &App, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(app, frame.area(), frame.buffer_mut())).unwrap();
    terminal
}

fn text(app: &App, width: u16, height: u16) -> Vec<String> {
    let terminal = screen(app, width, height);
    let cells: Vec<&str> = terminal.backend().buffer().content().iter().map(|cell| cell.symbol()).collect();
    cells.chunks(usize::from(width)).map(|line| line.concat().trim_end().to_owned()).collect()
}

fn press(app: &mut App, keys: &str) {
    for key in keys.chars() {
        app.apply(Event::Key(Key::Char(key)));
    }
}

fn ids(app: &App) -> Vec<String> {
    app.rows.rows.iter().map(|row| app.node(*row).unwrap().id().to_owned()).collect()
}

fn selected(app: &App) -> String {
    app.selected_node().unwrap().id().to_owned()
}

#[test]
fn a_screen_of_80x24_shows_everything() {
    let shown = text(&looked(80, 24), 80, 24);
    assert_eq!(shown.len(), 24);
    assert_eq!(shown[14..23].concat(), "");
    assert_eq!(
        format!("{}\n{}", shown[..14].join("\n"), shown[23]),
        "\
streamward 0.1.0  RUNNING  up 1m44s                                     every 2s
connections 3  sessions 2  streams 3  subscriptions 4  topics 2  threads 1 of 2
descriptors 18 of 1024  loop lag 1ms, worst 12ms
memory ███████████████████████████████████E█▌····H····C·· 75% of 20 MiB ELEVATED
       budget 32 MiB, resident 14 MiB, accounts 12 MiB, tails 1 MiB of 32 MiB
events in 50/s        4s  events out 100/s      4s  bytes out 100 KiB/s   4s
                      ██                        ██                        ██
─ 2 sessions, 3 streams, largest lag first; lag bars to 64 KiB ─────────────────
USER, STREAM                               ▼LAG  EVENT/S     BYTES    AGE  LEASE
▾ bob (laptop) session/1.1               64 KiB       50   200 KiB    54s  1m00s
  ├ stream/2 room/hall, room… ████████   64 KiB       50   200 KiB  1m34s
  └ stream/3 user/bob         ········      0 B        0       0 B  1m34s
▾ anna (laptop) session/0.0                 0 B       50   200 KiB  1m34s  1m20s
  └ stream/1 room/kitchen     ········      0 B       50   200 KiB  1m34s
q quit  ? help  s sort  / filter  Enter inspect  c cancel  e ended  p pause"
    );
}

#[test]
fn the_header_says_what_share_of_a_core_went_since_the_last_look() {
    let mut app = looked(80, 24);
    assert!(!text(&app, 80, 24).concat().contains("CPU"), "a server that does not tell");
    for (uptime, cpu_ms) in [(106, 500), (108, 746)] {
        let mut picture = looked(80, 24).picture;
        picture.status = status(uptime, 0);
        picture.status.cpu_time = Some(prost_types::Duration { seconds: 0, nanos: cpu_ms * 1_000_000 });
        app.history.add(&app.picture.status, &picture.status);
        app.picture = picture;
    }
    assert!(text(&app, 80, 24)[0].contains("up 1m48s  CPU 12.3% "), "{:?}", text(&app, 80, 24)[0]);
}

#[test]
fn browsing_sorts_folds_and_keeps_the_selected_node() {
    let mut app = looked(80, 24);
    assert_eq!(ids(&app), ["session/1.1", "stream/2", "stream/3", "session/0.0", "stream/1"], "lag first");
    app.apply(Event::Key(Key::End));
    assert_eq!(selected(&app), "stream/1");
    press(&mut app, "ssss");
    assert_eq!(app.view.column, Column::User);
    assert_eq!(ids(&app)[0], "session/0.0", "anna first");
    assert_eq!(selected(&app), "stream/1", "it moved, and the selection with it");
    press(&mut app, "S");
    assert_eq!(ids(&app)[0], "session/1.1");
    // From the stream to its session, then fold it.
    app.apply(Event::Key(Key::Left));
    assert_eq!(selected(&app), "session/0.0");
    app.apply(Event::Key(Key::Left));
    assert_eq!(ids(&app), ["session/1.1", "stream/2", "stream/3", "session/0.0"]);
    look(&mut app, house(3));
    assert_eq!(ids(&app).len(), 4, "it stays folded");
    app.apply(Event::Key(Key::Right));
    assert_eq!(ids(&app).len(), 5);
    for _ in 0..20 {
        app.apply(Event::Key(Key::Down));
    }
    assert_eq!(selected(&app), "stream/1");
    let mut gone = house(4);
    gone.sessions.remove(0);
    gone.streams.remove(0);
    look(&mut app, gone);
    assert_eq!(selected(&app), "stream/3", "the nearest there is");
}

#[test]
fn every_column_sorts_and_turns_around() {
    let mut app = looked(80, 24);
    for (column, first) in [
        (Column::Lag, "session/1.1"),
        (Column::Delivered, "session/0.0"),
        (Column::Rate, "session/0.0"),
        (Column::Age, "session/0.0"),
        (Column::User, "session/0.0"),
        (Column::Lease, "session/1.1"),
    ] {
        assert_eq!(app.view.column, column);
        // Equal ones come in the order of their ids, whichever way.
        let is_equal = matches!(column, Column::Delivered | Column::Rate);
        assert_eq!(ids(&app)[0], first, "{column:?}");
        press(&mut app, "S");
        assert_eq!(ids(&app)[0] == first, is_equal, "{column:?}");
        press(&mut app, "s");
    }
}

#[test]
fn a_filter_finds_users_clients_ids_and_topics() {
    let mut app = looked(80, 24);
    for (filter, found) in [
        ("ANNA", vec!["session/0.0", "stream/1"]),
        ("hall", vec!["session/1.1", "stream/2"]),
        ("user/bob", vec!["session/1.1", "stream/3"]),
        ("stream/1", vec!["session/0.0", "stream/1"]),
        ("nobody", vec![]),
    ] {
        press(&mut app, "/");
        press(&mut app, filter);
        assert!(matches!(app.mode, Mode::Filter { .. }));
        assert!(text(&app, 80, 24)[23].contains(filter));
        assert_eq!(ids(&app), found, "{filter}");
        app.apply(Event::Key(Key::Enter));
        assert_eq!(app.mode, Mode::Browse);
        assert_eq!(app.apply(Event::Key(Key::Escape)), Action::None, "drops the filter, does not quit");
        assert_eq!(ids(&app).len(), 5);
    }
    press(&mut app, "/qx");
    app.apply(Event::Key(Key::Backspace));
    app.apply(Event::Key(Key::Escape));
    assert_eq!(app.view.filter, "");
}

#[test]
fn a_cancel_is_counted_shown_and_confirmed_before_it_is_sent() {
    let mut app = looked(80, 24);
    let Action::Ask(dry) = app.apply(Event::Key(Key::Char('c'))) else { panic!("nothing asked") };
    assert_eq!(dry, Ask { target: "session/1.1".parse().unwrap(), note: String::new(), dry_run: true });
    assert_eq!(app.apply(Event::Key(Key::Enter)), Action::None, "nothing is sent before it was counted");
    let counts = v1::CancelResponse { streams_ended: 2, sessions_ended: 1, others_untouched: 5 };
    app.apply(Event::News(News::Answer(dry.clone(), Ok(counts))));
    let shown = text(&app, 80, 24).join("\n");
    assert!(shown.contains("would end 1 session and 2 streams; 5 other streams untouched"), "{shown}");
    assert!(shown.contains("Cancel session/1.1 of bob?"), "{shown}");
    press(&mut app, "quiet, pleasee");
    app.apply(Event::Key(Key::Backspace));
    app.apply(Event::Key(Key::Pasted('!')));
    let Action::Ask(ask) = app.apply(Event::Key(Key::Enter)) else { panic!("nothing asked") };
    assert_eq!(ask, Ask { note: "quiet, please!".to_owned(), dry_run: false, ..dry.clone() });
    assert_eq!(app.mode, Mode::Browse);
    app.apply(Event::News(News::Answer(ask, Ok(counts))));
    assert_eq!(text(&app, 80, 24)[23], "ended 1 session and 2 streams; 5 other streams untouched");

    // Leaving it sends nothing, and an answer that comes late opens nothing.
    app.apply(Event::Key(Key::Char('c')));
    assert_eq!(app.apply(Event::Key(Key::Escape)), Action::None);
    app.apply(Event::News(News::Answer(dry.clone(), Ok(counts))));
    assert_eq!(app.mode, Mode::Browse);
    // What cannot be counted cannot be confirmed.
    app.apply(Event::Key(Key::Char('c')));
    app.apply(Event::News(News::Answer(dry, Err("no session\x1b of that id".to_owned()))));
    assert_eq!(app.apply(Event::Key(Key::Enter)), Action::None);
    assert!(text(&app, 80, 24).join("\n").contains("no session\\u{1b} of that id"));
}

#[test]
fn a_note_has_the_contracts_bound() {
    let mut app = looked(80, 24);
    press(&mut app, "c");
    press(&mut app, &"ü".repeat(400));
    let Mode::Cancel(cancel) = &app.mode else { panic!("{:?}", app.mode) };
    assert_eq!(cancel.note.len(), 512);
    screen(&app, 80, 24);
}

#[test]
fn what_is_pasted_while_browsing_does_nothing() {
    let mut app = looked(80, 24);
    let before = text(&app, 80, 24);
    for key in "qcpse/".chars() {
        assert_eq!(app.apply(Event::Key(Key::Pasted(key))), Action::None);
    }
    assert_eq!(text(&app, 80, 24), before);
}

#[test]
fn a_lost_connection_keeps_the_picture_and_says_so() {
    let mut app = looked(100, 24);
    let tree = text(&app, 100, 24)[7..].to_vec();
    app.apply(Event::News(News::Lost("connection refused".to_owned(), 2)));
    let lost = text(&app, 100, 24);
    assert!(lost[0].contains("connection lost, retrying (2): connection refused"), "{}", lost[0]);
    assert_eq!(lost[7..], tree);
    look(&mut app, house(3));
    assert_eq!(app.link, Link::Live);
    assert!(text(&app, 100, 24)[0].ends_with("every 2s"));
}

#[test]
fn a_drain_is_shown_by_name() {
    let mut app = looked(80, 24);
    let mut draining = house(3);
    draining.status.phase = v1::Phase::Draining.into();
    look(&mut app, draining);
    assert!(text(&app, 80, 24)[0].contains("DRAINING"));
}

#[test]
fn pausing_freezes_the_picture_and_going_on_counts_the_whole_time() {
    let mut app = looked(80, 24);
    press(&mut app, "p");
    look(&mut app, house(7));
    assert!(text(&app, 80, 24)[0].contains("PAUSED"));
    assert_eq!(app.picture.status.last_sequence, 200);
    press(&mut app, "p");
    look(&mut app, house(8));
    assert_eq!(app.history.last().unwrap().time, Duration::from_secs(12));
    assert_eq!(app.history.last().unwrap().events_in.show(), "50");
}

#[test]
fn intervals_stay_within_the_contract() {
    let mut app = looked(80, 24);
    press(&mut app, &"-".repeat(20));
    assert_eq!(app.interval, Duration::from_millis(100));
    press(&mut app, &"+".repeat(20));
    assert_eq!(app.interval, Duration::from_secs(60));
}

#[test]
fn panes_open_follow_the_selection_and_close() {
    let mut app = looked(80, 24);
    app.apply(Event::Key(Key::Down));
    app.apply(Event::Key(Key::Enter));
    let detail = text(&app, 80, 24).join("\n");
    assert!(detail.contains("Connect of bob (laptop), session/1.1"), "{detail}");
    assert!(detail.contains("room/hall lag 64 KiB"), "{detail}");
    press(&mut app, "e");
    assert_eq!((app.pane, app.wants_ended()), (Pane::Ended, true));
    let mut ends = house(3);
    ends.ended = (0..40)
        .map(|number| v1::Ended {
            id: format!("stream/{number}"),
            user: "carla".to_owned(),
            reason: v1::EndReason::SlowConsumer.into(),
            note: "too\nslow".to_owned(),
            asked_by: "server".to_owned(),
            ..Default::default()
        })
        .collect();
    look(&mut app, ends);
    let shown = text(&app, 80, 24).join("\n");
    assert!(shown.contains("SLOW_CONSUMER      stream/0 carla, by server: too\\nslow"), "{shown}");
    assert!(shown.contains("more: streamward ended"), "{shown}");
    app.apply(Event::Key(Key::Escape));
    assert_eq!(app.pane, Pane::Closed);
    press(&mut app, "?");
    assert!(text(&app, 80, 24).join("\n").contains("Ctrl-L"));
    assert_eq!(app.apply(Event::Key(Key::Char('q'))), Action::None, "any key closes the help");
    assert_eq!(app.apply(Event::Key(Key::Escape)), Action::Quit);
    assert_eq!(app.apply(Event::Key(Key::Char('q'))), Action::Quit);
    assert_eq!(app.apply(Event::Key(Key::Interrupt)), Action::Quit);
}

#[test]
fn more_rows_than_are_kept_are_counted() {
    let mut app = looked(80, 24);
    let mut crowd = house(3);
    crowd.sessions = (0..5000).map(|slot| session(slot, "u", 0, 1_000_000, 60)).collect();
    crowd.streams.clear();
    look(&mut app, crowd);
    assert_eq!(app.rows.rows.len(), ROWS_MAX);
    app.apply(Event::Key(Key::End));
    assert!(text(&app, 80, 24)[22].contains("… and 4,000 more"), "{:#?}", text(&app, 80, 24));
    app.apply(Event::Key(Key::Home));
    for _ in 0..3 {
        app.apply(Event::Key(Key::PageDown));
    }
    assert!(!selected(&app).is_empty());
}

#[test]
fn without_colours_nothing_is_coloured_and_the_level_is_named() {
    let mut app = looked(80, 24);
    let colours = |app: &App| {
        let terminal = screen(app, 80, 24);
        let cells = terminal.backend().buffer().content().to_vec();
        cells.into_iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert!(colours(&app) > 0);
    app.colours = false;
    assert_eq!(colours(&app), 0);
    let terminal = screen(&app, 80, 24);
    let cells = terminal.backend().buffer().content().to_vec();
    assert!(cells.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)), "the selection is seen");
    assert!(text(&app, 80, 24).join("\n").contains("ELEVATED"));
}

#[test]
fn a_hub_that_tells_no_memory_is_shown_without() {
    let mut app = app(80, 24);
    assert!(text(&app, 80, 24)[0].contains("connecting"));
    let mut bare = house(1);
    bare.status.memory = None;
    bare.status.loop_lag = None;
    bare.status.threads_max = 0;
    bare.status.descriptors = 0;
    look(&mut app, bare);
    let shown = text(&app, 80, 24).join("\n");
    for part in ["14 MiB resident; no budget told", "loop lag ?", "threads 1\n", "descriptors ?"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

/// Names that are long, wide, joined, empty or want to steer.
fn odd(step: u32) -> Look {
    let names = [
        "",
        "👩‍👩‍👧‍👦",
        "漢字漢字漢字漢字漢字漢字",
        "e\u{301}\u{301}\u{301}",
        "\x1b[2J\u{202e}\t",
        "\u{200b}",
        "a\u{0}b",
    ];
    let mut look = house(1);
    look.sessions = (0..40)
        .map(|slot| session(slot, names[(slot % 7) as usize], 1, i64::from(slot) - 20, i64::MAX))
        .collect();
    look.streams = (0..40)
        .map(|number| {
            let name = names[((number + step) % 7) as usize].repeat(1 + number as usize);
            stream(number, number, u64::MAX / 2048, &[(&name, u64::MAX >> number), ("x", 3)])
        })
        .collect();
    for stream in &mut look.streams {
        stream.lag_bytes = u64::MAX;
        stream.peer = "\u{9b}31m".to_owned();
        stream.deadline_left = seconds(i64::MIN);
        stream.ending = 99;
    }
    let number = u64::from(step);
    look.status.last_sequence = u64::MAX * (number % 2);
    look.status.bytes_delivered = u64::MAX;
    look.status.uptime = seconds(i64::MAX / 2);
    look.status.version = "\r\n".to_owned();
    look.status.phase = -1;
    look.status.pressure = 77;
    look.status.memory = Some(v1::MemoryStatus {
        ceiling_bytes: 1,
        used_bytes: u64::MAX,
        elevated_percent: u32::MAX,
        high_percent: 0,
        critical_percent: 100,
        ..Default::default()
    });
    look
}

#[test]
fn no_size_and_no_text_breaks_the_drawing() {
    for mut app in [app(80, 24), looked(80, 24), {
        let mut app = app(80, 24);
        look(&mut app, odd(0));
        look(&mut app, odd(1));
        app
    }] {
        for keys in ["", "e", "\r", "?", "x/x", "\u{1b}c"] {
            for key in keys.chars() {
                let key = match key {
                    '\r' => Key::Enter,
                    '\u{1b}' => Key::Escape,
                    key => Key::Char(key),
                };
                app.apply(Event::Key(key));
            }
            for width in [1, 2, 21, 59, 60, 79, 80, 133, 200] {
                for height in [1, 2, 14, 15, 20, 30, 60] {
                    app.apply(Event::Size(width, height));
                    let terminal = screen(&app, width, height);
                    for cell in terminal.backend().buffer().content() {
                        assert!(!cell.symbol().contains(|c: char| c.is_control() || c == '\u{202e}'));
                    }
                }
            }
        }
    }
}

#[test]
fn the_selected_row_is_on_every_page() {
    let mut app = app(80, 24);
    let mut crowd = house(1);
    crowd.sessions = (0..300).map(|slot| session(slot, "u", 0, 1_000_000, 60)).collect();
    look(&mut app, crowd);
    press(&mut app, "ssss");
    for key in [Key::End, Key::PageUp, Key::Up, Key::Home, Key::PageDown, Key::Down, Key::PageDown, Key::End]
    {
        app.apply(Event::Key(key));
        for height in [24, 15, 60] {
            app.apply(Event::Size(80, height));
            let terminal = screen(&app, 80, height);
            let cells = terminal.backend().buffer().content().to_vec();
            let reversed =
                cells.chunks(80).find(|line| line[2].modifier.contains(Modifier::REVERSED)).unwrap();
            let line: String = reversed.iter().map(|cell| cell.symbol()).collect();
            assert!(line.contains(&format!("{} ", selected(&app))), "{line}");
        }
    }
}

#[test]
fn one_screen_as_lines_has_every_row_and_nothing_to_press() {
    let mut app = looked(0, 0);
    let lines = super::lines(&mut app, 80);
    assert_eq!(lines.len(), 9 + 5);
    assert!(lines[13].contains("stream/1"), "{lines:#?}");
    assert!(!lines.join("").contains("q quit"));
    assert!(super::lines(&mut app, 1)[0].len() >= 20, "a width is never below what the layout takes");
}
