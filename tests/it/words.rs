//! The closed lists of words: the tables' checks allow exactly the words of the enums.

use std::collections::BTreeSet;

use ride_promo::domain::participation::{DeadlineOf, ExpiredReason, StatusName};
use ride_promo::domain::promotion::Verdict;
use ride_promo::domain::ride::RideSource;
use ride_promo::domain::split::{MissingSplit, SplitStatus};
use ride_promo::wire::promotion_status::{Cause, EventType};
use ride_promo::wire::quarantine::QuarantineStatus;
use ride_promo::wire::ride_completed::QuarantineReason;

use crate::harness::*;

#[tokio::test]
async fn the_tables_checks_allow_what_the_enums_know() {
    let world = World::builder().without_topics().build().await;
    let statuses = [&StatusName::WORDS[..], &ExpiredReason::WORDS].concat();
    for (table, column, words) in [
        ("promotion_user", "status", &statuses[..]),
        ("ride_receipt", "verdict", &Verdict::WORDS),
        ("ride_receipt", "source", &RideSource::WORDS),
        ("event_outbox", "type", &EventType::WORDS),
        ("event_outbox", "cause", &Cause::WORDS),
        ("participation_history", "cause", &Cause::WORDS),
        ("extension", "deadline_of", &DeadlineOf::WORDS),
        ("participation_reminded", "deadline_of", &DeadlineOf::WORDS),
        ("quarantined_ride", "status", &QuarantineStatus::WORDS),
        ("quarantined_ride", "reason", &QuarantineReason::WORDS),
        ("cash_loan_account", "status", &SplitStatus::WORDS),
        ("promotion", "missing_split", &MissingSplit::WORDS),
    ] {
        let known: BTreeSet<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let allowed: Vec<String> = sqlx::query_scalar(
            r"select distinct found[1]
                from pg_constraint c
                join pg_attribute a on a.attrelid = c.conrelid and a.attnum = any(c.conkey)
               cross join regexp_matches(pg_get_constraintdef(c.oid), '''([A-Za-z_.]+)''::text', 'g') found
               where c.contype = 'c' and c.conrelid = $1::text::regclass and a.attname = $2",
        )
        .bind(table)
        .bind(column)
        .fetch_all(world.pool())
        .await
        .unwrap();
        let allowed: BTreeSet<String> = allowed.into_iter().collect();
        assert_eq!(allowed, known, "{table}.{column}");
    }
}
