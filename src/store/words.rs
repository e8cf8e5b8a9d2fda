//! Binds the lists of words to SQL, and reads them from it, as text.
//!
//! No SQL text contains such a word, so that each is written once. The exception is the predicate of a partial
//! index: with a parameter in its place, Postgres could not use the index in a generic plan.
//! `tests/architecture.rs` checks both.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

use crate::domain::participation::{DeadlineOf, ExpiredReason, StatusName};
use crate::domain::promotion::Verdict;
use crate::domain::ride::RideSource;
use crate::domain::split::{MissingSplit, SplitStatus};
use crate::wire::erasure::ErasedLoan;
use crate::wire::promotion_status::{Cause, EventType};
use crate::wire::quarantine::QuarantineStatus;
use crate::wire::ride_completed::QuarantineReason;

macro_rules! as_text {
    ($($words:ty),+ $(,)?) => {$(
        impl Type<Postgres> for $words {
            fn type_info() -> PgTypeInfo {
                <str as Type<Postgres>>::type_info()
            }

            fn compatible(ty: &PgTypeInfo) -> bool {
                <str as Type<Postgres>>::compatible(ty)
            }
        }

        impl PgHasArrayType for $words {
            fn array_type_info() -> PgTypeInfo {
                <&str as PgHasArrayType>::array_type_info()
            }
        }

        impl Encode<'_, Postgres> for $words {
            fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                <&str as Encode<'_, Postgres>>::encode(self.as_str(), buffer)
            }
        }

        impl Decode<'_, Postgres> for $words {
            fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
                let text = <&str as Decode<'_, Postgres>>::decode(value)?;
                text.parse().map_err(|error| format!("{error}, got {text:?}").into())
            }
        }
    )+};
}

as_text!(
    Cause,
    DeadlineOf,
    ErasedLoan,
    EventType,
    ExpiredReason,
    MissingSplit,
    QuarantineReason,
    QuarantineStatus,
    RideSource,
    SplitStatus,
    StatusName,
    Verdict,
);
