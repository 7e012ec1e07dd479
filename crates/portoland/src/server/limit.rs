//! Keeping the log from being filled.

use portolan_sandbox::Limit;

/// Decides whether an event that a client can cause at will is logged.
#[derive(Debug, Default)]
pub(super) struct LogLimit(Limit);

impl LogLimit {
    /// Whether the event is to be logged. Says so in the log when some were not.
    pub(super) fn admits(&mut self) -> bool {
        let left_out = self.0.admit();
        if let Some(lines @ 1..) = left_out {
            tracing::warn!(lines, "log lines were left out");
        }
        left_out.is_some()
    }
}
