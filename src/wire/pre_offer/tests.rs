use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::wire::format_instant;

fn full() -> Value {
    json!({ "external_id": "s-1", "user_id": 48151, "segment": "newbie", "product_id": 80, "amount_cents": 100_000,
        "currency_code": "MXN", "repayment_rate": "15", "country_code": "MX", "valid_until": "2026-12-31T00:00:00Z",
        "promotion_key": "mx-newbie-20" })
}

fn with(name: &str, value: Value) -> Value {
    let mut line = full();
    line[name] = value;
    line
}

fn read(line: &Value) -> Result<PreOfferLine, BadLine> {
    from_json(line.to_string().as_bytes()).expect("not blank")
}

/// The same line in CSV.
fn read_csv(line: &Value) -> Result<PreOfferLine, BadLine> {
    let object = line.as_object().expect("an object");
    let columns = CsvColumns::from_header(object.keys().map(String::as_str)).expect("complete");
    let cells: Vec<String> = object
        .values()
        .map(|value| match value {
            Value::Null => String::new(),
            Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
            other => other.to_string(),
        })
        .collect();
    let mut record = CsvRecord::default();
    let mut complete = false;
    for line in cells.join(",").split('\n') {
        complete = record.push_line(line)?;
    }
    assert!(complete);
    columns.read(&record)
}

#[test]
fn reads_bigquerys_shapes_in_either_format() {
    let line = read(&full()).expect("valid");
    assert_eq!(line.repayment_rate, "15");
    assert_eq!(line.promotion_key.as_deref(), Some("mx-newbie-20"));
    for same in [
        with("user_id", json!("48151")),
        with("amount_cents", json!("100000")),
        with("product_id", json!("80")),
        with("repayment_rate", json!(15)),
        with("valid_until", json!("2026-12-31 00:00:00 UTC")),
        with("valid_until", json!("2026-12-31 00:00:00.000999 UTC")),
        with("valid_until", json!("2026-12-30T18:00:00.0-06:00")),
        with("valid_until", json!("2026-12-31 00:00:00+00")),
        with("valid_until", json!("2026-12-31 00:00:00.000123+00")),
        with("valid_until", json!("2026-12-31T05:30:00+05:30")),
        with("valid_until", json!("2026-12-30 17:00:00.0 -0700")),
        with("valid_until", json!("2026-12-30 17:00:00-07")),
        with("score", json!({ "deep": [1.5, null] })),
    ] {
        assert_eq!(read(&same).as_ref(), Ok(&line), "{same}");
        if same["score"].is_null() {
            assert_eq!(read_csv(&same).as_ref(), Ok(&line), "{same}");
        }
    }
    for (rate, text) in [
        (json!(15), "15"),
        (json!("15.50"), "15.50"),
        (json!(0.1), "0.1"),
        (json!("1E-05"), "1E-05"),
        (json!("-0"), "0"),
        (json!(-0.0), "0.0"),
    ] {
        let line = read(&with("repayment_rate", rate.clone())).expect("valid");
        assert_eq!(line.repayment_rate, text);
        assert_eq!(read_csv(&with("repayment_rate", rate)).as_ref(), Ok(&line));
    }
    // Kept as written: a parsed number would have lost the zero.
    let exact = full().to_string().replace("\"15\"", "15.50");
    let line = from_json(exact.as_bytes())
        .expect("not blank")
        .expect("valid");
    assert_eq!(line.repayment_rate, "15.50");
    let fine = read(&with(
        "valid_until",
        json!("2026-12-31 00:00:00.123456 UTC"),
    ));
    assert_eq!(
        format_instant(fine.expect("valid").valid_until),
        "2026-12-31T00:00:00.123Z"
    );
}

#[test]
fn the_key_of_a_promotion_may_be_missing() {
    for none in [Value::Null, json!("")] {
        let line = with("promotion_key", none);
        assert_eq!(read(&line).expect("valid").promotion_key, None);
        assert_eq!(read_csv(&line).expect("valid").promotion_key, None);
    }
    let mut absent = full();
    absent
        .as_object_mut()
        .expect("an object")
        .remove("promotion_key");
    assert_eq!(read(&absent).expect("valid").promotion_key, None);
    assert_eq!(read_csv(&absent).expect("valid").promotion_key, None);
}

