//! The import of pre-offers from the command line (contract 7).

use std::{collections::BTreeMap, io::Write as _, path::PathBuf, time::Duration};

use flate2::{Compression, write::GzEncoder};
use ride_promo::import::{Format, import_pre_offers};
use ride_promo::store::{Store, start::StartOutcome};
use serde_json::{Value, json};

use crate::harness::*;

const HEADER: &str = "external_id,user_id,segment,product_id,amount_cents,currency_code,repayment_rate,country_code,valid_until,promotion_key,score";

/// A database with product 80, Mexico open and one promotion.
async fn world() -> (World, Promotion) {
    let world = World::builder().without_topics().build().await;
    sqlx::raw_sql(
        "insert into product (product_id, name, currency_code, term_days) values (80, 'First loan', 'MXN', 30);
         insert into geo_config (country_code, promotions_enabled) values ('MX', true)",
    )
    .execute(world.pool())
    .await
    .unwrap();
    let promotion = promotion(&world, "mx-newbie-20").await;
    (world, promotion)
}

async fn promotion(world: &World, key: &str) -> Promotion {
    let id = sqlx::query_scalar(
        "insert into promotion (promotion_key, title, conditions) values ($1, 'A test', $2) returning promotion_id",
    )
    .bind(key)
    .bind(conditions(20))
    .fetch_one(world.pool())
    .await
    .unwrap();
    Promotion {
        id,
        key: key.to_owned(),
    }
}

