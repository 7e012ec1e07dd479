//! The port that answers.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portolan_port::{CreateError, Message, ReceiveError, ReceiveRight, Sender, Timeout};
use portolan_wire::code::BootstrapCode;
use portolan_wire::name::ServiceName;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use thiserror::Error;

use super::invalidation::Invalidation;
use super::table::Table;
use crate::bootstrap::{Bootstrap, BootstrapError};

/// A port of this process that has a name and answers requests with a callback
/// (`CFMessagePortCreateLocal`).
///
/// Clones are handles to the same port and equal to it; when the last is dropped, the port becomes
/// invalid. It answers nothing until it is served, by [`run`](Self::run),
/// [`run_once`](Self::run_once) or [`spawn`](Self::spawn); requests are queued until then.
///
/// The descriptor of [`AsFd`] is for an event loop: when it is readable, call
/// `run_once(Duration::ZERO)` until it has nothing to do. It stays readable once the port is
/// invalid.
#[derive(Clone, PartialEq, Eq)]
pub struct LocalMessagePort {
    handle: Arc<Handle>,
}

/// What [`LocalMessagePort::create`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the port is in here"]
pub enum Created {
    /// It made the port.
    New(LocalMessagePort),
    /// This process has a valid port of that name, and this is it. It keeps its own callback; the
    /// one that was passed is dropped (CF sets `*shouldFreeInfo`).
    Existing(LocalMessagePort),
}

impl Created {
    /// The port, made now or before.
    #[must_use]
    pub fn into_port(self) -> LocalMessagePort {
        match self {
            Self::New(port) | Self::Existing(port) => port,
        }
    }

    /// Whether the port was made by this call and has the callback that was passed.
    #[must_use]
    pub fn is_new(&self) -> bool {
        matches!(self, Self::New(_))
    }
}

/// What a call of [`LocalMessagePort::run_once`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an invalid port has to be left"]
pub enum Pass {
    /// A message was handled.
    Handled,
    /// No message came in time.
    TimedOut,
    /// The port is invalid, and nothing will come any more.
    Invalid,
}

impl LocalMessagePort {
    /// Publishes a name whose requests the callback answers.
    ///
    /// The name is checked in ([`Bootstrap::check_in`]). The callback gets each request and returns
    /// the bytes of the answer; `None` answers with no bytes. For a message that is not to be
    /// answered ([`ReplyMode::None`](super::ReplyMode::None)) the returned value is dropped. Several
    /// threads may run it at once if several serve the port, and it may serve the port itself.
    ///
    /// If the callback panics, the panic is caught, the request fails at once with
    /// `TransportError`, and the port goes on. (With `panic = "abort"` the process ends.) The same
    /// holds for an answer that is too large. The callback is dropped when the port becomes
    /// invalid; one that owns a handle to its own port keeps it valid until somebody
    /// [invalidates](Self::invalidate) it.
    ///
    /// # Errors
    ///
    /// [`CreateLocalError::Bootstrap`]: [`NOT_PRIVILEGED`](BootstrapCode::NOT_PRIVILEGED) (1100) if
    /// the sandbox forbids the name or another process has it;
    /// [`SERVICE_ACTIVE`](BootstrapCode::SERVICE_ACTIVE) (1103) if this process, or another of its
    /// job, has it and not as a message port, or may not look it up.
    pub fn create<C>(
        bootstrap: &Bootstrap,
        name: &ServiceName,
        callback: C,
    ) -> Result<Created, CreateLocalError>
    where
        C: Fn(Request<'_>) -> Option<Vec<u8>> + Send + Sync + 'static,
    {
        // A thread that finds the name taken must find the port in the table too.
        let _one_at_a_time = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
        let receive = match bootstrap.check_in(name) {
            Err(refusal) if refusal.code() == Some(BootstrapCode::SERVICE_ACTIVE) => {
                return match existing(bootstrap, name) {
                    Some(port) => Ok(Created::Existing(port)),
                    None => Err(refusal.into()),
                };
            }
            other => other?,
        };
        let key = (name.clone(), receive.id());
        let handle = Arc::new(Handle {
            local: Arc::new(Local::new(name.clone(), receive, Arc::new(callback))?),
        });
        let handle = LOCALS.share(key, handle, |_| false);
        Ok(Created::New(Self { handle }))
    }

    /// The name that the port was made with.
    #[must_use]
    pub fn name(&self) -> &ServiceName {
        &self.local().name
    }

    /// Answers requests until the port is invalid.
    ///
    /// Several threads may run one port.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`] if the kernel refuses or the port belongs to the process that this one was
    /// forked from. The port stays valid.
    pub fn run(&self) -> Result<(), ReceiveError> {
        self.local().run()
    }

    /// Waits for one message and handles it.
    ///
    /// Zero handles a message that is there already; [`Duration::MAX`] waits for ever.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub fn run_once(&self, timeout: Duration) -> Result<Pass, ReceiveError> {
        self.local().run_once(Instant::now().checked_add(timeout))
    }

