//! What a port does for its keeper.

use std::sync::Arc;

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;

use super::Port;
use crate::channel::{Channel, Event, Kept, lock};
use crate::kept::Keep;
use crate::ledger::Ledger;
use crate::socket::Nothing;

/// Channels that the keeper made which are taken at once.
const MAX_MADE: u32 = 64;

impl Port {
    /// Tells the keeper, if there is one, how many messages were handed out. Called with `hot` locked.
    #[inline]
    pub(super) fn count_received(&self, count: u64) {
        match self.keep().map(|keep| keep.ledger()) {
            Some(Some(ledger)) => ledger.count_received(count),
            Some(None) => self.count_former(count),
            None => {}
        }
    }

    pub(super) fn watch_guard(&self) -> Result<(), Errno> {
        match self.keep().and_then(|keep| keep.guard()) {
            Some(guard) => epoll::add(&*self.epoll, guard, Event::Guard.data(), EventFlags::IN),
            None => Ok(()),
        }
    }

    pub(super) fn ignore_guard(&self) {
        if let Some(guard) = self.keep().and_then(|keep| keep.guard()) {
            // Fails if it is not watched.
            epoll::delete(&*self.epoll, guard).ok();
        }
    }

    /// The keeper has made rights to this port.
    pub(super) fn take_made_channels(&self) {
        let Some(keep) = self.keep().filter(|_| !lock(&self.state).held) else {
            return;
        };
        // Whoever sent the port may not be the keeper it seems to be, and go on for ever.
        for _ in 0..MAX_MADE {
            match keep.take_made() {
                // Without room for another sender, the keeper has its messages.
                Ok(channel) => drop(channel.map(|channel| self.add_known(channel))),
                Err(Nothing::Empty) => return,
                // There is no keeper any more, or none that makes sense.
                Err(_) => return self.ignore_guard(),
            }
        }
    }

    pub(super) fn kept(&self, channel: &Channel) -> Result<Option<Kept>, Errno> {
        let Some(keep) = self.keep().cloned() else {
            return Ok(None);
        };
        let cookie = socket_cookie(channel.socket())?;
        Ok(Some(Kept { keep, cookie }))
    }
}

/// A channel is lost to this process. Its sender is told, whoever else has duplicates of its end; if
/// another process keeps the port, the channel goes on there.
pub(super) fn let_die(channel: &Channel, keep: Option<&Arc<Keep>>) {
    if keep.is_none_or(|keep| keep.guard().is_none()) {
        channel.close();
    }
}

/// Requests that the keeper has refused are not to be served, and those who made them are to know.
pub(super) fn heed_ledger(channels: &[Channel], ledger: &Ledger) -> Result<(), Errno> {
    let entries = ledger.entries().into_iter();
    let refused: Vec<_> = entries
        .filter(|entry| entry.is_void || entry.is_refusal)
        .collect();
    for channel in channels.iter().filter(|_| !refused.is_empty()) {
        let cookie = socket_cookie(channel.socket())?;
        for entry in refused.iter().filter(|entry| entry.channel == cookie) {
            match entry.is_void {
                true => channel.make_void(entry.slot),
                false => channel.refuse_again(entry.slot, entry.at),
            }
        }
    }
    Ok(())
}
