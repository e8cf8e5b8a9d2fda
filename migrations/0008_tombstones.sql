-- The outbox may hold tombstones: "forget this key". A row without a type is one; it has no state
-- either. A relay of the release before could not read it, so none is written before the upgrade is
-- finished.

set local lock_timeout = '3s';

alter table event_outbox
    alter column type               drop not null,
    alter column status             drop not null,
    alter column version            drop not null,
    alter column rides_completed    drop not null,
    alter column rides_target       drop not null,
    alter column started_at         drop not null,
    alter column challenge_deadline drop not null,
    alter column reward             drop not null,
    add constraint event_outbox_state check (
        num_nulls(type, status, version, rides_completed, rides_target, started_at, challenge_deadline, reward) in (0, 8)
    ) not valid;
comment on column event_outbox.type is 'Null for a tombstone, which has no state.';

insert into schema_compatibility values (8, 2);
