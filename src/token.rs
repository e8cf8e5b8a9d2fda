//! Development tokens. In production the identity provider signs them; here the shared secret does.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{EncodingKey, Header};
use serde::{Deserialize, Serialize};

use crate::config::{Algorithm, AuthConfig};

/// The subject of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A client, by `user_id`.
    User(i64),
    /// An operator.
    Operator {
        /// Their name in the audit.
        name: &'a str,
        /// What they may do, separated by spaces.
        scope: &'a str,
    },
}

/// The claims of a development token. `exp` and `iat` are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// `user_id` in decimal, or an operator's name.
    pub sub: String,
    /// Issuer.
    pub iss: String,
    /// Audience.
    pub aud: String,
    /// When it was issued.
    pub iat: i64,
    /// When it expires.
    pub exp: i64,
    /// Space-separated; only an operator's token has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// Why no token was issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Only the holder of the private key can sign, and that is the identity provider.
    #[error(
        "tokens are signed here with HS256 only and the algorithm is {}: ask your identity provider for one",
        .0.as_str()
    )]
    NotSymmetric(Algorithm),
    /// HS256 without a secret.
    #[error("there is no HS256 secret to sign with")]
    NoSecret,
    /// A lifetime beyond the calendar.
    #[error("a token cannot live that long")]
    TooLong,
    /// The library's error.
    #[error("the token cannot be signed: {0}")]
    Signing(#[from] jsonwebtoken::errors::Error),
}

/// Signs a token that is valid from `now` for `lifetime`, cut to whole seconds. `auth` is the
/// section of the API it is for.
pub fn issue(
    auth: &AuthConfig,
    subject: Subject<'_>,
    now: DateTime<Utc>,
    lifetime: Duration,
) -> Result<String, TokenError> {
    if auth.algorithm != Algorithm::Hs256 {
        return Err(TokenError::NotSymmetric(auth.algorithm));
    }
    let secret = auth.hs256_secret.as_ref().ok_or(TokenError::NoSecret)?;
    let expires = TimeDelta::from_std(lifetime)
        .ok()
        .and_then(|lifetime| now.checked_add_signed(lifetime))
        .ok_or(TokenError::TooLong)?;
    let (sub, scope) = match subject {
        Subject::User(user_id) => (user_id.to_string(), None),
        Subject::Operator { name, scope } => (name.to_owned(), Some(scope.to_owned())),
    };
    let claims = Claims {
        sub,
        iss: auth.issuer.clone(),
        aud: auth.audience.clone(),
        iat: now.timestamp(),
        exp: expires.timestamp(),
        scope,
    };
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    let header = Header::new(jsonwebtoken::Algorithm::HS256);
    Ok(jsonwebtoken::encode(&header, &claims, &key)?)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use super::*;
    use crate::config::Secret;

    const ANA: Subject<'_> = Subject::Operator {
        name: "ana@example.com",
        scope: "ride-promo:view",
    };

    fn auth() -> AuthConfig {
        AuthConfig {
            algorithm: Algorithm::Hs256,
            hs256_secret: Some(Secret::new("0123456789abcdef0123456789abcdef")),
            jwks: None,
            jwks_max_age: Duration::from_secs(3_600),
            issuer: "ride-promo".into(),
            audience: "ride-promo".into(),
            leeway: Duration::from_secs(5),
        }
    }

    fn claims(token: &str) -> Claims {
        let mut validation = Validation::new(jsonwebtoken::Algorithm::HS256);
        validation.set_audience(&["ride-promo"]);
        validation.set_issuer(&["ride-promo"]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // The clock is fixed.
        validation.validate_exp = false;
        let key = DecodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
        decode(token, &key, &validation).expect("valid").claims
    }

    #[test]
    fn carries_what_the_contract_asks_for() {
        let now: DateTime<Utc> = "2026-11-22T18:04:05.999Z".parse().expect("instant");
        let hour = Duration::from_secs(3_600);
        let user = claims(&issue(&auth(), Subject::User(48_151), now, hour).expect("token"));
        assert_eq!(user.sub, "48151");
        assert_eq!(user.exp - user.iat, 3_600);
        assert_eq!(user.iat, now.timestamp());
        assert_eq!(user.scope, None);
        let ana = claims(&issue(&auth(), ANA, now, hour).expect("token"));
        assert_eq!(ana.sub, "ana@example.com");
        assert_eq!(ana.scope.as_deref(), Some("ride-promo:view"));
    }

    #[test]
    fn refuses_what_it_cannot_sign() {
        let now = DateTime::UNIX_EPOCH;
        let asymmetric = AuthConfig {
            algorithm: Algorithm::Rs256,
            ..auth()
        };
        let hour = Duration::from_secs(3_600);
        assert!(matches!(
            issue(&asymmetric, ANA, now, hour),
            Err(TokenError::NotSymmetric(Algorithm::Rs256))
        ));
        assert!(matches!(
            issue(&auth(), ANA, now, Duration::MAX),
            Err(TokenError::TooLong)
        ));
    }
}
