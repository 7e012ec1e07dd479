//! Job files that were written for launchd, and the three forms of one.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use portolan::bootstrap::jobs::{FailureKind, JobState};
use portolan::{ReplyError, SendErrorKind};
use serde_json::Value;

use crate::site::{Site, ask, until};
use crate::world::ran;

/// After one of Apple's tests of the kernel: MachServices with ResetAtClose, ThrottleInterval,
/// LaunchOnlyOnce.
const XNU: &str = include_str!("../../../portoland/tests/jobs/xnu-mach-port.plist");
const LABEL: &str = "com.apple.xnu.test.mach_port";

#[test]
fn l41_a_file_for_launchd_loads_unchanged() {
    let site = Site::new();
    load(&site, "xnu.plist", XNU).ok();
    let job = site
        .bootstrap
        .job(&LABEL.parse().expect("label"))
        .expect("job");
    assert_eq!(job.summary.state, JobState::Idle);
    let right = site
        .bootstrap
        .look_up(&LABEL.parse().expect("name"))
        .expect("look up");
    let Err(ReplyError::Failed(why)) = ask(&right) else {
        panic!("it has no program here");
    };
    let is_program = |path: &str| path == "/AppleInternal/Tests/xnu/darwin-tests/mach_port";
    assert!(
        matches!(&why.kind, FailureKind::Exec { path, .. } if is_program(path)),
        "{why}"
    );
    // ResetAtClose holds for a program that is not there, too.
    until("the port is dead", || {
        let sent = right.send_bytes(1, b"", portolan::Timeout::POLL);
        matches!(sent, Err(SendErrorKind::DeadName))
    });
}

#[test]
fn l41_a_misspelt_key_is_an_error_with_file_key_and_suggestion() {
    let site = Site::new();
    let wrong = XNU.replace("ThrottleInterval", "ThrotleInterval");
    let line = 1 + wrong
        .lines()
        .position(|line| line.contains("Throtle"))
        .expect("the key");
    load(&site, "xnu.plist", &wrong).fails(
        78,
        &format!(
            "{}:{line}:2: error: ThrotleInterval: unknown key, did you mean ThrottleInterval?",
            site.path("xnu.plist").display()
        ),
    );
    assert_eq!(site.bootstrap.jobs().expect("jobs"), []);
}

#[test]
fn l41_all_three_forms_are_the_same_job() {
    let site = Site::new();
    let xml = site.write("job.xml", XNU);
    let convert = |form: &str| {
        let arguments = ["job", "convert", "--to", form, &xml.display().to_string()];
        site.world().run(arguments).ok()
    };
    let forms = ["toml", "xml", "binary"];
    let jobs: Vec<Value> = forms
        .iter()
        .map(|form| {
            let file = site.write(&format!("job.{form}"), convert(form));
            let printed = loaded_as(&site, &file);
            site.bootstrap
                .unload(&LABEL.parse().expect("label"))
                .expect("unload");
            until("it is gone", || {
                site.bootstrap.jobs().expect("jobs").is_empty()
            });
            printed
        })
        .collect();
    assert_eq!(jobs[0]["Label"], LABEL);
    assert_eq!(jobs[0]["MachServices"][LABEL]["ResetAtClose"], true);
    assert_eq!((&jobs[0], &jobs[1]), (&jobs[1], &jobs[2]));
}

/// Loads a file, and gives the job that it holds.
fn loaded_as(site: &Site, file: &Path) -> Value {
    let bytes = std::fs::read(file).expect("read");
    site.bootstrap.load(file, &bytes).expect("load");
    let linted = site
        .world()
        .run(["job", "lint", "--json", &file.display().to_string()])
        .ok();
    let linted: Value = serde_json::from_slice(&linted).expect("JSON");
    linted[0]["job"].clone()
}

/// Loads a file with the command.
fn load(site: &Site, name: &str, text: &str) -> crate::world::Ran {
    let file = site.write(name, text);
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("permissions");
    let mut command = site.world().command(["load"]);
    ran(command.arg(file).output().expect("run"))
}
