//! Schedules and budgets of promotions: when starts are possible, and that the reserved and spent sums never exceed
//! a maximum, also under concurrent starts (contract 2, Schedule and budget).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use crate::harness::*;
use crate::races::{HeldLock, done, post, waiting};

const LIMIT: Duration = Duration::from_secs(60);

/// The reward of every pre-offer here.
const CENTS: i64 = 100_000;

/// `budget-use` of a budget in Mexican pesos.
fn used(reserved: i64, spent: i64, max: Option<i64>) -> Value {
    json!({
        "participations": { "reserved": reserved, "spent": spent, "max": max },
        "reward_cents": { "reserved": reserved * CENTS, "spent": spent * CENTS, "max": max.map(|max| max * CENTS) },
        "currency_code": "MXN",
    })
}

fn budget(max: i64) -> Value {
    json!({ "max_participations": max, "max_reward_cents": max * CENTS, "currency_code": "MXN" })
}

impl Admin {
    /// A promotion that ends after its first ride, with this budget.
    async fn with_budget(&self, budget: &Value) -> Promotion {
        let promotion = self.open_promotion(&conditions(1)).await;
        let patch = json!({ "budget": budget });
        self.patch_promotion(&promotion, &patch).await.expect(200);
        promotion
    }
}

async fn agrees(world: &World, promotion: &Promotion) -> (i64, i64) {
    budget_in_use(world, promotion.id).await
}

