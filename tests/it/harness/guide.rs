//! The code of the pages, so that what they tell people to run is run: its blocks, and a shell.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    kafka, postgres, process::Process, process::Signal, process::tail, service, world::World,
};

/// How long a block may run; those that build something take the longest.
const LIMIT: Duration = Duration::from_secs(600);

/// A block of code between two fences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its language.
    pub language: String,
    /// The name that the test knows it by: of a comment `<!-- run: NAME -->` right before it.
    pub name: Option<String>,
    /// What is in it.
    pub text: String,
}

/// The blocks of a file, in order; its path is from the repository's root.
pub fn blocks(file: &str) -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut name = None;
    for line in text.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, Some(language)) => {
                open = Some(Block {
                    language: language.trim().to_owned(),
                    name: name.take(),
                    text: String::new(),
                });
            }
            (None, None) => {
                let named = line.trim().strip_prefix("<!-- run: ");
                name = match named.and_then(|rest| rest.strip_suffix(" -->")) {
                    Some(named) => Some(named.to_owned()),
                    None if line.trim().is_empty() => name,
                    None => None,
                };
            }
        }
    }
    assert!(open.is_none(), "{file}: a block does not end");
    blocks
}

/// The one block of that name in the file.
pub fn block(file: &str, name: &str) -> String {
    let mut named = blocks(file)
        .into_iter()
        .filter(|block| block.name.as_deref() == Some(name));
    let found = named
        .next()
        .unwrap_or_else(|| panic!("{file} has no block {name}"));
    assert!(named.next().is_none(), "{file} has {name} twice");
    found.text
}

/// The shell of a reader, who has the product, Postgres' and Kafka's tools at hand and the settings
/// of a world: every block runs in a new one that knows the variables of those before.
#[derive(Debug)]
pub struct Shell {
    dir: PathBuf,
    environment: Vec<(String, String)>,
}

impl Shell {
    /// In a directory of its own.
    pub fn new(world: &World) -> Self {
        let dir = world.new_dir("shell");
        let tools = dir.join("tools");
        fs::create_dir(&tools).expect("ours");
        symlink(service::BINARY, tools.join("ride-promo")).expect("ours");
        // The distribution's script does this too.
        let producer = tools.join("kafka-console-producer.sh");
        let script = format!(
            "#!/bin/sh\nexec java -cp '{}/*' org.apache.kafka.tools.ConsoleProducer \"$@\"\n",
            kafka::libs().display()
        );
        fs::write(&producer, script).expect("ours");
        fs::set_permissions(&producer, fs::Permissions::from_mode(0o755)).expect("ours");
        let path = std::env::var("PATH").unwrap_or_default();
        let programs = [&tools, postgres::programs()].map(|dir| dir.display().to_string());
        let shell = Self {
            dir,
            environment: service::environment(world),
        };
        shell.env("PATH", format!("{}:{path}", programs.join(":")))
    }

    /// Sets a variable, over what the world says.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// Runs in this directory, which may be that of an earlier run: its variables are not those of this one.
    pub fn within(mut self, dir: &Path) -> Self {
        self.dir = dir.to_owned();
        let _ = std::fs::remove_file(self.dir.join("variables"));
        self
    }

    /// Where the blocks run.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a block, every command of which must succeed; answers what it printed.
    pub async fn run(&self, block: &str) -> String {
        let script =
            format!("set -ae; touch variables; . ./variables\n{block}\nexport -p > variables\n");
        let id = uuid::Uuid::new_v4().simple().to_string();
        let output = self.dir.join(format!("{id}.out"));
        let errors = self.dir.join(format!("{id}.err"));
        let mut process = Process::spawn_split("bash", self.bash(&script), &output, &errors);
        let status = process.wait(LIMIT).await;
        let (said, errors) = (tail(&output, u64::MAX), tail(&errors, 8_000));
        let succeeded = status.is_some_and(|status| status.success());
        assert!(succeeded, "{block}\n{status:?}\n{said}\n{errors}");
        said
    }

    /// Starts a block that goes on until it is told to end; SIGTERM reaches the command itself.
    pub fn spawn(&self, block: &str) -> Process {
        let script = format!("touch variables; . ./variables\nexec {block}");
        let log = self.dir.join("spawned.log");
        Process::spawn("bash", self.bash(&script), &log, Signal::Kill)
    }

    fn bash(&self, script: &str) -> Command {
        let mut bash = Command::new("bash");
        bash.arg("-c")
            .arg(script)
            .current_dir(&self.dir)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        bash
    }
}
