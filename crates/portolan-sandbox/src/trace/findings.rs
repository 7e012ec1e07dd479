//! What a program has used, and the entitlements that grant it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use portolan_wire::group::GroupId;

use crate::calls::Used;
use crate::check::{Filter, Operation};
use crate::decision::{exception_for, group_of};
use crate::entitlements::{Entitlements, ExceptedPath};
use crate::key;
use crate::places::exceptions::real;
use crate::places::{self, Access, Place, PlaceError};
use crate::profile::{Excepted, Exception, Home, Profile};

/// So many files of one directory are granted with the directory.
const MANY: usize = 8;

/// The most paths that are noted.
const MAX_PATHS: usize = 100_000;

/// What a program has used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Files that were read or executed.
    read: BTreeSet<PathBuf>,
    /// Files that were written.
    written: BTreeSet<PathBuf>,
    /// Directories that were listed.
    listed: BTreeSet<PathBuf>,
    /// Directories in which something was made or removed.
    made_in: BTreeSet<PathBuf>,
    /// Where the program was started, if it has used a path that is relative to that.
    start: Option<PathBuf>,
    /// Paths of sockets.
    sockets: BTreeSet<PathBuf>,
    client: bool,
    server: bool,
    /// There were more paths than are noted.
    is_full: bool,
    /// Whether it was registered, whether it is one that goes with a pid, and the name.
    names: BTreeSet<(bool, bool, String)>,
    groups: Vec<GroupId>,
}

/// What a program would need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Learned {
    /// What grants it.
    pub entitlements: Entitlements,
    /// What no entitlement grants, or none that would not grant too much, in sentences.
    pub remarks: Vec<String>,
}

/// A path that has to be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Need {
    path: PathBuf,
    /// With all that is below it.
    is_tree: bool,
    write: bool,
}

impl Findings {
    /// Adds what a call uses, and where the program was started if it was named by that.
    pub(super) fn note(&mut self, used: Used, start: Option<&PathBuf>) {
        if let Some(start) = start {
            self.start = Some(start.clone());
        }
        let (list, path) = match used {
            Used::Read(path) | Used::Execute(path) => (&mut self.read, path),
            Used::Write(path) => (&mut self.written, path),
            Used::List(path) => (&mut self.listed, path),
            Used::Entry { directory, .. } => (&mut self.made_in, directory),
            Used::UnixSocket(path) => (&mut self.sockets, path),
            // A datagram socket of the network needs no connection.
            Used::Socket { datagrams } => return self.client |= datagrams,
            Used::Connect(_) => return self.client = true,
            Used::Bind(_) => return self.server = true,
        };
        match list.len() < MAX_PATHS {
            true => drop(list.insert(path)),
            false => self.is_full |= !list.contains(&path),
        }
    }

    /// Adds a name that the program has used with its bootstrap server.
    pub fn add_name(&mut self, operation: Operation, filter: Filter, name: &str) {
        let is_registered = operation == Operation::MachRegister;
        let is_per_pid = filter == Filter::LocalName;
        self.names
            .insert((is_registered, is_per_pid, name.to_owned()));
    }

    /// Adds a group of whose memory, semaphores or sockets the program has used some.
    pub fn add_group(&mut self, group: GroupId) {
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
    }

