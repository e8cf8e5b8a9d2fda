-- Lets every process recognise that Kafka lost the end of a partition's log and gave its offsets out
-- again, and stop until an operator decides. Processes of the release before go on beside: they move
-- positions without the new columns, which is noticed, and cannot move one that is stopped.

-- Better to give up and be run again than to hold everybody up behind one long transaction.
set local lock_timeout = '3s';

alter table consumer_position
    add column leader_epoch       integer check (leader_epoch >= 0),
    add column epoch_offset       bigint,
    add column record_offset      bigint check (record_offset >= 0),
    add column record_fingerprint bigint,
    add column stopped_reason     text,
    add column stopped_at         timestamptz,
    add check ((stopped_reason is null) = (stopped_at is null)),
    add check (record_offset is null or record_fingerprint is not null);
comment on column consumer_position.leader_epoch is 'The leader epoch in which the log was written up to epoch_offset; says nothing where epoch_offset is not next_offset.';
comment on column consumer_position.record_offset is 'The last record applied, with record_fingerprint of its offset, timestamp, key and value. Stays true while generation stays.';
comment on column consumer_position.stopped_reason is 'Why nothing may be read from here, until an operator sets the position.';

create function guard_position() returns trigger
    language plpgsql
    as $$
begin
    if new.generation <> old.generation then
        -- An operator, of whichever release, has set the position: nothing is known of the log
        -- before it, and reading may go on.
        new.leader_epoch := null;
        new.epoch_offset := null;
        new.record_offset := null;
        new.record_fingerprint := null;
        new.stopped_reason := null;
        new.stopped_at := null;
    elsif new.next_offset <> old.next_offset then
        raise exception 'partition % of % is stopped until an operator sets its position: %',
            old.partition, old.topic, old.stopped_reason
            using errcode = 'object_not_in_prerequisite_state', hint = 'See ride-promo positions show.';
    end if;
    return new;
end
$$;
create trigger guard_position before update on consumer_position for each row
    when (new.generation <> old.generation or old.stopped_reason is not null)
    execute function guard_position();

-- What can use the version before can use this one.
insert into schema_compatibility select 4, max(works_since) from schema_compatibility;
