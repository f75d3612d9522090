//! Random scripts against the model. `STREAMWARD_SEED=<n>` runs one again, with `STREAMWARD_TRACE=1` step by step;
//! `STREAMWARD_SEEDS=<n>` runs more.

use std::time::Duration;

use super::script::{Exit, From, Stage, Step, TOPICS};
use crate::daemon::Stopped;

/// Seeds of one run.
const SEEDS: u64 = 10_000;
/// Clients of a script.
const CLIENTS: u8 = 5;

/// xorshift64* (Vigna, 2016).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    pub(super) fn below(&mut self, bound: u8) -> u8 {
        u8::try_from(self.next() % u64::from(bound)).unwrap()
    }

    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        let at = self.next() % choices.len() as u64;
        choices[usize::try_from(at).unwrap()]
    }
}

fn script(random: &mut Random) -> Vec<Step> {
    let length = 12 + random.below(20);
    let mut steps: Vec<Step> = (0..3).map(|client| open(random, client)).collect();
    steps.extend((0..length).map(|_| step(random)));
    // Whoever is left reads all it can before the checks.
    steps.push(Step::Pressure { permille: 100 });
    steps
}

fn open(random: &mut Random, client: u8) -> Step {
    let window = random.one_of(&[0, 50, 600, 2000, 65_535, 65_535, 65_535, 65_535]);
    let deadline = random.one_of(&[None, None, None, Some(2), Some(17), Some(60)]);
    Step::Open { client, window, deadline }
}

fn step(random: &mut Random) -> Step {
    let (client, topic) = (random.below(CLIENTS), random.below(TOPICS));
    match random.below(47) {
        0..=4 => open(random, client),
        5..=14 => {
            let share = random.below(255);
            let from = random.one_of(&[From::Now, From::Retained, From::LastSeen, From::Share(share)]);
            Step::Subscribe { client, topic, from, skip: random.below(3) == 0 }
        }
        15..=16 => Step::Unsubscribe { client, topic },
        17..=26 => Step::Publish { client, topic, count: random.one_of(&[1, 2, 5, 20, 60]) },
        27 => random.one_of(&[Step::Heartbeat { client }, Step::Beat { client }]),
        28..=29 => Step::Stall { client },
        30..=31 => Step::Resume { client },
        32..=35 => {
            let exits = [
                Exit::HalfClose,
                Exit::Cancel,
                Exit::Cut,
                Exit::Garbage,
                Exit::LogOut,
                Exit::LogOutInBand,
                Exit::TakeOver,
                Exit::AdminStream,
                Exit::AdminSession,
            ];
            Step::End { client, exit: random.one_of(&exits) }
        }
        36..=39 => Step::Pressure { permille: random.one_of(&[100, 720, 790, 860, 895, 960, 2000]) },
        40..=42 => Step::Repeat { client, back: random.below(40) },
        _ => Step::Advance { millis: random.one_of(&[1, 300, 1100, 7000, 31_000, 65_000]) },
    }
}

/// Says which seed it was when the test fails.
pub(super) struct Seed(pub(super) u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was STREAMWARD_SEED={}", self.0);
        }
    }
}

async fn play(seed: u64) {
    let _told = Seed(seed);
    let mut random = Random::new(seed);
    let steps = script(&mut random);
    let idle_timeout = random.one_of(&[0, 0, 45, 8]);
    let mut stage = Stage::new(Duration::from_secs(idle_timeout)).await;
    stage.run(&steps).await;
    stage.let_all_read().await;
    let order = stage.order();
    stage.check_events(&order);
    if random.below(2) == 0 {
        stage.drain_all();
        if let Stopped::Cut(owed) = stage.house.stop().await {
            for line in owed {
                let named = |number| line.starts_with(&format!("stream/{number} "));
                let deaf = stage.streams.iter().filter(|stream| stream.is_deaf);
                assert!(deaf.map(|stream| stream.number).any(named), "it could have had everything: {line}");
            }
            // It names them in the log as well.
            super::house::take_warnings();
        }
    } else {
        stage.cut_all();
        tokio::time::sleep(stage.house.core.limits().lease * 2).await;
    }
    super::house::settle().await;
    stage.check_events(&order);
    stage.check_ends();
    stage.close().await;
}

pub(super) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A runtime of its own for each seed: the clock starts anew.
fn play_alone(seed: u64) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(Box::pin(play(seed)));
}

/// Every second seed, or the one asked for: two tests, for two cores.
fn play_half(half: u64) {
    if let Some(seed) = number("STREAMWARD_SEED") {
        return if seed % 2 == half {
            play_alone(seed)
        };
    }
    let seeds = number("STREAMWARD_SEEDS").unwrap_or(SEEDS);
    (0..seeds).filter(|seed| seed % 2 == half).for_each(play_alone);
}

#[test]
fn random_scripts_lose_nothing_and_leave_nothing_even_seeds() {
    play_half(0);
}

#[test]
fn random_scripts_lose_nothing_and_leave_nothing_odd_seeds() {
    play_half(1);
}

#[tokio::test(start_paused = true)]
async fn a_script_can_be_written_by_hand() {
    let mut stage = Stage::new(Duration::ZERO).await;
    stage
        .run(&[
            Step::Open { client: 0, window: 65_535, deadline: None },
            Step::Open { client: 1, window: 600, deadline: None },
            Step::Subscribe { client: 0, topic: 0, from: From::Now, skip: false },
            Step::Subscribe { client: 1, topic: 0, from: From::Now, skip: false },
            Step::Stall { client: 1 },
            Step::Publish { client: 0, topic: 0, count: 10 },
            Step::Expect { client: 0, topic: 0, events: 10 },
            Step::End { client: 1, exit: Exit::Cut },
            Step::Open { client: 1, window: 65_535, deadline: Some(30) },
            Step::Subscribe { client: 1, topic: 0, from: From::LastSeen, skip: false },
            Step::Publish { client: 0, topic: 0, count: 5 },
            Step::Expect { client: 0, topic: 0, events: 15 },
            Step::Advance { millis: 29_000 },
            Step::End { client: 0, exit: Exit::LogOutInBand },
            Step::Advance { millis: 2000 },
        ])
        .await;
    let order = stage.order();
    stage.check_events(&order);
    assert_eq!(stage.house.stream_reasons().len(), 3);
    stage.cut_all();
    tokio::time::sleep(stage.house.core.limits().lease * 2).await;
    stage.check_ends();
    stage.close().await;
}
