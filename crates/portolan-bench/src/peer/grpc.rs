//! gRPC with tonic over a Unix socket, each side on a runtime of one thread. The messages are
//! written by hand, as `prost` would be told to make them.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use anyhow::Context;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use prost::bytes::Bytes;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{Request as HttpRequest, Response as HttpResponse};
use tonic::server::{ClientStreamingService, NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::Client;
use crate::cell::{Action, Cell};
use crate::payload::{Source, sum};

#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    bytes: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Total {
    #[prost(fixed64, tag = "1")]
    sum: u64,
}

const ECHO: &str = "/portolan.Bench/Echo";
const SUM: &str = "/portolan.Bench/Sum";
const STREAM: &str = "/portolan.Bench/Stream";
const LARGEST: usize = 64 << 20;
const WINDOW: u32 = 64 << 20;

#[derive(Clone)]
struct Bench;

impl NamedService for Bench {
    const NAME: &'static str = "portolan.Bench";
}

impl tower::Service<HttpRequest<Body>> for Bench {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(match request.uri().path() {
                ECHO => grpc().unary(Echo, request).await,
                SUM => grpc().unary(Sum, request).await,
                STREAM => grpc().client_streaming(AddUp, request).await,
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

fn grpc<T, U>() -> tonic::server::Grpc<ProstCodec<T, U>>
where
    T: prost::Message + 'static,
    U: prost::Message + Default + 'static,
{
    tonic::server::Grpc::new(ProstCodec::default())
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST)
}

type Answer<T> = BoxFuture<'static, Result<Response<T>, Status>>;

struct Echo;

impl UnaryService<Payload> for Echo {
    type Response = Payload;
    type Future = Answer<Payload>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        let payload = request.into_inner();
        std::hint::black_box(sum(&payload.bytes));
        Box::pin(std::future::ready(Ok(Response::new(payload))))
    }
}

struct Sum;

impl UnaryService<Payload> for Sum {
    type Response = Total;
    type Future = Answer<Total>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        let sum = sum(&request.into_inner().bytes);
        Box::pin(std::future::ready(Ok(Response::new(Total { sum }))))
    }
}

struct AddUp;

impl ClientStreamingService<Payload> for AddUp {
    type Response = Total;
    type Future = Answer<Total>;

    fn call(&mut self, request: Request<Streaming<Payload>>) -> Self::Future {
        let mut payloads = request.into_inner();
        Box::pin(async move {
            let mut total = 0u64;
            while let Some(payload) = payloads.next().await {
                total = total.wrapping_add(sum(&payload?.bytes));
            }
            Ok(Response::new(Total { sum: total }))
        })
    }
}

pub(super) fn serve(cell: &Cell, ready: impl FnOnce()) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let listener = UnixListener::bind(path(cell))?;
        ready();
        Ok(Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .add_service(Bench)
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await?)
    })
}

struct Tonic {
    runtime: Arc<Runtime>,
    grpc: Grpc<Channel>,
    path: PathBuf,
    sum: bool,
    /// The call that messages go to one way, and where its answer will come.
    stream: Option<Call>,
}

struct Call {
    to: mpsc::Sender<Payload>,
    answer: oneshot::Receiver<Result<u64, Status>>,
}

/// Messages that wait to be taken by the transport.
const QUEUE: usize = 1024;

pub(super) fn connect(cell: &Cell) -> anyhow::Result<Box<dyn Client>> {
    let runtime = Arc::new(runtime()?);
    Ok(Box::new(Tonic {
        grpc: dial(&runtime, &path(cell))?,
        runtime,
        path: path(cell),
        sum: cell.task.action == Action::Sum,
        stream: None,
    }))
}

impl Tonic {
    async fn call(
        grpc: &mut Grpc<Channel>,
        answer_sum: bool,
        payload: Payload,
    ) -> anyhow::Result<u64> {
        grpc.ready().await?;
        let request = Request::new(payload);
        if answer_sum {
            let path = PathAndQuery::from_static(SUM);
            let codec = ProstCodec::<Payload, Total>::default();
            return Ok(grpc.unary(request, path, codec).await?.into_inner().sum);
        }
        let path = PathAndQuery::from_static(ECHO);
        let codec = ProstCodec::<Payload, Payload>::default();
        let answer = grpc.unary(request, path, codec).await?.into_inner();
        Ok(sum(&answer.bytes))
    }

    fn start_stream(&mut self) {
        let (to, payloads) = mpsc::channel(QUEUE);
        let (give, answer) = oneshot::channel();
        let mut grpc = self.grpc.clone();
        self.runtime.spawn(async move {
            let result = async {
                grpc.ready()
                    .await
                    .map_err(|error| Status::unknown(error.to_string()))?;
                let path = PathAndQuery::from_static(STREAM);
                let codec = ProstCodec::<Payload, Total>::default();
                let request = Request::new(ReceiverStream::new(payloads));
                let response = grpc.client_streaming(request, path, codec).await?;
                Ok(response.into_inner().sum)
            };
            // Nobody may wait any more.
            give.send(result.await).ok();
        });
        self.stream = Some(Call { to, answer });
    }
}

impl Client for Tonic {
    fn round_trip(&mut self, source: &mut Source, length: usize) -> anyhow::Result<u64> {
        let bytes = source.vector(length).into();
        let call = Self::call(&mut self.grpc, self.sum, Payload { bytes });
        self.runtime.block_on(call)
    }

    fn send(&mut self, source: &mut Source, length: usize) -> anyhow::Result<()> {
        if self.stream.is_none() {
            self.start_stream();
        }
        let to = &self.stream.as_ref().context("no stream")?.to;
        let bytes = source.vector(length).into();
        let mut payload = Payload { bytes };
        // As long as there is room, the runtime need not be entered.
        match to.try_send(payload) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(back)) => payload = back,
            Err(closed) => return Err(closed.into()),
        }
        Ok(self.runtime.block_on(to.send(payload))?)
    }

    fn total(&mut self) -> anyhow::Result<u64> {
        let Call { to, answer } = self.stream.take().context("no stream")?;
        drop(to);
        Ok(self.runtime.block_on(answer)??)
    }

    fn find(&self) -> anyhow::Result<Box<dyn Client>> {
        Ok(Box::new(Self {
            runtime: Arc::clone(&self.runtime),
            grpc: dial(&self.runtime, &self.path)?,
            path: PathBuf::new(),
            sum: false,
            stream: None,
        }))
    }
}

fn path(cell: &Cell) -> PathBuf {
    cell.directory.join("grpc")
}

fn dial(runtime: &Runtime, path: &Path) -> anyhow::Result<Grpc<Channel>> {
    let path = path.to_owned();
    let endpoint = Endpoint::from_static("http://bench.invalid")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { anyhow::Ok(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    let channel = runtime.block_on(endpoint.connect_with_connector(connector))?;
    Ok(Grpc::new(channel)
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST))
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
