//! Medians and ratios, as tables for the terminal and in Markdown, and as a picture.

use std::fmt::Write;

use crate::measure::Sample;
use crate::scenarios::{Bound, Goal, Measure, Scenario};

/// Everything that was measured of one contestant at so many connections: a sample a round.
pub struct Row {
    pub scenario: &'static str,
    pub contestant: &'static str,
    pub connections: u32,
    pub samples: Vec<Sample>,
}

/// One of the things that have to hold, and what came out.
pub struct Check {
    pub what: String,
    pub found: String,
    /// The same ratio of processor time, the service's and PostgreSQL's: next to nothing else
    /// disturbs it.
    pub by_cpu: Option<f64>,
    pub goal: String,
    pub met: Option<bool>,
}

pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    quartiles(values).map(|[_, median, _]| median)
}

/// Half of the values lie between the first and the last of these, and half below the one in the
/// middle.
fn quartiles(values: impl Iterator<Item = f64>) -> Option<[f64; 3]> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    // In quarters of the way from one value to the next.
    Some([1, 2, 3].map(|quarters| {
        let (place, rest) = (last * quarters / 4, last * quarters % 4);
        let next = values[(place + 1).min(last)];
        values[place] + (next - values[place]) * rest as f64 / 4.0
    }))
}

impl Row {
    fn median(&self, value: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        median(self.samples.iter().filter_map(value))
    }

    pub fn rate(&self) -> Option<f64> {
        self.median(|sample| Some(sample.rate))
    }

    /// Microseconds a request, of the program and of PostgreSQL together.
    fn cpu(&self) -> Option<f64> {
        self.median(|sample| {
            let parts = [sample.program_cpu, sample.postgres_cpu];
            Some(parts.into_iter().flatten().sum()).filter(|sum| *sum > 0.0)
        })
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.scenario.to_owned(),
            self.contestant.to_owned(),
            self.connections.to_string(),
            number(self.rate()),
            number(self.median(|sample| sample.p50)),
            number(self.median(|sample| sample.p99)),
            number(self.median(|sample| sample.program_cpu)),
            number(self.median(|sample| sample.postgres_cpu)),
            number(self.median(|sample| sample.program_memory)),
            number(self.median(|sample| sample.postgres_memory)),
        ]
    }
}

const MEASURED: [&str; 10] = [
    "scenario",
    "what",
    "connections",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "CPU us",
    "CPU us PostgreSQL",
    "MB",
    "MB PostgreSQL",
];
const CHECKED: [&str; 5] = ["what", "found", "by CPU", "goal", "met"];

/// Three digits, or all before the point.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 1_000.0 => {
            let whole = format!("{value:.0}");
            let (head, tail) = whole.split_at(whole.len() - 3);
            format!("{head},{tail}")
        }
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// What the goals of a scenario came to, at each number of connections that was measured.
pub fn checks(scenario: &Scenario, rows: &[Row]) -> Vec<Check> {
    let of_scenario: Vec<&Row> = rows.iter().filter(|row| row.scenario == scenario.name).collect();
    let find = |name: &str, connections: u32| {
        of_scenario.iter().find(|row| row.contestant == name && row.connections == connections)
    };
    let mut checks = Vec::new();
    for goal in scenario.goals {
        for &connections in scenario.connections {
            let Some(of) = find(goal.of, connections) else { continue };
            let found =
                match goal.against {
                    None => quartiles(of.samples.iter().filter_map(|sample| value(goal, sample))),
                    // Round by round, so that what disturbs a round disturbs both.
                    Some(against) => find(against, connections).and_then(|against| {
                        let pairs = of.samples.iter().zip(&against.samples);
                        quartiles(pairs.filter_map(|(of, against)| {
                            Some(value(goal, of)? / value(goal, against)?)
                        }))
                    }),
                };
            let Some([low, value, high]) = found else { continue };
            let measure = if goal.measure == Measure::P99 { ", p99" } else { "" };
            let against = goal.against.map(|against| format!(" / {against}")).unwrap_or_default();
            let unit = if goal.against.is_none() { " ms" } else { "" };
            let (bound, met) = match goal.bound {
                Bound::AtLeast(bound) => (format!("at least {bound}"), Some(value >= bound)),
                Bound::AtMost(bound) => (format!("at most {bound}{unit}"), Some(value <= bound)),
                Bound::None => (String::new(), None),
            };
            let is_asked = goal.at.contains(&connections);
            checks.push(Check {
                what: format!("{}{against}{measure}, {}", goal.of, connections_of(connections)),
                found: format!("{value:.2}{unit} ({low:.2} to {high:.2})"),
                goal: if is_asked { bound } else { String::new() },
                met: met.filter(|_| is_asked),
                by_cpu: goal
                    .against
                    .filter(|_| goal.measure == Measure::Rate)
                    .and_then(|against| Some(find(against, connections)?.cpu()? / of.cpu()?)),
            });
        }
    }
    checks
}

