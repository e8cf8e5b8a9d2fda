-- The event that a participation's present state was published with, so that it can be published
-- again under the same id and version. A process of the release before leaves it as it is:
-- last_event_version then differs from version, and the event counts as unknown.

set local lock_timeout = '3s';

-- The names are none that a statement of the release before gives to a column of its own beside
-- promotion_user's.
alter table promotion_user
    add column last_event_id              uuid,
    add column last_event_version         integer,
    add column last_event_type            text,
    add column last_event_previous_status text,
    add column last_event_at              timestamptz;
comment on column promotion_user.last_event_version is 'The version that the other last_event_ columns belong to: the present one, or they are out of date (rows last changed by a release before 0.2.0).';

insert into schema_compatibility values (7, 2);
