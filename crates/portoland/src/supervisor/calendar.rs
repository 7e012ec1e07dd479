//! When `StartCalendarInterval` comes next: arithmetic of civil time, without time zones.
//!
//! Whoever has the time zone tells the civil time and waits for the one that is asked for. A time
//! that summer time leaves out is over as soon as the clock has passed it, so the job is started
//! once, right after the gap; a time that summer time repeats is met the first time.

use crate::job::CalendarInterval;

/// Years after which a day that has not come up never does: 29 February comes after 8 at the most.
const HORIZON: i32 = 8;

/// A date and time of day, as a clock on the wall shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Civil {
    /// The year of the common era.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60.
    pub second: u8,
}

impl Civil {
    /// Seconds from 1 January 1970 to here, as if every day had 86400.
    ///
    /// ```
    /// use portoland::supervisor::Civil;
    ///
    /// let (year, month, day) = (2026, 11, 25);
    /// let noon = Civil { year, month, day, hour: 12, minute: 0, second: 0 };
    /// assert_eq!(noon.seconds(), 1_795_608_000);
    /// ```
    #[must_use]
    pub fn seconds(self) -> i64 {
        let [hour, minute, second] = [self.hour, self.minute, self.second].map(i64::from);
        self.days() * 86_400 + hour * 3600 + minute * 60 + second
    }

