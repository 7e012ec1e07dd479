//! What a program may do, told to people: whether, by which rule, and what would let it.
//!
//! The server and the launcher do not ask here. What they go by is the same: [`sandbox_check`]
//! for names, and the [`places`] of a [`Profile`] for files.
//!
//! [`sandbox_check`]: crate::sandbox_check

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use portolan_wire::group::GroupId;

use crate::check::{Filter, NameRule, Operation, remedy, rule_for_name};
use crate::entitlements::{Entitlements, ExceptedPath};
use crate::key;
use crate::places::exceptions::real;
use crate::places::{self, Access, Origin, Place, PlaceError};
use crate::profile::{Excepted, Exception, Home, Profile};

/// A program that is bound by its entitlements, and where it stands.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// What it may do.
    pub entitlements: &'a Entitlements,
    /// The same, for who and where it is.
    pub profile: &'a Profile,
    /// The home that the profile was made for.
    pub home: &'a Home,
}

/// What a program wants to do.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Wish<'a> {
    /// Use a name.
    Name(Operation, Filter, &'a str),
    /// Read a file, or list a directory.
    Read(&'a Path),
    /// Change a file, make it or remove it.
    Write(&'a Path),
    /// Execute a program.
    Execute(&'a Path),
    /// Make connections, and send.
    Connect,
    /// Wait for connections.
    Listen,
}

/// An entitlement that a program does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// Its key.
    pub key: &'static str,
    /// A value of it; `None` for one that is true or false.
    pub value: Option<String>,
}

/// As a line of an entitlement file.
impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value } = self;
        match value {
            Some(value) => write!(f, "\"{key}\" = [\"{}\"]", value.escape_debug()),
            None => write!(f, "\"{key}\" = true"),
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// It may.
    Allowed {
        /// What lets it.
        rule: String,
    },
    /// It may not.
    Denied {
        /// What it breaks.
        rule: String,
        /// What would let it, if an entitlement would.
        remedy: Option<Remedy>,
    },
}

/// Decides what a program may do, and tells why.
///
/// What the owner and the mode of a file say is another matter, and counts as well.
///
/// # Errors
///
/// [`PlaceError`], with which the program could not be started either.
pub fn decide(subject: &Subject<'_>, wish: Wish<'_>) -> Result<Decision, PlaceError> {
    let profile = subject.profile;
    Ok(match wish {
        Wish::Name(operation, filter, name) => about_name(subject, operation, filter, name),
        Wish::Read(path) => about_file(subject, path, Use::Read)?,
        Wish::Write(path) => about_file(subject, path, Use::Write)?,
        Wish::Execute(path) => about_file(subject, path, Use::Execute)?,
        Wish::Connect => about_network(profile.client, key::NETWORK_CLIENT),
        Wish::Listen => about_network(profile.server, key::NETWORK_SERVER),
    })
}

fn about_name(subject: &Subject<'_>, operation: Operation, filter: Filter, name: &str) -> Decision {
    let label = &subject.profile.label;
    let rule = match rule_for_name(label, subject.entitlements, operation, filter, name) {
        Some(NameRule::Own) => format!("a name of its own, which is or begins with {label}"),
        Some(NameRule::Group(group)) => format!("a name of its application group {group}"),
        Some(NameRule::Exception { key, value }) => {
            format!("{key} with \"{}\"", value.escape_debug())
        }
        None => {
            let (key, value) = remedy(operation, filter, name);
            return Decision::Denied {
                rule: "neither a name of its own, nor of a group of its, nor excepted".to_owned(),
                remedy: Some(Remedy {
                    key,
                    value: Some(value),
                }),
            };
        }
    };
    Decision::Allowed { rule }
}

fn about_network(granted: bool, key: &'static str) -> Decision {
    match granted {
        true => Decision::Allowed {
            rule: key.to_owned(),
        },
        false => Decision::Denied {
            rule: "the network is closed".to_owned(),
            remedy: Some(Remedy { key, value: None }),
        },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
    Execute,
}

impl Use {
    /// The devices do nothing to anybody, and are there to be written to.
    fn is_part_of(self, access: Access) -> bool {
        match access {
            Access::List => false,
            Access::Read => self != Self::Write,
            Access::Processes => self == Self::Read,
            Access::Device => self != Self::Execute,
            Access::Write | Access::Own => true,
        }
    }
}

/// What a program is granted, as it is when this is made.
#[derive(Debug)]
pub(crate) struct Reach {
    /// By the paths without links.
    places: Vec<(PathBuf, Place)>,
}

impl Reach {
    pub(crate) fn of(profile: &Profile) -> Result<Self, PlaceError> {
        let granted = places::of(profile, &places::program(profile))?;
        let places = granted.places.into_iter();
        let places = places.map(|place| {
            (
                real(&place.path),
                Place {
                    file: None,
                    ..place
                },
            )
        });
        Ok(Self {
            places: places.collect(),
        })
    }

    /// The places that a path without links is in.
    fn around(&self, path: &Path) -> impl Iterator<Item = &Place> {
        let around = self
            .places
            .iter()
            .filter(|(real, _)| path.starts_with(real));
        around.map(|(_, place)| place)
    }

    /// Whether a path is granted, however it is named.
    pub(crate) fn grants(&self, path: &Path, wanted: Use) -> bool {
        let path = real(path);
        let mut around = self.around(&path);
        around.any(|place| wanted.is_part_of(place.access))
    }

    /// Whether a directory may be listed, also one in which there is nothing but other places.
    pub(crate) fn lists(&self, path: &Path) -> bool {
        let path = real(path);
        let is_there =
            |(real, place): &(PathBuf, Place)| place.access == Access::List && *real == path;
        self.places.iter().any(is_there) || self.grants(&path, Use::Read)
    }
}

fn about_file(subject: &Subject<'_>, path: &Path, wanted: Use) -> Result<Decision, PlaceError> {
    let path = &real(path);
    let reach = Reach::of(subject.profile)?;
    let (allowing, others): (Vec<_>, Vec<_>) = reach
        .around(path)
        .partition(|place| wanted.is_part_of(place.access));
    if let Some(place) = nearest(allowing) {
        let rule = rule_of(subject, place);
        return Ok(Decision::Allowed { rule });
    }
    let remedy = remedy_for_file(subject.profile, subject.home, path, wanted)?;
    let rule = match (nearest(others), &remedy) {
        (_, Err(why)) => (*why).to_owned(),
        (Some(place), _) => format!("not for that: {}", rule_of(subject, place)),
        (None, _) => "nothing grants it".to_owned(),
    };
    let remedy = remedy.ok();
    Ok(Decision::Denied { rule, remedy })
}

fn nearest(places: Vec<&Place>) -> Option<&Place> {
    let rank = |place: &&Place| (place.path.as_os_str().len(), Reverse(place.origin));
    places.into_iter().max_by_key(rank)
}

fn rule_of(subject: &Subject<'_>, place: &Place) -> String {
    let path = place.path.display();
    match place.origin {
        Origin::System => format!("every program has {path}"),
        Origin::Network => format!("an entitlement for the network grants {path}"),
        Origin::Program => format!("{path} is the program, or is installed with it"),
        Origin::Container => format!("{path} is its container"),
        Origin::Group => format!("{path} is the container of its group"),
        Origin::Exception => {
            let key = exception_key(subject, place);
            format!("{} grants {path}", key.unwrap_or("an exception"))
        }
    }
}

/// The key of the exception that grants a place.
fn exception_key(subject: &Subject<'_>, place: &Place) -> Option<&'static str> {
    let entitlements = subject.entitlements;
    let (root, home) = (Path::new("/"), subject.home.path.as_path());
    let keys = [
        (
            &entitlements.read_only_absolute,
            root,
            key::READ_ONLY_ABSOLUTE,
        ),
        (&entitlements.read_only_home, home, key::READ_ONLY_HOME),
        (
            &entitlements.read_write_absolute,
            root,
            key::READ_WRITE_ABSOLUTE,
        ),
        (&entitlements.read_write_home, home, key::READ_WRITE_HOME),
    ];
    let keys = match place.access {
        Access::Write => &keys[2..],
        _ => &keys[..2],
    };
    let names = |path: &ExceptedPath, base| place.path.starts_with(real(&path.below(base)));
    let mut keys = keys.iter();
    let (_, _, key) = keys.find(|(paths, base, _)| paths.iter().any(|path| names(path, base)))?;
    Some(key)
}

/// What would grant a path without links: its group, or an exception. If none would, why not.
pub(crate) fn remedy_for_file(
    profile: &Profile,
    home: &Home,
    path: &Path,
    wanted: Use,
) -> Result<Result<Remedy, &'static str>, PlaceError> {
    if let Some(group) = group_of(home, path) {
        let key = key::APPLICATION_GROUPS;
        let value = Some(group);
        return Ok(Ok(Remedy { key, value }));
    }
    let write = wanted == Use::Write;
    let (there, is_tree) = nearest_there(path);
    let what = match is_tree {
        true => Excepted::Tree(there.clone()),
        false => Excepted::File(there.clone()),
    };
    let mut with_it = profile.clone();
    with_it.exceptions = vec![Exception { what, write }];
    let refused = places::of(&with_it, &with_it.program)?.refused;
    Ok(match refused.first() {
        Some(refused) => Err(refused.why),
        None => Ok(exception_for(home, &there, is_tree, write)),
    })
}

/// An exception is for what is there when the program is started: a file that is to be made needs
/// one for the directory that it is to be in.
fn nearest_there(path: &Path) -> (PathBuf, bool) {
    let mut there = path;
    loop {
        match (fs::metadata(there), there.parent()) {
            (Err(_), Some(parent)) => there = parent,
            (found, _) => {
                let is_tree = found.is_ok_and(|found| found.is_dir());
                return (there.to_owned(), is_tree);
            }
        }
    }
}

/// The exception that grants a path, relative to the home if it is below that.
#[must_use]
pub fn exception_for(home: &Home, path: &Path, is_tree: bool, write: bool) -> Remedy {
    let below = path.strip_prefix(real(&home.path));
    let below = below.ok().filter(|below| !below.as_os_str().is_empty());
    let (key, path) = match (below, write) {
        (Some(below), false) => (key::READ_ONLY_HOME, Path::new("/").join(below)),
        (Some(below), true) => (key::READ_WRITE_HOME, Path::new("/").join(below)),
        (None, false) => (key::READ_ONLY_ABSOLUTE, path.to_owned()),
        (None, true) => (key::READ_WRITE_ABSOLUTE, path.to_owned()),
    };
    let mut value = path.display().to_string();
    if is_tree && !value.ends_with('/') {
        value.push('/');
    }
    let value = Some(value);
    Remedy { key, value }
}

pub(crate) fn group_of(home: &Home, path: &Path) -> Option<String> {
    let below = path.strip_prefix(real(&home.group_containers())).ok()?;
    let first = below.components().next()?.as_os_str().to_str()?;
    let group: GroupId = first.parse().ok()?;
    (home.group_container(&group).file_name() == Some(OsStr::new(first))).then(|| first.to_owned())
}
