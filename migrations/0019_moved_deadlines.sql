-- A deadline that moves, by whatever code, moves the reminders before it.

-- With the owner's rights: who moves deadlines needs none on reminders.
create function note_moved_deadline() returns trigger
    language plpgsql security definer
    as $$
begin
    update participation_reminder set next_at = clock_ms()
     where user_id = new.user_id and promotion_id = new.promotion_id;
    return null;
end
$$;
do $$
begin
    execute format('alter function note_moved_deadline() set search_path = %I, pg_temp', current_schema());
end
$$;
-- Not at completion, where there was no reward_deadline before.
create trigger note_moved_deadline after update of challenge_deadline, reward_deadline on promotion_user for each row
    when (new.challenge_deadline <> old.challenge_deadline or new.reward_deadline <> old.reward_deadline)
    execute function note_moved_deadline();

insert into schema_compatibility values (19, 2);
