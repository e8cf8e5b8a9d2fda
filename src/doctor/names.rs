//! Checks that the configured hosts, and those that brokers advertise, have addresses on this
//! machine.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use futures::future::join_all;

use super::{Report, TIMEOUT};
use crate::config::Config;
use crate::kafka::BrokerAddress;
use crate::postgres::DatabaseUrl;

/// The hosts of the configuration. Addresses need no look-up and are left out.
pub(super) async fn examine(report: &mut Report<'_>, config: &Config) -> io::Result<()> {
    let mut hosts = BTreeMap::new();
    // Only the first place of each name is reported.
    let mut host = |host: String, from| {
        hosts.entry(host).or_insert(from);
    };
    for broker in config.kafka.brokers.split(',') {
        host(host_of_broker(broker), "KAFKA_BROKERS");
    }
    // Its form was checked with the configuration. A path is a socket's directory.
    let url = DatabaseUrl::parse(config.database.url.expose()).ok();
    for options in url.iter().flat_map(DatabaseUrl::hosts) {
        if options.get_socket().is_none() && !options.get_host().starts_with('/') {
            host(options.get_host().to_owned(), "DATABASE_URL");
        }
    }
    for (jwks, key) in [
        (&config.auth.jwks, "auth.jwks"),
        (&config.admin_auth.jwks, "admin_auth.jwks"),
    ] {
        let url = jwks.as_deref().map(reqwest::Url::parse);
        if let Some(Ok(url)) = url
            && let Some(name) = url.host_str()
        {
            host(name.to_owned(), key);
        }
    }
    look_up(report, hosts).await
}

/// The hosts that brokers advertise. Every client connects to these, whatever address it asked
/// first.
pub(super) async fn advertised(
    report: &mut Report<'_>,
    brokers: &[BrokerAddress],
) -> io::Result<()> {
    let hosts = brokers
        .iter()
        .map(|broker| (broker.host.clone(), "what a broker advertises"));
    look_up(report, hosts.collect()).await
}

async fn look_up(report: &mut Report<'_>, hosts: BTreeMap<String, &'static str>) -> io::Result<()> {
    let looked_up =
        hosts
            .into_iter()
            .filter(|(host, _)| !is_address(host))
            .map(async |(host, from)| {
                // The look-up needs a port; any will do.
                let look_up = async {
                    let found = tokio::net::lookup_host((&*host, 0)).await;
                    found.map(|found| found.map(|address| address.ip()).collect::<Vec<_>>())
                };
                let found = match tokio::time::timeout(TIMEOUT, look_up).await {
                    Ok(found) => found.map_err(|error| error.to_string()),
                    Err(_) => Err("no response in time".to_owned()),
                };
                (host, from, found)
            });
    for (host, from, found) in join_all(looked_up).await {
        let failure = match found {
            Ok(addresses) if !addresses.is_empty() => {
                let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                report.ok("dns", &format!("{host} is {}", addresses.join(", ")))?;
                continue;
            }
            Ok(_) => "no address".to_owned(),
            Err(error) => error,
        };
        report.fail(
            "dns",
            &format!("{host} ({from}): {failure}"),
            "check the name, and that the resolver of this machine knows it",
        )?;
    }
    Ok(())
}

/// `SSL://[::1]:9092` → `::1`.
fn host_of_broker(broker: &str) -> String {
    let broker = broker.trim();
    let address = broker
        .split_once("://")
        .map_or(broker, |(_, address)| address);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.to_owned()
}

fn is_address(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.is_empty() || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brokers_host_is_found_and_addresses_are_told_from_names() {
        for (broker, host, address) in [
            ("kafka:9092", "kafka", false),
            (" SASL_SSL://kafka.example:9093", "kafka.example", false),
            ("[::1]:9092", "[::1]", true),
            ("10.0.0.1:9092", "10.0.0.1", true),
        ] {
            assert_eq!(host_of_broker(broker), host);
            assert_eq!(is_address(host), address, "{host}");
        }
    }
}