#[test]
fn names_the_bad_field_and_its_value() {
    for (name, value, reason) in [
        ("external_id", json!("x".repeat(201)), "1 to 200 printable"),
        ("external_id", json!("a\0"), "printable"),
        ("external_id", json!("a\nb"), "printable"),
        ("user_id", json!(0), "at least 1, got"),
        ("user_id", json!("-5"), "at least 1, got \"-5\""),
        ("user_id", json!("+5"), "integer"),
        ("user_id", json!(" 5"), "integer"),
        ("user_id", json!("9223372036854775808"), "64 bits"),
        ("segment", json!("x".repeat(65)), "1 to 64 printable"),
        ("product_id", json!("eighty"), "integer"),
        ("amount_cents", json!(0), "at least 1"),
        ("amount_cents", json!(1.5), "integer, got"),
        (
            "currency_code",
            json!("mxn"),
            "3 capital letters, got \"mxn\"",
        ),
        ("repayment_rate", json!("15%"), "decimal"),
        ("repayment_rate", json!("-1"), "decimal"),
        ("repayment_rate", json!("."), "decimal"),
        ("repayment_rate", json!("NaN"), "decimal"),
        ("repayment_rate", json!("1".repeat(65)), "decimal"),
        ("country_code", json!("MEX"), "2 capital letters"),
        ("valid_until", json!("tomorrow"), "instant"),
        ("valid_until", json!("2026-12-31"), "instant"),
        ("valid_until", json!("2026-12-31 00:00:00"), "offset"),
        ("valid_until", json!("2026-12-31 00:00:00+0"), "instant"),
        ("valid_until", json!("2026-12-31 00:00:00+25"), "instant"),
        ("valid_until", json!("2026-12-31 00:00:00+é"), "instant"),
        ("valid_until", json!("2026-12-31 00:00:00+0é0"), "instant"),
        ("valid_until", json!("2026-12-31 00:00:00-"), "instant"),
        ("valid_until", json!("2026-02-30 00:00:00 UTC"), "instant"),
        ("promotion_key", json!("x".repeat(201)), "printable"),
    ] {
        for bad in [
            read(&with(name, value.clone())),
            read_csv(&with(name, value)),
        ] {
            let bad = bad.expect_err(name);
            assert_eq!(bad.field.as_deref(), Some(name), "{bad:?}");
            assert!(bad.reason.contains(reason), "{bad:?}");
        }
    }
    for name in &FIELDS[..REQUIRED] {
        for bad in [
            read(&with(name, Value::Null)),
            read_csv(&with(name, Value::Null)),
        ] {
            let bad = bad.expect_err(name);
            assert_eq!(
                (bad.field.as_deref(), bad.reason.as_str()),
                (Some(*name), "is required")
            );
        }
    }
    for (name, value, reason) in [
        ("external_id", json!(7), "must be a string, got 7"),
        ("user_id", json!(true), "must be a number, got true"),
        (
            "valid_until",
            json!(1_700_000_000),
            "must be a string, got 1700000000",
        ),
        ("promotion_key", json!({}), "must be a string, got {}"),
    ] {
        let bad = read(&with(name, value)).expect_err(name);
        assert_eq!(
            (bad.field.as_deref(), bad.reason.as_str()),
            (Some(name), reason)
        );
    }
}

#[test]
fn names_every_fault_of_a_line() {
    let mut line = with("amount_cents", json!(-1));
    line["currency_code"] = Value::Null;
    assert_eq!(
        read(&line),
        Err(BadLine {
            field: Some("amount_cents".to_owned()),
            reason: "must be at least 1, got -1; currency_code is required".to_owned()
        })
    );
}

