-- The service's user of deploy/compose.yaml, with the rights of all four roles.
\getenv password APP_PASSWORD
select 'create role ride_promo_app login' where not exists (select from pg_roles where rolname = 'ride_promo_app') \gexec
alter role ride_promo_app password :'password';
grant ride_promo_api, ride_promo_ingest, ride_promo_relay, ride_promo_sweep to ride_promo_app;
