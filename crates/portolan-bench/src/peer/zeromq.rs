//! ZeroMQ over `ipc://`: REQ and REP, and PUSH and PULL one way.

use anyhow::ensure;
use zmq::{Context, Message, Socket, SocketType};

use super::Client;
use crate::cell::{Action, Cell};
use crate::payload::{Source, sum};

pub(super) fn serve(cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<()> {
    let context = Context::new();
    if cell.task.action == Action::Stream {
        return serve_stream(&context, cell, ready);
    }
    let server = bind(&context, zmq::REP, cell, "requests")?;
    ready();
    loop {
        let request = server.recv_msg(0)?;
        let sum = sum(&request);
        if cell.task.action == Action::Sum {
            server.send(&sum.to_le_bytes()[..], 0)?;
        } else {
            std::hint::black_box(sum);
            server.send(request, 0)?;
        }
    }
}

fn serve_stream(context: &Context, cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<()> {
    let messages = bind(context, zmq::PULL, cell, "requests")?;
    let answers = bind(context, zmq::PUSH, cell, "answers")?;
    ready();
    let mut total = 0u64;
    loop {
        let message = messages.recv_msg(0)?;
        if message.is_empty() {
            answers.send(&std::mem::take(&mut total).to_le_bytes()[..], 0)?;
        } else {
            total = total.wrapping_add(sum(&message));
        }
    }
}

struct ZeroMq {
    context: Context,
    /// Both ways with REQ.
    requests: Socket,
    answers: Option<Socket>,
    endpoint: String,
}

pub(super) fn connect(cell: &Cell) -> anyhow::Result<Box<dyn Client>> {
    let context = Context::new();
    let one_way = cell.task.action == Action::Stream;
    let kind = if one_way { zmq::PUSH } else { zmq::REQ };
    let endpoint = endpoint(cell, "requests");
    let requests = dial(&context, kind, &endpoint)?;
    let answers = one_way
        .then(|| dial(&context, zmq::PULL, &self::endpoint(cell, "answers")))
        .transpose()?;
    Ok(Box::new(ZeroMq {
        context,
        requests,
        answers,
        endpoint,
    }))
}

impl Client for ZeroMq {
    fn round_trip(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        self.send(source, length)?;
        Ok(sum(&self.requests.recv_msg(0)?))
    }

    fn send(&mut self, source: &mut Source, length: usize) -> anyhow::Result<()> {
        let mut message = Message::with_size(length);
        source.fill(&mut message);
        Ok(self.requests.send(message, 0)?)
    }

    fn total(&mut self) -> anyhow::Result<u64> {
        self.requests.send(Message::new(), 0)?;
        let answers = self.answers.as_ref();
        ensure!(answers.is_some(), "there is no way back");
        let answer = answers.map(|answers| answers.recv_msg(0)).transpose()?;
        Ok(answer.map_or(0, |answer| sum(&answer)))
    }

    fn find(&self) -> anyhow::Result<Box<dyn Client>> {
        Ok(Box::new(Self {
            context: self.context.clone(),
            requests: dial(&self.context, zmq::REQ, &self.endpoint)?,
            answers: None,
            endpoint: String::new(),
        }))
    }
}

fn bind(context: &Context, kind: SocketType, cell: &Cell, name: &str) -> zmq::Result<Socket> {
    let socket = context.socket(kind)?;
    socket.bind(&endpoint(cell, name))?;
    Ok(socket)
}

fn dial(context: &Context, kind: SocketType, endpoint: &str) -> zmq::Result<Socket> {
    let socket = context.socket(kind)?;
    // Else ending the process waits for a peer that is gone.
    socket.set_linger(0)?;
    socket.connect(endpoint)?;
    Ok(socket)
}

fn endpoint(cell: &Cell, name: &str) -> String {
    format!("ipc://{}", cell.directory.join(name).display())
}
