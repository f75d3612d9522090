//! The two ends of `scripts/test-netns`: one follows and one publishes, each in a network namespace of its own. Ignored,
//! because the script makes the namespaces and cuts the link between them.

use std::sync::Arc;
use std::time::Duration;

use streamward::base::topic::Topic;
use streamward::client::{
    Batch, Credentials, Delivery, HandlerError, Message, Pipeline, PipelineConfig, Stopping, Target,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

const ROOM: &str = "room/link";
/// Longer than the link is ever down.
const SILENCE: Duration = Duration::from_secs(240);

fn config(user: &str) -> PipelineConfig {
    let hub = std::env::var("STREAMWARD_NETNS_HUB").expect("scripts/test-netns sets STREAMWARD_NETNS_HUB");
    let credentials = Credentials::User { user: user.to_owned(), password: String::new() };
    PipelineConfig::new(hub.parse().unwrap(), credentials)
}

/// Follows from the first event to the last; says how it went.
async fn follow(name: &'static str, ping: Option<Duration>) {
    let mut config = config(name);
    if let Some(ping) = ping {
        (config.ping_interval, config.ping_timeout) = (ping, ping);
    }
    let pipeline = Pipeline::new(config).unwrap();
    let (heard, mut hears) = mpsc::channel(64);
    let handler = move |batch: Batch, _: Stopping| {
        let heard = heard.clone();
        async move { heard.send(batch.deliveries).await.map_err(|error| Box::new(error) as HandlerError) }
    };
    let target = Target::new(Topic::parse(ROOM).unwrap()).all_retained();
    let task = pipeline.start("link", [target], handler).unwrap();
    let (mut through, mut longest, mut last_at) = (0, Duration::ZERO, Instant::now());
    loop {
        let deliveries =
            tokio::time::timeout(SILENCE, hears.recv()).await.expect("silent for too long").unwrap();
        if through > 0 {
            longest = longest.max(last_at.elapsed());
        }
        last_at = Instant::now();
        for delivery in &deliveries {
            let Delivery::Event(event) = delivery else { panic!("{name}: {delivery:?}") };
            assert_eq!(event.sequence, through + 1, "{name}: twice, or lost without a word");
            if through == 0 {
                println!("{name}: follows");
            }
            through = event.sequence;
        }
        if matches!(deliveries.last(), Some(Delivery::Event(event)) if &event.payload[..] == b"the end") {
            break;
        }
    }
    let status = task.status();
    println!(
        "{name}: {through} of {through} events, each once and in order; longest silence {:.1} s; {} retries, last: {}",
        longest.as_secs_f64(),
        status.retries,
        status.last_error.as_deref().unwrap_or("none"),
    );
    assert!(pipeline.shutdown(Duration::from_secs(5)).await.forced.is_empty());
}

#[tokio::test]
#[ignore = "run by scripts/test-netns"]
async fn follows() {
    // One that finds out while the link is down, and one that TCP may carry over it.
    tokio::join!(follow("quick", Some(Duration::from_secs(5))), follow("patient", None));
}

#[tokio::test]
#[ignore = "run by scripts/test-netns"]
async fn publishes() {
    let seconds: u64 = std::env::var("STREAMWARD_NETNS_SECONDS").unwrap().parse().unwrap();
    let pipeline = Arc::new(Pipeline::new(config("speaker")).unwrap());
    let publisher = pipeline.publisher();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    for number in 0..20 * seconds {
        ticks.tick().await;
        publisher.publish(Message::text(ROOM, &format!("number {number}"))).await.unwrap();
    }
    publisher.publish(Message::text(ROOM, "the end")).await.unwrap();
    println!("speaker: {} events", 20 * seconds + 1);
}
