//! What memory and semaphores have in common: asking the server for them by name.

use std::os::fd::OwnedFd;

use portolan_port::Right;
use portolan_wire::bootstrap::{Reply, Request};
use portolan_wire::object::{Creation, ObjectInfo, ObjectKind, ObjectName};

use crate::bootstrap::{Bootstrap, BootstrapError};

/// The memory of an object, and whether this call made it.
pub(crate) fn open(
    bootstrap: &Bootstrap,
    kind: ObjectKind,
    name: &ObjectName,
    create: Option<Creation>,
) -> Result<(OwnedFd, bool), BootstrapError> {
    let name = name.clone();
    let request = Request::OpenObject { kind, create, name };
    let (reply, rights) = bootstrap.ask_for_rights(&request)?;
    match (reply, rights.into_iter().next()) {
        (Reply::Opened(is_new), Some(Right::Descriptor(memory))) => Ok((memory, is_new)),
        _ => Err(BootstrapError::Protocol),
    }
}

pub(crate) fn unlink(
    bootstrap: &Bootstrap,
    kind: ObjectKind,
    name: &ObjectName,
) -> Result<(), BootstrapError> {
    let name = name.clone();
    let request = Request::UnlinkObject { kind, name };
    bootstrap.ask_for_rights(&request).map(drop)
}

pub(crate) fn list(
    bootstrap: &Bootstrap,
    kind: ObjectKind,
) -> Result<Vec<ObjectInfo>, BootstrapError> {
    let mut all: Vec<ObjectInfo> = Vec::new();
    loop {
        let after = all.last().map(|object| object.name.clone());
        let request = Request::Objects { kind, after };
        let (Reply::Objects(page), _) = bootstrap.ask_for_rights(&request)? else {
            return Err(BootstrapError::Protocol);
        };
        // A page that has nothing on it has nothing after it.
        let more = page.more && !page.items.is_empty();
        all.extend(page.items);
        if !more {
            return Ok(all);
        }
    }
}
