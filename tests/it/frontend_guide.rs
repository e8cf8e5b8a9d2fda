//! The guides, followed literally: their commands, in their order, against a running service.

use std::{fs, path::Path, process::Stdio, time::Duration};

use serde_json::json;
use tokio::process::Command;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// The commands of a page: its blocks marked `sh`.
fn commands(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(page);
    let text = fs::read_to_string(path).expect("the page is there");
    let blocks = text.split("```sh\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

/// A reader's shell: every block runs in a new one that knows the variables of those before.
struct Shell {
    dir: std::path::PathBuf,
}

impl Shell {
    fn new(world: &World, variables: &[(&str, &str)]) -> Self {
        let dir = world.new_dir("guide");
        let exports: String = variables
            .iter()
            .map(|(name, value)| format!("export {name}='{value}'\n"))
            .collect();
        fs::write(dir.join("variables"), exports).expect("the directory is ours");
        Self { dir }
    }

    /// Runs a block; answers what it printed.
    async fn run(&self, block: &str) -> String {
        let script = format!("set -a; . ./variables\n{block}\nexport -p > variables\n");
        let mut bash = Command::new("bash");
        bash.arg("-c")
            .arg(script)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, bash.output()).await;
        let output = output.expect("it ends").expect("bash is there");
        assert!(output.status.success(), "{block}\n{output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        // --fail-with-body and --show-error leave a line for what failed
        let failed = errors.contains("curl: (") && !block.contains("--max-time");
        assert!(!failed, "{block}\n{errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_can_be_written_by_its_guide() {
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(2)).await;
    let client = service.eligible_client(48_151, &promotion).await;
    let blocks = commands("frontend-guide.md");
    let [
        set,
        landing,
        start,
        poll,
        long_poll,
        stream,
        rides,
        reward,
        acknowledge,
        error,
    ] = &blocks[..]
    else {
        panic!("other commands than this test knows: {blocks:#?}");
    };
    // the reader's own address and token
    assert!(set.contains("export API=") && set.contains("export TOKEN="));
    let api = format!("http://{}", service.api().address());
    let shell = Shell::new(&world, &[("API", &api), ("TOKEN", &client_token(48_151))]);
    let shows = async |block: &str, what: &[&str]| {
        let said = shell.run(block).await;
        for what in what {
            assert!(
                said.contains(what),
                "{what} is not in what {block} says:\n{said}"
            );
        }
    };

    shows(landing, &[r#""screen":"PROMO_OFFER""#]).await;
    shows(start, &[r#""status":"IN_PROGRESS""#, r#""version":1"#]).await;
    shows(poll, &["304\n"]).await;
    shows(long_poll, &["304\n"]).await;
    shows(stream, &["event: participation\n", "id: 1\n", "data: {"]).await;

    let mut cheap = ride(48_151);
    cheap["amount_cents"] = json!(4_200);
    world.publish_ride(&cheap).await;
    world.publish_ride(&ride(48_151)).await;
    world.rides_are_applied().await;
    shows(
        rides,
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
        reward,
        &[
            r#""reward_deadline":"2"#,
            r#""application_id""#,
            r#""sequence_id":8"#,
        ],
    )
    .await;
    shows(acknowledge, &["409\n"]).await;
    shows(
        error,
        &[
            r#""type":"/problems/invalid-request""#,
            r#""field":"limit""#,
        ],
    )
    .await;
}
