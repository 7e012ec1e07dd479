//! The self-test of the walls under other kernels, in virtual machines.
//!
//! The kernels are Debian's for clouds, from the sources that apt has here. Nothing is installed: what
//! is downloaded and made stays in `target/kernels`. A machine has one file system, in memory, with
//! busybox and the programs of a debug build, and runs the self-test with user namespaces and without.

mod image;
mod machine;
pub(crate) mod package;

use std::fs;
use std::path::{Path, PathBuf};

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

/// With user namespaces and without, by root and by a user.
const WAYS: [&str; 4] = ["on root", "off root", "on user", "off user"];

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

/// Runs the self-test under each kernel, or under those that are named: by a version of the list, or by a
/// path, of which nothing is known.
pub(crate) fn test(root: &Path, names: &[String]) -> anyhow::Result<()> {
    let directory = root.join("target/kernels");
    fs::create_dir_all(&directory)?;
    let mut machines = Vec::new();
    if names.is_empty() {
        for kernel in KERNELS {
            machines.push(known(&directory, kernel)?);
        }
    }
    for name in names {
        let kernel = KERNELS.iter().find(|kernel| kernel.version == *name);
        machines.push(match kernel {
            Some(kernel) => known(&directory, kernel)?,
            None if name.contains('/') => (PathBuf::from(name), None),
            None => bail!(
                "there is no kernel {name} in xtask/src/kernels.rs, and a file has a / in its path"
            ),
        });
    }
    let image = image::make(&build(root, &directory)?, &directory)?;
    let mut failed = Vec::new();
    for (linux, kernel) in &machines {
        let results = machine::run(linux, &image)?;
        let checked = match kernel {
            Some(kernel) => check(kernel, &results),
            None => check_unknown(&results),
        };
        if let Err(error) = checked {
            let linux = linux.display().to_string();
            say(&format!("{linux}: {error:#}"));
            failed.push(linux);
        }
    }
    ensure!(failed.is_empty(), "failed under {}", failed.join(", "));
    Ok(())
}

/// The file of a kernel, and what is known of it.
type Machine = (PathBuf, Option<&'static Kernel>);

fn known(directory: &Path, kernel: &'static Kernel) -> anyhow::Result<Machine> {
    let release = package::newest(kernel.version)?;
    Ok((package::kernel(directory, &release)?, Some(kernel)))
}

/// Builds the programs of the machines, and says in which folder they are.
fn build(root: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    let programs = [
        "build",
        "-p",
        "portolan-cli",
        "-p",
        "portolan-sandbox",
        "--bins",
    ];
    let built = directory.join("build");
    let mut build = cargo(root, &programs);
    build
        .arg("--target-dir")
        .arg(&built)
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    run(build.env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    Ok(built.join("debug"))
}

/// Each tier either holds or says what it lacks.
fn check_unknown(results: &Results) -> anyhow::Result<()> {
    for way in WAYS {
        let result = results
            .get(way)
            .with_context(|| format!("{way}: no result"))?;
        ensure!(
            matches!(result.code, 0 | 78),
            "{way}: exit code {}",
            result.code
        );
    }
    Ok(())
}

fn check(kernel: &Kernel, results: &Results) -> anyhow::Result<()> {
    let expected = [kernel.root, kernel.root, kernel.user, kernel.without];
    for (way, tiers) in WAYS.into_iter().zip(expected) {
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
