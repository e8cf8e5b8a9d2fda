//! Which part of the crate may use which: the arrows of ARCHITECTURE.md, read from the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What every part but `domain`, `wire` and `store` may use: it knows nothing of the business.
const PLUMBING: &[&str] = &[
    "backoff",
    "causes",
    "clock",
    "config",
    "did_you_mean",
    "input",
    "kafka",
    "postgres",
    "progress",
    "readiness",
    "supervisor",
    "telemetry",
    "token",
];

/// What stands between `wire` and the commands: reading files of rides.
const READERS: &[&str] = &["ride_file"];

/// The roles and the commands: each stands on the store, none on another.
const WORKERS: &[&str] = &[
    "api",
    "back_test",
    "doctor",
    "healthcheck",
    "import",
    "ingest",
    "positions",
    "recovery",
    "relay",
    "replay",
    "sweep",
];

/// What puts the others together.
const ASSEMBLY: &[&str] = &["allocator", "cli", "commands", "demo", "main", "serve"];

/// What only some file may do beyond its part's rule, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "src/api/admin/",
        "import",
        "a pre-offer import by HTTP is the command's, fed from a request's body",
    ),
    (
        "src/config/",
        "domain",
        "durations are read and written in one way",
    ),
    (
        "src/kafka/cluster/",
        "domain",
        "which topic it is: the broker says it, the store keeps it",
    ),
    (
        "src/kafka/history.rs",
        "domain",
        "what is known of a log: the broker shows it, the store keeps it",
    ),
    (
        "src/telemetry/metrics/",
        "domain",
        "labels are the words of the rules",
    ),
    (
        "src/telemetry/metrics/",
        "wire",
        "labels are the words of the events",
    ),
    (
        "src/telemetry/traces/",
        "wire",
        "which text is a `traceparent`",
    ),
];

/// The librdkafka calls without a safe binding.
const UNSAFE: [&str; 3] = [
    "src/allocator.rs",
    "src/kafka/describe.rs",
    "src/kafka/epoch.rs",
];

/// Besides the store: what asks the server about itself before there is a schema that a store could
/// stand on. A new connection asks whether it is the primary; the doctor, its version and rights.
const SQL: &[&str] = &[
    "src/store/",
    "src/postgres/",
    "src/doctor/postgres.rs",
    "src/doctor/privileges.rs",
];

/// Names that the pure rules must not use.
const NOT_IN_DOMAIN: &[&str] = &["async", "axum", "await", "rdkafka", "sqlx", "tokio"];

#[test]
fn every_module_uses_only_what_it_may() {
    let sources = sources();
    let modules: BTreeSet<&str> = sources.iter().map(|source| source.module()).collect();
    let mut faults = Vec::new();
    for source in &sources {
        let module = source.module();
        for (line, used) in source.uses(&modules) {
            if used != module && !may_use(module, &used) && !excepted(&source.path, &used) {
                faults.push(format!(
                    "{}:{line}: `{module}` must not use `{used}`",
                    source.path
                ));
            }
        }
    }
    report("arrows that ARCHITECTURE.md does not have", &faults);
}

#[test]
fn every_module_has_its_rule() {
    let sources = sources();
    let there: BTreeSet<&str> = sources
        .iter()
        .map(|source| source.module())
        .filter(|module| *module != "lib")
        .collect();
    let ruled: BTreeSet<&str> = ["domain", "wire", "store"]
        .iter()
        .chain(PLUMBING)
        .chain(READERS)
        .chain(WORKERS)
        .chain(ASSEMBLY)
        .copied()
        .collect();
    let faults: Vec<String> = there
        .difference(&ruled)
        .map(|module| format!("`{module}` is new: say in this test which part it belongs to"))
        .chain(
            ruled
                .difference(&there)
                .map(|module| format!("`{module}` is gone: take it out of this test")),
        )
        .collect();
    report("modules and rules that do not match", &faults);
}

