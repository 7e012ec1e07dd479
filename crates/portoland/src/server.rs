//! The event loop of the bootstrap server.
//!
//! One thread waits for requests, connections, and the ends of processes and of published ports.
//! Nothing it does waits for a client or a service: a right is handed out or refused at once.
//!
//! Who asks is decided by the kernel and by the port that the request came to: unconfined clients
//! share the public port, and each confined program has a bootstrap port of its own.

mod limit;
mod process;

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use portolan_port::{
    CreateError, Message, MintError, Notification, PortId, PortSet, ReceiveError, ReceiveRight,
    Right, SendRight, Timeout,
};
use portolan_sandbox::{Entitlements, Filter, Identity, Operation, Verdict, sandbox_check};
use portolan_wire::bootstrap::{Flags, Reply, Request};
use portolan_wire::code::BootstrapCode;
use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use thiserror::Error;

use crate::registry::{ClientKey, Offer, PortKey, Registry, Sandbox, Scope};
use limit::LogLimit;
use process::{Processes, Unknown};

/// The most confined programs that one server serves at once.
pub const MAX_CONFINED: usize = 4096;

/// Requests and connections that are taken before other events get their turn.
const BATCH: usize = 64;

/// How long the listener rests when a connection cannot be accepted.
const REST: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The server cannot go on.
#[derive(Debug, Error)]
#[error("the event loop of the bootstrap server failed")]
pub struct ServerError(#[source] io::Error);

impl From<io::Error> for ServerError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<Errno> for ServerError {
    fn from(errno: Errno) -> Self {
        Self(errno.into())
    }
}

impl From<CreateError> for ServerError {
    fn from(error: CreateError) -> Self {
        Self(error.0)
    }
}

/// A bootstrap server.
#[derive(Debug)]
pub struct Server {
    events: OwnedFd,
    /// The ends of processes and of published ports; watched through `events`.
    deaths: OwnedFd,
    requests: PortSet,
    public: ReceiveRight,
    confined: HashMap<PortId, Confined>,
    registry: Registry,
    processes: Processes,
    services: HashMap<PortKey, SendRight>,
    last_port: u64,
    listener: Option<OwnedFd>,
    listener_rests: bool,
    signals: Option<UnixStream>,
    refusals: LogLimit,
    /// Without a listener nobody can come back once the last right is gone.
    public_is_unused: bool,
    ended: bool,
}

/// A program that is known by the bootstrap port that was made for it.
#[derive(Debug)]
struct Confined {
    /// Received from through the set.
    _port: ReceiveRight,
    label: JobLabel,
    identity: Identity,
}

impl Server {
    /// Makes a server that nobody can reach yet.
    ///
    /// # Errors
    ///
    /// [`ServerError`] if the kernel has no more descriptors for this process.
    pub fn new() -> Result<Self, ServerError> {
        let events = epoll::create(CreateFlags::CLOEXEC)?;
        let deaths = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&events, &deaths, Source::Deaths.data(), EventFlags::IN)?;
        let requests = PortSet::new()?;
        let public = ReceiveRight::new()?;
        requests.insert(&public)?;
        epoll::add(&events, &requests, Source::Requests.data(), EventFlags::IN)?;
        Ok(Self {
            events,
            deaths,
            requests,
            public,
            confined: HashMap::new(),
            registry: Registry::default(),
            processes: Processes::default(),
            services: HashMap::new(),
            last_port: 0,
            listener: None,
            listener_rests: false,
            signals: None,
            refusals: LogLimit::default(),
            public_is_unused: false,
            ended: false,
        })
    }

    /// A send right to this server, for a client that is not confined.
    ///
    /// # Errors
    ///
    /// [`MintError`]
    pub fn make_send(&self) -> Result<SendRight, MintError> {
        self.public.make_send()
    }

    /// Accepts connections on this socket, which is listening and does not block.
    ///
    /// # Errors
    ///
    /// [`ServerError`] if it cannot be waited for.
    pub fn listen(&mut self, socket: OwnedFd) -> Result<(), ServerError> {
        epoll::add(
            &self.events,
            &socket,
            Source::Listener.data(),
            EventFlags::IN,
        )?;
        self.listener = Some(socket);
        Ok(())
    }

    /// Ends [`run`](Self::run) on SIGTERM and SIGINT, which end the process otherwise.
    ///
    /// # Errors
    ///
    /// [`ServerError`] if the handlers cannot be set.
    pub fn end_on_signals(&mut self) -> Result<(), ServerError> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let (receiver, sender) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGINT, sender.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGTERM, sender)?;
        epoll::add(
            &self.events,
            &receiver,
            Source::Signals.data(),
            EventFlags::IN,
        )?;
        self.signals = Some(receiver);
        Ok(())
    }

    /// Serves until it is told to end, or until nobody can reach it any more.
    ///
    /// # Errors
    ///
    /// [`ServerError`] if the kernel refuses to wait. What a client does wrong is no error.
    pub fn run(mut self) -> Result<(), ServerError> {
        if self.listener.is_none() {
            self.public.request_no_senders(1);
        }
        let mut buffer = [MaybeUninit::<Event>::uninit(); BATCH];
        while !self.ended {
            let rest = self.listener_rests.then_some(REST);
            let events = match epoll::wait(&self.events, &mut buffer, rest.as_ref()) {
                Ok((events, _)) => events,
                Err(Errno::INTR) => continue,
                Err(other) => return Err(other.into()),
            };
            for event in &*events {
                self.happened(Source::from_data(event.data));
            }
            if rest.is_some() {
                self.rest_listener(false);
            }
        }
        Ok(())
    }

    fn happened(&mut self, source: Source) {
        match source {
            Source::Requests => self.take_requests(),
            Source::Listener => self.accept(),
            Source::Signals => self.ended = true,
            Source::Deaths => self.see_to_deaths(),
            Source::Process(client) => self.process_exited(client),
            Source::Service(port) => self.service_spoke(port),
        }
    }

    /// What has ended by now is gone for every request that is looked at later: whoever saw a
    /// process end and asks for its name must find it free.
    fn see_to_deaths(&mut self) {
        let mut buffer = [MaybeUninit::<Event>::uninit(); BATCH];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        while let Ok((deaths, _)) = epoll::wait(&self.deaths, &mut buffer, Some(&now))
            && !deaths.is_empty()
        {
            for death in &*deaths {
                self.happened(Source::from_data(death.data));
            }
        }
    }

    fn take_requests(&mut self) {
        for _ in 0..BATCH {
            match self.requests.receive(Timeout::POLL) {
                Ok(message) => self.receive(message),
                Err(ReceiveError::TimedOut) => return,
                Err(error) => {
                    tracing::error!(%error, "cannot receive requests");
                    return;
                }
            }
        }
    }

    fn receive(&mut self, mut message: Message) {
        if let Some(Notification::NoSenders { .. }) = message.notification() {
            return self.unused(message.port());
        }
        // A request that nobody waits for is none.
        let Some(reply) = message.take_reply() else {
            return;
        };
        self.see_to_deaths();
        let answer = self
            .answer(&mut message)
            .unwrap_or_else(|code| Message::new(code.raw()));
        if let Err(error) = reply.send(answer) {
            tracing::debug!(%error, "a client did not wait for its answer");
        }
    }

    fn unused(&mut self, port: Option<PortId>) {
        if port == Some(self.public.id()) {
            self.public_is_unused = true;
        } else if let Some(confined) = port.and_then(|port| self.confined.remove(&port)) {
            tracing::debug!(label = %confined.label, "nothing of the program is left");
        }
        self.ended |= self.listener.is_none() && self.public_is_unused && self.confined.is_empty();
    }

    fn accept(&mut self) {
        for _ in 0..BATCH {
            let Some(listener) = &self.listener else {
                return;
            };
            match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(socket) => self.admit(socket),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => {
                    if self.refusals.admits() {
                        tracing::error!(%errno, "cannot accept a connection");
                    }
                    return self.rest_listener(true);
                }
            }
        }
    }

    /// Leaves the listener alone for a while, or takes it up again: a connection that cannot be
    /// accepted would be reported again and again.
    fn rest_listener(&mut self, rest: bool) {
        let Some(listener) = &self.listener else {
            return;
        };
        let flags = if rest {
            EventFlags::empty()
        } else {
            EventFlags::IN
        };
        self.listener_rests =
            epoll::modify(&self.events, listener, Source::Listener.data(), flags).is_ok() && rest;
    }

    fn admit(&mut self, socket: OwnedFd) {
        let own = rustix::process::getuid();
        let admitted = match rustix::net::sockopt::socket_peercred(&socket) {
            Ok(peer) if peer.uid == own || peer.uid.is_root() => self
                .public
                .adopt(socket, 0)
                .map_err(|error| error.to_string()),
            Ok(peer) => Err(format!("it comes from user {}", peer.uid.as_raw())),
            Err(errno) => Err(errno.to_string()),
        };
        if let Err(why) = admitted
            && self.refusals.admits()
        {
            tracing::warn!(%why, "refused a connection");
        }
    }

    fn process_exited(&mut self, client: ClientKey) {
        if let Some(process) = self.processes.forget(client) {
            self.stop_watching(process.as_fd());
        }
        for port in self.registry.client_exited(client) {
            self.let_go(port);
        }
    }

    fn service_spoke(&mut self, port: PortKey) {
        if self.services.get(&port).is_none_or(SendRight::is_dead) {
            self.registry.port_died(port);
            self.let_go(port);
        }
    }

    fn let_go(&mut self, port: PortKey) {
        if let Some(right) = self.services.remove(&port) {
            self.stop_watching(right.as_fd());
        }
    }

    /// Closing is not enough: whoever has a duplicate of the descriptor would keep it among those
    /// that are waited for.
    fn stop_watching(&self, fd: BorrowedFd<'_>) {
        // Fails only for one that is not watched.
        epoll::delete(&self.deaths, fd).ok();
    }

    fn answer(&mut self, message: &mut Message) -> Result<Message, BootstrapCode> {
        let request = Request::decode(message.id(), message.bytes());
        let request = request.map_err(|error| error.code())?;
        let caller = self.caller(message)?;
        let rights = message.take_rights();
        match request {
            Request::Register { name, flags } => self.register(&caller, name, flags, rights),
            Request::CheckIn { name, flags } => self.check_in(&caller, name, flags),
            Request::LookUp { name, flags, pid } => self.look_up(&caller, name, flags, pid),
            Request::Status { name } => {
                let sandbox = self.check(&caller, Operation::MachLookup, Scope::Global, &name);
                Ok(done(&Reply::Status(
                    self.registry.status((Scope::Global, name), sandbox)?,
                )))
            }
            Request::List => Ok(done(&Reply::List(self.list(&caller)))),
            Request::Shutdown => self.shut_down(&caller),
            Request::Confine {
                label,
                entitlements,
            } => self.confine(&caller, label, &entitlements),
            _ => Err(BootstrapCode::BAD_OPERATION),
        }
    }

    /// Who asks: the process that the kernel names, and what the bootstrap port that it used is
    /// known for. 1105 for a process that cannot be told, as launchd says it.
    fn caller(&mut self, message: &Message) -> Result<Caller, BootstrapCode> {
        let sender = message.sender().ok_or(BootstrapCode::NO_MEMORY)?;
        let own = rustix::process::getuid().as_raw();
        if sender.uid() != own && sender.uid() != 0 {
            return Err(BootstrapCode::NOT_PRIVILEGED);
        }
        let confined = message.port().and_then(|port| self.confined.get(&port));
        let (identity, label) = match confined {
            Some(confined) => (confined.identity.clone(), Some(confined.label.clone())),
            None => (Identity::Unsandboxed, None),
        };
        let pid = sender.pid().ok_or(BootstrapCode::NO_MEMORY)?;
        let client = self.client(pid, sender.pidfd(), label)?;
        Ok(Caller {
            client,
            pid,
            identity,
        })
    }

    fn client(
        &mut self,
        pid: u32,
        pidfd: Option<BorrowedFd<'_>>,
        label: Option<JobLabel>,
    ) -> Result<ClientKey, BootstrapCode> {
        match self.processes.find(pid) {
            Ok(client) => return Ok(client),
            Err(Unknown::New) => {}
            Err(Unknown::Replaced(gone)) => self.process_exited(gone),
        }
        let client = self.processes.watch(pid, pidfd, |fd, client| {
            epoll::add(
                &self.deaths,
                fd,
                Source::Process(client).data(),
                EventFlags::IN,
            )
        });
        let client = client.map_err(|_| BootstrapCode::NO_MEMORY)?;
        let label = label.unwrap_or_else(|| process::anonymous_label(pid));
        self.registry.client_appeared(client, label, pid);
        Ok(client)
    }

    fn check(
        &mut self,
        caller: &Caller,
        operation: Operation,
        scope: Scope,
        name: &ServiceName,
    ) -> Sandbox {
        let verdict = sandbox_check(&caller.identity, operation, filter(scope), name.as_str());
        let Verdict::Denied(violation) = verdict else {
            return Sandbox::Allows;
        };
        if self.refusals.admits() {
            tracing::warn!(pid = caller.pid, "{violation}");
        }
        Sandbox::Denies
    }

    fn register(
        &mut self,
        caller: &Caller,
        name: ServiceName,
        flags: Flags,
        mut rights: Vec<Right>,
    ) -> Result<Message, BootstrapCode> {
        let per_pid = flags.contains(Flags::PER_PID_SERVICE);
        let scope = if per_pid {
            Scope::PerPid(caller.pid)
        } else {
            Scope::Global
        };
        let sandbox = self.check(caller, Operation::MachRegister, scope, &name);
        let key = self.next_port();
        let right = match rights.pop() {
            None => None,
            Some(Right::Send(right)) if !right.is_dead() => Some(right),
            Some(Right::Send(_) | Right::Dead) => {
                self.registry
                    .register(caller.client, (scope, name), Offer::Dead, sandbox)?;
                return Ok(done(&Reply::Done));
            }
            Some(_) => return Err(BootstrapCode::BAD_ARGUMENTS),
        };
        let offer = if right.is_some() {
            Offer::Port(key)
        } else {
            Offer::Nothing
        };
        self.registry
            .register(caller.client, (scope, name), offer, sandbox)?;
        if let Some(right) = right {
            self.keep(key, right)?;
        }
        Ok(done(&Reply::Done))
    }

    fn check_in(
        &mut self,
        caller: &Caller,
        name: ServiceName,
        flags: Flags,
    ) -> Result<Message, BootstrapCode> {
        let sandbox = self.check(caller, Operation::MachRegister, Scope::Global, &name);
        let strict = flags.contains(Flags::STRICT_CHECKIN);
        let key = self.next_port();
        self.registry
            .check_in(caller.client, (Scope::Global, name), strict, key, sandbox)?;
        let made = ReceiveRight::new()
            .ok()
            .and_then(|port| Some((port.make_send().ok()?, port)));
        let Some((right, port)) = made else {
            self.registry.port_died(key);
            return Err(BootstrapCode::NO_MEMORY);
        };
        self.keep(key, right)?;
        Ok(done(&Reply::Done).with_right(port))
    }

    fn next_port(&mut self) -> PortKey {
        self.last_port += 1;
        PortKey(self.last_port)
    }

    /// Keeps the right to a published port, and notices when the port dies.
    fn keep(&mut self, key: PortKey, right: SendRight) -> Result<(), BootstrapCode> {
        let data = Source::Service(key).data();
        if epoll::add(&self.deaths, right.as_fd(), data, EventFlags::IN).is_err() {
            self.registry.port_died(key);
            return Err(BootstrapCode::NO_MEMORY);
        }
        self.services.insert(key, right);
        Ok(())
    }

    fn look_up(
        &mut self,
        caller: &Caller,
        name: ServiceName,
        flags: Flags,
        pid: u32,
    ) -> Result<Message, BootstrapCode> {
        let per_pid = flags.contains(Flags::PER_PID_SERVICE);
        let scope = if per_pid {
            Scope::PerPid(pid)
        } else {
            Scope::Global
        };
        let sandbox = self.check(caller, Operation::MachLookup, scope, &name);
        let key = self.registry.look_up((scope, name), sandbox)?;
        let service = self
            .services
            .get(&key)
            .ok_or(BootstrapCode::UNKNOWN_SERVICE)?;
        match service.copy(Timeout::POLL) {
            Ok(right) => Ok(done(&Reply::Done).with_right(right)),
            // Its death has not been seen to yet.
            Err(MintError::DeadName) => Err(BootstrapCode::UNKNOWN_SERVICE),
            Err(_) => Err(BootstrapCode::NO_MEMORY),
        }
    }

    fn list(&self, caller: &Caller) -> Vec<portolan_wire::bootstrap::ServiceInfo> {
        self.registry.list(|scope, name| {
            let operation = Operation::MachLookup;
            let verdict = sandbox_check(&caller.identity, operation, filter(scope), name.as_str());
            matches!(verdict, Verdict::Allowed)
        })
    }

    fn shut_down(&mut self, caller: &Caller) -> Result<Message, BootstrapCode> {
        caller.must_not_be_confined()?;
        tracing::info!(pid = caller.pid, "told to end");
        self.ended = true;
        Ok(done(&Reply::Done))
    }

    fn confine(
        &mut self,
        caller: &Caller,
        label: JobLabel,
        entitlements: &[u8],
    ) -> Result<Message, BootstrapCode> {
        caller.must_not_be_confined()?;
        if self.confined.len() >= MAX_CONFINED {
            return Err(BootstrapCode::NO_MEMORY);
        }
        let entitlements = Entitlements::parse(entitlements).map_err(|error| {
            tracing::warn!(pid = caller.pid, %label, %error, "cannot read entitlements");
            BootstrapCode::BAD_ARGUMENTS
        })?;
        let identity = Identity::new(label.clone(), Arc::new(entitlements));
        let port = ReceiveRight::new().map_err(|_| BootstrapCode::NO_MEMORY)?;
        let right = port.make_send().map_err(|_| BootstrapCode::NO_MEMORY)?;
        self.requests
            .insert(&port)
            .map_err(|_| BootstrapCode::NO_MEMORY)?;
        port.request_no_senders(1);
        self.confined.insert(
            port.id(),
            Confined {
                _port: port,
                label,
                identity,
            },
        );
        Ok(done(&Reply::Done).with_right(right))
    }
}

