//! Telling the bootstrap server what the kernel refuses to a program.
//!
//! A program for which that is wanted has the same walls as any other. Its filter makes the calls wait
//! that Landlock judges, and those that an entitlement for the network would allow, and a process
//! outside looks at them. That process decides nothing: a call that the ordinary filter refuses gets the
//! error that it would get there, and any other goes on to Landlock and the namespaces. What it has seen
//! may be something else a moment later, so a program can falsify what is reported of it. It can also have
//! any path looked at outside, and nothing opened there but directories and programs.
//!
//! The reports are sent without waiting, and as many as the server would log. If the process ends, no
//! call that waits goes on.

mod judge;
mod post;
mod watch;

pub(crate) use watch::run;

/// The argument that has the launcher report what is refused to the program. The number of the
/// bootstrap right to do it with follows, and then what follows otherwise.
pub const REPORT: &str = "--report";
