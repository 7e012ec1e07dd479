//! The self-test of the walls under other kernels, in virtual machines.
//!
//! The kernels are Debian's for clouds, from the sources that apt has here. Nothing is installed: what
//! is downloaded and made stays in `target/kernels`. A machine has one file system, in memory, with
//! busybox and the programs of a debug build, and runs the self-test with user namespaces and without.

mod image;
mod machine;
mod package;

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::command::{cargo, run, say};
use machine::Results;

/// A kernel, and what there must be under it.
struct Kernel {
    version: &'static str,
    /// For root, who needs no user namespaces for jobs of others.
    root: &'static [&'static str],
    /// For a user.
    user: &'static [&'static str],
    /// For a user where user namespaces are off.
    without: &'static [&'static str],
    /// What the self-test says is missing.
    lacks: &'static str,
}

const KERNELS: &[Kernel] = &[
    // Landlock without the right to truncate files.
    Kernel {
        version: "6.1",
        root: &["T2"],
        user: &["T2"],
        without: &[],
        lacks: "T1 needs Landlock's right to truncate files (Linux 6.2)",
    },
    Kernel {
        version: "6.12",
        root: &["T1", "T2"],
        user: &["T1", "T2"],
        without: &["T1"],
        lacks: "",
    },
];

/// Runs the self-test under each kernel, or under those of these versions.
pub(crate) fn test(root: &Path, versions: &[String]) -> anyhow::Result<()> {
    let known = |version: &String| KERNELS.iter().any(|kernel| kernel.version == *version);
    if let Some(unknown) = versions.iter().find(|version| !known(version)) {
        bail!("there is no kernel {unknown} in xtask/src/kernels.rs");
    }
    let chosen = |kernel: &&Kernel| {
        versions.is_empty() || versions.iter().any(|version| version == kernel.version)
    };
    let kernels: Vec<_> = KERNELS.iter().filter(chosen).collect();
    let directory = root.join("target/kernels");
    fs::create_dir_all(&directory)?;
    let mut linux = Vec::new();
    for kernel in &kernels {
        let release = package::newest(kernel.version)?;
        linux.push(package::kernel(&directory, &release)?);
    }
    let build = [
        "build",
        "-p",
        "portolan-cli",
        "-p",
        "portolan-sandbox",
        "--bins",
    ];
    let built = directory.join("build");
    let mut build = cargo(root, &build);
    build
        .arg("--target-dir")
        .arg(&built)
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    run(build.env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    let image = image::make(&built.join("debug"), &directory)?;
    let mut failed = Vec::new();
    for (kernel, linux) in kernels.iter().zip(&linux) {
        let results = machine::run(linux, &image)?;
        if let Err(error) = check(kernel, &results) {
            say(&format!("Linux {}: {error:#}", kernel.version));
            failed.push(kernel.version);
        }
    }
    ensure!(
        failed.is_empty(),
        "failed under Linux {}",
        failed.join(", ")
    );
    Ok(())
}

fn check(kernel: &Kernel, results: &Results) -> anyhow::Result<()> {
    let ways = [
        ("on root", kernel.root),
        ("off root", kernel.root),
        ("on user", kernel.user),
        ("off user", kernel.without),
    ];
    for (way, tiers) in ways {
        let result = results
            .get(way)
            .with_context(|| format!("{way}: no result"))?;
        let is_tested =
            |tier: &&str| result.has_line(|line| line.starts_with(&format!("{tier}: ")));
        let tested: Vec<&str> = ["T1", "T2"].into_iter().filter(is_tested).collect();
        ensure!(tested == tiers, "{way}: tested {tested:?}, not {tiers:?}");
        let code = if tiers.is_empty() { 78 } else { 0 };
        ensure!(result.code == code, "{way}: exit code {}", result.code);
        let said = result.has_line(|line| line.contains(kernel.lacks));
        ensure!(said, "{way}: it does not say {:?}", kernel.lacks);
        say(&format!("Linux {}: {way}: {tiers:?} hold", kernel.version));
    }
    Ok(())
}
