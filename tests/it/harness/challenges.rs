//! Participations written straight into the database: with windows in the past, or very many.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{PgExecutor, PgPool};

use super::{World, now};

/// A promotion whose participations a test writes itself.
#[derive(Clone, Debug)]
pub struct Challenges {
    pool: PgPool,
    /// The promotion.
    pub promotion_id: i64,
    target: i32,
    conditions: Value,
}

/// How a challenge can have ended, or be about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `COMPLETED`, with a week to claim.
    Completed,
    /// `COMPLETED`, past its reward's deadline, and the expiry is not recorded yet.
    TooLate,
    /// `REWARDED`, without anything that accepting creates.
    Rewarded,
    /// `EXPIRED`, `CHALLENGE_NOT_COMPLETED`.
    NotCompleted,
    /// `EXPIRED`, `REWARD_NOT_CLAIMED`.
    NotClaimed,
}

/// Ends a participation that is in progress as rides, the clock, the sweeper and accepting would.
pub async fn end_by_force(world: &World, user_id: i64, promotion_id: i64, end: End) {
    let columns = match end {
        End::Completed => {
            "status = 'COMPLETED', rides_completed = rides_target, completed_at = clock_ms(),
             reward_deadline = clock_ms() + interval '7 days'"
        }
        End::TooLate => {
            "status = 'COMPLETED', rides_completed = rides_target, completed_at = clock_ms() - interval '7 days',
             reward_deadline = clock_ms()"
        }
        End::Rewarded => {
            "status = 'REWARDED', rides_completed = rides_target, completed_at = clock_ms(),
             reward_deadline = clock_ms() + interval '7 days', rewarded_at = clock_ms()"
        }
        End::NotCompleted => {
            "status = 'EXPIRED', expired_at = challenge_deadline, expired_reason = 'CHALLENGE_NOT_COMPLETED'"
        }
        End::NotClaimed => {
            "status = 'EXPIRED', rides_completed = rides_target, completed_at = clock_ms() - interval '7 days',
             reward_deadline = clock_ms(), expired_at = clock_ms(), expired_reason = 'REWARD_NOT_CLAIMED'"
        }
    };
    let statement = format!(
        "update promotion_user set version = version + 1, {columns} where user_id = $1 and promotion_id = $2"
    );
    let ended = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(user_id)
        .bind(promotion_id)
        .execute(world.pool())
        .await
        .expect("a possible state");
    assert_eq!(ended.rows_affected(), 1, "{user_id} takes part");
    if matches!(end, End::NotCompleted | End::NotClaimed) {
        let split = "update cash_loan_account set status = 'EXPIRED' where user_id = $1 and promotion_id = $2 and status = 'ACTIVE'";
        sqlx::query(split)
            .bind(user_id)
            .bind(promotion_id)
            .execute(world.pool())
            .await
            .expect("the database answers");
    }
}

/// What is reserved and what is spent of a promotion's budget, as its participations say; in the same
/// snapshot `budget_use` must say the same.
pub async fn budget_in_use(world: &World, promotion_id: i64) -> (i64, i64) {
    let (reserved, spent, counted, in_use): (i64, i64, Vec<i64>, Vec<i64>) = sqlx::query_as(
        "select p.reserved, p.spent,
                array[p.reserved, p.spent, p.reserved_cents, p.spent_cents],
                array[u.participations_reserved, u.participations_spent, u.reward_cents_reserved, u.reward_cents_spent]
           from budget_use u
          cross join lateral (
                select count(*) filter (where is_live) as reserved, count(*) filter (where status = 'REWARDED') as spent,
                       coalesce(sum(cents) filter (where is_live), 0)::bigint as reserved_cents,
                       coalesce(sum(cents) filter (where status = 'REWARDED'), 0)::bigint as spent_cents
                  from (select status, status in ('IN_PROGRESS', 'COMPLETED') as is_live,
                               (reward ->> 'amount_cents')::bigint as cents
                          from promotion_user where promotion_id = u.promotion_id) participations) p
          where u.promotion_id = $1",
    )
    .bind(promotion_id)
    .fetch_one(world.pool())
    .await
    .expect("its use is counted");
    assert_eq!(counted, in_use, "participations and budget_use disagree");
    (reserved, spent)
}

