//! `doctor`: one line for everything that the service needs, with the cure if something is wrong.

mod kafka;
mod names;
mod positions;
mod postgres;
mod privileges;

use std::io::{self, Write};
use std::time::Duration;

use chrono::{DateTime, Utc};
use jsonwebtoken::jwk::JwkSet;
use sqlx::postgres::PgConnection;

use crate::causes;
use crate::config::{AuthConfig, Config, ConfigError};
use crate::domain::time_zone::Database;
use crate::readiness::Role;

/// The timeout of one check.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the examination found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoctorOutcome {
    /// Every line is `ok`.
    Healthy,
    /// Some line is `FAIL`.
    Unhealthy,
    /// The configuration is wrong; nothing was contacted.
    Misconfigured,
}

/// Examines everything and writes one line each to `out`. `schema` says how the database's schema
/// compares with this program: what is fine, or what to do.
///
/// It is bounded: if nothing can be reached, it takes about half a minute. It changes nothing,
/// except that the transactional id `ride-promo-relay-<status topic>-doctor` remains. With
/// `broker_clock` it creates a topic for a moment, because Kafka has no request for its time.
/// Kafka tells its time in no other way.
pub async fn run(
    config: &Result<Config, ConfigError>,
    broker_clock: bool,
    roles: &[Role],
    schema: impl AsyncFnOnce(&mut PgConnection) -> Result<String, String>,
    out: &mut dyn Write,
) -> io::Result<DoctorOutcome> {
    let mut report = Report { out, failed: false };
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            for problem in &error.problems {
                report.fail("config", &problem.to_string(), "")?;
            }
            return Ok(DoctorOutcome::Misconfigured);
        }
    };
    report.ok("config", "every key is known and valid")?;
    for warning in &config.warnings {
        report.ok("config", &format!("note: {warning}"))?;
    }
    time_zones(&mut report, &Database::used())?;
    auth(&mut report, "auth", &config.auth).await?;
    if config.admin_auth != config.auth {
        auth(&mut report, "admin_auth", &config.admin_auth).await?;
    }
    names::examine(&mut report, config).await?;
    kafka::examine(&mut report, config, broker_clock).await?;
    postgres::examine(&mut report, config, roles, schema).await?;
    // The relay does not read positions.
    if roles.iter().any(|role| *role != Role::Relay) {
        positions::examine(&mut report, config).await?;
    }
    Ok(if report.failed {
        DoctorOutcome::Unhealthy
    } else {
        DoctorOutcome::Healthy
    })
}

/// Writes the lines.
struct Report<'a> {
    out: &'a mut dyn Write,
    failed: bool,
}

impl Report<'_> {
    fn ok(&mut self, subject: &str, finding: &str) -> io::Result<()> {
        writeln!(self.out, "ok    {subject}: {finding}")
    }

    /// `cure` says what to do, if `finding` does not say it.
    fn fail(&mut self, subject: &str, finding: &str, cure: &str) -> io::Result<()> {
        self.failed = true;
        let arrow = if cure.is_empty() { "" } else { " -> " };
        writeln!(self.out, "FAIL  {subject}: {finding}{arrow}{cure}")
    }
}

/// A clock that differs by this much is wrong: tokens would be accepted or refused at the wrong
/// time.
const LARGEST_CLOCK_DIFFERENCE_MS: i64 = 2_000;

/// Which time zone rules are used: those of the operating system's tz database, or those in this
/// program (contract 2).
fn time_zones(report: &mut Report<'_>, database: &Database) -> io::Result<()> {
    const SUBJECT: &str = "time zones";
    let built_in = Database::BUILT_IN_VERSION;
    match database {
        Database::BuiltIn => report.ok(
            SUBJECT,
            &format!(
                "tz database {built_in} of this program: the system has none (TZDIR, /usr/share/zoneinfo)"
            ),
        ),
        Database::System { directory, version } => {
            let directory = directory.display();
            match version.as_deref() {
                None => report.ok(
                    SUBJECT,
                    &format!("tz database of unknown version in {directory}"),
                ),
                // Versions are a year and a letter: 2025b, 2026a.
                Some(version) if version < built_in => report.ok(
                    SUBJECT,
                    &format!(
                        "note: tz database {version} in {directory}, older than {built_in}: update the package tzdata, local days may begin at the wrong hour"
                    ),
                ),
                Some(version) => {
                    report.ok(SUBJECT, &format!("tz database {version} in {directory}"))
                }
            }
        }
    }
}

/// Compares another machine's clock with this one's, which was read `before` and `after` it.
fn compare_clocks(
    report: &mut Report<'_>,
    subject: &str,
    there: DateTime<Utc>,
    before: DateTime<Utc>,
    after: DateTime<Utc>,
) -> io::Result<()> {
    // It was read at some moment between our two readings.
    let half = (after - before) / 2;
    let difference = (there - (before + half)).num_milliseconds();
    let uncertainty = half.num_milliseconds() + 1;
    let finding = format!("{difference} ms ahead of this machine, ±{uncertainty} ms");
    if difference.abs() > LARGEST_CLOCK_DIFFERENCE_MS + uncertainty {
        report.fail(subject, &finding, "let both machines follow NTP")
    } else {
        report.ok(subject, &finding)
    }
}

async fn auth(report: &mut Report<'_>, section: &str, auth: &AuthConfig) -> io::Result<()> {
    let algorithm = auth.algorithm.as_str();
    let Some(location) = &auth.jwks else {
        return report.ok(section, &format!("tokens are checked with {algorithm}"));
    };
    match jwks(location).await {
        Ok(keys) => report.ok(
            section,
            &format!("tokens are checked with {algorithm}; {location} has {keys} keys"),
        ),
        Err(error) => report.fail(
            section,
            &format!(
                "{location} is not a JSON Web Key Set: {}",
                causes::in_words(&error)
            ),
            &format!("check {section}.jwks and whether it can be reached from here"),
        ),
    }
}

/// The number of keys there; no key is an error.
async fn jwks(location: &str) -> anyhow::Result<usize> {
    let text = if location.starts_with("http://") || location.starts_with("https://") {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        let response = client.get(location).send().await?.error_for_status()?;
        response.text().await?
    } else {
        tokio::fs::read_to_string(location).await?
    };
    let keys = serde_json::from_str::<JwkSet>(&text)?.keys.len();
    anyhow::ensure!(keys > 0, "it has no keys");
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_beyond_two_seconds_and_what_the_way_took() {
        let at = |ms| DateTime::from_timestamp_millis(ms).expect("an instant");
        let says = |there, before, after| {
            let mut out = Vec::new();
            let mut report = Report {
                out: &mut out,
                failed: false,
            };
            compare_clocks(
                &mut report,
                "postgres clock",
                at(there),
                at(before),
                at(after),
            )
            .expect("a vector takes everything");
            let failed = report.failed;
            (failed, String::from_utf8(out).expect("text"))
        };
        let (failed, line) = says(1_010, 1_000, 1_020);
        assert_eq!(
            (failed, &*line),
            (
                false,
                "ok    postgres clock: 0 ms ahead of this machine, ±11 ms\n"
            )
        );
        assert!(!says(3_020, 1_000, 1_020).0, "within the uncertainty");
        let (failed, line) = says(-1_500, 1_000, 1_020);
        assert_eq!(
            (failed, &*line),
            (
                true,
                "FAIL  postgres clock: -2510 ms ahead of this machine, ±11 ms -> let both machines follow NTP\n"
            )
        );
    }
}
