//! Lists for operators: participations in pages, exported and over time; the audit and the quarantine with filters
//! (contract, "Who may do what").

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::*;

/// More than a page of the export has.
const PARTICIPATIONS: i64 = 1_300;

/// The first start; the others follow a minute apart.
const BEGIN: &str = "2026-01-01T00:00:00Z";

/// Participations of two promotions, in every status, each an hour in each status: those of odd clients
/// in the first promotion, of even ones in the second.
async fn participations(world: &World, promotions: [i64; 2]) {
    for promotion in promotions {
        world
            .execute(&format!(
                "insert into promotion_terms (promotion_id, conditions)
                 select promotion_id, conditions from promotion where promotion_id = {promotion}
                 on conflict do nothing"
            ))
            .await;
    }
    let [odd, even] = promotions;
    world
        .execute(&format!(
            r#"insert into promotion_user (user_id, promotion_id, terms_id, status, version, rides_completed, rides_target,
                    started_at, challenge_deadline, completed_at, reward_deadline, rewarded_at, expired_at, expired_reason,
                    reward, pre_offer_id, country_code, receipts_month)
               select n, promotion_id, terms_id, status, 1, case when completed then 2 else 1 end, 2,
                      at, at + interval '1 hour',
                      case when completed then at + interval '30 minutes' end,
                      case when completed then at + interval '1 hour' end,
                      case when status = 'REWARDED' then at + interval '45 minutes' end,
                      case when status = 'EXPIRED' then at + interval '2 hours' end,
                      case when status = 'EXPIRED' then case when completed then 'REWARD_NOT_CLAIMED' else 'CHALLENGE_NOT_COMPLETED' end end,
                      '{{"product_id": 80, "amount_cents": 100000, "currency_code": "MXN", "repayment_rate": "=1+1"}}',
                      gen_random_uuid(), 'MX', '2026-01-01'
                 from (select n, case when n % 2 = 1 then {odd} else {even} end as promotion_id,
                              '{BEGIN}'::timestamptz + n / 2 * interval '1 minute' as at,
                              (array['IN_PROGRESS', 'COMPLETED', 'REWARDED', 'EXPIRED', 'EXPIRED'])[n / 2 % 5 + 1] as status,
                              n / 2 % 5 in (1, 2, 3) as completed
                         from generate_series(1, {PARTICIPATIONS}) n) made
                 join promotion_terms using (promotion_id)"#
        ))
        .await;
}

/// The keys of a list, in its order.
fn keys(items: &[Value]) -> Vec<(DateTime<Utc>, i64)> {
    let key = |item: &Value| {
        let started_at = item["started_at"].as_str().expect("an instant");
        let user_id = item["user_id"].as_i64().expect("a client");
        (started_at.parse().expect("an instant"), user_id)
    };
    items.iter().map(key).collect()
}

async fn page(api: &Api, query: &str) -> Value {
    let path = format!("/admin/v1/participations?{query}");
    api.get(&path).await.expect(200)
}

