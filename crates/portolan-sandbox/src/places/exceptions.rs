//! What the exceptions of a profile come to when the program is started.
//!
//! A path is followed once, as the user and through all links, to a descriptor: what is granted is
//! what that leads to, whatever becomes of the path. What is not there is not granted.
//!
//! Some things no exception is for, because who has them is not confined: where Portolan keeps job
//! files, sockets and the containers of other programs, and the file systems of the kernel. Of a
//! directory that has one of them below it everything else is granted, piece by piece.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use portolan_wire::place;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Access, Granted, Link, Origin, Place, PlaceError, Refused, folders};
use crate::profile::{Excepted, Exception, Profile, Tier};

pub(super) fn resolve(profile: &Profile) -> Result<Granted, PlaceError> {
    if profile.exceptions.is_empty() {
        return Ok(Granted::default());
    }
    let mut resolver = Resolver::new(profile);
    for Exception { what, write } in &profile.exceptions {
        let access = match write {
            true => Access::Write,
            false => Access::Read,
        };
        let place = match what {
            Excepted::File(path) => Some((path.clone(), false)),
            Excepted::Tree(path) => Some((path.clone(), true)),
            Excepted::Folder(folder) => {
                folders::place(*folder, &profile.home).map(|path| (path, true))
            }
        };
        let Some((path, is_tree)) = place else {
            continue;
        };
        if let Some(why) = resolver.add(&path, is_tree, access)? {
            resolver.granted.refused.push(Refused { path, why });
        }
    }
    Ok(resolver.granted)
}

/// What no exception is for on any machine.
const KERNELS: &[&str] = &["/dev", "/proc", "/sys"];

/// More than anybody has in a home. Each piece costs some microseconds.
const MAX_PIECES: usize = 10_000;

struct Resolver {
    tier: Tier,
    kept_out: Vec<PathBuf>,
    /// What is the program's anyway.
    own: Vec<PathBuf>,
    granted: Granted,
}

impl Resolver {
    fn new(profile: &Profile) -> Self {
        let uid = rustix::process::getuid();
        let run = PathBuf::from(format!("/run/user/{uid}/portolan"));
        let temporary = PathBuf::from(format!("/tmp/portolan-{uid}"));
        let everywhere = KERNELS.iter().chain(&[place::SYSTEM, "/etc/portolan"]);
        let kept_out = everywhere.map(PathBuf::from).chain([run, temporary]);
        let kept_out = kept_out.chain(profile.kept_out.iter().cloned());
        let own = profile.groups.iter().chain([&profile.container]);
        Self {
            tier: profile.tier,
            kept_out: kept_out.map(|path| real(&path)).collect(),
            own: own.map(|path| real(path)).collect(),
            granted: Granted::default(),
        }
    }

    /// Why it is not granted, if it is there and is not.
    fn add(
        &mut self,
        path: &Path,
        is_tree: bool,
        access: Access,
    ) -> Result<Option<&'static str>, PlaceError> {
        let refused = |why| Ok(Some(why));
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::ACCESS) => return refused("the user cannot reach it"),
            Err(Errno::LOOP) => return refused("its links lead nowhere, or into another process"),
            Err(error) => return Err(failure(path, error)),
        };
        let real = path_of(&file).map_err(|error| failure(path, error))?;
        if self.own.iter().any(|own| real.starts_with(own)) {
            return Ok(None);
        }
        if self.keeps_out(&real) {
            return refused("no exception is for what is Portolan's own or the kernel's");
        }
        match (is_directory(path, &file)?, is_tree) {
            (true, false) => return refused("it is a directory, and has no / at its end"),
            (false, true) => return refused("it is no directory, and has a / at its end"),
            _ => {}
        }
        if self.tier == Tier::T2 {
            self.granted.links.extend(links(path));
        }
        self.grant(real, file, access)?;
        Ok(None)
    }

    fn keeps_out(&self, path: &Path) -> bool {
        self.kept_out.iter().any(|kept| path.starts_with(kept))
    }

    fn grant(&mut self, path: PathBuf, file: OwnedFd, access: Access) -> Result<(), PlaceError> {
        if self.granted.places.len() + self.granted.links.len() > MAX_PIECES {
            return Err(failure(&path, Errno::TOOBIG));
        }
        if !self.kept_out.iter().any(|kept| kept.starts_with(&path)) {
            self.granted.places.push(Place {
                file: Some(Arc::new(file)),
                ..Place::new(path, access, Origin::Exception)
            });
            return Ok(());
        }
        let pieces = match entries(&file) {
            Err(Errno::ACCESS) => return Ok(()),
            pieces => pieces.map_err(|error| failure(&path, error))?,
        };
        for name in pieces {
            self.grant_piece(path.join(&name), &file, &name, access)?;
        }
        // Where there is a tree of its own, nothing else is in that directory.
        if self.tier == Tier::T2 {
            self.granted
                .places
                .push(Place::new(path, Access::List, Origin::Exception));
        }
        Ok(())
    }

    fn grant_piece(
        &mut self,
        path: PathBuf,
        directory: &OwnedFd,
        name: &OsString,
        access: Access,
    ) -> Result<(), PlaceError> {
        if self.keeps_out(&path) {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(file) => file,
            // It has gone meanwhile, or is another user's.
            Err(Errno::NOENT | Errno::ACCESS) => return Ok(()),
            Err(error) => return Err(failure(&path, error)),
        };
        match rustix::fs::readlinkat(&file, "", Vec::new()) {
            Ok(target) => {
                let target = OsString::from(OsStr::from_bytes(target.to_bytes())).into();
                self.granted.links.push(Link { path, target });
                Ok(())
            }
            Err(_) => self.grant(path, file, access),
        }
    }
}

fn failure(path: &Path, error: Errno) -> PlaceError {
    PlaceError {
        path: path.to_owned(),
        source: error.into(),
    }
}

/// Where an open file is.
fn path_of(file: &impl AsFd) -> Result<PathBuf, Errno> {
    let number = file.as_fd().as_raw_fd();
    let path = rustix::fs::readlink(format!("/proc/self/fd/{number}"), Vec::new())?;
    Ok(PathBuf::from(OsString::from(OsStr::from_bytes(
        path.to_bytes(),
    ))))
}

fn is_directory(path: &Path, file: &OwnedFd) -> Result<bool, PlaceError> {
    let status = rustix::fs::fstat(file).map_err(|error| failure(path, error))?;
    Ok(FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

fn entries(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// The path without links, also of what is not there yet.
pub(crate) fn real(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    }
}

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

/// The links that a path leads through.
pub(super) fn links(path: &Path) -> Vec<Link> {
    let parts = |path: &Path| -> VecDeque<OsString> {
        let parts = path.components().filter(|part| *part != Component::RootDir);
        parts.map(|part| part.as_os_str().to_owned()).collect()
    };
    let (mut links, mut here, mut rest) = (Vec::new(), PathBuf::from("/"), parts(path));
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        match fs::read_link(&next) {
            Ok(target) if links.len() < MAX_LINKS => {
                let mut before = parts(&target);
                before.append(&mut rest);
                rest = before;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                links.push(Link { path: next, target });
            }
            _ => here = next,
        }
    }
    links
}
