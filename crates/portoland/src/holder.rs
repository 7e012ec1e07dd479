//! The parent of a server, which has all that the server opens and starts it again.
//!
//! The holder and the server share one table of descriptors ([`portolan_sys::holder`]). What the
//! server opens is therefore open in the holder as well, without a word between the two, and goes
//! on to be when the server is killed. The next server finds in the [`journal`] what
//! each descriptor is; those that no entry names are closed.
//!
//! * A server that is killed, or panics in any thread, is started again: at once, and after five
//!   times in a row no sooner than a tenth of a second after its last start.
//! * A server that ends by [`Restart::now`] is replaced with the program that is *now* where
//!   this one was started from, so that a new version takes over. The holder executes it in its own
//!   place, so its process id stays; the program that ran until now goes on if that fails.
//! * SIGHUP to the holder asks the server for that, by the same signal. A server that does not
//!   handle it is ended by it, and loses nothing either.
//! * SIGTERM and SIGINT are passed to the server. When it has ended, the holder ends.
//! * A server that ends by [`Restart::keep`] leaves all it has to the service manager, and the
//!   holder that this starts next takes it back ([`Start::Kept`]).
//!
//! Processes whose parent was a server that is gone become the holder's children. It reaps them and
//! reports how they ended ([`Exits`]).
//!
//! If the holder is killed the server goes on, and notices it ([`Life::holder`]). By
//! [`Restart::in_own_place`] it becomes the holder of the next server, in its own process.

mod exits;
mod kept;
mod pace;

use std::collections::BTreeSet;
use std::env;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_sys::holder::{Child, start_sharing};
use portolan_sys::inherit;
use portolan_sys::orphans::{Orphans, Own};
use portolan_sys::signals::Blocked;
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use thiserror::Error;

use crate::daemon::chain;
use crate::journal::{self, Entries, Journal, Key};
pub use exits::{Exit, Exits};
use pace::Pace;

/// How a server ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// For good.
    Done,
    /// For good, because it could not do its work; the holder ends with 1.
    Failed,
}

/// Why a server is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// There was none before.
    First,
    /// The last one was killed, or has panicked.
    Crash,
    /// The last one ended by [`Restart::now`], somebody asked the holder for it, or the last one has
    /// become the holder.
    InPlace,
    /// The last one ended by [`Restart::keep`], in a process that is gone as well.
    Kept,
}

/// What a server begins with.
#[derive(Debug)]
pub struct Life {
    /// Why it is started.
    pub start: Start,
    /// Where to write down what the next one is to know.
    pub journal: Journal,
    /// What the last one wrote down.
    pub recovered: Recovered,
    /// How processes of earlier servers ended.
    pub exits: Exits,
    /// The holder's pidfd: readable when it is gone, and nobody would start the next server.
    pub holder: OwnedFd,
    /// How to end for a restart in place.
    pub restart: Restart,
}

/// Ends a server so that the next one, of the program that is installed then, has all it has.
#[derive(Debug)]
pub struct Restart {
    signals: Blocked,
    program: PathBuf,
    left: Left,
}

/// What a server has left to the next one.
#[derive(Debug)]
pub struct Recovered {
    entries: Entries,
    orphans: Orphans,
}

