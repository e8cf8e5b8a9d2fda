//! Where the demo's database is: a private cluster that always ends with this process, or a
//! database of its own on a named server.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::config::Secret;
use crate::store::database;

/// Creates the cluster, starts it, prints `ready`, and removes it with its directory once its
/// standard input closes. That happens to the pipe when the demo ends in any way, also by SIGKILL.
/// It ignores signals, because it has to outlive a Ctrl-C.
///
/// The settings are Postgres' defaults, with durable commits. It listens only on a socket in a
/// directory that only its owner can enter.
const SUPERVISOR: &str = r#"
trap '' HUP INT TERM PIPE
programs=$1 dir=$2
export LC_ALL=C
if cd "$dir" &&
  "$programs/initdb" -D "$dir/data" --username=postgres --auth=trust --encoding=UTF8 --locale=C >>"$dir/log" 2>&1 </dev/null &&
  cat >"$dir/data/postgresql.auto.conf" <<END &&
listen_addresses = ''
unix_socket_directories = '$dir'
unix_socket_permissions = 0700
max_connections = 100
END
  "$programs/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 start >>"$dir/log" 2>&1 </dev/null
then echo ready
else echo failed
fi
read -r _
for mode in fast immediate; do
  [ -f "$dir/data/postmaster.pid" ] || break
  "$programs/pg_ctl" -D "$dir/data" -m "$mode" -w -t 20 stop >/dev/null 2>&1 </dev/null
done
cd /
rm -rf "$dir"
"#;

/// The longest path to a socket, without the socket's own name.
const MAX_SOCKET_DIR: usize = 80;

/// How long the cluster may take to start, and to stop.
const STATE_CHANGE_TIMEOUT: Duration = Duration::from_secs(120);

/// The demo's database.
#[expect(clippy::large_enum_variant, reason = "there is one")]
pub(super) enum Postgres {
    /// A cluster of this process.
    Private(Cluster),
    /// A database created for this run on a named server.
    Named {
        /// The server's own database, for the removal.
        server: Secret,
        /// The created database.
        name: String,
    },
}

/// A private cluster, alive as long as this value's end of the pipe.
pub(super) struct Cluster {
    dir: PathBuf,
    supervisor: Child,
    hold: Option<ChildStdin>,
}

impl Postgres {
    /// Starts a private cluster; [`Postgres::ready`] waits for it.
    pub(super) fn private() -> anyhow::Result<Self> {
        Cluster::begin().map(Self::Private)
    }

    /// A database for this run on the server of `url`.
    pub(super) async fn named(url: &str, run: &str) -> anyhow::Result<Self> {
        let name = format!("ride_promo_demo_{run}");
        database::create(url, &name)
            .await
            .context("making a database for the demo on the server of --database-url, for which its role needs CREATEDB")?;
        Ok(Self::Named {
            server: Secret::new(url),
            name,
        })
    }

    /// Waits until it accepts connections; returns its URL.
    pub(super) async fn ready(&mut self) -> anyhow::Result<String> {
        match self {
            Self::Private(cluster) => cluster.ready().await,
            Self::Named { server, name } => Ok(database::with_name(server.expose(), name)?),
        }
    }

    /// How to inspect it, for people.
    pub(super) fn look(&self) -> String {
        match self {
            Self::Private(cluster) => {
                format!("psql -h {} -U postgres postgres", cluster.dir.display())
            }
            Self::Named { name, .. } => {
                format!("database {name} on the server of --database-url, removed at the end")
            }
        }
    }

    /// Stops it, and removes everything it has written.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Private(cluster) => cluster.close().await,
            Self::Named { server, name } => database::remove(server.expose(), &name)
                .await
                .with_context(|| format!("removing the database {name}")),
        }
    }
}

