//! Which tiers this machine has, found out by doing what each of them does in a process that is
//! thrown away. Numbers of versions are not asked: a kernel may have a number and not what goes
//! with it, and a container or a security module may forbid what the kernel can do.

use std::env;
use std::ffi::CString;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use portolan_sys::spawn::{Descriptor, Identity, Spawn, spawn};
use rustix::fs::{Mode, OFlags};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::{CapabilitySet, capabilities};
use thiserror::Error;

use crate::profile::{Isolation, Tier};

/// The file name of the program that confines itself and becomes another one.
pub const LAUNCHER: &str = "portolan-launch";

/// Whether this program is the launcher if it is started by that name.
pub(crate) static OWN_LAUNCHER: AtomicBool = AtomicBool::new(false);

/// What is to be started, by the name [`LAUNCHER`], to confine a program: the launcher beside this
/// program, or in the directory above, where the programs of a build are in relation to their tests,
/// or in `../libexec/portolan`; else this program itself, if it calls
/// [`launch::instead`](crate::launch::instead).
///
/// # Errors
///
/// `ENOENT` if there is none.
pub fn launcher() -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    let places = [
        Path::new("."),
        Path::new(".."),
        Path::new("../libexec/portolan"),
    ];
    let mut candidates = places.iter().map(|place| beside.join(place).join(LAUNCHER));
    let found = candidates.find(|path| path.is_file());
    match found {
        Some(found) => found.canonicalize(),
        None if OWN_LAUNCHER.load(Ordering::Relaxed) => Ok(program),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Whether everybody may execute a program, and the directories above it let everybody through.
#[must_use]
pub fn is_everybodys(program: &Path) -> bool {
    let may = |path: &Path, mode| {
        path.metadata()
            .is_ok_and(|found| found.permissions().mode() & mode == mode)
    };
    may(program, 0o005) && program.ancestors().skip(1).all(|path| may(path, 0o001))
}

/// A part of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// Filters for what this machine is.
    Architecture,
    /// Another user than root.
    User,
    /// Landlock.
    Landlock,
    /// Landlock's right to truncate files, from Linux 6.2.
    Truncate,
    /// Landlock's scopes of signals and of sockets without a path, from Linux 6.12.
    Scopes,
    /// Filters of system calls.
    Filter,
    /// Namespaces, for this user.
    Namespaces,
    /// Mounts in a namespace of its own.
    Mounts,
    /// A `/proc` of its own.
    Proc,
}

const PARTS: &[(Part, &str, &str)] = &[
    (
        Part::Architecture,
        "architecture",
        "a filter for this architecture",
    ),
    (Part::User, "user", "a user that is not root"),
    (
        Part::Landlock,
        "landlock",
        "Landlock (CONFIG_SECURITY_LANDLOCK, and landlock in lsm=)",
    ),
    (
        Part::Truncate,
        "truncate",
        "Landlock's right to truncate files (Linux 6.2)",
    ),
    (
        Part::Scopes,
        "scopes",
        "Landlock's scopes of signals and sockets (Linux 6.12)",
    ),
    (
        Part::Filter,
        "filter",
        "filters of system calls (CONFIG_SECCOMP_FILTER)",
    ),
    (
        Part::Namespaces,
        "namespaces",
        "user namespaces (user.max_user_namespaces, kernel.unprivileged_userns_clone)",
    ),
    (
        Part::Mounts,
        "mounts",
        "mounts in a user namespace (a security module may forbid them)",
    ),
    (
        Part::Proc,
        "proc",
        "a new /proc (a container may forbid it)",
    ),
];

impl Part {
    /// A word for it, without spaces.
    #[must_use]
    pub fn word(self) -> &'static str {
        PARTS
            .iter()
            .find(|(part, ..)| *part == self)
            .map_or("", |(_, word, _)| word)
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let row = PARTS.iter().find(|(part, ..)| part == self);
        f.write_str(row.map_or("", |(_, _, text)| text))
    }
}

/// What a tier lacks here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{tier} needs {part}: {}", io::Error::from(*errno))]
pub struct Missing {
    /// The tier.
    pub tier: Tier,
    /// The part of it.
    pub part: Part,
    /// What the kernel said.
    pub errno: rustix::io::Errno,
}

/// The tiers of this machine, for one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiers {
    /// Whether there is T1, or what it lacks.
    pub t1: Result<(), Missing>,
    /// Whether there is T2, or what it lacks.
    pub t2: Result<(), Missing>,
}

impl Tiers {
    /// Runs the launcher, which tries what it would do: as this user and group, or as those of this
    /// process if none are given.
    ///
    /// # Errors
    ///
    /// [`ProbeError`]
    pub fn probe(launcher: &Path, user: Option<(u32, u32)>) -> Result<Self, ProbeError> {
        let failed = |source| ProbeError::Launcher {
            path: launcher.to_owned(),
            source,
        };
        let identity = user.map(|(uid, gid)| Identity {
            uid,
            gid,
            groups: vec![gid],
            capabilities: privileges(),
        });
        let text = answer(launcher, identity.as_ref()).map_err(failed)?;
        text.parse()
    }

