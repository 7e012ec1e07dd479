//! Leaves of a cgroup tree, of version 2, that is delegated to the server.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use portolan_wire::label::JobLabel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, Mode, OFlags, access};
use rustix::process::Pid;

use super::{StartError, random_instance};

/// The name of an instance's leaf.
pub(super) fn leaf_name(label: &JobLabel, instance: u64) -> String {
    let label = label.as_str().replace('/', "_");
    format!("portolan-{label}-{instance:016x}")
}

/// The cgroup of this process, in which it makes leaves.
#[derive(Debug)]
pub(super) struct Tree(PathBuf);

impl Tree {
    /// `None` if the cgroup of this process is not known, or is not its own to divide, or if the
    /// kernel has no `cgroup.kill`.
    pub(super) fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let tree = Self(own_directory(&mounts, &groups)?);
        access(tree.0.join("cgroup.procs"), Access::WRITE_OK).ok()?;
        // Permissions say little about a file system that may be mounted read-only, or be at its
        // limit of descendants.
        let name = format!("portolan-probe-{:016x}", random_instance().ok()?);
        let probe = tree.make(&name).ok()?;
        let can_kill = probe.0.join("cgroup.kill").exists();
        can_kill.then_some(tree)
    }

    pub(super) fn make(&self, name: &str) -> Result<Leaf, StartError> {
        let path = self.0.join(name);
        match fs::create_dir(&path) {
            Ok(()) => Ok(Leaf(path)),
            Err(source) => Err(StartError::Cgroup { path, source }),
        }
    }

    pub(super) fn existing(&self, name: &str) -> Option<Leaf> {
        let path = self.0.join(name);
        path.is_dir().then_some(Leaf(path))
    }
}

/// Where the cgroup of this process is in the file system. `mounts` and `groups` are the contents
/// of `/proc/self/mountinfo` (proc(5)) and `/proc/self/cgroup` (cgroups(7)).
fn own_directory(mounts: &str, groups: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        if !system.starts_with("cgroup2 ") {
            return None;
        }
        let below = Path::new(own).strip_prefix(root).ok()?;
        // Outside the cgroup namespace of this process.
        let outside = below.components().any(|part| part.as_os_str() == "..");
        (!outside).then(|| Path::new(at).join(below))
    })
}

/// The cgroup of an instance. Removed when it is dropped, if nobody is in it any more.
#[derive(Debug)]
pub(super) struct Leaf(PathBuf);

impl Leaf {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn open(&self) -> Result<OwnedFd, StartError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&self.0, flags, Mode::empty());
        opened.map_err(|errno| StartError::Cgroup {
            path: self.0.clone(),
            source: errno.into(),
        })
    }

    /// Whether there is a process in it, or in a cgroup that was made below it.
    pub(super) fn is_populated(&self) -> io::Result<bool> {
        match fs::read_to_string(self.0.join("cgroup.events")) {
            Ok(events) => Ok(events.lines().any(|line| line == "populated 1")),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a process is in it or below it; nothing if the process is gone.
    pub(super) fn has(&self, pid: Pid) -> Option<bool> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Some(own_directory(&mounts, &groups).is_some_and(|own| own.starts_with(&self.0)))
    }

    /// Kills all processes in it and below it. Whether they are gone by `deadline`.
    pub(super) fn kill(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            if !self.is_populated()? {
                return Ok(true);
            }
            self.kill_once()?;
            if !self.wait_for_change(deadline)? {
                return Ok(!self.is_populated()?);
            }
        }
    }

    /// `cgroup.kill` (Linux 5.14) kills also what is being forked meanwhile.
    fn kill_once(&self) -> io::Result<()> {
        match fs::write(self.0.join("cgroup.kill"), "1") {
            Err(error) if is_gone(&error) => Ok(()),
            other => other,
        }
    }

    /// `false` if nothing has changed by `deadline`.
    fn wait_for_change(&self, deadline: Instant) -> io::Result<bool> {
        let events = File::open(self.0.join("cgroup.events"))?;
        // What counts is the change since it was last read through this descriptor.
        if io::read_to_string(&events)?
            .lines()
            .any(|line| line == "populated 0")
        {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut changes = [PollFd::new(&events, PollFlags::PRI)];
        let changed = rustix::io::retry_on_intr(|| poll(&mut changes, Some(&left)))?;
        Ok(changed > 0)
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        // One with processes in it is left: they were abandoned, or another server adopts them.
        remove(&self.0).ok();
    }
}

/// Removes also what the instance made below its own.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn is_gone(error: &io::Error) -> bool {
    // A file of a cgroup that was removed after it was opened says ENODEV.
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(
        errno,
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "23 1 0:20 / /proc rw - proc proc rw\n\
        37 31 0:36 / /sys/fs/cgroup/systemd rw shared:5 - cgroup cgroup rw,name=systemd\n\
        41 31 0:38 /user /sys/fs/cgroup rw shared:6 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_cgroup_is_looked_for_below_the_mount() {
        let own = |group| own_directory(MOUNTS, &format!("9:name=systemd:/x\n0::{group}\n"));
        let expected = Path::new("/sys/fs/cgroup/1000/a");
        assert_eq!(own("/user/1000/a").as_deref(), Some(expected));
        assert_eq!(own("/system/a"), None, "not in what is mounted");
        assert_eq!(own("/user/../a"), None, "outside the namespace");
        assert_eq!(own_directory("", "0::/a\n"), None);
    }

    #[test]
    fn a_leaf_is_one_directory() {
        let label = "a/b".parse().expect("a label");
        assert_eq!(leaf_name(&label, 255), "portolan-a_b-00000000000000ff");
    }
}
