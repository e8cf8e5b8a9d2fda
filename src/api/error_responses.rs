//! The error responses of each call in the OpenAPI documents. They are described by the same problems
//! that handlers return, so status, type, title, members and headers cannot differ.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::{Content, Header, RefOr, Response, ResponseBuilder};

use super::problem::{CONTENT_TYPE_PROBLEM, Problem};
use crate::domain::eligibility::EligibilityRule;
use crate::domain::participation::ExpiredReason;

/// The responses of an operation, by status.
pub type Responses = BTreeMap<String, RefOr<Response>>;

/// Defines the error responses of a call: `error_responses!(Name = client, path; Problem::not_expired())`
/// declares a type to name in the call's `responses`.
macro_rules! error_responses {
    ($name:ident = $($group:ident),+ $(; $($problem:expr),+)?) => {
        struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> $crate::api::error_responses::Responses {
                let mut problems = Vec::new();
                $(problems.extend($crate::api::error_responses::$group());)+
                $($(problems.push($problem);)+)?
                $crate::api::error_responses::responses(&problems)
            }
        }
    };
}

pub(crate) use error_responses;

/// The error responses of every client call.
pub fn client() -> Vec<Problem> {
    let mut problems = admin();
    let wait = std::time::Duration::from_secs(1);
    problems.push(Problem::too_many_requests(wait));
    problems
}

/// The error responses of every admin call.
pub fn admin() -> Vec<Problem> {
    vec![
        Problem::unauthorized("A bearer token is required."),
        Problem::insufficient_scope("ride-promo:view"),
        Problem::method_not_allowed(),
        Problem::temporarily_unavailable(),
        Problem::invalid_field("colour", "is not a known parameter"),
    ]
}

/// Of a call whose path names one resource.
pub fn path() -> Vec<Problem> {
    vec![Problem::not_found()]
}

/// Of a call that reads a body, even an empty one.
pub fn body() -> Vec<Problem> {
    vec![
        Problem::malformed_request("The body must be a JSON object."),
        Problem::request_timeout(),
        Problem::too_large(64 * 1024),
        Problem::unsupported_encoding("identity"),
    ]
}

/// Of a call that takes `If-Match`.
pub fn conditional() -> Vec<Problem> {
    vec![Problem::precondition_failed()]
}

/// Of a call that may write what the release before cannot read.
pub fn upgrade() -> Vec<Problem> {
    vec![Problem::upgrade_unfinished()]
}

/// `already-participated`, with an example of a participation.
pub fn already_participated() -> Problem {
    Problem::already_participated(&example("participation"))
}

/// `already-rewarded`, with an example of an application.
pub fn already_rewarded() -> Problem {
    Problem::already_rewarded(example("origination"))
}

/// `challenge-over`, with one of its reasons.
pub fn challenge_over() -> Problem {
    Problem::challenge_over(ExpiredReason::ChallengeNotCompleted)
}

/// `not-eligible`, with two reasons.
pub fn not_eligible() -> Problem {
    Problem::not_eligible(&[
        EligibilityRule::PromotionInactive,
        EligibilityRule::PromotionsDisabled,
    ])
}

fn example(name: &str) -> Value {
    super::examples::shared(name)
}

/// These problems by status. The schema of each is inline and has a title; the document moves it to its
/// components.
pub fn responses(problems: &[Problem]) -> Responses {
    let mut by_status = BTreeMap::<u16, Vec<&Problem>>::new();
    for problem in problems {
        let same = by_status.entry(problem.status().as_u16()).or_default();
        same.push(problem);
    }
    by_status
        .into_iter()
        .map(|(status, problems)| (status.to_string(), RefOr::T(response(status, &problems))))
        .collect()
}

fn response(status: u16, problems: &[&Problem]) -> Response {
    let schemas: Vec<Value> = problems.iter().map(|problem| schema(problem)).collect();
    let schema = match &schemas[..] {
        [only] => only.clone(),
        _ => json!({ "oneOf": schemas }),
    };
    let examples: Map<String, Value> = problems
        .iter()
        .map(|problem| {
            (
                problem.slug().to_owned(),
                json!({ "value": problem.body() }),
            )
        })
        .collect();
    let description: Vec<String> = problems
        .iter()
        .map(|problem| format!("`{}`: {}", problem.slug(), problem.title()))
        .collect();
    let mut response = ResponseBuilder::new()
        .description(description.join("; or "))
        .content(
            CONTENT_TYPE_PROBLEM,
            described::<Content>(json!({ "schema": schema, "examples": examples })),
        );
    let headers = match status {
        401 => Some((
            "WWW-Authenticate",
            "`Bearer`, with `error=\"invalid_token\"` if there was a token (RFC 6750)",
            "string",
        )),
        403 => Some((
            "WWW-Authenticate",
            "`Bearer error=\"insufficient_scope\"` with the missing `scope`",
            "string",
        )),
        405 => Some(("Allow", "The methods of this address", "string")),
        415 => Some((
            "Accept-Encoding",
            "The accepted content encodings",
            "string",
        )),
        429 | 503 => Some((
            "Retry-After",
            "Seconds after which to try again, at least 1",
            "integer",
        )),
        _ => None,
    };
    if let Some((name, description, kind)) = headers {
        let header = json!({ "description": description, "schema": { "type": kind } });
        response = response.header(name, described::<Header>(header));
    }
    response.build()
}

/// The schema of one type of problem.
fn schema(problem: &Problem) -> Value {
    let mut properties = Map::new();
    let mut required = vec!["type", "title", "status", "detail"];
    let fixed = |kind: &str, value: Value, about: &str| json!({ "type": kind, "enum": [value], "description": about });
    let address = json!(format!("/problems/{}", problem.slug()));
    let status = problem.status().as_u16();
    properties.insert(
        "type".to_owned(),
        fixed("string", address, "The problem's type, for programs."),
    );
    properties.insert(
        "title".to_owned(),
        json!({ "type": "string", "description": "The problem's type, for people." }),
    );
    properties.insert(
        "status".to_owned(),
        fixed("integer", json!(status), "The response's status."),
    );
    properties.insert(
        "detail".to_owned(),
        json!({ "type": "string", "description": "What went wrong, for people." }),
    );
    for name in problem.members().keys() {
        properties.insert(name.clone(), member(name));
        required.push(name);
    }
    if problem.slug() == "malformed-request" {
        // Present only if the body is an object whose fields can be named.
        properties.insert("errors".to_owned(), member("errors"));
    }
    json!({
        "title": component(problem.slug()), "type": "object", "description": problem.title(),
        "required": required, "properties": properties,
    })
}

/// The schema of a member beyond those of RFC 9457.
fn member(name: &str) -> Value {
    let reference = |to: &str| json!({ "$ref": format!("#/components/schemas/{to}") });
    let list = |of: &str| json!({ "type": "array", "minItems": 1, "items": reference(of) });
    match name {
        "errors" => list("FieldProblem"),
        "participation" => reference("Participation"),
        "reason" => reference("EligibilityRule"),
        "reasons" => list("EligibilityRule"),
        "application" => reference("Origination"),
        "expired_reason" => reference("ExpiredReason"),
        _ => json!({}),
    }
}

/// `not-expired` → `NotExpiredProblem`.
fn component(slug: &str) -> String {
    let words = slug.split('-').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    words.chain(["Problem".to_owned()]).collect()
}

/// Reads a part of a document from its JSON.
fn described<T: serde::de::DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("written here, in OpenAPI's form")
}