    /// The tier for a program that is to be isolated like this.
    ///
    /// # Errors
    ///
    /// [`Missing`]: no other tier is taken than the one that is required.
    pub fn choose(&self, isolation: Isolation) -> Result<Tier, Missing> {
        match isolation {
            Isolation::Required(Tier::T2) => self.t2.map(|()| Tier::T2),
            Isolation::Required(Tier::T1) => self.t1.map(|()| Tier::T1),
            Isolation::Best => match self.t2 {
                Ok(()) => Ok(Tier::T2),
                Err(_) => self.t1.map(|()| Tier::T1),
            },
        }
    }
}

/// What root's server hands on to the launcher for T2: with it, there can be namespaces where users
/// cannot make any. Nothing, if this process has no privileges or not those.
#[must_use]
pub fn privileges() -> CapabilitySet {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::SETPCAP;
    let own = capabilities(None).map_or(CapabilitySet::empty(), |own| own.permitted);
    match own.contains(needed) {
        true => needed,
        false => CapabilitySet::empty(),
    }
}

/// What the launcher says of its tiers. It is waited for by its descriptor, since whoever calls
/// this may have other children.
fn answer(launcher: &Path, identity: Option<&Identity>) -> io::Result<String> {
    const NOTHING: Descriptor<'_> = Descriptor::File {
        path: c"/dev/null",
        flags: OFlags::RDWR,
        mode: Mode::empty(),
    };
    let (mut reader, writer) = io::pipe()?;
    let program = CString::new(launcher.as_os_str().as_bytes())?;
    let started = spawn(&Spawn {
        program: &program,
        arguments: &[CString::new(LAUNCHER)?, CString::new(PROBE)?],
        environment: &[],
        pid_variable: None,
        directory: Some(c"/"),
        descriptors: &[NOTHING, Descriptor::Inherited(writer.as_fd()), NOTHING],
        umask: None,
        nice: None,
        batch: false,
        limits: &[],
        identity,
        session: false,
        cgroup: None,
    });
    let started = started.map_err(|error| error.source)?;
    drop(writer);
    let mut text = String::new();
    let read = reader.read_to_string(&mut text);
    // Somebody else may have waited for it already.
    waitid(WaitId::PidFd(started.pidfd.as_fd()), WaitIdOptions::EXITED).ok();
    read.map(|_| text)
}

/// The argument that tells the launcher to try the tiers.
pub const PROBE: &str = "--probe";

impl std::fmt::Display for Tiers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (tier, found) in [(Tier::T1, self.t1), (Tier::T2, self.t2)] {
            match found {
                Ok(()) => writeln!(f, "{tier} ok")?,
                Err(Missing { part, errno, .. }) => {
                    writeln!(f, "{tier} lacks {} {}", part.word(), errno.raw_os_error())?;
                }
            }
        }
        Ok(())
    }
}

/// As the launcher prints them.
impl FromStr for Tiers {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        let mut lines = text.lines();
        let mut next = |tier| read(tier, lines.next().unwrap_or_default());
        let (t1, t2) = (next(Tier::T1)?, next(Tier::T2)?);
        Ok(Self { t1, t2 })
    }
}

fn read(tier: Tier, line: &str) -> Result<Result<(), Missing>, ProbeError> {
    let words: Vec<&str> = line.split(' ').collect();
    let name = tier.to_string();
    match *words {
        [first, "ok"] if first == name => Ok(Ok(())),
        [first, "lacks", word, errno] if first == name => {
            let part = PARTS.iter().find(|(_, known, _)| *known == word);
            let (part, ..) = part.ok_or(ProbeError::Answer)?;
            let errno: i32 = errno.parse().map_err(|_| ProbeError::Answer)?;
            Ok(Err(Missing {
                tier,
                part: *part,
                errno: rustix::io::Errno::from_raw_os_error(errno),
            }))
        }
        _ => Err(ProbeError::Answer),
    }
}

/// It is not known what this machine has.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The launcher cannot be run.
    #[error("cannot run {}", path.display())]
    Launcher {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The launcher has answered something else: it is of another version, or was killed.
    #[error("the launcher does not say which tiers there are")]
    Answer,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn tiers_are_read_as_they_are_written() {
        for (part, word, _) in PARTS {
            assert_eq!(part.word(), *word);
            let missing = Missing {
                tier: Tier::T2,
                part: *part,
                errno: Errno::NOSPC,
            };
            let tiers = Tiers {
                t1: Ok(()),
                t2: Err(missing),
            };
            let read: Tiers = tiers.to_string().parse().expect("tiers");
            assert_eq!(read, tiers);
        }
        for wrong in ["", "T1 ok\n", "T2 ok\nT1 ok\n", "T1 ok\nT2 lacks x 1\n"] {
            wrong.parse::<Tiers>().expect_err(wrong);
        }
    }

    #[test]
    fn what_is_required_is_not_weakened() {
        let missing = Missing {
            tier: Tier::T2,
            part: Part::Namespaces,
            errno: Errno::NOSPC,
        };
        let tiers = Tiers {
            t1: Ok(()),
            t2: Err(missing),
        };
        assert_eq!(tiers.choose(Isolation::Best), Ok(Tier::T1));
        assert_eq!(tiers.choose(Isolation::Required(Tier::T1)), Ok(Tier::T1));
        let error = tiers.choose(Isolation::Required(Tier::T2)).expect_err("T2");
        assert!(error.to_string().contains("user namespaces"), "{error}");
    }
}
