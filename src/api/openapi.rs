//! The OpenAPI documents, generated from the routes. This module adds what the handlers' attributes
//! cannot say: what holds for all operations, examples, and links from a response to the next call.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{OpenApi, RefOr, Schema};

use super::auth::{ADMIN_SCOPE, scopes_of};
use super::problem::{CONTENT_TYPE_PROBLEM, FieldProblem, Problem};
use super::{admin, client, examples};
use crate::domain::eligibility;
use crate::wire::participation::Participation;
use crate::wire::reward::Origination;
use crate::wire::ride_completed::RideCompleted;
use crate::wire::schemas::bound_integers;

const COMPONENTS: &str = "#/components/schemas/";

/// A response that leads to another call: the operation and status of the response, the next call, and
/// where its parameters come from.
type Link = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const PROMOTION: (&str, &str) = ("promotion_id", "$request.path.promotion_id");
const OF_BODY: (&str, &str) = ("promotion_id", "$response.body#/promotion_id");

const CLIENT_LINKS: &[Link] = &[
    (
        "landing",
        "200",
        "start",
        &[("promotion_id", "$response.body#/promotion/promotion_id")],
    ),
    (
        "landing",
        "200",
        "progress",
        &[("promotion_id", "$response.body#/participation/promotion_id")],
    ),
    ("start", "201", "progress", &[OF_BODY]),
    ("start", "201", "progress_stream", &[OF_BODY]),
    ("start", "200", "rides", &[OF_BODY]),
    (
        "progress",
        "200",
        "progress",
        &[OF_BODY, ("header.If-None-Match", "$response.header.ETag")],
    ),
    ("progress", "200", "rides", &[OF_BODY]),
    ("progress", "200", "acknowledge", &[OF_BODY]),
    ("progress", "200", "get_reward", &[OF_BODY]),
    (
        "rides",
        "200",
        "rides",
        &[PROMOTION, ("cursor", "$response.body#/next_cursor")],
    ),
    ("get_reward", "200", "accept_reward", &[OF_BODY]),
];

const ADMIN_LINKS: &[Link] = &[
    ("create_promotion", "201", "get_promotion", &[OF_BODY]),
    ("create_promotion", "201", "patch_promotion", &[OF_BODY]),
    ("get_promotion", "200", "patch_promotion", &[OF_BODY]),
    (
        "list_promotions",
        "200",
        "get_promotion",
        &[("promotion_id", "$response.body#/items/0/promotion_id")],
    ),
    (
        "list_promotions",
        "200",
        "list_promotions",
        &[("cursor", "$response.body#/next_cursor")],
    ),
    (
        "list_products",
        "200",
        "list_products",
        &[("cursor", "$response.body#/next_cursor")],
    ),
    (
        "list_geo_config",
        "200",
        "list_geo_config",
        &[("cursor", "$response.body#/next_cursor")],
    ),
    (
        "list_quarantine",
        "200",
        "list_quarantine",
        &[("cursor", "$response.body#/next_cursor")],
    ),
    (
        "list_quarantine",
        "200",
        "replay_quarantined",
        &[("quarantine_id", "$response.body#/items/0/quarantine_id")],
    ),
    (
        "list_quarantine",
        "200",
        "dismiss_quarantined",
        &[("quarantine_id", "$response.body#/items/0/quarantine_id")],
    ),
    (
        "list_quarantine",
        "200",
        "get_user",
        &[("user_id", "$response.body#/items/0/user_id")],
    ),
    (
        "list_participations",
        "200",
        "list_participations",
        &[("cursor", "$response.body#/next_cursor")],
    ),
    (
        "list_participations",
        "200",
        "get_user",
        &[("user_id", "$response.body#/items/0/user_id")],
    ),
    (
        "list_audit",
        "200",
        "list_audit",
        &[("cursor", "$response.body#/next_cursor")],
    ),
];

/// The document of the client API.
pub fn client_openapi() -> Value {
    document(
        client::router().into_openapi(),
        json!({
            "title": "Ride Promo",
            "description": "What a client's app calls: the offer, the challenge's progress, the reward.\n\n\
                The token's `sub` is the client's `user_id`; a client only sees and changes their own \
                data. Money is an integer number of cents with an ISO 4217 code. Instants are RFC 3339 \
                in UTC with milliseconds. Error responses are RFC 9457 problems; `type` says which. After \
                a `503` or a lost connection the outcome is unknown, and every call can be repeated safely.",
        }),
        &[
            ("landing", "Which screen the client sees"),
            ("promotions", "Starting a challenge and following it"),
            ("reward", "The loan that a completed challenge earns"),
        ],
        CLIENT_LINKS,
    )
}

