-- The whole model of docs/contract.md, section 1, with its invariants as constraints.
-- Instants are timestamptz cut to milliseconds by clock_ms() or by the caller; money is cents.

create function clock_ms() returns timestamptz
    language sql volatile parallel safe
    as $$ select date_trunc('milliseconds', clock_timestamp()) $$;
comment on function clock_ms() is 'The one clock that decides everything, cut to the millisecond precision of the contract.';

-- What is offered -----------------------------------------------------------------------------

create table promotion (
    promotion_id  bigint generated always as identity primary key,
    promotion_key text        not null unique check (promotion_key <> ''),
    title         text        not null,
    conditions    jsonb       not null check (jsonb_typeof(conditions) = 'object'),
    missing_split text        not null default 'create' check (missing_split in ('create', 'reject')),
    active        boolean     not null default true,
    created_at    timestamptz not null default clock_ms(),
    updated_at    timestamptz not null default clock_ms()
);
comment on table promotion is 'An offer "complete N rides in T, then claim a reward within C". Its conditions may be edited: a started challenge keeps its frozen copy in promotion_terms.';

create table promotion_terms (
    terms_id     bigint generated always as identity primary key,
    promotion_id bigint not null references promotion,
    conditions   jsonb  not null
);
create unique index promotion_terms_once on promotion_terms (promotion_id, md5(conditions::text));
comment on table promotion_terms is 'Immutable: the conditions that participations started under, one row per distinct text, so that a participation stays narrow and hot updates stay cheap.';

create table product (
    product_id    bigint      primary key check (product_id > 0),
    name          text        not null check (char_length(name) between 1 and 200),
    currency_code text        not null check (currency_code ~ '^[A-Z]{3}$'),
    term_days     integer     not null check (term_days between 1 and 3650),
    terms_url     text,
    created_at    timestamptz not null default clock_ms(),
    updated_at    timestamptz not null default clock_ms()
);
comment on table product is 'The loan product behind an offer, written by the admin API.';

create table geo_config (
    country_code       text        primary key check (country_code ~ '^[A-Z]{2}$'),
    promotions_enabled boolean     not null,
    updated_at         timestamptz not null default clock_ms()
);
comment on table geo_config is 'The switch per country that allows new splits and starts; a country without a row is off.';

create sequence pre_offer_import_seq;
create table pre_offer (
    pre_offer_id   uuid        primary key,
    external_id    text        not null unique check (external_id <> ''),
    user_id        bigint      not null check (user_id > 0),
    segment        text        not null check (segment <> ''),
    product_id     bigint      not null references product,
    amount_cents   bigint      not null check (amount_cents > 0),
    currency_code  text        not null check (currency_code ~ '^[A-Z]{3}$'),
    repayment_rate text        not null,
    country_code   text        not null check (country_code ~ '^[A-Z]{2}$'),
    valid_until    timestamptz not null,
    promotion_key  text,
    promotion_id   bigint      references promotion,
    import_seq     bigint      not null default nextval('pre_offer_import_seq'),
    created_at     timestamptz not null default clock_ms(),
    updated_at     timestamptz not null default clock_ms(),
    check (promotion_id is null or promotion_key is not null)
);
alter sequence pre_offer_import_seq owned by pre_offer.import_seq;
create index pre_offer_of_user on pre_offer (user_id, import_seq desc);
create index pre_offer_of_promotion on pre_offer (promotion_id) where promotion_id is not null;
comment on table pre_offer is 'A pre-approved loan from scoring. import_seq orders by import: a new or changed line goes to the front, an unchanged one keeps its place.';

-- A client in a promotion ---------------------------------------------------------------------

create table promotion_user (
    user_id            bigint      not null check (user_id > 0),
    promotion_id       bigint      not null references promotion,
    terms_id           bigint      not null references promotion_terms,
    status             text        not null,
    version            integer     not null default 1 check (version >= 1),
    rides_completed    integer     not null default 0,
    rides_target       integer     not null check (rides_target between 1 and 10000),
    started_at         timestamptz not null,
    challenge_deadline timestamptz not null,
    completed_at       timestamptz,
    reward_deadline    timestamptz,
    rewarded_at        timestamptz,
    expired_at         timestamptz,
    expired_reason     text,
    acknowledged_at    timestamptz,
    reward             jsonb       not null,
    pre_offer_id       uuid        not null,
    country_code       text        not null,
    receipts_month     date        not null,
    live_xid           xid8        not null default pg_current_xact_id(),
    primary key (user_id, promotion_id),
    constraint promotion_user_window check (started_at < challenge_deadline),
    constraint promotion_user_rides check (rides_completed between 0 and rides_target),
    constraint promotion_user_status check (
        case status
            when 'IN_PROGRESS' then rides_completed < rides_target
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
                        when 'CHALLENGE_NOT_COMPLETED' then rides_completed < rides_target
                            and num_nonnulls(completed_at, reward_deadline) = 0
                            and expired_at >= challenge_deadline
                        when 'REWARD_NOT_CLAIMED' then rides_completed = rides_target
                            and completed_at is not null and reward_deadline is not null
                            and expired_at >= reward_deadline
                        else false
                    end
            else false
        end)
) with (fillfactor = 80);
comment on table promotion_user is 'A participation: one client in one promotion, ever. No index may cover a column that a counted ride changes (rides_completed, version): updates must stay HOT.';
comment on column promotion_user.live_xid is 'The transaction that last made this row live; lets ingest learn of new participations exactly, from its own snapshots. Meaningless in another cluster: reset after a restore from a dump.';
comment on column promotion_user.receipts_month is 'The month of started_at: the partition of ride_receipt that holds every receipt of this participation.';
comment on column promotion_user.pre_offer_id is 'The pre-offer it was started from; no foreign key, because a pre-offer that goes away loses the client nothing.';

