//! Where the files about a kernel or a kernel extension are: in kernel debug kits, dSYM bundles, or
//! simply in a folder.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::file::{FileError, MachFile};
use super::image::Kind;
use super::uuid::Uuid;
use crate::folders::{MOST_ENTRIES, walk};

/// Where a Mac has kernel debug kits.
const KITS: &str = "/Library/Developer/KDKs";

/// No more files are opened in one search.
const MOST_FILES: usize = 50_000;

/// What was found for a UUID.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// The image itself.
    pub image: Option<PathBuf>,
    /// Its debug information.
    pub dwarf: Option<PathBuf>,
}

impl Files {
    /// Takes a file that is about the same, unless there was one of its kind before.
    fn take(&mut self, file: &MachFile) {
        let place = match file.image().kind {
            Kind::DSYM => &mut self.dwarf,
            _ => &mut self.image,
        };
        place.get_or_insert_with(|| file.path().to_owned());
    }
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
    look_through(places, &mut |file| {
        if file.image().uuid == Some(uuid) {
            found.take(file);
        }
        match found.image.is_some() && found.dwarf.is_some() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    found
}

/// What the files and folders of a search have, by UUID: for whoever asks for many.
#[derive(Debug, Default)]
pub struct Index(BTreeMap<Uuid, Files>);

impl Index {
    /// Looks through the same places as [`find`], once.
    #[must_use]
    pub fn of(places: &[PathBuf]) -> Self {
        let mut index = BTreeMap::<Uuid, Files>::new();
        look_through(places, &mut |file| {
            if let Some(uuid) = file.image().uuid {
                index.entry(uuid).or_default().take(file);
            }
            ControlFlow::Continue(())
        });
        Self(index)
    }

    /// What was there for a UUID.
    #[must_use]
    pub fn files(&self, uuid: Uuid) -> Files {
        self.0.get(&uuid).cloned().unwrap_or_default()
    }
}

/// Shows `see` every image and its debug information, until it has enough.
fn look_through(places: &[PathBuf], see: &mut dyn FnMut(&MachFile) -> ControlFlow<()>) {
    let mut left = MOST_ENTRIES;
    let mut opened = 0;
    let mut open = |path: &Path| {
        opened += 1;
        match MachFile::open(path) {
            _ if opened > MOST_FILES => ControlFlow::Break(()),
            Ok(file) => see(&file),
            Err(_) => ControlFlow::Continue(()),
        }
    };
    let places = places.iter().map(PathBuf::as_path);
    let mut places = places.chain([Path::new(KITS)]);
    let _broken_off = places.try_for_each(|place| match place.is_dir() {
        true => walk(place, &mut left, &mut open),
        false => open(place),
    });
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
