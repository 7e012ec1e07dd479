//! The fuzz targets, which are a workspace of their own with flags of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::command::{cargo, output, run};
use crate::setup;

/// An input takes microseconds; libFuzzer's own limit for one that hangs is 20 minutes.
const LIBFUZZER: &[&str] = &[
    "-max_len=4096",
    "-timeout=20",
    "-verbosity=0",
    "-print_final_stats=1",
];

/// What `cargo metadata` says about the workspace's own packages.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Runs a target, or each one, for so many seconds; fails at the first that finds something.
pub(crate) fn fuzz(root: &Path, target: Option<&str>, seconds: u64) -> anyhow::Result<()> {
    setup::run()?;
    let all = targets(root)?;
    let mut chosen = choose(&all, target)?.iter();
    chosen.try_for_each(|target| fuzz_one(root, target, seconds))
}

/// Runs all targets, one after the other, for about so many seconds together.
pub(crate) fn fuzz_all_within(root: &Path, seconds: u64) -> anyhow::Result<()> {
    let count = targets(root)?.len() as u64;
    fuzz(root, None, share(seconds, count))
}

pub(crate) fn lint(root: &Path) -> anyhow::Result<()> {
    run(&mut fuzz_cargo(root, &["fmt", "--check"]))?;
    // The profile that the targets run in, so that the fuzzing engine is compiled once.
    let clippy = ["clippy", "--release", "--bins", "--", "-D", "warnings"];
    run(&mut fuzz_cargo(root, &clippy))
}

pub(crate) fn folder(root: &Path) -> PathBuf {
    root.join("fuzz")
}

fn targets(root: &Path) -> anyhow::Result<Vec<String>> {
    let metadata = ["metadata", "--format-version=1", "--no-deps"];
    parse_targets(&output(&mut fuzz_cargo(root, &metadata))?)
}

fn parse_targets(json: &[u8]) -> anyhow::Result<Vec<String>> {
    let metadata: Metadata =
        serde_json::from_slice(json).context("cargo metadata printed something unexpected")?;
    let packages = metadata.packages.into_iter();
    let targets = packages.flat_map(|package| package.targets);
    let programs = targets.filter(|target| target.kind.iter().any(|kind| kind == "bin"));
    Ok(programs.map(|target| target.name).collect())
}

fn choose<'a>(all: &'a [String], wanted: Option<&str>) -> anyhow::Result<&'a [String]> {
    let Some(wanted) = wanted else { return Ok(all) };
    match all.iter().position(|target| target == wanted) {
        Some(at) => Ok(&all[at..=at]),
        None => bail!(
            "there is no fuzz target {wanted}: there are {}",
            all.join(", ")
        ),
    }
}

/// At least 1: to libFuzzer 0 means for ever.
fn share(seconds: u64, count: u64) -> u64 {
    (seconds / count.max(1)).max(1)
}

fn fuzz_one(root: &Path, target: &str, seconds: u64) -> anyhow::Result<()> {
    let (corpus, found) = (format!("corpus/{target}"), format!("artifacts/{target}/"));
    for place in [&corpus, &found] {
        fs::create_dir_all(folder(root).join(place)).with_context(|| format!("fuzz/{place}"))?;
    }
    let program = ["run", "--release", "--bin", target, "--"];
    run(fuzz_cargo(root, &program)
        .args([corpus, format!("-artifact_prefix={found}")])
        .arg(format!("-max_total_time={seconds}"))
        .args(LIBFUZZER))
}

fn fuzz_cargo(root: &Path, args: &[&str]) -> Command {
    let mut command = cargo(&folder(root), args);
    // They would take the place of the flags in fuzz/.cargo/config.toml that instrument the targets.
    command.env_remove("RUSTFLAGS");
    command
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_programs_are_the_targets() {
        let targets = json!([
            {"name": "a", "kind": ["bin"]},
            {"name": "build-script-build", "kind": ["custom-build"]},
            {"name": "b", "kind": ["bin"]},
        ]);
        let json = json!({"packages": [{"targets": targets}]}).to_string();
        let targets = parse_targets(json.as_bytes()).expect("the fixture is complete");
        assert_eq!(targets, ["a", "b"]);
    }

    #[test]
    fn one_target_or_all_are_chosen() {
        let all = ["a", "b"].map(str::to_owned);
        assert_eq!(choose(&all, None).expect("all"), all);
        assert_eq!(choose(&all, Some("b")).expect("a target"), ["b"]);
    }

    #[test]
    fn an_unknown_target_is_answered_with_the_known_ones() {
        let error = choose(&["a", "b"].map(str::to_owned), Some("c")).expect_err("unknown");
        let text = "there is no fuzz target c: there are a, b";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_share_is_never_for_ever() {
        assert_eq!(share(20, 2), 10);
        assert_eq!(share(20, 30), 1);
        assert_eq!(share(20, 0), 20);
    }
}
