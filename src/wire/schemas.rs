//! The schemas of the events, generated from their types, and the AsyncAPI document of the topics, which
//! is built from them.

use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::promotion_status::{EventType, PromotionStatus, SOURCE};
use super::reminder::{Reminder, ReminderType};
use super::ride_completed::{RideCompleted, RideReversed};
use crate::domain::goals::{Goal, GoalName};
use crate::domain::participation::{DeadlineOf, StatusName};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

const COMPONENTS: &str = "#/components/schemas/";

/// A ride as the contract shows it: the example of each field.
pub fn example_ride() -> Value {
    let (schema, _) = schemas::<RideCompleted<'_>>();
    let fields = schema["properties"].as_object();
    let examples = fields.into_iter().flatten();
    examples
        .map(|(name, field)| (name.clone(), field["example"].clone()))
        .collect::<Map<_, _>>()
        .into()
}

/// A reversal as the contract shows it.
pub fn example_reversal() -> Value {
    json!({ "reversed_ride_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11", "user_id": 48_151 })
}

/// A status event as the contract shows it: the sixth ride counted.
pub fn example_status() -> Value {
    json!({
        "event_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b12", "type": EventType::Progressed,
        "user_id": 48_151, "promotion_id": 1, "promotion_key": "mx-newbie-20",
        "status": StatusName::InProgress, "previous_status": StatusName::InProgress, "version": 7,
        "rides_completed": 6, "rides_target": 20, "goals": [Goal { goal: GoalName::Rides, completed: 6, target: 20 }],
        "started_at": "2026-11-20T09:00:00.000Z",
        "challenge_deadline": "2026-12-04T09:00:00.000Z", "completed_at": null,
        "reward_deadline": null, "rewarded_at": null, "expired_at": null, "expired_reason": null,
        "reward": { "product_id": 80, "amount_cents": 100_000, "currency_code": "MXN",
            "repayment_rate": "15" },
        "occurred_at": "2026-11-22T18:04:05.456Z", "extension": null,
    })
}

/// A reminder as the contract shows it: a day before the challenge's end.
pub fn example_reminder() -> Value {
    json!({
        "event_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b13", "type": ReminderType::Reminder,
        "of": DeadlineOf::Challenge, "lead": "P1D", "deadline": "2026-12-04T09:00:00.000Z",
        "user_id": 48_151, "promotion_id": 1, "promotion_key": "mx-newbie-20",
        "rides_completed": 17, "rides_target": 20,
        "goals": [{ "goal": GoalName::Rides, "completed": 17, "target": 20 }],
        "reward": { "product_id": 80, "amount_cents": 100_000, "currency_code": "MXN",
            "repayment_rate": "15" },
        "occurred_at": "2026-12-03T09:00:00.321Z",
    })
}

/// JSON Schema of `ride-completed`.
pub fn ride_completed() -> Value {
    json_schema::<RideCompleted>("ride-completed", &example_ride())
}

/// JSON Schema of a reversal in `ride-completed`.
pub fn ride_reversed() -> Value {
    json_schema::<RideReversed>("ride-reversed", &example_reversal())
}

/// JSON Schema of `promotion-status`.
pub fn promotion_status() -> Value {
    json_schema::<PromotionStatus>("promotion-status", &example_status())
}

/// JSON Schema of `promotion-reminder`.
pub fn promotion_reminder() -> Value {
    json_schema::<Reminder>("promotion-reminder", &example_reminder())
}

/// The type's own schema; the schemas it refers to are under `$defs`.
fn json_schema<T: ToSchema>(topic: &str, example: &Value) -> Value {
    let (own, others) = schemas::<T>();
    let mut schema = json!({
        "$schema": DIALECT, "$id": format!("urn:ride-promo:{topic}"), "title": topic,
        "examples": [example],
    });
    if let (Some(schema), Value::Object(own)) = (schema.as_object_mut(), own) {
        schema.extend(own);
    }
    if !others.is_empty() {
        schema["$defs"] = Value::Object(others);
    }
    redirect(&mut schema);
    schema
}

