//! Recovery after a disaster, and the erasure of a client: `republish`, `erase`, `reconcile`
//! (contract 9).

pub mod erase;
mod ledger;
pub mod reconcile;
pub mod republish;
