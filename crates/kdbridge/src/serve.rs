//! The end that answers: what debuggers connect to.
//!
//! One machine, several debuggers. The first that wants to change something controls the machine until it
//! leaves; the others read. When the last one has left, in whatever way, the machine runs on without
//! breakpoints.

mod cache;
mod client;
mod dialect;
mod hooks;
mod listen;
mod lldb;
mod machine;
mod memory;
mod requests;
mod stops;
mod xml;

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use crate::rsp::link::Stream;
use crate::rsp::packet::Item;
use crate::target::{End, Target, TargetError};
use client::{Client, Closed, Id};
pub use listen::Listener;
use machine::Machine;
use requests::Answer;

/// The most debuggers at once.
const MAX_CLIENTS: usize = 16;

/// How often a running target is asked that cannot be waited for.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};

/// Where a kernel is, as debuggers are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Where its text begins.
    pub text: u64,
    /// How far everything is from where it was linked to be.
    pub slide: u64,
    /// Its file, for a gdb that was given none.
    pub file: Option<PathBuf>,
}

/// Finds the kernel each time that the first debugger connects: the machine may have booted again.
pub type Locate = Box<dyn FnMut(&mut dyn Target) -> Option<Whereabouts> + Send>;

/// A module in forms that debuggers understand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Its file, for GDB.
    pub file: PathBuf,
    /// Where the parts of that are.
    pub parts: Parts,
    /// The memory that it takes.
    pub memory: Vec<Range<u64>>,
}

/// Where the parts of a file are in memory, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parts {
    /// Each section that takes memory, of a file that is not linked.
    Sections(Vec<u64>),
    /// Each segment, of one that is linked to somewhere else.
    Segments(Vec<u64>),
}

/// What a kernel has loaded.
pub trait Modules: Send {
    /// The modules that have files, but for those that are just being unloaded.
    fn list(&mut self, target: &mut dyn Target) -> Vec<Library>;

    /// The functions that the kernel calls when one was loaded, and before one is unloaded: where
    /// the list may be another one whenever a processor comes there.
    fn hooks(&mut self, target: &mut dyn Target) -> Vec<u64> {
        let _ = target;
        Vec::new()
    }

    /// Whether LLDB has to be told of them. It finds the extensions of XNU by itself, and watches the list.
    fn are_for_lldb(&self) -> bool {
        true
    }

    /// Copies of the files of those that were listed last, each linked to where the module is, and the lowest
    /// address in it: what LLDB reads. They are made only for it.
    fn copies(&mut self, target: &mut dyn Target) -> Vec<(PathBuf, u64)> {
        let _ = target;
        Vec::new()
    }

    /// A file with nothing in it, and an address where nothing is. LLDB does not look at a list that is
    /// empty, and does not let go of the first file on it if it has no other: so this one comes first.
    fn nothing(&self) -> Option<(PathBuf, u64)> {
        None
    }
}

/// A kernel without modules.
#[derive(Debug)]
pub struct NoModules;

impl Modules for NoModules {
    fn list(&mut self, _: &mut dyn Target) -> Vec<Library> {
        Vec::new()
    }
}

/// What a server does beside answering.
pub struct Options {
    /// Finds the kernel.
    pub locate: Locate,
    /// Lists the modules.
    pub modules: Box<dyn Modules>,
    /// A debugger that kills what it debugs ends the machine; else it only leaves it.
    pub allow_kill: bool,
    /// Is told what no debugger can be told.
    pub remark: Box<dyn FnMut(&str) + Send>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options = f.debug_struct("Options");
        options
            .field("allow_kill", &self.allow_kill)
            .finish_non_exhaustive()
    }
}

