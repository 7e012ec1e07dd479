//! What is printed: medians over the rounds, as tables and as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::cell::{Action, Policy, Sample, Task, Workload};
use crate::machine::Machine;
use crate::peer::Peer;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    cells: Vec<Row>,
}

/// One peer in one variant. A figure is the median over the rounds; `best_*` is the best of them.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    workload: Workload,
    variant: String,
    peer: Peer,
    policy: Option<Policy>,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
    per_s: Option<f64>,
    cpu_s_per_100k: Option<f64>,
    /// Of [`Figure::of`], to the raw socket of the same round.
    ratio_to_seqpacket: Option<f64>,
    best_p50_ns: Option<u64>,
    best_per_s: Option<f64>,
    /// All processes together, over the idle seconds.
    idle_cpu_s: Option<f64>,
    bytes_per_channel: Option<f64>,
    descriptors_per_channel: Option<f64>,
    rounds: usize,
    status: Status,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Status {
    Measured,
    /// What is not there.
    Missing(String),
    /// Why.
    Failed(String),
}

/// What a workload is judged by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Figure {
    Time,
    Rate,
    Cpu,
    None,
}

impl Figure {
    fn of(task: &Task) -> Self {
        match (task.workload, task.action) {
            (_, Action::Idle) => Self::None,
            (Workload::W3 | Workload::W4, _) => Self::Rate,
            (Workload::W7, _) => Self::Cpu,
            _ => Self::Time,
        }
    }

    fn read(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Time => sample.p50_ns.map(|time| time as f64),
            Self::Rate => sample.per_second(),
            Self::Cpu => sample.cpu_seconds_per_100k(),
            Self::None => None,
        }
    }
}

impl Row {
    /// `rounds` has the outcome of each round, and the raw socket's of the same.
    pub(crate) fn new(
        task: &Task,
        (peer, policy): (Peer, Option<Policy>),
        rounds: Vec<(Result<Sample, Status>, Option<Sample>)>,
    ) -> Self {
        let figure = Figure::of(task);
        let failure = rounds.iter().find_map(|(outcome, _)| outcome.clone().err());
        let good: Vec<(&Sample, Option<&Sample>)> = rounds
            .iter()
            .filter_map(|(outcome, socket)| Some((outcome.as_ref().ok()?, socket.as_ref())))
            .collect();
        let all = |read: &dyn Fn(&Sample) -> Option<f64>| -> Vec<f64> {
            good.iter().filter_map(|(sample, _)| read(sample)).collect()
        };
        let times = |read: &dyn Fn(&Sample) -> Option<u64>| -> Vec<f64> {
            all(&|sample| read(sample).map(|time| time as f64))
        };
        let p50s = times(&|sample| sample.p50_ns);
        let rates = all(&Sample::per_second);
        let ratios = good.iter().filter_map(|(sample, socket)| {
            let ratio = figure.read(sample)? / figure.read((*socket)?)?;
            ratio.is_finite().then_some(ratio)
        });
        Self {
            workload: task.workload,
            variant: task.variant.clone(),
            peer,
            policy,
            best_p50_ns: p50s.iter().copied().min_by(f64::total_cmp).map(whole),
            p50_ns: median(p50s).map(whole),
            p99_ns: median(times(&|sample| sample.p99_ns)).map(whole),
            per_s: median(rates.clone()),
            cpu_s_per_100k: median(all(&Sample::cpu_seconds_per_100k)),
            ratio_to_seqpacket: median(ratios.collect()),
            best_per_s: rates.into_iter().max_by(f64::total_cmp),
            idle_cpu_s: median(all(&|sample| {
                (task.action == Action::Idle).then_some(sample.cpu_ns as f64 / 1e9)
            })),
            bytes_per_channel: median(all(&|sample| sample.bytes_per_channel)),
            descriptors_per_channel: median(all(&|sample| sample.descriptors_per_channel)),
            rounds: good.len(),
            status: failure.unwrap_or(Status::Measured),
        }
    }

    fn who(&self) -> String {
        let policy = self.policy.and_then(|policy| {
            let value = serde_json::to_value(policy).ok()?;
            Some(format!(" ({})", value.as_str()?))
        });
        self.peer.name() + &policy.unwrap_or_default()
    }
}

impl Report {
    pub(crate) fn new(machine: Machine, cells: Vec<Row>) -> Self {
        Self { machine, cells }
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = self.head();
        for rows in self.cells.chunk_by(|a, b| a.workload == b.workload) {
            let Some(first) = rows.first() else { continue };
            let title = first.workload.title();
            text += &format!("\n## {}: {title}\n", first.workload);
            let same = |a: &Row, b: &Row| a.idle_cpu_s.is_some() == b.idle_cpu_s.is_some();
            for rows in rows.chunk_by(same) {
                text += &table(rows);
            }
        }
        text
    }

    fn head(&self) -> String {
        machine_table(&self.machine) + NOTES
    }
}

