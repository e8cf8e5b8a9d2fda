use serde_json::Value;

use super::*;
use crate::domain::Instant;
use crate::domain::participation::Completion;
use crate::domain::reward::Reward;

fn at(text: &str) -> Instant {
    text.parse().expect("an instant")
}

/// A participation at a version, in progress.
fn state(version: i32) -> State {
    State {
        user_id: 1,
        promotion_id: 2,
        promotion_key: "promo".to_owned(),
        status: Status::InProgress,
        version,
        rides_completed: version - 1,
        rides_target: 20,
        further_goals: None,
        started_at: at("2026-11-22T00:00:00Z"),
        challenge_deadline: at("2026-12-06T00:00:00Z"),
        reward: Reward {
            product_id: 80,
            amount_cents: 100_000,
            currency_code: "MXN".parse().expect("a currency"),
            repayment_rate: "15".to_owned(),
        },
    }
}

const fn completion() -> Completion {
    Completion {
        completed_at: Instant::UNIX_EPOCH,
        reward_deadline: Instant::UNIX_EPOCH,
    }
}

fn completed() -> Status {
    Status::Completed(completion())
}

fn rewarded() -> Status {
    Status::Rewarded {
        completion: completion(),
        rewarded_at: Instant::UNIX_EPOCH,
    }
}

fn with_status(version: i32, status: Status) -> State {
    State {
        status,
        ..state(version)
    }
}

fn stored(state: State) -> StoredParticipation {
    StoredParticipation {
        state: Arc::new(state),
        conditions: Arc::new(Value::Null),
        now: at("2026-11-23T00:00:00Z"),
    }
}

const KEY: ParticipationKey = (1, 2);

fn model() -> Arc<Model> {
    // It connects on first use, and these tests do not use it.
    let store = Store::new("postgres://nobody@127.0.0.1:1/none", 1).expect("a URL");
    Model::new(store, 2, Metrics::new())
}

/// As [`model`], and fresh.
fn fresh_model() -> Arc<Model> {
    let model = model();
    make_fresh(&model);
    model
}

fn make_fresh(model: &Model) {
    let pulse = OutboxAge {
        now: at("2026-11-23T00:00:00Z"),
        oldest_unpublished: Some(at("2026-11-22T23:59:59.500Z")),
    };
    model.observe(&pulse, Monotonic::now());
    model.tail_reached_end(Monotonic::now());
}

fn version(answer: Option<StoredParticipation>) -> Option<i32> {
    answer.map(|stored| stored.state.version)
}

#[tokio::test]
async fn answers_only_those_who_say_what_they_have_seen() {
    let model = fresh_model();
    drop(model.begin(KEY).finish(stored(state(3))));
    assert_eq!(version(model.answer(&KEY, Some(2))), Some(3));
    assert_eq!(version(model.answer(&KEY, Some(3))), Some(3));
    assert_eq!(
        version(model.answer(&KEY, Some(4))),
        None,
        "the client has a newer one"
    );
    assert_eq!(version(model.answer(&KEY, None)), None, "no condition");
    assert_eq!(version(model.answer(&(1, 3), Some(1))), None, "unknown");
}

#[tokio::test]
async fn a_live_state_is_answered_while_it_is_fresh_and_a_final_one_for_ever() {
    let model = model();
    drop(model.begin(KEY).finish(stored(state(3))));
    assert_eq!(version(model.answer(&KEY, Some(3))), None, "not fresh yet");
    model.tail_reached_end(Monotonic::now());
    assert_eq!(
        version(model.answer(&KEY, Some(3))),
        None,
        "the relay's lag is unknown"
    );
    make_fresh(&model);
    assert_eq!(version(model.answer(&KEY, Some(3))), Some(3));
    model.apply(with_status(4, completed()), None);
    assert_eq!(version(model.answer(&KEY, Some(3))), Some(4));
    let model = self::model();
    let completed = with_status(4, completed());
    drop(model.begin(KEY).finish(stored(completed)));
    assert_eq!(version(model.answer(&KEY, Some(4))), None, "not fresh");
    model.apply(with_status(5, rewarded()), None);
    assert_eq!(version(model.answer(&KEY, Some(3))), Some(5));
}

#[tokio::test]
async fn what_was_erased_is_answered_by_postgres_even_if_it_was_over_for_good() {
    let model = fresh_model();
    drop(model.begin(KEY).finish(stored(with_status(5, rewarded()))));
    assert_eq!(version(model.answer(&KEY, Some(5))), Some(5));
    let mut watch = model.watch(KEY);
    model.erased(&KEY);
    watch.changed().await;
    assert_eq!(version(model.answer(&KEY, Some(5))), None);
    // A participation that is read again after a restore has lower versions.
    drop(model.begin(KEY).finish(stored(state(1))));
    assert_eq!(version(model.answer(&KEY, Some(1))), Some(1));
}

