//! Ports that outlive whoever receives from them.
//!
//! On Mach, the receive right of a service goes back to launchd when the service ends
//! (`MACH_NOTIFY_PORT_DESTROYED`), with everything that is queued. Here a *keeper* has a duplicate of
//! the receiver's end of every channel, and of the memory that goes with it:
//!
//! * It has those that there were when it [lends](ReceiveRight::lend) the port, and makes those of the
//!   rights that it hands out meanwhile ([`Custody::make_send`]).
//! * All others (rights that were copied by their holders, memory that was accepted) it is told of by
//!   the library in the borrower's process, through a socket that goes with the port, the *guard*.
//! * When the guard hangs up, the port is back: the borrower let go of it or is gone. What the
//!   borrower had not received yet is where it was, and what it had received and not answered is
//!   written down in the [ledger](crate::ledger).
//!
//! The same duplicates and the same ledger serve a keeper that is itself killed: a [`Witness`] is told
//! of each change, and [`ReceiveRight::recover`] makes the port anew.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use portolan_sys::ancillary::{Credentials, Received};
use portolan_wire::moved::{self, MovedChannel, MovedMemory, RECORD_BYTES};
use portolan_wire::packet::Kind;
use portolan_wire::port_id::PortId;
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::net::sockopt::socket_cookie;
use thiserror::Error;

use crate::answers::MAX_OWED;
use crate::channel::{Channel, lock};
use crate::error::{CreateError, MintError, SendErrorKind};
use crate::ledger::{Cookie, Entry, Ledger};
use crate::receive_right::ReceiveRight;
use crate::send_right::SendRight;
use crate::socket::{self, Nothing, Outgoing, Refusal};

/// Which channel of a port: a number that the kernel gave its socket, the same for all duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub u64);

/// Who is told what has to be remembered to make a port anew after this process was killed.
///
/// Calls come from whatever thread receives from the port, with locks held, and must not touch it.
pub trait Witness: Send + Sync {
    /// A channel has come, or has more descriptors than before.
    fn changed(&self, channel: ChannelId, record: &[u8], descriptors: &[BorrowedFd<'_>]);

    /// A channel is gone; its descriptors can be closed.
    fn gone(&self, channel: ChannelId);
}

/// One channel of a port, as a [`Witness`] was told of it.
#[derive(Debug)]
pub struct ChannelParts {
    record: MovedChannel,
    descriptors: Vec<OwnedFd>,
}

impl ChannelParts {
    /// Puts the parts together again.
    ///
    /// # Errors
    ///
    /// `InvalidData` if they do not belong together.
    pub fn new(record: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let records = moved::decode(record).ok();
        let record = records.and_then(|records| match records.as_slice() {
            [one] if one.fds() == descriptors.len() => Some(*one),
            _ => None,
        });
        let record = record.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            record,
            descriptors,
        })
    }

    /// Duplicates of what makes up a channel.
    fn of(channel: &Channel, record: MovedChannel) -> io::Result<Self> {
        let own = channel.fds(&record).into_iter();
        let descriptors = own.map(|fd| fd.try_clone_to_owned());
        Ok(Self {
            record,
            descriptors: descriptors.collect::<io::Result<_>>()?,
        })
    }

    /// Whether the holder is gone and has left nothing. Memory is not looked at.
    fn is_over(&self) -> bool {
        let socket = self.descriptors.first();
        let next = socket.and_then(|socket| socket::peek_bytes(socket.as_fd(), &mut [0]));
        self.record.memory.is_none() && next == Some(0)
    }

    /// The channel that the next packet brings.
    fn to_come(&self) -> Option<Cookie> {
        let socket = self.descriptors.first()?.as_fd();
        socket::peek(socket).filter(|header| header.kind == Kind::Mint)?;
        let (minted, _) = socket::peek_mint(socket)?;
        socket_cookie(minted).ok()
    }

    fn cookie(&self) -> Option<Cookie> {
        socket_cookie(self.descriptors.first()?).ok()
    }

    fn has_unread(&self) -> bool {
        let mut descriptors = self.descriptors.iter();
        let queued = descriptors
            .next()
            .is_some_and(|socket| socket::peek(socket.as_fd()).is_some());
        queued || descriptors.next().is_some_and(has_unread_records)
    }

    fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.descriptors.iter().map(AsFd::as_fd).collect()
    }
}

/// A record that says nothing about positions, which are in the memory.
fn at_rest(record: &MovedChannel) -> MovedChannel {
    MovedChannel {
        memory: record.memory.map(|_| MovedMemory::default()),
        ..*record
    }
}

/// What goes with a port that has a keeper.
pub(crate) struct Keep {
    teller: Teller,
    ledger: Option<Arc<Ledger>>,
    /// What there was no room for in the guard yet, oldest first: at most one for each channel.
    untold: Mutex<VecDeque<Untold>>,
}

/// Something that the keeper is to be told.
enum Untold {
    Come(Cookie, Weak<Channel>),
    Gone(Cookie),
}

enum Teller {
    /// The keeper is another process. Those that it makes channels for are as trusted as who it is.
    Guard(OwnedFd, Option<Credentials>),
    Witness(Arc<dyn Witness>),
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keep").finish_non_exhaustive()
    }
}

