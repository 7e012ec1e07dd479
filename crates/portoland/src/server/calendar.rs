//! When `StartCalendarInterval` is due: the clock on the wall, and how it is told when somebody sets it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jiff::ZonedDateTime;
use jiff::civil::DateTime;
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::{Server, Source};
use crate::supervisor::Civil;

/// Readable when a time of day has come, or when the clock has been set.
#[derive(Debug)]
pub(super) struct WallClock {
    timer: OwnedFd,
    armed: Option<Civil>,
}

impl WallClock {
    fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        Ok(Self { timer, armed: None })
    }

    fn arm(&mut self, when: Civil) -> Result<(), Errno> {
        let second = seconds_of(when, jiff::Timestamp::now()).unwrap_or(i64::MAX);
        let none = Timespec::default();
        let at = Timespec {
            tv_sec: second,
            tv_nsec: 0,
        };
        let value = Itimerspec {
            it_interval: none,
            it_value: at,
        };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&self.timer, flags, &value)?;
        self.armed = Some(when);
        Ok(())
    }

    /// Takes the word that it is time.
    fn hear(&mut self) {
        // With `ECANCELED`, the clock has been set.
        rustix::io::read(&self.timer, &mut [0_u8; 8]).ok();
        self.armed = None;
    }
}

impl AsFd for WallClock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl Server {
    /// Has the clock tell when a job is due, if one ever is.
    pub(super) fn expect_calendar(&mut self) {
        let Some(when) = self.jobs.supervisor.next_calendar() else {
            return;
        };
        if self.clock.is_none() {
            self.clock = WallClock::new().ok();
            if let Some(clock) = &self.clock {
                let data = Source::Clock.data();
                epoll::add(&self.events, clock, data, EventFlags::IN).ok();
            }
        }
        if let Some(clock) = &mut self.clock
            && clock.armed != Some(when)
            && let Err(errno) = clock.arm(when)
        {
            tracing::error!(%errno, "cannot wait for a time of day");
        }
    }

    pub(super) fn see_to_calendar(&mut self) {
        if let Some(clock) = &mut self.clock {
            clock.hear();
        }
        self.tell_time_of_day();
    }

    pub(super) fn tell_time_of_day(&mut self) {
        let now = self.now();
        self.jobs.supervisor.calendar(time_of_day(), now);
    }
}

/// What a clock on the wall shows here.
pub(super) fn time_of_day() -> Civil {
    let now = ZonedDateTime::now();
    Civil {
        year: i32::from(now.year()),
        month: now.month().unsigned_abs(),
        day: now.day().unsigned_abs(),
        hour: now.hour().unsigned_abs(),
        minute: now.minute().unsigned_abs(),
        second: now.second().unsigned_abs(),
    }
}

/// The second since 1970 at which a clock on the wall shows a time. Of an hour that comes twice, the
/// first, unless that is over; of one that is left out, the moment after.
fn seconds_of(civil: Civil, now: jiff::Timestamp) -> Option<i64> {
    seconds_in(&jiff::tz::TimeZone::system(), civil, now)
}

fn seconds_in(zone: &jiff::tz::TimeZone, civil: Civil, now: jiff::Timestamp) -> Option<i64> {
    let date = DateTime::new(
        i16::try_from(civil.year).ok()?,
        civil.month.try_into().ok()?,
        civil.day.try_into().ok()?,
        civil.hour.try_into().ok()?,
        civil.minute.try_into().ok()?,
        civil.second.min(59).try_into().ok()?,
        0,
    );
    let times = zone.to_ambiguous_timestamp(date.ok()?);
    let first = times.compatible().ok()?;
    let second = match first <= now {
        // A timer for the first would be over at once, again and again.
        true => times.later().ok()?,
        false => first,
    };
    Some(second.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_comes_back_to_the_second() {
        let before = jiff::Timestamp::now().as_second();
        let now = jiff::Timestamp::now();
        let seconds = seconds_of(time_of_day(), now).expect("a time");
        // An hour that comes twice is taken for the first.
        let late = jiff::Timestamp::now().as_second();
        let first = before - 3600;
        assert!((before..=late).contains(&seconds) || (first..=late).contains(&seconds));
    }

    #[test]
    fn of_an_hour_that_comes_twice_the_one_that_is_not_over_is_taken() {
        let zone = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        let civil = Civil {
            year: 2026,
            month: 10,
            day: 25,
            hour: 2,
            minute: 45,
            second: 0,
        };
        let at = |text: &str| text.parse::<jiff::Timestamp>().expect("a time");
        let first = at("2026-10-25T00:45:00Z");
        for (now, due) in [
            ("2026-10-25T00:30:00Z", first),
            ("2026-10-25T00:45:00Z", at("2026-10-25T01:45:00Z")),
            ("2026-10-25T01:30:00Z", at("2026-10-25T01:45:00Z")),
        ] {
            assert_eq!(seconds_in(&zone, civil, at(now)), Some(due.as_second()));
        }
    }
}
