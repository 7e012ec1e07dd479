//! The event loop of the bootstrap server.
//!
//! One thread waits for requests, connections, demand for jobs, and the ends of processes and of
//! published ports. Nothing it does waits for a client or a service: a right is handed out or refused
//! at once.
//!
//! Who asks is decided by the kernel and by the port that the request came to: unconfined clients
//! share the public port, and each confined program, each instance of a job and each subset has a
//! bootstrap port of its own.

mod answer;
mod calendar;
mod control;
mod demand;
mod door;
mod failure;
mod group_sockets;
mod instance;
mod jobs;
mod kinship;
mod limit;
mod names;
mod objects;
mod ports;
mod process;
mod recover;
mod reports;
mod service;
mod status;
mod store;
mod violations;
mod workshop;

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use portolan_port::{
    CreateError, Message, MintError, Notification, PortId, PortSet, Presence, ReceiveError,
    SendRight, Timeout,
};
use portolan_wire::code::BootstrapCode;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use thiserror::Error;

use crate::registry::{ClientKey, JobKey, PortKey, Registry};
use answer::Refused;
use calendar::WallClock;
use door::{Doors, PUBLIC, Whose};
use jobs::Jobs;
use limit::LogLimit;
use objects::SharedObjects;
use process::Processes;
use service::{Port, Service};
use store::Store;
use violations::Violations;

pub use recover::Legacy;
pub use workshop::Workshop;

/// The most bootstrap ports that one server has beside the public one and those of jobs.
pub const MAX_DOORS: usize = 8192;

/// The most users who can be connected to the server of another. One person may have many thousands.
const MAX_GUESTS: usize = 1024;

/// The most connections of one user to the server of another.
const MAX_GUEST_CHANNELS: usize = 1024;

/// Requests and connections that are taken before other events get their turn.
const BATCH: usize = 64;

/// How long the listener rests when a connection cannot be accepted.
const REST: Duration = Duration::from_millis(100);

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

/// Why a server has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to, or nobody can reach it any more.
    ForGood,
    /// It was told to go on in a new process.
    ForRestart,
    /// The process that would start the next one is gone. It can go on with [`Server::run`].
    Alone,
}

/// A bootstrap server.
#[derive(Debug)]
pub struct Server {
    events: OwnedFd,
    /// The ends of processes and of published ports; watched through `events`.
    deaths: OwnedFd,
    requests: PortSet,
    doors: Doors,
    registry: Registry,
    objects: SharedObjects,
    processes: Processes,
    services: HashMap<PortKey, Service>,
    last_port: u64,
    jobs: Jobs,
    store: Store,
    started: Instant,
    clock: Option<WallClock>,
    listener: Option<OwnedFd>,
    /// Until when it is left alone.
    listener_rests: Option<Instant>,
    signals: Option<UnixStream>,
    hang_ups: Option<UnixStream>,
    holder: Option<OwnedFd>,
    refusals: LogLimit,
    violations: Violations,
    /// It is not the first one that has these channels.
    goes_on: bool,
    /// Without a listener nobody can come back once the last right is gone.
    public_is_unused: bool,
    ended: Option<Ended>,
}

impl Server {
    /// Makes a server that nobody can reach yet, and that has no jobs.
    ///
    /// # Errors
    ///
    /// [`ServerError`] if the kernel has no more descriptors for this process.
    pub fn new() -> Result<Self, ServerError> {
        let mut server = Self::bare(Store::default(), None)?;
        server.open_door(PUBLIC, Whose::anybody())?;
        Ok(server)
    }

