//! The text that is printed when everything is ready: where things are, and how to look at them.
//!
//! A token is long. Each stands alone on its line, from the first column, so that it is copied
//! whole on a terminal of any width.

use std::fmt::Write as _;

use super::Stage;
use super::api::Api;
use super::guests::Guests;
use crate::config::format_duration;

/// The servers of this run, in words.
pub(super) struct Servers {
    pub(super) postgres: String,
    pub(super) kafka: String,
    /// This run started Postgres. The URL of another one has a password, which is not printed.
    pub(super) is_private: bool,
}

impl Stage {
    /// The text.
    pub(super) fn welcome(
        &self,
        api: &Api,
        guests: Guests,
        promotion_id: i64,
        terms: &str,
    ) -> anyhow::Result<String> {
        let (base, admin) = (api.base(), api.admin_base());
        let title = |text: &str| self.screen.title(text);
        let mut text = format!(
            "
{}
{}
{admin}/console#token={}

Client API {base}/v1
Admin API  {admin}/admin/v1
Swagger UI {admin}/docs
Metrics    {admin}/metrics   probes {admin}/livez {admin}/readyz
Postgres   {}
Kafka      {}
",
            title("Everything is ready"),
            title("The operator console: this link signs in"),
            api.admin_token(),
            self.servers.postgres,
            self.servers.kafka,
        );
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "\n{}", title("The client's pages"));
        for (user_id, what) in [
            (
                guests.journey,
                format!("take part yourself: {terms}; a ride arrives every five seconds"),
            ),
            (
                guests.uncounted,
                "rides that did not count, and why".to_owned(),
            ),
            (
                guests.expired,
                "an expired reward; ready within half a minute".to_owned(),
            ),
            (guests.rewarded, "an application for the loan".to_owned()),
        ] {
            let token = api.token_of(user_id)?;
            let _ = writeln!(text, "Client {user_id}: {what}\n{base}/app#token={token}");
        }
        let token = api.token_of(guests.journey)?;
        let _ = writeln!(
            text,
            "
{}
TOKEN={token}
curl -X POST -H \"Authorization: Bearer $TOKEN\" {base}/v1/promotions/{promotion_id}/start
curl -H \"Authorization: Bearer $TOKEN\" {base}/v1/promotions/{promotion_id}/progress
curl -H \"Authorization: Bearer $TOKEN\" {base}/v1/promotions/{promotion_id}/get_reward
curl -X POST -H \"Authorization: Bearer $TOKEN\" {base}/v1/promotions/{promotion_id}/accept_reward

{}
ADMIN_TOKEN={}
curl -H \"Authorization: Bearer $ADMIN_TOKEN\" {admin}/admin/v1/stats

{}",
            title(&format!("The same with curl, as client {}", guests.journey)),
            title("As an operator"),
            api.admin_token(),
            title(
                "Other commands against this demo: paste these lines into a shell, then for example"
            ),
        );
        let program = std::env::current_exe().unwrap_or_else(|_| "ride-promo".into());
        let program = program.display();
        let _ = writeln!(
            text,
            "#   {program} token --user 48199\n#   {program} doctor\n#   psql \"$DATABASE_URL\""
        );
        for (name, value) in self.environment() {
            let _ = writeln!(text, "export {name}='{value}'");
        }
        let ends = match self.duration {
            Some(duration) => format!("It ends after {}.", format_duration(duration)),
            None => "It runs until you press Ctrl-C.".to_owned(),
        };
        let _ = writeln!(text, "\n{ends}");
        Ok(text)
    }

    /// The variables with which other commands use the servers of this run. The values contain no
    /// quotes: they are addresses, names and hexadecimal digits.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let config = &self.config;
        let mut set = Vec::new();
        if self.servers.is_private {
            set.push(("DATABASE_URL", config.database.url.expose().to_owned()));
        }
        set.extend([
            ("KAFKA_BROKERS", config.kafka.brokers.clone()),
            (
                "RIDE_PROMO__KAFKA__RIDE_TOPIC",
                config.kafka.ride_topic.clone(),
            ),
            (
                "RIDE_PROMO__KAFKA__STATUS_TOPIC",
                config.kafka.status_topic.clone(),
            ),
            (
                "RIDE_PROMO__KAFKA__REMINDER_TOPIC",
                config.kafka.reminder_topic.clone(),
            ),
            ("RIDE_PROMO__KAFKA__GROUP_ID", config.kafka.group_id.clone()),
            (
                "RIDE_PROMO__AUTH__ALGORITHM",
                config.auth.algorithm.as_str().to_owned(),
            ),
        ]);
        if let Some(secret) = &config.auth.hs256_secret {
            set.push(("RIDE_PROMO__AUTH__HS256_SECRET", secret.expose().to_owned()));
        }
        set
    }
}
