//! The committed files of `schemas/` are what the code says, and every example in them is what its
//! schema says. `UPDATE_SCHEMAS=1 cargo test --test schemas` writes them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use jsonschema::Validator;
use ride_promo::domain::eligibility::{EligibilityRule, Screen};
use ride_promo::domain::goals::GoalName;
use ride_promo::domain::hours::Weekday;
use ride_promo::domain::participation::{ExpiredReason, StatusName};
use ride_promo::domain::promotion::Verdict;
use ride_promo::domain::ride::RideSource;
use ride_promo::domain::split::{MissingSplit, SplitStatus};
use ride_promo::wire::promotion_status::{EventType, PromotionStatus};
use ride_promo::wire::quarantine::{QuarantineStatus, ReplayOutcome};
use ride_promo::wire::reminder::Reminder;
use ride_promo::wire::ride_completed::QuarantineReason;
use ride_promo::wire::{ride_completed, schemas};
use serde_json::{Map, Value, json};

#[test]
fn the_committed_files_are_what_the_code_says() {
    for (name, generated) in generated() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("schemas")
            .join(name);
        if std::env::var_os("UPDATE_SCHEMAS").is_some_and(|value| value == "1") {
            fs::write(&path, format!("{generated:#}\n")).expect("schemas/ can be written");
            continue;
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == format!("{generated:#}\n"),
            "schemas/{name} is not what the code says: look whether the change keeps the contract, \
             then UPDATE_SCHEMAS=1 cargo test --test schemas, and commit it"
        );
    }
}

