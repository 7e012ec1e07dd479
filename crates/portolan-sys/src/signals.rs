//! Signals that a thread waits for, without a handler.
//!
//! They stay blocked across exec, so a program that replaces itself loses none of them and is
//! ended by none of them in between.
//!
//! # Safety
//!
//! A set of signals is a plain value that `sigemptyset` has initialised; each call gets a valid
//! place for it. The default action of a signal calls no code of this process.
#![allow(unsafe_code, reason = "sigprocmask, sigaction and sigtimedwait")]

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use rustix::process::Signal;

/// Signals that are blocked in the thread that made this.
#[derive(Clone, Copy)]
pub struct Blocked {
    set: libc::sigset_t,
    /// Those of them that were ignored before, each a bit.
    ignored: u128,
}

impl Blocked {
    /// Blocks these signals in the calling thread and in those it makes from now on. A signal that
    /// was ignored is not any more.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a signal that cannot be blocked.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `set` is a valid place for a set.
        check(unsafe { libc::sigemptyset(set.as_mut_ptr()) })?;
        // SAFETY: initialised by the call before.
        let mut set = unsafe { set.assume_init() };
        let mut ignored = 0;
        for signal in signals {
            // SAFETY: no code of this process is called for it from now on.
            match unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) } {
                libc::SIG_ERR => return Err(io::Error::last_os_error()),
                libc::SIG_IGN => ignored |= 1 << signal.as_raw(),
                _ => {}
            }
            // SAFETY: `set` is an initialised set.
            check(unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) })?;
        }
        let blocked = Self { set, ignored };
        blocked.block()?;
        Ok(blocked)
    }

    /// Waits for one of them, at most for `time`; `None` if there was none.
    ///
    /// # Errors
    ///
    /// What sigtimedwait(2) says, but for `EINTR`.
    pub fn wait(&self, time: Option<Duration>) -> io::Result<Option<Signal>> {
        let time = time.map(|time| libc::timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
        loop {
            // SAFETY: the set is initialised; `time` is null or points to a value that lives as
            // long as this call.
            let signal = unsafe { libc::sigtimedwait(&raw const self.set, ptr::null_mut(), time) };
            if signal > 0 {
                return Ok(Signal::from_named_raw(signal));
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(None),
                Some(libc::EINTR) => {}
                _ => return Err(error),
            }
        }
    }

    /// Blocks them again in a thread that has [unblocked](Self::unblock) them. Handlers stay.
    ///
    /// # Errors
    ///
    /// What sigprocmask(2) says.
    pub fn block(&self) -> io::Result<()> {
        self.mask(libc::SIG_BLOCK)
    }

    /// Lets the calling thread, and those it makes from now on, have them again.
    ///
    /// # Errors
    ///
    /// What sigprocmask(2) says.
    pub fn unblock(&self) -> io::Result<()> {
        self.mask(libc::SIG_UNBLOCK)
    }

    /// [Unblocks](Self::unblock) them, and ignores again what was ignored before, as a program expects that is
    /// started with nohup(1) or in the background. For a process that is to become a program.
    ///
    /// # Errors
    ///
    /// As for [`unblock`](Self::unblock).
    pub fn give_back(&self) -> io::Result<()> {
        for signal in (0..128).filter(|signal| self.ignored & 1 << signal != 0) {
            // SAFETY: no code of this process is called for it.
            if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        self.unblock()
    }

    fn mask(&self, how: libc::c_int) -> io::Result<()> {
        // SAFETY: the set is initialised, and the old one is not asked for.
        match unsafe { libc::pthread_sigmask(how, &raw const self.set, ptr::null_mut()) } {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl fmt::Debug for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocked").finish_non_exhaustive()
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_blocked_signal_is_waited_for() {
        let one = thread::spawn(|| {
            let blocked = Blocked::new(&[Signal::USR1]).expect("block");
            // SAFETY: a signal to this very thread, which blocks it.
            assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
            assert_eq!(blocked.wait(None).expect("wait"), Some(Signal::USR1));
            assert_eq!(blocked.wait(Some(Duration::ZERO)).expect("wait"), None);
            blocked.unblock().expect("unblock");
            blocked.block().expect("block again");
            // SAFETY: as before.
            assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
            assert_eq!(blocked.wait(None).expect("wait"), Some(Signal::USR1));
        });
        one.join().expect("no signal ended this process");
    }

    #[test]
    fn what_cannot_be_blocked_is_refused() {
        Blocked::new(&[Signal::KILL]).expect_err("SIGKILL");
    }
}
