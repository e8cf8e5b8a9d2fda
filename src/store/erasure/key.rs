//! The key of `erase.secret`, which turns a client's id into the name in the ledger.

use jsonwebtoken::{Algorithm, EncodingKey, crypto};

use crate::domain::UserId;
use crate::store::{Result, StoreError};

/// The key made of `erase.secret`. It turns a client's id into the name in the ledger.
pub struct ErasureKey {
    key: EncodingKey,
    id: String,
}

impl std::fmt::Debug for ErasureKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ErasureKey({})", self.id)
    }
}

impl ErasureKey {
    /// The key of this secret.
    pub fn new(secret: &str) -> Result<Self> {
        let key = EncodingKey::from_secret(secret.as_bytes());
        let id = hmac(&key, "ride-promo erase key")?;
        Ok(Self {
            key,
            id: id.chars().take(8).collect(),
        })
    }

    /// Identifies this key without revealing it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The client's name in the ledger.
    pub fn client(&self, user_id: UserId) -> Result<String> {
        hmac(&self.key, &format!("ride-promo client {user_id}"))
    }
}

/// HMAC-SHA-256, base64url.
fn hmac(key: &EncodingKey, text: &str) -> Result<String> {
    crypto::sign(text.as_bytes(), key, Algorithm::HS256)
        .map_err(|error| StoreError::Corrupt(format!("hashing under erase.secret: {error}")))
}
