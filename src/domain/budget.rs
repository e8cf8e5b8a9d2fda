//! A promotion's budget: the most it may cost (contract 2, Schedule and budget).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{FieldError, Fields, integer, parsed, shown};
use super::reward::{CurrencyCode, Reward};

/// The maxima of a promotion. What is reserved and spent together never exceeds them, whatever runs at
/// the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = Budget)]
pub struct Budget {
    /// The most participations that are live or rewarded, at least 1; `null` for no maximum.
    #[schema(minimum = 1, example = 10_000)]
    pub max_participations: Option<i64>,
    /// The largest sum of their rewards in cents, at least 1; `null` for no maximum.
    #[schema(minimum = 1, example = 200_000_000)]
    pub max_reward_cents: Option<i64>,
    /// The currency of `max_reward_cents`: required with it, and never changed once set. With it, a reward
    /// in another currency cannot be started.
    #[schema(value_type = Option<String>, pattern = "^[A-Z]{3}$", example = "MXN")]
    pub currency_code: Option<CurrencyCode>,
}

/// What is reserved and spent of a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetUse {
    /// Live participations.
    pub participations_reserved: i64,
    /// Rewarded participations.
    pub participations_spent: i64,
    /// The rewards of live participations, in cents.
    pub reward_cents_reserved: i64,
    /// The rewards of rewarded participations, in cents.
    pub reward_cents_spent: i64,
}

/// The largest use that still leaves room for a start. Without a maximum it is the largest 64-bit
/// integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetRoom {
    /// Participations, reserved and spent.
    pub participations: i64,
    /// Cents, reserved and spent.
    pub reward_cents: i64,
}

impl Budget {
    /// Reads and checks a budget. Each error names its field by the path under `budget`.
    pub fn from_json(value: &Value) -> Result<Self, Vec<FieldError>> {
        let Value::Object(object) = value else {
            let reason = format!(
                "must be an object or null, got {}",
                shown(&value.to_string())
            );
            return Err(vec![FieldError::wrong_type("budget", reason)]);
        };
        let mut fields = Fields::under("budget.", object);
        let max_participations = fields.optional("max_participations", integer(1..=i64::MAX));
        let max_reward_cents = fields.optional("max_reward_cents", integer(1..=i64::MAX));
        let currency_code = fields.optional("currency_code", parsed);
        if fields.has("max_reward_cents") && !fields.has("currency_code") {
            fields.reject("currency_code", "is required with max_reward_cents");
        }
        fields.finish(Some(Self {
            max_participations,
            max_reward_cents,
            currency_code,
        }))
    }

    /// The largest use before `starts` starts whose rewards are these cents together; `None` if the rewards'
    /// currency is not the budget's.
    pub fn room_for(
        &self,
        starts: i64,
        currency_code: CurrencyCode,
        reward_cents: i64,
    ) -> Option<BudgetRoom> {
        if self.currency_code.is_some_and(|code| code != currency_code) {
            return None;
        }
        let most = |max: Option<i64>| max.unwrap_or(i64::MAX);
        Some(BudgetRoom {
            participations: most(self.max_participations) - starts,
            reward_cents: most(self.max_reward_cents) - reward_cents,
        })
    }

    /// Whether these starts fit in addition to the present use; the parameters are those of
    /// [`Budget::room_for`].
    pub fn has_room_for(
        &self,
        used: &BudgetUse,
        starts: i64,
        currency_code: CurrencyCode,
        reward_cents: i64,
    ) -> bool {
        let room = self.room_for(starts, currency_code, reward_cents);
        room.is_some_and(|room| {
            used.participations_reserved + used.participations_spent <= room.participations
                && used.reward_cents_reserved + used.reward_cents_spent <= room.reward_cents
        })
    }

    /// Whether a start with this reward fits in addition to the present use.
    pub fn has_room(&self, used: &BudgetUse, reward: &Reward) -> bool {
        self.has_room_for(used, 1, reward.currency_code, reward.amount_cents)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reward(amount_cents: i64, currency_code: &str) -> Reward {
        Reward {
            product_id: 80,
            amount_cents,
            currency_code: currency_code.parse().expect("a code"),
            repayment_rate: "15".to_owned(),
        }
    }

    fn budget(value: Value) -> Budget {
        Budget::from_json(&value).expect("valid")
    }

    #[test]
    fn a_budget_may_name_either_maximum_and_its_currency_goes_with_cents() {
        assert_eq!(budget(json!({})), Budget::default());
        let whole =
            json!({ "max_participations": 1, "max_reward_cents": 1, "currency_code": "MXN" });
        assert_eq!(
            serde_json::to_value(budget(whole.clone())).expect("JSON"),
            whole
        );
        for (wrong, field) in [
            (json!({ "max_participations": 0 }), "max_participations"),
            (
                json!({ "max_reward_cents": 0, "currency_code": "MXN" }),
                "max_reward_cents",
            ),
            (json!({ "max_reward_cents": 1 }), "currency_code"),
            (json!({ "currency_code": "mxn" }), "currency_code"),
            (json!({ "colour": 1 }), "colour"),
        ] {
            let errors = Budget::from_json(&wrong).expect_err("wrong");
            let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(fields, [format!("budget.{field}")], "{wrong}");
        }
        assert!(Budget::from_json(&json!(1)).expect_err("wrong")[0].wrong_type);
    }

    #[test]
    fn a_start_fits_up_to_the_maximum_and_not_beyond() {
        let used = |participations: i64, cents: i64| BudgetUse {
            participations_reserved: participations - 1,
            participations_spent: 1,
            reward_cents_reserved: cents - 1,
            reward_cents_spent: 1,
        };
        let both = budget(
            json!({ "max_participations": 3, "max_reward_cents": 300, "currency_code": "MXN" }),
        );
        let mxn = reward(100, "MXN");
        assert!(both.has_room(&used(2, 200), &mxn));
        assert!(!both.has_room(&used(3, 200), &mxn));
        assert!(!both.has_room(&used(2, 201), &mxn));
        assert!(!both.has_room(&used(2, 200), &reward(101, "MXN")));
        assert!(!both.has_room(&BudgetUse::default(), &reward(100, "COP")));
        // A maximum below the present use only stops starts.
        let lowered = budget(
            json!({ "max_participations": 1, "max_reward_cents": 1, "currency_code": "MXN" }),
        );
        assert!(!lowered.has_room(&used(3, 300), &mxn));

        // Two together, each of which fits alone.
        let code = mxn.currency_code;
        assert!(both.has_room_for(&used(1, 100), 2, code, 200));
        assert!(!both.has_room_for(&used(2, 100), 2, code, 200));
        assert!(!both.has_room_for(&used(1, 101), 2, code, 200));

        let any_currency = budget(json!({ "max_participations": 3 }));
        assert!(any_currency.has_room(&used(2, i64::MAX - 100), &reward(100, "COP")));
        assert!(!any_currency.has_room(&used(2, i64::MAX - 99), &reward(100, "COP")));
    }
}
