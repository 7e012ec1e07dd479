//! The directories of a program and of its groups, which are made when they are first needed.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use crate::profile::Profile;

use super::Failure;

/// For their owner only.
const MODE: u32 = 0o700;

const IN_A_GROUP: &[&str] = &[
    "Library/Application Support",
    "Library/Caches",
    "Library/Preferences",
];

pub(crate) fn make(profile: &Profile) -> Result<(), Failure> {
    make_directory(&profile.container.join("tmp"))?;
    for group in &profile.groups {
        for directory in IN_A_GROUP {
            make_directory(&group.join(directory))?;
        }
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), Failure> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(MODE).create(path);
    made.map_err(|source| Failure::Container {
        path: path.to_owned(),
        source,
    })
}
