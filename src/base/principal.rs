//! Who a session belongs to. The server sets it; a client cannot claim another's.

use std::sync::Arc;

use crate::base::limits::{CLIENT_NAME_BYTES_MAX, USER_BYTES_MAX};
use crate::base::topic::is_name_byte;

/// The checked identity behind a session; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// 1 to 64 bytes of `[A-Za-z0-9._-]`: it must be able to stand in `user/<name>`.
    pub user: Arc<str>,
    /// Tells a user's clients apart; empty for a client without a name.
    pub client_name: Arc<str>,
}

/// Why a login's names are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// No user name.
    #[error("a user name is needed: 1 to 64 bytes of letters, digits, `.`, `_` and `-`")]
    NoUser,
    /// A byte that cannot stand in `user/<name>`, or too many of them.
    #[error("a user name is 1 to 64 bytes of letters, digits, `.`, `_` and `-`")]
    User,
    /// Too long, or a control character.
    #[error("a client name has at most 64 bytes and no control characters")]
    ClientName,
}

impl Principal {
    /// Checks the names of a login.
    ///
    /// # Errors
    /// The first rule they break.
    pub fn new(user: &str, client_name: &str) -> Result<Self, PrincipalError> {
        if user.is_empty() {
            return Err(PrincipalError::NoUser);
        }
        if user.len() > USER_BYTES_MAX || !user.bytes().all(is_name_byte) {
            return Err(PrincipalError::User);
        }
        if client_name.len() > CLIENT_NAME_BYTES_MAX || client_name.chars().any(char::is_control) {
            return Err(PrincipalError::ClientName);
        }
        Ok(Self { user: user.into(), client_name: client_name.into() })
    }

    /// Whether a new login of `other` takes this session over.
    #[must_use]
    pub fn is_taken_over_by(&self, other: &Self) -> bool {
        !self.client_name.is_empty() && self == other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_named_client_of_the_same_user_takes_over() {
        let phone = Principal::new("alice", "phone").unwrap();
        let nameless = Principal::new("alice", "").unwrap();
        assert!(phone.is_taken_over_by(&phone));
        assert!(!phone.is_taken_over_by(&Principal::new("alice", "laptop").unwrap()));
        assert!(!phone.is_taken_over_by(&Principal::new("bob", "phone").unwrap()));
        assert!(!nameless.is_taken_over_by(&nameless));
    }

    #[test]
    fn names_that_break_a_rule_are_refused() {
        assert_eq!(Principal::new("", ""), Err(PrincipalError::NoUser));
        assert_eq!(Principal::new("a/b", ""), Err(PrincipalError::User));
        assert_eq!(Principal::new(&"a".repeat(65), ""), Err(PrincipalError::User));
        assert_eq!(Principal::new("a", "x\ny"), Err(PrincipalError::ClientName));
        assert_eq!(Principal::new("a", &"x".repeat(65)), Err(PrincipalError::ClientName));
    }
}
