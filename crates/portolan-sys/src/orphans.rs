//! Descriptors that nobody owns: a child that shared the table ([`crate::holder`]) has opened them
//! and is gone, or the program that ran in this process before has left them across exec.
//!
//! # Safety
//!
//! A number becomes an orphan in three ways, and in each nothing that still runs owns it: its owner
//! in this process gave it up ([`Orphans::adopt`]); it lacked `FD_CLOEXEC`, without which nothing in
//! a Rust process opens a descriptor ([`Orphans::left_by_exec`]); or it was opened in a shared table
//! after the parent had counted its own, by a child that has ended ([`Own::orphans`]). The last
//! one rests on the parent: while a child runs it opens nothing that it keeps, but for the
//! [`Child`], which is given back. An orphan is taken once, for taking it removes it from the set.
#![allow(unsafe_code, reason = "descriptors known by their numbers only")]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::holder::Child;

/// The descriptors of a process before it shares its table with children.
#[derive(Clone, Debug)]
pub struct Own(BTreeSet<u32>);

/// Descriptors that are open and that nobody owns. Dropping the set closes none of them.
#[derive(Debug, Default)]
pub struct Orphans(BTreeSet<u32>);

impl Own {
    /// All that is open now and is no orphan.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub fn now(orphans: &Orphans) -> io::Result<Self> {
        let open = open()?;
        Ok(Self(open.difference(&orphans.0).copied().collect()))
    }

    /// What a child that has ended, and those before it, left open. All of it is closed on exec
    /// from now on.
    ///
    /// Since [`now`](Self::now) this process must have opened nothing that is still open but
    /// children.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the child runs; if `/proc` cannot be read.
    pub fn orphans(&self, child: Child) -> io::Result<Orphans> {
        let no_time = Timespec::default();
        if rustix::event::poll(
            &mut [PollFd::new(&child.pidfd, PollFlags::IN)],
            Some(&no_time),
        )? == 0
        {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        drop(child);
        let orphans: BTreeSet<u32> = open()?.difference(&self.0).copied().collect();
        for &number in &orphans {
            set_flags(number, libc::FD_CLOEXEC)?;
        }
        Ok(Orphans(orphans))
    }
}

impl Orphans {
    /// Those of these numbers that are open across exec, which makes the set complete if it is the
    /// first thing that a program does. They are closed on the next exec.
    pub fn left_by_exec(numbers: impl IntoIterator<Item = u32>) -> Self {
        let left = numbers.into_iter().filter(|&number| {
            number > STANDARD
                && flags(number).is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0)
                && set_flags(number, libc::FD_CLOEXEC).is_ok()
        });
        Self(left.collect())
    }

    /// Gives a descriptor up. Returns its number.
    pub fn adopt(&mut self, fd: OwnedFd) -> u32 {
        let number = fd.into_raw_fd().cast_unsigned();
        self.0.insert(number);
        number
    }

    /// Makes an orphan the caller's; `None` if there is none with this number.
    pub fn take(&mut self, number: u32) -> Option<OwnedFd> {
        if !self.0.remove(&number) {
            return None;
        }
        // SAFETY: it was in the set, so it is open and nobody owns it, and it is there no more. The
        // tests are those of `tests/orphans.rs`.
        Some(unsafe { OwnedFd::from_raw_fd(number.cast_signed()) })
    }

    /// Whether there is one with this number.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.0.contains(&number)
    }

    /// Closes all for which `keep` does not say so.
    pub fn close_except(&mut self, keep: impl Fn(u32) -> bool) {
        let others: Vec<u32> = self.0.iter().copied().filter(|&n| !keep(n)).collect();
        for number in others {
            self.take(number);
        }
    }

    /// Leaves all of them open across exec.
    ///
    /// # Errors
    ///
    /// What fcntl(2) says.
    pub fn leave(&self) -> io::Result<()> {
        self.0.iter().try_for_each(|&number| set_flags(number, 0))
    }

    /// Takes [`leave`](Self::leave) back.
    pub fn close_on_exec(&self) {
        for &number in &self.0 {
            // Fails for a descriptor that is not open only.
            set_flags(number, libc::FD_CLOEXEC).ok();
        }
    }
}

const STANDARD: u32 = libc::STDERR_FILENO.cast_unsigned();

fn open() -> io::Result<BTreeSet<u32>> {
    let entries = fs::read_dir("/proc/self/fd")?;
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let numbers = names?
        .into_iter()
        .filter_map(|name| name.to_str()?.parse().ok());
    // The one of the directory itself is closed by now.
    Ok(numbers
        .filter(|&number| number > STANDARD && flags(number).is_ok())
        .collect())
}

fn flags(number: u32) -> io::Result<libc::c_int> {
    // SAFETY: takes no pointers, and fails for a number that is not open.
    let flags = unsafe { libc::fcntl(number.cast_signed(), libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(flags)
}

fn set_flags(number: u32, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers, and fails for a number that is not open.
    if unsafe { libc::fcntl(number.cast_signed(), libc::F_SETFD, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
