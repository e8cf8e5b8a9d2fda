//! Trying a change without making it: `?dry_run=true` on calls that offer it (contract 2, "Trying
//! without doing").

use serde::Serialize;
use utoipa::IntoParams;

use super::problem::Result;
use super::query::{FromQuery, Params};

/// Whether a call is only tried: all checks are made and the response is the same, with `"dry_run":
/// true`, but nothing is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DryRun(pub bool);

impl FromQuery for DryRun {
    fn from_query(params: &mut Params) -> Result<Self> {
        Ok(Self(params.flag("dry_run")?.unwrap_or(false)))
    }
}

/// The parameter, for the documents.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub struct DryRunParams {
    /// `true` makes the same checks and returns the same response with `"dry_run": true`, but changes
    /// nothing
    dry_run: Option<bool>,
}

/// A response, with `"dry_run": true` if nothing was changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DryRunResponse<T> {
    #[serde(flatten)]
    response: T,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

impl DryRun {
    /// The response of the call.
    pub const fn response<T>(self, response: T) -> DryRunResponse<T> {
        DryRunResponse {
            response,
            dry_run: self.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(query: &str) -> Result<DryRun> {
        DryRun::of(&format!("/promotions?{query}").parse().expect("an address"))
    }

    #[test]
    fn only_true_and_false_are_understood() {
        assert_eq!(of("").expect("left out"), DryRun(false));
        assert_eq!(of("dry_run=false").expect("said"), DryRun(false));
        assert_eq!(of("dry_run=true").expect("said"), DryRun(true));
        for query in [
            "dry_run=1",
            "dry_run=",
            "dry_run",
            "dry_run=TRUE",
            "dryrun=true",
        ] {
            assert_eq!(of(query).expect_err(query).status(), 422, "{query}");
        }
    }

    #[test]
    fn only_what_was_tried_says_so() {
        let response = json!({ "promotion_id": 1 });
        let shown = |dry_run: bool| serde_json::to_value(DryRun(dry_run).response(&response)).ok();
        assert_eq!(shown(false), Some(response.clone()));
        assert_eq!(
            shown(true),
            Some(json!({ "promotion_id": 1, "dry_run": true }))
        );
    }
}
