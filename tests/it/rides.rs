//! The result of a ride: whether it counts, what its receipt says if not, that a second delivery changes nothing, and
//! which status change is published for it (contract 2 and 4).

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use rdkafka::producer::Producer as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(30);

/// The client of a test that needs only one.
const CLIENT: i64 = 48_151;

/// A traceparent, a different one for each number.
fn trace(number: u64) -> String {
    format!("00-0af7651916cd43dd8448eb21{number:08x}-b7ad6b7169203331-01")
}

/// A promotion, its participants, and a service that counts their rides and does not expire them.
pub(crate) struct Course {
    pub(crate) world: World,
    pub(crate) challenges: Challenges,
    pub(crate) service: Service,
}

impl Course {
    pub(crate) async fn open(conditions: &Value) -> Self {
        let world = World::new().await;
        let challenges = Challenges::new(&world, conditions).await;
        let service = world.service().roles("ingest,relay,api").start().await;
        Self {
            world,
            challenges,
            service,
        }
    }

    /// Starts clients in a window that began an hour ago and lasts another.
    pub(crate) async fn start(&self, users: &[i64]) {
        self.challenges.start_an_hour_ago(users).await;
    }

    /// Publishes records so that they are applied in one batch: readers of committed records see
    /// those of a transaction all at once, and they lie in one partition.
    pub(crate) async fn publish_together(&self, records: Vec<Outgoing>) {
        let records = records.into_iter().map(|record| record.partition(0));
        let ended = TransactionEnd::Commit;
        drop(
            self.world
                .publish_in_transaction(records.collect(), ended)
                .await,
        );
        self.world.rides_are_applied().await;
    }

    pub(crate) async fn ride_together(&self, rides: &[Value]) {
        self.publish_together(rides.iter().map(Outgoing::ride).collect())
            .await;
    }

    /// Publishes rides each after the one before it was applied.
    pub(crate) async fn ride_one_by_one(&self, rides: &[Value]) {
        for ride in rides {
            self.world.publish_ride(ride).await;
            self.world.rides_are_applied().await;
        }
    }

    pub(crate) async fn receipts(&self, user_id: i64) -> Vec<Value> {
        let client = self.service.client(user_id);
        let page = client.rides(self.challenges.promotion_id).await.expect(200);
        let items = page["items"].as_array().expect("items is a list");
        items.clone()
    }

    /// The receipt of each ride, `null` where it has none.
    pub(crate) async fn receipts_of(&self, rides: &[Value]) -> Vec<Value> {
        let user_id = rides[0]["user_id"].as_i64().expect("a valid ride");
        let receipts = self.receipts(user_id).await;
        let receipt_of = |ride: &Value| {
            let mut found = receipts
                .iter()
                .filter(|receipt| receipt["ride_id"] == ride["ride_id"]);
            let receipt = found.next().cloned().unwrap_or_default();
            assert!(found.next().is_none(), "two receipts of {ride}");
            receipt
        };
        rides.iter().map(receipt_of).collect()
    }

    /// The verdict on each of one client's rides; `-` where there is none.
    pub(crate) async fn verdicts(&self, rides: &[Value]) -> Vec<String> {
        let receipts = self.receipts_of(rides).await;
        let verdict = |receipt: &Value| receipt["verdict"].as_str().unwrap_or("-").to_owned();
        receipts.iter().map(verdict).collect()
    }

    /// Asserts how many rides of a client count and which version that is.
    pub(crate) async fn assert_stands(&self, user_id: i64, status: &str, rides: i32, version: i32) {
        let expected = Standing {
            user_id,
            status: status.to_owned(),
            rides_completed: rides,
            version,
            counted: rides.into(),
        };
        assert_eq!(self.challenges.standing(user_id).await, expected);
    }

    /// The client's status changes, all published.
    pub(crate) async fn published(&self, user_id: i64) -> Vec<StatusRecord> {
        self.world.events_are_published().await;
        self.world
            .status_of(user_id, self.challenges.promotion_id)
            .await
    }
}

/// The conditions with more of them, or other ones.
pub(crate) fn conditions_with(target: u32, other: &Value) -> Value {
    let mut conditions = conditions(target);
    for (name, value) in other.as_object().expect("an object") {
        conditions[name] = value.clone();
    }
    conditions
}

