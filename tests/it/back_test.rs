//! `back-test`: the result a promotion would have had on past rides, of a file and of the topic.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::harness::*;

/// Two rides of at least 50.00 in two days.
fn two_rides() -> Value {
    json!({ "target_rides": 2, "min_amount_cents": 5000, "currency_code": "MXN",
        "challenge_period": "P2D", "claim_period": "P7D" })
}

/// The same moment throughout a test process, so that differences are exact.
fn hours_ago(hours: i64) -> DateTime<Utc> {
    static NOW: OnceLock<DateTime<Utc>> = OnceLock::new();
    *NOW.get_or_init(now) - TimeDelta::hours(hours)
}

fn cheap(mut ride: Value) -> Value {
    ride["amount_cents"] = json!(4999);
    ride
}

/// Client 1 rides three times, an hour apart; client 2 once, in time, and once after two days;
/// client 3 only cheaply; client 4 twice in three days, the second ride being published twice.
fn rides() -> Vec<Value> {
    let repeated = ride_at(4, hours_ago(99));
    vec![
        ride_at(1, hours_ago(100)),
        ride_at(2, hours_ago(100)),
        cheap(ride_at(3, hours_ago(100))),
        ride_at(4, hours_ago(100)),
        ride_at(1, hours_ago(99)),
        repeated.clone(),
        repeated,
        ride_at(1, hours_ago(98)),
        ride_at(2, hours_ago(50)),
    ]
}

fn write(world: &World, name: &str, text: &str) -> PathBuf {
    let path = world.new_dir("back-test").join(name);
    std::fs::write(&path, text).expect("a file in the test's folder");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// What the report says of each target: target, clients, completed, one, two and three rides short.
fn outcomes(report: &Value) -> Vec<[i64; 6]> {
    let number = |value: &Value| value.as_i64().expect("a count");
    let row = |row: &Value| {
        let short = &row["near_misses"];
        [
            number(&row["target_rides"]),
            number(&row["clients"]),
            number(&row["completed"]),
            number(&short["1"]),
            number(&short["2"]),
            number(&short["3"]),
        ]
    };
    report["targets"]
        .as_array()
        .expect("rows")
        .iter()
        .map(row)
        .collect()
}

/// Of [`rides`] for the targets 1 to 4, with one of client 4 taken back in the end. That undoes no completion.
const EXPECTED: [[i64; 6]; 4] = [
    [1, 4, 3, 1, 0, 0],
    [2, 4, 2, 1, 1, 0],
    [3, 4, 1, 0, 2, 1],
    [4, 4, 0, 1, 0, 2],
];

#[tokio::test]
async fn a_file_and_the_topic_give_the_same_answer() {
    let world = World::builder().empty_database().build().await;
    let conditions = write(&world, "conditions.json", &two_rides().to_string());
    let mut records = rides();
    let taken_back = &records[3];
    records.push(
        json!({ "reversed_ride_id": taken_back["ride_id"], "user_id": taken_back["user_id"] }),
    );
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    let file = write(
        &world,
        "rides.ndjson",
        &format!("{}\nnot a ride\n", lines.join("\n")),
    );
    let svg = world.new_dir("back-test").join("chart.svg");
    let asked = [
        "back-test",
        "--conditions",
        text(&conditions),
        "--targets",
        "1..4",
        "--output",
        "json",
    ];
    let of_file = [
        &asked[..],
        &[
            "--rides",
            text(&file),
            "--svg",
            text(&svg),
            "--reward-cents",
            "100000",
        ],
    ]
    .concat();
    let output = world.command(&of_file).run().await;
    let report: Value = serde_json::from_str(&output.expect_success()).expect("JSON");

    assert_eq!(outcomes(&report), EXPECTED);
    assert_eq!(
        report["rides"],
        json!({ "read": 11, "malformed": 1, "reversals": 1, "outside": 0, "duplicates": 1 })
    );
    let two = &report["targets"][1];
    assert_eq!(two["cost_cents"], 200_000);
    assert_eq!(two["rate"], 0.5);
    let an_hour = 1.0 / 24.0;
    let days = |name: &str| two["days_to_completion"][name].as_f64().expect("days");
    for name in ["p10", "p50", "p90"] {
        assert!(
            (days(name) - an_hour).abs() < 1e-9,
            "{name}: {}",
            days(name)
        );
    }
    let verdicts = &two["verdicts"];
    assert_eq!(
        verdicts["COUNTED"], 5,
        "the third ride of client 1 came after completion"
    );
    assert_eq!(verdicts["BELOW_MIN_AMOUNT"], 1);
    assert_eq!(verdicts["AFTER_DEADLINE"], 1);
    assert_eq!(verdicts["REVERSED"], 0, "it came after completion");
    assert_eq!(report["targets"][2]["verdicts"]["REVERSED"], 1);
    assert_eq!(report["targets"][3]["days_to_completion"], Value::Null);
    assert!(
        std::fs::read_to_string(&svg)
            .expect("the chart")
            .starts_with("<svg ")
    );

    for ride in rides_of(&lines) {
        world.publish_ride(&ride).await;
    }
    world.publish_raw(Some("1"), Some(b"not a ride"), &[]).await;
    let (from, to) = (instant(hours_ago(101)), instant(now()));
    let of_topic = [&asked[..], &["--from", &from, "--to", &to]].concat();
    let output = world.command(&of_topic).run().await;
    let report: Value = serde_json::from_str(&output.expect_success()).expect("JSON");
    assert_eq!(outcomes(&report), EXPECTED);
    assert_eq!(
        report["rides"],
        json!({ "read": 11, "malformed": 1, "reversals": 1, "outside": 0, "duplicates": 1 })
    );

    // Half of the period, one of the clients.
    let users = write(&world, "users", "1\n\n 3 \n");
    let to = instant(hours_ago(98) - TimeDelta::minutes(30));
    let narrowed = [&of_file[..], &["--to", &to, "--users", text(&users)]].concat();
    let output = world.command(&narrowed).run().await;
    let report: Value = serde_json::from_str(&output.expect_success()).expect("JSON");
    assert_eq!(outcomes(&report)[1], [2, 2, 1, 0, 1, 0]);
    assert_eq!(report["rides"]["outside"], 6);
}

fn rides_of(lines: &[String]) -> Vec<Value> {
    let ride = |line: &String| serde_json::from_str(line).expect("JSON");
    lines.iter().map(ride).collect()
}

#[tokio::test]
async fn the_table_and_the_csv_have_a_row_for_each_target() {
    let world = World::builder().empty_database().build().await;
    let conditions = write(&world, "conditions.json", &two_rides().to_string());
    let lines: Vec<String> = rides().iter().map(Value::to_string).collect();
    let file = write(&world, "rides.ndjson", &lines.join("\n"));
    let asked = [
        "back-test",
        "--conditions",
        text(&conditions),
        "--rides",
        text(&file),
    ];

    let csv = [
        &asked[..],
        &[
            "--targets",
            "1..4",
            "--output",
            "csv",
            "--reward-cents",
            "5",
        ],
    ]
    .concat();
    let csv = world.command(&csv).run().await.expect_success();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 5, "{csv}");
    let column = |name: &str| {
        rows[0]
            .iter()
            .position(|cell| *cell == name)
            .expect("a column")
    };
    assert_eq!(rows[2][column("target_rides")], "2");
    assert_eq!(rows[2][column("completed")], "2");
    assert_eq!(rows[2][column("rate")], "0.5000");
    assert_eq!(rows[2][column("cost_cents")], "10");
    assert_eq!(rows[2][column("AFTER_DEADLINE")], "1");

    // The target of the conditions, where no others are asked for.
    let table = world.command(&asked).run().await.expect_success();
    let row = table
        .lines()
        .find(|line| line.trim_start().starts_with("2 "))
        .expect("a row");
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(&cells[..4], ["2", "4", "2", "0.5000"], "{table}");
}

