//! Restarts and kills of the server while messages pass between two processes that it brought
//! together, and while others wait for a job that is not started.

use std::thread;
use std::time::Duration;

use anyhow::ensure;
use portolan::bootstrap::Bootstrap;
use portolan::{Message, SendRight};

use super::part::{ASK, Counted, LOOSE, Part, Sent};
use super::row::{Row, Unit};
use super::usage::middle_and_99th;
use super::world::{Disturbance, PATIENCE, World, poll, succeed};
use super::{Chapter, Plan};
use crate::report::{rate, time};
use crate::rounds::progress;

const BUSY: &str = "org.example.busy";
const HELD: &str = "org.example.held";

/// Messages per second.
const RATE: u64 = 50_000;

/// Messages for the job that is not started, at each disturbance.
const HELD_EACH: u64 = 10;

/// From one disturbance to the next.
const PAUSE: Duration = Duration::from_millis(500);

/// "Back in under a second".
pub(super) const MOST_TO_COME_BACK_NS: f64 = 1e9;

pub(super) fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let world = World::new(plan, "storm", None)?;
    for (name, part) in [(BUSY, Part::Count), (HELD, Part::Count)] {
        let file = world.write_job(name, part, &[name.to_owned()])?;
        succeed(world.portolan().arg("load").arg(file))?;
    }
    succeed(world.portolan().args(["disable", HELD]))?;
    let server = world.bootstrap()?;
    let busy = server.look_up(&BUSY.parse()?)?;
    let first = ask(&busy)?;
    let mut sender = Part::Send.start(&world.directory, BUSY, RATE)?;
    sender.expect(crate::role::WAITING)?;
    let times = if plan.quick { 2 } else { 10 };
    let (mut restarts, mut kills) = (Vec::new(), Vec::new());
    for round in 0..times {
        progress(&format!("disturbing the server, round {round}"));
        restarts.push(disturb(&world, &server, Disturbance::Restart)?);
        kills.push(disturb(&world, &server, Disturbance::Kill)?);
    }
    sender.order()?;
    let sent: Sent = sender.answer()?;
    let last = ask_for(&busy, sent.messages)?;
    ensure!(last.pid == first.pid, "the service was started anew");
    let held = HELD_EACH * 2 * times;
    let came = held_messages(&world, &server, held)?;
    let mut rows = flow(&sent, &last);
    rows.push(
        Row::new(
            Chapter::Storm,
            "lost of those for a job that did not run",
            Unit::Number,
            held.abs_diff(came.messages) as f64,
        )
        .at_most(0.0)
        .beside(format!("of {held}, {HELD_EACH} at each disturbance")),
    );
    rows.push(came_back("a restart in place", restarts));
    rows.push(came_back("kill -9", kills));
    Ok(rows)
}

fn ask(right: &SendRight) -> anyhow::Result<Counted> {
    let answer = right.request(Message::new(ASK), PATIENCE, PATIENCE)?;
    Ok(serde_json::from_slice(answer.bytes())?)
}

/// Has the server end, and gives the time until the next one has answered a look-up.
fn disturb(world: &World, server: &Bootstrap, how: Disturbance) -> anyhow::Result<u64> {
    thread::sleep(PAUSE);
    let right = server.look_up(&HELD.parse()?)?;
    let until_back = world.disturb(server, BUSY, how, || {
        for _ in 0..HELD_EACH {
            right.send(Message::new(LOOSE), PATIENCE)?;
        }
        Ok(())
    })?;
    Ok(until_back.as_nanos() as u64)
}

fn held_messages(world: &World, server: &Bootstrap, held: u64) -> anyhow::Result<Counted> {
    succeed(world.portolan().args(["enable", HELD]))?;
    let right = server.look_up(&HELD.parse()?)?;
    ask_for(&right, held)
}

/// What has come once so many messages have, or in vain waiting for them: a request is not behind the
/// messages of another sender.
fn ask_for(right: &SendRight, messages: u64) -> anyhow::Result<Counted> {
    let came = poll("the last message", || {
        let came = ask(right)?;
        Ok((came.messages >= messages).then_some(came))
    });
    came.or_else(|_| ask(right))
}

fn flow(sent: &Sent, counted: &Counted) -> Vec<Row> {
    let lost = sent.messages.abs_diff(counted.messages);
    let row = |what: &str, unit, found| Row::new(Chapter::Storm, what, unit, found);
    vec![
        row(
            "lost of the messages to a service that ran",
            Unit::Number,
            lost as f64,
        )
        .at_most(0.0)
        .beside(format!(
            "of {}, {} per second",
            sent.messages,
            rate(sent.per_second)
        )),
        row(
            "of those, out of order",
            Unit::Number,
            counted.out_of_order as f64,
        )
        .at_most(0.0),
        row(
            "the longest that one of them took to send",
            Unit::Nanoseconds,
            sent.longest_ns as f64,
        ),
    ]
}

fn came_back(after: &str, mut times: Vec<u64>) -> Row {
    let count = times.len();
    let longest = times.iter().max().copied().unwrap_or(0) as f64;
    let (middle, _) = middle_and_99th(&mut times);
    let what = format!("until a look-up is answered after {after}, the longest");
    Row::new(Chapter::Storm, what, Unit::Nanoseconds, longest)
        .at_most(MOST_TO_COME_BACK_NS)
        .beside(format!("of {count}; median {}", time(middle)))
}
