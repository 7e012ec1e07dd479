//! Every known way out of the walls, tried on this machine.
//!
//! Each attempt is made in a process of its own, confined as a program without entitlements is, in
//! each tier; before that, without walls, because what fails everywhere proves nothing. Outside
//! there are files, sockets, shared memory and a process of the same user, which is the worst case,
//! and which notices what is done to it. All of that is made for the test and removed after it, also
//! if the test is killed. If the test is root's, everything else belongs to the user 65534, whom most
//! systems call `nobody`.
//!
//! Two programs take part, which stand beside each other: `portolan-launch`, as for any program, and
//! `portolan-probe`, which makes the attempts.

mod attempt;
mod attempts;
mod errno;
mod outside;
mod program;
mod report;
mod start;
mod world;

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use portolan_sys::spawn::{Identity, SpawnError};
use portolan_wire::label::{JobLabel, LabelError};
use rustix::thread::CapabilitySet;
use thiserror::Error;

use crate::entitlements::Entitlements;
use crate::probe::{ProbeError, Tiers, privileges};
use crate::profile::{Profile, Tier};
use crate::report::REPORT;

use attempt::Control;
use world::{Programs, World};

pub use attempt::{Attempt, Granted, Outcome, Want};
pub use attempts::attempts;
pub use program::program;
pub use report::{Change, Report, Row, Verdict};

/// The file name of the program that makes attempts.
pub const PROBER: &str = "portolan-probe";

const GROUP: &str = "group.portolan.selftest";

fn label() -> Result<JobLabel, LabelError> {
    "portolan.selftest".parse()
}

/// Who the programs of root's tests are run as.
const NOBODY: u32 = 65534;

/// A test of the walls.
#[derive(Debug)]
pub struct Selftest {
    programs: Programs,
    user: Option<Identity>,
    reports: bool,
}

impl Selftest {
    /// One with this launcher.
    ///
    /// # Errors
    ///
    /// [`SelftestError::Prober`] if [`PROBER`] does not stand beside it.
    pub fn new(launcher: &Path) -> Result<Self, SelftestError> {
        let prober = launcher.with_file_name(PROBER);
        if !prober.is_file() {
            return Err(SelftestError::Prober { path: prober });
        }
        let is_root = rustix::process::geteuid().is_root();
        let nobody = || Identity {
            uid: NOBODY,
            gid: NOBODY,
            groups: Vec::new(),
            capabilities: CapabilitySet::empty(),
        };
        Ok(Self {
            programs: Programs {
                launcher: launcher.to_owned(),
                prober,
            },
            user: is_root.then(nobody),
            reports: false,
        })
    }

    /// Whether what is refused to the programs is reported. The walls are the same.
    #[must_use]
    pub fn with_reports(self, reports: bool) -> Self {
        Self { reports, ..self }
    }

    /// The tiers that there are for its user.
    ///
    /// # Errors
    ///
    /// [`SelftestError`]
    pub fn tiers(&self) -> Result<Tiers, SelftestError> {
        let world = World::new(&self.programs, self.user.as_ref())?;
        let user = self.user.as_ref().map(|user| (user.uid, user.gid));
        Ok(Tiers::probe(&world.programs.launcher, user)?)
    }

