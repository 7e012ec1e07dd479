//! The bootstrap right of a confined job is of use to that job alone.

use std::fs;
use std::path::{Path, PathBuf};

use portolan::bootstrap::jobs::JobState;
use portolan_testkit::usage::children;
use tempfile::TempDir;

use crate::site::{NAME, Site, until};

/// A user that confined jobs of root's server run as.
const DAEMON: u32 = 1;

/// A job that is confined, with a directory of its user and a copy of the command that it may execute.
struct Victim {
    directory: TempDir,
}

impl Victim {
    fn new(site: &Site) -> Self {
        let directory = TempDir::new().expect("a directory");
        let victim = Self { directory };
        fs::copy(site.world().program(), victim.command()).expect("copy");
        if rustix::process::geteuid().is_root() {
            let owner = Some(DAEMON);
            std::os::unix::fs::chown(victim.directory.path(), owner, owner).expect("chown");
        }
        victim
    }

    fn command(&self) -> PathBuf {
        self.directory.path().join("command")
    }

    fn wrote(&self, file: &str) -> Option<String> {
        let home = Path::new("portolan/Containers").join(NAME).join("Data");
        let path = self.directory.path().join(home).join(file);
        fs::read_to_string(path)
            .ok()
            .filter(|text| text.ends_with('\n'))
    }

    /// The job's file. What the script runs as `$portolan` is the command.
    fn job(&self, isolation: &str, script: &str) -> String {
        let user = match rustix::process::geteuid().is_root() {
            true => "UserName = 'daemon'\n",
            false => "",
        };
        let (data, command) = (self.directory.path().display(), self.command());
        let command = command.display();
        format!(
            "Label = '{NAME}'\nProgramArguments = ['sh', '-c', '''{script}''']\n{user}\
             RunAtLoad = true\nIsolation = '{isolation}'\n\
             EnvironmentVariables.XDG_DATA_HOME = '{data}'\n\
             EnvironmentVariables.portolan = '{command}'\n\
             [Entitlements]\n'com.apple.security.app-sandbox' = true\n\
             'com.apple.security.temporary-exception.files.absolute-path.read-only' = ['{command}']\n"
        )
    }
}

/// The process that has been started last of all that come of this one.
fn last_descendant(pid: u32) -> u32 {
    children(pid).last().copied().map_or(pid, last_descendant)
}

#[test]
fn w23_the_bootstrap_right_of_a_job_is_refused_to_another_job() {
    for isolation in ["T1", "best"] {
        let site = Site::new();
        let victim = Victim::new(&site);
        let script = "echo ready > $HOME/ready; exec sleep 1000";
        site.load(&victim.job(isolation, script));
        until("it is confined", || victim.wrote("ready").is_some());
        let inside = last_descendant(site.pid());
        site.load(&site.file("thief", &format!("borrow {inside}"), "RunAtLoad = true"));
        until("it has asked", || !site.lines("borrowed").is_empty());
        let asked = ["look-up 1100", "register 1100", "list 1100"];
        assert_eq!(site.lines("borrowed"), asked, "{isolation}");
        let log = site.lines("log").join("\n");
        let line = format!("thief uses the bootstrap right of {NAME}: refused");
        assert!(log.contains(&line), "{log}");
        assert_eq!(site.state(), JobState::Running);
    }
}

#[test]
fn w23_all_processes_of_a_job_use_its_bootstrap_right() {
    for isolation in ["T1", "best"] {
        let site = Site::new();
        let victim = Victim::new(&site);
        // The last one has left its session, and its parent has ended.
        let script = "$portolan list > /dev/null && echo $? > $HOME/child\n\
            (setsid sh -c \"sleep 0.2; $portolan list > /dev/null; echo \\$? > $HOME/orphan\" &)\n\
            exec sleep 1000";
        site.load(&victim.job(isolation, script));
        for file in ["child", "orphan"] {
            until("it has its answer", || victim.wrote(file).is_some());
            assert_eq!(victim.wrote(file).as_deref(), Some("0\n"), "{isolation}");
        }
        let log = site.lines("log").join("\n");
        assert!(!log.contains("refused"), "{log}");
    }
}
