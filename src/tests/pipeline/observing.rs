//! What a task tells beside its deliveries, and what of a pipeline one task may have its own way.

use std::sync::{Arc, Mutex};

use super::line::{GRACE, Line, ROOM, Seen, end, message, say, target, texts};
use crate::base::reason::EndReason;
use crate::client::{EndWhy, Item, Setback, Task, TaskState, Word};
use crate::tests::house::{House, pass, settle, within};

/// What an observer heard, as words.
#[derive(Clone, Default)]
struct Words(Arc<Mutex<Vec<String>>>);

impl Words {
    fn observer(&self) -> impl FnMut(Word<'_>) + Send + 'static {
        let words = self.clone();
        move |word| {
            let text = match word {
                Word::Said(Item::Subscribed(subscribed)) => format!("follows {}", subscribed.topic),
                Word::Said(item) => format!("{item:?}"),
                Word::Setback { what: Setback::Ended(_), again } => format!("ended {again}"),
                Word::Setback { what: Setback::Failed(_), again } => format!("failed {again}"),
                Word::Setback { what: Setback::Left, again } => format!("left {again}"),
            };
            words.0.lock().unwrap().push(text);
        }
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_hears_of_every_setback_and_of_the_return() {
    let mut house = House::new();
    let line = Line::to(&house);
    let pipeline = line.pipeline("listener");
    let (seen, words) = (Seen::default(), Words::default());
    let task = Task::new("kitchen", [target(ROOM)]).observe(words.observer());
    let _task = pipeline.start_task(task, seen.handler()).unwrap();
    settle().await;
    assert_eq!(words.heard(), ["follows room/kitchen"]);
    line.leave();
    pass(30).await;
    let heard = words.heard();
    assert_eq!(heard[0], "ended true");
    assert!(heard.len() > 1 && heard[1..].iter().all(|word| word == "failed true"), "{heard:?}");
    line.move_to(&house);
    pass(120).await;
    assert_eq!(words.heard().last().map(String::as_str), Some("follows room/kitchen"));
    say(&mut house, texts(0..1)).await;
    settle().await;
    assert_eq!(seen.texts(ROOM), texts(0..1));
    assert_eq!(words.heard(), [""; 0], "events are the handler's");
    within(pipeline.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_setback_says_so_and_a_task_has_its_own_patience() {
    let house = House::new();
    let line = Line::to(&house);
    let pipeline = line.pipeline("listener");
    let (seen, words) = (Seen::default(), Words::default());
    let task = Task::new("hasty", [target(ROOM)]).observe(words.observer()).max_retries(0);
    let mut hasty = pipeline.start_task(task, seen.handler()).unwrap();
    let patient = pipeline.start("patient", [target(ROOM)], seen.handler()).unwrap();
    settle().await;
    line.cut();
    let end = end(&mut hasty).await;
    assert!(matches!(end.why, EndWhy::RetriesExhausted { failures: 1, .. }), "{end:?}");
    assert_eq!(words.heard(), ["follows room/kitchen", "ended false"]);
    pass(10).await;
    assert_eq!(patient.status().state, TaskState::Streaming);
    within(pipeline.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn with_batches_of_one_what_was_done_is_not_done_again() {
    let mut house = House::new();
    let line = Line::to(&house);
    let pipeline = line.pipeline("listener");
    say(&mut house, texts(0..5)).await;
    let seen = Seen::default();
    let noted = seen.clone();
    let task = Task::new("kitchen", [target(ROOM).all_retained()]).batch_max(1);
    let handler = move |batch: crate::client::Batch, _| {
        assert_eq!(batch.deliveries.len(), 1);
        let is_third = batch.events().any(|event| event.sequence == 3);
        noted.note(batch);
        let done = if is_third { Err("enough".into()) } else { Ok(()) };
        std::future::ready(done)
    };
    let mut task = pipeline.start_task(task, handler).unwrap();
    let end = end(&mut task).await;
    assert!(matches!(end.why, EndWhy::HandlerFailed(_)), "{end:?}");
    assert_eq!((end.handled, end.positions[ROOM].sequence), (2, 2));
    assert_eq!(seen.texts(ROOM), texts(0..3));
    within(pipeline.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_connection_is_waited_for_as_long_as_was_asked() {
    let house = House::new();
    let line = Line::to(&house);
    line.leave();
    let pipeline = line.pipeline("listener");
    assert!(within(pipeline.connected(0)).await.is_err());
    assert!(within(pipeline.connected(2)).await.is_err());
    assert_eq!(line.dialled().len(), 3);
    line.move_to(&house);
    let welcome = within(pipeline.connected(u32::MAX)).await.unwrap();
    assert_eq!(Some(welcome.session_id), pipeline.session_id());
    assert!(welcome.policy.max_message_bytes > 0);
    within(pipeline.shutdown(GRACE)).await;
    house.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_done_completes_its_stream_before_the_logout() {
    let house = House::new();
    let line = Line::to(&house);
    let pipeline = line.pipeline("speaker");
    let publisher = pipeline.publisher();
    within(publisher.publish(message(0))).await.unwrap();
    within(pipeline.shutdown(GRACE)).await;
    assert_eq!(house.stream_reasons(), [EndReason::Completed]);
    house.close().await;
}
