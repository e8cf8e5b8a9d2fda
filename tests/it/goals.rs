//! Challenges with goals beyond the number of rides: local days with a ride, and a sum of fares
//! (contract 2, "Goals").

use serde_json::{Value, json};

use crate::harness::*;
use crate::rides::{Course, at, conditions_with};

const CLIENT: i64 = 48_151;

/// What clients are told of the goals, `completed` of each.
fn completed(participation: &Value) -> Vec<i64> {
    let goals = participation["goals"].as_array().expect("a list");
    let names: Vec<&str> = goals
        .iter()
        .filter_map(|goal| goal["goal"].as_str())
        .collect();
    assert_eq!(names, ["RIDES", "DAYS", "AMOUNT"]);
    goals
        .iter()
        .filter_map(|goal| goal["completed"].as_i64())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_completed_by_the_ride_that_reaches_its_last_goal() {
    let course = Course::open(&conditions_with(
        2,
        &json!({ "target_days": 3, "target_amount_cents": 40_000, "day_boundary_timezone": "America/New_York" }),
    ))
    .await;
    let (from, to) = (at("2024-11-01T12:00:00Z"), at("2024-11-11T12:00:00Z"));
    course.challenges.start(&[CLIENT], from, to).await;
    let client = course.service.client(CLIENT);
    // New York is four hours behind until the third of November, 06:00 UTC, then five.
    let ride = |completed_at: &str, amount_cents: i64| {
        let mut ride = ride_at(CLIENT, at(completed_at));
        ride["amount_cents"] = json!(amount_cents);
        ride
    };
    let steps = [
        (
            ride("2024-11-03T03:59:59Z", 6_000),
            [1, 1, 6_000],
            2,
            Some(2),
        ),
        // The same day there, though another one in UTC.
        (
            ride("2024-11-02T04:00:00Z", 6_000),
            [2, 1, 12_000],
            3,
            Some(3),
        ),
        // Past the rides' target, and no new day: the amount moves.
        (
            ride("2024-11-02T12:00:00Z", 30_000),
            [2, 1, 40_000],
            4,
            Some(4),
        ),
        // It counts, and moves no goal.
        (ride("2024-11-02T13:00:00Z", 6_000), [2, 1, 40_000], 4, None),
        (
            ride("2024-11-03T04:00:00Z", 6_000),
            [2, 2, 40_000],
            5,
            Some(5),
        ),
        (ride("2024-11-04T04:59:59Z", 6_000), [2, 2, 40_000], 5, None),
        (
            ride("2024-11-04T05:00:00Z", 6_000),
            [2, 3, 40_000],
            6,
            Some(6),
        ),
    ];
    let rides: Vec<Value> = steps.iter().map(|(ride, ..)| ride.clone()).collect();
    for (ride, goals, version, _) in &steps {
        course.ride_one_by_one(std::slice::from_ref(ride)).await;
        let progress = client
            .progress(course.challenges.promotion_id)
            .await
            .expect(200);
        assert_eq!(completed(&progress), goals, "{ride}");
        assert_eq!(progress["version"], *version, "{ride}");
        let status = if *version == 6 {
            "COMPLETED"
        } else {
            "IN_PROGRESS"
        };
        assert_eq!(progress["status"], status, "{ride}");
        assert_eq!(progress["rides_completed"], goals[0], "{ride}");
    }
    // Again, and one more: nothing moves any more.
    course.ride_together(&rides).await;
    course
        .ride_together(&[ride("2024-11-05T05:00:00Z", 6_000)])
        .await;
    let receipts = course.receipts_of(&rides).await;
    for (receipt, (.., version)) in receipts.iter().zip(&steps) {
        assert_eq!(
            (&receipt["verdict"], &receipt["version"]),
            (&json!("COUNTED"), &json!(version))
        );
    }
    let published = course.published(CLIENT).await;
    let told: Vec<Vec<i64>> = published
        .iter()
        .map(|record| completed(&record.event))
        .collect();
    let mut expected = vec![vec![0, 0, 0]];
    expected.extend(
        steps
            .iter()
            .filter(|step| step.3.is_some())
            .map(|step| step.1.to_vec()),
    );
    assert_eq!(told, expected);
    assert_contiguous(published);
    let days: Vec<(String, i32)> =
        sqlx::query_as("select day::text, counted from participation_day order by day")
            .fetch_all(course.world.pool())
            .await
            .unwrap();
    let days: Vec<(&str, i32)> = days
        .iter()
        .map(|(day, counted)| (day.as_str(), *counted))
        .collect();
    assert_eq!(
        days,
        [("2024-11-02", 4), ("2024-11-03", 2), ("2024-11-04", 1)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn goals_and_narrowings_are_checked_when_written_and_counted_from_the_start_on() {
    let world = World::new().await;
    let service = world.service().roles("ingest,relay,api").start().await;
    let admin = service.admin();
    let body = |conditions: &Value| {
        let key = uuid::Uuid::new_v4().to_string();
        json!({ "promotion_key": key, "title": "A test", "conditions": conditions })
    };
    let window = |from: &str, to: &str| json!([{ "days": ["MO"], "from": from, "to": to }]);
    let zone = "America/Mexico_City";
    for (change, field) in [
        (
            json!({ "target_days": 0, "day_boundary_timezone": zone }),
            "target_days",
        ),
        (
            json!({ "target_days": 367, "day_boundary_timezone": zone }),
            "target_days",
        ),
        // Fourteen days touch at most fifteen local ones.
        (
            json!({ "target_days": 16, "day_boundary_timezone": zone }),
            "target_days",
        ),
        (
            json!({ "target_days": 3, "challenge_period": "P1DT1S", "day_boundary_timezone": zone }),
            "",
        ),
        (
            json!({ "target_days": 4, "challenge_period": "P1DT1S", "day_boundary_timezone": zone }),
            "target_days",
        ),
        (json!({ "target_days": 5 }), "day_boundary_timezone"),
        (
            json!({ "hours": window("06:00", "10:00") }),
            "day_boundary_timezone",
        ),
        (
            json!({ "hours": window("10:00", "06:00"), "day_boundary_timezone": zone }),
            "hours",
        ),
        (json!({ "target_amount_cents": 0 }), "target_amount_cents"),
        (json!({ "min_distance_m": 0 }), "min_distance_m"),
        (json!({ "min_distance_m": 10_000_001 }), "min_distance_m"),
    ] {
        let answer = admin
            .api
            .post_json("/admin/v1/promotions", &body(&conditions_with(20, &change)))
            .await;
        if field.is_empty() {
            answer.expect(201);
            continue;
        }
        let problem = answer.problem(422, "invalid-request");
        assert_eq!(
            problem["errors"][0]["field"],
            format!("conditions.{field}"),
            "{change}"
        );
        assert_eq!(
            problem["errors"].as_array().map(Vec::len),
            Some(1),
            "{change}"
        );
    }

    let promotion = admin
        .open_promotion(&conditions_with(
            2,
            &json!({ "target_days": 2, "target_amount_cents": 20_000, "min_distance_m": 1_000, "day_boundary_timezone": zone }),
        ))
        .await;
    let (client, started) = service.started_client(1, &promotion).await;
    assert_eq!(
        started["goals"],
        json!([
            { "goal": "RIDES", "completed": 0, "target": 2 },
            { "goal": "DAYS", "completed": 0, "target": 2 },
            { "goal": "AMOUNT", "completed": 0, "target": 20_000 },
        ])
    );
    for distance_m in [999, 1_000] {
        let mut ride = ride(1);
        ride["distance_m"] = json!(distance_m);
        world.publish_ride(&ride).await;
    }
    world.rides_are_applied().await;
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(completed(&progress), [1, 1, 6_500]);
    world.events_are_published().await;
    let last = world
        .status_of(1, promotion.id)
        .await
        .pop()
        .expect("events");
    assert_eq!(last.event["goals"], progress["goals"]);

    // Until the upgrade is finished a process of the release before might judge by them.
    world
        .execute("update release_upgrade set finished_at = null")
        .await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    for change in [
        json!({ "target_days": 2, "day_boundary_timezone": zone }),
        json!({ "target_amount_cents": 1 }),
        json!({ "min_distance_m": 1 }),
        json!({ "hours": window("06:00", "10:00"), "day_boundary_timezone": zone }),
    ] {
        let conditions = conditions_with(20, &change);
        admin
            .api
            .post_json("/admin/v1/promotions", &body(&conditions))
            .await
            .problem(409, "upgrade-unfinished");
        admin
            .api
            .patch_json(
                &format!("/admin/v1/promotions/{}", promotion.id),
                &json!({ "conditions": conditions }),
            )
            .await
            .problem(409, "upgrade-unfinished");
    }
    admin
        .api
        .post_json("/admin/v1/promotions", &body(&conditions(20)))
        .await
        .expect(201);
}
