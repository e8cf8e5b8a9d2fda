//! The published contracts (OpenAPI, AsyncAPI, schemas), tried with other people's tools. `make contracts` installs
//! the tools and runs the tests that are ignored here.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::TimeDelta;
use serde_json::json;
use tokio::process::Command;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

const PAGE: &str = "docs/subscriber-guide.md";

/// Where `scripts/contract-tools.sh` puts what it fetches.
fn tools() -> PathBuf {
    let binary = std::env::current_exe().expect("it runs");
    let target = binary.ancestors().nth(3).expect("target/debug/deps/it");
    target.join("contract-tools")
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a command to its end, within ten minutes; answers what it printed and whether it succeeded.
async fn run(command: &mut Command) -> (bool, String) {
    let command = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(600), command)
        .await
        .expect("it ends")
        .expect("it is installed");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

/// A client with two challenges that are over, and a promotion of one ride more to be started.
async fn veteran(world: &World, service: &Service, user_id: i64) -> (Client, Promotion) {
    let admin = service.admin();
    let hours = |hours| now() - TimeDelta::hours(hours);
    for began in [30, 20] {
        let over = Challenges::new(world, &conditions(2)).await;
        over.start(&[user_id], hours(began), hours(began - 5)).await;
        eventually(LIMIT, || async {
            equal(over.standing(user_id).await.status, "EXPIRED".to_owned())
        })
        .await;
    }
    let promotion = admin.open_promotion(&conditions(1)).await;
    let client = service.eligible_client(user_id, &promotion).await;
    (client, promotion)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make contracts"]
async fn schemathesis_finds_nothing() {
    let world = World::new().await;
    let service = world.service().lateness("PT0S").start().await;
    // one who has completed a challenge, and one who has yet to start
    let (client, promotion) = veteran(&world, &service, 48_151).await;
    client.start(promotion.id).await.expect(201);
    let mut cheap = ride(48_151);
    cheap["amount_cents"] = json!(4_200);
    world.publish_ride(&cheap).await;
    world.publish_ride(&ride(48_151)).await;
    let (_, _) = veteran(&world, &service, 48_152).await;
    for number in 0..40 {
        let mut broken = ride(48_151 + number % 2);
        broken["amount_cents"] = json!("65.00");
        world.publish_ride(&broken).await;
    }
    world.publish_raw(None, Some(b"\xff"), &[]).await;
    world.rides_are_applied().await;

    let (client_document, admin_document) = ("openapi-client.json", "openapi-admin.json");
    let client = |user_id| (client_document, service.api(), client_token(user_id));
    let runs = [
        client(48_151),
        client(48_152),
        (admin_document, service.admin_listener(), admin_token()),
    ];
    // the bulk calls resolve every open record, so new ones keep coming
    let more = async {
        loop {
            let mut broken = ride(48_151);
            broken["amount_cents"] = json!("65.00");
            world.publish_ride(&broken).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let all = try_all(&world, runs);
    tokio::select! {
        found = all => assert!(found.is_empty(), "findings in {found:?}"),
        () = more => unreachable!("it goes on"),
    }
}

/// Runs Schemathesis on each document with its listener and token; answers those it found
/// something in.
async fn try_all<'a>(world: &World, runs: [(&'a str, &Api, String); 3]) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (document, listener, token) in runs {
        let config = document
            .replace("openapi", "schemathesis")
            .replace("json", "toml");
        let mut schemathesis = Command::new(tools().join("python/bin/schemathesis"));
        schemathesis
            .current_dir(repository("tests/contracts"))
            .arg("--config-file")
            .arg(config)
            .arg("run")
            .arg(repository("schemas").join(document))
            .args(["--url", &format!("http://{}", listener.address())])
            .args(["--header", &format!("Authorization:Bearer {token}")])
            .args(["--continue-on-failure", "--output-truncate", "false"])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("HYPOTHESIS_STORAGE_DIRECTORY", world.new_dir("hypothesis"));
        let (found_nothing, said) = run(&mut schemathesis).await;
        println!("{said}");
        if !found_nothing {
            found.push(document);
        }
    }
    found
}