    /// The entitlements that grant all of it to a program with this profile, which has no exceptions.
    /// What a program has anyway is left out.
    ///
    /// # Errors
    ///
    /// [`PlaceError`]
    pub fn learned(&self, profile: &Profile, home: &Home) -> Result<Learned, PlaceError> {
        let mut learned = Learned::default();
        learned.entitlements.app_sandbox = true;
        learned.entitlements.network_client = self.client;
        learned.entitlements.network_server = self.server;
        if self.is_full {
            let remark = format!("of more than {MAX_PATHS} paths the others are left out");
            learned.remarks.push(remark);
        }
        learned.entitlements.application_groups = self.groups.clone();
        self.learn_names(profile, &mut learned.entitlements);
        self.learn_sockets(home, &mut learned);
        let groups = learned.entitlements.application_groups.iter();
        let profile = Profile {
            groups: groups.map(|group| home.group_container(group)).collect(),
            client: self.client,
            server: self.server,
            ..profile.clone()
        };
        let granted = places::of(&profile, &places::program(&profile))?;
        let needs = self.needs(&granted.places, home, &mut learned);
        for need in without_refused(needs, &profile, &mut learned)? {
            grant(&need, home, &mut learned);
        }
        Ok(learned)
    }

    fn learn_names(&self, profile: &Profile, entitlements: &mut Entitlements) {
        let own = profile.label.as_str();
        for (is_registered, is_per_pid, name) in &self.names {
            let rest = name.strip_prefix(own);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
                continue;
            }
            if let Some(group) = group_of_name(name) {
                add_group(entitlements, group);
                continue;
            }
            let list = match (is_registered, is_per_pid) {
                (true, false) => &mut entitlements.register_global,
                (true, true) => &mut entitlements.register_local,
                (false, false) => &mut entitlements.lookup_global,
                (false, true) => &mut entitlements.lookup_local,
            };
            list.push(name.clone());
        }
    }

    fn learn_sockets(&self, home: &Home, learned: &mut Learned) {
        for path in &self.sockets {
            let group = group_of(home, &real(path)).and_then(|group| group.parse().ok());
            match group {
                Some(group) => add_group(&mut learned.entitlements, group),
                None => {
                    let path = path.display();
                    let remark = format!("no entitlement is for the socket {path}");
                    learned.remarks.push(remark);
                }
            }
        }
    }

    /// What is not granted yet, and not by another need.
    fn needs(&self, granted: &[Place], home: &Home, learned: &mut Learned) -> Vec<Need> {
        let made_in = self.made_in.iter().map(|path| Need::tree(path, true));
        let written = self.written.iter().map(|path| Need::file(path, true));
        let listed = self.listed.iter().chain(&self.start);
        let listed = listed.map(|path| Need::tree(path, false));
        let read = self.read.iter().map(|path| Need::file(path, false));
        let needs = made_in.chain(written).chain(listed).chain(read);
        // What has gone by now was made by the program itself, where it may make things.
        let needs = needs.filter(|need| need.path.exists() && !need.is_granted(granted));
        let (wide, needs): (Vec<_>, Vec<_>) =
            needs.partition(|need| need.is_tree && is_wide(&need.path, home));
        for need in wide {
            let verb = if need.write { "make things in" } else { "list" };
            let path = need.path.display();
            learned.remarks.push(format!(
                "it wants to {verb} {path}: an exception for that would grant too much, and is left out"
            ));
        }
        let needs = folded(without_covered(needs), home);
        without_covered(needs)
    }
}

impl Need {
    fn tree(path: &Path, write: bool) -> Self {
        Self {
            path: path.to_owned(),
            is_tree: true,
            write,
        }
    }

    fn file(path: &Path, write: bool) -> Self {
        Self {
            path: path.to_owned(),
            is_tree: false,
            write,
        }
    }

    /// In a tree of its own a link is there if it is in a place, or on the way to one.
    fn is_granted(&self, granted: &[Place]) -> bool {
        let path = real(&self.path);
        let is_found = path == self.path
            || granted
                .iter()
                .any(|place| self.path.starts_with(&place.path));
        is_found
            && granted.iter().any(|place| {
                let is_enough = match place.access {
                    Access::Write | Access::Own => true,
                    Access::Read => !self.write,
                    Access::Device => !self.is_tree,
                    Access::List | Access::Processes => false,
                };
                is_enough && path.starts_with(real(&place.path))
            })
    }

