//! What each role of this process reports for `/readyz`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A role of the process; each can run in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Role {
    /// Serves clients and operators.
    Api,
    /// Applies rides.
    Ingest,
    /// Publishes status changes.
    Relay,
    /// Expires challenges and rewards.
    Sweep,
}

impl Role {
    /// Its name on the command line and in `/readyz`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Ingest => "ingest",
            Self::Relay => "relay",
            Self::Sweep => "sweep",
        }
    }
}

/// The roles that run here; each reports whether it can do its work, or why not.
#[derive(Debug)]
pub struct Readiness(Mutex<BTreeMap<Role, Result<(), String>>>);

impl Readiness {
    /// These roles, none of them ready yet.
    pub fn new(roles: &[Role]) -> Self {
        Self(Mutex::new(
            roles
                .iter()
                .map(|role| (*role, Err("starting".to_owned())))
                .collect(),
        ))
    }

    /// Records the report of a role. A role that does not run here stays unknown.
    pub fn set(&self, role: Role, state: Result<(), String>) {
        let mut roles = self.lock();
        if let Some(known) = roles.get_mut(&role) {
            if *known != state {
                match &state {
                    Ok(()) => tracing::info!(role = role.as_str(), "ready"),
                    Err(why) => tracing::warn!(role = role.as_str(), why, "not ready"),
                }
            }
            *known = state;
        }
    }

    /// Whether a role's last report says that it can do its work.
    pub fn is_ready(&self, role: Role) -> bool {
        matches!(self.lock().get(&role), Some(Ok(())))
    }

    /// Whether a role's reason for not being ready is one of these, so that its reporter can
    /// withdraw it.
    pub fn says(&self, role: Role, reasons: &[&str]) -> bool {
        matches!(self.lock().get(&role), Some(Err(why)) if reasons.contains(&why.as_str()))
    }

    /// The last report of every role.
    pub fn snapshot(&self) -> BTreeMap<Role, Result<(), String>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Role, Result<(), String>>> {
        // A panic under this lock leaves a consistent map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
