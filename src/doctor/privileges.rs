//! The rights that each role needs in the database: `doctor` checks them, and
//! `deploy/postgres/roles.sql` grants them.

use std::io;

use sqlx::PgConnection;

use super::Report;
use crate::readiness::Role;

const SUBJECT: &str = "postgres privileges";

/// The rights of a role on a table. Reading `for update` or `for share` needs `update` in Postgres
/// as well.
const NEEDED: &[(Role, &str, &str)] = &[
    (Role::Api, "select, insert, update", "active_pre_offer"),
    (Role::Api, "select, insert", "admin_audit"),
    (Role::Api, "select, insert, update", "api_presence"),
    (Role::Api, "select, insert, update", "application"),
    (Role::Api, "select, insert, update", "budget_use"),
    (Role::Api, "select, insert, update", "cash_loan_account"),
    (Role::Api, "select", "consumer_position"),
    (Role::Api, "select", "erasure"),
    (Role::Api, "select, insert", "event_outbox"),
    (Role::Api, "select, insert, update", "extension"),
    (Role::Api, "select, update", "extension_gate"),
    (Role::Api, "select, insert, update", "geo_config"),
    (Role::Api, "select", "held_reward"),
    (Role::Api, "select, insert, update", "import_progress"),
    (Role::Api, "select, insert, delete", "outage"),
    (Role::Api, "select, insert", "participation_extension"),
    (Role::Api, "select", "participation_history"),
    (Role::Api, "select", "participation_reminded"),
    (
        Role::Api,
        "select, insert, update",
        "participation_reminder",
    ),
    (Role::Api, "select, insert, update", "pre_offer"),
    (Role::Api, "select, insert, update", "product"),
    (Role::Api, "select, insert", "product_terms"),
    (Role::Api, "select, insert, update", "promotion"),
    (Role::Api, "select, insert", "promotion_terms"),
    (Role::Api, "select, insert, update", "promotion_user"),
    (Role::Api, "select, insert", "late_reversal"),
    (Role::Api, "select, insert, update", "participation_day"),
    (Role::Api, "select, update", "quarantined_ride"),
    (Role::Api, "select", "relay_shard"),
    (Role::Api, "select, insert", "ride_receipt"),
    (Role::Api, "select", "release_upgrade"),
    (Role::Api, "select", "schema_compatibility"),
    (Role::Api, "select", "server_identity"),
    (Role::Api, "select, insert, update", "session"),
    (Role::Api, "select", "version_floor"),
    (Role::Ingest, "select, insert, update", "consumer_position"),
    (Role::Ingest, "select, insert", "event_outbox"),
    (Role::Ingest, "select", "extension"),
    (Role::Ingest, "select, update", "extension_gate"),
    (Role::Ingest, "select, insert", "participation_extension"),
    (Role::Ingest, "select, insert", "late_reversal"),
    (Role::Ingest, "select, insert, update", "participation_day"),
    (
        Role::Ingest,
        "select, insert, update",
        "participation_reminder",
    ),
    (Role::Ingest, "select", "promotion"),
    (Role::Ingest, "select", "promotion_terms"),
    (Role::Ingest, "select, update", "promotion_user"),
    (Role::Ingest, "select, insert", "quarantined_ride"),
    (Role::Ingest, "select, insert", "ride_receipt"),
    (Role::Ingest, "select", "release_upgrade"),
    (Role::Ingest, "select", "schema_compatibility"),
    (Role::Ingest, "select", "server_identity"),
    (Role::Relay, "select, delete", "event_outbox"),
    (Role::Relay, "select", "promotion"),
    (Role::Relay, "select, update", "relay_shard"),
    (Role::Relay, "select", "release_upgrade"),
    (Role::Relay, "select", "schema_compatibility"),
    (Role::Relay, "select", "server_identity"),
    (Role::Sweep, "select, update", "budget_use"),
    (Role::Sweep, "select, update", "cash_loan_account"),
    (Role::Sweep, "select", "consumer_position"),
    (Role::Sweep, "select, insert", "event_outbox"),
    (Role::Sweep, "select, update", "extension"),
    (Role::Sweep, "select, update", "extension_gate"),
    (Role::Sweep, "select, insert, update", "participation_day"),
    (Role::Sweep, "select, insert", "participation_extension"),
    (Role::Sweep, "insert", "participation_reminded"),
    (
        Role::Sweep,
        "select, insert, update",
        "participation_reminder",
    ),
    (Role::Sweep, "select", "promotion"),
    (Role::Sweep, "select", "promotion_terms"),
    (Role::Sweep, "select, update", "promotion_user"),
    (Role::Sweep, "select", "quarantined_ride"),
    (Role::Sweep, "select", "ride_receipt_other"),
    (Role::Sweep, "select", "release_upgrade"),
    (Role::Sweep, "select", "ride_receipt"),
    (Role::Sweep, "select", "schema_compatibility"),
    (Role::Sweep, "select", "server_identity"),
];

/// The roles that judge rides change these columns of a receipt, when a deadline was moved or the ride
/// was taken back. What a ride says is never changed.
const RECEIPT_ROLES: [Role; 3] = [Role::Api, Role::Ingest, Role::Sweep];
const RECEIPT_COLUMNS: [&str; 6] = [
    "verdict",
    "details",
    "version",
    "reversed_at",
    "ride_day",
    "late_ride",
];