impl Keep {
    pub(crate) fn guarded(guard: OwnedFd, ledger: Ledger, maker: Option<Credentials>) -> Self {
        Self {
            teller: Teller::Guard(guard, maker),
            ledger: Some(Arc::new(ledger)),
            untold: Mutex::default(),
        }
    }

    pub(crate) fn witnessed(witness: Arc<dyn Witness>, ledger: Option<Ledger>) -> Self {
        Self {
            teller: Teller::Witness(witness),
            ledger: ledger.map(Arc::new),
            untold: Mutex::default(),
        }
    }

    /// Where requests are written down, if they are.
    pub(crate) fn ledger(&self) -> Option<&Arc<Ledger>> {
        self.ledger.as_ref()
    }

    /// The socket to the keeper, if that is another process.
    pub(crate) fn guard(&self) -> Option<BorrowedFd<'_>> {
        match &self.teller {
            Teller::Guard(guard, _) => Some(guard.as_fd()),
            Teller::Witness(_) => None,
        }
    }

    /// Whoever was told of the channels, if that is in this process.
    pub(crate) fn witness(&self) -> Option<Arc<dyn Witness>> {
        match &self.teller {
            Teller::Guard(..) => None,
            Teller::Witness(witness) => Some(Arc::clone(witness)),
        }
    }

    /// What goes with a port that moves.
    pub(crate) fn luggage(&self) -> Option<[BorrowedFd<'_>; 2]> {
        Some([self.guard()?, self.ledger.as_ref()?.file()])
    }

    /// Tells that a channel has come. A keeper in another process is told as soon as there is room.
    pub(crate) fn tell_come(&self, cookie: Cookie, channel: &Arc<Channel>) {
        if let Teller::Witness(witness) = &self.teller {
            let (record, fds) = channel.told();
            return witness.changed(ChannelId(cookie), &record.encode(), &fds);
        }
        let come = Untold::Come(cookie, Arc::downgrade(channel));
        lock(&self.untold).push_back(come);
        self.tell_untold().ok();
    }

    /// Tells that a channel has memory. False if the keeper does not hear it now, and then it must not be
    /// used.
    pub(crate) fn tell_changed(
        &self,
        cookie: Cookie,
        record: &MovedChannel,
        descriptors: &[BorrowedFd<'_>],
    ) -> bool {
        let record = record.encode();
        match &self.teller {
            Teller::Witness(witness) => {
                witness.changed(ChannelId(cookie), &record, descriptors);
                true
            }
            Teller::Guard(guard, _) => {
                let told = self.tell_untold();
                told.is_ok() && say(guard.as_fd(), cookie, &record, descriptors).is_ok()
            }
        }
    }

    /// Tells that a channel is gone.
    pub(crate) fn tell_gone(&self, cookie: Cookie) {
        if let Teller::Witness(witness) = &self.teller {
            return witness.gone(ChannelId(cookie));
        }
        let mut untold = lock(&self.untold);
        let came = untold.iter().position(|untold| untold.is_coming(cookie));
        match came {
            // Whoever comes and goes while the keeper does not listen is none of its business.
            Some(at) => drop(untold.remove(at)),
            None => untold.push_back(Untold::Gone(cookie)),
        }
        drop(untold);
        self.tell_untold().ok();
    }

    /// Tells what has not been told, as far as there is room.
    pub(crate) fn tell_untold(&self) -> Result<(), Refusal> {
        let Some(guard) = self.guard() else {
            return Ok(());
        };
        let mut untold = lock(&self.untold);
        while let Some(next) = untold.front() {
            match next.say(guard) {
                Err(refusal @ (Refusal::Full(_) | Refusal::InFlight)) => return Err(refusal),
                Ok(()) | Err(_) => drop(untold.pop_front()),
            }
        }
        Ok(())
    }

    /// The next channel that the keeper made for the port. `None` if there are not the descriptors for
    /// another sender: the keeper has its messages.
    pub(crate) fn take_made(&self) -> Result<Option<Channel>, Nothing> {
        let Teller::Guard(guard, maker) = &self.teller else {
            return Err(Nothing::Closed);
        };
        let mut buffer = [0; RECORD_BYTES];
        let mut received = socket::receive_raw(guard.as_fd(), &mut buffer)?;
        let bytes = buffer.get(..received.len).unwrap_or_default();
        let records = moved::decode(bytes).map_err(|_| Nothing::Violation)?;
        match (records.as_slice(), received.descriptors.pop()) {
            ([_], None) if received.descriptors_lost => Ok(None),
            ([_], Some(socket)) if socket::is_last_reserve(&socket) => Ok(None),
            ([record], Some(socket)) if record.memory.is_none() => {
                let channel = Channel::arrived(*record, vec![socket])?;
                Ok(Some(channel.had_by(*maker)))
            }
            _ => Err(Nothing::Violation),
        }
    }

    /// Whether the port goes to somebody when it is dropped.
    pub(crate) fn is_returnable(&self) -> bool {
        match &self.teller {
            Teller::Guard(guard, _) => !socket::has_ended(guard),
            Teller::Witness(_) => false,
        }
    }

    /// Lets go of the port: the keeper sees it at once, whoever else has the guard's end.
    pub(crate) fn give_back(&self) {
        if let (Some(guard), Some(ledger)) = (self.guard(), &self.ledger) {
            ledger.note_returned();
            // Fails only if the keeper is gone.
            rustix::net::shutdown(guard, Shutdown::Both).ok();
        }
    }
}

