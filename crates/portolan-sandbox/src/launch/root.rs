//! A tree of files in which there is nothing but what is granted.
//!
//! The places are cloned first, while they can still be reached by their paths, and put into a new
//! and empty tree afterwards. They keep their paths, so a program finds the same files in both
//! tiers.
//!
//! Other programs may change what is in a place meanwhile. So the new tree is the root before
//! anything is put into it, and no link is followed in it: nothing is made or opened anywhere else.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::places::{self, Access, Granted, Link, Place};
use crate::probe::Part;
use crate::profile::Tier;
use portolan_sys::confine::restrict_mount;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, move_mount, open_tree, unmount,
};

use super::Failure;

/// Where the new tree is put together: a directory that is always there. It hides what is in it,
/// in this namespace only.
const SITE: &str = "/dev";

/// What its own files are: directories that lead to places, and links.
const OPTIONS: &std::ffi::CStr = c"mode=0755,size=1m";

/// Makes the tree, and makes it the root of this process, which must have namespaces of mounts and
/// of processes to itself.
pub(crate) fn build(granted: &Granted) -> Result<(), Failure> {
    let Granted { places, links, .. } = granted;
    let propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", propagation).map_err(missing(Part::Mounts))?;
    let mut parts = Vec::new();
    for place in places {
        if place.access == Access::Processes {
            continue;
        }
        if let Some(source) = Source::of(place)? {
            parts.push((place, source));
        }
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", SITE, "tmpfs", flags, OPTIONS).map_err(missing(Part::Mounts))?;
    add_processes()?;
    let unmounted = |source| Failure::Missing {
        tier: Tier::T2,
        part: Part::Mounts,
        source,
    };
    enter().map_err(unmounted)?;
    for (place, source) in parts {
        let put = source.put(&place.path);
        put.map_err(|source| failure(place, source))?;
    }
    for link in links {
        put_link(link, places).map_err(|source| Failure::Place {
            path: link.path.clone(),
            source,
        })?;
    }
    let root = open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLOEXEC);
    let root = root.map_err(|errno| unmounted(errno.into()))?;
    restrict_mount(&root, true, true, false).map_err(unmounted)
}

fn missing(part: Part) -> impl Fn(Errno) -> Failure {
    move |errno| Failure::Missing {
        tier: Tier::T2,
        part,
        source: errno.into(),
    }
}

fn failure(place: &Place, source: io::Error) -> Failure {
    Failure::Place {
        path: place.path.clone(),
        source,
    }
}

/// A link in a place is there already.
fn put_link(link: &Link, places: &[Place]) -> io::Result<()> {
    let is_there =
        |place: &Place| place.access != Access::List && link.path.starts_with(&place.path);
    if places.iter().any(is_there) {
        return Ok(());
    }
    match put_symlink(&link.target, &link.path) {
        Err(Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

fn put_symlink(target: &Path, path: &Path) -> Result<(), Errno> {
    let above = site(path.parent().unwrap_or(Path::new("/")), true)?;
    let name = path.file_name().ok_or(Errno::INVAL)?;
    rustix::fs::symlinkat(target, above, name)
}

/// What is at a path in the new tree, made if it is not there: a directory, or an empty file. A link
/// on the way or there is an error.
fn site(path: &Path, is_directory: bool) -> Result<OwnedFd, Errno> {
    let names: Vec<_> = path.iter().skip(1).collect();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open("/", flags, Mode::empty())?;
    for (depth, name) in names.iter().enumerate() {
        let is_last = depth + 1 == names.len();
        at = step(&at, name, is_directory || !is_last)?;
    }
    Ok(at)
}

fn step(above: &OwnedFd, name: &OsStr, is_directory: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(above, name, flags, Mode::empty());
    let found = match open() {
        Err(Errno::NOENT) => {
            make(above, name, is_directory)?;
            open()?
        }
        other => other?,
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    match (kind, is_directory) {
        (FileType::Symlink, _) => Err(Errno::LOOP),
        (FileType::Directory, false) => Err(Errno::ISDIR),
        (FileType::Directory, true) => Ok(found),
        (_, true) => Err(Errno::NOTDIR),
        (_, false) => Ok(found),
    }
}

fn make(above: &OwnedFd, name: &OsStr, is_directory: bool) -> Result<(), Errno> {
    match is_directory {
        true => rustix::fs::mkdirat(above, name, Mode::from(0o755)),
        false => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(above, name, flags, Mode::from(0o644)).map(drop)
        }
    }
}

/// What is put at a place.
enum Source {
    /// Nothing: a directory that leads to other places.
    Directory,
    /// A link, as `/bin` is to `usr/bin` in many systems.
    Link(PathBuf),
    Tree {
        tree: OwnedFd,
        is_directory: bool,
    },
}

impl Source {
    /// `None` if there is no such file, or if it is in a part of the system that a link leads to.
    fn of(place: &Place) -> Result<Option<Self>, Failure> {
        if place.access == Access::List {
            return Ok(Some(Self::Directory));
        }
        let system = places::SYSTEM.iter().map(Path::new);
        let part = { system }.find(|path| place.path.starts_with(path));
        if let Some(part) = part
            && let Ok(target) = fs::read_link(part)
        {
            return Ok((part == place.path).then_some(Self::Link(target)));
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let opened = match &place.file {
            Some(file) => open_tree(file, "", flags | OpenTreeFlags::AT_EMPTY_PATH),
            None => open_tree(CWD, &place.path, flags),
        };
        let tree = match opened {
            Ok(tree) => tree,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::PERM | Errno::NOSYS) => {
                return Err(missing(Part::Mounts)(Errno::PERM));
            }
            // What this user cannot reach is not there for the program either.
            Err(Errno::ACCESS) => return Ok(None),
            Err(error) => return Err(failure(place, error.into())),
        };
        let read_only = place.access == Access::Read;
        let no_devices = place.access != Access::Device;
        restrict_mount(&tree, read_only, no_devices, true)
            .map_err(|source| failure(place, source))?;
        let status = rustix::fs::fstat(&tree).map_err(|error| failure(place, error.into()))?;
        let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
        Ok(Some(Self::Tree { tree, is_directory }))
    }

    /// A place below another one is there already, with the same name.
    fn put(self, path: &Path) -> io::Result<()> {
        let (tree, is_directory) = match self {
            Self::Directory => return Ok(site(path, true).map(drop)?),
            Self::Link(target) => return Ok(put_symlink(&target, path)?),
            Self::Tree { tree, is_directory } => (tree, is_directory),
        };
        let at = site(path, is_directory)?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(&tree, "", &at, "", flags)?)
    }
}

/// Without anything but processes in it (`subset=pid`): what else is in `/proc` is about the
/// machine, or can be used to change it. The kernel makes it only for who sees one already, and so
/// before the old tree is gone.
fn add_processes() -> Result<(), Failure> {
    let at = Path::new(SITE).join("proc");
    fs::create_dir(&at).map_err(|source| Failure::Place {
        path: at.clone(),
        source,
    })?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", at, "proc", flags, c"subset=pid").map_err(missing(Part::Proc))
}

/// Both roots are one above the other at first, so that no directory for the old one is needed,
/// see pivot_root(2).
fn enter() -> io::Result<()> {
    std::env::set_current_dir(SITE)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}