#[test]
fn a_line_that_is_no_object_is_bad_and_a_blank_one_nothing() {
    let twice = full().to_string().replace('}', ",\"user_id\":1}");
    let bad = from_json(twice.as_bytes())
        .expect("not blank")
        .expect_err("twice");
    assert_eq!(bad.field.as_deref(), Some("user_id"));
    for line in [
        &b"[1]"[..],
        b"{",
        b"null",
        b"\xff",
        b"{\"external_id\":\"\xff\"}",
        b"\0",
        b"{}x",
    ] {
        let bad = from_json(line).expect("not blank").expect_err("bad");
        assert_eq!(bad.field.as_deref(), None, "{bad:?}");
    }
    let half_a_pair = full().to_string().replace("newbie\"", "\\ud800\"");
    let bad = from_json(half_a_pair.as_bytes())
        .expect("not blank")
        .expect_err("bad");
    assert_eq!(bad.field.as_deref(), Some("segment"));
    assert_eq!(from_json(b""), None);
    assert_eq!(from_json(b" \t"), None);
}

fn cells_of(lines: &[&str]) -> Result<Vec<String>, BadLine> {
    let mut record = CsvRecord::default();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(record.push_line(line)?, index + 1 == lines.len());
    }
    Ok(record.cells().map(str::to_owned).collect())
}

#[test]
fn splits_csv() {
    for (lines, cells) in [
        (&["a,b"][..], &["a", "b"][..]),
        (&["a,"], &["a", ""]),
        (&[""], &[""]),
        (&[","], &["", ""]),
        (&["\"\""], &[""]),
        (&["\"a,\"\"b\"\"\",c"], &["a,\"b\"", "c"]),
        (&["\"a\",\"b\",c,\"d\""], &["a", "b", "c", "d"]),
        (&["a\"b,c"], &["a\"b", "c"]),
        (&["x,\"a", "", "b\",y"], &["x", "a\n\nb", "y"]),
    ] {
        assert_eq!(cells_of(lines).expect("well formed"), cells);
    }
    assert!(cells_of(&["\"a\"b,c"]).is_err());
}

#[test]
fn a_header_with_other_separators_is_told_so() {
    for (separator, named) in [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")] {
        let names = FIELDS.join(separator);
        let quoted = FIELDS.map(|name| format!("\"{name}\"")).join(separator);
        for text in [names, quoted] {
            let reason = CsvColumns::from_header(std::iter::once(text.as_str())).expect_err(named);
            assert!(reason.contains("lacks external_id"), "{reason}");
            assert!(reason.contains(named), "{reason}");
        }
    }
}

#[test]
fn lines_that_were_joined_are_told_so() {
    let joined = format!("{0}{0}", full());
    let bad = from_json(joined.as_bytes())
        .expect("not blank")
        .expect_err("two");
    assert!(bad.reason.contains("--data-binary"), "{bad:?}");
    let bad = from_json(b"{}x").expect("not blank").expect_err("bad");
    assert!(!bad.reason.contains("--data-binary"), "{bad:?}");
}

#[test]
fn a_header_must_have_every_column_once() {
    let header = |names: &str| CsvColumns::from_header(names.split(','));
    assert!(header(&FIELDS.join(",")).is_ok());
    assert!(header(&FIELDS[..REQUIRED].join(", ")).is_ok());
    assert_eq!(
        header(&FIELDS[2..].join(",")),
        Err("the header lacks external_id, user_id".to_owned())
    );
    assert!(header(&format!("{},user_id", FIELDS.join(","))).is_err());
    let columns = header(&FIELDS.join(",")).expect("complete");
    let mut record = CsvRecord::default();
    record.push_line("a,b").expect("well formed");
    let bad = columns.read(&record).expect_err("short");
    assert_eq!(bad.reason, "must have 10 cells as the header has, has 2");
}

proptest! {
    #[test]
    fn csv_reads_what_was_quoted(cells in prop::collection::vec("[ab,\"\n]{0,6}", 1..5)) {
        let quoted: Vec<String> =
            cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
        let text = quoted.join(",");
        let lines: Vec<&str> = text.split('\n').collect();
        prop_assert_eq!(cells_of(&lines).expect("well formed"), cells);
    }

    #[test]
    fn nothing_panics(line in prop::collection::vec(any::<u8>(), 0..80), value in "\\PC{0,20}") {
        let _ = from_json(&line);
        for name in FIELDS {
            let _ = read(&with(name, json!(value)));
            let _ = from_json(full().to_string().replace("48151", &value).as_bytes());
        }
        let mut record = CsvRecord::default();
        let _ = record.push_line(&value);
        let _ = record.cells().count();
    }
}
