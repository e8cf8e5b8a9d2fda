-- Which releases' upgrades are finished. Until one is, nothing is written that the release before
-- cannot read (docs/contract.md, "Upgrades"); `migrate --finish` ends it, and there is no way back.
-- The release before does not know this table and goes on.

set local lock_timeout = '3s';

create table release_upgrade (
    release     text        primary key check (release <> ''),
    finished_at timestamptz
);
comment on table release_upgrade is 'A release whose new rows an older one cannot read, and when its upgrade was finished: null while processes of the release before may run.';
insert into release_upgrade values ('0.2.0', null);

insert into schema_compatibility values (6, 2);
