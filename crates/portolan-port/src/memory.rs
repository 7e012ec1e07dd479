//! The holder's way from the socket to shared memory.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, TryLockError};

use portolan_wire::packet::{Kind, RecordKind};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::ring_end::{Next, RingEnd};
use crate::socket::{self, Nothing, Outgoing};
use crate::timeout::Deadline;

/// Messages after which memory is offered: a right that is used a few times is not worth it.
const OFFER_AFTER: u32 = 3;

/// Memory that the holder of a right shares with the port, or will.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    stage: AtomicU8,
    sent: AtomicU32,
    offer: OnceLock<Box<Offer>>,
    /// Read by whoever sends, written while the channel changes from the socket to memory.
    mode: RwLock<()>,
}

#[derive(Debug)]
struct Offer {
    ring: RingEnd,
    events: Events,
}

/// The socket, and nothing has been offered.
const SOCKET: u8 = 0;
/// The socket, and the port has been offered memory.
const OFFERED: u8 = 1;
/// The socket, and the port has accepted the memory.
const ACCEPTED: u8 = 2;
/// Memory.
const RING: u8 = 3;
/// The socket for ever: the port's answer is not waited for, or the descriptor was given away.
const PINNED: u8 = 4;

impl Memory {
    /// The memory, if everything goes through it.
    pub(crate) fn ring(&self) -> Option<&RingEnd> {
        match self.stage.load(Ordering::Acquire) {
            RING => self.offer.get().map(|offer| &offer.ring),
            _ => None,
        }
    }

    /// What to sleep on once everything goes through memory.
    pub(crate) fn events(&self) -> Option<&Events> {
        match self.stage.load(Ordering::Acquire) {
            RING => self.offer.get().map(|offer| &offer.events),
            _ => None,
        }
    }

    /// Keeps the flavour as it is while something is being sent.
    pub(crate) fn stay(&self) -> RwLockReadGuard<'_, ()> {
        self.mode.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message is about to be sent: the next step towards memory, if it is time for it.
    pub(crate) fn advance(&self, socket: BorrowedFd<'_>) {
        match self.stage.load(Ordering::Acquire) {
            SOCKET if self.sent.fetch_add(1, Ordering::Relaxed) == OFFER_AFTER => {
                // Without descriptors or memory to offer, the socket does.
                let stage = if self.offer(socket).is_ok() {
                    OFFERED
                } else {
                    PINNED
                };
                self.change(SOCKET, stage);
            }
            OFFERED | ACCEPTED if self.is_answered() => self.switch(socket),
            _ => {}
        }
    }

    fn is_answered(&self) -> bool {
        let accepted = self.stage.load(Ordering::Acquire) == ACCEPTED;
        accepted || self.offer.get().is_some_and(|offer| offer.ring.is_ready())
    }

    fn change(&self, from: u8, to: u8) {
        let order = (Ordering::AcqRel, Ordering::Relaxed);
        // Somebody else was first, and then their choice stands.
        self.stage.compare_exchange(from, to, order.0, order.1).ok();
    }

    fn offer(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let ring = RingEnd::create()?;
        let events = Events::new(socket, &ring)?;
        let fds = ring.offer();
        let packet = Outgoing {
            fds: &fds,
            ..Outgoing::control(Kind::Promote, 0)
        };
        socket::try_send(socket, &packet).map_err(|_| io::ErrorKind::WouldBlock)?;
        self.offer
            .set(Box::new(Offer { ring, events }))
            .map_err(|_| io::ErrorKind::AlreadyExists.into())
    }

    /// Goes over to memory if the port has accepted it. With somebody else sending, or without
    /// room for the packet that says so, the next message is early enough.
    fn switch(&self, socket: BorrowedFd<'_>) {
        let _mode = match self.mode.try_write() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if self.stage.load(Ordering::Acquire) == OFFERED {
            self.look_for_acceptance();
        }
        let accepted = self.stage.load(Ordering::Acquire) == ACCEPTED;
        if accepted && socket::try_send(socket, &Outgoing::control(Kind::Switch, 0)).is_ok() {
            self.change(ACCEPTED, RING);
        }
    }

    /// Only while nobody goes over: after that, the first record may be an answer.
    fn look_for_acceptance(&self) {
        let Some(offer) = self.offer.get() else {
            return;
        };
        match offer.ring.next() {
            Ok(Next::Control(RecordKind::Accept)) => self.change(OFFERED, ACCEPTED),
            Err(Nothing::Empty) => {}
            _ => self.change(OFFERED, PINNED),
        }
    }

    /// The descriptor to wait for from outside. It must not change once it was given away.
    pub(crate) fn descriptor<'a>(&'a self, socket: BorrowedFd<'a>) -> BorrowedFd<'a> {
        let _mode = self.stay();
        self.change(SOCKET, PINNED);
        self.change(OFFERED, PINNED);
        self.change(ACCEPTED, PINNED);
        match self.events() {
            Some(events) => events.epoll.as_fd(),
            None => socket,
        }
    }
}

/// The bell and the socket of a right, to sleep on.
#[derive(Debug)]
pub(crate) struct Events {
    epoll: OwnedFd,
    /// Somebody outside waits for the descriptor, and so must be told of everything through it.
    polled: AtomicBool,
}

impl Events {
    fn new(socket: BorrowedFd<'_>, ring: &RingEnd) -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        // Each ring and each packet is an event of its own, so nothing has to be reset.
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&epoll, socket, EventData::new_u64(SOCKET_EVENT), flags)?;
        epoll::add(&epoll, ring.bell(), EventData::new_u64(BELL_EVENT), flags)?;
        let polled = AtomicBool::new(false);
        Ok(Self { epoll, polled })
    }

    /// Notes that somebody outside waits for the descriptor. False if that was known.
    pub(crate) fn poll_from_outside(&self) -> bool {
        !self.polled.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn are_polled(&self) -> bool {
        self.polled.load(Ordering::Relaxed)
    }

    /// Sleeps until something happens.
    pub(crate) fn wait(&self, deadline: Deadline) -> Result<Woken, Errno> {
        let mut buffer = [MaybeUninit::<Event>::uninit(); 2];
        loop {
            match epoll::wait(&self.epoll, &mut buffer, deadline.timespec().as_ref()) {
                Ok(([], _)) => return Ok(Woken::TooLate),
                Ok((events, _)) if events.iter().any(|event| event.data.u64() == SOCKET_EVENT) => {
                    return Ok(Woken::BySocket);
                }
                Ok(_) => return Ok(Woken::ByBell),
                Err(Errno::INTR) => {}
                Err(other) => return Err(other),
            }
        }
    }
}

const SOCKET_EVENT: u64 = 0;
const BELL_EVENT: u64 = 1;

/// What ended a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    ByBell,
    BySocket,
    /// The deadline passed first.
    TooLate,
}
