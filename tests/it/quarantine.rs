//! Resolving quarantined rides: judged once, by their own time, in the transaction that resolves the record.

use chrono::{DateTime, TimeDelta, Utc};
use ride_promo::domain::promotion::Verdict;
use ride_promo::domain::ride::RideSource;
use ride_promo::store::Store;
use ride_promo::store::audit::{AuditFilter, Author};
use ride_promo::store::quarantine::{
    BulkResolved, BulkSelection, Dismissal, QuarantineFilter, ReplayResult,
};
use ride_promo::store::rides::AppliedOne;
use ride_promo::wire::quarantine::QuarantineStatus;
use ride_promo::wire::ride_completed::QuarantineReason;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::*;

fn of(status: QuarantineStatus) -> QuarantineFilter {
    QuarantineFilter {
        status: Some(status),
        ..QuarantineFilter::default()
    }
}

fn author(call: &str) -> Author {
    Author {
        actor: "operator".to_owned(),
        call: call.to_owned(),
    }
}

struct Desk {
    world: World,
    store: Store,
    challenges: Challenges,
}

impl Desk {
    /// Clients 1 and 2 have started an hour ago.
    async fn open() -> Self {
        let world = World::builder().without_topics().build().await;
        let store = Store::new(&world.database_url(), 8).unwrap();
        let challenges = Challenges::new(&world, &conditions(3)).await;
        challenges.start_an_hour_ago(&[1, 2]).await;
        Self {
            world,
            store,
            challenges,
        }
    }

    /// Puts a record into quarantine, as ingest does.
    async fn put(&self, value: &[u8], user_id: Option<i64>, reason: &str, age_s: i64) -> Uuid {
        sqlx::query_scalar(
            r#"insert into quarantined_ride (quarantine_id, topic, partition, "offset", topic_id, key, value, user_id,
                                             reason, detail, received_at)
               select $1, 'rides', 0, count(*), 'id', null, $2, $3, $4, 'bad', clock_ms() - make_interval(secs => $5)
                 from quarantined_ride returning quarantine_id"#,
        )
        .bind(Uuid::now_v7())
        .bind(value)
        .bind(user_id)
        .bind(reason)
        .bind(age_s as f64)
        .fetch_one(self.world.pool())
        .await
        .unwrap()
    }

    async fn put_ride(&self, ride: &Value, age_s: i64) -> Uuid {
        let user_id = ride["user_id"].as_i64();
        self.put(ride.to_string().as_bytes(), user_id, "IN_FUTURE", age_s)
            .await
    }

    async fn replay(&self, id: Uuid, corrected: Option<Value>) -> ReplayResult {
        let corrected = corrected.map(|ride| ride.to_string().into_bytes());
        self.store
            .replay_quarantined(
                id,
                corrected,
                &author(&format!("POST /quarantine/{id}/replay")),
                false,
            )
            .await
            .unwrap()
    }

    async fn counted(&self, user_id: i64) -> i32 {
        let standing = self.challenges.standing(user_id).await;
        assert_eq!(standing.counted, i64::from(standing.rides_completed));
        standing.rides_completed
    }

    async fn status(&self, id: Uuid) -> QuarantineStatus {
        let record = self.store.quarantined_record(id).await.unwrap().unwrap();
        assert_eq!(
            record.status == QuarantineStatus::Open,
            record.resolution.is_none()
        );
        record.status
    }
}

