//! What is outside of the walls and none of a confined program's business: the files of a user, a
//! process of the same user with sockets and memory of its own, and what it shares by name.
//!
//! The process sets everything up when it starts and removes it when its standard input ends. That
//! is the case also if whoever started it was killed.

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_sys::by_number::Argument::{self, Number, Text};
use portolan_sys::by_number::{Call, call};
use portolan_sys::signals::Blocked;
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, mknodat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Resource, Signal, getpid, getpriority_process, getrlimit};

use super::GROUP;
use crate::profile::Home;

/// How an attempt finds it.
#[derive(Clone, Debug)]
pub(super) struct Outside {
    /// The directory that everything is in.
    pub(super) directory: PathBuf,
    /// The process.
    pub(super) pid: Pid,
    /// Where it listens.
    pub(super) tcp: u16,
    /// Where it receives.
    pub(super) udp: u16,
    /// The key of what it shares the way System V does.
    pub(super) key: i32,
    /// Where in its memory the word `portolan` is.
    pub(super) address: usize,
    /// The socket of the session's bus, if there is one on this machine.
    pub(super) bus: Option<PathBuf>,
    /// A disk of this machine.
    pub(super) disk: Option<PathBuf>,
    /// A program that sets its user id to root's.
    pub(super) set_user_id: Option<PathBuf>,
}

/// The kinds of its sockets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Stream,
    Sequenced,
    Datagram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Sequenced => "sequenced",
            Self::Datagram => "datagram",
        }
    }
}

impl Outside {
    /// What the process says of itself, and what is known of the machine.
    pub(super) fn read(directory: &Path, line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let mut next = || words.next();
        Some(Self {
            directory: directory.to_owned(),
            pid: Pid::from_raw(next()?.parse().ok()?)?,
            tcp: next()?.parse().ok()?,
            udp: next()?.parse().ok()?,
            key: next()?.parse().ok()?,
            address: next()?.parse().ok()?,
            bus: None,
            disk: None,
            set_user_id: None,
        })
    }

    /// For the process that makes an attempt.
    pub(super) fn to_arguments(&self) -> Vec<OsString> {
        let Self {
            directory,
            pid,
            tcp,
            udp,
            key,
            address,
            bus,
            disk,
            set_user_id,
        } = self;
        let line = format!("{} {tcp} {udp} {key} {address}", pid.as_raw_nonzero());
        let paths = [bus, disk, set_user_id];
        let paths = paths.map(|path| path.clone().unwrap_or_default().into_os_string());
        [directory.into(), line.into()]
            .into_iter()
            .chain(paths)
            .collect()
    }