/// Who asks.
struct Caller {
    client: ClientKey,
    pid: u32,
    identity: Identity,
}

impl Caller {
    fn must_not_be_confined(&self) -> Result<(), BootstrapCode> {
        match self.identity {
            Identity::Unsandboxed => Ok(()),
            _ => Err(BootstrapCode::NOT_PRIVILEGED),
        }
    }
}

fn filter(scope: Scope) -> Filter {
    match scope {
        Scope::Global | Scope::Subset(_) => Filter::GlobalName,
        Scope::PerPid(_) => Filter::LocalName,
    }
}

fn done(reply: &Reply) -> Message {
    Message::new(BootstrapCode::SUCCESS.raw()).with_bytes(reply.encode())
}

/// Starts a server in a thread of this process and gives the one right to it. It ends when that
/// right, all copies of it, and all rights of confined programs are gone.
///
/// # Errors
///
/// If there are no descriptors or threads left.
pub fn private() -> io::Result<SendRight> {
    let server = Server::new().map_err(|error| error.0)?;
    let right = server.make_send().map_err(|error| match error {
        MintError::System(error) => error,
        other => io::Error::other(other),
    })?;
    thread::Builder::new()
        .name("portoland".into())
        .spawn(move || {
            if let Err(error) = server.run() {
                tracing::error!("{}", crate::daemon::chain(&error));
            }
        })?;
    Ok(right)
}

/// What an event is about, packed into the number that epoll keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Requests,
    Listener,
    Signals,
    Deaths,
    Process(ClientKey),
    Service(PortKey),
}

impl Source {
    fn data(self) -> EventData {
        EventData::new_u64(match self {
            Self::Requests => 0,
            Self::Listener => 1,
            Self::Signals => 2,
            Self::Deaths => 4,
            Self::Process(client) => (client.0 << 2) + 3,
            Self::Service(port) => (port.0 + 2) << 2,
        })
    }

    fn from_data(data: EventData) -> Self {
        match data.u64() {
            0 => Self::Requests,
            1 => Self::Listener,
            2 => Self::Signals,
            4 => Self::Deaths,
            other if other & 3 == 3 => Self::Process(ClientKey(other >> 2)),
            other => Self::Service(PortKey((other >> 2) - 2)),
        }
    }
}
