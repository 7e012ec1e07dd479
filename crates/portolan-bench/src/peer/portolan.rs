//! Portolan. Clients connect to a socket in the cell's directory; to be found by name, the server
//! registers with a bootstrap server, a process of its own as in real use.

use std::io::BufRead;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use portolan::bootstrap::{Bootstrap, ConnectError};
use portolan::{
    Body, Message, ReceiveBatch, ReceiveRight, Right, SendRight, ServiceName, Timeout, WaitPolicy,
};
use portoland::daemon::{self, Mode};

use super::Client;
use super::socket::{Seqpacket, dial, listen};
use crate::cell::{Action, Cell, Policy};
use crate::payload::{Source, sum};

/// Messages from here on are written in place.
const LARGE: usize = 32 << 10;

const NAME: &str = "org.portolan.bench";

pub(super) fn serve(cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<()> {
    let port = open(cell, ready)?;
    port.set_wait_policy(policy(cell));
    if cell.task.action == Action::Stream {
        return serve_stream(&port);
    }
    loop {
        let mut request = port.receive(Timeout::NEVER)?;
        if cell.task.action == Action::Sum {
            let sum = sum_of_pieces(request.take_body())?;
            request
                .take_reply()
                .context("no reply right")?
                .send(word(sum))?;
            continue;
        }
        let sum = sum(request.bytes());
        let reply = request.take_reply();
        match cell.task.action {
            Action::PassRight => answer_right(&mut request)?,
            Action::Sum | Action::Stream | Action::Echo | Action::Find | Action::Idle => {
                let answer = Message::new(0).with_bytes(request.into_bytes());
                std::hint::black_box(sum);
                reply.context("no reply right")?.send(answer)?;
            }
        }
    }
}

/// What a message of words adds up to, read piece by piece.
fn sum_of_pieces(mut body: Body) -> anyhow::Result<u64> {
    let mut total = 0u64;
    while body.remaining() > 0 {
        let piece = body.fill_buf()?;
        total = total.wrapping_add(sum(piece));
        let count = piece.len();
        body.consume(count);
    }
    Ok(total)
}

fn serve_stream(port: &ReceiveRight) -> anyhow::Result<()> {
    let (mut batch, mut total) = (ReceiveBatch::new(), 0u64);
    loop {
        port.receive_batch(&mut batch, Timeout::NEVER)?;
        let sums = batch.messages().map(|message| sum(message.bytes()));
        total = sums.fold(total, u64::wrapping_add);
        if let Some(reply) = batch.take_message().and_then(|mut m| m.take_reply()) {
            reply.send(word(std::mem::take(&mut total)))?;
        }
    }
}

/// Runs a bootstrap server until this process is killed.
pub(super) fn run_names(directory: &Path) -> anyhow::Result<()> {
    daemon::run(directory, Mode::Foreground)?;
    Ok(())
}

fn open(cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<ReceiveRight> {
    if cell.task.action == Action::Find {
        let bootstrap = started(&cell.directory)?;
        let port = bootstrap.check_in(&name()?)?;
        ready();
        return Ok(port);
    }
    let port = ReceiveRight::new()?;
    let listener = listen::<Seqpacket>(&cell.directory)?;
    ready();
    for _ in 0..cell.task.clients {
        port.adopt(rustix::net::accept(&listener)?, 0)?;
    }
    Ok(port)
}

/// The bootstrap server, which was started just before this process.
fn started(directory: &Path) -> anyhow::Result<Bootstrap> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Bootstrap::connect(directory) {
            Err(ConnectError::NoServer { .. }) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            result => return Ok(result?),
        }
    }
}

fn answer_right(request: &mut Message) -> anyhow::Result<()> {
    let answer = Message::new(0).with_bytes(request.bytes());
    match request.take_rights().pop() {
        Some(Right::Send(right)) => Ok(right.send(answer, Timeout::NEVER)?),
        Some(Right::SendOnce(right)) => Ok(right.send(answer)?),
        _ => anyhow::bail!("no right in the message"),
    }
}

fn policy(cell: &Cell) -> WaitPolicy {
    match cell.policy {
        Some(Policy::Adaptive) | None => WaitPolicy::Adaptive,
        Some(Policy::Block) => WaitPolicy::Block,
        Some(Policy::Spin) => WaitPolicy::Spin,
    }
}