/// The document of the admin API.
pub fn admin_openapi() -> Value {
    let mut api = document(
        admin::router().into_openapi(),
        json!({
            "title": "Ride Promo admin",
            "description": "What operators call. It has a listener of its own.\n\n\
                The token's `scope` must contain a scope that the call's `security` names: \
                `ride-promo:view` to read promotions, products, countries and figures, `ride-promo:edit` \
                to change them, `ride-promo:import` to import pre-offers, `ride-promo:support` for \
                clients' data, rides and quarantine, `ride-promo:audit` to read the audit; \
                `ride-promo:admin` allows all of them. Every change is recorded with the token's `sub`. \
                Lists are returned in pages: pass `next_cursor` as `cursor` to get the next one. Unknown \
                fields of a body and unknown query parameters are errors. Error responses are RFC 9457 \
                problems.",
        }),
        &[
            ("me", "The caller"),
            ("promotions", "What clients can participate in"),
            (
                "participations",
                "Clients in promotions, listed and exported",
            ),
            ("products", "The loan products behind the offers"),
            (
                "geo-config",
                "The per-country flags; promotions are disabled in a country that is not listed",
            ),
            ("pre-offers", "Importing pre-approved loans from scoring"),
            (
                "users",
                "Why a client saw a screen, and why a ride did not count",
            ),
            (
                "quarantine",
                "Records of the ride topic that are not valid rides",
            ),
            ("stats", "Figures on the service's work"),
            ("system", "The process that responds"),
            ("audit", "Every change, with its operator"),
        ],
        ADMIN_LINKS,
    );
    for (path, methods) in members(&mut api["paths"]) {
        for (method, operation) in members(methods) {
            add_scopes(operation, &method.to_uppercase(), path);
        }
    }
    api
}

/// Adds the scopes that allow an admin call, each by itself, and the one that its `403` names.
fn add_scopes(operation: &mut Value, method: &str, path: &str) {
    let scopes = scopes_of(method, path).unwrap_or_default();
    let words = scopes.iter().map(|scope| scope.as_str());
    operation["security"] = words
        .chain([ADMIN_SCOPE])
        .map(|word| json!({ "bearer": [word] }))
        .collect();
    let word = scopes.first().map_or(ADMIN_SCOPE, |scope| scope.as_str());
    let problem = Problem::insufficient_scope(word).body();
    for (_, content) in contents(operation["responses"].get_mut("403")) {
        content["examples"]["forbidden"]["value"] = problem.clone();
    }
}

