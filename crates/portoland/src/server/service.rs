//! What stands behind a name: a right to somebody else's port, or a port of a job.

use std::os::fd::{AsFd, BorrowedFd};

use portolan_port::{Custody, MintError, ReceiveRight, SendRight, Timeout};
use portolan_wire::name::ServiceName;
use serde::{Deserialize, Serialize};

use crate::registry::{JobKey, Namespace, Scope};

/// What stands behind a name.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) port: Port,
    /// The job and the name, if a job has declared it.
    pub(super) declared: Option<Declared>,
    /// The names that it was registered under, for the next server.
    pub(super) names: Vec<Name>,
    /// With how many senders a port that is here is searched for those that have left.
    pub(super) prune_at: usize,
}

/// Fewer senders than this are not worth a search.
const PRUNE_AT: usize = 64;

/// Who receives from a port.
#[derive(Debug)]
pub(super) enum Port {
    /// Somebody who registered a right to it.
    Elsewhere(SendRight),
    /// Nobody, until a message starts the job.
    Here(ReceiveRight),
    /// An instance of the job, until it gives it back or is gone.
    Lent(Custody),
}

/// A name of a job.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    pub(super) job: JobKey,
    pub(super) name: ServiceName,
}

/// One name of a service, as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Name {
    pub(super) name: String,
    /// The process whose it is alone.
    pub(super) pid: Option<u32>,
    pub(super) subset: Option<u64>,
    pub(super) client: Option<u64>,
    pub(super) job: Option<u64>,
}

impl Name {
    pub(super) fn scope(&self) -> Scope {
        match (self.pid, self.subset) {
            (Some(pid), _) => Scope::PerPid(pid),
            (None, Some(subset)) => Scope::Subset(Namespace(subset)),
            (None, None) => Scope::Global,
        }
    }
}

impl Service {
    pub(super) fn elsewhere(right: SendRight) -> Self {
        Self {
            port: Port::Elsewhere(right),
            declared: None,
            names: Vec::new(),
            prune_at: PRUNE_AT,
        }
    }

    pub(super) fn of_job(port: Port, declared: Declared) -> Self {
        Self {
            port,
            declared: Some(declared),
            names: Vec::new(),
            prune_at: PRUNE_AT,
        }
    }

    /// A right for who has looked it up.
    pub(super) fn make_send(&mut self) -> Result<SendRight, MintError> {
        match &mut self.port {
            Port::Elsewhere(right) => right.copy(Timeout::POLL),
            Port::Here(port) => {
                // While a job is throttled nobody looks at its ports, and lookers come and go.
                if port.status().senders >= self.prune_at {
                    port.prune();
                    self.prune_at = PRUNE_AT.max(2 * port.status().senders);
                }
                port.make_send()
            }
            Port::Lent(custody) => custody.make_send(0),
        }
    }

    /// The descriptor that tells of the end of a port that is elsewhere.
    pub(super) fn tells_of_its_end(&self) -> Option<BorrowedFd<'_>> {
        match &self.port {
            Port::Elsewhere(right) => Some(right.as_fd()),
            Port::Lent(custody) => Some(custody.as_fd()),
            Port::Here(_) => None,
        }
    }
}
