//! The guides, followed literally: their commands, in their order, against a running service.

use std::time::Duration;

use serde_json::json;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

const PAGE: &str = "docs/frontend-guide.md";

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_can_be_written_by_its_guide() {
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(2)).await;
    let client = service.eligible_client(48_151, &promotion).await;
    // the reader's own address and token
    let variables = block(PAGE, "variables");
    assert!(variables.contains("export API=") && variables.contains("export TOKEN="));
    let shell = Shell::new(&world)
        .env("API", format!("http://{}", service.api().address()))
        .env("TOKEN", client_token(48_151));
    let shows = async |block: String, what: &[&str]| {
        let said = shell.run(&block).await;
        for what in what {
            assert!(
                said.contains(what),
                "{what} is not in what {block} says:\n{said}"
            );
        }
    };

    shows(block(PAGE, "landing"), &[r#""screen":"PROMO_OFFER""#]).await;
    shows(
        block(PAGE, "start"),
        &[r#""status":"IN_PROGRESS""#, r#""version":1"#],
    )
    .await;
    shows(block(PAGE, "poll"), &["304\n"]).await;
    shows(block(PAGE, "long-poll"), &["304\n"]).await;
    // 28: curl ends it, by --max-time
    let stream = format!("{} || test $? = 28", block(PAGE, "stream").trim_end());
    shows(stream, &["event: participation\n", "id: 1\n", "data: {"]).await;

    let mut cheap = ride(48_151);
    cheap["amount_cents"] = json!(4_200);
    world.publish_ride(&cheap).await;
    world.publish_ride(&ride(48_151)).await;
    world.rides_are_applied().await;
    shows(
        block(PAGE, "rides"),
        &[r#""verdict":"COUNTED""#, r#""verdict":"BELOW_MIN_AMOUNT""#],
    )
    .await;

    world.publish_ride(&ride(48_151)).await;
    eventually(LIMIT, || async {
        let progress = client.progress(promotion.id).await.expect(200);
        equal(progress["status"].clone(), json!("COMPLETED"))
    })
    .await;
    shows(
        block(PAGE, "reward"),
        &[
            r#""reward_deadline":"2"#,
            r#""application_id""#,
            r#""sequence_id":8"#,
        ],
    )
    .await;
    shows(
        block(PAGE, "quit"),
        &[r#""type":"/problems/challenge-not-in-progress""#],
    )
    .await;
    shows(block(PAGE, "acknowledge"), &["409\n"]).await;
    shows(
        block(PAGE, "error"),
        &[
            r#""type":"/problems/invalid-request""#,
            r#""field":"limit""#,
        ],
    )
    .await;
}
