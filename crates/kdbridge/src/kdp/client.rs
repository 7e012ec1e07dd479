//! The debugger's side of the conversation: one request at a time, the same bytes again until it is
//! answered, and a receipt for each exception.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::link::Link;
use super::packet::{Code, Exception, HEAD_BYTES, Head, Malformed, Reply, Request, Status};

/// How long the first answer is waited for; each further time it is twice as long.
const FIRST_PATIENCE: Duration = Duration::from_millis(100);

const MOST_PATIENCE: Duration = Duration::from_secs(1);

/// How often a request is sent before it is given up. If one packet in five is lost, eight tries are
/// too few: three requests in ten thousand fail.
const TRIES: u32 = 16;

/// How long a kernel is borne with that repeats an exception instead of answering: its 101 copies
/// take half a minute.
const REPETITIONS: Duration = Duration::from_secs(60);

/// How often attaching is begun anew if what follows it is not answered.
const ATTACHES: u32 = 3;

/// More than a frame of Ethernet holds, and so more than a packet.
const FRAME_BYTES: usize = 1518;

/// A request that changes nothing.
const HARMLESS: Request<'static> = Request::MaxBytes;

/// Why a request was not answered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AskError {
    /// It was sent as often as it is worth, for this long.
    #[error("no answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// Somebody does not want to wait any longer.
    #[error("told to end")]
    BrokenOff,
    /// The answer makes no sense.
    #[error("an answer that makes no sense")]
    Malformed(#[from] Malformed),
    /// The link failed.
    #[error("the link to the kernel failed")]
    Io(#[from] io::Error),
}

/// Why there is no conversation.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Nobody answered.
    #[error(
        "no kernel answered within {} ms. It answers only while it stands in its debugger and waits for \
         one: after a panic, an NMI or the power key, or at start with DB_HALT in the boot-arg `debug`. \
         That boot-arg must not be zero (`kdbridge boot-args halt,nmi,arp`), System Integrity Protection \
         must allow kernel debugging (`csrutil enable --without debug`), and on arm64 the kernel must be \
         the development or debug one: release kernels do not have KDP", .0.as_millis()
    )]
    Silent(Duration),
    /// Somebody does not want to wait any longer.
    #[error("told to end")]
    BrokenOff,
    /// It said no.
    #[error("the kernel refuses a debugger, with error {0}")]
    Refused(u32),
    /// Its processor is of another kind.
    #[error(
        "the kernel's processor has Mach's type {0:#x}; only x86-64 (0x1000007) can be debugged"
    )]
    Processor(u32),
    /// It broke the protocol.
    #[error("an answer that makes no sense")]
    Malformed(#[from] Malformed),
    /// The link failed.
    #[error("the link to the kernel failed")]
    Io(#[from] io::Error),
}

/// A conversation with a kernel.
#[derive(Debug)]
pub struct Client<L> {
    link: L,
    key: u32,
    /// The number of the next request.
    next: u8,
    /// That of the last exception.
    exception: Option<u8>,
    /// An exception that nobody has taken.
    told: Option<Exception>,
    /// The last packet that came, and how long it is.
    buffer: [u8; FRAME_BYTES],
    length: usize,
    /// Nothing is asked while this is set.
    unwanted: Option<Arc<AtomicBool>>,
}

/// A request that is being sent.
struct Pending {
    packet: Vec<u8>,
    code: Code,
    sequence: u8,
    patience: Duration,
    begun: Instant,
    due: Instant,
    tries: u32,
}

/// A request whose answer is not waited for at once.
#[derive(Debug)]
pub(super) struct Resumption(Pending);

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {} try {}", self.code, self.sequence, self.tries)
    }
}

/// What came.
enum Event {
    /// The answer to the request that is pending.
    Answer,
    /// The kernel stopped, or does not know yet that this has been heard.
    Exception,
    /// The deadline.
    Nothing,
}

impl<L: Link> Client<L> {
    /// Connects to the kernel, in the place of a debugger that is connected already: that one has
    /// mostly crashed.
    ///
    /// # Errors
    ///
    /// [`AttachError::Silent`], with what to look for, if no kernel answers.
    pub fn attach(link: L) -> Result<Self, AttachError> {
        Self::attach_heeding(link, None)
    }

