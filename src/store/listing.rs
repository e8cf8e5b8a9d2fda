//! Lists participations for operators: in pages, each under its own snapshot. The work for a page does not grow
//! with the table.

use sqlx::types::Json;
use uuid::Uuid;

use super::state::state_of;
use super::{END_OF_TIME, Result, Store};
use crate::domain::goals::FurtherGoals;
use crate::domain::participation::{ExpiredReason, StatusName};
use crate::domain::reward::Reward;
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::listing::ListedParticipation;

/// The filter of the list; `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParticipationFilter {
    /// Only participations in this promotion.
    pub promotion_id: Option<PromotionId>,
    /// Only participations that have this status now.
    pub status: Option<StatusName>,
    /// Only participations of this client.
    pub user_id: Option<UserId>,
    /// Only participations started at or after this instant.
    pub started_from: Option<Instant>,
    /// Only participations started before this instant.
    pub started_to: Option<Instant>,
}

/// A place in the list, which is ordered from the newest start to the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The start.
    pub started_at: Instant,
    /// The client.
    pub user_id: UserId,
    /// The promotion.
    pub promotion_id: PromotionId,
}

impl Place {
    /// The place of a participation.
    pub fn of(participation: &ListedParticipation) -> Self {
        let state = &participation.state;
        Self {
            started_at: state.started_at,
            user_id: state.user_id,
            promotion_id: state.promotion_id,
        }
    }

    /// The place between participations started at this instant or later and those started before.
    const fn before_all_at(started_at: Instant) -> Self {
        Self {
            started_at,
            user_id: i64::MIN,
            promotion_id: i64::MIN,
        }
    }

    /// The place before every participation.
    const FIRST: Self = Self {
        started_at: END_OF_TIME,
        user_id: i64::MAX,
        promotion_id: i64::MAX,
    };
}

/// A row of the list.
struct Row {
    user_id: UserId,
    promotion_id: PromotionId,
    promotion_key: String,
    status: StatusName,
    version: i32,
    rides_completed: i32,
    rides_target: i32,
    further_goals: Option<Json<FurtherGoals>>,
    started_at: Instant,
    challenge_deadline: Instant,
    completed_at: Option<Instant>,
    reward_deadline: Option<Instant>,
    rewarded_at: Option<Instant>,
    expired_at: Option<Instant>,
    expired_reason: Option<ExpiredReason>,
    reward: Json<Reward>,
    pre_offer_id: Uuid,
    country_code: String,
    acknowledged_at: Option<Instant>,
    now: Instant,
}

impl Store {
    /// Participations, the newest start first: those after the place `after`, at most `limit`. It is one
    /// statement, so it has one snapshot.
    pub async fn participations(
        &self,
        filter: &ParticipationFilter,
        after: Option<Place>,
        limit: i64,
    ) -> Result<Vec<ListedParticipation>> {
        let statuses: &[StatusName] = match &filter.status {
            Some(status) => std::slice::from_ref(status),
            None => &StatusName::ALL,
        };
        // There is one upper bound, because with two Postgres may begin its scan at the later one.
        let after = after.unwrap_or(Place::FIRST);
        let after = match filter.started_to {
            Some(to) if to <= after.started_at => Place::before_all_at(to),
            _ => after,
        };
        // An index returns the keys in the order of the list, status by status, each up to the limit: for one
        // promotion, for all, or for one client, whose few keys are all read. Two of the three parts have a
        // condition that is false before anything is read.
        let rows = sqlx::query_as!(
            Row,
            r#"with keys as (
                   select k.user_id, k.promotion_id, k.started_at
                     from unnest($1::text[]) s (status)
                    cross join lateral (
                          select p.user_id, p.promotion_id, p.started_at from promotion_user p
                           where p.promotion_id = $2 and p.status = s.status
                             and p.started_at >= $4
                             and (p.started_at, p.user_id, p.promotion_id) < ($5, $6, $7)
                           order by p.started_at desc, p.user_id desc
                           limit $8) k
                    where $2::bigint is not null and $3::bigint is null
                   union all
                   select k.user_id, k.promotion_id, k.started_at
                     from unnest($1::text[]) s (status)
                    cross join lateral (
                          select p.user_id, p.promotion_id, p.started_at from promotion_user p
                           where p.status = s.status
                             and p.started_at >= $4
                             and (p.started_at, p.user_id, p.promotion_id) < ($5, $6, $7)
                           order by p.started_at desc, p.user_id desc, p.promotion_id desc
                           limit $8) k
                    where $2::bigint is null and $3::bigint is null
                   union all
                   select p.user_id, p.promotion_id, p.started_at from promotion_user p
                    where p.user_id = $3 and p.status = any($1)
                      and ($2::bigint is null or p.promotion_id = $2)
                      and p.started_at >= $4
                      and (p.started_at, p.user_id, p.promotion_id) < ($5, $6, $7)
                      and $3::bigint is not null),
               page as (
                   select * from keys order by started_at desc, user_id desc, promotion_id desc limit $8)
               select p.user_id, p.promotion_id, m.promotion_key, p.status as "status: StatusName", p.version,
                      p.rides_completed, p.rides_target, p.further_goals as "further_goals: Json<FurtherGoals>", p.started_at, p.challenge_deadline, p.completed_at,
                      p.reward_deadline, p.rewarded_at, p.expired_at, p.expired_reason as "expired_reason: ExpiredReason",
                      p.reward as "reward: Json<Reward>", p.pre_offer_id, p.country_code, p.acknowledged_at,
                      c.now as "now!"
                 from page
                 join promotion_user p using (user_id, promotion_id)
                 join promotion m using (promotion_id)
                cross join (select clock_ms() as now) c
                order by p.started_at desc, p.user_id desc, p.promotion_id desc"#,
            statuses as &[StatusName],
            filter.promotion_id,
            filter.user_id,
            filter.started_from.unwrap_or(Instant::UNIX_EPOCH),
            after.started_at,
            after.user_id,
            after.promotion_id,
            limit
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        rows.into_iter()
            .map(|row| {
                let (pre_offer_id, country_code) = (row.pre_offer_id, row.country_code);
                let (acknowledged_at, now) = (row.acknowledged_at, row.now);
                let state = state_of!(row)?;
                Ok(ListedParticipation {
                    settling: state.is_settling(now),
                    state,
                    pre_offer_id,
                    country_code,
                    acknowledged_at,
                })
            })
            .collect()
    }
}