/// What machine it was, how busy, and what was run.
pub(crate) fn machine_table(machine: &Machine) -> String {
    let versions: Vec<String> = machine
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let facts = [
        ("date", machine.date.clone()),
        ("command", format!("`{}`", machine.command)),
        (
            "processor",
            format!("{}, usable: {:?}", machine.cpu, machine.cpus),
        ),
        ("kernel", machine.kernel.clone()),
        (
            "compiler",
            format!("{}, {} build", machine.rustc, machine.profile),
        ),
        ("versions", versions.join(", ")),
        (
            "rounds",
            format!(
                "{}, in {:.0} s at niceness {}",
                machine.rounds, machine.seconds, machine.niceness
            ),
        ),
        (
            "load before, after",
            format!("{:.2}, {:.2}", machine.before.load, machine.after.load),
        ),
        (
            "ticks stolen by the host",
            machine
                .after
                .steal_ticks
                .saturating_sub(machine.before.steal_ticks)
                .to_string(),
        ),
    ];
    let mut text = "| machine | |\n| --- | --- |\n".to_owned();
    for (name, value) in facts {
        text += &format!("| {name} | {value} |\n");
    }
    text
}

const NOTES: &str = "
Figures are medians over the rounds, \"best\" the best round. The ratio is that to seqpacket in the
same round (median over the rounds): of times in W1, W2, W5, W6 and W8, of CPU time in W7 (below 1
is better than the socket), and of rates in W3 and W4 (above 1 is better). The limits are threads
of one process, everything else is processes of its own.
";

fn table(rows: &[Row]) -> String {
    let is_idle = rows.iter().any(|row| row.idle_cpu_s.is_some());
    let has_channels = rows.iter().any(|row| row.bytes_per_channel.is_some());
    let mut columns: Vec<Column> = vec![
        ("variant", &|row| Some(row.variant.clone())),
        ("peer", &|row| Some(row.who())),
    ];
    if is_idle {
        columns.push(("CPU while idle", &|row| {
            row.idle_cpu_s.map(|s| time(s * 1e9))
        }));
    } else {
        columns.push(("ratio", &|row| row.ratio_to_seqpacket.map(significant)));
        columns.push(("p50", &|row| row.p50_ns.map(|t| time(t as f64))));
        columns.push(("best p50", &|row| row.best_p50_ns.map(|t| time(t as f64))));
        columns.push(("p99", &|row| row.p99_ns.map(|t| time(t as f64))));
        columns.push(("per second", &|row| row.per_s.map(rate)));
        columns.push(("best", &|row| row.best_per_s.map(rate)));
        columns.push(("CPU per 100,000", &|row| {
            row.cpu_s_per_100k.map(|s| format!("{} s", significant(s)))
        }));
    }
    if has_channels {
        columns.push(("bytes per idle channel", &|row| {
            row.bytes_per_channel.map(significant)
        }));
        columns.push(("descriptors", &|row| {
            row.descriptors_per_channel.map(significant)
        }));
    }
    let mut text = line(columns.iter().map(|(name, _)| (*name).to_owned()));
    text += &line(columns.iter().map(|_| "---".to_owned()));
    for row in rows {
        text += &line(columns.iter().enumerate().map(|(index, (_, read))| {
            match (&row.status, index) {
                (Status::Missing(what), 2) => format!("missing: {what}"),
                (Status::Failed(why), 2) if row.rounds == 0 => format!("failed: {why}"),
                _ => read(row).unwrap_or_else(|| "—".to_owned()),
            }
        }));
    }
    format!("\n{text}")
}

/// A heading and how to read the figure below it.
type Column = (&'static str, &'static dyn Fn(&Row) -> Option<String>);

pub(crate) fn line(cells: impl Iterator<Item = String>) -> String {
    let mut text = String::from("|");
    for cell in cells {
        // Writing to a string cannot fail.
        write!(text, " {} |", cell.replace('|', "/")).ok();
    }
    text + "\n"
}

pub(crate) fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ..1e3 => format!("{nanoseconds:.0} ns"),
        ..1e6 => format!("{} µs", significant(nanoseconds / 1e3)),
        ..1e9 => format!("{} ms", significant(nanoseconds / 1e6)),
        _ => format!("{} s", significant(nanoseconds / 1e9)),
    }
}

pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        ..1e4 => format!("{per_second:.0}"),
        ..1e6 => format!("{} k", significant(per_second / 1e3)),
        _ => format!("{} M", significant(per_second / 1e6)),
    }
}

/// Three digits that matter.
pub(crate) fn significant(value: f64) -> String {
    let digits = value.abs().log10().floor();
    if value == 0.0 || !digits.is_finite() {
        return "0".to_owned();
    }
    let places = (2.0 - digits).clamp(0.0, 6.0) as usize;
    format!("{value:.places$}")
}

fn whole(nanoseconds: f64) -> u64 {
    nanoseconds.round() as u64
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(*values.get(low)?, *values.get(high)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(time(117.4), "117 ns");
        assert_eq!(time(14_230.0), "14.2 µs");
        assert_eq!(rate(46_620_000.0), "46.6 M");
        assert_eq!(significant(0.0344), "0.0344");
        assert_eq!(significant(1184.0), "1184");
    }
}