fn file(world: &World, name: &str, content: &[u8]) -> PathBuf {
    let path = world.new_dir("import").join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

async fn import(world: &World, name: &str, content: &[u8]) -> Value {
    let path = file(world, name, content);
    let command = world.command(&["import", "pre-offers", path.to_str().unwrap()]);
    let answer = command.run().await.expect_success();
    serde_json::from_str(&answer).unwrap()
}

fn ndjson(lines: &[Value]) -> Vec<u8> {
    lines
        .iter()
        .map(|line| format!("{line}\n"))
        .collect::<String>()
        .into_bytes()
}

/// `[read, imported, updated, unchanged, without_promotion, rejected]`
fn counts(report: &Value) -> [u64; 6] {
    [
        "read",
        "imported",
        "updated",
        "unchanged",
        "without_promotion",
        "rejected",
    ]
    .map(|name| report[name].as_u64().unwrap())
}

/// Every pre-offer, the most recently imported first.
async fn stored(world: &World) -> Vec<Value> {
    sqlx::query_scalar(
        "select to_jsonb(p) - 'pre_offer_id' - 'import_seq' - 'created_at' - 'updated_at'
           from pre_offer p order by import_seq desc",
    )
    .fetch_all(world.pool())
    .await
    .unwrap()
}

async fn order(world: &World) -> Vec<String> {
    let stored = stored(world).await;
    let ids = stored.iter().map(|line| line["external_id"].as_str());
    ids.map(|id| id.unwrap().to_owned()).collect()
}

/// What the only import came to, by the audit.
async fn audited(world: &World) -> Value {
    sqlx::query_scalar("select coalesce(p.after, a.after) from admin_audit a left join import_progress p using (audit_id)
          where a.call = 'pre-offers:import'")
        .fetch_one(world.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn every_shape_of_an_export_is_the_same_pre_offer() {
    let (world, promotion) = world().await;
    let plain = json!({ "external_id": "s-1", "user_id": 48151, "segment": "newbie", "product_id": 80,
        "amount_cents": 100_000, "currency_code": "MXN", "repayment_rate": "15", "country_code": "MX",
        "valid_until": "2026-12-31T00:00:00.250Z", "promotion_key": "mx-newbie-20" });
    let report = import(&world, "a.ndjson", &ndjson(std::slice::from_ref(&plain))).await;
    assert_eq!(
        report,
        json!({ "read": 1, "imported": 1, "updated": 0, "unchanged": 0, "without_promotion": 0, "rejected": 0,
            "rejections": [] })
    );
    let mut expected = plain.clone();
    expected["promotion_id"] = json!(promotion.id);
    expected["valid_until"] = json!("2026-12-31T00:00:00.25+00:00");
    assert_eq!(stored(&world).await, [expected]);

    let mut bigquery = plain;
    bigquery["user_id"] = json!("48151");
    bigquery["product_id"] = json!("80");
    bigquery["amount_cents"] = json!("100000");
    bigquery["repayment_rate"] = json!(15);
    bigquery["valid_until"] = json!("2026-12-31 00:00:00.250999 UTC");
    bigquery["score"] = json!({ "of": [1, 2] });
    let json = ndjson(&[bigquery]);
    let row = "s-1,48151,newbie,80,100000,MXN,15,MX,2026-12-31 00:00:00.25 UTC,mx-newbie-20,\"a, \"\"b\"\"\r\nc\"";
    let csv = format!("\u{feff}{HEADER}\r\n{row}\r\n").into_bytes();
    for (name, content) in [
        ("a.json", json.clone()),
        ("a.jsonl.gz", gzip(&json)),
        ("export-000", json),
        ("a.csv", csv.clone()),
        ("a.csv.gz", [gzip(&csv[..40]), gzip(&csv[40..])].concat()),
        ("export-001", csv),
    ] {
        let report = import(&world, name, &content).await;
        assert_eq!(counts(&report), [1, 0, 0, 1, 0, 0], "{name}: {report}");
    }
}

#[tokio::test]
async fn bad_lines_are_named_and_the_others_go_in() {
    let (world, _) = world().await;
    let row = |id: &str, change: (&str, &str)| {
        format!("{id},1,newbie,80,100000,MXN,15,MX,2020-01-01 00:00:00 UTC,,\n")
            .replace(change.0, change.1)
    };
    let mut csv = format!("{HEADER}\n").into_bytes();
    for line in [
        row("past", ("", "")),
        row("product", (",80,", ",81,")),
        row("amount", ("100000", "0")),
        "\n".to_owned(),
        row("key", (",,", ",no-such-promotion,")),
        row("quote", ("newbie", "\"newbie")),
        row("long", ("MXN", &"x".repeat(70_000))),
        row("cells", (",,", ",")),
        row("nul", ("newbie", "new\0bie")),
    ] {
        csv.extend_from_slice(line.as_bytes());
    }
    csv.extend_from_slice(b"latin\xe9,1,newbie,80,1,MXN,15,MX,2020-01-01 00:00:00 UTC,,\n");
    csv.extend_from_slice(row("last", ("\n", "")).as_bytes());
    let report = import(&world, "a.csv", &csv).await;
    assert_eq!(counts(&report), [10, 3, 0, 0, 3, 7], "{report}");
    let rejections = report["rejections"].as_array().unwrap();
    let named: Vec<_> = rejections
        .iter()
        .map(|one| (one["line"].as_u64().unwrap(), one["field"].as_str()))
        .collect();
    assert_eq!(
        named,
        [
            (3, Some("product_id")),
            (4, Some("amount_cents")),
            (6, Some("promotion_key")),
            (7, None),
            (8, None),
            (9, None),
            (10, None),
            (11, None)
        ]
    );
    assert_eq!(rejections[0]["reason"], "must be a known product, got 81");
    assert_eq!(rejections[2]["reason"], "UNKNOWN_PROMOTION_KEY");
    assert_eq!(order(&world).await, ["last", "key", "past"]);
    assert_eq!(counts(&audited(&world).await), counts(&report));
}

/// Bad lines after the last one that fills a batch are in the audit as well.
#[tokio::test]
async fn the_audit_counts_what_is_rejected_at_the_end() {
    let (world, promotion) = world().await;
    let mut lines: Vec<Value> = (1..=1_000).map(|user| promotion.pre_offer(user)).collect();
    lines.extend([json!({}), json!({}), json!([])]);
    let report = import(&world, "a.ndjson", &ndjson(&lines)).await;
    assert_eq!(counts(&report), [1_003, 1_000, 0, 0, 0, 3], "{report}");
    assert_eq!(counts(&audited(&world).await), counts(&report));
}

#[tokio::test]
async fn a_change_moves_a_pre_offer_to_the_front_and_a_repeat_does_not() {
    let (world, promotion) = world().await;
    let line = |id: &str, amount: i64, key: Value| {
        let mut line = promotion.pre_offer(1);
        line["external_id"] = json!(id);
        line["amount_cents"] = json!(amount);
        line["promotion_key"] = key;
        line
    };
    let key = json!(promotion.key);
    // The order of the lines, not that of their ids.
    let first = [
        line("c", 1, key.clone()),
        line("a", 1, key.clone()),
        line("b", 1, json!("later")),
    ];
    let report = import(&world, "1.ndjson", &ndjson(&first)).await;
    assert_eq!(counts(&report), [3, 3, 0, 0, 1, 0]);
    assert_eq!(order(&world).await, ["b", "a", "c"]);

    let report = import(&world, "2.ndjson", &ndjson(&first)).await;
    assert_eq!(counts(&report), [3, 0, 0, 3, 1, 0]);
    assert_eq!(report["rejections"][0]["reason"], "UNKNOWN_PROMOTION_KEY");
    assert_eq!(order(&world).await, ["b", "a", "c"]);

    // Twice in one batch: as if one after another.
    let changed = [
        line("c", 2, key.clone()),
        first[1].clone(),
        line("c", 2, key),
    ];
    let report = import(&world, "3.ndjson", &ndjson(&changed)).await;
    assert_eq!(counts(&report), [3, 0, 1, 2, 0, 0]);
    assert_eq!(order(&world).await, ["c", "b", "a"]);

    // A promotion that came to be later is picked up by the same line.
    self::promotion(&world, "later").await;
    let report = import(&world, "4.ndjson", &ndjson(&first[2..])).await;
    assert_eq!(counts(&report), [1, 0, 1, 0, 0, 0]);
    assert_eq!(order(&world).await, ["b", "c", "a"]);
}

#[tokio::test]
async fn what_cannot_be_read_fails_and_keeps_what_went_in() {
    let (world, promotion) = world().await;
    let lines: Vec<Value> = (1..=3_000).map(|user| promotion.pre_offer(user)).collect();
    let mut torn = gzip(&ndjson(&lines));
    torn.truncate(torn.len() - 100);
    let mut whole_lines = Vec::new();
    let mut decoder = flate2::write::GzDecoder::new(&mut whole_lines);
    decoder.write_all(&torn).unwrap();
    decoder.try_finish().unwrap_err();
    drop(decoder);
    let whole_lines = whole_lines.iter().filter(|byte| **byte == b'\n').count();
    for (name, content, why) in [
        (
            "torn.ndjson.gz",
            torn.as_slice(),
            format!("cannot read on after line {whole_lines}: the gzip file is cut off"),
        ),
        (
            "a.csv",
            b"external_id,user_id\n1,2\n",
            "line 1: the header lacks segment".to_owned(),
        ),
    ] {
        let path = file(&world, name, content);
        let command = world.command(&["import", "pre-offers", path.to_str().unwrap()]);
        let output = command.run().await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stderr.contains(&why), "{output:?}");
    }
    assert_eq!(stored(&world).await.len(), whole_lines);
    let read = whole_lines as u64;
    assert_eq!(counts(&audited(&world).await), [read, read, 0, 0, 0, 0]);
    let report = import(&world, "whole.ndjson", &ndjson(&lines)).await;
    assert_eq!(counts(&report), [3_000, 3_000 - read, 0, read, 0, 0]);
    let report = import(&world, "empty.csv", b"").await;
    assert_eq!(counts(&report), [0; 6]);
}

#[tokio::test]
async fn line_ends_of_every_kind_end_lines() {
    let (world, promotion) = world().await;
    let row = |id: u64| {
        format!(
            "c-{id},{id},newbie,80,100000,MXN,15,MX,2099-12-31 00:00:00+00,{}",
            promotion.key
        )
    };
    let header = HEADER.trim_end_matches(",score");
    for (name, text, read) in [
        ("a.csv", [header, &row(1), &row(2), ""].join("\r"), 2),
        (
            "b.csv",
            format!("{header}\r\n{}\r{}\n{}", row(1), row(2), row(3)),
            3,
        ),
        ("c.csv", [header, &row(1), &row(2)].join("\r\r\n"), 2),
    ] {
        let report = import(&world, name, text.as_bytes()).await;
        let [found, _, _, _, without_promotion, rejected] = counts(&report);
        assert_eq!(
            [found, without_promotion, rejected],
            [read, 0, 0],
            "{report}"
        );
    }
    assert_eq!(stored(&world).await.len(), 3);
    let bad = [header, &row(4), "x"].join("\r");
    let report = import(&world, "d.csv", bad.as_bytes()).await;
    assert_eq!(report["rejections"][0]["line"], 3, "{report}");
}

#[tokio::test]
async fn zeros_after_gzip_are_padding_and_other_bytes_keep_what_was_read() {
    let (world, promotion) = world().await;
    let lines = |from: i64| -> Vec<u8> {
        let lines: Vec<Value> = (from..from + 10)
            .map(|user| promotion.pre_offer(user))
            .collect();
        ndjson(&lines)
    };
    let padded = [gzip(&lines(1)), vec![0; 512]].concat();
    let report = import(&world, "padded.ndjson.gz", &padded).await;
    assert_eq!(counts(&report), [10, 10, 0, 0, 0, 0]);

    let followed = [gzip(&lines(11)), b"more".to_vec()].concat();
    let path = file(&world, "followed.ndjson.gz", &followed);
    let arguments = ["import", "pre-offers", path.to_str().unwrap()];
    let output = world.command(&arguments).run().await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(counts(&report), [10, 10, 0, 0, 0, 0]);
    let says = "cannot read on after line 10: the gzip file has ended, and other bytes follow";
    assert!(output.stderr.contains(says), "{output:?}");
    assert_eq!(stored(&world).await.len(), 20);

    let service = world.service().roles("api").start().await;
    let answer = post(&service, &[], [gzip(&lines(21)), b"more".to_vec()].concat()).await;
    let problem = answer.problem(400, "malformed-request");
    assert_eq!(problem["line"], 10, "{problem}");
    assert_eq!(counts(&problem["report"]), [10, 10, 0, 0, 0, 0]);
}

#[tokio::test]
async fn texts_of_other_forms_are_named_with_what_to_do() {
    let (world, promotion) = world().await;
    let row = "c-1,1,newbie,80,100000,MXN,15,MX,2099-12-31 00:00:00 UTC,";
    let utf_16: Vec<u8> = format!("\u{feff}{HEADER}\n")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (content, why) in [
        (utf_16, "convert it to UTF-8"),
        (
            HEADER.replace(',', ";").into_bytes(),
            "separated by semicolons",
        ),
        // What `curl -d @FILE` makes of a CSV.
        (
            format!("{}{row}", HEADER.trim_end_matches(",score")).into_bytes(),
            "--data-binary",
        ),
    ] {
        let path = file(&world, "a.csv", &content);
        let arguments = ["import", "pre-offers", path.to_str().unwrap()];
        let output = world.command(&arguments).run().await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stderr.contains(why), "{output:?}");
    }
    // An export without rows is one.
    let report = import(&world, "none.csv", format!("{HEADER}\n").as_bytes()).await;
    assert_eq!(counts(&report), [0; 6]);
    let offer = promotion.pre_offer(1);
    let joined = format!("{offer}{offer}");
    let report = import(&world, "joined.ndjson", joined.as_bytes()).await;
    let reason = report["rejections"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("--data-binary"), "{report}");
}

#[tokio::test]
async fn a_mistyped_promotion_key_is_said_to_be_imported() {
    let (world, promotion) = world().await;
    let mut lines = [promotion.pre_offer(1), promotion.pre_offer(2)];
    lines[0]["promotion_key"] = json!("mistyped");
    lines[1]["user_id"] = json!(0);
    let path = file(&world, "a.ndjson", &ndjson(&lines));
    let arguments = ["import", "pre-offers", path.to_str().unwrap()];
    let report = world.command(&arguments).run().await.expect_success();
    let report: Value = serde_json::from_str(&report).unwrap();
    let listed = report["rejections"].as_array().unwrap();
    let imported: Vec<&Value> = listed.iter().map(|one| &one["imported"]).collect();
    assert_eq!(imported, [true, false]);
    // For a person: here asked for, otherwise wherever the output is a terminal.
    let arguments = [&arguments[..], &["--output", "table"]].concat();
    let table = world.command(&arguments).run().await.expect_success();
    let says = |words: &[&str]| {
        let found = table
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "{words:?} in {table}");
    };
    says(&[
        "1 ",
        "imported",
        "promotion_key",
        "no promotion has this key",
    ]);
    says(&["2 ", "rejected", "user_id", "must be at least 1, got 0"]);
    let actors: Vec<String> = sqlx::query_scalar("select distinct actor from admin_audit")
        .fetch_all(world.pool())
        .await
        .unwrap();
    assert!(
        actors.iter().all(|actor| actor.starts_with("cli:")),
        "{actors:?}"
    );
}

/// Posts a body to the admin API as it is.
async fn post(service: &Service, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let api = service.admin().api;
    let request = api.request(reqwest::Method::POST, "/admin/v1/pre-offers:import");
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    api.send(request.body(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_every_shape_is_read_and_every_bad_line_numbered() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(3)).await;
    let key = &promotion.key;
    // Quotes, a comma and line ends within a cell, a cell too many columns know nothing of, a mark
    // before it all, Windows' line ends, an empty key, a blank line.
    let csv = format!(
        "\u{feff}note,{HEADER}\r\n\
         \"a, \"\"b\"\"\r\nc\r\nd\",c-1,1,newbie,80,100000,MXN,15,MX,2099-11-22 18:04:05 UTC,{key},7\r\n\
         ,c-2,2,newbie,80,100000,MXN,15.50,MX,2099-11-22 18:04:05.123456 UTC,,\r\n\
         \r\n\
         ,c-3,3,newbie,80,100000,MXN,15,MX,2099-11-22T18:04:05+02:00,unheard-of,\r\n\
         ,c-4,4,newbie,80,1e5,MXN,15,MX,2099-11-22 18:04:05 UTC,,\r\n\
         ,c-5,5,newbie,99,100000,MXN,15,MX,2099-11-22 18:04:05 UTC,{key},\r\n\
         ,,6,newbie,80,100000,MXN,15,MX,2099-11-22 18:04:05 UTC,{key},"
    )
    .into_bytes();
    let report = post(&service, &[("content-type", "text/csv")], csv.clone()).await;
    let report = report.expect(200);
    assert_eq!(counts(&report), [6, 3, 0, 0, 2, 3], "{report}");
    let listed = |report: &Value| -> Vec<(u64, String, bool)> {
        let rejections = report["rejections"].as_array().unwrap();
        let listed = rejections.iter().map(|one| {
            let keyless = one["reason"] == "UNKNOWN_PROMOTION_KEY";
            let field = one["field"].as_str().unwrap_or_default().to_owned();
            (one["line"].as_u64().unwrap(), field, keyless)
        });
        listed.collect()
    };
    let expected = [
        (7, "promotion_key".to_owned(), true),
        (8, "amount_cents".to_owned(), false),
        (9, "product_id".to_owned(), false),
        (10, "external_id".to_owned(), false),
    ];
    assert_eq!(listed(&report), expected, "{report}");
    // The same packed, and without being told what it is.
    for headers in [
        &[
            ("content-type", "text/csv; charset=utf-8"),
            ("content-encoding", "gzip"),
        ][..],
        &[("content-type", "application/csv")],
        &[
            ("content-type", "application/octet-stream"),
            ("content-encoding", "GZIP"),
        ],
        &[],
    ] {
        let report = post(&service, headers, gzip(&csv)).await.expect(200);
        assert_eq!(counts(&report), [6, 0, 0, 3, 2, 3], "{headers:?}: {report}");
        assert_eq!(listed(&report), expected);
    }

    let mut line = promotion.pre_offer(1);
    line["external_id"] = json!("j-1");
    line["user_id"] = json!("1");
    line["product_id"] = json!("80");
    line["amount_cents"] = json!("100000");
    line["repayment_rate"] = json!(15.5);
    line["valid_until"] = json!("2099-11-22 18:04:05 UTC");
    line["score"] = json!([null, { "a": 1 }]);
    let mut absent = line.clone();
    absent["external_id"] = json!("j-2");
    absent["promotion_key"] = Value::Null;
    let mut mistyped = line.clone();
    mistyped["amount_cents"] = json!(100_000.5);
    let text = format!("{line}\n\n{absent}\r\n{mistyped}\n[]\n{{\"external_id\":\n{line}");
    for (headers, first) in [
        (&[("content-type", "application/x-ndjson")][..], 2),
        (&[("content-type", "application/json")], 0),
        (&[], 0),
    ] {
        let report = post(&service, headers, text.clone().into_bytes()).await;
        let report = report.expect(200);
        let unchanged = 3 - first;
        assert_eq!(counts(&report), [6, first, 0, unchanged, 1, 3], "{report}");
        let whole = |line| (line, String::new(), false);
        let bad = [(4, "amount_cents".to_owned(), false), whole(5), whole(6)];
        assert_eq!(listed(&report), bad, "{report}");
    }
    let rate: String =
        sqlx::query_scalar("select repayment_rate from pre_offer where external_id = 'j-1'")
            .fetch_one(world.pool())
            .await
            .unwrap();
    assert_eq!(rate, "15.5");

    // Instants that have no form in RFC 3339 once they are in UTC, or never had one.
    let mut text = String::new();
    for valid_until in [
        "9999-12-31T23:59:59-00:01",
        "0000-01-01T00:00:00+00:01",
        "2099-11-22T18:04:05\u{2212}06:00",
    ] {
        line["valid_until"] = json!(valid_until);
        text.push_str(&format!("{line}\n"));
    }
    let report = post(&service, &[], text.into_bytes()).await.expect(200);
    let bad = [1, 2, 3].map(|line| (line, "valid_until".to_owned(), false));
    assert_eq!(listed(&report), bad, "{report}");

    // Not CSV, or an unknown encoding.
    let headless = post(&service, &[("content-type", "text/csv")], b"{}\n".to_vec()).await;
    let problem = headless.problem(422, "invalid-request");
    assert_eq!(problem["errors"][0]["field"], "header", "{problem}");
    let encoding = [
        ("content-type", "text/csv"),
        ("content-encoding", "deflate"),
    ];
    let answer = post(&service, &encoding, csv).await;
    answer.problem(415, "unsupported-encoding");
    assert_eq!(answer.header("accept-encoding"), Some("gzip, identity"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_huge_or_torn_is_bounded() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(3)).await;
    let memory = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.unwrap().trim().trim_end_matches(" kB");
        peak.parse::<u64>().unwrap() / 1024
    };
    let before = memory();
    // 256 MiB that came as a quarter of one: a line that never ends, between two that are good.
    let good = |user_id| format!("{}\n", promotion.pre_offer(user_id)).into_bytes();
    let bomb = [good(1), vec![b'{'; 256 << 20], b"\n".to_vec(), good(2)].concat();
    let bomb = gzip(&bomb);
    assert!(bomb.len() < 4 << 20, "{}", bomb.len());
    let packed = [
        ("content-type", "application/x-ndjson"),
        ("content-encoding", "gzip"),
    ];
    let report = post(&service, &packed, bomb).await.expect(200);
    assert_eq!(counts(&report), [3, 2, 0, 0, 0, 1], "{report}");
    assert_eq!(report["rejections"][0]["line"], 2, "{report}");
    let grown = memory() - before;
    assert!(grown < 100, "{grown} MiB for a line of 256");

    // More bad lines than are listed.
    let bad = "{\"external_id\": 1}\n".repeat(1_500).into_bytes();
    let bad = [good(3), bad, good(4)].concat();
    let report = post(&service, &packed[..1], bad).await.expect(200);
    assert_eq!(counts(&report), [1_502, 2, 0, 0, 0, 1_500]);
    let rejections = report["rejections"].as_array().unwrap();
    let lines: Vec<u64> = rejections
        .iter()
        .map(|one| one["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, (2..=1_001).collect::<Vec<u64>>());

    // Torn gzip: what went in before stays, and the rest comes with the next try.
    let lines: Vec<Value> = (10..3_010).map(|user| promotion.pre_offer(user)).collect();
    let whole = gzip(&ndjson(&lines));
    let torn = post(&service, &packed, whole[..whole.len() - 50].to_vec()).await;
    torn.problem(400, "malformed-request");
    let report = post(&service, &packed, whole).await.expect(200);
    let [read, imported, updated, unchanged, ..] = counts(&report);
    assert_eq!((read, imported + unchanged, updated), (3_000, 3_000, 0));
    assert!(unchanged >= 1_000, "whole batches stay: {report}");
}

/// Imports of the same lines in opposite orders, while the clients press Get started: all of them
/// lock the same rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_and_starts_at_the_same_time_all_succeed() {
    let (world, promotion) = world().await;
    let store = Store::new(&world.database_url(), 8).unwrap();
    let mut lines: Vec<Value> = (0..2_000)
        .map(|n| promotion.pre_offer(1 + n % 400))
        .collect();
    let mut total = BTreeMap::<&str, u64>::new();
    for round in 1..=3 {
        for line in &mut lines {
            line["amount_cents"] = json!(100_000 + round);
        }
        let forward = ndjson(&lines);
        let backward = ndjson(&lines.iter().rev().cloned().collect::<Vec<_>>());
        let importing = async |text: Vec<u8>| {
            import_pre_offers(
                &store,
                text.as_slice(),
                Format::Ndjson,
                "test",
                None,
                false,
                |_| {},
            )
            .await
            .unwrap()
        };
        let starting = async {
            for user in 1..=400 {
                let started = store.start(user, promotion.id, None).await.unwrap();
                assert!(!matches!(started, StartOutcome::NoSuchPromotion));
            }
        };
        let (one, other, ()) = tokio::time::timeout(Duration::from_secs(120), async {
            tokio::join!(importing(forward), importing(backward), starting)
        })
        .await
        .expect("no call waits for ever");
        for counts in [one.counts, other.counts] {
            assert_eq!(counts.rejected, 0);
            *total.entry("imported").or_default() += counts.imported;
            *total.entry("updated").or_default() += counts.updated;
            *total.entry("unchanged").or_default() += counts.unchanged;
        }
    }
    assert_eq!(
        total,
        BTreeMap::from([
            ("imported", 2_000),
            ("updated", 4_000),
            ("unchanged", 6_000)
        ])
    );
}