#[tokio::test]
#[ignore = "make contracts"]
async fn the_official_parser_reads_the_asyncapi_document() {
    let mut parser = Command::new("node");
    parser
        .arg(tools().join("asyncapi/check.mjs"))
        .arg(repository("schemas/asyncapi.json"));
    let (valid, said) = run(&mut parser).await;
    assert!(valid, "{said}");
    assert!(
        said.contains("channels: promotion-reminder, promotion-status, ride-completed"),
        "{said}"
    );
}

/// The examples of three languages, on real events with redelivered, older and aborted ones among
/// them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "make contracts"]
async fn every_example_of_a_subscriber_keeps_the_newest_version() {
    let world = World::new().await;
    let service = world.service().lateness("PT0S").start().await;
    let promotion = service.admin().open_promotion(&conditions(3)).await;
    for user_id in 1..=12 {
        let (client, _) = service.started_client(user_id, &promotion).await;
        for _ in 0..user_id % 4 {
            world.publish_ride(&ride(user_id)).await;
            world.rides_are_applied().await;
        }
        if user_id % 8 == 3 {
            let accept = format!("/v1/promotions/{}/accept_reward", promotion.id);
            client.api.post(&accept).await.expect(200);
        }
    }
    let over = Challenges::new(&world, &conditions(2)).await;
    let began = now() - TimeDelta::days(2);
    over.start(&[99], began, began + TimeDelta::days(1)).await;
    eventually(LIMIT, || async {
        equal(over.standing(99).await.status, "EXPIRED".to_owned())
    })
    .await;
    world.events_are_published().await;
    let published = world.read_status_topic().await;
    let mut newest = last_by_key(published.clone());
    assert_eq!(newest.len(), 13);
    let kinds: Vec<&str> = newest.values().map(StatusRecord::kind).collect();
    for kind in ["started", "progressed", "completed", "rewarded", "expired"] {
        assert!(
            kinds.contains(&format!("promotion.{kind}").as_str()),
            "{kind}"
        );
    }

    // all of it again, in order and then backwards, and a version that never was
    let again = published.iter().chain(published.iter().rev());
    let again: Vec<Outgoing> = again.map(copy).collect();
    let topic = world.status_topic();
    let commit = world
        .kafka()
        .produce_in_transaction(topic, again, TransactionEnd::Commit);
    drop(commit.await);
    let mut never = newest["1:1"].clone();
    never.event["version"] = json!(1_000);
    let never = vec![copy(&never)];
    let abort = world
        .kafka()
        .produce_in_transaction(topic, never, TransactionEnd::Abort);
    drop(abort.await);

    // And a client who is erased, after an event of an unknown type.
    let mut unknown = newest["2:1"].clone();
    unknown.event["type"] = json!("promotion.invented");
    let tombstone = Outgoing {
        value: None,
        ..copy(&newest["1:1"])
    };
    let last = vec![copy(&unknown), tombstone];
    let commit = world
        .kafka()
        .produce_in_transaction(topic, last, TransactionEnd::Commit);
    drop(commit.await);
    newest.remove("1:1");
    let expected: String = newest
        .iter()
        .map(|(key, record)| {
            let event = &record.event;
            format!(
                "{key} version {} {} {}/{}\n",
                event["version"],
                event["status"].as_str().unwrap(),
                event["rides_completed"],
                event["rides_target"],
            )
        })
        .collect();
    // The page's commands, where the script has put the examples and what they are built with.
    let shell = Shell::new(&world)
        .within(&tools().join("subscribers"))
        .env("STATUS_TOPIC", topic);
    let path = format!("PATH={}:$PATH", tools().join("go/bin").display());
    for commands in [
        block(PAGE, "python"),
        block(PAGE, "java"),
        block(PAGE, "go"),
    ] {
        let said = shell.run(&format!("{path}\n{commands}")).await;
        assert!(said.ends_with(&expected), "{commands}\n{said}");
    }
}