#[tokio::test]
async fn a_replayed_ride_counts_once() {
    let desk = Desk::open().await;
    let ride = ride(1);
    let (first, again) = (desk.put_ride(&ride, 0).await, desk.put_ride(&ride, 0).await);
    let ReplayResult::Resolved(AppliedOne::Applied(receipt)) = desk.replay(first, None).await
    else {
        panic!("not applied")
    };
    assert_eq!(receipt.verdict, Verdict::Counted);
    assert_eq!(receipt.source, Some(RideSource::Quarantine));
    let ReplayResult::Resolved(AppliedOne::Duplicate(same)) = desk.replay(again, None).await else {
        panic!("not recognised")
    };
    assert_eq!(same.ride_id, receipt.ride_id);
    assert!(matches!(
        desk.replay(first, None).await,
        ReplayResult::AlreadyResolved
    ));
    assert!(matches!(
        desk.replay(Uuid::nil(), None).await,
        ReplayResult::NotFound
    ));
    assert_eq!(desk.counted(1).await, 1);
    assert_eq!(desk.status(first).await, QuarantineStatus::Replayed);

    // Judged by its completion, not by the time of the replay; without a challenge it gets no receipt.
    let early = desk
        .put_ride(&ride_at(1, now() - TimeDelta::hours(2)), 0)
        .await;
    let ReplayResult::Resolved(AppliedOne::Applied(receipt)) = desk.replay(early, None).await
    else {
        panic!("not applied")
    };
    assert_eq!(receipt.verdict, Verdict::BeforeStart);
    let stranger = desk.put_ride(&crate::harness::ride(9), 0).await;
    let outcome = desk.replay(stranger, None).await;
    assert!(matches!(
        outcome,
        ReplayResult::Resolved(AppliedOne::NoParticipation)
    ));
    assert_eq!(desk.store.quarantine_open().await.unwrap(), 0);

    let entries = desk
        .store
        .audit(&AuditFilter::default(), None, 10)
        .await
        .unwrap();
    assert_eq!(entries.len(), 4);
    let oldest = &entries[3];
    assert_eq!(oldest.actor, "operator");
    assert!(
        oldest.call.starts_with("POST /quarantine/") && oldest.call.ends_with("/replay"),
        "{}",
        oldest.call
    );
    let (before, after) = (
        oldest.before.as_ref().unwrap(),
        oldest.after.as_ref().unwrap(),
    );
    assert_eq!(
        (&before["status"], &after["status"]),
        (&json!("OPEN"), &json!("REPLAYED"))
    );
    assert_eq!(after["resolution"]["outcome"], "APPLIED");
    let page = desk
        .store
        .audit(&AuditFilter::default(), Some(entries[1].audit_id), 10)
        .await
        .unwrap();
    assert_eq!(page.len(), 2);
}

#[tokio::test]
async fn a_bad_record_needs_a_correction_of_the_same_client() {
    let desk = Desk::open().await;
    let mut bad = ride(1);
    bad["currency_code"] = json!("pesos");
    let id = desk.put_ride(&bad, 0).await;
    let ReplayResult::StillBad(faults) = desk.replay(id, None).await else {
        panic!("still bad")
    };
    assert_eq!(
        (faults[0].field, faults[0].reason),
        ("currency_code", QuarantineReason::InvalidValue)
    );
    let outcome = desk.replay(id, Some(ride(2))).await;
    assert!(matches!(outcome, ReplayResult::OtherClient(1)));
    let future = ride_at(1, now() + TimeDelta::minutes(6));
    let ReplayResult::StillBad(faults) = desk.replay(id, Some(future)).await else {
        panic!("in the future")
    };
    assert_eq!(faults[0].reason, QuarantineReason::InFuture);
    assert_eq!(desk.status(id).await, QuarantineStatus::Open);
    assert_eq!((desk.counted(1).await, desk.counted(2).await), (0, 0));
    assert!(
        desk.store
            .audit(&AuditFilter::default(), None, 10)
            .await
            .unwrap()
            .is_empty()
    );

    let outcome = desk.replay(id, Some(ride(1))).await;
    assert!(matches!(
        outcome,
        ReplayResult::Resolved(AppliedOne::Applied(_))
    ));
    let nobodys = desk.put(b"\xff\0", None, "NOT_JSON", 0).await;
    let outcome = desk.replay(nobodys, Some(ride(2))).await;
    assert!(matches!(
        outcome,
        ReplayResult::Resolved(AppliedOne::Applied(_))
    ));
    assert_eq!((desk.counted(1).await, desk.counted(2).await), (1, 1));
}

