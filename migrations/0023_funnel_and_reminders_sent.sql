-- no-transaction
-- What was offered, for the funnel, and which reminders were sent, for support. The release before goes on
-- beside them and uses none of them.

create index concurrently if not exists pre_offer_offered
    on pre_offer (promotion_id, created_at) where segment = 'newbie' and promotion_id is not null;
create index concurrently if not exists cash_loan_account_of_promotion
    on cash_loan_account (promotion_id, created_at);

create table if not exists participation_reminded (
    user_id      bigint      not null check (user_id > 0),
    promotion_id bigint      not null,
    deadline_of  text        not null check (deadline_of in ('CHALLENGE', 'REWARD')),
    lead         text        not null check (lead <> ''),
    deadline     timestamptz not null,
    sent_at      timestamptz not null,
    primary key (user_id, promotion_id, deadline_of, lead)
);
comment on table participation_reminded is 'Reminders that went to the topic: of which deadline as it was then, by which lead, and when. Written with the reminder''s outbox row, from schema version 23 on.';

insert into schema_compatibility values (23, 2) on conflict do nothing;
