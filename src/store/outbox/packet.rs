//! Packets: the progress that one batch of rides makes, in few rows of the outbox.
//!
//! A row for each event costs Postgres an insert with two index entries, a read, a delete and the
//! removal of the dead row, for every ride that counts. A packet shares them among a thousand events.

use std::collections::HashMap;

use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::{OutboxRecord, RecordContent, lacks};
use crate::domain::goals::FurtherGoals;
use crate::domain::participation::{Status, StatusName};
use crate::domain::reward::Reward;
use crate::domain::{Instant, PromotionId, UserId};
use crate::store::Result;
use crate::wire::participation::State;
use crate::wire::promotion_status::{EventType, PromotionStatus};

/// The most events of a packet. A relay publishes whole packets in one Kafka transaction.
const MAX_EVENTS: usize = 1_000;

/// A `promotion.progressed` of a participation that stays `IN_PROGRESS`.
pub(in crate::store) struct Progressed {
    pub(in crate::store) event_id: Uuid,
    pub(in crate::store) user_id: UserId,
    pub(in crate::store) promotion_id: PromotionId,
    pub(in crate::store) version: i32,
    pub(in crate::store) rides_completed: i32,
    pub(in crate::store) rides_target: i32,
    pub(in crate::store) further_goals: Option<FurtherGoals>,
    pub(in crate::store) started_at: Instant,
    pub(in crate::store) challenge_deadline: Instant,
    /// JSON, as Postgres writes it.
    pub(in crate::store) reward: String,
    pub(in crate::store) traceparent: Option<String>,
}

/// The events of a batch, a column each.
#[derive(Default)]
struct Columns<'a> {
    event_ids: Vec<Uuid>,
    user_ids: Vec<UserId>,
    promotion_ids: Vec<PromotionId>,
    versions: Vec<i32>,
    rides_completed: Vec<i32>,
    rides_targets: Vec<i32>,
    started_at: Vec<Instant>,
    challenge_deadlines: Vec<Instant>,
    rewards: Vec<&'a str>,
    reward_of: Vec<i32>,
    further_goals: Vec<Option<Json<&'a FurtherGoals>>>,
    traceparents: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn of(events: &'a [Progressed]) -> Self {
        let mut columns = Self::default();
        let mut place_of: HashMap<&str, i32> = HashMap::new();
        for event in events {
            columns.event_ids.push(event.event_id);
            columns.user_ids.push(event.user_id);
            columns.promotion_ids.push(event.promotion_id);
            columns.versions.push(event.version);
            columns.rides_completed.push(event.rides_completed);
            columns.rides_targets.push(event.rides_target);
            columns.started_at.push(event.started_at);
            columns.challenge_deadlines.push(event.challenge_deadline);
            let rewards = &mut columns.rewards;
            columns
                .reward_of
                .push(*place_of.entry(&event.reward).or_insert_with(|| {
                    rewards.push(&event.reward);
                    (rewards.len() - 1).try_into().unwrap_or(i32::MAX)
                }));
            columns
                .further_goals
                .push(event.further_goals.as_ref().map(Json));
            columns.traceparents.push(event.traceparent.as_deref());
        }
        columns
    }
}

