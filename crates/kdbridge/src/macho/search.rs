//! Where the files about a kernel or a kernel extension are: in kernel debug kits, dSYM bundles, or
//! simply in a folder.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::file::{FileError, MachFile};
use super::image::Kind;
use super::uuid::Uuid;
use crate::folders::walk;

/// Where a Mac has kernel debug kits.
const KITS: &str = "/Library/Developer/KDKs";

/// No more files are opened in one search.
const MOST_FILES: usize = 50_000;

/// What was found for a UUID.
#[derive(Debug, Default)]
pub struct Files {
    /// The image itself.
    pub image: Option<PathBuf>,
    /// Its debug information.
    pub dwarf: Option<PathBuf>,
}

/// Why a file is not used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SearchError {
    /// It cannot be used at all.
    #[error("{path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: FileError,
    },
    /// It is about another one.
    #[error(
        "{path} has the UUID {file}, but the kernel has {kernel}: its symbols would be wrong",
        file = .file.map_or("(none)".to_owned(), |uuid| uuid.to_string())
    )]
    Mismatch {
        /// Which file.
        path: PathBuf,
        /// Its UUID.
        file: Option<Uuid>,
        /// That of the kernel.
        kernel: Uuid,
    },
}

/// Searches files and folders, and kernel debug kits, for what has this UUID.
#[must_use]
pub fn find(places: &[PathBuf], uuid: Uuid) -> Files {
    let mut found = Files::default();
    let mut left = MOST_FILES;
    let mut see = |path: &Path| {
        look(path, uuid, &mut found);
        match found.image.is_some() && found.dwarf.is_some() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let places = places.iter().map(PathBuf::as_path);
    let mut places = places.chain([Path::new(KITS)]);
    let _broken_off = places.try_for_each(|place| match place.is_dir() {
        true => walk(place, &mut left, &mut see),
        false => see(place),
    });
    found
}

/// Opens `path` if it has this UUID. A bundle, or an image with one beside it, is opened as its debug
/// information.
///
/// # Errors
///
/// [`SearchError::Mismatch`] with both UUIDs.
pub fn open_matching(path: &Path, uuid: Uuid) -> Result<MachFile, SearchError> {
    let inside = bundled(path).unwrap_or_else(|| path.to_owned());
    let file = MachFile::open(&inside).map_err(|source| SearchError::File {
        path: inside.clone(),
        source,
    })?;
    if file.image().uuid == Some(uuid) {
        return Ok(file);
    }
    Err(SearchError::Mismatch {
        path: inside,
        file: file.image().uuid,
        kernel: uuid,
    })
}

/// The one file of a dSYM bundle.
fn bundled(path: &Path) -> Option<PathBuf> {
    let folder = path.join("Contents/Resources/DWARF");
    let mut files = fs::read_dir(folder).ok()?.flatten();
    files.next().map(|entry| entry.path())
}

fn look(path: &Path, uuid: Uuid, found: &mut Files) {
    let Ok(file) = MachFile::open(path) else {
        return;
    };
    if file.image().uuid != Some(uuid) {
        return;
    }
    let place = match file.image().kind {
        Kind::DSYM => &mut found.dwarf,
        _ => &mut found.image,
    };
    place.get_or_insert_with(|| path.to_owned());
}
