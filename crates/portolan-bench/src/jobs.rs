//! The bootstrap server as a manager of jobs: what it costs, beside what was aimed at.
//!
//! A row says what was found and, where there is one, the aim. The server is the command `portolan` of
//! the same build, in a directory of its own; jobs and clients are this program (`jobs/part.rs`).

mod cold;
mod many;
mod part;
mod row;
mod storm;
mod usage;
mod walls;
mod world;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::machine::{Business, Machine};
use crate::place;
use crate::report::machine_table;
use crate::rounds::{Directory, progress};
use row::Row;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Take less than 30 seconds: fewer rounds, names, jobs and disturbances.
    #[arg(long)]
    quick: bool,
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Chapter>,
    /// The command `portolan` [default: beside this program].
    #[arg(long)]
    portolan: Option<PathBuf>,
    #[command(flatten)]
    part: part::Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Chapter {
    /// The first answer of a service that does not run, and fork and exec of the same program.
    Cold,
    /// Many jobs and names: loading, look-ups, memory, wake-ups.
    Many,
    /// Restarts and kills of the server while messages pass.
    Storm,
    /// Programs that are started with and without walls.
    Walls,
}

/// What the chapters need.
struct Plan {
    quick: bool,
    portolan: PathBuf,
    directory: Directory,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(part) = options.part.part {
        return part::play(part, &options.part);
    }
    let start = Instant::now();
    let mut machine = Machine::look()?;
    machine.niceness = place::prefer()?;
    machine.rounds = 1;
    let plan = Plan {
        quick: options.quick,
        portolan: options.portolan()?,
        directory: Directory::new()?,
    };
    let mut rows = Vec::new();
    for chapter in Chapter::value_variants() {
        if options.only.is_empty() || options.only.contains(chapter) {
            rows.extend(chapter.measure(&plan)?);
        }
    }
    progress("");
    machine.after = Business::now();
    machine.seconds = start.elapsed().as_secs_f64();
    print(options.json, &machine, &rows)
}

impl Options {
    fn portolan(&self) -> anyhow::Result<PathBuf> {
        let own = std::env::current_exe()?;
        let portolan = match &self.portolan {
            Some(portolan) => portolan.clone(),
            None => own.with_file_name("portolan"),
        };
        portolan.canonicalize().with_context(|| {
            let portolan = portolan.display();
            format!("{portolan}: build it with cargo build --release, or name it with --portolan")
        })
    }
}

impl Chapter {
    fn measure(self, plan: &Plan) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::Cold => cold::measure(plan),
            Self::Many => many::measure(plan),
            Self::Storm => storm::measure(plan),
            Self::Walls => walls::measure(plan),
        }
    }
}

#[derive(Serialize)]
struct Page<'a> {
    machine: &'a Machine,
    rows: &'a [Row],
}

fn print(json: bool, machine: &Machine, rows: &[Row]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&Page { machine, rows })?)?;
    } else {
        write!(out, "{}\n{}", machine_table(machine), row::table(rows))?;
    }
    Ok(())
}