/// Adds to every integer the bounds of its format: validators may ignore formats.
pub fn bound_integers(value: &mut Value) {
    if let Value::Array(items) = value {
        items.iter_mut().for_each(bound_integers);
    }
    let Value::Object(members) = value else {
        return;
    };
    let bounds = match members.get("format").and_then(Value::as_str) {
        Some("int64") => Some((i64::MIN, i64::MAX)),
        Some("int32") => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
        _ => None,
    };
    if let Some((least, most)) = bounds {
        members.entry("minimum").or_insert(json!(least));
        members.entry("maximum").or_insert(json!(most));
    }
    members.values_mut().for_each(bound_integers);
}

fn schemas<T: ToSchema>() -> (Value, Map<String, Value>) {
    let mut components = vec![];
    T::schemas(&mut components);
    let json = |schema| {
        let mut json = serde_json::to_value(schema).unwrap_or_default();
        bound_integers(&mut json);
        json
    };
    let others = components.into_iter();
    let others = others.map(|(name, schema)| (name, json(schema))).collect();
    (json(T::schema()), others)
}

/// Changes references from OpenAPI's place for shared schemas to JSON Schema's.
fn redirect(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(name) = text.strip_prefix(COMPONENTS) {
                *text = format!("#/$defs/{name}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redirect),
        Value::Object(members) => members.values_mut().for_each(redirect),
        _ => {}
    }
}

/// The AsyncAPI document: the service reads `ride-completed`, and writes `promotion-status` and
/// `promotion-reminder`, all under their default names.
pub fn asyncapi() -> Value {
    let (ride, mut components) = schemas::<RideCompleted>();
    let (status, others) = schemas::<PromotionStatus>();
    components.extend(others);
    let (reminder, others) = schemas::<Reminder>();
    components.extend(others);
    components.insert("PromotionReminder".to_owned(), reminder);
    components.insert("RideCompleted".to_owned(), ride);
    components.insert("RideReversed".to_owned(), schemas::<RideReversed>().0);
    components.insert("PromotionStatus".to_owned(), status);
    let reference = |to: &str| json!({ "$ref": to });
    json!({
        "asyncapi": "3.0.0",
        "id": "urn:ride-promo",
        "info": {
            "title": "Ride Promo",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Completed rides come in, status changes of promotions and reminders go out. Values are \
                JSON in UTF-8, metadata is in the records' headers (CloudEvents, binary mode). The \
                topics' names are configurable; these are the defaults.",
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "channels": {
            "ride-completed": {
                "address": "ride-completed",
                "description": "Every completed ride of the platform. Read `read_committed`, from the \
                    start. The same ride may arrive any number of times; the first one applied counts.",
                "messages": {
                    "RideCompleted": reference("#/components/messages/RideCompleted"),
                    "RideReversed": reference("#/components/messages/RideReversed"),
                },
                "bindings": { "kafka": topic("ride-completed", "delete", json!({})) },
            },
            "promotion-status": {
                "address": "promotion-status",
                "description": "Every change of a client's participation in a promotion, carrying its \
                    whole state. Delivered at least once, in order per key; versions of a key are contiguous \
                    from 1. All records are kept for 7 days, and later the newest of each key; a \
                    null value means that the key must be forgotten. Read `read_committed`.",
                "messages": {
                    "PromotionStatus": reference("#/components/messages/PromotionStatus"),
                    "Forgotten": reference("#/components/messages/Forgotten"),
                },
                "bindings": { "kafka": topic("promotion-status", "compact",
                    json!({ "min.compaction.lag.ms": 604_800_000 })) },
            },
            "promotion-reminder": {
                "address": "promotion-reminder",
                "description": "Reminders of deadlines that are near, for messages to clients. One per \
                    participation, deadline and lead, delivered at least once; redeliveries have the \
                    same `event_id`. Kept for 7 days, not compacted. Read `read_committed`.",
                "messages": { "PromotionReminder": reference("#/components/messages/PromotionReminder") },
                "bindings": { "kafka": topic("promotion-reminder", "delete",
                    json!({ "retention.ms": 604_800_000 })) },
            },
        },
        "operations": {
            "applyRide": {
                "action": "receive",
                "channel": reference("#/channels/ride-completed"),
                "title": "Apply a ride or a reversal",
                "summary": "Judges the ride against the challenge its client has in progress. A \
                    record that is not a valid ride is quarantined with its bytes.",
                "messages": [
                    reference("#/channels/ride-completed/messages/RideCompleted"),
                    reference("#/channels/ride-completed/messages/RideReversed"),
                ],
                "bindings": { "kafka": {
                    "groupId": { "type": "string", "enum": ["ride-promo"] },
                    "bindingVersion": "0.5.0",
                } },
            },
            "publishStatus": {
                "action": "send",
                "channel": reference("#/channels/promotion-status"),
                "title": "Publish a status change",
                "summary": "Announces a change of a participation. Subscribers keep the highest version \
                    of each key, and forget a key at a null value.",
                "messages": [
                    reference("#/channels/promotion-status/messages/PromotionStatus"),
                    reference("#/channels/promotion-status/messages/Forgotten"),
                ],
                "bindings": { "kafka": { "bindingVersion": "0.5.0" } },
            },
            "publishReminder": {
                "action": "send",
                "channel": reference("#/channels/promotion-reminder"),
                "title": "Publish a reminder",
                "summary": "Announces that a deadline is near. Subscribers send the client a message, once \
                    per `event_id`, if `deadline` has not passed when they read it.",
                "messages": [reference("#/channels/promotion-reminder/messages/PromotionReminder")],
                "bindings": { "kafka": { "bindingVersion": "0.5.0" } },
            },
        },
        "components": {
            "messages": {
                "Forgotten": {
                    "name": "Forgotten",
                    "title": "Forget this key",
                    "summary": "A null value, without headers: the client's data was erased. Subscribers delete \
                        what they have of the key, also its version; a later participation of it begins with version 1.",
                    "headers": { "type": "object", "maxProperties": 0 },
                    "payload": { "type": "null" },
                    "bindings": { "kafka": {
                        "key": { "type": "string", "pattern": "^[1-9][0-9]*:[1-9][0-9]*$",
                            "description": "`{user_id}:{promotion_id}`" },
                        "bindingVersion": "0.5.0",
                    } },
                    "examples": [{
                        "name": "erased",
                        "summary": "The client's data was erased",
                        "headers": {},
                        "payload": null,
                    }],
                },
                "RideCompleted": {
                    "name": "RideCompleted",
                    "title": "A completed ride",
                    "contentType": "application/json",
                    "headers": ride_headers(),
                    "payload": reference("#/components/schemas/RideCompleted"),
                    "bindings": { "kafka": {
                        "key": { "type": "string", "pattern": "^[1-9][0-9]*$",
                            "description": "`user_id` in decimal; for partitioning only, the body decides" },
                        "bindingVersion": "0.5.0",
                    } },
                    "examples": [{
                        "name": "counted",
                        "summary": "A ride of MX$65 in Mexico City",
                        "headers": { "ce_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11", "ce_type": "ride.completed" },
                        "payload": example_ride(),
                    }],
                },
                "PromotionReminder": {
                    "name": "PromotionReminder",
                    "title": "A deadline is near",
                    "contentType": "application/json",
                    "headers": event_headers(&ReminderType::WORDS, "`type`"),
                    "payload": reference("#/components/schemas/PromotionReminder"),
                    "bindings": { "kafka": {
                        "key": { "type": "string", "pattern": "^[1-9][0-9]*:[1-9][0-9]*$",
                            "description": "`{user_id}:{promotion_id}`" },
                        "bindingVersion": "0.5.0",
                    } },
                    "examples": [{
                        "name": "a-day-left",
                        "summary": "A day before the challenge's end, three rides are missing",
                        "headers": {
                            "ce_specversion": "1.0", "ce_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b13",
                            "ce_type": ReminderType::Reminder, "ce_source": SOURCE,
                            "ce_time": "2026-12-03T09:00:00.321Z", "ce_subject": "48151:1",
                            "content-type": "application/json",
                        },
                        "payload": example_reminder(),
                    }],
                },
                "RideReversed": {
                    "name": "RideReversed",
                    "title": "A ride that was taken back",
                    "summary": "The ride no longer counts for a challenge in progress; a completed one stays completed. \
                        Final: a ride that was reversed by mistake is sent again under a new id.",
                    "contentType": "application/json",
                    "headers": ride_headers(),
                    "payload": reference("#/components/schemas/RideReversed"),
                    "bindings": { "kafka": {
                        "key": { "type": "string", "pattern": "^[1-9][0-9]*$",
                            "description": "`user_id` in decimal, so that it comes after its ride" },
                        "bindingVersion": "0.5.0",
                    } },
                    "examples": [{
                        "name": "refunded",
                        "summary": "The ride was refunded",
                        "headers": { "ce_type": "ride.reversed" },
                        "payload": example_reversal(),
                    }],
                },
                "PromotionStatus": {
                    "name": "PromotionStatus",
                    "title": "A status change of a participation",
                    "contentType": "application/json",
                    "headers": event_headers(&EventType::WORDS, "`type`: filter by it without parsing"),
                    "payload": reference("#/components/schemas/PromotionStatus"),
                    "bindings": { "kafka": {
                        "key": { "type": "string", "pattern": "^[1-9][0-9]*:[1-9][0-9]*$",
                            "description": "`{user_id}:{promotion_id}`" },
                        "bindingVersion": "0.5.0",
                    } },
                    "examples": [{
                        "name": "progressed",
                        "summary": "The sixth ride of twenty counted",
                        "headers": {
                            "ce_specversion": "1.0", "ce_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b12",
                            "ce_type": EventType::Progressed, "ce_source": SOURCE,
                            "ce_time": "2026-11-22T18:04:05.456Z", "ce_subject": "48151:1",
                            "content-type": "application/json",
                            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                        },
                        "payload": example_status(),
                    }],
                },
            },
            "schemas": components,
        },
    })
}

/// A topic as the service creates it if it is missing.
fn topic(name: &str, cleanup: &str, more: Value) -> Value {
    let mut configuration = json!({ "cleanup.policy": [cleanup] });
    if let (Some(configuration), Value::Object(more)) = (configuration.as_object_mut(), more) {
        configuration.extend(more);
    }
    json!({
        "topic": name, "partitions": 12, "replicas": 1, "topicConfiguration": configuration,
        "bindingVersion": "0.5.0",
    })
}

fn ride_headers() -> Value {
    json!({
        "type": "object",
        "description": "All optional. `traceparent` is carried on to the status change that the ride causes.",
        "properties": {
            "ce_specversion": { "type": "string" },
            "ce_id": { "type": "string" },
            "ce_type": { "type": "string" },
            "ce_source": { "type": "string" },
            "ce_time": { "type": "string", "format": "date-time" },
            "content-type": { "type": "string" },
            "traceparent": traceparent(),
        },
    })
}

fn event_headers(types: &[&str], about_type: &str) -> Value {
    json!({
        "type": "object",
        "required": ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "ce_subject", "content-type"],
        "properties": {
            "ce_specversion": { "type": "string", "enum": ["1.0"] },
            "ce_id": { "type": "string", "format": "uuid", "description": "`event_id`" },
            "ce_type": { "type": "string", "enum": types, "description": about_type },
            "ce_source": { "type": "string", "enum": [SOURCE] },
            "ce_time": { "type": "string", "format": "date-time", "description": "`occurred_at`" },
            "ce_subject": { "type": "string", "description": "The key" },
            "content-type": { "type": "string", "enum": ["application/json"] },
            "traceparent": traceparent(),
        },
    })
}

fn traceparent() -> Value {
    json!({
        "type": "string",
        "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
        "description": "W3C Trace Context",
    })
}
