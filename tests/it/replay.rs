//! Publishing the rides of a file.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::harness::*;

async fn replay(world: &World, path: &str, options: &[&str]) -> Output {
    let arguments = [&["replay", "rides", path], options].concat();
    world.command(&arguments).run().await
}

async fn published(world: &World) -> Vec<Record> {
    world.kafka().read_topic(world.ride_topic()).await
}

/// The numbers of the summary: read, published, malformed, not taken.
fn summary(output: Output) -> Vec<u64> {
    let answer = output.expect_success();
    let words = answer.split(|letter: char| !letter.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

fn completed_at(record: &Record) -> DateTime<Utc> {
    let text = record.json()["completed_at"].as_str().unwrap().to_owned();
    DateTime::parse_from_rfc3339(&text).unwrap().to_utc()
}

#[tokio::test]
async fn trips_are_the_same_rides_each_time() {
    let world = World::new().await;
    let trips = Trips::load();
    // The deprecated flag changes nothing.
    let keep = ["--format", "debs2015", "--speed", "max", "--keep-times"];
    let output = replay(&world, trips.argument(), &keep).await;
    let all = trips.trips.len() as u64;
    assert_eq!(summary(output), [all, all, 0, 0]);
    let first = published(&world).await;
    let facts = |user: i64, at: DateTime<Utc>, cents: i64| (user, at, cents);
    let mut expected: Vec<_> = trips
        .trips
        .iter()
        .map(|trip| facts(trip.user_id, trip.completed_at, trip.amount_cents))
        .collect();
    let mut found: Vec<_> = first
        .iter()
        .map(|record| {
            let ride = record.json();
            let number = |name: &str| ride[name].as_i64().unwrap();
            facts(
                number("user_id"),
                completed_at(record),
                number("amount_cents"),
            )
        })
        .collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    for record in &first {
        let ride = record.json();
        assert_eq!(record.key, Some(ride["user_id"].to_string()));
        assert_eq!(
            (
                &ride["currency_code"],
                &ride["country_code"],
                &ride["service_type"]
            ),
            (&json!("USD"), &json!("US"), &json!("city"))
        );
        let header = |name: &str| record.headers[name].clone();
        assert_eq!(header("ce_specversion"), "1.0");
        assert_eq!(header("ce_id"), ride["ride_id"].as_str().unwrap());
        assert_eq!(header("ce_type"), "ride.completed");
        assert_eq!(header("ce_source"), "/ride-promo/replay");
        assert_eq!(header("ce_time"), ride["completed_at"].as_str().unwrap());
        assert_eq!(header("content-type"), "application/json");
    }
    let ids = |records: &[Record]| -> BTreeSet<String> {
        records
            .iter()
            .map(|record| record.headers["ce_id"].clone())
            .collect()
    };
    let first = ids(&first);
    assert_eq!(first.len(), trips.trips.len());

    // Moved to now and in another order: the same rides.
    let shuffled = trips.shuffled(3);
    let before = now() - TimeDelta::milliseconds(1);
    let max = ["--format", "debs2015", "--speed", "max", "--retime"];
    replay(&world, shuffled.to_str().unwrap(), &max)
        .await
        .expect_success();
    let all = published(&world).await;
    assert_eq!(all.len(), 2 * trips.trips.len());
    assert_eq!(ids(&all), first);
    let moved: Vec<_> = all
        .iter()
        .map(completed_at)
        .filter(|at| *at >= before)
        .collect();
    assert_eq!(moved.len(), trips.trips.len());
    assert!(moved.iter().all(|at| *at <= now()));
}

#[tokio::test]
async fn rides_follow_each_other_as_fast_as_asked_for() {
    let world = World::builder().partitions(1).build().await;
    let began = instant(now());
    let ride = |minute: i64| {
        let at = DateTime::UNIX_EPOCH + TimeDelta::days(12_000) + TimeDelta::minutes(minute);
        format!("{}\n", ride_at(1, at))
    };
    let file = world.new_dir("rides").join("rides.ndjson");
    std::fs::write(&file, [ride(0), ride(1), ride(3)].concat()).unwrap();
    replay(
        &world,
        file.to_str().unwrap(),
        &["--retime", "--speed", "60"],
    )
    .await
    .expect_success();
    let rides = published(&world).await;
    let at: Vec<_> = rides.iter().map(completed_at).collect();
    assert_eq!(at[1] - at[0], TimeDelta::seconds(1));
    assert_eq!(at[2] - at[0], TimeDelta::seconds(3));
    assert!(instant(at[0]) >= began);
    assert!(at[2] <= now(), "published when it ended, not before");
}

#[tokio::test]
async fn bad_rows_are_named_and_skipped() {
    let world = World::new().await;
    let mut negative = ride(1);
    negative["amount_cents"] = json!(-1);
    let good: Value = ride(2);
    let text = format!(
        "{good}\n\nnot json\n{negative}\n{}\n{good}",
        "x".repeat(70_000)
    );
    let file = world.new_dir("rides").join("rides.ndjson");
    std::fs::write(&file, text).unwrap();
    let output = replay(&world, file.to_str().unwrap(), &[]).await;
    let told: Vec<&str> = output
        .stderr
        .lines()
        .filter(|line| line.starts_with("line "))
        .collect();
    assert_eq!(told.len(), 3, "{output:?}");
    assert!(told[0].starts_with("line 3"), "{told:?}");
    assert!(told[1].starts_with("line 4"), "{told:?}");
    assert!(
        told[1].contains("amount_cents must be at least 0"),
        "{told:?}"
    );
    assert!(told[2].starts_with("line 5"), "{told:?}");
    assert_eq!(summary(output), [5, 2, 3, 0]);
    let bodies: BTreeMap<i64, Value> = published(&world)
        .await
        .iter()
        .map(|record| (record.offset, record.json()))
        .collect();
    assert_eq!(bodies, BTreeMap::from([(0, good.clone()), (1, good)]));
}

#[tokio::test]
async fn a_topic_or_file_that_is_not_there_fails_at_once() {
    let world = World::builder().without_topics().build().await;
    let file = world.new_dir("rides").join("rides.ndjson");
    std::fs::write(&file, ride(1).to_string()).unwrap();
    let command = world.command(&["replay", "rides", file.to_str().unwrap()]);
    let output = command.limit(Duration::from_secs(30)).run().await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.contains(world.ride_topic()), "{output:?}");
    let output = replay(&world, "no-such-file", &[]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.contains("no-such-file"), "{output:?}");
}

/// What the audit says about replays, oldest first.
async fn audited(world: &World) -> Vec<(String, Value)> {
    sqlx::query_as(
        "select actor, after from admin_audit where call = 'replay rides' order by audit_id",
    )
    .fetch_all(world.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn a_replay_is_in_the_audit_before_its_first_ride_and_after_its_last() {
    let world = World::new().await;
    let path = world.new_dir("rides").join("rides.ndjson");
    let lines = format!("{}\r{}\rnot a ride", ride(1), ride(2));
    std::fs::write(&path, &lines).unwrap();
    let path = path.to_str().unwrap();
    let command = world.command(&["replay", "rides", path, "--retime", "--speed", "max"]);
    let output = command.env("USER", "rosa").run().await;
    assert_eq!(summary(output), [3, 2, 1, 0]);
    let entry = |state: &str, [read, published, malformed]: [u64; 3], retimed: bool| {
        let after = json!({ "file": path, "topic": world.ride_topic(), "retimed": retimed, "state": state,
            "read": read, "published": published, "malformed": malformed, "failed": 0 });
        ("cli:rosa".to_owned(), after)
    };
    assert_eq!(
        audited(&world).await,
        [
            entry("STARTED", [0, 0, 0], true),
            entry("FINISHED", [3, 2, 1], true)
        ]
    );

    // A file that is cut off: what was published before is told and counted.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, lines.as_bytes()).unwrap();
    let mut torn = gzip.finish().unwrap();
    torn.truncate(torn.len() - 4);
    std::fs::write(path, torn).unwrap();
    let command = world.command(&["replay", "rides", path]);
    let output = command.env("USER", "rosa").run().await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        output.stdout.starts_with("2 read, 2 published"),
        "{output:?}"
    );
    assert!(
        output
            .stderr
            .contains("after line 2: the gzip file is cut off"),
        "{output:?}"
    );
    let last = audited(&world).await.pop();
    assert_eq!(last, Some(entry("FAILED", [2, 2, 0], false)));

    // What cannot be written down is not done.
    let before = published(&world).await.len();
    world.execute("drop table admin_audit").await;
    std::fs::write(path, &lines).unwrap();
    let output = replay(&world, path, &[]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.contains("audit"), "{output:?}");
    assert_eq!(published(&world).await.len(), before);
}
