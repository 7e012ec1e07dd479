//! Who asks, and the form of the answer.

use portolan_port::{Message, Right, Sender};
use portolan_sandbox::{Filter, Identity, Operation as Access, Verdict, sandbox_check};
use portolan_wire::bootstrap::{Operation, Reply, Request};
use portolan_wire::code::BootstrapCode;
use portolan_wire::failure::{self, StartFailure};
use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;
use rustix::event::epoll::{self, EventFlags};

use super::door::{DoorKey, Whose};
use super::names::filter;
use super::process::{self, ClientEntry, Unknown};
use super::store::Kind;
use super::violations::Refusal;
use super::{Server, Source};
use crate::registry::{ClientKey, JobKey, Owner, ProgramKey, Sandbox, Scope};

/// What a request comes to.
pub(super) enum Answer {
    Now(Message),
    /// The answer is due when the job has been started, or could not be.
    WhenStarted(JobKey),
    /// The answer is due when a confined program has been refused something after this.
    WhenRefused(u64),
}

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Refused {
    code: BootstrapCode,
    why: Option<failure::Refusal>,
}

impl Refused {
    pub(super) fn because(code: BootstrapCode, text: impl Into<String>) -> Self {
        let text: String = text.into();
        Self {
            code,
            why: Some(failure::Refusal::Text(text.into())),
        }
    }

    pub(super) fn start(failure: StartFailure) -> Self {
        Self {
            code: BootstrapCode::START_FAILED,
            why: Some(failure::Refusal::Start(failure)),
        }
    }

    /// What is wrong, in one line.
    pub(super) fn text(&self) -> String {
        match &self.why {
            Some(why) => format!("{}: {why}", self.code),
            None => self.code.to_string(),
        }
    }

    pub(super) fn into_message(self) -> Message {
        let message = Message::new(self.code.raw());
        match self.why {
            Some(why) => message.with_bytes(why.encode()),
            None => message,
        }
    }
}

impl From<BootstrapCode> for Refused {
    fn from(code: BootstrapCode) -> Self {
        Self { code, why: None }
    }
}

impl From<Refused> for super::ServerError {
    fn from(refused: Refused) -> Self {
        std::io::Error::other(refused.code.to_string()).into()
    }
}

/// Who asks.
pub(super) struct Caller {
    pub(super) pid: u32,
    pub(super) whose: Whose,
    door: DoorKey,
    sender: Sender,
    /// It runs as the server's user or as root, and came by a door that is not for guests.
    is_at_home: bool,
}

impl Caller {
    pub(super) fn must_not_be_confined(&self) -> Result<(), Refused> {
        match self.whose.identity {
            Identity::Unsandboxed => Ok(()),
            _ => Err(BootstrapCode::NOT_PRIVILEGED.into()),
        }
    }

    /// Whether the process has ended, as far as the kernel says.
    pub(super) fn has_ended(&self) -> bool {
        self.sender.pidfd().is_some_and(process::has_exited)
    }

    /// Whether it runs as the server's user or as root.
    pub(super) fn is_at_home(&self) -> bool {
        self.is_at_home
    }

    /// The user whose groups it means.
    pub(super) fn user(&self) -> u32 {
        match self.is_at_home {
            true => rustix::process::getuid().as_raw(),
            false => self.sender.uid(),
        }
    }

    /// Whether the sandbox lets it. Nothing is logged.
    pub(super) fn may(&self, operation: Access, filter: Filter, name: &str) -> bool {
        sandbox_check(&self.whose.identity, operation, filter, name) == Verdict::Allowed
    }

    /// Users other than the server's own may look names up. Jobs that run as one of them also serve
    /// names and speak of themselves, but nothing is done for them that the server can do and they
    /// cannot: a job that they load would run as root.
    fn must_be_at_home_for(&self, request: &Request) -> Result<(), Refused> {
        let looks = matches!(
            request,
            Request::LookUp { .. } | Request::Status { .. } | Request::List
        );
        let serves = matches!(
            request,
            Request::Register { .. }
                | Request::CheckIn { .. }
                | Request::TryExit
                | Request::Ready
                | Request::OpenObject { .. }
                | Request::UnlinkObject { .. }
                | Request::Objects { .. }
                | Request::GroupSocket { .. }
        );
        if self.whose.reports.is_some() {
            return Err(BootstrapCode::NOT_PRIVILEGED.into());
        }
        let why = match self.whose.job {
            _ if self.is_at_home || looks => return Ok(()),
            Some(_) if serves => return Ok(()),
            Some(_) => "this is for the server's user and for root, and the job runs as another",
            None => "this is another user's server; names are registered with one's own",
        };
        Err(Refused::because(BootstrapCode::NOT_PRIVILEGED, why))
    }

