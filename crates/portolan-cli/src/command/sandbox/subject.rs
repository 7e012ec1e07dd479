//! The program that is asked about.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use portolan::JobLabel;
use portolan::bootstrap::Bootstrap;
use portolan::bootstrap::sandbox::{BoundJob, Bounds};
use portolan_sandbox::Entitlements;
use portolan_sandbox::probe::{Tiers, launcher};
use portolan_sandbox::profile::{Home, Isolation, Profile, Tier};
use portoland::job::{self, Job, Reading};
use portoland::launch;

use crate::args::sandbox::About;
use crate::command::run::own_home;
use crate::exit;

/// A program, what binds it, and where it would run.
pub(super) struct Subject {
    pub(super) label: JobLabel,
    pub(super) entitlements: Entitlements,
    pub(super) isolation: Isolation,
    pub(super) program: Option<PathBuf>,
    pub(super) home: Home,
    /// The user and the group, if it is not for this process to say.
    user: Option<(u32, u32)>,
}

impl Subject {
    /// A job file, if there is such a file, or else what the server knows by this label.
    pub(super) fn named(word: &str) -> anyhow::Result<Self> {
        let path = Path::new(word);
        if path.is_file() {
            return Self::of_file(path);
        }
        let label: JobLabel = word.parse().map_err(exit::usage)?;
        let bounds = Bootstrap::from_env()?.bounds(&label);
        Self::of_bounds(
            &label,
            bounds.with_context(|| format!("cannot tell of {label}"))?,
        )
    }

    /// A program that does not run.
    pub(super) fn described(file: &Path, about: &About) -> anyhow::Result<Self> {
        let entitlements = Entitlements::read(file).map_err(exit::configuration)?;
        let label = match &about.label {
            Some(label) => label.clone(),
            None => {
                let stem = file.file_stem().and_then(|stem| stem.to_str());
                let label = stem.unwrap_or_default().parse();
                label.with_context(|| format!("{} is no label; give one", file.display()))?
            }
        };
        let program = about
            .program
            .as_deref()
            .map(std::path::absolute)
            .transpose();
        Ok(Self {
            label,
            entitlements,
            isolation: about.isolation,
            program: program?,
            home: own_home()?,
            user: None,
        })
    }

    fn of_file(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let bytes = job::read_file(path).with_context(|| shown.to_string());
        let reading = Reading::of(&bytes.map_err(exit::configuration)?);
        let Some(job) = reading.job else {
            let advice = format!("{shown} is no job file; `portolan job lint` says why");
            return Err(exit::configuration(anyhow!(advice)));
        };
        let stance = launch::stance(&job).map_err(exit::configuration)?;
        let Job {
            label,
            entitlements,
            isolation,
            ..
        } = job;
        Ok(Self {
            label,
            entitlements: entitlements.unwrap_or_default(),
            isolation,
            program: Some(stance.program),
            home: stance.home,
            user: Some((stance.user, stance.group)),
        })
    }

    fn of_bounds(label: &JobLabel, bounds: Bounds) -> anyhow::Result<Self> {
        let entitlements = Entitlements::parse(&bounds.entitlements)?;
        let label = label.clone();
        let Some(job) = bounds.job else {
            return Ok(Self {
                label,
                entitlements,
                isolation: Isolation::Best,
                program: None,
                home: own_home()?,
                user: None,
            });
        };
        let BoundJob {
            user,
            group,
            program,
            home,
            data,
            isolation,
        } = job;
        Ok(Self {
            label,
            entitlements,
            isolation: isolation.parse()?,
            program: Some(PathBuf::from(&*program)),
            home: Home::new(PathBuf::from(&*home), Some(PathBuf::from(&*data))),
            user: Some((user, group)),
        })
    }

    /// Whether its entitlements mean anything.
    pub(super) fn is_confined(&self) -> bool {
        self.entitlements.app_sandbox
    }

    /// The tiers that there are for it on this machine.
    pub(super) fn tiers(&self) -> anyhow::Result<Tiers> {
        let launcher = launcher().context("cannot find portolan-launch")?;
        let is_root = rustix::process::geteuid().is_root();
        Ok(Tiers::probe(&launcher, self.user.filter(|_| is_root))?)
    }

    /// What it gets. A program that is not known is taken for a part of the system.
    pub(super) fn profile(&self, tier: Tier) -> anyhow::Result<Profile> {
        const ANY: &str = "/usr";
        let program = self.program.as_deref().unwrap_or(Path::new(ANY));
        let (entitlements, home) = (&self.entitlements, &self.home);
        let profile = Profile::resolve(entitlements, &self.label, program, home, tier);
        let mut profile = profile.map_err(exit::configuration)?;
        profile.kept_out.extend(portoland::daemon::own_places());
        Ok(profile)
    }
}