impl Untold {
    fn is_coming(&self, channel: Cookie) -> bool {
        matches!(self, Self::Come(cookie, _) if *cookie == channel)
    }

    fn say(&self, guard: BorrowedFd<'_>) -> Result<(), Refusal> {
        match self {
            Self::Gone(cookie) => say(guard, *cookie, &[], &[]),
            Self::Come(cookie, channel) => match channel.upgrade() {
                Some(channel) => {
                    let (record, fds) = channel.told();
                    say(guard, *cookie, &record.encode(), &fds)
                }
                None => Ok(()),
            },
        }
    }
}

/// Tells the keeper of a channel: what it has, or that it is gone if that is nothing.
fn say(
    guard: BorrowedFd<'_>,
    cookie: Cookie,
    record: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Refusal> {
    let cookie = cookie.to_ne_bytes();
    let slices = [IoSlice::new(&cookie), IoSlice::new(record)];
    socket::send_slices(guard, &slices, descriptors)
}

/// Where the receive right of a port is that was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Somebody else has it.
    Lent,
    /// It is back: [take it](Custody::take_back).
    Back,
}

/// A port whose receive right is [lent](ReceiveRight::lend) to another process and comes back from it.
///
/// The descriptor of [`AsFd`] is readable when there is something to [attend](Self::attend) to.
pub struct Custody {
    id: PortId,
    /// Messages that were received before the port was lent.
    received: u64,
    guard: OwnedFd,
    ledger: Ledger,
    channels: HashMap<Cookie, ChannelParts>,
    /// Channels for which there was no room in the guard yet, oldest first.
    waiting: VecDeque<Cookie>,
    /// With as many channels, those are looked for that are over.
    prune_at: usize,
    witness: Option<Arc<dyn Witness>>,
}

/// The most packets that one call attends to.
const MAX_REPORTS: usize = 256;

/// The most channels that one port has in custody.
const MAX_CHANNELS: usize = 1 << 16;

/// With fewer channels, it is left to the borrower to say which are gone.
const PRUNE_AT: usize = 64;

impl ReceiveRight {
    /// Makes a port of which this witness is told all that [`recover`](Self::recover) needs.
    ///
    /// With a ledger ([`PortParts::make_ledger`]), each request is written down there while it is not
    /// answered, so that its sender is told if this process is killed.
    ///
    /// # Errors
    ///
    /// [`CreateError`] if the kernel has no more descriptors for this process.
    pub fn witnessed(parts: PortParts, witness: Arc<dyn Witness>) -> Result<Self, CreateError> {
        let ledger = parts.ledger.map(Ledger::open).transpose()?;
        let keep = Keep::witnessed(witness, ledger);
        let (channels, _) = revive(parts.channels, None, keep.witness().as_deref());
        Self::with_keep(parts.id, channels, Some(Arc::new(keep)))
    }

    /// Makes a port anew whose receiver was killed, with all that is unread. Whoever waits for the
    /// answer to a request that the former receiver had taken is told that none will come.
    ///
    /// The ledger is to be a fresh one, which replaces that of the former receiver.
    ///
    /// # Errors
    ///
    /// [`CreateError`] if the kernel has no more descriptors for this process.
    pub fn recover(
        parts: PortParts,
        witness: Arc<dyn Witness>,
        fresh: Option<OwnedFd>,
    ) -> Result<Self, CreateError> {
        let former = parts.ledger.map(Ledger::open).transpose()?;
        let (channels, _) = revive(parts.channels, former.as_ref(), Some(&*witness));
        for channel in channels.iter().filter(|_| !parts.refused.is_empty()) {
            let cookie = ChannelId(socket_cookie(channel.socket())?);
            let own = parts.refused.iter().filter(|(id, _)| *id == cookie);
            own.for_each(|(_, slot)| channel.make_void(*slot));
        }
        let ledger = fresh.map(Ledger::open).transpose()?;
        let keep = Keep::witnessed(witness, ledger);
        Self::with_keep(parts.id, channels, Some(Arc::new(keep)))
    }