#[tokio::test]
async fn what_is_only_tried_leaves_every_record_open() {
    let desk = Desk::open().await;
    let id = desk.put_ride(&ride(9), 0).await;
    desk.put(b"{}", None, "MISSING_FIELD", 0).await;
    let (store, by) = (&desk.store, author("a test"));
    let tried = store.replay_quarantined(id, None, &by, true).await.unwrap();
    assert!(matches!(tried, ReplayResult::Resolved(_)), "{tried:?}");
    let all = BulkSelection::default();
    let replayed = store.replay_quarantine(&all, "tried", &by, true).await;
    let dismissed = store.dismiss_quarantine(&all, "tried", &by, true).await;
    for (tried, resolved, left_open) in [(replayed, 1, 1), (dismissed, 2, 0)] {
        let expected = BulkResolved {
            resolved,
            left_open,
        };
        assert_eq!(tried.unwrap(), expected);
    }
    assert_eq!(desk.status(id).await, QuarantineStatus::Open);
    let left = "select count(*) from admin_audit";
    assert_eq!(desk.world.count(left).await, 0);
    // And then it is done, as it was tried.
    let done = store.replay_quarantine(&all, "done", &by, false).await;
    assert_eq!(done.unwrap().resolved, 1);
}

#[tokio::test]
async fn two_operators_at_the_same_record_have_one_effect() {
    let desk = Desk::open().await;
    for _ in 0..20 {
        let id = desk.put_ride(&ride(9), 0).await;
        let dismissed = async || {
            desk.store
                .dismiss_quarantined(id, "noise", &author("another test"))
                .await
                .unwrap()
        };
        let (one, two, three) =
            tokio::join!(desk.replay(id, None), desk.replay(id, None), dismissed());
        let effects = [
            matches!(one, ReplayResult::Resolved(_)),
            matches!(two, ReplayResult::Resolved(_)),
            three == Dismissal::Dismissed,
        ];
        assert_eq!(effects.iter().filter(|effect| **effect).count(), 1);
    }
    assert_eq!(
        desk.store
            .audit(&AuditFilter::default(), None, 100)
            .await
            .unwrap()
            .len(),
        20
    );
}

#[tokio::test]
async fn many_are_resolved_at_once() {
    let desk = Desk::open().await;
    let store = &desk.store;
    // Clients in the opposite order of arrival, more than a batch, some twice, some still bad.
    let mut ids = Vec::new();
    for n in 0..450_i64 {
        ids.push(desk.put_ride(&ride(2 - n % 2), 1_000 - n).await);
    }
    for _ in 0..5 {
        desk.put(b"{}", None, "MISSING_FIELD", 500).await;
    }
    let fourth = store.quarantined_record(ids[3]).await.unwrap().unwrap();
    let early = BulkSelection {
        to: Some(fourth.received_at),
        ..BulkSelection::default()
    };
    let done = store
        .dismiss_quarantine(&early, "test data", &author("a test"), false)
        .await
        .unwrap();
    let three = BulkResolved {
        resolved: 3,
        left_open: 0,
    };
    assert_eq!(done, three, "half-open");
    assert_eq!(desk.status(ids[0]).await, QuarantineStatus::Dismissed);
    let only_bad = BulkSelection {
        reason: Some(QuarantineReason::MissingField),
        ..BulkSelection::default()
    };
    let replayed = store
        .replay_quarantine(&only_bad, "again", &author("a test"), false)
        .await
        .unwrap();
    assert_eq!(
        replayed,
        BulkResolved {
            resolved: 0,
            left_open: 5
        }
    );

    let left = 450 - done.resolved;
    let replayed = store
        .replay_quarantine(&BulkSelection::default(), "again", &author("a test"), false)
        .await
        .unwrap();
    assert_eq!(
        replayed,
        BulkResolved {
            resolved: left,
            left_open: 5
        }
    );
    assert_eq!((desk.counted(1).await, desk.counted(2).await), (3, 3));
    assert_eq!(store.quarantine_open().await.unwrap(), 5);
    let record = store.quarantined_record(ids[449]).await.unwrap().unwrap();
    let resolution = record.resolution.unwrap();
    assert_eq!(
        (&resolution["outcome"], &resolution["note"]),
        (&json!("NO_PARTICIPATION"), &json!("again"))
    );

    // Newest first, page by page, each once.
    let mut listed: Vec<(DateTime<Utc>, Uuid)> = Vec::new();
    loop {
        let after = listed.last().copied();
        let page = store
            .quarantined(QuarantineFilter::default(), after, 100)
            .await
            .unwrap();
        listed.extend(
            page.records
                .iter()
                .map(|record| (record.received_at, record.quarantine_id)),
        );
        if !page.more {
            break;
        }
    }
    assert_eq!(listed.len(), 455);
    assert!(listed.is_sorted_by(|newer, older| newer > older));
    let open = store
        .quarantined(of(QuarantineStatus::Open), None, 100)
        .await
        .unwrap()
        .records;
    assert_eq!(open.len(), 5);
    let view = serde_json::to_value(open[0].view()).unwrap();
    assert_eq!(
        (&view["value_base64"], &view["status"]),
        (&json!("e30="), &json!("OPEN"))
    );
    let dismissed = of(QuarantineStatus::Dismissed);
    let dismissed = store.quarantined(dismissed, None, 100).await.unwrap();
    assert_eq!(dismissed.records.len() as u64, done.resolved);
}

