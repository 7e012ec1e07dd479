//! Signals that end the command. A machine must not be left standing, with breakpoints in it, so they are
//! taken before there is one, and looked at where the command waits.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::anyhow;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use thiserror::Error;

/// From the keyboard, from others, and from a terminal that is closed.
const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Is set when one has come. The second one ends the command at once.
pub(crate) fn flag() -> io::Result<Arc<AtomicBool>> {
    let told = Arc::new(AtomicBool::new(false));
    for signal in ENDING {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&told))?;
        flag::register(signal, Arc::clone(&told))?;
    }
    Ok(told)
}

/// Which one has come.
pub(crate) struct Told {
    flag: Arc<AtomicBool>,
    /// 0 as long as there is none.
    signal: Arc<AtomicUsize>,
}

impl Told {
    /// Takes them from here on. The second one ends the command at once.
    pub(crate) fn new() -> io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        for ending in ENDING {
            flag::register_usize(ending, Arc::clone(&signal), ending.unsigned_abs() as usize)?;
        }
        let flag = self::flag()?;
        Ok(Self { flag, signal })
    }

    /// Is set when one has come.
    pub(crate) fn flag(&self) -> &Arc<AtomicBool> {
        &self.flag
    }

    /// What came of a command that one may have ended.
    pub(crate) fn or_ended<T>(&self, done: anyhow::Result<T>) -> anyhow::Result<T> {
        let ended = match self.signal.load(Ordering::Relaxed) {
            0 => return done,
            signal => Ended(signal as u8),
        };
        Err(match done {
            Ok(_) => anyhow!(ended),
            Err(error) => error.context(ended),
        })
    }
}

/// A command was ended by this signal.
#[derive(Debug, Error)]
#[error("ended by signal {0}")]
pub(crate) struct Ended(u8);

impl Ended {
    /// What a shell says of a program that it has ended.
    pub(crate) fn status(&self) -> u8 {
        128 + self.0
    }
}

/// Is readable when one has come.
pub(crate) fn stream() -> io::Result<UnixStream> {
    stream_of(&ENDING)
}

/// The same where the program beside this one gets SIGINT too, and knows what it means.
pub(crate) fn stream_beside_debugger() -> io::Result<UnixStream> {
    flag::register(SIGINT, Arc::default())?;
    stream_of(&[SIGTERM, SIGHUP])
}

fn stream_of(signals: &[i32]) -> io::Result<UnixStream> {
    let (told, signalled) = UnixStream::pair()?;
    for signal in signals {
        pipe::register(*signal, signalled.try_clone()?)?;
    }
    Ok(told)
}
