//! Devices and settings of the kernel (statements 17 and 19).

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat};

use super::super::attempt::{Attempt, Control, Refusal};
use super::super::outside::Outside;
use super::{Attempted, home, open, read};

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(
        17,
        "mknod_block",
        "mknod block device in container",
        mknod_block,
    )
    .control(Control::Root),
    Attempt::new(19, "open_kmsg", "open /dev/kmsg", |_| {
        open("/dev/kmsg", OFlags::RDONLY)?;
        Ok(())
    })
    .control(Control::Root),
    Attempt::new(19, "open_disk", "open /dev/vda (raw disk)", open_disk).control(Control::Root),
    Attempt::new(19, "write_settings", "write /proc/sys", |_| {
        open("/proc/sys/kernel/core_pattern", OFlags::WRONLY)?;
        Ok(())
    })
    .control(Control::Root),
    Attempt::new(19, "read_settings", "read /proc/sys", |_| {
        read("/proc/sys/kernel/ostype")
    }),
    Attempt::new(
        19,
        "read_network",
        "find outside sockets in /proc/self/net",
        read_network,
    ),
];

fn mknod_block(_: &Outside) -> Attempted {
    let path = home().join("block");
    mknodat(CWD, &path, FileType::BlockDevice, Mode::RUSR, makedev(8, 0))?;
    Ok(rustix::fs::unlink(&path)?)
}

fn read_network(outside: &Outside) -> Attempted {
    let sockets = std::fs::read_to_string("/proc/self/net/unix")?;
    let theirs = outside.path("stream");
    match sockets.contains(&*theirs.to_string_lossy()) {
        true => Ok(()),
        false => Err(Refusal::Nothing),
    }
}

fn open_disk(outside: &Outside) -> Attempted {
    open(
        outside.disk.as_deref().ok_or(Refusal::Absent)?,
        OFlags::RDONLY,
    )?;
    Ok(())
}
