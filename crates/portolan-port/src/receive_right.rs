//! The port: the right to receive.

mod keeping;
mod outlook;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use portolan_wire::moved::MovedChannel;
use portolan_wire::port_id::PortId;
use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use crate::ahead::Ahead;
use crate::batch::ReceiveBatch;
use crate::channel::{Channel, Event, Read, Watch, lock};
use crate::error::{CreateError, MintError, ReceiveError, SendErrorKind};
use crate::kept::Keep;
use crate::message::{Message, Notification, Origin};
use crate::ring_end::RingEnd;
use crate::send_once::SendOnceRight;
use crate::send_right::SendRight;
use crate::socket::{self, Refusal};
use crate::timeout::{Deadline, Timeout};
use crate::wait::{Spinner, Spun, WaitPolicy, Whereabouts};

use keeping::{heed_ledger, let_die};
pub use outlook::Head;
pub(crate) use outlook::digest;

/// A port, owned: the right to receive what is sent to it.
///
/// There is one for each port. Sending it in a message moves the port with everything queued at
/// it; its senders notice nothing. Dropping it kills the port: unread messages are destroyed, the
/// rights in them released, senders get dead names, and whoever waits for an answer is told.
/// Requests that were already received can still be answered.
///
/// The descriptor of [`AsFd`] is readable when [`receive`](Self::receive) may find something;
/// poll it, then receive with [`Timeout::POLL`] until that times out.
pub struct ReceiveRight {
    port: Arc<Port>,
}

/// Numbers of a port, after `mach_port_status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortStatus {
    /// Send rights made by the receiver since the right was made or moved.
    pub make_send_count: u32,
    /// Messages received since then.
    pub sequence: u64,
    /// Send rights that exist, as far as the port has been told: one for each channel that has
    /// not hung up.
    pub senders: usize,
    /// Send-once rights that exist and have their own channel.
    pub send_once: usize,
}

impl ReceiveRight {
    /// Makes a port.
    ///
    /// # Errors
    ///
    /// [`CreateError`] if the kernel has no more descriptors for this process.
    pub fn new() -> Result<Self, CreateError> {
        Self::with_channels(random_id()?, Vec::new(), None)
    }

    /// A port that came in a message, with what leads to its keeper if it has one.
    pub(crate) fn arrived(
        id: PortId,
        channels: Vec<Channel>,
        keep: Option<Keep>,
    ) -> Result<Self, CreateError> {
        if let Some(ledger) = keep.as_ref().and_then(Keep::ledger) {
            heed_ledger(&channels, ledger)?;
        }
        Self::with_keep(id, channels, keep.map(Arc::new))
    }

    /// A port that was received from before.
    pub(crate) fn with_keep(
        id: PortId,
        channels: Vec<Channel>,
        keep: Option<Arc<Keep>>,
    ) -> Result<Self, CreateError> {
        // Whoever the former owner said they are, the kernel says it again to the new one.
        for channel in channels.iter().filter(|channel| !channel.is_once()) {
            socket::ask_for_identity(channel.socket())?;
        }
        Self::with_channels(id, channels, keep)
    }

    fn with_channels(
        id: PortId,
        channels: Vec<Channel>,
        keep: Option<Arc<Keep>>,
    ) -> Result<Self, CreateError> {
        let mut channels = channels.into_iter();
        let epoll = match epoll::create(CreateFlags::CLOEXEC) {
            Ok(epoll) => epoll,
            Err(errno) => {
                channels.for_each(|channel| let_die(&channel, keep.as_ref()));
                return Err(errno.into());
            }
        };
        let port = Port {
            id,
            epoch: portolan_sys::fork::epoch(),
            epoll: Arc::new(epoll),
            moving: RwLock::new(()),
            state: Mutex::default(),
            hot: Mutex::default(),
            spinner: Spinner::default(),
            has_notifications: AtomicBool::new(false),
            polled: AtomicBool::new(false),
            sleepers: AtomicU32::new(0),
            keep,
            received: AtomicU64::new(0),
        };
        let right = Self {
            port: Arc::new(port),
        };
        let added = channels.try_for_each(|channel| right.port.add_known(channel).map(drop));
        if let Err(errno) = added.and_then(|()| right.port.watch_guard()) {
            // Those that are there already die with the port, or go back to its keeper with it.
            channels.for_each(|channel| let_die(&channel, right.port.keep()));
            return Err(errno.into());
        }
        Ok(right)
    }

