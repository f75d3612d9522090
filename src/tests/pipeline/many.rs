//! A thousand tasks in one pipeline on one thread.

use std::time::Duration;

use tokio::time::Instant;

use super::line::{GRACE, Line, ROOM, Seen, message, target, texts};
use crate::client::{EndWhy, TaskHandle, TaskState};
use crate::tests::house::{House, pass, settle, within};

const TASKS: u32 = 1000;

#[tokio::test(start_paused = true)]
async fn every_second_of_a_thousand_tasks_is_cancelled_while_events_flow_and_the_rest_miss_nothing() {
    let house = House::with(|limits, _| {
        limits.streams_per_session_max = 2000;
        limits.streams_per_connection_max = 2000;
        limits.stream_opens_per_second_max = 10_000;
    });
    let line = Line::to(&house);
    let pipeline = line.pipeline("listener");
    settle().await;
    let start = |number: u32| {
        let seen = Seen::default();
        let id = format!("task {number:04}");
        (pipeline.start(&id, [target(ROOM)], seen.handler()).unwrap(), seen)
    };
    let mut tasks: Vec<(TaskHandle, Seen)> = (0..TASKS).map(start).collect();
    settle().await;
    assert!(pipeline.list().iter().all(|status| status.state == TaskState::Streaming));
    assert_eq!(house.core.hub().streams().count(), 1000);
    let publisher = pipeline.publisher();
    for number in 0..100 {
        within(publisher.publish(message(number))).await.unwrap();
        // Ten go with each of the middle events.
        let gone = (0..10).map(|more| (number.saturating_sub(20) * 10 + more) * 2 + 1);
        for odd in gone.filter(|odd| (20..70).contains(&number) && *odd < TASKS) {
            assert!(pipeline.cancel(&format!("task {odd:04}")), "{odd}");
        }
    }
    settle().await;
    for (number, (task, seen)) in (0..TASKS).zip(&mut tasks) {
        let heard = seen.texts(ROOM);
        if number % 2 == 0 {
            assert_eq!(heard, texts(0..100), "task {number}");
        } else {
            let end = within(task.ended()).await;
            assert!(matches!(end.why, EndWhy::Cancelled), "{end:?}");
            assert_eq!(heard, texts(0..u32::try_from(heard.len()).unwrap()), "task {number}");
            assert_eq!(end.handled, heard.len() as u64);
        }
    }
    assert_eq!(pipeline.list().len(), 500);
    assert_eq!(house.core.hub().streams().count(), 501, "and the publisher's");
    // All come back over one connection.
    line.cut();
    let cut_at = Instant::now();
    pass(30).await;
    assert!(pipeline.list().iter().all(|status| status.state == TaskState::Streaming));
    assert_eq!(line.dialled().len(), 2, "one connection for all, in {:?}", cut_at.elapsed());
    within(publisher.publish(message(100))).await.unwrap();
    pass(1).await;
    assert!(tasks.iter().step_by(2).all(|(_, seen)| seen.texts(ROOM) == texts(0..101)));
    let traces = pipeline.traces();
    let report = within(pipeline.shutdown(GRACE)).await;
    assert_eq!((report.ended, report.forced.len()), (500, 0));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(traces(), [0; 4]);
    drop(publisher);
    house.close().await;
}