/// The holder could not go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HolderError {
    /// It could not prepare.
    #[error("cannot prepare to hold a server's descriptors")]
    SetUp(#[source] io::Error),
    /// It could not find what the program before it has left.
    #[error("cannot take over from the program that was replaced")]
    TakeOver(#[source] io::Error),
    /// It could not start a server.
    #[error("cannot start the server")]
    Start(#[source] io::Error),
    /// It could not wait for the server, or not take over what that has left.
    #[error("cannot hold what the server has left")]
    Hold(#[source] io::Error),
}

/// Runs `server` in a child process, again and again, until it ends for good. The code is for this
/// process to exit with.
///
/// To be called before anything has started a thread, by a process that does nothing else.
///
/// # Errors
///
/// [`HolderError`]
pub fn run(server: impl Fn(Life) -> Ending + Sync) -> Result<ExitCode, HolderError> {
    let (mut holder, mut orphans) = match left_numbers() {
        Some(left) => Holder::take_over(left).map_err(HolderError::TakeOver)?,
        None => Holder::new().map_err(HolderError::SetUp)?,
    };
    let mut pace = Pace::default();
    loop {
        let started = Instant::now();
        let next = match holder.start(&server, &mut orphans) {
            Ok(child) => {
                holder.tell(child.pid).map_err(HolderError::Hold)?;
                let status = holder.wait_for(child.pid).map_err(HolderError::Hold)?;
                orphans = holder.own.orphans(child).map_err(HolderError::Hold)?;
                holder.what_next(status)
            }
            Err(error) if !matches!(holder.start, Start::First | Start::Kept) => {
                tracing::error!("cannot start the server again: {}", chain(&error));
                Next::Again
            }
            Err(error) => return Err(HolderError::Start(error)),
        };
        match next {
            Next::End(code) => return Ok(ExitCode::from(code)),
            Next::Keep => {
                holder.keep();
                return Ok(ExitCode::SUCCESS);
            }
            Next::Replace => holder.replace(&mut orphans),
            Next::Again => {
                let rest = pace.after(started.elapsed());
                holder.rest(rest).map_err(HolderError::Hold)?;
            }
        }
        match holder.asked {
            // Once more, for a server that ends what the last one has left.
            Asked::End if !mem::replace(&mut holder.is_ending, true) => {}
            Asked::End => return Ok(ExitCode::SUCCESS),
            Asked::Restart => holder.replace(&mut orphans),
            Asked::Nothing => {}
        }
    }
}

/// Whether this process is to take over from the program before it, or from the service manager.
#[must_use]
pub fn takes_over() -> bool {
    left_numbers().is_some() || kept::is_given()
}

impl Recovered {
    /// The keys of all entries, in their order.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.entries.keys()
    }

    /// The bytes of an entry.
    pub fn bytes(&self, key: Key) -> Option<&[u8]> {
        self.entries.get(key).map(|entry| entry.bytes)
    }

    /// The descriptors of an entry, which are the caller's from then on. `None` if there is no such
    /// entry, or if not all of its descriptors are there to be taken.
    ///
    /// What is not taken stays open for the next server, as long as its entry stays.
    pub fn take_fds(&mut self, key: Key) -> Option<Vec<OwnedFd>> {
        let numbers = self.entries.get(key)?.descriptors;
        let all = numbers.iter();
        let taken: Vec<_> = all.map_while(|&n| self.orphans.take(n)).collect();
        if taken.len() == numbers.len() {
            return Some(taken);
        }
        for fd in taken {
            self.orphans.adopt(fd);
        }
        None
    }
}

impl Restart {
    /// Lets this process have the signals that may end it. They are blocked until then, and what comes
    /// meanwhile waits: a server that has no handlers yet would end without a word.
    ///
    /// # Errors
    ///
    /// What sigprocmask(2) says.
    pub fn let_signals_in(&self) -> io::Result<()> {
        self.signals.unblock()
    }

    /// Ends this process at once. Nothing is dropped, for a descriptor that its owner closes on the
    /// way out is not there for the next server.
    pub fn now(self) -> ! {
        process::exit(RESTART.into())
    }

    /// Whether [`keep`](Self::keep) has somebody to leave things to: a service manager that says how
    /// many descriptors it keeps.
    #[must_use]
    pub fn can_keep(&self) -> bool {
        kept::is_offered()
    }

    /// Ends this process for good, and leaves all it has to the service manager. As in
    /// [`now`](Self::now), nothing is dropped. If the service manager does not take it, it ends with
    /// the holder.
    pub fn keep(self) -> ! {
        process::exit(KEEP.into())
    }

    /// For a server whose holder is gone: executes the program in this process, which becomes the
    /// holder of the next server. Nothing is dropped. Returns why that was not done, with all as it was.
    ///
    /// `told` is asked once signals wait for the next program. If it says that one came before, that is
    /// this server's to see to, and the error is [`io::ErrorKind::Interrupted`].
    pub fn in_own_place(&self, told: impl FnOnce() -> bool) -> io::Error {
        let error = match self.signals.block() {
            Ok(()) if told() => io::ErrorKind::Interrupted.into(),
            Ok(()) => self.execute(),
            Err(error) => error,
        };
        // Fails for a set of signals that the call before has refused too.
        self.signals.unblock().ok();
        error
    }

    fn execute(&self) -> io::Error {
        let mut numbers = match self.left.named() {
            Ok(numbers) => numbers,
            Err(error) => return error,
        };
        let Left {
            journal,
            reader,
            writer,
        } = self.left;
        numbers.extend([journal, reader, writer]);
        for &number in &numbers {
            // Fails for one that is not open only, and the next server misses it as this one does.
            inherit::leave_numbered(number).ok();
        }
        let error = execute(&self.program, self.left);
        for &number in &numbers {
            inherit::close_on_exec(number).ok();
        }
        error
    }
}

#[derive(Debug)]
struct Holder {
    signals: Blocked,
    program: PathBuf,
    /// The number of the journal's memfd, which belongs to the server or to nobody.
    journal: u32,
    exits: (Exits, OwnedFd),
    itself: OwnedFd,
    own: Own,
    start: Start,
    asked: Asked,
    /// Whether the server that is told to end is not the first one that is.
    is_ending: bool,
}

/// What somebody has asked the holder for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Restart,
    End,
}

/// What is to be done when a server has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Again,
    Replace,
    Keep,
    End(u8),
}

