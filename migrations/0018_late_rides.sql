-- no-transaction
-- What is needed to judge a ride again that was completed after the deadline, when the deadline is
-- moved (docs/contract.md, "Extensions").

alter table ride_receipt add column if not exists late_ride jsonb;
comment on column ride_receipt.late_ride is 'Where the verdict is AFTER_DEADLINE: what the ride says beside the other columns. Null in rows of a release before 0.2.0, and where there is nothing to judge again.';

alter table event_outbox validate constraint event_outbox_type_check;

insert into schema_compatibility values (18, 2) on conflict do nothing;
