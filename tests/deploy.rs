//! What `deploy/`, the Dockerfile and the documents say of the program, held against the program.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use ride_promo::cli::Cli;
use ride_promo::config::{Config, Needs};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every file below a directory, by its path from the root.
fn below(dir: &str) -> Vec<String> {
    let mut files = Vec::new();
    let mut dirs: Vec<PathBuf> = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of ours") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let path = path.strip_prefix(root()).expect("below the root");
                files.push(path.to_str().expect("UTF-8").to_owned());
            }
        }
    }
    files.sort();
    files
}

fn texts() -> Vec<(String, String)> {
    let mut files = vec!["Dockerfile".to_owned(), "README.md".to_owned()];
    files.extend(below("deploy"));
    files.extend(below("docs"));
    files
        .into_iter()
        .filter_map(|file| {
            let text = fs::read_to_string(root().join(&file)).ok()?;
            Some((file, text))
        })
        .collect()
}

/// The words of a text that begin so, as far as they could be a variable's name.
fn variables<'a>(text: &'a str, prefix: &str) -> impl Iterator<Item = &'a str> {
    text.match_indices(prefix).map(|(at, _)| {
        let rest = &text[at..];
        let end = rest
            .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn every_variable_that_is_set_somewhere_is_known() {
    let mut seen = BTreeSet::new();
    for (file, text) in texts() {
        for name in variables(&text, "RIDE_PROMO__") {
            // `RIDE_PROMO__SECTION__…` in a sentence
            if name.ends_with('_') || !name["RIDE_PROMO__".len()..].contains("__") {
                continue;
            }
            let environment = [(OsString::from(name), OsString::from("x"))];
            let Err(error) = Config::from_sources(None, environment, Needs::NOTHING) else {
                seen.insert(name.to_owned());
                continue;
            };
            let unknown = error
                .problems
                .iter()
                .find(|problem| problem.message.starts_with("unknown key"));
            assert!(unknown.is_none(), "{file}: {name}: {unknown:?}");
            seen.insert(name.to_owned());
        }
    }
    assert!(seen.len() >= 8, "{seen:?}");
}

/// What a document shows as code: each line of its blocks for a shell, and what is set within its
/// sentences.
fn code_of_document(text: &str) -> Vec<String> {
    let mut code = Vec::new();
    let mut block = None;
    let mut paragraph = String::new();
    for line in text.lines().chain([""]) {
        let fence = line.trim_start().strip_prefix("```");
        if block == Some("sh") && fence.is_none() {
            code.push(line.to_owned());
        } else if block.is_none() && fence.is_none() && !line.trim().is_empty() {
            paragraph.push_str(line);
            paragraph.push(' ');
        } else {
            let inline = paragraph.split('`').skip(1).step_by(2);
            code.extend(inline.map(str::to_owned));
            paragraph.clear();
        }
        if let Some(language) = fence {
            block = if block.is_none() {
                Some(language)
            } else {
                None
            };
        }
    }
    code
}

/// The arguments of each command of ours in a document.
fn commands_of_document(text: &str) -> Vec<Vec<String>> {
    let code = code_of_document(text);
    let commands = code.iter().filter_map(|code| {
        let rest = code.split("ride-promo ").nth(1)?;
        // With variables set before it, or not at all; and what a shell puts in is not known here.
        let mut before = code.split("ride-promo ").next()?.split_whitespace();
        let ours = before.all(|word| word.contains('='));
        (ours && !rest.contains('$')).then_some(rest)
    });
    commands
        .map(|rest| words(rest.split(" #").next().unwrap_or(rest)))
        .collect()
}

#[test]
fn every_target_and_script_in_the_documents_is_one() {
    let makefile = read("Makefile");
    let targets = makefile
        .lines()
        .find_map(|line| line.strip_prefix(".PHONY:"));
    let targets: BTreeSet<&str> = targets.expect("it lists them").split_whitespace().collect();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut pages = texts();
    for page in ["CONTRIBUTING.md", "benches/README.md"] {
        pages.push((page.to_owned(), read(page)));
    }
    for (file, text) in pages.iter().filter(|(file, _)| file.ends_with(".md")) {
        for code in code_of_document(text) {
            let mut words = code
                .split_whitespace()
                .skip_while(|word| word.contains('='));
            match words.next() {
                Some("make") => {
                    // A sentence may name the program alone.
                    if let Some(target) = words.next() {
                        assert!(targets.contains(target), "{file}: make {target}");
                        seen.insert(target.to_owned());
                    }
                }
                Some(script) if script.starts_with("scripts/") => {
                    assert!(root().join(script).exists(), "{file}: {script}");
                }
                _ => {}
            }
        }
    }
    assert!(seen.len() >= 6, "{seen:?}");
}

/// How files say what is run, each with whether the program is named there too, and not only its
/// arguments: Kubernetes, Compose, its health check, the Dockerfile with its own, and systemd.
const WAYS: [(&str, bool); 6] = [
    ("args: [", false),
    ("command: [", false),
    ("test: [CMD, ", true),
    ("CMD [\"ride-promo\", ", false),
    ("CMD [", false),
    ("ExecStart=", true),
];

/// The arguments of the command of ours that a line of a file runs, and which of [`WAYS`] it is.
fn command_of_line(line: &str) -> Option<(&'static str, Vec<String>)> {
    let mut ways = WAYS.iter();
    let (way, named, rest) = ways.find_map(|(way, named)| {
        let rest = line.trim_start().strip_prefix(way)?;
        Some((*way, *named, rest))
    })?;
    let mut words = words(&rest.trim_end_matches(']').replace(',', " "));
    if named {
        if Path::new(words.first()?).file_name()? != "ride-promo" {
            return None;
        }
        words.remove(0);
    }
    Some((way, words))
}

#[test]
fn every_command_in_the_documents_and_files_is_one() {
    let mut in_documents = 0;
    let mut seen = BTreeSet::new();
    for (file, text) in texts() {
        let commands = if file.ends_with(".md") {
            let commands = commands_of_document(&text);
            in_documents += commands.len();
            commands
        } else {
            let found = text.lines().filter_map(command_of_line);
            found
                .map(|(way, command)| {
                    seen.insert(way);
                    command
                })
                .collect()
        };
        for command in commands {
            let whole = std::iter::once("ride-promo".to_owned()).chain(command.iter().cloned());
            match Cli::try_parse_from(whole) {
                // clap reports a request for help as an error too.
                Err(error) if error.use_stderr() => panic!("{file}: {command:?}: {error}"),
                _ => {}
            }
        }
    }
    assert!(in_documents >= 30, "{in_documents}");
    assert_eq!(seen, WAYS.iter().map(|(way, _)| *way).collect());
}

/// The words of a command line, with quotes, up to where the shell goes on to something else.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '<' | ';' | '&' | '\\') => break,
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// The number after a key, in a file of a line each.
fn number_after(text: &str, key: &str) -> Vec<u64> {
    text.lines()
        .filter_map(|line| {
            let rest = line.trim().strip_prefix(key)?;
            let digits: String = rest
                .trim()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            digits.parse().ok()
        })
        .collect()
}

#[test]
fn whoever_stops_the_service_waits_longer_than_it_takes() {
    let environment = std::iter::empty::<(OsString, OsString)>();
    let config = Config::from_sources(None, environment, Needs::NOTHING).expect("defaults");
    let budget = config.shutdown_timeout.as_secs();
    for file in below("deploy/kubernetes/base") {
        let text = read(&file);
        if !text.contains("kind: Deployment") {
            continue;
        }
        let grace = number_after(&text, "terminationGracePeriodSeconds:");
        // What is balanced goes on for a while before it is told to stop.
        let pause = number_after(&text, "seconds:");
        assert_eq!(grace.len(), 1, "{file}");
        let least = pause.iter().sum::<u64>() + budget + 5;
        assert!(grace[0] >= least, "{file}: {grace:?}");
    }
    let compose = number_after(&read("deploy/compose.yaml"), "stop_grace_period:");
    assert!(
        compose.len() == 1 && compose[0] >= budget + 5,
        "{compose:?}"
    );
    let systemd = number_after(
        &read("deploy/systemd/ride-promo.service"),
        "TimeoutStopSec=",
    );
    assert!(
        systemd.len() == 1 && systemd[0] >= budget + 5,
        "{systemd:?}"
    );
}

#[test]
fn the_image_is_built_with_the_toolchain_that_is_pinned() {
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.split('"').nth(1).expect("a channel");
    let dockerfile = read("Dockerfile");
    assert!(
        dockerfile.contains(&format!("FROM rust:{channel}-")),
        "{channel}"
    );
}

/// Two builds at a time that end in one name fail where it is not there yet.
#[test]
fn compose_builds_the_image_in_one_service() {
    let compose = read("deploy/compose.yaml");
    let builds: Vec<&str> = compose
        .lines()
        .filter(|line| line.trim_start().starts_with("build:"))
        .collect();
    assert_eq!(builds, ["    build:"], "a service's own, nothing shared");
}

#[test]
fn the_image_is_built_from_everything_that_is_compiled_in() {
    let ignored: Vec<String> = read(".dockerignore")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(str::to_owned)
        .collect();
    let mut included = 0;
    let sources = below("src");
    for file in sources.into_iter().filter(|file| file.ends_with(".rs")) {
        let text = read(&file);
        for macro_name in [
            "include_str!(",
            "include_bytes!(",
            "include_dir!(",
            "migrate!(",
        ] {
            for (at, _) in text.match_indices(macro_name) {
                let rest = &text[at + macro_name.len()..];
                let Some(path) = rest.split('"').nth(1) else {
                    continue;
                };
                let beside = Path::new(&file).parent().expect("a directory").join(path);
                let mut parts: Vec<&str> = Vec::new();
                for part in beside.iter().map(|part| part.to_str().expect("UTF-8")) {
                    match part {
                        ".." => drop(parts.pop()),
                        "." => {}
                        part => parts.push(part),
                    }
                }
                let top = parts.first().copied().unwrap_or_default();
                assert!(
                    !ignored.iter().any(|ignored| ignored == top),
                    "{file}: {path}"
                );
                included += 1;
            }
        }
    }
    assert!(included > 0);
}

#[test]
fn ingest_is_scaled_by_the_lag_of_the_group_and_topic_that_are_the_defaults() {
    let environment = std::iter::empty::<(OsString, OsString)>();
    let config = Config::from_sources(None, environment, Needs::NOTHING).expect("defaults");
    let kafka = config.kafka;
    let scaled = read("deploy/kubernetes/components/keda/scaled-object.yaml");
    for line in [
        format!("        consumerGroup: {}\n", kafka.group_id),
        format!("        topic: {}\n", kafka.ride_topic),
        format!("  maxReplicaCount: {}\n", kafka.partitions),
    ] {
        assert!(scaled.contains(&line), "{line}");
    }
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut files = vec![
        "README.md".to_owned(),
        "ARCHITECTURE.md".to_owned(),
        "CONTRIBUTING.md".to_owned(),
        "CHANGELOG.md".to_owned(),
    ];
    files.extend(
        below("docs")
            .into_iter()
            .filter(|file| file.ends_with(".md")),
    );
    let mut faults = Vec::new();
    for file in &files {
        let text = read(file);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let beside = Path::new(file).parent().expect("a directory");
            let path = if path.is_empty() {
                root().join(file)
            } else {
                root().join(beside).join(path)
            };
            if !path.exists() {
                faults.push(format!("{file}: {target}"));
            } else if !anchor.is_empty() && path.extension().is_some_and(|kind| kind == "md") {
                let there = fs::read_to_string(&path).expect("a text");
                if !there
                    .lines()
                    .any(|line| anchor_of(line).as_deref() == Some(anchor))
                {
                    faults.push(format!("{file}: {target} (no such heading)"));
                }
            }
        }
    }
    assert_eq!(faults, [] as [String; 0]);
}

/// The anchor that a heading gets where the page is shown.
fn anchor_of(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').trim();
    Some(
        heading
            .to_lowercase()
            .chars()
            .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
            .map(|letter| if letter == ' ' { '-' } else { letter })
            .collect(),
    )
}

#[test]
fn wherever_it_is_deployed_a_clients_token_does_not_open_the_admin_api() {
    for file in [
        "deploy/compose.yaml",
        "deploy/kubernetes/base/kustomization.yaml",
        "deploy/systemd/ride-promo.service",
    ] {
        let text = read(file);
        let audience = text
            .split("RIDE_PROMO__ADMIN_AUTH__AUDIENCE")
            .nth(1)
            .unwrap_or_default();
        let audience = audience.trim_start_matches(['=', ':', ' ']);
        assert!(audience.starts_with("ride-promo-admin\n"), "{file}");
    }
}

/// Each way of running it in `deploy/`: operators' tokens have an audience of their own, and what asks
/// for probes and metrics asks the listener that has nothing else.
#[test]
fn operators_have_their_own_audience_and_monitoring_its_own_listener() {
    let audience = "RIDE_PROMO__ADMIN_AUTH__AUDIENCE";
    for file in [
        "deploy/compose.yaml",
        "deploy/systemd/ride-promo.service",
        "deploy/kubernetes/base/kustomization.yaml",
    ] {
        let text = read(file);
        let line = text.lines().find(|line| line.contains(audience));
        assert!(
            line.is_some_and(|line| line.ends_with("ride-promo-admin")),
            "{file}"
        );
    }
    let metrics = "RIDE_PROMO__METRICS__LISTEN=";
    for file in ["Dockerfile", "deploy/systemd/ride-promo.service"] {
        assert!(read(file).contains(metrics), "{file}");
    }
    let mut deployments = 0;
    for file in below("deploy/kubernetes/base") {
        let text = read(&file);
        if !text.contains("kind: Deployment") {
            continue;
        }
        deployments += 1;
        assert!(text.contains("prometheus.io/port: \"8082\""), "{file}");
        for line in text.lines().filter(|line| line.contains("httpGet:")) {
            assert!(line.ends_with("port: metrics}"), "{file}: {line}");
        }
    }
    assert_eq!(deployments, 4);
    let policies = read("deploy/kubernetes/base/network-policies.yaml");
    let monitoring = policies
        .split("monitoring\n")
        .nth(1)
        .expect("monitoring is let in");
    let ports: Vec<&str> = monitoring.lines().map(str::trim).take(2).collect();
    assert_eq!(
        ports,
        ["ports:", "- port: 8082"],
        "monitoring reaches no admin API"
    );
    let scraped = read("deploy/prometheus/prometheus.yml");
    assert!(scraped.contains("- localhost:8082\n"), "{scraped}");
}