    /// What tells this port from others.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.port.id
    }

    /// Makes a send right to this port (`MACH_MSG_TYPE_MAKE_SEND`).
    ///
    /// # Errors
    ///
    /// [`MintError`]
    pub fn make_send(&self) -> Result<SendRight, MintError> {
        self.make_send_badged(0)
    }

    /// Makes a send right to this port that carries a number of the receiver's choice.
    ///
    /// Every message that comes through the right, or through a right copied from it, has this
    /// [`badge`](Message::badge). Nobody but the receiver chooses it, so it tells which right was
    /// used whatever process holds it now.
    ///
    /// # Errors
    ///
    /// [`MintError`]
    pub fn make_send_badged(&self, badge: u64) -> Result<SendRight, MintError> {
        let ends = self.mint(badge, false)?;
        let mut state = lock(&self.port.state);
        state.make_send_count = state.make_send_count.wrapping_add(1);
        Ok(SendRight::from_end(ends, self.id()))
    }

    /// Makes a send-once right to this port (`MACH_MSG_TYPE_MAKE_SEND_ONCE`).
    ///
    /// Exactly one message comes of it: the one sent with it, or [`Notification::SendOnce`].
    ///
    /// # Errors
    ///
    /// [`MintError`]
    pub fn make_send_once(&self) -> Result<SendOnceRight, MintError> {
        Ok(SendOnceRight::from_end(self.mint(0, true)?, self.id()))
    }

    fn mint(&self, badge: u64, once: bool) -> Result<OwnedFd, MintError> {
        self.port
            .check_process()
            .map_err(|()| MintError::ForeignProcess)?;
        let ends = match once {
            true => socket::channel_for_one()?,
            false => socket::channel()?,
        };
        self.port.add(Channel::new(ends.receiver, badge, once))?;
        Ok(ends.holder)
    }

    /// Takes an accepted `SOCK_SEQPACKET` Unix connection as a channel to this port.
    ///
    /// Messages that come on it have this badge. The other end is made into a right with
    /// [`SendRight::from_socket`].
    ///
    /// # Errors
    ///
    /// [`MintError::NotAChannel`] if the socket is of another kind or not connected.
    pub fn adopt(&self, socket: OwnedFd, badge: u64) -> Result<(), MintError> {
        self.port
            .check_process()
            .map_err(|()| MintError::ForeignProcess)?;
        if !socket::is_channel_end(&socket) {
            return Err(MintError::NotAChannel);
        }
        socket::ask_for_identity(&socket)?;
        Ok(self.port.add(Channel::new(socket, badge, false))?)
    }

    /// Receives the next message, waiting for one if there is none.
    ///
    /// Messages of one sender come in the order they were sent; senders take turns. Any number of
    /// threads may receive from one port.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::TimedOut`] if none came in time.
    pub fn receive(&self, timeout: impl Into<Timeout>) -> Result<Message, ReceiveError> {
        let mut message = Message::new(0);
        if self.port.take_from_memory(&mut message)? {
            return Ok(message);
        }
        let deadline = timeout.into().deadline();
        let mut patience = MAX_STEPS_WHEN_LATE;
        loop {
            if self.port.take_from_memory(&mut message)? {
                return Ok(message);
            }
            match self.port.step(deadline)? {
                Step::Message(message) => return Ok(message),
                Step::Nothing => return Err(ReceiveError::TimedOut),
                Step::Other if deadline.has_passed() => patience -= 1,
                Step::Other => {}
            }
            if patience == 0 {
                self.port.settle_for_others();
                return Err(ReceiveError::TimedOut);
            }
        }
    }

    /// Receives what one sender has published, several messages at once if they are nothing but
    /// bytes, waiting for one if there is none. What the batch held before is forgotten.
    ///
    /// Gives the number of messages, at least 1. How many come together depends on chance; 64 KiB at
    /// most.
    ///
    /// # Errors
    ///
    /// [`ReceiveError::TimedOut`] if none came in time.
    pub fn receive_batch(
        &self,
        batch: &mut ReceiveBatch,
        timeout: impl Into<Timeout>,
    ) -> Result<u64, ReceiveError> {
        let deadline = timeout.into().deadline();
        let mut patience = MAX_STEPS_WHEN_LATE;
        while patience > 0 {
            let count = self.port.take_batch(batch)?;
            if count > 0 {
                return Ok(count);
            }
            match self.port.step(deadline)? {
                Step::Message(message) => {
                    batch.hold(message);
                    return Ok(1);
                }
                Step::Nothing => return Err(ReceiveError::TimedOut),
                Step::Other if deadline.has_passed() => patience -= 1,
                Step::Other => {}
            }
        }
        self.port.settle_for_others();
        Err(ReceiveError::TimedOut)
    }

    /// Asks for one [`Notification::NoSenders`] when no send right to this port is left
    /// (`MACH_NOTIFY_NO_SENDERS`).
    ///
    /// It comes at once if there is none now and the receiver has made at least `sync`. Pass 1 to
    /// wait for the first right to be made, or the last
    /// [`make_send_count`](PortStatus::make_send_count) that was seen. Asking again after it came
    /// arms it again. Send-once rights do not count. In a forked child this does nothing.
    pub fn request_no_senders(&self, sync: u32) {
        if self.port.check_process().is_err() {
            return;
        }
        let mut state = lock(&self.port.state);
        if state.senders == 0 && sync <= state.make_send_count {
            let make_send_count = state.make_send_count;
            self.port
                .notify(&mut state, Notification::NoSenders { make_send_count });
        } else {
            state.no_senders_wanted = true;
        }
    }

    /// Numbers of this port; in a forked child, whose port it is not, all are 0.
    #[must_use]
    pub fn status(&self) -> PortStatus {
        if self.port.check_process().is_err() {
            return PortStatus::default();
        }
        let sequence = lock(&self.port.hot).sequence;
        let state = lock(&self.port.state);
        PortStatus {
            make_send_count: state.make_send_count,
            sequence,
            senders: state.senders,
            send_once: state.channels.len() - state.senders,
        }
    }

    pub(crate) fn port(&self) -> &Arc<Port> {
        &self.port
    }

    /// Stops receiving, also through port sets, and gives the channels that are to move.
    pub(crate) fn pause(&self) -> Result<Vec<(Arc<Channel>, MovedChannel)>, SendErrorKind> {
        self.port
            .check_process()
            .map_err(|()| SendErrorKind::ForeignProcess)?;
        let _moving = self
            .port
            .moving
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // Held until the end: a thread that looks at memory asks for nothing else.
        let mut hot = self.port.hot();
        hot.channels.clear();
        if let Some(keep) = self.port.keep() {
            // The next owner knows of no channel that the keeper does not.
            keep.tell_untold().ok();
        }
        self.port.ignore_guard();
        let mut state = lock(&self.port.state);
        state.held = true;
        let channels = std::mem::take(&mut state.channels);
        for (token, channel) in channels {
            channel.stop_watching();
            let record = channel.depart();
            state.paused.push((token, channel, record));
        }
        Ok(state
            .paused
            .iter()
            .map(|(_, channel, record)| (Arc::clone(channel), *record))
            .collect())
    }

    /// What leads to the keeper of the port, if it is lent.
    pub(crate) fn keep(&self) -> Option<&Arc<Keep>> {
        self.port.keep().filter(|keep| keep.guard().is_some())
    }

    /// Takes up receiving again after [`pause`](Self::pause), since the port did not move.
    pub(crate) fn resume(&self) {
        let paused = self.watch_paused();
        // Answers may have been put aside before and meanwhile.
        paused.iter().for_each(|channel| channel.flush());
    }

    fn watch_paused(&self) -> Vec<Arc<Channel>> {
        // A thread of a port set must not take a packet that changes what is watched (an offer of
        // memory has a bell) from a channel of which only the half is watched.
        let _moving = self
            .port
            .moving
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut state = lock(&self.port.state);
        state.held = false;
        let paused = std::mem::take(&mut state.paused);
        for (token, channel, _) in &paused {
            channel.stay();
            state.channels.insert(*token, Arc::clone(channel));
        }
        drop(state);
        // It was watched before.
        self.port.watch_guard().ok();
        let watch = |(token, channel, _)| self.watch_again(token, channel);
        paused.into_iter().map(watch).collect()
    }

    fn watch_again(&self, token: u64, channel: Arc<Channel>) -> Arc<Channel> {
        let epoll = Arc::clone(&self.port.epoll);
        let kept = channel.kept().cloned();
        let watch = Watch { epoll, token, kept };
        if channel.start_watching(watch).is_err() {
            // The set had room for it a moment ago. Its sender is not to wait in vain.
            self.port.hang_up(token, &channel);
        }
        channel
    }

    /// Lets go of a paused port without killing it, because it lives elsewhere now.
    pub(crate) fn forget(self) {
        self.let_go();
    }

    /// Lets go of a port that somebody keeps.
    fn give_back(&self, keep: &Keep) {
        let is_gone = lock(&self.port.state).gone;
        // What is owed here is answered through the sockets from now on.
        if !is_gone && self.pause().is_ok() {
            self.let_go();
            keep.give_back();
        }
    }

    fn let_go(&self) {
        let mut state = lock(&self.port.state);
        state.gone = true;
        state.paused.clear();
        self.port.silence(&mut state);
    }

    /// Chooses how [`receive`](Self::receive) waits for senders that share memory with the port.
    pub fn set_wait_policy(&self, policy: WaitPolicy) {
        self.port.spinner.set_policy(policy);
    }
}

