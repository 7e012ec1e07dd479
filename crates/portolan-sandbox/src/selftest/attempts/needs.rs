//! What must work inside, or is allowed on purpose.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use portolan_sys::by_number::{execute, write_through_mapping};
use rustix::fs::MemfdFlags;
use rustix::io::IoSlice;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, Signal, kill_process};

use super::super::attempt::{Attempt, Granted, Refusal};
use super::super::outside::Outside;
use super::sockets::bootstrap;
use super::{Attempted, home};

pub(super) const ATTEMPTS: &[Attempt] = &[
    works("bootstrap", "bootstrap fd 3 answers (must work)", |_| {
        bootstrap_answers()
    }),
    works("own_container", "write own container (must work)", |_| {
        write_and_read(&home())
    }),
    works(
        "group_container",
        "write group container (must work)",
        |o| write_and_read(&o.group().join("Library/Caches")),
    )
    .granted(Granted::Group),
    works(
        "pair_sequenced",
        "socketpair SEQPACKET (must work)",
        pair_sequenced,
    ),
    works(
        "shared_ring",
        "memfd+mmap shared ring (must work)",
        shared_ring,
    ),
    works("own_child", "fork+signal own child (must work)", own_child),
    works("run_program", "exec /bin/true (must work)", |_| {
        succeeds(&mut Command::new("/bin/true"))
    }),
    works("run_shell", "run a shell with a pipe", run_shell),
    works("threads", "make threads", threads),
    works(
        "own_program",
        "exec program written in container",
        own_program,
    ),
    works("program_in_memory", "exec from memfd", program_in_memory),
];

const fn works(name: &'static str, what: &'static str, run: fn(&Outside) -> Attempted) -> Attempt {
    Attempt::new(21, name, what, run).works()
}

/// That what should have happened has.
fn only_if(happened: bool) -> Attempted {
    happened.then_some(()).ok_or(Refusal::Nothing)
}

pub(super) fn bootstrap_answers() -> Attempted {
    let right = bootstrap()?;
    rustix::net::send(&right, b"ping", SendFlags::NOSIGNAL)?;
    let mut answer = [0; 4];
    rustix::net::recv(&right, &mut answer, RecvFlags::empty())?;
    only_if(&answer == b"pong")
}

fn write_and_read(directory: &Path) -> Attempted {
    let (before, after) = (directory.join("before"), directory.join("after"));
    fs::write(&before, "x")?;
    fs::rename(&before, &after)?;
    only_if(fs::read(&after)? == b"x")?;
    Ok(fs::remove_file(&after)?)
}

fn sequenced_pair() -> Result<(OwnedFd, OwnedFd), Refusal> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socketpair(
        family,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn pair_sequenced(_: &Outside) -> Attempted {
    let (one, other) = sequenced_pair()?;
    rustix::net::send(&one, b"x", SendFlags::NOSIGNAL)?;
    let mut received = [0; 2];
    let (length, _) = rustix::net::recv(&other, &mut received, RecvFlags::empty())?;
    only_if(length == 1)
}

/// Memory that is sent through a pair, and is the same for both who hold it.
fn shared_ring(_: &Outside) -> Attempted {
    let (one, other) = sequenced_pair()?;
    let memory = rustix::fs::memfd_create("ring", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&memory, 4096)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sent = [memory.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&sent));
    let bytes = [IoSlice::new(b"x")];
    rustix::net::sendmsg(&one, &bytes, &mut control, SendFlags::NOSIGNAL)?;
    let received = receive(&other)?;
    write_through_mapping(received.as_fd(), b'y')?;
    let mut read = [0];
    rustix::io::pread(&memory, &mut read, 0)?;
    only_if(&read == b"y")
}

fn receive(socket: &OwnedFd) -> Result<OwnedFd, Refusal> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 1];
    let bytes = &mut [rustix::io::IoSliceMut::new(&mut bytes)];
    rustix::net::recvmsg(socket, bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    rights.next().ok_or(Refusal::Nothing)
}

fn own_child(_: &Outside) -> Attempted {
    use std::os::unix::process::ExitStatusExt as _;
    let mut command = Command::new("/bin/cat");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let killed = kill_process(pid.ok_or(Refusal::Nothing)?, Signal::TERM);
    drop(child.stdin.take());
    let status = child.wait()?;
    killed?;
    only_if(status.signal() == Some(Signal::TERM.as_raw()))
}

pub(super) fn succeeds(command: &mut Command) -> Attempted {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    only_if(command.status()?.success())
}

fn run_shell(_: &Outside) -> Attempted {
    let output = Command::new("/bin/sh")
        .args(["-c", "echo a | cat"])
        .output()?;
    only_if(output.stdout == b"a\n")
}

fn threads(_: &Outside) -> Attempted {
    let thread = std::thread::Builder::new().spawn(|| 1)?;
    only_if(thread.join().is_ok_and(|result| result == 1))
}

fn own_program(_: &Outside) -> Attempted {
    let path = home().join("program");
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o700).open(&path);
    file?.write_all(b"#!/bin/sh\nexit 0\n")?;
    let ran = succeeds(&mut Command::new(&path));
    fs::remove_file(&path)?;
    ran
}

/// Becomes a copy of a program of the system, which then says that it is out.
fn program_in_memory(_: &Outside) -> Attempted {
    let memory = rustix::fs::memfd_create("program", MemfdFlags::CLOEXEC)?;
    let mut memory = File::from(memory);
    std::io::copy(&mut File::open("/bin/echo")?, &mut memory)?;
    Err(execute(memory.as_fd(), c"echo", c"out").into())
}
