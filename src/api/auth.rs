//! Who is calling: bearer tokens, checked against the one algorithm and key that are configured.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::extract::{FromRef, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use super::limit::RateLimit;
use super::problem::{Problem, Result};
use crate::causes;
use crate::clock::Clock;
use crate::config::{Algorithm, AuthConfig};
use crate::domain::UserId;
use crate::store::audit::Author;

/// The scope that opens the admin API.
pub const ADMIN_SCOPE: &str = "ride-promo:admin";

/// No key set is fetched more often, whatever kids strangers make up.
const REFRESH_AT_MOST_EVERY: Duration = Duration::from_secs(10);

/// A key set older than this is fetched again, so that a key that was withdrawn goes.
const REFRESH_AFTER: Duration = Duration::from_secs(300);

/// How long the fetch of a key set may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest key set.
const MAX_JWKS_BYTES: usize = 1 << 20;

/// Longer than any token of ours; bounds the work on what cannot be one.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The longest `sub` of an operator, in characters.
const MOST_SUBJECT: usize = 200;

/// What a token must carry; anything else in it is ignored.
#[derive(Debug, Deserialize)]
struct Claims {
    /// Seconds since 1970, with a fraction if the issuer likes.
    exp: f64,
    /// Only a text: a list of issuers would let a token choose.
    #[serde(rename = "iss")]
    _iss: String,
    sub: String,
    /// Any JSON: what is not a text of scopes grants none.
    #[serde(default)]
    scope: Value,
}

/// A token that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// Who it is for.
    pub subject: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// What it allows.
    pub scopes: Vec<String>,
}

/// Checks tokens of one issuer for one audience.
pub struct Verifier {
    validation: Validation,
    keys: Keys,
    clock: Clock,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the keys.
        f.debug_struct("Verifier")
            .field("algorithms", &self.validation.algorithms)
            .finish_non_exhaustive()
    }
}

enum Keys {
    Shared(Box<DecodingKey>),
    Set(Box<KeySet>),
}

impl Verifier {
    /// A verifier for what is configured. A key set is fetched when the first token comes; until
    /// it could be, calls are answered "temporarily unavailable".
    pub fn new(config: &AuthConfig) -> anyhow::Result<Self> {
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
        validation.validate_nbf = true;
        let keys = match (config.algorithm, &config.hs256_secret, &config.jwks) {
            (Algorithm::Hs256, Some(secret), _) if !secret.is_empty() => Keys::Shared(Box::new(
                DecodingKey::from_secret(secret.expose().as_bytes()),
            )),
            (Algorithm::Hs256, _, _) => bail!("no HS256 secret is configured"),
            (algorithm, _, Some(location)) => {
                Keys::Set(Box::new(KeySet::new(algorithm, location)?))
            }
            (algorithm, _, None) => bail!("no key set is configured for {}", algorithm.as_str()),
        };
        Ok(Self {
            validation,
            keys,
            clock: Clock::default(),
        })
    }

    /// Checks a token: signature, `exp`, `nbf`, `iss`, `aud`, and that `sub` is there.
    pub async fn verify(&self, token: &str) -> Result<Verified> {
        let invalid = || Problem::unauthorized("The token is not valid here.");
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid());
        }
        let decoded = match &self.keys {
            Keys::Shared(key) => jsonwebtoken::decode::<Claims>(token, key, &self.validation),
            Keys::Set(set) => {
                let header = jsonwebtoken::decode_header(token).map_err(|_| invalid())?;
                if !self.validation.algorithms.contains(&header.alg) {
                    return Err(invalid());
                }
                let key = set.find(header.kid.as_deref()).await?.ok_or_else(invalid)?;
                jsonwebtoken::decode::<Claims>(token, &key, &self.validation)
            }
        };
        let decoded = decoded.map_err(|error| {
            tracing::debug!(%error, "a token was refused");
            invalid()
        })?;
        // An extension that must be understood, and none is understood here (RFC 7515, 4.1.11).
        if decoded.header.crit.is_some() {
            return Err(invalid());
        }
        let claims = decoded.claims;
        // The library still takes a token in the very second it ends.
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a float beyond i64 saturates, which is far in the future"
        )]
        let expires_at = DateTime::from_timestamp_millis((claims.exp * 1_000.0) as i64)
            .unwrap_or(DateTime::<Utc>::MAX_UTC);
        if expires_at <= self.clock.now() {
            return Err(invalid());
        }
        let scopes = claims.scope.as_str().unwrap_or_default();
        Ok(Verified {
            subject: claims.sub,
            expires_at,
            scopes: scopes.split(' ').map(str::to_owned).collect(),
        })
    }

    /// Checks the token that a request carries.
    async fn verify_request(&self, parts: &Parts) -> Result<Verified> {
        let mut headers = parts.headers.get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (headers.next(), headers.next()) else {
            return Err(Problem::unauthorized("A bearer token is required."));
        };
        let token = header.to_str().ok().and_then(|header| {
            let (scheme, token) = header.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then(|| token.trim_start_matches(' '))
        });
        match token {
            Some(token) => self.verify(token).await,
            None => Err(Problem::unauthorized("A bearer token is required.")),
        }
    }
}