fn connections_of(number: u32) -> String {
    format!("{number} connection{}", if number == 1 { "" } else { "s" })
}

fn value(goal: &Goal, sample: &Sample) -> Option<f64> {
    match goal.measure {
        Measure::Rate => Some(sample.rate),
        Measure::P99 => sample.p99,
    }
}

impl Check {
    fn cells(&self) -> Vec<String> {
        let by_cpu = self.by_cpu.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        vec![self.what.clone(), self.found.clone(), by_cpu, self.goal.clone(), met.to_owned()]
    }
}

/// Both tables, with columns of equal width: good for a terminal, and Markdown.
pub fn tables(rows: &[Row], checks: &[Check]) -> String {
    let measured = rows.iter().map(Row::cells).collect();
    let checked = checks.iter().map(Check::cells).collect();
    format!("{}\n{}", table(&MEASURED, measured, 2), table(&CHECKED, checked, 5))
}

/// The first `texts` columns are aligned to the left.
fn table(head: &[&str], body: Vec<Vec<String>>, texts: usize) -> String {
    if body.is_empty() {
        return String::new();
    }
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            let _ = if column < texts {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, &width) in widths.iter().enumerate() {
                let rule = "-".repeat(width + 1);
                let _ = write!(text, "|{rule}{}", if column < texts { '-' } else { ':' });
            }
            text.push_str("|\n");
        }
    }
    text
}

/// Bars of answers a second: a group for each scenario and number of connections, the longest bar
/// of a group as long as the longest of any other.
pub fn picture(rows: &[Row], title: &str) -> String {
    const BAR: f64 = 420.0;
    const LINE: usize = 18;
    let mut body = String::new();
    let mut y = 46;
    for group in rows.chunk_by(|one, other| {
        (one.scenario, one.connections) == (other.scenario, other.connections)
    }) {
        let (scenario, connections) = (group[0].scenario, group[0].connections);
        let connections = connections_of(connections);
        y += 10;
        let _ = writeln!(
            body,
            r#"<text x="10" y="{y}" font-weight="bold">{scenario}, {connections}</text>"#
        );
        y += LINE;
        let longest = group.iter().filter_map(Row::rate).fold(f64::MIN_POSITIVE, f64::max);
        for row in group {
            let Some(rate) = row.rate() else { continue };
            let (length, bar) = (rate / longest * BAR, y - 10);
            let color = if row.contestant.starts_with("floor") { "#b8b8b8" } else { "#2f6db5" };
            let latency = row
                .median(|sample| sample.p99)
                .map(|p99| format!(", p99 {} ms", number(Some(p99))));
            let _ = writeln!(
                body,
                r##"<text x="240" y="{y}" text-anchor="end">{}</text><rect x="250" y="{bar}" width="{length:.0}" height="12" fill="{color}"/><text x="{:.0}" y="{y}" fill="#555">{}/s{}</text>"##,
                row.contestant,
                256.0 + length,
                number(Some(rate)),
                latency.unwrap_or_default(),
            );
            y += LINE;
        }
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="1040" height="{y}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<text x="10" y="24" font-size="15">Answers a second: Doorward (blue) and the floor (grey)</text>
<text x="10" y="42" fill="#555">{title}</text>
{body}</svg>
"##
    )
}
