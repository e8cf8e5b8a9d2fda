-- A database role for each role of the service, with the rights that it needs and no others. Run it
-- as an administrator, after the first and after every later `ride-promo migrate`; running it again
-- changes nothing:
--
--   psql "$ADMIN_URL" --set ON_ERROR_STOP=1 --file deploy/postgres/roles.sql
--
-- These roles cannot sign in. A process signs in as a user that is a member of the roles it runs:
--
--   create role ride_promo_web login password '…' in role ride_promo_api;
--   create role ride_promo_app login password '…'
--       in role ride_promo_api, ride_promo_ingest, ride_promo_relay, ride_promo_sweep;
--
-- The user that migrates owns the tables, and runs the commands that change data by hand (`import`,
-- `positions set`, `receipts`).
begin;

do $$
declare
    name text;
begin
    foreach name in array array['ride_promo_api', 'ride_promo_ingest', 'ride_promo_relay', 'ride_promo_sweep'] loop
        if not exists (select from pg_roles where rolname = name) then
            execute format('create role %I nologin', name);
        end if;
    end loop;
end
$$;

-- Revokes all rights and grants those of this release, in one transaction, so that a running process never lacks one.
revoke all on all tables in schema public from ride_promo_api, ride_promo_ingest, ride_promo_relay, ride_promo_sweep;
revoke all on all sequences in schema public from ride_promo_api, ride_promo_ingest, ride_promo_relay, ride_promo_sweep;
revoke execute on function ensure_receipt_partitions(date, integer) from public;
grant usage on schema public to ride_promo_api, ride_promo_ingest, ride_promo_relay, ride_promo_sweep;
grant select on _sqlx_migrations to ride_promo_api, ride_promo_ingest, ride_promo_relay, ride_promo_sweep;

-- The right to read tables that a later migration adds. That release's script gives the right to change them.
do $$
declare
    owner name := (select relowner::regrole::text from pg_class where oid = 'public.promotion_user'::regclass);
begin
    execute format('alter default privileges for role %s in schema public grant select on tables
                    to ride_promo_api, ride_promo_ingest, ride_promo_relay, ride_promo_sweep', owner);
end
$$;

grant select, insert, update on active_pre_offer to ride_promo_api;
grant select, insert on admin_audit to ride_promo_api;
grant select, insert, update on api_presence to ride_promo_api;
grant select, insert, update on application to ride_promo_api;
grant select, insert, update on budget_use to ride_promo_api;
grant select, insert, update on cash_loan_account to ride_promo_api;
grant select on consumer_position to ride_promo_api;
grant select on erasure to ride_promo_api;
grant select, insert on event_outbox to ride_promo_api;
grant select, insert, update on extension to ride_promo_api;
grant select, update on extension_gate to ride_promo_api;
grant select, insert, update on geo_config to ride_promo_api;
grant select on held_reward to ride_promo_api;
grant select, insert, update on import_progress to ride_promo_api;
grant select, insert, delete on outage to ride_promo_api;
grant select, insert on participation_extension to ride_promo_api;
grant select on participation_history to ride_promo_api;
grant select on participation_reminded to ride_promo_api;
grant select, insert, update on participation_reminder to ride_promo_api;
grant select, insert, update on pre_offer to ride_promo_api;
grant select, insert, update on product to ride_promo_api;
grant select, insert on product_terms to ride_promo_api;
grant select, insert, update on promotion to ride_promo_api;
grant select, insert on promotion_terms to ride_promo_api;
grant select, insert, update on promotion_user to ride_promo_api;
grant select, insert on late_reversal to ride_promo_api;
grant select, insert, update on participation_day to ride_promo_api;
grant select, update on quarantined_ride to ride_promo_api;
grant select on relay_shard to ride_promo_api;
grant select, insert on ride_receipt to ride_promo_api;
grant update (verdict, details, version, reversed_at, ride_day, late_ride) on ride_receipt to ride_promo_api;
grant select on release_upgrade to ride_promo_api;
grant select on schema_compatibility to ride_promo_api;
grant select on server_identity to ride_promo_api;
grant select, insert, update on session to ride_promo_api;
grant select on version_floor to ride_promo_api;
grant usage on sequence pre_offer_import_seq to ride_promo_api;

grant select, insert, update on consumer_position to ride_promo_ingest;
grant select, insert on event_outbox to ride_promo_ingest;
grant select on extension to ride_promo_ingest;
grant select, update on extension_gate to ride_promo_ingest;
grant select, insert on participation_extension to ride_promo_ingest;
grant select, insert, update on participation_reminder to ride_promo_ingest;
grant select, insert on late_reversal to ride_promo_ingest;
grant select, insert, update on participation_day to ride_promo_ingest;
grant select on promotion to ride_promo_ingest;
grant select on promotion_terms to ride_promo_ingest;
grant select, update on promotion_user to ride_promo_ingest;
grant select, insert on quarantined_ride to ride_promo_ingest;
grant select, insert on ride_receipt to ride_promo_ingest;
grant update (verdict, details, version, reversed_at, ride_day, late_ride) on ride_receipt to ride_promo_ingest;
grant select on release_upgrade to ride_promo_ingest;
grant select on schema_compatibility to ride_promo_ingest;
grant select on server_identity to ride_promo_ingest;

grant select, delete on event_outbox to ride_promo_relay;
grant select on promotion to ride_promo_relay;
grant select, update on relay_shard to ride_promo_relay;
grant select on release_upgrade to ride_promo_relay;
grant select on schema_compatibility to ride_promo_relay;
grant select on server_identity to ride_promo_relay;

-- Needed to see how long other users' transactions last.
grant pg_read_all_stats to ride_promo_sweep;
grant select, update on budget_use to ride_promo_sweep;
grant select, update on cash_loan_account to ride_promo_sweep;
grant select on consumer_position to ride_promo_sweep;
grant select, insert on event_outbox to ride_promo_sweep;
grant select, update on extension to ride_promo_sweep;
grant select, update on extension_gate to ride_promo_sweep;
grant select, insert, update on participation_day to ride_promo_sweep;
grant select, insert on participation_extension to ride_promo_sweep;
grant insert on participation_reminded to ride_promo_sweep;
grant select, insert, update on participation_reminder to ride_promo_sweep;
grant select on promotion to ride_promo_sweep;
grant select on promotion_terms to ride_promo_sweep;
grant select, update on promotion_user to ride_promo_sweep;
grant select on quarantined_ride to ride_promo_sweep;
grant select on ride_receipt_other to ride_promo_sweep;
grant select on release_upgrade to ride_promo_sweep;
grant select on ride_receipt to ride_promo_sweep;
grant update (verdict, details, version, reversed_at, ride_day, late_ride) on ride_receipt to ride_promo_sweep;
grant select on schema_compatibility to ride_promo_sweep;
grant select on server_identity to ride_promo_sweep;
grant execute on function ensure_receipt_partitions(date, integer) to ride_promo_sweep;

commit;
