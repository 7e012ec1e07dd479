//! A directory with what is outside of the walls in it, and the process that keeps it up.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use portolan_sys::spawn::{Descriptor, Identity, Spawned};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::probe::is_everybodys;

use super::SelftestError;
use super::outside::Outside;
use super::start::{self, Start};

/// As long as it lives, everything is there; then all of it is removed.
#[derive(Debug)]
pub(super) struct World {
    pub(super) outside: Outside,
    pub(super) programs: Programs,
    process: Spawned,
    input: Option<File>,
    output: BufReader<File>,
}

/// The programs of a self-test, where its user can reach them.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) launcher: PathBuf,
    pub(super) prober: PathBuf,
}

impl World {
    /// Makes one for this user, or for the one of this process.
    pub(super) fn new(programs: &Programs, user: Option<&Identity>) -> Result<Self, SelftestError> {
        let directory = directory().map_err(SelftestError::Directory)?;
        let made = Self::in_directory(&directory, programs, user);
        if made.is_err() {
            // The process may have removed it already, or may never have run.
            fs::remove_dir_all(&directory).ok();
        }
        made
    }

    fn in_directory(
        directory: &Path,
        programs: &Programs,
        user: Option<&Identity>,
    ) -> Result<Self, SelftestError> {
        let prepared = prepare(directory, programs, user).map_err(SelftestError::Directory)?;
        let mut world = Self::start(directory, prepared, user)?;
        if user.is_some() {
            let program = directory.join(SET_USER_ID);
            world.outside.set_user_id = Some(program);
        }
        let uid = user.map_or_else(|| rustix::process::getuid().as_raw(), |user| user.uid);
        world.outside.bus = bus(uid);
        world.outside.disk = disk();
        Ok(world)
    }

    fn start(
        directory: &Path,
        programs: Programs,
        user: Option<&Identity>,
    ) -> Result<Self, SelftestError> {
        let (theirs, input) = io::pipe().map_err(SelftestError::Process)?;
        let (output, out) = io::pipe().map_err(SelftestError::Process)?;
        let arguments = ["outside".into(), directory.into()];
        let process = start::start(&Start {
            program: &programs.prober,
            arguments: &arguments,
            home: directory,
            identity: user,
            descriptors: &[
                Descriptor::Inherited(theirs.as_fd()),
                Descriptor::Inherited(out.as_fd()),
                Descriptor::Inherited(rustix::stdio::stderr()),
            ],
        })?;
        drop((theirs, out));
        let mut output = BufReader::new(File::from(std::os::fd::OwnedFd::from(output)));
        let mut line = String::new();
        let read = output.read_line(&mut line);
        let outside = read.ok().and_then(|_| Outside::read(directory, &line));
        let Some(outside) = outside else {
            drop(input);
            wait(&process);
            return Err(SelftestError::Outside);
        };
        Ok(Self {
            outside,
            programs,
            process,
            input: Some(File::from(std::os::fd::OwnedFd::from(input))),
            output,
        })
    }

    /// What others can change about the process and its files.
    pub(super) fn state(&mut self) -> Result<String, SelftestError> {
        let mut line = String::new();
        let asked = self.input.as_mut().map(|input| input.write_all(b"\n"));
        let answered = asked
            .transpose()
            .and_then(|_| self.output.read_line(&mut line));
        match answered {
            Ok(1..) => Ok(line.trim_end().to_owned()),
            _ => Ok("it has ended".to_owned()),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.input.take());
        wait(&self.process);
    }
}

/// A process that cannot be waited for has no parent any more that could do something about it.
fn wait(process: &Spawned) {
    let id = WaitId::PidFd(process.pidfd.as_fd());
    rustix::io::retry_on_intr(|| waitid(id.clone(), WaitIdOptions::EXITED)).ok();
}

const SET_USER_ID: &str = "programs/set-user-id";

/// A new one that nobody else can look into.
fn directory() -> io::Result<PathBuf> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let name = format!("portolan-selftest-{:016x}", u64::from_ne_bytes(random));
    let path = fs::canonicalize(std::env::temp_dir())?.join(name);
    DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

/// Copies of these programs, if the user that is meant cannot reach them or they have other names; and
/// what only root can make for another user: files of somebody else.
fn prepare(directory: &Path, programs: &Programs, user: Option<&Identity>) -> io::Result<Programs> {
    for name in ["other", "programs"] {
        fs::create_dir(directory.join(name))?;
    }
    let reached = |program: &PathBuf, name| {
        // A launcher that has another name is one by this name only.
        let is_named = program.file_name().is_some_and(|own| own == name);
        if is_named && (user.is_none() || is_everybodys(program)) {
            return Ok(program.clone());
        }
        let copied = directory.join("programs").join(name);
        copy(program, &copied, 0o755)?;
        Ok::<_, io::Error>(copied)
    };
    let reached = Programs {
        launcher: reached(&programs.launcher, "portolan-launch")?,
        prober: reached(&programs.prober, "portolan-probe")?,
    };
    let Some(Identity { uid, gid, .. }) = user else {
        return Ok(reached);
    };
    fs::write(directory.join("other/readable"), "secret")?;
    copy(&programs.prober, &directory.join(SET_USER_ID), 0o4755)?;
    for name in ["", "other", "programs"] {
        chown(directory.join(name), Some(*uid), Some(*gid))?;
    }
    Ok(reached)
}

fn copy(from: &Path, to: &Path, mode: u32) -> io::Result<()> {
    fs::copy(from, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}

/// The socket of a session's bus, at its address or where systemd puts it.
fn bus(user: u32) -> Option<PathBuf> {
    let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    let named = address
        .split(',')
        .next()
        .and_then(|first| first.strip_prefix("unix:path="));
    let usual = format!("/run/user/{user}/bus");
    let candidates = named.into_iter().chain([usual.as_str()]).map(PathBuf::from);
    { candidates }.find(|path| path.exists())
}

fn disk() -> Option<PathBuf> {
    let mut names: Vec<_> = fs::read_dir("/sys/block").ok()?.flatten().collect();
    names.sort_by_key(fs::DirEntry::file_name);
    let disks = names
        .iter()
        .map(|entry| Path::new("/dev").join(entry.file_name()));
    { disks }.find(|path| path.exists())
}
