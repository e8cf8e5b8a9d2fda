//! The product as its operators run it: the real binary, configured by its environment.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::Mutex,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    http::{Admin, Answer, Api, Client, Metrics, Promotion, SECRET, admin_token, client_token},
    process::{Port, Process, Signal, new_dir, tail},
    proxy::FaultProxy,
    world::World,
};

/// How long a service may take to become ready, and to end when it is told to.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The program.
pub(super) const BINARY: &str = env!("CARGO_BIN_EXE_ride-promo");

/// A service to be started; from [`World::service`].
#[derive(Debug)]
#[must_use]
pub struct ServiceBuilder {
    roles: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    dir: PathBuf,
    program: PathBuf,
}

impl ServiceBuilder {
    pub(super) fn new(world: &World) -> Self {
        Self {
            roles: None,
            arguments: Vec::new(),
            environment: environment(world),
            dir: world.new_dir("service"),
            program: BINARY.into(),
        }
    }

    /// Another release's program.
    pub fn program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        // What it does not know yet would be an error.
        let later = ["RIDE_PROMO__ERASE__", "RIDE_PROMO__KAFKA__REMINDER_TOPIC"];
        self.environment
            .retain(|(name, _)| !later.iter().any(|later| name.starts_with(later)));
        self
    }

    /// Only these roles, comma-separated; all where not called.
    pub fn roles(mut self, roles: &str) -> Self {
        self.roles = Some(roles.to_owned());
        self
    }

    /// One more argument of `serve`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Sets an environment variable, over what the harness sets.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// A configuration file, for what has no variable, as `[kafka.properties]`.
    pub fn config_toml(self, toml: &str) -> Self {
        let file = self.dir.join("ride-promo.toml");
        fs::write(&file, toml).expect("the run's directory is ours");
        self.env("RIDE_PROMO_CONFIG", file.display())
    }

    /// Expiry that waits for rides this long after the deadline instead of ten minutes.
    pub fn lateness(self, duration: &str) -> Self {
        self.env("RIDE_PROMO__SWEEP__ALLOWED_LATENESS", duration)
    }

    /// Reaches the world's database through a proxy.
    pub fn through(self, proxy: &FaultProxy, world: &World) -> Self {
        self.env(
            "DATABASE_URL",
            super::postgres::url(proxy.address(), world.database()),
        )
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Service {
        let service = self.spawn();
        service.wait_ready().await;
        service
    }

    /// Starts it without waiting, where it cannot become ready or must not yet.
    pub fn spawn(self) -> Service {
        let api = Port::reserve();
        let admin = Port::reserve();
        let mut command = command(&self.program, self.environment, &self.dir);
        command
            .arg("serve")
            .args(self.roles.iter().flat_map(|roles| ["--roles", roles]))
            .args(self.arguments)
            .env("RIDE_PROMO__API__LISTEN", api.address())
            .env("RIDE_PROMO__ADMIN__LISTEN", admin.address());
        let log = self.dir.join("service.log");
        let process = Process::spawn("ride-promo serve", command, &log, Signal::Kill);
        Service {
            process: Mutex::new(process),
            api: Api::new(&api.address()),
            admin: Api::new(&admin.address()),
            log,
            _ports: [api, admin],
        }
    }
}

/// A running service. Dropped, it is killed; in a test that fails, the end of its log is printed.
#[derive(Debug)]
pub struct Service {
    process: Mutex<Process>,
    api: Api,
    admin: Api,
    log: PathBuf,
    _ports: [Port; 2],
}

impl Service {
    /// The client API, without a token.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The admin listener, without a token: `readyz`, `metrics`.
    pub fn admin_listener(&self) -> &Api {
        &self.admin
    }

    /// The admin panel.
    pub fn admin(&self) -> Admin {
        Admin {
            api: self.admin.with_token(admin_token()),
        }
    }

    /// A client's app, signed in.
    pub fn client(&self, user_id: i64) -> Client {
        Client {
            user_id,
            api: self.api.with_token(client_token(user_id)),
        }
    }

    /// A client who may start `promotion`: with a valid pre-offer for it.
    pub async fn eligible_client(&self, user_id: i64, promotion: &Promotion) -> Client {
        self.admin()
            .import_pre_offers(&[promotion.pre_offer(user_id)])
            .await;
        self.client(user_id)
    }

    /// A client who has started `promotion`, and the participation.
    pub async fn started_client(&self, user_id: i64, promotion: &Promotion) -> (Client, Value) {
        let client = self.eligible_client(user_id, promotion).await;
        let participation = client.start(promotion.id).await.expect(201);
        (client, participation)
    }

