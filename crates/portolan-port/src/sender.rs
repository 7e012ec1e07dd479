//! Who sent a message.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use portolan_sys::ancillary::Credentials;

/// The sender of a message as the kernel wrote it down when the message was sent.
///
/// The analogue of Mach's audit trailer: nothing in it comes from the sender, and it is still
/// there when the sender has exited. The `pidfd`, where there is one, cannot be confused with a
/// later process that got the same number.
#[derive(Clone, Debug)]
pub struct Sender {
    pub(crate) credentials: Credentials,
    pub(crate) pidfd: Option<Arc<OwnedFd>>,
}

impl Sender {
    /// Process id in the pid namespace of the receiver; `None` when the sender is not visible in
    /// it.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        (self.credentials.pid != 0).then_some(self.credentials.pid)
    }

    /// Real user id in the user namespace of the receiver.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.credentials.uid
    }

    /// Real group id in the user namespace of the receiver.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.credentials.gid
    }

    /// The process itself: readable when it has exited.
    ///
    /// `None` on kernels before 6.5, in answers to a request, in messages that came through a
    /// [send-once right](crate::SendOnceRight), and for a sender that first spoke
    /// when this process had less than a quarter of its descriptors left.
    #[must_use]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_deref().map(AsFd::as_fd)
    }
}
