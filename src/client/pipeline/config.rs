//! What a pipeline is told once: where to, as whom, how patient.

use std::fmt;
use std::time::Duration;

use crate::base::limits::{PIPELINE_IN_FLIGHT_MAX, PIPELINE_PATIENCE_MAX, PIPELINE_PATIENCE_MIN};
use crate::base::principal::Principal;
use crate::client::connector::{Endpoint, KEEP_ALIVE};
use crate::runtime::backoff::Backoff;

/// As whom a pipeline comes.
#[derive(Clone)]
pub enum Credentials {
    /// Logs in, and again whenever the session was lost for a reason that allows it.
    User {
        /// The user's name.
        user: String,
        /// The password; empty where the hub asks for none.
        password: String,
    },
    /// Acts for a session that is live already. When it is over, so is the pipeline.
    Token(String),
}

impl fmt::Debug for Credentials {
    /// Without password and token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { user, .. } => f.debug_struct("User").field("user", user).finish_non_exhaustive(),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}

/// Everything a pipeline can be told. [`Self::new`] has defaults for all but the first two.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// The hub.
    pub endpoint: Endpoint,
    /// As whom.
    pub credentials: Credentials,
    /// Tells this user's clients apart; with the same one the pipeline takes a live session over. May be empty.
    pub client_name: String,
    /// Every task ends after this long, unless it has a timeout of its own. `None`: no timeout.
    pub task_timeout: Option<Duration>,
    /// Heartbeats come at least this often. `None`: as often as the hub asks; never less.
    pub heartbeat_interval: Option<Duration>,
    /// A task, and the publisher, give up after so many failures in a row. `None`: never.
    pub max_retries: Option<u32>,
    /// The wait between attempts; what the hub says wins.
    pub backoff: Backoff,
    /// A handler that runs when its task is asked to stop has this long to finish.
    pub drain_timeout: Duration,
    /// A connection is pinged this often.
    pub ping_interval: Duration,
    /// A ping or heartbeat unanswered for this long means that the connection is lost.
    pub ping_timeout: Duration,
    /// Publishes under way at once; then publishing waits.
    pub in_flight_max: usize,
    /// A publish without a receipt after this long is given up.
    pub publish_timeout: Duration,
}

impl PipelineConfig {
    /// The defaults: no timeouts of tasks, retries without end, gRPC's backoff, 10 s for handlers to finish, 30 s for
    /// a receipt, 32 publishes in flight.
    #[must_use]
    pub fn new(endpoint: Endpoint, credentials: Credentials) -> Self {
        Self {
            endpoint,
            credentials,
            client_name: String::new(),
            task_timeout: None,
            heartbeat_interval: None,
            max_retries: None,
            backoff: Backoff::default(),
            drain_timeout: Duration::from_secs(10),
            ping_interval: KEEP_ALIVE,
            ping_timeout: KEEP_ALIVE,
            in_flight_max: 32,
            publish_timeout: Duration::from_secs(30),
        }
    }

    /// Every mistake there is.
    pub(super) fn problems(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let mut expect = |holds: bool, problem: ConfigProblem| {
            if !holds {
                problems.push(problem);
            }
        };
        match &self.credentials {
            Credentials::User { user, .. } => {
                let name = Principal::new(user, "").map_err(|error| error.to_string());
                expect(name.is_ok(), ConfigProblem::User(name.err().unwrap_or_default()));
                let client = Principal::new("anyone", &self.client_name).map_err(|error| error.to_string());
                expect(client.is_ok(), ConfigProblem::ClientName(client.err().unwrap_or_default()));
            }
            Credentials::Token(token) => {
                let is_token = token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
                expect(is_token, ConfigProblem::Token);
                expect(self.client_name.is_empty(), ConfigProblem::TokenWithName);
            }
        }
        for (name, duration) in self.durations() {
            let bounds = PIPELINE_PATIENCE_MIN..=PIPELINE_PATIENCE_MAX;
            let is_possible = duration.is_none_or(|duration| bounds.contains(&duration));
            expect(is_possible, ConfigProblem::Duration(name, duration.unwrap_or_default()));
        }
        let backoff = &self.backoff;
        expect(backoff.max >= backoff.first, ConfigProblem::BackoffShrinks);
        expect(backoff.factor_permille >= 1000, ConfigProblem::BackoffShrinks);
        expect(backoff.jitter_permille <= 1000, ConfigProblem::Jitter(backoff.jitter_permille));
        let in_flight = 1..=PIPELINE_IN_FLIGHT_MAX;
        expect(in_flight.contains(&self.in_flight_max), ConfigProblem::InFlight(self.in_flight_max));
        problems
    }

