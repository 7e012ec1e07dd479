//! `portolan sandbox selftest`.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use portolan_sandbox::probe::{Tiers, launcher};
use portolan_sandbox::profile::{Isolation, Tier};
use portolan_sandbox::selftest::{
    Attempt, Outcome, PROBER, Report, Row, Selftest, Verdict, attempts,
};
use serde::Serialize;

use crate::args::sandbox as args;
use crate::{exit, output};

pub(crate) fn run(options: &args::Selftest) -> anyhow::Result<()> {
    let launcher = launcher().context("cannot find portolan-launch")?;
    if options.no_namespaces {
        return Err(without_namespaces(&launcher));
    }
    let test = Selftest::new(&launcher)?.with_reports(options.report);
    let attempts = chosen(&options.attempts)?;
    let found = test.tiers()?;
    let tiers = tiers(&found, options.tier)?;
    let report = test.run(&tiers, &attempts)?;
    match options.json {
        true => output::json(&Json::of(&found, &report))?,
        false => print(&found, &report, &tiers, options.verbose),
    }
    ensure!(
        report.noticed || !options.attempts.is_empty(),
        "the process outside does not notice what is done to it"
    );
    ensure!(report.is_good(), "the walls are not as they should be");
    Ok(())
}

const NO_NAMESPACES: &str = "--no-namespaces";

/// Becomes the same command in a user namespace that may have no others. Returns if it cannot.
fn without_namespaces(launcher: &Path) -> anyhow::Error {
    let again = std::env::args_os()
        .skip(1)
        .filter(|word| word != NO_NAMESPACES);
    let this = match std::env::current_exe() {
        Ok(this) => this,
        Err(error) => return error.into(),
    };
    let mut command = Command::new(launcher.with_file_name(PROBER));
    let error = command.arg("alone").arg(this).args(again).exec();
    anyhow::Error::new(error).context("cannot execute portolan-probe")
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Attempt>> {
    if names.is_empty() {
        return Ok(attempts().collect());
    }
    let by_name = |name: &String| {
        let found = attempts().find(|attempt| attempt.name == name);
        found.ok_or_else(|| exit::usage(anyhow::anyhow!("there is no attempt {name}")))
    };
    names.iter().map(by_name).collect()
}

/// All that there are, or the one that is wanted; none is an error, with what is missing.
fn tiers(found: &Tiers, wanted: Option<args::Tier>) -> anyhow::Result<Vec<Tier>> {
    let isolation = match wanted {
        Some(args::Tier::T1) => Isolation::Required(Tier::T1),
        Some(args::Tier::T2) => Isolation::Required(Tier::T2),
        None => Isolation::Best,
    };
    let best = found.choose(isolation).map_err(exit::configuration)?;
    match (wanted, best) {
        (None, Tier::T2) if found.t1.is_ok() => Ok(vec![Tier::T1, Tier::T2]),
        _ => Ok(vec![best]),
    }
}

/// Widths of the columns.
const WHAT: usize = 60;
const OUTCOME: usize = 20;

fn print(found: &Tiers, report: &Report, tiers: &[Tier], verbose: bool) {
    for missing in [found.t1, found.t2].iter().filter_map(|tier| tier.err()) {
        output::remark(missing);
    }
    let mut head = format!("{:WHAT$}{:OUTCOME$}", "attempt", "outside");
    head.extend(
        tiers
            .iter()
            .map(|tier| format!("{:OUTCOME$}", tier.to_string())),
    );
    output::line(head.trim_end());
    for row in &report.rows {
        print_row(row, verbose);
    }
    for change in &report.changes {
        let (tier, before, after) = (change.tier, &change.before, &change.after);
        output::line(format_args!("{tier}: the process outside was {before}"));
        output::line(format_args!("{tier}: and then {after}"));
    }
    for tier in tiers {
        output::line(summary(report, *tier));
    }
}

fn print_row(row: &Row, verbose: bool) {
    let outside = match &row.outside {
        Some(outcome) => format!("{outcome}{}", if row.privileged { "*" } else { "" }),
        None => "-".to_owned(),
    };
    let mut line = format!("{:WHAT$}{outside:OUTCOME$}", row.attempt.what);
    for (tier, outcome) in &row.inside {
        let inside = match row.verdict(*tier) {
            None | Some(Verdict::Held | Verdict::Works) => outcome.to_string(),
            Some(verdict) => format!("{outcome} ({})", verdict.word()),
        };
        line.push_str(&format!("{inside:OUTCOME$}"));
    }
    output::line(line.trim_end());
    if verbose {
        let (name, statement) = (row.attempt.name, row.attempt.statement);
        output::line(format_args!("    {name}, statement W{statement}"));
    }
    for (tier, outcome) in &row.inside {
        if let Outcome::Lost(said) = outcome {
            output::line(format_args!(
                "    {tier}: {}",
                output::plain(said).trim_end()
            ));
        }
    }
}

const SUMMARY: &[(Verdict, &str)] = &[
    (Verdict::Held, "held"),
    (Verdict::Unproven, "held, but outside as well"),
    (Verdict::Harmless, "without effect"),
    (Verdict::Leak, "known leaks"),
    (Verdict::Works, "work"),
    (Verdict::Broken, "BROKEN"),
    (Verdict::Escape, "ESCAPED"),
];

fn summary(report: &Report, tier: Tier) -> String {
    let count = |(verdict, word): &(Verdict, &str)| {
        let count = report.count(tier, *verdict);
        format!("{count} {word}")
    };
    let counts: Vec<String> = SUMMARY.iter().map(count).collect();
    format!("{tier}: {}", counts.join(", "))
}

#[derive(Serialize)]
struct Json<'a> {
    good: bool,
    missing: Vec<String>,
    attempts: Vec<JsonAttempt>,
    changes: Vec<JsonChange<'a>>,
}

#[derive(Serialize)]
struct JsonAttempt {
    name: &'static str,
    what: &'static str,
    statement: u8,
    outside: Option<String>,
    privileged: bool,
    inside: Vec<JsonInside>,
}

#[derive(Serialize)]
struct JsonInside {
    tier: String,
    outcome: String,
    verdict: Option<&'static str>,
}

#[derive(Serialize)]
struct JsonChange<'a> {
    tier: String,
    before: &'a str,
    after: &'a str,
}

impl<'a> Json<'a> {
    fn of(found: &Tiers, report: &'a Report) -> Self {
        let missing = [found.t1, found.t2].into_iter().filter_map(Result::err);
        let changes = report.changes.iter().map(|change| JsonChange {
            tier: change.tier.to_string(),
            before: &change.before,
            after: &change.after,
        });
        Self {
            good: report.is_good(),
            missing: missing.map(|missing| missing.to_string()).collect(),
            attempts: report.rows.iter().map(JsonAttempt::of).collect(),
            changes: changes.collect(),
        }
    }
}

impl JsonAttempt {
    fn of(row: &Row) -> Self {
        let inside = row.inside.iter().map(|(tier, outcome)| JsonInside {
            tier: tier.to_string(),
            outcome: outcome.to_string(),
            verdict: row.verdict(*tier).map(Verdict::word),
        });
        Self {
            name: row.attempt.name,
            what: row.attempt.what,
            statement: row.attempt.statement,
            outside: row.outside.as_ref().map(Outcome::to_string),
            privileged: row.privileged,
            inside: inside.collect(),
        }
    }
}
