//! `demo`: the whole service on one machine without configuration, which leaves nothing behind.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Api, Process, Signal, World, equal, eventually, new_dir, ride_at, tail};

const BINARY: &str = env!("CARGO_BIN_EXE_ride-promo");

/// Until it has said where everything is.
const STARTED: Duration = Duration::from_secs(120);

/// Until it has ended after it was told to, or after its time.
const ENDED: Duration = Duration::from_secs(120);

/// Until something that its clients do all the time has been done.
const PLAYED: Duration = Duration::from_secs(90);

/// A demo that is running, with a directory for temporary files of its own.
struct Demo {
    process: Process,
    temp: PathBuf,
    out: PathBuf,
    err: PathBuf,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        // A short path: a socket will be in it.
        let name = Uuid::new_v4().simple().to_string();
        let temp = new_dir(&format!("demo-{}", &name[..8]));
        // As the usual directory for temporary files is: Postgres may run as another user.
        fs::set_permissions(&temp, Permissions::from_mode(0o1777)).unwrap();
        let log = new_dir(&format!("demo-{}-log", &name[..8]));
        let (out, err) = (log.join("stdout"), log.join("stderr"));
        let mut command = Command::new(BINARY);
        command
            .arg("demo")
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TMPDIR", &temp)
            .env("RUST_BACKTRACE", "1")
            // Configured for something else, and none of the demo's business.
            .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")
            .env("RIDE_PROMO__KAFKA__RIDE_TOPIC", "somebody-elses");
        Self {
            process: Process::spawn_split("ride-promo demo", command, &out, &err),
            temp,
            out,
            err,
        }
    }

    fn output(&self) -> String {
        tail(&self.out, u64::MAX)
    }

    /// The lines that begin with `label`, without it.
    fn lines(&self, label: &str) -> Vec<String> {
        let output = self.output();
        let lines = output.lines().filter_map(|line| line.strip_prefix(label));
        lines.map(str::to_owned).collect()
    }

    /// The environment that it says other commands need.
    fn exports(&self) -> Vec<(String, String)> {
        let exports = self.lines("export ");
        let pair = |line: &String| {
            let (name, value) = line.split_once('=').expect("a value");
            (name.to_owned(), value.trim_matches('\'').to_owned())
        };
        exports.iter().map(pair).collect()
    }

    /// Runs another command of the program in the environment that it printed.
    fn beside(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .envs(self.exports());
        command.output().expect("it runs")
    }

    /// What is printed after `label`.
    fn said(&self, label: &str) -> Option<String> {
        let output = self.output();
        let (_, rest) = output.split_once(label)?;
        rest.lines().next().map(|line| line.trim().to_owned())
    }

    /// Waits until it runs; answers the two listeners' addresses.
    async fn running(&self) -> (String, String) {
        let address = |label: &str, path: &str| {
            let url = self.said(label)?;
            let address = url.strip_prefix("http://")?.strip_suffix(path)?;
            Some(address.to_owned())
        };
        eventually(STARTED, || async {
            let client = address("Client API ", "/v1");
            let admin = address("Admin API ", "/admin/v1");
            // Said last.
            let ready = self.output().contains("0:00");
            client
                .zip(admin)
                .filter(|_| ready)
                .ok_or_else(|| self.everything())
        })
        .await
    }

    fn everything(&self) -> String {
        format!("{}\n{}", self.output(), tail(&self.err, u64::MAX))
    }

    async fn ended(&mut self) -> i32 {
        let status = self.process.wait(ENDED).await;
        let Some(code) = status.and_then(|status| status.code()) else {
            panic!("ended with {status:?}:\n{}", self.everything());
        };
        code
    }

    /// Neither processes nor files.
    fn leftovers(&self) -> Result<(), String> {
        let files: Vec<PathBuf> = fs::read_dir(&self.temp)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        let processes = processes_that_name(&self.temp);
        if files.is_empty() && processes.is_empty() {
            Ok(())
        } else {
            Err(format!("{files:?} {processes:?}"))
        }
    }
}

/// How many participations were counted again at the end.
fn participations(output: &str) -> u32 {
    let (_, rest) = output.split_once("Recount: ").expect("it counts again");
    let count = rest.split(' ').next().unwrap_or_default();
    count.parse().expect("a count")
}

/// The command lines of running processes in which the directory occurs: the supervisor's, initdb's
/// and the server's.
fn processes_that_name(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(dir))
        .collect()
}

