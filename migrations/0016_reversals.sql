-- no-transaction
-- Verdicts of the new narrowings and of reversals, receipts of rides of which only the reversal came,
-- and the list of reversals that came too late (docs/contract.md, "Reversed rides"). Each statement
-- locks one table for milliseconds and can be run again; validating reads a table beside its writers.
-- Nothing of this is written before the upgrade is finished.

alter table ride_receipt
    alter column completed_at  drop not null,
    alter column amount_cents  drop not null,
    alter column currency_code drop not null,
    alter column fingerprint   drop not null,
    drop constraint if exists ride_receipt_verdict_check,
    add constraint ride_receipt_verdict_check check (verdict in (
        'BEFORE_START', 'AFTER_DEADLINE', 'WRONG_CURRENCY', 'BELOW_MIN_AMOUNT', 'BELOW_MIN_DISTANCE', 'OUTSIDE_AREA',
        'WRONG_SERVICE_TYPE', 'OUTSIDE_HOURS', 'DAILY_LIMIT_REACHED', 'COUNTED', 'REVERSED')) not valid,
    drop constraint if exists ride_receipt_unseen,
    add constraint ride_receipt_unseen check (
        num_nulls(completed_at, amount_cents, currency_code, fingerprint) = 0
        or (num_nulls(completed_at, amount_cents, currency_code, fingerprint) = 4 and verdict = 'REVERSED')
    ) not valid,
    drop constraint if exists ride_receipt_reversed,
    add constraint ride_receipt_reversed check (verdict <> 'REVERSED' or reversed_at is not null) not valid;
comment on column ride_receipt.completed_at is 'Null, as the other columns of the ride, where only its reversal came.';

create table if not exists late_reversal (
    user_id      bigint      not null,
    promotion_id bigint      not null,
    ride_id      uuid        not null,
    reversed_at  timestamptz not null,
    primary key (user_id, promotion_id, ride_id),
    unique (reversed_at, user_id, promotion_id, ride_id)
);
comment on table late_reversal is 'Reversals that came after their challenge was completed: they undo nothing, and operators look at them.';

alter table ride_receipt validate constraint ride_receipt_source_check;

alter table ride_receipt validate constraint ride_receipt_verdict_check;

alter table ride_receipt validate constraint ride_receipt_unseen;

alter table ride_receipt validate constraint ride_receipt_reversed;

alter table promotion_user validate constraint promotion_user_status;

alter table promotion_user validate constraint promotion_user_counters;

insert into schema_compatibility values (16, 2) on conflict do nothing;
