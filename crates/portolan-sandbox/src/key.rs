//! The entitlement keys, as Apple spells them.

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

pub(crate) const APP_SANDBOX: &str = "com.apple.security.app-sandbox";
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

/// The key that excepts names from the rules for an operation.
pub(crate) fn exception(operation: Operation, filter: Filter) -> &'static str {
    match (operation, filter) {
        (Operation::MachLookup, Filter::GlobalName) => LOOKUP_GLOBAL,
        (Operation::MachLookup, Filter::LocalName) => LOOKUP_LOCAL,
        (Operation::MachRegister, Filter::GlobalName) => REGISTER_GLOBAL,
        (Operation::MachRegister, Filter::LocalName) => REGISTER_LOCAL,
    }
}

/// Every key that a file may have, with or without a meaning here: a file that was written for
/// macOS is read unchanged, and a misspelt key is found.
pub(crate) const ALL: &[(&str, Shape)] = &[
    (APP_SANDBOX, Shape::Boolean),
    ("com.apple.security.inherit", Shape::Boolean),
    (APPLICATION_GROUPS, Shape::Strings),
    (NETWORK_CLIENT, Shape::Boolean),
    (NETWORK_SERVER, Shape::Boolean),
    (
        "com.apple.security.files.user-selected.read-only",
        Shape::Boolean,
    ),
    (
        "com.apple.security.files.user-selected.read-write",
        Shape::Boolean,
    ),
    (
        "com.apple.security.files.user-selected.executable",
        Shape::Boolean,
    ),
    (
        "com.apple.security.files.downloads.read-only",
        Shape::Boolean,
    ),
    (
        "com.apple.security.files.downloads.read-write",
        Shape::Boolean,
    ),
    (
        "com.apple.security.files.bookmarks.app-scope",
        Shape::Boolean,
    ),
    (
        "com.apple.security.files.bookmarks.document-scope",
        Shape::Boolean,
    ),
    ("com.apple.security.files.all", Shape::Boolean),
    (
        "com.apple.security.assets.pictures.read-only",
        Shape::Boolean,
    ),
    (
        "com.apple.security.assets.pictures.read-write",
        Shape::Boolean,
    ),
    ("com.apple.security.assets.music.read-only", Shape::Boolean),
    ("com.apple.security.assets.music.read-write", Shape::Boolean),
    ("com.apple.security.assets.movies.read-only", Shape::Boolean),
    (
        "com.apple.security.assets.movies.read-write",
        Shape::Boolean,
    ),
    ("com.apple.security.device.camera", Shape::Boolean),
    ("com.apple.security.device.microphone", Shape::Boolean),
    ("com.apple.security.device.audio-input", Shape::Boolean),
    ("com.apple.security.device.usb", Shape::Boolean),
    ("com.apple.security.device.bluetooth", Shape::Boolean),
    ("com.apple.security.device.firewire", Shape::Boolean),
    ("com.apple.security.device.serial", Shape::Boolean),
    ("com.apple.security.print", Shape::Boolean),
    (
        "com.apple.security.personal-information.addressbook",
        Shape::Boolean,
    ),
    (
        "com.apple.security.personal-information.calendars",
        Shape::Boolean,
    ),
    (
        "com.apple.security.personal-information.location",
        Shape::Boolean,
    ),
    (
        "com.apple.security.personal-information.photos-library",
        Shape::Boolean,
    ),
    ("com.apple.security.scripting-targets", Shape::Dictionary),
    ("com.apple.security.automation.apple-events", Shape::Boolean),
    (LOOKUP_GLOBAL, Shape::Strings),
    (LOOKUP_LOCAL, Shape::Strings),
    (REGISTER_GLOBAL, Shape::Strings),
    (REGISTER_LOCAL, Shape::Strings),
    (
        "com.apple.security.temporary-exception.apple-events",
        Shape::Strings,
    ),
    (
        "com.apple.security.temporary-exception.audio-unit-host",
        Shape::Boolean,
    ),
    (READ_ONLY_HOME, Shape::Strings),
    (READ_WRITE_HOME, Shape::Strings),
    (READ_ONLY_ABSOLUTE, Shape::Strings),
    (READ_WRITE_ABSOLUTE, Shape::Strings),
    (
        "com.apple.security.temporary-exception.shared-preference.read-only",
        Shape::Strings,
    ),
    (
        "com.apple.security.temporary-exception.shared-preference.read-write",
        Shape::Strings,
    ),
    (
        "com.apple.security.temporary-exception.iokit-user-client-class",
        Shape::Strings,
    ),
    (
        "com.apple.security.temporary-exception.sbpl",
        Shape::Strings,
    ),
];

/// The shape of a known key.
pub(crate) fn shape(key: &str) -> Option<Shape> {
    ALL.iter()
        .find(|(known, _)| *known == key)
        .map(|(_, shape)| *shape)
}

/// The known key that this one is probably meant to be.
pub(crate) fn nearest(key: &str) -> Option<&'static str> {
    const PREFIX: &str = "com.apple.security.";
    const MAX_DISTANCE: usize = 6;
    let short = ALL
        .iter()
        .find(|(known, _)| known.strip_prefix(PREFIX) == Some(key));
    if let Some((known, _)) = short {
        return Some(known);
    }
    let similar = ALL
        .iter()
        .filter(|(known, _)| known.len().abs_diff(key.len()) <= MAX_DISTANCE);
    let distances = similar.map(|(known, _)| (distance(key, known), *known));
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
