-- no-transaction
-- Further goals of a challenge, and what receipts say of a ride's distance, source, version and
-- reversal (docs/contract.md, "Goals" and "Reversed rides"). Each statement locks one table for
-- milliseconds and can be run again. A process of the release before leaves the new columns null;
-- goals beyond the rides are written only once the upgrade is finished.

alter table ride_receipt
    add column if not exists distance_m  bigint,
    add column if not exists source      text,
    add column if not exists version     integer,
    add column if not exists reversed_at timestamptz,
    drop constraint if exists ride_receipt_source_check,
    add constraint ride_receipt_source_check check (source in ('TOPIC', 'QUARANTINE', 'OPERATOR')) not valid;
comment on column ride_receipt.distance_m is 'How far the ride went, in metres, where it says so.';
comment on column ride_receipt.source is 'How the ride came; null in rows of a release before 0.2.0.';
comment on column ride_receipt.version is 'The version of the participation that the ride made, alone or with others; null where it moved no goal, and in rows of a release before 0.2.0.';
comment on column ride_receipt.reversed_at is 'When it was recorded that the platform took the ride back.';

alter table promotion_user
    add column if not exists further_goals  jsonb,
    add column if not exists rides_counted  integer,
    add column if not exists days_counted   integer,
    add column if not exists amount_counted numeric,
    drop constraint if exists promotion_user_status,
    add constraint promotion_user_status check (
        case status
            when 'IN_PROGRESS' then (rides_completed < rides_target or further_goals is not null)
                and num_nonnulls(completed_at, reward_deadline, rewarded_at, expired_at, expired_reason) = 0
            when 'COMPLETED' then rides_completed = rides_target
                and completed_at is not null and reward_deadline > completed_at
                and num_nonnulls(rewarded_at, expired_at, expired_reason) = 0
            when 'REWARDED' then rides_completed = rides_target
                and completed_at is not null and reward_deadline is not null
                and rewarded_at is not null and rewarded_at < reward_deadline
                and num_nonnulls(expired_at, expired_reason) = 0
            when 'EXPIRED' then rewarded_at is null and expired_at is not null
                and case expired_reason
                        when 'CHALLENGE_NOT_COMPLETED' then (rides_completed < rides_target or further_goals is not null)
                            and num_nonnulls(completed_at, reward_deadline) = 0
                            and expired_at >= challenge_deadline
                        when 'REWARD_NOT_CLAIMED' then rides_completed = rides_target
                            and completed_at is not null and reward_deadline is not null
                            and expired_at >= reward_deadline
                        else false
                    end
            else false
        end) not valid,
    drop constraint if exists promotion_user_counters,
    add constraint promotion_user_counters check (
        rides_counted >= rides_completed and days_counted >= 0 and amount_counted >= 0
    ) not valid;
comment on column promotion_user.further_goals is 'The goals beyond the number of rides, as clients are told them: {"days": {"completed", "target"}, "amount_cents": {…}}; null where the promotion has none.';
comment on column promotion_user.rides_counted is 'All counted rides, also those beyond rides_target; null where there are no further goals, because then there are none beyond.';
comment on column promotion_user.days_counted is 'The local days with a counted ride; not null where participation_day is kept for this participation.';
comment on column promotion_user.amount_counted is 'The exact sum of the fares of all counted rides, in cents; null where there are no further goals.';

alter table event_outbox add column if not exists further_goals jsonb;
comment on column event_outbox.further_goals is 'promotion_user.further_goals after the change.';

create table if not exists participation_day (
    user_id      bigint  not null,
    promotion_id bigint  not null,
    day          date    not null,
    counted      integer not null check (counted >= 0),
    primary key (user_id, promotion_id, day)
) with (fillfactor = 80);
comment on table participation_day is 'How many rides of a local day count now, so that neither a daily limit nor a goal of days reads receipts. Written under the participation''s row lock. Kept where promotion_user.days_counted is not null.';

insert into schema_compatibility values (10, 2) on conflict do nothing;
