//! The first answer of a service that does not run, beside fork and exec of the same program.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portolan::Message;
use portolan::bootstrap::Bootstrap;
use portolan::bootstrap::jobs::JobState;

use super::part::Part;
use super::row::{Row, Unit};
use super::usage::middle_and_99th;
use super::world::{PATIENCE, World, poll, succeed};
use super::{Chapter, Plan};
use crate::report::time;
use crate::rounds::progress;

const NAME: &str = "org.example.cold";

/// How much longer than fork and exec a first answer may take.
const MOST: f64 = 1.3;

#[derive(Default)]
struct Times {
    bare: Vec<u64>,
    with_look_up: Vec<u64>,
    answer: Vec<u64>,
}

pub(super) fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    progress("cold service");
    let world = World::new(plan, "cold", None)?;
    let file = world.write_job(NAME, Part::Once, &[NAME.to_owned()])?;
    succeed(world.portolan().arg("load").arg(file))?;
    let server = world.bootstrap()?;
    let mut times = Times::default();
    let rounds = if plan.quick { 50 } else { 1000 };
    for round in 0..rounds + WARM_UP {
        let taken = (first_write()?, first_answer(&server)?);
        if round >= WARM_UP {
            times.add(taken);
        }
    }
    Ok(times.rows())
}

/// Rounds that do not count.
const WARM_UP: usize = 5;

impl Times {
    fn add(&mut self, (bare, (look_up, answer)): (Duration, (Duration, Duration))) {
        self.bare.push(bare.as_nanos() as u64);
        self.answer.push(answer.as_nanos() as u64);
        self.with_look_up.push((look_up + answer).as_nanos() as u64);
    }

    fn rows(mut self) -> Vec<Row> {
        let rounds = self.bare.len();
        let (bare, bare_99th) = middle_and_99th(&mut self.bare);
        let (answer, answer_99th) = middle_and_99th(&mut self.answer);
        let (with_look_up, _) = middle_and_99th(&mut self.with_look_up);
        let best = |times: &[u64]| times.first().copied().unwrap_or(0) as f64;
        let row = |what: &str, unit, found| Row::new(Chapter::Cold, what, unit, found);
        let tail = |p99, best| format!("99th {}, best {}", time(p99), time(best));
        vec![
            row("fork and exec to the first write", Unit::Nanoseconds, bare)
                .beside(tail(bare_99th, best(&self.bare))),
            row("first answer of a cold service", Unit::Nanoseconds, answer)
                .beside(tail(answer_99th, best(&self.answer))),
            row("its ratio", Unit::Times, answer / bare)
                .at_most(MOST)
                .beside(format!(
                    "medians of {rounds} rounds; of the best {:.2}",
                    best(&self.answer) / best(&self.bare)
                )),
            row(
                "the same with the look-up before it",
                Unit::Times,
                with_look_up / bare,
            )
            .beside(time(with_look_up)),
        ]
    }
}

/// From before the process is made to its first byte.
fn first_write() -> anyhow::Result<Duration> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(Part::FirstWrite.arguments(NAME, 0))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let began = Instant::now();
    let mut child = command.spawn()?;
    let mut out = child.stdout.take().context("no standard output")?;
    out.read_exact(&mut [0])?;
    let took = began.elapsed();
    ensure!(child.wait()?.success(), "it failed");
    Ok(took)
}

/// The look-up, and from before the first message to its answer.
fn first_answer(server: &Bootstrap) -> anyhow::Result<(Duration, Duration)> {
    let label = NAME.parse()?;
    poll("the end of the service", || {
        let is_idle = server.job(&label)?.summary.state == JobState::Idle;
        Ok(is_idle.then_some(()))
    })?;
    let name = NAME.parse()?;
    let began = Instant::now();
    let right = server.look_up(&name)?;
    let found = Instant::now();
    let answer = right.request(Message::new(7), PATIENCE, PATIENCE)?;
    let took = found.elapsed();
    ensure!(answer.id() == 7, "the answer is wrong");
    Ok((found - began, took))
}
