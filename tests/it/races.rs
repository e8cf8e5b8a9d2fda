//! Races, each forced in both orders: the test's own session holds a lock at which the first of two transactions stops,
//! the second waits for the first, and then the test releases the lock. In either order there is one decision, and both
//! callers get the true result.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Postgres as Db, Transaction};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::extensions;
use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(30);

/// A call that is under way.
pub(crate) type Call = JoinHandle<Answer>;

pub(crate) fn call(api: &Api, method: Method, path: &str, body: Option<Value>) -> Call {
    let request = api.request(method, path);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let api = api.clone();
    tokio::spawn(async move { api.send(request).await })
}

pub(crate) fn post(client: &Client, promotion: &Promotion, what: &str) -> Call {
    let path = format!("/v1/promotions/{}/{what}", promotion.id);
    call(&client.api, Method::POST, &path, None)
}

pub(crate) fn landing(client: &Client) -> Call {
    call(&client.api, Method::POST, "/v1/landing", None)
}

fn import(service: &Service, line: &Value) -> Call {
    let api = service.admin().api;
    let request = api
        .request(Method::POST, "/admin/v1/pre-offers:import")
        .header("content-type", "application/x-ndjson")
        .body(format!("{line}\n"));
    tokio::spawn(async move { api.send(request).await })
}

pub(crate) async fn done(call: Call) -> Answer {
    tokio::time::timeout(LIMIT, call)
        .await
        .expect("it is let go")
        .expect("no panic")
}

/// Locks held by the test until it lets go.
pub(crate) struct HeldLock(Transaction<'static, Db>);

impl HeldLock {
    pub(crate) async fn by(world: &World, sql: &'static str) -> Self {
        let mut transaction = world.pool().begin().await.expect("a session");
        sqlx::raw_sql(sql)
            .execute(&mut *transaction)
            .await
            .expect("the lock is free");
        Self(transaction)
    }

    /// What an accept, and a sweep of rewards, comes to after it has locked the participation.
    pub(crate) async fn split_of(world: &World, user_id: i64) -> Self {
        let mut transaction = world.pool().begin().await.expect("a session");
        let locked = sqlx::query("select from cash_loan_account where user_id = $1 for update")
            .bind(user_id)
            .execute(&mut *transaction)
            .await
            .expect("the lock is free");
        assert_eq!(locked.rows_affected(), 1, "there is a split");
        Self(transaction)
    }

    /// A split that may or may not come to be: what a start or a landing that makes one has to wait
    /// for, after it has read and locked everything else.
    pub(crate) async fn place_of_split(world: &World, user_id: i64, promotion: &Promotion) -> Self {
        let mut transaction = world.pool().begin().await.expect("a session");
        sqlx::query(
            "insert into cash_loan_account (split_id, user_id, promotion_id, pre_offer_id, country_code, product_id,
                                            amount_cents, currency_code, repayment_rate, valid_until)
             values ($1, $2, $3, $1, 'MX', 80, 1, 'MXN', '15', clock_ms() + interval '1 day')",
        )
        .bind(Uuid::new_v4())
        .bind(user_id)
        .bind(promotion.id)
        .execute(&mut *transaction)
        .await
        .expect("there is no split");
        Self(transaction)
    }

    /// What every admin call that changes something comes to at its end.
    pub(crate) async fn audit(world: &World) -> Self {
        Self::by(world, "lock table admin_audit in exclusive mode").await
    }

    /// As if it had never been.
    pub(crate) async fn let_go(self) {
        self.0.rollback().await.expect("it was held");
    }
}

pub(crate) async fn waiting(world: &World, sessions: i64) {
    waiting_for_a_lock(world, sessions).await;
}

async fn statuses(world: &World, user_id: i64) -> Vec<String> {
    sqlx::query_scalar("select status from promotion_user where user_id = $1 order by promotion_id")
        .bind(user_id)
        .fetch_all(world.pool())
        .await
        .expect("the database answers")
}

async fn originations(world: &World) -> i64 {
    let loans = world.count("select count(*) from application").await;
    for sql in [
        "select count(*) from active_pre_offer",
        "select count(*) from session",
        "select count(*) from cash_loan_account where status = 'USED'",
        "select count(*) from promotion_user where status = 'REWARDED'",
    ] {
        assert_eq!(world.count(sql).await, loans, "{sql}");
    }
    loans
}