/// The public keys of an issuer, by kid, fetched when they are needed.
struct KeySet {
    algorithm: Algorithm,
    source: Source,
    known: RwLock<Known>,
    /// Held while fetching, so that one fetch serves everybody who waits.
    fetching: Mutex<()>,
}

enum Source {
    File(String),
    Url(reqwest::Client, reqwest::Url),
}

#[derive(Default)]
struct Known {
    /// `None` until the first fetch that worked.
    keys: Option<HashMap<Option<String>, Arc<DecodingKey>>>,
    /// When a fetch was last tried, whatever came of it.
    tried_at: Option<Instant>,
}

impl Known {
    /// A token without a kid, or a key without one, is fine where there is only one key that the
    /// token can mean.
    fn find(&self, kid: Option<&str>) -> Option<Arc<DecodingKey>> {
        let keys = self.keys.as_ref()?;
        let only = || (keys.len() == 1).then(|| keys.iter().next()).flatten();
        match kid {
            Some(kid) => keys
                .get(&Some(kid.to_owned()))
                .or_else(|| only().filter(|(id, _)| id.is_none()).map(|(_, key)| key)),
            None => only().map(|(_, key)| key),
        }
        .cloned()
    }
}

impl KeySet {
    fn new(algorithm: Algorithm, location: &str) -> anyhow::Result<Self> {
        let source = if location.starts_with("http://") || location.starts_with("https://") {
            // An error means that somebody installed it before.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let client = reqwest::Client::builder()
                .timeout(FETCH_TIMEOUT)
                .build()
                .context("the client for the key set cannot be made")?;
            let url = reqwest::Url::parse(location).context("the key set's URL cannot be read")?;
            Source::Url(client, url)
        } else {
            Source::File(location.to_owned())
        };
        Ok(Self {
            algorithm,
            source,
            known: RwLock::default(),
            fetching: Mutex::new(()),
        })
    }

    /// The key of that kid; `None` where there is none even after a fetch, if one was due.
    async fn find(&self, kid: Option<&str>) -> Result<Option<Arc<DecodingKey>>> {
        let (found, age) = self.look(kid);
        if let Some(key) = found {
            // One caller takes the time to fetch an old set anew, the others go on with it.
            if age.is_some_and(|age| age >= REFRESH_AFTER)
                && let Ok(fetching) = self.fetching.try_lock()
            {
                self.refresh(fetching, REFRESH_AFTER).await;
            } else {
                return Ok(Some(key));
            }
        } else if age.is_none_or(|age| age >= REFRESH_AT_MOST_EVERY) {
            self.refresh(self.fetching.lock().await, REFRESH_AT_MOST_EVERY)
                .await;
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.keys.is_none() {
            return Err(Problem::temporarily_unavailable());
        }
        Ok(known.find(kid))
    }

    fn look(&self, kid: Option<&str>) -> (Option<Arc<DecodingKey>>, Option<Duration>) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        (known.find(kid), known.tried_at.map(|at| at.elapsed()))
    }

    /// Fetches the set unless somebody else has just done so. Keys known before stay when the
    /// issuer cannot be reached.
    async fn refresh(&self, _one_at_a_time: MutexGuard<'_, ()>, due: Duration) {
        if self.look(None).1.is_some_and(|age| age < due) {
            return;
        }
        let fetched = self.fetch().await;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.tried_at = Some(Instant::now());
        match fetched {
            Ok(keys) => known.keys = Some(keys),
            Err(error) => tracing::warn!(
                error = causes::in_words(&error),
                "the key set of tokens cannot be read"
            ),
        }
    }

