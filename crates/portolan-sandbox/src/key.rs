//! The entitlement keys, as Apple spells them.

use thiserror::Error;

use crate::check::{Filter, Operation};
use crate::document::distance;

/// What the value of a key must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Boolean,
    /// A string, or an array of strings.
    Strings,
    Dictionary,
}

/// Why a key has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Reason {
    /// Linux has nothing that it would be about.
    #[error("has no meaning on Linux")]
    NoMeaning,
    /// It could mean something, and does not.
    #[error("is not supported")]
    NotSupported,
    /// It is about files that people select while the program runs.
    #[error(
        "has no effect, for nothing here lets people select files for a program: name them in \
         {READ_ONLY_HOME} or {READ_WRITE_HOME}"
    )]
    NobodySelects,
}

use Reason::{NoMeaning, NobodySelects, NotSupported};

pub(crate) const APP_SANDBOX: &str = "com.apple.security.app-sandbox";
pub(crate) const INHERIT: &str = "com.apple.security.inherit";
pub(crate) const APPLICATION_GROUPS: &str = "com.apple.security.application-groups";

pub(crate) const LOOKUP_GLOBAL: &str =
    "com.apple.security.temporary-exception.mach-lookup.global-name";
pub(crate) const LOOKUP_LOCAL: &str =
    "com.apple.security.temporary-exception.mach-lookup.local-name";
pub(crate) const REGISTER_GLOBAL: &str =
    "com.apple.security.temporary-exception.mach-register.global-name";
pub(crate) const REGISTER_LOCAL: &str =
    "com.apple.security.temporary-exception.mach-register.local-name";

pub(crate) const NETWORK_CLIENT: &str = "com.apple.security.network.client";
pub(crate) const NETWORK_SERVER: &str = "com.apple.security.network.server";

pub(crate) const READ_ONLY_ABSOLUTE: &str =
    "com.apple.security.temporary-exception.files.absolute-path.read-only";
pub(crate) const READ_WRITE_ABSOLUTE: &str =
    "com.apple.security.temporary-exception.files.absolute-path.read-write";
pub(crate) const READ_ONLY_HOME: &str =
    "com.apple.security.temporary-exception.files.home-relative-path.read-only";
pub(crate) const READ_WRITE_HOME: &str =
    "com.apple.security.temporary-exception.files.home-relative-path.read-write";

pub(crate) const DOWNLOADS_READ_ONLY: &str = "com.apple.security.files.downloads.read-only";
pub(crate) const DOWNLOADS_READ_WRITE: &str = "com.apple.security.files.downloads.read-write";
pub(crate) const PICTURES_READ_ONLY: &str = "com.apple.security.assets.pictures.read-only";
pub(crate) const PICTURES_READ_WRITE: &str = "com.apple.security.assets.pictures.read-write";
pub(crate) const MUSIC_READ_ONLY: &str = "com.apple.security.assets.music.read-only";
pub(crate) const MUSIC_READ_WRITE: &str = "com.apple.security.assets.music.read-write";
pub(crate) const MOVIES_READ_ONLY: &str = "com.apple.security.assets.movies.read-only";
pub(crate) const MOVIES_READ_WRITE: &str = "com.apple.security.assets.movies.read-write";

/// The key that excepts names from the rules for an operation, if there is one.
pub(crate) fn exception(operation: Operation, filter: Filter) -> Option<&'static str> {
    match (operation, filter) {
        (Operation::MachLookup, Filter::GlobalName) => Some(LOOKUP_GLOBAL),
        (Operation::MachLookup, Filter::LocalName) => Some(LOOKUP_LOCAL),
        (Operation::MachRegister, Filter::GlobalName) => Some(REGISTER_GLOBAL),
        (Operation::MachRegister, Filter::LocalName) => Some(REGISTER_LOCAL),
        _ => None,
    }
}