#[tokio::test]
async fn runs_by_itself_agrees_with_itself_and_leaves_nothing_behind() {
    let mut demo = Demo::start(&["--duration", "PT30S"]);
    let code = demo.ended().await;
    let output = demo.output();
    assert_eq!(code, 0, "{}", demo.everything());
    demo.leftovers().unwrap();
    // Clients went every way there is, and the recount has found them all.
    let figures = output.split_once("Recount: ").unwrap().1;
    let figures = figures.lines().next().unwrap();
    for end in ["rewarded", "challenge not completed", "reward not claimed"] {
        let (before, _) = figures.split_once(&format!(" {end}")).unwrap();
        let count = before.rsplit(['(', ' ']).next().unwrap();
        assert!(count.parse::<u32>().unwrap() > 0, "{end}: {figures}");
    }
    let (_, last) = output.rsplit_once("(second chances ").unwrap();
    let (again, _) = last.split_once(')').unwrap();
    assert!(again.parse::<u32>().unwrap() > 0, "{output}");
    for word in [
        "started",
        "in progress",
        "completed",
        "rewarded",
        "challenge not completed",
        "reward not claimed",
        "below min amount",
        "quarantine",
        "outbox",
        "lag",
        "Recount: ",
        "Every participation agrees with its receipts, its loan and its events.",
    ] {
        assert!(output.contains(word), "{word} in {output}");
    }
    let lines = output.lines().filter(|line| line.contains(" of 0:30  "));
    assert!(lines.count() >= 3, "{output}");
}

