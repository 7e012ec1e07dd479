//! Handing on where calls that wait are told of.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use portolan_sys::notify::{Listener, Notification};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Hands a listener to whoever has the other end of the socket.
pub(crate) fn hand_on(listener: &Listener, socket: impl AsFd) -> io::Result<()> {
    let handed = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&handed));
    let bytes = [IoSlice::new(b"l")];
    sendmsg(socket, &bytes, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes the listener that is handed on. `None` if whoever would do that has gone.
pub(crate) fn take(socket: impl AsFd) -> io::Result<Option<Listener>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::io::retry_on_intr(|| recvmsg(&socket, &mut into, &mut ancillary, flags))?;
    let handed = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(handed.map(Listener::from))
}

/// Sees to each call that waits until there is no process any more whose calls could. That a call does
/// not wait any more, because its process has ended, is no error.
pub(crate) fn each(
    listener: &Listener,
    mut see_to: impl FnMut(&Notification) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut ready, None))?;
        if !ready[0].revents().contains(PollFlags::IN) {
            return Ok(());
        }
        match listener.receive().and_then(|call| see_to(&call)) {
            Err(error) if !is_gone(&error) => return Err(error),
            _ => {}
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::SRCH)
    )
}