impl Cluster {
    fn begin() -> anyhow::Result<Self> {
        let programs = programs().context(
            "PostgreSQL's server programs (initdb, pg_ctl) are neither in PATH nor in /usr/lib/postgresql/*/bin: \
             install the package postgresql, or name a server with --database-url",
        )?;
        let dir = tempfile::Builder::new()
            .prefix("ride-promo-demo-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(parent())
            .context("making a directory for the private Postgres")?;
        let mut command = Command::new("sh");
        command
            .args(["-c", SUPERVISOR, "ride-promo-demo-postgres"])
            .arg(programs)
            .arg(dir.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A Ctrl-C in the terminal must reach only this process.
            .process_group(0);
        // The owner of a new directory is the user of this process.
        if std::fs::metadata(dir.path())?.uid() == 0 {
            let (uid, gid) = unprivileged()?;
            chown(dir.path(), Some(uid), Some(gid)).context("handing the directory over")?;
            command.uid(uid).gid(gid);
        }
        let mut supervisor = command
            .spawn()
            .context("starting a shell for the private Postgres")?;
        let hold = supervisor.stdin.take();
        Ok(Self {
            // From here on the shell removes it, too.
            dir: dir.keep(),
            supervisor,
            hold,
        })
    }

    async fn ready(&mut self) -> anyhow::Result<String> {
        let output = self
            .supervisor
            .stdout
            .take()
            .context("the private Postgres was waited for before")?;
        let mut line = String::new();
        let mut output = BufReader::new(output);
        // It reports a failure only by the end of its output.
        let said = tokio::time::timeout(STATE_CHANGE_TIMEOUT, output.read_line(&mut line)).await;
        if !matches!(said, Ok(Ok(_)) if line == "ready\n") {
            let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let from = log.lines().count().saturating_sub(20);
            let last: Vec<&str> = log.lines().skip(from).collect();
            anyhow::bail!(
                "the private Postgres in {} did not start:\n{}",
                self.dir.display(),
                last.join("\n")
            );
        }
        Ok(format!(
            "postgres://postgres@localhost/postgres?host={}&sslmode=disable",
            percent_encoded(&self.dir)
        ))
    }

    async fn close(mut self) -> anyhow::Result<()> {
        drop(self.hold.take());
        match tokio::time::timeout(STATE_CHANGE_TIMEOUT, self.supervisor.wait()).await {
            Ok(ended) => {
                ended.context("waiting for the private Postgres to end")?;
            }
            Err(_elapsed) => anyhow::bail!(
                "the private Postgres in {} does not end",
                self.dir.display()
            ),
        }
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The directory for temporary files, or another one if the server could not enter it, or if a
/// socket in it would have too long a path.
fn parent() -> PathBuf {
    let usual = std::env::temp_dir();
    let is_open = |dir: &Path| {
        std::fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
    };
    if usual.is_absolute()
        && usual.as_os_str().len() <= MAX_SOCKET_DIR
        && usual.ancestors().all(is_open)
    {
        usual
    } else {
        PathBuf::from("/tmp")
    }
}

/// The directory of the newest server's programs. Debian keeps them outside of PATH, in a directory
/// per major version.
fn programs() -> Option<PathBuf> {
    let is_server = |dir: &PathBuf| dir.join("initdb").is_file() && dir.join("pg_ctl").is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path).find(is_server) {
        return Some(found);
    }
    std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, dir)| is_server(dir))
        .max()
        .map(|(_, dir)| dir)
}

/// The user that runs the server if this process is root, because Postgres refuses root:
/// `postgres`, or the system user `nobody`.
fn unprivileged() -> anyhow::Result<(u32, u32)> {
    let id = |option: &str, user: &str| -> Option<u32> {
        let output = std::process::Command::new("id")
            .args([option, user])
            .stderr(Stdio::null())
            .output()
            .ok()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    ["postgres", "nobody"]
        .iter()
        .find_map(|user| Some((id("-u", user)?, id("-g", user)?)))
        .filter(|(uid, _)| *uid != 0)
        .context(
            "PostgreSQL refuses to run as root and there is neither a user postgres nor a user nobody: run the demo as \
             another user, or name a server with --database-url",
        )
}

fn percent_encoded(path: &Path) -> String {
    path.as_os_str()
        .as_bytes()
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' => {
                char::from(*byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_the_url() {
        assert_eq!(percent_encoded(Path::new("/tmp/a b&c")), "/tmp/a%20b%26c");
    }
}
