//! Many jobs and many names.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::part::{Found, LOOKED_UP, Part};
use super::row::{Row, Unit};
use super::storm::MOST_TO_COME_BACK_NS;
use super::usage::Usage;
use super::world::{Disturbance, World, succeed, write_job};
use super::{Chapter, Plan};
use crate::process::Process;
use crate::report::{median, time};
use crate::rounds::progress;
use crate::session;

/// How much there is.
struct Size {
    jobs: u64,
    names_per_job: u64,
    /// Names that clients publish, each with a right of its own.
    registered: u64,
    look_ups: u64,
    rounds: usize,
    idle: Duration,
}

const FULL: Size = Size {
    jobs: 1000,
    names_per_job: 100,
    registered: 8000,
    look_ups: 20_000,
    rounds: 5,
    idle: Duration::from_secs(60),
};

const QUICK: Size = Size {
    jobs: 100,
    names_per_job: 10,
    registered: 500,
    look_ups: 2000,
    rounds: 1,
    idle: Duration::from_secs(2),
};

const MOST_TO_LOAD_NS: f64 = 2e9;
const MOST_TO_LOOK_UP_NS: f64 = 50e3;
const MOST_MEMORY: f64 = 20.0 * 1_048_576.0;

/// Names that one client publishes; the server has a limit for each.
const REGISTERED_BY_ONE: u64 = 2000;

/// A name in a job file.
pub(super) fn declared(index: u64) -> String {
    format!("org.example.declared.{index:06}")
}

/// A name that a client publishes.
pub(super) fn registered(index: u64) -> String {
    format!("org.example.registered.{index:06}")
}

pub(super) fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let size = if plan.quick { QUICK } else { FULL };
    let mut rows = Vec::new();
    for names in [1, size.names_per_job] {
        let files = write_files(plan, &size, names)?;
        rows.extend(loading(plan, &size, names, &files)?);
    }
    let directory = plan
        .directory
        .0
        .join(format!("files-{}", size.names_per_job));
    let world = World::new(plan, "many", Some(&directory))?;
    let loaded = Usage::of(&world.processes()?)?;
    rows.push(memory("with the jobs and their names", loaded));
    let registrars = register(&world, &size)?;
    rows.extend(look_ups(&world, &size)?);
    rows.extend(idling(&world, &size)?);
    rows.push(killed(&world, &size)?);
    drop(registrars);
    Ok(rows)
}

/// Writes the job files, and gives their paths.
fn write_files(plan: &Plan, size: &Size, names: u64) -> anyhow::Result<Vec<PathBuf>> {
    let directory = plan.directory.0.join(format!("files-{names}"));
    session::private_directory(&directory)?;
    let mut files = Vec::new();
    for job in 0..size.jobs {
        let label = format!("org.example.job.{job:04}");
        let path = directory.join(format!("{label}.toml"));
        let names: Vec<_> = (job * names..(job + 1) * names).map(declared).collect();
        write_job(&path, &label, Part::Once, &names)?;
        files.push(path);
    }
    Ok(files)
}

fn loading(plan: &Plan, size: &Size, names: u64, files: &[PathBuf]) -> anyhow::Result<Vec<Row>> {
    let jobs = size.jobs;
    let (mut by_command, mut by_itself) = (Vec::new(), Vec::new());
    for round in 0..size.rounds {
        progress(&format!(
            "loading {jobs} jobs of {names} names, round {round}"
        ));
        by_command.push(load(plan, files)?);
        let directory = files.first().and_then(|file| file.parent());
        by_itself.push(start(plan, size, directory)?);
    }
    let row = |how: &str, times: Vec<f64>| {
        let best = times.iter().copied().fold(f64::INFINITY, f64::min);
        let what = format!("{jobs} job files of {names} names, {how}");
        let found = median(times).unwrap_or(f64::NAN);
        let row = Row::new(Chapter::Many, what, Unit::Nanoseconds, found);
        row.at_most(MOST_TO_LOAD_NS).beside(format!(
            "median of {}, best {}",
            size.rounds,
            time(best)
        ))
    };
    Ok(vec![
        row("by one `portolan load`", by_command),
        row("at the start of the server", by_itself),
    ])
}

fn load(plan: &Plan, files: &[PathBuf]) -> anyhow::Result<f64> {
    let world = World::new(plan, "loaded", None)?;
    let began = Instant::now();
    succeed(world.portolan().arg("load").args(files))?;
    Ok(began.elapsed().as_secs_f64() * 1e9)
}

