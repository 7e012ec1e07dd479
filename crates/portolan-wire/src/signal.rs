//! Names of signals.

use std::fmt;

/// The number of a signal, shown by its name.
///
/// ```
/// use portolan_wire::signal::Signal;
///
/// assert_eq!(Signal(11).to_string(), "SIGSEGV");
/// assert_eq!(Signal(40).to_string(), "signal 40");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(pub u32);

/// From 1 on, as Linux numbers them on x86 and Arm.
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = (self.0 as usize).checked_sub(1);
        match at.and_then(|at| NAMES.get(at)) {
            Some(name) => f.pad(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}
