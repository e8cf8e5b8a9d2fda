//! After a disaster, and when a client is to be forgotten: `republish`, `erase`, `reconcile`
//! (contract 9).

pub mod erase;
mod ledger;
pub mod reconcile;
pub mod republish;