    pub(super) fn from_arguments(arguments: &[OsString]) -> Option<Self> {
        let [directory, line, bus, disk, set_user_id] = arguments else {
            return None;
        };
        let path = |text: &OsString| (!text.is_empty()).then(|| PathBuf::from(text));
        let outside = Self::read(Path::new(directory), line.to_str()?)?;
        Some(Self {
            bus: path(bus),
            disk: path(disk),
            set_user_id: path(set_user_id),
            ..outside
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A file of the process in `/proc`.
    pub(super) fn process_file(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid.as_raw_nonzero()).into()
    }

    pub(super) fn number(&self) -> i64 {
        self.pid.as_raw_nonzero().get().into()
    }

    pub(super) fn key(&self) -> Argument<'static> {
        Number(self.key.into())
    }

    pub(super) fn socket(&self, kind: Kind) -> Result<SocketAddrUnix, Errno> {
        SocketAddrUnix::new(self.path(kind.word()))
    }

    pub(super) fn abstract_socket(&self, kind: Kind) -> Result<SocketAddrUnix, Errno> {
        let name = format!("portolan-selftest-{}-{}", self.number(), kind.word());
        SocketAddrUnix::new_abstract_name(name.as_bytes())
    }

    pub(super) fn shared_memory(&self) -> PathBuf {
        format!("/dev/shm/portolan-selftest-{}-memory", self.number()).into()
    }

    /// As sem_open(3) names it.
    pub(super) fn semaphore(&self) -> PathBuf {
        format!("/dev/shm/sem.portolan-selftest-{}", self.number()).into()
    }

    pub(super) fn queue(&self) -> CString {
        let name = format!("portolan-selftest-{}", self.number());
        CString::new(name).unwrap_or_default()
    }

    pub(super) fn home(&self) -> Home {
        Home::new(self.path("home"), None)
    }

    /// The container of the group that some attempts are made in.
    pub(super) fn group(&self) -> PathBuf {
        self.home().group_containers().join(GROUP)
    }
}

/// Is all of it, until standard input ends. Each line of input is answered with a line about what
/// others have done to it.
pub(super) fn be(directory: &Path) -> io::Result<()> {
    let signals = Blocked::new(SIGNALS)?;
    // Otherwise Yama keeps others of the same user from looking into it.
    rustix::process::set_ptracer(rustix::process::PTracer::Any).ok();
    let outside = set_up(directory);
    let served = outside.as_ref().map_or(Ok(()), |(outside, _)| {
        let Outside {
            pid,
            tcp,
            udp,
            key,
            address,
            ..
        } = outside;
        let mut out = io::stdout();
        writeln!(out, "{} {tcp} {udp} {key} {address}", pid.as_raw_nonzero())?;
        for line in io::stdin().lock().lines() {
            line?;
            writeln!(out, "{}", state(outside, &signals)?)?;
        }
        Ok(())
    });
    if let Ok((outside, _)) = &outside {
        remove(outside);
    }
    fs::remove_dir_all(directory)?;
    outside.map(drop)?;
    served
}

/// None of them ends it.
const SIGNALS: &[Signal] = &[
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::URG,
    Signal::IO,
    Signal::WINCH,
];

/// What must stay where it is.
type Kept = (Vec<OwnedFd>, TcpListener, UdpSocket, Box<[u8; 8]>);

fn set_up(directory: &Path) -> io::Result<(Outside, Kept)> {
    let secret = Box::new(*b"portolan");
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut key = [0; 4];
    rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())?;
    let outside = Outside {
        directory: directory.to_owned(),
        pid: getpid(),
        tcp: tcp.local_addr()?.port(),
        udp: udp.local_addr()?.port(),
        key: i32::from_ne_bytes(key) & i32::MAX | 1,
        address: secret.as_ptr().expose_provenance(),
        bus: None,
        disk: None,
        set_user_id: None,
    };
    make_files(&outside)?;
    let mut sockets = Vec::new();
    for kind in [Kind::Stream, Kind::Sequenced, Kind::Datagram] {
        sockets.push(listen(kind, &outside.socket(kind)?)?);
        sockets.push(listen(kind, &outside.abstract_socket(kind)?)?);
    }
    let bootstrap = SocketAddrUnix::new(outside.path("portolan/bootstrap"))?;
    sockets.push(listen(Kind::Stream, &bootstrap)?);
    share(&outside);
    Ok((outside, (sockets, tcp, udp, secret)))
}

fn make_files(outside: &Outside) -> io::Result<()> {
    let label = super::label().map_err(io::Error::other)?;
    fs::create_dir_all(outside.home().container(&label))?;
    fs::create_dir_all(outside.group().join("Library/Caches"))?;
    for directory in ["other", "portolan"] {
        fs::create_dir_all(outside.path(directory))?;
    }
    for name in [
        "secret",
        "home/secret",
        "removable",
        "movable",
        "victim.txt",
        "attributed",
    ] {
        fs::write(outside.path(name), "secret")?;
        fs::set_permissions(outside.path(name), fs::Permissions::from_mode(0o600))?;
    }
    // Root has made it for whom it wants to be another user.
    if !outside.path("other/readable").exists() {
        fs::write(outside.path("other/readable"), "secret")?;
    }
    std::os::unix::fs::symlink("secret", outside.path("points"))?;
    mknodat(
        CWD,
        outside.path("fifo"),
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )?;
    // Not every file system has them. The attempt outside tells.
    rustix::fs::setxattr(
        outside.path("attributed"),
        "user.portolan",
        b"x",
        XattrFlags::empty(),
    )
    .ok();
    Ok(())
}

