//! What the commands that talk to a hub share: its address, logging in and out, being interrupted.

use std::fs;
use std::future::Future;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::process::getuid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::Code;

use crate::base::limits::NOTE_BYTES_MAX;
use crate::base::principal::Principal;
use crate::base::reason::EndReason;
use crate::cli::exit::{Exit, Failure};
use crate::cli::text::{clean, show_time};
use crate::client::{Admin, ClientError, Endpoint};
use crate::config::{ADMIN_SOCKET_DEFAULT, environment, variable};
use crate::wire::v1;

/// Where a hub is when nothing else is said.
pub(crate) const SERVER_DEFAULT: &str = "127.0.0.1:50051";

/// Where the hub is and who is calling.
#[derive(Args, Debug)]
pub(crate) struct HubArgs {
    /// The hub: host:port, http://host:port or unix:/path
    #[arg(long, value_name = "ADDR", env = "STREAMWARD_SERVER", default_value = SERVER_DEFAULT)]
    pub(crate) server: Endpoint,
    /// Log in as this user [default: $USER, or guest]
    #[arg(long, value_name = "NAME", value_parser = parse_user)]
    pub(crate) user: Option<String>,
    /// Name this client among the user's: logging in again with the same name takes the session over
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) client_name: String,
}

/// Where the hub's admin socket is.
#[derive(Args, Debug)]
pub(crate) struct SocketArgs {
    /// The hub's admin socket [default: the first there is of /run/streamward/admin.sock,
    /// $XDG_RUNTIME_DIR/streamward/admin.sock and /tmp/streamward-UID/admin.sock]
    #[arg(long, value_name = "PATH", env = "STREAMWARD_SERVER_ADMIN_SOCKET", hide_env_values = true)]
    pub(crate) admin_socket: Option<PathBuf>,
}

/// Where the admin socket is, and how its answers are printed.
#[derive(Args, Debug)]
pub(crate) struct AdminArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_user(text: &str) -> Result<String, String> {
    Principal::new(text, "").map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// An administrator's note of at most [`NOTE_BYTES_MAX`] bytes.
pub(crate) fn parse_note(text: &str) -> Result<String, String> {
    if text.len() > NOTE_BYTES_MAX {
        return Err(format!("a note has at most {NOTE_BYTES_MAX} bytes, this one has {}", text.len()));
    }
    Ok(text.to_owned())
}

impl HubArgs {
    /// `--user`, or $USER when it can be a user name, or `guest`.
    pub(crate) fn user(&self) -> String {
        self.user.clone().unwrap_or_else(|| default_user(&environment()))
    }

    /// Something that breaks, stays silent or knows no gRPC at the very first call is probably no hub.
    pub(crate) fn login_failure(&self, error: &ClientError) -> Failure {
        let why = match error {
            ClientError::Transport { why } => why,
            ClientError::Refused { status, details: None } if status.code() == Code::Unimplemented => {
                status.message()
            }
            error @ (ClientError::Endpoint(_)
            | ClientError::Connect { .. }
            | ClientError::Refused { .. }
            | ClientError::StreamEnded
            | ClientError::Contract(_)) => return error.into(),
        };
        let text = format!("cannot log in at {}: {}. Is that a Streamward hub?", self.server, clean(why));
        Failure::told(Exit::Unavailable, text)
    }
}

/// $USER when it can be a user name, or `guest`.
pub(crate) fn default_user(environment: &[(String, String)]) -> String {
    let user = variable(environment, "USER").filter(|user| Principal::new(user, "").is_ok());
    user.unwrap_or("guest").to_owned()
}

/// What is worth knowing of a last session's end.
pub(crate) fn previous_end_text(end: &v1::Ended) -> Option<String> {
    let reason =
        v1::EndReason::try_from(end.reason).ok().and_then(|r| EndReason::from_name(r.as_str_name()))?;
    if matches!(reason, EndReason::SessionLoggedOut | EndReason::Completed) {
        return None;
    }
    if reason == EndReason::SessionTakenOver {
        return Some("took over from your session of this client name, which was still live".to_owned());
    }
    let note = if end.note.is_empty() { reason.text() } else { &end.note };
    let when = show_time(end.ended_at.as_ref());
    Some(format!("your last session ended at {when} with {}: {}", reason.name(), clean(note)))
}

impl AdminArgs {
    /// Connects to the admin socket named or found.
    pub(crate) async fn connect(&self) -> Result<Admin, Failure> {
        self.socket.connect().await
    }
}

impl SocketArgs {
    /// Connects to the admin socket named or found.
    async fn connect(&self) -> Result<Admin, Failure> {
        Ok(Admin::connect(&self.path()?).await?)
    }

