//! Where settings come from, and every error they can have.
//!
//! File and environment are flattened into one map of dotted keys; the environment overrides the file.
//! Reading a key removes it from the map, so a key that is left at the end is a typo.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::secret::Secret;
use crate::did_you_mean;
use crate::domain::period::{format_duration, parse_duration};

/// The prefix of every variable of this service; `__` separates section and key.
pub(super) const ENV_PREFIX: &str = "RIDE_PROMO__";

/// Common names that are read without the prefix. The prefixed name takes precedence.
const PLAIN_VARIABLES: [(&str, &str); 5] = [
    ("DATABASE_URL", "database.url"),
    ("DATABASE_URL_FILE", "database.url_file"),
    ("KAFKA_BROKERS", "kafka.brokers"),
    // These two are read by every OpenTelemetry SDK.
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "traces.otlp_endpoint"),
    ("OTEL_SDK_DISABLED", "traces.disabled"),
];

/// The keys below it are librdkafka's and may contain dots.
const PROPERTIES: &str = "kafka.properties.";

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    File,
    Env(String),
}

/// One error of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The dotted key, such as `api.listen`.
    pub key: String,
    /// What is wrong and what is expected; with the value, unless it is secret.
    pub message: String,
}

impl Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// A value as it was set, before it has a type.
#[derive(Clone, Debug)]
struct RawValue {
    /// `None` if the file has a list, a table or a date instead of a single plain value.
    text: Option<String>,
    origin: Origin,
}

impl RawValue {
    /// Names the variable, if the value came from one.
    fn place(&self) -> String {
        match &self.origin {
            Origin::File => String::new(),
            Origin::Env(name) => format!(" (from {name})"),
        }
    }
}

/// A key that was set, for operators who inspect a running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The value as it was written; `None` if it is secret.
    pub value: Option<String>,
    /// The environment variable that set it; `None` if the file did.
    pub variable: Option<String>,
}

impl Setting {
    fn of(written: &RawValue) -> Self {
        // In a URL, user and password are before an @.
        let has_credentials = |text: &str| {
            text.split_once("://")
                .is_some_and(|(_, rest)| rest.contains('@'))
        };
        Self {
            value: written.text.clone().filter(|text| !has_credentials(text)),
            variable: match &written.origin {
                Origin::File => None,
                Origin::Env(name) => Some(name.clone()),
            },
        }
    }
}

/// Returns typed values by key and collects the problems.
pub(super) struct SettingsReader {
    written: BTreeMap<String, RawValue>,
    set: BTreeMap<String, Setting>,
    known: BTreeSet<String>,
    problems: Vec<ConfigProblem>,
}

impl SettingsReader {
    /// Flattens the two layers. A file that is not TOML is the first problem; reading continues without
    /// it, so that problems of the environment are reported too.
    pub(super) fn new(
        file: Option<&str>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let mut reader = Self {
            written: BTreeMap::new(),
            set: BTreeMap::new(),
            known: BTreeSet::new(),
            problems: Vec::new(),
        };
        if let Some(text) = file {
            match text.parse::<toml::Table>() {
                Ok(table) => reader.flatten("", table),
                Err(error) => {
                    // The error's own Display quotes the line, which may contain a password.
                    let line = error
                        .span()
                        .and_then(|span| text.get(..span.start))
                        .map_or(1, |before| before.matches('\n').count() + 1);
                    let message = format!("line {line} is not TOML: {}", error.message());
                    reader.problem("file", message);
                }
            }
        }
        reader.overlay(environment);
        let set = reader.written.iter();
        reader.set = set
            .map(|(key, written)| (key.clone(), Setting::of(written)))
            .collect();
        reader
    }