/// The ride with other values; a field that becomes null is removed.
pub(crate) fn with(mut ride: Value, other: &Value) -> Value {
    let fields = ride.as_object_mut().expect("a ride is an object");
    for (name, value) in other.as_object().expect("an object") {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    ride
}

pub(crate) fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

/// A release that was forced to run beside a later one finds conditions that it does not fully know.
#[tokio::test(flavor = "multi_thread")]
async fn frozen_conditions_with_a_field_to_come_stop_nobodys_rides() {
    let course = Course::open(&conditions(3)).await;
    course.start(&[1, 2]).await;
    let later = r#"{"max_passengers": 4}"#;
    sqlx::query("update promotion_terms set conditions = conditions || $1::text::jsonb")
        .bind(later)
        .execute(course.world.pool())
        .await
        .unwrap();
    course.ride_together(&[ride(1), ride(2)]).await;
    course.assert_stands(1, "IN_PROGRESS", 1, 2).await;
    course.assert_stands(2, "IN_PROGRESS", 1, 2).await;
    let log = course.service.log();
    assert!(log.contains("conditions.max_passengers"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ride_is_judged_by_when_it_was_completed_whenever_it_arrives_and_the_window_is_half_open()
{
    let course = Course::open(&conditions(10)).await;
    // The window is over: every ride arrives late, and none is too late for that.
    let (from, to) = (
        at("2024-11-01T10:00:00.123Z"),
        at("2024-11-15T10:00:00.123Z"),
    );
    course.challenges.start(&[CLIENT], from, to).await;
    let ms = TimeDelta::milliseconds(1);
    let mut rides: Vec<Value> = [from - ms, from, to - ms, to, to + TimeDelta::days(100)]
        .map(|completed_at| ride_at(CLIENT, completed_at))
        .into();
    // Finer digits are cut off, and any offset is the same instant.
    for completed_at in [
        "2024-11-15T12:00:00.122999999+02:00",
        "2024-11-01T03:00:00.122999-07:00",
    ] {
        rides.push(with(ride(CLIENT), &json!({ "completed_at": completed_at })));
    }
    course.ride_together(&rides).await;

    let receipts = course.receipts_of(&rides).await;
    let (from_text, to_text) = (instant(from), instant(to));
    let before = |actual| {
        (
            "BEFORE_START",
            json!({ "required": from_text, "actual": instant(actual) }),
        )
    };
    let after = |actual| {
        (
            "AFTER_DEADLINE",
            json!({ "required": to_text, "actual": instant(actual) }),
        )
    };
    let counted = ("COUNTED", Value::Null);
    let expected = [
        before(from - ms),
        counted.clone(),
        counted.clone(),
        after(to),
        after(to + TimeDelta::days(100)),
        counted,
        before(from - ms),
    ];
    for ((ride, receipt), (verdict, details)) in rides.iter().zip(&receipts).zip(expected) {
        assert_eq!(receipt["verdict"], verdict, "{ride}");
        assert_eq!(receipt["details"], details, "{ride}");
    }
    assert_eq!(receipts[5]["completed_at"], instant(to - ms));
    course.assert_stands(CLIENT, "IN_PROGRESS", 3, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rule_that_a_ride_breaks_is_its_verdict_with_the_values_compared() {
    // Saturday, 18:00 UTC is noon there.
    let hours = json!([
        { "days": ["MO", "SA"], "from": "12:30", "to": "24:00" },
        { "days": ["SU"], "from": "00:00", "to": "24:00" },
    ]);
    let course = Course::open(&conditions_with(
        10,
        &json!({
            "country_codes": ["MX", "CO"], "city_ids": [4_198, 7], "service_types": ["city", "moto"],
            "min_distance_m": 8_400, "hours": hours.clone(),
            "max_rides_per_day": 1, "day_boundary_timezone": "America/Mexico_City",
        }),
    ))
    .await;
    let (from, to) = (at("2024-11-01T10:00:00Z"), at("2024-11-15T10:00:00Z"));
    course.challenges.start(&[CLIENT], from, to).await;
    let noon = |day: u32| json!(format!("2024-11-{day:02}T18:00:00.000Z"));
    let text = |at| json!(instant(at));
    // A ride that breaks every rule, of which one after the other is put right.
    let mut next = with(
        ride(CLIENT),
        &json!({ "currency_code": "USD", "amount_cents": 4_200, "country_code": "US", "city_id": 8, "service_type": "intercity" }),
    );
    let mut cases = Vec::new();
    let mut case = |change: Value, verdict: &str, required: Value, actual: Value| {
        next = with(next.clone(), &change);
        let ride = with(
            next.clone(),
            &json!({ "ride_id": Uuid::new_v4().to_string() }),
        );
        cases.push((
            ride,
            verdict.to_owned(),
            json!({ "required": required, "actual": actual }),
        ));
    };
    case(
        json!({ "completed_at": instant(from - TimeDelta::hours(1)) }),
        "BEFORE_START",
        text(from),
        text(from - TimeDelta::hours(1)),
    );
    case(
        json!({ "completed_at": instant(to) }),
        "AFTER_DEADLINE",
        text(to),
        text(to),
    );
    case(
        json!({ "completed_at": noon(2) }),
        "WRONG_CURRENCY",
        json!("MXN"),
        json!("USD"),
    );
    case(
        json!({ "currency_code": "MXN" }),
        "BELOW_MIN_AMOUNT",
        json!(5_000),
        json!(4_200),
    );
    case(
        json!({ "amount_cents": 4_999 }),
        "BELOW_MIN_AMOUNT",
        json!(5_000),
        json!(4_999),
    );
    case(
        json!({ "amount_cents": 5_000 }),
        "BELOW_MIN_DISTANCE",
        json!(8_400),
        Value::Null,
    );
    case(
        json!({ "distance_m": 8_399 }),
        "BELOW_MIN_DISTANCE",
        json!(8_400),
        json!(8_399),
    );
    case(
        json!({ "distance_m": 8_400 }),
        "OUTSIDE_AREA",
        json!(["MX", "CO"]),
        json!("US"),
    );
    case(
        json!({ "country_code": null }),
        "OUTSIDE_AREA",
        json!(["MX", "CO"]),
        Value::Null,
    );
    case(
        json!({ "country_code": "CO" }),
        "OUTSIDE_AREA",
        json!([4_198, 7]),
        json!(8),
    );
    case(
        json!({ "city_id": null }),
        "OUTSIDE_AREA",
        json!([4_198, 7]),
        Value::Null,
    );
    case(
        json!({ "city_id": 7 }),
        "WRONG_SERVICE_TYPE",
        json!(["city", "moto"]),
        json!("intercity"),
    );
    case(
        json!({ "service_type": null }),
        "WRONG_SERVICE_TYPE",
        json!(["city", "moto"]),
        Value::Null,
    );
    case(
        json!({ "service_type": "moto" }),
        "OUTSIDE_HOURS",
        hours,
        json!("2024-11-02T12:00:00"),
    );
    case(
        json!({ "completed_at": "2024-11-02T18:30:00.000Z" }),
        "COUNTED",
        Value::Null,
        Value::Null,
    );
    case(json!({}), "DAILY_LIMIT_REACHED", json!(1), json!(1));
    // What does not count for another reason never asks for a place of the day.
    case(
        json!({ "amount_cents": 4_999 }),
        "BELOW_MIN_AMOUNT",
        json!(5_000),
        json!(4_999),
    );
    let rides: Vec<Value> = cases.iter().map(|(ride, ..)| ride.clone()).collect();
    let before = now() - TimeDelta::seconds(1);
    course.ride_together(&rides).await;

    for (receipt, (ride, verdict, details)) in course.receipts_of(&rides).await.iter().zip(&cases) {
        let counted = verdict == "COUNTED";
        let recorded_at = receipt["recorded_at"].as_str().expect("an instant");
        let expected = json!({
            "ride_id": ride["ride_id"], "completed_at": ride["completed_at"],
            "amount_cents": ride["amount_cents"], "currency_code": ride["currency_code"],
            "verdict": verdict, "counted": counted, "recorded_at": recorded_at,
            "details": if counted { &Value::Null } else { details },
            "distance_m": ride.get("distance_m"), "reversed_at": null, "source": "TOPIC",
            "version": counted.then_some(2),
        });
        assert_eq!(receipt, &expected);
        assert!((before..now() + TimeDelta::seconds(1)).contains(&at(recorded_at)));
        assert_eq!(
            instant(at(recorded_at)),
            recorded_at,
            "in milliseconds and UTC"
        );
    }
    let metrics = course.service.metrics().await;
    for verdict in cases
        .iter()
        .map(|(_, verdict, _)| verdict)
        .collect::<BTreeSet<_>>()
    {
        let expected = cases
            .iter()
            .filter(|(_, other, _)| other == verdict)
            .count();
        let judged = metrics.sum("ride_promo_rides_judged_total", &[("verdict", verdict)]);
        assert_eq!(judged, expected as f64, "{verdict}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_days_cap_goes_by_the_local_day_across_batches_and_clock_changes() {
    let course = Course::open(&conditions_with(
        10,
        &json!({ "max_rides_per_day": 2, "day_boundary_timezone": "America/New_York" }),
    ))
    .await;
    let (from, to) = (at("2024-11-01T12:00:00Z"), at("2024-11-11T12:00:00Z"));
    course.challenges.start(&[CLIENT], from, to).await;
    // The third of November has 25 hours there: from 04:00 UTC to 05:00 UTC of the next day.
    let completed = [
        ("2024-11-03T03:59:59.999Z", "COUNTED"),
        ("2024-11-03T04:00:00.000Z", "COUNTED"),
        ("2024-11-03T03:00:00.000Z", "COUNTED"),
        ("2024-11-03T02:00:00.000Z", "DAILY_LIMIT_REACHED"),
        ("2024-11-04T05:00:00.000Z", "COUNTED"),
        ("2024-11-04T04:59:59.999Z", "COUNTED"),
        ("2024-11-03T16:00:00.000Z", "DAILY_LIMIT_REACHED"),
        ("2024-11-04T16:00:00.000Z", "COUNTED"),
        ("2024-11-05T04:59:59.999Z", "DAILY_LIMIT_REACHED"),
        ("2024-11-05T05:00:00.000Z", "COUNTED"),
    ];
    let rides: Vec<Value> = completed
        .iter()
        .map(|(completed_at, _)| ride_at(CLIENT, at(completed_at)))
        .collect();
    course.ride_together(&rides[..4]).await;
    course.ride_one_by_one(&rides[4..7]).await;
    course.ride_together(&rides[7..]).await;
    let expected: Vec<_> = completed.iter().map(|(_, verdict)| *verdict).collect();
    assert_eq!(course.verdicts(&rides).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_never_uses_up_the_last_place_of_a_day_or_of_the_target() {
    let course = Course::open(&conditions_with(
        3,
        &json!({ "max_rides_per_day": 2, "day_boundary_timezone": "Asia/Kolkata" }),
    ))
    .await;
    let (from, to) = (at("2024-11-01T00:00:00Z"), at("2024-11-15T00:00:00Z"));
    let users = [1, 2, 3];
    course.challenges.start(&users, from, to).await;
    let today = at("2024-11-05T06:00:00Z");
    let tomorrow = today + TimeDelta::days(1);
    let deliveries = |user_id| {
        let [first, second, third] = [0, 1, 2].map(|_| ride_at(user_id, today));
        let [last, after] = [0, 1].map(|_| ride_at(user_id, tomorrow));
        let distinct = [&first, &second, &third, &last, &after].map(Value::clone);
        let delivered = [
            &first, &first, &second, &first, &second, &third, &second, &third, &last, &last, &after,
        ];
        (distinct, delivered.map(Value::clone))
    };
    let (distinct, delivered): (Vec<_>, Vec<_>) = users.into_iter().map(deliveries).unzip();
    course.ride_together(&delivered[0]).await;
    course.ride_one_by_one(&delivered[1]).await;
    course.ride_together(&delivered[2][..2]).await;
    course.ride_together(&delivered[2][2..]).await;

    let expected = ["COUNTED", "COUNTED", "DAILY_LIMIT_REACHED", "COUNTED", "-"];
    for (rides, (user_id, version)) in distinct.iter().zip([(1, 2), (2, 4), (3, 3)]) {
        assert_eq!(course.verdicts(rides).await, expected, "client {user_id}");
        course.assert_stands(user_id, "COMPLETED", 3, version).await;
    }
    let metrics = course.service.metrics().await;
    assert_eq!(metrics.sum("ride_promo_rides_judged_total", &[]), 12.0);
    // The last two of each come when the challenge is over, but where they come together with the
    // completing one they are still recognised.
    let others = metrics.sum("ride_promo_rides_duplicate_total", &[])
        + metrics.sum("ride_promo_rides_no_participation_total", &[]);
    assert_eq!(others, 21.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ride_keeps_its_first_verdict_whatever_it_says_later() {
    let course = Course::open(&conditions(10)).await;
    course.start(&[1, 2]).await;
    let deliveries = |user_id| {
        let cheap = with(ride(user_id), &json!({ "amount_cents": 100 }));
        let good = ride(user_id);
        let corrected = with(cheap.clone(), &json!({ "amount_cents": 6_500 }));
        let moved = with(good.clone(), &json!({ "city_id": 5 }));
        let anywhere = with(good.clone(), &json!({ "city_id": null }));
        let spoiled = with(
            good.clone(),
            &json!({ "amount_cents": 100, "currency_code": "USD" }),
        );
        let retimed = with(
            good.clone(),
            &json!({ "completed_at": "2001-01-01T00:00:00Z" }),
        );
        // The same ride in other words.
        let same_instant = good["completed_at"]
            .as_str()
            .expect("a text")
            .replace('Z', "+00:00");
        let same = with(
            good.clone(),
            &json!({ "completed_at": same_instant, "rating": 5 }),
        );
        [
            cheap, good, corrected, moved, anywhere, spoiled, retimed, same,
        ]
    };
    let (together, apart) = (deliveries(1), deliveries(2));
    course.ride_together(&together).await;
    course.ride_one_by_one(&apart).await;

    for rides in [together, apart] {
        let user_id = rides[0]["user_id"].as_i64().expect("valid");
        course.assert_stands(user_id, "IN_PROGRESS", 1, 2).await;
        assert_eq!(course.receipts(user_id).await.len(), 2);
        let receipts = course.receipts_of(&rides[..2]).await;
        for (receipt, (ride, verdict)) in receipts
            .iter()
            .zip(rides.iter().zip(["BELOW_MIN_AMOUNT", "COUNTED"]))
        {
            assert_eq!(receipt["verdict"], verdict);
            for field in ["completed_at", "amount_cents", "currency_code"] {
                assert_eq!(receipt[field], ride[field], "{field}");
            }
        }
    }
    let metrics = course.service.metrics().await;
    assert_eq!(metrics.sum("ride_promo_rides_duplicate_total", &[]), 12.0);
    assert_eq!(
        metrics.sum("ride_promo_rides_duplicate_differing_total", &[]),
        10.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_ride_id_under_two_clients_is_two_rides() {
    let course = Course::open(&conditions(10)).await;
    course.start(&[1, 2, 3]).await;
    let ride = ride(1);
    let others = [2, 3].map(|user_id| with(ride.clone(), &json!({ "user_id": user_id })));
    course
        .ride_together(&[ride.clone(), others[0].clone()])
        .await;
    course.ride_one_by_one(&[others[1].clone(), ride]).await;
    for user_id in [1, 2, 3] {
        course.assert_stands(user_id, "IN_PROGRESS", 1, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_decides_whose_ride_it_is_and_not_the_key() {
    let course = Course::open(&conditions(10)).await;
    course.start(&[1, 2]).await;
    let keys: [Option<&[u8]>; 5] = [Some(b"2"), None, Some(b""), Some(b"\xff"), Some(b"2:1")];
    for (partition, key) in keys.into_iter().enumerate() {
        let record = Outgoing {
            key: key.map(<[u8]>::to_vec),
            ..Outgoing::ride(&ride(1))
        };
        course
            .world
            .publish(&record.partition(partition as i32 % course.world.partitions()))
            .await;
    }
    course.world.rides_are_applied().await;
    assert_eq!(course.challenges.standing(1).await.rides_completed, 5);
    course.assert_stands(2, "IN_PROGRESS", 0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rides_after_the_target_is_reached_leave_no_trace() {
    let course = Course::open(&conditions(2)).await;
    course.start(&[1, 2]).await;
    let [first, second, third, fourth] = [0; 4].map(|_| ride(1));
    let together = [&first, &second, &third, &second, &first].map(Value::clone);
    course.ride_together(&together).await;
    let cheap = with(ride(1), &json!({ "amount_cents": 1 }));
    course
        .ride_one_by_one(&[fourth.clone(), cheap, first.clone()])
        .await;
    assert_eq!(
        course.verdicts(&[first, second, third, fourth]).await,
        ["COUNTED", "COUNTED", "-", "-"]
    );
    assert_eq!(course.receipts(1).await.len(), 2);
    course.assert_stands(1, "COMPLETED", 2, 2).await;
    let kinds: Vec<_> = course
        .published(1)
        .await
        .iter()
        .map(|record| record.kind().to_owned())
        .collect();
    assert_eq!(kinds, ["promotion.started", "promotion.completed"]);
    let metrics = course.service.metrics().await;
    assert_eq!(
        metrics.sum("ride_promo_rides_no_participation_total", &[]),
        4.0
    );
    assert_eq!(metrics.sum("ride_promo_rides_duplicate_total", &[]), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rides_of_a_client_whose_earlier_participation_ended_count_for_the_later_one_only() {
    let course = Course::open(&conditions(3)).await;
    let hours = TimeDelta::hours;
    let earlier = &course.challenges;
    earlier
        .start(&[CLIENT], now() - hours(4), now() - hours(1))
        .await;
    let (recorded, unseen) = (
        ride_at(CLIENT, now() - hours(2)),
        ride_at(CLIENT, now() - hours(2)),
    );
    course
        .ride_one_by_one(std::slice::from_ref(&recorded))
        .await;
    course.assert_stands(CLIENT, "IN_PROGRESS", 1, 2).await;
    sqlx::query(
        "update promotion_user set status = 'EXPIRED', expired_reason = 'CHALLENGE_NOT_COMPLETED', expired_at = clock_ms()",
    )
    .execute(course.world.pool())
    .await
    .expect("its deadline has passed");
    course.ride_one_by_one(std::slice::from_ref(&unseen)).await;
    let later = Challenges::new(&course.world, &conditions(3)).await;
    later
        .start(&[CLIENT], now() - hours(3), now() + hours(1))
        .await;
    course
        .ride_together(&[recorded, unseen, ride(CLIENT)])
        .await;

    course.assert_stands(CLIENT, "EXPIRED", 1, 2).await;
    assert_eq!(course.receipts(CLIENT).await.len(), 1);
    let standing = later.standing(CLIENT).await;
    assert_eq!((standing.rides_completed, standing.counted), (3, 3));
    assert_eq!(
        (standing.status.as_str(), standing.version),
        ("COMPLETED", 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rides_applied_together_make_one_event_that_carries_the_trace_of_the_last_that_counted() {
    let course = Course::open(&conditions(4)).await;
    course.start(&[1, 2, 3]).await;
    let traced = |ride: &Value, number| Outgoing::ride(ride).header("traceparent", &trace(number));
    let cheap = |user_id| with(ride(user_id), &json!({ "amount_cents": 1 }));
    let repeated = ride(1);
    course
        .publish_together(vec![
            traced(&ride(1), 1),
            traced(&repeated, 2),
            traced(&ride(2), 3),
            // Neither of these counts.
            traced(&repeated, 4),
            traced(&cheap(1), 5),
            traced(&ride(3), 6),
            Outgoing::ride(&ride(3)),
        ])
        .await;
    let four: Vec<Value> = (0..4).map(|_| ride(2)).collect();
    let four = four
        .iter()
        .zip(11..)
        .map(|(ride, number)| traced(ride, number));
    let garbled = Outgoing::ride(&ride(1)).header("traceparent", "00-1-2-3");
    course
        .publish_together(four.chain([garbled, Outgoing::ride(&cheap(1))]).collect())
        .await;

    let changes = async |user_id| -> Vec<(String, i64, Value, Option<String>)> {
        let records = course.published(user_id).await;
        assert_contiguous(records.clone());
        let change = |record: &StatusRecord| {
            (
                record.kind().to_owned(),
                record.version(),
                record.event["rides_completed"].clone(),
                record.record.headers.get("traceparent").cloned(),
            )
        };
        records.iter().map(change).collect()
    };
    let change = |kind: &str, version, rides: i64, trace: Option<String>| {
        (format!("promotion.{kind}"), version, json!(rides), trace)
    };
    assert_eq!(
        changes(1).await,
        [
            change("started", 1, 0, None),
            change("progressed", 2, 2, Some(trace(2))),
            change("progressed", 3, 3, None),
        ]
    );
    assert_eq!(
        changes(2).await,
        [
            change("started", 1, 0, None),
            change("progressed", 2, 1, Some(trace(3))),
            // The target is reached by the third of the four, and the fourth leaves no trace.
            change("completed", 3, 4, Some(trace(13))),
        ]
    );
    assert_eq!(
        changes(3).await,
        [
            change("started", 1, 0, None),
            // The last that counted came without one.
            change("progressed", 2, 2, None),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_record_carries_the_whole_state_and_the_headers_that_subscribers_filter_by() {
    let world = World::new().await;
    let challenges = Challenges::new(
        &world,
        &conditions_with(2, &json!({ "claim_period": "PT1S" })),
    )
    .await;
    let _service = world
        .service()
        .roles("ingest,relay,sweep")
        .env("RIDE_PROMO__SWEEP__INTERVAL", "PT0.1S")
        .start()
        .await;
    let (from, to) = (
        (now() - TimeDelta::hours(1)).trunc_subsecs(3),
        (now() + TimeDelta::hours(1)).trunc_subsecs(3),
    );
    challenges.start(&[CLIENT], from, to).await;
    for _ in 0..2 {
        world.publish_ride(&ride(CLIENT)).await;
        world.rides_are_applied().await;
    }
    let records = eventually(LIMIT, || async {
        let records = world.status_of(CLIENT, challenges.promotion_id).await;
        if records.len() == 4 {
            Ok(records)
        } else {
            Err(format!("{} records", records.len()))
        }
    })
    .await;

    let promotion_key: String = sqlx::query_scalar("select promotion_key from promotion")
        .fetch_one(world.pool())
        .await
        .expect("one promotion");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let [_, progressed, completed, expired] = &records[..] else {
        unreachable!("counted above")
    };
    let completed_at = text(&completed.event["completed_at"]);
    let reward_deadline = instant(at(&completed_at) + TimeDelta::seconds(1));
    let (done, due) = (json!(completed_at), json!(reward_deadline));
    let expired_at = expired.event["expired_at"].clone();
    assert_eq!(completed.event["occurred_at"], done);
    assert_eq!(expired.event["occurred_at"], expired_at);
    assert!(at(&text(&expired_at)) >= at(&reward_deadline));
    for (record, (kind, previous, status, version, rides, dates)) in [
        (
            progressed,
            (
                "promotion.progressed",
                "IN_PROGRESS",
                "IN_PROGRESS",
                2,
                1,
                [json!(null), json!(null), json!(null), json!(null)],
            ),
        ),
        (
            completed,
            (
                "promotion.completed",
                "IN_PROGRESS",
                "COMPLETED",
                3,
                2,
                [done.clone(), due.clone(), json!(null), json!(null)],
            ),
        ),
        (
            expired,
            (
                "promotion.expired",
                "COMPLETED",
                "EXPIRED",
                4,
                2,
                [
                    done.clone(),
                    due.clone(),
                    expired_at.clone(),
                    json!("REWARD_NOT_CLAIMED"),
                ],
            ),
        ),
    ] {
        let StatusRecord { record, event } = record;
        let (event_id, occurred_at) = (text(&event["event_id"]), text(&event["occurred_at"]));
        let [completed_at, reward_deadline, expired_at, expired_reason] = dates;
        assert_eq!(
            *event,
            json!({
                "event_id": event_id, "type": kind, "user_id": CLIENT, "promotion_id": challenges.promotion_id,
                "promotion_key": promotion_key, "status": status, "previous_status": previous, "version": version,
                "rides_completed": rides, "rides_target": 2,
                "goals": [{ "goal": "RIDES", "completed": rides, "target": 2 }], "started_at": instant(from),
                "challenge_deadline": instant(to), "completed_at": completed_at, "reward_deadline": reward_deadline,
                "rewarded_at": null, "expired_at": expired_at, "expired_reason": expired_reason,
                "reward": { "product_id": 80, "amount_cents": 100_000, "currency_code": "MXN", "repayment_rate": "15" },
                "occurred_at": occurred_at, "extension": null,
            })
        );
        event_id.parse::<Uuid>().expect("event_id is a UUID");
        assert_eq!(
            instant(at(&occurred_at)),
            occurred_at,
            "in milliseconds and UTC"
        );
        let key = format!("{CLIENT}:{}", challenges.promotion_id);
        for (name, value) in [
            ("ce_specversion", "1.0"),
            ("ce_id", &event_id),
            ("ce_type", kind),
            ("ce_source", "/ride-promo"),
            ("ce_time", &occurred_at),
            ("ce_subject", &key),
            ("content-type", "application/json"),
        ] {
            assert_eq!(
                record.headers.get(name).map(String::as_str),
                Some(value),
                "{name}"
            );
        }
        assert_eq!(record.key.as_ref(), Some(&key));
    }
    let ids: BTreeSet<String> = records
        .iter()
        .map(|record| text(&record.event["event_id"]))
        .collect();
    assert_eq!(ids.len(), 4, "each event has an id of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_aborted_rides_and_transaction_markers_are_read_past() {
    let course = Course::open(&conditions(100)).await;
    course.start(&[CLIENT]).await;
    let world = &course.world;
    let own = |count: usize| -> Vec<Outgoing> {
        let rides = (0..count).map(|_| Outgoing::ride(&ride(CLIENT)).partition(0));
        rides.collect()
    };
    for partition in 0..2 {
        let tombstone = Outgoing {
            key: Some(CLIENT.to_string().into_bytes()),
            ..Outgoing::default()
        };
        world.publish(&tombstone.partition(partition)).await;
    }
    drop(
        world
            .publish_in_transaction(own(5), TransactionEnd::Commit)
            .await,
    );
    drop(
        world
            .publish_in_transaction(own(7), TransactionEnd::Abort)
            .await,
    );
    // The partition ends with a transaction marker, which is not a record.
    world.rides_are_applied().await;
    course.assert_stands(CLIENT, "IN_PROGRESS", 5, 2).await;

    // What stands behind an open transaction waits for its end; another partition does not.
    let open = world
        .publish_in_transaction(own(2), TransactionEnd::Leave)
        .await;
    world.publish(&own(1)[0]).await;
    world.publish(&own(1)[0].clone().partition(1)).await;
    eventually(LIMIT, || async {
        equal(course.challenges.standing(CLIENT).await.rides_completed, 6)
    })
    .await;
    tokio::task::spawn_blocking(move || open.abort_transaction(LIMIT))
        .await
        .expect("no panic")
        .expect("aborted");
    world.rides_are_applied().await;
    course.assert_stands(CLIENT, "IN_PROGRESS", 7, 4).await;

    let metrics = course.service.metrics().await;
    assert_eq!(metrics.sum("ride_promo_tombstones_total", &[]), 2.0);
    assert_eq!(metrics.sum("ride_promo_rides_consumed_total", &[]), 9.0);
    eventually(LIMIT, || async {
        equal(
            course
                .service
                .metrics()
                .await
                .sum("ride_promo_ingest_lag", &[]),
            0.0,
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_account_for_every_record_consumed() {
    let course = Course::open(&conditions(3)).await;
    course.start(&[1, 2]).await;
    let mut records = Vec::new();
    let mut expected = [0; 5];
    for round in 0..40 {
        let cheap = with(ride(1), &json!({ "amount_cents": 1 }));
        let seen = with(cheap.clone(), &json!({ "city_id": round }));
        let stranger = ride(1_000 + round);
        let spoiled = with(ride(1), &json!({ "amount_cents": "6500" }));
        records.extend([&cheap, &seen, &stranger, &spoiled].map(Outgoing::ride));
        records.push(Outgoing {
            value: Some(b"{".to_vec()),
            ..Outgoing::default()
        });
        records.push(Outgoing::default());
        for (sum, more) in expected.iter_mut().zip([1, 1, 1, 2, 1]) {
            *sum += more;
        }
    }
    // Three count, and then the challenge is completed.
    records.extend((0..10).map(|_| Outgoing::ride(&ride(2))));
    expected[0] += 3;
    expected[2] += 7;
    let (together, apart) = records.split_at(records.len() / 2);
    course.publish_together(together.to_vec()).await;
    course.world.publish_all(apart.to_vec()).await;
    course.world.rides_are_applied().await;

    let metrics = course.service.metrics().await;
    let parts = [
        "ride_promo_rides_judged_total",
        "ride_promo_rides_duplicate_total",
        "ride_promo_rides_no_participation_total",
        "ride_promo_rides_quarantined_total",
        "ride_promo_tombstones_total",
    ]
    .map(|name| metrics.sum(name, &[]));
    assert_eq!(parts, expected.map(f64::from));
    assert_eq!(
        metrics.sum("ride_promo_rides_consumed_total", &[]),
        records.len() as f64
    );
    assert_eq!(parts.iter().sum::<f64>(), records.len() as f64);
    assert_eq!(
        metrics.sum(
            "ride_promo_rides_quarantined_total",
            &[("reason", "NOT_JSON")]
        ),
        40.0
    );
}
