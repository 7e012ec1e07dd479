//! Getting the bootstrap right of this process.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portolan_port::{MintError, SendRight, Timeout};
use portolan_wire::place::{self, Surroundings};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

/// There is no bootstrap right to be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// `PORTOLAN_BOOTSTRAP_FD` does not name a bootstrap right.
    #[error("PORTOLAN_BOOTSTRAP_FD={value:?} is not an inherited bootstrap right")]
    NotInherited {
        /// What the variable says.
        value: OsString,
    },
    /// No server listens, and starting one is forbidden (`PORTOLAN_AUTOSTART=0`) or was not asked
    /// for.
    #[error("no bootstrap server listens at {}", socket.display())]
    NoServer {
        /// Where it was looked for.
        socket: PathBuf,
    },
    /// No server listens, and the program to start one is not installed.
    #[error("no bootstrap server listens, and neither portoland nor portolan is installed")]
    NoProgram,
    /// A server was started, and ended before it listened; its log says why.
    #[error("the bootstrap server did not start, see {}", log.display())]
    DidNotStart {
        /// The server's log.
        log: PathBuf,
    },
    /// The socket belongs to another user's server, which is not trusted with messages.
    #[error("the server at {} runs as user {uid}", socket.display())]
    Foreign {
        /// Where it listens.
        socket: PathBuf,
        /// Who runs it.
        uid: u32,
    },
    /// Others can write to the directory, or it is not this user's.
    #[error("{} must be a directory of this user that nobody else can write to", path.display())]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The path of the directory is too long for a socket address.
    #[error("{} is too long a path for a socket", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The inherited right cannot be used.
    #[error("the inherited bootstrap right cannot be used")]
    Inherited(#[source] MintError),
    /// The kernel refused.
    #[error("cannot connect to the bootstrap server")]
    System(#[source] io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Errno> for ConnectError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

pub(super) fn from_env() -> Result<SendRight, ConnectError> {
    if let Some(value) = env::var_os(place::INHERITED_FD) {
        return inherited(value);
    }
    let directory = directory();
    match to_server(&directory) {
        Err(ConnectError::NoServer { .. }) if may_start() => start(&directory),
        other => other,
    }
}

/// The directory of the bootstrap server of this user, which need not exist.
///
/// It is the first of: `$PORTOLAN_RUNTIME_DIR`, `/run/portolan` for root, `$XDG_RUNTIME_DIR/portolan`,
/// `/run/user/UID/portolan` if this user has that, `/tmp/portolan-UID`.
#[must_use]
pub fn directory() -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    let (portolan, xdg) = (
        env::var_os(place::DIRECTORY),
        env::var_os("XDG_RUNTIME_DIR"),
    );
    Surroundings { portolan, xdg, uid }
        .directory(|run| fs::metadata(run).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid))
}

/// Several processes of one job have the inherited descriptor, so it is only used to make a
/// channel that is this process's own.
fn inherited(value: OsString) -> Result<SendRight, ConnectError> {
    match SendRight::inherit(&value) {
        Ok(shared) => shared.copy(Timeout::NEVER).map_err(ConnectError::Inherited),
        Err(MintError::NotAChannel) => Err(ConnectError::NotInherited { value }),
        Err(other) => Err(ConnectError::Inherited(other)),
    }
}

pub(super) fn to_server(directory: &Path) -> Result<SendRight, ConnectError> {
    let path = directory.join(place::SOCKET);
    let address =
        SocketAddrUnix::new(&path).map_err(|_| ConnectError::PathTooLong { path: path.clone() })?;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::CONNREFUSED) => {
            return Err(ConnectError::NoServer { socket: path });
        }
        Err(other) => return Err(other.into()),
    }
    let server = rustix::net::sockopt::socket_peercred(&socket)?.uid;
    if !server.is_root() && server != rustix::process::getuid() {
        return Err(ConnectError::Foreign {
            socket: path,
            uid: server.as_raw(),
        });
    }
    SendRight::from_socket(socket).map_err(|error| match error {
        MintError::System(error) => ConnectError::System(error),
        other => ConnectError::Inherited(other),
    })
}

