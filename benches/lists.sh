#!/usr/bin/env bash
# Measures the list of participations and its export on 1,000,000 participations (benches/README.md).
#
#   DATABASE_URL=… ADMIN=localhost:8081 ADMIN_TOKEN=… [SERVICE_PID=…] benches/lists.sh
#
# The database is a new one, migrated and served with `serve --roles api`. Needs psql, curl and jq.
set -euo pipefail

psql -qX --set ON_ERROR_STOP=1 --single-transaction "$DATABASE_URL" <<'SQL'
-- As many clients in three promotions of 75, 20 and 5 %, started over the last 200 days; most have ended.
insert into promotion (promotion_key, title, conditions)
select 'list-' || n, 'List ' || n, '{"target_rides": 20, "currency_code": "MXN", "challenge_period": "P14D", "claim_period": "P7D"}'
  from generate_series(1, 3) n;
insert into promotion_terms (promotion_id, conditions) select promotion_id, conditions from promotion;
insert into promotion_user (user_id, promotion_id, terms_id, status, rides_completed, rides_target, started_at,
       challenge_deadline, completed_at, reward_deadline, rewarded_at, expired_at, expired_reason, reward, pre_offer_id,
       country_code, receipts_month)
select user_id, promotion_id, terms_id, status, case when completed then 20 else 7 end, 20, started_at,
       started_at + interval '14 days',
       case when completed then started_at + interval '5 days' end,
       case when completed then started_at + interval '12 days' end,
       case status when 'REWARDED' then started_at + interval '6 days' end,
       case status when 'EXPIRED' then started_at + interval '15 days' end,
       case status when 'EXPIRED' then case when completed then 'REWARD_NOT_CLAIMED' else 'CHALLENGE_NOT_COMPLETED' end end,
       '{"product_id": 80, "amount_cents": 100000, "currency_code": "MXN", "repayment_rate": "15"}', gen_random_uuid(),
       'MX', date_trunc('month', started_at at time zone 'UTC')::date
  from (select *, status in ('COMPLETED', 'REWARDED') or (status = 'EXPIRED' and user_id % 10 = 0) as completed
          from (select (n::bigint * 7919) % 1000003 + 1 as user_id,
                       case when n % 20 = 0 then 3 when n % 5 = 0 then 2 else 1 end as number,
                       clock_ms() - (1000000 - n) * interval '17.28 seconds' as started_at,
                       case when n < 900000 then (array['REWARDED', 'EXPIRED'])[n / 20 % 2 + 1]
                            when n % 10 = 1 then 'COMPLETED' when n % 10 = 2 then 'REWARDED' else 'IN_PROGRESS' end as status
                  from generate_series(1, 1000000) n) made) participations
  join (select row_number() over (order by promotion_id) as number, promotion_id, terms_id from promotion_terms) terms using (number);
SQL
psql -qX --set ON_ERROR_STOP=1 "$DATABASE_URL" --command 'vacuum analyze promotion_user'

body=$(mktemp)
trap 'rm -f "$body"' EXIT
get() { curl -sS --fail -o "$body" -H "Authorization: Bearer $ADMIN_TOKEN" "$@"; }
promotions=$(psql -qXAt "$DATABASE_URL" --command 'select promotion_id from promotion order by promotion_id')
months_ago() { date -u -d "$1 months ago" +%FT00:00:00Z; }

echo "list, 200 a page: the slowest of up to 10 pages in ms, the number of pages, the filter"
for promotion in '' $promotions; do
  for status in '' IN_PROGRESS COMPLETED REWARDED EXPIRED; do
    for user in '' 7920; do
      for from in '' "$(months_ago 4)"; do
        for to in '' "$(months_ago 1)" "$(months_ago 6)"; do
          filter="promotion_id=$promotion&status=$status&user_id=$user&started_from=$from&started_to=$to"
          filter=$(tr '&' '\n' <<<"$filter" | grep -v '=$' | paste -sd '&' || true)
          cursor='' slowest=0 pages=0
          while [ $pages -lt 10 ]; do
            took=$(get -w '%{time_total}' "$ADMIN/admin/v1/participations?limit=200&cursor=$cursor&$filter")
            pages=$((pages + 1))
            slowest=$(awk -v a="$slowest" -v b="$took" 'BEGIN { print (a > b * 1000) ? a : b * 1000 }')
            cursor=$(jq -r '.next_cursor // empty' "$body")
            [ -n "$cursor" ] || break
          done
          echo "$slowest $pages $filter"
        done
      done
    done
  done
done | sort -rn | head -10

for type in application/x-ndjson text/csv; do
  took=$(get -w '%{time_total}' -H "Accept: $type" "$ADMIN/admin/v1/participations:export")
  wc -l "$body" | awk -v s="$took" -v type="$type" '{ printf "export as %s: %d lines in %.1f s, %d lines/s\n", type, $1, s, $1 / s }'
done
[ -z "${SERVICE_PID:-}" ] || grep VmHWM "/proc/$SERVICE_PID/status"
