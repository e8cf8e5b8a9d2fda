//! The examples of the OpenAPI documents: shared values, and the bodies of requests and responses
//! by operation.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

static EXAMPLES: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("openapi-examples.json")).expect("JSON, as a test reads it")
});

/// The bodies of every operation, by its id.
pub fn operations() -> &'static Value {
    &EXAMPLES["operations"]
}

/// A value that several examples share.
pub fn shared(name: &str) -> Value {
    with_shared(&EXAMPLES["values"][name])
}

/// `{"name": value}` in OpenAPI's form. A string `@name` stands for the shared value of that name.
pub fn named(examples: &Value) -> Value {
    let examples = examples.as_object().into_iter().flatten();
    examples
        .map(|(name, value)| (name.clone(), json!({ "value": with_shared(value) })))
        .collect::<Map<_, _>>()
        .into()
}

fn with_shared(value: &Value) -> Value {
    match value {
        Value::String(text) if text.starts_with('@') => shared(&text[1..]),
        Value::Array(items) => items.iter().map(with_shared).collect(),
        Value::Object(members) => {
            let members = members.iter();
            let members = members.map(|(name, value)| (name.clone(), with_shared(value)));
            Value::Object(members.collect())
        }
        _ => value.clone(),
    }
}
