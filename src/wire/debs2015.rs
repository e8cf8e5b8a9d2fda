//! Taxi trips in the format of the DEBS 2015 Grand Challenge, read as rides: comma-separated, without a
//! header, 17 cells, of which four are used.

use std::sync::LazyLock;

use chrono::{Datelike, NaiveDateTime};
use uuid::{Uuid, uuid};

use crate::domain::reward::{CountryCode, CurrencyCode};
use crate::domain::ride::Ride;
use crate::domain::time_zone::TimeZone;
use crate::domain::{Instant, UserId};

/// The namespace of ride ids, which are hashes of a row's text. It never changes, so that a second replay
/// sends the same rides.
const NAMESPACE: Uuid = uuid!("5b0c3f6e-2d4b-5a57-9a0e-8f4d1f3c2015");

/// medallion, hack_license, pickup and drop-off, duration, distance, four coordinates,
/// payment_type, fare_amount and five more amounts.
const CELLS: usize = 17;
const HACK_LICENSE: usize = 1;
const DROPOFF_DATETIME: usize = 3;
const FARE_AMOUNT: usize = 11;

/// Always `Some`: the database in the binary has the zone if the system's lacks it.
static NEW_YORK: LazyLock<Option<TimeZone>> = LazyLock::new(|| "America/New_York".parse().ok());

/// How many hex digits of the driver's licence, a 128-bit number, become the client's id: 60 bits, so
/// that it is never negative.
const USER_ID_DIGITS: usize = 15;

/// The ride of a row (without its line end), or what is wrong with the row. The driver is the client, the
/// fare without surcharge, tax, tip and tolls is the amount, and the drop-off in New York is the end. The
/// ride's id comes from the row's text: the same text is the same ride.
pub fn ride(row: &str) -> Result<Ride, String> {
    let cells: Vec<&str> = row.split(',').collect();
    if cells.len() != CELLS {
        return Err(format!("must have {CELLS} cells, has {}", cells.len()));
    }
    let wrong = |field: &str, form: &str, cell: usize| {
        format!("{field} must be {form}, got {:?}", cells[cell])
    };
    let fixed = |text: &'static str| format!("{text} is not a code");
    let mut ride = Ride::new(
        Uuid::new_v5(&NAMESPACE, row.as_bytes()),
        user_id(cells[HACK_LICENSE])
            .ok_or_else(|| wrong("hack_license", "hex digits, not all zero", HACK_LICENSE))?,
        new_york(cells[DROPOFF_DATETIME]).ok_or_else(|| {
            wrong(
                "dropoff_datetime",
                "like 2013-01-01 00:02:00",
                DROPOFF_DATETIME,
            )
        })?,
        cents(cells[FARE_AMOUNT])
            .ok_or_else(|| wrong("fare_amount", "dollars and cents like 3.50", FARE_AMOUNT))?,
        "USD".parse::<CurrencyCode>().map_err(|_| fixed("USD"))?,
    );
    ride.country_code = Some("US".parse::<CountryCode>().map_err(|_| fixed("US"))?);
    ride.service_type = Some("city".into());
    Ok(ride)
}

fn user_id(hack_license: &str) -> Option<UserId> {
    let digits = hack_license.get(..USER_ID_DIGITS)?;
    // Only digits: from_str_radix would accept a sign.
    if !hack_license.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    i64::from_str_radix(digits, 16)
        .ok()
        .filter(|user_id| *user_id >= 1)
}

/// The instant of a local time in New York. A time that occurred twice (clocks went back) is the earlier
/// one. For one that never occurred (clocks went forward), the offset before the change is used.
fn new_york(text: &str) -> Option<Instant> {
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok()?;
    // chrono alone also accepts years of any length and single digits.
    if text.len() != 19 || local.year() < 2000 {
        return None;
    }
    NEW_YORK.as_ref()?.instant(local)
}

