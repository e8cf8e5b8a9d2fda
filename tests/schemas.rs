//! The committed files of `schemas/` are what the code says. `UPDATE_SCHEMAS=1 cargo test --test
//! schemas` writes those that are generated.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use chrono::{TimeZone as _, Utc};
use ride_promo::wire::promotion_status::PromotionStatus;
use ride_promo::wire::ride_completed;
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema as _, ToSchema as _};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

const RIDE: &str = r#"{
  "ride_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11", "user_id": 48151,
  "completed_at": "2026-11-22T18:04:05.123Z", "amount_cents": 6500, "currency_code": "MXN",
  "country_code": "MX", "city_id": 4198, "service_type": "city" }"#;

const STATUS: &str = r#"{
  "event_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b12", "type": "promotion.progressed",
  "user_id": 48151, "promotion_id": 1, "promotion_key": "mx-newbie-20",
  "status": "IN_PROGRESS", "previous_status": "IN_PROGRESS", "version": 7,
  "rides_completed": 6, "rides_target": 20, "started_at": "2026-11-20T09:00:00.000Z",
  "challenge_deadline": "2026-12-04T09:00:00.000Z", "completed_at": null,
  "reward_deadline": null, "rewarded_at": null, "expired_at": null, "expired_reason": null,
  "reward": { "product_id": 80, "amount_cents": 100000, "currency_code": "MXN",
    "repayment_rate": "15" },
  "occurred_at": "2026-11-22T18:04:05.456Z" }"#;

#[test]
fn the_client_api_is_as_committed() {
    let api = serde_json::to_value(ride_promo::api::client_openapi()).expect("JSON");
    matches_committed("openapi-client.json", &api);
}

#[test]
fn the_admin_api_is_as_committed() {
    let api = serde_json::to_value(ride_promo::api::admin_openapi()).expect("JSON");
    matches_committed("openapi-admin.json", &api);
}

#[test]
fn the_status_event_is_as_committed() {
    matches_committed("promotion-status.schema.json", &status_schema());
}

#[test]
fn the_contracts_ride_fits_its_schema() {
    let schema = committed("ride-completed.schema.json");
    assert_eq!(schema["$schema"], DIALECT);
    let ride = parsed(RIDE);
    let (required, properties) = fields(&schema, &schema);
    assert_eq!(keys(&ride), properties, "every field is in the schema");
    assert!(required.is_subset(&properties));
}

/// What the schema requires is what the decoder requires, field by field.
#[test]
fn the_decoder_requires_what_the_schema_requires() {
    let schema = committed("ride-completed.schema.json");
    let (required, properties) = fields(&schema, &schema);
    let now = Utc
        .with_ymd_and_hms(2026, 11, 22, 18, 5, 0)
        .single()
        .expect("an instant");
    ride_completed::decode(RIDE.as_bytes(), now).expect("the contract's ride");
    for field in &properties {
        let mut ride = parsed(RIDE);
        ride.remove(field);
        let value = Value::Object(ride).to_string();
        let decoded = ride_completed::decode(value.as_bytes(), now);
        assert_eq!(decoded.is_err(), required.contains(field), "{field}");
    }
}

#[test]
fn the_contracts_status_event_fits_its_schema() {
    let schema = committed("promotion-status.schema.json");
    assert_eq!(schema["$schema"], DIALECT);
    let event = parsed(STATUS);
    let (required, properties) = fields(&schema, &schema);
    assert_eq!(keys(&event), properties, "properties");
    assert_eq!(keys(&event), required, "every field is always there");
    // and the type writes exactly these
    let typed: PromotionStatus = serde_json::from_str(STATUS).expect("the contract's event");
    let written = serde_json::to_value(typed).expect("JSON");
    assert_eq!(written, Value::Object(event));
}

#[test]
fn every_reference_leads_somewhere() {
    if updating() {
        // the files are being written right now
        return;
    }
    for name in [
        "openapi-client.json",
        "openapi-admin.json",
        "promotion-status.schema.json",
        "ride-completed.schema.json",
    ] {
        let schema = committed(name);
        let mut references = Vec::new();
        collect_references(&schema, &mut references);
        for reference in references {
            let pointer = reference.trim_start_matches('#');
            assert!(schema.pointer(pointer).is_some(), "{name}: {reference}");
        }
    }
}

/// The type's own schema, with the ones it refers to under `$defs`.
fn status_schema() -> Value {
    let mut components = vec![];
    PromotionStatus::schemas(&mut components);
    let defs: Map<String, Value> = components
        .into_iter()
        .map(|(name, schema)| (name, serde_json::to_value(schema).expect("JSON")))
        .collect();
    let mut schema = json!({
        "$schema": DIALECT,
        "$id": "urn:ride-promo:promotion-status",
        "title": "promotion-status",
    });
    let own = serde_json::to_value(PromotionStatus::schema()).expect("JSON");
    let root = schema.as_object_mut().expect("an object");
    root.extend(own.as_object().expect("an object").clone());
    root.insert("$defs".to_owned(), Value::Object(defs));
    redirect(&mut schema);
    schema
}

/// From OpenAPI's place for shared schemas to JSON Schema's.
fn redirect(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(name) = text.strip_prefix("#/components/schemas/") {
                *text = format!("#/$defs/{name}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redirect),
        Value::Object(members) => members.values_mut().for_each(redirect),
        _ => {}
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, found)),
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "$ref" => found.push(text.clone()),
                    _ => collect_references(member, found),
                }
            }
        }
        _ => {}
    }
}

/// Required and known fields, through references and `allOf`.
fn fields(root: &Value, schema: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut required: BTreeSet<String> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let mut properties: BTreeSet<String> = schema["properties"]
        .as_object()
        .into_iter()
        .flat_map(Map::keys)
        .cloned()
        .collect();
    let referred = schema["$ref"].as_str().map(|reference| {
        root.pointer(reference.trim_start_matches('#'))
            .expect("a reference that leads somewhere")
    });
    for part in schema["allOf"]
        .as_array()
        .into_iter()
        .flatten()
        .chain(referred)
    {
        let (more_required, more_properties) = fields(root, part);
        required.extend(more_required);
        properties.extend(more_properties);
    }
    (required, properties)
}

fn keys(object: &Map<String, Value>) -> BTreeSet<String> {
    object.keys().cloned().collect()
}

fn parsed(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).expect("a JSON object")
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("schemas")
        .join(name)
}

fn updating() -> bool {
    std::env::var_os("UPDATE_SCHEMAS").is_some_and(|value| value == "1")
}

fn committed(name: &str) -> Value {
    if updating() && name == "promotion-status.schema.json" {
        return status_schema();
    }
    let text = fs::read_to_string(path(name)).unwrap_or_else(|error| {
        panic!("schemas/{name}: {error}; UPDATE_SCHEMAS=1 cargo test --test schemas writes it")
    });
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("schemas/{name}: {error}"))
}

fn matches_committed(name: &str, generated: &Value) {
    if updating() {
        let text = serde_json::to_string_pretty(generated).expect("JSON");
        fs::write(path(name), text + "\n").expect("schemas/ can be written");
        return;
    }
    assert!(
        committed(name) == *generated,
        "schemas/{name} is not what the code says: look whether the change keeps the contract, then \
         UPDATE_SCHEMAS=1 cargo test --test schemas, and commit it"
    );
}
