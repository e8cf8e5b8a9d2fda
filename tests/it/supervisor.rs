//! What the process reports to its supervisor: `sd_notify` for systemd, `healthcheck` for a container.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt as _, net::UnixDatagram},
    process::Command,
    time::Duration,
};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// The socket that systemd would listen on, and everything told to it so far.
struct Supervisor {
    socket: UnixDatagram,
    path: String,
    told: std::cell::RefCell<Vec<String>>,
}

impl Supervisor {
    fn new(world: &World) -> Self {
        let path = world.new_dir("s").join("notify");
        let socket = UnixDatagram::bind(&path).expect("a path short enough for a socket");
        socket.set_nonblocking(true).expect("a socket");
        Self {
            socket,
            path: path.display().to_string(),
            told: Default::default(),
        }
    }

    /// Everything told so far, a line each.
    fn told(&self) -> Vec<String> {
        let mut datagram = [0; 4_096];
        loop {
            match self.socket.recv(&mut datagram) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
                    let lines = text.lines().map(str::to_owned);
                    self.told.borrow_mut().extend(lines);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.told.borrow().clone();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn waits_for(&self, line: &str, times: usize) {
        eventually(LIMIT, || async {
            let told = self.told();
            if told.iter().filter(|told| *told == line).count() >= times {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_it_is_ready_that_it_turns_and_that_it_stops() {
    let kafka = Kafka::start_private().await;
    let world = World::builder().kafka(&kafka).build().await;
    kafka.stop().await;
    let systemd = Supervisor::new(&world);
    let service = world
        .service()
        .env("NOTIFY_SOCKET", &systemd.path)
        .env("WATCHDOG_USEC", 500_000)
        .spawn();
    // Not ready while Kafka is away, and why; but it turns.
    eventually(LIMIT, || async {
        let told = systemd.told();
        let waits =
            |line: &String| line.starts_with("STATUS=") && line.contains("ingest: Kafka at");
        if told.iter().any(waits) {
            Ok(())
        } else {
            Err(format!("{told:?}"))
        }
    })
    .await;
    systemd.waits_for("WATCHDOG=1", 3).await;
    assert!(!systemd.told().contains(&"READY=1".to_owned()));
    kafka.start().await;
    systemd.waits_for("READY=1", 1).await;
    systemd.waits_for("STATUS=ready", 1).await;
    assert!(!systemd.told().contains(&"STOPPING=1".to_owned()));
    assert!(service.sigterm_and_wait().await.success());
    systemd.waits_for("STOPPING=1", 1).await;
    let ready = systemd
        .told()
        .iter()
        .filter(|line| *line == "READY=1")
        .count();
    assert_eq!(ready, 1);
}

/// What the program writes to its log with these settings; the journal is this file, or another.
fn logged(file: &std::path::Path, is_the_journal: bool, environment: &[(&str, &str)]) -> String {
    let log = fs::File::create(file).expect("ours");
    let found = log.metadata().expect("ours");
    let inode = if is_the_journal {
        found.ino()
    } else {
        found.ino() + 1
    };
    let ran = Command::new(env!("CARGO_BIN_EXE_ride-promo"))
        .arg("serve")
        .env_clear()
        .env("JOURNAL_STREAM", format!("{}:{inode}", found.dev()))
        .env("RIDE_PROMO__AUTH__ALGORITHM", "HS256")
        .env("RIDE_PROMO__AUTH__HS256_SECRET", SECRET)
        .env("KAFKA_BROKERS", "127.0.0.1:1")
        .envs(environment.iter().copied())
        .stderr(log)
        .status();
    assert!(!ran.expect("it runs").success());
    fs::read_to_string(file).expect("ours")
}

#[tokio::test]
async fn the_journal_is_told_the_priority_of_each_line() {
    let world = World::builder()
        .without_topics()
        .empty_database()
        .build()
        .await;
    let log = world.new_dir("journal").join("log");
    // It warns of the one and fails for the other.
    let url = world.database_url();
    let fails = [
        ("DATABASE_URL", &*url),
        ("RIDE_PROMO__LOG__LEVEL", "debug,nonsense=nonsense=nonsense"),
    ];
    let misconfigured = logged(&log, true, &fails);
    assert!(
        misconfigured.lines().count() > 1
            && misconfigured.lines().all(|line| line.starts_with("<3>")),
        "{misconfigured}"
    );
    let fails = [("DATABASE_URL", &*url), ("RIDE_PROMO__LOG__LEVEL", "debug")];
    let lines = logged(&log, true, &fails);
    for line in lines.lines() {
        let (priority, line) = line.split_at(3);
        let level = match priority {
            "<3>" if line.starts_with("ride-promo: the database has no schema") => continue,
            "<3>" => "ERROR",
            "<4>" => "WARN",
            "<6>" => "INFO",
            "<7>" => "DEBUG",
            _ => panic!("{priority}{line}"),
        };
        let line: serde_json::Value = serde_json::from_str(line).expect("an object a line");
        assert_eq!(line["level"], level);
    }
    for priority in ["<3>", "<7>"] {
        assert!(lines.contains(priority), "{lines}");
    }
    // Redirected to elsewhere it is a log like any other.
    let lines = logged(&log, false, &fails);
    assert!(!lines.contains("<3>") && lines.starts_with('{'), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_asks_whether_it_is_alive_and_whether_it_is_ready() {
    let kafka = Kafka::start_private().await;
    let world = World::builder().kafka(&kafka).build().await;
    kafka.stop().await;
    let service = world.service().spawn();
    let ask = |arguments: &'static [&'static str]| {
        let listener = service.admin_listener().address().replace("http://", "");
        let command = world.command(arguments);
        command.env("RIDE_PROMO__ADMIN__LISTEN", listener)
    };
    eventually(LIMIT, || async {
        let alive = ask(&["healthcheck"]).run().await;
        equal(
            (alive.status.code(), alive.stdout),
            (Some(0), "ok\n".to_owned()),
        )
    })
    .await;
    let ready = ask(&["healthcheck", "--ready"]).run().await;
    assert_eq!(ready.status.code(), Some(1));
    assert!(
        ready.stderr.contains("answers 503: {\"roles\""),
        "{}",
        ready.stderr
    );
    kafka.start().await;
    service.wait_ready().await;
    let ready = ask(&["healthcheck", "--ready"])
        .run()
        .await
        .expect_success();
    assert!(ready.contains("\"ingest\":\"ok\""), "{ready}");
    let asked = ask(&["healthcheck"]);
    assert!(service.sigterm_and_wait().await.success());
    let gone = asked.run().await;
    assert_eq!(gone.status.code(), Some(1));
    assert!(
        gone.stderr.contains("no response from 127.0.0.1:"),
        "{}",
        gone.stderr
    );
}
