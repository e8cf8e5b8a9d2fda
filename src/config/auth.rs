//! `[auth]` and `[admin_auth]`: how tokens are verified.

use std::path::Path;
use std::time::Duration;

use super::read::{DAY, MINUTE, SECOND, text};
use super::source::SettingsReader;
use super::{Algorithm, AuthConfig, Secret};

/// The default of how long keys are used while the key set cannot be fetched.
const JWKS_MAX_AGE: Duration = Duration::from_secs(3_600);

/// The default of how far an issuer's clock may be ahead.
const LEEWAY: Duration = Duration::from_secs(5);

/// Reads `[auth]`, and `[admin_auth]`, which takes what it does not set from `[auth]`.
pub(super) fn sections(
    reader: &mut SettingsReader,
    needed: bool,
    warnings: &mut Vec<String>,
) -> (AuthConfig, AuthConfig) {
    let auth = AuthSettings::read(reader, "auth");
    let own = AuthSettings::read(reader, "admin_auth");
    own.reject_unused(reader, own.algorithm.or(auth.algorithm));
    let own_key = own.hs256_secret.is_some() || own.jwks.is_some();
    let admin_auth = own.or(&auth);
    let lacks_key = auth.lacks_key();
    let auth = auth.finish(reader, "auth", needed, warnings);
    // A warning that both sections cause is reported once.
    let mut admin_warnings = Vec::new();
    let admin_auth = admin_auth.finish(
        reader,
        "admin_auth",
        needed && !lacks_key,
        &mut admin_warnings,
    );
    if own_key || !admin_auth.has_keys_of(&auth) {
        warnings.append(&mut admin_warnings);
    }
    (auth, admin_auth)
}

/// The settings of one auth section, as far as they are set.
struct AuthSettings {
    algorithm: Option<Algorithm>,
    hs256_secret: Option<Secret>,
    jwks: Option<String>,
    jwks_max_age: Option<Duration>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway: Option<Duration>,
    /// A setting is present but wrong. It is reported already, so it is not reported as missing.
    wrong: bool,
}

impl AuthSettings {
    fn read(reader: &mut SettingsReader, section: &str) -> Self {
        let key = |name: &str| format!("{section}.{name}");
        let set = ["algorithm", "hs256_secret", "jwks"]
            .iter()
            .filter(|name| reader.is_set(&key(name)))
            .count();
        let algorithm = reader.optional(&key("algorithm"), "HS256, RS256 or ES256", |text| {
            [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256]
                .into_iter()
                .find(|algorithm| algorithm.as_str().eq_ignore_ascii_case(text))
        });
        let hs256_secret = reader.secret(&key("hs256_secret"), |text| {
            if text.is_empty() {
                Err("is empty; expected the shared secret".into())
            } else {
                Ok(())
            }
        });
        let jwks = reader.optional(
            &key("jwks"),
            "a readable file or an http or https URL of a JSON Web Key Set",
            |text| is_jwks_location(text).then(|| text.to_owned()),
        );
        let mut duration = |name: &str, default, bounds| {
            let key = key(name);
            let set = reader.is_set(&key);
            let duration = reader.duration(&key, default, bounds);
            set.then_some(duration)
        };
        let jwks_max_age = duration("jwks_max_age", JWKS_MAX_AGE, 10 * SECOND..=30 * DAY);
        let leeway = duration("leeway", LEEWAY, Duration::ZERO..=5 * MINUTE);
        let name = |reader: &mut SettingsReader, name: &str| {
            let key = key(name);
            reader.is_set(&key).then(|| text(reader, &key)).or_else(|| {
                // Read nevertheless, so that the key counts as known.
                text(reader, &key);
                None
            })
        };
        let right = usize::from(algorithm.is_some())
            + usize::from(hs256_secret.is_some())
            + usize::from(jwks.is_some());
        Self {
            algorithm,
            hs256_secret,
            jwks,
            jwks_max_age,
            issuer: name(reader, "issuer"),
            audience: name(reader, "audience"),
            leeway,
            wrong: right < set,
        }
    }

