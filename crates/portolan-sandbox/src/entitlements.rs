//! What a program's author asks for, read from a file.

mod excepted;
mod folder;
mod read;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use portolan_wire::bootstrap::MAX_ENTITLEMENT_BYTES;
use portolan_wire::group::{GroupError, GroupId};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use thiserror::Error;

use crate::check::{Filter, Operation};
use crate::document::{Document, DocumentError, Item, Position, Source};
use crate::key::{self, Reason};

pub use excepted::{ExceptedPath, ExceptedPathError};
pub use folder::Folder;

/// The entitlements of a program.
///
/// Keys that have no meaning on Linux are known and read, so that a file for macOS can be used
/// unchanged, but only what is here has an effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entitlements {
    /// `com.apple.security.app-sandbox`. Without it, the others mean nothing.
    pub app_sandbox: bool,
    /// `com.apple.security.inherit`: it is what the program is that starts it. Nothing else but
    /// `app_sandbox` is set then.
    pub inherit: bool,
    /// `com.apple.security.application-groups`.
    pub application_groups: Vec<GroupId>,
    /// `com.apple.security.temporary-exception.mach-lookup.global-name`.
    pub lookup_global: Vec<String>,
    /// `com.apple.security.temporary-exception.mach-lookup.local-name`.
    pub lookup_local: Vec<String>,
    /// `com.apple.security.temporary-exception.mach-register.global-name`.
    pub register_global: Vec<String>,
    /// `com.apple.security.temporary-exception.mach-register.local-name`.
    pub register_local: Vec<String>,
    /// `com.apple.security.network.client`.
    pub network_client: bool,
    /// `com.apple.security.network.server`.
    pub network_server: bool,
    /// `com.apple.security.temporary-exception.files.absolute-path.read-only`.
    pub read_only_absolute: Vec<ExceptedPath>,
    /// `com.apple.security.temporary-exception.files.absolute-path.read-write`.
    pub read_write_absolute: Vec<ExceptedPath>,
    /// `com.apple.security.temporary-exception.files.home-relative-path.read-only`.
    pub read_only_home: Vec<ExceptedPath>,
    /// `com.apple.security.temporary-exception.files.home-relative-path.read-write`.
    pub read_write_home: Vec<ExceptedPath>,
    /// Folders with a key of their own, to read.
    pub read_only_folders: BTreeSet<Folder>,
    /// Folders with a key of their own, to read and write.
    pub read_write_folders: BTreeSet<Folder>,
}

/// What was read, and what of it comes to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reading {
    /// What has an effect.
    pub entitlements: Entitlements,
    /// What has none.
    pub ineffective: Vec<Ineffective>,
}

/// A key that asks for something that it does not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ineffective {
    /// The key.
    pub key: &'static str,
    /// Where it is.
    pub at: Option<Position>,
    /// Why it has no effect.
    pub reason: Reason,
}

impl Entitlements {
    /// Reads a file: TOML, an XML property list or a binary one, told apart by how it begins.
    ///
    /// # Errors
    ///
    /// [`FileError`], which names the file and, where there is one, the position in it.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        Self::read_with_text(path).map(|(reading, _)| reading.entitlements)
    }

    /// Reads a file, and gives its contents too, for whoever is to read the same, and what in it has
    /// no effect.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub fn read_with_text(path: &Path) -> Result<(Reading, Vec<u8>), FileError> {
        let cause = |cause| FileError {
            path: path.to_path_buf(),
            cause,
        };
        let bytes = read_some(path).map_err(|error| cause(Cause::Unreadable(error)))?;
        let reading = Document::parse(&bytes)
            .map_err(EntitlementsError::from)
            .and_then(|document| Self::from_items(document.items, &document.source));
        let reading = reading.map_err(|error| cause(Cause::Wrong(Box::new(error))))?;
        Ok((reading, bytes))
    }

    /// Reads the contents of a file.
    ///
    /// ```
    /// use portolan_sandbox::Entitlements;
    ///
    /// let toml = br#"
    ///     "com.apple.security.app-sandbox" = true
    ///     "com.apple.security.application-groups" = ["group.com.example"]
    /// "#;
    /// let entitlements = Entitlements::parse(toml)?;
    /// assert!(entitlements.application_groups[0].contains("group.com.example.server"));
    /// # Ok::<(), portolan_sandbox::EntitlementsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`EntitlementsError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, EntitlementsError> {
        let document = Document::parse(bytes)?;
        Self::from_items(document.items, &document.source).map(|reading| reading.entitlements)
    }

    /// Takes entitlements from a table that stands in a document of something else.
    ///
    /// # Errors
    ///
    /// [`EntitlementsError`]
    pub fn from_items(items: Vec<Item>, source: &Source) -> Result<Reading, EntitlementsError> {
        read::collect(items, source)
    }

    /// The text of a file with these entitlements, in TOML.
    ///
    /// # Errors
    ///
    /// Those of the writer, which knows all that can be in it.
    pub fn to_toml(&self) -> io::Result<String> {
        let mut table = toml::Table::try_from(self).map_err(io::Error::other)?;
        table.retain(|_, value| match value {
            toml::Value::Boolean(value) => *value,
            toml::Value::Array(values) => !values.is_empty(),
            _ => true,
        });
        toml::to_string_pretty(&table).map_err(io::Error::other)
    }

    pub(crate) fn exceptions(&self, operation: Operation, filter: Filter) -> &[String] {
        match (operation, filter) {
            (Operation::MachLookup, Filter::GlobalName) => &self.lookup_global,
            (Operation::MachLookup, Filter::LocalName) => &self.lookup_local,
            (Operation::MachRegister, Filter::GlobalName) => &self.register_global,
            (Operation::MachRegister, Filter::LocalName) => &self.register_local,
            _ => &[],
        }
    }
}

