//! Reports to a supervisor such as systemd (`sd_notify`) that the process is ready, what it waits
//! for, that it is alive, and that it stops. Without a supervisor it does nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::readiness::{Readiness, Role};

/// How often readiness is checked, until the process was ready once and after that.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Reports to the supervisor until `stop`: `READY=1` once every role has been ready, `STATUS=` with
/// every change, `WATCHDOG=1` twice in the interval that the supervisor asked for. It ends with
/// `STOPPING=1`.
///
/// It runs on the same runtime as all roles, so the watchdog fires if that runtime is stuck.
pub async fn tell(readiness: Arc<Readiness>, stop: CancellationToken) {
    if std::env::var_os("NOTIFY_SOCKET").is_none_or(|socket| socket.is_empty()) {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled().map(|within| within / 2);
    let every = watchdog.map_or(LOOK_INTERVAL, |half| half.min(LOOK_INTERVAL));
    // tokio does not allow an interval of zero.
    let mut tick = tokio::time::interval(every.max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_ready = false;
    let mut said = String::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        let roles = readiness.snapshot();
        let status = status(&roles);
        if status != said {
            send(&[NotifyState::Status(&status)]);
            said = status;
        }
        if !was_ready && roles.values().all(Result::is_ok) {
            was_ready = true;
            send(&[NotifyState::Ready]);
        }
        if watchdog.is_some() {
            send(&[NotifyState::Watchdog]);
        }
    }
    send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// One line, because a supervisor shows one.
fn status(roles: &BTreeMap<Role, Result<(), String>>) -> String {
    let waiting: Vec<String> = roles
        .iter()
        .filter_map(|(role, state)| {
            let why = state.as_ref().err()?;
            Some(format!("{}: {}", role.as_str(), why.replace('\n', " ")))
        })
        .collect();
    if waiting.is_empty() {
        "ready".to_owned()
    } else {
        waiting.join("; ")
    }
}

fn send(state: &[NotifyState<'_>]) {
    // An unavailable supervisor is not an error of this process.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the supervisor could not be notified");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_one_line() {
        let roles = BTreeMap::from([
            (Role::Api, Ok(())),
            (Role::Ingest, Err("Kafka\nis away".to_owned())),
            (Role::Sweep, Err("starting".to_owned())),
        ]);
        assert_eq!(status(&roles), "ingest: Kafka is away; sweep: starting");
        assert_eq!(status(&BTreeMap::from([(Role::Api, Ok(()))])), "ready");
    }
}
