//! Error responses as RFC 9457 problems: every slug of contract 5 and 6, made in one place.

use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::time::Duration;
use utoipa::ToSchema;

use crate::domain::eligibility::EligibilityRule;
use crate::domain::fields::FieldError;
use crate::domain::participation::ExpiredReason;
use crate::store::StoreError;

/// The media type of every error response.
pub const CONTENT_TYPE_PROBLEM: &str = "application/problem+json";

/// How soon a client may repeat a request that failed because a part of the service was unavailable.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// The members that all problems of a type share.
#[derive(Debug, PartialEq, Eq)]
struct Kind {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
}

impl Kind {
    const fn new(status: StatusCode, slug: &'static str, title: &'static str) -> Self {
        Self {
            status,
            slug,
            title,
        }
    }
}

/// An error response: converts itself to `application/problem+json`. Its texts are for callers, so
/// they hold nothing internal.
#[derive(Debug)]
pub struct Problem {
    kind: &'static Kind,
    detail: String,
    members: Map<String, Value>,
    hint: Option<Hint>,
}

/// A header that goes with a problem.
#[derive(Clone, Copy, Debug)]
enum Hint {
    /// How to authenticate (RFC 6750, 3).
    Authenticate(&'static str),
    /// The scope that the token does not have (RFC 6750, 3).
    Scope(&'static str),
    RetryAfterSeconds(u64),
    /// The content encodings that the service accepts (RFC 9110, 15.5.16).
    AcceptEncoding(&'static str),
    /// The rest of the body was not read, so the connection cannot carry another request.
    CloseConnection,
}

/// An extension of each error response: the last part of its `type`, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slug(pub &'static str);

/// What a handler returns.
pub type Result<T> = std::result::Result<T, Problem>;

macro_rules! kind {
    ($status:ident, $slug:literal, $title:literal) => {{
        static KIND: Kind = Kind::new(StatusCode::$status, $slug, $title);
        &KIND
    }};
}

impl Problem {
    fn new(kind: &'static Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            members: Map::new(),
            hint: None,
        }
    }

    /// Adds a member to the problem.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        // Callers give structs, strings and numbers, which always have a JSON form.
        let value = serde_json::to_value(value).unwrap_or_default();
        self.members.insert(name.to_owned(), value);
        self
    }

    fn with_hint(mut self, hint: Hint) -> Self {
        self.hint = Some(hint);
        self
    }

    fn with_retry_after(self, wait: Duration) -> Self {
        // Whole seconds, rounded up, at least one.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.with_hint(Hint::RetryAfterSeconds(seconds.max(1)))
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.kind.status
    }

    /// The last part of its `type`.
    pub fn slug(&self) -> &'static str {
        self.kind.slug
    }