fn generated() -> [(&'static str, Value); 7] {
    [
        ("openapi-client.json", ride_promo::api::client_openapi()),
        ("openapi-admin.json", ride_promo::api::admin_openapi()),
        ("asyncapi.json", schemas::asyncapi()),
        ("ride-completed.schema.json", schemas::ride_completed()),
        ("ride-reversed.schema.json", schemas::ride_reversed()),
        ("promotion-status.schema.json", schemas::promotion_status()),
        (
            "promotion-reminder.schema.json",
            schemas::promotion_reminder(),
        ),
    ]
}

#[test]
fn every_reference_leads_somewhere() {
    for (name, document) in generated() {
        each_member(&document, &mut |member, value| {
            if let (true, Some(reference)) = (member == "$ref", value.as_str()) {
                let pointer = reference.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{name}: {reference}");
            }
        });
    }
}

/// Those who read the documents know neither our code nor our pages.
#[test]
fn the_descriptions_are_for_outsiders() {
    for (name, document) in generated() {
        each_member(&document, &mut |member, value| {
            if let ("description" | "summary", Some(text)) = (member, value.as_str()) {
                for inside in ["contract", "[`", "`None`", "::", "TODO"] {
                    assert!(!text.contains(inside), "{name}: {text}");
                }
            }
        });
    }
}

#[test]
fn the_examples_of_events_fit_their_schemas() {
    for schema in [
        schemas::ride_completed(),
        schemas::ride_reversed(),
        schemas::promotion_status(),
        schemas::promotion_reminder(),
    ] {
        let validator = validator(&schema);
        for example in items(&schema["examples"]) {
            fits(&validator, example, "an event's example");
        }
    }
    let document = schemas::asyncapi();
    let messages = document["components"]["messages"].as_object();
    for (name, message) in messages.expect("messages") {
        assert!(!items(&message["examples"]).is_empty(), "{name}");
        for example in items(&message["examples"]) {
            for part in ["payload", "headers"] {
                let validator = validator(&within(&document, &message[part]));
                fits(&validator, &example[part], &format!("{name}'s {part}"));
            }
        }
    }
}

#[test]
fn the_examples_of_calls_fit_their_schemas() {
    for (name, document) in generated() {
        let mut examples = 0;
        each_member(&document["paths"], &mut |_, value| {
            let Some(given) = value.get("examples").and_then(Value::as_object) else {
                return;
            };
            let validator = validator(&within(&document, &value["schema"]));
            for (example, content) in given {
                fits(&validator, &content["value"], &format!("{name}: {example}"));
                examples += 1;
            }
        });
        assert!(
            examples > 50 || !name.starts_with("openapi"),
            "{name}: {examples}"
        );
    }
}

/// Single fields show what they hold, in every document.
#[test]
fn the_examples_of_fields_fit_their_schemas() {
    for (name, document) in generated() {
        each_member(&document, &mut |member, schema| {
            if let (Some(example), true) = (schema.get("example"), schema.get("type").is_some()) {
                let validator = validator(&within(&document, schema));
                fits(&validator, example, &format!("{name}: {member}"));
            }
        });
    }
}

/// The schema's ride is the decoder's: what one requires the other does, and what one refuses the
/// other does, field by field.
#[test]
fn the_decoder_takes_what_the_schema_takes() {
    let schema = schemas::ride_completed();
    let validator = validator(&schema);
    let now: DateTime<Utc> = "2026-11-22T18:05:00Z".parse().expect("an instant");
    let judged = |ride: &Value| {
        let decoded = ride_completed::decode(ride.to_string().as_bytes(), now);
        (validator.is_valid(ride), decoded.is_ok())
    };
    assert_eq!(judged(&schemas::example_ride()), (true, true));
    let properties = schema["properties"].as_object().expect("properties");
    let (ride, names) = (schemas::example_ride(), keys(properties));
    assert_eq!(keys(ride.as_object().expect("an object")), names);
    for name in names {
        let mut without = ride.clone();
        without.as_object_mut().expect("an object").remove(&name);
        let (schema_takes, decoder_takes) = judged(&without);
        assert_eq!(schema_takes, decoder_takes, "without {name}");
        for value in [
            json!(null),
            json!(true),
            json!(-1),
            json!(0),
            json!(1),
            json!(1.5),
            json!(1e30),
            json!(""),
            json!("x"),
            json!("mx"),
            json!("MX"),
            json!("MXN"),
            json!("MXNN"),
            json!("a".repeat(64)),
            json!("a".repeat(65)),
            json!("a\u{7}"),
            json!([]),
            json!({}),
            json!("2026-11-22T18:04:05Z"),
            json!("2026-11-22 18:04"),
            json!("yesterday"),
            json!("0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b19"),
            json!("0192f8c4"),
        ] {
            let mut changed = ride.clone();
            changed[name.as_str()] = value.clone();
            let (schema_takes, decoder_takes) = judged(&changed);
            // The schema says what to send; any other value of a distance counts as missing.
            let is_forgiven = name == "distance_m" && decoder_takes;
            assert!(
                schema_takes == decoder_takes || is_forgiven,
                "{name}: {value}"
            );
        }
    }
}

/// Every field is always there, and the type writes exactly what the contract shows.
#[test]
fn the_type_writes_the_contracts_status_event() {
    let example = schemas::example_status();
    let typed: PromotionStatus = serde_json::from_value(example.clone()).expect("the event");
    assert_eq!(serde_json::to_value(typed).expect("JSON"), example);
    let validator = validator(&schemas::promotion_status());
    for name in keys(example.as_object().expect("an object")) {
        let mut without = example.clone();
        without.as_object_mut().expect("an object").remove(&name);
        assert!(!validator.is_valid(&without), "without {name}");
    }
}

/// The same of a reminder.
#[test]
fn the_type_writes_the_contracts_reminder() {
    let example = schemas::example_reminder();
    let typed: Reminder = serde_json::from_value(example.clone()).expect("the reminder");
    assert_eq!(serde_json::to_value(typed).expect("JSON"), example);
    let validator = validator(&schemas::promotion_reminder());
    for name in keys(example.as_object().expect("an object")) {
        let mut without = example.clone();
        without.as_object_mut().expect("an object").remove(&name);
        assert!(!validator.is_valid(&without), "without {name}");
    }
}

/// The guides show events as they are, and know every word of them.
#[test]
fn the_guides_show_events_that_fit() {
    let page = |name: &str| {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("docs")
            .join(name);
        fs::read_to_string(path).expect("the page is there")
    };
    for (name, schema) in [
        ("publisher-guide.md", schemas::ride_completed()),
        ("subscriber-guide.md", schemas::promotion_status()),
    ] {
        let page = page(name);
        let blocks: Vec<&str> = page.split("```json\n").skip(1).collect();
        assert!(!blocks.is_empty(), "{name}");
        for block in blocks {
            let block = block.split("```").next().unwrap_or_default();
            let event: Value =
                serde_json::from_str(block).unwrap_or_else(|error| panic!("{name}: {error}"));
            let schema = match event["type"].as_str() {
                Some("promotion.reminder") => &schemas::promotion_reminder(),
                _ if event.get("reversed_ride_id").is_some() => &schemas::ride_reversed(),
                _ => &schema,
            };
            fits(&validator(schema), &event, name);
        }
    }
    let (publisher, subscriber) = (page("publisher-guide.md"), page("subscriber-guide.md"));
    for reason in ride_completed::QuarantineReason::ALL {
        assert!(
            publisher.contains(&format!("| `{}` |", reason.as_str())),
            "{reason:?}"
        );
    }
    let types = &schemas::promotion_status()["$defs"]["EventType"]["enum"];
    assert!(!items(types).is_empty());
    for word in items(types) {
        let word = word.as_str().expect("a text");
        assert!(subscriber.contains(&format!("| `{word}` |")), "{word}");
    }
    let frontend = page("frontend-guide.md");
    let screens = &ride_promo::api::client_openapi()["components"]["schemas"]["Screen"]["enum"];
    assert!(!items(screens).is_empty());
    for screen in items(screens) {
        let screen = screen.as_str().expect("a text");
        assert!(frontend.contains(&format!("| `{screen}` |")), "{screen}");
    }
    for verdict in Verdict::ALL {
        assert!(
            frontend.contains(&format!("`{}`", verdict.as_str())),
            "{verdict:?}"
        );
    }
}

/// What CONTRIBUTING.md lists under "Adding a word": each page or text that has to name it.
#[test]
fn every_word_is_where_readers_look_for_it() {
    let metrics = [
        &Verdict::WORDS[..],
        &EventType::WORDS,
        &ExpiredReason::WORDS,
        &QuarantineReason::WORDS,
    ]
    .concat();
    let promised = [
        &metrics[..],
        &StatusName::WORDS,
        &EligibilityRule::WORDS,
        &Screen::WORDS,
        &SplitStatus::WORDS,
        &MissingSplit::WORDS,
        &QuarantineStatus::WORDS,
        &ReplayOutcome::WORDS,
        &GoalName::WORDS,
        &RideSource::WORDS,
        &Weekday::WORDS,
    ]
    .concat();
    let refusals = Verdict::ALL
        .into_iter()
        .filter(|verdict| *verdict != Verdict::Counted)
        .map(|verdict| format!("verdict.{verdict}"));
    let texts: Vec<String> = refusals.collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for (path, words) in [
        ("docs/contract.md", &promised[..]),
        ("docs/metrics.md", &metrics),
        ("web/js/texts/en.js", &texts),
        ("web/js/texts/es.js", &texts),
        ("web/js/texts/ru.js", &texts),
    ] {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
        let text = fs::read_to_string(file).expect("it is there");
        let missing: Vec<&&str> = words
            .iter()
            .filter(|word| {
                !['`', '"']
                    .iter()
                    .any(|quote| text.contains(&format!("{quote}{word}{quote}")))
            })
            .collect();
        assert!(missing.is_empty(), "{path} does not name {missing:?}");
    }
}

/// A validator that checks formats too, as those who read the documents expect.
fn validator(schema: &Value) -> Validator {
    jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(schema)
        .unwrap_or_else(|error| panic!("{error} in {schema}"))
}

/// A schema of a document, which may refer to its components.
fn within(document: &Value, schema: &Value) -> Value {
    json!({ "allOf": [schema], "components": document["components"] })
}

#[track_caller]
fn fits(validator: &Validator, value: &Value, what: &str) {
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{what}: {errors:?}\n{value:#}");
}

fn each_member(value: &Value, visit: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| each_member(item, visit)),
        Value::Object(members) => {
            for (name, member) in members {
                visit(name, member);
                each_member(member, visit);
            }
        }
        _ => {}
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn keys(object: &Map<String, Value>) -> BTreeSet<String> {
    object.keys().cloned().collect()
}
