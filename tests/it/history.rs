//! A participation's history for support: every version except counted rides, and its cause.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// Version, type and cause of each entry of the client's only participation.
async fn history(admin: &Admin, user_id: i64) -> Vec<(i64, String, String)> {
    let user = admin.user(user_id).await;
    let participations = user["participations"].as_array().expect("a list");
    assert_eq!(participations.len(), 1, "{user}");
    let entries = participations[0]["history"].as_array().expect("a list");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    entries
        .iter()
        .map(|entry| {
            let version = entry["version"].as_i64().expect("a number");
            (version, text(&entry["type"]), text(&entry["cause"]))
        })
        .collect()
}

fn entry(version: i64, kind: &str, cause: &str) -> (i64, String, String) {
    (version, format!("promotion.{kind}"), cause.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_that_is_not_progress_is_there_with_its_cause() {
    let world = World::new().await;
    let service = world.service().lateness("PT0S").start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(2)).await;
    let (client, started) = service.started_client(48_151, &promotion).await;
    for _ in 0..2 {
        world.publish_ride(&ride(48_151)).await;
        world.rides_are_applied().await;
    }
    client.accept(promotion.id).await.expect(200);
    let whole = [
        entry(1, "started", "client"),
        entry(3, "completed", "ride"),
        entry(4, "rewarded", "client"),
    ];
    assert_eq!(history(&admin, 48_151).await, whole);
    let user = admin.user(48_151).await;
    let participation = &user["participations"][0];
    let instants: Vec<&Value> = participation["history"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| &entry["occurred_at"])
        .collect();
    let expected = [
        &started["started_at"],
        &participation["completed_at"],
        &participation["rewarded_at"],
    ];
    assert_eq!(instants, expected);

    // Time and operators are causes too; publishing a state again makes no new version.
    let challenges = Challenges::new(&world, &conditions(2)).await;
    let hour = TimeDelta::hours(1);
    challenges.start(&[7], now() - hour, now() - hour / 2).await;
    eventually(LIMIT, || async {
        equal(challenges.standing(7).await.status, "EXPIRED".to_owned())
    })
    .await;
    let expired = [
        entry(1, "started", "client"),
        entry(2, "expired", "sweeper"),
    ];
    assert_eq!(history(&admin, 7).await, expired);
    let republish = ["republish", "--user", "7"];
    world.command(&republish).run().await.expect_success();
    assert_eq!(history(&admin, 7).await, expired);
    world
        .execute("update promotion_user set last_event_version = null where user_id = 7")
        .await;
    world.command(&republish).run().await.expect_success();
    let lifted = [&expired[..], &[entry(3, "expired", "operator")]].concat();
    assert_eq!(history(&admin, 7).await, lifted);

    // An erased client leaves none behind, and no note of a reminder either.
    world
        .execute(
            "insert into participation_reminded (user_id, promotion_id, deadline_of, lead, deadline, sent_at)
             select user_id, promotion_id, 'CHALLENGE', 'P1D', challenge_deadline, started_at from promotion_user where user_id = 7",
        )
        .await;
    let erase = ["erase", "--user", "7", "--reason", "asked for"];
    world.command(&erase).run().await.expect_success();
    let left = "select count(*) from participation_history where user_id = 7";
    assert_eq!(world.count(left).await, 0);
    let left = "select count(*) from participation_reminded";
    assert_eq!(world.count(left).await, 0);
    assert_eq!(admin.user(7).await["participations"], json!([]));
}
