//! Ratios with their spread, beside what the peer showed and where we are going.

use serde::Serialize;

use super::measure::{Line, Sample};
use super::memory::Memory;
use super::ways::Way;

/// A run, as it is kept.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    rows: Vec<Row>,
    memory: Memory,
    samples: Vec<Sample>,
}

/// A line of the table.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    ambit: Spread,
    relay: Option<Spread>,
    peer: &'static str,
    goal: &'static str,
}

/// The median of the rounds, and the worst and the best of them.
#[derive(Debug, Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: at(values.len() / 2),
            least: at(0),
            most: at(values.len().saturating_sub(1)),
        }
    }

    fn shown(self) -> String {
        let digits = if self.median.abs() >= 20.0 { 0 } else { 2 };
        let Self {
            median,
            least,
            most,
        } = self;
        format!("{median:.digits$} ({least:.digits$}..{most:.digits$})")
    }
}

impl Report {
    pub(super) fn of(samples: Vec<Sample>, memory: Memory) -> Self {
        let rows = rows(&samples);
        Self {
            rows,
            memory,
            samples,
        }
    }

    pub(super) fn print(&self) {
        println!(
            "\n{:<46} {:<22} {:<22} {:<24} goal",
            "ratio to direct unless said; median (spread)", "ambit", "relay", "peer (its relay)"
        );
        for row in &self.rows {
            let relay = row.relay.map(Spread::shown).unwrap_or_default();
            let Row {
                name, peer, goal, ..
            } = row;
            println!(
                "{name:<46} {:<22} {relay:<22} {peer:<24} {goal}",
                row.ambit.shown()
            );
        }
        let Memory {
            idle_daemon,
            per_connection,
            per_pod,
            descriptors_per_pod,
        } = self.memory;
        let line = |name: &str, value: String, peer: &str, goal: &str| {
            println!("{name:<46} {value:<22} {:<22} {peer:<24} {goal}", "");
        };
        line(
            "idle daemon",
            format!("{:.1} MiB", idle_daemon / 1048576.0),
            "9-10 MiB",
            "8 MiB",
        );
        line(
            "per idle connection, in each daemon",
            format!("{:.1} KiB", per_connection / 1024.0),
            "5.3 KiB",
            "3.2 KiB",
        );
        line(
            "per enrolled pod",
            format!(
                "{:.0} KiB, {descriptors_per_pod:.1} descriptors",
                per_pod / 1024.0
            ),
            "78 KiB, 8 descriptors",
            "39 KiB, 4",
        );
    }
}

/// How a line of the table comes from the samples.
#[derive(Clone, Copy)]
enum Figure {
    /// Of direct, for Ambit and the relay.
    Speed(Line),
    /// CPU of Ambit's carriers, of the relay's.
    Cpu(Line),
    /// The slowest connection of the fastest.
    Fairness,
    /// Microseconds more than direct.
    AddedLatency,
}

/// Name, figure, what the peer showed, and our goal.
const TABLE: [(&str, Figure, &str, &str); 9] = [
    (
        "1 connection bulk, cross-node",
        Figure::Speed(Line::BulkCrossNode),
        "0.20-0.24 (0.39-0.42)",
        "0.32",
    ),
    (
        "1 connection bulk, same node",
        Figure::Speed(Line::BulkSameNode),
        "0.15-0.20 (0.34-0.38)",
        "0.50",
    ),
    (
        "64 connections bulk",
        Figure::Speed(Line::Bulk64),
        "0.18 (0.35)",
        "0.28",
    ),
    (
        "64 connections: slowest of fastest",
        Figure::Fairness,
        "0.03",
        "0.5",
    ),
    (
        "added p50 of 1 KB there and back, us",
        Figure::AddedLatency,
        "+293 (+169)",
        "+170",
    ),
    (
        "new connections/s, warm tunnel",
        Figure::Speed(Line::Connections),
        "0.18 (0.27)",
        "0.26",
    ),
    (
        "CPU per GB, of the relay's",
        Figure::Cpu(Line::BulkCrossNode),
        "2.6",
        "1.35",
    ),
    (
        "CPU per request, of the relay's",
        Figure::Cpu(Line::Requests),
        "1.9",
        "1.15",
    ),
    (
        "CPU per connection, of the relay's",
        Figure::Cpu(Line::Connections),
        "1.6",
        "1.0",
    ),
];

fn rows(samples: &[Sample]) -> Vec<Row> {
    TABLE
        .into_iter()
        .map(|(name, figure, peer, goal)| {
            let ambit = figure.of(samples, Way::Ambit);
            let relay = match figure {
                Figure::Cpu(_) => None,
                Figure::Speed(_) | Figure::Fairness | Figure::AddedLatency => {
                    Some(figure.of(samples, Way::Relay))
                }
            };
            Row {
                name,
                ambit,
                relay,
                peer,
                goal,
            }
        })
        .collect()
}

impl Figure {
    fn of(self, samples: &[Sample], way: Way) -> Spread {
        let ratio = |ours, theirs| ours / theirs;
        match self {
            Self::Speed(line) => per_round(samples, line, way, Way::Direct, |one| one.value, ratio),
            Self::Cpu(line) => per_round(samples, line, way, Way::Relay, |one| one.cpu_each, ratio),
            Self::AddedLatency => per_round(
                samples,
                Line::Requests,
                way,
                Way::Direct,
                |one| one.value,
                |ours, theirs| ours - theirs,
            ),
            Self::Fairness => {
                let of_way = samples
                    .iter()
                    .filter(|one| one.line == Line::Bulk64 && one.way == way);
                Spread::of(of_way.filter_map(|one| one.fairness).collect())
            }
        }
    }
}

/// Compares two ways within each round.
fn per_round(
    samples: &[Sample],
    line: Line,
    way: Way,
    against: Way,
    value: fn(&Sample) -> f64,
    compare: fn(f64, f64) -> f64,
) -> Spread {
    let find = |way: Way, round: u32| {
        samples
            .iter()
            .find(|one| one.line == line && one.way == way && one.round == round)
    };
    let rounds = samples
        .iter()
        .map(|one| one.round)
        .max()
        .map_or(0, |last| last + 1);
    let compared = (0..rounds).filter_map(|round| {
        Some(compare(
            value(find(way, round)?),
            value(find(against, round)?),
        ))
    });
    Spread::of(compared.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(way: Way, round: u32, value: f64) -> Sample {
        Sample {
            line: Line::Bulk64,
            way,
            round,
            value,
            fairness: None,
            cpu_each: 1.0,
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let samples = [
            sample(Way::Direct, 0, 100.0),
            sample(Way::Ambit, 0, 50.0),
            sample(Way::Ambit, 1, 10.0),
            sample(Way::Direct, 1, 40.0),
            sample(Way::Direct, 2, 10.0),
            sample(Way::Ambit, 2, 4.0),
        ];
        let ratio = per_round(
            &samples,
            Line::Bulk64,
            Way::Ambit,
            Way::Direct,
            |one| one.value,
            |ours, theirs| ours / theirs,
        );
        assert_eq!((ratio.median, ratio.least, ratio.most), (0.4, 0.25, 0.5));
    }
}
