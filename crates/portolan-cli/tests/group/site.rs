//! A user's server, and jobs that it locks in. All is done by the command, for if the tests are root's,
//! the user is another.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use portolan_testkit::wait;
use serde_json::Value;

use crate::part::{CONTAINER, GROUP, PART};
use crate::world::World;

/// Long enough for a loaded machine; a test that waits this long has failed.
const TIME: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    T1,
    T2,
}

impl Tier {
    pub(crate) fn isolation(self) -> &'static str {
        match self {
            Self::T1 => "T1",
            Self::T2 => "required:T2",
        }
    }
}

/// Waits until something holds.
pub(crate) fn until(what: &str, holds: impl FnMut() -> bool) {
    wait::until(TIME, what, holds);
}

/// The server is started by the first command, and ends with the world.
pub(crate) struct Site {
    world: World,
}

impl Site {
    pub(crate) fn new() -> Self {
        let world = World::of_a_user();
        let own = std::env::current_exe().expect("this program");
        // A descriptor to write to it, in a child of another test, would keep it from being executed.
        let copied = Command::new("cp")
            .arg(own)
            .arg(world.path("bin/actor"))
            .status();
        assert!(copied.expect("cp").success());
        Self { world }
    }

    /// The tiers that there are. A machine without any cannot test walls.
    pub(crate) fn tiers(&self) -> Vec<Tier> {
        let file = self.world.write("probe.toml", entitlements("group.probe"));
        let file = file.to_str().expect("a path");
        let is_there = |tier: &Tier| {
            let run = [
                "run",
                "--isolation",
                tier.isolation(),
                "--entitlements",
                file,
                "--",
                "true",
            ];
            self.world.run(run).code == Some(0)
        };
        let found: Vec<_> = [Tier::T1, Tier::T2].into_iter().filter(is_there).collect();
        assert!(!found.is_empty(), "{}", self.world.log());
        found
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    fn container(&self) -> PathBuf {
        self.world
            .path("data/portolan/Group Containers")
            .join(GROUP)
    }

    /// Starts a job that plays a part.
    pub(crate) fn start(&self, (label, part): (&str, &str), tier: Tier, group: &str) {
        let file = format!(
            "Label = '{label}'\n\
             ProgramArguments = ['{}', '--exact', 'play_a_part', '--nocapture', '--test-threads=1']\n\
             EnvironmentVariables.{PART} = '{part}'\n\
             EnvironmentVariables.{CONTAINER} = '{}'\n\
             HardResourceLimits.Core = 0\n\
             RunAtLoad = true\n\
             Isolation = '{}'\n\
             [Entitlements]\n{}",
            self.world.path("bin/actor").display(),
            self.container().display(),
            tier.isolation(),
            entitlements(group),
        );
        let path = self.world.write("job.toml", file);
        self.world
            .run(["load", path.to_str().expect("a path")])
            .ok();
    }

    /// Waits for the end of a job, which must be a good one.
    pub(crate) fn expect_done(&self, label: &str) {
        let mut last = Value::Null;
        until("the job has ended", || {
            last = self.last_exit(label);
            !last.is_null()
        });
        assert_eq!(last["status"], 0, "{label}: {last} {}", self.said(label));
        self.world.run(["unload", label]).ok();
        until("the job is gone", || {
            self.world.run(["print", label]).code == Some(3)
        });
    }

    /// Waits until a job has published a name.
    pub(crate) fn until_published(&self, label: &str, name: &str) {
        until(&format!("{name} is published"), || {
            let last = self.last_exit(label);
            assert!(last.is_null(), "{label}: {last} {}", self.said(label));
            self.world.run(["status", name]).code == Some(0)
        });
    }

    /// How a job has ended; null if it runs, or has not run yet.
    fn last_exit(&self, label: &str) -> Value {
        let jobs = self.world.run(["jobs", "--json"]).ok();
        let jobs: Value = serde_json::from_slice(&jobs).expect("JSON");
        let mut jobs = jobs.as_array().expect("an array").iter();
        let job = jobs.find(|job| job["label"] == label).expect("the job");
        match &job["pid"] {
            Value::Null => job["last_exit"].clone(),
            _ => Value::Null,
        }
    }

    fn said(&self, label: &str) -> String {
        let said = self.world.run(["log", label]);
        let printed = self.world.run(["print", label]);
        let text = [said.stdout, printed.stdout].concat();
        String::from_utf8_lossy(&text).into_owned()
    }
}

pub(crate) fn entitlements(group: &str) -> String {
    format!(
        "\"com.apple.security.app-sandbox\" = true\n\
         \"com.apple.security.application-groups\" = [\"{group}\"]\n"
    )
}
