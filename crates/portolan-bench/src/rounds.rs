//! The whole run: rounds in which every peer of a workload has its turn.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::cell::{Action, Cell, Policy, Sample, Task, Workload};
use crate::machine::{Business, Machine};
use crate::peer::Peer;
use crate::report::{Report, Row, Status};
use crate::{place, plan, session};

/// What the user asked for; empty lists mean all.
pub(crate) struct Wish {
    pub(crate) quick: bool,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) variants: Vec<String>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) rounds: Option<usize>,
    pub(crate) budget: Option<Duration>,
}

/// After this no further round is begun with `--quick`, if the last round would not fit.
const QUICK: Duration = Duration::from_secs(38);

pub(crate) fn run(wish: &Wish) -> anyhow::Result<Report> {
    let start = Instant::now();
    let mut machine = Machine::look()?;
    if wish.budget.is_none() {
        machine.niceness = place::prefer()?;
    }
    let directory = Directory::new()?;
    let tasks: Vec<Task> = plan::tasks().into_iter().filter(|t| wish.has(t)).collect();
    let mut gathered = Gathered::default();
    let most = wish.rounds.unwrap_or(if wish.quick { 3 } else { 5 });
    let mut last_round = Duration::ZERO;
    while machine.rounds < most && !wish.is_late(start, last_round) {
        let first = machine.rounds == 0;
        last_round = Duration::ZERO;
        for task in &tasks {
            let begin = Instant::now();
            let repeated = !plan::is_for_first_round_only(task);
            if first || repeated {
                round(wish, task, &machine.cpus, &directory.0, &mut gathered);
            }
            if repeated {
                last_round += begin.elapsed();
            }
        }
        machine.rounds += 1;
    }
    progress("");
    machine.after = Business::now();
    machine.seconds = start.elapsed().as_secs_f64();
    Ok(Report::new(machine, gathered.rows(&tasks)))
}

/// All peers of one task in turn.
fn round(wish: &Wish, task: &Task, cpus: &[usize], directory: &Path, gathered: &mut Gathered) {
    let cells = wish.cells(task);
    let numbers = gathered.cells..;
    gathered.cells += cells.len();
    let cells = cells.into_iter().zip(numbers);
    let turns = if task.action == Action::Idle {
        at_once(cells, cpus, directory)
    } else {
        let turns = cells.map(|(cell, number)| (cell.who(), turn(cell, cpus, directory, number)));
        turns.collect()
    };
    gathered.add(task, turns);
}

/// Those who do nothing do not disturb each other, and nothing takes three seconds.
fn at_once(cells: impl Iterator<Item = (Cell, usize)>, cpus: &[usize], directory: &Path) -> Turns {
    thread::scope(|scope| {
        let threads: Vec<_> = cells
            .map(|(cell, number)| {
                let who = cell.who();
                (
                    who,
                    scope.spawn(move || turn(cell, cpus, directory, number)),
                )
            })
            .collect();
        let outcome = |thread: thread::ScopedJoinHandle<'_, Outcome>| {
            let panicked = |_| Err(Status::Failed("a panic".to_owned()));
            thread.join().unwrap_or_else(panicked)
        };
        let turns = threads
            .into_iter()
            .map(|(who, thread)| (who, outcome(thread)));
        turns.collect()
    })
}

fn turn(mut cell: Cell, cpus: &[usize], directory: &Path, number: usize) -> Outcome {
    let task = &cell.task;
    progress(&format!(
        "{} {} {}",
        task.workload,
        task.variant,
        cell.peer.name()
    ));
    if let Some(missing) = cell.peer.missing() {
        return Err(Status::Missing(missing.to_owned()));
    }
    cell.cpus = place::choose(cell.task.placement, cpus)
        .map_err(|()| Status::Missing("a second processor".to_owned()))?;
    session::run(cell, directory, number).map_err(|error| Status::Failed(format!("{error:#}")))
}

impl Wish {
    fn has(&self, task: &Task) -> bool {
        let listed = self.workloads.is_empty() || self.workloads.contains(&task.workload);
        let variant = self.variants.is_empty() || self.variants.contains(&task.variant);
        listed && variant && (!self.quick || plan::is_quick(task.workload))
    }

    fn wants(&self, peer: Peer, task: &Task) -> bool {
        let listed = self.peers.is_empty() || self.peers.contains(&peer) || peer == Peer::Seqpacket;
        listed && (!self.quick || peer.is_quick()) && peer.can(task)
    }

    /// Everyone whose turn it is at this task.
    fn cells(&self, task: &Task) -> Vec<Cell> {
        let peers = Peer::value_variants().iter();
        let peers = peers.filter(|peer| self.wants(**peer, task));
        let policies = if self.quick { 1 } else { usize::MAX };
        let who = peers.flat_map(|peer| {
            let policies = peer.policies().iter().take(policies);
            let suits = |policy: &&Option<Policy>| policy.is_none_or(|policy| policy.suits(task));
            policies.filter(suits).map(|policy| (*peer, *policy))
        });
        who.map(|(peer, policy)| Cell {
            task: task.clone(),
            peer,
            policy,
            cpus: None,
            budget: self
                .budget
                .unwrap_or_else(|| plan::budget(task, self.quick)),
            directory: PathBuf::new(),
        })
        .collect()
    }

    /// Whether a round like the last does not fit any more.
    fn is_late(&self, start: Instant, last_round: Duration) -> bool {
        self.quick && start.elapsed() + last_round > QUICK
    }
}

type Outcome = Result<Sample, Status>;

/// What came out so far, by task and peer, a value for each round.
#[derive(Default)]
struct Gathered {
    cells: usize,
    turns: BTreeMap<(Workload, String), Vec<Turns>>,
}

/// Those of one round.
type Turns = Vec<((Peer, Option<Policy>), Outcome)>;

impl Gathered {
    fn add(&mut self, task: &Task, turns: Turns) {
        let key = (task.workload, task.variant.clone());
        self.turns.entry(key).or_default().push(turns);
    }

    fn rows(&self, tasks: &[Task]) -> Vec<Row> {
        let mut rows = Vec::new();
        for task in tasks {
            let Some(rounds) = self.turns.get(&(task.workload, task.variant.clone())) else {
                continue;
            };
            // The same have their turn in every round.
            let who = rounds.iter().take(1).flatten();
            rows.extend(who.map(|(who, _)| row(task, *who, rounds)));
        }
        rows
    }
}

fn row(task: &Task, who: (Peer, Option<Policy>), rounds: &[Turns]) -> Row {
    let find = |turns: &Turns, wanted: (Peer, Option<Policy>)| {
        let found = turns.iter().find(|(who, _)| *who == wanted);
        found.map(|(_, outcome)| outcome.clone())
    };
    let outcomes = rounds.iter().filter_map(|turns| {
        let socket = find(turns, (Peer::Seqpacket, None)).and_then(Result::ok);
        find(turns, who).map(|outcome| (outcome, socket))
    });
    Row::new(task, who, outcomes.collect())
}

/// Where cells have their directories; removed at the end.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> io::Result<Self> {
        let name = format!("portolan-bench-{}", std::process::id());
        session::private_directory(&std::env::temp_dir().join(name)).map(Self)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing is lost if it stays.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Overwrites the last such line on a terminal's standard error.
pub(crate) fn progress(line: &str) {
    let mut out = io::stderr().lock();
    if rustix::termios::isatty(&out) {
        // Nobody misses it.
        write!(out, "\r\x1b[K{line}")
            .and_then(|()| out.flush())
            .ok();
    }
}
