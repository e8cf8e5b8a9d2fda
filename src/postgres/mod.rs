//! How Postgres is reached: what `DATABASE_URL` may say, which of its hosts is the primary, and how a
//! session begins.

mod connector;
mod pooler;
mod session;
mod url;

pub use connector::{Connector, NoServer, NoServerReason, place};
pub use pooler::{SHARED_SESSIONS, lost_options, shares_sessions};
pub use session::{SESSION_NAME, Settings, State, set_up, state};
pub use url::{DatabaseUrl, UrlError};