    /// The confined program that it is of, if that is no job.
    fn program(&self) -> Option<ProgramKey> {
        match self.whose.identity {
            Identity::Sandboxed { .. } if self.whose.job.is_none() => Some(ProgramKey(self.door.0)),
            _ => None,
        }
    }

    /// Where its names are.
    pub(super) fn scope(&self, per_pid: Option<u32>) -> Scope {
        match (per_pid, self.whose.namespace) {
            (Some(pid), _) => Scope::PerPid(pid),
            (None, Some(namespace)) => Scope::Subset(namespace),
            (None, None) => Scope::Global,
        }
    }
}

pub(super) fn done(reply: &Reply) -> Message {
    Message::new(BootstrapCode::SUCCESS.raw()).with_bytes(reply.encode())
}

impl Server {
    pub(super) fn answer(&mut self, message: &mut Message) -> Result<Answer, Refused> {
        let request = Request::decode(message.id(), message.bytes());
        let request = request.map_err(|error| error.code())?;
        let caller = self.caller(message)?;
        caller.must_be_at_home_for(&request)?;
        self.must_be_of_the_program(&caller, &request)?;
        let rights = message.take_rights();
        let operation = request.operation();
        let answer = self.answer_to(&caller, request, rights);
        let is_about_a_name = matches!(
            operation,
            Operation::Register
                | Operation::CheckIn
                | Operation::LookUp
                | Operation::Status
                | Operation::OpenObject
                | Operation::UnlinkObject
                | Operation::GroupSocket
        );
        if let Err(refused) = &answer
            && refused.code == BootstrapCode::NOT_PRIVILEGED
            && !is_about_a_name
        {
            self.note_request(&caller, operation);
        }
        answer
    }

    fn answer_to(
        &mut self,
        caller: &Caller,
        request: Request,
        rights: Vec<Right>,
    ) -> Result<Answer, Refused> {
        let answer = match request {
            Request::Register { name, flags } => self.register(caller, name, flags, rights)?,
            Request::CheckIn { name, flags } => self.check_in(caller, name, flags)?,
            Request::LookUp { name, flags, pid } => self.look_up(caller, name, flags, pid)?,
            Request::Status { name } => self.status_of(caller, name)?,
            Request::List => done(&Reply::List(self.list(caller))),
            Request::Confine {
                label,
                entitlements,
            } => self.confine(caller, label, entitlements)?,
            Request::Subset => self.subset(caller, rights)?,
            Request::Parent => self.parent(caller)?,
            Request::OpenObject { kind, create, name } => {
                self.open_object(caller, (kind, name), create)?
            }
            Request::UnlinkObject { kind, name } => self.unlink_object(caller, (kind, name))?,
            Request::Objects { kind, after } => self.list_objects(caller, kind, after),
            Request::GroupSocket {
                kind,
                purpose,
                group,
                path,
            } => self.group_socket(caller, (kind, purpose), &group, &path)?,
            Request::Reporter { label } => self.reporter(caller, label)?,
            control => return self.control(caller, control),
        };
        Ok(Answer::Now(answer))
    }

    /// Who asks: the process that the kernel names, and what the bootstrap port that it used is
    /// known for. 1105 for a process that cannot be told, as launchd says it.
    fn caller(&self, message: &Message) -> Result<Caller, Refused> {
        let sender = message.sender().ok_or(BootstrapCode::NO_MEMORY)?;
        let door = message.port().and_then(|port| self.doors.get(port));
        let door = door.ok_or(BootstrapCode::NO_MEMORY)?;
        let whose = door.whose.clone();
        let own = rustix::process::getuid().as_raw();
        let is_ours = sender.uid() == own || sender.uid() == 0;
        // The door of a job is for it alone, whatever user that runs as, and so is that for reports.
        let is_for_one = whose.job.is_some() || whose.reports.is_some();
        if !is_ours && !is_for_one && whose.guest != Some(sender.uid()) {
            return Err(BootstrapCode::NOT_PRIVILEGED.into());
        }
        let pid = sender.pid().ok_or(BootstrapCode::NO_MEMORY)?;
        let is_at_home = is_ours && whose.guest.is_none();
        Ok(Caller {
            pid,
            whose,
            door: door.key,
            sender: sender.clone(),
            is_at_home,
        })
    }

