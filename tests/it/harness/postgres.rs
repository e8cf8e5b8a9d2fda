//! A real PostgreSQL: a private cluster on a port of its own, with its durable settings on.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::OnceCell;

use super::{
    authority::Authority,
    process::{Port, Process, Signal, new_dir, tail},
};

const TIMEOUT: Duration = Duration::from_secs(60);

/// The database that every test's is a copy of: the product's own migrations, run once.
const TEMPLATE: &str = "ride_promo_template";

/// A cluster with its data directory. Ends with the value, or with the tests.
#[derive(Debug)]
pub struct Postgres {
    port: Port,
    dir: PathBuf,
    /// `None` while it is stopped on purpose.
    process: Mutex<Option<Process>>,
    template: OnceCell<()>,
    /// Its directory is a file system of its own, unmounted at the end.
    mounted: bool,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.mounted {
            drop(self.process.lock().expect("not poisoned").take());
            privileged("umount", &["--lazy".as_ref(), self.dir.as_os_str()]);
        }
    }
}

impl Postgres {
    /// The cluster that all tests share: started by the first that asks.
    ///
    /// Never stop this one; a test that has to gets its own from [`Postgres::start_private`].
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceCell<Arc<Postgres>> = OnceCell::const_new();
        SHARED.get_or_init(Self::start_private).await.clone()
    }

    /// A cluster of one's own, to stop and to crash.
    pub async fn start_private() -> Arc<Self> {
        Self::start_with(None).await
    }

    /// A cluster of one's own that takes encrypted connections only, with a certificate of this
    /// authority.
    pub async fn start_secured(authority: &Authority) -> Arc<Self> {
        Self::start_with(Some(authority)).await
    }

    /// A cluster of one's own on a file system of this size, to fill.
    pub async fn start_on_small_disk(megabytes: u32) -> Arc<Self> {
        let postgres = Self::new(Some(megabytes));
        postgres.init().await;
        // Segments of WAL are made when they are needed, not kept ready.
        postgres.configure("shared_buffers = 16MB\nmin_wal_size = 32MB\nmax_wal_size = 48MB\n");
        postgres.start().await;
        Arc::new(postgres)
    }

    /// A cluster of one's own that lets the user `app` in with a password only, and `postgres` without.
    pub async fn start_with_passwords() -> Arc<Self> {
        let postgres = Self::new(None);
        postgres.init().await;
        let rules = postgres.data().join("pg_hba.conf");
        let text =
            "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(&rules, text).expect("ours");
        postgres.start().await;
        Arc::new(postgres)
    }

    /// A streaming replica of `primary`, reached at `primary_address`, which may be a proxy's.
    pub async fn start_standby(primary_address: &str) -> Arc<Self> {
        let standby = Self::new(None);
        let (host, port) = primary_address.split_once(':').expect("host:port");
        let mut command = server_command("pg_basebackup", &standby.dir);
        command.arg("-D").arg(standby.data()).args([
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
            "--wal-method=stream",
        ]);
        let primary = format!("host={host} port={port} user=postgres application_name=standby");
        command.arg(format!("--dbname={primary}"));
        let log = standby.log();
        let mut copy = Process::spawn("pg_basebackup", command, &log, Signal::Kill);
        let status = copy.wait(TIMEOUT).await;
        assert!(
            status.is_some_and(|status| status.success()),
            "pg_basebackup: {status:?}\n{}",
            tail(&log, 4_000)
        );
        // The last of two settings counts.
        standby.configure(&format!("port = {}\n", standby.port.number()));
        standby.start().await;
        Arc::new(standby)
    }

    /// Ends recovery: from now on it takes writes, on a timeline of its own.
    pub async fn promote(&self) {
        self.execute("select pg_promote(wait => true)".to_owned())
            .await
            .expect("a standby");
    }

    fn new(megabytes: Option<u32>) -> Self {
        let port = Port::reserve();
        let dir = new_dir(&format!("postgres-{}", port.number()));
        if let Some(megabytes) = megabytes {
            let size = format!("size={megabytes}m");
            let mounted = privileged(
                "mount",
                &[
                    "-t".as_ref(),
                    "tmpfs".as_ref(),
                    "-o".as_ref(),
                    size.as_ref(),
                    "tmpfs".as_ref(),
                    dir.as_os_str(),
                ],
            );
            assert!(
                mounted,
                "mounting a small file system takes root, or a sudo that asks for no password"
            );
        }
        if let Some(user) = &*SERVER_USER {
            chown(&dir, Some(user.uid), Some(user.gid)).expect("root may");
        }
        Self {
            port,
            dir,
            process: Mutex::new(None),
            template: OnceCell::const_new(),
            mounted: megabytes.is_some(),
        }
    }

    /// Takes all the room that is left on its file system, until [`Postgres::free_disk`].
    pub fn fill_disk(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.ballast()).expect("ours");
        for size in [1 << 20, 4_096, 1] {
            let block = vec![1_u8; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    /// Ends [`Postgres::fill_disk`].
    pub fn free_disk(&self) {
        fs::remove_file(self.ballast()).expect("filled before");
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    /// Whether its first process has ended by itself, as after a panic that it cannot recover from.
    pub fn has_ended(&self) -> bool {
        let mut process = self.process.lock().expect("not poisoned");
        let ended = process
            .as_mut()
            .is_some_and(|process| process.try_wait().is_some());
        if ended {
            *process = None;
        }
        ended
    }

    async fn start_with(authority: Option<&Authority>) -> Arc<Self> {
        let postgres = Self::new(None);
        postgres.init().await;
        if let Some(authority) = authority {
            postgres.secure(authority);
        }
        postgres.start().await;
        Arc::new(postgres)
    }

    fn secure(&self, authority: &Authority) {
        let server = authority.server_certificate();
        for (name, text) in [
            ("server.crt", server.certificate),
            ("server.key", server.key),
        ] {
            let file = self.data().join(name);
            fs::write(&file, text).expect("a new cluster");
            // it refuses a key that others can read
            fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("ours");
            if let Some(user) = &*SERVER_USER {
                chown(&file, Some(user.uid), Some(user.gid)).expect("root may");
            }
        }
        self.configure("ssl = on\n");
        let rules = self.data().join("pg_hba.conf");
        fs::write(&rules, "hostssl all all 127.0.0.1/32 trust\n").expect("ours");
    }

    /// Adds settings, before it starts.
    fn configure(&self, more: &str) {
        let settings = self.data().join("postgresql.auto.conf");
        let before = fs::read_to_string(&settings).expect("written before");
        fs::write(&settings, format!("{before}{more}")).expect("ours");
    }

    /// `host:port`, for a [`FaultProxy`](super::FaultProxy) in front of it.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// The URL of a database in this cluster.
    pub fn url(&self, database: &str) -> String {
        url(&self.address(), database)
    }

    /// Starts it (again), on the same port and data, and waits until it answers.
    pub async fn start(&self) {
        let mut command = server_command("postgres", &self.dir);
        command.arg("-D").arg(self.data());
        {
            let mut process = self.process.lock().expect("not poisoned");
            assert!(process.is_none(), "Postgres is already running");
            *process = Some(Process::spawn(
                "postgres",
                command,
                &self.log(),
                Signal::Quit,
            ));
        }
        let started = Instant::now();
        loop {
            let error = match PgConnection::connect(&self.url("postgres")).await {
                Ok(connection) => break drop(connection.close().await),
                Err(error) => error,
            };
            assert!(
                started.elapsed() < TIMEOUT,
                "Postgres did not start ({error}):\n{}",
                tail(&self.log(), 4_000)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops it in good order, cutting its sessions off.
    pub async fn stop(&self) {
        self.end(Signal::Interrupt).await;
    }

    /// Stops it in immediate mode: as a crash, what was not committed is lost and the next start
    /// recovers from the log.
    pub async fn stop_immediate(&self) {
        self.end(Signal::Quit).await;
    }

    /// [`Postgres::stop`] and [`Postgres::start`].
    #[allow(dead_code, reason = "the measurements do")]
    pub async fn restart(&self) {
        self.stop().await;
        self.start().await;
    }

    /// [`Postgres::stop_immediate`] and [`Postgres::start`].
    pub async fn restart_immediate(&self) {
        self.stop_immediate().await;
        self.start().await;
    }

    /// The id of its first process, whose children the others are.
    #[allow(dead_code, reason = "the measurements ask")]
    pub fn pid(&self) -> u32 {
        let process = self.process.lock().expect("not poisoned");
        process.as_ref().expect("Postgres is running").pid()
    }

    async fn end(&self, signal: Signal) {
        let process = self.process.lock().expect("not poisoned").take();
        if let Some(mut process) = process {
            process.end(signal, TIMEOUT).await;
        }
    }

    /// Runs one statement in the database `postgres`.
    pub async fn execute(&self, sql: String) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await?;
        connection.close().await
    }

    /// Creates a database with nothing in it.
    pub async fn create_empty_database(&self, name: &str) {
        self.execute(format!("create database {name}"))
            .await
            .expect("a new name");
    }

    /// Creates a database as the product's migrations leave it.
    ///
    /// `migrate` runs them on the database at the URL it is given; it is called once per cluster.
    pub async fn create_database<F>(&self, name: &str, migrate: impl FnOnce(String) -> F)
    where
        F: Future<Output = ()>,
    {
        let prepare = async || {
            self.create_empty_database(TEMPLATE).await;
            migrate(self.url(TEMPLATE)).await;
            // a copy is refused while anyone is connected to the original
            self.execute(format!(
                "alter database {TEMPLATE} with allow_connections false"
            ))
            .await
            .expect("it exists");
        };
        self.template.get_or_init(prepare).await;
        self.execute(format!("create database {name} template {TEMPLATE}"))
            .await
            .expect("a new name");
    }

    /// Removes a database, cutting off who is connected.
    pub async fn drop_database(&self, name: &str) -> Result<(), sqlx::Error> {
        self.execute(format!("drop database if exists {name} with (force)"))
            .await
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }

    async fn init(&self) {
        let mut command = server_command("initdb", &self.dir);
        command.arg("-D").arg(self.data()).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            // of the empty cluster only; the server itself syncs
            "--no-sync",
        ]);
        // never interrupted: the server it runs would leave its shared memory behind
        let mut initdb = Process::spawn("initdb", command, &self.log(), Signal::Continue);
        let status = initdb.wait(TIMEOUT).await;
        assert!(
            status.is_some_and(|status| status.success()),
            "initdb: {status:?}\n{}",
            tail(&self.log(), 4_000)
        );
        let settings = format!(
            "port = {}\n\
             listen_addresses = '127.0.0.1'\n\
             unix_socket_directories = ''\n\
             max_connections = 400\n\
             max_prepared_transactions = 10\n\
             shared_buffers = 128MB\n\
             max_wal_size = 2GB\n\
             fsync = on\n\
             synchronous_commit = on\n\
             full_page_writes = on\n\
             log_line_prefix = '%m [%p] %q%d %a '\n",
            self.port.number()
        );
        fs::write(self.data().join("postgresql.auto.conf"), settings).expect("a new cluster");
    }
}

/// The URL of a database behind `address`, which may be a proxy's.
pub fn url(address: &str, database: &str) -> String {
    format!("postgres://postgres@{address}/{database}")
}

/// Who runs the server where we are root, which it refuses.
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

pub(super) static SERVER_USER: LazyLock<Option<User>> = LazyLock::new(|| {
    let id = |args: &[&str]| -> u32 {
        let output = Command::new("id")
            .args(args)
            .output()
            .expect("id is part of every system");
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim()
            .parse()
            .unwrap_or_else(|_| panic!("no such user: id {}", args.join(" ")))
    };
    let root = id(&["-u"]) == 0;
    root.then(|| User {
        uid: id(&["-u", "postgres"]),
        gid: id(&["-g", "postgres"]),
    })
});

/// Runs a command as root; whether it went well.
fn privileged(program: &str, arguments: &[&std::ffi::OsStr]) -> bool {
    let mut command = if SERVER_USER.is_some() {
        Command::new(program)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", program]);
        sudo
    };
    let status = command.args(arguments).status();
    status.is_ok_and(|status| status.success())
}

fn server_command(program: &str, dir: &Path) -> Command {
    as_server_user(PROGRAMS.join(program), dir)
}

/// A program that refuses to run as root.
pub(super) fn as_server_user(program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir).env("LC_ALL", "C");
    if let Some(user) = &*SERVER_USER {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Where `psql`, `pg_dump` and the like are, of the version that runs.
pub(super) fn programs() -> &'static PathBuf {
    &PROGRAMS
}

/// Where the server's programs are: Debian keeps them off the path, a directory per major version.
static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| packaged(*version).join("initdb").exists())
        .max();
    newest.map(packaged).unwrap_or_else(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).find(|dir| dir.join("initdb").exists());
        found.expect("PostgreSQL's server programs; install the package postgresql")
    })
});

fn packaged(version: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))
}