    /// Where this process writes down what it owes, if it does.
    #[must_use]
    pub fn ledger(&self) -> Option<BorrowedFd<'_>> {
        let keep = self.port().keep()?;
        keep.ledger().map(|ledger| ledger.file())
    }

    /// Lends the port: gives what is kept of it, and the right to send to whoever is to receive from
    /// it. When that process drops the right or ends, the port is back with all that is unread; its
    /// senders notice nothing.
    ///
    /// A right that is dropped here is back at once. The witness, if there is one, is told of the
    /// channels as before.
    ///
    /// # Errors
    ///
    /// [`LendError`], with [`SendErrorKind::ForeignProcess`] or [`SendErrorKind::System`].
    pub fn lend(self) -> Result<(Custody, Self), LendError> {
        let Prepared {
            ledgers: [ledger, copy],
            guards: [guard, theirs],
            channels: (kept, lent),
        } = match self.prepare_loan() {
            Ok(prepared) => prepared,
            Err(source) => {
                let port = Some(self);
                return Err(LendError { port, source });
            }
        };
        let witness = self.port().keep().and_then(|keep| keep.witness());
        let (id, received) = (self.id(), self.port().received());
        let custody = Custody {
            id,
            received,
            guard,
            ledger,
            channels: kept,
            waiting: VecDeque::new(),
            prune_at: PRUNE_AT,
            witness,
        };
        // The descriptors that it knows are about to be closed, and their numbers to be others'.
        for (cookie, parts) in &custody.channels {
            custody.tell_witness(*cookie, parts);
        }
        self.forget();
        let right = arrive(id, lent, Keep::guarded(theirs, copy, None));
        match right {
            Ok(right) => Ok((custody, right)),
            Err(errno) => {
                custody.abandon();
                let source = errno.into();
                Err(LendError { port: None, source })
            }
        }
    }

    /// Makes all that a loan needs, and stops receiving. The port goes on if that fails.
    fn prepare_loan(&self) -> Result<Prepared, SendErrorKind> {
        let ledger = Ledger::create()?;
        let copy = Ledger::open(ledger.file().try_clone_to_owned()?)?;
        let (guard, theirs) = socket::pair()?;
        let paused = self.pause()?;
        let channels = duplicate(&paused, &ledger).inspect_err(|_| self.resume())?;
        Ok(Prepared {
            ledgers: [ledger, copy],
            guards: [guard, theirs],
            channels,
        })
    }
}

/// A port was not lent.
#[derive(Debug, Error)]
#[error("cannot lend the port")]
#[non_exhaustive]
pub struct LendError {
    /// It, with all that is queued there. Without it, it is dead.
    pub port: Option<ReceiveRight>,
    /// Why.
    pub source: SendErrorKind,
}

/// What is made for a port that is lent: one of each for the keeper, one for the borrower.
struct Prepared {
    ledgers: [Ledger; 2],
    guards: [OwnedFd; 2],
    channels: Duplicates,
}

/// What a keeper has of channels, and what whoever borrows the port gets.
type Duplicates = (HashMap<Cookie, ChannelParts>, Vec<ChannelParts>);

fn duplicate(paused: &[(Arc<Channel>, MovedChannel)], ledger: &Ledger) -> io::Result<Duplicates> {
    let (mut kept, mut lent) = (HashMap::new(), Vec::new());
    for (channel, record) in paused {
        let cookie = socket_cookie(channel.socket())?;
        kept.insert(cookie, ChannelParts::of(channel, at_rest(record))?);
        lent.push(ChannelParts::of(channel, *record)?);
    }
    // Nothing fails any more, so what is taken from a channel here is not lost.
    for (channel, _) in paused {
        let cookie = socket_cookie(channel.socket())?;
        for slot in channel.voids() {
            ledger.enter_void(cookie, slot);
        }
        for slot in channel.take_refusals() {
            ledger.enter_refusal(cookie, slot);
        }
    }
    Ok((kept, lent))
}

fn arrive(id: PortId, lent: Vec<ChannelParts>, keep: Keep) -> io::Result<ReceiveRight> {
    let lent = lent.into_iter();
    let lent = lent.map(|parts| Channel::arrived(parts.record, parts.descriptors));
    let channels = lent.collect::<Result<_, _>>().map_err(|_| Errno::BADF)?;
    ReceiveRight::arrived(id, channels, Some(keep)).map_err(|error| error.0)
}

/// What a port is made of.
#[derive(Debug)]
pub struct PortParts {
    /// Which port it is.
    pub id: PortId,
    /// Its channels.
    pub channels: Vec<ChannelParts>,
    /// Where its receiver writes down what it owes, if it does.
    pub ledger: Option<OwnedFd>,
    /// Requests that are queued and [refused](ReceiveRight::refused).
    pub refused: Vec<(ChannelId, u32)>,
}

impl PortParts {
    /// Those of a port that is new.
    ///
    /// # Errors
    ///
    /// [`CreateError`] if the kernel gives no random numbers.
    pub fn fresh() -> Result<Self, CreateError> {
        Ok(Self {
            id: crate::receive_right::random_id()?,
            channels: Vec::new(),
            ledger: None,
            refused: Vec::new(),
        })
    }

    /// Memory in which a receiver writes down what it owes.
    ///
    /// # Errors
    ///
    /// What the kernel says, if it has no memory or descriptors.
    pub fn make_ledger() -> io::Result<OwnedFd> {
        Ledger::make()
    }
}

