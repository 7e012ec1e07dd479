//! ipc-channel with typed messages, in which bytes are bytes to serde.
//!
//! Names of one-shot servers go over a socket of their own, which takes no part in what is
//! measured.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcReceiverSet, IpcSender};
use serde::{Deserialize, Serialize};

use super::Client;
use crate::cell::{Action, Cell};
use crate::payload::{Source, sum};

#[derive(Serialize, Deserialize)]
enum Request {
    Hello(IpcSender<Answer>),
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// To be answered through what goes along.
    Right(#[serde(with = "serde_bytes")] Vec<u8>, IpcSender<Answer>),
    /// Asks for the total.
    End,
}

#[derive(Serialize, Deserialize)]
struct Answer(#[serde(with = "serde_bytes")] Vec<u8>);

pub(super) fn serve(cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<()> {
    let listener = UnixListener::bind(cell.directory.join("names"))?;
    ready();
    let mut server = Server {
        action: cell.task.action,
        total: 0,
    };
    if cell.task.action == Action::Find {
        loop {
            let (_, first) = introduce(&listener)?;
            server.serve(first, None)?;
        }
    }
    if cell.task.clients > 1 {
        return serve_many(&listener, cell.task.clients, &mut server);
    }
    let (requests, first) = introduce(&listener)?;
    let Request::Hello(answers) = first else {
        bail!("a client without manners");
    };
    loop {
        server.serve(requests.recv()?, Some(&answers))?;
    }
}

fn serve_many(listener: &UnixListener, clients: usize, server: &mut Server) -> anyhow::Result<()> {
    let mut set = IpcReceiverSet::new()?;
    let mut answers = std::collections::HashMap::new();
    for _ in 0..clients {
        let (requests, first) = introduce(listener)?;
        if let Request::Hello(to) = first {
            answers.insert(set.add(requests)?, to);
        }
    }
    while !answers.is_empty() {
        for event in set.select()? {
            match event {
                ipc::IpcSelectionResult::MessageReceived(id, message) => {
                    server.serve(message.to()?, answers.get(&id))?;
                }
                ipc::IpcSelectionResult::ChannelClosed(id) => drop(answers.remove(&id)),
            }
        }
    }
    Ok(())
}

/// Tells one client a name, and waits for it to come there.
fn introduce(listener: &UnixListener) -> anyhow::Result<(IpcReceiver<Request>, Request)> {
    let (mut to, _) = listener.accept()?;
    let (server, name) = IpcOneShotServer::new()?;
    writeln!(to, "{name}")?;
    Ok(server.accept()?)
}

struct Server {
    action: Action,
    total: u64,
}

impl Server {
    fn serve(&mut self, request: Request, to: Option<&IpcSender<Answer>>) -> anyhow::Result<()> {
        let (answer, right) = match request {
            Request::Hello(_) => bail!("one hello too many"),
            Request::Bytes(bytes) => {
                let sum = sum(&bytes);
                match self.action {
                    Action::Stream => {
                        self.total = self.total.wrapping_add(sum);
                        return Ok(());
                    }
                    Action::Sum => (sum.to_le_bytes().to_vec(), None),
                    _ => {
                        std::hint::black_box(sum);
                        (bytes, None)
                    }
                }
            }
            Request::Right(bytes, right) => {
                std::hint::black_box(sum(&bytes));
                (bytes, Some(right))
            }
            Request::End => (std::mem::take(&mut self.total).to_le_bytes().to_vec(), None),
        };
        let to = right.as_ref().or(to).context("nobody to answer")?;
        Ok(to.send(Answer(answer))?)
    }
}

struct Typed {
    requests: IpcSender<Request>,
    /// `None` for one that was found by its name: its first message brings the way back along.
    answers: Option<IpcReceiver<Answer>>,
    directory: PathBuf,
    next: String,
}

pub(super) fn connect(cell: &Cell) -> anyhow::Result<Box<dyn Client>> {
    let requests = IpcSender::connect(next_name(&cell.directory)?)?;
    let (to, answers) = ipc::channel()?;
    if cell.task.action == Action::Find {
        requests.send(Request::Right(vec![0; 64], to))?;
        answers.recv()?;
    } else {
        requests.send(Request::Hello(to))?;
    }
    Ok(Box::new(Typed {
        requests,
        answers: Some(answers),
        directory: cell.directory.clone(),
        next: String::new(),
    }))
}

fn next_name(directory: &Path) -> anyhow::Result<String> {
    let mut name = String::new();
    BufReader::new(UnixStream::connect(directory.join("names"))?).read_line(&mut name)?;
    Ok(name.trim_end().to_owned())
}

impl Client for Typed {
    fn round_trip(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        let Some(answers) = &self.answers else {
            return self.pass_right(source, length);
        };
        self.requests.send(Request::Bytes(source.vector(length)))?;
        Ok(sum(&answers.recv()?.0))
    }

    fn send(&mut self, source: &mut Source, length: usize) -> anyhow::Result<()> {
        Ok(self.requests.send(Request::Bytes(source.vector(length)))?)
    }

    fn total(&mut self) -> anyhow::Result<u64> {
        self.requests.send(Request::End)?;
        let answers = self.answers.as_ref().context("no way back")?;
        Ok(sum(&answers.recv()?.0))
    }

    fn pass_right(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        let (to, answers) = ipc::channel()?;
        self.requests
            .send(Request::Right(source.vector(length), to))?;
        Ok(sum(&answers.recv()?.0))
    }

    fn prepare_to_find(&mut self) -> anyhow::Result<()> {
        self.next = next_name(&self.directory)?;
        Ok(())
    }

    fn find(&self) -> anyhow::Result<Box<dyn Client>> {
        Ok(Box::new(Self {
            requests: IpcSender::connect(self.next.clone())?,
            answers: None,
            directory: PathBuf::new(),
            next: String::new(),
        }))
    }
}