fn listen(kind: Kind, address: &SocketAddrUnix) -> io::Result<OwnedFd> {
    let typed = match kind {
        Kind::Stream => SocketType::STREAM,
        Kind::Sequenced => SocketType::SEQPACKET,
        Kind::Datagram => SocketType::DGRAM,
    };
    let socket = rustix::net::socket(AddressFamily::UNIX, typed, None)?;
    rustix::net::bind(&socket, address)?;
    if !matches!(kind, Kind::Datagram) {
        rustix::net::listen(&socket, 64)?;
    }
    Ok(socket)
}

const MODE: i64 = 0o600;
const CREATE: i64 = 0o3000;

/// Not every kernel has all of it. The attempts outside tell.
fn share(outside: &Outside) {
    for path in [outside.shared_memory(), outside.semaphore()] {
        fs::write(path, "secret").ok();
    }
    let flags = || Number(CREATE | MODE);
    call(Call::SHMGET, &mut [outside.key(), Number(4096), flags()]).ok();
    call(Call::SEMGET, &mut [outside.key(), Number(1), flags()]).ok();
    call(Call::MSGGET, &mut [outside.key(), flags()]).ok();
    let create = OFlags::CREATE | OFlags::RDWR;
    let flags = Number(create.bits().into());
    call(
        Call::MQ_OPEN,
        &mut [Text(&outside.queue()), flags, Number(MODE), Number(0)],
    )
    .ok();
}

/// What was never made is not there to be removed.
fn remove(outside: &Outside) {
    for path in [outside.shared_memory(), outside.semaphore()] {
        fs::remove_file(path).ok();
    }
    let nothing = || Number(0);
    if let Ok(segment) = call(Call::SHMGET, &mut [outside.key(), nothing(), nothing()]) {
        call(
            Call::SHM_REMOVE,
            &mut [Number(segment), nothing(), nothing()],
        )
        .ok();
    }
    if let Ok(set) = call(Call::SEMGET, &mut [outside.key(), nothing(), nothing()]) {
        call(
            Call::SEMCTL,
            &mut [Number(set), nothing(), nothing(), nothing()],
        )
        .ok();
    }
    if let Ok(queue) = call(Call::MSGGET, &mut [outside.key(), nothing()]) {
        call(Call::MSG_REMOVE, &mut [Number(queue), nothing(), nothing()]).ok();
    }
    call(Call::MQ_UNLINK, &mut [Text(&outside.queue())]).ok();
}

/// What others can change about a process and its files, in one line.
fn state(outside: &Outside, signals: &Blocked) -> io::Result<String> {
    let mut received = Vec::new();
    while let Some(signal) = signals.wait(Some(Duration::ZERO))? {
        received.push(signal.as_raw());
    }
    let limit = |resource| getrlimit(resource).current;
    let file = rustix::fs::stat(outside.path("victim.txt"))?;
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(&outside.directory)? {
        names.push(entry?.file_name());
    }
    names.sort();
    Ok(format!(
        "signals {received:?} priority {} scheduler {:?} processors {} io {:?} cpu {:?} core {:?} \
         oom {:?} file {:o} {} {} {} names {names:?}",
        getpriority_process(None)?,
        call(Call::SCHED_GETSCHEDULER, &mut [Number(0)]),
        rustix::thread::sched_getaffinity(None)?.count(),
        call(Call::IOPRIO_GET, &mut [Number(1), Number(0)]),
        limit(Resource::Cpu),
        limit(Resource::Core),
        fs::read_to_string("/proc/self/oom_score_adj")?,
        file.st_mode,
        file.st_size,
        file.st_mtime,
        file.st_nlink,
    ))
}
