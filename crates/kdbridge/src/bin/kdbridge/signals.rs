//! Signals that end the command. A machine must not be left standing, with breakpoints in it, so they are
//! taken before there is one, and looked at where the command waits.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

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
