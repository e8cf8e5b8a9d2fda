//! Verified tokens, so that a client's next request needs no second signature check.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use hashbrown::DefaultHashBuilder;
use lru::LruCache;
use std::hash::BuildHasher as _;

use super::verifier::VerifiedToken;

/// Shards, each with a lock, so that requests seldom wait for one another.
const SHARDS: usize = 16;

/// Tokens per shard; the least recently used ones are removed first.
const TOKENS_PER_SHARD: NonZeroUsize = NonZeroUsize::new(1_024).expect("not zero");

/// A longer token is verified every time. With the numbers above this bounds the memory: 64 MiB at
/// most, about 16 MiB with usual tokens.
const MAX_TOKEN_BYTES: usize = 4 * 1024;

/// Only verified tokens are added, and a token is found by its whole text: header, claims and
/// signature.
pub struct TokenCache {
    hasher: DefaultHashBuilder,
    shards: [Mutex<LruCache<Box<str>, Entry>>; SHARDS],
}

#[derive(Clone)]
struct Entry {
    verified: Arc<VerifiedToken>,
    /// The version of the keys that it was verified with.
    generation: u64,
}

impl TokenCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            shards: std::array::from_fn(|_| Mutex::new(LruCache::new(TOKENS_PER_SHARD))),
        }
    }

    /// The content of the token, if it was verified with these keys and has not expired.
    pub fn get(
        &self,
        token: &str,
        generation: u64,
        now: DateTime<Utc>,
    ) -> Option<Arc<VerifiedToken>> {
        let mut shard = self.shard(token);
        let entry = shard.get(token)?;
        if entry.generation == generation && now < entry.verified.expires_at {
            return Some(Arc::clone(&entry.verified));
        }
        shard.pop(token);
        None
    }

    /// Adds a token that was just verified.
    pub fn put(&self, token: &str, generation: u64, verified: &Arc<VerifiedToken>) {
        if token.len() <= MAX_TOKEN_BYTES {
            let entry = Entry {
                verified: Arc::clone(verified),
                generation,
            };
            self.shard(token).put(token.into(), entry);
        }
    }

    fn shard(&self, token: &str) -> std::sync::MutexGuard<'_, LruCache<Box<str>, Entry>> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any bits of the hash may choose the shard"
        )]
        let index = self.hasher.hash_one(token) as usize % SHARDS;
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_token_goes_at_its_end_and_when_the_keys_change() {
        let now = DateTime::UNIX_EPOCH;
        let ends = now + TimeDelta::seconds(60);
        let verified = Arc::new(VerifiedToken {
            subject: "48151".to_owned(),
            expires_at: ends,
            scopes: Vec::new(),
        });
        let cache = TokenCache::new();
        cache.put("a.b.c", 1, &verified);
        assert_eq!(cache.get("a.b.c", 1, now), Some(Arc::clone(&verified)));
        assert_eq!(cache.get("a.b.d", 1, now), None);
        assert_eq!(cache.get("a.b.c", 2, now), None);
        assert_eq!(cache.get("a.b.c", 1, now), None, "it is gone");
        cache.put("a.b.c", 2, &verified);
        assert_eq!(cache.get("a.b.c", 2, ends), None);
        let long = "a".repeat(MAX_TOKEN_BYTES + 1);
        cache.put(&long, 2, &verified);
        assert_eq!(cache.get(&long, 2, now), None);
    }

    #[test]
    fn it_is_bounded() {
        let verified = Arc::new(VerifiedToken {
            subject: "1".to_owned(),
            expires_at: DateTime::<Utc>::MAX_UTC,
            scopes: Vec::new(),
        });
        let cache = TokenCache::new();
        for number in 0..3 * SHARDS * TOKENS_PER_SHARD.get() {
            cache.put(&number.to_string(), 1, &verified);
        }
        let held: usize = cache
            .shards
            .iter()
            .map(|shard| shard.lock().expect("a shard").len())
            .sum();
        assert!(held <= SHARDS * TOKENS_PER_SHARD.get(), "{held}");
    }
}