create unique index promotion_user_one_live_or_rewarded on promotion_user (user_id)
    where status in ('IN_PROGRESS', 'COMPLETED', 'REWARDED');
create index promotion_user_live_xid on promotion_user (live_xid) include (user_id) where status = 'IN_PROGRESS';
create index promotion_user_challenge_due on promotion_user (challenge_deadline) where status = 'IN_PROGRESS';
create index promotion_user_reward_due on promotion_user (reward_deadline) where status = 'COMPLETED';
create index promotion_user_by_promotion on promotion_user (promotion_id, status, expired_reason);

create table ride_receipt (
    user_id        bigint      not null,
    promotion_id   bigint      not null,
    ride_id        uuid        not null,
    receipts_month date        not null,
    verdict        text        not null check (verdict in ('BEFORE_START', 'AFTER_DEADLINE', 'WRONG_CURRENCY', 'BELOW_MIN_AMOUNT', 'OUTSIDE_AREA', 'WRONG_SERVICE_TYPE', 'DAILY_LIMIT_REACHED', 'COUNTED')),
    completed_at   timestamptz not null,
    amount_cents   bigint      not null check (amount_cents >= 0),
    currency_code  text        not null,
    ride_day       date,
    fingerprint    bigint      not null,
    details        jsonb,
    recorded_at    timestamptz not null,
    primary key (user_id, promotion_id, ride_id, receipts_month),
    check ((verdict = 'COUNTED') = (details is null))
) partition by range (receipts_month);
comment on table ride_receipt is 'The recorded verdict on one ride for one participation. Written only under the participation''s row lock, which is why it needs no foreign key check per ride. receipts_month is a function of the participation, so the key still means one receipt per ride.';
comment on column ride_receipt.ride_day is 'The local day of the ride where the conditions cap rides per day, else null.';
comment on column ride_receipt.fingerprint is 'Of the ride as first recorded, to notice a redelivery that says something else.';

create table ride_receipt_other partition of ride_receipt default;
create function ensure_receipt_partitions(from_month date, months integer) returns void
    language plpgsql
    as $$
declare
    month date;
    name  text;
begin
    for i in 0..months - 1 loop
        month := date_trunc('month', from_month)::date + make_interval(months => i);
        name := 'ride_receipt_' || to_char(month, 'YYYY_MM');
        if to_regclass(name) is null then
            -- A month whose receipts are in the default partition already stays there, and one that
            -- cannot be had now is tried again: neither keeps the others from being made.
            begin
                execute format('create table if not exists %I partition of ride_receipt for values from (%L) to (%L)',
                               name, month, (month + interval '1 month')::date);
            exception when check_violation or lock_not_available then
                raise warning '% was not made: %', name, sqlerrm;
            end;
        end if;
    end loop;
end
$$;
comment on function ensure_receipt_partitions(date, integer) is 'Creates the monthly partitions of ride_receipt ahead of time; retention drops whole partitions.';
select ensure_receipt_partitions((clock_timestamp() at time zone 'UTC')::date, 12);

-- Ingest --------------------------------------------------------------------------------------

create table consumer_position (
    topic       text        not null,
    partition   integer     not null check (partition >= 0),
    cluster_id  text        not null,
    topic_id    text        not null,
    next_offset bigint      not null check (next_offset >= 0),
    generation  bigint      not null default 1,
    updated_at  timestamptz not null default clock_ms(),
    primary key (topic, partition)
) with (fillfactor = 50);
comment on table consumer_position is 'The offset of the next record to apply, per partition of the ride topic, in the same transaction as the effects. Belongs to one incarnation of the topic (cluster_id, topic_id). generation grows when an operator moves a position, so that a batch read before cannot commit after.';

