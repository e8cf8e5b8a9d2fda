//! Each role of the service as a database user of its own, with exactly the rights it needs.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

const ROLES: [&str; 4] = ["api", "ingest", "relay", "sweep"];

#[tokio::test(flavor = "multi_thread")]
async fn four_users_serve_together_and_none_may_do_what_is_not_its_work() {
    // Roles are the whole server's.
    let postgres = Postgres::start_private().await;
    let world = World::builder().postgres(&postgres).build().await;
    let shell = Shell::new(&world);
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    std::os::unix::fs::symlink(deploy, shell.dir().join("deploy")).expect("ours");
    let rights = block("docs/operator-guide.md", "rights");
    // Twice is as good as once.
    for _ in 0..2 {
        shell.run("ADMIN_URL=$DATABASE_URL").await;
        shell.run(&rights).await;
    }
    for role in ROLES {
        world
            .execute(&format!(
                "create role {role}_user login in role ride_promo_{role}"
            ))
            .await;
    }
    let url = |role: &str| {
        let user = format!("postgres://{role}_user@");
        world.database_url().replace("postgres://postgres@", &user)
    };
    for role in ROLES {
        let doctor = world.command(&["doctor", "--roles", role]);
        let doctor = doctor.env("DATABASE_URL", url(role)).run().await;
        let said = doctor.expect_success();
        let privileges =
            format!("ok    postgres privileges: has the rights of {role}; may not create tables");
        assert!(said.contains(&privileges), "{said}");
        let others = world.command(&["doctor"]).env("DATABASE_URL", url(role));
        let said = others.run().await.stdout;
        assert!(
            said.contains("FAIL  postgres privileges: "),
            "{role}: {said}"
        );
    }

    // The sweeper makes a month's partition without owning anything.
    world
        .execute(
            "do $$ begin
                 execute format('drop table ride_receipt_%s', to_char(clock_timestamp() at time zone 'UTC' + interval '5 months', 'YYYY_MM'));
             end $$",
        )
        .await;
    let mut services = Vec::new();
    for role in ROLES {
        let service = world.service().roles(role).env("DATABASE_URL", url(role));
        services.push(service.lateness("PT0S").start().await);
    }
    let api = &services[0];
    eventually(LIMIT, || async {
        let partitions =
            "select count(*) from pg_inherits where inhparent = 'ride_receipt'::regclass";
        equal(world.count(partitions).await, 13)
    })
    .await;

    // The whole way: to the loan, to an expiry, and a record that is not a ride.
    let promotion = api.admin().open_promotion(&conditions(1)).await;
    let (client, _) = api.started_client(1, &promotion).await;
    client.api.post("/v1/landing").await.expect(200);
    world.publish_ride(&ride(1)).await;
    eventually(LIMIT, || async {
        let progress = client.progress(promotion.id).await.expect(200);
        equal(progress["status"].clone(), json!("COMPLETED"))
    })
    .await;
    let of = format!("/v1/promotions/{}", promotion.id);
    client
        .api
        .get(&format!("{of}/get_reward"))
        .await
        .expect(200);
    let accepted = client.api.post(&format!("{of}/accept_reward")).await;
    accepted.expect(200);
    client.rides(promotion.id).await.expect(200);
    let mut brief = conditions(5);
    brief["challenge_period"] = json!("PT1S");
    let brief = api.admin().open_promotion(&brief).await;
    let (late, _) = api.started_client(2, &brief).await;
    eventually(LIMIT, || async {
        let progress = late.progress(brief.id).await.expect(200);
        equal(progress["status"].clone(), json!("EXPIRED"))
    })
    .await;
    world.publish_raw(Some("3"), Some(b"{"), &[]).await;
    world.rides_are_applied().await;
    let admin = api.admin();
    let quarantine = admin.api.get("/admin/v1/quarantine").await.expect(200);
    let id = quarantine["items"][0]["quarantine_id"]
        .as_str()
        .expect("one is there");
    let dismiss = format!("/admin/v1/quarantine/{id}/dismiss");
    admin
        .api
        .post_json(&dismiss, &json!({ "reason": "a test" }))
        .await
        .expect(204);
    admin.stats().await;
    admin.user(1).await;
    let audit = admin.api.get("/admin/v1/audit").await.expect(200);
    assert!(
        audit["items"]
            .as_array()
            .is_some_and(|items| items.len() > 4)
    );
    world.events_are_published().await;

    for (role, forbidden) in [
        ("api", "update admin_audit set actor = 'nobody'"),
        ("api", "delete from admin_audit"),
        ("api", "delete from promotion_user"),
        ("api", "delete from event_outbox"),
        ("api", "update consumer_position set next_offset = 0"),
        ("api", "update ride_receipt set amount_cents = 1"),
        ("api", "delete from ride_receipt"),
        (
            "ingest",
            "insert into admin_audit (actor, call) values ('a', 'b')",
        ),
        ("ingest", "update cash_loan_account set amount_cents = 1"),
        ("ingest", "select from pre_offer"),
        ("ingest", "delete from ride_receipt"),
        ("relay", "select from promotion_user"),
        ("relay", "insert into event_outbox default values"),
        ("relay", "update consumer_position set next_offset = 0"),
        ("sweep", "update quarantined_ride set status = 'DISMISSED'"),
        ("sweep", "select from active_pre_offer"),
        ("sweep", "drop table ride_receipt_other"),
        ("sweep", "create table mine (x int)"),
        ("relay", "select ensure_receipt_partitions('2030-01-01', 1)"),
    ] {
        let mut connection = PgConnection::connect(&url(role)).await.expect("it may");
        let refused = connection.execute(forbidden).await;
        let error = refused.expect_err(forbidden);
        let code = error.as_database_error().and_then(|error| error.code());
        assert_eq!(
            code.as_deref(),
            Some("42501"),
            "{role}: {forbidden}: {error}"
        );
    }
}
