#!/usr/bin/env bash
# Installs the service as deploy/systemd/ride-promo.service says, command by command, and sees that
# the unit does what it promises. For a machine to be thrown away, which systemd runs, with a
# PostgreSQL of its own, a Kafka, and target/release/ride-promo; as root:
#
#   KAFKA_BROKERS=localhost:9092 scripts/try-systemd.sh
set -euo pipefail
cd "$(dirname "$0")/.."

unit=deploy/systemd/ride-promo.service
dropins=/etc/systemd/system/ride-promo.service.d
: "${KAFKA_BROKERS:?where is Kafka?}"

say() { printf '\n=== %s\n' "$*"; }
fail() {
  printf 'FAILED: %s\n' "$*" >&2
  systemctl status ride-promo --no-pager --full --lines=40 >&2 || true
  exit 1
}
if ! [ -d /run/systemd/system ] || [ "$(id -u)" != 0 ]; then
  echo "takes root and a machine that systemd runs" >&2
  exit 1
fi

shows() { systemctl show --property "$1" --value ride-promo; }
# is PROPERTY VALUE: at once
is() { [ "$(shows "$1")" = "$2" ] || fail "$1 is $(shows "$1"), not $2"; }
# becomes PROPERTY PATTERN: within a minute
becomes() {
  local _
  for _ in $(seq 240); do
    # shellcheck disable=SC2053
    [[ "$(shows "$1")" == $2 ]] && return
    sleep 0.25
  done
  fail "$1 is $(shows "$1"), not $2"
}
with() {
  mkdir -p "$dropins"
  printf '[Service]\n%s\n' "$1" >"$dropins/try.conf"
  systemctl daemon-reload
}
without() {
  rm -f "$dropins/try.conf"
  systemctl daemon-reload
}
psql() { (cd / && runuser -u postgres -- psql --quiet --set ON_ERROR_STOP=1 "$@"); }

say "the two users"
psql --command "create role ride_promo_owner login password 'owner'" \
  --command "create database ride_promo owner ride_promo_owner"
psql --command "create role ride_promo_app login password 'app'"
grants() {
  psql --dbname ride_promo --file - <deploy/postgres/roles.sql
  psql --command "grant ride_promo_api, ride_promo_ingest, ride_promo_relay, ride_promo_sweep to ride_promo_app"
}

mapfile -t commands < <(sed -n 's/^#   //p' "$unit")
for command in "${commands[@]}"; do
  say "$command"
  case $command in
    *"/dev/stdin "*owner-url*) input='postgres://ride_promo_owner:owner@localhost/ride_promo' ;;
    *"/dev/stdin "*database-url*) input='postgres://ride_promo_app:app@localhost/ride_promo' ;;
    systemctl*)
      say "while Kafka is away it waits, says for what, and can be stopped"
      with 'Environment=KAFKA_BROKERS=localhost:1'
      systemctl start --no-block ride-promo
      becomes StatusText '*Kafka at localhost:1*'
      is ActiveState activating
      systemctl stop ride-promo
      is Result success
      is ExecMainStatus 0
      without
      input=
      ;;
    *) input= ;;
  esac
  eval "$command" <<<"$input"
  case $command in
    *config.example.toml*) # and edit it
      sed -i -e "s|^#brokers = .*|brokers = \"$KAFKA_BROKERS\"|" \
        -e '0,/^#algorithm = .*/s||algorithm = "HS256"|' \
        -e '0,/^#hs256_secret = .*/s||hs256_secret = "'"$(openssl rand -hex 32)"'"|' \
        /etc/ride-promo/ride-promo.toml
      ;;
    *migrate*) grants ;;
  esac
done

say "it is active once it is ready, and sandboxed"
is ActiveState active
becomes StatusText ready
is DynamicUser yes
curl --fail --silent --show-error --retry 30 --retry-delay 1 localhost:8082/readyz
metrics=$(curl --fail --silent --show-error localhost:8082/metrics)
for metric in 'process_max_fds 65536' 'process_start_time_seconds [1-9]' 'process_open_fds [1-9]'; do
  grep -q "^$metric" <<<"$metrics" || fail "/metrics has no $metric"
done
systemd-analyze security --threshold=20 --no-pager ride-promo | tail -n 1
grep -E '^(NoNewPrivs|Seccomp|CapBnd):' "/proc/$(shows MainPID)/status"

say "its warnings are warnings in the journal"
journalctl --sync
warnings=$(journalctl --unit ride-promo --priority warning --output cat _COMM=ride-promo)
grep -q '"level":"WARN"' <<<"$warnings" || fail "no warning is one"
! grep -q '"level":"INFO"' <<<"$warnings" || fail "what is no warning is one"

say "a process that hangs is replaced, and one that was killed"
restarts=0
for signal in STOP KILL; do
  kill -s "$signal" "$(shows MainPID)"
  restarts=$((restarts + 1))
  becomes NRestarts "$restarts"
  becomes ActiveState active
done

say "stopped, it ends in good order"
systemctl stop ride-promo
is Result success
is ExecMainStatus 0

say "a wrong configuration and a missing secret are not tried again"
with 'Environment=KAFKA_BROKERS=nonsense'
! systemctl start ride-promo || fail "it started"
becomes ActiveState failed
is ExecMainStatus 2
is NRestarts 0
with 'LoadCredential=database-url:/etc/ride-promo/secrets/nothing'
! systemctl start ride-promo || fail "it started"
becomes ActiveState failed
is ExecMainStatus 243
is NRestarts 0

without
systemctl start ride-promo
say "passed, with $(systemctl --version | head -n 1)"
