//! One publish by a call of its own.

use std::sync::Arc;

use tokio::time::{sleep, timeout};

use crate::base::event::Position;
use crate::client::pipeline::config::PipelineConfig;
use crate::client::pipeline::link::Link;
use crate::client::pipeline::publisher::{Message, PublishError};
use crate::client::pipeline::retry::{Next, after_error, wait};

/// Publishes, again with the same id until it is known or time is up.
pub(super) async fn publish_alone(
    config: &PipelineConfig,
    link: &Link,
    message: Message,
) -> Result<Position, PublishError> {
    let mut link = link.clone();
    let attempts = async {
        let mut failures = 0;
        loop {
            let lane = link.up(|_, _| true).await;
            let lane = lane.map_err(|why| why.map_or(PublishError::ShutDown, PublishError::Refused))?;
            let Message { topic, payload, message_id, content_type } = &message;
            let published = lane.session.publish(topic, payload.clone(), message_id, content_type).await;
            let error = match published {
                Ok(position) => return Ok(position),
                Err(error) => error,
            };
            let Next::Again { after, link_in_doubt } = after_error(&error) else {
                return Err(PublishError::Refused(Arc::new(error)));
            };
            if link_in_doubt {
                link.doubt(&lane, after);
            }
            failures += 1;
            if config.max_retries.is_some_and(|max| failures > max) {
                return Err(PublishError::RetriesExhausted { failures, last: error.to_string().into() });
            }
            sleep(wait(after, failures, &config.backoff)).await;
        }
    };
    match timeout(config.publish_timeout, attempts).await {
        Ok(published) => published,
        Err(_) => Err(PublishError::TimedOut(config.publish_timeout)),
    }
}
