//! `healthcheck`: checks the process that serves on this machine, for the health check of a
//! container, which has no other program for that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// The timeout; shorter than the default of a container's health check.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The check to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// `/livez`: the process responds. For a supervisor that restarts a process that does not.
    Alive,
    /// `/readyz`: every role can do its work.
    Ready,
}

/// Asks the listener that the setting `name` puts at `listen`, and returns what it said; an error where
/// that is not well.
pub async fn ask((listen, name): (SocketAddr, &str), check: Check) -> anyhow::Result<String> {
    let path = match check {
        Check::Alive => "/livez",
        Check::Ready => "/readyz",
    };
    let address = reachable(listen);
    let client = reqwest::Client::builder()
        // This machine is not behind a proxy of its own.
        .no_proxy()
        .timeout(TIMEOUT)
        .build()?;
    let asked = client.get(format!("http://{address}{path}")).send().await;
    let answer = asked.with_context(|| format!("no response from {address} ({name})"))?;
    let status = answer.status();
    let text = answer.text().await.context("the answer broke off")?;
    let text = text.trim();
    if !status.is_success() {
        bail!("{path} at {address} answers {}: {text}", status.as_u16());
    }
    Ok(text.to_owned())
}

/// The address of a listener on its own machine: the loopback interface, if it listens on all
/// addresses.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_the_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:8081", "127.0.0.1:8081"),
            ("[::]:8081", "[::1]:8081"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            let listen = listen.parse().expect("an address");
            assert_eq!(reachable(listen).to_string(), asked);
        }
    }
}
