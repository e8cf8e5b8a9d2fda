-- The history is written once per statement, not once per event: a batch of starts, completions or
-- expiries inserts many events at once. Each statement changes only the catalog, and a process of the
-- release before inserts as it did.

set local lock_timeout = '3s';

-- With the owner's rights, as before.
create function note_history_of_statement() returns trigger
    language plpgsql security definer
    as $$
begin
    insert into participation_history (user_id, promotion_id, version, type, occurred_at, cause)
    select user_id, promotion_id, version, type, occurred_at,
           coalesce(cause,
                    case type
                        when 'promotion.started' then 'client'
                        when 'promotion.completed' then 'ride'
                        when 'promotion.rewarded' then 'client'
                        when 'promotion.expired' then
                            case when expired_reason in ('CHALLENGE_NOT_COMPLETED', 'REWARD_NOT_CLAIMED') then 'sweeper'
                                 when expired_reason = 'QUIT' then 'client'
                                 else 'operator' end
                        else 'operator' end)
      from added
     where type <> 'promotion.progressed'
    -- A state that is published again is no new version.
    on conflict (user_id, promotion_id, version) do nothing;
    return null;
end
$$;
do $$
begin
    execute format('alter function note_history_of_statement() set search_path = %I, pg_temp', current_schema());
end
$$;
drop trigger note_history on event_outbox;
create trigger note_history after insert on event_outbox
    referencing new table as added
    for each statement
    execute function note_history_of_statement();
drop function note_history();

insert into schema_compatibility values (21, 2);
