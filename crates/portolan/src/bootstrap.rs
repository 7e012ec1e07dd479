//! Publishing and finding rights by name.
//!
//! The bootstrap server is an ordinary port, and every process has a send right to it, its
//! *bootstrap right*; [`Bootstrap::from_env`] gets it. What the calls do follows Mach's bootstrap
//! server (launchd 842), including where its behaviour differs from its header.
//!
//! A confined program is told apart by the bootstrap right it inherited, not by anything it says,
//! so these calls answer it according to its entitlements.
//!
//! The server also starts programs when they are needed; [`jobs`] has the calls for that. [`sandbox`]
//! has those that tell what binds a program and what it was refused.

mod connect;
pub mod jobs;
pub mod relay;
pub mod sandbox;

use std::time::Duration;

use portolan_port::{Message, ReceiveRight, ReplyError, RequestError, Right, SendRight, Timeout};
use portolan_wire::bootstrap::{Flags, Operation, Reply, Request};
use portolan_wire::code::BootstrapCode;
use portolan_wire::failure::Refusal;
use portolan_wire::group_socket::SocketUse;
use portolan_wire::instance;
use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;
use thiserror::Error;

pub use connect::{ConnectError, directory};
pub use portolan_wire::bootstrap::{ServiceInfo, ServiceStatus};

/// How long a call waits for the server, which answers at once unless something is very wrong.
const PATIENCE: Timeout = Timeout::after(Duration::from_secs(30));

/// A process's right to its bootstrap server.
#[derive(Debug)]
pub struct Bootstrap {
    server: SendRight,
}

/// Which service a look-up means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookUp {
    /// The service that this process registered for itself
    /// ([`Bootstrap::register_per_pid`]), and no other.
    pub per_pid: Option<u32>,
    /// Fail with [`BootstrapCode::NOT_PRIVILEGED`] unless the bootstrap server runs as root
    /// (`BOOTSTRAP_PRIVILEGED_SERVER`).
    pub privileged_server: bool,
    /// Do not ask the servers above this one (`BOOTSTRAP_STRICT_LOOKUP`).
    pub strict: bool,
}

/// What a confined program is given, see [`Bootstrap::confine`].
#[derive(Debug)]
pub struct Confined {
    /// Its bootstrap right.
    pub right: SendRight,
    mark: String,
}

impl Confined {
    /// The name and the value of an environment variable. A process that has it is known to be the
    /// program's, even when the process that started it has ended.
    #[must_use]
    pub fn variable(&self) -> (&'static str, &str) {
        (instance::VARIABLE, &self.mark)
    }
}

impl Bootstrap {
    /// The bootstrap right of this process.
    ///
    /// It is the inherited one if the environment names it (`PORTOLAN_BOOTSTRAP_FD`); a program
    /// that was started with `portolan run` has no other. Otherwise it is a connection to the
    /// server of this user, which is started if it is not running and `PORTOLAN_AUTOSTART` is not
    /// `0`.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]
    pub fn from_env() -> Result<Self, ConnectError> {
        connect::from_env().map(Self::from_right)
    }

    /// Connects to the server whose socket is in this directory, without starting one.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NoServer`] if none listens there.
    pub fn connect(directory: &std::path::Path) -> Result<Self, ConnectError> {
        connect::to_server(directory).map(Self::from_right)
    }

    /// Uses a send right to a bootstrap server that was got in another way.
    #[must_use]
    pub fn from_right(server: SendRight) -> Self {
        Self { server }
    }

    /// Starts a bootstrap server inside this process, reached by this value and by rights copied
    /// from it only. It ends when they are gone.
    ///
    /// # Errors
    ///
    /// [`ConnectError::System`] if there are no descriptors or threads left.
    #[cfg(feature = "private")]
    pub fn private() -> Result<Self, ConnectError> {
        portoland::server::private()
            .map(Self::from_right)
            .map_err(ConnectError::System)
    }

    /// Another right to the same server, for another thread or to pass on.
    ///
    /// # Errors
    ///
    /// [`portolan_port::MintError`]
    pub fn copy(&self) -> Result<Self, portolan_port::MintError> {
        self.server.copy(PATIENCE).map(Self::from_right)
    }

