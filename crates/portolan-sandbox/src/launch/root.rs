//! A tree of files in which there is nothing but what is granted.
//!
//! The places are cloned first, while they can still be reached by their paths, and put into a new
//! and empty tree afterwards. They keep their paths, so a program finds the same files in both
//! tiers.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::places::{self, Access, Granted, Link, Place};
use crate::probe::Part;
use crate::profile::Tier;
use portolan_sys::confine::restrict_mount;
use rustix::fs::{CWD, FileType};
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
    for (place, source) in parts {
        let put = source.put(&in_site(&place.path));
        put.map_err(|source| failure(place, source))?;
    }
    for link in links {
        put_link(link, places).map_err(|source| Failure::Place {
            path: link.path.clone(),
            source,
        })?;
    }
    add_processes(&in_site(Path::new("/proc")))?;
    enter().map_err(|source| Failure::Missing {
        tier: Tier::T2,
        part: Part::Mounts,
        source,
    })
}

fn missing(part: Part) -> impl Fn(rustix::io::Errno) -> Failure {
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

fn in_site(path: &Path) -> PathBuf {
    Path::new(SITE).join(path.strip_prefix("/").unwrap_or(path))
}

/// A link in a place is there already.
fn put_link(link: &Link, places: &[Place]) -> io::Result<()> {
    let is_there =
        |place: &Place| place.access != Access::List && link.path.starts_with(&place.path);
    if places.iter().any(is_there) {
        return Ok(());
    }
    let at = in_site(&link.path);
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    match std::os::unix::fs::symlink(&link.target, at) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
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
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(rustix::io::Errno::PERM | rustix::io::Errno::NOSYS) => {
                return Err(missing(Part::Mounts)(rustix::io::Errno::PERM));
            }
            // What this user cannot reach is not there for the program either.
            Err(rustix::io::Errno::ACCESS) => return Ok(None),
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
    fn put(self, at: &Path) -> io::Result<()> {
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        let (tree, is_directory) = match self {
            Self::Directory => return fs::create_dir_all(at),
            Self::Link(target) => return std::os::unix::fs::symlink(target, at),
            Self::Tree { tree, is_directory } => (tree, is_directory),
        };
        if !at.exists() {
            match is_directory {
                true => fs::create_dir(at)?,
                false => drop(fs::File::create(at)?),
            }
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(move_mount(&tree, "", CWD, at, flags)?)
    }
}

/// Without anything but processes in it (`subset=pid`): what else is in `/proc` is about the
/// machine, or can be used to change it.
fn add_processes(at: &Path) -> Result<(), Failure> {
    fs::create_dir_all(at).map_err(|source| Failure::Place {
        path: at.to_owned(),
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
    std::env::set_current_dir("/")?;
    let root = open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    restrict_mount(&root, true, true, false)
}
