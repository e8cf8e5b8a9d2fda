-- The progress of many participations in one row of the outbox, and room for it on their pages.
-- A process of the release before cannot read a packet, so none is written before the upgrade is
-- finished. Each statement changes only the catalog.

set local lock_timeout = '3s';

-- What a process of the release before inserts is of shard 0, as it was.
alter table event_outbox
    alter column shard drop expression,
    alter column shard set default 0,
    alter column event_id drop not null,
    alter column user_id drop not null,
    alter column promotion_id drop not null,
    add column events                      integer not null default 1,
    add column packet_event_ids            uuid[],
    add column packet_user_ids             bigint[],
    add column packet_promotion_ids        bigint[],
    add column packet_versions             integer[],
    add column packet_rides_completed      integer[],
    add column packet_rides_targets        integer[],
    add column packet_started_at           timestamptz[],
    add column packet_challenge_deadlines  timestamptz[],
    add column packet_rewards              jsonb,
    add column packet_reward_of            integer[],
    add column packet_further_goals        jsonb[],
    add column packet_traceparents         text[],
    -- Compressing numbers and ids costs more than it saves.
    alter column packet_event_ids           set storage external,
    alter column packet_user_ids            set storage external,
    alter column packet_promotion_ids       set storage external,
    alter column packet_versions            set storage external,
    alter column packet_rides_completed     set storage external,
    alter column packet_rides_targets       set storage external,
    alter column packet_started_at          set storage external,
    alter column packet_challenge_deadlines set storage external,
    alter column packet_reward_of           set storage external,
    add constraint event_outbox_packet check (
        case when packet_event_ids is null
             then events = 1 and num_nulls(event_id, user_id, promotion_id) = 0
             else num_nonnulls(event_id, user_id, promotion_id, type, reminder) = 0
                  and cardinality(packet_event_ids) = events
        end) not valid;
comment on column event_outbox.shard is 'Which relay publishes the row.';
comment on column event_outbox.events is 'How many records the row becomes.';
comment on column event_outbox.packet_event_ids is 'Not null in a packet: the promotion.progressed events of one batch of rides, all of them IN_PROGRESS before and after. The columns packet_… have an element per event, in the same order.';
comment on column event_outbox.packet_rewards is 'The distinct rewards of the events, an array.';
comment on column event_outbox.packet_reward_of is 'The index into packet_rewards, from 0 on.';
comment on column event_outbox.packet_further_goals is 'Null where no event has any.';
comment on column event_outbox.packet_traceparents is 'Null where no event has one.';

-- What waits of each participation, for the rare questions that are about one of them.
create view waiting_event as
    select id, user_id, promotion_id, version, type is null and reminder is null as is_tombstone, reminder is not null as is_reminder
      from event_outbox where packet_event_ids is null
     union all
    select e.id, p.user_id, p.promotion_id, p.version, false, false
      from event_outbox e
     cross join lateral unnest(e.packet_user_ids, e.packet_promotion_ids, e.packet_versions) p (user_id, promotion_id, version)
     where e.packet_event_ids is not null;
comment on view waiting_event is 'event_outbox with a row for each event, also of packets.';

-- A batch of rides updates many rows of a page at once. Where they find no room on it they go to
-- another page, with a new entry in each index.
alter table promotion_user set (fillfactor = 50);

insert into schema_compatibility values (20, 2);