impl AsFd for ReceiveRight {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.port.poll_from_outside();
        self.port.epoll.as_fd()
    }
}

impl Drop for ReceiveRight {
    fn drop(&mut self) {
        if self.port.check_process().is_err() {
            return;
        }
        match self.keep().filter(|keep| keep.is_returnable()) {
            Some(keep) => self.give_back(keep),
            None => self.port.kill(),
        }
    }
}

impl fmt::Debug for ReceiveRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveRight")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// Once a deadline has passed, packets that are not messages are still taken, but not for ever:
/// a peer could keep them coming.
pub(crate) const MAX_STEPS_WHEN_LATE: u32 = 1024;

/// Channels whose memory is looked at without being told to.
const MAX_HOT: usize = 16;

/// After so many messages from memory, everything else gets its turn, unless it had one just now.
const LOOK_ELSEWHERE_AFTER: u32 = 16;

/// The most bytes of messages that are received together.
const BATCH_BYTES: usize = 64 << 10;

/// How long after its last turn everything else gets the next.
const LOOK_ELSEWHERE_EVERY: Duration = Duration::from_micros(20);

/// What a receive right owns, shared with the port sets it is in.
pub(crate) struct Port {
    pub(crate) id: PortId,
    epoch: u64,
    epoll: Arc<OwnedFd>,
    /// Read by whoever takes packets from channels, written while the channels change hands.
    moving: RwLock<()>,
    state: Mutex<State>,
    hot: Mutex<Hot>,
    spinner: Spinner,
    has_notifications: AtomicBool,
    /// Somebody waits for the descriptor, and so must be told of everything through it.
    polled: AtomicBool,
    /// Threads that wait in epoll, and so must be told of everything through it as well.
    sleepers: AtomicU32,
    keep: Option<Arc<Keep>>,
    /// Messages that former receivers were handed, as far as the keeper knows.
    received: AtomicU64,
}