fn word(word: u64) -> Message {
    Message::new(0).with_bytes(word.to_le_bytes())
}

fn name() -> anyhow::Result<ServiceName> {
    Ok(ServiceName::from_bytes(NAME.as_bytes())?)
}

struct Portolan {
    right: SendRight,
    policy: WaitPolicy,
    bootstrap: Option<(Bootstrap, ServiceName)>,
    idle: Vec<SendRight>,
    /// Where answers come through rights that are sent along.
    answers: ReceiveRight,
    batches: bool,
    bytes: Vec<u8>,
}

pub(super) fn connect(cell: &Cell) -> anyhow::Result<Box<dyn Client>> {
    if cell.task.action == Action::Find {
        let (bootstrap, name) = (Bootstrap::connect(&cell.directory)?, name()?);
        let mut client = Portolan::with(bootstrap.look_up(&name)?, policy(cell))?;
        client.bootstrap = Some((bootstrap, name));
        return Ok(Box::new(client));
    }
    let socket = dial::<Seqpacket>(&cell.directory)?;
    let right = SendRight::from_socket(socket)?;
    let mut client = Portolan::with(right, policy(cell))?;
    client.batches = cell.task.batches;
    Ok(Box::new(client))
}

impl Portolan {
    fn with(right: SendRight, policy: WaitPolicy) -> anyhow::Result<Self> {
        right.set_wait_policy(policy);
        Ok(Self {
            answers: ReceiveRight::new()?,
            right,
            policy,
            bootstrap: None,
            idle: Vec::new(),
            batches: false,
            bytes: Vec::new(),
        })
    }
}

impl Client for Portolan {
    fn round_trip(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        round_trip(&self.right, source, length)
    }

    fn send(&mut self, source: &mut Source, length: usize) -> anyhow::Result<()> {
        self.bytes.resize(length, 0);
        source.fill(&mut self.bytes);
        Ok(self.right.send_bytes(1, &self.bytes, Timeout::NEVER)?)
    }

    fn send_many(&mut self, source: &mut Source, length: usize, count: u64) -> anyhow::Result<()> {
        if !self.batches {
            return (0..count).try_for_each(|_| self.send(source, length));
        }
        let mut batch = self.right.batch(Timeout::NEVER);
        self.bytes.resize(length, 0);
        for _ in 0..count {
            source.fill(&mut self.bytes);
            batch.push(1, &self.bytes)?;
        }
        Ok(batch.publish()?)
    }

    fn total(&mut self) -> anyhow::Result<u64> {
        round_trip(&self.right, &mut Source::new(0), 0)
    }

    fn pass_right(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        let message = Message::new(1)
            .with_bytes(source.vector(length))
            .with_right(self.answers.make_send_once()?);
        self.right.send(message, Timeout::NEVER)?;
        Ok(sum(self.answers.receive(Timeout::NEVER)?.bytes()))
    }

    fn find(&self) -> anyhow::Result<Box<dyn Client>> {
        let (bootstrap, name) = self.bootstrap.as_ref().context("no bootstrap server")?;
        let right = bootstrap.look_up(name)?;
        Ok(Box::new(Self::with(right, self.policy)?))
    }

    fn open_idle(&mut self, count: usize, used: bool) -> anyhow::Result<()> {
        let mut source = Source::new(0);
        for _ in 0..count {
            let right = self.right.copy(Timeout::NEVER)?;
            // Enough for it to go over to memory, as clients do that are worth waiting for.
            for _ in 0..if used { 8 } else { 0 } {
                round_trip(&right, &mut source, 64)?;
            }
            self.idle.push(right);
        }
        // What makes the channels went this way, so they are all there when the answer comes.
        round_trip(&self.right, &mut source, 64).map(drop)
    }
}

fn round_trip(right: &SendRight, source: &mut Source, length: usize) -> anyhow::Result<u64> {
    let request = if length < LARGE {
        Message::new(1).with_bytes(source.vector(length))
    } else {
        let mut loan = right.lend(length);
        source.fill(&mut loan);
        Message::new(1).with_loan(loan)
    };
    let answer = right.request(request, Timeout::NEVER, Timeout::NEVER)?;
    Ok(sum(answer.bytes()))
}
