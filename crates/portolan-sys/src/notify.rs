//! System calls that wait for what another process says of them (`SECCOMP_RET_USER_NOTIF`,
//! seccomp_unotify(2)).
//!
//! The process that installs the filter gets a [`Listener`] for it and hands that on, before it makes
//! a call that waits: nobody else could say anything of that one.
//!
//! What a call is about can change between the time that the listener looks and the time that the
//! kernel does. So [`Listener::go_on`] decides nothing; it is for those who want to know.
//!
//! # Safety
//!
//! The kernel writes and reads structs of its own size, which it tells; [`Listener::receive`] has a
//! place that is larger, and refuses a kernel whose structs are larger still. The descriptor that
//! installing gives is new and nobody else's.
#![allow(unsafe_code, reason = "seccomp and its ioctls")]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use crate::confine::{Instruction, Program};

/// A call that waits.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// What the call is known by.
    pub id: u64,
    /// The thread that makes it, as this process sees it; 0 if it does not.
    pub thread: u32,
    /// The number of the call.
    pub number: u32,
    /// `AUDIT_ARCH_…` of `linux/audit.h`.
    pub architecture: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Where calls that wait are told of. It is readable while one waits, and has hung up when there is no
/// process with the filter any more.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// The kernel's struct, and room for what it may have at its end some day.
#[repr(C)]
struct Place {
    known: libc::seccomp_notif,
    unknown: [u8; 512],
}

impl Place {
    /// The kernel wants it to be zero.
    const EMPTY: Self = Self {
        known: libc::seccomp_notif {
            id: 0,
            pid: 0,
            flags: 0,
            data: libc::seccomp_data {
                nr: 0,
                arch: 0,
                instruction_pointer: 0,
                args: [0; 6],
            },
        },
        unknown: [0; 512],
    };
}

impl Listener {
    /// Filters the system calls of this thread from now on, as
    /// [`install_filter`](crate::confine::install_filter) does, by a program some of whose answers are
    /// `SECCOMP_RET_USER_NOTIF`. The descriptor is close-on-exec.
    ///
    /// # Errors
    ///
    /// What seccomp(2) says: `EBUSY` if there is such a filter already.
    pub fn install(program: &[Instruction]) -> io::Result<Self> {
        let program = Program::new(program)?;
        let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        let install = |flags: libc::c_ulong| {
            // SAFETY: the kernel reads the instructions, which `program` borrows, and copies them.
            check(unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    flags,
                    &raw const program,
                )
            })
        };
        let number = match install(listener | WAIT_KILLABLE_RECV) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => install(listener)?,
            other => other?,
        };
        // SAFETY: the kernel has opened it for this process by that call.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    /// The next call that waits, which is waited for.
    ///
    /// # Errors
    ///
    /// What ioctl(2) says: `ENOENT` if the process that made it has been ended meanwhile.
    pub fn receive(&self) -> io::Result<Notification> {
        check_sizes()?;
        let mut place = Place::EMPTY;
        // SAFETY: all of the place is zero, and not smaller than what the kernel writes. Tested by
        // `a_call_waits_for_what_is_said_of_it`, as are the other two.
        let result = unsafe {
            let request = libc::SECCOMP_IOCTL_NOTIF_RECV;
            libc::ioctl(self.0.as_raw_fd(), request, &raw mut place)
        };
        check_int(result)?;
        let Place { known, .. } = place;
        Ok(Notification {
            id: known.id,
            thread: known.pid,
            number: known.data.nr.cast_unsigned(),
            architecture: known.data.arch,
            arguments: known.data.args,
        })
    }

    /// Whether a call still waits. What was read of its process before is that process's then.
    #[must_use]
    pub fn waits(&self, id: u64) -> bool {
        // SAFETY: the kernel reads the number.
        let result = unsafe {
            let request = libc::SECCOMP_IOCTL_NOTIF_ID_VALID;
            libc::ioctl(self.0.as_raw_fd(), request, &raw const id)
        };
        result == 0
    }

    /// Lets a call be made as if there were no filter.
    ///
    /// # Errors
    ///
    /// What ioctl(2) says: `ENOENT` if the call does not wait any more.
    pub fn go_on(&self, id: u64) -> io::Result<()> {
        self.answer(libc::seccomp_notif_resp {
            id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        })
    }

    /// Lets a call fail with this error, without being made.
    ///
    /// # Errors
    ///
    /// As for [`go_on`](Self::go_on).
    pub fn refuse(&self, id: u64, errno: u16) -> io::Result<()> {
        self.answer(libc::seccomp_notif_resp {
            id,
            val: 0,
            error: -i32::from(errno),
            flags: 0,
        })
    }

    fn answer(&self, mut answer: libc::seccomp_notif_resp) -> io::Result<()> {
        // SAFETY: the kernel reads its struct, which has not grown since Linux 5.5.
        let result = unsafe {
            let request = libc::SECCOMP_IOCTL_NOTIF_SEND;
            libc::ioctl(self.0.as_raw_fd(), request, &raw mut answer)
        };
        check_int(result)
    }
}

