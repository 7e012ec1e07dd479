//! The servers that are held. They speak and listen on standard input, a socket of packets.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use portoland::holder::{self, Ending, Life};
use portoland::journal::{Journal, Key};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};

use super::model::{Step, step, table};

pub(super) fn play(part: &str) -> ExitCode {
    let ended = match part {
        "churn" => holder::run(churn),
        "careless" => holder::run(careless),
        other => panic!("no part {other:?}"),
    };
    ended.expect("hold")
}

/// Puts and removes without end, and says what it has done.
fn churn(mut life: Life) -> Ending {
    let restart = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&restart)).expect("HUP");
    life.restart.let_signals_in().expect("let signals in");
    let mut fds = match take_all(&mut life) {
        Ok(fds) => fds,
        Err(problem) => {
            say(&format!("broken: {problem}"));
            return Ending::Failed;
        }
    };
    let entries = fds.iter().map(|(&id, (number, _))| (id, *number)).collect();
    say(&begun(&life, &entries, 2 * fds.len()));
    let last = entries.values().max().copied().unwrap_or(0);
    let mut steps = (last..)
        .find(|&steps| table(steps) == entries)
        .expect("a state");
    while !restart.load(Ordering::Relaxed) {
        if is_gone(&life.holder) {
            let error = life.restart.in_own_place(|| false);
            say(&format!("broken: {error}"));
        }
        steps += 1;
        carry_out(&mut life.journal, &mut fds, steps);
        if !say(&format!("done {steps}")) {
            return Ending::Done;
        }
    }
    life.restart.now()
}

fn is_gone(holder: &OwnedFd) -> bool {
    let mut gone = [PollFd::new(holder, PollFlags::IN)];
    poll(&mut gone, Some(&Timespec::default())).expect("poll") > 0
}

type Fds = BTreeMap<u64, (u64, Vec<OwnedFd>)>;

fn carry_out(journal: &mut Journal, fds: &mut Fds, number: u64) {
    match step(number) {
        Step::Put { id } => {
            let fresh = descriptors_of(number);
            let borrowed: Vec<_> = fresh.iter().map(AsFd::as_fd).collect();
            let bytes = number.to_le_bytes().repeat(8);
            journal.put(key(id), &bytes, &borrowed).expect("put");
            fds.insert(id, (number, fresh));
        }
        Step::Remove { id } => {
            journal.remove(key(id)).expect("remove");
            fds.remove(&id);
        }
    }
}

fn key(id: u64) -> Key {
    Key { kind: 1, id }
}

/// A memfd with the number in it, and a socket with the number queued at it.
fn descriptors_of(number: u64) -> Vec<OwnedFd> {
    let memory = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).expect("memfd");
    let memory = File::from(memory);
    memory
        .write_all_at(&number.to_le_bytes(), 0)
        .expect("write");
    let (near, far) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("socketpair");
    rustix::net::send(&far, &number.to_le_bytes(), SendFlags::empty()).expect("send");
    vec![memory.into(), near]
}

fn take_all(life: &mut Life) -> Result<Fds, String> {
    let keys: Vec<_> = life.recovered.keys().collect();
    keys.into_iter().map(|key| take(life, key)).collect()
}

fn take(life: &mut Life, key: Key) -> Result<(u64, (u64, Vec<OwnedFd>)), String> {
    let bytes = life.recovered.bytes(key).ok_or("no bytes")?;
    let (numbers, rest) = bytes.as_chunks();
    let numbers: Vec<_> = numbers.iter().map(|&n| u64::from_le_bytes(n)).collect();
    let number = numbers[0];
    if numbers != [number; 8] || !rest.is_empty() {
        return Err(format!("{bytes:?}"));
    }
    let fds = life.recovered.take_fds(key).ok_or("no descriptors")?;
    let [memory, socket] = &fds[..] else {
        return Err(format!("{} descriptors", fds.len()));
    };
    let mut found = [[0; 8]; 2];
    rustix::io::pread(memory, &mut found[0], 0).map_err(|errno| format!("memfd: {errno}"))?;
    rustix::net::recv(socket, &mut found[1], RecvFlags::PEEK | RecvFlags::DONTWAIT)
        .map_err(|errno| format!("socket: {errno}"))?;
    if found != [number.to_le_bytes(); 2] {
        return Err(format!("{found:?} of {number}"));
    }
    Ok((key.id, (number, fds)))
}

