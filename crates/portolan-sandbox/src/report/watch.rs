//! Looking at each call that waits, and answering it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use portolan_sys::notify::{Listener, Notification};
use portolan_wire::sandbox::Report;

use super::judge::{Judge, Refused};
use super::post::Post;
use crate::calls::{self, Seen};
use crate::decision::Remedy;
use crate::filter::{self, Allowances, Architecture, Verdict};
use crate::profile::Profile;

/// Answers the calls of a program with this profile until its last process has ended, and reports what
/// is refused with the right. The listener comes through the socket; without one there is no program.
///
/// # Errors
///
/// What the kernel says. No call that waits goes on then.
pub(crate) fn run(socket: impl AsFd, right: OwnedFd, profile: Profile) -> io::Result<()> {
    let architecture = Architecture::current().ok_or(io::ErrorKind::Unsupported)?;
    let allowances = profile.allowances();
    // The launcher fails as well if that cannot be found out, and says why.
    let judge = Judge::new(profile).ok();
    let Some(listener) = calls::take(socket)? else {
        return Ok(());
    };
    let mut reporter = Reporter {
        architecture,
        allowances,
        judge,
        post: Post::new(right),
    };
    calls::each(&listener, |call| reporter.see_to(&listener, call))
}

struct Reporter {
    architecture: Architecture,
    allowances: Allowances,
    judge: Option<Judge>,
    post: Post,
}

impl Reporter {
    fn see_to(&mut self, listener: &Listener, call: &Notification) -> io::Result<()> {
        let verdict = self.verdict(call);
        let seen = calls::seen(call);
        // The process may have ended while it was looked at, and another may have its number.
        if listener.waits(call.id) {
            seen.into_iter()
                .for_each(|seen| self.report(call.thread, seen, verdict));
        }
        // Only now, so that a program that ends next has been reported.
        match verdict {
            Verdict::Allowed => listener.go_on(call.id),
            Verdict::Refused(errno) => listener.refuse(call.id, errno),
        }
    }

    /// A call by the numbers of another architecture does not come here, but kills its process.
    fn verdict(&self, call: &Notification) -> Verdict {
        match call.architecture == self.architecture.token() {
            true => filter::verdict(
                self.architecture,
                self.allowances,
                call.number,
                &call.arguments,
            ),
            false => Verdict::UNKNOWN,
        }
    }

    fn report(&mut self, thread: u32, seen: Seen, verdict: Verdict) {
        let Some(judge) = &self.judge else {
            return;
        };
        if let Some(refused) = judge.look_at(seen.used, verdict) {
            self.post
                .send(|| report(thread, &refused, judge.remedy(&refused)));
        }
    }
}

fn report(thread: u32, refused: &Refused, remedy: Option<Remedy>) -> Report {
    let (key, value) = remedy.map_or(("", None), |remedy| (remedy.key, remedy.value));
    Report {
        pid: Some(calls::process_of(thread)),
        left_out: 0,
        operation: refused.operation.into(),
        name: refused.name.as_str().into(),
        key: key.into(),
        value: value.unwrap_or_default().into(),
    }
}
