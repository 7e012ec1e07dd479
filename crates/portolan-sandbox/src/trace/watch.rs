//! Looking at each call.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use portolan_sys::notify::{Listener, Notification};
use portolan_sys::signals::Blocked;
use rustix::process::Signal;

use super::findings::Findings;
use crate::calls::{self, Seen, seen};

/// A program whose calls are looked at.
#[derive(Debug)]
pub struct Trace {
    listener: Listener,
    /// Where the program was started.
    start: PathBuf,
}

impl Trace {
    /// Takes the listener from the socket whose other end the launcher has. `None` if that has gone,
    /// and so said why, before there was one.
    ///
    /// From then on this thread, and those that it makes, are not ended by SIGINT and SIGQUIT: who
    /// interrupts a program wants to know what it would have needed.
    ///
    /// # Errors
    ///
    /// What recvmsg(2) says.
    pub fn begin(socket: impl AsFd) -> io::Result<Option<Self>> {
        Blocked::new(&[Signal::INT, Signal::QUIT])?;
        let handed = calls::take(socket)?;
        let start = std::env::current_dir()?;
        Ok(handed.map(|listener| Self { listener, start }))
    }

    /// Notes what all processes of the program do, until the last one has ended.
    ///
    /// # Errors
    ///
    /// What the kernel says. Calls that wait go on waiting until this is dropped, and fail then.
    pub fn watch(&self) -> io::Result<Findings> {
        let mut findings = Findings::default();
        calls::each(&self.listener, |call| self.see_to(call, &mut findings))?;
        Ok(findings)
    }

    fn see_to(&self, call: &Notification, findings: &mut Findings) -> io::Result<()> {
        let seen = seen(call);
        // The process may have ended while it was looked at, and another may have its number.
        if self.listener.waits(call.id) {
            for Seen { used, here } in seen {
                // A path that is relative to where the program was started is found only if it is
                // started there again, and that takes the directory.
                let is_from_the_start = here.as_ref() == Some(&self.start);
                findings.note(used, is_from_the_start.then_some(&self.start));
            }
        }
        self.listener.go_on(call.id)
    }
}
