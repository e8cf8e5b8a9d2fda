-- Lets a process of the API learn exactly which participations ended through whatever process, so
-- that it can answer conditional reads from memory and never contradict what a client was told.
-- The release before goes on beside it: the trigger writes for it as well.

-- Better to give up and be run again than to hold everybody up behind one long transaction.
set local lock_timeout = '3s';

alter table promotion_user add column ended_xid xid8;
comment on column promotion_user.ended_xid is 'The transaction that set REWARDED or EXPIRED, from schema version 2 on. Meaningless in another cluster: reset after a restore from a dump.';
create index promotion_user_ended_xid on promotion_user (ended_xid) include (user_id, promotion_id) where ended_xid is not null;

create function note_ending() returns trigger
    language plpgsql
    as $$
begin
    new.ended_xid := pg_current_xact_id();
    return new;
end
$$;
create trigger note_ending before update of status on promotion_user for each row
    when (new.status in ('REWARDED', 'EXPIRED') and old.status in ('IN_PROGRESS', 'COMPLETED'))
    execute function note_ending();

-- Which programs can use a schema version: those that know the version works_since, or a later one.
-- So a program of the release before can be started beside and after an upgrade, and again after it
-- was taken back. Each migration from here on adds its row.
create table schema_compatibility (
    version     bigint primary key check (version > 0),
    works_since bigint not null check (works_since between 1 and version)
);
comment on table schema_compatibility is 'Programs that know schema version works_since, or a later one, can use the schema of this version.';
insert into schema_compatibility values (2, 1);