impl Custody {
    /// Puts together what a [`Witness`] was told of a port that is lent.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the descriptors, those of [`descriptors`](Self::descriptors), are no such.
    pub fn restore(
        id: PortId,
        channels: Vec<ChannelParts>,
        [guard, ledger]: [OwnedFd; 2],
        witness: Option<Arc<dyn Witness>>,
    ) -> io::Result<Self> {
        if !socket::is_channel_end(&guard) && !socket::has_ended(&guard) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let channels = channels.into_iter();
        let known = channels.filter_map(|parts| Some((parts.cookie()?, parts)));
        Ok(Self {
            id,
            received: 0,
            guard,
            ledger: Ledger::open(ledger)?,
            channels: known.collect(),
            waiting: VecDeque::new(),
            prune_at: PRUNE_AT,
            witness,
        })
    }

    /// Which port it is.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.id
    }

    /// What has to be there, beside the channels, to [restore](Self::restore) this.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.guard.as_fd(), self.ledger.file()]
    }

    /// How many rights to the port are known to exist.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Whether something is queued that the borrower has not received, as far as it can be told from
    /// here: what it is about to receive counts, and so does word of a right that was copied.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        self.channels.values().any(ChannelParts::has_unread)
    }

    /// Makes a send right to the port, which the borrower is told of. Nobody is waited for: messages
    /// that are sent before it has heard of it are queued.
    ///
    /// # Errors
    ///
    /// [`MintError::System`], most often for want of descriptors.
    pub fn make_send(&mut self, badge: u64) -> Result<SendRight, MintError> {
        if self.channels.len() >= self.prune_at {
            self.prune();
        }
        let ends = socket::channel()?;
        if self.channels.len() >= MAX_CHANNELS || socket::is_last_reserve(&ends.receiver) {
            return Err(Errno::NFILE.into());
        }
        let cookie = socket_cookie(&ends.receiver)?;
        let record = MovedChannel {
            badge,
            once: false,
            is_known: false,
            memory: None,
        };
        let parts = ChannelParts {
            record,
            descriptors: vec![ends.receiver],
        };
        self.note(cookie, parts);
        self.waiting.push_back(cookie);
        self.deliver();
        Ok(SendRight::from_end(ends.holder, self.id))
    }

    /// Whether the borrower has not been told of all rights yet for want of room: then there is
    /// something to attend to as well when the descriptor is writable.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Hears what the borrower has to say, and tells where the port is.
    pub fn attend(&mut self) -> Presence {
        for _ in 0..MAX_REPORTS {
            match self.hear() {
                Err(Nothing::Closed) => return Presence::Back,
                Err(Nothing::Empty) => break,
                Ok(()) | Err(_) => {}
            }
        }
        self.deliver();
        Presence::Lent
    }

    /// Takes the port back. Whoever waits for the answer to a request that the borrower had taken is
    /// told that none will come; if the borrower let go of the port and is still there, that is left
    /// to it, and to the [`Debts`] after its end.
    ///
    /// To be called once the port is [`Back`](Presence::Back) or the borrower is gone: two that receive
    /// from one port get half of the messages each.
    ///
    /// # Errors
    ///
    /// [`CreateError`] if the kernel has no more descriptors for this process.
    pub fn take_back(mut self) -> Result<(ReceiveRight, Debts), CreateError> {
        // Whoever still has the other end, a child of the borrower perhaps, could go on for ever.
        rustix::net::shutdown(&self.guard, Shutdown::Both).ok();
        while !matches!(self.hear(), Err(Nothing::Empty | Nothing::Closed)) {}
        let channels = self.channels.into_values().collect();
        let (channels, sockets) = revive(channels, Some(&self.ledger), self.witness.as_deref());
        let keep = self.witness.map(|witness| Keep::witnessed(witness, None));
        let right = ReceiveRight::with_keep(self.id, channels, keep.map(Arc::new))?;
        let ledger = self.ledger;
        right
            .port()
            .count_former(self.received.wrapping_add(ledger.received()));
        let debts = Debts {
            ledger,
            sockets,
            _guard: self.guard,
        };
        Ok((right, debts))
    }

    /// Lets go of what is kept. The port is the borrower's alone, and dies with it.
    pub fn let_go(mut self) {
        let cookies: Vec<_> = self.channels.keys().copied().collect();
        cookies.into_iter().for_each(|cookie| self.forget(cookie));
    }

    /// The port is dead, and its senders are to know.
    fn abandon(self) {
        for socket in self
            .channels
            .values()
            .filter_map(|parts| parts.descriptors.first())
        {
            rustix::net::shutdown(socket, Shutdown::Both).ok();
        }
        self.let_go();
    }

    /// Tells the borrower of channels as far as there is room.
    fn deliver(&mut self) {
        while let Some(cookie) = self.waiting.front() {
            if let Some(parts) = self.channels.get(cookie) {
                let record = parts.record.encode();
                let slices = [IoSlice::new(&record)];
                let sent = socket::send_slices(self.guard.as_fd(), &slices, &parts.borrowed());
                if matches!(sent, Err(Refusal::Full(_) | Refusal::InFlight)) {
                    return;
                }
            }
            self.waiting.pop_front();
        }
    }

    /// Hears one thing. What a witness is told of stays in the guard until it was: this process may be
    /// killed too.
    fn hear(&mut self) -> Result<(), Nothing> {
        let mut buffer = [0; size_of::<Cookie>() + RECORD_BYTES];
        if self.witness.is_none() {
            let received = socket::receive_raw(self.guard.as_fd(), &mut buffer)?;
            self.heed(&buffer, received);
            return Ok(());
        }
        let heard = socket::peek_raw(self.guard.as_fd(), &mut buffer);
        let heard = heard.map(|received| self.heed(&buffer, received));
        if !matches!(heard, Err(Nothing::Empty | Nothing::Closed)) {
            drop(socket::receive_raw(self.guard.as_fd(), &mut buffer));
        }
        heard
    }

    fn heed(&mut self, buffer: &[u8], received: Received) {
        let bytes = buffer.get(..received.len).unwrap_or_default();
        let Some((cookie, record)) = bytes.split_first_chunk() else {
            return;
        };
        let cookie = Cookie::from_ne_bytes(*cookie);
        match ChannelParts::new(record, received.descriptors) {
            Ok(parts) if self.can_keep(cookie, &parts) => self.note(cookie, parts),
            // It is gone, or cannot be kept. Without its memory, a channel is worse than none: its sender
            // would send to where nobody looks.
            _ => self.forget(cookie),
        }
    }

    fn can_keep(&self, cookie: Cookie, parts: &ChannelParts) -> bool {
        let has_room = self.channels.len() < MAX_CHANNELS || self.channels.contains_key(&cookie);
        let is_last_reserve = parts.descriptors.iter().any(socket::is_last_reserve);
        let is_channel = parts
            .descriptors
            .first()
            .is_some_and(socket::is_channel_end);
        has_room && !is_last_reserve && is_channel && parts.cookie() == Some(cookie)
    }

    fn note(&mut self, cookie: Cookie, parts: ChannelParts) {
        self.tell_witness(cookie, &parts);
        self.channels.insert(cookie, parts);
    }

    /// Lets go of the channels whose holders are gone, having left nothing: the borrower may not have come
    /// to say so, and whoever asks for rights again and again must not use up all descriptors.
    fn prune(&mut self) {
        let over = self.channels.iter().filter(|(_, parts)| parts.is_over());
        let over: Vec<_> = over.map(|(cookie, _)| *cookie).collect();
        over.into_iter().for_each(|cookie| self.forget(cookie));
        self.prune_at = PRUNE_AT.max(2 * self.channels.len());
    }

    fn forget(&mut self, cookie: Cookie) {
        // Its descriptors are closed after the witness was told.
        let forgotten = self.channels.remove(&cookie);
        if let (Some(_), Some(witness)) = (&forgotten, &self.witness) {
            witness.gone(ChannelId(cookie));
        }
    }

    fn tell_witness(&self, cookie: Cookie, parts: &ChannelParts) {
        if let Some(witness) = &self.witness {
            witness.changed(ChannelId(cookie), &parts.record.encode(), &parts.borrowed());
        }
    }
}