/// A service, a promotion and a client with its challenge completed.
async fn completed(world: &World) -> (Service, Promotion, Client) {
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    end_by_force(world, 1, promotion.id, End::Completed).await;
    (service, promotion, client)
}

async fn set_reward_deadline(world: &World, ahead: &str) -> DateTime<Utc> {
    sqlx::query_scalar(
        "update promotion_user set completed_at = clock_ms() - interval '7 days', reward_deadline = clock_ms() + $1::interval
         returning reward_deadline",
    )
    .bind(ahead)
    .fetch_one(world.pool())
    .await
    .expect("a possible state")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_that_was_in_time_wins_over_the_sweeper_that_comes_after_the_deadline() {
    let world = World::new().await;
    let (_service, promotion, client) = completed(&world).await;
    let _sweeper = world.service().roles("sweep").start().await;
    let held = HeldLock::split_of(&world, 1).await;
    // Far enough ahead for the accept to be there before, and for it to wait beyond it: the service
    // gives a lock up after ten seconds.
    let deadline = set_reward_deadline(&world, "6 seconds").await;
    let accept = post(&client, &promotion, "accept_reward");
    waiting(&world, 1).await;
    assert!(now() < deadline, "too slow a machine to tell anything");
    // The deadline passes, and the sweeper wants the same participation.
    waiting(&world, 2).await;
    assert!(now() >= deadline);
    held.let_go().await;
    let answer = done(accept).await.expect(200);
    assert_eq!(answer["participation"]["status"], "REWARDED");
    assert_eq!(originations(&world).await, 1);
    // Nor does the sweeper come again for it.
    let again = client
        .api
        .post(&format!("/v1/promotions/{}/accept_reward", promotion.id))
        .await
        .expect(200);
    assert_eq!(again["application_id"], answer["application_id"]);
    assert_eq!(statuses(&world, 1).await, ["REWARDED"]);
    let events = "select count(*) from event_outbox where type = 'promotion.expired'";
    assert_eq!(world.count(events).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_that_comes_to_a_sweeper_at_work_is_too_late() {
    let world = World::new().await;
    let (_service, promotion, client) = completed(&world).await;
    let _sweeper = world.service().roles("sweep").start().await;
    let held = HeldLock::split_of(&world, 1).await;
    set_reward_deadline(&world, "0 seconds").await;
    waiting(&world, 1).await;
    let accept = post(&client, &promotion, "accept_reward");
    waiting(&world, 2).await;
    held.let_go().await;
    done(accept).await.problem(410, "reward-expired");
    assert_eq!(statuses(&world, 1).await, ["EXPIRED"]);
    assert_eq!(originations(&world).await, 0);
    let splits = "select count(*) from cash_loan_account where status = 'EXPIRED'";
    assert_eq!(world.count(splits).await, 1);
    let events = "select count(*) from event_outbox where type = 'promotion.expired'";
    assert_eq!(world.count(events).await, 1);
}

/// A start in another promotion ends a reward that is overdue, and it may be the accept's.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_comes_to_an_accept_in_time_is_refused() {
    let world = World::new().await;
    let (service, promotion, client) = completed(&world).await;
    let other = service.admin().open_promotion(&conditions(1)).await;
    service.eligible_client(1, &other).await;
    let held = HeldLock::split_of(&world, 1).await;
    // As above.
    let deadline = set_reward_deadline(&world, "6 seconds").await;
    let accept = post(&client, &promotion, "accept_reward");
    waiting(&world, 1).await;
    assert!(now() < deadline, "too slow a machine to tell anything");
    tokio::time::sleep((deadline - now()).to_std().unwrap_or_default()).await;
    let start = post(&client, &other, "start");
    waiting(&world, 2).await;
    held.let_go().await;
    done(accept).await.expect(200);
    let problem = done(start).await.problem(409, "not-eligible");
    assert_eq!(problem["reasons"], json!(["ALREADY_REWARDED"]));
    assert_eq!(statuses(&world, 1).await, ["REWARDED"]);
    assert_eq!(originations(&world).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_that_comes_to_a_start_in_another_promotion_is_too_late() {
    let world = World::new().await;
    let (service, promotion, client) = completed(&world).await;
    let other = service.admin().open_promotion(&conditions(1)).await;
    service.eligible_client(1, &other).await;
    set_reward_deadline(&world, "0 seconds").await;
    let held = HeldLock::place_of_split(&world, 1, &other).await;
    let start = post(&client, &other, "start");
    waiting(&world, 1).await;
    let accept = post(&client, &promotion, "accept_reward");
    waiting(&world, 2).await;
    held.let_go().await;
    done(start).await.expect(201);
    done(accept).await.problem(410, "reward-expired");
    assert_eq!(statuses(&world, 1).await, ["EXPIRED", "IN_PROGRESS"]);
    assert_eq!(originations(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_whose_lock_comes_after_the_deadline_is_too_late() {
    let world = World::new().await;
    let (_service, promotion, client) = completed(&world).await;
    let held = HeldLock::by(&world, "select from promotion_user for update").await;
    let accept = post(&client, &promotion, "accept_reward");
    waiting(&world, 1).await;
    // It was asked for in time, and is judged by the clock under the lock.
    let HeldLock(mut transaction) = held;
    sqlx::query("update promotion_user set completed_at = clock_ms() - interval '1 day', reward_deadline = clock_ms()")
        .execute(&mut *transaction)
        .await
        .expect("a possible state");
    transaction.commit().await.expect("it was held");
    done(accept).await.problem(410, "reward-expired");
    assert_eq!(originations(&world).await, 0);
    assert_eq!(statuses(&world, 1).await, ["COMPLETED"], "nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_offer_that_is_withdrawn_during_an_accept_or_before_takes_nothing_away() {
    for withdrawn_first in [false, true] {
        for vanishes in [false, true] {
            let world = World::new().await;
            let service = world.service().roles("api").start().await;
            let promotion = service.admin().open_promotion(&conditions(1)).await;
            let offer = promotion.pre_offer(1);
            service
                .admin()
                .import_pre_offers(std::slice::from_ref(&offer))
                .await;
            let client = service.client(1);
            client.start(promotion.id).await.expect(201);
            end_by_force(&world, 1, promotion.id, End::Completed).await;
            let withdraw = async || {
                if vanishes {
                    let deleted = sqlx::query("delete from pre_offer")
                        .execute(world.pool())
                        .await;
                    assert_eq!(deleted.expect("it may go").rows_affected(), 1);
                } else {
                    let mut worthless = offer.clone();
                    worthless["amount_cents"] = json!(1);
                    worthless["repayment_rate"] = json!("99");
                    worthless["segment"] = json!("regular");
                    worthless["valid_until"] = json!("2020-01-01T00:00:00Z");
                    service.admin().import_pre_offers(&[worthless]).await;
                }
            };
            let answer = if withdrawn_first {
                withdraw().await;
                done(post(&client, &promotion, "accept_reward")).await
            } else {
                let held = HeldLock::split_of(&world, 1).await;
                let accept = post(&client, &promotion, "accept_reward");
                waiting(&world, 1).await;
                withdraw().await;
                held.let_go().await;
                done(accept).await
            };
            let which = format!("withdrawn first: {withdrawn_first}, vanishes: {vanishes}");
            assert_eq!(answer.expect(200)["sequence_id"], 8, "{which}");
            assert_eq!(originations(&world).await, 1, "{which}");
            let user = service.admin().user(1).await;
            let active = &user["active_pre_offers"][0];
            assert_eq!(active["amount_cents"], 100_000, "{which}");
            assert_eq!(active["repayment_rate"], "15", "{which}");
        }
    }
}

/// What an operator switches off, and the reason a start is then given.
fn switches(promotion: &Promotion) -> [(Method, String, Value, &'static str); 2] {
    [
        (
            Method::PUT,
            "/admin/v1/geo-config/MX".to_owned(),
            json!({ "promotions_enabled": false }),
            "PROMOTIONS_DISABLED",
        ),
        (
            Method::PATCH,
            format!("/admin/v1/promotions/{}", promotion.id),
            json!({ "active": false }),
            "PROMOTION_INACTIVE",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_and_a_landing_that_were_first_go_through_and_the_switch_waits() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let mut user_id = 0;
    for switch in 0..2 {
        for starts in [true, false] {
            let promotion = service.admin().open_promotion(&conditions(1)).await;
            let (method, path, off, _) = switches(&promotion)[switch].clone();
            user_id += 1;
            let client = service.eligible_client(user_id, &promotion).await;
            let held = HeldLock::place_of_split(&world, user_id, &promotion).await;
            let first = if starts {
                post(&client, &promotion, "start")
            } else {
                landing(&client)
            };
            waiting(&world, 1).await;
            let switched = call(&service.admin().api, method, &path, Some(off));
            waiting(&world, 2).await;
            held.let_go().await;
            let answer = done(first).await;
            if starts {
                assert_eq!(answer.expect(201)["status"], "IN_PROGRESS");
            } else {
                assert_eq!(answer.expect(200)["screen"], "PROMO_OFFER");
            }
            done(switched).await.expect(200);
            let user = service.admin().user(user_id).await;
            assert_eq!(user["splits"][0]["status"], "ACTIVE", "{user}");
            assert_eq!(user["splits"].as_array().map(Vec::len), Some(1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_and_a_landing_that_come_to_a_switch_being_turned_off_are_refused() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let mut user_id = 0;
    for switch in 0..2 {
        for starts in [true, false] {
            let promotion = service.admin().open_promotion(&conditions(1)).await;
            let (method, path, off, reason) = switches(&promotion)[switch].clone();
            user_id += 1;
            let client = service.eligible_client(user_id, &promotion).await;
            // The operator's call has changed its row and is not committed.
            let held = HeldLock::audit(&world).await;
            let switched = call(&service.admin().api, method, &path, Some(off));
            waiting(&world, 1).await;
            let second = if starts {
                post(&client, &promotion, "start")
            } else {
                landing(&client)
            };
            waiting(&world, 2).await;
            held.let_go().await;
            done(switched).await.expect(200);
            let answer = done(second).await;
            if starts {
                let problem = answer.problem(409, "not-eligible");
                assert_eq!(problem["reasons"], json!([reason]));
            } else {
                assert_eq!(answer.expect(200)["screen"], "NO_OFFER");
            }
            let user = service.admin().user(user_id).await;
            assert_eq!(user["splits"], json!([]));
            assert_eq!(user["participations"], json!([]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_beside_a_start_changes_what_is_frozen_or_comes_after() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let mut changed = Vec::new();
    for user_id in 1..=3 {
        let mut offer = promotion.pre_offer(user_id);
        service
            .admin()
            .import_pre_offers(std::slice::from_ref(&offer))
            .await;
        offer["amount_cents"] = json!(200_000);
        changed.push(offer);
    }
    // The third is unmapped: its line no longer names a promotion.
    changed[2]["promotion_key"] = Value::Null;

    // The start first: the old terms are frozen, then the line goes in.
    let client = service.client(1);
    let held = HeldLock::place_of_split(&world, 1, &promotion).await;
    let started = post(&client, &promotion, "start");
    waiting(&world, 1).await;
    let imported = import(&service, &changed[0]);
    waiting(&world, 2).await;
    held.let_go().await;
    let participation = done(started).await.expect(201);
    assert_eq!(participation["reward"]["amount_cents"], 100_000);
    assert_eq!(done(imported).await.expect(200)["updated"], 1);
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(progress["reward"], participation["reward"]);
    let user = service.admin().user(1).await;
    assert_eq!(user["splits"][0]["amount_cents"], 100_000);

    // The import first: the start waits and sees what the line now says.
    for (client, line) in [(2, &changed[1]), (3, &changed[2])] {
        let client = service.client(client);
        let held = HeldLock::audit(&world).await;
        let imported = import(&service, line);
        waiting(&world, 1).await;
        let started = post(&client, &promotion, "start");
        waiting(&world, 2).await;
        held.let_go().await;
        assert_eq!(done(imported).await.expect(200)["updated"], 1);
        let answer = done(started).await;
        if client.user_id == 2 {
            let participation = answer.expect(201);
            assert_eq!(participation["reward"]["amount_cents"], 200_000);
            let user = service.admin().user(2).await;
            assert_eq!(user["splits"][0]["amount_cents"], 200_000);
        } else {
            let problem = answer.problem(409, "not-eligible");
            assert_eq!(problem["reasons"], json!(["NO_PRE_OFFER"]));
            assert_eq!(statuses(&world, 3).await, [""; 0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_offer_imported_in_the_middle_of_a_landing_is_the_one_offered() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let one = service.admin().open_promotion(&conditions(1)).await;
    let other = service.admin().open_promotion(&conditions(2)).await;
    let client = service.eligible_client(1, &one).await;
    // What the landing waits for after it has locked the pre-offers there are, and no import does.
    let held = HeldLock::by(&world, "lock table geo_config in exclusive mode").await;
    let landed = landing(&client);
    waiting(&world, 1).await;
    let imported = import(&service, &other.pre_offer(1));
    assert_eq!(done(imported).await.expect(200)["imported"], 1);
    held.let_go().await;
    let answer = done(landed).await.expect(200);
    assert_eq!(answer["screen"], "PROMO_OFFER", "{answer}");
    assert_eq!(answer["promotion"]["promotion_id"], other.id);
    assert_eq!(answer["promotion"]["conditions"], conditions(2));
    let user = service.admin().user(1).await;
    let splits = user["splits"].as_array().expect("splits");
    assert_eq!(splits.len(), 1, "{user}");
    assert_eq!(splits[0]["promotion_id"], other.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_starts_in_two_promotions_the_first_wins() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let one = service.admin().open_promotion(&conditions(1)).await;
    let other = service.admin().open_promotion(&conditions(1)).await;
    for (user_id, [first, second]) in [(1, [&one, &other]), (2, [&other, &one])] {
        let offers = [one.pre_offer(user_id), other.pre_offer(user_id)];
        service.admin().import_pre_offers(&offers).await;
        let client = service.client(user_id);
        let held = HeldLock::place_of_split(&world, user_id, first).await;
        let winner = post(&client, first, "start");
        waiting(&world, 1).await;
        let loser = post(&client, second, "start");
        waiting(&world, 2).await;
        held.let_go().await;
        let participation = done(winner).await.expect(201);
        assert_eq!(participation["promotion_id"], first.id);
        let problem = done(loser).await.problem(409, "not-eligible");
        assert_eq!(problem["reasons"], json!(["ANOTHER_CHALLENGE_LIVE"]));
        assert_eq!(statuses(&world, user_id).await, ["IN_PROGRESS"]);
    }
}

/// Whatever order of locks there is: the unique index has the last word, and the client is told
/// what it means.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_only_the_unique_index_stops_is_refused_with_the_reason() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let other = Challenges::new(&world, &conditions(1)).await;
    let hour = chrono::TimeDelta::hours(1);
    for (user_id, commits) in [(1, true), (2, false)] {
        let client = service.eligible_client(user_id, &promotion).await;
        let mut elsewhere = world.pool().begin().await.expect("a session");
        other
            .start_on(&mut *elsewhere, &[user_id], now(), now() + hour)
            .await;
        let started = post(&client, &promotion, "start");
        waiting(&world, 1).await;
        if commits {
            elsewhere.commit().await.expect("it is alone");
            let problem = done(started).await.problem(409, "not-eligible");
            assert_eq!(problem["reasons"], json!(["ANOTHER_CHALLENGE_LIVE"]));
        } else {
            elsewhere.rollback().await.expect("it is alone");
            done(started).await.expect(201);
        }
        assert_eq!(statuses(&world, user_id).await, ["IN_PROGRESS"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn landings_and_starts_beside_a_landing_share_its_split() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let client = service.eligible_client(1, &promotion).await;
    let held = HeldLock::place_of_split(&world, 1, &promotion).await;
    let first = landing(&client);
    waiting(&world, 1).await;
    let second = landing(&client);
    waiting(&world, 2).await;
    let started = post(&client, &promotion, "start");
    waiting(&world, 3).await;
    held.let_go().await;
    assert_eq!(done(first).await.expect(200)["screen"], "PROMO_OFFER");
    let screen = done(second).await.expect(200)["screen"].clone();
    assert!(
        ["PROMO_OFFER", "PROMO_PROGRESS"]
            .map(Value::from)
            .contains(&screen),
        "{screen}"
    );
    done(started).await.expect(201);
    let all = "select count(*) from cash_loan_account";
    assert_eq!(world.count(all).await, 1);

    // A participant's split that has run out, renewed by two landings at once.
    sqlx::query("update cash_loan_account set valid_until = clock_ms()")
        .execute(world.pool())
        .await
        .expect("it may run out");
    let landings = futures::future::join_all((0..10).map(|_| done(landing(&client)))).await;
    for answer in landings {
        assert_eq!(answer.expect(200)["screen"], "PROMO_PROGRESS");
    }
    let active = "select count(*) from cash_loan_account where status = 'ACTIVE'";
    assert_eq!((world.count(active).await, world.count(all).await), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_that_comes_to_the_completing_ride_being_applied_is_answered_after_it() {
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let (client, _) = service.started_client(1, &promotion).await;

    // Before the ride there is no reward to accept.
    done(post(&client, &promotion, "accept_reward"))
        .await
        .problem(409, "challenge-not-completed");

    // What a batch comes to at its end, having locked the participation.
    world.events_are_published().await;
    let held = HeldLock::by(&world, "lock table event_outbox in share mode").await;
    world.publish_ride(&ride(1)).await;
    waiting(&world, 1).await;
    let accept = post(&client, &promotion, "accept_reward");
    waiting(&world, 2).await;
    held.let_go().await;
    let answer = done(accept).await.expect(200);
    assert_eq!(answer["participation"]["rides_completed"], 1);
    assert_eq!(originations(&world).await, 1);

    // A ride during an accept no longer belongs to the challenge.
    let (client, _) = service.started_client(2, &promotion).await;
    world.publish_ride(&ride(2)).await;
    eventually(LIMIT, || async {
        equal(statuses(&world, 2).await, vec!["COMPLETED".to_owned()])
    })
    .await;
    let held = HeldLock::split_of(&world, 2).await;
    let accept = post(&client, &promotion, "accept_reward");
    waiting(&world, 1).await;
    world.publish_ride(&ride(2)).await;
    world.rides_are_applied().await;
    held.let_go().await;
    done(accept).await.expect(200);
    let receipts = "select count(*) from ride_receipt where user_id = 2";
    assert_eq!(world.count(receipts).await, 1);
    world.events_are_published().await;
    assert_contiguous(world.read_status_topic().await);
}

fn extend(service: &Service, body: &Value) -> Call {
    let api = service.admin().api;
    let request = api
        .request(Method::POST, "/admin/v1/extensions")
        .header("Idempotency-Key", Uuid::new_v4().to_string())
        .json(body);
    tokio::spawn(async move { api.send(request).await })
}

fn more_time(promotion: &Promotion, of: &str) -> Value {
    json!({ "promotion_id": promotion.id, "of": of, "by": "PT1H", "reason": "a race" })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_comes_to_a_sweeper_at_work_waits_and_covers_nobody() {
    let world = World::new().await;
    let (service, promotion, client) = completed(&world).await;
    let _sweeper = world.service().roles("sweep").start().await;
    let held = HeldLock::split_of(&world, 1).await;
    set_reward_deadline(&world, "0 seconds").await;
    waiting(&world, 1).await;
    let ordered = extend(&service, &more_time(&promotion, "REWARD"));
    waiting(&world, 2).await;
    held.let_go().await;
    assert_eq!(done(ordered).await.expect(202)["matched"], 0);
    let path = format!("/v1/promotions/{}/get_reward", promotion.id);
    client.api.get(&path).await.problem(410, "reward-expired");
    assert_eq!(statuses(&world, 1).await, ["EXPIRED"]);
    assert_eq!(
        world
            .count("select count(*) from participation_extension")
            .await,
        0
    );
}

/// The order is under way when the deadline passes: what it covers is not expired, and not refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweeper_and_an_accept_that_come_to_an_extension_find_the_new_deadline() {
    for sweeps in [true, false] {
        let world = World::new().await;
        let (service, promotion, client) = completed(&world).await;
        let _sweeper = match sweeps {
            true => Some(world.service().roles("sweep").start().await),
            false => None,
        };
        // The order has its instant, and is not committed.
        let held = HeldLock::audit(&world).await;
        let ordered = extend(&service, &more_time(&promotion, "REWARD"));
        waiting(&world, 1).await;
        let deadline = set_reward_deadline(&world, "200 milliseconds").await;
        tokio::time::sleep((deadline - now()).to_std().unwrap_or_default()).await;
        let accept = (!sweeps).then(|| post(&client, &promotion, "accept_reward"));
        waiting(&world, 2).await;
        assert!(now() >= deadline);
        held.let_go().await;
        assert_eq!(done(ordered).await.expect(202)["matched"], 1);
        let accepted = match accept {
            Some(accept) => done(accept).await,
            None => done(post(&client, &promotion, "accept_reward")).await,
        };
        let participation = accepted.expect(200)["participation"].clone();
        assert_eq!(participation["status"], "REWARDED", "sweeps: {sweeps}");
        let extended = instant(deadline + chrono::TimeDelta::hours(1));
        assert_eq!(
            participation["reward_deadline"], extended,
            "sweeps: {sweeps}"
        );
        assert_eq!(
            world
                .count("select count(*) from participation_extension")
                .await,
            1
        );
        let expired = "select count(*) from event_outbox where type = 'promotion.expired'";
        assert_eq!(world.count(expired).await, 0, "sweeps: {sweeps}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_comes_to_an_accept_leaves_it_as_it_is() {
    let world = World::new().await;
    let (service, promotion, client) = completed(&world).await;
    let held = HeldLock::split_of(&world, 1).await;
    let accept = post(&client, &promotion, "accept_reward");
    waiting(&world, 1).await;
    // An accept in time is not about the deadline: the order does not wait for it.
    let body = json!({ "user_id": 1, "of": "REWARD", "by": "PT1H", "reason": "a race" });
    let ordered = done(extend(&service, &body)).await.expect(202);
    assert_eq!(
        (&ordered["matched"], &ordered["done"]),
        (&json!(1), &json!(0))
    );
    held.let_go().await;
    done(accept).await.expect(200);
    let _sweeper = world.service().roles("sweep").start().await;
    let extension = extensions::done(&service, &ordered).await;
    assert_eq!(
        (&extension["done"], &extension["skipped"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(statuses(&world, 1).await, ["REWARDED"]);
}

/// The sweeper has a participation, and is about to move its deadline, which has passed.
#[tokio::test(flavor = "multi_thread")]
async fn a_get_reward_and_a_quit_that_come_to_an_extension_find_the_new_deadline() {
    let world = World::new().await;
    let (service, promotion, client) = completed(&world).await;
    let ordered = done(extend(&service, &more_time(&promotion, "REWARD"))).await;
    assert_eq!(ordered.expect(202)["matched"], 1);
    // Behind the order's instant.
    let deadline = set_reward_deadline(&world, "200 milliseconds").await;
    tokio::time::sleep((deadline - now()).to_std().unwrap_or_default()).await;
    // What every change comes to at its end, with the participation locked.
    let outbox = "lock table event_outbox in share mode";
    let held = HeldLock::by(&world, outbox).await;
    let _sweeper = world.service().roles("sweep").start().await;
    // Its passes over extensions and over rewards: whichever has it, applies the extension.
    waiting(&world, 2).await;
    let path = format!("/v1/promotions/{}/get_reward", promotion.id);
    let reward = call(&client.api, Method::GET, &path, None);
    waiting(&world, 3).await;
    held.let_go().await;
    let extended = deadline + chrono::TimeDelta::hours(1);
    let reward = done(reward).await.expect(200);
    assert_eq!(reward["reward_deadline"], instant(extended));
    assert_eq!(statuses(&world, 1).await, ["COMPLETED"]);

    let (quitter, started) = service.started_client(2, &promotion).await;
    let held = HeldLock::by(&world, outbox).await;
    let ordered = done(extend(&service, &more_time(&promotion, "CHALLENGE"))).await;
    assert_eq!(ordered.expect(202)["matched"], 1);
    waiting(&world, 1).await;
    let quit = post(&quitter, &promotion, "quit");
    waiting(&world, 2).await;
    held.let_go().await;
    let quit = done(quit).await.expect(200);
    assert_eq!(
        (&quit["status"], &quit["version"]),
        (&json!("EXPIRED"), &json!(3))
    );
    assert_ne!(quit["challenge_deadline"], started["challenge_deadline"]);
    let kinds = async |user_id: i64| -> Vec<String> {
        sqlx::query_scalar("select type from event_outbox where user_id = $1 and type is not null order by version")
            .bind(user_id)
            .fetch_all(world.pool())
            .await
            .expect("no relay takes them")
    };
    assert_eq!(
        kinds(2).await,
        [
            "promotion.started",
            "promotion.extended",
            "promotion.expired"
        ]
    );
    assert_eq!(
        world
            .count("select count(*) from participation_extension")
            .await,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_comes_to_a_quit_leaves_it_as_it_is() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(2)).await;
    let (client, started) = service.started_client(1, &promotion).await;
    let held = HeldLock::by(&world, "lock table event_outbox in share mode").await;
    let quit = post(&client, &promotion, "quit");
    waiting(&world, 1).await;
    let ordered = done(extend(&service, &more_time(&promotion, "CHALLENGE")))
        .await
        .expect(202);
    assert_eq!(
        (&ordered["matched"], &ordered["done"]),
        (&json!(1), &json!(0))
    );
    let _sweeper = world.service().roles("sweep").start().await;
    waiting(&world, 2).await;
    held.let_go().await;
    let quit = done(quit).await.expect(200);
    assert_eq!(
        (&quit["status"], &quit["version"]),
        (&json!("EXPIRED"), &json!(2))
    );
    assert_eq!(quit["challenge_deadline"], started["challenge_deadline"]);
    let extension = extensions::done(&service, &ordered).await;
    assert_eq!(
        (&extension["done"], &extension["skipped"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(
        world
            .count("select count(*) from participation_extension")
            .await,
        0
    );
}

/// A start has its instant and is not committed: the order waits for it, and covers it.
#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_comes_to_a_start_covers_it() {
    let world = World::new().await;
    let service = world.service().roles("api,sweep").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let client = service.eligible_client(1, &promotion).await;
    let held = HeldLock::place_of_split(&world, 1, &promotion).await;
    let start = post(&client, &promotion, "start");
    waiting(&world, 1).await;
    let ordered = extend(&service, &more_time(&promotion, "CHALLENGE"));
    waiting(&world, 2).await;
    held.let_go().await;
    let started = done(start).await.expect(201);
    assert_eq!(done(ordered).await.expect(202)["matched"], 1);
    eventually(LIMIT, || async {
        let progress = client.progress(promotion.id).await.expect(200);
        if progress["challenge_deadline"] == started["challenge_deadline"] {
            return Err("not extended".to_owned());
        }
        equal(progress["version"].clone(), json!(2))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_ride_and_its_late_record_are_one_ride_whichever_is_first() {
    let world = World::new().await;
    let service = world.service().roles("api,ingest").start().await;
    let promotion = service.admin().open_promotion(&conditions(9)).await;
    for (user_id, operator_first) in [(1, true), (2, false)] {
        let (client, _) = service.started_client(user_id, &promotion).await;
        let lost = ride(user_id);
        let path = format!("/admin/v1/users/{user_id}/rides");
        let body = json!({ "ride": lost, "reason": "a race" });
        let credit = || {
            call(
                &service.admin().api,
                Method::POST,
                &path,
                Some(body.clone()),
            )
        };
        let mut held = world.pool().begin().await.expect("a session");
        sqlx::query("select from promotion_user where user_id = $1 for update")
            .bind(user_id)
            .execute(&mut *held)
            .await
            .expect("it is there");
        // Who waits first for the participation has it first.
        let credited = if operator_first {
            let credited = credit();
            waiting(&world, 1).await;
            world.publish_ride(&lost).await;
            waiting(&world, 2).await;
            credited
        } else {
            world.publish_ride(&lost).await;
            waiting(&world, 1).await;
            let credited = credit();
            waiting(&world, 2).await;
            credited
        };
        held.rollback().await.expect("it was held");
        let answer = done(credited).await.expect(200);
        let (outcome, source) = match operator_first {
            true => ("APPLIED", "OPERATOR"),
            false => ("DUPLICATE", "TOPIC"),
        };
        assert_eq!(answer["outcome"], outcome);
        assert_eq!(answer["receipt"]["source"], source);
        world.rides_are_applied().await;
        let progress = client.progress(promotion.id).await.expect(200);
        assert_eq!(
            (&progress["rides_completed"], &progress["version"]),
            (&json!(1), &json!(2))
        );
    }
    assert_eq!(world.count("select count(*) from ride_receipt").await, 2);
}