fn start(plan: &Plan, size: &Size, directory: Option<&Path>) -> anyhow::Result<f64> {
    let world = World::new(plan, "started", directory)?;
    let jobs = world.bootstrap()?.jobs()?.len() as u64;
    ensure!(jobs == size.jobs, "{jobs} jobs are loaded");
    Ok(world.started_in.as_secs_f64() * 1e9)
}

/// Clients that publish names until they are dropped.
fn register(world: &World, size: &Size) -> anyhow::Result<Vec<Process>> {
    progress("publishing names");
    let mut clients = Vec::new();
    for first in (0..size.registered).step_by(REGISTERED_BY_ONE as usize) {
        let count = REGISTERED_BY_ONE.min(size.registered - first);
        let mut client = Part::Register.start(&world.directory, &first.to_string(), count)?;
        client.expect(crate::role::WAITING)?;
        clients.push(client);
    }
    Ok(clients)
}

fn look_ups(world: &World, size: &Size) -> anyhow::Result<Vec<Row>> {
    let declared = size.jobs * size.names_per_job;
    let kinds = [
        (Part::FindDeclared, declared, "a declared name"),
        (Part::FindRegistered, size.registered, "a published name"),
    ];
    let mut rows = Vec::new();
    for (part, among, what) in kinds {
        progress(what);
        let mut best: Option<Found> = None;
        let mut middles = Vec::new();
        for _ in 0..size.rounds {
            let mut client = part.start(&world.directory, &among.to_string(), size.look_ups)?;
            let found: Found = client.answer()?;
            middles.push(found.p50_ns);
            best = Some(
                best.filter(|best| best.p50_ns < found.p50_ns)
                    .unwrap_or(found),
            );
        }
        let found = median(middles).unwrap_or(f64::NAN);
        let best = best.unwrap_or_default();
        rows.push(
            Row::new(
                Chapter::Many,
                format!("look-up of {what}, of {among}"),
                Unit::Nanoseconds,
                found,
            )
            .at_most(MOST_TO_LOOK_UP_NS)
            .beside(format!(
                "{} of them; median of {} rounds of {}; best {}, 99th there {}",
                among.min(LOOKED_UP),
                size.rounds,
                size.look_ups,
                time(best.p50_ns),
                time(best.p99_ns)
            )),
        );
    }
    Ok(rows)
}

fn idling(world: &World, size: &Size) -> anyhow::Result<Vec<Row>> {
    progress("doing nothing");
    // What the last client's end has made for it to do is done first.
    let mut before = Usage::of(&world.processes()?)?;
    super::world::poll("an idle server", || {
        thread::sleep(Duration::from_millis(200));
        let last = std::mem::replace(&mut before, Usage::of(&world.processes()?)?);
        Ok((last.switches == before.switches).then_some(()))
    })?;
    thread::sleep(size.idle);
    let after = Usage::of(&world.processes()?)?;
    let seconds = size.idle.as_secs();
    let wakes = (after.switches - before.switches) as f64;
    Ok(vec![
        Row::new(
            Chapter::Many,
            format!("wake-ups of the idle server in {seconds} s"),
            Unit::Number,
            wakes,
        )
        .at_most(0.0)
        .beside("voluntary and other context switches of holder and server"),
        memory("after the look-ups, with all names", after),
    ])
}

fn killed(world: &World, size: &Size) -> anyhow::Result<Row> {
    progress("killing the server");
    let server = world.bootstrap()?;
    let last = declared(size.jobs * size.names_per_job - 1);
    let took = world.disturb(&server, &last, Disturbance::Kill, || Ok(()))?;
    let what = "until a look-up is answered after kill -9, with all of this";
    let row = Row::new(
        Chapter::Many,
        what,
        Unit::Nanoseconds,
        took.as_nanos() as f64,
    );
    Ok(row.at_most(MOST_TO_COME_BACK_NS))
}

fn memory(when: &str, usage: Usage) -> Row {
    let what = format!("memory of holder and server, {when}");
    Row::new(Chapter::Many, what, Unit::Bytes, usage.rss as f64)
        .at_most(MOST_MEMORY)
        .beside(format!(
            "RSS; PSS {:.1} MiB, {} descriptors",
            usage.pss as f64 / 1_048_576.0,
            usage.descriptors
        ))
}
