//! Eligibility, row by row, through the API: the screen, every reason, whether a split was created, and the response
//! to a start (contract 5). Also: which pre-offer is considered, who may start again, and what the per-country flags
//! do not affect.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(30);

async fn land(client: &Client) -> Value {
    client.api.post("/v1/landing").await.expect(200)
}

async fn acknowledge(client: &Client, promotion: &Promotion) {
    let path = format!("/v1/promotions/{}/acknowledge", promotion.id);
    assert_eq!(client.api.post(&path).await.status, 204);
}

/// The rules that the operator sees failed.
fn failed(user: &Value) -> Vec<&str> {
    let checks = user["eligibility"]["checks"].as_array().expect("checks");
    let failed = checks.iter().filter(|check| check["ok"] == false);
    failed
        .map(|check| check["rule"].as_str().expect("a rule"))
        .collect()
}

fn line(promotion: &Promotion, user_id: i64, changes: &Value) -> Value {
    let mut line = promotion.pre_offer(user_id);
    for (field, value) in changes.as_object().expect("an object") {
        line[field] = value.clone();
    }
    line
}

/// What a client of a row has been through before.
#[derive(Clone, Copy, Debug)]
enum Before {
    /// Nothing.
    Nothing,
    /// A challenge in another promotion that is in progress.
    InProgress,
    /// One that came to this end.
    Ended(End),
    /// One that came to this end, which the client has seen.
    Seen(End),
}