impl AsFd for Custody {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.guard.as_fd()
    }
}

impl fmt::Debug for Custody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custody")
            .field("id", &self.id)
            .field("channels", &self.channels.len())
            .finish_non_exhaustive()
    }
}

/// Answers that a process owes which let go of the port and is still there.
///
/// The descriptors of the [`Custody`] that it was are open until this is dropped.
#[derive(Debug)]
pub struct Debts {
    ledger: Ledger,
    sockets: HashMap<Cookie, OwnedFd>,
    _guard: OwnedFd,
}

impl Debts {
    /// Whether there are none now.
    #[must_use]
    pub fn are_settled(&self) -> bool {
        !self.ledger.entries().iter().any(|entry| !entry.is_void)
    }

    /// The process is gone: tells whoever waits that no answer will come.
    pub fn fail(&self) {
        let mut owed: HashMap<Cookie, Vec<u32>> = HashMap::new();
        for entry in self.ledger.entries().iter().filter(|entry| !entry.is_void) {
            owed.entry(entry.channel).or_default().push(entry.slot);
        }
        for (channel, slots) in owed {
            if let Some(socket) = self.sockets.get(&channel) {
                refuse_all(socket.as_fd(), slots);
            }
        }
    }
}

/// Whether a holder has published more than a receiver has dealt with. The memory is looked at through
/// its file, once, and not mapped for that.
fn has_unread_records(memory: &OwnedFd) -> bool {
    let word = |offset: usize| {
        let mut bytes = [0; size_of::<u64>()];
        let read = rustix::io::pread(memory, &mut bytes, offset as u64);
        (read == Ok(bytes.len())).then(|| u64::from_ne_bytes(bytes))
    };
    let published = word(portolan_ring::PUBLISHED_OFFSET);
    let kept = word(portolan_ring::KEPT_OFFSET);
    // Before the holder goes over to the memory, nothing is kept and nothing is published.
    published
        .zip(kept)
        .is_some_and(|(published, kept)| published != kept & !7)
}