/// A record is as large as Kafka takes it. What holds many of them at a time is bounded in bytes.
#[tokio::test]
async fn large_records_are_paged_by_their_size() {
    let desk = Desk::open().await;
    let large = vec![b'x'; 3 << 20];
    for n in 0..6 {
        desk.put(&large, Some(1), "TOO_LARGE", 100 - n).await;
    }
    let mut sizes = Vec::new();
    let mut after = None;
    loop {
        let page = desk
            .store
            .quarantined(QuarantineFilter::default(), after, 100)
            .await
            .unwrap();
        sizes.push(page.records.len());
        let bytes: usize = page.records.iter().map(|record| record.value.len()).sum();
        assert!(bytes <= 7 << 20, "{bytes}");
        let last = page.records.last().expect("no page is empty");
        after = Some((last.received_at, last.quarantine_id));
        if !page.more {
            break;
        }
    }
    assert_eq!(sizes, [2, 2, 2]);
    let user = desk.store.user(1).await.unwrap();
    assert_eq!(user.quarantine.len(), 2, "the newest");
    let one = desk
        .store
        .quarantined(QuarantineFilter::default(), None, 1)
        .await
        .unwrap();
    assert_eq!((one.records.len(), one.more), (1, true));

    // A large value can be no ride, and is not looked at.
    let all = BulkSelection::default();
    let by = author("a test");
    let replayed = desk.store.replay_quarantine(&all, "again", &by, false);
    let expected = BulkResolved {
        resolved: 0,
        left_open: 6,
    };
    assert_eq!(replayed.await.unwrap(), expected);
    let dismissed = desk.store.dismiss_quarantine(&all, "no use", &by, false);
    assert_eq!(dismissed.await.unwrap().resolved, 6);
}

/// The second call waits for records that the first resolves, and has to go on to those after.
#[tokio::test(flavor = "multi_thread")]
async fn bulk_calls_beside_one_another_leave_nothing_behind() {
    let desk = Desk::open().await;
    for n in 0..450_i64 {
        desk.put(b"{}", None, "MISSING_FIELD", 1_000 - n).await;
    }
    // An operator in the middle of the first batch: what another call waits for.
    let mut held = desk.world.pool().begin().await.unwrap();
    sqlx::query(
        "update quarantined_ride set status = 'DISMISSED', resolved_at = clock_ms(), resolution = '{}'
          where quarantine_id in (select quarantine_id from quarantined_ride order by received_at limit 200)",
    )
    .execute(&mut *held)
    .await
    .unwrap();
    let store = desk.store.clone();
    let bulk = tokio::spawn(async move {
        let all = BulkSelection::default();
        store
            .dismiss_quarantine(&all, "all of it", &author("a test"), false)
            .await
    });
    waiting_for_a_lock(&desk.world, 1).await;
    held.commit().await.unwrap();
    assert_eq!(bulk.await.unwrap().unwrap().resolved, 250);
    assert_eq!(desk.store.quarantine_open().await.unwrap(), 0);
}
