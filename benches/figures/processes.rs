//! What processes have used, from `/proc`.

use std::ops::Sub;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Who works in a run. Each counts with its children, those that have ended included.
#[derive(Clone, Copy, Debug)]
pub struct Processes {
    /// The service.
    pub worker: u32,
    /// Postgres' first process; the others are its children.
    pub postgres: u32,
    /// The broker.
    pub broker: u32,
}

/// Processor time so far, or between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// The service.
    pub worker: Duration,
    /// Postgres, all its processes.
    pub postgres: Duration,
    /// The broker.
    pub broker: Duration,
}

impl Processes {
    /// What they have used until now.
    pub fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu {
            worker: cpu_of_tree(self.worker)?,
            postgres: cpu_of_tree(self.postgres)?,
            broker: cpu_of_tree(self.broker)?,
        })
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            worker: self.worker.saturating_sub(earlier.worker),
            postgres: self.postgres.saturating_sub(earlier.postgres),
            broker: self.broker.saturating_sub(earlier.broker),
        }
    }
}

/// The most memory a process has had resident since it started, in bytes.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|value| value.trim().strip_suffix(" kB"))
        .context("no VmHWM")?;
    Ok(kilobytes.trim().parse::<u64>()? * 1_024)
}

/// A process and its living children, each with what it has waited for.
fn cpu_of_tree(root: u32) -> Result<Duration> {
    let mut ticks = stat(root).with_context(|| format!("process {root}"))?.ticks;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        // One that ends meanwhile is its parent's from then on; a run lasts longer than that matters.
        if let Some(stat) = pid.and_then(|pid| stat(pid).ok())
            && stat.parent == root
        {
            ticks += stat.ticks;
        }
    }
    Ok(Duration::from_secs_f64(ticks as f64 / *TICKS_PER_SECOND))
}

struct Stat {
    parent: u32,
    /// utime + stime + cutime + cstime
    ticks: u64,
}

fn stat(pid: u32) -> Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold anything; after it come the numbers from the third field on.
    let (_, numbers) = text.rsplit_once(") ").context("an odd /proc/*/stat")?;
    let fields: Vec<&str> = numbers.split(' ').collect();
    let field = |number: usize| fields.get(number - 3).context("a short /proc/*/stat");
    let mut ticks = 0;
    for number in 14..=17 {
        ticks += field(number)?.parse::<u64>()?;
    }
    Ok(Stat {
        parent: field(4)?.parse()?,
        ticks,
    })
}

static TICKS_PER_SECOND: LazyLock<f64> = LazyLock::new(|| {
    let output = std::process::Command::new("getconf")
        .arg("CLK_TCK")
        .output();
    output
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok())
        .unwrap_or(100.0)
});