/// The example that sends pushes: once for each reminder, and none when it is too late.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "make contracts"]
async fn the_example_sends_each_reminder_once() {
    let world = World::new().await;
    let mut asked = conditions(3);
    asked["reminders"] = json!({ "challenge": ["PT2M"], "reward": [] });
    let challenges = Challenges::new(&world, &asked).await;
    let began = now() - TimeDelta::hours(1);
    for user_id in [1, 2] {
        challenges
            .start(&[user_id], began, now() + TimeDelta::seconds(100))
            .await;
    }
    let _service = world.service().roles("sweep,relay").start().await;
    let reminders = eventually(LIMIT, || async {
        let reminders = world.reminders().await;
        equal(reminders.len(), 2).map(|_| reminders)
    })
    .await;
    // All of it again, and one that comes too late.
    let mut late = reminders[0].clone();
    let mut value = late.json();
    value["event_id"] = json!("0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b13");
    value["deadline"] = json!(instant(now()));
    late.value = Some(value.to_string().into_bytes());
    let again = reminders.iter().chain([&late]);
    let again = again.map(|record| Outgoing {
        partition: Some(record.partition),
        key: record.key.clone().map(String::into_bytes),
        value: record.value.clone(),
        ..Outgoing::default()
    });
    let topic = world.reminder_topic();
    let commit =
        world
            .kafka()
            .produce_in_transaction(topic, again.collect(), TransactionEnd::Commit);
    drop(commit.await);
    let shell = Shell::new(&world)
        .within(&tools().join("subscribers"))
        .env("REMINDER_TOPIC", topic)
        .env("GROUP_ID", topic);
    let said = shell.run(&block(PAGE, "reminders")).await;
    let mut sent: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("to client"))
        .collect();
    sent.sort_unstable();
    assert_eq!(sent.len(), 2, "{said}");
    for (line, user_id) in sent.iter().zip([1, 2]) {
        assert!(
            line.starts_with(&format!("to client {user_id}: 3 rides to go until ")),
            "{said}"
        );
    }
}

/// The record as a relay would send it again.
fn copy(status: &StatusRecord) -> Outgoing {
    Outgoing {
        partition: Some(status.record.partition),
        key: status.record.key.clone().map(String::into_bytes),
        value: Some(status.event.to_string().into_bytes()),
        ..Outgoing::default()
    }
}

/// The documents are those that are committed, and what a page asks for is there.
#[tokio::test]
async fn the_admin_listener_serves_the_documents_and_swagger_ui() {
    let world = World::new().await;
    let service = world.service().start().await;
    let listener = service.admin_listener();
    for (path, committed) in [
        ("/openapi/client.json", "openapi-client.json"),
        ("/openapi/admin.json", "openapi-admin.json"),
        ("/asyncapi.json", "asyncapi.json"),
    ] {
        let committed = std::fs::read_to_string(repository("schemas").join(committed));
        let answer = listener.get(path).await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.text, committed.unwrap(), "{path}");
    }
    assert_eq!(
        listener.get("/docs").await.header("x-content-type-options"),
        Some("nosniff")
    );
    for (page, document, calls) in [
        ("/docs/admin", "../openapi/admin.json", "here"),
        ("/docs/client", "../openapi/client.json", "elsewhere"),
    ] {
        let answer = listener.get(page).await;
        assert_eq!(answer.status, 200);
        let shown = format!(r#"data-document="{document}" data-calls="{calls}""#);
        assert!(answer.text.contains(&shown), "{}", answer.text);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{policy}"
        );
        assert!(!answer.text.contains("http"), "nothing from elsewhere");
    }
    for (file, holds) in [
        ("start.js", "SwaggerUIBundle({"),
        ("swagger-ui.css", ".swagger-ui"),
        ("swagger-ui-bundle.js", "SwaggerUIBundle"),
    ] {
        // unpacked, for who does not say otherwise
        let answer = listener.get(&format!("/docs/{file}")).await;
        assert_eq!(answer.status, 200, "{file}");
        assert!(answer.text.contains(holds), "{file}");
    }
    let request = listener.request(reqwest::Method::GET, "/docs/swagger-ui-bundle.js");
    let request = request.header("accept-encoding", "br, gzip");
    let packed = request.send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]));
}