#[derive(Default)]
struct State {
    channels: HashMap<u64, Arc<Channel>>,
    /// Those that are not received from because the port is about to move.
    paused: Vec<(u64, Arc<Channel>, MovedChannel)>,
    last_token: u64,
    senders: usize,
    make_send_count: u32,
    no_senders_wanted: bool,
    notifications: VecDeque<Notification>,
    /// Readable while there are notifications; made for the first.
    bell: Option<OwnedFd>,
    /// The port is about to move.
    held: bool,
    /// The port has been killed or has moved.
    gone: bool,
}

/// Channels with memory whose senders were active last. Senders that are not here ring the bell.
#[derive(Default)]
struct Hot {
    channels: Vec<(u64, Arc<Channel>)>,
    /// Where to look first, so that senders take turns.
    next: usize,
    /// What has been taken from one of them and not been received.
    ahead: Ahead,
    /// Messages since the clock was looked at, and when everything else was.
    in_a_row: u32,
    looked: Option<Instant>,
    /// Messages received from the port, wherever they came from.
    sequence: u64,
    /// Nobody waits for an answer to the last message from memory.
    is_stream: bool,
}

/// What one look at a port brought.
pub(crate) enum Step {
    Message(Message),
    /// Something happened that is not a message.
    Other,
    /// Nothing happened before the deadline.
    Nothing,
}

impl Port {
    pub(crate) fn check_process(&self) -> Result<(), ()> {
        if self.epoch == portolan_sys::fork::epoch() {
            Ok(())
        } else {
            Err(())
        }
    }

    /// From now on, the descriptor is readable whenever there may be something.
    pub(crate) fn poll_from_outside(&self) {
        if self.check_process().is_ok() && !self.polled.swap(true, Ordering::Relaxed) {
            self.settle();
        }
    }

    /// Takes one packet or notification, waiting for it until the deadline.
    pub(crate) fn step(&self, deadline: Deadline) -> Result<Step, ReceiveError> {
        let step = self.step_unsettled(deadline)?;
        let comes_again = matches!(step, Step::Other) && !matches!(deadline, Deadline::Passed);
        if !comes_again {
            self.settle_for_others();
        }
        Ok(step)
    }

    /// This thread may not come back, and whoever waits for the epoll instance looks at no memory.
    fn settle_for_others(&self) {
        if self.others_are_told() {
            self.settle();
        }
    }

    fn others_are_told(&self) -> bool {
        self.polled.load(Ordering::Relaxed) || self.sleepers.load(Ordering::Relaxed) > 0
    }