    async fn fetch(&self) -> anyhow::Result<HashMap<Option<String>, Arc<DecodingKey>>> {
        let text = match &self.source {
            Source::File(path) => tokio::fs::read(path).await.context("reading the file")?,
            Source::Url(client, url) => {
                let mut response = client.get(url.clone()).send().await?.error_for_status()?;
                let mut text = Vec::new();
                while let Some(chunk) = response.chunk().await? {
                    if text.len() + chunk.len() > MAX_JWKS_BYTES {
                        bail!("it is larger than {MAX_JWKS_BYTES} bytes");
                    }
                    text.extend_from_slice(&chunk);
                }
                text
            }
        };
        parse_keys(&text, self.algorithm)
    }
}

/// The keys of a set that can have signed with this algorithm. Others, and those of kinds nobody
/// here knows, are left out: a set may serve several services.
fn parse_keys(
    text: &[u8],
    algorithm: Algorithm,
) -> anyhow::Result<HashMap<Option<String>, Arc<DecodingKey>>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).context("it is not a JSON Web Key Set")?;
    let mut keys = HashMap::new();
    for key in set.keys {
        let Ok(key) = serde_json::from_value::<Jwk>(key) else {
            continue;
        };
        let kind = match &key.algorithm {
            AlgorithmParameters::RSA(_) => Some(Algorithm::Rs256),
            AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
                Some(Algorithm::Es256)
            }
            _ => None,
        };
        let signs = matches!(
            key.common.public_key_use,
            None | Some(PublicKeyUse::Signature)
        );
        let this_algorithm = key
            .common
            .key_algorithm
            .is_none_or(|known| known.to_string() == algorithm.as_str());
        if kind == Some(algorithm) && signs && this_algorithm {
            match DecodingKey::from_jwk(&key) {
                Ok(decoding) => drop(keys.insert(key.common.key_id, Arc::new(decoding))),
                Err(error) => {
                    tracing::warn!(kid = key.common.key_id, %error, "a key of the set cannot be read");
                }
            }
        }
    }
    if keys.is_empty() {
        // The issuer's word all the same: a key that was withdrawn is good for nothing any more.
        tracing::warn!(
            "there is no {} key in the key set of tokens",
            algorithm.as_str()
        );
    }
    Ok(keys)
}

/// What guards the client API; part of its state.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// Checks tokens.
    pub verifier: Arc<Verifier>,
    /// Bounds requests per client.
    pub rate_limit: Arc<RateLimit>,
}

/// What guards the admin API; part of its state.
#[derive(Clone, Debug)]
pub struct AdminAuth(pub Arc<Verifier>);

/// The client who is calling, within their rate. Name it first among a handler's extractors, so
/// that a stranger learns nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Who.
    pub user_id: UserId,
    /// When their token ends.
    pub expires_at: DateTime<Utc>,
}

impl<S> FromRequestParts<S> for Client
where
    ClientAuth: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let auth = ClientAuth::from_ref(state);
        let verified = auth.verifier.verify_request(parts).await?;
        let user_id = user_id(&verified.subject)
            .ok_or_else(|| Problem::unauthorized("The token's sub is not a user_id."))?;
        tracing::Span::current().record("user_id", user_id);
        auth.rate_limit.check(user_id)?;
        Ok(Self {
            user_id,
            expires_at: verified.expires_at,
        })
    }
}

/// A plain decimal from 1, the only way to write a client's number, so that nobody is two.
fn user_id(subject: &str) -> Option<UserId> {
    let plain = subject.bytes().all(|byte| byte.is_ascii_digit()) && !subject.starts_with('0');
    subject.parse().ok().filter(|id| plain && *id >= 1)
}

/// The operator who is calling. Name it first among a handler's extractors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Who, as the audit records it: the token's `sub`.
    pub actor: String,
}

impl Admin {
    /// The author of what this call changes, for the audit; `call` without `/admin/v1`.
    pub fn author(self, call: impl Into<String>) -> Author {
        Author {
            actor: self.actor,
            call: call.into(),
        }
    }
}

