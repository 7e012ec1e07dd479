//! What a job with entitlements is confined with.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use portolan_sandbox::probe::{Tiers, launcher, privileges};
use portolan_sandbox::profile::{Home, Isolation, Profile, Tier};

use super::account::{Account, User};
use super::environment::{self, is_ours};
use super::{StartError, program};
use crate::daemon::own_places;
use crate::job::Job;
use rustix::thread::CapabilitySet;

/// The tiers that this machine has for each user, found out when the user's first job is confined.
#[derive(Debug, Default)]
pub(super) struct Walls(Mutex<BTreeMap<(u32, u32), Tiers>>);

/// What is started instead of the program, and what it needs.
#[derive(Debug)]
pub(super) struct Confinement {
    pub(super) launcher: PathBuf,
    /// The sealed profile.
    pub(super) profile: OwnedFd,
    /// What the launcher makes namespaces with. If it has them, the profile has the variables of
    /// the program, and the launcher gets none that are not the server's.
    pub(super) capabilities: CapabilitySet,
}

/// How a job is confined, and as whom it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ward {
    /// The tier.
    pub tier: Tier,
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
}

impl Walls {
    /// `None` if the job is not confined.
    pub(super) fn of(
        &self,
        job: &Job,
        directory: &Path,
        program: &Path,
        account: Option<&Account>,
        variables: &BTreeMap<OsString, OsString>,
    ) -> Result<Option<Confinement>, StartError> {
        let Some(entitlements) = &job.entitlements else {
            return Ok(None);
        };
        let Some(Ward { tier, .. }) = self.ward(job, account)? else {
            return Ok(None);
        };
        // The launcher finds out too late to tell whoever waits for the job.
        let program = directory.join(program);
        if let Err(source) = fs::metadata(&program) {
            return Err(program::explain(program, directory, source));
        }
        let launcher = launcher().map_err(StartError::Container)?;
        let home = home(job, account).map_err(StartError::Container)?;
        let mut profile = Profile::resolve(entitlements, &job.label, &program, &home, tier)?;
        profile.kept_out.extend(own_places());
        let capabilities = match tier {
            Tier::T2 if account.is_some() => privileges(),
            _ => CapabilitySet::empty(),
        };
        if !capabilities.is_empty() {
            let theirs = variables.iter().filter(|(name, _)| !is_ours(name));
            let theirs = theirs.map(|(name, value)| (name.clone(), value.clone()));
            profile.environment = theirs.collect();
        }
        let profile = profile.seal().map_err(StartError::Container)?;
        Ok(Some(Confinement {
            launcher,
            profile,
            capabilities,
        }))
    }

    /// `None` if the job is not confined.
    pub(super) fn ward(
        &self,
        job: &Job,
        account: Option<&Account>,
    ) -> Result<Option<Ward>, StartError> {
        if !job.is_confined() {
            return Ok(None);
        }
        let (uid, gid) = user(account);
        if uid == 0 {
            return Err(StartError::Root);
        }
        let launcher = launcher().map_err(StartError::Container)?;
        let tier = self.tier(job.isolation, &launcher, (uid, gid))?;
        Ok(Some(Ward { tier, uid, gid }))
    }

    fn tier(
        &self,
        isolation: Isolation,
        launcher: &Path,
        user: (u32, u32),
    ) -> Result<Tier, StartError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tiers = match known.get(&user) {
            Some(tiers) => *tiers,
            None => {
                let is_root = rustix::process::geteuid().is_root();
                let tiers = Tiers::probe(launcher, is_root.then_some(user))?;
                known.insert(user, tiers);
                tiers
            }
        };
        Ok(tiers.choose(isolation)?)
    }
}

/// Who and where a job is when it is started.
#[derive(Clone, Debug)]
pub struct Stance {
    /// The user that it runs as.
    pub user: u32,
    /// The user's group.
    pub group: u32,
    /// Its program.
    pub program: PathBuf,
    /// Its home, which may not be there yet.
    pub home: Home,
}