/// Across an exec, the descriptors that are not in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    journal: u32,
    reader: u32,
    writer: u32,
}

/// Tells the program that replaces this one [`Left`], after the process id that it is meant for, so
/// that a child which inherits the variable does not believe it.
const VARIABLE: &str = "PORTOLAN_HOLDER";

const SIGNALS: &[Signal] = &[Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP];

/// `ERESTART`, which no part of a server exits with by accident.
const RESTART: u8 = 85;
/// `ESTRPIPE`, likewise.
const KEEP: u8 = 86;
const FAILED: u8 = 1;
/// As a Rust program that has panicked.
const PANICKED: u8 = 101;

impl Holder {
    fn new() -> io::Result<(Self, Orphans)> {
        let kept = kept::take_back().unwrap_or_else(|error| {
            tracing::error!("what the last server knew is lost: {}", chain(&error));
            None
        });
        let (memory, mut orphans, start) = match kept {
            Some((memory, orphans)) => (memory, orphans, Start::Kept),
            None => (journal::memory()?, Orphans::default(), Start::First),
        };
        let journal = orphans.adopt(memory);
        let holder = Self::with(journal, exits::pipe()?, start, &orphans)?;
        Ok((holder, orphans))
    }

    fn take_over(left: Left) -> io::Result<(Self, Orphans)> {
        let exits = (
            Exits::of(inherit::take(left.reader)?),
            inherit::take(left.writer)?,
        );
        let mut numbers = named(left.journal)?;
        numbers.insert(left.journal);
        let orphans = Orphans::left_by_exec(numbers);
        let holder = Self::with(left.journal, exits, Start::InPlace, &orphans)?;
        Ok((holder, orphans))
    }

