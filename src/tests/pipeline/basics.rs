//! A task follows, comes back where it was, and ends once.

use std::time::Duration;

use tokio::time::Instant;

use super::line::{GRACE, Heard, Line, ROOM, Seen, end, message, say, target, texts};
use crate::base::event::Position;
use crate::client::{EndWhy, ShutdownReport, TaskState};
use crate::tests::house::{EPOCH, House, pass, settle, within};

#[tokio::test(start_paused = true)]
async fn a_task_hears_everything_once_and_in_order_over_lost_connections() {
    let mut house = House::new();
    let line = Line::to(&house);
    let (pipeline, seen, mut task) = line.follower("listener", "kitchen").await;
    say(&mut house, texts(0..10)).await;
    for round in 1..5 {
        line.cut();
        say(&mut house, texts(10 * round..10 * round + 10)).await;
        pass(30).await;
        assert_eq!(task.status().state, TaskState::Streaming);
    }
    assert_eq!(seen.texts(ROOM), texts(0..50));
    assert_eq!(seen.of(ROOM).len(), 50, "no gap");
    let status = task.status();
    assert_eq!((status.handled, status.retries, status.failures), (50, 4, 0));
    assert!(pipeline.cancel("kitchen"));
    let end = end(&mut task).await;
    assert!(matches!(end.why, EndWhy::Cancelled), "{end:?}");
    assert_eq!((end.handled, end.positions[ROOM].sequence, end.forced), (50, 50, false));
    assert!(pipeline.list().is_empty());
    assert_eq!(within(pipeline.shutdown(GRACE)).await, ShutdownReport::default());
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn another_epoch_is_told_by_a_gap() {
    let mut first = House::new();
    let line = Line::to(&first);
    let (pipeline, seen, _task) = line.follower("listener", "kitchen").await;
    say(&mut first, texts(0..3)).await;
    settle().await;
    line.leave();
    let mut second = House::of_epoch("00000000000e90c5");
    line.move_to(&second);
    say(&mut second, texts(3..5)).await;
    pass(10).await;
    say(&mut second, texts(5..6)).await;
    settle().await;
    assert_eq!(seen.texts(ROOM), texts(0..6));
    let gaps: Vec<_> = seen.of(ROOM).into_iter().filter(|heard| matches!(heard, Heard::Gap(..))).collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    within(pipeline.shutdown(GRACE)).await;
    first.close().await;
    second.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_was_handled_is_not_told_again() {
    let mut first = House::new();
    let line = Line::to(&first);
    let (pipeline, seen, _task) = line.follower("listener", "kitchen").await;
    say(&mut first, texts(0..3)).await;
    settle().await;
    line.leave();
    let mut second = House::of_epoch("00000000000e90c5");
    line.move_to(&second);
    for _ in 0..3 {
        pass(10).await;
        line.cut();
    }
    pass(10).await;
    say(&mut second, texts(3..4)).await;
    settle().await;
    assert_eq!(seen.texts(ROOM), texts(0..4));
    assert_eq!(seen.of(ROOM).len(), 5, "and one gap: {:?}", seen.of(ROOM));
    within(pipeline.shutdown(GRACE)).await;
    first.close().await;
    second.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_link_is_replaced_within_ping_interval_and_ping_timeout() {
    let mut house = House::new();
    let line = Line::to(&house);
    let (pipeline, seen, _task) = line.follower("listener", "kitchen").await;
    let hushed_at = Instant::now();
    line.hush();
    say(&mut house, texts(0..3)).await;
    while line.dialled().len() < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(hushed_at.elapsed() < Duration::from_secs(60), "still silent");
    }
    assert!(hushed_at.elapsed() <= Duration::from_secs(42), "{:?}", hushed_at.elapsed());
    pass(5).await;
    assert_eq!(seen.texts(ROOM), texts(0..3));
    line.cut();
    within(pipeline.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_before_it_has_heard_anything_is_still_where_it_began() {
    let mut house = House::new();
    let line = Line::to(&house);
    say(&mut house, texts(0..5)).await;
    line.leave();
    let pipeline = line.pipeline("listener");
    let start = Position { epoch: EPOCH.to_owned(), sequence: 2 };
    let seen = Seen::default();
    let mut task = pipeline.start("kitchen", [target(ROOM).after(start.clone())], seen.handler()).unwrap();
    assert_eq!(task.status().positions[ROOM], start);
    task.cancel();
    let end = end(&mut task).await;
    assert_eq!((&end.positions[ROOM], end.handled), (&start, 0));
    line.move_to(&house);
    let again = target(ROOM).after(end.positions[ROOM].clone());
    let _task = pipeline.start("kitchen", [again], seen.handler()).unwrap();
    pass(10).await;
    assert_eq!(seen.texts(ROOM), texts(2..5));
    within(pipeline.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn publishes_survive_a_lost_connection() {
    let house = House::new();
    let line = Line::to(&house);
    let (pipeline, seen, _task) = line.follower("speaker", "kitchen").await;
    let publisher = pipeline.publisher();
    for number in 0..10 {
        within(publisher.publish(message(number))).await.unwrap();
    }
    line.cut();
    for number in 10..20 {
        within(publisher.publish(message(number))).await.unwrap();
    }
    within(pipeline.publish(message(20))).await.unwrap();
    pass(10).await;
    assert_eq!(seen.texts(ROOM), texts(0..21));
    within(pipeline.shutdown(GRACE)).await;
    assert!(within(publisher.publish(message(21))).await.is_err());
    house.close().await;
}