/// Makes channels of their parts. What a former receiver owes is refused, unless it is still there and
/// answers itself; then the sockets to refuse it later are given too.
fn revive(
    parts: Vec<ChannelParts>,
    ledger: Option<&Ledger>,
    witness: Option<&dyn Witness>,
) -> (Vec<Channel>, HashMap<Cookie, OwnedFd>) {
    let mut entries: HashMap<Cookie, Vec<_>> = HashMap::new();
    for entry in ledger.map(Ledger::entries).unwrap_or_default() {
        entries.entry(entry.channel).or_default().push(entry);
    }
    let is_returned = ledger.is_some_and(Ledger::is_returned);
    let (mut channels, mut sockets) = (Vec::new(), HashMap::new());
    // A receiver that is killed may have told of a channel and not taken the packet that brings it.
    let to_come: HashSet<_> = parts.iter().filter_map(ChannelParts::to_come).collect();
    for part in parts {
        let (record, cookie) = (part.record, part.cookie());
        let forget = || {
            if let (Some(witness), Some(cookie)) = (witness, cookie) {
                witness.gone(ChannelId(cookie));
            }
        };
        if cookie.is_some_and(|own| to_come.contains(&own)) {
            forget();
            continue;
        }
        let Ok(revived) = Channel::revive(record, part.descriptors) else {
            forget();
            continue;
        };
        let entries = cookie.and_then(|cookie| entries.remove(&cookie));
        let debts = revived.debts(&entries.unwrap_or_default());
        if is_returned && !debts.is_empty() {
            let copy = revived.channel.socket().try_clone_to_owned();
            sockets.extend(cookie.zip(copy.ok()));
        } else {
            let debts = debts.into_iter().take(MOST_DEBTS);
            debts.for_each(|slot| revived.channel.refuse_later(slot));
        }
        channels.push(revived.channel);
    }
    (channels, sockets)
}

/// The most requests of one channel that are refused for a receiver that is gone. A holder never waits for
/// more than it may, and what was answered and not crossed out is little.
const MOST_DEBTS: usize = 2 * MAX_OWED;

fn refuse_all(socket: BorrowedFd<'_>, slots: Vec<u32>) {
    let mut slots = slots.into_iter().take(MOST_DEBTS);
    slots.all(|slot| tell_no_reply(socket, slot));
}

/// The answers of a receiver that is gone are refused through the socket, whatever its successor
/// does with the memory.
fn tell_no_reply(socket: BorrowedFd<'_>, slot: u32) -> bool {
    let told = socket::try_send(socket, &Outgoing::control(Kind::NoReply, slot)).is_ok();
    if !told {
        // A holder that does not fetch its answers is not to wait for this one.
        rustix::net::shutdown(socket, Shutdown::Both).ok();
    }
    told
}

/// A channel made of its parts, and the slots of requests in it that nobody has received yet.
pub(crate) struct Revived {
    pub(crate) channel: Channel,
    pub(crate) unread: HashSet<u32>,
}