    fn flatten(&mut self, prefix: &str, table: toml::Table) {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            let text = match value {
                toml::Value::Table(inner) => {
                    self.flatten(&format!("{key}."), inner);
                    continue;
                }
                toml::Value::String(text) => Some(text),
                toml::Value::Integer(number) => Some(number.to_string()),
                toml::Value::Float(number) => Some(number.to_string()),
                toml::Value::Boolean(flag) => Some(flag.to_string()),
                toml::Value::Datetime(_) | toml::Value::Array(_) => None,
            };
            let origin = Origin::File;
            self.written.insert(key, RawValue { text, origin });
        }
    }

    fn overlay(&mut self, environment: impl IntoIterator<Item = (OsString, OsString)>) {
        let mut plain = BTreeMap::new();
        let mut prefixed = BTreeMap::new();
        for (name, value) in environment {
            let Ok(name) = name.into_string() else {
                continue;
            };
            let (layer, key) = if let Some(rest) = name.strip_prefix(ENV_PREFIX) {
                (&mut prefixed, key_of_variable(rest))
            } else if let Some((_, key)) = PLAIN_VARIABLES.iter().find(|(plain, _)| *plain == name)
            {
                (&mut plain, (*key).to_owned())
            } else {
                continue;
            };
            match value.into_string() {
                // Compose files and charts set omitted variables to the empty string.
                Ok(value) if value.is_empty() => {}
                Ok(value) => {
                    layer.insert(key, (name, value));
                }
                Err(_) => self.problem(&key, format!("{name} is not UTF-8")),
            }
        }
        for layer in [plain, prefixed] {
            // A secret and its file are one setting: setting either replaces both of the lower layer.
            for key in layer.keys() {
                match key.strip_suffix("_file") {
                    Some(value_key) => self.written.remove(value_key),
                    None => self.written.remove(&format!("{key}_file")),
                };
            }
            for (key, (name, value)) in layer {
                let text = Some(value);
                let origin = Origin::Env(name);
                self.written.insert(key, RawValue { text, origin });
            }
        }
    }

    /// Records a problem with a key.
    pub(super) fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(ConfigProblem {
            key: key.to_owned(),
            message: message.into(),
        });
    }

    /// The value of a key, if it is set and `parse` accepts it.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.known.insert(key.to_owned());
        let written = self.written.remove(key)?;
        let place = written.place();
        let Some(text) = written.text else {
            self.problem(
                key,
                format!("is not a single plain value; expected {expected}"),
            );
            return None;
        };
        let value = parse(&text);
        if value.is_none() {
            self.problem(key, format!("{text:?}{place} is not {expected}"));
        }
        value
    }

    /// As [`SettingsReader::optional`], with a default.
    pub(super) fn value<T>(
        &mut self,
        key: &str,
        default: T,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        self.optional(key, expected, parse).unwrap_or(default)
    }

    /// A whole number within bounds.
    pub(super) fn number<T>(&mut self, key: &str, default: T, bounds: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        let expected = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        self.value(key, default, &expected, |text| {
            text.parse().ok().filter(|number| bounds.contains(number))
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        self.value(key, default, "true or false", |text| {
            text.to_ascii_lowercase().parse().ok()
        })
    }

    /// A duration within bounds.
    pub(super) fn duration(
        &mut self,
        key: &str,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let expected = format!(
            "an ISO 8601 duration from {} to {}, such as {}",
            format_duration(*bounds.start()),
            format_duration(*bounds.end()),
            format_duration(default),
        );
        self.value(key, default, &expected, |text| {
            parse_duration(text)
                .ok()
                .filter(|duration| bounds.contains(duration))
        })
    }

    /// A secret from `key`, or from the file that `key_file` names, without a trailing line break. `check`
    /// returns what is wrong, without repeating the value.
    pub(super) fn secret(
        &mut self,
        key: &str,
        check: impl FnOnce(&str) -> Result<(), Cow<'static, str>>,
    ) -> Option<Secret> {
        let file_key = format!("{key}_file");
        self.known.insert(key.to_owned());
        self.known.insert(file_key.clone());
        if let Some(setting) = self.set.get_mut(key) {
            setting.value = None;
        }
        let value = self.written.remove(key);
        let file = self.written.remove(&file_key);
        let (text, place) = match (value, file) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                self.problem(key, format!("is set together with {file_key}; set one"));
                return None;
            }
            (Some(written), None) => {
                let place = written.place();
                let Some(text) = written.text else {
                    self.problem(key, "is not a single plain value");
                    return None;
                };
                (text, place)
            }
            (None, Some(written)) => {
                let place = written.place();
                let path = written.text.unwrap_or_default();
                match std::fs::read_to_string(&path) {
                    Ok(text) => (text.trim_end_matches(['\r', '\n']).to_owned(), place),
                    Err(error) => {
                        self.problem(
                            &file_key,
                            format!("{path:?}{place} cannot be read: {error}"),
                        );
                        return None;
                    }
                }
            }
        };
        match check(&text) {
            Ok(()) => Some(Secret::new(text)),
            Err(wrong) => {
                self.problem(key, format!("the value{place}, not shown here, {wrong}"));
                None
            }
        }
    }

    /// The file that a secret comes from, if any. Call it before the secret is read.
    pub(super) fn secret_file(&self, key: &str) -> Option<PathBuf> {
        let written = self.written.get(&format!("{key}_file"))?;
        written.text.as_deref().map(PathBuf::from)
    }

    /// The files that properties come from, by librdkafka's names. Call it before they are read.
    pub(super) fn property_files(&self) -> BTreeMap<String, PathBuf> {
        self.written
            .range(PROPERTIES.to_owned()..)
            .map_while(|(key, written)| Some((key.strip_prefix(PROPERTIES)?, written)))
            .filter_map(|(name, written)| {
                let name = name.strip_suffix("_file")?;
                Some((name.to_owned(), PathBuf::from(written.text.as_deref()?)))
            })
            .collect()
    }

    /// All keys below `kafka.properties`, by librdkafka's names. `…_file` reads a secret property from a
    /// file.
    pub(super) fn properties(&mut self) -> BTreeMap<String, String> {
        let names: Vec<String> = self
            .written
            .range(PROPERTIES.to_owned()..)
            .map_while(|(key, _)| key.strip_prefix(PROPERTIES))
            .map(|name| name.strip_suffix("_file").unwrap_or(name).to_owned())
            .collect();
        let mut properties = BTreeMap::new();
        for name in names {
            let key = format!("{PROPERTIES}{name}");
            if let Some(value) = self.secret(&key, |_| Ok(())) {
                properties.insert(name, value.expose().to_owned());
            }
        }
        properties
    }

    /// Whether the key was set, validly or not. Call it before the key is read.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.written.contains_key(key) || self.written.contains_key(&format!("{key}_file"))
    }

    /// The settings that were set, by key, without secret values. Call it after all keys were read.
    pub(super) fn settings(&self) -> BTreeMap<String, Setting> {
        self.set.clone()
    }

    /// All problems, including unknown keys, and every known key.
    pub(super) fn finish(mut self) -> (Vec<ConfigProblem>, BTreeSet<String>) {
        for (key, written) in std::mem::take(&mut self.written) {
            let hint = did_you_mean::hint(&key, self.known.iter().map(String::as_str));
            self.problem(&key, format!("unknown key{}{hint}", written.place()));
        }
        (self.problems, self.known)
    }
}

/// Reads a file named on the command line.
pub(super) fn read_file(path: &Path) -> Result<String, ConfigProblem> {
    std::fs::read_to_string(path).map_err(|error| ConfigProblem {
        key: "file".to_owned(),
        message: format!(
            "{} cannot be read: {error}; expected a readable TOML file",
            path.display()
        ),
    })
}

/// `API__LISTEN` → `api.listen`. librdkafka's names have dots, which a variable cannot have, and
/// no underscores: `KAFKA__PROPERTIES__SASL_PASSWORD` → `kafka.properties.sasl.password`.
fn key_of_variable(rest: &str) -> String {
    let key = rest.to_ascii_lowercase().replace("__", ".");
    match key.strip_prefix(PROPERTIES) {
        Some(property) => match property.strip_suffix("_file") {
            Some(property) => format!("{PROPERTIES}{}_file", property.replace('_', ".")),
            None => format!("{PROPERTIES}{}", property.replace('_', ".")),
        },
        None => key,
    }
}