/// Connects to the system's server, if there is one and this is not it.
pub(super) fn to_system() -> Option<SendRight> {
    let own = env::var_os(place::DIRECTORY).is_some_and(|named| !named.is_empty());
    if own || rustix::process::getuid().is_root() {
        return None;
    }
    to_server(Path::new(place::SYSTEM)).ok()
}

fn may_start() -> bool {
    env::var_os("PORTOLAN_AUTOSTART").is_none_or(|value| value != "0")
}

/// Starts a server. Of several clients that find none, the first to get the lock starts it and the
/// others find it.
fn start(directory: &Path) -> Result<SendRight, ConnectError> {
    // All users find the names of the system.
    let mode = match directory == Path::new(place::SYSTEM) {
        true => 0o755,
        false => 0o700,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)?;
    check_directory(directory)?;
    let lock = open_private(directory, place::LOCK)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))?;
    match to_server(directory) {
        Err(ConnectError::NoServer { .. }) => {}
        other => return other,
    }
    launch(directory, lock.as_fd().try_clone_to_owned()?)?;
    to_server(directory)
}

/// Where others could put links, the log would go into whatever file of this user they like.
fn check_directory(directory: &Path) -> Result<(), ConnectError> {
    let found = fs::symlink_metadata(directory)?;
    let own = found.uid() == rustix::process::getuid().as_raw();
    if found.is_dir() && own && found.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(ConnectError::UnsafeDirectory {
            path: directory.to_path_buf(),
        })
    }
}

fn open_private(directory: &Path, name: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options.open(directory.join(name))
}

/// How long a server may take until it listens.
const START_SECONDS: i64 = 10;

/// Runs the server and waits until it listens: it says so on its standard output.
fn launch(directory: &Path, lock: OwnedFd) -> Result<(), ConnectError> {
    let (mut ready, standard_output) = io::pipe()?;
    let (program, arguments) = server_program().ok_or(ConnectError::NoProgram)?;
    let mut child = Command::new(program)
        .args(arguments)
        .arg("--detach")
        .env(place::DIRECTORY, directory)
        .stdin(Stdio::from(lock))
        .stdout(standard_output)
        .stderr(open_private(directory, place::LOG)?)
        .spawn()?;
    child.wait()?;
    if is_ready(&mut ready)? {
        Ok(())
    } else {
        Err(ConnectError::DidNotStart {
            log: directory.join(place::LOG),
        })
    }
}

fn is_ready(output: &mut PipeReader) -> io::Result<bool> {
    let mut fds = [PollFd::new(output, PollFlags::IN)];
    let limit = Timespec {
        tv_sec: START_SECONDS,
        tv_nsec: 0,
    };
    if rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&limit)))? == 0 {
        return Ok(false);
    }
    let mut word = [0; 16];
    let n = output.read(&mut word)?;
    Ok(word.get(..n) == Some(b"ready\n"))
}

/// The server's program: `$PORTOLAN_SERVER`, or portoland, or the portolan command, which contains
/// it; beside this program first and then where programs are.
fn server_program() -> Option<(PathBuf, &'static [&'static str])> {
    if let Some(program) = env::var_os("PORTOLAN_SERVER").filter(|value| !value.is_empty()) {
        return Some((program.into(), &[]));
    }
    let own = env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_path_buf));
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = own.into_iter().chain(env::split_paths(&path)).collect();
    let programs: [(&str, &[&str]); 2] = [("portoland", &[]), ("portolan", &["bootstrap"])];
    directories.iter().find_map(|directory| {
        programs.iter().find_map(|(name, arguments)| {
            let program = directory.join(name);
            program.is_file().then_some((program, *arguments))
        })
    })
}