fn items(page: &Value) -> Vec<Value> {
    page["items"].as_array().expect("items").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn participations_are_listed_in_pages_and_exported_whole() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let (admin, api) = (service.admin(), service.admin().api);
    let odd = admin.create_promotion(&conditions(2)).await;
    let even = admin.create_promotion(&conditions(2)).await;
    world
        .execute(&format!(
            "update promotion set promotion_key = '=cmd,\"x\"' where promotion_id = {}",
            even.id
        ))
        .await;
    participations(&world, [odd.id, even.id]).await;

    // Every filter, alone and together, page by page: each once, in order, as Postgres has them.
    let (odd_id, from, to) = (odd.id, "2026-01-01T02:00:00Z", "2026-01-01T03:30:00Z");
    for (query, condition) in [
        (String::new(), "true".to_owned()),
        (
            "status=COMPLETED".to_owned(),
            "status = 'COMPLETED'".to_owned(),
        ),
        (
            format!("promotion_id={odd_id}"),
            format!("promotion_id = {odd_id}"),
        ),
        (
            format!("promotion_id={odd_id}&status=EXPIRED&started_from={from}&started_to={to}"),
            format!(
                "promotion_id = {odd_id} and status = 'EXPIRED' and started_at >= '{from}' and started_at < '{to}'"
            ),
        ),
        (
            format!("started_from={from}&started_to={to}"),
            format!("started_at >= '{from}' and started_at < '{to}'"),
        ),
        ("user_id=7".to_owned(), "user_id = 7".to_owned()),
        (
            format!("user_id=8&promotion_id={odd_id}"),
            "false".to_owned(),
        ),
        (
            "user_id=7&status=REWARDED".to_owned(),
            "user_id = 7 and status = 'REWARDED'".to_owned(),
        ),
    ] {
        let sql = format!(
            "select started_at, user_id from promotion_user where {condition} order by started_at desc, user_id desc"
        );
        let expected: Vec<(DateTime<Utc>, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .fetch_all(world.pool())
            .await
            .expect("keys");
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = page(&api, &format!("{query}&limit=190&cursor={cursor}")).await;
            found.extend(keys(&items(&page)));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(found, expected, "{query}");
        let export = format!("/admin/v1/participations:export?{query}");
        let exported = api.get(&export).await;
        let lines: Vec<Value> = exported
            .text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(keys(&lines), expected, "{query}");
    }

    // What is started meanwhile comes before the pages that are still to be read.
    let first = page(&api, "limit=200").await;
    let (_, started) = service
        .started_client(900_000, &admin.open_promotion(&conditions(1)).await)
        .await;
    let cursor = first["next_cursor"].as_str().expect("more");
    let second = page(&api, &format!("limit=200&cursor={cursor}")).await;
    let seen: BTreeSet<_> = keys(&items(&first))
        .into_iter()
        .chain(keys(&items(&second)))
        .collect();
    assert_eq!(seen.len(), 400);
    let newest = &items(&page(&api, "limit=1").await)[0];
    for field in [
        "user_id",
        "promotion_key",
        "status",
        "version",
        "rides_target",
        "started_at",
        "reward",
        "settling",
    ] {
        assert_eq!(newest[field], started[field], "{field}");
    }
    assert_eq!(newest["country_code"], "MX");
    assert!(
        newest["pre_offer_id"].is_string() && newest["acknowledged_at"].is_null(),
        "{newest}"
    );

    // As CSV: a cell for each column, and none that a spreadsheet would run.
    let export = format!("/admin/v1/participations:export?promotion_id={}", even.id);
    let request = api
        .request(Method::GET, &export)
        .header("accept", "text/csv");
    let csv = api.send(request).await;
    assert_eq!(csv.status, 200);
    assert!(
        csv.header("content-type")
            .is_some_and(|kind| kind.starts_with("text/csv"))
    );
    let name = "attachment; filename=\"participations.csv\"";
    assert_eq!(csv.header("content-disposition"), Some(name));
    let mut lines = csv.text.split_terminator("\r\n");
    let header = lines.next().expect("a header");
    assert!(
        header.starts_with("user_id,promotion_id,promotion_key,status,"),
        "{header}"
    );
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len() as i64, PARTICIPATIONS / 2);
    for line in lines {
        let cells = line.replace("\"'=cmd,\"\"x\"\"\"", "KEY");
        assert!(
            cells.contains(",KEY,") && cells.contains(",'=1+1,"),
            "{line}"
        );
        assert_eq!(
            cells.split(',').count(),
            header.split(',').count(),
            "{line}"
        );
    }
    let request = api
        .request(Method::GET, &export)
        .header("accept", "application/json");
    api.send(request).await.problem(406, "not-acceptable");

    // What fails after the first page breaks off, so that no part passes for the whole.
    world
        .execute("update promotion_user set reward = '{}' where user_id = 1")
        .await;
    let request = api.request(Method::GET, "/admin/v1/participations:export");
    api.try_send(request).await.expect_err("it broke off");
    assert!(service.log().contains("an export of participations failed"));

    for (query, field) in [
        ("status=DONE", "status"),
        ("promotion_id=0", "promotion_id"),
        ("user_id=x", "user_id"),
        ("started_from=yesterday", "started_from"),
        ("started_to=2026-01-01", "started_to"),
        ("cursor=WzEsMl0", "cursor"),
    ] {
        let path = format!("/admin/v1/participations?{query}");
        let problem = api.get(&path).await.problem(422, "invalid-request");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
}

/// Pre-offers and splits of a promotion: a newbie pre-offer each minute, every third of which became a split; and
/// some of another segment, which offer no promotion.
async fn offers(world: &World, promotion: i64) {
    world
        .execute(&format!(
            "insert into product (product_id, name, currency_code, term_days) values (80, 'Loan', 'MXN', 30) on conflict do nothing;
             insert into pre_offer (pre_offer_id, external_id, user_id, segment, product_id, amount_cents, currency_code,
                                    repayment_rate, country_code, valid_until, promotion_key, promotion_id, created_at)
             select gen_random_uuid(), 'o' || n, n, case when n % 7 = 0 then 'regular' else 'newbie' end, 80, 100000, 'MXN', '15',
                    'MX', '2027-01-01', promotion_key, promotion_id, '{BEGIN}'::timestamptz + n * interval '1 minute'
               from generate_series(1, 200) n, promotion where promotion_id = {promotion};
             insert into cash_loan_account (split_id, user_id, promotion_id, pre_offer_id, country_code, product_id, amount_cents,
                                            currency_code, repayment_rate, valid_until, created_at)
             select gen_random_uuid(), user_id, promotion_id, pre_offer_id, country_code, product_id, amount_cents, currency_code,
                    repayment_rate, valid_until, created_at + interval '1 minute'
               from pre_offer where user_id % 3 = 0 and segment = 'newbie'"
        ))
        .await;
}

/// What an interval of the funnel says of pre-offers and splits.
fn offered(interval: &Value) -> (i64, i64) {
    let figure = |name: &str| interval[name].as_i64().expect("a number");
    (figure("pre_offers"), figure("splits"))
}

/// The pre-offers and splits that the tables have in an interval.
async fn offered_in(world: &World, promotion: i64, interval: &Value) -> (i64, i64) {
    let between = format!(
        "promotion_id = {promotion} and created_at >= {} and created_at < {}",
        interval["from"].to_string().replace('"', "'"),
        interval["to"].to_string().replace('"', "'"),
    );
    let pre_offers =
        format!("select count(*) from pre_offer where segment = 'newbie' and {between}");
    let splits = format!("select count(*) from cash_loan_account where {between}");
    (world.count(&pre_offers).await, world.count(&splits).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budgets_use_over_time_is_what_the_participations_say() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let (admin, api) = (service.admin(), service.admin().api);
    let odd = admin.create_promotion(&conditions(2)).await.id;
    let even = admin.create_promotion(&conditions(2)).await.id;
    participations(&world, [odd, even]).await;
    let path = format!("/admin/v1/promotions/{odd}/budget-use/over-time");
    api.get(&path).await.problem(404, "not-found");
    // Some rewards have another currency, and one client who had spent was erased.
    world
        .execute(&format!(
            r#"update promotion_user set reward = reward || '{{"currency_code": "COP"}}' where user_id % 5 = 0;
               insert into budget_use (promotion_id, currency_code, participations_reserved, participations_spent,
                      reward_cents_reserved, reward_cents_spent, participations_erased, reward_cents_erased)
               select {odd}, 'MXN', count(*) filter (where status in ('IN_PROGRESS', 'COMPLETED')),
                      count(*) filter (where status = 'REWARDED') + 1,
                      100000 * count(*) filter (where status in ('IN_PROGRESS', 'COMPLETED') and user_id % 5 > 0),
                      100000 * (count(*) filter (where status = 'REWARDED' and user_id % 5 > 0) + 1), 1, 100000
                 from promotion_user where promotion_id = {odd}"#
        ))
        .await;
    let query = "from=2026-01-01T00:00:00Z&to=2026-01-01T20:10:00Z&interval=PT1H";
    let found = api.get(&format!("{path}?{query}")).await.expect(200);
    assert_eq!(
        (&found["currency_code"], &found["interval"]),
        (&json!("MXN"), &json!("PT1H"))
    );
    let points = found["points"].as_array().expect("points");
    assert_eq!(points.len(), 22);
    assert_eq!(points[21]["at"], "2026-01-01T20:10:00.000Z");
    for point in points {
        let at = point["at"].to_string().replace('"', "'");
        let count = async |condition: &str| {
            world
                .count(&format!(
                    "select count(*) from promotion_user where promotion_id = {odd} and {condition}"
                ))
                .await
        };
        for (figure, of, each) in [
            ("participations", "true", 1),
            ("reward_cents", "user_id % 5 > 0", 100_000),
        ] {
            let live = format!(
                "{of} and started_at < {at} and coalesce(rewarded_at, expired_at, 'infinity') >= {at}"
            );
            let spent = format!("{of} and rewarded_at < {at}");
            let expected = json!({
                "reserved": count(&live).await * each,
                // What was spent by an erased client counts all along.
                "spent": (count(&spent).await + 1) * each,
            });
            assert_eq!(point[figure], expected, "{figure} at {at}");
        }
    }
    assert!(
        points[3]["participations"]["reserved"].as_i64() > Some(10),
        "{found}"
    );
    let now = api
        .get(&format!("/admin/v1/promotions/{odd}/budget-use"))
        .await
        .expect(200);
    let last = &api.get(&path).await.expect(200)["points"];
    let last = last
        .as_array()
        .and_then(|points| points.last())
        .expect("points");
    assert_eq!(
        last["participations"]["spent"],
        now["participations"]["spent"]
    );
    for (query, field) in [
        ("interval=PT1S", "interval"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
    ] {
        let wrong = api.get(&format!("{path}?{query}")).await;
        let problem = wrong.problem(422, "invalid-request");
        assert_eq!(problem["errors"][0]["field"], field);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_funnel_counts_each_change_in_its_interval() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let (admin, api) = (service.admin(), service.admin().api);
    let odd = admin.create_promotion(&conditions(2)).await.id;
    let even = admin.create_promotion(&conditions(2)).await.id;
    participations(&world, [odd, even]).await;
    offers(&world, odd).await;
    let path = format!("/admin/v1/promotions/{odd}/funnel");
    let query = "from=2026-01-01T00:10:00Z&to=2026-01-01T03:00:00Z&interval=PT25M";
    let funnel = api.get(&format!("{path}?{query}")).await.expect(200);
    assert_eq!(funnel["interval"], "PT25M");
    let intervals = funnel["intervals"].as_array().expect("intervals");
    assert_eq!(intervals.len(), 7, "{funnel}");
    assert_eq!(
        intervals[6]["to"], "2026-01-01T03:00:00.000Z",
        "cut at the end"
    );
    assert_eq!(intervals[6]["from"], "2026-01-01T02:40:00.000Z");
    for interval in intervals {
        let between = |column: &str, more: &str| {
            format!(
                "select count(*) from promotion_user where promotion_id = {odd} {more}
                    and {column} >= {} and {column} < {}",
                interval["from"].to_string().replace('"', "'"),
                interval["to"].to_string().replace('"', "'"),
            )
        };
        for (figure, column) in [
            ("started", "started_at"),
            ("completed", "completed_at"),
            ("rewarded", "rewarded_at"),
        ] {
            let expected = world.count(&between(column, "")).await;
            assert_eq!(interval[figure], expected, "{figure} {interval}");
        }
        assert_eq!(offered(interval), offered_in(&world, odd, interval).await);
        for reason in ["CHALLENGE_NOT_COMPLETED", "REWARD_NOT_CLAIMED"] {
            let more = format!("and expired_reason = '{reason}'");
            let expected = world.count(&between("expired_at", &more)).await;
            assert_eq!(interval["expired"][reason], expected, "{reason} {interval}");
        }
    }
    let all: i64 = intervals
        .iter()
        .filter_map(|interval| interval["rewarded"].as_i64())
        .sum();
    assert!(all > 20, "{funnel}");

    // By start: what those who started in each interval came to, whenever they did.
    let cohorts = format!("{path}?{query}&by_start=true");
    let cohorts = api.get(&cohorts).await.expect(200);
    let cohorts = cohorts["intervals"].as_array().expect("intervals");
    assert_eq!(cohorts.len(), 7);
    for interval in cohorts {
        let of = |more: &str| {
            format!(
                "select count(*) from promotion_user where promotion_id = {odd} {more}
                    and started_at >= {} and started_at < {}",
                interval["from"].to_string().replace('"', "'"),
                interval["to"].to_string().replace('"', "'"),
            )
        };
        for (figure, more) in [
            ("started", ""),
            ("completed", "and completed_at is not null"),
            ("rewarded", "and rewarded_at is not null"),
        ] {
            let expected = world.count(&of(more)).await;
            assert_eq!(interval[figure], expected, "{figure} {interval}");
        }
        // What was offered has no start, and is counted at its own time.
        assert_eq!(offered(interval), offered_in(&world, odd, interval).await);
        for reason in ["CHALLENGE_NOT_COMPLETED", "REWARD_NOT_CLAIMED", "QUIT"] {
            let expected = world
                .count(&of(&format!("and expired_reason = '{reason}'")))
                .await;
            assert_eq!(interval["expired"][reason], expected, "{reason} {interval}");
        }
    }
    let wrong = api.get(&format!("{path}?by_start=yes")).await;
    wrong.problem(422, "invalid-request");

    // What the newest came to: near misses, and how long it took.
    let path = format!("/admin/v1/promotions/{odd}/outcomes");
    let day = "from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z";
    let outcomes = api.get(&format!("{path}?{day}")).await.expect(200);
    assert_eq!(outcomes["participations"], PARTICIPATIONS / 2);
    assert_eq!(outcomes["more"], false);
    assert_eq!(outcomes["near_misses"], json!({ "1": 130, "2": 0, "3": 0 }));
    let half_an_hour = 0.5 / 24.0;
    for percentile in ["p10", "p50", "p90"] {
        assert_eq!(
            outcomes["days_to_completion"][percentile], half_an_hour,
            "{outcomes}"
        );
    }
    let nothing = api.get(&path).await.expect(200);
    assert_eq!(
        (
            &nothing["participations"],
            &nothing["verdicts"],
            &nothing["days_to_completion"]
        ),
        (&json!(0), &json!({}), &Value::Null)
    );
    let same = "from=2026-01-02T00:00:00Z&to=2026-01-02T00:00:00Z";
    let problem = api.get(&format!("{path}?{same}")).await;
    let problem = problem.problem(422, "invalid-request");
    assert_eq!(problem["errors"][0]["field"], "from", "{problem}");
    let unknown = api.get("/admin/v1/promotions/999999/outcomes").await;
    unknown.problem(404, "not-found");
    let path = format!("/admin/v1/promotions/{odd}/funnel");

    // The last day by the hour, where nothing is asked.
    let today = api.get(&path).await.expect(200);
    assert_eq!(today["intervals"].as_array().map(Vec::len), Some(24));
    let thousand = "from=2026-01-01T00:00:00Z&to=2026-01-01T00:16:40Z&interval=PT1S";
    let funnel = api.get(&format!("{path}?{thousand}")).await.expect(200);
    assert_eq!(funnel["intervals"].as_array().map(Vec::len), Some(1_000));
    for (query, field) in [
        (
            "from=2026-01-01T00:00:00Z&to=2026-01-01T00:16:41Z&interval=PT1S",
            "interval",
        ),
        ("interval=PT0S", "interval"),
        ("interval=1h", "interval"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-02T00:00:00Z", "from"),
        ("to=now", "to"),
    ] {
        let problem = api.get(&format!("{path}?{query}")).await;
        let problem = problem.problem(422, "invalid-request");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let unknown = api.get("/admin/v1/promotions/999999/funnel").await;
    unknown.problem(404, "not-found");
}

/// Whether an entry belongs in a filtered list.
type IsIn<'a> = Box<dyn Fn(&Value) -> bool + 'a>;

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_and_the_quarantine_are_filtered() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    let mut claims = client_claims(1);
    claims["sub"] = json!("ana@example.com");
    claims["scope"] = json!("ride-promo:admin");
    let ana = service.admin_listener().with_token(token(&claims));
    let promotions = [
        admin.open_promotion(&conditions(1)).await,
        admin.create_promotion(&conditions(1)).await,
    ];
    admin.import_pre_offers(&[promotions[0].pre_offer(1)]).await;
    for promotion in &promotions {
        let path = format!("/admin/v1/promotions/{}", promotion.id);
        let patch = json!({ "active": false });
        ana.patch_json(&path, &patch).await.expect(200);
    }
    let all = ana.get("/admin/v1/audit?limit=200").await.expect(200);
    let all = items(&all);
    let second = all[1]["at"].as_str().expect("an instant");
    let first = format!("PATCH /promotions/{}", promotions[0].id);
    let call = |entry: &Value| entry["call"].as_str().unwrap_or_default().to_owned();
    let by = |actor: &str| {
        let actor = actor.to_owned();
        move |entry: &Value| entry["actor"] == *actor
    };
    let checks: [(String, IsIn<'_>); 8] = [
        (
            "actor=ana@example.com".to_owned(),
            Box::new(by("ana@example.com")),
        ),
        ("actor=nobody".to_owned(), Box::new(|_| false)),
        (
            format!("call={first}"),
            Box::new(move |entry| call(entry) == first),
        ),
        (
            "call=PATCH%20/promotions".to_owned(),
            Box::new(move |entry| call(entry).starts_with("PATCH /promotions/")),
        ),
        ("call=PATCH%20/promo".to_owned(), Box::new(|_| false)),
        (
            format!("from={second}"),
            Box::new(|entry| entry["at"].as_str() >= Some(second)),
        ),
        (
            format!("to={second}&actor=ana@example.com"),
            Box::new(|entry| {
                entry["at"].as_str() < Some(second) && entry["actor"] == "ana@example.com"
            }),
        ),
        (
            "imports=false".to_owned(),
            Box::new(move |entry| call(entry) != "pre-offers:import"),
        ),
    ];
    for (query, is_in) in checks {
        let path = format!("/admin/v1/audit?limit=200&{query}");
        let found = items(&ana.get(&path).await.expect(200));
        let expected: Vec<Value> = all.iter().filter(|entry| is_in(entry)).cloned().collect();
        assert_eq!(found, expected, "{query}");
        assert!(expected.len() < all.len(), "{query} leaves nothing out");
    }
    for (query, field) in [
        ("from=x", "from"),
        ("to=x", "to"),
        ("imports=no", "imports"),
    ] {
        let problem = ana.get(&format!("/admin/v1/audit?{query}")).await;
        let problem = problem.problem(422, "invalid-request");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }

    world
        .execute(
            r#"insert into quarantined_ride (quarantine_id, topic, partition, "offset", topic_id, value, user_id, reason,
                                             detail, received_at, status, resolved_at)
               select gen_random_uuid(), 'rides', 0, n, 'id', '{}', n % 3 + 1,
                      (array['MISSING_FIELD', 'WRONG_TYPE'])[n % 2 + 1], 'd',
                      '2026-01-01T00:00:00Z'::timestamptz + n / 2 * interval '1 minute',
                      case when n % 5 = 0 then 'DISMISSED' else 'OPEN' end, case when n % 5 = 0 then clock_ms() end
                 from generate_series(0, 59) n"#,
        )
        .await;
    for (query, condition) in [
        ("user_id=2", "user_id = 2"),
        ("reason=WRONG_TYPE", "reason = 'WRONG_TYPE'"),
        (
            "status=OPEN&reason=MISSING_FIELD",
            "status = 'OPEN' and reason = 'MISSING_FIELD'",
        ),
        (
            "status=DISMISSED&user_id=1&reason=MISSING_FIELD",
            "status = 'DISMISSED' and user_id = 1 and reason = 'MISSING_FIELD'",
        ),
        (
            "from=2026-01-01T00:05:00Z&to=2026-01-01T00:20:00Z",
            "received_at >= '2026-01-01T00:05:00Z' and received_at < '2026-01-01T00:20:00Z'",
        ),
        (
            "status=OPEN&to=2026-01-01T00:11:00Z",
            "status = 'OPEN' and received_at < '2026-01-01T00:11:00Z'",
        ),
        (
            "status=OPEN&user_id=2&from=2026-01-01T00:11:00Z",
            "status = 'OPEN' and user_id = 2 and received_at >= '2026-01-01T00:11:00Z'",
        ),
    ] {
        let mut found = 0;
        let mut cursor = String::new();
        loop {
            let path = format!("/admin/v1/quarantine?{query}&limit=7&cursor={cursor}");
            let page = ana.get(&path).await.expect(200);
            found += items(&page).len();
            match page["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        let sql = format!("select count(*) from quarantined_ride where {condition}");
        assert_eq!(found as i64, world.count(&sql).await, "{query}");
    }
    for wrong in ["reason=UGLY", "from=today", "to="] {
        let problem = ana.get(&format!("/admin/v1/quarantine?{wrong}")).await;
        problem.problem(422, "invalid-request");
    }
}
