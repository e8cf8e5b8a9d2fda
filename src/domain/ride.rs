//! A completed ride, as far as promotions care.

use uuid::Uuid;

use super::reward::{CountryCode, CurrencyCode};
use super::{Instant, UserId};

/// A valid ride-completed event (contract 4.1); whoever makes one has checked every field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ride {
    /// Names the ride; under two clients it is two rides.
    pub ride_id: Uuid,
    /// Who rode.
    pub user_id: UserId,
    /// When the ride ended; rides are judged by this, not by when they arrive.
    pub completed_at: Instant,
    /// The fare, at least 0.
    pub amount_cents: i64,
    /// The fare's currency.
    pub currency_code: CurrencyCode,
    /// Where, if known.
    pub country_code: Option<CountryCode>,
    /// Where, if known; at least 0.
    pub city_id: Option<i64>,
    /// What kind, if known; 1 to 64 printable characters.
    pub service_type: Option<Box<str>>,
}

impl Ride {
    /// A number for what the ride says beside its id and client: equal rides have equal
    /// fingerprints, in every release, because they are stored on receipts. FNV-1a, 64 bits.
    pub fn fingerprint(&self) -> i64 {
        let mut hash = Fnv1a::new();
        hash.write(&self.completed_at.timestamp_millis().to_le_bytes());
        hash.write(&self.amount_cents.to_le_bytes());
        hash.write(self.currency_code.as_str().as_bytes());
        // A tag before each optional field keeps "absent" apart from every value.
        match &self.country_code {
            None => hash.write(&[0]),
            Some(country) => {
                hash.write(&[1]);
                hash.write(country.as_str().as_bytes());
            }
        }
        match self.city_id {
            None => hash.write(&[0]),
            Some(city) => {
                hash.write(&[1]);
                hash.write(&city.to_le_bytes());
            }
        }
        match &self.service_type {
            None => hash.write(&[0]),
            Some(service) => {
                hash.write(&[1]);
                hash.write(service.as_bytes());
            }
        }
        hash.0.cast_signed()
    }
}

struct Fnv1a(u64);

impl Fnv1a {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