impl Revived {
    /// What the former receiver had taken and not answered. Requests that it did not take and that are
    /// not to be served are made void.
    fn debts(&self, entries: &[Entry]) -> Vec<u32> {
        let is_unread = |entry: &&Entry| self.unread.contains(&entry.slot) && !entry.is_refusal;
        let (unread, taken): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(is_unread);
        let voids = unread.iter().filter(|entry| entry.is_void);
        voids.for_each(|entry| self.channel.make_void(entry.slot));
        let owed = taken.iter().filter(|entry| !entry.is_void);
        owed.map(|entry| entry.slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::ring_end::Next;
    use crate::timeout::Timeout;

    /// A right that goes through memory, and its port, which is lent.
    fn lent() -> (SendRight, Custody, ReceiveRight) {
        let port = ReceiveRight::new().expect("port");
        let right = port.make_send().expect("right");
        for _ in 0..8 {
            right.send(Message::new(0), Timeout::NEVER).expect("send");
            port.receive(Timeout::NEVER).expect("receive");
        }
        let (custody, lent) = port.lend().expect("lend");
        (right, custody, lent)
    }

    /// The channel of a port that nobody receives from any more, as if it was about to be read.
    fn channel(port: &ReceiveRight) -> Arc<Channel> {
        let paused = port.pause().expect("pause");
        let (channel, _) = paused.first().expect("a channel");
        channel.stay();
        Arc::clone(channel)
    }

    fn ids(port: &ReceiveRight) -> Vec<i32> {
        let next = || port.receive(Timeout::POLL).ok();
        let all = std::iter::from_fn(next);
        all.map(|message| message.id()).collect()
    }

    #[test]
    fn the_order_stays_if_a_receiver_is_killed_between_a_packet_and_its_record() {
        for (had_it, expected) in [(true, &[2, 3, 4][..]), (false, &[1, 2, 3, 4])] {
            let (right, custody, lent) = lent();
            let other = ReceiveRight::new().expect("port");
            // The new owner is told who sends.
            right.send(Message::new(0), Timeout::NEVER).expect("send");
            lent.receive(Timeout::NEVER).expect("receive");
            for id in 1..5 {
                let message = Message::new(id);
                let message = match id % 2 {
                    1 => message.with_right(other.make_send().expect("right")),
                    _ => message,
                };
                right.send(message, Timeout::NEVER).expect("send");
            }
            let channel = channel(&lent);
            let ring = channel.ring().expect("memory");
            assert!(matches!(ring.next_kept(), Ok(Next::InSocket)));
            ring.fetch(crate::channel::mark_of_packet(channel.socket()).expect("packet"));
            if had_it {
                socket::try_receive(channel.socket()).expect("packet");
            }
            std::mem::forget(lent);
            let (port, _) = custody.take_back().expect("take back");
            assert_eq!(ids(&port), expected);
        }
    }

    fn guard(lent: &ReceiveRight) -> OwnedFd {
        let keep = lent.port().keep().expect("a keeper");
        let guard = keep.guard().expect("a guard");
        guard.try_clone_to_owned().expect("duplicate")
    }

    #[test]
    fn a_copy_is_kept_whenever_the_receiver_is_killed() {
        for stages in 0..3 {
            let (right, mut custody, lent) = lent();
            right.send(Message::new(0), Timeout::NEVER).expect("send");
            lent.receive(Timeout::NEVER).expect("receive");
            let copy = right.copy(Timeout::NEVER).expect("copy");
            copy.send(Message::new(1), Timeout::NEVER).expect("send");
            let channel = channel(&lent);
            if stages > 0 {
                let ring = channel.ring().expect("memory");
                assert!(matches!(ring.next_kept(), Ok(Next::InSocket)));
                ring.fetch(crate::channel::mark_of_packet(channel.socket()).expect("packet"));
                channel.foretell(channel.kept().expect("a keeper"));
            }
            if stages > 1 {
                socket::try_receive(channel.socket()).expect("packet");
            }
            std::mem::forget(lent);
            assert_eq!(custody.attend(), Presence::Lent);
            let (port, _) = custody.take_back().expect("take back");
            assert_eq!(ids(&port), [1]);
            assert_eq!(port.status().senders, 2);
        }
    }

    #[test]
    fn a_channel_whose_memory_is_lost_on_the_way_is_not_kept_without_it() {
        let (_right, mut custody, lent) = lent();
        let (cookie, parts) = custody.channels.iter().next().expect("a channel");
        let (cookie, record) = (*cookie, parts.record.encode());
        say(guard(&lent).as_fd(), cookie, &record, &[]).expect("send");
        assert_eq!(custody.attend(), Presence::Lent);
        assert_eq!(custody.channels(), 0);
    }

    #[test]
    fn what_is_no_channel_is_not_kept() {
        let (_right, mut custody, lent) = lent();
        let (stream, _other) = std::os::unix::net::UnixStream::pair().expect("pair");
        let cookie = socket_cookie(&stream).expect("cookie");
        let record = MovedChannel {
            badge: 0,
            once: false,
            is_known: false,
            memory: None,
        };
        let guard = guard(&lent);
        say(guard.as_fd(), cookie, &record.encode(), &[stream.as_fd()]).expect("send");
        say(guard.as_fd(), 1, &[7; 100], &[]).expect("send");
        say(guard.as_fd(), cookie, &record.encode(), &[stream.as_fd()]).expect("send");
        assert_eq!(custody.attend(), Presence::Lent);
        assert_eq!(custody.channels(), 1);
    }

    #[test]
    fn whoever_has_the_guard_too_does_not_hold_the_keeper_up() {
        let (_right, custody, lent) = lent();
        let guard = guard(&lent);
        std::thread::scope(|scope| {
            // Enough that it never finds nothing.
            for _ in 0..4 {
                scope.spawn(|| {
                    let say = || say(guard.as_fd(), 1, &[], &[]);
                    while !matches!(say(), Err(Refusal::Closed)) {}
                });
            }
            custody.take_back().expect("take back");
        });
    }

    #[test]
    fn a_keeper_that_makes_channels_for_ever_does_not_hold_the_receiver_up() {
        let (right, custody, lent) = lent();
        let guard = custody.guard.try_clone().expect("duplicate");
        let record = MovedChannel {
            badge: 0,
            once: false,
            is_known: false,
            memory: None,
        };
        let (end, _other) = socket::pair().expect("pair");
        let flood = || {
            let record = record.encode();
            let slices = [IoSlice::new(&record)];
            let fds = [end.as_fd()];
            while !matches!(
                socket::send_slices(guard.as_fd(), &slices, &fds),
                Err(Refusal::Closed)
            ) {}
        };
        std::thread::scope(|scope| {
            // Enough that the receiver never finds nothing.
            (0..4).for_each(|_| drop(scope.spawn(flood)));
            for id in 0..100 {
                right.send(Message::new(id), Timeout::NEVER).expect("send");
                assert_eq!(lent.receive(Timeout::NEVER).expect("message").id(), id);
            }
            drop(lent);
        });
        drop(custody);
    }

    #[test]
    fn rights_that_come_and_go_take_no_descriptors_of_the_keeper() {
        let (_right, mut custody, _lent) = lent();
        for _ in 0..10 * PRUNE_AT {
            drop(custody.make_send(0).expect("right"));
        }
        let left = custody.make_send(0).expect("right");
        left.send(Message::new(1), Timeout::NEVER).expect("send");
        drop(left);
        assert!(custody.channels() <= PRUNE_AT + 1);
        custody.prune();
        assert_eq!(custody.channels(), 2, "what was sent is kept");
    }
}