/// A sequence that does not belong to an identity column, and so needs a right of its own.
const SEQUENCE: (Role, &str) = (Role::Api, "pre_offer_import_seq");

/// The function that creates the coming months' receipt partitions, with the owner's rights.
const FUNCTION: (Role, &str) = (Role::Sweep, "ensure_receipt_partitions(date, integer)");

/// Whether this user has the rights of the roles.
pub(super) async fn examine(
    report: &mut Report<'_>,
    connection: &mut PgConnection,
    user: &str,
    roles: &[Role],
    can_create: bool,
) -> io::Result<Result<(), sqlx::Error>> {
    let missing = match missing(connection, roles).await {
        Ok(missing) => missing,
        Err(error) => return Ok(Err(error)),
    };
    if !missing.is_empty() {
        let grants: Vec<String> = missing
            .iter()
            .map(|(rights, object)| format!("grant {rights} on {object} to {user}"))
            .collect();
        let objects: Vec<&str> = missing
            .iter()
            .map(|(_, object)| {
                object
                    .rsplit_once(' ')
                    .map_or(object.as_str(), |(_, name)| name)
            })
            .collect();
        report.fail(
            SUBJECT,
            &format!("not all rights on {}", objects.join(", ")),
            &format!(
                "run deploy/postgres/roles.sql, or as the owner: {}",
                grants.join("; ")
            ),
        )?;
        return Ok(Ok(()));
    }
    let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let roles = roles.join(", ");
    let finding = if can_create {
        format!("has the rights of {roles}, and may create tables")
    } else {
        format!("has the rights of {roles}; may not create tables, so migrate as the owner")
    };
    report.ok(SUBJECT, &finding)?;
    Ok(Ok(()))
}

/// The missing rights, each as in a `grant`, with the object.
async fn missing(
    connection: &mut PgConnection,
    roles: &[Role],
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let mut missing = Vec::new();
    for (_, rights, table) in NEEDED.iter().filter(|(role, ..)| roles.contains(role)) {
        // A missing object is reported in the line about the schema.
        let lacks: Option<String> = sqlx::query_scalar(
            "select string_agg(right_, ', ')
               from unnest(string_to_array($2, ', ')) right_
              where not has_table_privilege(to_regclass($1)::oid, right_)",
        )
        .bind(table)
        .bind(rights)
        .fetch_one(&mut *connection)
        .await?;
        let entry = lacks.map(|lacks| (lacks, (*table).to_owned()));
        missing.extend(entry.filter(|entry| !missing.contains(entry)));
    }
    if roles.iter().any(|role| RECEIPT_ROLES.contains(role)) {
        let lacks: Option<String> = sqlx::query_scalar(
            "select string_agg(column_, ', ')
               from unnest($1::text[]) column_
              where not has_column_privilege(to_regclass('ride_receipt')::oid, column_, 'update')",
        )
        .bind(RECEIPT_COLUMNS)
        .fetch_one(&mut *connection)
        .await?;
        let entry = lacks.map(|lacks| (format!("update ({lacks})"), "ride_receipt".to_owned()));
        missing.extend(entry);
    }
    let (role, sequence) = SEQUENCE;
    let may_use: Option<bool> =
        sqlx::query_scalar("select has_sequence_privilege(to_regclass($1)::oid, 'usage')")
            .bind(sequence)
            .fetch_one(&mut *connection)
            .await?;
    if roles.contains(&role) && may_use == Some(false) {
        missing.push(("usage".to_owned(), format!("sequence {sequence}")));
    }
    let (role, function) = FUNCTION;
    let may_execute: Option<bool> =
        sqlx::query_scalar("select has_function_privilege(to_regprocedure($1)::oid, 'execute')")
            .bind(function)
            .fetch_one(&mut *connection)
            .await?;
    if roles.contains(&role) && may_execute == Some(false) {
        missing.push(("execute".to_owned(), format!("function {function}")));
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_script_grants_what_is_needed_and_nothing_else() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/postgres/roles.sql");
        let script = std::fs::read_to_string(file).expect("it is there");
        let granted: BTreeSet<&str> = script
            .lines()
            .filter(|line| line.starts_with("grant ") && line.contains(" on "))
            .filter(|line| !line.contains("_sqlx_migrations") && !line.contains(" on schema "))
            .collect();
        let tables = NEEDED
            .iter()
            .map(|(role, rights, table)| (*role, *rights, (*table).to_owned()));
        let others = [
            (SEQUENCE.0, "usage", format!("sequence {}", SEQUENCE.1)),
            (FUNCTION.0, "execute", format!("function {}", FUNCTION.1)),
        ];
        let columns = format!("update ({})", RECEIPT_COLUMNS.join(", "));
        let receipts =
            RECEIPT_ROLES.map(|role| (role, columns.as_str(), "ride_receipt".to_owned()));
        let needed: BTreeSet<String> = tables
            .chain(others)
            .chain(receipts)
            .map(|(role, rights, on)| {
                format!("grant {rights} on {on} to ride_promo_{};", role.as_str())
            })
            .collect();
        let needed: BTreeSet<&str> = needed.iter().map(String::as_str).collect();
        assert_eq!(granted, needed);
    }
}
