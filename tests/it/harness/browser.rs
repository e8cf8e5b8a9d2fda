//! Journeys through the client's pages in a real browser.
//!
//! A journey is a script in `tests/browser/`, run by Node, which drives Chromium and calls the
//! service's APIs itself. What only the harness can do, publish to Kafka and break the network, it
//! asks for over its standard output, one JSON object per line, and is answered on its standard
//! input.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::{
    http::{SECRET, admin_token},
    process::{Process, run_dir, tail},
    proxy::{Cut, Fault, FaultProxy},
    service::Service,
    world::World,
};

/// How long a journey may take: on a machine that runs other tests beside it.
const LIMIT: Duration = Duration::from_secs(300);

/// A journey to be run.
pub struct Journey<'a> {
    script: &'a str,
    world: &'a World,
    service: &'a Service,
    proxy: Option<&'a FaultProxy>,
    provider: Option<&'a str>,
}

impl<'a> Journey<'a> {
    /// The journey of `tests/browser/{script}` with this service.
    pub fn new(script: &'a str, world: &'a World, service: &'a Service) -> Self {
        Self {
            script,
            world,
            service,
            proxy: None,
            provider: None,
        }
    }

    /// The browser reaches the service through this proxy.
    #[must_use]
    pub fn through(mut self, proxy: &'a FaultProxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// A provider of OpenID Connect is to listen at this address.
    #[must_use]
    pub fn with_provider(mut self, address: &'a str) -> Self {
        self.provider = Some(address);
        self
    }

    /// Runs it to its end, which must be a good one.
    pub async fn run(self) {
        let dir = self.world.new_dir("browser");
        let direct = self.service.api().address();
        let config = json!({
            "pages": self.proxy.map_or(direct, FaultProxy::address),
            "api": direct,
            "admin": self.service.admin_listener().address(),
            "admin_token": admin_token(),
            "secret": SECRET,
            "provider": self.provider,
            "failures": dir,
        });
        let mut command = node(&dir);
        command.arg(self.script).arg(config.to_string());
        let log = dir.join("journey.log");
        let (mut process, input, output) = Process::spawn_talking("node", command, &log);
        let told = tokio::time::timeout(LIMIT, self.tell(input, output)).await;
        let status = process.wait(Duration::from_secs(20)).await;
        let well = told.is_ok() && status.is_some_and(|status| status.success());
        assert!(
            well,
            "{} ended with {status:?} (in time: {}):\n{}",
            self.script,
            told.is_ok(),
            tail(&log, 16_000)
        );
    }

    /// Does what the script asks for until it has nothing more to say.
    async fn tell(&self, input: std::process::ChildStdin, output: std::process::ChildStdout) {
        let mut input = tokio::process::ChildStdin::from_std(input).expect("a pipe");
        let output = tokio::process::ChildStdout::from_std(output).expect("a pipe");
        let mut lines = BufReader::new(output).lines();
        let mut faults = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            let asked: Value = serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("{error} in what the journey says: {line}"));
            let answer = self.do_for(&asked, &mut faults).await;
            let answer = format!("{answer}\n");
            // who has ended meanwhile says why in its status
            let _ = input.write_all(answer.as_bytes()).await;
        }
    }

    async fn do_for(&self, asked: &Value, faults: &mut Vec<Fault>) -> Value {
        let text = |name: &str| {
            asked[name]
                .as_str()
                .unwrap_or_else(|| panic!("no {name} in {asked}"))
        };
        let proxy = || self.proxy.expect("a journey through a proxy");
        match text("do") {
            "publish" => {
                let value = text("value").as_bytes();
                let place = self.world.publish_raw(Some(text("key")), Some(value), &[]);
                json!(place.await)
            }
            "pause" => {
                proxy().pause();
                Value::Null
            }
            "resume" => {
                proxy().resume();
                Value::Null
            }
            "vanish" => {
                proxy().refuse(true);
                Value::Null
            }
            "return" => {
                proxy().refuse(false);
                Value::Null
            }
            // The answer to the next request that contains this is lost.
            "lose answer" => {
                faults.push(proxy().arm(Cut::Answer, text("to"), None, 1));
                Value::Null
            }
            // A command of the program, in this world; answers its output.
            "run" => {
                let arguments: Vec<&str> = asked["arguments"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect();
                let ran = self.world.command(&arguments).run().await;
                json!(ran.expect_success())
            }
            // The API seems to have been away for ten minutes, until now.
            "outage" => {
                let sql = "update api_presence set reached_at = reached_at - interval '10 minutes'";
                self.world.execute(sql).await;
                Value::Null
            }
            "answers lost" => json!(faults.iter().map(Fault::fired).sum::<usize>()),
            other => panic!("nobody can {other}"),
        }
    }
}

/// Node in `tests/browser/`, hearing nothing of the environment but whether to write screenshots and
/// where the console's files come from; what it and the browser leave behind is in `dir`.
pub fn node(dir: &Path) -> Command {
    let browser: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "browser"]
        .iter()
        .collect();
    assert!(
        browser.join("node_modules/playwright-core").is_dir(),
        "playwright-core is missing: `make test` installs it, or `npm ci` in tests/browser"
    );
    let mut command = Command::new("node");
    command
        .current_dir(browser)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        // Chromium's sockets are in it, and their paths must not be long
        .env("TMPDIR", run_dir())
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC");
    for passed in [
        "UPDATE_SCREENSHOTS",
        "RIDE_PROMO_TEST_BROWSER",
        "RIDE_PROMO_TEST_CONSOLE_FILES",
    ] {
        if let Some(value) = std::env::var_os(passed) {
            command.env(passed, value);
        }
    }
    command
}
