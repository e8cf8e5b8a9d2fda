//! Invariant 5: no challenge expires while a ride that could complete it may be unread, and each expires soon after
//! that is excluded.

use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(20);

/// How soon after it is allowed an expiry must be recorded (contract 3).
const SOON: TimeDelta = TimeDelta::seconds(5);

const LATENESS: TimeDelta = TimeDelta::seconds(1);

async fn becomes(challenges: &Challenges, user_id: i64, status: &str) {
    eventually(LIMIT, || async {
        equal(challenges.standing(user_id).await.status, status.to_owned())
    })
    .await;
}

async fn until(at: DateTime<Utc>) {
    tokio::time::sleep((at - now()).to_std().unwrap_or_default()).await;
}

async fn expired_at(world: &World, user_id: i64) -> DateTime<Utc> {
    let expired_at: Option<DateTime<Utc>> =
        sqlx::query_scalar("select expired_at from promotion_user where user_id = $1")
            .bind(user_id)
            .fetch_one(world.pool())
            .await
            .expect("it is there");
    expired_at.expect("it is expired")
}

fn quick(claim_period: &str) -> Value {
    let mut conditions = conditions(1);
    conditions["claim_period"] = json!(claim_period);
    conditions
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_expired_while_a_completing_ride_is_unread() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &quick("P7D")).await;
    let ingest = world.service().roles("ingest").start().await;
    // Its positions are at the end, and then ingest stops.
    eventually(LIMIT, || async {
        let positions: i64 = sqlx::query_scalar("select count(*) from consumer_position")
            .fetch_one(world.pool())
            .await
            .unwrap();
        equal(positions, i64::from(world.partitions()))
    })
    .await;
    assert!(ingest.sigterm_and_wait().await.success());
    let sweeper = world
        .service()
        .roles("sweep,relay")
        .lateness("PT1S")
        .start()
        .await;
    let deadline = now() + TimeDelta::seconds(2);
    challenges
        .start(&[1, 2], now() - TimeDelta::hours(1), deadline)
        .await;
    world.publish_ride(&ride(1)).await;

    until(deadline + LATENESS + TimeDelta::seconds(4)).await;
    for user_id in [1, 2] {
        assert_eq!(
            challenges.standing(user_id).await.status,
            "IN_PROGRESS",
            "a ride was unread"
        );
    }
    eventually(LIMIT, || async {
        equal(
            sweeper
                .metrics()
                .await
                .sum("ride_promo_sweep_held_back", &[("cause", "lag")]),
            2.0,
        )
    })
    .await;

    let _ingest = world.service().roles("ingest").start().await;
    becomes(&challenges, 1, "COMPLETED").await;
    becomes(&challenges, 2, "EXPIRED").await;
    let kinds = world.kinds_of(2, challenges.promotion_id).await;
    assert_eq!(kinds, ["promotion.started", "promotion.expired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ride_from_before_the_deadline_counts_while_settling_and_without_one_expiry_comes_soon() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &quick("P7D")).await;
    let _service = world
        .service()
        .roles("ingest,relay,sweep")
        .lateness("PT2S")
        .start()
        .await;
    let deadline = (now() + TimeDelta::seconds(1)).trunc_subsecs(3);
    challenges
        .start(&[1, 2, 3], now() - TimeDelta::hours(1), deadline)
        .await;

    until(deadline).await;
    let just_in_time = deadline - TimeDelta::milliseconds(1);
    world.publish_ride(&ride_at(1, just_in_time)).await;
    world.publish_ride(&ride_at(2, deadline)).await;
    becomes(&challenges, 1, "COMPLETED").await;
    for user_id in [2, 3] {
        becomes(&challenges, user_id, "EXPIRED").await;
        let late = expired_at(&world, user_id).await - (deadline + TimeDelta::seconds(2));
        assert!(
            (TimeDelta::zero()..SOON).contains(&late),
            "expired {late} after it was allowed"
        );
    }
    world.publish_ride(&ride_at(3, just_in_time)).await;
    world.publish_ride(&ride_at(4, just_in_time)).await;
    eventually(LIMIT, || async {
        let positions: i64 =
            sqlx::query_scalar("select sum(next_offset)::bigint from consumer_position")
                .fetch_one(world.pool())
                .await
                .unwrap();
        equal(positions, 4)
    })
    .await;
    assert_eq!(
        challenges.standing(3).await.status,
        "EXPIRED",
        "once expired nothing reopens it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_quarantined_ride_holds_its_client_and_nobody_else() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &quick("P7D")).await;
    let service = world
        .service()
        .roles("ingest,relay,sweep")
        .lateness("PT0S")
        .start()
        .await;
    // Received before the start of 3, it does not hold 3.
    world.publish_raw(Some("3"), Some(b"{"), &[]).await;
    eventually(LIMIT, || async {
        equal(
            service
                .metrics()
                .await
                .sum("ride_promo_rides_quarantined_total", &[]),
            1.0,
        )
    })
    .await;
    challenges
        .start(&[1, 2, 3], now(), now() + TimeDelta::seconds(6))
        .await;
    let mut unreadable = ride(1);
    unreadable["amount_cents"] = json!("6500");
    world.publish_ride(&unreadable).await;
    // Its client is unknown.
    world.publish_raw(None, Some(b"?"), &[]).await;

    becomes(&challenges, 2, "EXPIRED").await;
    becomes(&challenges, 3, "EXPIRED").await;
    assert_eq!(challenges.standing(1).await.status, "IN_PROGRESS");
    sqlx::query("update quarantined_ride set status = 'DISMISSED', resolved_at = clock_ms() where user_id = 1")
        .execute(world.pool())
        .await
        .expect("it is open");
    becomes(&challenges, 1, "EXPIRED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unclaimed_reward_expires_by_the_clock_and_its_split_with_it() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &quick("PT2S")).await;
    // Only the clock decides: unread rides do not hold a reward's expiry.
    let ingest = world.service().roles("ingest").start().await;
    challenges.start_an_hour_ago(&[1]).await;
    sqlx::raw_sql("insert into product (product_id, name, currency_code, term_days) values (80, 'Loan', 'MXN', 30)")
        .execute(world.pool())
        .await
        .expect("there is none yet");
    sqlx::query(
        "insert into cash_loan_account (split_id, user_id, promotion_id, pre_offer_id, country_code, product_id, amount_cents,
                                        currency_code, repayment_rate, valid_until)
         values (gen_random_uuid(), 1, $1, gen_random_uuid(), 'MX', 80, 100000, 'MXN', '15', clock_ms() + interval '1 day')",
    )
    .bind(challenges.promotion_id)
    .execute(world.pool())
    .await
    .expect("it is the only one");
    world.publish_ride(&ride(1)).await;
    becomes(&challenges, 1, "COMPLETED").await;
    ingest.sigkill().await;
    world.publish_ride(&ride(1)).await;
    let _sweeper = world.service().roles("sweep,relay").start().await;

    becomes(&challenges, 1, "EXPIRED").await;
    let (reason, deadline, split): (String, DateTime<Utc>, String) = sqlx::query_as(
        "select expired_reason, reward_deadline, c.status from promotion_user join cash_loan_account c using (user_id, promotion_id)",
    )
    .fetch_one(world.pool())
    .await
    .expect("one of each");
    assert_eq!(
        (reason.as_str(), split.as_str()),
        ("REWARD_NOT_CLAIMED", "EXPIRED")
    );
    let late = expired_at(&world, 1).await - deadline;
    assert!(
        (TimeDelta::zero()..SOON).contains(&late),
        "expired {late} after its deadline"
    );
}
