//! Landlock: which files, which ports and whose signals.
//!
//! Every right is named. What a kernel does not know yet it cannot deny, so what a tier needs is
//! required and the others are taken where they are there.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use crate::filter::Allowances;
use crate::places::{Access, Place};
use crate::probe::Part;
use crate::profile::{Profile, Tier};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::Failure;

/// Restricts this thread, and whatever it becomes or makes, for good.
pub(crate) fn restrict(profile: &Profile, places: &[Place]) -> Result<(), Failure> {
    // The server makes connections to sockets in containers of groups for programs in T1.
    let moves = profile.tier == Tier::T2 || profile.groups.is_empty();
    restrict_to(profile.tier, profile.allowances(), places, moves)
}

pub(crate) fn restrict_to(
    tier: Tier,
    allowances: Allowances,
    places: &[Place],
    moves: bool,
) -> Result<(), Failure> {
    let missing = |part| move |source| Failure::Missing { tier, part, source };
    let ruleset = handled(tier, allowances)?;
    let mut ruleset = ruleset
        .create()
        .map_err(|error| missing(Part::Landlock)(cause(&error)))?;
    for place in places {
        let opened;
        let file = match (&place.file, PathFd::new(&place.path)) {
            (Some(file), _) => file.as_fd(),
            (None, Ok(path)) => {
                opened = path;
                opened.as_fd()
            }
            (None, Err(_)) => continue,
        };
        let access = access(place, file, moves).map_err(|source| Failure::Place {
            path: place.path.clone(),
            source,
        })?;
        let added = ruleset.add_rule(PathBeneath::new(file, access));
        ruleset = added.map_err(|error| Failure::Place {
            path: place.path.clone(),
            source: cause(&error),
        })?;
    }
    let status = ruleset
        .restrict_self()
        .map_err(|error| missing(Part::Landlock)(cause(&error)))?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(missing(Part::Landlock)(Errno::OPNOTSUPP.into())),
        _ => Ok(()),
    }
}

fn handled(tier: Tier, allowances: Allowances) -> Result<Ruleset, Failure> {
    let Allowances { client, server, .. } = allowances;
    let missing = |part| {
        move |error: landlock::RulesetError| Failure::Missing {
            tier,
            part,
            source: cause(&error),
        }
    };
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(missing(Part::Landlock))?;
    if tier == Tier::T1 {
        ruleset = ruleset
            .handle_access(AccessFs::Refer | AccessFs::Truncate)
            .map_err(missing(Part::Truncate))?
            .scope(Scope::Signal)
            .map_err(missing(Part::Scopes))?;
    }
    // Sockets without a path belong to the namespace of the network, which is everybody's then.
    if allowances.group_sockets && (client || server) {
        ruleset = ruleset
            .scope(Scope::AbstractUnixSocket)
            .map_err(missing(Part::Scopes))?;
    }
    let mut ruleset = ruleset
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5) | AccessFs::ResolveUnix)
        .map_err(missing(Part::Landlock))?
        .scope(Scope::Signal | Scope::AbstractUnixSocket)
        .map_err(missing(Part::Landlock))?;
    let ports = [
        (AccessNet::ConnectTcp, client),
        (AccessNet::BindTcp, server),
    ];
    for (right, granted) in ports {
        if !granted {
            let handled = ruleset.handle_access(right);
            ruleset = handled.map_err(missing(Part::Landlock))?;
        }
    }
    Ok(ruleset)
}

/// The rights on directories mean nothing on a file. Unless it `moves` them, nothing that is in an
/// exception gets into another directory: it could be somebody's socket.
fn access(place: &Place, file: BorrowedFd<'_>, moves: bool) -> io::Result<BitFlags<AccessFs>> {
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    let all = AccessFs::from_all(ABI::V5);
    let access = match place.access {
        Access::Read => AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir,
        Access::Processes => AccessFs::ReadFile | AccessFs::ReadDir,
        Access::Device => {
            AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev
        }
        Access::List => AccessFs::ReadDir.into(),
        Access::Write if moves => all & !devices & !AccessFs::MakeSock,
        Access::Write => all & !devices & !(AccessFs::MakeSock | AccessFs::Refer),
        Access::Own => (all | AccessFs::ResolveUnix) & !devices,
    };
    let status = rustix::fs::fstat(file)?;
    Ok(match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => access,
        _ => access & AccessFs::from_file(ABI::V5),
    })
}

/// What the kernel said, if it was asked; else that it does not know.
fn cause(error: &(dyn Error + 'static)) -> io::Error {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && let Some(errno) = error.raw_os_error()
        {
            return io::Error::from_raw_os_error(errno);
        }
        next = error.source();
    }
    Errno::OPNOTSUPP.into()
}
