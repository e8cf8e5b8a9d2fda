//! Recovery after a disaster, the erasure of a client, and the recount: `republish`, `erase`,
//! `reconcile`, `verify` (contract 9; contract 2, "Proof").

pub mod erase;
mod ledger;
pub mod reconcile;
pub mod republish;
mod status_topic;
pub mod verify;