    /// Takes settings that are missing here from another section.
    fn or(self, fallback: &Self) -> Self {
        Self {
            algorithm: self.algorithm.or(fallback.algorithm),
            hs256_secret: self.hs256_secret.or_else(|| fallback.hs256_secret.clone()),
            jwks: self.jwks.or_else(|| fallback.jwks.clone()),
            jwks_max_age: self.jwks_max_age.or(fallback.jwks_max_age),
            leeway: self.leeway.or(fallback.leeway),
            issuer: self.issuer.or_else(|| fallback.issuer.clone()),
            audience: self.audience.or_else(|| fallback.audience.clone()),
            wrong: self.wrong || fallback.wrong,
        }
    }

    /// Reports keys of `[admin_auth]` that its algorithm does not use: an operator who sets one expects
    /// that admin tokens are checked with it.
    fn reject_unused(&self, reader: &mut SettingsReader, algorithm: Option<Algorithm>) {
        let Some(algorithm) = algorithm else { return };
        let symmetric = algorithm == Algorithm::Hs256;
        for (name, is_set, is_used) in [
            ("hs256_secret", self.hs256_secret.is_some(), symmetric),
            ("jwks", self.jwks.is_some(), !symmetric),
            ("jwks_max_age", self.jwks_max_age.is_some(), !symmetric),
        ] {
            if is_set && !is_used {
                let name_of = algorithm.as_str();
                reader.problem(
                    &format!("admin_auth.{name}"),
                    format!(
                        "is not used with the algorithm {name_of}; set admin_auth.algorithm too, or remove it"
                    ),
                );
            }
        }
    }

    fn lacks_key(&self) -> bool {
        match self.algorithm {
            None => true,
            Some(Algorithm::Hs256) => self.hs256_secret.is_none(),
            Some(Algorithm::Rs256 | Algorithm::Es256) => self.jwks.is_none(),
        }
    }

    fn finish(
        &self,
        reader: &mut SettingsReader,
        section: &str,
        needed: bool,
        warnings: &mut Vec<String>,
    ) -> AuthConfig {
        let upper = section.to_ascii_uppercase();
        if needed && !self.wrong && self.lacks_key() {
            let (key, message) = match self.algorithm {
                None => (
                    "algorithm",
                    format!(
                        "is missing; set RIDE_PROMO__{upper}__ALGORITHM to HS256 (with …HS256_SECRET), RS256 or ES256 (with …JWKS)"
                    ),
                ),
                Some(Algorithm::Hs256) => (
                    "hs256_secret",
                    format!(
                        "is missing with the algorithm HS256; set RIDE_PROMO__{upper}__HS256_SECRET or …_FILE"
                    ),
                ),
                Some(algorithm) => (
                    "jwks",
                    format!(
                        "is missing with the algorithm {}; set RIDE_PROMO__{upper}__JWKS to a file or URL",
                        algorithm.as_str()
                    ),
                ),
            };
            reader.problem(&format!("{section}.{key}"), message);
        }
        let algorithm = self.algorithm.unwrap_or(Algorithm::Hs256);
        let symmetric = algorithm == Algorithm::Hs256;
        if let Some(secret) = self.hs256_secret.as_ref().filter(|_| symmetric)
            && secret.expose().len() < 32
        {
            warnings.push(format!(
                "{section}.hs256_secret is shorter than the 32 bytes that HS256 requires: use it for development only"
            ));
        }
        if let Some(jwks) = self.jwks.as_ref().filter(|_| !symmetric)
            && jwks.starts_with("http://")
        {
            warnings.push(format!(
                "{section}.jwks is fetched without TLS: an attacker on the network path can replace the keys and sign tokens"
            ));
        }
        AuthConfig {
            algorithm,
            hs256_secret: self.hs256_secret.clone().filter(|_| symmetric),
            jwks: self.jwks.clone().filter(|_| !symmetric),
            jwks_max_age: self.jwks_max_age.unwrap_or(JWKS_MAX_AGE),
            issuer: self.issuer.clone().unwrap_or_else(|| "ride-promo".into()),
            audience: self.audience.clone().unwrap_or_else(|| "ride-promo".into()),
            leeway: self.leeway.unwrap_or(LEEWAY),
        }
    }
}

fn is_jwks_location(text: &str) -> bool {
    if text.starts_with("http://") || text.starts_with("https://") {
        reqwest::Url::parse(text).is_ok_and(|url| url.has_host())
    } else {
        Path::new(text).is_file()
    }
}
