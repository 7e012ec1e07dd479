//! The terminal that a program is started in (statement 16).

use portolan_sys::by_number::Argument::{Number, Read};
use portolan_sys::by_number::{Call, call};
use rustix::fs::OFlags;
use rustix::termios::{isatty, tcgetpgrp, tcgetwinsize};

use super::super::attempt::{Attempt, Control, Granted, Refusal};
use super::super::outside::Outside;
use super::{Attempted, open};

pub(super) const ATTEMPTS: &[Attempt] = &[
    in_terminal("type_into", "TIOCSTI", |_| type_into(0x5412)).control(Control::Root),
    in_terminal("type_into_high", "TIOCSTI with bits above the 32nd", |_| {
        type_into(0x1_0000_5412)
    })
    .control(Control::Root),
    in_terminal("paste_into", "TIOCLINUX", |_| request(0x541c, b"\x03")).control(Control::Root),
    in_terminal("open_tty", "open /dev/tty", |_| {
        open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY)?;
        Ok(())
    }),
    in_terminal(
        "controlling_terminal",
        "have a controlling terminal",
        |_| {
            tcgetpgrp(rustix::stdio::stdin())?;
            Ok(())
        },
    ),
    in_terminal(
        "talk_to_terminal",
        "ask the terminal it is started in for its size",
        talk,
    )
    .works(),
];

const fn in_terminal(
    name: &'static str,
    what: &'static str,
    run: fn(&Outside) -> Attempted,
) -> Attempt {
    Attempt::new(16, name, what, run).granted(Granted::Terminal)
}

/// A terminal shows what is typed, and the line with the answer comes after it.
fn type_into(number: i64) -> Attempted {
    request(number, b"\n")
}

fn request(number: i64, byte: &[u8]) -> Attempted {
    call(
        Call::IOCTL_TYPE,
        &mut [Number(0), Number(number), Read(byte)],
    )?;
    Ok(())
}

fn talk(_: &Outside) -> Attempted {
    let terminal = rustix::stdio::stdin();
    tcgetwinsize(terminal)?;
    match isatty(terminal) {
        true => Ok(()),
        false => Err(Refusal::Nothing),
    }
}