/// Every key that a file may have, and why it has no effect if it has none: a file that was written
/// for macOS is read unchanged, and a misspelt key is found.
pub(crate) const ALL: &[(&str, Shape, Option<Reason>)] = &[
    (APP_SANDBOX, Shape::Boolean, None),
    (INHERIT, Shape::Boolean, None),
    (APPLICATION_GROUPS, Shape::Strings, None),
    (NETWORK_CLIENT, Shape::Boolean, None),
    (NETWORK_SERVER, Shape::Boolean, None),
    (
        "com.apple.security.files.user-selected.read-only",
        Shape::Boolean,
        Some(NobodySelects),
    ),
    (
        "com.apple.security.files.user-selected.read-write",
        Shape::Boolean,
        Some(NobodySelects),
    ),
    (
        "com.apple.security.files.user-selected.executable",
        Shape::Boolean,
        Some(NobodySelects),
    ),
    (DOWNLOADS_READ_ONLY, Shape::Boolean, None),
    (DOWNLOADS_READ_WRITE, Shape::Boolean, None),
    (PICTURES_READ_ONLY, Shape::Boolean, None),
    (PICTURES_READ_WRITE, Shape::Boolean, None),
    (MUSIC_READ_ONLY, Shape::Boolean, None),
    (MUSIC_READ_WRITE, Shape::Boolean, None),
    (MOVIES_READ_ONLY, Shape::Boolean, None),
    (MOVIES_READ_WRITE, Shape::Boolean, None),
    (
        "com.apple.security.files.bookmarks.app-scope",
        Shape::Boolean,
        Some(NobodySelects),
    ),
    (
        "com.apple.security.files.bookmarks.document-scope",
        Shape::Boolean,
        Some(NobodySelects),
    ),
    (
        "com.apple.security.files.all",
        Shape::Boolean,
        Some(NotSupported),
    ),
    (
        "com.apple.security.device.camera",
        Shape::Boolean,
        Some(NotSupported),
    ),
    (
        "com.apple.security.device.microphone",
        Shape::Boolean,
        Some(NotSupported),
    ),
    (
        "com.apple.security.device.audio-input",
        Shape::Boolean,
        Some(NotSupported),
    ),
    (
        "com.apple.security.device.usb",
        Shape::Boolean,
        Some(NotSupported),
    ),
    (
        "com.apple.security.device.bluetooth",
        Shape::Boolean,
        Some(NotSupported),
    ),
    (
        "com.apple.security.device.firewire",
        Shape::Boolean,
        Some(NotSupported),
    ),
    (
        "com.apple.security.device.serial",
        Shape::Boolean,
        Some(NotSupported),
    ),
    (
        "com.apple.security.print",
        Shape::Boolean,
        Some(NotSupported),
    ),
    (
        "com.apple.security.personal-information.addressbook",
        Shape::Boolean,
        Some(NoMeaning),
    ),
    (
        "com.apple.security.personal-information.calendars",
        Shape::Boolean,
        Some(NoMeaning),
    ),
    (
        "com.apple.security.personal-information.location",
        Shape::Boolean,
        Some(NoMeaning),
    ),
    (
        "com.apple.security.personal-information.photos-library",
        Shape::Boolean,
        Some(NoMeaning),
    ),
    (
        "com.apple.security.scripting-targets",
        Shape::Dictionary,
        Some(NoMeaning),
    ),
    (
        "com.apple.security.automation.apple-events",
        Shape::Boolean,
        Some(NoMeaning),
    ),
    (LOOKUP_GLOBAL, Shape::Strings, None),
    (LOOKUP_LOCAL, Shape::Strings, None),
    (REGISTER_GLOBAL, Shape::Strings, None),
    (REGISTER_LOCAL, Shape::Strings, None),
    (
        "com.apple.security.temporary-exception.apple-events",
        Shape::Strings,
        Some(NoMeaning),
    ),
    (
        "com.apple.security.temporary-exception.audio-unit-host",
        Shape::Boolean,
        Some(NoMeaning),
    ),
    (READ_ONLY_HOME, Shape::Strings, None),
    (READ_WRITE_HOME, Shape::Strings, None),
    (READ_ONLY_ABSOLUTE, Shape::Strings, None),
    (READ_WRITE_ABSOLUTE, Shape::Strings, None),
    (
        "com.apple.security.temporary-exception.shared-preference.read-only",
        Shape::Strings,
        Some(NoMeaning),
    ),
    (
        "com.apple.security.temporary-exception.shared-preference.read-write",
        Shape::Strings,
        Some(NoMeaning),
    ),
    (
        "com.apple.security.temporary-exception.iokit-user-client-class",
        Shape::Strings,
        Some(NoMeaning),
    ),
    (
        "com.apple.security.temporary-exception.sbpl",
        Shape::Strings,
        Some(NoMeaning),
    ),
];

/// The shape of a known key, and why it has no effect, if it has none.
pub(crate) fn known(key: &str) -> Option<(&'static str, Shape, Option<Reason>)> {
    ALL.iter().find(|(known, ..)| *known == key).copied()
}

/// The known key that this one is probably meant to be.
pub(crate) fn nearest(key: &str) -> Option<&'static str> {
    const PREFIX: &str = "com.apple.security.";
    const MAX_DISTANCE: usize = 6;
    let short = ALL
        .iter()
        .find(|(known, ..)| known.strip_prefix(PREFIX) == Some(key));
    if let Some((known, ..)) = short {
        return Some(known);
    }
    let similar = ALL
        .iter()
        .filter(|(known, ..)| known.len().abs_diff(key.len()) <= MAX_DISTANCE);
    let distances = similar.map(|(known, ..)| (distance(key, known), *known));
    let (distance, known) = distances.min()?;
    (distance <= MAX_DISTANCE).then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_recognised() {
        let nearest = nearest("com.apple.security.aplication-group");
        assert_eq!(nearest, Some(APPLICATION_GROUPS));
        assert_eq!(super::nearest("app-sandbox"), Some(APP_SANDBOX));
    }

    #[test]
    fn a_key_like_no_other_is_not_guessed_at() {
        assert_eq!(nearest("x"), None);
        assert_eq!(nearest("org.example.product.settings"), None);
        assert_eq!(nearest(&"x".repeat(1 << 20)), None);
    }
}