#[test]
fn every_exception_is_needed() {
    let sources = sources();
    let modules: BTreeSet<&str> = sources.iter().map(|source| source.module()).collect();
    let faults: Vec<String> = EXCEPTIONS
        .iter()
        .filter(|(place, used, _)| {
            !sources
                .iter()
                .filter(|source| source.path.starts_with(place))
                .any(|source| source.uses(&modules).iter().any(|(_, name)| name == used))
        })
        .map(|(place, used, why)| format!("{place} no longer uses `{used}` ({why})"))
        .collect();
    report("exceptions without a use", &faults);
}

#[test]
fn unsafe_is_in_three_files() {
    // The lint denies it everywhere, so there is none but where the lint is allowed.
    let faults = lines_with(
        |source| !UNSAFE.contains(&source.path.as_str()),
        &["unsafe_code"],
    );
    report(
        &format!("`unsafe` outside of {}", UNSAFE.join(", ")),
        &faults,
    );
}

#[test]
fn sql_is_in_the_store() {
    let faults = lines_with(
        |source| !SQL.iter().any(|place| source.path.starts_with(place)),
        &[
            "sqlx::query",
            "sqlx::query_as",
            "sqlx::query_scalar",
            "sqlx::query_file",
            "sqlx::raw_sql",
            "QueryBuilder",
        ],
    );
    report("SQL outside of src/store/", &faults);
}

/// Released before the rule was there.
const LAST_WITHOUT_RULE: u32 = 2;

/// Each migration: its number, its name, and its statements in small letters, comments left out.
fn migrations() -> Vec<(u32, String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let entries = fs::read_dir(dir).expect("there are some");
    let mut migrations: Vec<(u32, String, String)> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .expect("a file")
                .to_string_lossy()
                .into_owned();
            let text = fs::read_to_string(&path).expect("UTF-8").to_lowercase();
            let number = name
                .split('_')
                .next()
                .and_then(|number| number.parse().ok());
            (number.expect("a number first"), name, text)
        })
        .collect();
    migrations.sort();
    migrations
}

#[test]
fn a_migration_builds_no_index_under_a_lock() {
    let mut faults = Vec::new();
    for (number, name, text) in migrations() {
        if number <= LAST_WITHOUT_RULE {
            continue;
        }
        let code: Vec<&str> = text
            .lines()
            .map(|line| line.split("--").next().unwrap_or_default())
            .collect();
        let code = code.join("\n");
        let alone = text.starts_with("-- no-transaction\n");
        for statement in code.split(';') {
            let words: Vec<&str> = statement.split_whitespace().collect();
            let is_index = words.starts_with(&["create", "index"])
                || words.starts_with(&["create", "unique", "index"]);
            if !is_index {
                continue;
            }
            let on = words.iter().position(|word| *word == "on");
            let table = on.and_then(|on| words.get(on + 1)).unwrap_or(&"");
            let concurrently = words
                .windows(4)
                .any(|words| words == ["concurrently", "if", "not", "exists"]);
            let is_new = code.contains(&format!("create table {table} "));
            if !(is_new || concurrently && alone) {
                faults.push(format!("{name}: {}", words.join(" ")));
            }
        }
        // These change the catalog, and read nothing.
        let of_catalog = [
            "drop not null",
            "drop expression",
            "set default",
            "set storage",
        ];
        let code = code
            .lines()
            .map(|line| {
                let is_of_catalog = line.contains("alter column")
                    && of_catalog.iter().any(|change| line.contains(change));
                if is_of_catalog { "" } else { line }
            })
            .collect::<Vec<_>>()
            .join("\n");
        for slow in ["set not null", "alter column", "cluster ", "vacuum full"] {
            if code.contains(slow) {
                faults.push(format!("{name}: {slow} reads or rewrites the whole table"));
            }
        }
        let added = code.split("add constraint").skip(1);
        faults.extend(
            added
                .filter(|rest| {
                    !rest
                        .split(';')
                        .next()
                        .is_some_and(|rest| rest.contains("not valid"))
                })
                .map(|_| format!("{name}: a constraint that is not added `not valid`")),
        );
    }
    report(
        "migrations that hold a table's writers up: see CONTRIBUTING.md",
        &faults,
    );
}

