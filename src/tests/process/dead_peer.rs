//! A peer that is there and does not answer.

use rustix::process::Signal;
use streamward::base::reason::EndReason;
use streamward::wire::v1;

use crate::harness::Server;

#[tokio::test]
async fn a_stopped_client_is_ended_as_lost_and_the_other_goes_on() {
    let server = Server::with(&[
        ("STREAMWARD_LIMITS_PING_INTERVAL", "300ms"),
        // Longer than a healthy client is kept waiting for a processor.
        ("STREAMWARD_LIMITS_PING_TIMEOUT", "1500ms"),
    ])
    .await;
    let stopped = server.spawn(&["tail", "room/a", "--user", "stopped", "--retries", "0"]);
    let mut healthy = server.spawn(&["tail", "room/a", "--user", "healthy"]);
    server.until("both tails", |status| status.subscriptions == 2).await;
    stopped.signal(Signal::STOP);
    let lost =
        |count: &v1::ReasonCount| count.reason() == v1::EndReason::ConnectionLost && count.streams == 1;
    server.until("the loss", |status| status.ended.iter().any(lost)).await;
    let ended = server.admin.ended(10).await.unwrap();
    let ends: Vec<_> =
        ended.iter().map(|ended| (ended.user.as_str(), ended.kind(), ended.reason())).collect();
    assert_eq!(ends, [("stopped", v1::EndedKind::Stream, v1::EndReason::ConnectionLost)]);
    assert_eq!(server.status().await.streams, 1);

    server.run(&["send", "room/a", "anyone there?", "--user", "anna"]).await.expect(0);
    healthy.out.with("anna: anyone there?").await;
    assert!(healthy.is_running());
    healthy.signal(Signal::TERM);
    healthy.exited().await.expect(0);

    // It wakes up to a lost stream: come back later, and how.
    stopped.signal(Signal::CONT);
    let told = stopped.exited().await.expect(75);
    assert!(told.err.contains(EndReason::ConnectionLost.name()), "{}", told.err);
    assert!(told.err.contains("--since 0 --epoch "), "{}", told.err);
    server.stop().await;
}
