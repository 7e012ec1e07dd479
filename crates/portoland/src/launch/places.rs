//! Low descriptor numbers for what programs inherit.
//!
//! A server has a descriptor for each name, and more. A program that starts does so with a copy of
//! the table of descriptors, up to the highest number that it inherits: a tenth of a millisecond
//! for each thousand. So some numbers are reserved while few are in use, and what a program
//! inherits is put there for as long as it takes to start it.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use portolan_sys::spawn::Descriptor;
use rustix::fs::{Mode, OFlags};
use rustix::io::{DupFlags, Errno};

/// The standard streams, the bootstrap right, and some sockets.
const COUNT: usize = 12;

/// The reserved numbers: `/dev/null`, unless a program is being started.
#[derive(Debug)]
pub(super) struct Places(Mutex<Vec<OwnedFd>>);

impl Places {
    /// Fewer, if the table is full: to do without is slower, and no more than that.
    pub(super) fn reserve() -> Self {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let open = || rustix::fs::open(super::NOTHING, flags, Mode::empty()).ok();
        Self(Mutex::new((0..COUNT).map_while(|_| open()).collect()))
    }

    /// Calls `start` with duplicates of the descriptors that have low numbers.
    pub(super) fn lend<R>(
        &self,
        descriptors: &[Descriptor<'_>],
        start: impl FnOnce(&[Descriptor<'_>]) -> R,
    ) -> R {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The first one stays what it is, to be put into the others again.
        let Some((nothing, places)) = places.split_first_mut() else {
            return start(descriptors);
        };
        let inherited = descriptors
            .iter()
            .filter_map(|descriptor| match descriptor {
                Descriptor::Inherited(descriptor) => Some(*descriptor),
                Descriptor::File { .. } => None,
            });
        let mut used = 0;
        for (place, descriptor) in places.iter_mut().zip(inherited) {
            if put(descriptor, place).is_err() {
                break;
            }
            used += 1;
        }
        let result = {
            let mut low = places.iter().take(used);
            let moved = descriptors.iter().map(|descriptor| match descriptor {
                Descriptor::Inherited(_) => {
                    let low = low.next().map(|place| Descriptor::Inherited(place.as_fd()));
                    low.unwrap_or(*descriptor)
                }
                Descriptor::File { .. } => *descriptor,
            });
            let moved: Vec<Descriptor<'_>> = moved.collect();
            start(&moved)
        };
        for place in places.iter_mut().take(used) {
            let emptied = put(nothing.as_fd(), place);
            debug_assert!(emptied.is_ok(), "both are open");
        }
        result
    }
}

fn put(descriptor: BorrowedFd<'_>, place: &mut OwnedFd) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::io::dup3(descriptor, place, DupFlags::CLOEXEC))
}