    /// The metrics as they are now.
    pub async fn metrics(&self) -> Metrics {
        let answer = self.admin.get("/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        Metrics::parse(answer.text)
    }

    /// Whether it is ready, and which role is not; `None` while nothing answers.
    pub async fn readiness(&self) -> Option<Answer> {
        let request = self.admin.request(reqwest::Method::GET, "/readyz");
        let request = request.timeout(Duration::from_secs(5));
        self.admin.try_send(request).await.ok()
    }

    /// Waits until every role is ready.
    pub async fn wait_ready(&self) {
        let started = Instant::now();
        loop {
            let readiness = self.readiness().await;
            if readiness
                .as_ref()
                .is_some_and(|answer| answer.status == 200)
            {
                return;
            }
            let ended = self.lock().try_wait();
            assert!(
                ended.is_none() && started.elapsed() < TIMEOUT,
                "the service did not become ready ({ended:?}, {readiness:?}):\n{}",
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.lock().pid()
    }

    /// Whether its process runs, frozen or not.
    #[allow(dead_code, reason = "the measurements ask")]
    pub fn is_running(&self) -> bool {
        self.lock().try_wait().is_none()
    }

    /// Kills it at once and waits until it is gone.
    pub async fn sigkill(self) {
        self.end(Signal::Kill).await;
    }

    /// Freezes it.
    pub fn sigstop(&self) {
        self.lock().signal(Signal::Stop);
    }

    /// Ends [`Service::sigstop`].
    pub fn sigcont(&self) {
        self.lock().signal(Signal::Continue);
    }

    /// Asks it to end, without waiting.
    pub fn sigterm(&self) {
        self.lock().signal(Signal::Terminate);
    }

    /// Asks it to end and waits until it has.
    pub async fn sigterm_and_wait(self) -> ExitStatus {
        self.end(Signal::Terminate).await
    }

    async fn end(self, signal: Signal) -> ExitStatus {
        self.lock().signal(signal);
        self.wait().await
    }

    /// Waits until it ends by itself.
    pub async fn wait(&self) -> ExitStatus {
        let started = Instant::now();
        loop {
            let ended = self.lock().try_wait();
            if let Some(status) = ended {
                return status;
            }
            assert!(
                started.elapsed() < TIMEOUT,
                "it does not end:\n{}",
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        tail(&self.log, u64::MAX)
    }

    fn log_tail(&self) -> String {
        tail(&self.log, 8_000)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Process> {
        self.process.lock().expect("not poisoned")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- end of {} ---\n{}\n---",
                self.log.display(),
                self.log_tail()
            );
        }
    }
}

/// The environment of every command of the product in this world.
pub(super) fn environment(world: &World) -> Vec<(String, String)> {
    let variables = [
        ("DATABASE_URL", world.database_url()),
        ("KAFKA_BROKERS", world.kafka().brokers()),
        (
            "RIDE_PROMO__KAFKA__RIDE_TOPIC",
            world.ride_topic().to_owned(),
        ),
        (
            "RIDE_PROMO__KAFKA__STATUS_TOPIC",
            world.status_topic().to_owned(),
        ),
        (
            "RIDE_PROMO__KAFKA__REMINDER_TOPIC",
            world.reminder_topic().to_owned(),
        ),
        ("RIDE_PROMO__KAFKA__GROUP_ID", world.group_id().to_owned()),
        (
            "RIDE_PROMO__KAFKA__PARTITIONS",
            world.partitions().to_string(),
        ),
        ("RIDE_PROMO__ERASE__SECRET", SECRET.to_owned()),
        ("RIDE_PROMO__ERASE__TOPIC", world.erasure_topic()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    variables.into_iter().chain(authentication()).collect()
}

fn authentication() -> [(String, String); 3] {
    [
        ("RIDE_PROMO__AUTH__ALGORITHM", "HS256"),
        ("RIDE_PROMO__AUTH__HS256_SECRET", SECRET),
        // a test of the limit sets it; the others are faster than people
        ("RIDE_PROMO__API__RATE_LIMIT_PER_SECOND", "0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// The binary, hearing nothing of the environment that the tests run in.
fn command(program: &Path, environment: Vec<(String, String)>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("TZ", "UTC")
        .env("NO_COLOR", "1")
        .env("RUST_BACKTRACE", "1")
        .envs(environment);
    command
}

/// What a command said until it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that must have succeeded.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }
}

/// A command of the product that ends by itself; from [`World::command`].
#[derive(Debug)]
#[must_use]
pub struct Cli {
    command: Command,
    dir: PathBuf,
    limit: Duration,
}

impl Cli {
    pub(super) fn new(world: &World, arguments: &[&str]) -> Self {
        Self::with_environment(environment(world), world.new_dir("command"), arguments)
    }

    /// The command outside any world: with no database and no broker configured.
    pub fn bare(arguments: &[&str]) -> Self {
        let dir = new_dir(&format!("command-{}", uuid::Uuid::new_v4().simple()));
        Self::with_environment(Vec::new(), dir, arguments)
    }

    /// Applies the migrations to the database at `url`.
    pub async fn migrate(url: String) {
        let migrate = Self::bare(&["migrate"]).env("DATABASE_URL", url);
        // not contacted, but the configuration is checked as a whole
        let migrate = migrate.env("KAFKA_BROKERS", "127.0.0.1:1");
        let migrate = authentication()
            .into_iter()
            .fold(migrate, |migrate, (name, value)| migrate.env(&name, value));
        migrate.run().await.expect_success();
    }

    fn with_environment(
        environment: Vec<(String, String)>,
        dir: PathBuf,
        arguments: &[&str],
    ) -> Self {
        let mut command = command(Path::new(BINARY), environment, &dir);
        command.args(arguments);
        Self {
            command,
            dir,
            limit: Duration::from_secs(120),
        }
    }

    /// Sets an environment variable, over what the harness sets.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.command.env(name, value.to_string());
        self
    }

    /// Bounds its run; two minutes otherwise.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end.
    pub async fn run(self) -> Output {
        let (out, err) = (self.dir.join("stdout"), self.dir.join("stderr"));
        let mut process = Process::spawn_split("ride-promo", self.command, &out, &err);
        let status = process.wait(self.limit).await;
        let (stdout, stderr) = (tail(&out, u64::MAX), tail(&err, u64::MAX));
        let Some(status) = status else {
            panic!("still running after {:?}:\n{stdout}\n{stderr}", self.limit)
        };
        Output {
            status,
            stdout,
            stderr,
        }
    }
}