#[tokio::test]
async fn wrong_conditions_and_users_are_named_before_anything_is_read() {
    let world = World::builder().empty_database().build().await;
    let good = write(&world, "good.json", &two_rides().to_string());
    let mut wrong = two_rides();
    wrong["target_rides"] = json!(0);
    wrong["colour"] = json!("red");
    let bad = write(&world, "bad.json", &wrong.to_string());
    let users = write(&world, "users", "1\nanna\n");
    for (arguments, words) in [
        (
            vec!["--conditions", text(&bad)],
            vec!["conditions.target_rides", "got 0", "conditions.colour"],
        ),
        (
            vec!["--conditions", text(&good), "--users", text(&users)],
            vec!["line 2", "\"anna\""],
        ),
    ] {
        let command = [
            &["back-test", "--rides", "there-is-no-such-file"][..],
            &arguments,
        ]
        .concat();
        let output = world.command(&command).run().await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        for word in words {
            assert!(output.stderr.contains(word), "{word}: {output:?}");
        }
    }
}

/// The guide's commands on the trips of the tests, and the numbers counted here.
#[tokio::test]
async fn the_guides_example_runs_as_it_stands() {
    let world = World::builder().empty_database().build().await;
    let shell = Shell::new(&world);
    let trips = Trips::load();
    std::fs::copy(&trips.path, shell.dir().join("trips.csv")).expect("a copy");
    shell.run(&block("docs/back-test.md", "conditions")).await;
    let table = shell.run(&block("docs/back-test.md", "on-a-file")).await;
    let clients = trips.users().len().to_string();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip_while(|line| !line.starts_with("target_rides"))
        .skip(1)
        .take(4)
        .map(|line| line.split_whitespace().collect())
        .collect();
    for (row, target) in rows.iter().zip(["1", "2", "3", "4"]) {
        assert_eq!(&row[..2], [target, &clients], "{table}");
    }
    assert_eq!(rows.len(), 4, "{table}");
    let svg = std::fs::read_to_string(shell.dir().join("chart.svg")).expect("the chart");
    assert!(svg.ends_with("</svg>\n"), "{svg}");
}
