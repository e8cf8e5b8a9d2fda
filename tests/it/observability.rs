//! Metrics and their page, the dashboard, the alerts and their runbooks, and a log without secrets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser as _;
use reqwest::Method;
use ride_promo::cli::Cli;
use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// Labels that a scrape adds, and that histograms' buckets have.
const EVERYWHERE: [&str; 4] = ["instance", "job", "le", "namespace"];

/// What Prometheus itself records of a target.
const OF_THE_SCRAPE: &str = "up";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let file = root().join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// A metric as it is described, or shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    /// The values of each label that are there; none where there may be any.
    labels: BTreeMap<String, BTreeSet<String>>,
}

type Metrics = BTreeMap<String, Metric>;

/// The tables of docs/metrics.md.
fn documented() -> Metrics {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| {
        let rest = line.strip_prefix("| `")?;
        let cells: Vec<&str> = rest.split('|').map(str::trim).collect();
        let [name, kind, labels, what, ""] = cells[..] else {
            panic!("not a row of metrics: {line}")
        };
        let (name, kind) = (name.trim_end_matches('`').to_owned(), kind.to_owned());
        assert!(!what.is_empty(), "{name} is not explained");
        let labels = labels.split("; ").filter(|label| label.contains('`'));
        let labels = labels.map(|label| {
            let (label, values) = label.split_once(": ").expect("a label and its values");
            let values = values.split(", ").filter(|_| values.starts_with('`'));
            let values = values.map(|value| value.trim_matches('`').to_owned());
            (label.trim_matches('`').to_owned(), values.collect())
        });
        Some((
            name,
            Metric {
                kind,
                labels: labels.collect(),
            },
        ))
    });
    rows.collect()
}

/// What `/metrics` shows.
fn shown(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            metrics.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#') {
            let (series, _) = line.rsplit_once(' ').expect("a series and its value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let name = metric_of(name, &metrics).expect("its type comes first");
            let labels = labels.trim_end_matches("\"}").split("\",");
            for (label, value) in labels.filter_map(|label| label.split_once("=\"")) {
                if label != "le" {
                    let known = &mut metrics.get_mut(&name).expect("there").labels;
                    known
                        .entry(label.to_owned())
                        .or_default()
                        .insert(value.to_owned());
                }
            }
        }
    }
    metrics
}

/// The metric that a series is of: a histogram has three kinds of them.
fn metric_of(series: &str, metrics: &Metrics) -> Option<String> {
    ["", "_bucket", "_sum", "_count"].iter().find_map(|suffix| {
        let name = series.strip_suffix(suffix)?;
        let metric = metrics.get(name)?;
        (suffix.is_empty() || metric.kind == "histogram").then(|| name.to_owned())
    })
}

/// The metrics that a PromQL expression names, each with the labels it asks for.
fn named(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    while let Some(c) = rest.chars().next() {
        match c {
            '"' => rest = after(&rest[1..], '"'),
            '[' => rest = after(rest, ']'),
            '$' | '0'..='9' => rest = rest[1..].trim_start_matches(of_name),
            _ if of_name(c) => {
                let end = rest.find(|c| !of_name(c)).unwrap_or(rest.len());
                let (word, left) = (&rest[..end], rest[end..].trim_start());
                rest = left;
                match word {
                    "by" | "without" | "on" | "ignoring" | "group_left" | "group_right" => {
                        rest = after(left, ')');
                    }
                    "and" | "or" | "unless" | "offset" | "bool" => {}
                    // a function, or an aggregation with its grouping in front
                    _ if ["(", "by ", "without "]
                        .iter()
                        .any(|next| left.starts_with(next)) => {}
                    metric => {
                        let matchers = left.strip_prefix('{').map_or("", |inner| {
                            let end = closing(inner);
                            rest = &inner[end + 1..];
                            &inner[..end]
                        });
                        let labels = matchers.split("\",").filter_map(|matcher| {
                            let end = matcher.find(['=', '!'])?;
                            Some(matcher[..end].trim().to_owned())
                        });
                        found.push((metric.to_owned(), labels.collect()));
                    }
                }
            }
            _ => rest = &rest[c.len_utf8()..],
        }
    }
    found
}

