//! Learning what entitlements a program would need, while it runs without walls.
//!
//! The launcher installs a filter that makes the calls wait which entitlements decide about, hands
//! the listener to whoever started it, and becomes the program ([`install`]). A [`Trace`] looks at
//! each call, notes what it is about and lets it be made; nothing is decided. What is noted can be
//! made into [`Entitlements`](crate::Entitlements) with [`Findings::learned`].
//!
//! What is looked at may be something else a moment later: a program that wants to hide what it needs
//! can.

mod findings;
mod install;
mod watch;

pub use findings::{Findings, Learned};
pub use install::install;
pub use watch::Trace;

/// The argument that has the launcher become a program whose calls are looked at. The number of the
/// socket to the one who looks follows, and then what follows otherwise.
pub const TRACE: &str = "--trace";