/// Writes these events, which happened at this moment, into the outbox. The caller holds the row
/// locks of their participations.
pub(in crate::store) async fn write(
    connection: &mut PgConnection,
    events: &[Progressed],
    occurred_at: Instant,
) -> Result<()> {
    for events in events.chunks(MAX_EVENTS) {
        let columns = Columns::of(events);
        let further_goals =
            Some(&*columns.further_goals).filter(|goals| goals.iter().any(Option::is_some));
        let traceparents = Some(&*columns.traceparents)
            .filter(|traceparents| traceparents.iter().any(Option::is_some));
        sqlx::query!(
            "insert into event_outbox (occurred_at, events, packet_event_ids, packet_user_ids, packet_promotion_ids, packet_versions,
                                       packet_rides_completed, packet_rides_targets, packet_started_at, packet_challenge_deadlines,
                                       packet_rewards, packet_reward_of, packet_further_goals, packet_traceparents)
             values ($1, cardinality($2::uuid[]), $2, $3, $4, $5, $6, $7, $8, $9, $10::text::jsonb, $11, $12::jsonb[], $13::text[])",
            occurred_at,
            &columns.event_ids,
            &columns.user_ids,
            &columns.promotion_ids,
            &columns.versions,
            &columns.rides_completed,
            &columns.rides_targets,
            &columns.started_at,
            &columns.challenge_deadlines,
            format!("[{}]", columns.rewards.join(",")),
            &columns.reward_of,
            further_goals as Option<&[Option<Json<&FurtherGoals>>]>,
            traceparents as Option<&[Option<&str>]>
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// A packet as it is read.
pub(super) struct Packet {
    pub(super) id: i64,
    pub(super) occurred_at: Instant,
    pub(super) event_ids: Vec<Uuid>,
    pub(super) user_ids: Vec<UserId>,
    pub(super) promotion_ids: Vec<PromotionId>,
    pub(super) versions: Vec<i32>,
    pub(super) rides_completed: Vec<i32>,
    pub(super) rides_targets: Vec<i32>,
    pub(super) started_at: Vec<Instant>,
    pub(super) challenge_deadlines: Vec<Instant>,
    pub(super) rewards: Json<Vec<Reward>>,
    pub(super) reward_of: Vec<i32>,
    pub(super) further_goals: Option<Vec<Option<Json<FurtherGoals>>>>,
    pub(super) traceparents: Option<Vec<Option<String>>>,
}

impl Packet {
    /// Its events, in order. `keys` has the keys of its promotions.
    pub(super) fn events(
        mut self,
        keys: &HashMap<PromotionId, String>,
    ) -> Result<Vec<OutboxRecord>> {
        let id = self.id;
        (0..self.event_ids.len())
            .map(|at| {
                self.event(at, keys)
                    .ok_or_else(|| lacks(id, "an element of its packet"))
            })
            .collect()
    }

    fn event(&mut self, at: usize, keys: &HashMap<PromotionId, String>) -> Option<OutboxRecord> {
        let reward = usize::try_from(*self.reward_of.get(at)?).ok()?;
        let promotion_id = *self.promotion_ids.get(at)?;
        let state = State {
            user_id: *self.user_ids.get(at)?,
            promotion_id,
            promotion_key: keys.get(&promotion_id)?.clone(),
            status: Status::InProgress,
            version: *self.versions.get(at)?,
            rides_completed: *self.rides_completed.get(at)?,
            rides_target: *self.rides_targets.get(at)?,
            further_goals: match &mut self.further_goals {
                Some(goals) => goals.get_mut(at)?.take().map(|Json(goals)| goals),
                None => None,
            },
            started_at: *self.started_at.get(at)?,
            challenge_deadline: *self.challenge_deadlines.get(at)?,
            reward: self.rewards.get(reward)?.clone(),
        };
        Some(OutboxRecord {
            id: self.id,
            user_id: state.user_id,
            promotion_id,
            content: RecordContent::Status(Box::new(PromotionStatus {
                event_id: *self.event_ids.get(at)?,
                event_type: EventType::Progressed,
                state,
                previous_status: Some(StatusName::InProgress),
                occurred_at: self.occurred_at,
                extension: None,
            })),
            traceparent: match &mut self.traceparents {
                Some(traceparents) => traceparents.get_mut(at)?.take(),
                None => None,
            },
        })
    }
}

/// Removes the events of these participations from the packets that wait.
pub(in crate::store) async fn remove(
    connection: &mut PgConnection,
    keys: &[(UserId, PromotionId)],
) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = keys.iter().copied().unzip();
    // The columns are those of the row that is updated: two removals at the same time keep neither's
    // events.
    let changed = sqlx::query_scalar!(
        "update event_outbox e
            set (events, packet_event_ids, packet_user_ids, packet_promotion_ids, packet_versions, packet_rides_completed,
                 packet_rides_targets, packet_started_at, packet_challenge_deadlines, packet_reward_of, packet_further_goals,
                 packet_traceparents)
              = (select count(*), coalesce(array_agg(p.event_id order by p.place), '{}'),
                        coalesce(array_agg(p.user_id order by p.place), '{}'),
                        coalesce(array_agg(p.promotion_id order by p.place), '{}'),
                        coalesce(array_agg(p.version order by p.place), '{}'),
                        coalesce(array_agg(p.rides_completed order by p.place), '{}'),
                        coalesce(array_agg(p.rides_target order by p.place), '{}'),
                        coalesce(array_agg(p.started_at order by p.place), '{}'),
                        coalesce(array_agg(p.challenge_deadline order by p.place), '{}'),
                        coalesce(array_agg(p.reward_of order by p.place), '{}'),
                        case when e.packet_further_goals is not null then array_agg(p.further_goals order by p.place) end,
                        case when e.packet_traceparents is not null then array_agg(p.traceparent order by p.place) end
                   from unnest(e.packet_event_ids, e.packet_user_ids, e.packet_promotion_ids, e.packet_versions,
                               e.packet_rides_completed, e.packet_rides_targets, e.packet_started_at,
                               e.packet_challenge_deadlines, e.packet_reward_of, e.packet_further_goals, e.packet_traceparents)
                        with ordinality
                        p (event_id, user_id, promotion_id, version, rides_completed, rides_target, started_at,
                           challenge_deadline, reward_of, further_goals, traceparent, place)
                  where (p.user_id, p.promotion_id) not in (select * from unnest($1::bigint[], $2::bigint[])))
          where e.packet_user_ids && $1::bigint[]
      returning e.id",
        &users,
        &promotions
    )
    .fetch_all(&mut *connection)
    .await?;
    sqlx::query!(
        "delete from event_outbox where id = any($1) and events = 0",
        &changed
    )
    .execute(connection)
    .await?;
    Ok(())
}
