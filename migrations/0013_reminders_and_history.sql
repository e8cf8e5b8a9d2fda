-- Reminders before deadlines, and what became of each participation in support's view. Reminders are
-- written only once the upgrade is finished; the history is written from here on, by a trigger, so
-- that it is complete while processes of the release before go on.

create table participation_reminder (
    user_id      bigint      not null check (user_id > 0),
    promotion_id bigint      not null,
    next_at      timestamptz,
    done         jsonb       not null default '{}' check (jsonb_typeof(done) = 'object'),
    primary key (user_id, promotion_id)
);
create index participation_reminder_due on participation_reminder (next_at) where next_at is not null;
comment on table participation_reminder is 'Participations whose conditions have reminders, and no others. Changed only under the participation''s row lock.';
comment on column participation_reminder.next_at is 'When to look for a reminder that is due; null where none is to come as the deadlines are.';
comment on column participation_reminder.done is 'The leads that are over, in seconds, by what they remind of: published, skipped for a shorter one, or never due. Kept for good, because each is published once, whatever is extended.';

create table participation_history (
    user_id      bigint      not null check (user_id > 0),
    promotion_id bigint      not null,
    version      integer     not null check (version >= 1),
    type         text        not null check (type <> ''),
    occurred_at  timestamptz not null,
    cause        text        not null check (cause in ('ride', 'operator', 'client', 'sweeper')),
    primary key (user_id, promotion_id, version)
);
comment on table participation_history is 'Every version of a participation that is not promotion.progressed, from schema version 13 on. Only added to.';

-- A reminder waits in the outbox as a row that has neither a type nor a state.
alter table event_outbox
    add column reminder        jsonb,
    add column reminder_due_at timestamptz,
    add column cause           text,
    add constraint event_outbox_reminder check ((reminder is null) = (reminder_due_at is null) and (reminder is null or type is null)) not valid,
    add constraint event_outbox_cause check (cause in ('ride', 'operator', 'client', 'sweeper')) not valid;
comment on column event_outbox.reminder is 'What is to be published to the reminder topic; null for a row of the status topic.';
comment on column event_outbox.reminder_due_at is 'The moment at which the reminder was due.';
comment on column event_outbox.cause is 'Who caused the event; null where that follows from its type and its reason.';

-- With the owner's rights, so that nobody else can write to the history.
create function note_history() returns trigger
    language plpgsql security definer
    as $$
begin
    insert into participation_history (user_id, promotion_id, version, type, occurred_at, cause)
    values (new.user_id, new.promotion_id, new.version, new.type, new.occurred_at,
            coalesce(new.cause,
                     case new.type
                         when 'promotion.started' then 'client'
                         when 'promotion.completed' then 'ride'
                         when 'promotion.rewarded' then 'client'
                         when 'promotion.expired' then
                             case when new.expired_reason in ('CHALLENGE_NOT_COMPLETED', 'REWARD_NOT_CLAIMED') then 'sweeper'
                                  when new.expired_reason = 'QUIT' then 'client'
                                  else 'operator' end
                         else 'operator' end))
    -- A state that is published again is no new version.
    on conflict (user_id, promotion_id, version) do nothing;
    return null;
end
$$;
do $$
begin
    execute format('alter function note_history() set search_path = %I, pg_temp', current_schema());
end
$$;
create trigger note_history after insert on event_outbox for each row
    when (new.type <> 'promotion.progressed')
    execute function note_history();

insert into schema_compatibility values (13, 2);