    /// The same, until what is given is set.
    ///
    /// # Errors
    ///
    /// [`AttachError::BrokenOff`] then, and those of [`Client::attach`].
    pub fn attach_heeding(link: L, told: Option<Arc<AtomicBool>>) -> Result<Self, AttachError> {
        let mut client = Self {
            link,
            key: RandomState::new().build_hasher().finish() as u32,
            next: 0,
            exception: None,
            told: None,
            buffer: [0; FRAME_BYTES],
            length: 0,
            unwanted: told,
        };
        let start = client.link.now();
        let mut attempts = ATTACHES;
        loop {
            client.connect()?;
            // A copy of the request to reattach that comes late ends the conversation that it began.
            match client.ask(&HARMLESS).map(drop) {
                Ok(()) => return Ok(client),
                Err(AskError::Silent(_)) if attempts > 0 => attempts -= 1,
                Err(error) => return Err(client.attach_error(error, start)),
            }
        }
    }

    fn attach_error(&self, error: AskError, start: Instant) -> AttachError {
        match error {
            AskError::Silent(_) => AttachError::Silent(self.link.now() - start),
            AskError::BrokenOff => AttachError::BrokenOff,
            AskError::Malformed(error) => error.into(),
            AskError::Io(error) => error.into(),
        }
    }

    fn connect(&mut self) -> Result<(), AttachError> {
        let start = self.link.now();
        let port = self.link.port();
        let connect = Request::Connect {
            reply_port: port,
            exception_port: port,
            greeting: b"kdbridge",
        };
        for _ in 0..2 {
            self.next = 0;
            let answer = self.ask(&connect);
            match answer {
                Ok(Reply::Status(_, Status::OK)) => return Ok(()),
                Ok(Reply::Status(_, Status::ALREADY_CONNECTED)) => {}
                Ok(Reply::Status(_, Status(error))) => return Err(AttachError::Refused(error)),
                Ok(_) => return Err(Malformed::Length.into()),
                Err(error) => return Err(self.attach_error(error, start)),
            }
            self.next = 0;
            if let Err(error) = self.ask(&Request::Reattach { reply_port: port }) {
                return Err(self.attach_error(error, start));
            }
        }
        Err(AttachError::Refused(Status::ALREADY_CONNECTED.0))
    }

