use serde_json::json;

use super::*;

fn valid() -> Value {
    json!({
        "promotion_key": "mx-newbie-20", "title": "A loan", "conditions": {
            "target_rides": 20, "min_amount_cents": 5000, "currency_code": "MXN",
            "challenge_period": "P2W", "claim_period": "P7D", "city_ids": null,
        },
    })
}

fn with(field: &str, value: Value) -> Map<String, Value> {
    let mut body = valid();
    body[field] = value;
    object(body)
}

fn object(body: Value) -> Map<String, Value> {
    body.as_object().cloned().expect("an object")
}

fn named<T: std::fmt::Debug>(result: Result<T, Vec<FieldError>>) -> Vec<String> {
    let errors = result.expect_err("something is wrong");
    errors.into_iter().map(|error| error.field).collect()
}

#[test]
fn a_promotion_is_kept_as_written_with_its_defaults() {
    let new = NewPromotion::from_json(&object(valid())).expect("valid");
    assert_eq!(new.missing_split, MissingSplit::Create);
    assert!(new.active);
    assert_eq!(new.conditions["challenge_period"], "P2W");
    assert!(new.conditions.get("city_ids").is_none());
    assert_eq!(
        (new.opens_at, new.closes_at, new.budget),
        (None, None, None)
    );
    let body = with("missing_split", json!(MissingSplit::Reject));
    let new = NewPromotion::from_json(&body).expect("valid");
    assert_eq!(new.missing_split, MissingSplit::Reject);
}

#[test]
fn each_field_of_a_promotion_is_named_when_it_is_wrong() {
    let bad = [
        ("promotion_key", json!("")),
        ("promotion_key", json!("a b")),
        ("promotion_key", json!("a\u{a0}b")),
        ("promotion_key", json!("a\0")),
        ("promotion_key", json!("k".repeat(101))),
        ("promotion_key", json!(1)),
        ("title", json!(null)),
        ("title", json!("t".repeat(201))),
        ("conditions", json!(null)),
        ("conditions", json!([])),
        ("missing_split", json!("maybe")),
        ("active", json!("yes")),
        ("opens_at", json!("2026-11-22")),
        ("closes_at", json!(1)),
        ("budget", json!(1)),
        ("promotion_id", json!(1)),
    ];
    for (field, value) in bad {
        let body = with(field, value.clone());
        assert_eq!(named(NewPromotion::from_json(&body)), [field], "{value}");
    }
    let mut body = valid();
    body["conditions"]["target_rides"] = json!(0);
    body["conditions"]["colour"] = json!("red");
    body["title"] = json!("");
    assert_eq!(
        named(NewPromotion::from_json(&object(body))),
        ["title", "conditions.target_rides", "conditions.colour"]
    );
}

#[test]
fn a_schedule_ends_after_it_begins_also_when_half_of_it_is_patched() {
    let (early, late) = ("2026-11-22T18:00:00Z", "2026-11-22T19:00:00Z");
    let mut body = with("opens_at", json!(late));
    body.insert("closes_at".to_owned(), json!(late));
    assert_eq!(named(NewPromotion::from_json(&body)), ["closes_at"]);
    let patched = |body: Value, opens_at: Option<&str>, closes_at: Option<&str>| {
        let at = |text: Option<&str>| text.map(|text| text.parse().expect("an instant"));
        let patch = PromotionPatch::from_json(&object(body)).expect("valid");
        let present = Schedule {
            opens_at: at(opens_at),
            closes_at: at(closes_at),
        };
        patch.schedule(present).map_err(|error| error.field)
    };
    let refused = |field: &str| Err(field.to_owned());
    let close = json!({ "closes_at": early });
    assert_eq!(
        patched(close.clone(), Some(late), None),
        refused("closes_at")
    );
    let open = json!({ "opens_at": late });
    assert_eq!(patched(open, None, Some(early)), refused("opens_at"));
    let moved = patched(close, None, Some(late)).expect("possible");
    assert_eq!(moved.closes_at, early.parse().ok());
    let removed = patched(json!({ "opens_at": null }), Some(late), Some(early));
    assert_eq!(removed.expect("possible").opens_at, None);
}

#[test]
fn a_budget_is_replaced_whole_or_removed() {
    let patch = |body| PromotionPatch::from_json(&object(body)).expect("valid");
    assert_eq!(patch(json!({})).budget, None);
    let removed = patch(json!({ "budget": null }));
    assert_eq!(removed.budget, Some(None));
    assert!(!removed.is_empty());
    let replaced = patch(json!({ "budget": { "max_participations": 7 } }));
    let budget = replaced.budget.flatten().expect("a budget");
    assert_eq!(budget.max_participations, Some(7));
}

#[test]
fn a_patch_names_what_it_may_not_touch() {
    let patch = |body| PromotionPatch::from_json(&object(body));
    assert!(patch(json!({})).expect("nothing").is_empty());
    let title = patch(json!({ "title": "New" })).expect("valid");
    assert_eq!(title.title.as_deref(), Some("New"));
    assert!(!title.is_empty());
    for field in ["title", "conditions", "missing_split", "active"] {
        assert_eq!(named(patch(json!({ (field): null }))), [field]);
    }
    for key in [json!("other"), json!(null)] {
        assert_eq!(
            named(patch(json!({ "promotion_key": key }))),
            ["promotion_key"]
        );
    }
    assert_eq!(
        named(patch(json!({ "conditions": { "target_rides": 3 } }))),
        [
            "conditions.min_amount_cents",
            "conditions.currency_code",
            "conditions.challenge_period",
            "conditions.claim_period"
        ],
        "conditions are replaced whole"
    );
}