    fn durations(&self) -> [(&'static str, Option<Duration>); 8] {
        [
            ("task_timeout", self.task_timeout),
            ("heartbeat_interval", self.heartbeat_interval),
            ("backoff.first", Some(self.backoff.first)),
            ("backoff.max", Some(self.backoff.max)),
            ("drain_timeout", Some(self.drain_timeout)),
            ("ping_interval", Some(self.ping_interval)),
            ("ping_timeout", Some(self.ping_timeout)),
            ("publish_timeout", Some(self.publish_timeout)),
        ]
    }
}

/// One thing that is wrong with a [`PipelineConfig`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigProblem {
    /// No user name.
    #[error("credentials: {0}")]
    User(String),
    /// No client name.
    #[error("client_name: {0}")]
    ClientName(String),
    /// Not a session's token.
    #[error("credentials: a token has 64 hexadecimal digits; it is `Session::token` of a live session")]
    Token,
    /// A name that nothing is done with.
    #[error("client_name: a token's session has its name already; leave it empty")]
    TokenWithName,
    /// A time that makes no sense.
    #[error("{0} = {1:?}: write {min:?} to {max:?}", min = PIPELINE_PATIENCE_MIN, max = PIPELINE_PATIENCE_MAX)]
    Duration(&'static str, Duration),
    /// Waits would get shorter.
    #[error("backoff: waits must not shrink: max at least first, factor_permille at least 1000")]
    BackoffShrinks,
    /// More than a whole.
    #[error("backoff.jitter_permille = {0}: write 0 to 1000")]
    Jitter(u32),
    /// Too few or too many.
    #[error("in_flight_max = {0}: write 1 to {max}", max = PIPELINE_IN_FLIGHT_MAX)]
    InFlight(usize),
}

/// Everything that is wrong with a [`PipelineConfig`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ConfigError(pub Vec<ConfigProblem>);

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> PipelineConfig {
        let user = Credentials::User { user: "alice".to_owned(), password: String::new() };
        PipelineConfig::new("127.0.0.1:1".parse().unwrap(), user)
    }

    #[test]
    fn the_defaults_are_right_and_every_mistake_is_told_at_once() {
        assert_eq!(config().problems(), []);
        let wrong = PipelineConfig {
            credentials: Credentials::User { user: "no spaces".to_owned(), password: String::new() },
            client_name: "\n".to_owned(),
            task_timeout: Some(Duration::ZERO),
            heartbeat_interval: Some(Duration::MAX),
            backoff: Backoff { factor_permille: 1, jitter_permille: 1001, ..Backoff::default() },
            ping_timeout: Duration::from_nanos(1),
            in_flight_max: 0,
            ..config()
        };
        let text = ConfigError(wrong.problems()).to_string();
        assert_eq!(wrong.problems().len(), 8, "{text}");
        for part in ["credentials", "client_name", "task_timeout = 0ns: write 1ms to", "in_flight_max = 0"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_token_is_checked_and_never_shown() {
        let with =
            |token: &str| PipelineConfig { credentials: Credentials::Token(token.to_owned()), ..config() };
        let token = "0a".repeat(32);
        assert_eq!(with(&token).problems(), []);
        assert_eq!(with("secret").problems(), [ConfigProblem::Token]);
        assert!(!format!("{:?}", with(&token)).contains(&token));
        let password = Credentials::User { user: "a".to_owned(), password: "hush".to_owned() };
        assert!(!format!("{password:?}").contains("hush"));
    }
}
