//! A request whose answer has not been fetched.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::SendRight;
use super::replies::Slot;
use crate::channel::lock;
use crate::error::ReplyError;
use crate::message::Message;
use crate::timeout::{Deadline, Timeout};

/// A request whose answer has not been fetched.
///
/// The descriptor of [`AsFd`] is that of the right, and so is shared by all its requests: when it
/// is readable, there is news for one of them, and whichever of them is polled takes the news of
/// all. So [poll](Self::poll) all of them then. If the reply right went to another process, `poll`
/// finds that out, says `TimedOut`, and from then on the descriptor is that of the channel on
/// which the answer comes; so ask for it again after each poll.
///
/// Dropping this forgets the request; the answer is dropped when it comes.
#[must_use = "the answer is lost if it is not waited for"]
pub struct PendingReply<'a> {
    pub(super) right: &'a SendRight,
    pub(super) slot: u32,
    /// Where the answer comes, as far as `poll` has seen, if not through the right.
    pub(super) elsewhere: Option<Arc<OwnedFd>>,
}

impl PendingReply<'_> {
    /// Waits for the answer.
    ///
    /// # Errors
    ///
    /// [`ReplyError::TimedOut`]; [`ReplyError::NoReply`] as soon as the server drops the reply
    /// right; [`ReplyError::DeadName`] as soon as it dies.
    pub fn wait(self, timeout: impl Into<Timeout>) -> Result<Message, ReplyError> {
        self.right.wait_for(self.slot, timeout.into().deadline())
    }

    /// Fetches the answer if it is there, without consuming the request.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait); `TimedOut` means not yet.
    pub fn poll(&mut self) -> Result<Message, ReplyError> {
        let answer = self.right.wait_for(self.slot, Deadline::Passed);
        self.elsewhere = self.right.redirection_of(self.slot);
        answer
    }
}

impl AsFd for PendingReply<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let elsewhere = self.elsewhere.as_deref().map(AsFd::as_fd);
        elsewhere.unwrap_or_else(|| self.right.as_fd())
    }
}

impl Drop for PendingReply<'_> {
    fn drop(&mut self) {
        // A thread of the parent may have held the lock when the child was forked.
        if self.right.check_process().is_err() {
            return;
        }
        let mut replies = lock(&self.right.replies);
        match replies.slots.get_mut(&self.slot) {
            Some(state @ Slot::Waiting) => *state = Slot::Abandoned,
            _ => drop(replies.slots.remove(&self.slot)),
        }
    }
}

impl fmt::Debug for PendingReply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReply")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}
