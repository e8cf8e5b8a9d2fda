//! The state of a consumer and its partitions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant as Monotonic;

use super::batch::Builder;
use super::pending::Pending;
use super::start::{LogCheck, Start, StartError};
use crate::domain::source::Source;

/// The request that finds where reading may begin.
pub(super) type PendingStart = Pending<Result<Start, StartError>>;

/// The state of a consumer and its partitions.
pub(super) enum Phase {
    /// The group has not assigned anything yet.
    Unassigned,
    /// These were assigned; their positions are being read.
    Starting {
        partitions: BTreeSet<i32>,
        start: PendingStart,
        logs: LogCheck,
    },
    /// These are being read.
    Reading {
        partitions: BTreeSet<i32>,
        builder: Box<Builder>,
        source: Arc<Source>,
    },
    /// Out of the group, waiting for an operator; checks again and again whether reading may begin.
    Stopped {
        why: String,
        said: Monotonic,
        start: PendingStart,
    },
}

impl Phase {
    /// The partitions that are assigned.
    pub(super) fn partitions(&self) -> BTreeSet<i32> {
        match self {
            Self::Reading { partitions, .. } | Self::Starting { partitions, .. } => {
                partitions.clone()
            }
            Self::Unassigned | Self::Stopped { .. } => BTreeSet::new(),
        }
    }

    /// Whether this partition is assigned.
    pub(super) fn has(&self, partition: i32) -> bool {
        match self {
            Self::Reading { partitions, .. } | Self::Starting { partitions, .. } => {
                partitions.contains(&partition)
            }
            Self::Unassigned | Self::Stopped { .. } => false,
        }
    }

    /// The batch being filled, while reading.
    pub(super) fn builder(&mut self) -> Option<&mut Builder> {
        match self {
            Self::Reading { builder, .. } => Some(builder),
            _ => None,
        }
    }
}
