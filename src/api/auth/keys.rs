//! The public keys of an issuer: a JSON Web Key Set, which a task of its own fetches again and
//! again.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, bail};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant as Monotonic;

use crate::causes;
use crate::config::Algorithm;

/// A URL is fetched at most this often, however many unknown keys the tokens name.
const URL_FETCH_SPACING: Duration = Duration::from_secs(2);

/// A file is read at most this often.
const FILE_FETCH_SPACING: Duration = Duration::from_millis(200);

/// A URL's key set is fetched again after this, so that a withdrawn key disappears.
const URL_REFRESH_AFTER: Duration = Duration::from_secs(300);

/// A file is read again after this.
const FILE_REFRESH_AFTER: Duration = Duration::from_secs(5);

/// A fetch that failed is repeated after this.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long one fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request waits for a fetch that may know its token's key.
const MAX_WAIT: Duration = Duration::from_secs(4);

/// The largest key set, in bytes.
const MAX_JWKS_BYTES: usize = 1 << 20;

/// Keys of a set that are used: this bounds the cost of a forged token without a `kid`.
const MAX_KEYS: usize = 16;

/// A key of the set.
pub struct Key {
    /// Its `kid`, if it has one.
    pub id: Option<String>,
    /// The key for checking signatures.
    pub decoding: DecodingKey,
}

/// The keys as they were fetched last.
#[derive(Clone)]
pub struct Keys {
    /// Only keys for the configured algorithm.
    pub keys: Arc<[Key]>,
    /// Grows when the keys change: tokens that were verified with other keys must be verified
    /// again.
    pub generation: u64,
}

impl Keys {
    /// The keys that can have signed a token with this `kid`. A key without a `kid` can have signed
    /// any token, and a token without one can be of any key (RFC 7515, 4.1.4; RFC 7517, 4.5).
    pub fn fitting(&self, kid: Option<&str>) -> impl Iterator<Item = &Key> {
        let fits = move |key: &&Key| match (kid, key.id.as_deref()) {
            (Some(kid), Some(id)) => kid == id,
            _ => true,
        };
        self.keys.iter().filter(fits)
    }

    /// Whether a key has this `kid`.
    pub fn knows(&self, kid: Option<&str>) -> bool {
        kid.is_some() && self.keys.iter().any(|key| key.id.as_deref() == kid)
    }
}

/// Why there are no keys to check a token with; a later fetch may bring them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// The key set of one issuer.
pub struct KeySet {
    algorithm: Algorithm,
    source: Source,
    /// Keys that could not be confirmed for this long are not used.
    max_age: Duration,
    made_at: Monotonic,
    state: RwLock<State>,
    /// When the last finished fetch began; `None` before the first has finished.
    finished: watch::Sender<Option<Monotonic>>,
    /// Asks for a fetch before it is due.
    wanted: Notify,
}

enum Source {
    File(String),
    Url(reqwest::Client, reqwest::Url),
}

struct State {
    keys: Keys,
    /// The set as it was fetched, to detect changes.
    text: Vec<u8>,
    /// When the last successful fetch began.
    fetched_at: Option<Monotonic>,
    /// Why the last fetch failed, if it did.
    failure: Option<String>,
}

impl KeySet {
    /// A set at a file's path or an `http(s)` URL; nothing is fetched yet.
    pub fn new(
        algorithm: Algorithm,
        location: &str,
        max_age: Duration,
    ) -> anyhow::Result<Arc<Self>> {
        let source = if location.starts_with("http://") || location.starts_with("https://") {
            // An error means that a provider is installed already.
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
        Ok(Arc::new(Self {
            algorithm,
            source,
            max_age,
            made_at: Monotonic::now(),
            state: RwLock::new(State {
                keys: Keys {
                    keys: Arc::new([]),
                    generation: 0,
                },
                text: Vec::new(),
                fetched_at: None,
                failure: None,
            }),
            finished: watch::channel(None).0,
            wanted: Notify::new(),
        }))
    }

    /// Fetches the set now, whenever it is due, and when a token asks for it; never ends.
    pub async fn keep(self: Arc<Self>) {
        loop {
            let began = Monotonic::now();
            let fetched = self.fetch().await;
            self.take(began, fetched);
            self.finished.send_replace(Some(began));
            let due = began + self.pause();
            let allowed = began + self.spacing();
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = async {
                    self.wanted.notified().await;
                    tokio::time::sleep_until(allowed).await;
                } => {}
            }
        }
    }

