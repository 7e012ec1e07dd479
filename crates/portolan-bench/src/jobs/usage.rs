//! What processes take while they do nothing, and what many values are together.

use std::fs;
use std::io;

/// Of one process, or several together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Resident memory, as `VmRSS` in `/proc/PID/status`.
    pub(super) rss: u64,
    /// The same with what is shared counted in parts, as `Pss` in `/proc/PID/smaps_rollup`.
    pub(super) pss: u64,
    /// How often the processes went to sleep or were put aside, since they started; all threads.
    pub(super) switches: u64,
    pub(super) descriptors: u64,
}

impl Usage {
    /// Of processes, of which the descriptors of the last count.
    pub(super) fn of(pids: &[u32]) -> io::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            sum.rss += number(&status, "VmRSS:")? * 1024;
            sum.pss += number(&rollup, "Pss:")? * 1024;
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let status = fs::read_to_string(task?.path().join("status"))?;
                sum.switches += number(&status, "voluntary_ctxt_switches:")?;
                sum.switches += number(&status, "nonvoluntary_ctxt_switches:")?;
            }
            sum.descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        }
        Ok(sum)
    }
}

/// The number behind a word at the beginning of a line.
fn number(text: &str, word: &str) -> io::Result<u64> {
    let found = text.lines().find_map(|line| {
        let number = line.strip_prefix(word)?.split_whitespace().next()?;
        number.parse().ok()
    });
    found.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The middle and the 99th percentile of some times, in nanoseconds.
pub(super) fn middle_and_99th(times: &mut [u64]) -> (f64, f64) {
    times.sort_unstable();
    let at = |percent: usize| {
        let index = times.len() * percent / 100;
        times.get(index).copied().unwrap_or(0) as f64
    };
    (at(50), at(99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_descriptors() {
        let usage = Usage::of(&[std::process::id()]).expect("its own");
        assert!(usage.rss > 1 << 19 && usage.pss > 0, "{usage:?}");
        assert!(usage.descriptors > 2, "{usage:?}");
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let mut times: Vec<u64> = (0..200).rev().collect();
        assert_eq!(middle_and_99th(&mut times), (100.0, 198.0));
        assert_eq!(middle_and_99th(&mut []), (0.0, 0.0));
    }
}