#[test]
fn the_store_knows_nothing_of_http() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.module() == "store") {
        for (number, line) in source.code.lines().enumerate() {
            let of_http = ["GET /", "POST /", "PUT /", "PATCH /", "DELETE /", "/v1/"];
            if of_http.iter().any(|part| line.contains(part)) {
                faults.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    report("paths of HTTP in src/store/", &faults);
}

/// A status, an event type, a verdict or a reason is written once, where its list is declared
/// (`words!`). SQL takes it as a parameter, but for the predicates of partial indexes: with a
/// parameter in such a place Postgres could not use the index in a plan that it makes once, and
/// ingest's are.
#[test]
fn a_word_is_written_where_its_list_is_declared() {
    let words = words();
    let predicates = partial_index_predicates();
    let mut faults = Vec::new();
    for source in sources() {
        let declares = source.code.contains("words! {");
        for (number, line) in source.code.lines().enumerate() {
            for (at, word) in quoted(line) {
                let before = &line[..at];
                let is_declared = declares && line.trim_end().ends_with(&format!("= \"{word}\","));
                let is_predicate = predicates.contains(word)
                    && before.ends_with("status = ")
                    && !before.ends_with("set status = ");
                if words.contains(word) && !is_declared && !is_predicate {
                    faults.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
                }
            }
        }
    }
    report("words outside of their lists", &faults);
}

/// The words of every closed list.
fn words() -> BTreeSet<&'static str> {
    use ride_promo::domain::{
        eligibility, extension, goals, hours, participation, ride, split, verdict,
    };
    use ride_promo::wire::{self, promotion_status, quarantine, ride_completed};
    [
        &eligibility::EligibilityRule::WORDS[..],
        &eligibility::Screen::WORDS,
        &extension::ExtensionState::WORDS,
        &participation::StatusName::WORDS,
        &participation::ExpiredReason::WORDS,
        &participation::DeadlineOf::WORDS,
        &verdict::Verdict::WORDS,
        &goals::GoalName::WORDS,
        &hours::Weekday::WORDS,
        &ride::RideSource::WORDS,
        &split::SplitStatus::WORDS,
        &split::MissingSplit::WORDS,
        &promotion_status::EventType::WORDS,
        &wire::reminder::ReminderType::WORDS,
        &quarantine::QuarantineStatus::WORDS,
        &quarantine::ReplayOutcome::WORDS,
        &ride_completed::QuarantineReason::WORDS,
    ]
    .concat()
    .into_iter()
    .collect()
}

/// The statuses that a partial index asks for, from the migrations.
fn partial_index_predicates() -> BTreeSet<String> {
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(migrations).expect("a readable directory") {
        let text = fs::read_to_string(entry.expect("a readable entry").path()).expect("SQL");
        for statement in text.split(';').filter(|text| text.contains(" index ")) {
            let predicate = statement.split("where status").nth(1).unwrap_or_default();
            found.extend(
                quoted(predicate)
                    .into_iter()
                    .map(|(_, word)| word.to_owned()),
            );
        }
    }
    assert!(!found.is_empty(), "no partial index by status");
    found
}

/// What stands in quotes of either kind and could be a word, with where it begins.
fn quoted(text: &str) -> Vec<(usize, &str)> {
    text.match_indices(['"', '\''])
        .filter_map(|(at, quote)| {
            let rest = &text[at + 1..];
            let end = rest.find(|c: char| !is_of_word(c) && c != '.')?;
            (end > 0 && rest[end..].starts_with(quote)).then(|| (at, &rest[..end]))
        })
        .collect()
}

#[test]
fn the_machines_clock_is_asked_in_one_file() {
    let faults = lines_with(
        |source| source.path != "src/clock.rs",
        &["Utc::now", "Local::now", "SystemTime::now"],
    );
    report("the machine's clock outside of src/clock.rs", &faults);
}

#[test]
fn instants_are_of_the_domain_and_clocks_monotonic() {
    let mut faults = Vec::new();
    for source in sources() {
        for (number, line) in source.code.lines().enumerate() {
            let imports = line.starts_with("use std::time") || line.starts_with("use tokio::time");
            if imports && has_word(&line.replace("Instant as Monotonic", ""), "Instant") {
                faults.push(format!("{}:{}: {line}", source.path, number + 1));
            }
        }
    }
    report("import it as Monotonic", &faults);
}

#[test]
fn the_rules_are_pure() {
    let faults = lines_with(|source| source.module() == "domain", NOT_IN_DOMAIN);
    report("in src/domain/, which is pure", &faults);
}

#[test]
fn the_files_of_the_api_do_not_use_one_another_in_a_circle() {
    let sources = sources();
    let inner = |path: &str| {
        let path = path.strip_prefix("src/api/")?;
        path.split(['/', '.']).next().map(str::to_owned)
    };
    let names: BTreeSet<String> = sources
        .iter()
        .filter_map(|source| inner(&source.path))
        .filter(|name| name != "mod")
        .collect();
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in &sources {
        let Some(user) = inner(&source.path).filter(|name| names.contains(name)) else {
            continue;
        };
        // `src/api/extract.rs` is one `super` away from its neighbours, `src/api/auth/keys.rs` two.
        let out = format!("{}::", vec!["super"; source.depth() - 1].join("::"));
        for prefix in ["crate::api::", out.as_str()] {
            for (at, _) in source.code.match_indices(prefix) {
                if source.code[..at].ends_with(is_of_word) || source.code[..at].ends_with(':') {
                    continue;
                }
                let used = self::names(&source.code[at + prefix.len()..]).into_iter();
                let used = used.filter(|used| names.contains(*used) && *used != user);
                let used: Vec<String> = used.map(str::to_owned).collect();
                uses.entry(user.clone()).or_default().extend(used);
            }
        }
    }
    assert!(uses["client"].contains("error_responses"), "{uses:?}");
    for name in &names {
        uses.entry(name.clone()).or_default();
    }
    // What uses nothing that is left is taken away, until nothing is left, or only circles.
    while let Some(leaf) = names
        .iter()
        .find(|name| uses.contains_key(*name) && uses[*name].is_empty())
    {
        uses.remove(leaf);
        for used in uses.values_mut() {
            used.remove(leaf);
        }
    }
    assert!(uses.is_empty(), "circles in src/api/: {uses:?}");
}

fn may_use(module: &str, used: &str) -> bool {
    let plumbing = PLUMBING.contains(&used);
    match module {
        "domain" => false,
        "wire" => used == "domain",
        "store" => ["wire", "domain", "postgres"].contains(&used),
        _ if PLUMBING.contains(&module) => plumbing,
        _ if READERS.contains(&module) => plumbing || ["wire", "domain"].contains(&used),
        _ if WORKERS.contains(&module) => {
            plumbing || READERS.contains(&used) || ["store", "wire", "domain"].contains(&used)
        }
        _ => ASSEMBLY.contains(&module),
    }
}

fn excepted(path: &str, used: &str) -> bool {
    EXCEPTIONS
        .iter()
        .any(|(place, name, _)| path.starts_with(place) && used == *name)
}

fn report(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}

fn lines_with(asked: impl Fn(&Source) -> bool, words: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| asked(source)) {
        for (number, line) in source.code.lines().enumerate() {
            if words.iter().any(|word| has_word(line, word)) {
                faults.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    faults
}

/// A file of `src/`, without its comments.
struct Source {
    /// From the crate's root, with `/`.
    path: String,
    code: String,
}

impl Source {
    /// The part of the crate: `src/api/server.rs` and `src/api/mod.rs` are of `api`.
    fn module(&self) -> &str {
        let inner = self.path.trim_start_matches("src/");
        inner.split(['/', '.']).next().unwrap_or(inner)
    }

    /// How many `super` lead from this file to the root.
    fn depth(&self) -> usize {
        let inner = self.path.trim_start_matches("src/");
        let names = inner.split('/').count();
        if inner.ends_with("/mod.rs") {
            names - 1
        } else {
            names
        }
    }

    /// Modules of the crate that are named here, with the line: by `crate::a`, by
    /// `crate::{a, b::c}`, or by as many `super` as lead to the root.
    fn uses(&self, modules: &BTreeSet<&str>) -> Vec<(usize, String)> {
        let mut found = BTreeMap::new();
        let out = format!("{}::", vec!["super"; self.depth()].join("::"));
        for prefix in ["crate::", out.as_str()] {
            for (at, _) in self.code.match_indices(prefix) {
                if self.code[..at].ends_with(is_of_word) {
                    continue;
                }
                let line = self.code[..at].matches('\n').count() + 1;
                for name in names(&self.code[at + prefix.len()..]) {
                    if modules.contains(name) && name != "lib" {
                        found.entry((line, name.to_owned())).or_insert(());
                    }
                }
            }
        }
        found.into_keys().collect()
    }
}

/// The first names after a path's beginning: one, or those of a list in braces.
fn names(rest: &str) -> Vec<&str> {
    let Some(list) = rest.strip_prefix('{') else {
        return vec![word(rest)];
    };
    let mut depth = 0;
    let mut start = 0;
    let mut names = Vec::new();
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(word(list[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

fn word(text: &str) -> &str {
    text.split(|c| !is_of_word(c)).next().unwrap_or_default()
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_of_word) && !line[at + word.len()..].starts_with(is_of_word)
    })
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    assert!(!files.is_empty(), "no source under {}", root.display());
    files.sort();
    files
        .iter()
        .map(|file| Source {
            path: file
                .strip_prefix(root)
                .expect("collected under the root")
                .components()
                .map(|part| part.as_os_str().to_string_lossy())
                .collect::<Vec<_>>()
                .join("/"),
            code: without_comments(&fs::read_to_string(file).expect("readable source")),
        })
        .collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Line comments only, the house has no others; `//` within a literal (`https://`) is none. Lines
/// keep their numbers.
fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| {
            let comment = line.match_indices("//").find(|(at, _)| {
                !line[..*at].ends_with(':') && line[..*at].matches('"').count().is_multiple_of(2)
            });
            comment.map_or(line, |(at, _)| &line[..at])
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_reading_sees_every_kind_of_use() {
    let modules = BTreeSet::from(["kafka", "relay", "store", "sweep", "wire"]);
    let source = |path: &str, code: &str| Source {
        path: path.to_owned(),
        code: without_comments(code),
    };
    let uses = |path: &str, code: &str| {
        source(path, code)
            .uses(&modules)
            .into_iter()
            .map(|(line, name)| format!("{line} {name}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        uses("src/relay.rs", "\nuse crate::store::Store;"),
        ["2 store"]
    );
    assert_eq!(
        uses(
            "src/relay.rs",
            "use crate::{\n  kafka::{self, wire},\n  sweep,\n};"
        ),
        ["1 kafka", "1 sweep"]
    );
    assert_eq!(uses("src/relay.rs", "super::sweep::run()"), ["1 sweep"]);
    assert_eq!(
        uses("src/api/client/mod.rs", "super::sweep::run()"),
        [] as [&str; 0]
    );
    assert_eq!(
        uses("src/api/client/mod.rs", "super::super::sweep::run()"),
        ["1 sweep"]
    );
    assert_eq!(
        uses("src/relay.rs", "/// [`crate::sweep`]\n// crate::wire"),
        [] as [&str; 0]
    );
    assert_eq!(
        uses("src/relay.rs", r#"let a = "http://a"; crate::wire::b()"#),
        ["1 wire"]
    );
    assert_eq!(source("src/api/mod.rs", "").module(), "api");
    assert_eq!(source("src/relay.rs", "").module(), "relay");
}