    /// Whether it grants all that another does.
    fn covers(&self, other: &Self) -> bool {
        let is_there = match self.is_tree {
            true => other.path.starts_with(&self.path),
            false => other.path == self.path && !other.is_tree,
        };
        is_there && (self.write || !other.write)
    }

    fn exception(&self) -> Exception {
        let path = self.path.clone();
        Exception {
            what: match self.is_tree {
                true => Excepted::Tree(path),
                false => Excepted::File(path),
            },
            write: self.write,
        }
    }
}

/// A name that begins with `group.` is one of an application group.
fn group_of_name(name: &str) -> Option<GroupId> {
    let (group, _) = name.rsplit_once('.')?;
    let is_group = group.starts_with("group.");
    group.parse().ok().filter(|_| is_group)
}

fn add_group(entitlements: &mut Entitlements, group: GroupId) {
    if !entitlements.application_groups.contains(&group) {
        entitlements.application_groups.push(group);
    }
}

/// The home, what is above it, and what all programs share.
fn is_wide(path: &Path, home: &Home) -> bool {
    const SHARED: [&str; 4] = ["/etc", "/usr", "/var", "/run"];
    let path = real(path);
    real(&home.path).starts_with(&path) || SHARED.iter().any(|shared| path == Path::new(shared))
}

/// Of two that grant the same the first is kept.
fn without_covered(needs: Vec<Need>) -> Vec<Need> {
    let mut kept: Vec<Need> = Vec::new();
    for need in needs {
        if !kept.iter().any(|known| known.covers(&need)) {
            kept.retain(|known| !need.covers(known));
            kept.push(need);
        }
    }
    kept
}

/// With the directories of many files beside them.
fn folded(needs: Vec<Need>, home: &Home) -> Vec<Need> {
    let mut counts: BTreeMap<(&Path, bool), usize> = BTreeMap::new();
    for need in needs.iter().filter(|need| !need.is_tree) {
        if let Some(directory) = need.path.parent() {
            *counts.entry((directory, need.write)).or_default() += 1;
        }
    }
    let many = counts.into_iter().filter(|(_, count)| *count >= MANY);
    let many = many.filter(|((directory, _), _)| !is_wide(directory, home));
    let trees = many.map(|((directory, write), _)| Need::tree(directory, write));
    let trees: Vec<Need> = trees.collect();
    trees.into_iter().chain(needs).collect()
}

/// Those that an exception can be for.
fn without_refused(
    needs: Vec<Need>,
    profile: &Profile,
    learned: &mut Learned,
) -> Result<Vec<Need>, PlaceError> {
    let with_all = Profile {
        exceptions: needs.iter().map(Need::exception).collect(),
        ..profile.clone()
    };
    let refused = places::of(&with_all, &places::program(profile))?.refused;
    let is_refused = |need: &Need| refused.iter().any(|refused| refused.path == need.path);
    let remarks = refused.iter().map(ToString::to_string);
    learned.remarks.extend(remarks);
    Ok(needs.into_iter().filter(|need| !is_refused(need)).collect())
}

fn grant(need: &Need, home: &Home, learned: &mut Learned) {
    let remedy = exception_for(home, &need.path, need.is_tree, need.write);
    let entitlements = &mut learned.entitlements;
    let list = match remedy.key {
        key::READ_ONLY_HOME => &mut entitlements.read_only_home,
        key::READ_WRITE_HOME => &mut entitlements.read_write_home,
        key::READ_WRITE_ABSOLUTE => &mut entitlements.read_write_absolute,
        _ => &mut entitlements.read_only_absolute,
    };
    let is_text = need.path.to_str().is_some();
    let value = remedy.value.filter(|_| is_text);
    match value.and_then(|value| value.parse::<ExceptedPath>().ok()) {
        Some(path) => list.push(path),
        None => {
            let path = need.path.display();
            let remark = format!("an exception cannot name {path}");
            learned.remarks.push(remark);
        }
    }
}
