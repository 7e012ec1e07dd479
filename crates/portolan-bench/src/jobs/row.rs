//! A row of the page.

use serde::Serialize;

use super::Chapter;
use crate::report::{line, significant, time};

/// What was measured, and what was aimed at.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    chapter: Chapter,
    what: String,
    found: f64,
    unit: Unit,
    /// The most that it may be.
    aim: Option<f64>,
    /// What else there is to say of it.
    beside: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Unit {
    Nanoseconds,
    Bytes,
    Times,
    Number,
}

impl Row {
    pub(super) fn new(chapter: Chapter, what: impl Into<String>, unit: Unit, found: f64) -> Self {
        Self {
            chapter,
            what: what.into(),
            found,
            unit,
            aim: None,
            beside: String::new(),
        }
    }

    /// No more than this, in the row's unit.
    pub(super) fn at_most(self, aim: f64) -> Self {
        let aim = Some(aim);
        Self { aim, ..self }
    }

    pub(super) fn beside(self, beside: impl Into<String>) -> Self {
        let beside = beside.into();
        Self { beside, ..self }
    }

    fn aim(&self) -> String {
        match self.aim {
            None => "—".to_owned(),
            Some(aim) if self.found <= aim => format!("{}, met", self.unit.show(aim)),
            Some(aim) => format!("{}, **missed**", self.unit.show(aim)),
        }
    }
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Nanoseconds => time(value),
            Self::Bytes => format!("{} MiB", significant(value / 1_048_576.0)),
            Self::Times => format!("{value:.2} times"),
            Self::Number => format!("{value:.0}"),
        }
    }
}

pub(super) fn table(rows: &[Row]) -> String {
    let head = ["", "found", "at most", "beside"].map(str::to_owned);
    let rule = ["---"; 4].map(str::to_owned);
    let rows = rows.iter().map(|row| {
        [
            row.what.clone(),
            row.unit.show(row.found),
            row.aim(),
            row.beside.clone(),
        ]
    });
    let lines = [head, rule].into_iter().chain(rows);
    lines.map(|cells| line(cells.into_iter())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_met_up_to_its_value() {
        let row = |found| Row::new(Chapter::Cold, "it", Unit::Times, found).at_most(1.3);
        assert_eq!(row(1.3).aim(), "1.30 times, met");
        assert_eq!(row(1.31).aim(), "1.30 times, **missed**");
    }
}
