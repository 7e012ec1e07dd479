//! New namespaces, mounts and roots (statement 13).

use std::os::fd::AsFd as _;

use portolan_sys::by_number::{Call, Clone, child_of_new_user};
use portolan_sys::confine::restrict_mount;
use rustix::fs::{CWD, OFlags};
use rustix::mount::{
    FsOpenFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsopen, mount,
    move_mount, open_tree, unmount,
};
use rustix::process::{chroot, pivot_root};
use rustix::thread::move_into_link_name_space;

use super::super::attempt::{Attempt, Control};
use super::super::outside::Outside;
use super::{Attempted, home, numbers, open};

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(13, "new_user", "unshare(CLONE_NEWUSER)", |_| {
        numbers(Call::UNSHARE_USER, [0x1000_0000])
    }),
    Attempt::new(13, "clone_user", "clone(CLONE_NEWUSER)", |_| {
        Ok(child_of_new_user(Clone::Old)?)
    }),
    Attempt::new(13, "clone3_user", "clone3(CLONE_NEWUSER)", |_| {
        Ok(child_of_new_user(Clone::New)?)
    }),
    Attempt::new(13, "mount_tmpfs", "mount tmpfs", mount_tmpfs).control(Control::Root),
    Attempt::new(13, "unmount", "unmount /usr", |_| {
        Ok(unmount("/usr", UnmountFlags::DETACH)?)
    })
    .control(Control::None),
    Attempt::new(13, "new_filesystem", "fsopen", |_| {
        fsopen("tmpfs", FsOpenFlags::empty())?;
        Ok(())
    })
    .control(Control::Root),
    Attempt::new(13, "clone_tree", "open_tree", |_| {
        open_tree(CWD, "/usr", OpenTreeFlags::OPEN_TREE_CLONE)?;
        Ok(())
    })
    .control(Control::Root),
    Attempt::new(13, "move_tree", "move_mount", |_| {
        Ok(move_mount(
            CWD,
            "/usr",
            CWD,
            "/usr",
            MoveMountFlags::empty(),
        )?)
    })
    .control(Control::None),
    Attempt::new(13, "set_mount", "mount_setattr", |_| {
        let root = open("/usr", OFlags::PATH)?;
        Ok(restrict_mount(root, false, false, false)?)
    })
    .control(Control::None),
    Attempt::new(13, "change_root", "chroot", |_| Ok(chroot(home())?)).control(Control::Root),
    Attempt::new(13, "turn_root", "pivot_root", |_| {
        Ok(pivot_root("/usr", "/usr")?)
    })
    .control(Control::None),
    Attempt::new(13, "join_victim", "setns by /proc/victim/ns", join_victim).control(Control::Root),
];

/// Somewhere that is not missed, and for as long as nothing is in it.
fn mount_tmpfs(_: &Outside) -> Attempted {
    mount("x", home(), "tmpfs", MountFlags::empty(), None)?;
    Ok(unmount(home(), UnmountFlags::DETACH)?)
}

fn join_victim(outside: &Outside) -> Attempted {
    let namespace = open(outside.process_file("ns/net"), OFlags::RDONLY)?;
    Ok(move_into_link_name_space(namespace.as_fd(), None)?)
}