    fn step_unsettled(&self, deadline: Deadline) -> Result<Step, ReceiveError> {
        self.check_process()
            .map_err(|()| ReceiveError::ForeignProcess)?;
        if self.has_notifications.load(Ordering::Relaxed)
            && let Some(message) = self.take_notification()
        {
            return Ok(Step::Message(message));
        }
        match self.look_at_memory(deadline) {
            Look::Found(step) => Ok(step),
            Look::Elsewhere => self.look_at_epoll(Deadline::Passed).map(|step| match step {
                Step::Nothing => Step::Other,
                other => other,
            }),
            Look::Wait { since } => {
                let step = self.sleep(deadline);
                if let Some(since) = since {
                    self.spinner.slept(since);
                }
                step
            }
        }
    }

    /// The channels that are looked at, with nothing taken from them ahead of its turn.
    fn hot(&self) -> MutexGuard<'_, Hot> {
        let mut hot = lock(&self.hot);
        hot.ahead.put_back();
        hot
    }

    fn may_take_from_memory(&self) -> Result<bool, ReceiveError> {
        self.check_process()
            .map_err(|()| ReceiveError::ForeignProcess)?;
        Ok(!self.has_notifications.load(Ordering::Relaxed) && !self.others_are_told())
    }

    /// Makes `message`, which is empty, the next message, if that lies in memory and nothing else is
    /// due. False if not.
    #[inline]
    fn take_from_memory(&self, message: &mut Message) -> Result<bool, ReceiveError> {
        if !self.may_take_from_memory()? {
            return Ok(false);
        }
        // Another thread may hold this while it waits, which one that polls does not.
        let Some(mut hot) = try_lock(&self.hot) else {
            return Ok(false);
        };
        if hot.ahead.is_empty() {
            self.let_gather(&hot);
        }
        if hot.is_elsewhere_due() || !hot.load_ahead() || !hot.ahead.pop(message) {
            return Ok(false);
        }
        hot.in_a_row += 1;
        hot.is_stream = message.reply.is_none();
        message.sequence = hot.next_sequence();
        self.count_received(1);
        Ok(true)
    }

    /// Leaves senders alone for a moment who do not wait for answers.
    fn let_gather(&self, hot: &Hot) {
        if hot.is_stream {
            self.spinner.let_gather(hot.meet());
        }
    }

    /// As many plain messages as lie next in one sender's memory, if nothing else is due. Gives their
    /// number.
    fn take_batch(&self, batch: &mut ReceiveBatch) -> Result<u64, ReceiveError> {
        let records = batch.empty();
        if !self.may_take_from_memory()? {
            return Ok(0);
        }
        let mut hot = self.hot();
        self.let_gather(&hot);
        let Some(at) = hot.ready().filter(|_| !hot.is_elsewhere_due()) else {
            return Ok(0);
        };
        let Some((_, channel)) = hot.channels.get(at).cloned() else {
            return Ok(0);
        };
        let Some((origin, position)) = channel.take_run(records, BATCH_BYTES) else {
            return Ok(0);
        };
        let (count, kept) = batch.keep_plain(origin, hot.sequence);
        let position = position.wrapping_add(kept as u64);
        channel.put_back(position);
        if channel.is_kept() {
            channel.keep(position);
        }
        if count > 0 {
            hot.next = at + 1;
            hot.in_a_row = LOOK_ELSEWHERE_AFTER;
            hot.is_stream = true;
            hot.sequence += count;
            self.count_received(count);
        }
        Ok(count)
    }

    fn look_at_memory(&self, deadline: Deadline) -> Look {
        let _staying = self.moving.read().unwrap_or_else(PoisonError::into_inner);
        let mut hot = match (deadline, try_lock(&self.hot)) {
            (_, Some(hot)) => hot,
            // What is in memory is received by who has it.
            (Deadline::Passed, None) => return Look::Wait { since: None },
            (_, None) => lock(&self.hot),
        };
        hot.ahead.put_back();
        if hot.channels.is_empty() {
            return Look::Wait { since: None };
        }
        if hot.is_elsewhere_due() {
            hot.look_elsewhere();
            return Look::Elsewhere;
        }
        if let Some(at) = hot.ready() {
            return Look::Found(self.read_hot(hot, at));
        }
        if matches!(deadline, Deadline::Passed) {
            return Look::Wait { since: None };
        }
        let peers = hot.meet();
        match self.spinner.spin(peers, || hot.ready().is_some()) {
            // What it is will be seen in the next step.
            Spun::Hit => Look::Found(Step::Other),
            Spun::Again => {
                hot.look_elsewhere();
                Look::Elsewhere
            }
            Spun::Sleep { since } => {
                drop(hot);
                match self.cool_down() {
                    true => Look::Wait { since },
                    false => Look::Found(Step::Other),
                }
            }
        }
    }

    fn read_hot(&self, mut hot: MutexGuard<'_, Hot>, at: usize) -> Step {
        hot.next = at + 1;
        hot.in_a_row += 1;
        let Some((token, channel)) = hot.channels.get(at).cloned() else {
            return Step::Other;
        };
        let read = self.read(&channel, &mut hot);
        if matches!(read, Read::Closed) {
            hot.channels.remove(at);
        }
        drop(hot);
        self.take(token, &channel, read)
    }

    /// Has every hot channel ring the bell from now on, unless one of them has something.
    fn cool_down(&self) -> bool {
        let mut hot = self.hot();
        let busy = hot.rings().position(|ring| !ring.prepare_to_receive());
        match busy {
            Some(at) => hot.rings().take(at).for_each(RingEnd::awake),
            None => hot.channels.clear(),
        }
        busy.is_none()
    }

    /// Has every hot channel ring the bell from now on. What is there already rings at once.
    fn settle(&self) {
        let mut hot = self.hot();
        hot.rings()
            .filter(|ring| !ring.prepare_to_receive())
            .for_each(RingEnd::ring_own);
        hot.channels.clear();
    }

    /// Has the memory of a channel looked at, in the place of another's if there are many.
    fn heat(&self, token: u64, channel: &Arc<Channel>) {
        let mut hot = self.hot();
        if hot.channels.iter().any(|(known, _)| *known == token) {
            return;
        }
        if hot.channels.len() >= MAX_HOT {
            let (_, oldest) = hot.channels.remove(0);
            if oldest.ring().is_some_and(|ring| !ring.prepare_to_receive()) {
                oldest.ring().into_iter().for_each(RingEnd::ring_own);
            }
        }
        if let Some(ring) = channel.ring() {
            ring.awake();
        }
        hot.channels.push((token, Arc::clone(channel)));
    }

    /// Waits in epoll for every sender. Other threads are told first, and a channel that is hot all
    /// the same was made so by one that may not know.
    fn sleep(&self, deadline: Deadline) -> Result<Step, ReceiveError> {
        if matches!(deadline, Deadline::Passed) {
            return self.look_at_epoll(deadline);
        }
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        let all_ring = lock(&self.hot).channels.is_empty();
        let step = match all_ring {
            true => self.look_at_epoll(deadline),
            false => Ok(Step::Other),
        };
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        step
    }

    fn look_at_epoll(&self, deadline: Deadline) -> Result<Step, ReceiveError> {
        let Some((event, flags)) = self.wait(deadline.timespec())? else {
            return Ok(if deadline.has_passed() {
                Step::Nothing
            } else {
                Step::Other
            });
        };
        let _staying = self.moving.read().unwrap_or_else(PoisonError::into_inner);
        let Some((token, channel)) = self.channel_of(event, flags) else {
            return Ok(Step::Other);
        };
        if channel.ring().is_none() {
            return Ok(self.read_one(token, &channel));
        }
        // Read among the hot ones, so that it does not get in between what was taken in a run.
        let hot = self.hot();
        let at = hot.channels.iter().position(|(known, _)| *known == token);
        Ok(at.map_or(Step::Other, |at| self.read_hot(hot, at)))
    }

    fn wait(&self, timeout: Option<Timespec>) -> Result<Option<(Event, EventFlags)>, Errno> {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 1];
        match epoll::wait(&*self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => Ok(events
                .first()
                .map(|event| (Event::from_data(event.data), event.flags))),
            Err(Errno::INTR) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// The channel that an event is about, with the rest of what the event says seen to. One with memory
    /// is hot then.
    fn channel_of(&self, event: Event, flags: EventFlags) -> Option<(u64, Arc<Channel>)> {
        if event == Event::Guard {
            self.attend_to_keeper(flags);
        }
        let (Event::Socket(token) | Event::Bell(token)) = event else {
            return None;
        };
        let channel = lock(&self.state).channels.get(&token).cloned()?;
        if flags.contains(EventFlags::OUT) {
            channel.flush_socket();
        }
        if channel.ring().is_some() {
            if flags.contains(EventFlags::HUP) {
                channel.note_hang_up();
            }
            if matches!(event, Event::Bell(_)) {
                channel.ring().into_iter().for_each(RingEnd::hear);
                channel.flush();
            }
            self.heat(token, &channel);
        }
        Some((token, channel))
    }

    fn read_one(&self, token: u64, channel: &Arc<Channel>) -> Step {
        let read = self.read(channel, &mut self.hot());
        self.take(token, channel, read)
    }

    /// Reads from a channel, and numbers what came before another thread can take what follows.
    fn read(&self, channel: &Arc<Channel>, hot: &mut Hot) -> Read {
        // Without descriptors for another sender, the new right is dead from the start.
        let mut read = channel.read(self.id, |minted| {
            self.add(minted).ok();
        });
        if let Read::Message(message) = &mut read {
            message.sequence = hot.next_sequence();
            self.count_received(1);
        }
        read
    }

    fn take(&self, token: u64, channel: &Arc<Channel>, read: Read) -> Step {
        match read {
            Read::Message(message) => {
                if channel.is_once() {
                    self.remove(token);
                }
                return Step::Message(message);
            }
            Read::Promoted => self.heat(token, channel),
            Read::Other | Read::Empty => {}
            Read::Closed => self.hang_up(token, channel),
        }
        Step::Other
    }

    pub(crate) fn keep(&self) -> Option<&Arc<Keep>> {
        self.keep.as_ref()
    }

    /// Has the port told of room in the guard while there is something that the keeper has not heard.
    fn wait_for_keeper(&self, keep: &Keep) {
        if matches!(keep.tell_untold(), Err(Refusal::Full(_))) {
            self.set_guard_events(keep, EventFlags::IN | EventFlags::OUT);
        }
    }

    fn set_guard_events(&self, keep: &Keep, flags: EventFlags) {
        if let Some(guard) = keep.guard() {
            // Fails if it is not watched any more.
            epoll::modify(&*self.epoll, guard, Event::Guard.data(), flags).ok();
        }
    }

    fn attend_to_keeper(&self, flags: EventFlags) {
        let Some(keep) = self.keep() else { return };
        if flags.contains(EventFlags::OUT) {
            self.set_guard_events(keep, EventFlags::IN);
            self.wait_for_keeper(keep);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP) {
            self.take_made_channels();
        }
    }

    /// Puts a channel among those that are received from.
    fn add(&self, channel: Channel) -> Result<(), Errno> {
        let kept = self.kept(&channel)?;
        let added = self.add_known(channel);
        match (&added, &kept) {
            // It may have been told of it before it came, and must not keep what nobody looks at.
            (Err(_), Some(kept)) => kept.keep.tell_gone(kept.cookie),
            (Ok(channel), Some(kept)) if kept.keep.guard().is_some() && !channel.is_foretold() => {
                kept.keep.tell_come(kept.cookie, channel);
            }
            _ => {}
        }
        if let Some(kept) = kept {
            self.wait_for_keeper(&kept.keep);
        }
        added.map(drop)
    }

    /// The same for a channel that the keeper has. One in this process is told what it has.
    fn add_known(&self, channel: Channel) -> Result<Arc<Channel>, Errno> {
        let channel = Arc::new(channel);
        self.try_add(&channel)
            .inspect_err(|_| let_die(&channel, self.keep()))?;
        Ok(channel)
    }

    fn try_add(&self, channel: &Arc<Channel>) -> Result<(), Errno> {
        let kept = self.kept(channel)?;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.keep.guard().is_none()) {
            kept.keep.tell_come(kept.cookie, channel);
        }
        let mut state = lock(&self.state);
        state.last_token += 1;
        let token = state.last_token;
        channel.start_watching(Watch {
            epoll: Arc::clone(&self.epoll),
            token,
            kept,
        })?;
        state.senders += usize::from(!channel.is_once());
        state.channels.insert(token, Arc::clone(channel));
        Ok(())
    }

    fn hang_up(&self, token: u64, channel: &Channel) {
        channel.close();
        // Of several threads that saw it hang up, one tells.
        if self.remove(token) && channel.is_once() {
            self.notify(&mut lock(&self.state), Notification::SendOnce);
        }
    }

    /// Lets go of a channel; false if that has been done.
    fn remove(&self, token: u64) -> bool {
        let mut hot = lock(&self.hot);
        hot.ahead.discard(token);
        hot.channels.retain(|(known, _)| *known != token);
        drop(hot);
        let mut state = lock(&self.state);
        let Some(channel) = state.channels.remove(&token) else {
            return false;
        };
        channel.stop_watching();
        if let Some(kept) = channel.kept() {
            kept.keep.tell_gone(kept.cookie);
            self.wait_for_keeper(&kept.keep);
        }
        if channel.is_once() {
            return true;
        }
        state.senders -= 1;
        if state.senders == 0 && state.no_senders_wanted {
            state.no_senders_wanted = false;
            let make_send_count = state.make_send_count;
            self.notify(&mut state, Notification::NoSenders { make_send_count });
        }
        true
    }

    fn notify(&self, state: &mut State, notification: Notification) {
        state.notifications.push_back(notification);
        self.has_notifications.store(true, Ordering::Relaxed);
        if state.bell.is_none() {
            state.bell = self.make_bell().ok();
        }
        if let Some(bell) = &state.bell {
            // Full only after 2^64 - 2 notifications.
            rustix::io::write(bell, &1_u64.to_ne_bytes()).ok();
        }
    }

    fn make_bell(&self) -> Result<OwnedFd, Errno> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &*self.epoll,
            &bell,
            Event::Notification.data(),
            EventFlags::IN,
        )?;
        Ok(bell)
    }

    /// Takes the bell out of the set, where it would go on ringing if a forked child had it too.
    fn silence(&self, state: &mut State) {
        if let Some(bell) = state.bell.take() {
            // It is in the set, so this cannot fail.
            epoll::delete(&self.epoll, &bell).ok();
        }
    }

    fn take_notification(&self) -> Option<Message> {
        let mut state = lock(&self.state);
        let notification = state.notifications.pop_front()?;
        if state.notifications.is_empty() {
            self.has_notifications.store(false, Ordering::Relaxed);
            if let Some(bell) = &state.bell {
                rustix::io::read(bell, &mut [0_u8; 8]).ok();
            }
        }
        // Whoever numbers a message may wait for this.
        drop(state);
        let mut message = Message::new(notification.id());
        message.sequence = self.next_sequence();
        message.origin = Some(Arc::new(Origin {
            port: self.id,
            badge: 0,
            sender: None,
            notification: Some(notification),
        }));
        Some(message)
    }

    fn next_sequence(&self) -> u64 {
        lock(&self.hot).next_sequence()
    }

    fn kill(&self) {
        let _moving = self.moving.write().unwrap_or_else(PoisonError::into_inner);
        let mut hot = lock(&self.hot);
        hot.ahead = Ahead::default();
        hot.channels.clear();
        drop(hot);
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.gone, true) {
            return;
        }
        let channels = std::mem::take(&mut state.channels);
        self.silence(&mut state);
        drop(state);
        for channel in channels.into_values() {
            channel.stop_watching();
            if let Some(kept) = channel.kept() {
                kept.keep.tell_gone(kept.cookie);
            }
            channel.port_died();
        }
    }
}