/// What a participation has come to.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Standing {
    /// The client.
    pub user_id: i64,
    /// `status`
    pub status: String,
    /// `rides_completed`
    pub rides_completed: i32,
    /// `version`
    pub version: i32,
    /// The receipts that count.
    pub counted: i64,
}

impl Challenges {
    /// A promotion under these conditions.
    pub async fn new(world: &World, conditions: &Value) -> Self {
        let pool = world.pool().clone();
        let promotion_id = sqlx::query_scalar(
            "with made as (insert into promotion (promotion_key, title, conditions)
                 values (gen_random_uuid()::text, 'A test', $1) returning promotion_id),
             terms as (insert into promotion_terms (promotion_id, conditions) select promotion_id, $1 from made)
             select promotion_id from made",
        )
        .bind(conditions)
        .fetch_one(&pool)
        .await
        .expect("the promotion is valid");
        let target = conditions["target_rides"].as_i64().expect("required");
        Self {
            pool,
            promotion_id,
            target: i32::try_from(target).expect("small"),
            conditions: conditions.clone(),
        }
    }

    /// Gives it a budget for this many participations, before the first start.
    pub async fn with_budget(self, max_participations: i64) -> Self {
        let budget = json!({ "max_participations": max_participations, "max_reward_cents": null, "currency_code": "MXN" });
        sqlx::query(
            "with budgeted as (update promotion set budget = $2, has_budget_use = true where promotion_id = $1)
             insert into budget_use (promotion_id, currency_code) values ($1, 'MXN')",
        )
        .bind(self.promotion_id)
        .bind(budget)
        .execute(&self.pool)
        .await
        .expect("it has none");
        self
    }

    /// Starts these clients with a window of the test's choice, in milliseconds as the service cuts
    /// every instant, started event and all. A window of whole seconds is what their frozen conditions
    /// say.
    pub async fn start(&self, users: &[i64], started_at: DateTime<Utc>, deadline: DateTime<Utc>) {
        self.start_on(&self.pool, users, started_at, deadline).await;
    }

    /// Starts these clients in a window that began an hour ago and lasts another.
    pub async fn start_an_hour_ago(&self, users: &[i64]) {
        let (now, hour) = (now(), TimeDelta::hours(1));
        self.start(users, now - hour, now + hour).await;
    }

    /// [`Challenges::start`] in a transaction of the test's own, to be committed when it likes.
    pub async fn start_on(
        &self,
        executor: impl PgExecutor<'_>,
        users: &[i64],
        started_at: DateTime<Utc>,
        deadline: DateTime<Utc>,
    ) {
        let (started_at, deadline) = (started_at.trunc_subsecs(3), deadline.trunc_subsecs(3));
        let window = deadline - started_at;
        let is_whole = window > TimeDelta::zero() && window.subsec_nanos() == 0;
        let period = is_whole.then(|| format!("PT{}S", window.num_seconds()));
        let reward = json!({ "product_id": 80, "amount_cents": 100_000, "currency_code": "MXN", "repayment_rate": "15" });
        let terms_id = self.terms(period).await;
        let is_current: bool =
            sqlx::query_scalar("select to_regclass('participation_day') is not null")
                .fetch_one(&self.pool)
                .await
                .expect("it can be asked");
        // The release before knows neither goals beyond the rides, nor budgets, nor reminders.
        let (columns, values, kept, goals) = if is_current {
            (
                ", further_goals, rides_counted, amount_counted, days_counted",
                ", $8::jsonb, case when $8 is not null then 0 end, case when $8 is not null then 0 end, $9::int",
                "reserved as (
                     update budget_use set participations_reserved = participations_reserved + cardinality($1::bigint[]),
                                           reward_cents_reserved = reward_cents_reserved + cardinality($1::bigint[])::bigint * 100000
                      where promotion_id = $2),
                 reminders as (
                     insert into participation_reminder (user_id, promotion_id, next_at)
                     select user_id, promotion_id, clock_ms() from made join promotion_terms using (terms_id, promotion_id)
                      where conditions ? 'reminders'),",
                ", further_goals",
            )
        } else {
            ("", "", "unused as (select $8::jsonb, $9::int),", "")
        };
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "with made as (
                 insert into promotion_user (user_id, promotion_id, terms_id, status, rides_target, started_at,
                                             challenge_deadline, reward, pre_offer_id, country_code, receipts_month{columns})
                 select user_id, $2, $7, 'IN_PROGRESS', $3, $4,
                        $5, $6, gen_random_uuid(), 'MX', date_trunc('month', $4 at time zone 'UTC')::date{values}
                   from unnest($1) user_id
                 returning *),
             {kept}
             told as (select * from made)
             insert into event_outbox (event_id, type, user_id, promotion_id, status, version, rides_completed, rides_target,
                                       started_at, challenge_deadline, reward, occurred_at{goals})
             select gen_random_uuid(), 'promotion.started', user_id, promotion_id, status, version, 0, rides_target, started_at,
                    challenge_deadline, reward, clock_ms(){goals} from told"
        )))
        .bind(users)
        .bind(self.promotion_id)
        .bind(self.target)
        .bind(started_at)
        .bind(deadline)
        .bind(reward)
        .bind(terms_id)
        .bind(self.further_goals())
        .bind(self.counts_days().then_some(0))
        .execute(executor)
        .await
        .expect("nobody has started yet");
    }

    /// The frozen conditions with this period, where one is given. In a transaction of their own: a start
    /// that is left open must not hold up the next.
    async fn terms(&self, period: Option<String>) -> i64 {
        sqlx::query_scalar(
            "insert into promotion_terms (promotion_id, conditions)
             select promotion_id,
                    case when $2::text is null then conditions
                         else conditions || jsonb_build_object('challenge_period', $2::text) end
               from promotion where promotion_id = $1
             on conflict (promotion_id, md5(conditions::text)) do update set promotion_id = excluded.promotion_id
             returning terms_id",
        )
        .bind(self.promotion_id)
        .bind(period)
        .fetch_one(&self.pool)
        .await
        .expect("there is the promotion")
    }

    /// The goals beyond the rides at the start, as a start of the service writes them.
    fn further_goals(&self) -> Option<Value> {
        let reached = |name: &str| {
            let target = self
                .conditions
                .get(name)
                .filter(|target| !target.is_null())?;
            Some(json!({ "completed": 0, "target": target }))
        };
        let mut goals = serde_json::Map::new();
        for (name, goal) in [
            ("days", "target_days"),
            ("amount_cents", "target_amount_cents"),
        ] {
            goals.extend(reached(goal).map(|reached| (name.to_owned(), reached)));
        }
        (!goals.is_empty()).then_some(Value::Object(goals))
    }

    fn counts_days(&self) -> bool {
        ["target_days", "max_rides_per_day"].iter().any(|name| {
            self.conditions
                .get(name)
                .is_some_and(|value| !value.is_null())
        })
    }

    /// Where every participation stands, by client.
    pub async fn standings(&self) -> Vec<Standing> {
        sqlx::query_as(
            "select p.user_id, p.status, p.rides_completed, p.version,
                    (select count(*) from ride_receipt r
                      where r.user_id = p.user_id and r.promotion_id = p.promotion_id and r.verdict = 'COUNTED') as counted
               from promotion_user p where p.promotion_id = $1 order by p.user_id",
        )
        .bind(self.promotion_id)
        .fetch_all(&self.pool)
        .await
        .expect("the database answers")
    }

    /// Where one participation stands.
    pub async fn standing(&self, user_id: i64) -> Standing {
        let standings = self.standings().await;
        standings
            .into_iter()
            .find(|standing| standing.user_id == user_id)
            .expect("it has started")
    }
}