    /// Serves the port on a new thread until it is invalid (`CFMessagePortSetDispatchQueue`).
    ///
    /// The thread is no handle: dropping the last handle ends it. Spawning several makes the port
    /// answer that many requests at once. Should the thread not be able to go on, it invalidates
    /// the port, so that clients are not left waiting, and returns the reason.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn spawn(&self) -> io::Result<JoinHandle<Result<(), ReceiveError>>> {
        let local = Arc::clone(self.local());
        let name = local.name.as_str().to_owned();
        thread::Builder::new().name(name).spawn(move || {
            let result = local.run();
            if result.is_err() {
                local.invalidate();
            }
            result
        })
    }

    /// Makes the port invalid (`CFMessagePortInvalidate`). Once more, it does nothing.
    ///
    /// Any thread may do it, also in the callback. The name becomes free, clients find the port
    /// dead, requests that have not been received fail, and whoever serves the port returns.
    /// Requests whose callback is running are still answered.
    pub fn invalidate(&self) {
        self.local().invalidate();
    }

    /// Whether the port can still receive.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.local().is_valid()
    }

    /// Sets what is called when the port becomes invalid, in place of what was set before; if it
    /// is invalid already, calls it now.
    ///
    /// It is called exactly once, without locks and when the name is free, on the thread that
    /// invalidates the port or drops its last handle. A panic in it is caught.
    pub fn set_invalidation_callback(&self, callback: impl FnOnce() + Send + 'static) {
        self.local().invalidation.set_callback(Box::new(callback));
    }

    fn local(&self) -> &Arc<Local> {
        &self.handle.local
    }
}

impl AsFd for LocalMessagePort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.local().ready.as_fd()
    }
}

impl fmt::Debug for LocalMessagePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalMessagePort")
            .field("name", self.name())
            .field("valid", &self.is_valid())
            .finish_non_exhaustive()
    }
}

/// A local message port could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CreateLocalError {
    /// The bootstrap server did not give the name out.
    #[error("the name cannot be published")]
    Bootstrap(#[from] BootstrapError),
    /// The kernel has no more descriptors for this process.
    #[error("the port cannot be served")]
    Port(#[from] CreateError),
}

impl CreateLocalError {
    /// The bootstrap server's code, if it answered.
    #[must_use]
    pub fn code(&self) -> Option<BootstrapCode> {
        match self {
            Self::Bootstrap(error) => error.code(),
            Self::Port(_) => None,
        }
    }
}

/// A message that a local port got, for its callback.
pub struct Request<'a> {
    message: Message,
    sender: Sender,
    local: &'a Local,
}

impl Request<'_> {
    /// The id, as the sender chose it.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.message.id()
    }

    /// The data.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.message.bytes()
    }

    /// The data as a vector; copied only if it came in shared memory.
    #[must_use]
    pub fn into_data(self) -> Vec<u8> {
        self.message.into_bytes()
    }

    /// Who sent it, as the kernel wrote it down. CF's public interface cannot tell.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Makes the port invalid that this came to; this request is still answered.
    pub fn invalidate_port(&self) {
        self.local.invalidate();
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.id())
            .field("data", &self.data().len())
            .field("sender", &self.sender)
            .finish_non_exhaustive()
    }
}

static CREATING: Mutex<()> = Mutex::new(());
static LOCALS: Table<Handle> = Table::new();

/// The port of this process that has a name at this server.
fn existing(bootstrap: &Bootstrap, name: &ServiceName) -> Option<LocalMessagePort> {
    let right = bootstrap.look_up(name).ok()?;
    let handle = LOCALS.find(&(name.clone(), right.port()))?;
    handle
        .local
        .is_valid()
        .then_some(LocalMessagePort { handle })
}

