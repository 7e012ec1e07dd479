//! The server as a process: its directory, its socket, its lock, and how it is started and ended.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode};
use std::time::Instant;

use portolan_wire::place::{self, Surroundings};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};
use thiserror::Error;

use crate::holder::{self, Ending, Exits, HolderError, Life, Start};
use crate::notify::{Inherited, Notifier, NotifyError};
use crate::server::{Ended, Legacy, Server, ServerError, Workshop};

/// How a server process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Until it is told to end, logging to standard error.
    Foreground,
    /// Starts a copy of this process in [`Mode::Detached`] and ends.
    Detach,
    /// In a session of its own. Standard input is the lock that a client holds for it, and
    /// standard output is told when the server listens.
    Detached,
}

/// The server could not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// Another server listens in the directory.
    #[error("a bootstrap server already listens at {}", socket.display())]
    AlreadyRunning {
        /// Where.
        socket: PathBuf,
    },
    /// Others can write to the directory, so the socket in it could be anybody's.
    #[error("{} must be a directory of this user that nobody else can write to", path.display())]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The path of the directory is too long for a socket address.
    #[error("{} is too long a path for a socket", path.display())]
    PathTooLong {
        /// The socket's path.
        path: PathBuf,
    },
    /// A file or a socket could not be made.
    #[error("cannot set up {}", path.display())]
    SetUp {
        /// What it was about.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The server failed.
    #[error("the server failed")]
    Server(#[from] ServerError),
    /// The process that starts the server could not.
    #[error("the server could not be held")]
    Holder(#[from] HolderError),
}

/// Runs the server of this directory until it is told to end by
/// [`Operation::Shutdown`](portolan_wire::bootstrap::Operation::Shutdown), SIGTERM or SIGINT. Gives the
/// code for this process to exit with.
///
/// This process becomes the server's [holder], so it must have one thread. The server is
/// a child of it, which is started again if it is killed.
///
/// # Errors
///
/// [`DaemonError`]
pub fn run(directory: &Path, mode: Mode) -> Result<ExitCode, DaemonError> {
    if mode == Mode::Detach {
        detach().map_err(|source| DaemonError::SetUp {
            path: PathBuf::new(),
            source,
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    raise_descriptor_limit();
    prepare(directory)?;
    refuse_a_second(directory)?;
    let inherited = inherited_listener();
    Ok(holder::run(|life| {
        serve(directory, mode, life, inherited.as_ref())
    })?)
}

/// Says at once, and in this process, that there is a server. If one comes up meanwhile, that is found
/// out later.
fn refuse_a_second(directory: &Path) -> Result<(), DaemonError> {
    let socket = directory.join(place::SOCKET);
    let taken = SocketAddrUnix::new(&socket).is_ok_and(|address| answers(&address) == Ok(true));
    match taken && !holder::takes_over() {
        true => Err(DaemonError::AlreadyRunning { socket }),
        false => Ok(()),
    }
}

fn serve(directory: &Path, mode: Mode, life: Life, inherited: Option<&OwnedFd>) -> Ending {
    match try_serve(directory, mode, life, inherited) {
        Ok(()) => Ending::Done,
        Err(error) => {
            tracing::error!("{}", chain(&error));
            Ending::Failed
        }
    }
}

fn try_serve(
    directory: &Path,
    mode: Mode,
    life: Life,
    inherited: Option<&OwnedFd>,
) -> Result<(), DaemonError> {
    let notifier = Notifier::from_environment().unwrap_or_default();
    let started = Instant::now();
    let (start, restart) = (life.start, life.restart);
    let legacy = Legacy {
        journal: life.journal,
        recovered: life.recovered,
        holder: life.holder,
        jobs_were_ended: start == Start::Kept,
    };
    let mut server = match start {
        Start::First => first(directory, mode, life.exits, legacy, inherited)?,
        Start::Crash | Start::InPlace | Start::Kept => {
            again(directory, mode, life.exits, legacy, inherited)?
        }
    };
    if start != Start::First {
        let took = started.elapsed();
        tracing::info!(?start, ?took, "goes on where the last server was");
    }
    let identity = identity_of(&directory.join(place::SOCKET));
    server.end_on_signals()?;
    restart.let_signals_in().map_err(HolderError::Start)?;
    tell(notifier.ready());
    let mut ended = server.run()?;
    while ended == Ended::Alone {
        let error = restart.in_own_place(|| server.is_told_to_end());
        tracing::warn!(%error, "goes on, and nobody would start it again");
        ended = server.run()?;
    }
    if ended == Ended::ForRestart {
        tell(notifier.reloading());
        restart.now();
    }
    tell(notifier.stopping());
    if restart.can_keep() {
        restart.keep();
    }
    server.clear_away();
    // A socket that is the service manager's is there for the next server.
    if inherited.is_none() {
        remove(directory, identity);
    }
    Ok(())
}

fn tell(told: Result<(), NotifyError>) {
    if let Err(error) = told {
        tracing::debug!("{}", chain(&error));
    }
}

fn first(
    directory: &Path,
    mode: Mode,
    exits: Exits,
    legacy: Legacy,
    inherited: Option<&OwnedFd>,
) -> Result<Server, DaemonError> {
    let path = directory.join(place::LOCK);
    let starting = |source| DaemonError::SetUp {
        path: path.clone(),
        source,
    };
    let lock = match mode {
        Mode::Detached => None,
        Mode::Foreground | Mode::Detach => Some(lock(&path).map_err(starting)?),
    };
    let listener = listener(directory, inherited)?;
    drop(lock);
    let workshop = Workshop::new(directory, Some(exits)).map_err(starting)?;
    let mut server = Server::with_jobs(workshop, legacy)?;
    server.listen(listener)?;
    load_jobs(&mut server, directory);
    if mode == Mode::Detached {
        announce().map_err(starting)?;
    }
    Ok(server)
}

fn again(
    directory: &Path,
    mode: Mode,
    exits: Exits,
    legacy: Legacy,
    inherited: Option<&OwnedFd>,
) -> Result<Server, DaemonError> {
    let is_new = legacy.jobs_were_ended;
    let mut server = Server::resume(directory, exits, legacy)?;
    if !server.is_listening() {
        // The last server was killed before it could listen.
        server.listen(listener(directory, inherited)?)?;
        load_jobs(&mut server, directory);
        if mode == Mode::Detached {
            announce().ok();
        }
    } else if is_new {
        // Files may have come while there was no server.
        load_jobs(&mut server, directory);
    }
    Ok(server)
}

/// The socket to listen on: a copy of the one that this process was given, or one that is made.
fn listener(directory: &Path, inherited: Option<&OwnedFd>) -> Result<OwnedFd, DaemonError> {
    match inherited {
        Some(given) => given.try_clone().map_err(|source| DaemonError::SetUp {
            path: directory.join(place::SOCKET),
            source,
        }),
        None => listen(directory),
    }
}

/// The socket that the service manager listens on for this server.
fn inherited_listener() -> Option<OwnedFd> {
    let inherited = Inherited::from_environment().numbers(process::id());
    let (_, number) = inherited.into_iter().find(|(name, _)| name == LISTENER)?;
    let listener = portolan_sys::inherit::duplicate(number).ok()?;
    // Whoever made it may have it block, and the event loop must not.
    rustix::io::ioctl_fionbio(&listener, true).ok()?;
    Some(listener)
}

/// What the service manager calls it, see `packaging/systemd`.
pub(crate) const LISTENER: &str = "portolan-bootstrap";

/// Loads what the user has put into the directory of jobs. A server in a directory of its own has none.
fn load_jobs(server: &mut Server, runtime: &Path) {
    if let Some(directory) = jobs_directory(runtime) {
        server.load_directory(&directory);
    }
}

/// Where job files are that are loaded with the server: `/etc/portolan/jobs` for root, else
/// `portolan/jobs` in `XDG_CONFIG_HOME` or `~/.config`. `None` for a server that has its socket
/// elsewhere than usual, unless `PORTOLAN_JOBS_DIR` names one.
pub fn jobs_directory(runtime: &Path) -> Option<PathBuf> {
    if let Some(named) = env::var_os(JOBS).filter(|named| !named.is_empty()) {
        return Some(named.into());
    }
    if runtime != usual_directory() {
        return None;
    }
    if rustix::process::getuid().is_root() {
        return Some("/etc/portolan/jobs".into());
    }
    let config = env::var_os("XDG_CONFIG_HOME").filter(|config| !config.is_empty());
    let config = config.map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME").filter(|home| !home.is_empty())?;
        Some(Path::new(&home).join(".config"))
    });
    Some(config?.join("portolan/jobs"))
}

/// What the server of this user writes and reads, which no confined program may: its socket, its
/// log and those of jobs, and job files.
#[must_use]
pub fn own_places() -> Vec<PathBuf> {
    let runtime = directory();
    let logs = crate::log::directory(&runtime);
    let jobs = jobs_directory(&runtime);
    let places = [runtime, logs].into_iter().chain(jobs);
    places
        .filter_map(|place| std::path::absolute(place).ok())
        .collect()
}

/// Names the directory of job files, before all other places.
const JOBS: &str = "PORTOLAN_JOBS_DIR";

/// The directory in which clients of this user look for the server.
pub fn directory() -> PathBuf {
    directory_unless(env::var_os(place::DIRECTORY))
}

/// The directory in which they look if the environment does not name another one.
pub(crate) fn usual_directory() -> PathBuf {
    directory_unless(None)
}

fn directory_unless(portolan: Option<OsString>) -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    let xdg = env::var_os("XDG_RUNTIME_DIR");
    Surroundings { portolan, xdg, uid }
        .directory(|run| fs::metadata(run).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid))
}

/// Starts this program again with `--detached` in the place of `--detach`.
fn detach() -> io::Result<()> {
    let arguments = env::args_os().skip(1).map(|argument| {
        if argument == "--detach" {
            OsString::from("--detached")
        } else {
            argument
        }
    });
    // The copy belongs to init once this process has ended, which it does now.
    Command::new(env::current_exe()?)
        .args(arguments)
        .spawn()
        .map(drop)
}

/// Lets go of the lock and of the starting client's terminal, and tells it that it can connect.
fn announce() -> io::Result<()> {
    rustix::process::setsid().ok();
    let nothing = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    io::stdout().write_all(b"ready\n")?;
    io::stdout().flush()?;
    rustix::stdio::dup2_stdin(&nothing)?;
    Ok(rustix::stdio::dup2_stdout(&nothing)?)
}

/// Whether all users find their way to the socket: root's server has the names of the system.
fn is_for_all(directory: &Path) -> bool {
    rustix::process::getuid().is_root() && directory == Path::new(place::SYSTEM)
}

fn prepare(directory: &Path) -> Result<(), DaemonError> {
    let path = directory.to_path_buf();
    let created = DirBuilder::new()
        .recursive(true)
        .mode(if is_for_all(directory) { 0o755 } else { 0o700 })
        .create(directory);
    created.map_err(|source| DaemonError::SetUp {
        path: path.clone(),
        source,
    })?;
    let found = fs::symlink_metadata(directory);
    let found = found.map_err(|source| DaemonError::SetUp {
        path: path.clone(),
        source,
    })?;
    let own = found.uid() == rustix::process::getuid().as_raw();
    if found.is_dir() && own && found.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(DaemonError::UnsafeDirectory { path })
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let file = lock_file(path)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
    Ok(file)
}

fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path)
}

