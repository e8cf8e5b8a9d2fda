//! Reminders before deadlines: each once, at its moment, also after kills and extensions.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// How soon after its moment a reminder must be recorded.
const SOON: TimeDelta = TimeDelta::seconds(5);

fn reminding(target: u32, challenge: &[&str], reward: &[&str]) -> Value {
    let mut conditions = conditions(target);
    conditions["reminders"] = json!({ "challenge": challenge, "reward": reward });
    conditions
}

fn time(value: &Value) -> DateTime<Utc> {
    let text = value.as_str().expect("a text");
    text.parse().expect("an instant")
}

/// Client, deadline and lead of every reminder so far.
async fn published(world: &World) -> Vec<(i64, String, String)> {
    let reminders = world.reminders().await;
    let mut all: Vec<_> = reminders
        .iter()
        .map(|record| {
            let reminder = record.json();
            let text = |name: &str| reminder[name].as_str().expect("a text").to_owned();
            let user_id = reminder["user_id"].as_i64().expect("a number");
            (user_id, text("of"), text("lead"))
        })
        .collect();
    all.sort();
    all
}

/// Waits until no reminder is due that has not been looked at and published.
async fn all_are_published(world: &World) {
    eventually(LIMIT, || async {
        let due = "select count(*) from participation_reminder where next_at <= clock_timestamp()";
        equal(world.count(due).await, 0)
    })
    .await;
    world.events_are_published().await;
}

