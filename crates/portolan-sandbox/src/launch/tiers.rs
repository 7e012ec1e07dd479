//! Trying the tiers, each in a child that is thrown away.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use crate::filter::{Allowances, Architecture, filter};
use crate::places::{self, Granted};
use crate::probe::{Missing, Part, Tiers};
use crate::profile::Tier;
use portolan_sys::confine::{self, Fork};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getpid, test_kill_process, waitpid};

use super::{Failure, end, privileges, relay, rights, root};

pub(crate) fn report() -> Result<(), Failure> {
    let tiers = Tiers {
        t1: attempt(Tier::T1, |parent| {
            privileges::drop_all().map_err(Failure::Privileges)?;
            let places = places::everywhere(Tier::T1);
            rights::restrict_to(Tier::T1, Allowances::default(), &places, true)?;
            try_filter(Tier::T1)?;
            try_signal(parent)
        }),
        t2: attempt(Tier::T2, |_| {
            relay::enter_namespaces(false)?;
            let inside = confine::fork().map_err(Failure::Process)?;
            match inside {
                Fork::Parent(child) => pass_on(child),
                Fork::Child => {
                    let granted = Granted {
                        places: places::everywhere(Tier::T2),
                        ..Granted::default()
                    };
                    root::build(&granted)?;
                    privileges::drop_all().map_err(Failure::Privileges)?;
                    let places = &granted.places;
                    rights::restrict_to(Tier::T2, Allowances::default(), places, true)?;
                    try_filter(Tier::T2)
                }
            }
        }),
    };
    let written = io::stdout().write_all(tiers.to_string().as_bytes());
    written.map_err(Failure::Descriptors)
}

/// Does it in a child, which tells what was missing through a pipe.
fn attempt(tier: Tier, what: impl FnOnce(Pid) -> Result<(), Failure>) -> Result<(), Missing> {
    let unknown = |error: io::Error| Missing {
        tier,
        part: Part::Namespaces,
        errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
    };
    let parent = getpid();
    let (mut reader, writer) = io::pipe().map_err(unknown)?;
    match confine::fork().map_err(unknown)? {
        Fork::Child => {
            drop(reader);
            let result = super::refuse_root().and_then(|()| what(parent));
            tell(writer.into(), &result)
        }
        Fork::Parent(child) => {
            drop(writer);
            let mut answer = String::new();
            reader.read_to_string(&mut answer).map_err(unknown)?;
            waitpid(Some(child), WaitOptions::empty()).map_err(|error| unknown(error.into()))?;
            read(tier, &answer)
        }
    }
}

/// One answer: of the part that is missing only the first is told.
fn tell(writer: std::os::fd::OwnedFd, result: &Result<(), Failure>) -> ! {
    let (part, source) = match result {
        Ok(()) => ("ok", 0),
        Err(Failure::Missing { part, source, .. }) => (part.word(), errno(source)),
        Err(Failure::Root) => (Part::User.word(), Errno::PERM.raw_os_error()),
        Err(Failure::Place { source, .. }) => (Part::Mounts.word(), errno(source)),
        Err(Failure::Process(source)) => (Part::Namespaces.word(), errno(source)),
        Err(_) => (Part::Filter.word(), Errno::IO.raw_os_error()),
    };
    let answer = format!("{part} {source}");
    let written = File::from(writer).write_all(answer.as_bytes());
    end(u8::from(written.is_err()))
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())
}

/// A child that was killed has told nothing: that is what a filter does to calls it does not like.
fn read(tier: Tier, answer: &str) -> Result<(), Missing> {
    if answer == "ok 0" {
        return Ok(());
    }
    let text = format!("T1 lacks {answer}\nT2 lacks {answer}\n");
    let missing = text.parse::<Tiers>().ok();
    let missing = missing.and_then(|tiers| match tier {
        Tier::T1 => tiers.t1.err(),
        Tier::T2 => tiers.t2.err(),
    });
    Err(missing.unwrap_or(Missing {
        tier,
        part: Part::Filter,
        errno: Errno::NOSYS,
    }))
}

/// The answer is the grandchild's, which has written it; it must have ended well, too.
fn pass_on(child: Pid) -> Result<(), Failure> {
    let ended = waitpid(Some(child), WaitOptions::empty());
    let ended = ended.map_err(|error| Failure::Process(error.into()))?;
    match ended {
        Some((_, status)) if status.exit_status() == Some(0) => end(0),
        _ => end(1),
    }
}

fn try_filter(tier: Tier) -> Result<(), Failure> {
    let missing = |part| move |source| Failure::Missing { tier, part, source };
    let architecture = Architecture::current().ok_or(io::ErrorKind::Unsupported.into());
    let architecture = architecture.map_err(missing(Part::Architecture))?;
    let program = filter(architecture, Allowances::default());
    confine::install_filter(&program).map_err(missing(Part::Filter))
}

/// Some kernels say that they have the scope of signals, and do not.
fn try_signal(parent: Pid) -> Result<(), Failure> {
    match test_kill_process(parent) {
        Err(Errno::PERM) => Ok(()),
        _ => Err(Failure::Missing {
            tier: Tier::T1,
            part: Part::Scopes,
            source: Errno::OPNOTSUPP.into(),
        }),
    }
}
