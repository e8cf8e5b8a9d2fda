//! Where the relay begins to read the outbox.

use std::time::{Duration, Instant};

/// Up to which id everything is published and deleted, for good: reads begin behind it. Deleted rows
/// stay in the index for as long as any transaction could see them, and without a bound each read
/// would pass over all that were deleted since a `pg_dump` began.
///
/// Ids are given out in order and become visible out of order, so an id that was read does not show
/// that those before it are there. But a transaction has locked the table before it is given an id,
/// and keeps that lock until it is visible. So: an id is known (`undecided.upto`); then the
/// transactions that hold the lock are noted; once all of these have ended, a read that begins after
/// that sees whatever is left up to that id, and nothing more can come.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Reads begin behind this.
    pub(super) upto: i64,
    /// What others were told of it, in `relay_shard`.
    pub(super) told: i64,
    /// Up to here no transaction can commit an event any more.
    decided: i64,
    /// The next to be decided, and the transactions that must end before.
    undecided: Option<Undecided>,
    /// The largest id that was read.
    newest: i64,
    /// Where `upto` will be when what was read last is deleted, and how many that were.
    next: i64,
    read: usize,
    /// When it was last asked who writes.
    pub(super) asked: Option<Instant>,
}

#[derive(Debug)]
struct Undecided {
    upto: i64,
    writers: Vec<String>,
}

impl Published {
    /// Whether to ask who writes, so that reads can begin further behind.
    pub(super) fn is_due(&self, interval: Duration) -> bool {
        self.asked.is_none_or(|asked| asked.elapsed() >= interval)
            && (self.undecided.is_some() || self.newest > self.decided)
    }

    /// Takes note of who writes to the outbox now, by their virtual transaction ids.
    pub(super) fn hear(&mut self, writers: Vec<String>) {
        if let Some(waiting) = &self.undecided {
            // One that was prepared meanwhile has another id now.
            let may_come =
                |writer: &String| waiting.writers.contains(writer) || writer.starts_with(PREPARED);
            if writers.iter().any(may_come) {
                return;
            }
            self.decided = waiting.upto;
        }
        self.undecided = (self.newest > self.decided).then_some(Undecided {
            upto: self.newest,
            writers,
        });
        // Nobody writes: what is known is decided at once.
        if let Some(waiting) = self.undecided.take_if(|waiting| waiting.writers.is_empty()) {
            self.decided = waiting.upto;
        }
    }

    /// A session begins to read behind this.
    pub(super) fn behind(upto: i64) -> Self {
        Self {
            upto,
            told: upto,
            decided: upto,
            ..Self::default()
        }
    }

    /// The ids that a read which began after the last [`Published::hear`] found, in order.
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

    /// So many of the rows read last are deleted.
    pub(super) fn have_deleted(&mut self, rows: usize) {
        if rows == self.read {
            self.upto = self.upto.max(self.next);
        }
    }
}

/// How the virtual transaction id of a prepared transaction begins.
const PREPARED: &str = "-1/";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What writers and the relay can do next; a writer is chosen by its place among the open ones.
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
            let mut relay = Published::default();
            let read = |relay: &mut Published, visible: &mut BTreeSet<i64>, published: &mut BTreeSet<i64>, limit: usize| {
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
                        // The table is locked before the first id is given out.
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
                    // Another session begins from what the last one told.
                    Step::TakeOver => relay = Published::behind(relay.upto),
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
        let mut relay = Published::default();
        relay.have_read(&[1, 3], true);
        relay.have_deleted(2);
        assert_eq!(relay.upto, 0, "2 may still come");
        relay.hear(vec!["3/7".to_owned()]);
        relay.hear(vec!["3/7".to_owned(), "4/1".to_owned()]);
        relay.have_read(&[], true);
        assert_eq!(relay.upto, 0, "its writer is there");
        relay.hear(vec!["4/1".to_owned()]);
        relay.have_read(&[], true);
        assert_eq!(relay.upto, 3);
    }
}
