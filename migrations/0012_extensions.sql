-- Giving time back (docs/contract.md, "Extensions" and "Outages"). A process of the release before
-- knows none of this: extensions and outages are written only once the upgrade is finished.

set local lock_timeout = '3s';

create table extension (
    extension_id       uuid        primary key,
    number             bigint      not null unique generated always as identity,
    idempotency_key    text        not null unique check (idempotency_key <> ''),
    promotion_id       bigint      check (promotion_id > 0),
    country_code       text        check (country_code ~ '^[A-Z]{2}$'),
    user_id            bigint      check (user_id > 0),
    deadline_of        text        not null check (deadline_of in ('CHALLENGE', 'REWARD')),
    by_seconds         bigint      check (by_seconds between 1 and 31622400),
    outage_id          uuid,
    outage_from        timestamptz,
    outage_to          timestamptz,
    reason             text        not null,
    at                 timestamptz not null default clock_ms(),
    matched            bigint      not null default 0,
    done               bigint      not null default 0,
    skipped            bigint      not null default 0,
    is_counted         boolean     not null default false,
    after_deadline     timestamptz,
    after_user_id      bigint,
    after_promotion_id bigint,
    finished_at        timestamptz,
    check (num_nonnulls(promotion_id, country_code, user_id) > 0),
    check (num_nonnulls(outage_id, outage_from, outage_to) in (0, 3)),
    check ((by_seconds is null) = (outage_id is not null)),
    check (outage_from < outage_to)
);
create index extension_running on extension (number) where finished_at is null;
comment on table extension is 'Orders to move the deadlines of participations, in the order of their numbers, which is also that of their instants.';
comment on column extension.at is 'Participations that were live at this instant are covered.';
comment on column extension.matched is 'How many participations were covered at its instant, as far as they were counted.';
comment on column extension.is_counted is 'The call that made it has counted, or given up; the sweeper waits for that, but not long.';
comment on column extension.done is 'While it is running: those that the sweeper extended. The others are in participation_extension.';
comment on column extension.after_deadline is 'How far the sweeper''s pass has come, with the two columns after it; null at its beginning.';

create table participation_extension (
    user_id       bigint      not null,
    promotion_id  bigint      not null,
    extension_id  uuid        not null,
    outage_id     uuid,
    from_deadline timestamptz not null,
    to_deadline   timestamptz not null check (to_deadline > from_deadline),
    version       integer     not null,
    extended_at   timestamptz not null,
    by_sweeper    boolean     not null,
    primary key (user_id, promotion_id, extension_id)
);
create index participation_extension_elsewhere on participation_extension (extension_id) where not by_sweeper;
comment on table participation_extension is 'The extensions that a participation has had, each once. Written under the participation''s row lock.';
comment on column participation_extension.by_sweeper is 'Extended by the sweeper''s pass over this extension, which counts in extension.done; else where the deadline was judged before.';

-- Locked, and never written: see src/store/extensions/pending.rs.
create table extension_gate (
    nothing boolean check (nothing is null)
);
comment on table extension_gate is 'Always empty. A transaction that judges a deadline or starts a participation holds a row-share lock on it until its end; an extension is inserted under an exclusive lock. So each of them is either committed before the extension''s instant or knows of it.';

create table api_presence (
    one_row    boolean     primary key default true check (one_row),
    reached_at timestamptz not null
) with (fillfactor = 50);
comment on table api_presence is 'When a process with the role api last reached this database.';

create table outage (
    outage_id uuid        primary key,
    number    bigint      not null unique generated always as identity,
    began_at  timestamptz not null,
    ended_at  timestamptz not null check (ended_at > began_at)
);
comment on table outage is 'Times in which no process with the role api reached this database, the newest 1,000.';

alter table event_outbox
    add column extension jsonb,
    drop constraint event_outbox_type_check,
    add constraint event_outbox_type_check check (type in ('promotion.started', 'promotion.progressed', 'promotion.completed', 'promotion.rewarded', 'promotion.expired', 'promotion.extended')) not valid;
comment on column event_outbox.extension is 'Of a promotion.extended: which deadline moved, from when to when, and why.';

insert into schema_compatibility values (12, 2);