fn document(api: OpenApi, info: Value, tags: &[(&str, &str)], links: &[Link]) -> Value {
    let mut api = serde_json::to_value(api).unwrap_or_default();
    api["info"] = info;
    api["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    api["info"]["license"] = json!({ "name": "Apache-2.0", "identifier": "Apache-2.0" });
    api["servers"] = json!([{ "url": "/", "description": "The listener that serves these calls" }]);
    let tags = tags
        .iter()
        .map(|(name, about)| json!({ "name": name, "description": about }));
    api["tags"] = tags.collect();
    api["security"] = json!([{ "bearer": [] }]);
    api["components"]["securitySchemes"] = json!({ "bearer": {
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
        "description": "A JWT with `exp`, `iss`, `aud` and `sub`, signed as the service is configured",
    } });
    add_schemas::<Participation>(&mut api);
    add_schemas::<Origination>(&mut api);
    add_schemas::<eligibility::EligibilityRule>(&mut api);
    add_schemas::<FieldProblem>(&mut api);
    add_schemas::<RideCompleted>(&mut api);
    let mut components = api["components"]["schemas"].take();
    let mut closed = BTreeSet::new();
    for operation in operations(&mut api) {
        complete(operation, &mut components, &mut closed);
        add_examples(operation);
        add_links(operation, links);
    }
    for name in closed {
        components[name.as_str()]["additionalProperties"] = json!(false);
    }
    complete_conditions(&mut components["Conditions"]);
    api["components"]["schemas"] = components;
    keep_used_schemas(&mut api);
    bound_integers(&mut api);
    api
}

fn operations(api: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = api["paths"].as_object_mut();
    let items = paths.into_iter().flat_map(Map::values_mut);
    items
        .filter_map(Value::as_object_mut)
        .flat_map(Map::values_mut)
}

/// Adds a type that only error responses or other schemas' texts name, and the types it refers to.
fn add_schemas<T: ToSchema>(api: &mut Value) {
    let mut schemas: Vec<(String, RefOr<Schema>)> = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    for (name, schema) in schemas {
        api["components"]["schemas"][name] = serde_json::to_value(schema).unwrap_or_default();
    }
}

fn shared_schema<T: ToSchema>() -> Value {
    serde_json::to_value(T::schema()).unwrap_or_default()
}

/// Adds to an operation what the attributes cannot say.
fn complete(operation: &mut Value, components: &mut Value, closed: &mut BTreeSet<String>) {
    for parameter in operation.get_mut("parameters").into_iter().flat_map(items) {
        never_null(&mut parameter["schema"]);
    }
    for (media_type, content) in contents(operation.get_mut("requestBody")) {
        never_null(&mut content["schema"]);
        let reference = content["schema"]["$ref"].as_str();
        if let Some(name) = reference.and_then(|to| to.strip_prefix(COMPONENTS))
            && media_type == "application/json"
        {
            // Handlers reject unknown fields, those of conditions too.
            closed.extend([name.to_owned(), "Conditions".to_owned()]);
        }
    }
    // A change that is only tried has neither an address nor a revision.
    let can_be_tried = operation
        .get_mut("parameters")
        .into_iter()
        .flat_map(items)
        .any(|parameter| parameter["name"] == "dry_run");
    for (_, response) in members(&mut operation["responses"]) {
        response["headers"]["X-Request-Id"] = json!({
            "description": "The request's id in the service's log; the caller's own id if it sent one",
            "schema": { "type": "string" },
        });
        for (name, header) in members(&mut response["headers"]) {
            let is_of_what_is = name == "Location" || name == "ETag";
            header["required"] = json!(!(can_be_tried && is_of_what_is));
        }
        for (media_type, content) in contents(Some(response)) {
            if media_type != CONTENT_TYPE_PROBLEM {
                continue;
            }
            let schema = &mut content["schema"];
            match schema.get_mut("oneOf") {
                Some(choice) => items(choice).for_each(|one| move_to_components(one, components)),
                None => move_to_components(schema, components),
            }
        }
    }
}

/// The bodies of a request or a response, by media type.
fn contents(of: Option<&mut Value>) -> impl Iterator<Item = (&String, &mut Value)> {
    of.and_then(|of| of.get_mut("content"))
        .into_iter()
        .flat_map(members)
}

/// Parameters and bodies are present or absent; only fields can be null.
fn never_null(schema: &mut Value) {
    if let Some(kind) = schema["type"].get(0).cloned() {
        schema["type"] = kind;
    }
    let choice = schema.get("oneOf").and_then(Value::as_array);
    let some = choice.and_then(|choice| choice.iter().find(|one| one["type"] != "null"));
    if let Some(some) = some.cloned() {
        *schema = some;
    }
}

/// Moves a schema with a title to the components, and leaves a reference to it.
fn move_to_components(schema: &mut Value, components: &mut Value) {
    if let Some(title) = schema["title"].as_str().map(str::to_owned) {
        let reference = json!({ "$ref": format!("{COMPONENTS}{title}") });
        components[title] = std::mem::replace(schema, reference);
    }
}

fn add_examples(operation: &mut Value) {
    let id = operation["operationId"].as_str().unwrap_or_default();
    let of_operation = &examples::operations()[id];
    if let Some(requests) = of_operation.get("requests") {
        for (media_type, content) in contents(operation.get_mut("requestBody")) {
            if let Some(request) = requests.get(media_type) {
                content["examples"] = examples::named(request);
            }
        }
    }
    for (status, response) in members(&mut operation["responses"]) {
        let Some(answer) = of_operation["answers"].get(status) else {
            continue;
        };
        for (media_type, content) in contents(Some(response)) {
            // The example of its media type, if the response has several.
            let answer = answer.get(media_type).unwrap_or(answer);
            content["examples"] = examples::named(answer);
        }
    }
}

fn add_links(operation: &mut Value, links: &[Link]) {
    let id = operation["operationId"].clone();
    for (_, status, call, parameters) in links.iter().filter(|(from, ..)| id == *from) {
        let parameters: Map<String, Value> = parameters
            .iter()
            .map(|(name, source)| ((*name).to_owned(), json!(source)))
            .collect();
        operation["responses"][*status]["links"][*call] =
            json!({ "operationId": call, "parameters": parameters });
    }
}

/// Adds the limits of list items, and that `max_rides_per_day` requires `day_boundary_timezone`.
fn complete_conditions(conditions: &mut Value) {
    let service_type = &shared_schema::<RideCompleted>()["properties"]["service_type"];
    let properties = &mut conditions["properties"];
    properties["city_ids"]["items"]["minimum"] = json!(0);
    properties["service_types"]["items"] = json!({
        "type": "string", "minLength": service_type["minLength"],
        "maxLength": service_type["maxLength"], "pattern": service_type["pattern"],
    });
    conditions["if"] = json!({
        "required": ["max_rides_per_day"],
        "properties": { "max_rides_per_day": { "type": "integer" } },
    });
    conditions["then"] = json!({
        "required": ["day_boundary_timezone"],
        "properties": { "day_boundary_timezone": { "type": "string" } },
    });
}

/// Drops schemas that nothing refers to.
fn keep_used_schemas(api: &mut Value) {
    let mut used = BTreeSet::new();
    let mut found = BTreeSet::new();
    references(&api["paths"], &mut found);
    while let Some(name) = found.pop_first() {
        references(&api["components"]["schemas"][name.as_str()], &mut found);
        used.insert(name);
        found.retain(|name| !used.contains(name));
    }
    members_of(&mut api["components"]["schemas"], |schemas| {
        schemas.retain(|name, _| used.contains(name));
    });
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str().and_then(|to| to.strip_prefix(COMPONENTS)) {
                    Some(to) if name == "$ref" => {
                        found.insert(to.to_owned());
                    }
                    _ => references(member, found),
                }
            }
        }
        _ => {}
    }
}