/// The clients of all reminders, once none is due any more.
pub(crate) async fn reminded(world: &World) -> Vec<i64> {
    all_are_published(world).await;
    let published = published(world).await.into_iter();
    published.map(|(user_id, ..)| user_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reminder_comes_at_its_moment_and_says_what_is_left_to_do() {
    let world = World::new().await;
    world
        .execute("update release_upgrade set finished_at = null")
        .await;
    let service = world.service().start().await;
    let admin = service.admin();
    let mut conditions = reminding(2, &["PT1M", "PT62S"], &["PT60S"]);
    conditions["challenge_period"] = json!("PT70S");
    conditions["claim_period"] = json!("PT64S");

    // What the release before would not do is not written before its processes have gone.
    let body = json!({ "promotion_key": "early", "title": "Early", "conditions": conditions });
    let early = admin.api.post_json("/admin/v1/promotions", &body).await;
    early.problem(409, "upgrade-unfinished");
    let promotion = admin.open_promotion(&crate::harness::conditions(2)).await;
    let path = format!("/admin/v1/promotions/{}", promotion.id);
    let patch = json!({ "conditions": conditions });
    let early = admin.api.patch_json(&path, &patch).await;
    early.problem(409, "upgrade-unfinished");
    world
        .execute("update release_upgrade set finished_at = clock_ms()")
        .await;
    let mut wrong = patch.clone();
    wrong["conditions"]["reminders"] =
        json!({ "challenge": ["PT70S"], "reward": ["PT30S"], "start": [] });
    let refused = admin.api.patch_json(&path, &wrong).await;
    let problem = refused.problem(422, "invalid-request");
    let fields: BTreeSet<&str> = problem["errors"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|error| error["field"].as_str())
        .collect();
    let expected =
        ["challenge", "reward", "start"].map(|list| format!("conditions.reminders.{list}"));
    assert_eq!(fields, expected.iter().map(String::as_str).collect());
    admin.api.patch_json(&path, &patch).await.expect(200);

    let (client, started) = service.started_client(48_151, &promotion).await;
    assert_eq!(started["conditions"]["reminders"], conditions["reminders"]);
    world.publish_ride(&ride(48_151)).await;
    eventually(LIMIT, || async { equal(world.reminders().await.len(), 2) }).await;
    let versions = world.status_of(48_151, promotion.id).await.len();
    assert_eq!(versions, 2, "a reminder is no version");
    world.publish_ride(&ride(48_151)).await;
    let all = eventually(LIMIT, || async {
        let reminders = world.reminders().await;
        equal(reminders.len(), 3).map(|_| reminders)
    })
    .await;
    let completed = client.progress(promotion.id).await.expect(200);
    let known = admin.user(48_151).await;

    let mut all: Vec<(Value, Record)> = all
        .into_iter()
        .map(|record| (record.json(), record))
        .collect();
    all.sort_by_key(|(reminder, _)| time(&reminder["occurred_at"]));
    let expected = [
        ("CHALLENGE", "PT62S", 62, &started["challenge_deadline"], 1),
        ("CHALLENGE", "PT1M", 60, &started["challenge_deadline"], 1),
        ("REWARD", "PT60S", 60, &completed["reward_deadline"], 2),
    ];
    for ((reminder, record), (of, lead, seconds, deadline, rides)) in all.iter().zip(expected) {
        let occurred_at = time(&reminder["occurred_at"]);
        let late = occurred_at - (time(deadline) - TimeDelta::seconds(seconds));
        assert!((TimeDelta::zero()..SOON).contains(&late), "{late} late");
        let as_promised = json!({
            "event_id": reminder["event_id"], "type": "promotion.reminder", "of": of, "lead": lead, "deadline": deadline,
            "user_id": 48_151, "promotion_id": promotion.id, "promotion_key": started["promotion_key"],
            "rides_completed": rides, "rides_target": 2,
            "goals": [{ "goal": "RIDES", "completed": rides, "target": 2 }],
            "reward": started["reward"], "occurred_at": reminder["occurred_at"],
        });
        assert_eq!(*reminder, as_promised);
        let key = format!("48151:{}", promotion.id);
        assert_eq!(record.key.as_ref(), Some(&key));
        for (name, value) in [
            ("ce_specversion", "1.0"),
            ("ce_id", reminder["event_id"].as_str().expect("a text")),
            ("ce_type", "promotion.reminder"),
            ("ce_source", "/ride-promo"),
            ("ce_time", reminder["occurred_at"].as_str().expect("a text")),
            ("ce_subject", key.as_str()),
            ("content-type", "application/json"),
        ] {
            assert_eq!(
                record.headers.get(name).map(String::as_str),
                Some(value),
                "{name}"
            );
        }
    }
    // Support sees which were sent, and when.
    let sent: Vec<Value> = all
        .iter()
        .map(|(reminder, _)| {
            json!({
                "of": reminder["of"], "lead": reminder["lead"], "deadline": reminder["deadline"],
                "sent_at": reminder["occurred_at"],
            })
        })
        .collect();
    assert_eq!(known["participations"][0]["reminders"], json!(sent));
    assert_contiguous(world.read_status_topic().await);
    let metrics = service.metrics().await;
    for (of, count) in [("CHALLENGE", 2.0), ("REWARD", 1.0)] {
        let published = metrics.sum("ride_promo_reminders_published_total", &[("of", of)]);
        assert_eq!(published, count, "{of}");
    }
    let in_time = metrics.sum("ride_promo_reminder_delay_seconds_bucket", &[("le", "5")]);
    assert_eq!(in_time, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_only_the_shortest_comes_and_an_extension_repeats_none() {
    let world = World::new().await;
    let leads = ["PT10M", "PT2M", "PT1M"];
    let challenges = Challenges::new(&world, &reminding(2, &leads, &[])).await;
    let (hour, seconds) = (TimeDelta::hours(1), TimeDelta::seconds);
    let begin = async |user_id, began: TimeDelta, left: TimeDelta| {
        challenges
            .start(&[user_id], now() - began, now() + left)
            .await;
    };
    // All three are due; the longest is, and the next in a while; all began before the window; the
    // deadline is past; one is over.
    begin(1, hour, seconds(50)).await;
    begin(2, hour, seconds(400)).await;
    begin(3, TimeDelta::milliseconds(30_500), seconds(25)).await;
    begin(4, hour, seconds(-1)).await;
    begin(5, hour, seconds(50)).await;
    end_by_force(&world, 5, challenges.promotion_id, End::Rewarded).await;
    let _service = world.service().roles("sweep,relay").start().await;

    all_are_published(&world).await;
    let reminder = |user_id: i64, lead: &str| (user_id, "CHALLENGE".to_owned(), lead.to_owned());
    let first = [reminder(1, "PT1M"), reminder(2, "PT10M")];
    assert_eq!(published(&world).await, first);

    // Everybody gets 70 seconds from now: what is done is not repeated, what never came does not
    // come now, and what was missed is due again, the shortest of it.
    world
        .execute("update promotion_user set challenge_deadline = clock_ms() + interval '70 s' where status = 'IN_PROGRESS'")
        .await;
    all_are_published(&world).await;
    let second = [
        reminder(1, "PT1M"),
        reminder(2, "PT10M"),
        reminder(2, "PT2M"),
        reminder(4, "PT2M"),
    ];
    assert_eq!(published(&world).await, second);
    // 2 and 4 have one left, ten seconds from now; it comes by itself.
    let left = "select count(*) from participation_reminder where next_at is not null";
    assert_eq!(world.count(left).await, 2);
    eventually(LIMIT, || async { equal(world.count(left).await, 0) }).await;
    world.events_are_published().await;
    let mut third = second.to_vec();
    third.extend([reminder(2, "PT1M"), reminder(4, "PT1M")]);
    third.sort();
    assert_eq!(published(&world).await, third);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_process_killed_again_and_again_each_comes_once() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &reminding(5, &["PT2M", "PT1M"], &["PT1M"])).await;
    let service = || {
        world
            .service()
            .roles("sweep,relay")
            .env("RIDE_PROMO__SWEEP__INTERVAL", "PT0.05S")
            .env("RIDE_PROMO__SWEEP__BATCH_MAX", 3)
            .env("RIDE_PROMO__RELAY__BATCH_MAX", 5)
    };
    let began = now();
    let moment = TimeDelta::milliseconds(60_000);
    // The longer lead is due a little before the shorter one begins to be, client after client.
    for user_id in 1..=60 {
        let spread = TimeDelta::milliseconds(100 * user_id);
        let start = began - TimeDelta::minutes(5);
        challenges
            .start(&[user_id], start, began + moment + spread)
            .await;
    }
    for round in 0..5_u64 {
        let victim = service().start().await;
        tokio::time::sleep(Duration::from_millis(90 * round)).await;
        victim.sigkill().await;
    }
    let _steady = service().start().await;
    eventually(LIMIT, || async {
        let left = "select count(*) from participation_reminder where next_at is not null";
        equal(world.count(left).await, 0)
    })
    .await;
    world.events_are_published().await;
    // A client may have been late for the longer one; the shorter one each has had, once.
    let all = published(&world).await;
    let mut shorter = all.clone();
    shorter.retain(|(_, _, lead)| lead == "PT1M");
    let expected: Vec<_> = (1..=60)
        .map(|user_id| (user_id, "CHALLENGE".to_owned(), "PT1M".to_owned()))
        .collect();
    assert_eq!(shorter, expected);
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "{all:?}");
    assert_contiguous(world.read_status_topic().await);
}