fn after(text: &str, end: char) -> &str {
    text.split_once(end).map_or("", |(_, rest)| rest)
}

/// Where a brace closes, not counting those within quotes.
fn closing(text: &str) -> usize {
    let mut quoted = false;
    let end = text.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == '}' && !quoted
    });
    end.expect("it closes").0
}

#[test]
fn expressions_are_read() {
    let metrics = |expression| {
        let named = named(expression).into_iter();
        named
            .map(|(name, labels)| format!("{name} {}", labels.join(",")))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        metrics(
            r#"histogram_quantile(0.99, sum by (le, route) (rate(a_bucket{route!~"/{x}.*",s="1"}[5m]))) > 1e3"#
        ),
        ["a_bucket route,s"]
    );
    assert_eq!(
        metrics(r#"a == 0 and on (instance) b{role="api"} == 1 or vector(0) / c"#),
        ["a ", "b role", "c "]
    );
    assert_eq!(metrics("rate(a[$__rate_interval])"), ["a "]);
}

/// One alert of the rules.
#[derive(Debug)]
struct Alert {
    name: String,
    expression: String,
    runbook: String,
}

/// The alerts, as the file is written: a key a line, in this order; what is long is folded.
fn alerts() -> Vec<Alert> {
    let rules = read("deploy/prometheus/rules.yml");
    let lines: Vec<&str> = rules.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '-']).len();
    let of_key = |key: &str| {
        let mut values = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let written = line.trim_start_matches([' ', '-']).strip_prefix(key);
            let Some(value) = written.and_then(|rest| rest.strip_prefix(": ")) else {
                continue;
            };
            let folded = lines[number + 1..]
                .iter()
                .take_while(|next| indent(next) > indent(line));
            let folded: Vec<&str> = folded.map(|next| next.trim()).collect();
            values.push(match value {
                ">-" => folded.join(" "),
                quoted if quoted.starts_with('"') => {
                    serde_json::from_str(quoted).expect("quoted as in JSON")
                }
                plain => plain.to_owned(),
            });
        }
        values
    };
    let (names, expressions, runbooks) = (of_key("alert"), of_key("expr"), of_key("runbook_url"));
    assert!(!names.is_empty());
    assert_eq!(
        (expressions.len(), runbooks.len()),
        (names.len(), names.len())
    );
    let parts = names.into_iter().zip(expressions).zip(runbooks);
    let alert = |((name, expression), runbook)| Alert {
        name,
        expression,
        runbook,
    };
    parts.map(alert).collect()
}

