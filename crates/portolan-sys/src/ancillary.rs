//! Packets with what the kernel attaches to them.
//!
//! `rustix` decodes `SCM_RIGHTS` and `SCM_CREDENTIALS`, but drops control messages that it does
//! not know; a dropped `SCM_PIDFD` is a leaked descriptor. So the receiving side is written here.
//!
//! # Safety
//!
//! The control buffer is walked with `CMSG_FIRSTHDR` and `CMSG_NXTHDR` only, over a `msghdr` that
//! the kernel filled in, so every header lies inside the buffer. Each descriptor found there was
//! installed into this process by that very `recvmsg` and is owned by nobody else, which is what
//! [`OwnedFd::from_raw_fd`] needs.
#![allow(
    unsafe_code,
    reason = "recvmsg with control messages that rustix does not decode"
)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The most descriptors that one packet can carry (`SCM_MAX_FD` of the kernel).
pub const MAX_DESCRIPTORS: usize = 253;

/// Who sent a packet, written by the kernel when the packet was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id in the receiver's pid namespace; 0 when the sender is not visible there.
    pub pid: u32,
    /// Real user id in the receiver's user namespace.
    pub uid: u32,
    /// Real group id in the receiver's user namespace.
    pub gid: u32,
}

/// What one [`receive`] brought.
#[derive(Debug, Default)]
pub struct Received {
    /// Bytes of the packet that were stored; 0 also means end of file.
    pub len: usize,
    /// The packet was longer than the buffer and its tail is lost.
    pub truncated: bool,
    /// Descriptors were lost: there were more than fit, or the table of this process is full.
    pub descriptors_lost: bool,
    /// Descriptors in the order they were sent.
    pub descriptors: Vec<OwnedFd>,
    /// Present when the socket asks for credentials, see [`pass_credentials`].
    pub credentials: Option<Credentials>,
    /// A descriptor of the sending process, see [`pass_pidfd`]. Missing when the kernel could not
    /// make one, for example because the sender is gone and the kernel is older than 6.15.
    pub pidfd: Option<OwnedFd>,
}

/// `SCM_PIDFD` of `linux/socket.h`, which libc does not have.
const SCM_PIDFD: libc::c_int = 4;

const CONTROL_BYTES: usize = {
    let rights = MAX_DESCRIPTORS * mem::size_of::<RawFd>();
    let ucred = mem::size_of::<libc::ucred>();
    let header = mem::size_of::<libc::cmsghdr>();
    // One header and up to seven bytes of padding for each of the three kinds.
    rights + ucred + mem::size_of::<RawFd>() + 3 * (header + 8)
};

#[repr(C, align(8))]
struct Control([mem::MaybeUninit<u8>; CONTROL_BYTES]);

/// Receives one packet into `buffer` without waiting.
///
/// Descriptors are close-on-exec. Nothing is left installed that is not in the result.
///
/// # Errors
///
/// `WouldBlock` when nothing is queued; `ConnectionReset` once when the peer closed with unread
/// data (queued packets and then end of file follow); otherwise what `recvmsg(2)` says.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with(socket.as_fd(), buffer, 0)
}

/// The same, but the packet stays where it is, and the descriptors are duplicates.
///
/// # Errors
///
/// Those of [`receive`].
pub fn peek(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with(socket.as_fd(), buffer, libc::MSG_PEEK)
}

fn receive_with(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    more: libc::c_int,
) -> io::Result<Received> {
    let mut control = Control([mem::MaybeUninit::uninit(); CONTROL_BYTES]);
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all-zero is a valid msghdr (null pointers, zero lengths).
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC | libc::MSG_NOSIGNAL | more;
    let len = loop {
        // SAFETY: `header` points at `iov`, `buffer` and `control`, all alive and writable for
        // the lengths given. Tested by this module's tests.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        match usize::try_from(n) {
            Ok(n) => break n,
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    };
    let mut received = Received {
        len,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        descriptors_lost: header.msg_flags & libc::MSG_CTRUNC != 0,
        ..Received::default()
    };
    collect(&header, &mut received);
    Ok(received)
}

