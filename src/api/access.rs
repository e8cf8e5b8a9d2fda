//! A line in the log for every admin call, and for every token that was refused: who, what, and what
//! came of it. Never a body, a query or a token.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::http::StatusCode;
use axum::response::Response;

use super::problem::Slug;

/// The longest call that is written down, in characters.
const MAX_CALL_CHARS: usize = 300;

/// Where the admin calls are; a line leaves it out, as the audit does.
const ADMIN_BASE: &str = "/admin/v1";

/// Who is calling, once the token was read. It goes into the request before the handler has it, and
/// is read when the response is there.
#[derive(Clone, Debug, Default)]
pub struct Caller(Arc<OnceLock<String>>);

impl Caller {
    /// Notes the operator; the first word holds.
    pub fn is(&self, actor: &str) {
        // Set already: by the same request, to the same.
        let _ = self.0.set(actor.to_owned());
    }

    fn name(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// The line of one request. It is written with the response, or when the request is dropped before
/// there is one, as at the end of a stop.
#[derive(Debug)]
pub struct AccessLine {
    is_admin: bool,
    call: String,
    request_id: String,
    caller: Caller,
    began: Instant,
    written: bool,
}

impl AccessLine {
    /// Of a request that has just come. `is_admin` says whether it is an admin call, of which every
    /// one is written down; of others only a refused token is.
    pub fn begin(is_admin: bool, method: &str, path: &str, request_id: &str) -> Self {
        let path = path.strip_prefix(ADMIN_BASE).unwrap_or(path);
        let call = format!("{method} {path}");
        Self {
            is_admin,
            call: call.chars().take(MAX_CALL_CHARS).collect(),
            request_id: request_id.to_owned(),
            caller: Caller::default(),
            began: Instant::now(),
            written: false,
        }
    }

    /// Where the caller is noted.
    pub fn caller(&self) -> Caller {
        self.caller.clone()
    }

    /// Writes the line, if the request leaves one.
    pub fn answered(mut self, response: &Response) {
        self.written = true;
        let status = response.status();
        let is_refused_token = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status);
        if !self.is_admin && !is_refused_token {
            return;
        }
        let slug = response.extensions().get::<Slug>();
        let outcome = slug.map_or("ok", |Slug(slug)| slug);
        self.write(outcome, Some(status.as_u16()));
    }

    fn write(&self, outcome: &str, status: Option<u16>) {
        tracing::info!(
            actor = self.caller.name(),
            call = self.call,
            outcome,
            status,
            request_id = self.request_id,
            elapsed_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "{}",
            if self.is_admin {
                "admin call"
            } else {
                "token refused"
            },
        );
    }
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        if !self.written && self.is_admin {
            // What it began may still be done.
            self.write("unanswered", None);
        }
    }
}
