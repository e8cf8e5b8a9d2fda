//! The result of an import, as JSON and as a table for a terminal.

use std::fmt::Write as _;

use serde::Serialize;

/// The most rejections that a report lists.
pub const MAX_REJECTIONS: usize = 1_000;

/// The reason listed for a line that was imported without a promotion, because its
/// `promotion_key` names none.
pub const UNKNOWN_PROMOTION_KEY: &str = "UNKNOWN_PROMOTION_KEY";

/// How many lines had which result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ImportCounts {
    /// All lines, except a header and empty ones.
    pub read: u64,
    /// New pre-offers.
    pub imported: u64,
    /// Known pre-offers that changed, or whose promotion was created since.
    pub updated: u64,
    /// Known pre-offers without a change.
    pub unchanged: u64,
    /// Those of the three above that have no promotion.
    pub without_promotion: u64,
    /// Invalid lines, which changed nothing.
    pub rejected: u64,
}

/// The result of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ImportReport {
    /// How many lines had which result.
    #[serde(flatten)]
    pub counts: ImportCounts,
    /// The first 1,000 lines that were rejected or name an unknown promotion.
    pub rejections: Vec<Rejection>,
    /// `true` if the import was only tried and nothing was changed; otherwise left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false, example = true)]
    pub dry_run: bool,
}

/// An entry of the report: a line, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Rejection {
    /// Counted from 1, including a CSV's header. For a record with several lines, its first.
    #[schema(example = 17)]
    pub line: u64,
    /// The field; `null` for the line as a whole.
    #[schema(required, example = "amount_cents")]
    pub field: Option<String>,
    /// What was expected and what it was, or `UNKNOWN_PROMOTION_KEY`.
    #[schema(example = "must be at least 1, got 0")]
    pub reason: String,
    /// Whether the line was imported nevertheless: `true` only for `UNKNOWN_PROMOTION_KEY`, whose pre-offer
    /// was stored without a promotion.
    pub imported: bool,
}

impl ImportReport {
    /// The report for a terminal: a line for each count, then the entries.
    pub fn table(&self) -> String {
        let counts = &self.counts;
        let mut table = String::new();
        for (name, count) in [
            ("read", counts.read),
            ("imported", counts.imported),
            ("updated", counts.updated),
            ("unchanged", counts.unchanged),
            ("without promotion", counts.without_promotion),
            ("rejected", counts.rejected),
        ] {
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{name:<18}{count:>12}");
        }
        if self.dry_run {
            let _ = writeln!(table, "dry run: nothing was changed");
        }
        if self.rejections.is_empty() {
            return table;
        }
        let _ = writeln!(
            table,
            "\n{:>10}  {:<9}  {:<15}  REASON",
            "LINE", "RESULT", "FIELD"
        );
        for rejection in &self.rejections {
            let (result, reason) = if rejection.imported {
                ("imported", "without a promotion: no promotion has this key")
            } else {
                ("rejected", rejection.reason.as_str())
            };
            let _ = writeln!(
                table,
                "{:>10}  {result:<9}  {:<15}  {reason}",
                rejection.line,
                rejection.field.as_deref().unwrap_or("-"),
            );
        }
        let left_out = (counts.rejected as usize)
            .saturating_sub(self.rejections.iter().filter(|one| !one.imported).count());
        if left_out > 0 {
            let _ = writeln!(table, "{left_out} more rejected lines are not listed");
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_which_lines_were_imported_all_the_same() {
        let report = ImportReport {
            counts: ImportCounts {
                read: 5,
                imported: 2,
                without_promotion: 1,
                rejected: 3,
                ..ImportCounts::default()
            },
            rejections: vec![
                Rejection {
                    line: 2,
                    field: Some("promotion_key".into()),
                    reason: UNKNOWN_PROMOTION_KEY.into(),
                    imported: true,
                },
                Rejection {
                    line: 17,
                    field: None,
                    reason: "must be UTF-8".into(),
                    imported: false,
                },
            ],
            dry_run: false,
        };
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "read                         5");
        assert_eq!(
            lines[7..],
            [
                "      LINE  RESULT     FIELD            REASON",
                "         2  imported   promotion_key    without a promotion: no promotion has this key",
                "        17  rejected   -                must be UTF-8",
                "2 more rejected lines are not listed",
            ]
        );
        let none = ImportReport::default().table();
        assert_eq!(none.lines().count(), 6);
        let tried = ImportReport {
            dry_run: true,
            ..ImportReport::default()
        };
        assert!(tried.table().ends_with("\ndry run: nothing was changed\n"));
    }
}