    /// From here on nothing is asked any more as soon as this is set.
    pub(super) fn heed(&mut self, told: Option<Arc<AtomicBool>>) {
        self.unwanted = told;
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// [`AskError::Silent`] after sixteen tries within 14 seconds, and a minute if the kernel goes on
    /// telling of an exception meanwhile; [`AskError::BrokenOff`] if the answer is not wanted any more.
    pub fn ask(&mut self, request: &Request<'_>) -> Result<Reply<'_>, AskError> {
        if self.next == u8::MAX {
            self.cross_the_wrap()?;
        }
        let start = self.link.now();
        let mut pending = self.pending(request);
        self.next = self.next.wrapping_add(1);
        while self.transmit(&mut pending)? {
            if self.is_answered(&mut pending)? {
                let body = self.buffer.get(HEAD_BYTES..self.length);
                return Ok(Reply::decode(pending.code, body.unwrap_or_default())?);
            }
        }
        Err(AskError::Silent(self.link.now() - start))
    }

    fn is_answered(&mut self, pending: &mut Pending) -> Result<bool, AskError> {
        loop {
            match self.event(Some(pending), pending.due)? {
                Event::Answer => return Ok(true),
                Event::Exception if pending.begun + REPETITIONS > self.link.now() => {
                    pending.tries = 1;
                }
                Event::Exception => {}
                Event::Nothing => return Ok(false),
            }
            if self.link.now() > pending.due {
                return Ok(false);
            }
        }
    }

    /// Lets the kernel run. Its answer is waited for by [`Client::wait`]: one that is lost is never
    /// sent again, for a kernel that runs does not listen.
    pub(super) fn resume(&mut self) -> Result<Resumption, AskError> {
        if self.next == u8::MAX {
            self.cross_the_wrap()?;
        }
        self.told = None;
        let mut pending = self.pending(&Request::ResumeCpus { mask: u32::MAX });
        self.next = self.next.wrapping_add(1);
        self.transmit(&mut pending)?;
        Ok(Resumption(pending))
    }

    /// Waits for an exception until `deadline`. A resumption that has neither been answered nor
    /// given up is sent again when that is due.
    pub(super) fn wait(
        &mut self,
        resumption: &mut Option<Resumption>,
        deadline: Instant,
    ) -> Result<Option<Exception>, AskError> {
        loop {
            if let Some(told) = self.told.take() {
                *resumption = None;
                return Ok(Some(told));
            }
            let pending = resumption.as_ref().map(|it| &it.0);
            let until = pending.map_or(deadline, |it| it.due.min(deadline));
            match self.event(pending, until)? {
                Event::Answer => *resumption = None,
                Event::Exception => {}
                Event::Nothing if self.link.now() >= deadline => return Ok(None),
                Event::Nothing => self.insist(resumption)?,
            }
            // Copies of an exception that was told before may come without end.
            if self.told.is_none() && self.link.now() > deadline {
                return Ok(None);
            }
        }
    }

    fn insist(&mut self, resumption: &mut Option<Resumption>) -> Result<(), AskError> {
        if let Some(it) = resumption
            && !self.transmit(&mut it.0)?
        {
            // None of its copies can have been lost in all likelihood: the answers were.
            *resumption = None;
        }
        Ok(())
    }

    /// Says that the debugger leaves. Silence is taken for consent: the kernel runs then.
    ///
    /// # Errors
    ///
    /// Only what the link has.
    pub fn disconnect(&mut self) -> io::Result<()> {
        match self.ask(&Request::Disconnect) {
            Err(AskError::Io(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// The clock of the link.
    pub(super) fn now(&self) -> Instant {
        self.link.now()
    }

    fn pending(&self, request: &Request<'_>) -> Pending {
        Pending {
            packet: request.encode(self.next, self.key),
            code: request.code(),
            sequence: self.next,
            patience: FIRST_PATIENCE,
            begun: self.link.now(),
            due: self.link.now(),
            tries: 0,
        }
    }

    /// Sends it once more; `false` if that has been done often enough.
    fn transmit(&mut self, pending: &mut Pending) -> Result<bool, AskError> {
        if pending.tries == TRIES {
            return Ok(false);
        }
        if self
            .unwanted
            .as_ref()
            .is_some_and(|told| told.load(Ordering::Relaxed))
        {
            return Err(AskError::BrokenOff);
        }
        self.link.send(&pending.packet)?;
        pending.tries += 1;
        pending.due = self.link.now() + pending.patience;
        pending.patience = (pending.patience * 2).min(MOST_PATIENCE);
        Ok(true)
    }

    /// Gets from request 255 to request 0 or 1. A kernel does not see that what comes as 255 once
    /// more is its last request when it expects 0 (it compares with -1), and so drops it: if the
    /// answer to 255 is lost, no copy brings it. So 255 is a request that changes nothing, and after
    /// a while 0 is tried beside it.
    fn cross_the_wrap(&mut self) -> Result<(), AskError> {
        let start = self.link.now();
        let mut last = self.pending(&HARMLESS);
        self.next = 0;
        let mut first = self.pending(&HARMLESS);
        while self.transmit(&mut last)? {
            let both = last.tries > 1 && self.transmit(&mut first)?;
            let awaited = if both { &mut first } else { &mut last };
            if self.is_answered(awaited)? {
                self.next = awaited.sequence.wrapping_add(1);
                return Ok(());
            }
        }
        Err(AskError::Silent(self.link.now() - start))
    }

    /// The next thing that matters; everything else that comes is dropped.
    fn event(&mut self, pending: Option<&Pending>, deadline: Instant) -> Result<Event, AskError> {
        while let Some(length) = self.link.receive(&mut self.buffer, deadline)? {
            self.length = length;
            let packet = self.buffer.get(..length).unwrap_or_default();
            if let Ok((head, body)) = Head::split(packet) {
                let exception = exception(head, body);
                if pending.is_some_and(|pending| self.answers(head, pending)) {
                    return Ok(Event::Answer);
                }
                if let Some(exception) = exception {
                    self.acknowledge(head, exception)?;
                    return Ok(Event::Exception);
                }
            }
            // Whoever floods the link with what nobody waits for does not move the deadline.
            if self.link.now() > deadline {
                break;
            }
        }
        Ok(Event::Nothing)
    }

    fn answers(&self, head: Head, pending: &Pending) -> bool {
        let same = head.code == pending.code && head.sequence == pending.sequence;
        head.is_reply && same && head.key == self.key
    }

    /// Sends the receipt, and keeps the exception if it is a new one.
    fn acknowledge(&mut self, head: Head, exception: Exception) -> io::Result<()> {
        let receipt = Reply::Done(Code::Exception).encode(head.sequence, head.key);
        self.link.send(&receipt)?;
        // A copy that comes late has a number behind the last one's.
        let new = self
            .exception
            .is_none_or(|last| (1..128).contains(&head.sequence.wrapping_sub(last)));
        if new {
            self.exception = Some(head.sequence);
            self.told = Some(exception);
        }
        Ok(())
    }
}

/// What the kernel tells with this packet, if it is told of one processor at least.
fn exception(head: Head, body: &[u8]) -> Option<Exception> {
    match Request::decode(head.code, body) {
        Ok(Request::Exception(all)) if !head.is_reply => all.first().copied(),
        _ => None,
    }
}