/// With the keys of a file, so that it can be read again.
impl Serialize for Entitlements {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let groups = self.application_groups.iter().map(GroupId::as_str);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(key::APP_SANDBOX, &self.app_sandbox)?;
        if self.inherit {
            map.serialize_entry(key::INHERIT, &true)?;
            return map.end();
        }
        map.serialize_entry(key::APPLICATION_GROUPS, &groups.collect::<Vec<_>>())?;
        map.serialize_entry(key::LOOKUP_GLOBAL, &self.lookup_global)?;
        map.serialize_entry(key::LOOKUP_LOCAL, &self.lookup_local)?;
        map.serialize_entry(key::REGISTER_GLOBAL, &self.register_global)?;
        map.serialize_entry(key::REGISTER_LOCAL, &self.register_local)?;
        map.serialize_entry(key::NETWORK_CLIENT, &self.network_client)?;
        map.serialize_entry(key::NETWORK_SERVER, &self.network_server)?;
        let paths = [
            (key::READ_ONLY_ABSOLUTE, &self.read_only_absolute),
            (key::READ_WRITE_ABSOLUTE, &self.read_write_absolute),
            (key::READ_ONLY_HOME, &self.read_only_home),
            (key::READ_WRITE_HOME, &self.read_write_home),
        ];
        for (key, paths) in paths {
            let paths = paths.iter().map(ExceptedPath::as_str);
            map.serialize_entry(key, &paths.collect::<Vec<_>>())?;
        }
        for folder in Folder::ALL {
            let [read_only, read_write] = folder.keys();
            map.serialize_entry(read_only, &self.read_only_folders.contains(&folder))?;
            map.serialize_entry(read_write, &self.read_write_folders.contains(&folder))?;
        }
        map.end()
    }
}

/// Reads a file that is no longer than the server takes.
fn read_some(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MAX_ENTITLEMENT_BYTES as u64;
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_ENTITLEMENT_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Why bytes are not entitlements.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EntitlementsError {
    /// Not a document at all.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// There is no such key.
    #[error("unknown key {key:?}{}", DidYouMean(*nearest))]
    UnknownKey {
        /// The key.
        key: String,
        /// Where.
        at: Option<Position>,
        /// The known key that it is probably meant to be.
        nearest: Option<&'static str>,
    },
    /// A key has two values.
    #[error("{key} is there twice")]
    Repeated {
        /// The key.
        key: String,
        /// Where it is for the second time.
        at: Option<Position>,
    },
    /// The value is of another type.
    #[error("the value of {key} must be {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// Where.
        at: Option<Position>,
        /// What it must be.
        expected: &'static str,
    },
    /// A group is not the id of one.
    #[error("{group:?} is not the id of an application group")]
    Group {
        /// The group.
        group: String,
        /// Where its key is.
        at: Option<Position>,
        /// Why.
        source: GroupError,
    },
    /// `com.apple.security.inherit` without `app-sandbox`, or beside what would be inherited.
    #[error(
        "{} stands beside {}, and beside nothing else",
        key::INHERIT,
        key::APP_SANDBOX
    )]
    Inherit {
        /// Where it is, or the key that must not stand beside it.
        at: Option<Position>,
    },
    /// An exception is not a path that can be granted.
    #[error("{path:?} in {key} cannot be granted")]
    Path {
        /// The key.
        key: &'static str,
        /// The path.
        path: String,
        /// Where its key is.
        at: Option<Position>,
        /// Why.
        source: ExceptedPathError,
    },
}

impl EntitlementsError {
    /// Where in the text it is wrong; a binary property list has no positions.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Document(error) => error.position(),
            Self::UnknownKey { at, .. }
            | Self::Repeated { at, .. }
            | Self::WrongType { at, .. }
            | Self::Group { at, .. }
            | Self::Inherit { at }
            | Self::Path { at, .. } => *at,
        }
    }
}

struct DidYouMean(Option<&'static str>);

impl fmt::Display for DidYouMean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(f, ", did you mean {key}?"),
            None => Ok(()),
        }
    }
}

/// An entitlement file is missing or wrong.
#[derive(Debug)]
pub struct FileError {
    path: PathBuf,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Unreadable(io::Error),
    Wrong(Box<EntitlementsError>),
}

impl FileError {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Cause::Wrong(error) = &self.cause
            && let Some(position) = error.position()
        {
            write!(f, ":{position}")?;
        }
        Ok(())
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Unreadable(error) => Some(error),
            Cause::Wrong(error) => Some(&**error),
        }
    }
}
