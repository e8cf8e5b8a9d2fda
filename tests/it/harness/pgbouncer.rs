//! A real PgBouncer in front of a [`Postgres`].

use std::{
    fs,
    os::unix::fs::chown,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    postgres::{Postgres, SERVER_USER},
    process::{Port, Process, Signal, new_dir, tail},
};

const TIMEOUT: Duration = Duration::from_secs(30);

/// PgBouncer. Ends with the value.
#[derive(Debug)]
pub struct PgBouncer {
    port: Port,
    _process: Process,
}

impl PgBouncer {
    /// Starts one with `pool_mode` and further lines of its section `pgbouncer`.
    pub async fn start(postgres: &Postgres, pool_mode: &str, more: &str) -> Self {
        let port = Port::reserve();
        let dir = new_dir(&format!("pgbouncer-{}", port.number()));
        let address = postgres.address();
        let (host, upstream) = address.split_once(':').expect("host:port");
        let users = dir.join("users");
        fs::write(&users, "\"postgres\" \"\"\n").expect("ours");
        let settings = dir.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={upstream}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\npool_mode = {pool_mode}\ndefault_pool_size = 60\n{more}\n",
            port.number(),
            users.display()
        );
        fs::write(&settings, text).expect("ours");
        if let Some(user) = &*SERVER_USER {
            for path in [&dir, &users, &settings] {
                chown(path, Some(user.uid), Some(user.gid)).expect("root may");
            }
        }
        let program = if Path::new("/usr/sbin/pgbouncer").exists() {
            "/usr/sbin/pgbouncer"
        } else {
            "pgbouncer"
        };
        let mut command = super::postgres::as_server_user(program, &dir);
        command.arg(&settings);
        let log = dir.join("pgbouncer.log");
        let process = Process::spawn("pgbouncer", command, &log, Signal::Interrupt);
        let started = Instant::now();
        while std::net::TcpStream::connect(port.address()).is_err() {
            assert!(
                started.elapsed() < TIMEOUT,
                "PgBouncer did not start:\n{}",
                tail(&log, 4_000)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self {
            port,
            _process: process,
        }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.port.address()
    }
}
