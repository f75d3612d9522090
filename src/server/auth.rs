//! Who a call comes from, and what it is told when it may not.

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Status;

use crate::base::id::SessionKey;
use crate::base::principal::Principal;
use crate::base::reason::{Cause, Retry};
use crate::hub::Refusal;
use crate::hub::registry::{Ended, Token};
use crate::server::{Core, Peer};
use crate::wire::status;

/// The live session whose token came with the call. Counts as its traffic.
pub(super) fn session(
    core: &Core,
    peer: &Peer,
    headers: &HeaderMap,
) -> Result<(SessionKey, Principal), Box<Status>> {
    let unauthenticated = |text: &str| Box::new(status::unauthenticated(text));
    let value = headers.get(http::header::AUTHORIZATION).ok_or_else(|| {
        unauthenticated("metadata `authorization: Bearer <token>` is missing: log in and send the token")
    })?;
    let token = parse_bearer(value.as_bytes()).ok_or_else(|| {
        unauthenticated("metadata `authorization` must be `Bearer <token>` with the token of Login")
    })?;
    let known = core.hub().authenticate(&token, peer.connection, Instant::now());
    known.ok_or_else(|| {
        let ended = core.hub().ended().session_of_token(&token);
        Box::new(no_session(core, ended.as_ref()))
    })
}

/// What a call is told whose session is not live; `ended` when it is known how that ended.
fn no_session(core: &Core, ended: Option<&Ended>) -> Status {
    if let Some(cause) = core.refusing() {
        // The drain ended the session; logging in again would be refused as well.
        let retry_after = Some(core.shutdown_times().retry_after);
        return status::ended(&cause, &status::EndFacts { retry_after, ..Default::default() });
    }
    let Some(Ended { session, cause, .. }) = ended else {
        return status::unauthenticated("this token is of no live session: log in again");
    };
    let retry_after = (cause.reason.retry() == Retry::Later).then(|| core.retry_slot(*session));
    status::session_over(
        cause,
        &status::EndFacts { session: Some(*session), retry_after, ..Default::default() },
    )
}

fn parse_bearer(value: &[u8]) -> Option<Token> {
    let (scheme, token) = value.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return None;
    }
    let digits: &[u8; 64] = token.try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(Token(bytes))
}

/// A token as the client gets it.
pub(super) fn print_token(token: &Token) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = token.0.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    nibbles.map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect()
}

/// What the hub's refusal is to the client of this session, which may have ended since its call began.
pub(super) fn refusal_of(core: &Core, session: SessionKey, refused: &Refusal) -> Status {
    if *refused == Refusal::SessionGone {
        let ended = core.hub().ended().session(session);
        return no_session(core, ended.as_ref());
    }
    refusal(refused)
}

/// What the hub's refusal is to the client.
pub(super) fn refusal(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Quota(quota) => status::ended(&Cause::quota(*quota), &status::EndFacts::default()),
        Refusal::Rate(quota, wait) => {
            let facts = status::EndFacts { retry_after: Some(*wait), ..Default::default() };
            status::ended(&Cause::quota(*quota), &facts)
        }
        Refusal::SessionGone | Refusal::StreamGone | Refusal::ConnectionGone => {
            status::unauthenticated(&refusal.to_string())
        }
        Refusal::NotYourInbox(_) => status::forbidden(&refusal.to_string(), "topic"),
        Refusal::AlreadySubscribed(_) | Refusal::NotSubscribed(_) => {
            status::precondition(refusal.to_string(), "topic")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_printed() {
        let mut bytes = [0; 32];
        bytes[0] = 0xa5;
        bytes[31] = 0xff;
        let token = Token(bytes);
        let header = format!("bearer {}", print_token(&token));
        assert_eq!(parse_bearer(header.as_bytes()), Some(token));
    }

    #[test]
    fn anything_else_is_no_token() {
        let short = format!("Bearer {}", "a".repeat(63));
        let long = format!("Bearer {}", "a".repeat(65));
        let other = format!("Bearer {}", "g".repeat(64));
        let sign = format!("Bearer {}", "+1".repeat(32));
        let basic = format!("Basic  {}", "a".repeat(64));
        for text in ["", "Bearer", "Bearer ", &short, &long, &other, &sign, &basic] {
            assert_eq!(parse_bearer(text.as_bytes()), None, "{text:?}");
        }
    }
}