#[tokio::test]
async fn everything_it_prints_can_be_used_until_ctrl_c_ends_it_cleanly() {
    let mut demo = Demo::start(&[]);
    let (client, admin) = demo.running().await;

    let token = demo.said("\nTOKEN=").unwrap();
    let start = demo.said("curl -X POST").unwrap();
    let (_, path) = start.split_once(&client).unwrap();
    let me = Api::new(&client).with_token(token);
    let started = me.post(path).await;
    assert_eq!(started.status, 201, "{}", started.text);
    let console = demo
        .said(&format!("http://{admin}/console#token="))
        .unwrap();
    let signed_in = Api::new(&admin).with_token(console);
    let promotions = signed_in.get("/admin/v1/promotions").await.json();
    let keys: Vec<&str> = promotions["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|promotion| promotion["promotion_key"].as_str())
        .collect();
    for key in [
        "br-next-month",
        "br-last-month",
        "demo-first-ten",
        "demo-work-days",
    ] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    // The console's address comes first, and there is something of everything to look at.
    let first = demo.lines("http://");
    assert!(first[0].contains("/console#token="), "{}", first[0]);
    let outages = signed_in.get("/admin/v1/outages").await.json();
    assert_eq!(outages["items"].as_array().map(Vec::len), Some(1));
    let countries = signed_in.get("/admin/v1/geo-config").await.json();
    assert_eq!(countries["items"].as_array().map(Vec::len), Some(2));
    eventually(PLAYED, || async {
        let client = signed_in.get("/admin/v1/users/8000100").await.json();
        let goals = &client["participations"][0]["goals"];
        equal(goals.as_array().map(Vec::len), Some(3))
    })
    .await;
    let operator = Api::new(&admin).with_token(demo.said("ADMIN_TOKEN=").unwrap());
    let stats = operator.get("/admin/v1/stats").await;
    assert_eq!(stats.status, 200, "{}", stats.text);
    let body: Value = serde_json::from_str(&started.text).unwrap();
    for period in ["challenge_period", "claim_period"] {
        assert_eq!(body["conditions"][period], "PT30M", "time to read");
    }
    // Rides are published for the guest whose token is in use.
    let progress = path.replace("/start", "/progress");
    eventually(PLAYED, || async {
        let answer = me.get(&progress).await;
        let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        match body["rides_completed"].as_i64() {
            Some(rides) if rides > 0 => Ok(()),
            _ => Err(answer.text),
        }
    })
    .await;
    // And the whole way to the loan.
    eventually(PLAYED, || async {
        let answer = me.post("/v1/landing").await;
        equal(answer.json()["screen"].clone(), json!("REWARD_READY"))
    })
    .await;
    let get_reward = path.replace("/start", "/get_reward");
    assert_eq!(me.get(&get_reward).await.status, 200);
    let accepted = me.post(&path.replace("/start", "/accept_reward")).await;
    assert_eq!(accepted.status, 200, "{}", accepted.text);

    // The other guests, each by the link that is printed.
    let links = demo.lines(&format!("http://{client}/app#token="));
    assert_eq!(links.len(), 4, "{links:?}");
    let [_, uncounted, expired, rewarded] = &links[..] else {
        unreachable!("there are four")
    };
    let guest = |token: &str| Api::new(&client).with_token(token);
    eventually(PLAYED, || async {
        let landing = guest(uncounted).post("/v1/landing").await.json();
        equal(landing["screen"].clone(), json!("PROMO_PROGRESS"))?;
        let promotion = &landing["participation"]["promotion_id"];
        let rides = format!("/v1/promotions/{promotion}/rides");
        let rides = guest(uncounted).get(&rides).await.json();
        let mut verdicts: Vec<&str> = rides["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ride| ride["verdict"].as_str())
            .collect();
        verdicts.sort_unstable();
        let expected = [
            "BELOW_MIN_AMOUNT",
            "BELOW_MIN_AMOUNT",
            "COUNTED",
            "COUNTED",
            "WRONG_CURRENCY",
        ];
        equal(verdicts.join(" "), expected.join(" "))
    })
    .await;
    eventually(PLAYED, || async {
        let landing = guest(expired).post("/v1/landing").await.json();
        equal(landing["screen"].clone(), json!("REWARD_EXPIRED"))
    })
    .await;
    eventually(PLAYED, || async {
        let landing = guest(rewarded).post("/v1/landing").await.json();
        equal(landing["application"]["status"].clone(), json!("CREATED"))
    })
    .await;

    // The program's other commands work with the lines that are printed.
    let token = demo.beside(&["token", "--user", "48199"]);
    let token = String::from_utf8(token.stdout).unwrap();
    let landing = guest(token.trim()).post("/v1/landing").await;
    assert_eq!(landing.status, 200, "{}", landing.text);
    let doctor = demo.beside(&["doctor"]);
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.status.success(), "{found}");
    assert!(
        found.contains("the broker built into `ride-promo demo`"),
        "{found}"
    );
    assert!(found.contains("postgres"), "{found}");
    // No colour where nothing can show it, and each token whole on a line of its own.
    assert!(!demo.output().contains('\u{1b}'), "{}", demo.output());
    for line in demo.output().lines().filter(|line| line.contains("eyJ")) {
        let begins = ["http://", "TOKEN=", "ADMIN_TOKEN="];
        assert!(begins.iter().any(|begin| line.starts_with(begin)), "{line}");
        assert!(!line.contains(' '), "{line}");
    }

    assert!(
        demo.leftovers().is_err(),
        "the test looks in the wrong place"
    );
    demo.process.signal(Signal::Interrupt);
    assert_eq!(demo.ended().await, 0, "{}", demo.everything());
    demo.leftovers().unwrap();
}

#[tokio::test]
async fn ctrl_c_ends_it_while_it_starts() {
    let mut demo = Demo::start(&[]);
    eventually(STARTED, || async {
        demo.leftovers().err().ok_or("nothing yet".to_owned())
    })
    .await;
    demo.process.signal(Signal::Interrupt);
    assert_eq!(demo.ended().await, 0, "{}", demo.everything());
    demo.leftovers().unwrap();
}

#[tokio::test]
async fn nothing_is_left_of_it_when_it_is_killed() {
    let mut demo = Demo::start(&[]);
    demo.running().await;
    demo.process.signal(Signal::Kill);
    eventually(Duration::from_secs(60), || async { demo.leftovers() }).await;
}

#[tokio::test]
async fn uses_a_real_kafka_and_postgres_and_tidies_up_there() {
    let world = World::builder().empty_database().build().await;
    let url = world.database_url();
    let brokers = world.kafka().brokers();
    let mut demo = Demo::start(&[
        "--duration",
        "PT8S",
        "--brokers",
        &brokers,
        "--database-url",
        &url,
    ]);
    let code = demo.ended().await;
    assert_eq!(code, 0, "{}", demo.everything());
    let output = demo.output();
    assert!(output.contains("Every participation agrees"), "{output}");
    assert!(participations(&output) > 0, "{output}");
    demo.leftovers().unwrap();

    let tables: i64 = sqlx::query_scalar(
        "select count(*) from pg_class where relnamespace = 'public'::regnamespace",
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    assert_eq!(tables, 0, "the database that was named is not touched");
    let (name, _) = demo
        .said("database ride_promo_demo_")
        .and_then(|rest| {
            rest.split_once(' ')
                .map(|(run, at)| (run.to_owned(), at.to_owned()))
        })
        .expect("it says which database it uses");
    let left: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(format!("ride_promo_demo_{name}"))
            .fetch_one(world.pool())
            .await
            .unwrap();
    assert!(!left, "its own database is gone");
    eventually(Duration::from_secs(20), || async {
        let consumer: BaseConsumer = world.kafka().client_config().create().unwrap();
        let metadata = consumer
            .fetch_metadata(None, Duration::from_secs(10))
            .map_err(|error| error.to_string())?;
        let topics: Vec<&str> = metadata
            .topics()
            .iter()
            .map(|topic| topic.name())
            .filter(|topic| topic.contains(&name))
            .collect();
        equal(topics.join(" "), String::new())
    })
    .await;
}

#[tokio::test]
async fn fails_where_something_does_not_agree() {
    let world = World::builder().empty_database().build().await;
    let url = world.database_url();
    // It takes as long as this before it counts again; both are there in a third of it.
    let mut demo = Demo::start(&["--duration", "PT45S", "--database-url", &url]);
    demo.running().await;
    let rest = demo.said("database ride_promo_demo_").unwrap();
    let run = rest.split(' ').next().unwrap();
    let database = world.postgres().url(&format!("ride_promo_demo_{run}"));
    let pool = sqlx::PgPool::connect(&database).await.unwrap();
    let receipt = "delete from ride_receipt where ride_id in (
                       select ride_id from ride_receipt where verdict = 'COUNTED' limit 1)
                   returning user_id";
    let user_id = eventually(PLAYED, async || {
        let deleted: Option<i64> = sqlx::query_scalar(receipt)
            .fetch_optional(&pool)
            .await
            .unwrap();
        deleted.ok_or("no ride has counted yet".to_owned())
    })
    .await;
    // And a loan whose split could be used a second time.
    let split = "update cash_loan_account set status = 'EXPIRED' where split_id in (
                     select split_id from cash_loan_account where status = 'USED' limit 1)
                 returning user_id";
    let rewarded = eventually(PLAYED, async || {
        let updated: Option<i64> = sqlx::query_scalar(split)
            .fetch_optional(&pool)
            .await
            .unwrap();
        updated.ok_or("nobody has accepted yet".to_owned())
    })
    .await;
    pool.close().await;
    let code = demo.ended().await;
    let output = demo.output();
    assert_eq!(code, 1, "{}", demo.everything());
    assert!(output.contains(&format!("client {rewarded}, ")), "{output}");
    assert!(
        output.contains("0 complete originations, but 1 expected"),
        "{output}"
    );
    assert!(output.contains("0 used splits, but 1 expected"), "{output}");
    assert!(output.contains(&format!("client {user_id}, ")), "{output}");
    assert!(output.contains("its receipts count"), "{output}");
    demo.leftovers().unwrap();
}

