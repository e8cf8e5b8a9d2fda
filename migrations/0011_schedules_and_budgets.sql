-- When a promotion can be started, how much it may cost, and the shared rows of frozen product terms.
-- A process of the release before would start past a schedule or a budget, so none is written before
-- the upgrade is finished.

set local lock_timeout = '3s';

alter table promotion
    add column opens_at       timestamptz,
    add column closes_at      timestamptz,
    add column budget         jsonb,
    add column has_budget_use boolean not null default false,
    add constraint promotion_schedule check (closes_at > opens_at) not valid,
    add constraint promotion_budget check (budget is null or (jsonb_typeof(budget) = 'object' and has_budget_use)) not valid;
comment on column promotion.opens_at is 'Starts are possible from here on; null: at any time.';
comment on column promotion.closes_at is 'Starts are possible until here, exclusive; null: without end.';
comment on column promotion.budget is 'The maxima that starts must fit in; null: without.';
comment on column promotion.has_budget_use is 'Its use is counted in budget_use: from its first budget on, and for good. Never set once it has had starts, so for a participation it never changes.';

create table budget_use (
    promotion_id            bigint primary key references promotion,
    currency_code           text check (currency_code ~ '^[A-Z]{3}$'),
    participations_reserved bigint not null default 0 check (participations_reserved >= 0),
    participations_spent    bigint not null default 0 check (participations_spent >= 0),
    participations_erased   bigint not null default 0 check (participations_erased between 0 and participations_spent),
    reward_cents_reserved   bigint not null default 0 check (reward_cents_reserved >= 0),
    reward_cents_spent      bigint not null default 0 check (reward_cents_spent >= 0),
    reward_cents_erased     bigint not null default 0 check (reward_cents_erased between 0 and reward_cents_spent)
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table budget_use is 'What live participations reserve and rewarded ones have spent of a promotion''s budget. Changed in the transaction of the start, expiry or reward, as the last thing it locks, and in the order of promotion_id where there are several.';
comment on column budget_use.currency_code is 'Of the cents: that of the first budget that names one, or of the first reward. Never changes. Rewards in another currency add no cents.';
comment on column budget_use.participations_erased is 'How many of the spent ones belong to clients whose loan was erased: no participation shows them any more.';

create table product_terms (
    product_terms_id bigint generated always as identity primary key,
    product_id       bigint  not null,
    name             text    not null,
    currency_code    text    not null,
    term_days        integer not null,
    terms_url        text
);
create unique index product_terms_once on product_terms
    (product_id, md5(name || chr(10) || currency_code || chr(10) || term_days::text || chr(10) || coalesce(terms_url, '')));
comment on table product_terms is 'Immutable: a product as it was when participations started, one row per distinct text.';

insert into schema_compatibility values (11, 2);