#[tokio::test]
async fn what_has_ended_is_not_answered_from_memory_until_it_is_known_to_be_over() {
    let model = fresh_model();
    drop(model.begin(KEY).finish(stored(state(3))));
    model.ended(&[KEY]);
    assert_eq!(version(model.answer(&KEY, Some(3))), None);

    // A reading under way does not bring it back: what it read may be older.
    let reading = model.begin(KEY);
    model.ended(&[KEY]);
    drop(reading.finish(stored(state(3))));
    assert_eq!(version(model.answer(&KEY, Some(3))), None);

    // A waiting request is told to look.
    let mut watch = model.watch(KEY);
    drop(model.begin(KEY).finish(stored(state(3))));
    watch.changed().await;
    model.ended(&[KEY]);
    watch.changed().await;
    assert_eq!(version(model.answer(&KEY, Some(3))), None);

    let over = with_status(4, rewarded());
    drop(model.begin(KEY).finish(stored(over)));
    model.ended(&[KEY]);
    assert_eq!(version(model.answer(&KEY, Some(3))), Some(4));
}

#[tokio::test]
async fn endings_are_heard_only_by_a_question_that_began_later() {
    let endings = Arc::new(Endings::default());
    assert!(!endings.are_heard().await, "no session");
    endings.begin_session();
    let on_its_way = endings.begin_question();
    let mut hearing = tokio::spawn({
        let endings = Arc::clone(&endings);
        async move { endings.are_heard().await }
    });
    endings.is_wanted().await;
    endings.answered(on_its_way);
    let heard = tokio::time::timeout(Duration::from_millis(50), &mut hearing).await;
    assert!(heard.is_err(), "the question began before the read");
    endings.answered(endings.begin_question());
    assert!(hearing.await.expect("no panic"));
    endings.end_session();
    assert!(!endings.are_heard().await, "the session ended");
}

#[tokio::test]
async fn an_event_that_waits_to_be_published_makes_it_stale() {
    let model = model();
    model.tail_reached_end(Monotonic::now());
    let mut pulse = OutboxAge {
        now: at("2026-11-23T00:00:05Z"),
        oldest_unpublished: Some(at("2026-11-23T00:00:00Z")),
    };
    model.observe(&pulse, Monotonic::now());
    assert!(!model.is_fresh());
    pulse.oldest_unpublished = None;
    model.observe(&pulse, Monotonic::now());
    assert!(model.is_fresh());
}

#[tokio::test]
async fn a_proof_is_good_for_as_long_as_it_was_asked_not_answered() {
    let model = fresh_model();
    assert!(model.is_fresh());
    let model = self::model();
    make_fresh(&model);
    // Older proofs do not replace newer ones.
    model.tail_reached_end(model.origin);
    assert!(model.is_fresh());
}

#[tokio::test]
async fn an_event_between_the_entering_and_the_reading_is_not_lost() {
    let model = fresh_model();
    let reading = model.begin(KEY);
    assert!(model.wants(&KEY));
    model.apply(state(7), None);
    model.apply(state(6), None);
    let answered = reading.finish(stored(state(5)));
    assert_eq!(answered.state.version, 7);
    assert_eq!(version(model.answer(&KEY, Some(1))), Some(7));
    // A row of Postgres that is newer than the events stays.
    drop(model.begin(KEY).finish(stored(state(9))));
    model.apply(state(8), None);
    assert_eq!(version(model.answer(&KEY, Some(1))), Some(9));
}

#[tokio::test]
async fn a_reading_from_before_the_entry_does_not_fill_it() {
    let model = fresh_model();
    let old = model.begin(KEY);
    model.forget();
    // An event of version 6 passes while nothing is entered.
    let new = model.begin(KEY);
    drop(old.finish(stored(state(5))));
    assert_eq!(version(model.answer(&KEY, Some(1))), None);
    drop(new.finish(stored(state(6))));
    assert_eq!(version(model.answer(&KEY, Some(1))), Some(6));
}

#[tokio::test]
async fn what_was_not_found_leaves_no_trace() {
    let model = fresh_model();
    drop(model.begin(KEY));
    assert!(!model.wants(&KEY));
    assert_eq!(model.metrics.model.entries.get(), 0);
}

#[tokio::test]
async fn who_waits_hears_and_is_not_pushed_out() {
    let model = fresh_model();
    let mut watch = model.watch(KEY);
    drop(model.begin(KEY).finish(stored(state(1))));
    for other in 10..20 {
        drop(model.begin((other, 2)).finish(stored(State {
            user_id: other,
            ..state(1)
        })));
    }
    assert_eq!(
        model.metrics.model.entries.get(),
        3,
        "two, and the watched one"
    );
    watch.changed().await;
    model.apply(state(1), None);
    let again = tokio::time::timeout(Duration::from_millis(20), watch.changed());
    assert!(again.await.is_err(), "nothing new");
    model.apply(state(2), None);
    watch.changed().await;
    assert_eq!(version(model.answer(&KEY, Some(1))), Some(2));
    model.forget();
    assert_eq!(version(model.answer(&KEY, Some(1))), None);
    assert!(model.wants(&KEY), "still entered");
    let second = model.watch(KEY);
    drop(watch);
    assert!(model.wants(&KEY), "another watch remains");
    drop(second);
    assert!(!model.wants(&KEY));
}