/// Why a server ends before it is asked to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The machine.
    #[error("the machine cannot be debugged any more")]
    Target(#[from] TargetError),
    /// The socket that debuggers connect to.
    #[error("debuggers cannot connect any more")]
    Io(#[from] io::Error),
}

/// Connects to the machine anew, which then stands still.
pub type Reconnect<T> = Box<dyn FnMut() -> Result<T, Box<dyn Error + Send + Sync>> + Send>;

/// A machine with a socket for debuggers.
pub struct Server<T> {
    machine: Machine<T>,
    listener: Listener,
    clients: Vec<Client>,
    accepted: u32,
    reconnect: Option<Reconnect<T>>,
    /// The machine is gone.
    lost: bool,
}

impl<T> fmt::Debug for Server<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut server = f.debug_struct("Server");
        server
            .field("machine", &self.machine)
            .field("listener", &self.listener)
            .field("clients", &self.clients)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

impl<T: Target> Server<T> {
    /// Lets `target`, which stands still, run until a debugger connects.
    ///
    /// # Errors
    ///
    /// What the target has.
    pub fn new(target: T, listener: Listener, options: Options) -> Result<Self, TargetError> {
        Ok(Self {
            machine: Machine::new(target, options)?,
            listener,
            clients: Vec::new(),
            accepted: 0,
            reconnect: None,
            lost: false,
        })
    }

    /// From here on a machine that is gone does not end the server: the next debugger has it connected to anew,
    /// and its kernel looked for. A program that has ended is not begun again.
    pub fn reconnect_by(&mut self, reconnect: Reconnect<T>) {
        self.reconnect = Some(reconnect);
    }

    /// Where debuggers connect.
    #[must_use]
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Serves until `end` is readable; then the machine runs on without breakpoints.
    ///
    /// # Errors
    ///
    /// [`ServeError`] if that is not possible any more.
    pub fn serve(&mut self, end: BorrowedFd<'_>) -> Result<(), ServeError> {
        let served = self.serve_until(end);
        self.clients.clear();
        if self.lost {
            return served;
        }
        if let Err(ServeError::Target(error)) = &served
            && error.is_final()
        {
            return served;
        }
        // After an error too, as far as the target still does what it is told.
        let left = self.machine.part();
        served?;
        Ok(left?)
    }

    fn serve_until(&mut self, end: BorrowedFd<'_>) -> Result<(), ServeError> {
        while let Some(ready) = self.wait(end)? {
            match self.turn(ready) {
                Err(ServeError::Target(error)) if error.is_final() => self.lose(error)?,
                turn => turn?,
            }
        }
        Ok(())
    }

    /// Goes on without a machine, which is gone, and its debuggers.
    fn lose(&mut self, error: TargetError) -> Result<(), TargetError> {
        self.tell_of_end(&error);
        if self.reconnect.is_none() || self.machine.is_program() {
            return Err(error);
        }
        self.remark(&format!(
            "{error}; it is connected to again when a debugger comes"
        ));
        // Who was told of an end leaves by itself.
        for client in &mut self.clients {
            if matches!(error, TargetError::Ended(_)) && std::mem::take(&mut client.talk.waits) {
                client.refuse(error.to_string());
            }
        }
        self.clients.retain(Client::is_unwelcome);
        self.lost = true;
        Ok(())
    }

    fn turn(&mut self, ready: Ready) -> Result<(), ServeError> {
        if ready.target {
            self.look_at_machine()?;
        }
        for index in ready.clients {
            self.hear(index)?;
        }
        self.flush();
        self.let_go()?;
        if ready.listener {
            self.accept()?;
        }
        Ok(())
    }

    /// Tells whoever waits for a stop that there will be none.
    fn tell_of_end(&mut self, error: &TargetError) {
        let word = match error {
            TargetError::Ended(End::Exit(status)) => Some(format!("W{status:02x}")),
            TargetError::Ended(End::Signal(signal)) => Some(format!("X{signal:02x}")),
            _ => None,
        };
        for client in self.clients.iter_mut().filter(|client| client.talk.waits) {
            match &word {
                Some(word) => client.answer(word.as_bytes()),
                None => client.print(&error.to_string()),
            }
        }
        self.flush();
    }

    /// Waits for something to do; `None` at the end.
    fn wait(&self, end: BorrowedFd<'_>) -> Result<Option<Ready>, ServeError> {
        let target = match self.lost {
            true => None,
            false => self.machine.readiness(),
        };
        let mut fds = vec![
            PollFd::from_borrowed_fd(end, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        fds.extend(self.clients.iter().map(|client| {
            let output = if client.has_output() {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            PollFd::new(client, PollFlags::IN | output)
        }));
        fds.extend(target.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let blind = !self.lost && self.machine.is_running() && target.is_none();
        match poll(&mut fds, blind.then_some(&TICK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || ready.next().unwrap_or(false);
        if next() {
            return Ok(None);
        }
        let listener = next();
        let clients = (0..self.clients.len()).filter(|_| next()).collect();
        Ok(Some(Ready {
            listener,
            clients,
            target: next() || blind,
        }))
    }

    fn accept(&mut self) -> Result<(), ServeError> {
        let Some(stream) = self.listener.accept()? else {
            return Ok(());
        };
        // More are hung up on.
        if self.clients.len() < MAX_CLIENTS {
            self.welcome(stream)?;
        }
        Ok(())
    }

    fn welcome(&mut self, stream: Stream) -> Result<(), TargetError> {
        self.accepted += 1;
        let mut client = Client::new(Id(self.accepted), stream);
        let ready = self.make_ready();
        if let Err(why) = &ready {
            self.remark(&format!("a debugger was sent away: {why}"));
            client.refuse(why.to_string());
        }
        self.clients.push(client);
        match ready {
            Err(SentAway::Target(error)) if error.is_final() => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the machine stand still for one more debugger.
    fn make_ready(&mut self) -> Result<(), SentAway> {
        if self.lost {
            self.find_again()?;
        }
        // One that was sent away has nothing to do with the machine.
        if self.clients.iter().all(Client::is_unwelcome) {
            return Ok(self.machine.begin()?);
        }
        match self.machine.controller {
            Some(Id(other)) if self.machine.is_running() => Err(SentAway::Runs(other)),
            _ => Ok(()),
        }
    }

    fn find_again(&mut self) -> Result<(), SentAway> {
        if let Some(reconnect) = &mut self.reconnect {
            let target = reconnect().map_err(SentAway::Lost)?;
            self.machine.replace(target)?;
            self.lost = false;
        }
        Ok(())
    }

    fn remark(&mut self, text: &str) {
        (self.machine.options.remark)(text);
    }

    /// Tells whoever waits for it of a stop.
    fn look_at_machine(&mut self) -> Result<(), TargetError> {
        if !self.machine.look()? {
            return Ok(());
        }
        if self.clients.iter().all(Client::is_unwelcome) {
            if !self.machine.stopped_by_itself() {
                return self.pass_by();
            }
            self.remark("the machine stands still, and waits for a debugger");
        }
        for client in &mut self.clients {
            if std::mem::take(&mut client.talk.waits) {
                let stop = self.machine.news(&client.talk)?;
                client.answer(stop.as_bytes());
            }
        }
        Ok(())
    }

    /// Lets a machine run on that stopped for nobody, if that is not in vain.
    fn pass_by(&mut self) -> Result<(), TargetError> {
        let passed = self.machine.pass_by();
        if let Err(error) = &passed
            && !error.is_final()
        {
            self.remark(&format!(
                "the machine stands still, and waits for a debugger: a breakpoint stays where it is: {error}"
            ));
            return Ok(());
        }
        passed
    }

    fn hear(&mut self, index: usize) -> Result<(), TargetError> {
        let Some(client) = self.clients.get_mut(index) else {
            return Ok(());
        };
        let Ok(items) = client.receive() else {
            client.closed = true;
            return Ok(());
        };
        let mut last = None;
        for item in items {
            if client.closed {
                break;
            }
            // A debugger that waited long for the bridge to say anything has asked again.
            let is_packet = matches!(item, Item::Packet(_));
            if client.acks() && is_packet && last.as_ref() == Some(&item) {
                client.acknowledge(true);
                continue;
            }
            last = Some(item.clone());
            match item {
                Item::Packet(request) if client.is_unwelcome() => client.send_away(&request),
                Item::Packet(request) => answer(&mut self.machine, client, &request)?,
                Item::Damaged => client.acknowledge(false),
                Item::Nack => client.again(),
                Item::Interrupt => match self.machine.interrupt(client.id) {
                    Err(error @ TargetError::CannotInterrupt(_)) => {
                        client.print(&error.to_string())
                    }
                    result => result?,
                },
                Item::Ack => {}
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        for client in &mut self.clients {
            if let Err(Closed) = client.flush() {
                client.closed = true;
            }
        }
    }

    /// Forgets debuggers that have left.
    fn let_go(&mut self) -> Result<(), TargetError> {
        let gone = self.clients.extract_if(.., |client| client.closed);
        let gone: Vec<Client> = gone.collect();
        let gone = gone.iter().filter(|client| !client.is_unwelcome());
        let gone: Vec<Id> = gone.map(|client| client.id).collect();
        if self.lost {
            return Ok(());
        }
        for id in &gone {
            let released = self.machine.release(*id);
            self.survive(released)?;
        }
        if !gone.is_empty() && self.clients.iter().all(Client::is_unwelcome) {
            let left = self.machine.leave_alone();
            self.survive(left)?;
        }
        Ok(())
    }

    /// Goes on if the target may answer again.
    fn survive(&mut self, result: Result<(), TargetError>) -> Result<(), TargetError> {
        match result {
            Err(error) if !error.is_final() => {
                self.remark(&format!(
                    "breakpoints of a debugger that has left may still be there: {error}"
                ));
                Ok(())
            }
            result => result,
        }
    }
}

/// Why a debugger is not served.
#[derive(Debug, Error)]
enum SentAway {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(
        "debugger {0} has the machine run, and nothing can be read meanwhile; \
        connect again when it stands still"
    )]
    Runs(u32),
    #[error("the machine is gone: {0}")]
    Lost(Box<dyn Error + Send + Sync>),
}

/// What poll found.
struct Ready {
    listener: bool,
    clients: Vec<usize>,
    target: bool,
}

fn answer<T: Target>(
    machine: &mut Machine<T>,
    client: &mut Client,
    request: &[u8],
) -> Result<(), TargetError> {
    client.acknowledge(true);
    // A debugger that waits for that asks again, and some answers take a while. What one has asked that has
    // left is done, and nothing after it.
    if let Err(Closed) = client.flush() {
        client.closed = true;
    }
    let answered = requests::answer(machine, client.id, &mut client.talk, request);
    if let Err(error) = &answered {
        client.answer(&requests::failure(error, &client.talk));
    }
    match answered? {
        Answer::Packet(payload) => client.answer(&payload),
        Answer::Packets(payloads) => payloads.iter().for_each(|it| client.answer(it)),
        Answer::Memory(stretch) => {
            client.answer_in_pieces(|answer| stretch.read(machine, answer))?;
        }
        Answer::WithoutAcks => {
            client.answer(b"OK");
            client.stop_acks();
        }
        Answer::Later => client.talk.waits = true,
        Answer::Leave(last) => {
            if let Some(last) = last {
                client.answer(last);
            }
            // What is written now arrives though the connection is closed next.
            client.flush().ok();
            client.closed = true;
        }
    }
    Ok(())
}