fn collect(header: &libc::msghdr, received: &mut Received) {
    // SAFETY: `header` was filled in by recvmsg and its control buffer is still alive.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: a non-null pointer from the CMSG macros points at a whole header.
        let cmsg = unsafe { *next };
        // SAFETY: as above; the data begins behind the header.
        let data = unsafe { libc::CMSG_DATA(next) };
        let empty = {
            // SAFETY: CMSG_LEN only computes.
            unsafe { libc::CMSG_LEN(0) as usize }
        };
        let bytes = cmsg.cmsg_len.saturating_sub(empty);
        if cmsg.cmsg_level == libc::SOL_SOCKET {
            match cmsg.cmsg_type {
                libc::SCM_RIGHTS => take_descriptors(data, bytes, &mut received.descriptors),
                libc::SCM_CREDENTIALS => received.credentials = read_credentials(data, bytes),
                SCM_PIDFD => {
                    let mut one = Vec::new();
                    take_descriptors(data, bytes, &mut one);
                    received.pidfd = one.pop();
                }
                _ => {}
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
}

fn take_descriptors(data: *const u8, bytes: usize, into: &mut Vec<OwnedFd>) {
    for k in 0..bytes / mem::size_of::<RawFd>() {
        let one = data.cast::<RawFd>().wrapping_add(k);
        // SAFETY: `k` is below the number of whole descriptors in this control message; the
        // buffer has no alignment for RawFd, hence the unaligned read.
        let raw = unsafe { one.read_unaligned() };
        // The kernel writes a negative errno where it could not make a pidfd.
        if raw >= 0 {
            // SAFETY: the kernel has just installed this descriptor for this call alone.
            into.push(unsafe { OwnedFd::from_raw_fd(raw) });
        }
    }
}

fn read_credentials(data: *const u8, bytes: usize) -> Option<Credentials> {
    if bytes < mem::size_of::<libc::ucred>() {
        return None;
    }
    let data = data.cast::<libc::ucred>();
    // SAFETY: the length was checked above; ucred has no invalid bit patterns.
    let ucred = unsafe { data.read_unaligned() };
    let pid = u32::try_from(ucred.pid).unwrap_or(0);
    Some(Credentials {
        pid,
        uid: ucred.uid,
        gid: ucred.gid,
    })
}

/// Asks the kernel to attach the sender's credentials to what `socket` receives.
///
/// They are recorded when a packet is sent, so this must be on before the first one is
/// (`SO_PASSCRED`, unix(7)).
///
/// # Errors
///
/// What `setsockopt(2)` says.
pub fn pass_credentials(socket: impl AsFd, on: bool) -> io::Result<()> {
    set_flag(socket.as_fd(), libc::SO_PASSCRED, on)
}

/// Asks the kernel to attach a pidfd of the sender to what `socket` receives (Linux 6.5).
///
/// Each packet received while this is on costs a descriptor.
///
/// # Errors
///
/// `Unsupported` (`ENOPROTOOPT`) on older kernels; otherwise what `setsockopt(2)` says.
pub fn pass_pidfd(socket: impl AsFd, on: bool) -> io::Result<()> {
    set_flag(socket.as_fd(), libc::SO_PASSPIDFD, on)
}

/// Has what is received with `MSG_PEEK` begin behind the first `offset` bytes of the queue, and go on
/// behind what was looked at last; `None` has it begin at the head each time, as it is from the start
/// (`SO_PEEK_OFF`, socket(7)).
///
/// # Errors
///
/// What `setsockopt(2)` says.
pub fn set_peek_offset(socket: impl AsFd, offset: Option<u16>) -> io::Result<()> {
    let value = offset.map_or(-1, libc::c_int::from);
    set_option(socket.as_fd(), libc::SO_PEEK_OFF, value)
}

fn set_flag(socket: BorrowedFd<'_>, option: libc::c_int, on: bool) -> io::Result<()> {
    set_option(socket, option, libc::c_int::from(on))
}

fn set_option(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option value is a c_int that outlives the call, and `len` is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    use std::io::IoSlice;

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("socketpair")
    }

    fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space =
            [mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(fds)));
        let flags = rustix::net::SendFlags::NOSIGNAL;
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).expect("sendmsg");
    }

    #[test]
    fn credentials_and_pidfd_name_the_sender() {
        let (a, b) = pair();
        pass_credentials(&a, true).expect("SO_PASSCRED");
        let pidfds = pass_pidfd(&a, true).is_ok();
        send(&b, b"hello", &[]);
        let mut buffer = [0; 16];
        let got = receive(&a, &mut buffer).expect("receive");
        assert_eq!(&buffer[..got.len], b"hello");
        let me = got.credentials.expect("credentials");
        assert_eq!(me.pid, std::process::id());
        assert_eq!(me.uid, rustix::process::getuid().as_raw());
        assert_eq!(got.pidfd.is_some(), pidfds);
    }

    #[test]
    fn as_many_descriptors_as_the_kernel_allows_arrive() {
        let (a, b) = pair();
        pass_credentials(&a, true).expect("SO_PASSCRED");
        send(&b, b"x", &vec![b.as_fd(); MAX_DESCRIPTORS]);
        let got = receive(&a, &mut [0; 1]).expect("receive");
        assert_eq!(got.descriptors.len(), MAX_DESCRIPTORS);
        assert!(got.credentials.is_some());
        assert!(!got.descriptors_lost);
    }

    #[test]
    fn a_long_packet_is_reported_as_truncated() {
        let (a, b) = pair();
        send(&b, b"0123456789", &[]);
        let got = receive(&a, &mut [0; 4]).expect("receive");
        assert!(got.truncated);
    }

    #[test]
    fn an_empty_queue_would_block() {
        let (a, _b) = pair();
        let error = receive(&a, &mut [0; 4]).expect_err("nothing is queued");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
