//! The chart of a back-test: completion rate and cost over `target_rides`, as SVG.

use std::fmt::Write as _;

use super::report::{Report, Row};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 96.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 56.0;

const RATE_COLOUR: &str = "#1f6feb";
const COST_COLOUR: &str = "#b35900";

/// The number of intervals on each axis.
const INTERVALS: u32 = 5;

/// The most targets that are written below the axis.
const MAX_LABELS: usize = 12;

/// A chart of the report's targets: the completion rate on the left axis, and the cost on the right
/// one if a reward's amount is given. It has a white background, so that it is readable on any
/// page.
pub fn svg(report: &Report) -> String {
    let rows = &report.targets;
    let chart = Chart::of(rows);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Completion rate and cost over target_rides\" font-family=\"system-ui, sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n"
    );
    svg.push_str(&text(LEFT, 28.0, "start", RATE_COLOUR, "completion rate"));
    if chart.max_cost > 0.0 {
        let label = format!("cost, {}", report.conditions.currency_code);
        svg.push_str(&text(WIDTH - RIGHT, 28.0, "end", COST_COLOUR, &label));
    }
    for interval in 0..=INTERVALS {
        let share = f64::from(interval) / f64::from(INTERVALS);
        let y = chart.y(share);
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>",
            WIDTH - RIGHT
        );
        let rate = format!("{:.0}%", share * chart.max_rate * 100.0);
        svg.push_str(&text(LEFT - 8.0, y + 4.0, "end", RATE_COLOUR, &rate));
        if chart.max_cost > 0.0 {
            let cost = money(share * chart.max_cost);
            svg.push_str(&text(
                WIDTH - RIGHT + 8.0,
                y + 4.0,
                "start",
                COST_COLOUR,
                &cost,
            ));
        }
    }
    for row in rows.iter().step_by(rows.len().div_ceil(MAX_LABELS).max(1)) {
        let target = row.target_rides.to_string();
        svg.push_str(&text(
            chart.x(row),
            HEIGHT - BOTTOM + 20.0,
            "middle",
            "#333333",
            &target,
        ));
    }
    svg.push_str(&text(
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 14.0,
        "middle",
        "#333333",
        "target_rides",
    ));
    svg.push_str(&chart.curve(rows, RATE_COLOUR, |row| row.rate() / chart.max_rate));
    if chart.max_cost > 0.0 {
        svg.push_str(&chart.curve(rows, COST_COLOUR, |row| units(row) / chart.max_cost));
    }
    svg.push_str("</svg>\n");
    svg
}

/// The scales.
struct Chart {
    first_target: f64,
    targets: f64,
    /// The top of the left axis, a multiple of a tenth.
    max_rate: f64,
    /// The top of the right axis in the currency's unit; 0 without a cost.
    max_cost: f64,
}

impl Chart {
    fn of(rows: &[Row]) -> Self {
        let target = |row: Option<&Row>| row.map_or(0.0, |row| f64::from(row.target_rides));
        let max_rate = rows.iter().map(Row::rate).fold(0.0, f64::max);
        let max_cost = rows.iter().map(units).fold(0.0, f64::max);
        Self {
            first_target: target(rows.first()),
            targets: (target(rows.last()) - target(rows.first())).max(1.0),
            max_rate: ((max_rate * 10.0).ceil() / 10.0).max(0.1),
            max_cost: round_up(max_cost),
        }
    }

    fn x(&self, row: &Row) -> f64 {
        let share = (f64::from(row.target_rides) - self.first_target) / self.targets;
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, share: f64) -> f64 {
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    /// A line through every target, with a dot that shows the value of each.
    fn curve(&self, rows: &[Row], colour: &str, share: impl Fn(&Row) -> f64) -> String {
        let points: Vec<(f64, f64)> = rows
            .iter()
            .map(|row| (self.x(row), self.y(share(row))))
            .collect();
        let path: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let mut svg = format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
            path.join(" ")
        );
        for ((x, y), row) in points.iter().zip(rows) {
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{} rides: {} of {} clients complete</title></circle>",
                row.target_rides, row.completed, row.clients
            );
        }
        svg
    }
}

fn text(x: f64, y: f64, anchor: &str, colour: &str, text: &str) -> String {
    // Every text is a number, a currency code or a word of this file, so nothing needs escaping.
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>\n"
    )
}

/// The cost in the currency's unit; 0 if no amount is given.
fn units(row: &Row) -> f64 {
    row.cost_cents.map_or(0.0, |cents| cents as f64 / 100.0)
}

/// The next number that is 1, 2 or 5 times a power of ten.
fn round_up(number: f64) -> f64 {
    if number <= 0.0 {
        return 0.0;
    }
    let power = 10_f64.powf(number.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|rounded| *rounded >= number)
        .unwrap_or(number)
}

/// Shortens thousands and millions: `1.5M`.
fn money(units: f64) -> String {
    if units >= 1e6 {
        format!("{:.1}M", units / 1e6)
    } else if units >= 1e4 {
        format!("{:.0}k", units / 1e3)
    } else {
        format!("{units:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number() {
        for (number, rounded) in [
            (0.0, 0.0),
            (1.0, 1.0),
            (1.1, 2.0),
            (3_400.0, 5_000.0),
            (51.0, 100.0),
        ] {
            assert!((round_up(number) - rounded).abs() < 1e-6, "{number}");
        }
    }

    #[test]
    fn money_is_short() {
        assert_eq!(money(950.0), "950");
        assert_eq!(money(25_000.0), "25k");
        assert_eq!(money(2_000_000.0), "2.0M");
    }
}
