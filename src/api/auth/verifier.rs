//! Checks bearer tokens with the one configured algorithm and key.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, TokenData, Validation};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant as Monotonic;

use super::cache::TokenCache;
use super::keys::{KeySet, Keys};
use crate::api::problem::{Problem, Result};
use crate::clock::Clock;
use crate::config::{Algorithm, AuthConfig};
use crate::telemetry::Metrics;

/// Longer than any valid token; bounds the work on other input.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The claims that a token must have; all others are ignored.
#[derive(Debug, Deserialize)]
struct Claims {
    /// Seconds since 1970, possibly with a fraction.
    exp: f64,
    /// Must be a text: with a list of issuers a token could choose one.
    #[serde(rename = "iss")]
    _iss: String,
    sub: String,
    nbf: Option<f64>,
    iat: Option<f64>,
    /// Any JSON: a value that is not a text of scopes grants none.
    #[serde(default)]
    scope: Value,
}

/// A verified token.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedToken {
    /// Its subject.
    pub subject: String,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
    /// The scopes that it grants.
    pub scopes: Vec<String>,
}

/// Checks tokens of one issuer for one audience.
pub struct Verifier {
    validation: Validation,
    keys: KeySource,
    /// How far the issuer's clock may be ahead of ours, for `nbf` and `iat`.
    leeway: TimeDelta,
    clock: Clock,
    cache: TokenCache,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Leaves out the keys.
        f.debug_struct("Verifier")
            .field("algorithms", &self.validation.algorithms)
            .finish_non_exhaustive()
    }
}

/// The source of the keys.
#[derive(Clone)]
pub enum KeySource {
    /// The shared secret of HS256.
    Shared(Arc<DecodingKey>),
    /// The public keys of RS256 and ES256.
    Set(Arc<KeySet>),
}

impl KeySource {
    /// As configured. A set is fetched by `KeySet::keep`, which must be running.
    pub fn new(config: &AuthConfig) -> anyhow::Result<Self> {
        match (config.algorithm, &config.hs256_secret, &config.jwks) {
            (Algorithm::Hs256, Some(secret), _) if !secret.is_empty() => {
                let key = DecodingKey::from_secret(secret.expose().as_bytes());
                Ok(Self::Shared(Arc::new(key)))
            }
            (Algorithm::Hs256, _, _) => bail!("no HS256 secret is configured"),
            (algorithm, _, Some(location)) => {
                KeySet::new(algorithm, location, config.jwks_max_age).map(Self::Set)
            }
            (algorithm, _, None) => bail!("no key set is configured for {}", algorithm.as_str()),
        }
    }

    /// The key set, if it is one.
    pub fn set(&self) -> Option<&Arc<KeySet>> {
        match self {
            Self::Shared(_) => None,
            Self::Set(set) => Some(set),
        }
    }
}

/// The result of trying the known keys.
enum KeyTrial {
    Signed(Box<TokenData<Claims>>),
    /// The signature is right and the claims are not, or it is not a token at all.
    Invalid,
    /// No known key has made this signature.
    NotSigned,
}