/// Every expression of the dashboard.
fn panels(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(
                members
                    .get("expr")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            );
            members.values().for_each(|member| panels(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| panels(item, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_what_is_watched_exists() {
    let world = World::new().await;
    let keys = world.new_dir("keys").join("keys.json");
    fs::write(&keys, key_set(&[])).expect("written");
    let service = world
        .service()
        .env("RIDE_PROMO__ADMIN_AUTH__ALGORITHM", "ES256")
        .env("RIDE_PROMO__ADMIN_AUTH__JWKS", keys.display())
        .start()
        .await;
    world.publish_ride(&ride(1)).await;
    service
        .client(1)
        .progress(1)
        .await
        .problem(404, "not-participating");
    // Text from clients never becomes a label.
    let api = service.api();
    api.get("/made-up").await.problem(404, "not-found");
    let made_up = Method::from_bytes(b"MADEUP").expect("a method");
    api.send(api.request(made_up, "/v1/landing"))
        .await
        .problem(405, "method-not-allowed");
    world
        .execute(
            r#"insert into promotion (promotion_key, title, conditions, budget, has_budget_use)
                   values ('p', 'T', '{}', '{"max_participations": 1, "max_reward_cents": 1, "currency_code": "MXN"}', true);
               insert into budget_use (promotion_id) select promotion_id from promotion"#,
        )
        .await;
    let documented = documented();
    // Some are shown only once there is something to show.
    let shown = eventually(LIMIT, || async {
        let text = service.admin_listener().get("/metrics").await.text;
        assert!(
            !text.contains("made-up") && !text.contains("MADEUP"),
            "{text}"
        );
        let shown = shown(&text);
        let names = |metrics: &Metrics| metrics.keys().cloned().collect::<Vec<_>>();
        equal(names(&shown), names(&documented)).map(|_| shown)
    })
    .await;
    for (name, metric) in &shown {
        let described = &documented[name];
        assert_eq!(described.kind, metric.kind, "{name}");
        let labels = |metric: &Metric| metric.labels.keys().cloned().collect::<Vec<_>>();
        assert_eq!(labels(described), labels(metric), "{name}");
        for (label, values) in &metric.labels {
            let known = &described.labels[label];
            assert!(
                known.is_empty() || values.is_subset(known),
                "{name}: {label} is {values:?}, described are {known:?}"
            );
            // Those that are there from the start are there whole.
            let whole = ["verdict", "reason", "cause", "result", "type", "role"];
            assert!(
                !whole.contains(&label.as_str()) || values == known,
                "{name}: {label}"
            );
        }
    }

    let mut expressions: Vec<String> = alerts().into_iter().map(|alert| alert.expression).collect();
    let dashboard: Value =
        serde_json::from_str(&read("deploy/grafana/ride-promo.json")).expect("a dashboard is JSON");
    panels(&dashboard, &mut expressions);
    for expression in &expressions {
        let named = named(expression);
        assert!(!named.is_empty(), "{expression}");
        for (series, labels) in named {
            if series == OF_THE_SCRAPE {
                continue;
            }
            let name = metric_of(&series, &shown);
            let name = name.unwrap_or_else(|| panic!("there is no {series}: {expression}"));
            for label in labels {
                assert!(
                    EVERYWHERE.contains(&label.as_str())
                        || shown[&name].labels.contains_key(&label),
                    "{series} has no label {label}: {expression}"
                );
            }
        }
    }
    let watched: BTreeSet<String> = expressions
        .iter()
        .flat_map(|expression| named(expression))
        .filter_map(|(series, _)| metric_of(&series, &shown))
        .collect();
    let own = shown.keys().filter(|name| name.starts_with("ride_promo_"));
    let unwatched: Vec<_> = own.filter(|name| !watched.contains(*name)).collect();
    // Of no use on a dashboard: it is what the next start begins at.
    assert_eq!(unwatched, ["ride_promo_ingest_position"]);
}

/// The texts in backticks, on one line each; those of blocks are left out.
fn spans(page: &str) -> Vec<String> {
    let outside: Vec<&str> = page.split("```").step_by(2).collect();
    let outside = outside.join("\n");
    let spans = outside.split('`').skip(1).step_by(2);
    spans
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// The words of a command, as a shell reads them as far as it is used here.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in command.split('"').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// Whether there is such a call.
fn is_call(method: &str, target: &str) -> bool {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if ["/livez", "/readyz", "/metrics"].contains(&path) {
        return method == "GET";
    }
    ["schemas/openapi-admin.json", "schemas/openapi-client.json"]
        .iter()
        .any(|file| {
            let document: Value = serde_json::from_str(&read(file)).expect("JSON");
            let call = &document["paths"][path][method.to_lowercase()];
            let parameters = call["parameters"].as_array().cloned().unwrap_or_default();
            call.is_object()
                && query
                    .split('&')
                    .filter(|pair| !pair.is_empty())
                    .all(|pair| {
                        let name = pair.split('=').next().unwrap_or_default();
                        parameters.iter().any(|parameter| parameter["name"] == name)
                    })
        })
}

#[test]
fn every_alert_has_a_runbook_whose_commands_calls_and_names_exist() {
    let documented = documented();
    let example: toml::Table = read("config.example.toml").parse().expect("TOML");
    let example_text = read("config.example.toml");
    let index = read("docs/runbooks/README.md");
    let mut pages: BTreeSet<String> = fs::read_dir(root().join("docs/runbooks"))
        .expect("there are runbooks")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert!(pages.remove("README.md"));
    for Alert {
        name,
        expression,
        runbook,
    } in alerts()
    {
        let file = format!("{name}.md");
        assert_eq!(runbook, format!("docs/runbooks/{file}"));
        assert!(pages.remove(&file), "{file} is missing");
        assert!(
            index.contains(&format!("| [{name}]({file}) |")),
            "{name} is not in the index"
        );
        let page = read(&runbook);
        for part in [
            &format!("# {name}\n"),
            &format!("```promql\n{expression}\n```"),
            "\n## What it means\n",
            "\n## How to look\n",
            "\n## What to do\n",
        ] {
            assert!(page.contains(part), "{file} lacks {part:?}");
        }
        for span in spans(&page) {
            if span.starts_with("ride-promo ") {
                let parsed = Cli::try_parse_from(words(&span));
                assert!(parsed.is_ok(), "{file}: {span}: {parsed:?}");
            }
            if let Some((method, target)) = span.split_once(' ')
                && ["GET", "POST", "PUT", "PATCH"].contains(&method)
            {
                assert!(is_call(method, target), "{file}: there is no {span}");
            }
            for (series, _) in named(&span) {
                assert!(
                    !(series.starts_with("ride_promo_") || series.starts_with("process_"))
                        || metric_of(&series, &documented).is_some(),
                    "{file}: there is no {series}"
                );
            }
            if let Some((section, key)) = span.split_once('.')
                && example.get(section).is_some_and(toml::Value::is_table)
            {
                let lines = example_text
                    .lines()
                    .map(|line| line.trim_start_matches('#'));
                let there = lines
                    .filter_map(|line| line.split(" = ").next())
                    .any(|name| name == key);
                assert!(there, "{file}: there is no setting {span}");
            }
        }
        for link in page.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            assert!(
                Path::new(&root())
                    .join("docs/runbooks")
                    .join(target)
                    .exists(),
                "{file}: {target} is not there"
            );
        }
    }
    assert_eq!(pages, BTreeSet::new(), "pages of no alert");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_holds_no_secret_no_token_and_no_body() {
    let world = World::new().await;
    let collector = Collector::start().await;
    let url = world.database_url().replacen('@', ":marker-database@", 1);
    assert!(url.contains("marker-database"), "{url}");
    let service = world
        .service()
        .config_toml("[kafka.properties]\n\"ssl.key.password\" = \"marker-kafka\"\n")
        .env("DATABASE_URL", url)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .env(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=marker-collector",
        )
        .env("RIDE_PROMO__LOG__LEVEL", "trace")
        .start()
        .await;
    let promotion = service.admin().open_promotion(&conditions(2)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    let path = format!("/v1/promotions/{}/rides?cursor=marker-query", promotion.id);
    client.api.get(&path).await.problem(422, "invalid-request");
    for body in [json!({ "marker-body": 1 }), json!("marker-body")] {
        client.api.post_json("/v1/landing", &body).await;
        service
            .admin()
            .api
            .post_json("/admin/v1/promotions", &body)
            .await;
    }
    let forged = service.api().with_token("marker-token");
    forged
        .get("/v1/promotions/1/progress")
        .await
        .problem(401, "unauthorized");
    let request = client.api.request(Method::POST, "/v1/landing");
    let request = request
        .header("content-type", "application/json")
        .body("{\"marker-body");
    client
        .api
        .send(request)
        .await
        .problem(400, "malformed-request");

    let mut counted = ride(1);
    counted["service_type"] = json!("marker-ride");
    world.publish_ride(&counted).await;
    world
        .publish_raw(
            Some("1"),
            Some(b"{\"marker-ride"),
            &[("marker-header", "marker-header")],
        )
        .await;
    world.rides_are_applied().await;
    world.events_are_published().await;
    eventually(LIMIT, || async {
        let exported = service.metrics().await;
        let exported = exported.sum(
            "ride_promo_trace_spans_sent_total",
            &[("result", "exported")],
        );
        if exported > 0.0 {
            Ok(())
        } else {
            Err("no spans yet")
        }
    })
    .await;
    let readable = service.log();
    service.sigterm();
    assert!(service.wait().await.success());

    let log = service.log();
    assert!(log.len() >= readable.len());
    let token = client_token(1);
    let signature = token.rsplit('.').next().expect("three parts").to_owned();
    for secret in ["marker-", SECRET, &token, &signature, "eyJ"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret}: {line:?}");
    }
    // One JSON object a line, whose ids are fields.
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(
                line[field].is_string() || line.get("message").is_none(),
                "{line}"
            );
        }
    }
    let answered = lines.iter().find(|line| {
        line["message"] == "answered"
            && line["span"]["route"] == "/v1/promotions/{promotion_id}/start"
    });
    let span = &answered.expect("it was answered")["span"];
    assert_eq!(span["user_id"], json!(1), "{span}");
    assert_eq!(span["status"], json!(201), "{span}");
    assert_eq!(span["trace_id"].as_str().map(str::len), Some(32), "{span}");
    assert!(span["request_id"].is_string(), "{span}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_import_the_delay_of_changes_and_the_limit_of_waits_are_shown() {
    let world = World::new().await;
    let service = world.service().start().await;
    let began = now().timestamp() as f64;
    assert_eq!(
        service
            .metrics()
            .await
            .sum("ride_promo_import_last_timestamp_seconds", &[]),
        0.0
    );
    let promotion = service.admin().open_promotion(&conditions(3)).await;
    // Imports a pre-offer, starts, and so publishes an event.
    service.started_client(1, &promotion).await;
    world.events_are_published().await;
    let shown = eventually(LIMIT, || async {
        let metrics = service.metrics().await;
        let last = metrics.sum("ride_promo_import_last_timestamp_seconds", &[]);
        (last > 0.0).then_some((metrics, last))
    });
    let (metrics, last) = shown.await;
    assert!((began - 1.0..began + 60.0).contains(&last), "{last}");
    assert_eq!(metrics.sum("ride_promo_waits_max", &[]), 20_000.0);
    assert_eq!(
        metrics.sum("ride_promo_status_delay_seconds_count", &[]),
        1.0
    );
    assert!(metrics.sum("ride_promo_status_delay_seconds_sum", &[]) < 30.0);
}

/// Two changes that add panels at the same place must not hide one another's.
#[test]
fn the_dashboards_panels_have_ids_and_places_of_their_own() {
    let dashboard: Value =
        serde_json::from_str(&read("deploy/grafana/ride-promo.json")).expect("a dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("a list");
    let mut ids = BTreeSet::new();
    let mut taken = BTreeMap::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a text");
        assert!(ids.insert(panel["id"].as_i64()), "the id of {title}");
        let place = |name: &str| panel["gridPos"][name].as_i64().expect("a number");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                let before = taken.insert((x, y), title);
                assert_eq!(before, None, "{title} covers it");
            }
        }
    }
    assert!(ids.len() > 40, "{}", ids.len());
}

/// The first command of every runbook works as it is written, and shows what its page is about.
#[tokio::test(flavor = "multi_thread")]
async fn the_runbooks_commands_show_what_they_are_about() {
    const LOOKS: [(&str, &str); 32] = [
        (
            "docs/runbooks/RidePromoAcceptsFailing.md",
            "ride_promo_accepts_total",
        ),
        (
            "docs/runbooks/RidePromoConnectionsNearLimit.md",
            "process_max_fds",
        ),
        (
            "docs/runbooks/RidePromoDatabasePoolExhausted.md",
            "ride_promo_db_pool_idle",
        ),
        ("docs/runbooks/RidePromoDown.md", "ok"),
        (
            "docs/runbooks/RidePromoDuplicatesDiffer.md",
            "ride_promo_rides_duplicate_total 0",
        ),
        (
            "docs/runbooks/RidePromoExpiryHeldBack.md",
            "ride_promo_sweep_barrier_age_seconds",
        ),
        (
            "docs/runbooks/RidePromoExpiryHeldByQuarantine.md",
            "48151 | MISSING_FIELD",
        ),
        (
            "docs/runbooks/RidePromoExtensionStalled.md",
            "ride_promo_extensions_running 0",
        ),
        (
            "docs/runbooks/RidePromoHttpErrors.md",
            "accept_reward\",status=\"409\"} 1",
        ),
        (
            "docs/runbooks/RidePromoHttpSlow.md",
            "ride_promo_http_request_seconds_sum",
        ),
        ("docs/runbooks/RidePromoImportStale.md", "admin@example.com"),
        (
            "docs/runbooks/RidePromoIngestLagging.md",
            "ride_promo_ingest_lag{partition=\"0\"} 0",
        ),
        ("docs/runbooks/RidePromoIngestStopped.md", "ok"),
        (
            "docs/runbooks/RidePromoVerifyDifferences.md",
            "; 0 differences",
        ),
        (
            "docs/runbooks/RidePromoBudgetNearlyUsed.md",
            "\"max_participations\": 10",
        ),
        (
            "docs/runbooks/RidePromoRemindersLate.md",
            "ride_promo_reminders_due_age_seconds",
        ),
        (
            "docs/runbooks/RidePromoKeySetStale.md",
            "ok    auth: tokens are checked with",
        ),
        (
            "docs/runbooks/RidePromoLongTransaction.md",
            "ok    postgres horizon",
        ),
        (
            "docs/runbooks/RidePromoModelStale.md",
            "ride_promo_model_fresh",
        ),
        (
            "docs/runbooks/RidePromoOutboxNotPublished.md",
            "ride_promo_outbox_depth",
        ),
        (
            "docs/runbooks/RidePromoPartitionsContested.md",
            "fenced_batches_total 0",
        ),
        (
            "docs/runbooks/RidePromoQuarantine.md",
            "MISSING_FIELD |     1",
        ),
        (
            "docs/runbooks/RidePromoQuarantineSurge.md",
            "reason=\"MISSING_FIELD\"} 1",
        ),
        (
            "docs/runbooks/RidePromoReceiptMonthsMissing.md",
            "ok    receipt partitions",
        ),
        (
            "docs/runbooks/RidePromoReceiptsInDefaultPartition.md",
            "(0 rows)",
        ),
        (
            "docs/runbooks/RidePromoRelayFailing.md",
            "ride_promo_relay_failures_total 0",
        ),
        (
            "docs/runbooks/RidePromoRoleMissing.md",
            "ride_promo_role_ready{role=\"api\"} 1",
        ),
        (
            "docs/runbooks/RidePromoRoleNotReady.md",
            "\"ingest\":\"ok\"",
        ),
        (
            "docs/runbooks/RidePromoStatusLate.md",
            "ride_promo_outbox_depth",
        ),
        (
            "docs/runbooks/RidePromoTracesNotExported.md",
            "ride_promo_trace_spans_ended_total",
        ),
        (
            "docs/runbooks/RidePromoUnauthorized.md",
            "ride_promo_tokens_total",
        ),
        (
            "docs/runbooks/RidePromoWaitsNearLimit.md",
            "ride_promo_waits_max 20000",
        ),
    ];
    let world = World::new().await;
    let service = world.service().start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(1)).await;
    let path = format!("/admin/v1/promotions/{}", promotion.id);
    let budget = json!({ "budget": { "max_participations": 10 } });
    admin.api.patch_json(&path, &budget).await.expect(200);
    // Imports a pre-offer, and asks for a reward that is not there yet.
    let client = service.eligible_client(48_151, &promotion).await;
    client.start(promotion.id).await.expect(201);
    client.accept(promotion.id).await.expect(409);
    let ride = json!({ "ride_id": uuid::Uuid::new_v4(), "user_id": 48_151 });
    world.publish(&Outgoing::ride(&ride)).await;
    let quarantined = || async {
        let metrics = service.metrics().await;
        let seen = metrics.sum("ride_promo_rides_quarantined_total", &[]);
        equal(seen, 1.0)
    };
    eventually(LIMIT, quarantined).await;
    service.wait_ready().await;
    let shell = Shell::new(&world).env("ADMIN", service.admin_listener().address());
    for (page, words) in LOOKS {
        let said = shell.run(&block(page, "look")).await;
        assert!(said.contains(words), "{page}\n{said}");
    }
}
