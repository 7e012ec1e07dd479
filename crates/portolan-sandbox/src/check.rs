//! May this program use this name?

use std::fmt;
use std::sync::Arc;

use portolan_wire::group::GroupId;
use portolan_wire::label::JobLabel;

use crate::entitlements::Entitlements;
use crate::key;

/// What is asked for, under the names of Apple's `sandbox_check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Publishing a name: `mach-register`.
    MachRegister,
    /// Finding a name: `mach-lookup`.
    MachLookup,
    /// Shared memory with a name: `ipc-posix-shm`.
    IpcPosixShm,
    /// A semaphore with a name: `ipc-posix-sem`.
    IpcPosixSem,
    /// Connecting to a socket in a group's container: `network-outbound`.
    NetworkOutbound,
    /// Listening on a socket in a group's container: `network-bind`.
    NetworkBind,
}

impl Operation {
    fn is_about_ports(self) -> bool {
        matches!(self, Self::MachRegister | Self::MachLookup)
    }

    /// Whether a name is one of the group's.
    fn is_within(self, group: &GroupId, name: &str) -> bool {
        if self.is_about_ports() {
            return group.contains(name);
        }
        let rest = name.strip_prefix(group.as_str());
        rest.is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MachRegister => "mach-register",
            Self::MachLookup => "mach-lookup",
            Self::IpcPosixShm => "ipc-posix-shm",
            Self::IpcPosixSem => "ipc-posix-sem",
            Self::NetworkOutbound => "network-outbound",
            Self::NetworkBind => "network-bind",
        })
    }
}

/// What kind of name it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Filter {
    /// A name that everybody looks up: `SANDBOX_FILTER_GLOBAL_NAME`.
    GlobalName,
    /// A name that belongs to one process: `SANDBOX_FILTER_LOCAL_NAME`. The groups' rule is the
    /// same; the exceptions have keys of their own.
    LocalName,
    /// A name of shared memory or of a semaphore, `<group>/…`: `SANDBOX_FILTER_POSIX_NAME`. There
    /// are no exceptions for these.
    PosixName,
    /// A path in a group's container, `<group>/…`: `SANDBOX_FILTER_PATH`. Nor for these.
    Path,
}

/// Who asks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Identity {
    /// A program without a sandbox, which may use any name.
    Unsandboxed,
    /// A program that is bound by its entitlements.
    Sandboxed {
        /// What it is called.
        label: JobLabel,
        /// What it may do.
        entitlements: Arc<Entitlements>,
    },
}

impl Identity {
    /// The identity of a program with these entitlements: without `app-sandbox` among them, the
    /// others mean nothing.
    pub fn new(label: JobLabel, entitlements: Arc<Entitlements>) -> Self {
        if entitlements.app_sandbox {
            Self::Sandboxed {
                label,
                entitlements,
            }
        } else {
            Self::Unsandboxed
        }
    }
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed,
    /// It may not.
    Denied(Violation),
}

/// What was refused, and what would have allowed it.
///
/// As text it is one line, whatever the name has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who asked.
    pub label: JobLabel,
    /// What for.
    pub operation: Operation,
    /// The name.
    pub name: String,
    /// The entitlement that would have allowed it.
    pub key: &'static str,
    /// A value of it that would have.
    pub value: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            label,
            operation,
            name,
            key,
            value,
        } = self;
        let (name, value) = (name.escape_debug(), value.escape_debug());
        write!(
            f,
            "{label}: deny {operation} \"{name}\"; allowed by {key} with \"{value}\""
        )
    }
}

/// Decides whether a program may use a name.
///
/// A program without a sandbox may use any. Another may register and look up `<group>.…` of each
/// group it is in, its own label and `<label>.…`, and what an exception names: for registering, an
/// exception that ends in `*` stands for every name that begins so; for looking up, it stands for
/// itself and the star is a letter like any other (as on macOS). What else a group shares is named
/// `<group>/…`, and is for its members alone.
///
/// The answer does not depend on whether there is such a name.
pub fn sandbox_check(
    identity: &Identity,
    operation: Operation,
    filter: Filter,
    name: &str,
) -> Verdict {
    let Identity::Sandboxed {
        label,
        entitlements,
    } = identity
    else {
        return Verdict::Allowed;
    };
    if rule_for_name(label, entitlements, operation, filter, name).is_some() {
        return Verdict::Allowed;
    }
    let (key, value) = remedy(operation, filter, name);
    let (label, name) = (label.clone(), name.to_owned());
    Verdict::Denied(Violation {
        label,
        operation,
        name,
        key,
        value,
    })
}

/// What lets a program use a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule<'a> {
    Own,
    Group(&'a GroupId),
    Exception { key: &'static str, value: &'a str },
}

pub(crate) fn rule_for_name<'a>(
    label: &JobLabel,
    entitlements: &'a Entitlements,
    operation: Operation,
    filter: Filter,
    name: &str,
) -> Option<NameRule<'a>> {
    let mut groups = entitlements.application_groups.iter();
    if let Some(group) = groups.find(|group| operation.is_within(group, name)) {
        return Some(NameRule::Group(group));
    }
    if operation.is_about_ports() && is_own(label, name) {
        return Some(NameRule::Own);
    }
    let mut exceptions = entitlements.exceptions(operation, filter).iter();
    let value = exceptions.find(|exception| is_excepted(operation, exception, name))?;
    let key = key::exception(operation, filter)?;
    Some(NameRule::Exception { key, value })
}

fn is_own(label: &JobLabel, name: &str) -> bool {
    let rest = name.strip_prefix(label.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn is_excepted(operation: Operation, exception: &str, name: &str) -> bool {
    match (operation, exception.strip_suffix('*')) {
        (Operation::MachRegister, Some(prefix)) => name.starts_with(prefix),
        _ => exception == name,
    }
}

/// A name of two or more parts could be one of a group's; an exception is for those that are not.
pub(crate) fn remedy(operation: Operation, filter: Filter, name: &str) -> (&'static str, String) {
    let Some(exception) = key::exception(operation, filter) else {
        let group = name.split_once('/').map_or(name, |(group, _)| group);
        return (key::APPLICATION_GROUPS, group.to_owned());
    };
    let group = name.rsplit_once('.').map(|(group, _)| group);
    match group.filter(|group| group.contains('.') && group.parse::<GroupId>().is_ok()) {
        Some(group) => (key::APPLICATION_GROUPS, group.to_owned()),
        None => (exception, name.to_owned()),
    }
}
