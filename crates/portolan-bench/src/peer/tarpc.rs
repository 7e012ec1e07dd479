//! tarpc with bincode over a Unix socket, each side on a runtime of one thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use serde_bytes::ByteBuf;
use tarpc::client::RpcError;
use tarpc::context::{self, Context};
use tarpc::serde_transport::unix;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tokio::runtime::Runtime;

use super::Client;
use crate::cell::{Action, Cell};
use crate::payload::{Source, sum};

#[tarpc::service]
trait Bench {
    async fn echo(bytes: ByteBuf) -> ByteBuf;
    async fn sum(bytes: ByteBuf) -> u64;
    async fn add(bytes: ByteBuf);
    async fn total() -> u64;
}

#[derive(Clone, Default)]
struct Server {
    total: Arc<AtomicU64>,
}

impl Bench for Server {
    async fn echo(self, _: Context, bytes: ByteBuf) -> ByteBuf {
        std::hint::black_box(sum(&bytes));
        bytes
    }

    async fn sum(self, _: Context, bytes: ByteBuf) -> u64 {
        sum(&bytes)
    }

    async fn add(self, _: Context, bytes: ByteBuf) {
        self.total.fetch_add(sum(&bytes), Ordering::Relaxed);
    }

    async fn total(self, _: Context) -> u64 {
        self.total.swap(0, Ordering::Relaxed)
    }
}

pub(super) fn serve(cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<()> {
    let server = Server::default();
    runtime()?.block_on(async {
        let mut listener = unix::listen(cell.directory.join("tarpc"), Bincode::default).await?;
        listener.config_mut().max_frame_length(usize::MAX);
        ready();
        while let Some(connection) = listener.next().await {
            let responses = BaseChannel::with_defaults(connection?).execute(server.clone().serve());
            tokio::spawn(responses.for_each(async |response| {
                tokio::spawn(response);
            }));
        }
        Ok(())
    })
}

struct Tarpc {
    runtime: Arc<Runtime>,
    client: BenchClient,
    path: PathBuf,
    sum: bool,
    in_flight: FuturesUnordered<BoxFuture<'static, Result<(), RpcError>>>,
}

/// Calls that are sent before the first is answered: tarpc has none that is not.
const IN_FLIGHT: usize = 128;

pub(super) fn connect(cell: &Cell) -> anyhow::Result<Box<dyn Client>> {
    let runtime = Arc::new(runtime()?);
    let path = cell.directory.join("tarpc");
    let client = dial(&runtime, &path)?;
    Ok(Box::new(Tarpc {
        runtime,
        client,
        path,
        sum: cell.task.action == Action::Sum,
        in_flight: FuturesUnordered::new(),
    }))
}

impl Client for Tarpc {
    fn round_trip(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        let bytes = ByteBuf::from(source.vector(length));
        let (client, context) = (&self.client, context::current());
        self.runtime.block_on(async {
            if self.sum {
                return Ok(client.sum(context, bytes).await?);
            }
            Ok(sum(&client.echo(context, bytes).await?))
        })
    }

    fn send(&mut self, source: &mut Source, length: usize) -> anyhow::Result<()> {
        let (client, bytes) = (self.client.clone(), ByteBuf::from(source.vector(length)));
        let call = async move { client.add(context::current(), bytes).await };
        self.in_flight.push(call.boxed());
        if self.in_flight.len() >= IN_FLIGHT {
            let next = self.runtime.block_on(self.in_flight.next());
            next.context("nothing is in flight")??;
        }
        Ok(())
    }

    fn total(&mut self) -> anyhow::Result<u64> {
        self.runtime.block_on(async {
            while let Some(result) = self.in_flight.next().await {
                result?;
            }
            Ok(self.client.total(context::current()).await?)
        })
    }

    fn find(&self) -> anyhow::Result<Box<dyn Client>> {
        Ok(Box::new(Self {
            runtime: Arc::clone(&self.runtime),
            client: dial(&self.runtime, &self.path)?,
            path: PathBuf::new(),
            sum: false,
            in_flight: FuturesUnordered::new(),
        }))
    }
}

fn dial(runtime: &Runtime, path: &PathBuf) -> std::io::Result<BenchClient> {
    runtime.block_on(async {
        let mut transport = unix::connect(path, Bincode::default);
        transport.config_mut().max_frame_length(usize::MAX);
        let config = tarpc::client::Config::default();
        Ok(BenchClient::new(config, transport.await?).spawn())
    })
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