    /// Whose the names are that it publishes. A process is known, and its end waited for, from now on
    /// only: there may be any number that look names up.
    pub(super) fn owner(&mut self, caller: &Caller) -> Result<Owner, Refused> {
        if let Some(job) = caller.whose.job {
            return Ok(Owner::Job(job));
        }
        let known = self.known_client(caller.pid);
        let program = caller.program();
        let limit = program.and_then(|program| self.registry.limit_of_program(program, known));
        if let Some(limit) = limit {
            let why = limit.to_string();
            return Err(Refused::because(BootstrapCode::NO_MEMORY, why));
        }
        let client = match known {
            Some(client) => client,
            None => self.new_client(caller)?,
        };
        if let Some(program) = program {
            self.registry.client_joined(client, program);
        }
        Ok(Owner::Client(client))
    }

    fn known_client(&mut self, pid: u32) -> Option<ClientKey> {
        match self.processes.find(pid) {
            Ok(client) => return Some(client),
            Err(Unknown::New) => {}
            Err(Unknown::Replaced(gone)) => self.process_exited(gone),
        }
        None
    }

    fn new_client(&mut self, caller: &Caller) -> Result<ClientKey, BootstrapCode> {
        let (pid, pidfd) = (caller.pid, caller.sender.pidfd());
        let client = self.processes.watch(pid, pidfd, |fd, client| {
            let data = Source::Process(client).data();
            epoll::add(&self.deaths, fd, data, EventFlags::IN)
        });
        let client = client.map_err(|_| BootstrapCode::NO_MEMORY)?;
        let label = caller.whose.label.clone();
        let label = label.unwrap_or_else(|| process::anonymous_label(pid));
        let fds: Vec<_> = self.processes.descriptor(client).into_iter().collect();
        let entry = ClientEntry {
            pid,
            label: label.to_string(),
            program: caller.program().map(|program| program.0),
        };
        self.store.put(Kind::Client, client.0, &entry, &fds);
        self.registry.client_appeared(client, label, pid);
        Ok(client)
    }

    pub(super) fn check(
        &mut self,
        caller: &Caller,
        operation: Access,
        scope: Scope,
        name: &ServiceName,
    ) -> Sandbox {
        self.judge(caller, operation, filter(scope), name.as_str())
    }

    pub(super) fn judge(
        &mut self,
        caller: &Caller,
        operation: Access,
        filter: Filter,
        name: &str,
    ) -> Sandbox {
        let verdict = sandbox_check(&caller.whose.identity, operation, filter, name);
        let Verdict::Denied(violation) = verdict else {
            return Sandbox::Allows;
        };
        let refusal = Refusal {
            operation: operation.to_string(),
            name,
            key: violation.key,
            value: &violation.value,
            left_out: 0,
        };
        self.note_refusal(&violation.label, caller.pid, &refusal, &violation);
        Sandbox::Denies
    }

    pub(super) fn note_refusal(
        &mut self,
        label: &JobLabel,
        pid: u32,
        refusal: &Refusal<'_>,
        line: &dyn std::fmt::Display,
    ) {
        match self.violations.note(&self.store, label, pid, refusal) {
            None => {}
            Some(0) => tracing::warn!(pid, "{line}"),
            Some(left_out) => tracing::warn!(pid, left_out, "{line}"),
        }
    }

    /// Notes a request that is not for confined programs, whatever their entitlements are.
    fn note_request(&mut self, caller: &Caller, operation: Operation) {
        let Identity::Sandboxed { label, .. } = &caller.whose.identity else {
            return;
        };
        let refusal = Refusal {
            operation: format!("bootstrap-{}", word(operation)),
            name: "",
            key: "",
            value: "",
            left_out: 0,
        };
        let line = format!(
            "{label}: deny {}; no entitlement allows it",
            refusal.operation
        );
        self.note_refusal(label, caller.pid, &refusal, &line);
    }
}

/// What a request is called in the log.
fn word(operation: Operation) -> String {
    let mut word = String::new();
    for letter in format!("{operation:?}").chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}

/// The one send right of a request: nothing if there is none, and an error if it is dead.
pub(super) fn only_send(mut rights: Vec<Right>) -> Result<Offered, BootstrapCode> {
    match rights.pop() {
        None => Ok(Offered::Nothing),
        Some(Right::Send(right)) if !right.is_dead() => Ok(Offered::Right(right)),
        Some(Right::Send(_) | Right::Dead) => Ok(Offered::Dead),
        Some(_) => Err(BootstrapCode::BAD_ARGUMENTS),
    }
}

/// What came with a request.
pub(super) enum Offered {
    Nothing,
    Dead,
    Right(portolan_port::SendRight),
}
