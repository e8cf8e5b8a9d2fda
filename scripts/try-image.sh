#!/usr/bin/env bash
# Sees the Dockerfile and deploy/compose.yaml work: builds the image, starts everything, takes a client
# from the offer over a ride to the loan, then stops and starts it all again, and nothing is lost.
# Takes Docker with Compose 2, curl, and the ports 8080 and 8081. What it started is gone afterwards,
# but for the image.
#
#   scripts/try-image.sh
#   COMPOSE="podman compose" scripts/try-image.sh
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
cat >"$scratch/env" <<EOF
RIDE_PROMO_POSTGRES_PASSWORD=$password
RIDE_PROMO_APP_PASSWORD=$password
RIDE_PROMO_OWNER_URL=postgres://ride_promo:$password@postgres:5432/ride_promo
RIDE_PROMO_DATABASE_URL=postgres://ride_promo_app:$password@postgres:5432/ride_promo
RIDE_PROMO_TOKEN_SECRET=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
EOF
read -r -a compose <<<"${COMPOSE:-docker compose}"
# A separate project name, so that the volumes it removes are not those of a manual try.
compose+=(--project-name ride-promo-try --env-file "$scratch/env" -f deploy/compose.yaml)

finish() {
  local status=$?
  trap - EXIT
  if [ "$status" -ne 0 ]; then
    "${compose[@]}" ps --all || true
    "${compose[@]}" logs --no-color --tail 200 || true
  fi
  "${compose[@]}" down --volumes --timeout 40 || true
  rm -rf "$scratch"
  exit "$status"
}
trap finish EXIT

say() { printf -- '-- %s\n' "$*"; }
fail() {
  echo "$*" >&2
  exit 1
}
in_service() { "${compose[@]}" exec -T ride-promo "$@"; }
# call TOKEN METHOD URL [JSON]
call() {
  curl -sS --fail-with-body --max-time 30 -X "$2" -H "Authorization: Bearer $1" \
    ${4:+-H "Content-Type: application/json" --data "$4"} "http://127.0.0.1:$3"
}
# expect PART: what is read has this in it, and is shown where it has not.
expect() {
  local read
  read=$(cat)
  case $read in
    *"$1"*) ;;
    *) fail "expected $1, got: $read" ;;
  esac
}

say "build, start"
"${compose[@]}" up --build --wait --wait-timeout 180
in_service ride-promo doctor

say "no rights: another user than root, no capabilities, none to be had, nothing to write"
in_service cat /proc/1/status >"$scratch/status"
for line in $'Uid:\t65532\t65532\t65532\t65532' $'CapEff:\t0000000000000000' $'CapBnd:\t0000000000000000' $'NoNewPrivs:\t1'; do
  expect "$line" <"$scratch/status"
done
in_service cat /proc/mounts >"$scratch/mounts"
grep -q '^[^ ]* / [^ ]* ro[, ]' "$scratch/mounts" || fail "the file system can be written"

say "an offer, a ride, a loan"
admin=$(in_service ride-promo token --admin)
client=$(in_service ride-promo token --user 48151)
call "$admin" PUT 8081/admin/v1/geo-config/MX '{"promotions_enabled": true}' >/dev/null
call "$admin" PUT 8081/admin/v1/products/80 \
  '{"name": "Cash loan", "currency_code": "MXN", "term_days": 30, "terms_url": null}' >/dev/null
promotion=$(call "$admin" POST 8081/admin/v1/promotions '{"promotion_key": "try", "title": "One ride",
  "conditions": {"target_rides": 1, "min_amount_cents": 5000, "currency_code": "MXN",
                 "challenge_period": "P1D", "claim_period": "P1D"}}' |
  sed -n 's/.*"promotion_id":\([0-9]*\).*/\1/p')
[ -n "$promotion" ] || fail "the promotion has no promotion_id"
in_service ride-promo import pre-offers - <<'EOF'
{"external_id": "try", "user_id": 48151, "segment": "newbie", "product_id": 80, "amount_cents": 100000, "currency_code": "MXN", "repayment_rate": "15", "country_code": "MX", "valid_until": "2100-01-01T00:00:00Z", "promotion_key": "try"}
EOF
call "$client" POST 8080/v1/landing | expect '"screen":"PROMO_OFFER"'
call "$client" POST "8080/v1/promotions/$promotion/start" | expect '"status":"IN_PROGRESS"'
# Its time is moved to now.
in_service ride-promo replay rides - --retime <<'EOF'
{"ride_id": "0192f8c4-7a1e-7c5b-9a53-2f6d1c0e4b11", "user_id": 48151, "completed_at": "2026-01-01T00:00:00Z", "amount_cents": 6500, "currency_code": "MXN"}
EOF
for _ in $(seq 30); do
  progress=$(call "$client" GET "8080/v1/promotions/$promotion/progress")
  case $progress in *'"status":"COMPLETED"'*) break ;; esac
  sleep 1
done
expect '"rides_completed":1' <<<"$progress"
call "$client" POST "8080/v1/promotions/$promotion/accept_reward" | expect '"sequence_id":8'
# started, completed, rewarded
"${compose[@]}" exec -T kafka /opt/kafka/bin/kafka-console-consumer.sh --bootstrap-server kafka:9092 \
  --topic promotion-status --from-beginning --isolation-level read_committed --max-messages 3 \
  --timeout-ms 60000 | expect '"type":"promotion.rewarded"'

say "stop: it drains, and ends well"
"${compose[@]}" stop
"${compose[@]}" ps --all --format '{{.Service}} {{.ExitCode}}' | expect 'ride-promo 0'

say "start again: everything is still there"
"${compose[@]}" up --wait --wait-timeout 180
call "$client" GET "8080/v1/promotions/$promotion/progress" | expect '"status":"REWARDED"'
in_service ride-promo doctor >/dev/null
say "done"
