//! Changing what files are like (statement 3).

use std::ffi::CString;

use portolan_sys::by_number::Argument::{Number, Text};
use portolan_sys::by_number::{Call, call};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timestamps, XattrFlags};
use rustix::process::{getgid, getuid};

use super::super::attempt::{Attempt, Refusal};
use super::super::outside::Outside;
use super::{Attempted, open, own_file, text};

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(3, "chmod_outside", "chmod file outside", chmod_outside),
    Attempt::new(
        3,
        "fchmodat2_outside",
        "fchmodat2 file outside",
        fchmodat2_outside,
    ),
    Attempt::new(3, "chown_outside", "chown file outside", chown_outside),
    Attempt::new(3, "lchown_outside", "lchown file outside", lchown_outside),
    Attempt::new(3, "utimes_outside", "utimes file outside", utimes_outside),
    Attempt::new(
        3,
        "setxattr_outside",
        "setxattr file outside",
        setxattr_outside,
    ),
    Attempt::new(
        3,
        "getxattr_outside",
        "getxattr file outside",
        getxattr_outside,
    ),
    Attempt::new(
        3,
        "path_fd_chmod",
        "O_PATH open + fchmod via /proc/self/fd",
        path_fd_chmod,
    ),
    Attempt::new(
        3,
        "inotify_outside",
        "inotify watch outside dir",
        inotify_outside,
    ),
    Attempt::new(3, "fchmod_own", "fchmod of an own open file", fchmod_own).works(),
];

const MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

fn chmod_outside(outside: &Outside) -> Attempted {
    Ok(rustix::fs::chmod(outside.path("victim.txt"), MODE)?)
}

fn fchmodat2_outside(outside: &Outside) -> Attempted {
    let path: CString = text(&outside.path("victim.txt"))?;
    let here = Number(-100);
    let mode = Number(MODE.bits().into());
    call(Call::FCHMODAT2, &mut [here, Text(&path), mode, Number(0)])?;
    Ok(())
}

fn chown_outside(outside: &Outside) -> Attempted {
    let (user, group) = (getuid(), getgid());
    Ok(rustix::fs::chown(
        outside.path("victim.txt"),
        Some(user),
        Some(group),
    )?)
}

fn lchown_outside(outside: &Outside) -> Attempted {
    let (user, group) = (Some(getuid()), Some(getgid()));
    let path = outside.path("victim.txt");
    Ok(rustix::fs::chownat(
        CWD,
        path,
        user,
        group,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn utimes_outside(outside: &Outside) -> Attempted {
    let once = rustix::fs::Timespec {
        tv_sec: 1,
        tv_nsec: 1,
    };
    let times = Timestamps {
        last_access: once,
        last_modification: once,
    };
    let path = outside.path("victim.txt");
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?)
}

const ATTRIBUTE: &str = "user.portolan";

fn setxattr_outside(outside: &Outside) -> Attempted {
    let path = outside.path("victim.txt");
    Ok(rustix::fs::setxattr(
        path,
        ATTRIBUTE,
        b"x",
        XattrFlags::empty(),
    )?)
}

fn getxattr_outside(outside: &Outside) -> Attempted {
    let mut value = [0; 16];
    rustix::fs::getxattr(outside.path("attributed"), ATTRIBUTE, &mut value)?;
    Ok(())
}

fn path_fd_chmod(outside: &Outside) -> Attempted {
    use std::os::fd::AsRawFd as _;
    let file = open(outside.path("victim.txt"), OFlags::PATH)?;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::chmod(link, MODE)?)
}

fn inotify_outside(outside: &Outside) -> Attempted {
    let queue = inotify::init(CreateFlags::CLOEXEC)?;
    inotify::add_watch(queue, outside.path("other"), WatchFlags::ALL_EVENTS)?;
    Ok(())
}

fn fchmod_own(_: &Outside) -> Attempted {
    let file = open(own_file("mode")?, OFlags::RDWR)?;
    rustix::fs::fchmod(&file, Mode::RUSR)?;
    match rustix::fs::fstat(&file)?.st_mode & 0o777 {
        0o400 => Ok(()),
        _ => Err(Refusal::Nothing),
    }
}