    /// Makes these attempts outside and in these tiers.
    ///
    /// # Errors
    ///
    /// [`SelftestError`]; whatever comes of an attempt is none.
    pub fn run(
        &self,
        tiers: &[Tier],
        attempts: &[&'static Attempt],
    ) -> Result<Report, SelftestError> {
        let mut world = World::new(&self.programs, self.user.as_ref())?;
        let mut report = Report::default();
        let before = world.state()?;
        for attempt in attempts {
            report.rows.push(self.outside(&world, attempt)?);
        }
        report.noticed = world.state()? != before;
        drop(world);
        for tier in tiers {
            let mut world = World::new(&self.programs, self.user.as_ref())?;
            let before = world.state()?;
            for row in &mut report.rows {
                let outcome = self.inside(&world, row.attempt, *tier)?;
                row.inside.push((*tier, outcome));
            }
            let after = world.state()?;
            if before != after {
                let tier = *tier;
                report.changes.push(Change {
                    tier,
                    before,
                    after,
                });
            }
        }
        Ok(report)
    }

    /// Without walls: as the user, and if that is refused as root of the machine or of a user
    /// namespace, where it can do no harm.
    fn outside(&self, world: &World, attempt: &'static Attempt) -> Result<Row, SelftestError> {
        let make = |part: &str, user| {
            let prober = &world.programs.prober;
            let mut arguments = self.around(world, attempt);
            arguments.push(prober.into());
            arguments.extend(part_of(part, attempt, world));
            let home = world.outside.home().container(&label()?);
            let program = PathBuf::from(arguments.remove(0));
            start::run(&program, &arguments, &home, user, None).map(start::Ended::outcome)
        };
        let mut row = Row {
            attempt,
            outside: None,
            privileged: false,
            inside: Vec::new(),
        };
        if attempt.control == Control::None {
            return Ok(row);
        }
        row.outside = Some(make("attempt", self.user.as_ref())?);
        if attempt.control == Control::Root && row.outside != Some(Outcome::Out) {
            let again = match self.user {
                Some(_) => make("privileged", None)?,
                None => make("namespaced", None)?,
            };
            row.privileged = again == Outcome::Out;
            if row.privileged {
                row.outside = Some(again);
            }
        }
        Ok(row)
    }

    fn inside(
        &self,
        world: &World,
        attempt: &'static Attempt,
        tier: Tier,
    ) -> Result<Outcome, SelftestError> {
        let profile = profile(world, attempt.granted, tier)?;
        let memory = profile.seal().map_err(SelftestError::Process)?;
        let mut command = self.around(world, attempt);
        let Programs { launcher, prober } = &world.programs;
        command.push(launcher.into());
        if self.reports {
            command.extend([REPORT.into(), start::REPORTER.to_string().into()]);
        }
        command.extend([start::PROFILE.to_string().into(), prober.into()]);
        command.extend(part_of("attempt", attempt, world));
        // As root's server does it.
        let capabilities = match tier {
            Tier::T1 => CapabilitySet::empty(),
            Tier::T2 => privileges(),
        };
        let user = self.user.clone().map(|user| Identity {
            capabilities,
            ..user
        });
        let program = PathBuf::from(command.remove(0));
        let directory = Path::new("/");
        let profile = Some(memory.as_fd());
        let ended = start::run(&program, &command, directory, user.as_ref(), profile)?;
        Ok(ended.outcome())
    }

    /// What stands before the command of an attempt.
    fn around(&self, world: &World, attempt: &Attempt) -> Vec<OsString> {
        match attempt.granted {
            Granted::Terminal => vec![(&world.programs.prober).into(), "terminal".into()],
            _ => Vec::new(),
        }
    }
}

fn part_of(part: &str, attempt: &Attempt, world: &World) -> Vec<OsString> {
    let mut arguments = vec![part.into(), attempt.name.into()];
    arguments.extend(world.outside.to_arguments());
    arguments
}

fn profile(world: &World, granted: Granted, tier: Tier) -> Result<Profile, SelftestError> {
    let more = match granted {
        Granted::Nothing | Granted::Terminal => String::new(),
        Granted::Group => format!("\"com.apple.security.application-groups\" = [\"{GROUP}\"]"),
        Granted::Client => "\"com.apple.security.network.client\" = true".to_owned(),
        Granted::Server => "\"com.apple.security.network.server\" = true".to_owned(),
        Granted::Programs => {
            let key = "com.apple.security.temporary-exception.files.absolute-path.read-only";
            format!("\"{key}\" = [{:?}]", world.outside.path("programs"))
        }
    };
    let text = format!("\"com.apple.security.app-sandbox\" = true\n{more}\n");
    let unusable = |error: &dyn std::error::Error| SelftestError::Profile(error.to_string());
    let entitlements = Entitlements::parse(text.as_bytes()).map_err(|error| unusable(&error))?;
    let home = world.outside.home();
    let prober = &world.programs.prober;
    let profile = Profile::resolve(&entitlements, &label()?, prober, &home, tier);
    profile.map_err(|error| unusable(&error))
}

/// The test could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SelftestError {
    /// [`PROBER`] is missing.
    #[error("{} is missing: `cargo build --release -p portolan-sandbox` makes it, installers put it beside the launcher", path.display())]
    Prober {
        /// Where it should be.
        path: PathBuf,
    },
    /// No place for what is outside.
    #[error("cannot make a temporary directory (TMPDIR says where)")]
    Directory(#[source] io::Error),
    /// Something that every process needs.
    #[error("cannot prepare a process")]
    Process(#[source] io::Error),
    /// A program cannot be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What failed.
        source: SpawnError,
    },
    /// What is outside could not be set up; its process has said why.
    #[error("what should be outside of the walls cannot be set up")]
    Outside,
    /// It is not known which tiers there are.
    #[error(transparent)]
    Tiers(#[from] ProbeError),
    /// The profile of an attempt is none: `TMPDIR` has a path that cannot be granted.
    #[error("cannot make a profile: {0}")]
    Profile(String),
    /// The label is none.
    #[error(transparent)]
    Label(#[from] LabelError),
}