impl Verifier {
    /// A verifier for the configuration, with its keys.
    pub fn new(config: &AuthConfig, keys: KeySource, metrics: Arc<Metrics>) -> Self {
        let algorithm = match config.algorithm {
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        };
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&config.issuer]);
        validation.set_audience(&[&config.audience]);
        validation.leeway = 0;
        Self {
            validation,
            keys,
            leeway: TimeDelta::from_std(config.leeway).unwrap_or_default(),
            clock: Clock::default(),
            cache: TokenCache::new(),
            metrics,
        }
    }

    /// Checks a token: signature, `exp`, `nbf`, `iat`, `iss`, `aud`, and that it has a `sub`.
    pub async fn verify(&self, token: &str) -> Result<Arc<VerifiedToken>> {
        let verified = self.check(token).await;
        let result = match &verified {
            Ok((_, true)) => "cached",
            Ok((_, false)) => "verified",
            Err(problem) if problem.status() == 503 => "unavailable",
            Err(_) => "refused",
        };
        self.metrics.api.tokens.add(result, 1);
        verified.map(|(verified, _)| verified)
    }

    /// Like [`Verifier::verify`]; also returns whether the token was in the cache.
    async fn check(&self, token: &str) -> Result<(Arc<VerifiedToken>, bool)> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid());
        }
        let (data, generation) = match &self.keys {
            KeySource::Shared(key) => {
                if let Some(known) = self.cache.get(token, 0, self.clock.now()) {
                    return Ok((known, true));
                }
                match self.decode(token, key) {
                    KeyTrial::Signed(data) => (data, 0),
                    KeyTrial::Invalid | KeyTrial::NotSigned => return Err(invalid()),
                }
            }
            KeySource::Set(set) => {
                let keys = set.keys().await.map_err(|_| unavailable())?;
                if let Some(known) = self.cache.get(token, keys.generation, self.clock.now()) {
                    return Ok((known, true));
                }
                self.check_with_set(set, keys, token).await?
            }
        };
        let verified = Arc::new(self.judge(*data)?);
        self.cache.put(token, generation, &verified);
        Ok((verified, false))
    }

    /// The token's content, checked with the known keys, or else with those of a new fetch.
    async fn check_with_set(
        &self,
        set: &KeySet,
        keys: Keys,
        token: &str,
    ) -> Result<(Box<TokenData<Claims>>, u64)> {
        let came = Monotonic::now();
        let header = jsonwebtoken::decode_header(token).map_err(|_| invalid())?;
        if !self.validation.algorithms.contains(&header.alg) {
            return Err(invalid());
        }
        let kid = header.kid.as_deref();
        match self.try_keys(&keys, kid, token) {
            KeyTrial::Signed(data) => return Ok((data, keys.generation)),
            KeyTrial::Invalid => return Err(invalid()),
            KeyTrial::NotSigned => {}
        }
        // The issuer may have new keys. A fetch is waited for if the token can be of one of them. A
        // bad signature of a known key is usually only a bad signature.
        let known = keys.knows(kid);
        if known && !set.may_be_fetched_now() {
            return Err(invalid());
        }
        match set.keys_since(came).await {
            Ok(keys) => match self.try_keys(&keys, kid, token) {
                KeyTrial::Signed(data) => Ok((data, keys.generation)),
                KeyTrial::Invalid | KeyTrial::NotSigned => Err(invalid()),
            },
            Err(_) if known => Err(invalid()),
            Err(_) => Err(unavailable()),
        }
    }

    fn try_keys(&self, keys: &Keys, kid: Option<&str>, token: &str) -> KeyTrial {
        for key in keys.fitting(kid) {
            match self.decode(token, &key.decoding) {
                KeyTrial::NotSigned => {}
                tried => return tried,
            }
        }
        KeyTrial::NotSigned
    }

    fn decode(&self, token: &str, key: &DecodingKey) -> KeyTrial {
        match jsonwebtoken::decode::<Claims>(token, key, &self.validation) {
            Ok(data) => KeyTrial::Signed(Box::new(data)),
            Err(error) => match error.kind() {
                ErrorKind::InvalidSignature
                | ErrorKind::InvalidEcdsaKey
                | ErrorKind::InvalidRsaKey(_)
                | ErrorKind::InvalidKeyFormat
                | ErrorKind::Provider(_) => KeyTrial::NotSigned,
                _ => {
                    tracing::debug!(%error, "a token was refused");
                    KeyTrial::Invalid
                }
            },
        }
    }

    /// Whether the claims of a correctly signed token are valid now.
    fn judge(&self, data: TokenData<Claims>) -> Result<VerifiedToken> {
        // The token has extensions that must be understood, and none is supported (RFC 7515,
        // 4.1.11).
        if data.header.crit.is_some() {
            return Err(invalid());
        }
        let claims = data.claims;
        let now = self.clock.now();
        // The library still accepts a token in the second in which it expires.
        let expires_at = instant(claims.exp);
        if expires_at <= now {
            return Err(invalid());
        }
        // An issuer whose clock is a little ahead signs tokens with times in the future.
        let latest = now + self.leeway;
        for from in [claims.nbf, claims.iat].into_iter().flatten() {
            if instant(from) > latest {
                return Err(invalid());
            }
        }
        let scopes = claims.scope.as_str().unwrap_or_default();
        Ok(VerifiedToken {
            subject: claims.sub,
            expires_at,
            scopes: scopes.split(' ').map(str::to_owned).collect(),
        })
    }

    /// Checks the token of a request.
    pub async fn verify_request(&self, parts: &Parts) -> Result<Arc<VerifiedToken>> {
        let missing = || Problem::unauthorized("A bearer token is required.");
        let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (headers.next(), headers.next()) else {
            return Err(missing());
        };
        let token = header.to_str().ok().and_then(|header| {
            let (scheme, token) = header.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then(|| token.trim_start_matches(' '))
        });
        match token {
            Some(token) => self.verify(token).await,
            None => Err(missing()),
        }
    }

    /// Why no token can be checked; `None` if tokens can be checked.
    pub fn trouble(&self) -> Option<String> {
        self.keys.set().and_then(|set| set.trouble())
    }

    /// Time since the issuer last confirmed its key set; `None` with a shared secret.
    pub fn keys_age(&self) -> Option<Duration> {
        self.keys.set().map(|set| set.age())
    }
}