    /// The problem's type in words.
    pub fn title(&self) -> &'static str {
        self.kind.title
    }

    /// The members beyond those of RFC 9457.
    pub fn members(&self) -> &Map<String, Value> {
        &self.members
    }

    /// The JSON of the response.
    pub fn body(&self) -> Value {
        let mut body = Map::new();
        let address = format!("/problems/{}", self.kind.slug);
        body.insert("type".to_owned(), json!(address));
        body.insert("title".to_owned(), json!(self.kind.title));
        body.insert("status".to_owned(), json!(self.kind.status.as_u16()));
        body.insert("detail".to_owned(), json!(self.detail));
        body.extend(self.members.clone());
        Value::Object(body)
    }

    // For several calls ------------------------------------------------------------------------

    /// The body is not JSON, or a field has the wrong JSON type.
    pub fn malformed_request(detail: impl Into<String>) -> Self {
        Self::new(
            kind!(BAD_REQUEST, "malformed-request", "Malformed request"),
            detail,
        )
    }

    /// The request has no token.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::authenticate(detail, "Bearer")
    }

    /// The request has a token that is not valid here.
    pub fn invalid_token(detail: impl Into<String>) -> Self {
        Self::authenticate(detail, "Bearer error=\"invalid_token\"")
    }

    fn authenticate(detail: impl Into<String>, challenge: &'static str) -> Self {
        Self::new(
            kind!(UNAUTHORIZED, "unauthorized", "Authentication required"),
            detail,
        )
        .with_hint(Hint::Authenticate(challenge))
    }

    /// The token is valid, but its scope does not contain the one that the call needs.
    pub fn insufficient_scope(scope: &'static str) -> Self {
        Self::new(
            kind!(FORBIDDEN, "forbidden", "Not allowed"),
            format!("The token's scope does not contain {scope}."),
        )
        .with_hint(Hint::Scope(scope))
    }

    /// No route has this address.
    pub fn not_found() -> Self {
        Self::new(
            kind!(NOT_FOUND, "not-found", "Not found"),
            "There is nothing here.",
        )
    }

    /// The address exists, but not for this method. The router adds `Allow`.
    pub fn method_not_allowed() -> Self {
        Self::new(
            kind!(
                METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "Method not allowed"
            ),
            "This address does not have this method; Allow lists those it has.",
        )
    }

    /// The body did not arrive in time.
    pub fn request_timeout() -> Self {
        Self::new(
            kind!(
                REQUEST_TIMEOUT,
                "request-timeout",
                "The request took too long"
            ),
            "The body did not arrive in time.",
        )
        .with_hint(Hint::CloseConnection)
    }

    /// The head of the request is not valid HTTP.
    pub fn malformed_head(detail: impl Into<String>) -> Self {
        Self::malformed_request(detail).with_hint(Hint::CloseConnection)
    }

    /// The head of the request did not arrive in time.
    pub fn head_timeout() -> Self {
        Self {
            detail: "The request's head did not arrive in time.".to_owned(),
            ..Self::request_timeout()
        }
    }

    /// The first line of the request is larger than `limit_bytes`.
    pub fn uri_too_long(limit_bytes: usize) -> Self {
        Self::new(
            kind!(URI_TOO_LONG, "uri-too-long", "URI too long"),
            format!("The request's first line is larger than {limit_bytes} bytes."),
        )
        .with_hint(Hint::CloseConnection)
    }

    /// The head of the request has too many fields, or is too large.
    pub fn header_fields_too_large(detail: impl Into<String>) -> Self {
        Self::new(
            kind!(
                REQUEST_HEADER_FIELDS_TOO_LARGE,
                "header-fields-too-large",
                "Header fields too large"
            ),
            detail,
        )
        .with_hint(Hint::CloseConnection)
    }

    /// The response has no form that the caller accepts; `there` lists its forms.
    pub fn not_acceptable(there: &'static str) -> Self {
        Self::new(
            kind!(NOT_ACCEPTABLE, "not-acceptable", "Not acceptable"),
            format!("Accept names no form of the response; its forms are: {there}."),
        )
    }

    /// The body has a content encoding that the service does not accept; it accepts `accepted`.
    pub fn unsupported_encoding(accepted: &'static str) -> Self {
        Self::new(
            kind!(
                UNSUPPORTED_MEDIA_TYPE,
                "unsupported-encoding",
                "Unsupported content encoding"
            ),
            format!("The body's Content-Encoding is not accepted; these are: {accepted}."),
        )
        .with_hint(Hint::AcceptEncoding(accepted))
    }

    /// The body is larger than `limit_bytes`.
    pub fn too_large(limit_bytes: usize) -> Self {
        Self::new(
            kind!(PAYLOAD_TOO_LARGE, "too-large", "Too large"),
            format!("The body is larger than {limit_bytes} bytes."),
        )
        .with_hint(Hint::CloseConnection)
    }

    /// These fields are wrong. If one has the wrong JSON type, the whole request is malformed.
    pub fn invalid_request(errors: Vec<FieldError>) -> Self {
        if let Some(error) = errors.iter().find(|error| error.wrong_type) {
            let detail = format!("{} {}.", error.field, error.reason);
            return Self::malformed_request(detail).with("errors", errors);
        }
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        let detail = format!("Not acceptable: {}.", fields.join(", "));
        Self::new(
            kind!(UNPROCESSABLE_ENTITY, "invalid-request", "Invalid request"),
            detail,
        )
        .with("errors", errors)
    }

    /// One field is wrong.
    pub fn invalid_field(field: &str, reason: impl Into<String>) -> Self {
        Self::invalid_request(vec![FieldError::invalid(field, reason)])
    }

    /// The client has used up its share; it has room again after `wait`.
    pub fn too_many_requests(wait: Duration) -> Self {
        Self::new(
            kind!(TOO_MANY_REQUESTS, "too-many-requests", "Too many requests"),
            "More requests than one client may send; Retry-After says when to continue.",
        )
        .with_retry_after(wait)
    }

    /// A part of the service is unavailable or full. Repeating is safe; whether the request took effect
    /// is unknown.
    pub fn temporarily_unavailable() -> Self {
        Self::new(
            kind!(
                SERVICE_UNAVAILABLE,
                "temporarily-unavailable",
                "Temporarily unavailable"
            ),
            "The request could not be answered just now; repeating it is safe.",
        )
        .with_retry_after(RETRY_SOON)
    }

    /// The call would write what the release before cannot read, and a process of it may still run.
    pub fn upgrade_unfinished() -> Self {
        Self::new(
            kind!(CONFLICT, "upgrade-unfinished", "Upgrade unfinished"),
            "The service is being upgraded; this is possible once every process runs the new release.",
        )
    }

    /// A fault of the service. Log the cause where this is made: the caller is not told it.
    pub fn internal_error() -> Self {
        Self::new(
            kind!(INTERNAL_SERVER_ERROR, "internal-error", "Internal error"),
            "Something is broken here; it has been recorded.",
        )
    }

    // For single calls -------------------------------------------------------------------------

    /// Start: the client took part before.
    pub fn already_participated(participation: &impl Serialize) -> Self {
        Self::new(
            kind!(CONFLICT, "already-participated", "Already participated"),
            "A promotion can be taken part in only once.",
        )
        .with("participation", participation)
    }

    /// Start: there is no such promotion.
    pub fn promotion_not_found() -> Self {
        Self::new(
            kind!(NOT_FOUND, "promotion-not-found", "No such promotion"),
            "There is no promotion of this id.",
        )
    }

    /// Start: these rules failed, in the contract's order.
    pub fn not_eligible(reasons: &[EligibilityRule]) -> Self {
        Self::new(
            kind!(CONFLICT, "not-eligible", "Not eligible"),
            "The client may not start this promotion; reasons says why.",
        )
        .with("reason", reasons.first())
        .with("reasons", reasons)
    }

    /// The client does not take part in this promotion.
    pub fn not_participating() -> Self {
        Self::new(
            kind!(NOT_FOUND, "not-participating", "Not participating"),
            "The client does not take part in this promotion.",
        )
    }

    /// Acknowledge: the participation has not expired.
    pub fn not_expired() -> Self {
        Self::new(
            kind!(CONFLICT, "not-expired", "Not expired"),
            "The participation has not expired.",
        )
    }

    /// Reward: rides are still missing.
    pub fn challenge_not_completed() -> Self {
        Self::new(
            kind!(
                CONFLICT,
                "challenge-not-completed",
                "Challenge not completed"
            ),
            "The challenge is not completed yet.",
        )
    }

    /// Reward: the challenge expired before it was completed, was quit or was cancelled.
    pub fn challenge_over(reason: ExpiredReason) -> Self {
        Self::new(
            kind!(GONE, "challenge-over", "The challenge is over"),
            "The challenge ended without a reward; expired_reason says why.",
        )
        .with("expired_reason", reason)
    }

    /// Quit: the challenge is completed or over.
    pub fn challenge_not_in_progress() -> Self {
        Self::new(
            kind!(
                CONFLICT,
                "challenge-not-in-progress",
                "Challenge not in progress"
            ),
            "Only a challenge that is in progress can be quit.",
        )
    }

    /// Reward: it was not claimed in time.
    pub fn reward_expired() -> Self {
        Self::new(
            kind!(GONE, "reward-expired", "The reward has expired"),
            "The reward was not claimed in time.",
        )
    }

    /// Reward: it was accepted before; `application` is the result.
    pub fn already_rewarded(application: impl Serialize) -> Self {
        Self::new(
            kind!(CONFLICT, "already-rewarded", "Already rewarded"),
            "The reward was accepted before.",
        )
        .with("application", application)
    }

    /// Accept: the split does not exist any more, and the promotion does not make another.
    pub fn split_missing() -> Self {
        Self::new(
            kind!(CONFLICT, "split-missing", "Split missing"),
            "The client has no active split for this promotion.",
        )
    }

    /// Accept: a restore may have lost a reward of the client, and an operator is checking that.
    pub fn reward_under_review() -> Self {
        Self::new(
            kind!(CONFLICT, "reward-under-review", "Reward under review"),
            "An earlier reward of the client is being checked; try again later.",
        )
    }

    /// Admin: another promotion has this key.
    pub fn promotion_key_taken() -> Self {
        Self::new(
            kind!(CONFLICT, "promotion-key-taken", "Promotion key taken"),
            "Another promotion has this promotion_key.",
        )
    }

    /// Admin: the resource is not in the state that the caller saw.
    pub fn precondition_failed() -> Self {
        Self::new(
            kind!(
                PRECONDITION_FAILED,
                "precondition-failed",
                "Precondition failed"
            ),
            "The resource has changed or does not exist: read it again before you decide.",
        )
    }

    /// Admin: the participation is rewarded or expired.
    pub fn not_live() -> Self {
        Self::new(
            kind!(CONFLICT, "not-live", "Not live"),
            "Only a participation that is in progress, or whose reward can be accepted, can be cancelled.",
        )
    }

    /// Admin: the promotion already had starts that no budget counted.
    pub fn budget_too_late() -> Self {
        Self::new(
            kind!(CONFLICT, "budget-too-late", "Budget too late"),
            "The promotion has had starts without a budget; create another promotion with one.",
        )
    }

    /// Admin: the quarantined ride was replayed or dismissed before.
    pub fn already_resolved() -> Self {
        Self::new(
            kind!(CONFLICT, "already-resolved", "Already resolved"),
            "The quarantined ride was replayed or dismissed before.",
        )
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            error if error.is_unavailable() => {
                // Readiness logs an outage once; a line for each request would hide it.
                tracing::debug!(%error, "postgres is unavailable");
                Self::temporarily_unavailable()
            }
            StoreError::UpgradeUnfinished => Self::upgrade_unfinished(),
            StoreError::PreconditionFailed => Self::precondition_failed(),
            error => {
                tracing::error!(%error, "the store failed");
                Self::internal_error()
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status, self.body().to_string()).into_response();
        response.extensions_mut().insert(Slug(self.kind.slug));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_PROBLEM));
        // Caches may keep some statuses, such as 404 and 410, unless told not to (RFC 9111, 4.2.2).
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.hint {
            Some(Hint::Authenticate(challenge)) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Some(Hint::Scope(scope)) => {
                let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
                // A scope consists of letters, hyphens and colons, so it is a valid header value.
                if let Ok(challenge) = HeaderValue::from_str(&challenge) {
                    headers.insert(WWW_AUTHENTICATE, challenge);
                }
            }
            Some(Hint::RetryAfterSeconds(seconds)) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            Some(Hint::AcceptEncoding(accepted)) => {
                headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            }
            Some(Hint::CloseConnection) => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            None => {}
        }
        response
    }
}

