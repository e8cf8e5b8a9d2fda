-- Keeps on which server, and on which timeline of it, the positions and the outbox were written. After
-- a fail-over, a restore or a move the last of what was answered and published may be missing here, so
-- ingest, relay and sweep then wait until an operator accepts the server. The release before goes on
-- beside it, and does not wait.

set local lock_timeout = '3s';

-- No row where the server does not tell, as some that are only compatible with Postgres.
create function server_identity_now() returns table (system_identifier bigint, timeline integer)
    language plpgsql
    as $$
begin
    -- A control file names the new timeline only after the checkpoint that follows a promotion.
    return query
        select c.system_identifier, ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer
          from pg_control_system() c;
exception
    when insufficient_privilege or feature_not_supported or undefined_function then
        return;
end
$$;

create table server_identity (
    one_row           boolean primary key default true check (one_row),
    system_identifier bigint not null,
    timeline          integer not null,
    accepted_at       timestamptz not null default clock_ms()
);
comment on table server_identity is 'The server that ingest, relay and sweep work on; another one waits for `ride-promo positions accept`.';
insert into server_identity (system_identifier, timeline) select system_identifier, timeline from server_identity_now();

insert into schema_compatibility values (3, 2);
