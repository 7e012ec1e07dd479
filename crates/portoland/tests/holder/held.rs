//! A held server, as the test sees it: a process, and a socket that all its servers share as their
//! standard input.

use std::collections::BTreeMap;
use std::env;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_open, set_child_subreaper,
    waitpid,
};

/// The environment variable that makes this program play a server.
pub(super) const PART: &str = "PORTOLAN_TEST_SERVER";

/// Long enough for a loaded machine.
const PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

pub(super) struct Held {
    holder: Pid,
    is_finished: bool,
    socket: OwnedFd,
}

/// What a server says about itself when it begins.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    pub(super) start: String,
    pub(super) server: u32,
    pub(super) holder: u32,
    /// The inode of the program that runs.
    pub(super) program: u64,
    /// Descriptors that are open, without those of entries.
    descriptors: usize,
    /// What it has recovered: entries and the numbers in them.
    pub(super) entries: BTreeMap<u64, u64>,
}

pub(super) fn own_program() -> PathBuf {
    env::current_exe().expect("this program")
}

impl Held {
    #[expect(
        clippy::zombie_processes,
        reason = "`finish` waits for it, or for the server that has taken its place"
    )]
    pub(super) fn start(program: &Path, part: &str) -> Self {
        // A server whose holder is killed becomes this process's child.
        set_child_subreaper(Some(getpid())).expect("prctl");
        let (socket, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("socketpair");
        let holder = Command::new(program)
            .env(PART, part)
            .stdin(Stdio::from(other))
            .stdout(Stdio::null())
            .spawn()
            .expect("start this program");
        let holder = Pid::from_child(&holder);
        Self {
            holder,
            is_finished: false,
            socket,
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.holder.as_raw_pid().cast_unsigned()
    }

    pub(super) fn signal(&self, process: u32, signal: Signal) {
        assert!(self.try_signal(process, signal), "there is no {process}");
    }

    /// The server, which may become a holder, is what is waited for from then on.
    pub(super) fn kill_holder(&mut self, server: u32) {
        self.signal(self.id(), Signal::KILL);
        assert!(!self.finish().success());
        let server = i32::try_from(server).ok().and_then(Pid::from_raw);
        self.holder = server.expect("a process");
        self.is_finished = false;
    }

    /// Whether the process is there.
    pub(super) fn try_signal(&self, process: u32, signal: Signal) -> bool {
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
        match kill_process(pid.expect("a process"), signal) {
            Ok(()) => true,
            Err(Errno::SRCH) => false,
            Err(errno) => panic!("kill: {errno}"),
        }
    }

    pub(super) fn say(&self, word: &str) {
        rustix::net::send(&self.socket, word.as_bytes(), SendFlags::empty()).expect("send");
    }

    /// The next packet from a server.
    pub(super) fn hear(&self) -> String {
        let mut heard = [PollFd::new(&self.socket, PollFlags::IN)];
        assert_eq!(
            poll(&mut heard, Some(&PATIENCE)).expect("poll"),
            1,
            "silence"
        );
        let mut bytes = [0; 4096];
        let (count, _) =
            rustix::net::recv(&self.socket, &mut bytes, RecvFlags::empty()).expect("receive");
        String::from_utf8(bytes[..count].to_vec()).expect("text")
    }

    pub(super) fn begun(&mut self) -> Begun {
        let text = self.hear();
        Begun::parse(&text).unwrap_or_else(|| panic!("{text:?}"))
    }

    /// Waits until the holder has ended.
    pub(super) fn finish(&mut self) -> ExitStatus {
        let process = pidfd_open(self.holder, PidfdFlags::empty());
        let process = process.expect("not yet waited for");
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        if poll(&mut ended, Some(&PATIENCE)).expect("poll") == 0 {
            kill_process(self.holder, Signal::KILL).expect("kill");
            panic!("the holder has not ended");
        }
        let ended = waitpid(Some(self.holder), WaitOptions::empty()).expect("wait");
        self.is_finished = true;
        ExitStatus::from_raw(ended.expect("it has ended").1.as_raw())
    }
}

/// Servers end when nobody is at the other end of their socket.
impl Drop for Held {
    fn drop(&mut self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).ok();
        if std::thread::panicking() {
            kill_process(self.holder, Signal::KILL).ok();
            waitpid(Some(self.holder), WaitOptions::empty()).ok();
        } else if !self.is_finished {
            self.finish();
        }
    }
}

impl Begun {
    /// What `server::begun` has put together.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix("begun ")?.split(' ');
        let mut next = || words.next();
        Some(Self {
            start: next()?.to_owned(),
            server: next()?.parse().ok()?,
            holder: next()?.parse().ok()?,
            program: next()?.parse().ok()?,
            descriptors: next()?.parse().ok()?,
            entries: words
                .map(|word| {
                    let (id, number) = word.split_once(':')?;
                    Some((id.parse().ok()?, number.parse().ok()?))
                })
                .collect::<Option<_>>()?,
        })
    }

    pub(super) fn check_same_holder(&self, other: &Self) {
        self.check_holder(other.holder, other);
    }

    pub(super) fn check_holder(&self, holder: u32, other: &Self) {
        assert_eq!(self.holder, holder, "another holder");
        assert_eq!(self.descriptors, other.descriptors, "descriptors leak");
    }
}