create table quarantined_ride (
    quarantine_id uuid        primary key,
    topic         text        not null,
    partition     integer     not null,
    "offset"      bigint      not null,
    topic_id      text        not null,
    key           bytea,
    value         bytea       not null,
    user_id       bigint      check (user_id > 0),
    reason        text        not null check (reason in ('NOT_JSON', 'MISSING_FIELD', 'WRONG_TYPE', 'INVALID_VALUE', 'NEGATIVE_AMOUNT', 'IN_FUTURE', 'TOO_LARGE')),
    detail        text        not null,
    received_at   timestamptz not null,
    status        text        not null default 'OPEN' check (status in ('OPEN', 'REPLAYED', 'DISMISSED')),
    resolved_at   timestamptz,
    resolution    jsonb,
    unique (topic, topic_id, partition, "offset"),
    check ((status = 'OPEN') = (resolved_at is null))
);
create index quarantined_ride_listing on quarantined_ride (received_at desc, quarantine_id desc);
create index quarantined_ride_open on quarantined_ride (received_at desc, quarantine_id desc) where status = 'OPEN';
create index quarantined_ride_holds on quarantined_ride (user_id, received_at) where status = 'OPEN' and user_id is not null;
create index quarantined_ride_of_user on quarantined_ride (user_id) where user_id is not null;
comment on table quarantined_ride is 'Records of the ride topic that break its contract, with their raw bytes, until somebody replays or dismisses them. An open one holds its client''s expiry.';

-- Outbox --------------------------------------------------------------------------------------

create table relay_shard (
    shard smallint primary key
);
insert into relay_shard values (0);
comment on table relay_shard is 'The shards of event_outbox; one relay at a time serves each. Their number is fixed here and in event_outbox.shard. One publishes far more than one database can commit, and every further one divides the same events into more, smaller Kafka transactions.';

create table event_outbox (
    id                 bigint generated always as identity primary key,
    shard              smallint    not null generated always as ((user_id % 1)::smallint) stored,
    event_id           uuid        not null,
    type               text        not null check (type in ('promotion.started', 'promotion.progressed', 'promotion.completed', 'promotion.rewarded', 'promotion.expired')),
    user_id            bigint      not null,
    promotion_id       bigint      not null,
    status             text        not null,
    previous_status    text,
    version            integer     not null,
    rides_completed    integer     not null,
    rides_target       integer     not null,
    started_at         timestamptz not null,
    challenge_deadline timestamptz not null,
    completed_at       timestamptz,
    reward_deadline    timestamptz,
    rewarded_at        timestamptz,
    expired_at         timestamptz,
    expired_reason     text,
    reward             jsonb       not null,
    occurred_at        timestamptz not null,
    traceparent        text
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index event_outbox_in_order on event_outbox (shard, id);
comment on table event_outbox is 'Status changes committed but not yet published. Rows go in under the participation''s row lock, so ids of one participation are in the order of its versions; deleted after Kafka''s commit.';

-- Origination ---------------------------------------------------------------------------------

create table cash_loan_account (
    split_id       uuid        primary key,
    user_id        bigint      not null check (user_id > 0),
    promotion_id   bigint      not null references promotion,
    pre_offer_id   uuid        not null,
    status         text        not null default 'ACTIVE' check (status in ('ACTIVE', 'USED', 'EXPIRED')),
    country_code   text        not null,
    product_id     bigint      not null references product,
    amount_cents   bigint      not null check (amount_cents > 0),
    currency_code  text        not null,
    repayment_rate text        not null,
    valid_until    timestamptz not null,
    created_at     timestamptz not null default clock_ms(),
    updated_at     timestamptz not null default clock_ms()
);
create unique index cash_loan_account_one_active on cash_loan_account (user_id, promotion_id) where status = 'ACTIVE';
create index cash_loan_account_of_user on cash_loan_account (user_id, created_at);
comment on table cash_loan_account is 'A split: the decision to show a client the promotion, with the terms of the pre-offer it was made from.';

create table active_pre_offer (
    active_pre_offer_id uuid        primary key,
    user_id             bigint      not null unique,
    promotion_id        bigint      not null,
    pre_offer_id        uuid        not null,
    product_id          bigint      not null references product,
    product_name        text        not null,
    term_days           integer     not null,
    terms_url           text,
    amount_cents        bigint      not null check (amount_cents > 0),
    currency_code       text        not null,
    repayment_rate      text        not null,
    created_at          timestamptz not null default clock_ms(),
    foreign key (user_id, promotion_id) references promotion_user
);
comment on table active_pre_offer is 'The accepted offer: the frozen reward joined with its product. Unique per client: nobody is rewarded twice.';

create table application (
    application_id      uuid        primary key,
    user_id             bigint      not null unique,
    active_pre_offer_id uuid        not null unique references active_pre_offer,
    status              text        not null default 'CREATED',
    created_at          timestamptz not null default clock_ms()
);
comment on table application is 'The loan application made of an accepted offer.';

create table session (
    session_id     uuid        primary key,
    user_id        bigint      not null unique,
    application_id uuid        not null unique references application,
    split_id       uuid        not null unique references cash_loan_account,
    sequence_id    smallint    not null check (sequence_id = 8),
    parameters     jsonb       not null,
    created_at     timestamptz not null default clock_ms()
);
comment on table session is 'The origination session; sequence_id 8 is the standard flow, parameters are the split''s.';

-- Operators -----------------------------------------------------------------------------------

create table admin_audit (
    audit_id bigint generated always as identity primary key,
    actor    text        not null,
    at       timestamptz not null default clock_ms(),
    call     text        not null,
    before   jsonb,
    after    jsonb
);
comment on table admin_audit is 'Every change an operator made, through the admin API or the command line, in the same transaction as the change.';