/// A decimal number of dollars, as whole cents without rounding.
fn cents(text: &str) -> Option<i64> {
    let (dollars, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(dollars) || !is_digits(fraction) {
        return None;
    }
    let digit = |index: usize| i64::from(fraction.as_bytes().get(index).map_or(0, |d| d - b'0'));
    if fraction.bytes().skip(2).any(|digit| digit != b'0') {
        return None;
    }
    dollars
        .parse::<i64>()
        .ok()?
        .checked_mul(100)?
        .checked_add(digit(0) * 10 + digit(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::format_instant;

    const ROW: &str = "07290D3599E7A0D62097A346EFCC1FB5,E7750A37CAB07D0DFF0AF7E3573AC141,2013-01-01 00:00:00,2013-01-01 00:02:00,120,0.44,-73.956528,40.716976,-73.962440,40.715008,CSH,3.50,0.50,0.50,0.00,0.00,4.50";

    #[test]
    fn reads_a_row() {
        let ride = ride(ROW).expect("a trip");
        assert_eq!(ride.user_id, 0xE77_50A3_7CAB_07D0);
        assert_eq!(
            format_instant(ride.completed_at),
            "2013-01-01T05:02:00.000Z"
        );
        assert_eq!(ride.amount_cents, 350);
        assert_eq!(ride.currency_code.as_str(), "USD");
        assert_eq!(
            ride.country_code.map(|code| code.to_string()),
            Some("US".to_owned())
        );
        assert_eq!(
            (ride.city_id, ride.service_type.as_deref()),
            (None, Some("city"))
        );
        // Another release must make the same rides of the same file.
        assert_eq!(ride.ride_id, uuid!("1cff0336-a6ee-5c11-8296-f079dc49a17e"));
    }

    #[test]
    fn names_what_is_wrong() {
        for (from, to, field) in [
            (
                "E7750A37CAB07D0DFF0AF7E3573AC141",
                "+7750A37CAB07D0DFF0AF7E3573AC141",
                "hack_license",
            ),
            (
                "E7750A37CAB07D0DFF0AF7E3573AC141",
                "E7750A37",
                "hack_license",
            ),
            (
                "E7750A37CAB07D0DFF0AF7E3573AC141",
                "00000000000000000000000000000001",
                "hack_license",
            ),
            (
                "E7750A37CAB07D0DFF0AF7E3573AC141",
                "é7750A37CAB07D0DFF0AF7E3573AC141",
                "hack_license",
            ),
            (
                "2013-01-01 00:02:00",
                "2013-13-01 00:02:00",
                "dropoff_datetime",
            ),
            (
                "2013-01-01 00:02:00",
                "2013-01-01 0:2:00",
                "dropoff_datetime",
            ),
            (
                "2013-01-01 00:02:00",
                "1999-01-01 00:02:00",
                "dropoff_datetime",
            ),
            (",3.50,", ",-3.50,", "fare_amount"),
            (",3.50,", ",3.505,", "fare_amount"),
            (",3.50,", ",,", "fare_amount"),
            (",3.50,", ",.50,", "fare_amount"),
            (",3.50,", ",99999999999999999999.00,", "fare_amount"),
            (",3.50,", ",92233720368547758.08,", "fare_amount"),
            (",4.50", "", "17 cells"),
        ] {
            let error = ride(&ROW.replace(from, to)).expect_err("malformed");
            assert!(error.contains(field), "{error}");
        }
        assert!(ride("").is_err());
    }

    #[test]
    fn local_times_that_were_there_twice_or_never_have_one_meaning() {
        for (local, instant) in [
            ("2013-07-01 12:00:00", "2013-07-01T16:00:00.000Z"),
            ("2013-11-03 01:30:00", "2013-11-03T05:30:00.000Z"),
            ("2013-03-10 01:59:59", "2013-03-10T06:59:59.000Z"),
            ("2013-03-10 02:30:00", "2013-03-10T07:30:00.000Z"),
            ("2013-03-10 03:00:00", "2013-03-10T07:00:00.000Z"),
        ] {
            assert_eq!(
                new_york(local).map(format_instant).as_deref(),
                Some(instant)
            );
        }
    }

    proptest! {
        #[test]
        fn cents_are_exact(amount in 0_i64..=i64::MAX) {
            prop_assert_eq!(cents(&format!("{}.{:02}", amount / 100, amount % 100)), Some(amount));
            prop_assert_eq!(cents(&format!("{}.{:02}00", amount / 100, amount % 100)), Some(amount));
        }

        #[test]
        fn nothing_panics(row in "\\PC*", cell in "\\PC{0,20}") {
            let _ = ride(&row);
            let _ = ride(&ROW.replace("3.50", &cell).replace("2013-01-01 00:02:00", &cell));
        }
    }
}
