//! The measured part, in the client: back to back, with one look at the clock for each message.

use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::cell::{Action, Cell, Sample};
use crate::payload::Source;
use crate::peer::Client;
use crate::place;

/// Warms the client up, calls `begin`, and measures.
pub(crate) fn run(
    client: &mut dyn Client,
    cell: &Cell,
    mut begin: impl FnMut(),
) -> anyhow::Result<Sample> {
    let mut run = Run {
        client,
        action: cell.task.action,
        length: cell.task.bytes,
        source: Source::new(u64::from(std::process::id()) << 32),
    };
    if run.action == Action::Find {
        run.client.prepare_to_find()?;
    }
    let warm_up = Duration::from_millis(50).min(cell.budget / 2);
    if run.action == Action::Stream {
        run.stream(warm_up, 2000)?;
    } else {
        run.round_trips(&mut Vec::new(), warm_up, 1..=2000)?;
    }
    let mut times = room_for_times(cell);
    begin();
    let cpu = place::own_cpu_ns();
    let mut sample = match run.action {
        Action::Stream => run.stream(cell.budget, u64::MAX)?,
        Action::Idle => {
            thread::sleep(cell.budget);
            Sample::default()
        }
        _ => run.round_trips(&mut times, cell.budget, FEWEST..=u64::MAX)?,
    };
    sample.cpu_ns = place::own_cpu_ns() - cpu;
    sample.p50_ns = percentile(&mut times, 50);
    sample.p99_ns = percentile(&mut times, 99);
    Ok(sample)
}

struct Run<'a> {
    client: &'a mut dyn Client,
    action: Action,
    length: usize,
    source: Source,
}

impl Run<'_> {
    /// Each round trip takes some nanoseconds of `times`, until it is full or time is up.
    fn round_trips(
        &mut self,
        times: &mut Vec<u32>,
        budget: Duration,
        number: RangeInclusive<u64>,
    ) -> anyhow::Result<Sample> {
        let start = Instant::now();
        let (mut last, mut count) = (start, 0);
        while count < *number.end() && (last - start < budget || count < *number.start()) {
            let (answered, next) = self.once()?;
            let took = u32::try_from((answered - last).as_nanos()).unwrap_or(u32::MAX);
            if times.len() < times.capacity() {
                times.push(took);
            }
            last = next;
            count += 1;
        }
        Ok(Sample {
            count,
            elapsed_ns: nanoseconds(last - start),
            ..Sample::default()
        })
    }

    /// One round trip: when the answer was there, and when the next may start.
    fn once(&mut self) -> anyhow::Result<(Instant, Instant)> {
        let before = self.source.total();
        let (source, length) = (&mut self.source, self.length);
        let mut found = None;
        let sum = match self.action {
            Action::PassRight => self.client.pass_right(source, length)?,
            Action::Find => {
                let found = found.insert(self.client.find()?);
                found.round_trip(source, length)?
            }
            _ => self.client.round_trip(source, length)?,
        };
        let answered = Instant::now();
        let expected = self.source.total().wrapping_sub(before);
        ensure!(sum == expected, "the answer is wrong");
        if found.take().is_some() {
            // Neither hanging up nor what comes before the next search is measured.
            self.client.prepare_to_find()?;
            return Ok((answered, Instant::now()));
        }
        Ok((answered, answered))
    }

    fn stream(&mut self, budget: Duration, most: u64) -> anyhow::Result<Sample> {
        /// Messages between two looks at the clock.
        const STRIDE: u64 = 32;
        let before = self.source.total();
        let start = Instant::now();
        let mut count = 0;
        while count < most && start.elapsed() < budget {
            self.client
                .send_many(&mut self.source, self.length, STRIDE)?;
            count += STRIDE;
        }
        let total = self.client.total()?;
        let elapsed = start.elapsed();
        let expected = self.source.total().wrapping_sub(before);
        ensure!(total == expected, "the server has not received all");
        Ok(Sample {
            count,
            elapsed_ns: nanoseconds(elapsed),
            ..Sample::default()
        })
    }
}

/// However long a round trip takes, there are as many.
const FEWEST: u64 = 5;

/// Room that is in memory already, so that writing to it costs the same every time.
fn room_for_times(cell: &Cell) -> Vec<u32> {
    const SHORTEST_NS: u128 = 40;
    let most = (cell.budget.as_nanos() / SHORTEST_NS) as usize;
    let mut times = vec![1; most.max(FEWEST as usize)];
    times.clear();
    times
}

/// `None` if there is nothing. Leaves the times in some order.
fn percentile(times: &mut [u32], percent: usize) -> Option<u64> {
    if times.is_empty() {
        return None;
    }
    let index = (times.len() * percent / 100).min(times.len() - 1);
    let (_, time, _) = times.select_nth_unstable(index);
    Some(u64::from(*time))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_occurred() {
        let mut times: Vec<u32> = (1..=200).rev().collect();
        assert_eq!(percentile(&mut times, 50), Some(101));
        assert_eq!(percentile(&mut times, 99), Some(199));
        assert_eq!(percentile(&mut [7], 99), Some(7));
        assert_eq!(percentile(&mut [], 50), None);
    }
}
