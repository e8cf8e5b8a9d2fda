//! What a supervisor such as systemd is told (`sd_notify`): that the process is ready, what it waits
//! for, that it still turns, that it stops. Where nobody asked for it, nothing happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::readiness::{Readiness, Role};

/// How often readiness is looked at until the process was ready once, and afterwards.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Tells the supervisor until `stop`: `READY=1` once every role has been ready, `STATUS=` with every
/// change, `WATCHDOG=1` twice in the time that was asked for. Ends with `STOPPING=1`.
///
/// It runs on the runtime that everything else runs on, so the watchdog barks when that is stuck.
pub async fn tell(readiness: Arc<Readiness>, stop: CancellationToken) {
    if std::env::var_os("NOTIFY_SOCKET").is_none_or(|socket| socket.is_empty()) {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled().map(|within| within / 2);
    let every = watchdog.map_or(LOOK_INTERVAL, |half| half.min(LOOK_INTERVAL));
    // A zero would be no interval.
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

/// One line, as a supervisor shows it.
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
    // A supervisor that is away finds out by itself.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the supervisor was not told");
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