/// Tells who and where a job is when it is started. Nothing is made for it.
///
/// # Errors
///
/// [`StartError`], as starting it would say.
pub fn stance(job: &Job) -> Result<Stance, StartError> {
    let account = Account::of(job)?;
    let directory = job.working_directory.as_deref().unwrap_or(Path::new("/"));
    let search = environment::search(job);
    let program = directory.join(program::find(job, directory, Some(&search))?);
    let (user, group) = user(account.as_ref());
    let home = home_at(job, account.as_ref(), |user| {
        Ok(place_of(user, Path::new(HOMES)))
    });
    let home = home.map_err(StartError::Container)?;
    Ok(Stance {
        user,
        group,
        program,
        home,
    })
}

/// The user and the group that a job runs as.
fn user(account: Option<&Account>) -> (u32, u32) {
    match account {
        Some(account) => (account.identity.uid, account.identity.gid),
        None => (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        ),
    }
}

/// Where containers are: where the job's own variables say, else where those of the server do if
/// the job is the same user's.
fn home(job: &Job, account: Option<&Account>) -> io::Result<Home> {
    home_at(job, account, |user| home_of(user, Path::new(HOMES)))
}

fn home_at(
    job: &Job,
    account: Option<&Account>,
    of_user: impl Fn(&User) -> io::Result<Home>,
) -> io::Result<Home> {
    match account.and_then(|account| account.user.as_ref()) {
        None => home_here(Some(job)),
        Some(user) => match data_of(job) {
            None => of_user(user),
            data => Ok(Home::new(PathBuf::from(&user.home), data)),
        },
    }
}

/// Where containers are of programs that run as the server's user: jobs, and others.
pub(crate) fn home_here(job: Option<&Job>) -> io::Result<Home> {
    let data = job.and_then(data_of);
    let data = data.or_else(|| env::var_os(DATA).map(PathBuf::from));
    let home = env::var_os("HOME").ok_or(io::ErrorKind::NotFound)?;
    Ok(Home::new(home.into(), data))
}

const DATA: &str = "XDG_DATA_HOME";

fn data_of(job: &Job) -> Option<PathBuf> {
    job.environment_variables.get(DATA).map(PathBuf::from)
}

/// Homes for users who have none, as those of most services: a directory for each user id.
const HOMES: &str = "/var/lib/portolan/homes";

/// The user's own home, or one that is made below `homes`.
fn home_of(user: &User, homes: &Path) -> io::Result<Home> {
    let home = place_of(user, homes);
    if !home.path.starts_with(homes) {
        return Ok(home);
    }
    fs::create_dir_all(homes)?;
    match DirBuilder::new().mode(0o700).create(&home.path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => chown(&home.path, Some(user.uid), Some(user.gid))?,
    }
    Ok(home)
}

fn place_of(user: &User, homes: &Path) -> Home {
    let own = PathBuf::from(&user.home);
    let is_own = fs::metadata(&own).is_ok_and(|found| found.is_dir() && found.uid() == user.uid);
    let path = match is_own {
        true => own,
        false => homes.join(user.uid.to_string()),
    };
    Home::new(path, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_user_without_a_home_gets_one() {
        let homes = TempDir::new().expect("a directory");
        let uid = rustix::process::geteuid().as_raw();
        let user = |home: &Path| User {
            name: "x".to_owned(),
            uid,
            gid: rustix::process::getegid().as_raw(),
            home: home.to_str().expect("text").to_owned(),
            shell: String::new(),
        };
        let own = home_of(&user(homes.path()), Path::new("/nowhere")).expect("its own");
        assert_eq!(own.path, homes.path());
        for _ in 0..2 {
            let made = home_of(&user(Path::new("/nonexistent")), homes.path()).expect("a home");
            assert_eq!(made.path, homes.path().join(uid.to_string()));
            let mode = fs::metadata(&made.path).expect("it is there").mode();
            assert_eq!(mode & 0o7777, 0o700);
        }
    }
}
