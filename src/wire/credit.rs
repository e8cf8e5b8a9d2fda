//! The body that credits a ride which the platform lost (contract, "A missing ride").

use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::ride_completed::RideCompleted;
use crate::domain::fields::{BadValue, FieldError, Fields, text};

/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 1_000;

/// A ride to credit, and the reason.
#[derive(Debug, ToSchema)]
pub struct RideCredit {
    /// A whole ride-completed event of this client; not a reversal.
    #[schema(value_type = RideCompleted)]
    pub ride: Value,
    /// The reason, for the audit: 1 to 1,000 characters.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "the platform lost it, ticket 4711"
    )]
    pub reason: String,
}

impl RideCredit {
    /// Reads the body of a request. Each error names its field. The ride itself is read later, by the
    /// topic's reader.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(object);
        let ride = fields.required("ride", |value| {
            let Some(ride) = value.as_object() else {
                return Err(BadValue::WrongType("must be an object".to_owned()));
            };
            if ride.get("reversed_ride_id").is_some_and(|id| !id.is_null()) {
                return Err(BadValue::Invalid(
                    "must be a ride, not a reversal (reversed_ride_id)".to_owned(),
                ));
            }
            Ok(value.clone())
        });
        let reason = fields.required("reason", text(MAX_REASON_CHARS));
        fields.finish(ride.zip(reason).map(|(ride, reason)| Self { ride, reason }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_credit_is_a_ride_and_a_reason() {
        let read = |body: Value| {
            RideCredit::from_json(body.as_object().expect("an object")).map_err(|errors| {
                errors
                    .into_iter()
                    .map(|error| error.field)
                    .collect::<Vec<_>>()
            })
        };
        let ride = json!({ "ride_id": "x", "reversed_ride_id": null });
        assert!(read(json!({ "ride": ride, "reason": "lost" })).is_ok());
        for (body, wrong) in [
            (json!({ "reason": "lost" }), "ride"),
            (json!({ "ride": [], "reason": "lost" }), "ride"),
            (
                json!({ "ride": { "reversed_ride_id": "x" }, "reason": "lost" }),
                "ride",
            ),
            (json!({ "ride": {}, "reason": "" }), "reason"),
            (json!({ "ride": {}, "reason": "lost", "note": 1 }), "note"),
        ] {
            assert_eq!(read(body).err(), Some(vec![wrong.to_owned()]));
        }
    }
}
