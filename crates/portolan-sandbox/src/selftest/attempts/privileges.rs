//! Gaining privileges (statement 17).

use std::process::Command;

use rustix::process::Uid;
use rustix::thread::{capabilities, no_new_privs, set_thread_uid};

use super::super::attempt::{Attempt, Control, Granted, Refusal};
use super::super::outside::Outside;
use super::Attempted;

pub(super) const ATTEMPTS: &[Attempt] = &[
    Attempt::new(
        17,
        "set_user_id",
        "setuid-root binary gains uid 0",
        set_user_id,
    )
    .granted(Granted::Programs),
    Attempt::new(17, "become_root", "setuid(0)", |_| {
        Ok(set_thread_uid(Uid::ROOT)?)
    })
    .control(Control::Root),
    Attempt::new(
        17,
        "any_capability",
        "any capability effective",
        any_capability,
    )
    .control(Control::Root),
    Attempt::new(
        17,
        "new_privileges",
        "be without no_new_privs",
        |_| match no_new_privs()? {
            false => Ok(()),
            true => Err(Refusal::Nothing),
        },
    ),
];

/// Only root can make such a program.
fn set_user_id(outside: &Outside) -> Attempted {
    let program = outside.set_user_id.as_deref().ok_or(Refusal::Absent)?;
    match Command::new(program).status()?.success() {
        true => Ok(()),
        false => Err(Refusal::Nothing),
    }
}

fn any_capability(_: &Outside) -> Attempted {
    let sets = capabilities(None)?;
    match (sets.effective | sets.permitted | sets.inheritable).is_empty() {
        true => Err(Refusal::Nothing),
        false => Ok(()),
    }
}
