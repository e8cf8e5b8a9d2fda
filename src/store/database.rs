//! Creates and removes whole databases; the demo uses one of its own.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

/// Creates a database on the server of `url`, through the database that the URL names. The name may have
/// only lower-case letters, digits and underscores.
pub async fn create(url: &str, name: &str) -> sqlx::Result<()> {
    // From template0, because the server's operators may have added objects to template1.
    execute(
        url,
        format!("create database {} template template0", checked(name)?),
    )
    .await
}

/// Removes a database and closes all connections to it.
pub async fn remove(url: &str, name: &str) -> sqlx::Result<()> {
    execute(
        url,
        format!("drop database if exists {} with (force)", checked(name)?),
    )
    .await
}

/// The URL of another database on the same server.
pub fn with_name(url: &str, name: &str) -> sqlx::Result<String> {
    // sqlx checks the URL as for every connection; the rest is text.
    url.parse::<PgConnectOptions>()?;
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let (address, query) = match rest.split_once('?') {
        Some((address, query)) => (address, Some(query)),
        None => (rest, None),
    };
    let authority = address
        .split_once('/')
        .map_or(address, |(before, _)| before);
    // These parameters would name the database again.
    let query: String = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter(|pair| !pair.is_empty() && !pair.starts_with("dbname="))
        .map(|pair| format!("&{pair}"))
        .collect();
    let query = query.replacen('&', "?", 1);
    Ok(format!("{scheme}://{authority}/{name}{query}"))
}

fn checked(name: &str) -> sqlx::Result<&str> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !name.is_empty() && name.bytes().all(plain) {
        Ok(name)
    } else {
        Err(sqlx::Error::Configuration(
            format!("{name:?} is not a valid name of a database here").into(),
        ))
    }
}

async fn execute(url: &str, statement: String) -> sqlx::Result<()> {
    let options: PgConnectOptions = url.parse()?;
    let mut connection: PgConnection = options.connect().await?;
    // A name cannot be a parameter; it was checked.
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await?;
    connection.close().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_put_in_the_place_of_the_old_one() {
        for (url, other) in [
            ("postgres://h/a", "postgres://h/x"),
            ("postgres://u:p@h:5433", "postgres://u:p@h:5433/x"),
            (
                "postgresql://u@h:1/a?sslmode=disable&dbname=b&host=/tmp",
                "postgresql://u@h:1/x?sslmode=disable&host=/tmp",
            ),
        ] {
            assert_eq!(with_name(url, "x").expect("a URL"), other);
            let options: PgConnectOptions = other.parse().expect("a URL");
            assert_eq!(options.get_database(), Some("x"));
        }
        assert!(with_name("nonsense", "x").is_err());
    }

    #[test]
    fn nothing_but_a_name_gets_into_a_statement() {
        assert!(checked("ride_promo_demo_1f").is_ok());
        for bad in ["", "a b", "a;b", "A", "a\"", "a-b"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }
}
