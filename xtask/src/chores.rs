//! The chores that are rows of cargo commands.

use std::path::Path;

use crate::command::{cargo, run, say, succeeds};
use crate::{setup, tidy};

/// Runs every test. The programs that end-to-end tests start are built first, in the same
/// invocation as the tests, so that both share one set of features and nothing is built twice.
pub(crate) fn test(root: &Path) -> anyhow::Result<()> {
    setup::run()?;
    run(&mut cargo(
        root,
        &["build", "--workspace", "--bins", "--tests", "--examples"],
    ))?;
    run(&mut cargo(root, &["test", "--workspace", "--doc"]))?;
    if succeeds(&mut cargo(root, &["nextest", "--version"])) {
        return run(&mut cargo(root, &["nextest", "run", "--workspace"]));
    }
    say("cargo-nextest is not installed: running cargo test, which has no time limits");
    // Tests of one file share a process here, and some count what their process has open.
    let all = [
        "test",
        "--workspace",
        "--no-fail-fast",
        "--lib",
        "--bins",
        "--tests",
    ];
    run(cargo(root, &all).args(["--", "--test-threads=1"]))
}

/// Runs the ring under loom, in a target folder of its own: the flag is for all crates, so the
/// ordinary one would be built anew each time.
pub(crate) fn loom(root: &Path) -> anyhow::Result<()> {
    let tests = ["test", "-p", "portolan-ring", "--release", "--tests"];
    run(cargo(root, &tests)
        .args(["--target-dir", "target/loom"])
        .env("RUSTFLAGS", "--cfg loom"))
}

pub(crate) fn lint(root: &Path) -> anyhow::Result<()> {
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
    tidy::run(root)?;
    doc(root)
}

pub(crate) fn doc(root: &Path) -> anyhow::Result<()> {
    run(cargo(root, &["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}
