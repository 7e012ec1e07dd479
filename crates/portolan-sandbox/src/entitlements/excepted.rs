//! Paths that an exception names.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// A path in an exception. With a slash at its end it stands for a directory and all that is below
/// it, else for one file, as on macOS.
///
/// It begins with a slash also if it is relative to the home.
///
/// ```
/// use portolan_sandbox::ExceptedPath;
/// use std::path::Path;
///
/// let path: ExceptedPath = "/Documents/".parse()?;
/// assert!(path.is_tree());
/// assert_eq!(path.below(Path::new("/home/alice")), Path::new("/home/alice/Documents"));
/// assert!("Documents/".parse::<ExceptedPath>().is_err());
/// assert!("~/Documents/".parse::<ExceptedPath>().is_err());
/// assert!("/Documents/../.ssh/".parse::<ExceptedPath>().is_err());
/// # Ok::<(), portolan_sandbox::ExceptedPathError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExceptedPath(String);

impl ExceptedPath {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for all that is below it, too.
    #[must_use]
    pub fn is_tree(&self) -> bool {
        self.0.ends_with('/')
    }

    /// The path in `base`, without a slash at the end.
    #[must_use]
    pub fn below(&self, base: &Path) -> PathBuf {
        base.join(self.0.trim_start_matches('/'))
            .components()
            .collect()
    }
}

/// A text is no path of an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExceptedPathError {
    /// It begins with a tilde, which only shells know.
    #[error("~ is not the home here: write what comes behind it in a home-relative-path exception")]
    Tilde,
    /// It does not begin with a slash.
    #[error("it must begin with /, also if it is relative to the home")]
    Relative,
    /// It has `..` in it.
    #[error("it must not have .. in it")]
    Parent,
    /// It has a NUL in it.
    #[error("it must not have a NUL in it")]
    Nul,
}

impl FromStr for ExceptedPath {
    type Err = ExceptedPathError;

    fn from_str(text: &str) -> Result<Self, ExceptedPathError> {
        if text.starts_with('~') {
            return Err(ExceptedPathError::Tilde);
        }
        if !text.starts_with('/') {
            return Err(ExceptedPathError::Relative);
        }
        let mut components = Path::new(text).components();
        if components.any(|one| one == Component::ParentDir) {
            return Err(ExceptedPathError::Parent);
        }
        match text.contains('\0') {
            true => Err(ExceptedPathError::Nul),
            false => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for ExceptedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
