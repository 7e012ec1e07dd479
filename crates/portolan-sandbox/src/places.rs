//! What there is in the world of a confined program, and what it may do there.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::profile::{Profile, Tier};

/// A file or a directory with everything below it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where it is.
    pub path: PathBuf,
    /// What may be done there.
    pub access: Access,
}

/// What a program may do at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Reading, and executing programs.
    Read,
    /// A device that does nothing to anybody.
    Device,
    /// The processes of this namespace, to read.
    Processes,
    /// Everything, but for devices.
    Write,
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

/// All places that there are, each below its parents.
#[must_use]
pub fn of(profile: &Profile, program: &Path) -> Vec<Place> {
    let mut places = everywhere(profile.tier);
    if profile.client || profile.server {
        places.extend(each(OF_THE_NETWORK, Access::Read));
    }
    places.push(of_the_program(program));
    for exception in &profile.exceptions {
        places.push(Place {
            path: exception.path.clone(),
            access: match exception.write {
                true => Access::Write,
                false => Access::Read,
            },
        });
    }
    for own in profile.groups.iter().chain([&profile.container]) {
        places.push(Place {
            path: own.clone(),
            access: Access::Write,
        });
    }
    sort(&mut places);
    places
}

/// What every program has.
#[must_use]
pub fn everywhere(tier: Tier) -> Vec<Place> {
    let mut places: Vec<Place> = each(SYSTEM, Access::Read)
        .chain(each(SETTINGS, Access::Read))
        .chain(each(DEVICES, Access::Device))
        .collect();
    if tier == Tier::T2 {
        places.extend(each(&["/proc"], Access::Processes));
    }
    sort(&mut places);
    places
}

fn each(paths: &'static [&'static str], access: Access) -> impl Iterator<Item = Place> {
    paths.iter().map(move |path| Place {
        path: path.into(),
        access,
    })
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
    Place {
        path: installed.unwrap_or(program).to_owned(),
        access: Access::Read,
    }
}

/// Not to be written by a group or by others.
const MODE_OTHERS_WRITE: u32 = 0o022;

fn is_roots(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|found| {
        found.is_dir() && found.uid() == 0 && found.mode() & MODE_OTHERS_WRITE == 0
    })
}