impl<S> FromRequestParts<S> for Admin
where
    AdminAuth: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let AdminAuth(verifier) = AdminAuth::from_ref(state);
        let verified = verifier.verify_request(parts).await?;
        if !verified.scopes.iter().any(|scope| scope == ADMIN_SCOPE) {
            return Err(Problem::forbidden(format!(
                "The token's scope does not contain {ADMIN_SCOPE}."
            )));
        }
        // It goes into the audit as it is.
        let subject = verified.subject;
        let is_name = !subject.trim().is_empty()
            && subject.chars().count() <= MOST_SUBJECT
            && !subject.chars().any(char::is_control);
        if !is_name {
            return Err(Problem::unauthorized("The token's sub is no name."));
        }
        Ok(Self { actor: subject })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    const SECRET: &str = "a secret for tests, long enough for HS256";

    fn verifier() -> Verifier {
        Verifier::new(&AuthConfig {
            algorithm: Algorithm::Hs256,
            hs256_secret: Some(Secret::new(SECRET)),
            jwks: None,
            issuer: "ride-promo".to_owned(),
            audience: "ride-promo".to_owned(),
        })
        .expect("a verifier")
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
        let audiences = claims(|c| c["aud"] = json!(["other", "ride-promo"]));
        let token = sign(&hs256, SECRET, &audiences);
        assert!(verifier.verify(&token).await.is_ok());

        let now = Clock::System.now().timestamp();
        let spoiled: [(&str, Value); 11] = [
            ("no exp", claims(|c| drop(c["exp"].take()))),
            ("no iss", claims(|c| drop(c["iss"].take()))),
            ("no aud", claims(|c| drop(c["aud"].take()))),
            ("no sub", claims(|c| drop(c["sub"].take()))),
            ("sub a number", claims(|c| c["sub"] = json!(48_151))),
            ("ended this second", claims(|c| c["exp"] = json!(now))),
            ("ended", claims(|c| c["exp"] = json!(now - 1))),
            ("not begun", claims(|c| c["nbf"] = json!(now + 30))),
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

    #[test]
    fn a_user_id_is_written_in_one_way() {
        assert_eq!(user_id("1"), Some(1));
        assert_eq!(user_id("9223372036854775807"), Some(i64::MAX));
        for text in [
            "",
            "0",
            "01",
            "+1",
            "-1",
            " 1",
            "1 ",
            "1.0",
            "9223372036854775808",
            "admin",
        ] {
            assert_eq!(user_id(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_key_set_may_hold_keys_for_others() {
        let rsa = json!({ "kty": "RSA", "kid": "a", "use": "sig", "alg": "RS256", "n": "AQAB", "e": "AQAB" });
        let encrypts = json!({ "kty": "RSA", "kid": "b", "use": "enc", "n": "AQAB", "e": "AQAB" });
        let other = json!({ "kty": "RSA", "kid": "c", "alg": "PS256", "n": "AQAB", "e": "AQAB" });
        let secret = json!({ "kty": "oct", "kid": "d", "k": "AQAB" });
        let future = json!({ "kty": "XYZ", "kid": "e" });
        let text = json!({ "keys": [rsa, encrypts, other, secret, future] }).to_string();
        let keys = parse_keys(text.as_bytes(), Algorithm::Rs256).expect("keys");
        assert_eq!(keys.into_keys().collect::<Vec<_>>(), [Some("a".to_owned())]);
        // No key is the issuer's word too; no key set is not.
        let none = parse_keys(text.as_bytes(), Algorithm::Es256).expect("a set");
        assert!(none.is_empty());
        assert!(parse_keys(b"<html>", Algorithm::Es256).is_err());
    }

    #[test]
    fn a_kid_that_no_key_has_means_the_only_key_without_one() {
        let key = |kid: Option<&str>| json!({ "kty": "RSA", "kid": kid, "n": "AQAB", "e": "AQAB" });
        let known = |keys: &[Value]| Known {
            keys: Some(
                parse_keys(
                    json!({ "keys": keys }).to_string().as_bytes(),
                    Algorithm::Rs256,
                )
                .expect("a set"),
            ),
            tried_at: None,
        };
        assert!(known(&[key(None)]).find(Some("a")).is_some());
        assert!(known(&[key(Some("b"))]).find(Some("a")).is_none());
        assert!(
            known(&[key(None), key(Some("b"))])
                .find(Some("a"))
                .is_none()
        );
        assert!(known(&[key(Some("b"))]).find(None).is_some());
    }
}
