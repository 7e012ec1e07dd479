//! Memory and semaphores of application groups: what the table of [`objects`](crate::objects) has
//! numbers for.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use portolan_port::Message;
use portolan_sandbox::{Filter, Operation};
use portolan_wire::bootstrap::{Page, Reply};
use portolan_wire::code::BootstrapCode;
use portolan_wire::object::{Creation, ObjectKind, ObjectName, semaphore};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Server;
use super::answer::{Caller, Refused, done};
use super::store::Kind;
use crate::objects::{Named, ObjectError, ObjectKey, Objects};
use crate::registry::Sandbox;

/// The objects, and the descriptors of their memory.
#[derive(Debug)]
pub(super) struct SharedObjects {
    table: Objects,
    memory: HashMap<ObjectKey, OwnedFd>,
    last: u64,
}

/// An object in the journal, beside the descriptor of its memory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ObjectEntry {
    user: u32,
    kind: u8,
    name: String,
    size: u64,
}

/// Objects may have half of the machine's memory, as `/dev/shm` may. They take none before somebody
/// writes to them.
impl Default for SharedObjects {
    fn default() -> Self {
        let system = rustix::system::sysinfo();
        let total = system.totalram.saturating_mul(system.mem_unit.into());
        Self {
            table: Objects::new(total / 2),
            memory: HashMap::new(),
            last: 0,
        }
    }
}

impl SharedObjects {
    /// Takes over an object of the server before this one. `None` if it is none.
    pub(super) fn restore(
        &mut self,
        key: u64,
        entry: ObjectEntry,
        memory: Option<OwnedFd>,
    ) -> Option<()> {
        self.last = self.last.max(key);
        let named = Named {
            user: entry.user,
            kind: ObjectKind::from_raw(entry.kind).ok()?,
            name: entry.name.parse().ok()?,
        };
        let (key, memory) = (ObjectKey(key), memory?);
        self.table.restore(named, key, entry.size).ok()?;
        self.memory.insert(key, memory);
        Some(())
    }
}

impl Server {
    pub(super) fn open_object(
        &mut self,
        caller: &Caller,
        (kind, name): (ObjectKind, ObjectName),
        create: Option<Creation>,
    ) -> Result<Message, Refused> {
        let sandbox = self.check_object(caller, kind, &name);
        let user = caller.user();
        let named = Named { user, kind, name };
        let fresh = ObjectKey(self.objects.last + 1);
        let table = &mut self.objects.table;
        let key = table.open(named.clone(), create, fresh, sandbox)?;
        if let (true, Some(creation)) = (key == fresh, create)
            && let Err(refused) = self.make_object(key, &named, creation.value)
        {
            // What is not there has no name either.
            self.objects.table.unlink(&named, Sandbox::Allows).ok();
            return Err(refused);
        }
        let memory = self.objects.memory.get(&key);
        let memory = memory.ok_or(BootstrapCode::NO_MEMORY)?;
        let handed_out = open_again(memory).map_err(|errno| failed(&errno.into()))?;
        Ok(done(&Reply::Opened(key == fresh)).with_right(handed_out))
    }

    fn make_object(&mut self, key: ObjectKey, named: &Named, value: u64) -> Result<(), Refused> {
        let memory = make_memory(named.kind, value).map_err(|error| failed(&error))?;
        let entry = ObjectEntry {
            user: named.user,
            kind: named.kind.raw(),
            name: named.name.as_str().to_owned(),
            size: match named.kind {
                ObjectKind::Semaphore => 0,
                _ => value,
            },
        };
        self.store
            .put(Kind::Object, key.0, &entry, &[memory.as_fd()]);
        self.objects.memory.insert(key, memory);
        self.objects.last = key.0;
        Ok(())
    }

    pub(super) fn unlink_object(
        &mut self,
        caller: &Caller,
        (kind, name): (ObjectKind, ObjectName),
    ) -> Result<Message, Refused> {
        let sandbox = self.check_object(caller, kind, &name);
        let user = caller.user();
        let named = Named { user, kind, name };
        let key = self.objects.table.unlink(&named, sandbox)?;
        // The entry first: its number must not become another descriptor's.
        self.store.remove(Kind::Object, key.0);
        self.objects.memory.remove(&key);
        Ok(done(&Reply::Done))
    }

    pub(super) fn list_objects(
        &self,
        caller: &Caller,
        kind: ObjectKind,
        after: Option<ObjectName>,
    ) -> Message {
        let may_know =
            |name: &ObjectName| caller.may(operation(kind), Filter::PosixName, name.as_str());
        let objects = &self.objects.table;
        let page = Page::fill(objects.list(caller.user(), kind, after, may_know));
        done(&Reply::Objects(page))
    }

    fn check_object(&mut self, caller: &Caller, kind: ObjectKind, name: &ObjectName) -> Sandbox {
        self.judge(caller, operation(kind), Filter::PosixName, name.as_str())
    }
}

impl From<ObjectError> for Refused {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Denied => error.code().into(),
            other => Self::because(other.code(), other.to_string()),
        }
    }
}

fn failed(error: &io::Error) -> Refused {
    Refused::because(BootstrapCode::NO_MEMORY, error.to_string())
}

fn operation(kind: ObjectKind) -> Operation {
    match kind {
        ObjectKind::Semaphore => Operation::IpcPosixSem,
        _ => Operation::IpcPosixShm,
    }
}

/// Memory that nobody can shrink under the feet of others, or let grow beyond what is counted, and
/// whose seals are the last ones.
fn make_memory(kind: ObjectKind, value: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL) {
        // A kernel before 6.3.
        Err(Errno::INVAL) => rustix::fs::memfd_create(NAME, flags),
        other => other,
    }?;
    match (kind, u32::try_from(value)) {
        (ObjectKind::Semaphore, Ok(value)) => {
            rustix::fs::ftruncate(&memory, semaphore::BYTES as u64)?;
            let at = semaphore::VALUE * size_of::<u32>();
            rustix::io::pwrite(&memory, &value.to_ne_bytes(), at as u64)?;
        }
        _ => rustix::fs::ftruncate(&memory, value)?,
    }
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory)
}

/// What the memory is called in `/proc`.
const NAME: &str = "portolan-shared";

/// Another open file of the same memory. With a duplicate, one member could change the flags and the
/// position of the others' descriptors.
fn open_again(memory: &OwnedFd) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}
