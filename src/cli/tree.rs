//! `streamward tree`: server, sessions, streams and subscriptions as they own each other.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::exit::{Exit, Failure};
use crate::cli::hub::AdminArgs;
use crate::cli::output::{Output, Paint};
use crate::cli::records::{phase_name, reason_name, session_json, status_json, stream_json};
use crate::cli::text::{clean, count, duration_of, show_bytes, show_duration};
use crate::wire::v1;

/// Show what the server holds as a tree: sessions, their streams, what these follow
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  streamward tree
  streamward tree --json | jq '.sessions[].streams[].id'
  watch streamward tree

Any session or stream in it can be ended alone: streamward cancel <id>")]
pub(crate) struct TreeArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// Shows it.
///
/// # Errors
/// When the admin socket cannot be reached or refuses.
pub(crate) async fn run(args: TreeArgs, output: &mut Output) -> Result<Exit, Failure> {
    let admin = args.admin.connect().await?;
    let status = admin.status().await?;
    // Sessions last: a stream opened in between has its session listed; the other way round it would be an orphan.
    let streams = admin.streams(None).await?;
    let sessions = admin.sessions().await?;
    if output.json {
        output.json(&tree_json(&status, &sessions, &streams))?;
        return Ok(Exit::Ok);
    }
    for line in draw(&tree(&status, &sessions, &streams, output.paint)) {
        output.line(&line)?;
    }
    Ok(Exit::Ok)
}

fn owned_by<'a>(streams: &'a [v1::StreamInfo], session: &'a str) -> impl Iterator<Item = &'a v1::StreamInfo> {
    streams.iter().filter(move |stream| stream.session_id == session)
}

fn tree_json(status: &v1::ServerStatus, sessions: &[v1::SessionInfo], streams: &[v1::StreamInfo]) -> Value {
    let session = |session: &v1::SessionInfo| {
        let mut value = session_json(session);
        value["streams"] = owned_by(streams, &session.id).map(stream_json).collect();
        value
    };
    json!({"server": status_json(status), "sessions": sessions.iter().map(session).collect::<Vec<_>>()})
}

/// A node with its text and what it owns.
struct Node {
    text: String,
    children: Vec<Node>,
}

fn tree(
    status: &v1::ServerStatus,
    sessions: &[v1::SessionInfo],
    streams: &[v1::StreamInfo],
    paint: Paint,
) -> Node {
    let text = format!(
        "{} {} {}, up {}, {}, {}, {}",
        paint.bold("server"),
        clean(&status.version),
        phase_name(status.phase).to_lowercase(),
        show_duration(duration_of(status.uptime)),
        count(status.connections, "connection"),
        count(status.sessions, "session"),
        count(status.streams, "stream"),
    );
    let session = |session: &v1::SessionInfo| Node {
        text: session_text(session, paint),
        children: owned_by(streams, &session.id).map(|stream| stream_node(stream, paint)).collect(),
    };
    Node { text, children: sessions.iter().map(session).collect() }
}

fn session_text(session: &v1::SessionInfo, paint: Paint) -> String {
    let client = if session.client_name.is_empty() {
        String::new()
    } else {
        format!(" ({})", clean(&session.client_name))
    };
    let user = paint.bold(&clean(&session.user));
    let lease = show_duration(duration_of(session.lease_left));
    format!("{} {user}{client}, lease {lease}{}", paint.cyan(&clean(&session.id)), ending(session.ending))
}

