//! Folders of a user that have keys of their own.

use crate::key;

/// A folder that every user has, in the place that `user-dirs.dirs` of XDG names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Folder {
    /// `com.apple.security.files.downloads.…`: `XDG_DOWNLOAD_DIR`.
    Downloads,
    /// `com.apple.security.assets.pictures.…`: `XDG_PICTURES_DIR`.
    Pictures,
    /// `com.apple.security.assets.music.…`: `XDG_MUSIC_DIR`.
    Music,
    /// `com.apple.security.assets.movies.…`: `XDG_VIDEOS_DIR`.
    Movies,
}

/// A folder, its keys for reading and for writing, its variable, and its name if that is not set.
type Row = (
    Folder,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const ROWS: [Row; 4] = [
    (
        Folder::Downloads,
        key::DOWNLOADS_READ_ONLY,
        key::DOWNLOADS_READ_WRITE,
        "XDG_DOWNLOAD_DIR",
        "Downloads",
    ),
    (
        Folder::Pictures,
        key::PICTURES_READ_ONLY,
        key::PICTURES_READ_WRITE,
        "XDG_PICTURES_DIR",
        "Pictures",
    ),
    (
        Folder::Music,
        key::MUSIC_READ_ONLY,
        key::MUSIC_READ_WRITE,
        "XDG_MUSIC_DIR",
        "Music",
    ),
    (
        Folder::Movies,
        key::MOVIES_READ_ONLY,
        key::MOVIES_READ_WRITE,
        "XDG_VIDEOS_DIR",
        "Videos",
    ),
];

impl Folder {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Downloads, Self::Pictures, Self::Music, Self::Movies];

    /// The key that lets a program read it, and the one that lets it write too.
    #[must_use]
    pub fn keys(self) -> [&'static str; 2] {
        let (_, read_only, read_write, ..) = self.row();
        [read_only, read_write]
    }

    /// Its variable in `user-dirs.dirs`.
    #[must_use]
    pub fn variable(self) -> &'static str {
        self.row().3
    }

    /// Its name in the home of a user who has not said otherwise.
    #[must_use]
    pub fn usual_name(self) -> &'static str {
        self.row().4
    }

    fn row(self) -> &'static Row {
        // The rows are in the order of the variants, which a test checks.
        &ROWS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_has_its_row() {
        for folder in Folder::ALL {
            assert_eq!(folder.row().0, folder);
        }
    }
}
