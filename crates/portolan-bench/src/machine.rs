//! What machine it was, and how busy.

use std::collections::BTreeMap;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::place;

/// The part of the page without which no figure means anything.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) cpu: String,
    /// Processors that the benchmark may use.
    pub(crate) cpus: Vec<usize>,
    pub(crate) kernel: String,
    pub(crate) rustc: &'static str,
    pub(crate) profile: &'static str,
    pub(crate) niceness: i32,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) before: Business,
    pub(crate) after: Business,
}

/// How busy the machine is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Business {
    /// Over the last minute.
    pub(crate) load: f64,
    /// Since the machine started; time in which the host let others run.
    pub(crate) steal_ticks: u64,
}

impl Machine {
    pub(crate) fn look() -> std::io::Result<Self> {
        let before = Business::now();
        Ok(Self {
            date: date(SystemTime::now()),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            cpu: cpu(),
            cpus: place::usable_cpus()?,
            kernel: read("/proc/sys/kernel/osrelease"),
            rustc: env!("BENCH_RUSTC"),
            profile: env!("BENCH_PROFILE"),
            niceness: place::niceness()?,
            versions: versions(),
            rounds: 0,
            seconds: 0.0,
            after: before.clone(),
            before,
        })
    }
}

impl Business {
    pub(crate) fn now() -> Self {
        let first = |text: String, index| {
            text.lines()
                .next()
                .and_then(|line| line.split_whitespace().nth(index))
                .map(str::to_owned)
        };
        Self {
            load: first(read("/proc/loadavg"), 0)
                .and_then(|load| load.parse().ok())
                .unwrap_or(f64::NAN),
            // cpu user nice system idle iowait irq softirq steal
            steal_ticks: first(read("/proc/stat"), 8)
                .and_then(|ticks| ticks.parse().ok())
                .unwrap_or(0),
        }
    }
}

fn cpu() -> String {
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    model.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// An unreadable fact is an empty one.
fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}

fn versions() -> BTreeMap<String, String> {
    let peers = if cfg!(feature = "peers") {
        env!("BENCH_PEERS")
    } else {
        ""
    };
    let pairs = peers.split(',').filter_map(|pair| pair.split_once(' '));
    let portolan = ("portolan", env!("CARGO_PKG_VERSION"));
    pairs
        .chain([portolan])
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect()
}

/// The day, as in ISO 8601, in UTC.
fn date(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Days are counted from 1 March of year 0, so that a leap day is the last of its year.
    let days = since.as_secs() / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let day = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(951_782_399), "2000-02-28");
        assert_eq!(day(951_782_400), "2000-02-29");
        assert_eq!(day(1_798_761_599), "2026-12-31");
    }
}