fn stream_node(stream: &v1::StreamInfo, paint: Paint) -> Node {
    let deadline = match stream.deadline_left {
        Some(left) => format!(", deadline in {}", show_duration(duration_of(Some(left)))),
        None => String::new(),
    };
    let text = format!(
        "{} {} {}, {} delivered, lag {}{deadline}{}",
        paint.cyan(&clean(&stream.id)),
        clean(&stream.rpc),
        paint.dim(&format!("over {} from {}", clean(&stream.connection_id), clean(&stream.peer))),
        count(stream.events_delivered, "event"),
        show_bytes(stream.lag_bytes),
        ending(stream.ending),
    );
    let subscription = |subscription: &v1::SubscriptionInfo| Node {
        text: format!("{} lag {}", clean(&subscription.topic), show_bytes(subscription.lag_bytes)),
        children: Vec::new(),
    };
    Node { text, children: stream.subscriptions.iter().map(subscription).collect() }
}

fn ending(reason: i32) -> String {
    reason_name(reason).map_or_else(String::new, |reason| format!(", ending: {reason}"))
}

fn draw(root: &Node) -> Vec<String> {
    let mut lines = vec![root.text.clone()];
    draw_children(root, "", &mut lines);
    lines
}

fn draw_children(node: &Node, indent: &str, lines: &mut Vec<String>) {
    for (at, child) in node.children.iter().enumerate() {
        let last = at + 1 == node.children.len();
        let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        lines.push(format!("{indent}{branch}{}", child.text));
        draw_children(child, &format!("{indent}{below}"), lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::captured;

    fn stream(id: &str, session_id: &str, topics: &[&str]) -> v1::StreamInfo {
        let subscription =
            |topic: &&str| v1::SubscriptionInfo { topic: (*topic).to_owned(), lag_bytes: 2048 };
        v1::StreamInfo {
            id: id.to_owned(),
            session_id: session_id.to_owned(),
            connection_id: "connection/1".to_owned(),
            rpc: "Connect".to_owned(),
            peer: "127.0.0.1:4000".to_owned(),
            subscriptions: topics.iter().map(subscription).collect(),
            events_delivered: 1,
            lag_bytes: 2048,
            ..Default::default()
        }
    }

    fn session(id: &str, user: &str, client_name: &str) -> v1::SessionInfo {
        v1::SessionInfo {
            id: id.to_owned(),
            user: user.to_owned(),
            client_name: client_name.to_owned(),
            lease_left: Some(prost_types::Duration { seconds: 80, nanos: 0 }),
            ..Default::default()
        }
    }

    #[test]
    fn the_tree_shows_who_owns_what() {
        let status =
            v1::ServerStatus { version: "0.1.0".to_owned(), phase: 1, sessions: 2, ..Default::default() };
        let sessions = [session("session/0.1", "alice", "phone\x1b"), session("session/1.2", "bob", "")];
        let streams = [
            stream("stream/1", "session/0.1", &["room/a", "user/alice"]),
            stream("stream/2", "session/0.1", &[]),
            stream("stream/3", "session/1.2", &["room/a"]),
        ];
        let (output, _, _) = captured(false);
        let lines = draw(&tree(&status, &sessions, &streams, output.paint));
        let expected = [
            "server 0.1.0 running, up 0ms, 0 connections, 2 sessions, 0 streams",
            "├─ session/0.1 alice (phone\\u{1b}), lease 1m20s",
            "│  ├─ stream/1 Connect over connection/1 from 127.0.0.1:4000, 1 event delivered, lag 2 KiB",
            "│  │  ├─ room/a lag 2 KiB",
            "│  │  └─ user/alice lag 2 KiB",
            "│  └─ stream/2 Connect over connection/1 from 127.0.0.1:4000, 1 event delivered, lag 2 KiB",
            "└─ session/1.2 bob, lease 1m20s",
            "   └─ stream/3 Connect over connection/1 from 127.0.0.1:4000, 1 event delivered, lag 2 KiB",
            "      └─ room/a lag 2 KiB",
        ];
        assert_eq!(lines, expected);

        let json = tree_json(&status, &sessions, &streams);
        assert_eq!(json["sessions"][0]["streams"][0]["subscriptions"][1]["topic"], "user/alice");
        assert_eq!(json["sessions"][1]["streams"].as_array().unwrap().len(), 1);
    }
}
