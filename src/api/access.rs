//! A log line for every admin call, and for every rejected token: the caller, the call and the
//! outcome. It never has a body, a query or a token.

use std::sync::{Arc, OnceLock};
use std::time::Instant as Monotonic;

use axum::http::StatusCode;
use axum::response::Response;

use super::problem::Slug;

/// The longest method and path in a line, in characters.
const MAX_CALL_CHARS: usize = 300;

/// The base path of the admin calls. A line leaves it out, as the audit does.
const ADMIN_BASE: &str = "/admin/v1";

/// The caller, known once the token was read. It is put into the request before the handler runs, and
/// read when the response is ready.
#[derive(Clone, Debug, Default)]
pub struct Caller(Arc<OnceLock<String>>);

impl Caller {
    /// Sets the caller; a later call changes nothing.
    pub fn is(&self, actor: &str) {
        // If it is set already, then by the same request to the same value.
        let _ = self.0.set(actor.to_owned());
    }

    fn name(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// The line of one request. It is written with the response, or when the request is dropped without
/// one, as at the end of a shutdown.
#[derive(Debug)]
pub struct AccessLine {
    is_admin: bool,
    call: String,
    request_id: String,
    caller: Caller,
    began: Monotonic,
    written: bool,
}

impl AccessLine {
    /// For a request that has just arrived. Every admin call gets a line; any other call gets one only
    /// if its token is rejected.
    pub fn begin(is_admin: bool, method: &str, path: &str, request_id: &str) -> Self {
        let path = path.strip_prefix(ADMIN_BASE).unwrap_or(path);
        let call = format!("{method} {path}");
        Self {
            is_admin,
            call: call.chars().take(MAX_CALL_CHARS).collect(),
            request_id: request_id.to_owned(),
            caller: Caller::default(),
            began: Monotonic::now(),
            written: false,
        }
    }

    /// Where the extractor sets the caller.
    pub fn caller(&self) -> Caller {
        self.caller.clone()
    }

    /// Writes the line, if the request gets one.
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
                "token rejected"
            },
        );
    }
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        if !self.written && self.is_admin {
            // The call may still take effect.
            self.write("unanswered", None);
        }
    }
}