    /// Whether the caller named one.
    pub(crate) fn is_named(&self) -> bool {
        self.admin_socket.as_ref().is_some_and(|path| !path.as_os_str().is_empty())
    }

    /// The admin socket named or found.
    pub(crate) fn path(&self) -> Result<PathBuf, Failure> {
        // An empty variable is as good as none.
        let path = match self.admin_socket.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => path.clone(),
            None => find_socket(&candidates())?,
        };
        Ok(std::path::absolute(&path).unwrap_or(path))
    }
}

/// Where a hub puts its admin socket, in the order they are looked at.
fn candidates() -> Vec<PathBuf> {
    let run = Some(PathBuf::from(ADMIN_SOCKET_DEFAULT));
    let environment = environment();
    let user =
        variable(&environment, "XDG_RUNTIME_DIR").map(|dir| Path::new(dir).join("streamward/admin.sock"));
    let temporary = PathBuf::from(format!("/tmp/streamward-{}/admin.sock", getuid().as_raw()));
    // Anyone may create things in /tmp: only what is ours counts.
    let temporary = fs::symlink_metadata(&temporary)
        .map_or(true, |metadata| metadata.uid() == getuid().as_raw())
        .then_some(temporary);
    [run, user, temporary].into_iter().flatten().collect()
}

fn find_socket(candidates: &[PathBuf]) -> Result<PathBuf, Failure> {
    if let Some(path) = candidates.iter().find(|path| exists(path)) {
        return Ok(path.clone());
    }
    let looked: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
    Err(Failure::told(
        Exit::Unavailable,
        format!(
            "no admin socket found at {}. Is the hub running? Start one with `streamward serve`, or name its socket \
             with --admin-socket.",
            looked.join(", ")
        ),
    ))
}

/// There, or hidden from us: then connecting says "permission denied", which is the better answer.
fn exists(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// Ctrl-C, SIGTERM and a closed terminal.
pub(crate) struct Interrupt {
    signals: [Signal; 3],
}

impl Interrupt {
    /// Takes the signals over: from here on they end nothing by themselves.
    pub(crate) fn new() -> Result<Self, Failure> {
        let take = |kind: SignalKind| {
            signal(kind)
                .map_err(|error| Failure::told(Exit::Internal, format!("cannot watch for signals: {error}.")))
        };
        Ok(Self {
            signals: [
                take(SignalKind::interrupt())?,
                take(SignalKind::terminate())?,
                take(SignalKind::hangup())?,
            ],
        })
    }

    /// Waits for what the future gives, or stops it at the next of them.
    pub(crate) async fn or<T>(
        &mut self,
        future: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = future => done,
            () = self.next() => Err(Failure::told(Exit::Interrupted, "interrupted.")),
        }
    }

    /// The next of them. Safe to drop while it waits.
    pub(crate) async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_socket_there_is_found_and_none_is_told_with_advice() {
        let directory = tempfile::tempdir().unwrap();
        let (missing, there) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&there, "").unwrap();
        assert_eq!(find_socket(&[missing.clone(), there.clone()]).unwrap(), there);
        let failure = find_socket(std::slice::from_ref(&missing)).unwrap_err();
        assert_eq!(failure.exit(), Exit::Unavailable);
        assert!(failure.to_string().contains(missing.to_str().unwrap()), "{failure}");
        assert!(failure.to_string().contains("--admin-socket"), "{failure}");
    }

    #[test]
    fn a_user_name_that_cannot_be_one_becomes_guest() {
        let with = |user: &str| default_user(&[("USER".to_owned(), user.to_owned())]);
        assert_eq!(with("alice"), "alice");
        assert_eq!(with("DOMAIN\\alice"), "guest");
        assert_eq!(with(""), "guest");
        assert_eq!(default_user(&[]), "guest");
    }

    #[test]
    fn a_last_session_that_ended_by_itself_is_no_news() {
        let ended = |reason: v1::EndReason, note: &str| v1::Ended {
            reason: reason.into(),
            note: note.to_owned(),
            ..Default::default()
        };
        assert_eq!(previous_end_text(&ended(v1::EndReason::SessionLoggedOut, "")), None);
        let text = previous_end_text(&ended(v1::EndReason::AdminCancelled, "be\x1bnice")).unwrap();
        assert!(text.contains("ADMIN_CANCELLED: be\\u{1b}nice"), "{text}");
    }
}