/// What keeps the port valid; the threads that serve it do not.
struct Handle {
    local: Arc<Local>,
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.local, &other.local)
    }
}

impl Eq for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        self.local.invalidate();
    }
}

type Callback = dyn Fn(Request<'_>) -> Option<Vec<u8>> + Send + Sync;

struct Local {
    name: ServiceName,
    /// A forked child must not touch the descriptors that it shares with its parent.
    process: u32,
    /// Taken, and the port killed, before the lock is released.
    live: RwLock<Option<Live>>,
    /// Readable when there may be a message, and once `stop` is.
    ready: OwnedFd,
    /// Readable from the invalidation on.
    stop: OwnedFd,
    invalidation: Invalidation,
}

/// What a valid port has.
struct Live {
    receive: ReceiveRight,
    callback: Arc<Callback>,
}

impl Live {
    fn take_message(&self) -> Result<Option<(Message, Arc<Callback>)>, ReceiveError> {
        match self.receive.receive(Timeout::POLL) {
            Ok(message) => Ok(Some((message, Arc::clone(&self.callback)))),
            Err(ReceiveError::TimedOut) => Ok(None),
            Err(other) => Err(other),
        }
    }
}

impl Local {
    fn new(
        name: ServiceName,
        receive: ReceiveRight,
        callback: Arc<Callback>,
    ) -> Result<Self, CreateError> {
        let ready = epoll::create(CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&ready, &receive, EventData::new_u64(0), EventFlags::IN)?;
        epoll::add(&ready, &stop, EventData::new_u64(1), EventFlags::IN)?;
        Ok(Self {
            name,
            process: std::process::id(),
            live: RwLock::new(Some(Live { receive, callback })),
            ready,
            stop,
            invalidation: Invalidation::new(),
        })
    }

    fn run(&self) -> Result<(), ReceiveError> {
        while self.run_once(None)? != Pass::Invalid {}
        Ok(())
    }

    fn run_once(&self, deadline: Option<Instant>) -> Result<Pass, ReceiveError> {
        if !self.is_ours() {
            return Err(ReceiveError::ForeignProcess);
        }
        while self.wait(deadline)? {
            let taken = match &*self.live() {
                Some(live) => live.take_message()?,
                None => return Ok(Pass::Invalid),
            };
            if let Some((message, callback)) = taken {
                self.handle(message, &*callback);
                return Ok(Pass::Handled);
            }
            // What wakes without bringing a message may do so again and again.
            if remaining(deadline).is_some_and(|left| left.is_zero()) {
                break;
            }
        }
        Ok(Pass::TimedOut)
    }

    fn wait(&self, deadline: Option<Instant>) -> Result<bool, Errno> {
        let mut events = [MaybeUninit::<Event>::uninit(); 1];
        loop {
            let timeout = remaining(deadline).map(timespec);
            match epoll::wait(&self.ready, &mut events, timeout.as_ref()) {
                Ok((events, _)) => return Ok(!events.is_empty()),
                Err(Errno::INTR) => {}
                Err(other) => return Err(other),
            }
        }
    }

    fn handle(&self, mut message: Message, callback: &Callback) {
        // What has no sender is the port's own notification and not for the callback.
        let Some(sender) = message.sender().cloned() else {
            return;
        };
        let (id, reply) = (message.id(), message.take_reply());
        let request = Request {
            message,
            sender,
            local: self,
        };
        let answer = catch_unwind(AssertUnwindSafe(|| callback(request)));
        if let (Some(reply), Ok(answer)) = (reply, answer) {
            let answer = Message::new(id).with_bytes(answer.unwrap_or_default());
            // Whatever stops the answer, the reply right has told the client.
            drop(reply.send(answer));
        }
    }

    fn is_valid(&self) -> bool {
        self.is_ours() && self.live().is_some()
    }

    fn invalidate(&self) {
        if !self.is_ours() {
            return;
        }
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let Some(Live { receive, callback }) = live.take() else {
            return;
        };
        drop(receive);
        drop(live);
        // Full only after 2^64 - 2 of these.
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).ok();
        self.invalidation.happen(|| {});
        drop(callback);
    }

    fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }

    fn live(&self) -> RwLockReadGuard<'_, Option<Live>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left until a deadline; `None` for ever.
fn remaining(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

fn timespec(left: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    }
}