#[tokio::test]
async fn takes_the_rides_of_a_file() {
    let dir = new_dir("demo-rides");
    let file = dir.join("rides.ndjson");
    let first = "2013-01-01T05:00:00Z".parse::<chrono::DateTime<chrono::Utc>>();
    let first = first.unwrap();
    let mut lines: Vec<String> = (0..300)
        .map(|n| {
            let ride = ride_at(1 + n % 60, first + chrono::TimeDelta::seconds(n));
            format!("{ride}\n")
        })
        .collect();
    lines.push("{\"user_id\": 1}\n".to_owned());
    fs::write(&file, lines.concat()).unwrap();
    let mut demo = Demo::start(&["--duration", "PT20S", "--rides", file.to_str().unwrap()]);
    let code = demo.ended().await;
    let output = demo.output();
    assert_eq!(code, 0, "{}", demo.everything());
    assert!(output.contains("300 rides in"), "{output}");
    assert!(output.contains("1 rows are not rides"), "{output}");
    // The riders, the guests who start by themselves, and of those who are there for the console as many as
    // started in this short time: up to 9 who nearly use up a budget, and up to 6 with several goals.
    let participations = participations(&output);
    assert!(
        (60 + 3..=60 + 3 + 9 + 6).contains(&participations),
        "{output}"
    );
    demo.leftovers().unwrap();
}

#[tokio::test]
async fn says_what_is_wrong_and_leaves_nothing_behind() {
    for (arguments, word) in [
        (
            vec!["--rides", "/nonexistent/rides.csv"],
            "/nonexistent/rides.csv",
        ),
        (
            vec!["--database-url", "postgres://nobody@127.0.0.1:1/nothing"],
            "--database-url",
        ),
    ] {
        let mut demo = Demo::start(&arguments);
        let code = demo.ended().await;
        assert_eq!(code, 1, "{}", demo.everything());
        assert!(
            tail(&demo.err, 10_000).contains(word),
            "{}",
            demo.everything()
        );
        demo.leftovers().unwrap();
    }
}
