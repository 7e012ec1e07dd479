//! Where the members of an application group keep what they share.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::group::GroupId;

/// Environment variable with the folder of all group containers, before all other places: what a
/// confined program is told, whose home is its own container.
pub const GROUP_CONTAINERS: &str = "PORTOLAN_GROUP_CONTAINERS";

/// The folders from a group's container to its preferences, in this order.
pub const PREFERENCES: [&str; 2] = ["Library", "Preferences"];

/// What decides where group containers are.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The environment variable [`GROUP_CONTAINERS`].
    pub portolan: Option<OsString>,
    /// The environment variable `XDG_DATA_HOME`.
    pub xdg: Option<OsString>,
    /// The environment variable `HOME`.
    pub home: Option<OsString>,
}

/// A group's container: a folder of somebody else, and the folders below it that are made on first
/// need and in which no link is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupContainer {
    /// The folder that the environment names, which may be reached by links.
    pub base: PathBuf,
    /// Names of folders from there to the container, the container's own last.
    pub below: Vec<String>,
}

impl Surroundings {
    /// The container of a group; nothing without a home.
    ///
    /// It is `<group>` in the first of: what [`GROUP_CONTAINERS`] says,
    /// `$XDG_DATA_HOME/portolan/Group Containers`, and
    /// `$HOME/.local/share/portolan/Group Containers`. Paths that are empty or not absolute count as
    /// missing.
    ///
    /// ```
    /// use portolan_wire::container::Surroundings;
    /// use std::path::Path;
    ///
    /// let group = "group.org.example".parse()?;
    /// let around = Surroundings { xdg: Some("/data".into()), ..Default::default() };
    /// let container = around.group_container(&group).expect("a place");
    /// assert_eq!(container.base, Path::new("/data"));
    /// assert_eq!(container.below, ["portolan", "Group Containers", "group.org.example"]);
    ///
    /// let around = Surroundings { home: Some("/home/a".into()), ..Default::default() };
    /// let container = around.group_container(&group).expect("a place");
    /// assert_eq!(container.base, Path::new("/home/a"));
    /// assert_eq!(container.below[..2], [".local", "share"]);
    ///
    /// let around = Surroundings { xdg: Some("relative".into()), ..Default::default() };
    /// assert_eq!(around.group_container(&group), None);
    /// # Ok::<(), portolan_wire::group::GroupError>(())
    /// ```
    #[must_use]
    pub fn group_container(&self, group: &GroupId) -> Option<GroupContainer> {
        const IN_DATA: [&str; 2] = ["portolan", "Group Containers"];
        let (base, above) = if let Some(named) = absolute(&self.portolan) {
            (named, Vec::new())
        } else if let Some(data) = absolute(&self.xdg) {
            (data, IN_DATA.to_vec())
        } else {
            let share = [&[".local", "share"], &IN_DATA[..]].concat();
            (absolute(&self.home)?, share)
        };
        let names = above.into_iter().chain([group.as_str()]);
        Some(GroupContainer {
            base: base.to_path_buf(),
            below: names.map(str::to_owned).collect(),
        })
    }
}

fn absolute(variable: &Option<OsString>) -> Option<&Path> {
    let path = Path::new(variable.as_ref()?);
    path.is_absolute().then_some(path)
}
