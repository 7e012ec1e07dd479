//! Real programs as jobs, in a server of their own: programs of this workspace, foreign daemons that
//! know nothing of it, files written for launchd, other users, and a service manager.

#[expect(dead_code, reason = "not all of it is for these tests")]
#[path = "../cli/world.rs"]
mod world;

mod foreign;
mod logs;
mod manager;
mod own;
mod plists;
mod users;
mod walk;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use portolan_testkit::wait;

use world::{Ran, World};

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is there.
fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait::eventually(PATIENCE, what, look)
}

/// A file that nobody else can change, whatever the umask of whoever runs the tests.
fn job_file(world: &World, name: &str, text: &str) -> PathBuf {
    let path = world.write(name, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("permissions");
    path
}

fn load(world: &World, name: &str, text: &str) -> Ran {
    let path = job_file(world, name, text);
    let path = path.to_str().expect("a path");
    world.run(["load", path])
}

/// What `portolan print --json` says of a job.
fn print(world: &World, label: &str) -> serde_json::Value {
    let printed = world.run(["print", "--json", label]).ok();
    serde_json::from_slice(&printed).expect("JSON")
}

fn pid(world: &World, label: &str) -> Option<u64> {
    print(world, label)["pid"].as_u64()
}

/// Waits until no instance of the job runs.
fn wait_until_idle(world: &World, label: &str) {
    eventually("an idle job", || {
        (print(world, label)["state"] == "idle").then_some(())
    });
}

fn signal(pid: u64, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("kill");
}

/// Whether there is a program of this name, which `cargo xtask setup` installs.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.any(|folder| folder.join(program).exists())
}

/// Says that a test has shown nothing here.
#[expect(clippy::print_stderr, reason = "what a harness says")]
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}
