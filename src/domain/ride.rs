//! A completed ride, with the fields that promotions use.

use uuid::Uuid;

use super::reward::{CountryCode, CurrencyCode};
use super::words::words;
use super::{Instant, UserId};

words! {
    /// How a ride reached the service.
    pub enum RideSource {
        /// From the ride topic.
        Topic = "TOPIC",
        /// Replayed from the quarantine by an operator.
        Quarantine = "QUARANTINE",
        /// Entered by an operator, because its record never arrived.
        Operator = "OPERATOR",
    }
}

/// A valid ride-completed event (contract 4.1). Its creator has checked every field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ride {
    /// Identifies the ride within its client; the same id under two clients is two rides.
    pub ride_id: Uuid,
    /// The client.
    pub user_id: UserId,
    /// When the ride ended. Rides are judged by this, not by when they arrive.
    pub completed_at: Instant,
    /// The fare, at least 0.
    pub amount_cents: i64,
    /// The fare's currency.
    pub currency_code: CurrencyCode,
    /// The country, if known.
    pub country_code: Option<CountryCode>,
    /// The city, if known; at least 0.
    pub city_id: Option<i64>,
    /// The service type, if known; 1 to 64 printable characters.
    pub service_type: Option<Box<str>>,
    /// The distance in metres, if known; at least 0.
    pub distance_m: Option<i64>,
}

/// The platform takes a ride back: it was cancelled afterwards, refunded, or fraud (contract 4.1,
/// "Reversed rides").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reversal {
    /// The ride.
    pub ride_id: Uuid,
    /// The client.
    pub user_id: UserId,
}

/// A valid record of the ride topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RideRecord {
    /// A ride was completed.
    Completed(Ride),
    /// A ride was taken back.
    Reversed(Reversal),
}

impl RideRecord {
    /// The client of the ride.
    pub const fn user_id(&self) -> UserId {
        match self {
            Self::Completed(ride) => ride.user_id,
            Self::Reversed(reversal) => reversal.user_id,
        }
    }

    /// The ride.
    pub const fn ride_id(&self) -> Uuid {
        match self {
            Self::Completed(ride) => ride.ride_id,
            Self::Reversed(reversal) => reversal.ride_id,
        }
    }
}

impl Ride {
    /// A ride with the required fields only.
    pub const fn new(
        ride_id: Uuid,
        user_id: UserId,
        completed_at: Instant,
        amount_cents: i64,
        currency_code: CurrencyCode,
    ) -> Self {
        Self {
            ride_id,
            user_id,
            completed_at,
            amount_cents,
            currency_code,
            country_code: None,
            city_id: None,
            service_type: None,
            distance_m: None,
        }
    }

    /// A hash of all fields except id and client: FNV-1a, 64 bits. Receipts store it, so equal rides have
    /// equal fingerprints in every release.
    ///
    /// It is append-only. An optional field that is added later is written after all others, under a tag of
    /// its own from 2 to 31 (a service type has no such character, so the bytes stay unambiguous), and only
    /// if the ride has it: `if let Some(x) { hash.write(&[2]); … }`. So the fingerprint of a ride without the
    /// field stays the one that receipts have stored.
    pub fn fingerprint(&self) -> i64 {
        // All fields are named, so that a later field is not forgotten here.
        let Self {
            ride_id: _,
            user_id: _,
            completed_at,
            amount_cents,
            currency_code,
            country_code,
            city_id,
            service_type,
            distance_m,
        } = self;
        let mut hash = Fnv1a::new();
        hash.write(&completed_at.timestamp_millis().to_le_bytes());
        hash.write(&amount_cents.to_le_bytes());
        hash.write(currency_code.as_str().as_bytes());
        // A tag before each optional field distinguishes "absent" from every value.
        match country_code {
            None => hash.write(&[0]),
            Some(country) => {
                hash.write(&[1]);
                hash.write(country.as_str().as_bytes());
            }
        }
        match city_id {
            None => hash.write(&[0]),
            Some(city) => {
                hash.write(&[1]);
                hash.write(&city.to_le_bytes());
            }
        }
        match service_type {
            None => hash.write(&[0]),
            Some(service) => {
                hash.write(&[1]);
                hash.write(service.as_bytes());
            }
        }
        if let Some(distance) = distance_m {
            hash.write(&[2]);
            hash.write(&distance.to_le_bytes());
        }
        hash.finish()
    }
}

/// FNV-1a, 64 bits: for stored hashes, which must be the same in every release.
pub(super) struct Fnv1a(u64);

impl Fnv1a {
    pub(super) const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) const fn finish(&self) -> i64 {
        self.0.cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the first release. A redelivered ride must be recognised although fields were added
    /// since.
    #[test]
    fn fingerprints_are_those_that_receipts_have_stored() {
        let mut ride = Ride::new(
            Uuid::nil(),
            48_151,
            "2026-11-22T18:04:05.123Z".parse().expect("an instant"),
            6_500,
            "MXN".parse().expect("a currency"),
        );
        assert_eq!(ride.fingerprint(), -2_400_273_085_582_693_584);
        ride.country_code = "MX".parse().ok();
        ride.city_id = Some(4_198);
        ride.service_type = Some("city".into());
        let without_distance = ride.fingerprint();
        assert_eq!(without_distance, -6_201_910_063_793_315_647);
        ride.distance_m = Some(0);
        assert_ne!(ride.fingerprint(), without_distance);
    }
}