/// A `NumericDate` (RFC 7519, 2). A value beyond the calendar is the calendar's end.
fn instant(seconds: f64) -> DateTime<Utc> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float beyond i64 saturates, which is far in the future"
    )]
    DateTime::from_timestamp_millis((seconds * 1_000.0) as i64).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn invalid() -> Problem {
    Problem::invalid_token("The token is not valid here.")
}

fn unavailable() -> Problem {
    Problem::temporarily_unavailable()
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;
    use crate::config::Secret;

    const SECRET: &str = "a secret for tests, long enough for HS256";

    fn verifier() -> Verifier {
        let config = AuthConfig {
            algorithm: Algorithm::Hs256,
            hs256_secret: Some(Secret::new(SECRET)),
            jwks: None,
            jwks_max_age: Duration::from_secs(3_600),
            issuer: "ride-promo".to_owned(),
            audience: "ride-promo".to_owned(),
            leeway: Duration::from_secs(5),
        };
        let keys = KeySource::new(&config).expect("a secret");
        Verifier::new(&config, keys, Metrics::new())
    }

    fn claims(change: impl FnOnce(&mut Value)) -> Value {
        let exp = Clock::System.now().timestamp() + 60;
        let mut claims =
            json!({ "iss": "ride-promo", "aud": "ride-promo", "sub": "48151", "exp": exp });
        change(&mut claims);
        claims
    }

    fn sign(header: &Header, secret: &str, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret.as_bytes()))
            .expect("a token")
    }

    #[tokio::test]
    async fn takes_only_whole_tokens_of_its_issuer() {
        let verifier = verifier();
        let hs256 = Header::default();
        let good = sign(&hs256, SECRET, &claims(|_| {}));
        let verified = verifier.verify(&good).await.expect("good");
        assert_eq!(verified.subject, "48151");
        let now = Clock::System.now().timestamp();
        for right in [
            claims(|c| c["aud"] = json!(["other", "ride-promo"])),
            claims(|c| c["nbf"] = json!(now + 3)),
            claims(|c| c["iat"] = json!(now + 3)),
            claims(|c| c["iat"] = json!(now - 1_000_000)),
        ] {
            let token = sign(&hs256, SECRET, &right);
            assert!(verifier.verify(&token).await.is_ok(), "{right}");
        }

        let spoiled: [(&str, Value); 12] = [
            ("no exp", claims(|c| drop(c["exp"].take()))),
            ("no iss", claims(|c| drop(c["iss"].take()))),
            ("no aud", claims(|c| drop(c["aud"].take()))),
            ("no sub", claims(|c| drop(c["sub"].take()))),
            ("sub a number", claims(|c| c["sub"] = json!(48_151))),
            ("ended this second", claims(|c| c["exp"] = json!(now))),
            ("ended", claims(|c| c["exp"] = json!(now - 1))),
            ("not begun", claims(|c| c["nbf"] = json!(now + 30))),
            ("issued later", claims(|c| c["iat"] = json!(now + 30))),
            ("other iss", claims(|c| c["iss"] = json!("other"))),
            (
                "several iss",
                claims(|c| c["iss"] = json!(["ride-promo", "other"])),
            ),
            ("other aud", claims(|c| c["aud"] = json!("other"))),
        ];
        for (what, claims) in spoiled {
            let token = sign(&hs256, SECRET, &claims);
            let problem = verifier.verify(&token).await.expect_err(what);
            assert_eq!(problem.status(), 401, "{what}");
        }
        let hs512 = Header::new(jsonwebtoken::Algorithm::HS512);
        let last = if good.ends_with('A') { "B" } else { "A" };
        for (what, token) in [
            ("other secret", sign(&hs256, "other", &claims(|_| {}))),
            ("other algorithm", sign(&hs512, SECRET, &claims(|_| {}))),
            ("no token", String::new()),
            ("cut", good[..good.len() - 8].to_owned()),
            ("changed", format!("{last}{}", &good[1..])),
        ] {
            assert!(verifier.verify(&token).await.is_err(), "{what}");
        }
    }
}
