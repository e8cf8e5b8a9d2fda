//! Computes the id from which the relay reads the outbox.

use std::time::{Duration, Instant as Monotonic};

/// The id up to which everything is published and deleted; reads begin after it. Deleted rows stay in the
/// index as long as any transaction could see them. Without this bound, each read would pass over all rows that
/// were deleted since, for example, a `pg_dump` began.
///
/// Ids are assigned in order but become visible out of order, so an id that was read does not prove that all
/// earlier ones are visible. But a transaction locks the table before it gets an id, and keeps that lock until its
/// rows are visible. So: the relay takes a known id (`undecided.upto`), then records the transactions that hold
/// the lock. Once all of these have ended, a later read sees everything that is left up to that id, and no row up
/// to it can appear any more.
#[derive(Debug, Default)]
pub(super) struct LowWatermark {
    /// Reads begin after this id.
    pub(super) upto: i64,
    /// The value that was last written to `relay_shard`, for the next relay.
    pub(super) told: i64,
    /// Up to this id no transaction can commit an event any more.
    decided: i64,
    /// The next id to decide, and the transactions that must end before.
    undecided: Option<UndecidedId>,
    /// The largest id that was read.
    newest: i64,
    /// The value of `upto` once the rows read last are deleted, and their number.
    next: i64,
    read: usize,
    /// When the writers were last requested.
    pub(super) asked: Option<Monotonic>,
}

#[derive(Debug)]
struct UndecidedId {
    upto: i64,
    writers: Vec<String>,
}

impl LowWatermark {
    /// Whether to request the writers now, so that reads can begin at a higher id.
    pub(super) fn is_due(&self, interval: Duration) -> bool {
        self.asked.is_none_or(|asked| asked.elapsed() >= interval)
            && (self.undecided.is_some() || self.newest > self.decided)
    }

    /// Takes the transactions that write to the outbox now, by their virtual transaction ids.
    pub(super) fn hear(&mut self, writers: Vec<String>) {
        if let Some(waiting) = &self.undecided {
            // A transaction that was prepared meanwhile has another id now.
            let may_come =
                |writer: &String| waiting.writers.contains(writer) || writer.starts_with(PREPARED);
            if writers.iter().any(may_come) {
                return;
            }
            self.decided = waiting.upto;
        }
        self.undecided = (self.newest > self.decided).then_some(UndecidedId {
            upto: self.newest,
            writers,
        });
        // Without writers, what is known is decided at once.
        if let Some(waiting) = self.undecided.take_if(|waiting| waiting.writers.is_empty()) {
            self.decided = waiting.upto;
        }
    }

    /// The state of a session that begins to read after this id.
    pub(super) fn behind(upto: i64) -> Self {
        Self {
            upto,
            told: upto,
            decided: upto,
            ..Self::default()
        }
    }

    /// Takes the ids, in order, of a read that began after the last [`LowWatermark::hear`].
    pub(super) fn have_read(&mut self, ids: &[i64], is_all: bool) {
        let last = ids.last().copied().unwrap_or_default();
        self.newest = self.newest.max(last);
        self.next = if is_all {
            self.decided
        } else {
            self.decided.min(last)
        };
        self.read = ids.len();
        if ids.is_empty() {
            self.have_deleted(0);
        }
    }

    /// Takes how many of the rows read last were deleted.
    pub(super) fn have_deleted(&mut self, rows: usize) {
        if rows == self.read {
            self.upto = self.upto.max(self.next);
        }
    }
}

/// The prefix of a prepared transaction's virtual transaction id.
const PREPARED: &str = "-1/";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The next step of a writer or the relay. A writer is chosen by its index among the open ones.
    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        Insert(usize),
        Commit(usize),
        RollBack(usize),
        Prepare(usize),
        Ask,
        Relay(usize),
        TakeOver,
    }

    #[derive(Debug)]
    struct Writer {
        transaction: String,
        ids: Vec<i64>,
    }

    fn step() -> impl Strategy<Value = Step> {
        let open = 0..4_usize;
        prop_oneof![
            2 => Just(Step::Begin),
            4 => open.clone().prop_map(Step::Insert),
            2 => open.clone().prop_map(Step::Commit),
            1 => open.clone().prop_map(Step::RollBack),
            1 => open.prop_map(Step::Prepare),
            3 => Just(Step::Ask),
            4 => (1..4_usize).prop_map(Step::Relay),
            1 => Just(Step::TakeOver),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn every_event_that_is_committed_is_read(steps in proptest::collection::vec(step(), 1..80)) {
            let mut open: Vec<Writer> = Vec::new();
            let mut visible: BTreeSet<i64> = BTreeSet::new();
            let (mut committed, mut published) = (BTreeSet::new(), BTreeSet::new());
            let (mut next_id, mut next_transaction) = (1, 1);
            let mut relay = LowWatermark::default();
            let read = |relay: &mut LowWatermark, visible: &mut BTreeSet<i64>, published: &mut BTreeSet<i64>, limit: usize| {
                let rows: Vec<i64> = visible.range(relay.upto + 1..).take(limit).copied().collect();
                relay.have_read(&rows, rows.len() < limit);
                for id in &rows {
                    visible.remove(id);
                    published.insert(*id);
                }
                if !rows.is_empty() {
                    relay.have_deleted(rows.len());
                }
            };
            for step in steps {
                match step {
                    Step::Begin if open.len() < 4 => {
                        // The table is locked before the first id is assigned.
                        open.push(Writer { transaction: format!("3/{next_transaction}"), ids: Vec::new() });
                        next_transaction += 1;
                    }
                    Step::Insert(place) => if let Some(writer) = open.get_mut(place) {
                        writer.ids.push(next_id);
                        next_id += 1;
                    },
                    Step::Commit(place) if place < open.len() => {
                        let writer = open.remove(place);
                        visible.extend(&writer.ids);
                        committed.extend(writer.ids);
                    }
                    Step::RollBack(place) if place < open.len() => drop(open.remove(place)),
                    Step::Prepare(place) => if let Some(writer) = open.get_mut(place) {
                        writer.transaction = format!("{PREPARED}{next_transaction}");
                        next_transaction += 1;
                    },
                    Step::Ask => relay.hear(open.iter().map(|writer| writer.transaction.clone()).collect()),
                    Step::Relay(limit) => read(&mut relay, &mut visible, &mut published, limit),
                    // Another session begins at the value that the last one wrote.
                    Step::TakeOver => relay = LowWatermark::behind(relay.upto),
                    _ => {}
                }
            }
            for writer in open {
                visible.extend(&writer.ids);
                committed.extend(writer.ids);
            }
            for _ in 0..200 {
                read(&mut relay, &mut visible, &mut published, 3);
            }
            prop_assert_eq!(published, committed);
        }
    }

    #[test]
    fn reads_begin_behind_what_is_published_once_its_writers_are_gone() {
        let mut relay = LowWatermark::default();
        relay.have_read(&[1, 3], true);
        relay.have_deleted(2);
        assert_eq!(relay.upto, 0, "2 may still appear");
        relay.hear(vec!["3/7".to_owned()]);
        relay.hear(vec!["3/7".to_owned(), "4/1".to_owned()]);
        relay.have_read(&[], true);
        assert_eq!(relay.upto, 0, "its writer is still open");
        relay.hear(vec!["4/1".to_owned()]);
        relay.have_read(&[], true);
        assert_eq!(relay.upto, 3);
    }
}
