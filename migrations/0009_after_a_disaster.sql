-- What is known of participations and clients that the database itself has lost or was told to
-- forget (docs/contract.md, "After a disaster"). Written only once the upgrade is finished.

set local lock_timeout = '3s';

create table version_floor (
    user_id      bigint      not null check (user_id > 0),
    promotion_id bigint      not null,
    version      integer     not null check (version >= 1),
    noted_at     timestamptz not null default clock_ms(),
    primary key (user_id, promotion_id)
);
comment on table version_floor is 'Versions that the status topic has of participations that this database lost in a restore. A later start of one continues above it.';

create table held_reward (
    user_id      bigint      not null check (user_id > 0),
    promotion_id bigint      not null,
    version      integer     not null check (version >= 1),
    event        jsonb       not null,
    noted_at     timestamptz not null default clock_ms(),
    loss_accepted_at timestamptz,
    primary key (user_id, promotion_id)
);
comment on table held_reward is 'Rewards that only the status topic knows: accepted, answered and then lost in a restore. The client starts and accepts nothing until an operator accepts the loss; the row stays, so that it is not held again.';

create table erasure (
    client     text        primary key check (client <> ''),
    erasure_id uuid        not null unique,
    key_id     text        not null,
    erased_at  timestamptz not null,
    rewarded   boolean     not null,
    loan       text        check (loan in ('KEPT', 'FORGOTTEN'))
);
comment on table erasure is 'The erasure ledger: clients whose data was erased, by the HMAC of their id under erase.secret (key_id tells which). Also a compacted topic, because a restore to an earlier moment loses it.';

insert into schema_compatibility values (9, 2);
