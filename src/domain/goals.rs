//! The goals of a challenge (contract 2, "Goals"): rides, local days with a ride, and the sum of the
//! fares. Each depends only on the set of counted rides, not on their order.

use serde::{Deserialize, Serialize};

use super::promotion::Conditions;
use super::words::words;

words! {
    /// What a goal counts.
    pub enum GoalName {
        /// Counted rides.
        Rides = "RIDES",
        /// Local calendar days with at least one counted ride.
        Days = "DAYS",
        /// The fares of the counted rides, in cents.
        Amount = "AMOUNT",
    }
}

/// One goal as clients and subscribers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Goal {
    /// What it counts.
    pub goal: GoalName,
    /// The amount reached: rides, days or cents; at most `target`.
    #[schema(minimum = 0, example = 6)]
    pub completed: i64,
    /// The amount needed.
    #[schema(minimum = 1, example = 20)]
    pub target: i64,
}

/// How much of a goal is reached, at most its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoalProgress {
    /// At most `target`.
    pub completed: i64,
    /// At least 1.
    pub target: i64,
}

impl GoalProgress {
    fn of(sum: i128, target: i64) -> Self {
        Self {
            completed: i64::try_from(sum).map_or(target, |sum| sum.min(target)),
            target,
        }
    }
}

/// The goals beyond the number of rides. Stored as JSON beside the participation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FurtherGoals {
    /// Local days, if the promotion has this goal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<GoalProgress>,
    /// Cents, if the promotion has this goal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount_cents: Option<GoalProgress>,
}

/// Every goal of a participation, as clients see it, in the order of [`GoalName`].
pub fn told(rides: GoalProgress, further: Option<FurtherGoals>) -> Vec<Goal> {
    let further = further.as_ref();
    let goals = [
        (GoalName::Rides, Some(rides)),
        (GoalName::Days, further.and_then(|further| further.days)),
        (
            GoalName::Amount,
            further.and_then(|further| further.amount_cents),
        ),
    ];
    let asked = goals.into_iter().filter_map(|(goal, reached)| {
        let GoalProgress { completed, target } = reached?;
        Some(Goal {
            goal,
            completed,
            target,
        })
    });
    asked.collect()
}

/// The further goals within a list that [`told`] made.
pub fn further_of(goals: &[Goal]) -> Option<FurtherGoals> {
    let of = |name| {
        let goal = goals.iter().find(|goal| goal.goal == name)?;
        Some(GoalProgress {
            completed: goal.completed,
            target: goal.target,
        })
    };
    let further = FurtherGoals {
        days: of(GoalName::Days),
        amount_cents: of(GoalName::Amount),
    };
    (further.days.is_some() || further.amount_cents.is_some()).then_some(further)
}

/// The exact counts, also beyond the targets, so that a reversal can reduce them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Counted rides.
    pub rides: u32,
    /// Local days with a counted ride, if the conditions count days.
    pub days: u32,
    /// The sum of their fares in cents. Wider than any sum of 64-bit fares that can occur.
    pub amount_cents: i128,
}

impl Conditions {
    /// Whether there is a goal beyond the number of rides.
    pub fn has_further_goals(&self) -> bool {
        self.target_days.is_some() || self.target_amount_cents.is_some()
    }

    /// `rides_completed`: at most the target.
    pub fn rides_completed(&self, tally: &Tally) -> u32 {
        tally.rides.min(self.target_rides)
    }

    /// The progress of the goals beyond the number of rides.
    pub fn further_goals(&self, tally: &Tally) -> Option<FurtherGoals> {
        if !self.has_further_goals() {
            return None;
        }
        Some(FurtherGoals {
            days: self
                .target_days
                .map(|target| GoalProgress::of(tally.days.into(), target.into())),
            amount_cents: self
                .target_amount_cents
                .map(|target| GoalProgress::of(tally.amount_cents, target)),
        })
    }

    /// Whether every goal is reached.
    pub fn is_reached_by(&self, tally: &Tally) -> bool {
        tally.rides >= self.target_rides && self.has_reached_further_goals(tally)
    }

    /// Whether every goal beyond the number of rides is reached.
    pub fn has_reached_further_goals(&self, tally: &Tally) -> bool {
        self.target_days.is_none_or(|target| tally.days >= target)
            && self
                .target_amount_cents
                .is_none_or(|target| tally.amount_cents >= target.into())
    }

    /// Whether clients see a difference between `before` and `after`.
    pub fn tells_apart(&self, before: &Tally, after: &Tally) -> bool {
        self.rides_completed(before) != self.rides_completed(after)
            || self.further_goals(before) != self.further_goals(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_ends_at_the_target_also_for_sums_beyond_64_bits() {
        let completed = |sum: i128, target| GoalProgress::of(sum, target).completed;
        assert_eq!(completed(4, 5), 4);
        assert_eq!(completed(6, 5), 5);
        assert_eq!(completed(i128::from(i64::MAX) + 1, i64::MAX), i64::MAX);
        assert_eq!(completed(i128::from(i64::MAX) * 10_000, 5), 5);
    }
}
