-- Work that does not grow with the tables, and no waiting behind a backup.

-- Where the relay begins to read.
alter table relay_shard add column published_upto bigint not null default 0;
comment on column relay_shard.published_upto is 'Every event up to this id is published and deleted, and no transaction is left that could still commit one. Reads of event_outbox begin behind it, because the rows deleted before it stay in the index while a long transaction can see them.';

-- The audit is only ever added to; how far an import has come is beside it.
create table import_progress (
    audit_id bigint primary key,
    after    jsonb  not null
);
comment on table import_progress is 'What an import has come to by now, in place of admin_audit.after, which is what its first batch did.';

-- A partition is attached, because to create one in place takes a lock on the whole of ride_receipt.
-- With the owner's rights, so that the sweeper needs none of its own.
create or replace function ensure_receipt_partitions(from_month date, months integer) returns void
    language plpgsql security definer
    as $$
declare
    month date;
    name  text;
begin
    -- Rides wait behind this for the default partition.
    perform set_config('lock_timeout', '200ms', true);
    for i in 0..months - 1 loop
        month := date_trunc('month', from_month)::date + make_interval(months => i);
        name := 'ride_receipt_' || to_char(month, 'YYYY_MM');
        if to_regclass(name) is null then
            -- A month whose receipts are in the default partition already stays there, and one that
            -- cannot be had now is tried again: neither keeps the others from being made.
            begin
                execute format('create table %I (like ride_receipt including all)', name);
                execute format('alter table ride_receipt attach partition %I for values from (%L) to (%L)',
                               name, month, (month + interval '1 month')::date);
            exception
                when check_violation or lock_not_available then
                    raise warning '% was not made: %', name, sqlerrm;
                -- Another process has just made it.
                when duplicate_table then
                    null;
            end;
        end if;
    end loop;
end
$$;
do $$
begin
    -- Whoever calls a function with another's rights must not choose what its names mean.
    execute format('alter function ensure_receipt_partitions(date, integer) set search_path = %I, pg_temp', current_schema());
end
$$;

insert into schema_compatibility values (5, 1);