fn check_sizes() -> io::Result<()> {
    let mut sizes = libc::seccomp_notif_sizes {
        seccomp_notif: 0,
        seccomp_notif_resp: 0,
        seccomp_data: 0,
    };
    // SAFETY: the kernel writes this struct, which has not grown since Linux 5.0.
    let result = unsafe {
        let operation = libc::SECCOMP_GET_NOTIF_SIZES;
        libc::syscall(libc::SYS_seccomp, operation, 0, &raw mut sizes)
    };
    check(result)?;
    match usize::from(sizes.seccomp_notif) <= mem::size_of::<Place>() {
        true => Ok(()),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// So that a signal does not make the same call wait twice: Linux 5.19.
const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One that another process has handed on.
impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn check_int(result: libc::c_int) -> io::Result<()> {
    check(result.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    fn instruction(code: u32, jump_false: u8, operand: u32) -> Instruction {
        Instruction {
            code: code as u16,
            jump_true: 0,
            jump_false,
            operand,
        }
    }

    /// A thread that asks for its priority once it is let, and may have to wait for that.
    fn asking(times: usize) -> (thread::JoinHandle<Vec<rustix::io::Result<i32>>>, Listener) {
        let program = [
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            instruction(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                1,
                libc::SYS_getpriority as u32,
            ),
            instruction(libc::BPF_RET, 0, libc::SECCOMP_RET_USER_NOTIF),
            instruction(libc::BPF_RET, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let (sender, receiver) = mpsc::channel();
        let filtered = thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).expect("prctl");
            sender.send(Listener::install(&program)).expect("send");
            let ask = |_| rustix::process::getpriority_process(None);
            (0..times).map(ask).collect()
        });
        (
            filtered,
            receiver.recv().expect("receive").expect("a listener"),
        )
    }

    #[test]
    fn a_call_waits_for_what_is_said_of_it() {
        let (filtered, listener) = asking(2);
        let call = listener.receive().expect("a call");
        assert_eq!(call.number, libc::SYS_getpriority as u32);
        assert_eq!(call.arguments[..2], [0, 0]);
        assert!(listener.waits(call.id) && !listener.waits(call.id + 1));
        assert!(!filtered.is_finished(), "it waits");
        listener.go_on(call.id).expect("go on");
        let next = listener.receive().expect("the next call");
        let late = listener.go_on(call.id).expect_err("it is over");
        assert_eq!(late.raw_os_error(), Some(libc::ENOENT));
        listener
            .refuse(next.id, libc::EXDEV as u16)
            .expect("refuse");
        let came = filtered.join().expect("it ends");
        assert!(came[0].is_ok(), "{came:?}");
        assert_eq!(came[1], Err(rustix::io::Errno::XDEV));
    }

    /// Nothing is let through because nobody is there to ask.
    #[test]
    fn calls_fail_when_the_listener_has_gone() {
        let (filtered, listener) = asking(2);
        listener.receive().expect("a call");
        drop(listener);
        let came = filtered.join().expect("it ends");
        assert_eq!(came, [Err(rustix::io::Errno::NOSYS); 2]);
    }
}