    /// The keys, once the first fetch has finished; an error if none could be fetched, or if those
    /// known are too old.
    pub async fn keys(&self) -> Result<Keys, Unavailable> {
        if self.finished.borrow().is_none() {
            let mut finished = self.finished.subscribe();
            // The result of the first fetch is checked below.
            let _ = tokio::time::timeout(MAX_WAIT, finished.wait_for(Option::is_some)).await;
        }
        self.known().ok_or(Unavailable)
    }

    /// The keys known now; `None` if none may be used.
    pub fn known(&self) -> Option<Keys> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let age = state.fetched_at?.elapsed();
        (age <= self.max_age).then(|| state.keys.clone())
    }

    /// The keys of a fetch that began at `since` or later; an error if it failed, or if there was
    /// none in time.
    pub async fn keys_since(&self, since: Monotonic) -> Result<Keys, Unavailable> {
        let mut finished = self.finished.subscribe();
        self.wanted.notify_one();
        let new = finished.wait_for(|began| began.is_some_and(|began| began >= since));
        let waited = tokio::time::timeout(MAX_WAIT, new).await;
        if !matches!(waited, Ok(Ok(_))) || self.failure().is_some() {
            return Err(Unavailable);
        }
        self.known().ok_or(Unavailable)
    }

    /// Whether a fetch that is requested now begins at once.
    pub fn may_be_fetched_now(&self) -> bool {
        let spacing = self.spacing();
        self.finished
            .borrow()
            .is_some_and(|began| began.elapsed() >= spacing)
    }

    /// Time since the issuer last confirmed the keys, or since the start if it never did.
    pub fn age(&self) -> Duration {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.fetched_at.unwrap_or(self.made_at).elapsed()
    }

    /// Why no token can be checked; `None` if tokens can be checked.
    pub fn trouble(&self) -> Option<String> {
        if self.known().is_some() {
            return None;
        }
        let why = self
            .failure()
            .unwrap_or_else(|| "not fetched yet".to_owned());
        Some(format!("the key set of tokens cannot be used: {why}"))
    }

    fn failure(&self) -> Option<String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.failure.clone()
    }

    fn spacing(&self) -> Duration {
        match self.source {
            Source::File(_) => FILE_FETCH_SPACING,
            Source::Url(..) => URL_FETCH_SPACING,
        }
    }

    /// How long after the last fetch the next one is due. Several fetches fit into the longest age,
    /// so that one failure has no effect.
    fn pause(&self) -> Duration {
        let refresh = match self.source {
            Source::File(_) => FILE_REFRESH_AFTER,
            Source::Url(..) => URL_REFRESH_AFTER,
        };
        let pause = if self.failure().is_some() {
            RETRY_AFTER.min(refresh)
        } else {
            refresh
        };
        pause.min(self.max_age / 4).max(self.spacing())
    }

    fn take(&self, began: Monotonic, fetched: anyhow::Result<Vec<u8>>) {
        let parsed = fetched.and_then(|text| {
            let same = {
                let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
                state.fetched_at.is_some() && state.text == text
            };
            let keys = if same {
                None
            } else {
                Some(parse_keys(&text, self.algorithm)?)
            };
            Ok((text, keys))
        });
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match parsed {
            Ok((text, keys)) => {
                if let Some(keys) = keys {
                    let generation = state.keys.generation + 1;
                    let keys = keys.into();
                    state.keys = Keys { keys, generation };
                    state.text = text;
                }
                if state.failure.take().is_some() {
                    tracing::info!("the key set of tokens can be read again");
                }
                state.fetched_at = Some(began);
            }
            Err(error) => {
                let why = causes::in_words(&error);
                if state.failure.as_ref() != Some(&why) {
                    tracing::warn!(error = why, "the key set of tokens cannot be read");
                }
                state.failure = Some(why);
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<Vec<u8>> {
        match &self.source {
            Source::File(path) => {
                let file = tokio::fs::File::open(path).await.context(path.clone())?;
                let mut text = Vec::new();
                let limit = MAX_JWKS_BYTES as u64 + 1;
                let mut file = tokio::io::AsyncReadExt::take(file, limit);
                tokio::io::AsyncReadExt::read_to_end(&mut file, &mut text)
                    .await
                    .context(path.clone())?;
                if text.len() > MAX_JWKS_BYTES {
                    bail!("{path} is larger than {MAX_JWKS_BYTES} bytes");
                }
                Ok(text)
            }
            Source::Url(client, url) => {
                let mut response = client.get(url.clone()).send().await?.error_for_status()?;
                let mut text = Vec::new();
                while let Some(chunk) = response.chunk().await? {
                    if text.len() + chunk.len() > MAX_JWKS_BYTES {
                        bail!("it is larger than {MAX_JWKS_BYTES} bytes");
                    }
                    text.extend_from_slice(&chunk);
                }
                Ok(text)
            }
        }
    }
}

/// The keys of a set for this algorithm. Other keys, and those of unknown types, are left out: a
/// set may serve several services.
pub fn parse_keys(text: &[u8], algorithm: Algorithm) -> anyhow::Result<Vec<Key>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).context("it is not a JSON Web Key Set")?;
    let mut keys = Vec::new();
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
                Ok(decoding) => keys.push(Key {
                    id: key.common.key_id,
                    decoding,
                }),
                Err(error) => {
                    tracing::warn!(kid = key.common.key_id, %error, "a key of the set cannot be read");
                }
            }
        }
    }
    if keys.is_empty() {
        // An empty set is a valid statement of the issuer: a withdrawn key must not be used any
        // more.
        tracing::warn!(
            "there is no {} key in the key set of tokens",
            algorithm.as_str()
        );
    }
    if keys.len() > MAX_KEYS {
        tracing::warn!(
            keys = keys.len(),
            "only the first {MAX_KEYS} keys of the key set of tokens are used"
        );
        keys.truncate(MAX_KEYS);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_set_may_hold_keys_for_others() {
        let rsa = json!({ "kty": "RSA", "kid": "a", "use": "sig", "alg": "RS256", "n": "AQAB", "e": "AQAB" });
        let encrypts = json!({ "kty": "RSA", "kid": "b", "use": "enc", "n": "AQAB", "e": "AQAB" });
        let other = json!({ "kty": "RSA", "kid": "c", "alg": "PS256", "n": "AQAB", "e": "AQAB" });
        let secret = json!({ "kty": "oct", "kid": "d", "k": "AQAB" });
        let future = json!({ "kty": "XYZ", "kid": "e" });
        let text = json!({ "keys": [rsa, encrypts, other, secret, future] }).to_string();
        let keys = parse_keys(text.as_bytes(), Algorithm::Rs256).expect("keys");
        let ids: Vec<_> = keys.into_iter().map(|key| key.id).collect();
        assert_eq!(ids, [Some("a".to_owned())]);
        // No key is the issuer's word too; no key set is not.
        let none = parse_keys(text.as_bytes(), Algorithm::Es256).expect("a set");
        assert!(none.is_empty());
        assert!(parse_keys(b"<html>", Algorithm::Es256).is_err());
    }

    #[test]
    fn a_token_or_a_key_without_a_kid_fits_any() {
        let key = |kid: Option<&str>| json!({ "kty": "RSA", "kid": kid, "n": "AQAB", "e": "AQAB" });
        let fitting = |kids: &[Option<&str>], kid: Option<&str>| {
            let set: Vec<Value> = kids.iter().map(|kid| key(*kid)).collect();
            let text = json!({ "keys": set }).to_string();
            let keys = parse_keys(text.as_bytes(), Algorithm::Rs256).expect("a set");
            let keys = Keys {
                keys: keys.into(),
                generation: 1,
            };
            keys.fitting(kid).count()
        };
        assert_eq!(fitting(&[None, None], Some("a")), 2);
        assert_eq!(fitting(&[None, None], None), 2);
        assert_eq!(fitting(&[Some("a"), Some("b")], None), 2);
        assert_eq!(fitting(&[Some("a"), Some("b")], Some("a")), 1);
        assert_eq!(fitting(&[Some("a"), None], Some("a")), 2);
        assert_eq!(fitting(&[Some("a")], Some("c")), 0);
        assert_eq!(fitting(&[Some("a"); 20], None), MAX_KEYS);
    }
}
