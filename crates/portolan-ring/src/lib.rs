//! A single-producer single-consumer byte ring over memory that two processes share, written for
//! peers that do not trust each other, and [`wait::Governor`], which decides how long a waiting
//! side spins before it sleeps.
//!
//! This crate makes no system call. The caller maps the memory and hands it over as a [`Region`];
//! one side makes a [`Producer`] of it and the other a [`Consumer`]. Where a side has to be woken
//! the ring says so with [`Bell::Ring`], and how the bell is rung is the caller's business.
//!
//! # Memory
//!
//! A region is [`HEADER_BYTES`] of header and then `capacity` bytes of records, `capacity` a power
//! of two. Each word of the header has 128 bytes to itself, because processors fetch cache lines in
//! pairs:
//!
//! | offset | word | written by |
//! | --- | --- | --- |
//! | 0 | bytes published since the start | producer |
//! | 128 | bytes released since the start | consumer |
//! | 256 | not 0: the consumer sleeps until something is published | set by the consumer, taken off by the producer |
//! | 384 | not 0: the producer sleeps until this many bytes (lowest bit masked off) are released | set by the producer, taken off by the consumer |
//! | 512 | the processor that the producer says it runs on, plus 1; 0 if it has not said so | producer |
//!
//! Fresh memory is all zero. Positions only grow and wrap at 2^64; a position modulo the capacity
//! is an offset into the records. A record is one word (length in the low half, tag in the high
//! half), the payload, and padding to a multiple of 8. It may wrap around the end, so no space is
//! ever skipped.
//!
//! # What a hostile peer can do
//!
//! The peer may write anything anywhere in the region at any time. A half therefore
//!
//! - keeps its own position in private memory and never reads it back,
//! - takes the other side's position for a claim, which must be a multiple of 8, must not go
//!   backwards and must leave between 0 and `capacity` bytes in the ring,
//! - copies a record's header to private memory, checks it there against what is published, and
//!   copies the payload to private memory before anyone looks at it,
//! - refuses every further operation with the same [`Corrupt`] once a claim was false.
//!
//! No reference to shared memory is made anywhere, not even inside the crate. What remains to the
//! peer is to send nonsense as payload, to lie about where it runs, to ring bells without need, and to
//! lose its own wake-ups by writing over the sleep words: a side that must not wait for ever for an untrusted peer waits
//! with a time-out.

mod consumer;
mod copy;
mod corrupt;
mod glance;
mod position;
mod producer;
mod record;
mod region;
#[cfg(not(loom))]
mod slate;
mod sleep;
mod sync;
pub mod wait;
#[cfg(not(loom))]
mod window;

pub use consumer::{Consumer, Incoming};
pub use corrupt::Corrupt;
pub use glance::Glance;
pub use producer::{Producer, PushError};
pub use record::{
    MAX_RECORD_FRACTION, RECORD_HEADER_BYTES, Record, Run, record_bytes, split_record,
};
pub use region::{
    HEADER_BYTES, KEPT_OFFSET, MAX_CAPACITY, MIN_CAPACITY, PUBLISHED_OFFSET, Region, RegionError,
    region_bytes,
};
#[cfg(not(loom))]
pub use slate::Slate;
pub use sleep::{Bell, Readiness};
#[cfg(not(loom))]
pub use window::Window;
