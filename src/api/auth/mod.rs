//! Authentication: the client or the operator of a request, by its bearer token.

mod cache;
mod keys;
mod scope;
mod verifier;

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use chrono::{DateTime, Utc};

use super::access::Caller;
use super::limit::RateLimit;
use super::problem::{Problem, Result};
use super::query::FromQuery;
use crate::domain::UserId;
use crate::store::audit::Author;

pub use scope::{ADMIN_BASE, ADMIN_SCOPE, CANCEL_TEMPLATE, Scope, ScopeWord, Scopes, scopes_of};
pub use verifier::{KeySource, VerifiedToken, Verifier};

/// The longest `sub` of an operator, in characters.
const MAX_SUBJECT_CHARS: usize = 200;

/// The state that guards the client API.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// Checks tokens.
    pub verifier: Arc<Verifier>,
    /// Bounds requests per client.
    pub rate_limit: Arc<RateLimit>,
}

/// The state that guards the admin API.
#[derive(Clone, Debug)]
pub struct AdminAuth(pub Arc<Verifier>);

/// The client of a call, within their rate, and the call's query. A query parameter that is not in
/// `Q` is refused. It must be the first of a handler's extractors, so that an unauthenticated
/// caller learns nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<Q = ()> {
    /// The client's number.
    pub user_id: UserId,
    /// When their token expires.
    pub expires_at: DateTime<Utc>,
    /// The call's query.
    pub query: Q,
}

impl<S, Q> FromRequestParts<S> for Client<Q>
where
    ClientAuth: FromRef<S>,
    S: Send + Sync,
    Q: FromQuery,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let auth = ClientAuth::from_ref(state);
        let verified = auth.verifier.verify_request(parts).await?;
        let user_id = user_id(&verified.subject)
            .ok_or_else(|| Problem::invalid_token("The token's sub is not a user_id."))?;
        tracing::Span::current().record("user_id", user_id);
        auth.rate_limit.check(user_id)?;
        Ok(Self {
            user_id,
            expires_at: verified.expires_at,
            query: Q::of(&parts.uri)?,
        })
    }
}

/// A decimal number from 1, without sign or leading zeros, so that a client has only one spelling.
fn user_id(subject: &str) -> Option<UserId> {
    let plain = subject.bytes().all(|byte| byte.is_ascii_digit()) && !subject.starts_with('0');
    subject.parse().ok().filter(|id| plain && *id >= 1)
}

/// The operator who is calling, and the call's query, as [`Client`] has it. Name it first among a
/// handler's extractors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin<Q = ()> {
    /// Who, as the audit records it: the token's `sub`.
    pub actor: String,
    /// What they may do.
    pub scopes: Scopes,
    /// When their token ends.
    pub expires_at: DateTime<Utc>,
    /// What the call's query says.
    pub query: Q,
}

impl<Q> Admin<Q> {
    /// Refuses a caller without this scope. For calls of which the body decides what they need; what
    /// opens the call as such was checked before.
    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.scopes.contains(scope) {
            Ok(())
        } else {
            Err(Problem::insufficient_scope(scope.as_str()))
        }
    }

    /// The author of what this call changes, for the audit; `call` without `/admin/v1`.
    pub fn author(self, call: impl Into<String>) -> Author {
        Author {
            actor: self.actor,
            call: call.into(),
        }
    }
}

/// Whether a token's `sub` names an operator: 1 to 200 characters, none of them a control character.
pub fn is_actor(subject: &str) -> bool {
    !subject.trim().is_empty()
        && subject.chars().count() <= MAX_SUBJECT_CHARS
        && !subject.chars().any(char::is_control)
}

impl<S, Q> FromRequestParts<S> for Admin<Q>
where
    AdminAuth: FromRef<S>,
    S: Send + Sync,
    Q: FromQuery,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let AdminAuth(verifier) = AdminAuth::from_ref(state);
        let verified = verifier.verify_request(parts).await?;
        // It goes into the audit and the log as it is.
        let subject = &verified.subject;
        if !is_actor(subject) {
            return Err(Problem::invalid_token("The token's sub is not a name."));
        }
        if let Some(caller) = parts.extensions.get::<Caller>() {
            caller.is(subject);
        }
        let scopes = Scopes::of(verified.scopes.iter().map(String::as_str));
        if let Some(scope) = scope::missing(scopes, parts) {
            return Err(Problem::insufficient_scope(scope));
        }
        Ok(Self {
            actor: subject.clone(),
            scopes,
            expires_at: verified.expires_at,
            query: Q::of(&parts.uri)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_id_is_written_in_one_way() {
        assert_eq!(user_id("1"), Some(1));
        assert_eq!(user_id("9223372036854775807"), Some(i64::MAX));
        for text in [
            "",
            "0",
            "01",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1.0",
            "9223372036854775808",
            "admin",
        ] {
            assert_eq!(user_id(text), None, "{text:?}");
        }
    }
}