    fn with(
        journal: u32,
        exits: (Exits, OwnedFd),
        start: Start,
        orphans: &Orphans,
    ) -> io::Result<Self> {
        let own_id = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own_id))?;
        let itself = rustix::process::pidfd_open(own_id, PidfdFlags::empty())?;
        Ok(Self {
            signals: Blocked::new(SIGNALS)?,
            program: env::current_exe()?,
            journal,
            exits,
            itself,
            own: Own::now(orphans)?,
            start,
            asked: Asked::Nothing,
            is_ending: false,
        })
    }

    /// Once the child runs, the orphans are its own, and this process has to forget them.
    fn start(
        &self,
        server: &(impl Fn(Life) -> Ending + Sync),
        orphans: &mut Orphans,
    ) -> io::Result<Child> {
        start_sharing(|| match self.begin(mem::take(orphans)) {
            Ok(life) => server(life).code(),
            Err(error) => {
                tracing::error!("cannot begin: {}", chain(&error));
                FAILED
            }
        })
    }

    /// In the child.
    fn begin(&self, mut orphans: Orphans) -> io::Result<Life> {
        end_on_panic();
        let memory = orphans.take(self.journal).ok_or(Errno::BADF)?;
        let mut entries = journal::replay(&memory).unwrap_or_else(|error| {
            tracing::error!("what the last server knew is lost: {}", chain(&error));
            Entries::default()
        });
        let named = descriptors(&entries);
        orphans.close_except(|number| named.contains(&number));
        let mut journal = Journal::resume(memory, &entries)?;
        // Before anything is opened, which could get such a number once more.
        for key in dangling(&entries, &orphans) {
            entries.forget(key);
            if let Err(error) = journal.remove(key) {
                tracing::error!(%error, "an entry stays that names what is not there");
            }
        }
        Ok(Life {
            start: self.start,
            journal,
            recovered: Recovered { entries, orphans },
            exits: self.exits.0.try_clone()?,
            holder: self.itself.try_clone()?,
            restart: self.restart(),
        })
    }

    /// In the child, where these descriptors stay open when this process is gone.
    fn restart(&self) -> Restart {
        let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().cast_unsigned();
        Restart {
            signals: self.signals,
            program: self.program.clone(),
            left: Left {
                journal: self.journal,
                reader: number(self.exits.0.as_fd()),
                writer: number(self.exits.1.as_fd()),
            },
        }
    }

    /// Tells a server that was started to end that it is to. It waits until the server hears of it.
    fn tell(&self, server: Pid) -> io::Result<()> {
        match self.asked {
            Asked::End => Ok(rustix::process::kill_process(server, Signal::TERM)?),
            Asked::Restart | Asked::Nothing => Ok(()),
        }
    }

    fn wait_for(&mut self, server: Pid) -> io::Result<WaitStatus> {
        loop {
            if let Some(status) = self.reap(Some(server))? {
                return Ok(status);
            }
            if let Some(signal) = self.signals.wait(None)? {
                self.note(signal);
                if signal != Signal::CHILD {
                    rustix::process::kill_process(server, signal)?;
                }
            }
        }
    }

    /// Reaps and reports children until there are none that have ended, or the server is among them.
    fn reap(&mut self, server: Option<Pid>) -> io::Result<Option<WaitStatus>> {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == server => return Ok(Some(status)),
                Ok(Some((pid, status))) => exits::report(&self.exits.1, pid, status),
                Ok(None) | Err(Errno::CHILD) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn note(&mut self, signal: Signal) {
        match signal {
            Signal::TERM | Signal::INT => self.asked = Asked::End,
            Signal::HUP if self.asked == Asked::Nothing => self.asked = Asked::Restart,
            _ => {}
        }
    }

    /// Lets time pass, until somebody asks for something.
    fn rest(&mut self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        while self.asked == Asked::Nothing {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if let Some(signal) = self.signals.wait(Some(left))? {
                self.note(signal);
                self.reap(None)?;
            }
        }
        Ok(())
    }

    fn what_next(&mut self, status: WaitStatus) -> Next {
        let asked = mem::replace(&mut self.asked, Asked::Nothing);
        let code = status
            .exit_status()
            .and_then(|code| u8::try_from(code).ok());
        let next = after(code, asked);
        if next == Next::Again {
            tracing::warn!(?status, "the server is gone and is started again");
            self.asked = asked;
        }
        self.start = match next {
            Next::Replace => Start::InPlace,
            Next::Again | Next::Keep | Next::End(_) => Start::Crash,
        };
        next
    }

    fn keep(&self) {
        match kept::hand_over(self.journal) {
            Ok(count) => tracing::info!(count, "the service manager keeps what there is"),
            Err(error) => tracing::error!("what there is is lost: {}", chain(&error)),
        }
    }

    /// Executes the program in this process. Returns if that fails, with all as it was.
    fn replace(&mut self, orphans: &mut Orphans) {
        self.asked = Asked::Nothing;
        self.start = Start::InPlace;
        let error = match self.leave(orphans) {
            Ok(left) => execute(&self.program, left),
            Err(error) => error,
        };
        tracing::error!(program = %self.program.display(), %error, "cannot be executed");
        for fd in [self.exits.0.as_fd(), self.exits.1.as_fd()] {
            // Fails for a descriptor that is not open only.
            rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).ok();
        }
        orphans.close_on_exec();
    }

    /// Has the descriptors that the next program needs stay open over exec, and no other ones.
    fn leave(&self, orphans: &mut Orphans) -> io::Result<Left> {
        let mut named = named(self.journal)?;
        named.insert(self.journal);
        orphans.close_except(|number| named.contains(&number));
        orphans.leave()?;
        Ok(Left {
            journal: self.journal,
            reader: inherit::leave(self.exits.0.as_fd())?,
            writer: inherit::leave(self.exits.1.as_fd())?,
        })
    }
}

impl Ending {
    fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => FAILED,
        }
    }
}

impl Left {
    /// The descriptors that the journal names.
    fn named(self) -> io::Result<BTreeSet<u32>> {
        let memory = inherit::duplicate(self.journal)?;
        let entries = journal::replay(&memory).map_err(io::Error::other)?;
        Ok(descriptors(&entries))
    }

    fn to_text(self) -> String {
        let (process, journal) = (process::id(), self.journal);
        format!("{process} {journal} {} {}", self.reader, self.writer)
    }

    /// `None` if it is not meant for this process.
    fn from_text(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        if next()? != process::id() {
            return None;
        }
        Some(Self {
            journal: next()?,
            reader: next()?,
            writer: next()?,
        })
    }
}