    /// The send right itself, to pass on.
    #[must_use]
    pub fn into_right(self) -> SendRight {
        self.server
    }

    /// Publishes a send right under a name (`bootstrap_register`).
    ///
    /// The name is free again when the port dies or this process exits. One port can have many
    /// names.
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::NOT_PRIVILEGED`] (1100) if the sandbox forbids the name or another job has
    /// it, [`BootstrapCode::SERVICE_ACTIVE`] (1103) if this process has it.
    pub fn register(&self, name: &ServiceName, right: SendRight) -> Result<(), BootstrapError> {
        self.register_as(name, Flags::NONE, right)
    }

    /// Publishes a send right for those who look it up with the id of this process
    /// (`BOOTSTRAP_PER_PID_SERVICE`).
    ///
    /// # Errors
    ///
    /// Those of [`register`](Self::register).
    pub fn register_per_pid(
        &self,
        name: &ServiceName,
        right: SendRight,
    ) -> Result<(), BootstrapError> {
        self.register_as(name, Flags::PER_PID_SERVICE, right)
    }

    fn register_as(
        &self,
        name: &ServiceName,
        flags: Flags,
        right: SendRight,
    ) -> Result<(), BootstrapError> {
        let request = Request::Register {
            name: name.clone(),
            flags,
        };
        self.call(&request, Some(right.into())).map(drop)
    }

    /// Withdraws a declared name that is not active (`bootstrap_register` of `MACH_PORT_NULL`).
    /// A name that does not exist is withdrawn successfully.
    ///
    /// # Errors
    ///
    /// Those of [`register`](Self::register).
    pub fn unregister(&self, name: &ServiceName) -> Result<(), BootstrapError> {
        let request = Request::Register {
            name: name.clone(),
            flags: Flags::NONE,
        };
        self.call(&request, None).map(drop)
    }

    /// Gets the receive right of a service (`bootstrap_check_in`).
    ///
    /// A name that nobody has declared is created, as launchd does and its header denies; use
    /// [`check_in_strict`](Self::check_in_strict) to have it refused.
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::NOT_PRIVILEGED`] (1100) if the sandbox forbids the name or another job has
    /// it, [`BootstrapCode::SERVICE_ACTIVE`] (1103) if this process has it.
    pub fn check_in(&self, name: &ServiceName) -> Result<ReceiveRight, BootstrapError> {
        self.check_in_as(name, Flags::NONE)
    }

    /// Gets the receive right of a declared service (`BOOTSTRAP_STRICT_CHECKIN`).
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::UNKNOWN_SERVICE`] (1102) if nobody has declared the name, and those of
    /// [`check_in`](Self::check_in).
    pub fn check_in_strict(&self, name: &ServiceName) -> Result<ReceiveRight, BootstrapError> {
        self.check_in_as(name, Flags::STRICT_CHECKIN)
    }

    fn check_in_as(
        &self,
        name: &ServiceName,
        flags: Flags,
    ) -> Result<ReceiveRight, BootstrapError> {
        let mut answer = self.call(
            &Request::CheckIn {
                name: name.clone(),
                flags,
            },
            None,
        )?;
        match answer.take_rights().pop() {
            Some(Right::Receive(receive)) => Ok(receive),
            _ => Err(BootstrapError::Protocol),
        }
    }

    /// Finds the service with this name (`bootstrap_look_up`).
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::UNKNOWN_SERVICE`] (1102) if there is none;
    /// [`BootstrapCode::NOT_PRIVILEGED`] (1100) if the sandbox forbids to ask, whether there is one
    /// or not.
    pub fn look_up(&self, name: &ServiceName) -> Result<SendRight, BootstrapError> {
        self.look_up_with(name, LookUp::default())
    }

    /// Finds a service with a choice (`bootstrap_look_up2`).
    ///
    /// # Errors
    ///
    /// Those of [`look_up`](Self::look_up).
    pub fn look_up_with(
        &self,
        name: &ServiceName,
        which: LookUp,
    ) -> Result<SendRight, BootstrapError> {
        let flags = [
            (which.per_pid.is_some(), Flags::PER_PID_SERVICE),
            (which.privileged_server, Flags::PRIVILEGED_SERVER),
            (which.strict, Flags::STRICT_LOOKUP),
        ];
        let set = flags.into_iter().filter(|(on, _)| *on);
        let flags = set.fold(Flags::NONE, |flags, (_, flag)| flags | flag);
        let pid = which.per_pid.unwrap_or(0);
        let request = Request::LookUp {
            name: name.clone(),
            flags,
            pid,
        };
        let mut answer = match self.call(&request, None) {
            Err(error) if is_unknown(&error) && !which.strict && which.per_pid.is_none() => {
                self.ask_above(&request).ok_or(error)?
            }
            answer => answer?,
        };
        // The server is authenticated, not the service: launchd's library does the same.
        if which.privileged_server && answer.sender().is_none_or(|server| server.uid() != 0) {
            return Err(BootstrapError::Refused(BootstrapCode::NOT_PRIVILEGED));
        }
        take_send(&mut answer)
    }

    /// Names go up from a user's server to the system's. This process asks there itself, so that no
    /// server waits for another; a confined one is not let in.
    fn ask_above(&self, request: &Request) -> Option<Message> {
        let above = Self::from_right(connect::to_system()?);
        above.call(request, None).ok()
    }

    /// Whether a service is there and who would serve it (`bootstrap_status`).
    ///
    /// # Errors
    ///
    /// Those of [`look_up`](Self::look_up).
    pub fn status(&self, name: &ServiceName) -> Result<ServiceStatus, BootstrapError> {
        match self.ask(&Request::Status { name: name.clone() })? {
            Reply::Status(status) => Ok(status),
            _ => Err(BootstrapError::Protocol),
        }
    }

    /// The services that this process may know of, in the order of their names
    /// (`bootstrap_info`).
    ///
    /// # Errors
    ///
    /// [`BootstrapError`]
    pub fn list(&self) -> Result<Vec<ServiceInfo>, BootstrapError> {
        match self.ask(&Request::List)? {
            Reply::List(services) => Ok(services),
            _ => Err(BootstrapError::Protocol),
        }
    }

    /// Makes a bootstrap right for a confined program.
    ///
    /// Whoever uses the right, or one copied from it, is known to the server by this label and
    /// bound by these entitlements: the text of an entitlement file, TOML or property list. It is of
    /// use to this process, to those that it has started and that they have, and to those that have
    /// [`Confined::variable`] in their environment. Requests of any other process that got hold of it
    /// are refused.
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::NOT_PRIVILEGED`] (1100) if this process is confined itself;
    /// [`BootstrapCode::BAD_ARGUMENTS`] if the entitlements cannot be read.
    pub fn confine(
        &self,
        label: &JobLabel,
        entitlements: &[u8],
    ) -> Result<Confined, BootstrapError> {
        let request = Request::Confine {
            label: label.clone(),
            entitlements: entitlements.into(),
        };
        let mut answer = self.call(&request, None)?;
        match read(&request, &answer)? {
            Reply::Confined(number) => Ok(Confined {
                right: take_send(&mut answer)?,
                mark: instance::mark(label, number),
            }),
            _ => Err(BootstrapError::Protocol),
        }
    }

    /// Ends the server. Conversations go on; names are gone.
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::NOT_PRIVILEGED`] (1100) if this process is confined or belongs to another
    /// user.
    pub fn shutdown(&self) -> Result<(), BootstrapError> {
        self.call(&Request::Shutdown, None).map(drop)
    }

    /// Makes a namespace below this one (`bootstrap_subset`).
    ///
    /// What is published there is seen only there and below, and may have a name that is taken
    /// here; whatever is not found there is looked up here. The namespace ends, with every name in
    /// it, when the port of `requestor` dies.
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::NO_MEMORY`] (1105) below a hundred others;
    /// [`BootstrapCode::NOT_PRIVILEGED`] (1100) if this process is confined.
    pub fn subset(&self, requestor: SendRight) -> Result<Self, BootstrapError> {
        let mut answer = self.call(&Request::Subset, Some(requestor.into()))?;
        take_send(&mut answer).map(Self::from_right)
    }

    /// The namespace that this one was made in, or this one if it is not below another
    /// (`bootstrap_parent`).
    ///
    /// # Errors
    ///
    /// [`BootstrapCode::NOT_PRIVILEGED`] (1100) if this process is confined.
    pub fn parent(&self) -> Result<Self, BootstrapError> {
        take_send(&mut self.call(&Request::Parent, None)?).map(Self::from_right)
    }

    fn ask(&self, request: &Request) -> Result<Reply, BootstrapError> {
        read(request, &self.call(request, None)?)
    }

    pub(crate) fn ask_for_rights(
        &self,
        request: &Request,
    ) -> Result<(Reply, Vec<Right>), BootstrapError> {
        let mut answer = self.call(request, None)?;
        let rights = answer.take_rights();
        Ok((read(request, &answer)?, rights))
    }

    fn call(&self, request: &Request, right: Option<Right>) -> Result<Message, BootstrapError> {
        self.call_within(PATIENCE, request, right)
    }

    fn call_within(
        &self,
        patience: Timeout,
        request: &Request,
        right: Option<Right>,
    ) -> Result<Message, BootstrapError> {
        let operation: Operation = request.operation();
        let may_repeat = right.is_none() && may_repeat(request);
        let mut message = Message::new(operation.id()).with_bytes(request.encode());
        if let Some(right) = right {
            message = message.with_right(right);
        }
        let mut answer = self.server.request(message, PATIENCE, patience);
        // A server that was killed with the request in its hands is there again.
        for _ in 0..MAX_REPEATS {
            if !matches!(answer, Err(RequestError::Reply(ReplyError::NoReply))) || !may_repeat {
                break;
            }
            let again = Message::new(operation.id()).with_bytes(request.encode());
            answer = self.server.request(again, PATIENCE, patience);
        }
        let answer = answer?;
        match BootstrapCode::from_raw(answer.id()) {
            BootstrapCode::SUCCESS => Ok(answer),
            code => Err(refused(code, answer.bytes())),
        }
    }
}

/// How often a request is sent again to a server that was killed.
const MAX_REPEATS: u32 = 3;

/// Whether asking twice is the same as asking once, should the first have been heard.
fn may_repeat(request: &Request) -> bool {
    !matches!(
        request,
        Request::Register { .. }
            | Request::Load { .. }
            | Request::Unload { .. }
            | Request::Kickstart { .. }
            | Request::OpenObject {
                create: Some(_),
                ..
            }
            | Request::UnlinkObject { .. }
            | Request::GroupSocket {
                purpose: SocketUse::Listen { .. },
                ..
            }
    )
}

fn is_unknown(error: &BootstrapError) -> bool {
    error.code() == Some(BootstrapCode::UNKNOWN_SERVICE)
}

fn read(request: &Request, answer: &Message) -> Result<Reply, BootstrapError> {
    Reply::decode(request.operation(), answer.bytes()).map_err(|_| BootstrapError::Protocol)
}

/// The code counts, also where what is said beside it cannot be read.
fn refused(code: BootstrapCode, bytes: &[u8]) -> BootstrapError {
    match Refusal::decode(code, bytes) {
        Ok(why) if !why.is_empty() => BootstrapError::Explained { code, why },
        _ => BootstrapError::Refused(code),
    }
}

fn take_send(answer: &mut Message) -> Result<SendRight, BootstrapError> {
    match answer.take_rights().pop() {
        Some(Right::Send(right)) => Ok(right),
        _ => Err(BootstrapError::Protocol),
    }
}

/// A bootstrap call failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The server said no; the code says why.
    #[error("{code} ({number})", code = .0, number = .0.raw())]
    Refused(BootstrapCode),
    /// The server said no, and in more words why.
    #[error("{code} ({number}): {why}", number = .code.raw())]
    Explained {
        /// Why.
        code: BootstrapCode,
        /// What is wrong, where, and what to do about it; or how a job failed.
        why: Refusal,
    },
    /// The server could not be asked.
    #[error("the bootstrap server cannot be reached")]
    Unreachable(#[from] RequestError),
    /// The server answered something that is no answer to the question.
    #[error("the bootstrap server does not speak this protocol")]
    Protocol,
}

impl BootstrapError {
    /// The server's code, if it answered.
    #[must_use]
    pub fn code(&self) -> Option<BootstrapCode> {
        match self {
            Self::Refused(code) | Self::Explained { code, .. } => Some(*code),
            Self::Unreachable(_) | Self::Protocol => None,
        }
    }
}
