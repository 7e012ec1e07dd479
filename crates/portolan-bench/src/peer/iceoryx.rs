//! iceoryx2: request and response over shared memory, written in place; publish and subscribe one
//! way. Either side polls, or waits for an event.

use std::path::Path as StdPath;

use anyhow::{Context, anyhow};
use iceoryx2::node::Node;
use iceoryx2::port::client::Client as RequestClient;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::server::Server as RequestServer;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{
    BackpressureStrategy, Config, FileName, LogLevel, NodeBuilder, Path, SemanticString,
    ServiceName, ipc, set_log_level,
};
use iceoryx2::service::port_factory;

use super::{Client, Peer};
use crate::cell::{Action, Cell};
use crate::payload::Source;

type Service = ipc::Service;
type Requests = port_factory::request_response::PortFactory<Service, [u64], (), [u64], ()>;
type Stream = port_factory::publish_subscribe::PortFactory<Service, [u64], ()>;

/// The start of the names of all shared memory of a cell.
pub(crate) fn prefix(directory: &StdPath) -> String {
    let last = |path: &StdPath| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let run = directory.parent().and_then(last).unwrap_or_default();
    format!("{run}_{}_", last(directory).unwrap_or_default())
}

/// Removes shared memory that killed processes have left.
pub(crate) fn clean_up(directory: &StdPath) -> std::io::Result<()> {
    let prefix = prefix(directory);
    for entry in std::fs::read_dir("/dev/shm")? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn node(cell: &Cell) -> anyhow::Result<Node<Service>> {
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    config.global.prefix = name(FileName::new(prefix(&cell.directory).as_bytes()))?;
    let root = cell.directory.to_string_lossy();
    config
        .global
        .set_root_path(&name(Path::new(root.as_bytes()))?);
    Ok(NodeBuilder::new().config(&config).create()?)
}

/// Their errors on names are no `Error`s.
fn name<T, E: std::fmt::Debug>(result: Result<T, E>) -> anyhow::Result<T> {
    result.map_err(|error| anyhow!("{error:?}"))
}

fn service_name(text: &str) -> anyhow::Result<ServiceName> {
    name(ServiceName::new(text))
}

fn requests(node: &Node<Service>) -> anyhow::Result<Requests> {
    let builder = node.service_builder(&service_name("requests")?);
    Ok(builder
        .request_response::<[u64], [u64]>()
        .max_clients(16)
        .max_nodes(32)
        .open_or_create()?)
}

fn stream(node: &Node<Service>) -> anyhow::Result<Stream> {
    let builder = node.service_builder(&service_name("stream")?);
    Ok(builder
        .publish_subscribe::<[u64]>()
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(256)
        .open_or_create()?)
}

/// What wakes one side; `None` if it polls.
struct Bells {
    mine: Listener<Service>,
    theirs: Notifier<Service>,
}

impl Bells {
    fn new(
        node: &Node<Service>,
        cell: &Cell,
        mine: &str,
        theirs: &str,
    ) -> anyhow::Result<Option<Self>> {
        if cell.peer == Peer::Iceoryx2Polling {
            return Ok(None);
        }
        let open = |text: &str| {
            let builder = node.service_builder(&service_name(text)?).event();
            anyhow::Ok(builder.open_or_create()?)
        };
        Ok(Some(Self {
            mine: open(mine)?.listener_builder().create()?,
            theirs: open(theirs)?.notifier_builder().create()?,
        }))
    }
}

fn wait(bells: Option<&Bells>) -> anyhow::Result<()> {
    match bells {
        None => std::hint::spin_loop(),
        Some(bells) => {
            name(bells.mine.blocking_wait(|_| {}))?;
        }
    }
    Ok(())
}

fn ring(bells: Option<&Bells>) -> anyhow::Result<()> {
    if let Some(bells) = bells {
        name(bells.theirs.notify())?;
    }
    Ok(())
}

pub(super) fn serve(cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<()> {
    let node = node(cell)?;
    let bells = Bells::new(&node, cell, "to-server", "to-client")?;
    let requests = requests(&node)?;
    let mut server = Server {
        requests: requests
            .server_builder()
            .initial_max_slice_len(cell.task.bytes / 8)
            .create()?,
        stream: None,
        action: cell.task.action,
        total: 0,
    };
    if cell.task.action == Action::Stream {
        server.stream = Some(
            stream(&node)?
                .subscriber_builder()
                .buffer_size(256)
                .create()?,
        );
    }
    ready();
    loop {
        while server.serve_one(bells.as_ref())? {}
        wait(bells.as_ref())?;
    }
}

struct Server {
    requests: RequestServer<Service, [u64], (), [u64], ()>,
    stream: Option<Subscriber<Service, [u64], ()>>,
    action: Action,
    total: u64,
}

impl Server {
    /// Returns false if there is nothing to serve.
    fn serve_one(&mut self, bells: Option<&Bells>) -> anyhow::Result<bool> {
        if self.add_one()? {
            return Ok(true);
        }
        let Some(request) = self.requests.receive()? else {
            return Ok(false);
        };
        let sum = sum(request.payload());
        match self.action {
            Action::Stream => {
                // More may have come between the last look and the question.
                while self.add_one()? {}
                let total = std::mem::take(&mut self.total);
                request
                    .loan_slice_uninit(1)?
                    .write_from_slice(&[total])
                    .send()?;
            }
            Action::Sum => {
                request
                    .loan_slice_uninit(1)?
                    .write_from_slice(&[sum])
                    .send()?;
            }
            _ => {
                std::hint::black_box(sum);
                let answer = request.loan_slice_uninit(request.payload().len())?;
                answer.write_from_slice(request.payload()).send()?;
            }
        }
        ring(bells)?;
        Ok(true)
    }

    /// Returns false if nothing has come one way.
    fn add_one(&mut self) -> anyhow::Result<bool> {
        let Some(stream) = &self.stream else {
            return Ok(false);
        };
        let Some(sample) = stream.receive()? else {
            return Ok(false);
        };
        self.total = self.total.wrapping_add(sum(sample.payload()));
        Ok(true)
    }
}

fn sum(words: &[u64]) -> u64 {
    words
        .iter()
        .fold(0, |total, word| total.wrapping_add(*word))
}

struct Iceoryx {
    cell: Cell,
    node: std::rc::Rc<Node<Service>>,
    bells: Option<Bells>,
    requests: RequestClient<Service, [u64], (), [u64], ()>,
    stream: Option<Publisher<Service, [u64], ()>>,
}

pub(super) fn connect(cell: &Cell) -> anyhow::Result<Box<dyn Client>> {
    let mut client = Iceoryx::new(cell, std::rc::Rc::new(node(cell)?))?;
    if cell.task.action == Action::Stream {
        client.start_stream()?;
    }
    Ok(Box::new(client))
}

impl Iceoryx {
    fn new(cell: &Cell, node: std::rc::Rc<Node<Service>>) -> anyhow::Result<Self> {
        let words = cell.task.bytes / 8;
        let bells = Bells::new(&node, cell, "to-client", "to-server")?;
        let requests = requests(&node)?
            .client_builder()
            .initial_max_slice_len(words)
            .create()?;
        let stream = (cell.task.action == Action::Stream).then(|| {
            anyhow::Ok(
                stream(&node)?
                    .publisher_builder()
                    .initial_max_slice_len(words)
                    .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
                    .create()?,
            )
        });
        Ok(Self {
            cell: cell.clone(),
            node,
            bells,
            requests,
            stream: stream.transpose()?,
        })
    }

    /// What is published before the subscriber has seen the publisher is lost without a word.
    fn start_stream(&mut self) -> anyhow::Result<()> {
        let mut arrived = 0;
        let mut source = Source::new(1);
        while arrived < 8 {
            self.send(&mut source, 8)?;
            arrived += u32::from(self.total()? != 0);
        }
        Ok(())
    }
}

impl Client for Iceoryx {
    fn round_trip(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        let request = self.requests.loan_slice_uninit(length / 8)?;
        let pending = request.write_from_fn(|_| source.word()).send()?;
        ring(self.bells.as_ref())?;
        loop {
            if let Some(answer) = pending.receive()? {
                return Ok(sum(answer.payload()));
            }
            wait(self.bells.as_ref())?;
        }
    }

    fn send(&mut self, source: &mut Source, length: usize) -> anyhow::Result<()> {
        let stream = self.stream.as_ref().context("no stream")?;
        let sample = stream.loan_slice_uninit(length / 8)?;
        sample.write_from_fn(|_| source.word()).send()?;
        ring(self.bells.as_ref())
    }

    fn total(&mut self) -> anyhow::Result<u64> {
        self.round_trip(&mut Source::new(0), 8)
    }

    fn find(&self) -> anyhow::Result<Box<dyn Client>> {
        Ok(Box::new(Self::new(
            &self.cell,
            std::rc::Rc::clone(&self.node),
        )?))
    }
}
