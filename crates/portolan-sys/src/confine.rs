//! What a process does to itself before it becomes a confined program: filtering its system calls,
//! namespaces, children, mounts and the terminal.
//!
//! These are for a small program with one thread. [`unshare`] and [`fork`] refuse to work in a
//! process that has more.
//!
//! # Safety
//!
//! A forked child has the memory of its parent and only the thread that called: locks that other
//! threads held would stay locked in it for ever. So both calls count the threads first, in `/proc`;
//! a process with one thread cannot get a second one in between. New namespaces change what names
//! mean, not which descriptors or what memory there is; sharing no more descriptors with another
//! process (`CLONE_FILES`) would, and is refused.
#![allow(
    unsafe_code,
    reason = "seccomp, fork, unshare, mount_setattr and TIOCNOTTY"
)]

use std::fs::{self, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// One instruction of a filter, `struct sock_filter` of `linux/filter.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What is done: class, size and mode.
    pub code: u16,
    /// How many instructions are skipped if a comparison holds.
    pub jump_true: u8,
    /// How many instructions are skipped if it does not.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

/// `struct sock_fprog`, for as long as the instructions are there.
#[repr(C)]
pub(crate) struct Program<'a> {
    len: u16,
    instructions: *const Instruction,
    borrowed: PhantomData<&'a [Instruction]>,
}

impl<'a> Program<'a> {
    pub(crate) fn new(program: &'a [Instruction]) -> io::Result<Self> {
        Ok(Self {
            len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            instructions: program.as_ptr(),
            borrowed: PhantomData,
        })
    }
}

/// Filters the system calls of this thread from now on, and those of whatever it becomes or makes
/// (`SECCOMP_SET_MODE_FILTER`, seccomp(2)). The process must have given up new privileges
/// (`PR_SET_NO_NEW_PRIVS`) or be privileged.
///
/// # Errors
///
/// What seccomp(2) says: `EINVAL` if this is no valid program, also an empty or too long one.
pub fn install_filter(program: &[Instruction]) -> io::Result<()> {
    let program = Program::new(program)?;
    // SAFETY: the kernel reads `len` instructions, which `program` borrows, and copies them. It
    // checks the program itself. Tested by `a_filter_refuses_what_it_names`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    check(result)
}

/// Moves this process to new namespaces; into a new namespace of processes, the next child.
///
/// # Errors
///
/// `EINVAL` if this process has other threads, or if `flags` has anything that is no namespace;
/// else what unshare(2) says.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    if !NAMESPACES.contains(flags) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    check_single()?;
    // SAFETY: with one thread and without CLONE_FILES, see the head of this file. Tested by
    // `namespaces_only_are_unshared`.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

const NAMESPACES: UnshareFlags = UnshareFlags::NEWNS
    .union(UnshareFlags::NEWCGROUP)
    .union(UnshareFlags::NEWUTS)
    .union(UnshareFlags::NEWIPC)
    .union(UnshareFlags::NEWUSER)
    .union(UnshareFlags::NEWPID)
    .union(UnshareFlags::NEWNET);

/// Which of the two processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The parent, with the id of the child, which it has to wait for.
    Parent(Pid),
    /// The child.
    Child,
}

/// Makes a child that goes on from here, with a copy of everything.
///
/// # Errors
///
/// `EINVAL` if this process has other threads, else what fork(2) says.
pub fn fork() -> io::Result<Fork> {
    check_single()?;
    // SAFETY: there is one thread, which is the one that goes on in the child, see the head of this
    // file. Tested by the launcher of portolan-sandbox.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Fork::Child),
        _ if pid < 0 => Err(io::Error::last_os_error()),
        _ => Pid::from_raw(pid)
            .map(Fork::Parent)
            .ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

fn check_single() -> io::Result<()> {
    match fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// Makes a mount, and all mounts below it if it is `recursive`, ignore set-user-ID bits, and
/// whatever else is asked for, on top of what they are already (`mount_setattr`, Linux 5.12).
///
/// # Errors
///
/// What mount_setattr(2) says.
pub fn restrict_mount(
    mount: impl AsFd,
    read_only: bool,
    no_devices: bool,
    recursive: bool,
) -> io::Result<()> {
    /// `struct mount_attr` of `linux/mount.h`.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let mut set = libc::MOUNT_ATTR_NOSUID;
    if read_only {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    if no_devices {
        set |= libc::MOUNT_ATTR_NODEV;
    }
    let attributes = Attributes {
        set,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let below = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: a string that ends, and a struct of the announced size. Tested by
    // `what_is_no_mount_is_not_restricted` and by the probes of portolan-sandbox.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    check(result)
}

/// Gives up the controlling terminal, if this process has one (`TIOCNOTTY`, tty_ioctl(4)). Its
/// session and its group stay what they are, so that a terminal still interrupts it.
///
/// For the leader of a session it is taken from the whole session, which SIGHUP tells; this process
/// ignores that one.
///
/// # Errors
///
/// What ioctl(2) says.
pub fn give_up_terminal() -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK);
    let Ok(terminal) = options.open("/dev/tty") else {
        return Ok(());
    };
    // SAFETY: no handler is set, so no code runs in one.
    let before = unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    // SAFETY: takes no pointer.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) };
    let given_up = check(result.into());
    // SAFETY: what was the action before.
    unsafe { libc::signal(libc::SIGHUP, before) };
    given_up
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

    fn instruction(code: u16, jump_true: u8, jump_false: u8, operand: u32) -> Instruction {
        Instruction {
            code,
            jump_true,
            jump_false,
            operand,
        }
    }

    #[test]
    fn a_filter_refuses_what_it_names() {
        let program = [
            instruction(LOAD, 0, 0, 0),
            instruction(EQUAL, 0, 1, libc::SYS_getppid as u32),
            instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EXDEV as u32),
            instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let filtered = thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).expect("prctl");
            install_filter(&program).expect("a filter");
            // SAFETY: takes no pointers.
            let result = unsafe { libc::syscall(libc::SYS_getppid) };
            (result, io::Error::last_os_error().raw_os_error())
        });
        assert_eq!(filtered.join().expect("it ends"), (-1, Some(libc::EXDEV)));
        // SAFETY: takes no pointers.
        let here = unsafe { libc::syscall(libc::SYS_getppid) };
        assert!(here > 0, "it is filtered in that thread only");
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let refused = thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).expect("prctl");
            let nothing = install_filter(&[]).expect_err("it is empty");
            let long = vec![instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW); 1 << 16];
            install_filter(&long).expect_err("its length has 16 bits");
            nothing.raw_os_error()
        });
        assert_eq!(refused.join().expect("it ends"), Some(libc::EINVAL));
    }

    #[test]
    fn namespaces_only_are_unshared() {
        let error = unshare(UnshareFlags::FILES).expect_err("not a namespace");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        // The test runner has a thread for each test and one of its own.
        let error = unshare(UnshareFlags::NEWUTS).expect_err("there are threads");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn with_threads_there_is_no_fork() {
        let error = fork().expect_err("there are threads");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn what_is_no_mount_is_not_restricted() {
        let (reader, _writer) = io::pipe().expect("pipe");
        restrict_mount(&reader, true, true, true).expect_err("a pipe");
    }
}
