-- no-transaction
-- Operators list, export and count participations, and filter the audit and the quarantine, in work that
-- does not grow with the tables. The release before goes on beside these indexes and uses none of them.
-- None covers a column that a counted ride changes, so that updates of rides stay HOT.

create index concurrently if not exists promotion_user_listing
    on promotion_user (status, started_at, user_id, promotion_id);
create index concurrently if not exists promotion_user_listing_of_promotion
    on promotion_user (promotion_id, status, started_at, user_id);
create index concurrently if not exists promotion_user_completed
    on promotion_user (promotion_id, completed_at) where completed_at is not null;
create index concurrently if not exists promotion_user_rewarded
    on promotion_user (promotion_id, rewarded_at) where rewarded_at is not null;
create index concurrently if not exists promotion_user_expired
    on promotion_user (promotion_id, expired_at, expired_reason) where expired_at is not null;
create index concurrently if not exists admin_audit_by_actor on admin_audit (actor, audit_id);
create index concurrently if not exists admin_audit_by_time on admin_audit (at);
create index concurrently if not exists quarantined_ride_by_reason
    on quarantined_ride (reason, received_at desc, quarantine_id desc);

insert into schema_compatibility values (14, 2) on conflict do nothing;