/// Binds the socket. A socket file that nobody listens on is left over and is replaced.
fn listen(directory: &Path) -> Result<OwnedFd, DaemonError> {
    let path = directory.join(place::SOCKET);
    let address =
        SocketAddrUnix::new(&path).map_err(|_| DaemonError::PathTooLong { path: path.clone() })?;
    let mode = match is_for_all(directory) {
        true => 0o666,
        false => 0o600,
    };
    bind(&path, &address, mode).map_err(|errno| match errno {
        Errno::ADDRINUSE => DaemonError::AlreadyRunning {
            socket: path.clone(),
        },
        other => DaemonError::SetUp {
            path: path.clone(),
            source: other.into(),
        },
    })
}

fn bind(path: &Path, address: &SocketAddrUnix, mode: u32) -> Result<OwnedFd, Errno> {
    let socket = seqpacket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match rustix::net::bind(&socket, address) {
        Err(Errno::ADDRINUSE) if !answers(address)? => {
            rustix::fs::unlink(path)?;
            rustix::net::bind(&socket, address)?;
        }
        other => other?,
    }
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

fn answers(address: &SocketAddrUnix) -> Result<bool, Errno> {
    let probe = seqpacket(SocketFlags::CLOEXEC)?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => Ok(false),
        // With a full backlog it is there as well.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(other) => Err(other),
    }
}

fn seqpacket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path)
        .ok()
        .map(|found| (found.dev(), found.ino()))
}

/// Removes the socket, unless a server that was started meanwhile has put its own there.
fn remove(directory: &Path, identity: Option<(u64, u64)>) {
    let path = directory.join(place::SOCKET);
    let locked = lock_file(&directory.join(place::LOCK)).is_ok_and(|lock| {
        let ours = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if ours && identity_of(&path) == identity {
            // A socket that stays is replaced by the next server.
            fs::remove_file(&path).ok();
        }
        ours
    });
    if !locked {
        tracing::debug!("another server is starting; the socket is left to it");
    }
}

/// Each client costs descriptors, so the soft limit is of no use here.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(errno) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%errno, "cannot raise the limit of descriptors");
    }
}

/// Sends the log to standard error, a line for each event; `PORTOLAN_LOG` chooses what is logged
/// (`warn`, `portoland=debug`, …), `info` if it is not set.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PORTOLAN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Fails only if the program logs already, and then the choice is its own.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        // Nobody may read it any more, and a complaint about that would go the same way.
        .log_internal_errors(false)
        .try_init()
        .ok();
}

/// An error and what caused it, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