/// A field that is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct FieldProblem {
    /// The field's path, such as `conditions.target_rides`.
    pub field: String,
    /// What it should have been.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(problem: Problem) -> (StatusCode, axum::http::HeaderMap, Value) {
        let response = problem.into_response();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("body");
        let body = serde_json::from_slice(&bytes).expect("JSON");
        (parts.status, parts.headers, body)
    }

    #[tokio::test]
    async fn invalid_fields_are_named_and_a_wrong_type_is_malformed() {
        let (status, headers, body) =
            answer(Problem::invalid_field("limit", "must be 1 to 200")).await;
        assert_eq!(status, 422);
        assert_eq!(headers[CONTENT_TYPE], CONTENT_TYPE_PROBLEM);
        assert_eq!(body["type"], "/problems/invalid-request");
        assert_eq!(
            body["errors"],
            json!([{ "field": "limit", "reason": "must be 1 to 200" }])
        );
        let errors = vec![
            FieldError::invalid("a", "must be positive"),
            FieldError::wrong_type("b", "must be an integer, got \"1\""),
        ];
        let (status, _, body) = answer(Problem::invalid_request(errors)).await;
        assert_eq!(status, 400);
        assert_eq!(body["type"], "/problems/malformed-request");
        assert_eq!(body["detail"], "b must be an integer, got \"1\".");
    }

    #[tokio::test]
    async fn says_how_to_go_on() {
        let (_, headers, _) = answer(Problem::unauthorized("No token.")).await;
        assert_eq!(headers[WWW_AUTHENTICATE], "Bearer");
        let (status, headers, _) = answer(Problem::insufficient_scope("ride-promo:edit")).await;
        assert_eq!(status, 403);
        assert_eq!(
            headers[WWW_AUTHENTICATE],
            "Bearer error=\"insufficient_scope\", scope=\"ride-promo:edit\""
        );
        let (_, headers, _) = answer(Problem::invalid_token("Not this one.")).await;
        assert_eq!(headers[WWW_AUTHENTICATE], "Bearer error=\"invalid_token\"");
        let (_, headers, _) =
            answer(Problem::too_many_requests(Duration::from_millis(1_001))).await;
        assert_eq!(headers[RETRY_AFTER], "2");
        let (status, headers, _) =
            answer(StoreError::Unavailable(sqlx::Error::PoolTimedOut).into()).await;
        assert_eq!(status, 503);
        assert_eq!(headers[RETRY_AFTER], "1");
        let (status, _, body) = answer(StoreError::UpgradeUnfinished.into()).await;
        assert_eq!(
            (status.as_u16(), &body["type"]),
            (409, &json!("/problems/upgrade-unfinished"))
        );
        let (status, _, body) = answer(StoreError::Corrupt("secret".to_owned()).into()).await;
        assert_eq!(status, 500);
        assert!(!body.to_string().contains("secret"));
    }
}
