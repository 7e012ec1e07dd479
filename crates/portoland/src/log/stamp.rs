//! What stands before each line, and how a line is made harmless.

use std::fmt::{self, Display, Formatter};
use std::io::Write;
use std::time::SystemTime;

/// When a line came and from whom.
pub(super) struct Stamp(String);

impl Stamp {
    pub(super) fn of(now: SystemTime, pid: Option<u32>) -> Self {
        let now = Utc(now);
        Self(match pid {
            Some(pid) => format!("{now} {pid}: "),
            None => format!("{now} -: "),
        })
    }

    pub(super) fn of_server(now: SystemTime) -> Self {
        Self(format!("{} portoland: ", Utc(now)))
    }

    /// Appends a line with its end. Whatever is in `line`, it is one line of UTF-8.
    pub(super) fn write(&self, line: &[u8], into: &mut Vec<u8>) {
        into.extend_from_slice(self.0.as_bytes());
        for chunk in line.utf8_chunks() {
            let mut rest = chunk.valid();
            while let Some((at, odd)) = rest.char_indices().find(|(_, c)| is_odd(*c)) {
                into.extend_from_slice(&rest.as_bytes()[..at]);
                escape(odd, into);
                rest = &rest[at + odd.len_utf8()..];
            }
            into.extend_from_slice(rest.as_bytes());
            for byte in chunk.invalid() {
                append(format_args!("\\x{byte:02x}"), into);
            }
        }
        into.push(b'\n');
    }
}

/// Whether a character could do more than be shown: beside the controls, those that end a line or
/// turn its direction for some that show it.
fn is_odd(c: char) -> bool {
    (c.is_control() && c != '\t') || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape(c: char, into: &mut Vec<u8>) {
    if c.is_ascii() {
        append(format_args!("\\x{:02x}", u32::from(c)), into);
    } else {
        append(format_args!("\\u{{{:x}}}", u32::from(c)), into);
    }
}

fn append(what: fmt::Arguments<'_>, into: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    into.write_fmt(what).ok();
}

/// A time as of RFC 3339, in UTC and with milliseconds.
struct Utc(SystemTime);

impl Display for Utc {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        // A clock before 1970 is a clock that was never set.
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        let (seconds, millis) = (since.as_secs(), since.subsec_millis());
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(
            out,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

/// The date so many days after the first of January 1970, in the Gregorian calendar.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`: years begin in
/// March there, so that the leap day is the last of one.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn utc(seconds: u64, millis: u64) -> String {
        let since = Duration::from_secs(seconds) + Duration::from_millis(millis);
        Utc(SystemTime::UNIX_EPOCH + since).to_string()
    }

    #[test]
    fn times_are_as_date_prints_them() {
        assert_eq!(utc(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_399, 999), "2000-02-28T23:59:59.999Z");
        assert_eq!(utc(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(utc(1_709_251_200, 0), "2024-03-01T00:00:00.000Z");
        assert_eq!(utc(1_795_627_776, 123), "2026-11-25T17:29:36.123Z");
        assert_eq!(utc(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Utc(before).to_string(), "1970-01-01T00:00:00.000Z");
    }

    fn line(bytes: &[u8]) -> String {
        let mut line = Vec::new();
        Stamp(String::new()).write(bytes, &mut line);
        String::from_utf8(line).expect("UTF-8")
    }

    #[test]
    fn a_line_cannot_play_with_a_terminal() {
        assert_eq!(line("ä\tb \\x".as_bytes()), "ä\tb \\x\n");
        assert_eq!(
            line(b"\x1b[2J\x07\r\x7f\0"),
            "\\x1b[2J\\x07\\x0d\\x7f\\x00\n"
        );
        assert_eq!(line("\u{9b}2J".as_bytes()), "\\u{9b}2J\n");
        assert_eq!(
            line("a\u{202e}b\u{2028}".as_bytes()),
            "a\\u{202e}b\\u{2028}\n"
        );
        assert_eq!(line(b"\xff\xc3("), "\\xff\\xc3(\n");
    }

    #[test]
    fn who_wrote_a_line_stands_before_it() {
        let mut lines = Vec::new();
        Stamp::of(SystemTime::UNIX_EPOCH, Some(12)).write(b"a", &mut lines);
        Stamp::of(SystemTime::UNIX_EPOCH, None).write(b"b", &mut lines);
        Stamp::of_server(SystemTime::UNIX_EPOCH).write(b"c\nd", &mut lines);
        assert_eq!(
            String::from_utf8_lossy(&lines),
            "1970-01-01T00:00:00.000Z 12: a\n1970-01-01T00:00:00.000Z -: b\n\
             1970-01-01T00:00:00.000Z portoland: c\\x0ad\n"
        );
    }
}