/// Executes the program in this process, to hold what is left. Returns if that fails.
fn execute(program: &Path, left: Left) -> io::Error {
    let error = Command::new(program)
        .args(env::args_os().skip(1))
        .env(VARIABLE, left.to_text())
        .exec();
    // The standard library has set SIGPIPE back to its default for the program, and it would end this
    // process at the next line of a log that nobody reads. That does nothing:
    signal_hook::flag::register(signal_hook::consts::SIGPIPE, Arc::default()).ok();
    error
}

/// Unwinding would drop what the server has, and with it close what the next one needs.
fn end_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::exit(PANICKED.into());
    }));
}

fn left_numbers() -> Option<Left> {
    Left::from_text(&env::var(VARIABLE).ok()?)
}

/// `code` is that of a server that has exited.
fn after(code: Option<u8>, asked: Asked) -> Next {
    match (code, asked) {
        (Some(0), _) => Next::End(0),
        (Some(KEEP), _) => Next::Keep,
        (Some(RESTART), Asked::Nothing) | (None | Some(PANICKED | RESTART), Asked::Restart) => {
            Next::Replace
        }
        (None | Some(PANICKED | RESTART), _) => Next::Again,
        (Some(code), _) => Next::End(code),
    }
}

/// The descriptors that the journal with this number names. None if it cannot be replayed: the next
/// server says so.
fn named(journal: u32) -> io::Result<BTreeSet<u32>> {
    let memory = inherit::duplicate(journal)?;
    Ok(journal::replay(&memory).map_or_else(|_| BTreeSet::new(), |entries| descriptors(&entries)))
}

/// The entries that name a descriptor which is not open, or which is what a later entry names: it was
/// closed before the entry was gone, and the next one got its number.
fn dangling(entries: &Entries, orphans: &Orphans) -> Vec<Key> {
    let mut claimed = BTreeSet::new();
    let mut dangling = Vec::new();
    for (key, entry) in entries.newest_first() {
        let is_there = |n: &u32| orphans.contains(*n) && !claimed.contains(n);
        match entry.descriptors.iter().all(is_there) {
            true => claimed.extend(entry.descriptors),
            false => dangling.push(key),
        }
    }
    dangling
}

fn descriptors(entries: &Entries) -> BTreeSet<u32> {
    let numbers = entries.iter().map(|(_, entry)| entry.descriptors);
    numbers.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_gone_is_followed_by() {
        assert_eq!(after(Some(0), Asked::Nothing), Next::End(0));
        assert_eq!(after(Some(0), Asked::Restart), Next::End(0));
        assert_eq!(after(Some(FAILED), Asked::Nothing), Next::End(FAILED));
        assert_eq!(after(Some(RESTART), Asked::Nothing), Next::Replace);
        assert_eq!(after(Some(RESTART), Asked::End), Next::Again);
        assert_eq!(after(Some(KEEP), Asked::End), Next::Keep);
        assert_eq!(after(Some(KEEP), Asked::Nothing), Next::Keep);
        for crash in [None, Some(PANICKED)] {
            assert_eq!(after(crash, Asked::Nothing), Next::Again);
            assert_eq!(after(crash, Asked::Restart), Next::Replace);
            assert_eq!(after(crash, Asked::End), Next::Again);
        }
    }

    #[test]
    fn of_two_entries_with_one_number_the_later_is_right() {
        let memory = journal::memory().expect("memory");
        let mut orphans = Orphans::default();
        let kept = memory.try_clone().expect("duplicate");
        let mut journal = Journal::resume(memory, &Entries::default()).expect("resume");
        let key = |id| Key { kind: 1, id };
        let (shared, own) = (kept.as_fd(), io::stderr());
        for (id, fds) in [
            (3, vec![shared]),
            (1, vec![shared]),
            (2, vec![own.as_fd()]),
            (4, vec![]),
        ] {
            journal.put(key(id), b"", &fds).expect("put");
        }
        let entries = journal::replay(&kept).expect("replay");
        orphans.adopt(kept);
        // Standard error is open and no orphan.
        assert_eq!(dangling(&entries, &orphans), [key(2), key(3)]);
        drop(journal.into_memory());
    }

    #[test]
    fn what_is_left_is_for_one_process() {
        let left = Left {
            journal: 3,
            reader: 4,
            writer: 500,
        };
        assert_eq!(Left::from_text(&left.to_text()), Some(left));
        assert_eq!(Left::from_text("1 3 4 500"), None);
        for damaged in ["", "x", "-1 3 4 5"] {
            assert_eq!(Left::from_text(damaged), None);
        }
        let short = format!("{} 3 4", process::id());
        assert_eq!(Left::from_text(&short), None);
    }
}