    /// Days from 1 January 1970 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    fn days(self) -> i64 {
        let [year, month, day] = [self.year, self.month.into(), self.day.into()].map(i64::from);
        let year = year - i64::from(month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    /// 0 to 6, with 0 for Sunday.
    fn weekday(self) -> u8 {
        // 1 January 1970 was a Thursday.
        u8::try_from((self.days() + 4).rem_euclid(7)).unwrap_or(0)
    }

    fn next_day(self) -> Self {
        let midnight = Self {
            hour: 0,
            minute: 0,
            second: 0,
            ..self
        };
        if self.day < days_in(self.year, self.month) {
            return Self {
                day: self.day + 1,
                ..midnight
            };
        }
        midnight.next_month()
    }

    /// The first moment of the next month.
    fn next_month(self) -> Self {
        let (year, month) = match self.month {
            12.. => (self.year.saturating_add(1), 1),
            month => (self.year, month + 1),
        };
        Self {
            year,
            month,
            day: 1,
            hour: 0,
            minute: 0,
            second: 0,
        }
    }

    fn next_minute(self) -> Self {
        let start = Self { second: 0, ..self };
        match (self.hour, self.minute) {
            (23.., 59..) => self.next_day(),
            (hour, 59..) => Self {
                hour: hour + 1,
                minute: 0,
                ..start
            },
            (_, minute) => Self {
                minute: minute + 1,
                ..start
            },
        }
    }
}

fn days_in(year: i32, month: u8) -> u8 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The next time of any of the intervals that is later than `now`; nothing if none ever comes, as
/// on 31 February.
#[must_use]
pub fn next(intervals: &[CalendarInterval], now: Civil) -> Option<Civil> {
    let times = intervals.iter();
    times.filter_map(|interval| next_of(interval, now)).min()
}

/// Whether the intervals come every hour, so that an hour that is repeated has its own.
pub(super) fn is_hourly(intervals: &[CalendarInterval]) -> bool {
    intervals.iter().any(|interval| interval.hour.is_none())
}

fn next_of(interval: &CalendarInterval, now: Civil) -> Option<Civil> {
    let start = now.next_minute();
    let mut day = start;
    while day.year <= start.year.saturating_add(HORIZON) {
        if interval.month.is_some_and(|month| month != day.month) {
            day = day.next_month();
            continue;
        }
        if is_day(interval, day)
            && let Some((hour, minute)) = time_of_day(interval, (day.hour, day.minute))
        {
            return Some(Civil {
                hour,
                minute,
                ..day
            });
        }
        day = day.next_day();
    }
    None
}

/// If both a day of the month and one of the week are given, either will do, as in cron.
fn is_day(interval: &CalendarInterval, date: Civil) -> bool {
    let day = interval.day.map(|day| day == date.day);
    let weekday = interval.weekday.map(|day| day % 7 == date.weekday());
    match (day, weekday) {
        (None, None) => true,
        (Some(day), Some(weekday)) => day || weekday,
        (one, other) => one.or(other) == Some(true),
    }
}

/// The first time of a day that is not earlier than one.
fn time_of_day(interval: &CalendarInterval, (hour, minute): (u8, u8)) -> Option<(u8, u8)> {
    let first = interval.minute.unwrap_or(0);
    let in_this_hour = match interval.minute {
        None => Some(minute),
        Some(given) => (given >= minute).then_some(given),
    };
    match (interval.hour, in_this_hour) {
        (None, Some(minute)) => Some((hour, minute)),
        (None, None) => (hour < 23).then_some((hour + 1, first)),
        (Some(given), Some(minute)) if given == hour => Some((hour, minute)),
        (Some(given), _) => (given > hour).then_some((given, first)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Civil {
        let mut fields = text.split(['-', ' ', ':']).map(|field| field.parse());
        let mut field = || fields.next().map_or(0, |field| field.expect("a number"));
        Civil {
            year: field(),
            month: field() as u8,
            day: field() as u8,
            hour: field() as u8,
            minute: field() as u8,
            second: field() as u8,
        }
    }

    /// Fields as in a crontab: minute, hour, day, month, weekday.
    fn interval(text: &str) -> CalendarInterval {
        let mut fields = text.split(' ').map(|field| field.parse().ok());
        let mut field = || fields.next().flatten();
        CalendarInterval {
            minute: field(),
            hour: field(),
            day: field(),
            month: field(),
            weekday: field(),
        }
    }

    #[test]
    fn the_next_time_is_later_and_the_first_that_matches() {
        for (cron, now, expected) in [
            ("* * * * *", "2026-11-25 12:00:00", "2026-11-25 12:01:00"),
            ("* * * * *", "2026-12-31 23:59:59", "2027-01-01 00:00:00"),
            ("30 * * * *", "2026-11-25 12:29:59", "2026-11-25 12:30:00"),
            ("30 * * * *", "2026-11-25 12:30:00", "2026-11-25 13:30:00"),
            ("30 * * * *", "2026-11-25 23:30:00", "2026-11-26 00:30:00"),
            ("* 4 * * *", "2026-11-25 03:15:00", "2026-11-25 04:00:00"),
            ("* 4 * * *", "2026-11-25 04:15:00", "2026-11-25 04:16:00"),
            ("15 4 * * *", "2026-11-25 04:15:00", "2026-11-26 04:15:00"),
            ("0 0 1 * *", "2026-11-25 00:00:00", "2026-12-01 00:00:00"),
            ("0 0 31 * *", "2026-11-25 00:00:00", "2026-12-31 00:00:00"),
            ("0 0 31 * *", "2027-01-31 00:00:00", "2027-03-31 00:00:00"),
            ("0 0 29 2 *", "2026-11-25 00:00:00", "2028-02-29 00:00:00"),
            ("0 0 29 2 *", "2096-03-01 00:00:00", "2104-02-29 00:00:00"),
            ("0 9 * 6 *", "2026-11-25 00:00:00", "2027-06-01 09:00:00"),
            // 25 November 2026 is a Wednesday.
            ("0 0 * * 0", "2026-11-25 00:00:00", "2026-11-29 00:00:00"),
            ("0 0 * * 7", "2026-11-25 00:00:00", "2026-11-29 00:00:00"),
            ("0 0 * * 3", "2026-11-25 00:00:00", "2026-12-02 00:00:00"),
            ("0 0 13 * 5", "2026-11-25 00:00:00", "2026-11-27 00:00:00"),
            ("0 0 13 * 5", "2026-12-11 00:00:00", "2026-12-13 00:00:00"),
        ] {
            let found = next(&[interval(cron)], at(now));
            assert_eq!(found, Some(at(expected)), "{cron} after {now}");
        }
    }

    #[test]
    fn a_date_that_never_comes() {
        for cron in ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4 *"] {
            assert_eq!(next(&[interval(cron)], at("2026-11-25")), None, "{cron}");
        }
        assert_eq!(next(&[], at("2026-11-25")), None);
    }

    #[test]
    fn of_several_intervals_the_first_counts() {
        let intervals = ["0 12 * * *", "0 6 * * *"].map(interval);
        let found = next(&intervals, at("2026-11-25 07:00"));
        assert_eq!(found, Some(at("2026-11-25 12:00")));
    }

    /// Every minute of three years that include a leap day, looked at one by one.
    #[test]
    fn no_matching_minute_is_passed_over() {
        for cron in ["7 3 * * *", "0 0 29 * 1", "59 23 31 12 *", "* 5 1 3 *"] {
            let interval = interval(cron);
            let mut due = next(std::slice::from_ref(&interval), at("2027-01-01"));
            let mut minute = at("2027-01-01");
            while minute.year < 2030 {
                minute = minute.next_minute();
                let matches = is_day(&interval, minute)
                    && interval.month.is_none_or(|month| month == minute.month)
                    && interval.hour.is_none_or(|hour| hour == minute.hour)
                    && interval.minute.is_none_or(|given| given == minute.minute);
                assert_eq!(matches, due == Some(minute), "{cron} at {minute:?}");
                if matches {
                    due = next(std::slice::from_ref(&interval), minute);
                }
            }
        }
    }

    #[test]
    fn days_are_counted_over_leap_years_and_centuries() {
        let mut day = at("1899-12-31");
        let mut count = day.days();
        while day.year < 2401 {
            let next = day.next_day();
            count += 1;
            assert_eq!(next.days(), count, "{next:?}");
            day = next;
        }
        assert_eq!(at("1970-01-01").seconds(), 0);
        assert_eq!(at("2026-11-25").weekday(), 3);
    }
}