/// What looking at memory came to.
enum Look {
    Found(Step),
    /// Nothing to wait for before everything else was looked at.
    Elsewhere,
    /// Every sender rings now. If a spin came before, it began at `since`.
    Wait {
        since: Option<Instant>,
    },
}

impl Hot {
    fn rings(&self) -> impl Iterator<Item = &RingEnd> {
        self.channels
            .iter()
            .filter_map(|(_, channel)| channel.ring())
    }

    /// Sees to it that there are messages taken ahead.
    fn load_ahead(&mut self) -> bool {
        if !self.ahead.is_empty() {
            return true;
        }
        let Some(at) = self.ready() else { return false };
        self.next = at + 1;
        let is_alone = self.channels.len() == 1;
        let channel = self.channels.get(at);
        channel.is_some_and(|(token, channel)| self.ahead.load(*token, channel, is_alone))
    }

    fn next_sequence(&mut self) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        sequence
    }

    /// Whether something that is not in memory may have waited for long enough.
    fn is_elsewhere_due(&mut self) -> bool {
        if self.in_a_row < LOOK_ELSEWHERE_AFTER {
            return false;
        }
        let is_due = self
            .looked
            .is_none_or(|looked| looked.elapsed() >= LOOK_ELSEWHERE_EVERY);
        if !is_due {
            self.in_a_row = 0;
        }
        is_due
    }

    fn look_elsewhere(&mut self) {
        self.in_a_row = 0;
        self.looked = Some(Instant::now());
    }

    /// Says to all where this side runs, and finds out where they do.
    fn meet(&self) -> Whereabouts {
        let meetings = self.rings().map(RingEnd::meet);
        meetings.fold(Whereabouts::Unknown, Whereabouts::or)
    }

    /// Where something is, looked for from [`next`](Self::next) on.
    fn ready(&mut self) -> Option<usize> {
        let count = self.channels.len();
        (0..count).map(|k| (self.next + k) % count).find(|at| {
            self.channels
                .get(*at)
                .is_some_and(|(_, channel)| channel.is_ready())
        })
    }
}

/// `None` if another thread has it.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

pub(crate) fn random_id() -> Result<PortId, Errno> {
    let mut bytes = [0; 16];
    let n = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // getrandom(2): requests of up to 256 bytes are always served whole.
    debug_assert_eq!(n, bytes.len());
    Ok(PortId::from_bytes(bytes))
}
