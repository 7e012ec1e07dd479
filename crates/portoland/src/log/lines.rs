//! Lines out of a stream that comes in pieces.

use std::time::{Duration, SystemTime};

/// The longest line, in bytes.
const MAX_LINE: usize = 16 << 10;

/// How long the beginning of a line waits for its end.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is behind a piece of a line whose rest comes in the next one.
const CUT: &[u8] = b" [...]";

/// The beginning of a line whose end has not come yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
    since: Option<SystemTime>,
}

impl Lines {
    /// Gives out each line that ends in `bytes`, without its end, and each piece of one that is too
    /// long.
    pub(super) fn push(&mut self, bytes: &[u8], now: SystemTime, mut line: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.since.get_or_insert(now);
            self.begun.extend_from_slice(piece);
            self.cut(&mut line);
            if self.begun.ends_with(b"\n") {
                line(without_end(&self.begun));
                self.begun.clear();
                self.since = None;
            }
        }
        if self.begun.is_empty() {
            // Most jobs write little, and there may be thousands.
            self.begun = Vec::new();
        }
    }

    fn cut(&mut self, line: &mut impl FnMut(&[u8])) {
        let mut from = 0;
        while without_end(&self.begun[from..]).len() > MAX_LINE {
            let to = from + end_of_character(&self.begun[from..], MAX_LINE);
            line(&[&self.begun[from..to], CUT].concat());
            from = to;
        }
        self.begun.drain(..from);
    }

    /// How many bytes the beginning of a line has.
    pub(super) fn begun(&self) -> usize {
        self.begun.len()
    }

    /// The beginning of a line.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        self.since
            .take()
            .map(|_| std::mem::take(&mut self.begun))
            .filter(|begun| !begun.is_empty())
    }

    /// The beginning of a line that has waited for long enough.
    pub(super) fn take_if_old(&mut self, now: SystemTime) -> Option<Vec<u8>> {
        let old = self.due(now).is_some_and(|left| left.is_zero());
        if old { self.take() } else { None }
    }

    /// How long the beginning of a line still waits.
    pub(super) fn due(&self, now: SystemTime) -> Option<Duration> {
        let since = self.since?;
        // A clock that was set back says nothing about how long it has been.
        let waited = now.duration_since(since).unwrap_or(PATIENCE);
        Some(PATIENCE.saturating_sub(waited))
    }
}

fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The last place up to `at` that is not inside a character, if this is UTF-8.
fn end_of_character(bytes: &[u8], at: usize) -> usize {
    let inside = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (at.saturating_sub(3)..=at)
        .rev()
        .find(|at| !inside(*at))
        .unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(lines: &mut Lines, bytes: &[u8], now: SystemTime) -> Vec<String> {
        let mut seen = Vec::new();
        lines.push(bytes, now, |line| {
            seen.push(String::from_utf8_lossy(line).into_owned());
        });
        seen
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn a_line_may_come_in_pieces() {
        let mut lines = Lines::default();
        assert_eq!(pushed(&mut lines, b"a\r\n\nb", NOW), ["a", ""]);
        assert_eq!(pushed(&mut lines, b"c", NOW), [""; 0]);
        assert_eq!(pushed(&mut lines, b"\nd\n", NOW), ["bc", "d"]);
        assert_eq!(lines.take(), None);
    }

    #[test]
    fn a_beginning_waits_for_its_end_and_not_for_long() {
        let mut lines = Lines::default();
        pushed(&mut lines, b"a", NOW);
        pushed(&mut lines, b"b", NOW + Duration::from_millis(150));
        assert_eq!(lines.take_if_old(NOW + Duration::from_millis(199)), None);
        assert_eq!(
            lines.due(NOW + Duration::from_millis(199)),
            Some(Duration::from_millis(1))
        );
        let late = NOW + Duration::from_millis(200);
        assert_eq!(lines.take_if_old(late).as_deref(), Some(&b"ab"[..]));
        assert_eq!(lines.due(late), None);
        pushed(&mut lines, b"c", late);
        assert_eq!(
            lines.take_if_old(NOW).as_deref(),
            Some(&b"c"[..]),
            "the clock was set back"
        );
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let mut lines = Lines::default();
        let exact = "x".repeat(MAX_LINE);
        assert_eq!(
            pushed(&mut lines, format!("{exact}\r\n").as_bytes(), NOW),
            [exact]
        );
        let long = "x".repeat(MAX_LINE - 1) + "ä" + &"y".repeat(MAX_LINE);
        let seen = pushed(&mut lines, format!("{long}\nz\n").as_bytes(), NOW);
        assert_eq!(
            seen,
            [
                "x".repeat(MAX_LINE - 1) + " [...]",
                "ä".to_owned() + &"y".repeat(MAX_LINE - 2) + " [...]",
                "yy".to_owned(),
                "z".to_owned(),
            ]
        );
    }

    #[test]
    fn what_has_no_line_ends_takes_no_memory() {
        let mut lines = Lines::default();
        let mut cut = 0;
        for _ in 0..320 {
            lines.push(&[0x80; 32 << 10], NOW, |line| {
                assert_eq!(line.len(), MAX_LINE + CUT.len());
                cut += 1;
            });
            assert!(lines.begun.len() <= MAX_LINE);
        }
        assert!(cut >= 639, "{cut}");
    }
}
