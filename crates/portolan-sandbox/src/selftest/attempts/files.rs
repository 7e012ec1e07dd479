//! Reading and changing files (statements 1 and 2), and what T1 does not hide (statement 20).

use std::fs::OpenOptions;
use std::io::Write as _;

use portolan_sys::by_number::Argument::{Number, Text};
use portolan_sys::by_number::{Call, call};
use rustix::fs::{Access, Mode, OFlags};
use rustix::process::getpid;

use super::super::attempt::{Attempt, Control};
use super::super::outside::Outside;
use super::{Attempted, home, list, numbers, open, own_file, read, text};

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(1, "read_shadow", "read /etc/shadow", |_| {
        read("/etc/shadow")
    })
    .control(Control::Root),
    Attempt::new(1, "read_passwd", "read /etc/passwd", |_| {
        read("/etc/passwd")
    }),
    Attempt::new(
        1,
        "read_other_home",
        "read other user's home (mode 644)",
        |o| read(o.path("other/readable")),
    ),
    Attempt::new(1, "read_home_file", "read own user's home file", |o| {
        read(o.path("home/secret"))
    }),
    Attempt::new(
        1,
        "read_own_0600",
        "read same-uid secret outside (600)",
        read_own_0600,
    ),
    Attempt::new(
        1,
        "read_detached",
        "read it after setsid and a double fork",
        read_detached,
    ),
    Attempt::new(1, "list_root", "list /", |_| list("/")),
    Attempt::new(1, "list_home", "list own user's home", |o| {
        list(o.path("home"))
    }),
    Attempt::new(
        1,
        "symlink_to_secret",
        "symlink in container to /etc/shadow or secret",
        symlink_to_secret,
    ),
    Attempt::new(
        1,
        "dotdot",
        "read a secret by .. from the container",
        dotdot,
    ),
    Attempt::new(1, "open_fifo", "open FIFO outside", open_fifo),
    Attempt::new(2, "write_tmp", "write /tmp", write_tmp),
    Attempt::new(2, "write_outside", "append to file outside", write_outside),
    Attempt::new(
        2,
        "truncate_outside",
        "truncate() file outside",
        truncate_outside,
    ),
    Attempt::new(
        2,
        "open_truncating",
        "open file outside with O_TRUNC",
        open_truncating,
    ),
    Attempt::new(
        2,
        "link_in",
        "hardlink outside file into container",
        link_in,
    ),
    Attempt::new(2, "link_out", "hardlink own file out", link_out),
    Attempt::new(2, "rename_out", "rename own file out", rename_out),
    Attempt::new(
        2,
        "rename_in",
        "rename outside file into container",
        rename_in,
    ),
    Attempt::new(
        2,
        "symlink_outside",
        "make a symlink outside",
        symlink_outside,
    ),
    Attempt::new(
        2,
        "mkdir_outside",
        "make a directory outside",
        mkdir_outside,
    ),
    Attempt::new(2, "remove_outside", "remove file outside", remove_outside),
    Attempt::new(2, "write_system", "make a file in /usr", write_system).control(Control::None),
    Attempt::new(
        20,
        "stat_outside",
        "stat file outside (metadata)",
        stat_outside,
    )
    .leaks(),
    Attempt::new(
        20,
        "access_outside",
        "access()/existence outside",
        access_outside,
    )
    .leaks(),
    Attempt::new(
        20,
        "readlink_outside",
        "readlink outside /proc/1/exe or link",
        readlink_outside,
    )
    .leaks(),
    Attempt::new(20, "chdir_outside", "chdir outside", chdir_outside).leaks(),
    Attempt::new(
        20,
        "stat_victim",
        "stat /proc/victim (pid existence)",
        stat_victim,
    )
    .leaks(),
    Attempt::new(20, "session_victim", "getpgid/getsid victim (info)", |o| {
        numbers(Call::GETSID, [o.number()])
    })
    .leaks(),
];

pub(in super::super) fn read_own_0600(outside: &Outside) -> Attempted {
    read(outside.path("secret"))
}

/// The process that reads has left the session, and is nobody's child any more.
fn read_detached(outside: &Outside) -> Attempted {
    super::super::program::detached(outside, "read_own_0600")
}

fn symlink_to_secret(outside: &Outside) -> Attempted {
    let link = home().join(format!("link-{}", getpid()));
    rustix::fs::symlink(outside.path("secret"), &link)?;
    read(link)
}

/// From `home/.local/share/portolan/Containers/LABEL/Data`.
fn dotdot(_: &Outside) -> Attempted {
    read(home().join("../../../../../../../secret"))
}

fn open_fifo(outside: &Outside) -> Attempted {
    open(outside.path("fifo"), OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok(())
}

fn write_tmp(_: &Outside) -> Attempted {
    create(&format!("/tmp/portolan-selftest-{}", getpid()))
}

fn write_system(_: &Outside) -> Attempted {
    create("/usr/portolan-selftest")
}

/// Makes a file, and removes it again.
fn create(path: &str) -> Attempted {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR)?;
    Ok(rustix::fs::unlink(path)?)
}

fn write_outside(outside: &Outside) -> Attempted {
    let file = OpenOptions::new()
        .append(true)
        .open(outside.path("victim.txt"));
    Ok(file?.write_all(b"x")?)
}

fn truncate_outside(outside: &Outside) -> Attempted {
    let path = text(&outside.path("victim.txt"))?;
    call(Call::TRUNCATE, &mut [Text(&path), Number(0)])?;
    Ok(())
}

fn open_truncating(outside: &Outside) -> Attempted {
    open(outside.path("victim.txt"), OFlags::WRONLY | OFlags::TRUNC)?;
    Ok(())
}

fn link_in(outside: &Outside) -> Attempted {
    Ok(rustix::fs::link(
        outside.path("victim.txt"),
        home().join("linked"),
    )?)
}

fn link_out(outside: &Outside) -> Attempted {
    Ok(rustix::fs::link(
        own_file("to-link")?,
        outside.path("linked"),
    )?)
}

fn rename_out(outside: &Outside) -> Attempted {
    Ok(rustix::fs::rename(
        own_file("to-move")?,
        outside.path("moved"),
    )?)
}

fn rename_in(outside: &Outside) -> Attempted {
    Ok(rustix::fs::rename(
        outside.path("movable"),
        home().join("moved"),
    )?)
}

fn symlink_outside(outside: &Outside) -> Attempted {
    Ok(rustix::fs::symlink("/", outside.path("symlink"))?)
}

fn mkdir_outside(outside: &Outside) -> Attempted {
    Ok(rustix::fs::mkdir(outside.path("made"), Mode::RWXU)?)
}

fn remove_outside(outside: &Outside) -> Attempted {
    Ok(rustix::fs::unlink(outside.path("removable"))?)
}

fn stat_outside(outside: &Outside) -> Attempted {
    rustix::fs::stat(outside.path("secret"))?;
    Ok(())
}

fn access_outside(outside: &Outside) -> Attempted {
    Ok(rustix::fs::access(outside.path("secret"), Access::EXISTS)?)
}

fn readlink_outside(outside: &Outside) -> Attempted {
    rustix::fs::readlink(outside.path("points"), Vec::new())?;
    Ok(())
}

fn chdir_outside(outside: &Outside) -> Attempted {
    Ok(rustix::process::chdir(outside.path("other"))?)
}

fn stat_victim(outside: &Outside) -> Attempted {
    rustix::fs::stat(outside.process_file(""))?;
    Ok(())
}