/// Does what it is told, and takes of what it has recovered nothing by itself.
fn careless(mut life: Life) -> Ending {
    let keys = life.recovered.keys().map(|key| (key.id, 0)).collect();
    say(&begun(&life, &keys, keys.len()));
    life.restart.let_signals_in().expect("let signals in");
    let (mut protected, mut kept) = (true, Vec::new());
    loop {
        let mut told = [
            PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN),
            PollFd::new(&life.exits, PollFlags::IN),
            PollFd::new(&life.holder, PollFlags::IN),
        ];
        let count = if protected { 3 } else { 2 };
        match poll(&mut told[..count], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => panic!("poll: {errno}"),
        }
        let [word, exit, holder] = told.map(|fd| !fd.revents().is_empty());
        if holder && protected {
            protected = false;
            become_holder(&life, false);
        }
        if exit && let Some(exit) = life.exits.take().expect("read") {
            say(&format!("exit {} {:?}", exit.pid, exit.status.signal()));
        }
        if word && let Some(ending) = obey(&mut life, &mut kept) {
            return ending;
        }
    }
}

fn obey(life: &mut Life, kept: &mut Vec<OwnedFd>) -> Option<Ending> {
    let mut bytes = [0; 64];
    let stdin = rustix::stdio::stdin();
    let (count, _) = rustix::net::recv(stdin, &mut bytes, RecvFlags::empty()).unwrap_or((0, 0));
    match &bytes[..count] {
        b"" | b"done" => return Some(Ending::Done),
        b"fail" => return Some(Ending::Failed),
        b"again" => become_holder(life, false),
        b"told" => become_holder(life, true),
        b"panic" => panic!("told to"),
        b"put" => {
            let null = OwnedFd::from(File::open("/dev/null").expect("/dev/null"));
            life.journal.put(key(1), b"", &[null.as_fd()]).expect("put");
            kept.push(null);
            say("put");
        }
        b"take" => {
            let first = life.recovered.take_fds(key(1));
            let again = life.recovered.take_fds(key(1));
            say(match (first, again) {
                (Some(fds), None) if fds.len() == 1 => "taken once",
                _ => "not taken once",
            });
        }
        b"spawn" => {
            let child = Command::new("sleep")
                .arg("1000")
                .stdin(Stdio::null())
                .spawn();
            say(&format!("spawned {}", child.expect("sleep").id()));
        }
        _ => {
            say(&std::process::id().to_string());
        }
    }
    None
}

/// Says why it has not, and how many more descriptors a program would inherit from now on.
fn become_holder(life: &Life, told: bool) {
    let before = inheritable();
    let error = life.restart.in_own_place(|| told).kind();
    let (reader, mut writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let broken = writer.write(b"x").expect_err("nobody reads it");
    assert_eq!(broken.kind(), ErrorKind::BrokenPipe);
    say(&format!("unprotected {error:?} {}", inheritable() - before));
}

fn inheritable() -> usize {
    let numbers = fs::read_dir("/proc/self/fdinfo").expect("/proc");
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_inheritable = |number: &String| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & OFlags::CLOEXEC.bits() == 0)
    };
    numbers.filter(is_inheritable).count()
}

fn begun(life: &Life, entries: &BTreeMap<u64, u64>, theirs: usize) -> String {
    let own = std::process::id();
    let holder = rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid());
    let program = fs::metadata("/proc/self/exe").expect("stat").ino();
    let descriptors = portolan_testkit::usage::descriptors(own) - theirs;
    let mut text = format!(
        "begun {:?} {own} {holder} {program} {descriptors}",
        life.start
    );
    for (id, number) in entries {
        text.push_str(&format!(" {id}:{number}"));
    }
    text
}

/// Whether somebody is there to listen.
fn say(text: &str) -> bool {
    let stdin = rustix::stdio::stdin();
    rustix::net::send(stdin, text.as_bytes(), SendFlags::NOSIGNAL).is_ok()
}
