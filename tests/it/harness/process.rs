//! Child processes that cannot outlive the tests, and ports that no other process takes.
//!
//! Statics are never dropped and a test binary may be killed, so cleaning up cannot be left to
//! destructors. A small shell process, the [reaper](REAPER), holds the other end of a pipe. When
//! this process has ended, for any reason, the pipe closes: the reaper kills what is registered
//! and removes the directory of the run.

use std::{
    fs::{self, File, Permissions},
    io::{Read, Seek, SeekFrom, Write},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex},
    time::{Duration, Instant},
};

/// Reads `watch SIGNAL PID` and `forget PID`; the directory to remove is its first argument.
///
/// In a process group of its own, and deaf to the terminal's signals: it must survive a Ctrl-C.
const REAPER_SCRIPT: &str = r#"
trap '' HUP INT TERM
watched=
while read -r order what pid; do
  case $order in
    watch) watched="$watched $what:$pid" ;;
    forget)
      kept=
      for entry in $watched; do
        [ "${entry#*:}" = "$what" ] || kept="$kept $entry"
      done
      watched=$kept ;;
  esac
done
for entry in $watched; do
  kill -s CONT -- "-${entry#*:}"
  kill -s "${entry%%:*}" -- "-${entry#*:}"
done
for entry in $watched; do
  tries=0
  while kill -s 0 -- "-${entry#*:}" && [ "$tries" -lt 50 ]; do
    tries=$((tries + 1))
    sleep 0.1
  done
  kill -s KILL -- "-${entry#*:}"
done
[ -n "$2" ] || rm -rf "$1"
"#;

#[expect(clippy::zombie_processes, reason = "it is there to end after us")]
static REAPER: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
    let keep = std::env::var("RIDE_PROMO_TEST_KEEP").unwrap_or_default();
    let mut reaper = Command::new("sh")
        .args(["-c", REAPER_SCRIPT, "reaper"])
        .arg(&*RUN_DIR)
        .arg(keep)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("a shell to clean up after the tests");
    Mutex::new(reaper.stdin.take().expect("its standard input is piped"))
});

static RUN_DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = tempfile::Builder::new()
        .prefix("ride-promo-test-")
        // Postgres may run as another user and has to get through
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .expect("a temporary directory for the run");
    dir.keep()
});

/// The directory of this run: data, logs, configuration. The reaper removes it at the end, unless
/// `RIDE_PROMO_TEST_KEEP` is set to something.
pub fn run_dir() -> &'static Path {
    LazyLock::force(&REAPER);
    &RUN_DIR
}

fn tell_reaper(order: &str) {
    let mut reaper = REAPER.lock().expect("nobody panics while telling");
    writeln!(reaper, "{order}").expect("the reaper outlives us");
}

/// What a process is told to do; see `kill(1)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// End now, without a chance to clean up.
    Kill,
    /// Ctrl-C; Postgres' fast shutdown.
    Interrupt,
    /// End in good order.
    Terminate,
    /// Postgres' immediate shutdown: a crash that cleans up its shared memory.
    Quit,
    /// Freeze; keeps sockets open and timers running, as a long pause of a machine does.
    Stop,
    /// Go on after [`Signal::Stop`].
    Continue,
}

impl Signal {
    /// As `kill -s` takes it.
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
            Self::Quit => "QUIT",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }

    fn number(self) -> libc::c_int {
        match self {
            Self::Kill => libc::SIGKILL,
            Self::Interrupt => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
            Self::Quit => libc::SIGQUIT,
            Self::Stop => libc::SIGSTOP,
            Self::Continue => libc::SIGCONT,
        }
    }
}

/// A running child, known to the reaper. Dropping it ends it, and waits for that.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    at_abort: Signal,
    ended: bool,
}

impl Process {
    /// Starts `command` in a process group of its own, its output appended to `log`.
    ///
    /// `at_abort` is the signal that ends it where the test does not, or the reaper has to. One
    /// that does not suffice is followed by [`Signal::Kill`] after 5 s; [`Signal::Continue`] gives
    /// what ends soon by itself the time to.
    pub fn spawn(name: &str, command: Command, log: &Path, at_abort: Signal) -> Self {
        let output = append_to(log);
        let errors = output.try_clone().expect("a second handle of the log");
        Self::spawn_with(name, command, [output, errors], at_abort)
    }

    /// The same for a command whose two outputs matter apart.
    pub fn spawn_split(name: &str, command: Command, output: &Path, errors: &Path) -> Self {
        Self::spawn_with(
            name,
            command,
            [append_to(output), append_to(errors)],
            Signal::Kill,
        )
    }