    /// A server without a door.
    fn bare(store: Store, workshop: Option<Workshop>) -> Result<Self, ServerError> {
        let events = epoll::create(CreateFlags::CLOEXEC)?;
        let deaths = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&events, &deaths, Source::Deaths.data(), EventFlags::IN)?;
        let requests = PortSet::new()?;
        epoll::add(&events, &requests, Source::Requests.data(), EventFlags::IN)?;
        if let Some(workshop) = &workshop {
            for (fd, source) in workshop.descriptors() {
                epoll::add(&events, fd, source.data(), EventFlags::IN)?;
            }
        }
        Ok(Self {
            events,
            deaths,
            requests,
            doors: Doors::default(),
            registry: Registry::default(),
            objects: SharedObjects::default(),
            processes: Processes::default(),
            services: HashMap::new(),
            last_port: 0,
            jobs: Jobs::new(workshop),
            store,
            started: Instant::now(),
            clock: None,
            listener: None,
            listener_rests: None,
            signals: None,
            hang_ups: None,
            holder: None,
            refusals: LogLimit::default(),
            violations: Violations::default(),
            goes_on: false,
            public_is_unused: false,
            ended: None,
        })
    }

    /// A send right to this server, for a client that is not confined.
    ///
    /// # Errors
    ///
    /// [`MintError`]
    pub fn make_send(&self) -> Result<SendRight, MintError> {
        let door = self.doors.public().ok_or(MintError::DeadName)?;
        door.port.make_send()
    }

    /// Accepts connections on this socket, which is listening and does not block.
    ///
    /// # Errors
    ///
    /// [`ServerError`] if it cannot be waited for.
    pub fn listen(&mut self, socket: OwnedFd) -> Result<(), ServerError> {
        self.wait_for(&socket, Source::Listener)?;
        self.listener = Some(socket);
        self.write_itself_down();
        Ok(())
    }

    /// Ends [`run`](Self::run) on SIGTERM and SIGINT, which end the process otherwise, and restarts
    /// the server in place on SIGHUP.
    ///
    /// # Errors
    ///
    /// [`ServerError`] if the handlers cannot be set.
    pub fn end_on_signals(&mut self) -> Result<(), ServerError> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let (receiver, sender) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        if self.holder.is_some() {
            let (hang_up, sender) = UnixStream::pair()?;
            signal_hook::low_level::pipe::register(SIGHUP, sender)?;
            self.wait_for(&hang_up, Source::HangUp)?;
            self.hang_ups = Some(hang_up);
        }
        self.wait_for(&receiver, Source::Signals)?;
        self.signals = Some(receiver);
        Ok(())
    }

    fn wait_for(&self, fd: impl AsFd, source: Source) -> Result<(), Errno> {
        epoll::add(&self.events, fd, source.data(), EventFlags::IN)
    }

    /// Serves until it is told to end, until nobody can reach it any more, or until it has lost its
    /// holder. A server that ended for a restart must not be dropped before this process has ended: what it would close is the next one's.
    ///
    /// # Errors
    ///
    /// [`ServerError`] if the kernel refuses to wait. What a client does wrong is no error.
    pub fn run(&mut self) -> Result<Ended, ServerError> {
        if self.listener.is_none()
            && let Some(door) = self.doors.public()
        {
            door.port.request_no_senders(1);
        }
        self.carry_out();
        let mut buffer = [MaybeUninit::<Event>::uninit(); BATCH];
        loop {
            if let Some(ended) = self.ended.take() {
                self.jobs.flush_logs();
                return Ok(ended);
            }
            let patience = self.patience();
            let events = match epoll::wait(&self.events, &mut buffer, patience.as_ref()) {
                Ok((events, _)) => events,
                Err(Errno::INTR) => continue,
                Err(other) => return Err(other.into()),
            };
            for event in &*events {
                self.happened(Source::from_data(event.data), event.flags);
            }
            if self
                .listener_rests
                .is_some_and(|until| until <= Instant::now())
            {
                self.rest_listener(false);
            }
            self.see_to_time();
            self.carry_out();
        }
    }

    /// Whether SIGTERM or SIGINT has come, and [`run`](Self::run) has not seen to it yet.
    #[must_use]
    pub fn is_told_to_end(&self) -> bool {
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        let told = |signals| rustix::net::recv(signals, &mut [0; 1], flags).is_ok();
        self.signals.as_ref().is_some_and(told)
    }

    /// Takes away what the server has put into its directory for jobs, if nobody goes on from here.
    pub fn clear_away(&mut self) {
        self.jobs.close_workshop();
    }

    /// Time since the server's start.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// How long to wait though nothing happens; nothing for as long as it takes.
    fn patience(&self) -> Option<Timespec> {
        let rest = self.listener_rests;
        let rest = rest.map(|until| until.saturating_duration_since(Instant::now()));
        let jobs = self.jobs.due(self.now());
        let patience = rest.into_iter().chain(jobs).min()?;
        // Rounded up, or the last fraction of a millisecond would be spent in a loop.
        let patience = patience + Duration::from_micros(999);
        Timespec::try_from(patience).ok()
    }

    fn happened(&mut self, source: Source, flags: EventFlags) {
        match source {
            Source::Requests => self.take_requests(),
            Source::Listener => self.accept(),
            Source::Signals => self.told_to_end(),
            Source::HangUp => self.told_to_restart(),
            Source::Holder => self.holder_is_gone(),
            Source::Deaths => self.see_to_deaths(),
            Source::Process(client) => self.process_exited(client),
            Source::Service(port) => self.service_spoke(port, flags),
            Source::Demand(port) => self.message_came(port),
            Source::Instance(job) => self.instance_ended(job),
            Source::Log(job) => self.jobs.drain_log(job),
            Source::Socket(job, index) => self.connection_came(job, index),
            Source::Watches => self.paths_changed(),
            Source::Notices => self.notices_came(),
            Source::Exits => self.jobs.note_exits(),
            Source::Clock => self.see_to_calendar(),
        }
    }

    /// SIGTERM and SIGINT: jobs are ended first.
    fn told_to_end(&mut self) {
        if self.jobs.is_empty() || !self.jobs.begin_to_end() {
            self.ended = Some(Ended::ForGood);
            return;
        }
        hear(self.signals.as_ref());
        // The jobs have their end here, whether or not somebody would start the next server.
        self.ended = None;
        let now = self.now();
        self.jobs.supervisor.shut_down(now);
    }

    /// SIGHUP.
    fn told_to_restart(&mut self) {
        hear(self.hang_ups.as_ref());
        self.ended = Some(match self.holder {
            Some(_) => Ended::ForRestart,
            None => Ended::Alone,
        });
    }

    fn holder_is_gone(&mut self) {
        if let Some(holder) = self.holder.take() {
            epoll::delete(&self.events, &holder).ok();
            tracing::warn!("the parent that would start this server again is gone");
            if self.ended != Some(Ended::ForGood) && !self.jobs.is_ending() {
                self.ended = Some(Ended::Alone);
            }
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
        // Each is seen to at once, and one that comes again has its turn later.
        for _ in 0..BATCH {
            match epoll::wait(&self.deaths, &mut buffer, Some(&now)) {
                Ok((deaths, _)) if !deaths.is_empty() => {
                    for death in &*deaths {
                        self.happened(Source::from_data(death.data), death.flags);
                    }
                }
                _ => return,
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
        let Some(reply) = message.take_reply() else {
            return self.take_report(&message);
        };
        // Who sends has not been said again yet to a server that goes on from another. Its client asks
        // again when it hears that nobody has served it, and is known then.
        if self.goes_on && message.sender().is_none() {
            return;
        }
        self.see_to_deaths();
        // Whoever saw a process end finds its services reset and emptied as its job file says.
        self.carry_out();
        let answer = match self.answer(&mut message) {
            Ok(answer::Answer::Now(answer)) => answer,
            Ok(answer::Answer::WhenStarted(job)) => return self.jobs.wait_for_start(job, reply),
            Ok(answer::Answer::WhenRefused(after)) => return self.violations.wait(after, reply),
            Err(refused) => refused.into_message(),
        };
        if let Err(error) = reply.send(answer) {
            tracing::debug!(%error, "a client did not wait for its answer");
        }
        // What was asked for is done before the next request is looked at.
        self.carry_out();
    }

    fn unused(&mut self, port: Option<PortId>) {
        let Some(door) = port.and_then(|port| self.doors.get(port)) else {
            return;
        };
        let key = door.key;
        match key {
            PUBLIC => self.public_is_unused = true,
            // An instance has its door until its end, and a subset until its requestor's.
            _ if door.whose.job.is_some() || door.whose.is_subset() => return,
            _ => drop(self.doors.close(key, &self.store)),
        }
        let is_deserted = self.public_is_unused && self.doors.own() == 0;
        if self.listener.is_none() && is_deserted {
            self.ended = Some(Ended::ForGood);
        }
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
        let changed = epoll::modify(&self.events, listener, Source::Listener.data(), flags);
        self.listener_rests = (changed.is_ok() && rest).then(|| Instant::now() + REST);
    }

    fn admit(&mut self, socket: OwnedFd) {
        let admitted = rustix::net::sockopt::socket_peercred(&socket)
            .map_err(|errno| errno.to_string())
            .and_then(|peer| self.admit_user(socket, peer.uid.as_raw()));
        if let Err(why) = admitted
            && self.refusals.admits()
        {
            tracing::warn!(%why, "refused a connection");
        }
    }

    /// Root's server is there for all users, any other for its own.
    fn admit_user(&mut self, socket: OwnedFd, uid: u32) -> Result<(), String> {
        let own = rustix::process::getuid();
        let is_ours = uid == own.as_raw() || uid == 0;
        if !is_ours && !own.is_root() {
            return Err(format!("it comes from user {uid}"));
        }
        if !is_ours && self.doors.of_guest(uid).is_none() {
            if self.doors.guests() >= MAX_GUESTS {
                return Err(format!("{MAX_GUESTS} other users are connected already"));
            }
            let key = self.doors.next_key();
            let opened = self.open_door(key, Whose::guest(uid));
            opened.map_err(|refused| refused.text())?;
        }
        let door = match is_ours {
            true => self.doors.public(),
            false => self.doors.of_guest(uid),
        };
        let Some(door) = door else {
            return Err("there is no door".to_owned());
        };
        if !is_ours && door.port.status().senders >= MAX_GUEST_CHANNELS {
            return Err(format!("user {uid} has {MAX_GUEST_CHANNELS} already"));
        }
        door.port
            .adopt(socket, 0)
            .map_err(|error| error.to_string())
    }

    fn process_exited(&mut self, client: ClientKey) {
        self.store.remove(store::Kind::Client, client.0);
        if let Some(process) = self.processes.forget(client) {
            self.stop_watching(process.as_fd());
        }
        for port in self.registry.client_exited(client) {
            self.let_go(port);
        }
    }

    fn service_spoke(&mut self, port: PortKey, flags: EventFlags) {
        let Some(service) = self.services.get_mut(&port) else {
            return;
        };
        match &mut service.port {
            Port::Elsewhere(right) if right.is_dead() => self.port_died(port),
            Port::Elsewhere(_) | Port::Here(_) => {}
            Port::Lent(custody) => {
                let presence = custody.attend();
                if flags.contains(EventFlags::OUT) {
                    self.expect_room(port);
                }
                if presence == Presence::Back {
                    self.port_came_back(port);
                }
            }
        }
    }

    fn port_died(&mut self, port: PortKey) {
        let others = self.registry.port_died(port);
        self.let_go(port);
        for other in others {
            self.let_go(other);
        }
        self.close_doors_of_subsets();
    }

    /// Lets go of a port that has no name any more.
    fn let_go(&mut self, port: PortKey) {
        if let Some(service) = self.services.remove(&port) {
            self.store.remove(store::Kind::Service, port.0);
            self.ignore(&service);
            if let Port::Lent(custody) = service.port {
                custody.let_go();
            }
        }
    }

    /// Closing is not enough: whoever has a duplicate of the descriptor would keep it among those
    /// that are waited for.
    fn ignore(&self, service: &Service) {
        if let Some(fd) = service.tells_of_its_end() {
            self.stop_watching(fd);
        }
        if let Port::Here(port) = &service.port {
            epoll::delete(&self.events, port).ok();
        }
    }

    fn stop_watching(&self, fd: BorrowedFd<'_>) {
        // Fails only for one that is not watched.
        epoll::delete(&self.deaths, fd).ok();
    }

    fn next_port(&mut self) -> PortKey {
        self.last_port += 1;
        PortKey(self.last_port)
    }

    fn open_door(&mut self, key: door::DoorKey, whose: Whose) -> Result<SendRight, Refused> {
        let is_asked_for = key != PUBLIC && whose.job.is_none();
        if is_asked_for && self.doors.own() >= MAX_DOORS {
            return Err(BootstrapCode::NO_MEMORY.into());
        }
        let door = self.doors.open(key, whose, &self.store);
        let door = door.map_err(|_| BootstrapCode::NO_MEMORY)?;
        let right = door.port.make_send().ok();
        let Some(right) = right.filter(|_| self.requests.insert(&door.port).is_ok()) else {
            // Whoever came through it would never be heard.
            self.doors.close(key, &self.store);
            return Err(BootstrapCode::NO_MEMORY.into());
        };
        if key != PUBLIC {
            door.port.request_no_senders(1);
        }
        Ok(right)
    }
}

/// Takes all signals that have come, so that each wakes the server once.
fn hear(signals: Option<&UnixStream>) {
    if let Some(signals) = signals {
        let flags = rustix::net::RecvFlags::DONTWAIT;
        rustix::net::recv(signals, &mut [0; 64], flags).ok();
    }
}

/// Starts a server in a thread of this process and gives the one right to it. It ends when that
/// right, all copies of it, and all rights of confined programs are gone. It has no jobs.
///
/// # Errors
///
/// If there are no descriptors or threads left.
pub fn private() -> io::Result<SendRight> {
    let mut server = Server::new().map_err(|error| error.0)?;
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
    HangUp,
    Holder,
    Deaths,
    Watches,
    Notices,
    Exits,
    Clock,
    Process(ClientKey),
    Service(PortKey),
    Demand(PortKey),
    Instance(JobKey),
    Log(JobKey),
    Socket(JobKey, u16),
}

impl Source {
    /// Those that there is one of.
    const SINGLE: [Self; 10] = [
        Self::Requests,
        Self::Listener,
        Self::Signals,
        Self::HangUp,
        Self::Holder,
        Self::Deaths,
        Self::Watches,
        Self::Notices,
        Self::Exits,
        Self::Clock,
    ];

    fn data(self) -> EventData {
        let (kind, number) = match self {
            Self::Process(client) => (1, client.0),
            Self::Service(port) => (2, port.0),
            Self::Demand(port) => (3, port.0),
            Self::Instance(job) => (4, job.0),
            Self::Log(job) => (5, job.0),
            Self::Socket(job, index) => (6, job.0 << 16 | u64::from(index)),
            single => {
                let place = Self::SINGLE.iter().position(|known| *known == single);
                (0, place.unwrap_or_default() as u64)
            }
        };
        EventData::new_u64(number << 3 | kind)
    }

    fn from_data(data: EventData) -> Self {
        let (kind, number) = (data.u64() & 7, data.u64() >> 3);
        match kind {
            1 => Self::Process(ClientKey(number)),
            2 => Self::Service(PortKey(number)),
            3 => Self::Demand(PortKey(number)),
            4 => Self::Instance(JobKey(number)),
            5 => Self::Log(JobKey(number)),
            6 => Self::Socket(JobKey(number >> 16), number as u16),
            _ => {
                let place = usize::try_from(number).unwrap_or(0);
                let single = Self::SINGLE.get(place);
                single.copied().unwrap_or(Self::Requests)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_the_round_trip() {
        let many = [
            Source::Process(ClientKey(7)),
            Source::Service(PortKey(0)),
            Source::Demand(PortKey(1 << 40)),
            Source::Instance(JobKey(3)),
            Source::Log(JobKey(9)),
            Source::Socket(JobKey(5), u16::MAX),
        ];
        for source in Source::SINGLE.into_iter().chain(many) {
            assert_eq!(Source::from_data(source.data()), source);
        }
    }
}
