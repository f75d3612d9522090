//! What a publisher owes its callers when the connection or the pipeline goes.

use std::time::Duration;

use super::line::{GRACE, Line, ROOM, Seen, end, message, target, texts};
use crate::base::reason::{Cause, EndReason};
use crate::client::{EndWhy, StartError, Task};
use crate::tests::house::{House, pass, settle, within};

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_the_receipts_of_everything_begun() {
    let house = House::new();
    let line = Line::to(&house);
    let pipeline = line.pipeline("speaker");
    let publisher = pipeline.publisher();
    settle().await;
    let mut receipts = Vec::new();
    for number in 0..30 {
        receipts.push(within(publisher.begin(message(number))).await.unwrap());
    }
    let traces = pipeline.traces();
    within(pipeline.shutdown(GRACE)).await;
    for (number, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(within(receipt.received()).await.unwrap().sequence, number as u64 + 1);
    }
    assert_eq!(traces(), [0; 4]);
    assert_eq!(house.counts()[1], 0, "logged out");
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_publish_whose_receipt_nobody_waits_for_is_sent_all_the_same() {
    let house = House::new();
    let line = Line::to(&house);
    let pipeline = line.pipeline("speaker");
    let seen = Seen::default();
    let _task = pipeline.start("room", [target(ROOM)], seen.handler()).unwrap();
    let publisher = pipeline.publisher();
    settle().await;
    for number in 0..3 {
        drop(within(publisher.begin(message(number))).await.unwrap());
    }
    settle().await;
    line.leave();
    for number in 3..6 {
        drop(within(publisher.begin(message(number))).await.unwrap());
    }
    pass(2).await;
    line.move_to(&house);
    pass(10).await;
    assert_eq!(seen.texts(ROOM), texts(0..6));
    within(pipeline.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_publisher_does_not_hold_up_a_shutdown_however_long_it_would_wait() {
    let house = House::new();
    let line = Line::to(&house);
    let pipeline = line.pipeline("speaker");
    let publisher = pipeline.publisher();
    within(publisher.publish(message(0))).await.unwrap();
    // The hub asks it to come back in some seconds.
    let key = house.live(house.newest_stream()).unwrap();
    house.core.hub().end_stream(key, Cause::server(EndReason::ServerDraining));
    settle().await;
    let before = tokio::time::Instant::now();
    within(pipeline.shutdown(Duration::from_secs(60))).await;
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_publisher_whose_stream_idled_out_opens_another_for_the_next_publish() {
    let house = House::new();
    let line = Line::to(&house);
    let pipeline = line.pipeline("speaker");
    let publisher = pipeline.publisher();
    within(publisher.publish(message(0))).await.unwrap();
    for number in 1..4 {
        let key = house.live(house.newest_stream()).unwrap();
        house.core.hub().end_stream(key, Cause::server(EndReason::IdleTimeout));
        settle().await;
        assert!(house.live(key.number).is_none());
        let before = tokio::time::Instant::now();
        let position = within(publisher.publish(message(number))).await.unwrap();
        assert_eq!(position.sequence, u64::from(number) + 1);
        assert!(before.elapsed() < Duration::from_millis(50), "it waited: {:?}", before.elapsed());
    }
    within(pipeline.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_hears_of_a_takeover_does_not_fight() {
    let mut house = House::new();
    let line = Line::to(&house);
    let pipeline = line.pipeline_with("anna", |config| config.client_name = "phone".to_owned());
    let publisher = pipeline.publisher();
    within(publisher.publish(message(0))).await.unwrap();
    let guest = house.login("anna", "phone").await;
    pass(600).await;
    assert!(within(publisher.publish(message(1))).await.is_err());
    assert_eq!(line.dialled().len(), 1);
    within(guest.session.logout()).await.unwrap();
    within(pipeline.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_of_another_pipeline_is_refused() {
    let house = House::new();
    let line = Line::to(&house);
    let (pipeline, other) = (line.pipeline("anna"), line.pipeline("berta"));
    let foreign = other.group().group();
    let task = Task::new("room", [target(ROOM)]).in_group(&foreign);
    let refused = pipeline.start_task(task, Seen::default().handler()).err();
    assert_eq!(refused, Some(StartError::OthersGroup("room".to_owned())));
    assert!(pipeline.list().is_empty());
    let own = pipeline.group().group();
    let task = Task::new("room", [target(ROOM)]).in_group(&own);
    let mut task = pipeline.start_task(task, Seen::default().handler()).unwrap();
    own.cancel();
    assert!(matches!(end(&mut task).await.why, EndWhy::GroupCancelled));
    within(pipeline.shutdown(GRACE)).await;
    within(other.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_publish_under_way_when_its_stream_is_shed_is_sent_again() {
    let house = House::new();
    let line = Line::to(&house);
    let pipeline = line.pipeline("speaker");
    let publisher = pipeline.publisher();
    within(publisher.publish(message(0))).await.unwrap();
    let key = house.live(house.newest_stream()).unwrap();
    house.core.hub().end_stream(key, Cause::server(EndReason::MemoryPressure));
    assert!(within(publisher.publish(message(1))).await.is_ok());
    within(pipeline.shutdown(GRACE)).await;
    super::super::house::take_warnings();
    house.close().await;
}
