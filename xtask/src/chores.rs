//! The chores that are rows of cargo commands.

use std::path::Path;
use std::process::Command;

use crate::command::{cargo, run, say, succeeds};
use crate::{fuzz, kernel_lab, setup, tidy};

/// Read by `portolan_testkit::soak`.
const SOAK_SECONDS: &str = "PORTOLAN_SOAK_SECONDS";

/// The tests with figures of a release build.
const FIGURES: &str = "lab_figures::";

/// Runs every test once.
pub(crate) fn test(root: &Path) -> anyhow::Result<()> {
    prepare(root)?;
    run(&mut cargo(root, &["test", "--workspace", "--doc"]))?;
    let all = ["--lib", "--bins", "--tests"];
    run(&mut tests(root, "default", &all))?;
    if kernel_lab::is_there(root) {
        figures(root)?;
    }
    Ok(())
}

/// Runs the tests that say how long things take, as users have them built, one after the other.
fn figures(root: &Path) -> anyhow::Result<()> {
    let select = ["--release", "-p", "kdbridge", "--test", "kernel"];
    let one_at_a_time = "--test-threads=1";
    if has_nextest(root) {
        let nextest = ["nextest", "run", one_at_a_time];
        return run(cargo(root, &nextest).args(select).arg(FIGURES));
    }
    let test = [FIGURES, "--", one_at_a_time];
    run(cargo(root, &["test"]).args(select).args(test))
}

/// Runs each test whose name starts with `soak_` for so many seconds.
pub(crate) fn soak(root: &Path, seconds: u64) -> anyhow::Result<()> {
    repeat_tests(root, &["--tests", "soak_"], seconds)
}

/// The same for those of the bootstrap server with jobs.
pub(crate) fn soak_jobs(root: &Path, seconds: u64) -> anyhow::Result<()> {
    repeat_tests(root, &["--test", "launch", "soak_"], seconds)
}

/// Runs the tests of the files named `hostile…`, those with random input for so many seconds.
pub(crate) fn hostile(root: &Path, seconds: u64) -> anyhow::Result<()> {
    repeat_tests(root, &["--test", "hostile*"], seconds)
}

/// Runs the ring under loom, in a target folder of its own: the flag is for all crates, so the
/// ordinary one would be built anew each time.
pub(crate) fn loom(root: &Path) -> anyhow::Result<()> {
    let tests = ["test", "-p", "portolan-ring", "--release", "--tests"];
    run(cargo(root, &tests)
        .args(["--target-dir", "target/loom"])
        .env("RUSTFLAGS", "--cfg loom"))
}

/// Measures the bootstrap server, which is the command `portolan` of a release build.
pub(crate) fn measure(root: &Path, quick: bool) -> anyhow::Result<()> {
    run(&mut cargo(
        root,
        &[
            "build",
            "--release",
            "-p",
            "portolan-cli",
            "-p",
            "portolan-sandbox",
        ],
    ))?;
    let mut bench = cargo(root, &["run", "--release", "-p", "portolan-bench"]);
    run(bench.args(["--", "jobs"]).args(quick.then_some("--quick")))
}

pub(crate) fn lint(root: &Path) -> anyhow::Result<()> {
    // Clippy runs the build script that compiles the fuzzing engine.
    setup::run()?;
    run(&mut cargo(root, &["fmt", "--all", "--check"]))?;
    run(&mut cargo(
        root,
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    ))?;
    fuzz::lint(root)?;
    tidy::run(root)?;
    doc(root)
}

pub(crate) fn doc(root: &Path) -> anyhow::Result<()> {
    run(cargo(root, &["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

pub(crate) fn ci(root: &Path) -> anyhow::Result<()> {
    // Half a gigabyte may not be to be had everywhere; what is left out then is said with the tests.
    if let Err(error) = kernel_lab::run(root) {
        say(&format!("there is no lab for kdbridge: {error:#}"));
    }
    test(root)?;
    a_minute(root)?;
    lint(root)
}

/// About a minute of the chores that take as long as they are told to.
fn a_minute(root: &Path) -> anyhow::Result<()> {
    // Each of the dozen soak tests.
    soak(root, 2)?;
    hostile(root, 10)?;
    loom(root)?;
    fuzz::fuzz_all_within(root, 20)
}

/// Builds the tests, and before them the programs that end-to-end tests start, in one invocation,
/// so that both share one set of features and nothing is built twice.
fn prepare(root: &Path) -> anyhow::Result<()> {
    setup::run()?;
    run(&mut cargo(
        root,
        &["build", "--workspace", "--bins", "--tests", "--examples"],
    ))
}

fn repeat_tests(root: &Path, select: &[&str], seconds: u64) -> anyhow::Result<()> {
    prepare(root)?;
    run(tests(root, "soak", select).env(SOAK_SECONDS, seconds.to_string()))
}

/// Runs the tests that `select` says in words that cargo and nextest both know.
fn tests(root: &Path, profile: &str, select: &[&str]) -> Command {
    if has_nextest(root) {
        let mut nextest = cargo(root, &["nextest", "run", "--profile", profile]);
        nextest.arg("--workspace").args(select);
        nextest.args(["--", "--skip", FIGURES]);
        return without_lab(nextest, root);
    }
    say("cargo-nextest is not installed: running cargo test, which has no time limits");
    // Tests of one file share a process here, and some count what their process has open.
    let mut test = cargo(root, &["test", "--workspace", "--no-fail-fast"]);
    test.args(select)
        .args(["--", "--test-threads=1", "--skip", FIGURES]);
    without_lab(test, root)
}

fn has_nextest(root: &Path) -> bool {
    succeeds(&mut cargo(root, &["nextest", "--version"]))
}

/// Leaves out what cannot run, and says so.
fn without_lab(mut tests: Command, root: &Path) -> Command {
    if !kernel_lab::is_there(root) {
        say(
            "NOT RUN: the tests of kdbridge with a real kernel; `cargo xtask kernel-lab` brings what they need",
        );
        tests.args(["--skip", "lab_"]);
    }
    tests
}
