//! `DATABASE_URL`: one database on one or several hosts. An unknown parameter is an error, because
//! a misspelled `sslmode` would connect without encryption.

use sqlx::postgres::PgConnectOptions;

use crate::did_you_mean;

/// The parameters that may follow `?`.
const PARAMETERS: [&str; 19] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "statement-cache-capacity",
    "user",
    "ssl-mode",
    "ssl-root-cert",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
];

/// Why a URL cannot be used. The texts repeat nothing that may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not have the form of a URL.
    #[error(
        "is not a URL of the form postgres://user:password@host:port/database, or host1:port1,host2:port2 for several hosts"
    )]
    Form,
    /// A parameter that would have no effect.
    #[error("has the parameter {name:?}, which is not supported{hint}")]
    Parameter {
        /// Its name.
        name: String,
        /// A parameter that may have been meant.
        hint: String,
    },
    /// A kind of server that the service cannot work on.
    #[error(
        "has target_session_attrs={0:?}; the service works on the primary only: read-write, primary or any"
    )]
    Target(String),
    /// Several hosts in a parameter that allows one only.
    #[error(
        "names several hosts or ports in the parameter {0:?}; write them before the database: host1:port1,host2:port2"
    )]
    SeveralIn(String),
}

/// A parsed URL: the same database on each host, in the order in which they are tried.
#[derive(Clone, Debug)]
pub struct DatabaseUrl {
    hosts: Vec<PgConnectOptions>,
}

impl DatabaseUrl {
    /// Parses a URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Form)?;
        if !["postgres", "postgresql"].contains(&scheme) {
            return Err(UrlError::Form);
        }
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let query = check_parameters(query)?;
        let (authority, database) = match address.split_once('/') {
            Some((authority, database)) => (authority, format!("/{database}")),
            None => (address, String::new()),
        };
        // An `@` or a comma in a password is written as %40 or %2C, or stands before the last `@`.
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let several = hosts.contains(',');
        let hosts = hosts
            .split(',')
            .map(|host| {
                if several && host.is_empty() {
                    return Err(UrlError::Form);
                }
                format!("{scheme}://{user}{host}{database}{query}")
                    .parse()
                    .map_err(|_| UrlError::Form)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { hosts })
    }

    /// Every host, at least one.
    pub fn hosts(&self) -> &[PgConnectOptions] {
        &self.hosts
    }
}

/// Returns the query for sqlx with its `?`, without the parameters that only this service reads.
fn check_parameters(query: &str) -> Result<String, UrlError> {
    let mut kept = String::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "target_session_attrs" => {
                if !["read-write", "primary", "any"].contains(&value) {
                    return Err(UrlError::Target(value.to_owned()));
                }
                continue;
            }
            "host" | "hostaddr" | "port" if value.contains(',') || value.contains("%2C") => {
                return Err(UrlError::SeveralIn(name.to_owned()));
            }
            name if PARAMETERS.contains(&name) => {}
            name if is_setting(name) => {}
            name => {
                return Err(UrlError::Parameter {
                    name: name.to_owned(),
                    hint: did_you_mean::hint(name, PARAMETERS),
                });
            }
        }
        kept.push(if kept.is_empty() { '?' } else { '&' });
        kept.push_str(pair);
    }
    Ok(kept)
}

/// `options[name]`, brackets encoded or not.
fn is_setting(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let name = name.replace("%5b", "[").replace("%5d", "]");
    name.starts_with("options[") && name.ends_with(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<(String, u16, Option<String>, String)> {
        let url = DatabaseUrl::parse(text).expect("a URL");
        url.hosts()
            .iter()
            .map(|host| {
                (
                    host.get_host().to_owned(),
                    host.get_port(),
                    host.get_database().map(str::to_owned),
                    host.get_username().to_owned(),
                )
            })
            .collect()
    }

    #[test]
    fn one_host_or_several_are_the_same_database() {
        let place =
            |host: &str, port| (host.to_owned(), port, Some("db".to_owned()), "u".to_owned());
        assert_eq!(
            places("postgres://u:p@h1:5432,h2:6432/db?target_session_attrs=read-write"),
            [place("h1", 5432), place("h2", 6432)]
        );
        assert_eq!(
            places("postgresql://u@h1,[::1]:7/db?sslmode=disable&target_session_attrs=primary"),
            [place("h1", 5432), place("[::1]", 7)]
        );
        assert_eq!(
            places("postgres://u@h/db?options[work_mem]=4MB"),
            [place("h", 5432)]
        );
        assert_eq!(
            places("postgres://u@h/db?options%5Bwork_mem%5D=4MB"),
            [place("h", 5432)]
        );
        assert_eq!(
            places("postgres://u:a@b,c@h/db").len(),
            1,
            "a comma in a password"
        );
        let socket = DatabaseUrl::parse("postgres:///db?host=/run/postgresql").expect("a URL");
        assert!(socket.hosts()[0].get_socket().is_some());
    }

    #[test]
    fn what_would_be_ignored_is_an_error() {
        let wrong = |text: &str| DatabaseUrl::parse(text).expect_err(text).to_string();
        let misspelled = wrong("postgres://u@h/db?sslmoed=verify-full");
        assert!(
            misspelled.contains("\"sslmoed\"") && misspelled.contains("did you mean sslmode?"),
            "{misspelled}"
        );
        assert!(wrong("postgres://u@h/db?connect_timeout=3").contains("\"connect_timeout\""));
        for target in ["standby", "prefer-standby", "read-only", "nonsense"] {
            let text = format!("postgres://u@h/db?target_session_attrs={target}");
            assert!(wrong(&text).contains(target), "{text}");
        }
        for parameter in ["host=a,b", "port=1,2", "hostaddr=1.1.1.1%2C2.2.2.2"] {
            let text = format!("postgres://u@h/db?{parameter}");
            assert!(wrong(&text).contains("before the database"), "{text}");
        }
        for form in [
            "",
            "mysql://h/db",
            "postgres:h",
            "postgres://u@h1,,h2/db",
            "postgres://u@h:port/db",
            "postgres://u@h1:1,h2:port/db",
            "postgres://u@h/db?sslmode=nonsense",
        ] {
            assert_eq!(DatabaseUrl::parse(form).expect_err(form), UrlError::Form);
        }
    }
}