    /// The same for a command that is spoken with over its standard input and output.
    pub fn spawn_talking(
        name: &str,
        command: Command,
        errors: &Path,
    ) -> (Self, ChildStdin, ChildStdout) {
        let outputs = [Stdio::piped(), append_to(errors).into()];
        let mut process = Self::spawn_between(name, command, Stdio::piped(), outputs, Signal::Kill);
        let pipes = (process.child.stdin.take(), process.child.stdout.take());
        let (Some(input), Some(output)) = pipes else {
            unreachable!("both are piped");
        };
        (process, input, output)
    }

    fn spawn_with(name: &str, command: Command, outputs: [File; 2], at_abort: Signal) -> Self {
        let outputs = outputs.map(Stdio::from);
        Self::spawn_between(name, command, Stdio::null(), outputs, at_abort)
    }

    fn spawn_between(
        name: &str,
        mut command: Command,
        input: Stdio,
        [output, errors]: [Stdio; 2],
        at_abort: Signal,
    ) -> Self {
        LazyLock::force(&REAPER);
        let child = command
            .stdin(input)
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        let signal = at_abort.name();
        tell_reaper(&format!("watch {signal} {}", child.id()));
        Self {
            name: name.to_owned(),
            child,
            at_abort,
            ended: false,
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process itself; nothing where it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.try_wait().is_none() {
            let pid = libc::pid_t::try_from(self.child.id()).expect("a process id fits");
            send(pid, signal);
        }
    }

    /// How it ended, or `None` while it runs.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        let status = self
            .child
            .try_wait()
            .expect("our own child can be waited for");
        if status.is_some() && !self.ended {
            self.ended = true;
            tell_reaper(&format!("forget {}", self.child.id()));
        }
        status
    }

    /// Waits for the process to end by itself, at most `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.try_wait() {
                return Some(status);
            }
            if started.elapsed() > limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends `signal` and waits for the end; panics where it does not come within `limit`.
    pub async fn end(&mut self, signal: Signal, limit: Duration) -> ExitStatus {
        self.signal(signal);
        self.wait(limit).await.unwrap_or_else(|| {
            panic!("{} is still running {limit:?} after {signal:?}", self.name);
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            let group = libc::pid_t::try_from(self.child.id()).expect("a process id fits");
            send(-group, Signal::Continue);
            send(-group, self.at_abort);
            let patience = Instant::now();
            while self.at_abort != Signal::Kill
                && self.try_wait().is_none()
                && patience.elapsed() < Duration::from_secs(5)
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            if self.try_wait().is_none() {
                send(-group, Signal::Kill);
                let _ = self.child.wait();
                tell_reaper(&format!("forget {}", self.child.id()));
            }
        }
    }
}

fn append_to(file: &Path) -> File {
    let opened = File::options().create(true).append(true).open(file);
    opened.unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()))
}

#[expect(unsafe_code, reason = "the standard library can only kill")]
fn send(pid: libc::pid_t, signal: Signal) {
    // SAFETY: kill touches no memory of ours, and the callers only name children not waited for
    // yet, whose ids cannot have been given to anyone else.
    unsafe {
        libc::kill(pid, signal.number());
    }
}

/// A TCP port of the loopback interface that stays ours: for a server that will listen on it, and
/// on the same one after a restart.
///
/// Taken from below the range that outgoing connections get theirs from. What keeps other tests,
/// in other processes too, from choosing it is a UDP socket bound to the same number: it lasts as
/// long as this value and cannot be left behind.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UdpSocket,
}

impl Port {
    /// Claims a free port.
    pub fn reserve() -> Self {
        for _ in 0..1_000 {
            let number = rand::random_range(10_000..32_000);
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self {
                    number,
                    _claim: claim,
                };
            }
        }
        panic!("no free port between 10000 and 32000");
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:number`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

/// The end of a log, at most `bytes` of it from the start of a line, for the message of a failure.
pub fn tail(log: &Path, bytes: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(match text.split_once('\n') {
            Some((_, whole_lines)) if length > bytes => whole_lines.to_owned(),
            _ => text,
        })
    };
    read().unwrap_or_else(|error| format!("(no log at {}: {error})", log.display()))
}

/// Creates a directory under [`run_dir`].
pub fn new_dir(name: &str) -> PathBuf {
    let dir = run_dir().join(name);
    fs::create_dir_all(&dir).expect("the run's directory is ours");
    dir
}