fn items(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_array_mut().into_iter().flatten()
}

fn members(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flatten()
}

fn members_of(value: &mut Value, change: impl FnOnce(&mut Map<String, Value>)) {
    if let Some(members) = value.as_object_mut() {
        change(members);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_says_what_it_refuses() {
        for (api, common) in [
            (client_openapi(), &["401", "403", "405", "429", "503"][..]),
            (admin_openapi(), &["401", "403", "405", "503"][..]),
        ] {
            for (path, item) in api["paths"].as_object().expect("paths") {
                for (method, operation) in item.as_object().expect("operations") {
                    for status in common {
                        let content = &operation["responses"][*status]["content"];
                        let schema = &content["application/problem+json"]["schema"];
                        assert!(schema.is_object(), "{method} {path} {status}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_reference_and_link_leads_somewhere() {
        for (mut api, links) in [
            (client_openapi(), CLIENT_LINKS),
            (admin_openapi(), ADMIN_LINKS),
        ] {
            let mut found = BTreeSet::new();
            references(&api, &mut found);
            for name in found {
                assert!(api["components"]["schemas"][&name].is_object(), "{name}");
            }
            let mut statuses = BTreeSet::new();
            for operation in operations(&mut api) {
                let id = operation["operationId"].as_str().unwrap_or_default();
                let answers = operation["responses"].as_object().expect("responses");
                statuses.extend(answers.keys().map(|status| (id.to_owned(), status.clone())));
            }
            for (from, status, to, _) in links {
                let there = statuses.contains(&((*from).to_owned(), (*status).to_owned()));
                assert!(
                    there && statuses.iter().any(|(id, _)| id == to),
                    "{from} → {to}"
                );
            }
        }
    }

    #[test]
    fn every_example_has_its_place() {
        let mut ids = BTreeSet::new();
        for mut api in [client_openapi(), admin_openapi()] {
            for operation in operations(&mut api) {
                ids.insert(
                    operation["operationId"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                );
                for (status, response) in members(&mut operation["responses"]) {
                    for (media_type, content) in contents(Some(response)) {
                        let there = content["examples"].is_object();
                        assert!(there, "no example of {status} {media_type}: {ids:?}");
                    }
                }
            }
        }
        for id in examples::operations()
            .as_object()
            .expect("operations")
            .keys()
        {
            assert!(ids.contains(id), "{id} is not an operation");
        }
    }
}
