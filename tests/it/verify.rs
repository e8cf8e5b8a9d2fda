//! `verify`: it reports nothing if all is right, also while everything runs, and names every disagreement.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::Value;

use crate::extensions::{done, order};
use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// Runs it; returns its exit code and the lines before the summary, and the summary.
async fn verify(world: &World, arguments: &[&str]) -> (Option<i32>, Vec<String>, String) {
    let arguments = [&["verify"], arguments].concat();
    let output = world.command(&arguments).run().await;
    let mut lines: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
    let summary = lines.pop().unwrap_or_else(|| panic!("{output:?}"));
    (output.status.code(), lines, summary)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_finds_nothing_beside_traffic_and_everything_that_is_broken() {
    let world = World::new().await;
    let service = world
        .service()
        .lateness("PT0S")
        .env("RIDE_PROMO__VERIFY__INTERVAL", "PT1S")
        .start()
        .await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(2)).await;
    let path = format!("/admin/v1/promotions/{}", promotion.id);
    let budget =
        serde_json::json!({ "budget": { "max_participations": 10, "currency_code": "MXN" } });
    admin.api.patch_json(&path, &budget).await.expect(200);
    // 1 to 3 on their way, 4 completed, 5 rewarded, 6 and 7 expired, 8 in another promotion.
    for user_id in 1..=5 {
        let (client, _) = service.started_client(user_id, &promotion).await;
        let rides = if user_id < 4 { 1 } else { 2 };
        for _ in 0..rides {
            world.publish_ride(&ride(user_id)).await;
        }
        if user_id == 5 {
            world.rides_are_applied().await;
            client.accept(promotion.id).await.expect(200);
        }
    }
    let more_time =
        serde_json::json!({ "user_id": 3, "of": "CHALLENGE", "by": "PT1H", "reason": "a test" });
    for key in ["once", "twice"] {
        let ordered = order(&service, key, &more_time).await.expect(202);
        let extension = done(&service, &ordered).await;
        assert_eq!(extension["done"], 1);
    }
    let challenges = Challenges::new(&world, &conditions(2)).await;
    let hour = TimeDelta::hours(1);
    let began = now() - hour * 2;
    challenges.start(&[6, 7], began, began + hour).await;
    challenges.start(&[8], began, began + hour * 24).await;
    for user_id in [6, 7] {
        eventually(LIMIT, || async {
            equal(
                challenges.standing(user_id).await.status,
                "EXPIRED".to_owned(),
            )
        })
        .await;
    }
    world.rides_are_applied().await;

    // While rides come and are published.
    let traffic = async {
        loop {
            world.publish_ride(&ride(8)).await;
            let mut cheap = ride(1);
            cheap["amount_cents"] = serde_json::json!(1);
            world.publish_ride(&cheap).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (code, lines, summary) = tokio::select! {
        found = verify(&world, &[]) => found,
        () = traffic => unreachable!("it goes on"),
    };
    assert_eq!((code, lines), (Some(0), Vec::new()), "{summary}");
    assert!(
        summary.starts_with("8 participations recounted with "),
        "{summary}"
    );
    assert!(summary.ends_with("; 0 differences"), "{summary}");
    let (code, lines, summary) = verify(&world, &["--user", "4", "--format", "json"]).await;
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!((code, lines.len()), (Some(0), 0));
    assert_eq!(
        (&summary["participations"], &summary["receipts"]),
        (&1.into(), &2.into())
    );
    let (_, _, summary) = verify(&world, &["--since", &instant(now() - hour)]).await;
    assert!(summary.starts_with("5 participations"), "{summary}");
    let guide = Shell::new(&world);
    let said = guide.run(&block("docs/operator-guide.md", "verify")).await;
    assert!(said.contains("; 0 differences\n"), "{said}");
    let last_run = || async {
        let metrics = service.metrics().await;
        let end = metrics.sum("ride_promo_verify_last_end_timestamp_seconds", &[]);
        (end, metrics.sum("ride_promo_verify_differences", &[]))
    };
    eventually(LIMIT, || async { last_run().await.0 > 0.0 }).await;
    assert_eq!(last_run().await.1, 0.0);

    // One of each kind, behind the service's back.
    world.rides_are_applied().await;
    world.events_are_published().await;
    let of = |user_id: i64| {
        let promotion_id = if user_id < 6 {
            promotion.id
        } else {
            challenges.promotion_id
        };
        format!("{user_id}:{promotion_id}")
    };
    for broken in [
        "update promotion_user set rides_completed = 0 where user_id = 1",
        "update promotion_user set version = version + 1 where user_id = 2",
        "update promotion_user set challenge_deadline = challenge_deadline + interval '1 s' where user_id = 3",
        "delete from participation_history where user_id = 3 and version = 3",
        "delete from ride_receipt where user_id = 4 and ride_id = (select min(ride_id::text)::uuid from ride_receipt where user_id = 4)",
        "delete from session where user_id = 5",
        "update promotion_user set version = version - 1 where user_id = 6",
        "delete from promotion_user where user_id = 7",
        "update budget_use set participations_reserved = participations_reserved + 1",
    ] {
        world.execute(broken).await;
    }
    let (code, lines, summary) = verify(&world, &[]).await;
    assert_eq!(code, Some(1));
    for (user_id, what) in [
        (1, "rides_completed is 0, its receipts count 1"),
        (
            2,
            "which does not wait to be published, and the topic version 2",
        ),
        (3, "challenge_deadline is "),
        (3, "1 extensions have no event"),
        (4, "rides_completed is 2, its receipts count 1"),
        (5, "0 complete originations, but 1 expected"),
        (6, "the topic has version 2 and the database version 1"),
        (7, "the topic has version 2 and the database nothing"),
    ] {
        let key = of(user_id);
        let found = lines
            .iter()
            .any(|line| line.starts_with(&format!("{key}  ")) && line.contains(what));
        assert!(found, "{key} {what}\n{lines:#?}");
    }
    let budget = format!(
        "promotion {}  the budget's use has 5 participations reserved, its participations make 4",
        promotion.id
    );
    assert!(lines.contains(&budget), "{lines:#?}");
    let keys: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line.split("  ").next())
        .collect();
    assert!(!keys.contains(of(8).as_str()), "{lines:#?}");
    assert!(
        summary.ends_with(&format!("; {} differences", lines.len())),
        "{summary}"
    );
    let (code, as_json, _) = verify(&world, &["--format", "json", "--user", "1"]).await;
    assert_eq!(code, Some(1));
    let first: Value = serde_json::from_str(&as_json[0]).expect("JSON");
    assert_eq!(first["user_id"], 1);
    eventually(LIMIT, || async {
        let (_, differences) = last_run().await;
        equal(differences, lines.len() as f64)
    })
    .await;

    // A participation whose receipts retention has dropped is skipped, not reported.
    world
        .execute(
            "do $$ begin execute format('drop table ride_receipt_%s', to_char(clock_timestamp(), 'YYYY_MM')); end $$",
        )
        .await;
    let (_, _, summary) = verify(&world, &["--user", "4"]).await;
    assert_eq!(
        summary,
        "0 participations recounted with 0 receipts, 1 skipped because their receipts were dropped; 0 differences"
    );
}
