//! What there is in the world of a confined program, and what it may do there.

pub(crate) mod exceptions;
mod folders;

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::profile::{Profile, Tier};

/// A file or a directory with everything below it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where it is.
    pub path: PathBuf,
    /// What may be done there.
    pub access: Access,
    /// The same, if it is to be this one whatever becomes of the path.
    pub file: Option<Arc<OwnedFd>>,
    /// Why it is granted.
    pub origin: Origin,
}

impl Place {
    fn new(path: PathBuf, access: Access, origin: Origin) -> Self {
        Self {
            path,
            access,
            file: None,
            origin,
        }
    }
}

/// What a place is granted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Origin {
    /// Every program has it.
    System,
    /// An entitlement for the network needs it.
    Network,
    /// It is the program, or what is installed beside it.
    Program,
    /// An exception names it.
    Exception,
    /// It is the container of a group.
    Group,
    /// It is the program's own container.
    Container,
}

/// What a program may do at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// The names in a directory of a tree of its own, in which there is nothing but other places.
    List,
    /// Reading, and executing programs.
    Read,
    /// A device that does nothing to anybody.
    Device,
    /// The processes of this namespace, to read.
    Processes,
    /// Everything, but for devices and sockets. A program in T1 that has groups moves nothing from one
    /// directory to another there.
    Write,
    /// Everything, but for devices.
    Own,
}

impl Access {
    /// Whether it leaves nothing to grant to whoever has it.
    fn includes(self, other: Self) -> bool {
        match other {
            Self::Read => matches!(self, Self::Read | Self::Write | Self::Own),
            Self::Write => matches!(self, Self::Write | Self::Own),
            Self::Own => self == Self::Own,
            Self::List | Self::Device | Self::Processes => false,
        }
    }
}

/// Programs and libraries, on all kinds of distributions.
pub const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
];

/// Settings that programs and libraries cannot do without, and that say nothing about the users of
/// the machine. The whole of `/etc` does.
const SETTINGS: &[&str] = &[
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
];

/// What names of hosts are looked up with.
const OF_THE_NETWORK: &[&str] = &["/etc/hosts", "/etc/resolv.conf"];

const DEVICES: &[&str] = &[
    "/dev/full",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
];

/// What a program is granted.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Granted {
    /// What there is in its world, each below its parents.
    pub places: Vec<Place>,
    /// The links on the way to them; in T1 they are there anyway.
    pub links: Vec<Link>,
    /// What an exception names, and what is there and yet not granted.
    pub refused: Vec<Refused>,
}

/// A symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where it is.
    pub path: PathBuf,
    /// Where it leads to.
    pub target: PathBuf,
}

/// Something that is not granted although an exception names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its path.
    pub path: PathBuf,
    /// Why it is not granted.
    pub why: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not granted: {}", self.path.display(), self.why)
    }
}

/// What a program is to be granted cannot be looked at.
#[derive(Debug, Error)]
#[error("cannot grant {}", path.display())]
pub struct PlaceError {
    /// The path.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

/// All places that there are, each below its parents.
///
/// # Errors
///
/// [`PlaceError`]
pub fn of(profile: &Profile, program: &Path) -> Result<Granted, PlaceError> {
    let mut granted = exceptions::resolve(profile)?;
    let Granted { places, links, .. } = &mut granted;
    places.extend(everywhere(profile.tier));
    if profile.client || profile.server {
        places.extend(each(OF_THE_NETWORK, Access::Read, Origin::Network));
    }
    places.push(of_the_program(program));
    let groups = profile.groups.iter().map(|path| (path, Origin::Group));
    for (own, origin) in groups.chain([(&profile.container, Origin::Container)]) {
        if profile.tier == Tier::T2 {
            links.extend(exceptions::links(own));
        }
        places.push(Place::new(exceptions::real(own), Access::Own, origin));
    }
    sort(places);
    leave_out_what_is_included(places);
    Ok(granted)
}

fn leave_out_what_is_included(places: &mut Vec<Place>) {
    let mut above: Vec<(PathBuf, Access)> = Vec::new();
    places.retain(|place| {
        while above
            .last()
            .is_some_and(|(path, _)| !place.path.starts_with(path))
        {
            above.pop();
        }
        let included = above
            .iter()
            .any(|(_, access)| access.includes(place.access));
        if !included {
            above.push((place.path.clone(), place.access));
        }
        !included
    });
}

/// What every program has.
#[must_use]
pub fn everywhere(tier: Tier) -> Vec<Place> {
    let mut places: Vec<Place> = each(SYSTEM, Access::Read, Origin::System)
        .chain(each(SETTINGS, Access::Read, Origin::System))
        .chain(each(DEVICES, Access::Device, Origin::System))
        .collect();
    if tier == Tier::T2 {
        places.extend(each(&["/proc"], Access::Processes, Origin::System));
    }
    sort(&mut places);
    places
}

fn each(
    paths: &'static [&'static str],
    access: Access,
    origin: Origin,
) -> impl Iterator<Item = Place> {
    paths
        .iter()
        .map(move |path| Place::new(path.into(), access, origin))
}

/// Of the same place with two kinds of access the greater one comes last, and hides the other.
fn sort(places: &mut [Place]) {
    places.sort_by(|a, b| (&a.path, a.access).cmp(&(&b.path, b.access)));
}

/// The path by which the program is to be executed. What is no part of the system is there by its
/// real path only.
#[must_use]
pub fn program(profile: &Profile) -> PathBuf {
    let named = &profile.program;
    let is_system = SYSTEM.iter().any(|system| named.starts_with(system));
    match fs::canonicalize(named) {
        Ok(real) if !is_system => real,
        _ => named.clone(),
    }
}

/// The directory that a program was installed in, with its libraries and what else it needs. One
/// that anybody but root may change is no such place: the program may stand there beside anything,
/// and is all there is.
fn of_the_program(program: &Path) -> Place {
    let program = &fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let installed = program
        .parent()
        .filter(|directory| directory.ancestors().all(is_roots) && *directory != Path::new("/"));
    let path = installed.unwrap_or(program).to_owned();
    Place::new(path, Access::Read, Origin::Program)
}

/// Not to be written by a group or by others.
const MODE_OTHERS_WRITE: u32 = 0o022;

fn is_roots(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|found| {
        found.is_dir() && found.uid() == 0 && found.mode() & MODE_OTHERS_WRITE == 0
    })
}
