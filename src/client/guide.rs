//! Worked examples of the [`Pipeline`](crate::client::Pipeline), one per pattern. All of them are run by the tests, each
//! against a hub of its own whose address is `hub`.
//!
//! | pattern | ends by |
//! |---|---|
//! | [Basic](#basic) | its name |
//! | [Timeout](#timeout) | time |
//! | [Many streams](#many-streams) | all at once |
//! | [Conditional](#conditional) | an event, or anything you can wait for |
//! | [Groups](#groups) | what they belong to |
//! | [Graceful versus forced](#graceful-versus-forced) | the pipeline |
//! | [Heartbeat](#heartbeat) | the hub, when nobody is heard of |
//! | [Cleanup](#cleanup) | every way, with one [`TaskEnd`](crate::client::TaskEnd) |
//!
//! # Basic
//!
//! A pipeline is one connection and one session. A task follows topics under a name of its own and hands batches to its
//! handler; it comes back by itself when the connection or the hub was gone, where it was, until it is cancelled.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/guide_hub.in"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { with_hub(async |hub| {
//! use std::time::Duration;
//! use streamward::base::topic::Topic;
//! use streamward::client::{Credentials, Delivery, EndWhy, Message, Pipeline, PipelineConfig};
//! use tokio::sync::mpsc;
//!
//! let user = Credentials::User { user: "alice".into(), password: String::new() };
//! let pipeline = Pipeline::new(PipelineConfig::new(hub, user))?;
//!
//! let (say, mut heard) = mpsc::channel(16);
//! let kitchen = Topic::parse("room/kitchen")?;
//! let mut task = pipeline.start("kitchen", [kitchen], move |batch, _stopping| {
//!     let say = say.clone();
//!     async move {
//!         for delivery in batch.deliveries {
//!             match delivery {
//!                 Delivery::Event(event) => say.send(event.payload).await?,
//!                 Delivery::Gap(gap) => println!("{} to {} are lost", gap.from_sequence, gap.to_sequence),
//!             }
//!         }
//!         Ok(())
//!     }
//! })?;
//! # while task.status().positions.is_empty() { tokio::time::sleep(Duration::from_millis(1)).await; }
//!
//! pipeline.publish(Message::text("room/kitchen", "the kettle is on")).await?;
//! assert_eq!(heard.recv().await.as_deref(), Some(b"the kettle is on".as_slice()));
//!
//! assert!(pipeline.cancel("kitchen"));
//! let end = task.ended().await;
//! assert!(matches!(end.why, EndWhy::Cancelled));
//! println!("go on after #{}", end.positions["room/kitchen"].sequence);
//! pipeline.shutdown(Duration::from_secs(5)).await;
//! # Ok(()) }) }
//! ```
//!
//! # Timeout
//!
//! `task_timeout` is for every task of the pipeline, [`Task::timeout`](crate::client::Task::timeout) for one. Time counts
//! from the start, whatever the task is doing: connecting, streaming, or waiting to come back.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/guide_hub.in"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { with_hub(async |hub| {
//! # use std::time::Duration;
//! # use streamward::base::topic::Topic;
//! # use streamward::client::{Credentials, EndWhy, Pipeline, PipelineConfig, Task};
//! # let user = Credentials::User { user: "alice".into(), password: String::new() };
//! let config = PipelineConfig {
//!     task_timeout: Some(Duration::from_secs(3600)),
//!     max_retries: Some(10),
//!     ..PipelineConfig::new(hub, user)
//! };
//! let pipeline = Pipeline::new(config)?;
//!
//! let soon = Task::new("soon", [Topic::parse("room/kitchen")?]).timeout(Duration::from_millis(50));
//! let mut soon = pipeline.start_task(soon, |_, _| async { Ok(()) })?;
//! assert!(matches!(soon.ended().await.why, EndWhy::TimedOut));
//! # pipeline.shutdown(Duration::from_secs(5)).await;
//! # Ok(()) }) }
//! ```
//!
//! A configuration that makes no sense is refused with everything that is wrong with it:
//!
//! ```
//! use std::time::Duration;
//! use streamward::client::{Credentials, Pipeline, PipelineConfig};
//!
//! let user = Credentials::User { user: "no spaces".into(), password: String::new() };
//! let config = PipelineConfig {
//!     ping_timeout: Duration::ZERO,
//!     ..PipelineConfig::new("127.0.0.1:50051".parse().unwrap(), user)
//! };
//! let error = Pipeline::new(config).unwrap_err();
//! assert_eq!(error.0.len(), 2, "{error}");
//! ```
//!
//! # Many streams
//!
//! Each task has a stream of its own: one whose handler is slow holds up no other. The hub's `streams_per_session_max`
//! is the bound (16 by default); several topics on one task need only one stream.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/guide_hub.in"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { with_hub(async |hub| {
//! # use std::time::Duration;
//! # use streamward::base::topic::Topic;
//! # use streamward::client::{Credentials, EndWhy, Pipeline, PipelineConfig};
//! # let user = Credentials::User { user: "alice".into(), password: String::new() };
//! # let pipeline = Pipeline::new(PipelineConfig::new(hub, user))?;
//! let mut tasks = Vec::new();
//! for sensor in ["door", "heating", "rain"] {
//!     let topics = [Topic::parse(&format!("room/{sensor}"))?, Topic::parse(&format!("room/{sensor}/alarm"))?];
//!     tasks.push(pipeline.start(sensor, topics, |batch, _| async move {
//!         println!("{}: {} events", batch.task, batch.events().count());
//!         Ok(())
//!     })?);
//! }
//! for status in pipeline.list() {
//!     println!("{}: {}, {} handled, {:?}", status.id, status.state.name(), status.handled, status.last_error);
//! }
//!
//! // One by one, or all at once.
//! assert!(pipeline.cancel("rain"));
//! assert!(!pipeline.cancel("snow"), "there is no such task");
//! pipeline.cancel_all();
//! for task in &mut tasks {
//!     assert!(matches!(task.ended().await.why, EndWhy::Cancelled));
//! }
//! assert!(pipeline.list().is_empty());
//! # pipeline.shutdown(Duration::from_secs(5)).await;
//! # Ok(()) }) }
//! ```
//!
//! # Conditional
//!
//! [`until`](crate::client::Task::until) ends a task with the first event it is true of, which the handler still gets;
//! [`stop_when`](crate::client::Task::stop_when) with whatever a program can wait for.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/guide_hub.in"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { with_hub(async |hub| {
//! # use std::time::Duration;
//! # use streamward::base::topic::Topic;
//! # use streamward::client::{Credentials, EndWhy, Message, Pipeline, PipelineConfig, Target, Task};
//! # let user = Credentials::User { user: "alice".into(), password: String::new() };
//! # let pipeline = Pipeline::new(PipelineConfig::new(hub, user))?;
//! let kitchen = || Topic::parse("room/kitchen").map(|topic| Target::new(topic).all_retained());
//! let boiled = Task::new("boiled", [kitchen()?]).until(|event| event.payload == "it boils");
//! let mut boiled = pipeline.start_task(boiled, |_, _| async { Ok(()) })?;
//!
//! let (leave, left) = tokio::sync::oneshot::channel::<()>();
//! let home = Task::new("home", [kitchen()?]).stop_when(async { left.await.unwrap_or_default() });
//! let mut home = pipeline.start_task(home, |_, _| async { Ok(()) })?;
//!
//! for text in ["it warms", "it boils", "it cools"] {
//!     pipeline.publish(Message::text("room/kitchen", text)).await?;
//! }
//! let end = boiled.ended().await;
//! assert!(matches!(end.why, EndWhy::ConditionMet));
//! assert_eq!(end.positions["room/kitchen"].sequence, 2);
//!
//! drop(leave);
//! assert!(matches!(home.ended().await.why, EndWhy::Stopped));
//! # pipeline.shutdown(Duration::from_secs(5)).await;
//! # Ok(()) }) }
//! ```
//!
//! # Groups
//!
//! A group's members end with it, its siblings do not. Groups nest.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/guide_hub.in"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { with_hub(async |hub| {
//! # use std::time::Duration;
//! # use streamward::base::topic::Topic;
//! # use streamward::client::{Credentials, EndWhy, Pipeline, PipelineConfig, Task};
//! # let user = Credentials::User { user: "alice".into(), password: String::new() };
//! # let pipeline = Pipeline::new(PipelineConfig::new(hub, user))?;
//! let house = pipeline.group();
//! let cellar = house.group();
//! let member = |id: &str, group| Ok::<_, Box<dyn std::error::Error>>(
//!     Task::new(id, [Topic::parse(&format!("room/{id}"))?]).in_group(group)
//! );
//! let mut kitchen = pipeline.start_task(member("kitchen", &house)?, |_, _| async { Ok(()) })?;
//! let mut wine = pipeline.start_task(member("wine", &cellar)?, |_, _| async { Ok(()) })?;
//!
//! cellar.cancel();
//! assert!(matches!(wine.ended().await.why, EndWhy::GroupCancelled));
//! assert_eq!(pipeline.list().len(), 1, "the kitchen goes on");
//! house.cancel();
//! assert!(matches!(kitchen.ended().await.why, EndWhy::GroupCancelled));
//! # pipeline.shutdown(Duration::from_secs(5)).await;
//! # Ok(()) }) }
//! ```
//!
//! # Graceful versus forced
//!
//! A task that is asked to stop reads no more, and its handler may finish. A handler that takes long can watch its
//! [`Stopping`](crate::client::Stopping); one that does not is dropped where it waits when time is up, and named.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/guide_hub.in"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { with_hub(async |hub| {
//! # use std::time::Duration;
//! # use streamward::base::topic::Topic;
//! # use streamward::client::{Credentials, Message, Pipeline, PipelineConfig, Target, TaskState};
//! # let user = Credentials::User { user: "alice".into(), password: String::new() };
//! # let pipeline = Pipeline::new(PipelineConfig::new(hub, user))?;
//! # let kitchen = Target::new(Topic::parse("room/kitchen")?).all_retained();
//! let polite = pipeline.start("polite", [kitchen.clone()], |_batch, stopping| async move {
//!     tokio::select! {
//!         () = tokio::time::sleep(Duration::from_secs(3600)) => {}
//!         () = stopping.requested() => println!("half done, written down"),
//!     }
//!     Ok(())
//! })?;
//! let deaf = pipeline.start("deaf", [kitchen], |_, _| async {
//!     tokio::time::sleep(Duration::from_secs(3600)).await;
//!     Ok(())
//! })?;
//! pipeline.publish(Message::text("room/kitchen", "work")).await?;
//! # while ![&polite, &deaf].iter().all(|task| task.status().state == TaskState::InHandler) {
//! #     tokio::time::sleep(Duration::from_millis(1)).await;
//! # }
//!
//! let report = pipeline.shutdown(Duration::from_millis(100)).await;
//! assert_eq!((report.ended, report.forced), (2, vec!["deaf".to_owned()]));
//! # Ok(()) }) }
//! ```
//!
//! # Heartbeat
//!
//! There is nothing to do. The pipeline heartbeats as often as the hub asks, from login to logout, and no longer: a
//! program that hangs or is gone loses its session when the lease runs out. A connection on which a ping or a
//! heartbeat stays unanswered is replaced within `ping_interval + ping_timeout`, and every task goes on where it was.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/guide_hub.in"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { with_hub(async |hub| {
//! # use std::time::Duration;
//! # use streamward::client::{Credentials, Pipeline, PipelineConfig};
//! # let user = Credentials::User { user: "alice".into(), password: String::new() };
//! let config = PipelineConfig {
//!     // More often than asked is possible, less often is not.
//!     heartbeat_interval: Some(Duration::from_secs(5)),
//!     ping_interval: Duration::from_secs(10),
//!     ping_timeout: Duration::from_secs(5),
//!     ..PipelineConfig::new(hub, user)
//! };
//! let pipeline = Pipeline::new(config)?;
//! # while pipeline.session_id().is_none() { tokio::time::sleep(Duration::from_millis(1)).await; }
//! println!("logged in as {:?}", pipeline.session_id());
//! # pipeline.shutdown(Duration::from_secs(5)).await;
//! # Ok(()) }) }
//! ```
//!
//! # Cleanup
//!
//! Every task leaves one [`TaskEnd`](crate::client::TaskEnd): why, where to go on from, how much it handled. Its name is
//! free by then. A program that goes away without a word leaks nothing either: dropping the pipeline ends its tasks and
//! its connection, and the hub's lease ends the session.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/guide_hub.in"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> { with_hub(async |hub| {
//! # use std::time::Duration;
//! # use streamward::base::topic::Topic;
//! # use streamward::client::{Credentials, EndWhy, Message, Pipeline, PipelineConfig, Target};
//! # let user = Credentials::User { user: "alice".into(), password: String::new() };
//! # let pipeline = Pipeline::new(PipelineConfig::new(hub, user))?;
//! let kitchen = Target::new(Topic::parse("room/kitchen")?).all_retained();
//! let mut task = pipeline.start("kitchen", [kitchen.clone()], |_, _| async { Err("the disk is full".into()) })?;
//! pipeline.publish(Message::text("room/kitchen", "write this down")).await?;
//! let end = task.ended().await;
//! assert!(matches!(&end.why, EndWhy::HandlerFailed(error) if error.to_string() == "the disk is full"));
//! assert_eq!(end.handled, 0, "what failed is not handled");
//!
//! // Again, from where it was: what failed comes once more.
//! let again = Target { start: end.positions.get("room/kitchen").cloned().map_or(
//!     kitchen.start.clone(),
//!     streamward::base::event::Start::After,
//! ), ..kitchen };
//! let mut task = pipeline.start("kitchen", [again], |batch, _| async move {
//!     assert_eq!(batch.events().count(), 1);
//!     Ok(())
//! })?;
//! # while task.status().handled == 0 { tokio::time::sleep(Duration::from_millis(1)).await; }
//! drop(pipeline);
//! assert!(matches!(task.ended().await.why, EndWhy::Shutdown));
//! # Ok(()) }) }
//! ```