struct Row {
    before: Before,
    /// How the newbie pre-offer differs from a good one; `None` without one.
    newbie: Option<Value>,
    /// Of the landing, without a regular pre-offer; with one `NO_OFFER` becomes `REGULAR_OFFER`.
    screen: &'static str,
    /// Why the promotion is not offered, in order.
    reasons: &'static [&'static str],
    /// Why a start of the pre-offer's promotion (or the usual one) is refused, in order.
    start: &'static [&'static str],
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_eligibility() {
    use Before::{Ended, InProgress, Nothing, Seen};

    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    let usual = admin.open_promotion(&conditions(3)).await;
    let earlier = admin.create_promotion(&conditions(3)).await;
    let inactive = admin.create_promotion(&conditions(3)).await;
    let path = format!("/admin/v1/promotions/{}", inactive.id);
    let off = json!({ "active": false });
    admin.api.patch_json(&path, &off).await.expect(200);
    admin.set_country("CO", false).await;

    // Before and after their schedules, with a budget that is used up or too small, and all at once.
    let hour = chrono::TimeDelta::hours(1);
    let with = async |body: Value| {
        let promotion = admin.create_promotion(&conditions(3)).await;
        let path = format!("/admin/v1/promotions/{}", promotion.id);
        admin.api.patch_json(&path, &body).await.expect(200);
        promotion
    };
    let early = with(json!({ "opens_at": instant(now() + hour) })).await;
    let late =
        with(json!({ "opens_at": instant(now() - hour), "closes_at": instant(now()) })).await;
    let full = with(json!({ "budget": { "max_participations": 1 } })).await;
    let dear =
        with(json!({ "budget": { "max_reward_cents": 100_000, "currency_code": "MXN" } })).await;
    let shut = with(json!({ "budget": { "max_participations": 1 } })).await;
    service.started_client(10_001, &full).await;
    service.started_client(10_002, &shut).await;
    let path = format!("/admin/v1/promotions/{}", shut.id);
    let closed = json!({ "active": false, "closes_at": instant(now()) });
    admin.api.patch_json(&path, &closed).await.expect(200);
    let all_of_a_promotion = &[
        "PROMOTION_INACTIVE",
        "PROMOTION_NOT_OPEN",
        "PROMOTIONS_DISABLED",
        "BUDGET_EXHAUSTED",
    ][..];

    let good = || Some(json!({}));
    let expired = || Some(json!({ "valid_until": "2020-01-01T00:00:00Z" }));
    let inactive_and_off = || Some(json!({ "promotion_key": inactive.key, "country_code": "CO" }));
    let row = |before, newbie, screen, reasons, start| Row {
        before,
        newbie,
        screen,
        reasons,
        start,
    };
    let rows = [
        row(Nothing, good(), "PROMO_OFFER", &[][..], &[][..]),
        row(
            Nothing,
            None,
            "NO_OFFER",
            &["NO_PRE_OFFER"],
            &["NO_PRE_OFFER"],
        ),
        row(
            Nothing,
            expired(),
            "NO_OFFER",
            &["PRE_OFFER_EXPIRED"],
            &["PRE_OFFER_EXPIRED"],
        ),
        // Its promotion is known from the call, its country and its reward are those of nothing valid.
        row(
            Nothing,
            Some(
                json!({ "promotion_key": shut.key, "country_code": "CO", "valid_until": "2020-01-01T00:00:00Z" }),
            ),
            "NO_OFFER",
            &["PRE_OFFER_EXPIRED"],
            &[
                "PRE_OFFER_EXPIRED",
                "PROMOTION_INACTIVE",
                "PROMOTION_NOT_OPEN",
            ],
        ),
        row(
            Nothing,
            Some(json!({ "promotion_key": early.key })),
            "NO_OFFER",
            &["PROMOTION_NOT_OPEN"],
            &["PROMOTION_NOT_OPEN"],
        ),
        row(
            Nothing,
            Some(json!({ "promotion_key": late.key })),
            "NO_OFFER",
            &["PROMOTION_NOT_OPEN"],
            &["PROMOTION_NOT_OPEN"],
        ),
        row(
            Nothing,
            Some(json!({ "promotion_key": full.key })),
            "NO_OFFER",
            &["BUDGET_EXHAUSTED"],
            &["BUDGET_EXHAUSTED"],
        ),
        row(
            Nothing,
            Some(json!({ "promotion_key": dear.key, "amount_cents": 100_001 })),
            "NO_OFFER",
            &["BUDGET_EXHAUSTED"],
            &["BUDGET_EXHAUSTED"],
        ),
        row(
            Nothing,
            Some(json!({ "promotion_key": dear.key, "currency_code": "COP" })),
            "NO_OFFER",
            &["BUDGET_EXHAUSTED"],
            &["BUDGET_EXHAUSTED"],
        ),
        row(
            Nothing,
            Some(json!({ "promotion_key": shut.key, "country_code": "CO" })),
            "NO_OFFER",
            all_of_a_promotion,
            all_of_a_promotion,
        ),
        row(
            Nothing,
            Some(json!({ "promotion_key": null })),
            "NO_OFFER",
            &["NO_PROMOTION_MAPPED"],
            &["NO_PRE_OFFER"],
        ),
        row(
            Nothing,
            Some(json!({ "promotion_key": "nobody-knows", "country_code": "CO" })),
            "NO_OFFER",
            &["NO_PROMOTION_MAPPED", "PROMOTIONS_DISABLED"],
            &["NO_PRE_OFFER"],
        ),
        row(
            Nothing,
            Some(json!({ "promotion_key": inactive.key })),
            "NO_OFFER",
            &["PROMOTION_INACTIVE"],
            &["PROMOTION_INACTIVE"],
        ),
        row(
            Nothing,
            Some(json!({ "country_code": "CO" })),
            "NO_OFFER",
            &["PROMOTIONS_DISABLED"],
            &["PROMOTIONS_DISABLED"],
        ),
        // Its flag was never set.
        row(
            Nothing,
            Some(json!({ "country_code": "PE" })),
            "NO_OFFER",
            &["PROMOTIONS_DISABLED"],
            &["PROMOTIONS_DISABLED"],
        ),
        row(
            Nothing,
            inactive_and_off(),
            "NO_OFFER",
            &["PROMOTION_INACTIVE", "PROMOTIONS_DISABLED"],
            &["PROMOTION_INACTIVE", "PROMOTIONS_DISABLED"],
        ),
        row(
            InProgress,
            good(),
            "PROMO_PROGRESS",
            &["ANOTHER_CHALLENGE_LIVE"],
            &["ANOTHER_CHALLENGE_LIVE"],
        ),
        row(
            InProgress,
            inactive_and_off(),
            "PROMO_PROGRESS",
            &[
                "ANOTHER_CHALLENGE_LIVE",
                "PROMOTION_INACTIVE",
                "PROMOTIONS_DISABLED",
            ],
            &[
                "ANOTHER_CHALLENGE_LIVE",
                "PROMOTION_INACTIVE",
                "PROMOTIONS_DISABLED",
            ],
        ),
        row(
            Ended(End::Completed),
            None,
            "REWARD_READY",
            &["ANOTHER_CHALLENGE_LIVE", "NO_PRE_OFFER"],
            &["ANOTHER_CHALLENGE_LIVE", "NO_PRE_OFFER"],
        ),
        row(
            Ended(End::Completed),
            good(),
            "REWARD_READY",
            &["ANOTHER_CHALLENGE_LIVE"],
            &["ANOTHER_CHALLENGE_LIVE"],
        ),
        // Past its deadline it is over, also if its expiry is not recorded yet.
        row(Ended(End::TooLate), good(), "REWARD_EXPIRED", &[], &[]),
        row(Seen(End::TooLate), good(), "PROMO_OFFER", &[], &[]),
        // A second chance, once the client has seen that the first is over.
        row(Seen(End::NotCompleted), good(), "PROMO_OFFER", &[], &[]),
        row(Seen(End::NotClaimed), good(), "PROMO_OFFER", &[], &[]),
        row(
            Seen(End::NotCompleted),
            None,
            "NO_OFFER",
            &["NO_PRE_OFFER"],
            &["NO_PRE_OFFER"],
        ),
        row(
            Seen(End::NotClaimed),
            expired(),
            "NO_OFFER",
            &["PRE_OFFER_EXPIRED"],
            &["PRE_OFFER_EXPIRED"],
        ),
        // The promotion may be started from where the end of the other is still shown.
        row(Ended(End::NotCompleted), good(), "CHALLENGE_OVER", &[], &[]),
        row(Ended(End::NotClaimed), good(), "REWARD_EXPIRED", &[], &[]),
        row(
            Ended(End::NotCompleted),
            None,
            "CHALLENGE_OVER",
            &["NO_PRE_OFFER"],
            &["NO_PRE_OFFER"],
        ),
        row(
            Ended(End::Rewarded),
            good(),
            "NO_OFFER",
            &["ALREADY_REWARDED"],
            &["ALREADY_REWARDED"],
        ),
        row(
            Ended(End::Rewarded),
            None,
            "NO_OFFER",
            &["ALREADY_REWARDED", "NO_PRE_OFFER"],
            &["ALREADY_REWARDED", "NO_PRE_OFFER"],
        ),
        row(
            Ended(End::Rewarded),
            inactive_and_off(),
            "NO_OFFER",
            &[
                "ALREADY_REWARDED",
                "PROMOTION_INACTIVE",
                "PROMOTIONS_DISABLED",
            ],
            &[
                "ALREADY_REWARDED",
                "PROMOTION_INACTIVE",
                "PROMOTIONS_DISABLED",
            ],
        ),
    ];

    let mut user_id = 0;
    for row in &rows {
        for has_regular in [false, true] {
            user_id += 1;
            let name = format!("{:?}, {:?}, regular {has_regular}", row.before, row.newbie);
            let client = service.client(user_id);
            if !matches!(row.before, Nothing) {
                service.started_client(user_id, &earlier).await;
            }
            match row.before {
                Nothing | InProgress => {}
                Ended(end) | Seen(end) => end_by_force(&world, user_id, earlier.id, end).await,
            }
            if matches!(row.before, Seen(_)) {
                acknowledge(&client, &earlier).await;
            }
            let mut lines = Vec::new();
            if has_regular {
                lines.push(line(&usual, user_id, &json!({ "segment": "regular" })));
            }
            lines.extend(
                row.newbie
                    .iter()
                    .map(|changes| line(&usual, user_id, changes)),
            );
            admin.import_pre_offers(&lines).await;

            let screen = match row.screen {
                "NO_OFFER" if has_regular => "REGULAR_OFFER",
                screen => screen,
            };
            let landing = land(&client).await;
            assert_eq!(landing["screen"], screen, "{name}: {landing}");
            let given = |member: &str| !landing[member].is_null();
            let expected = match screen {
                "PROMO_OFFER" => [true, false, true],
                "REGULAR_OFFER" => [false, false, true],
                "NO_OFFER" => [false, false, false],
                _ => [true, true, false],
            };
            assert_eq!(
                ["promotion", "participation", "offer"].map(given),
                expected,
                "{name}: {landing}"
            );
            assert_eq!(land(&client).await["screen"], screen, "{name}: again");

            let user = admin.user(user_id).await;
            assert_eq!(user["eligibility"]["screen"], screen, "{name}");
            assert_eq!(failed(&user), row.reasons, "{name}");
            let splits = user["splits"].as_array().expect("splits").iter();
            let active: Vec<&Value> = splits
                .filter(|split| {
                    split["status"] == "ACTIVE" && split["promotion_id"] != json!(earlier.id)
                })
                .collect();
            let offered = screen == "PROMO_OFFER";
            assert_eq!(active.len(), usize::from(offered), "{name}: {user}");

            // The pre-offer's promotion, where it is another than the usual one.
            let key = row.newbie.as_ref().map(|changes| &changes["promotion_key"]);
            let named = [&inactive, &early, &late, &full, &dear, &shut]
                .into_iter()
                .find(|promotion| key == Some(&json!(promotion.key)));
            let wanted = named.unwrap_or(&usual);
            let answer = client.start(wanted.id).await;
            if row.start.is_empty() {
                answer.expect(201);
            } else {
                let problem = answer.problem(409, "not-eligible");
                assert_eq!(problem["reasons"], json!(row.start), "{name}");
                assert_eq!(problem["reason"], row.start[0], "{name}");
            }
            // A promotion is taken part in once, and nothing else is said of it.
            match row.before {
                Nothing => {}
                InProgress => {
                    client.start(earlier.id).await.expect(200);
                }
                Ended(_) | Seen(_) => {
                    client
                        .start(earlier.id)
                        .await
                        .problem(409, "already-participated");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_landing_offers_the_pre_offer_imported_last() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    let one = admin.open_promotion(&conditions(3)).await;
    let other = admin.create_promotion(&conditions(4)).await;
    let client = service.client(1);
    let import = async |name: &str, promotion: &Promotion, changes: Value| {
        let mut line = line(promotion, 1, &changes);
        line["external_id"] = json!(name);
        admin.import_pre_offers(&[line]).await
    };
    // The promotion and the amount offered.
    let offered = async || {
        let landing = land(&client).await;
        assert_eq!(landing["screen"], "PROMO_OFFER", "{landing}");
        assert_eq!(
            landing["promotion"]["promotion_id"],
            landing["offer"]["promotion_id"]
        );
        let id = landing["offer"]["promotion_id"].as_i64().expect("an id");
        (
            id,
            landing["offer"]["amount_cents"].as_i64().expect("cents"),
        )
    };
    import("a", &one, json!({ "amount_cents": 1 })).await;
    import("b", &other, json!({ "amount_cents": 2 })).await;
    assert_eq!(offered().await, (other.id, 2));
    import("a", &one, json!({ "amount_cents": 1 })).await;
    assert_eq!(offered().await, (other.id, 2), "unchanged stays");
    import("a", &one, json!({ "amount_cents": 3 })).await;
    assert_eq!(offered().await, (one.id, 3), "changed goes first");
    import("c", &one, json!({ "promotion_key": null })).await;
    import("d", &one, json!({ "promotion_key": "later" })).await;
    assert_eq!(offered().await, (one.id, 3), "mapped ones come first");
    import(
        "b",
        &other,
        json!({ "amount_cents": 2, "valid_until": "2020-01-01T00:00:00Z" }),
    )
    .await;
    assert_eq!(offered().await, (one.id, 3), "only valid ones");
    // Each of these is the newest of its kind, and none is considered.
    import("e", &other, json!({ "segment": "regular" })).await;
    assert_eq!(offered().await, (one.id, 3));

    // The country is that of the pre-offer.
    import(
        "b",
        &other,
        json!({ "amount_cents": 4, "country_code": "PE" }),
    )
    .await;
    let landing = land(&client).await;
    assert_eq!(landing["screen"], "REGULAR_OFFER", "{landing}");
    let user = admin.user(1).await;
    assert_eq!(failed(&user), ["PROMOTIONS_DISABLED"]);
    // A start is judged by the newest for its own promotion.
    let refused = client.start(other.id).await.problem(409, "not-eligible");
    assert_eq!(refused["reasons"], json!(["PROMOTIONS_DISABLED"]));
    let started = client.start(one.id).await.expect(201);
    assert_eq!(started["reward"]["amount_cents"], 3);

    // One split for each promotion was shown at a time, and the terms shown are those of the last.
    let user = admin.user(1).await;
    let active: Vec<Value> = user["splits"]
        .as_array()
        .expect("splits")
        .iter()
        .filter(|split| split["status"] == "ACTIVE")
        .map(|split| json!([split["promotion_id"], split["amount_cents"]]))
        .collect();
    assert_eq!(active, [json!([one.id, 3]), json!([other.id, 2])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_says_what_its_pre_offer_says_until_the_start_and_stays_then() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(3)).await;
    admin.set_country("CO", true).await;
    let client = service.client(1);
    let mut offer = promotion.pre_offer(1);
    // What the active split says, of how many there are.
    let split = async || {
        let user = admin.user(1).await;
        let splits = user["splits"].as_array().expect("splits").clone();
        let (active, over): (Vec<_>, Vec<_>) = splits
            .iter()
            .cloned()
            .partition(|split| split["status"] == "ACTIVE");
        assert_eq!(active.len(), 1, "{user}");
        (active[0].clone(), over.len())
    };
    let says = |split: &Value, offer: &Value| {
        for field in [
            "product_id",
            "amount_cents",
            "currency_code",
            "repayment_rate",
            "country_code",
        ] {
            assert_eq!(split[field], offer[field], "{field}");
        }
        let valid_until = offer["valid_until"].as_str().expect("an instant");
        let valid_until = valid_until.replace("00Z", "00.000Z");
        assert_eq!(split["valid_until"], valid_until);
    };
    for (replaced, (field, value)) in [
        ("amount_cents", json!(200_000)),
        ("valid_until", json!("2098-01-01T00:00:00Z")),
        ("country_code", json!("CO")),
        ("repayment_rate", json!("16")),
    ]
    .into_iter()
    .enumerate()
    {
        offer[field] = value;
        admin.import_pre_offers(std::slice::from_ref(&offer)).await;
        for _ in 0..2 {
            assert_eq!(land(&client).await["screen"], "PROMO_OFFER");
            let (active, over) = split().await;
            says(&active, &offer);
            assert_eq!(over, replaced, "{field}");
        }
    }
    // After the start the offer stays as it was shown, also if the pre-offer changes.
    client.start(promotion.id).await.expect(201);
    let (started, over) = split().await;
    says(&started, &offer);
    let mut other = offer.clone();
    other["amount_cents"] = json!(1);
    other["valid_until"] = json!("2097-01-01T00:00:00Z");
    admin.import_pre_offers(std::slice::from_ref(&other)).await;
    assert_eq!(land(&client).await["screen"], "PROMO_PROGRESS");
    assert_eq!(split().await, (started, over));
    // Run out, it is renewed from the pre-offer that is valid now.
    sqlx::query("update cash_loan_account set valid_until = clock_ms() where status = 'ACTIVE'")
        .execute(world.pool())
        .await
        .expect("it may run out");
    land(&client).await;
    let (renewed, over) = split().await;
    says(&renewed, &other);
    assert_eq!(over, 4);
    // And is not while there is none that is valid.
    sqlx::raw_sql(
        "update cash_loan_account set valid_until = clock_ms() where status = 'ACTIVE';
         update pre_offer set valid_until = clock_ms()",
    )
    .execute(world.pool())
    .await
    .expect("they may run out");
    assert_eq!(land(&client).await["screen"], "PROMO_PROGRESS");
    let user = admin.user(1).await;
    let splits = user["splits"].as_array().expect("splits");
    assert!(
        splits.iter().all(|split| split["status"] == "EXPIRED"),
        "{user}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_is_mourned_only_while_its_pre_offer_is_valid() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    for (user_id, end, screen) in [
        (1, End::NotCompleted, "CHALLENGE_OVER"),
        (2, End::NotClaimed, "REWARD_EXPIRED"),
        (3, End::TooLate, "REWARD_EXPIRED"),
    ] {
        let (client, _) = service.started_client(user_id, &promotion).await;
        end_by_force(&world, user_id, promotion.id, end).await;
        let landing = land(&client).await;
        assert_eq!(landing["screen"], screen, "{landing}");
        assert_eq!(landing["participation"]["promotion_id"], promotion.id);
        assert_eq!(landing["promotion"]["conditions"], conditions(1));
        sqlx::query("update pre_offer set valid_until = clock_ms() where user_id = $1")
            .bind(user_id)
            .execute(world.pool())
            .await
            .expect("it may run out");
        assert_eq!(land(&client).await["screen"], "NO_OFFER");
        // Still acknowledged, for what it is worth.
        acknowledge(&client, &promotion).await;
        assert_eq!(land(&client).await["screen"], "NO_OFFER");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_end_of_either_kind_another_promotion_may_follow_and_after_a_reward_none() {
    let world = World::new().await;
    let service = world.service().lateness("PT0S").start().await;
    let admin = service.admin();
    let mut quick = conditions(1);
    quick["challenge_period"] = json!("PT1S");
    let over = admin.open_promotion(&quick).await;
    let mut short = conditions(1);
    short["claim_period"] = json!("PT1S");
    let unclaimed = admin.create_promotion(&short).await;
    let third = admin.create_promotion(&conditions(1)).await;
    let fourth = admin.create_promotion(&conditions(1)).await;
    let client = service.client(1);
    let becomes = async |promotion: &Promotion, status: &str| {
        eventually(LIMIT, || async {
            let progress = client.progress(promotion.id).await.expect(200);
            equal(progress["status"].clone(), json!(status)).map(|_| progress)
        })
        .await
    };
    let offer = async |promotion: &Promotion| {
        admin.import_pre_offers(&[promotion.pre_offer(1)]).await;
    };
    let lands_on = async |screen: &str, promotion: &Promotion| {
        let landing = land(&client).await;
        assert_eq!(landing["screen"], screen, "{landing}");
        assert_eq!(landing["promotion"]["promotion_id"], promotion.id);
    };

    offer(&over).await;
    lands_on("PROMO_OFFER", &over).await;
    client.start(over.id).await.expect(201);
    let ended = becomes(&over, "EXPIRED").await;
    assert_eq!(ended["expired_reason"], "CHALLENGE_NOT_COMPLETED");
    offer(&unclaimed).await;
    lands_on("CHALLENGE_OVER", &over).await;
    acknowledge(&client, &over).await;
    lands_on("PROMO_OFFER", &unclaimed).await;

    client.start(unclaimed.id).await.expect(201);
    lands_on("PROMO_PROGRESS", &unclaimed).await;
    world.publish_ride(&ride(1)).await;
    let ended = becomes(&unclaimed, "EXPIRED").await;
    assert_eq!(ended["expired_reason"], "REWARD_NOT_CLAIMED");
    let accept = |promotion: &Promotion| {
        let path = format!("/v1/promotions/{}/accept_reward", promotion.id);
        let api = client.api.clone();
        async move { api.post(&path).await }
    };
    accept(&unclaimed).await.problem(410, "reward-expired");
    offer(&third).await;
    lands_on("REWARD_EXPIRED", &unclaimed).await;
    acknowledge(&client, &unclaimed).await;
    lands_on("PROMO_OFFER", &third).await;
    for promotion in [&over, &unclaimed] {
        // A new pre-offer for it does not change that, nor is it considered.
        offer(promotion).await;
        lands_on("PROMO_OFFER", &third).await;
        let refused = client.start(promotion.id).await;
        let refused = refused.problem(409, "already-participated");
        assert_eq!(refused["participation"]["status"], "EXPIRED");
    }

    client.start(third.id).await.expect(201);
    world.publish_ride(&ride(1)).await;
    becomes(&third, "COMPLETED").await;
    lands_on("REWARD_READY", &third).await;
    accept(&third).await.expect(200);
    offer(&fourth).await;
    assert_eq!(land(&client).await["screen"], "NO_OFFER");
    let refused = client.start(fourth.id).await.problem(409, "not-eligible");
    assert_eq!(refused["reasons"], json!(["ALREADY_REWARDED"]));
    let regular = line(&fourth, 1, &json!({ "segment": "regular" }));
    admin.import_pre_offers(&[regular]).await;
    assert_eq!(land(&client).await["screen"], "REGULAR_OFFER");
    // What is over stays what it was.
    for (promotion, slug) in [(&over, "challenge-over"), (&unclaimed, "reward-expired")] {
        accept(promotion).await.problem(410, slug);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_switches_stop_new_splits_and_starts_and_nothing_else() {
    let world = World::new().await;
    let service = world.service().start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(2)).await;
    let (client, started) = service.started_client(1, &promotion).await;
    let shown = service.eligible_client(2, &promotion).await;
    assert_eq!(land(&shown).await["screen"], "PROMO_OFFER");
    let newcomer = service.eligible_client(3, &promotion).await;

    admin.set_country("MX", false).await;
    let path = format!("/admin/v1/promotions/{}", promotion.id);
    let off = json!({ "active": false });
    admin.api.patch_json(&path, &off).await.expect(200);

    for client in [&shown, &newcomer] {
        assert_eq!(land(client).await["screen"], "NO_OFFER");
        let refused = client.start(promotion.id).await;
        let refused = refused.problem(409, "not-eligible");
        assert_eq!(
            refused["reasons"],
            json!(["PROMOTION_INACTIVE", "PROMOTIONS_DISABLED"])
        );
    }
    assert_eq!(admin.user(3).await["splits"], json!([]));
    // Nor does it take away the split that was shown.
    assert_eq!(admin.user(2).await["splits"][0]["status"], "ACTIVE");

    // The one who has started goes all the way: progress, deadline, a split run out, reward.
    world.publish_ride(&ride(1)).await;
    eventually(LIMIT, || async {
        let progress = client.progress(promotion.id).await.expect(200);
        assert_eq!(
            progress["challenge_deadline"],
            started["challenge_deadline"]
        );
        equal(progress["rides_completed"].clone(), json!(1))
    })
    .await;
    sqlx::query("update cash_loan_account set valid_until = clock_ms() where user_id = 1")
        .execute(world.pool())
        .await
        .expect("it may run out");
    assert_eq!(land(&client).await["screen"], "PROMO_PROGRESS");
    assert_eq!(admin.user(1).await["splits"][0]["status"], "ACTIVE");
    client.start(promotion.id).await.expect(200);
    world.publish_ride(&ride(1)).await;
    eventually(LIMIT, || async {
        equal(land(&client).await["screen"].clone(), json!("REWARD_READY"))
    })
    .await;
    let base = format!("/v1/promotions/{}", promotion.id);
    let shown = client.api.get(&format!("{base}/get_reward")).await;
    assert_eq!(shown.expect(200)["reward"], started["reward"]);
    let accepted = client.api.post(&format!("{base}/accept_reward")).await;
    assert_eq!(accepted.expect(200)["participation"]["status"], "REWARDED");
}