/// The response to a call that is repeated while the service is too busy for it.
async fn served<F: Future<Output = Answer>>(call: impl Fn() -> F) -> Answer {
    eventually(LIMIT, || async {
        let answer = call().await;
        match answer.status.as_u16() {
            503 => Err(answer.text),
            _ => Ok(answer),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_starts_at_the_limit_beside_expiries_accepts_quits_and_a_kill_are_exact() {
    const MAX: i64 = 60;
    let world = World::new().await;
    let service = world.service().lateness("PT0S").start().await;
    let victim = world.service().lateness("PT0S").start().await;
    let admin = service.admin();
    let promotion = admin.with_budget(&budget(MAX)).await;
    let newcomers = 1_001..=1_300;
    let offers: Vec<Value> = (1..=MAX)
        .chain(newcomers.clone())
        .map(|user_id| promotion.pre_offer(user_id))
        .collect();
    admin.import_pre_offers(&offers).await;

    // Full: every further start gets the reason.
    let started = stream::iter(1..=MAX)
        .map(|user_id| {
            let client = service.client(user_id);
            let id = promotion.id;
            async move { client.start(id).await }
        })
        .buffer_unordered(20)
        .collect::<Vec<_>>()
        .await;
    for answer in started {
        answer.expect(201);
    }
    assert_eq!(admin.budget_use(&promotion).await, used(MAX, 0, Some(MAX)));
    let shut_out = service.client(1_001);
    assert_eq!(shut_out.land().await["screen"], "NO_OFFER");
    let problem = shut_out.start(promotion.id).await;
    let problem = problem.problem(409, "not-eligible");
    assert_eq!(problem["reasons"], json!(["BUDGET_EXHAUSTED"]));

    // 20 can accept, 15 are overdue by now, 15 will quit or are cancelled.
    for user_id in 1..=20 {
        end_by_force(&world, user_id, promotion.id, End::Completed).await;
    }
    let overdue = "update promotion_user set started_at = started_at - interval '20 days',
                          challenge_deadline = challenge_deadline - interval '20 days'
                    where user_id between 21 and 35";
    let is_over = AtomicBool::new(false);
    let watch = async {
        // What is in use, all the while: never beyond the maximum, and always what participations say.
        let mut looks = 0;
        while !is_over.load(Ordering::Relaxed) {
            let (reserved, spent) = agrees(&world, &promotion).await;
            assert!(reserved + spent <= MAX, "{reserved} and {spent}");
            looks += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        looks
    };
    let ends = async {
        world.execute(overdue).await;
        let accepts = stream::iter(1..=20).for_each_concurrent(5, |user_id| {
            let client = service.client(user_id);
            async move {
                let accepted = served(|| client.accept(promotion.id)).await;
                accepted.expect(200);
            }
        });
        let quits = stream::iter(36..=50).for_each_concurrent(5, |user_id| {
            let (client, admin) = (service.client(user_id), &admin);
            async move {
                if user_id % 2 == 0 {
                    served(|| client.quit(promotion.id)).await.expect(200);
                } else {
                    let cancelled = served(|| admin.cancel(user_id, promotion.id)).await;
                    cancelled.expect(200);
                }
            }
        });
        tokio::join!(accepts, quits);
    };
    let starts = async {
        // Each through both processes at once, again until the place is clear; one process is killed.
        let storm = stream::iter(newcomers.clone()).for_each_concurrent(300, |user_id| {
            let clients = [service.client(user_id), victim.client(user_id)];
            async move {
                for _ in 0..3 {
                    let [one, other] = clients.each_ref().map(|client| {
                        let path = format!("/v1/promotions/{}/start", promotion.id);
                        let request = client.api.request(reqwest::Method::POST, &path);
                        client.api.try_send(request)
                    });
                    let (one, other) = tokio::join!(one, other);
                    for answer in [one, other].into_iter().flatten() {
                        let status = answer.status.as_u16();
                        assert!([200, 201, 409, 503].contains(&status), "{}", answer.text);
                    }
                }
            }
        });
        let kill = async {
            eventually(LIMIT, || async {
                let newcomers = "select count(*) from promotion_user where user_id > 1000";
                (world.count(newcomers).await > 5)
                    .then_some(())
                    .ok_or("none yet")
            })
            .await;
            let pid = victim.pid().to_string();
            let killed = std::process::Command::new("kill")
                .args(["-9", &pid])
                .status();
            assert!(killed.expect("kill runs").success());
        };
        tokio::join!(storm, kill);
        is_over.store(true, Ordering::Relaxed);
    };
    let (looks, (), ()) = tokio::join!(watch, ends, starts);
    assert!(looks > 10, "{looks}");

    // What became free is taken by the next, up to the maximum and not beyond.
    eventually(LIMIT, || async {
        let left = "select count(*) from promotion_user where user_id between 21 and 35 and status <> 'EXPIRED'";
        equal(world.count(left).await, 0)
    })
    .await;
    for user_id in newcomers {
        let answer = service.client(user_id).start(promotion.id).await;
        assert!(
            [200, 201, 409].contains(&answer.status.as_u16()),
            "{}",
            answer.text
        );
    }
    assert_eq!(agrees(&world, &promotion).await, (MAX - 20, 20));
    assert_eq!(
        admin.budget_use(&promotion).await,
        used(MAX - 20, 20, Some(MAX))
    );
    // Nor is there an event of a start that was rolled back.
    world.events_are_published().await;
    let mut events = world.read_status_topic().await;
    events.retain(|record| record.event["user_id"].as_i64() > Some(1_000));
    let started = world.count("select count(*) from promotion_user where user_id > 1000");
    assert_eq!(events.len() as i64, started.await);
    assert_contiguous(events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_written_lowered_taken_away_and_given_again() {
    let world = World::new().await;
    let service = world.service().start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(1)).await;
    let patch = async |body: Value| admin.patch_promotion(&promotion, &body).await;
    let address = format!("/admin/v1/promotions/{}/budget-use", promotion.id);
    admin.api.get(&address).await.problem(404, "not-found");
    let mut line = 0;
    let mut refused = async |currency: &str| {
        line += 1;
        let mut offer = promotion.pre_offer(1_000 + line);
        offer["currency_code"] = json!(currency);
        admin.import_pre_offers(&[offer]).await;
        let client = service.client(1_000 + line);
        let problem = client.start(promotion.id).await;
        let problem = problem.problem(409, "not-eligible");
        assert_eq!(problem["reasons"], json!(["BUDGET_EXHAUSTED"]));
    };

    // Whole, or only participations; every wrong field is named.
    let whole = budget(3);
    let patched = patch(json!({ "budget": whole })).await.expect(200);
    assert_eq!(patched["budget"], whole);
    assert_eq!(admin.budget_use(&promotion).await, used(0, 0, Some(3)));
    for (wrong, field) in [
        (json!({ "max_participations": 0 }), "max_participations"),
        (json!({ "max_reward_cents": 5 }), "currency_code"),
        (
            json!({ "max_reward_cents": 5, "currency_code": "COP" }),
            "currency_code",
        ),
        (json!({ "currency_code": "COP" }), "currency_code"),
    ] {
        let problem = patch(json!({ "budget": wrong })).await;
        let problem = problem.problem(422, "invalid-request");
        assert_eq!(
            problem["errors"][0]["field"],
            format!("budget.{field}"),
            "{wrong}"
        );
    }

    service.started_client(1, &promotion).await;
    service.started_client(2, &promotion).await;
    refused("COP").await;
    end_by_force(&world, 1, promotion.id, End::Completed).await;
    service.client(1).accept(promotion.id).await.expect(200);
    service.client(1).accept(promotion.id).await.expect(200);
    assert_eq!(admin.budget_use(&promotion).await, used(1, 1, Some(3)));

    // Lowered below what is in use: no new start, and everything else goes on.
    patch(json!({ "budget": budget(1) })).await.expect(200);
    assert_eq!(admin.budget_use(&promotion).await, used(1, 1, Some(1)));
    refused("MXN").await;
    world.publish_ride(&ride(2)).await;
    eventually(LIMIT, || async {
        let progress = service.client(2).progress(promotion.id).await.expect(200);
        equal(progress["status"].clone(), json!("COMPLETED"))
    })
    .await;
    service.client(2).accept(promotion.id).await.expect(200);
    assert_eq!(admin.budget_use(&promotion).await, used(0, 2, Some(1)));

    // The metrics say the same.
    eventually(LIMIT, || async {
        let metrics = service.metrics().await;
        let of = |name, state| {
            metrics.sum(name, &[("promotion", &promotion.key), ("state", state)]) as i64
        };
        let participations = "ride_promo_budget_participations";
        let cents = "ride_promo_budget_reward_cents";
        let states = ["reserved", "spent", "max"];
        equal(
            (
                states.map(|state| of(participations, state)),
                states.map(|state| of(cents, state)),
            ),
            ([0, 2, 1], [0, 2 * CENTS, CENTS]),
        )
    })
    .await;

    // Nothing is shown of a promotion that cannot be started: its alert would have no end.
    patch(json!({ "active": false })).await.expect(200);
    eventually(LIMIT, || async {
        let metrics = service.metrics().await;
        let shown = [("promotion", promotion.key.as_str())];
        equal(metrics.sum("ride_promo_budget_participations", &shown), 0.0)
    })
    .await;
    patch(json!({ "active": true })).await.expect(200);

    // Without a budget everybody may start, and the use stays known.
    let patched = patch(json!({ "budget": null })).await.expect(200);
    assert_eq!(patched["budget"], Value::Null);
    service.started_client(3, &promotion).await;
    assert_eq!(admin.budget_use(&promotion).await, used(1, 2, None));
    patch(json!({ "budget": budget(3) })).await.expect(200);
    refused("MXN").await;
    patch(json!({ "budget": budget(4) })).await.expect(200);
    service.started_client(4, &promotion).await;
    assert_eq!(admin.budget_use(&promotion).await, used(2, 2, Some(4)));
    assert_eq!(agrees(&world, &promotion).await, (2, 2));

    // Erased: what was reserved is free again, what was spent stays spent.
    for (user, loan) in [("3", None), ("1", Some("--forget-loan"))] {
        let mut arguments = vec!["erase", "--user", user, "--reason", "asked for"];
        arguments.extend(loan);
        world.command(&arguments).run().await.expect_success();
    }
    assert_eq!(admin.budget_use(&promotion).await, used(1, 2, Some(4)));
    let erased = "select participations_erased * 1000000000 + reward_cents_erased from budget_use";
    assert_eq!(world.count(erased).await, 1_000_000_000 + CENTS);

    // Never before the first start: too late after it.
    let other = admin.open_promotion(&conditions(1)).await;
    service.started_client(11, &other).await;
    let late = json!({ "budget": { "max_participations": 5 } });
    let problem = admin.patch_promotion(&other, &late).await;
    problem.problem(409, "budget-too-late");
    let none = json!({ "budget": null });
    admin.patch_promotion(&other, &none).await.expect(200);

    // Participations alone count in any currency; the cents are those of the first.
    let any = admin.with_budget(&json!({ "max_participations": 2 })).await;
    service.started_client(21, &any).await;
    let mut pesos = any.pre_offer(22);
    pesos["currency_code"] = json!("COP");
    admin.import_pre_offers(&[pesos]).await;
    service.client(22).start(any.id).await.expect(201);
    let mut both = used(1, 0, None);
    both["participations"] = json!({ "reserved": 2, "spent": 0, "max": 2 });
    assert_eq!(admin.budget_use(&any).await, both);
    service.client(22).quit(any.id).await.expect(200);
    service.client(21).quit(any.id).await.expect(200);
    let mut nothing = used(0, 0, None);
    nothing["participations"]["max"] = json!(2);
    assert_eq!(admin.budget_use(&any).await, nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_are_possible_from_the_opening_until_before_the_closing() {
    let world = World::new().await;
    let service = world.service().start().await;
    let admin = service.admin();
    let (opens_at, closes_at) = (now() + TimeDelta::seconds(3), now() + TimeDelta::seconds(6));
    let key = "from-monday";
    admin.open_promotion(&conditions(1)).await;
    let body = json!({
        "promotion_key": key, "title": "From Monday", "conditions": conditions(1),
        "opens_at": instant(opens_at), "closes_at": instant(closes_at), "budget": budget(9),
    });
    let created = admin
        .api
        .post_json("/admin/v1/promotions", &body)
        .await
        .expect(201);
    for field in ["opens_at", "closes_at", "budget"] {
        assert_eq!(created[field], body[field]);
    }
    let id = created["promotion_id"].as_i64().expect("an id");
    let promotion = Promotion {
        id,
        key: key.to_owned(),
    };
    let offers: Vec<Value> = (1..=3)
        .map(|user_id| promotion.pre_offer(user_id))
        .collect();
    admin.import_pre_offers(&offers).await;
    let shut = async |user_id| {
        let client = service.client(user_id);
        assert_eq!(client.land().await["screen"], "NO_OFFER");
        let problem = client.start(id).await.problem(409, "not-eligible");
        assert_eq!(problem["reasons"], json!(["PROMOTION_NOT_OPEN"]));
    };
    shut(1).await;
    let client = service.client(1);
    eventually(LIMIT, || async {
        equal(client.land().await["screen"].clone(), json!("PROMO_OFFER"))
    })
    .await;
    assert!(now() >= opens_at);
    let started = client.start(id).await.expect(201);
    let at: chrono::DateTime<chrono::Utc> = started["started_at"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("an instant");
    assert!((opens_at..closes_at).contains(&at), "{at}");

    // Closing ends no started challenge.
    let other = service.client(2);
    eventually(LIMIT, || async {
        equal(other.land().await["screen"].clone(), json!("NO_OFFER"))
    })
    .await;
    assert!(now() >= closes_at - TimeDelta::milliseconds(1));
    shut(2).await;
    assert_eq!(client.land().await["screen"], "PROMO_PROGRESS");
    world.publish_ride(&ride(1)).await;
    eventually(LIMIT, || async {
        equal(client.land().await["screen"].clone(), json!("REWARD_READY"))
    })
    .await;
    client.accept(id).await.expect(200);

    // Half of a schedule is changed, and has to go with the other half.
    let path = format!("/admin/v1/promotions/{id}");
    let patch = async |body: Value| admin.api.patch_json(&path, &body).await;
    for (body, field) in [
        (json!({ "closes_at": instant(opens_at) }), "closes_at"),
        (json!({ "opens_at": instant(closes_at) }), "opens_at"),
        (json!({ "opens_at": "Monday" }), "opens_at"),
    ] {
        let problem = patch(body).await.problem(422, "invalid-request");
        assert_eq!(problem["errors"][0]["field"], field);
    }
    let patched = patch(json!({ "closes_at": null })).await.expect(200);
    assert_eq!(patched["closes_at"], Value::Null);
    assert_eq!(patched["opens_at"], instant(opens_at));
    other.start(id).await.expect(201);
}

/// A process of the release before would start past them, or could not read why a participation ended.
#[tokio::test(flavor = "multi_thread")]
async fn schedules_budgets_and_early_ends_wait_for_the_end_of_an_upgrade() {
    let world = World::new().await;
    world
        .execute("update release_upgrade set finished_at = null")
        .await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(1)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    let refused = |answer: Answer| drop(answer.problem(409, "upgrade-unfinished"));
    for (field, value) in [
        ("opens_at", json!(instant(now()))),
        ("closes_at", json!(instant(now()))),
        ("budget", budget(1)),
    ] {
        let patch = json!({ (field): value });
        refused(admin.patch_promotion(&promotion, &patch).await);
        let mut body = json!({ "promotion_key": field, "title": "T", "conditions": conditions(1) });
        body[field] = patch[field].clone();
        refused(admin.api.post_json("/admin/v1/promotions", &body).await);
        // What says nothing new goes on.
        let patch = json!({ (field): null, "title": "Other" });
        admin.patch_promotion(&promotion, &patch).await.expect(200);
    }
    refused(client.quit(promotion.id).await);
    refused(admin.cancel(1, promotion.id).await);
    let untouched = "select count(*) from promotion_user where status = 'IN_PROGRESS' and product_terms_id is null";
    assert_eq!(world.count(untouched).await, 1);
    // Nothing would be written.
    service
        .client(2)
        .quit(promotion.id)
        .await
        .problem(404, "not-participating");

    world
        .command(&["migrate", "--finish"])
        .run()
        .await
        .expect_success();
    client.quit(promotion.id).await.expect(200);
    let patch = json!({ "opens_at": instant(now()) });
    admin.patch_promotion(&promotion, &patch).await.expect(200);
    service.started_client(2, &promotion).await;
    let frozen = "select count(*) from promotion_user where product_terms_id is not null";
    assert_eq!(world.count(frozen).await, 1);
}

/// A start whose place is taken while it waits for the row, and one that gets a place that becomes free.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_place_goes_to_whoever_comes_first_to_the_row() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    let promotion = admin.with_budget(&budget(1)).await;
    for user_id in 1..=6 {
        service.eligible_client(user_id, &promotion).await;
    }
    let client = |user_id| service.client(user_id);
    let row = "select from budget_use for update";

    // Two starts come to the last place: the first in the row's queue has it.
    let held = HeldLock::by(&world, row).await;
    let first = post(&client(1), &promotion, "start");
    waiting(&world, 1).await;
    let second = post(&client(2), &promotion, "start");
    waiting(&world, 2).await;
    held.let_go().await;
    done(first).await.expect(201);
    let problem = done(second).await.problem(409, "not-eligible");
    assert_eq!(problem["reasons"], json!(["BUDGET_EXHAUSTED"]));
    let nothing = "select (select count(*) from promotion_user where user_id = 2)
                        + (select count(*) from cash_loan_account where user_id = 2)
                        + (select count(*) from event_outbox where user_id = 2)";
    assert_eq!(world.count(nothing).await, 0, "all of it was rolled back");
    assert_eq!(agrees(&world, &promotion).await, (1, 0));

    // A start comes before the one who holds the place has given it up: what was read is not waited for.
    let held = HeldLock::by(&world, row).await;
    let quit = post(&client(1), &promotion, "quit");
    waiting(&world, 1).await;
    let problem = done(post(&client(2), &promotion, "start")).await;
    let problem = problem.problem(409, "not-eligible");
    assert_eq!(problem["reasons"], json!(["BUDGET_EXHAUSTED"]));
    held.let_go().await;
    done(quit).await.expect(200);
    client(2).start(promotion.id).await.expect(201);

    // An accept comes to the row before a start, and after it: a spent place is not free either way.
    end_by_force(&world, 2, promotion.id, End::Completed).await;
    admin
        .patch_promotion(&promotion, &json!({ "budget": budget(2) }))
        .await
        .expect(200);
    for (user_id, accept_first) in [(3, true), (4, false)] {
        let held = HeldLock::by(&world, row).await;
        let calls = [(client(2), "accept_reward"), (client(user_id), "start")];
        let [(one, what), (other, then)] = if accept_first {
            calls
        } else {
            let [accept, start] = calls;
            // The one who accepted is another by now.
            [start, (client(3), accept.1)]
        };
        let one = post(&one, &promotion, what);
        waiting(&world, 1).await;
        let other = post(&other, &promotion, then);
        waiting(&world, 2).await;
        held.let_go().await;
        let (one, other) = (done(one).await, done(other).await);
        let (accept, start) = if accept_first {
            (one, other)
        } else {
            (other, one)
        };
        accept.expect(200);
        start.expect(201);
        let (reserved, spent) = agrees(&world, &promotion).await;
        assert_eq!(
            (reserved, spent),
            if accept_first { (1, 1) } else { (1, 2) }
        );
        end_by_force(&world, user_id, promotion.id, End::Completed).await;
        let patch = json!({ "budget": budget(3) });
        admin.patch_promotion(&promotion, &patch).await.expect(200);
    }
    done(post(&client(5), &promotion, "start"))
        .await
        .problem(409, "not-eligible");

    // The sweeper gives a place back; a start that came first was refused, one that comes after has it.
    end_by_force(&world, 4, promotion.id, End::TooLate).await;
    let held = HeldLock::by(&world, row).await;
    let _sweeper = world.service().roles("sweep").start().await;
    waiting(&world, 1).await;
    done(post(&client(5), &promotion, "start"))
        .await
        .problem(409, "not-eligible");
    held.let_go().await;
    eventually(LIMIT, || async {
        equal(agrees(&world, &promotion).await, (0, 2))
    })
    .await;
    client(5).start(promotion.id).await.expect(201);

    // A budget that is lowered while a start is under way counts for the next one.
    let patch = json!({ "budget": budget(4) });
    admin.patch_promotion(&promotion, &patch).await.expect(200);
    let held = HeldLock::by(&world, row).await;
    let start = post(&client(6), &promotion, "start");
    waiting(&world, 1).await;
    let lowered = crate::races::call(
        &admin.api,
        reqwest::Method::PATCH,
        &format!("/admin/v1/promotions/{}", promotion.id),
        Some(json!({ "budget": budget(1) })),
    );
    waiting(&world, 2).await;
    held.let_go().await;
    done(start).await.expect(201);
    done(lowered).await.expect(200);
    assert_eq!(admin.budget_use(&promotion).await, used(2, 2, Some(1)));
}

/// A start in one promotion that ends an overdue reward in another changes both rows, in the order of
/// their numbers: two that cross each other do not lock each other out.
#[tokio::test(flavor = "multi_thread")]
async fn two_budgets_in_one_start_are_locked_in_one_order() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let admin = service.admin();
    let low = admin.with_budget(&budget(5)).await;
    let high = admin.with_budget(&budget(5)).await;
    for (user_id, [from, to]) in [(1, [&low, &high]), (2, [&high, &low])] {
        service.started_client(user_id, from).await;
        end_by_force(&world, user_id, from.id, End::TooLate).await;
        service.eligible_client(user_id, to).await;
    }
    let held = HeldLock::by(
        &world,
        "select from budget_use order by promotion_id limit 1 for update",
    )
    .await;
    let up = post(&service.client(1), &high, "start");
    waiting(&world, 1).await;
    let down = post(&service.client(2), &low, "start");
    waiting(&world, 2).await;
    // Neither holds the other row meanwhile.
    let mut other = world.pool().begin().await.expect("a session");
    sqlx::query("select from budget_use where promotion_id = $1 for update nowait")
        .bind(high.id)
        .execute(&mut *other)
        .await
        .expect("the lock is free");
    other.rollback().await.expect("it was held");
    held.let_go().await;
    done(up).await.expect(201);
    done(down).await.expect(201);
    for promotion in [&low, &high] {
        assert_eq!(agrees(&world, promotion).await, (1, 0));
    }
}
