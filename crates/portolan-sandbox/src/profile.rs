//! What a confined program gets: the entitlements, with everything in them that depends on who and
//! where it is made plain.

mod bytes;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use portolan_wire::group::GroupId;
use portolan_wire::label::JobLabel;
use rustix::fs::{MemfdFlags, SealFlags};
use serde::ser::{Serialize, Serializer};
use thiserror::Error;

use crate::entitlements::{Entitlements, ExceptedPath, Folder};
use crate::filter::Allowances;

pub use bytes::DecodeError;

/// How strong the wall is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Landlock and a filter of system calls. Whether a path or a process exists is not hidden.
    T1,
    /// Namespaces too: other files and processes are not there.
    T2,
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::T1 => "T1",
            Self::T2 => "T2",
        })
    }
}

/// Which tier is wanted: `required:T2`, `best` or `T1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// The strongest that the machine has.
    #[default]
    Best,
    /// This one, and nothing is started without it.
    Required(Tier),
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Best => "best",
            Self::Required(Tier::T1) => "T1",
            Self::Required(Tier::T2) => "required:T2",
        })
    }
}

/// As it is written.
impl Serialize for Isolation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text is none of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an isolation is required:T2, best or T1")]
pub struct IsolationError;

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, IsolationError> {
        match text {
            "best" => Ok(Self::Best),
            "T1" => Ok(Self::Required(Tier::T1)),
            "required:T2" => Ok(Self::Required(Tier::T2)),
            _ => Err(IsolationError),
        }
    }
}

/// Where a user's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The home directory.
    pub path: PathBuf,
    /// `XDG_DATA_HOME`, in which the containers are.
    pub data: PathBuf,
}

impl Home {
    /// The home with this path, and where its data is: `data`, if that is an absolute path, as the
    /// XDG Base Directory Specification has it.
    #[must_use]
    pub fn new(path: PathBuf, data: Option<PathBuf>) -> Self {
        let data = data.filter(|data| data.is_absolute());
        let data = data.unwrap_or_else(|| path.join(".local/share"));
        Self { path, data }
    }

    /// The container of a program: the directory that it has for its own.
    #[must_use]
    pub fn container(&self, label: &JobLabel) -> PathBuf {
        let containers = self.data.join("portolan/Containers");
        containers.join(component(label.as_str())).join("Data")
    }

    /// The directory of all group containers.
    #[must_use]
    pub fn group_containers(&self) -> PathBuf {
        self.data.join("portolan/Group Containers")
    }

    /// The container that the members of a group share.
    #[must_use]
    pub fn group_container(&self, group: &GroupId) -> PathBuf {
        self.group_containers().join(component(group.as_str()))
    }
}

/// The name of a directory, which differs for different texts and is neither `.` nor `..`.
fn component(text: &str) -> OsString {
    let mut name = text.replace('%', "%25").replace('/', "%2F");
    if name.starts_with('.') {
        name.replace_range(..1, "%2E");
    }
    name.into()
}

/// What an exception grants, if it is there when the program is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// What it is about.
    pub what: Excepted,
    /// Whether it may be changed.
    pub write: bool,
}

/// What an exception is about. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excepted {
    /// A file.
    File(PathBuf),
    /// A directory with all that is below it.
    Tree(PathBuf),
    /// A folder of the user's, wherever the user has it.
    Folder(Folder),
}

/// A program and its walls.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// What the program is called.
    pub label: JobLabel,
    /// Where it is.
    pub program: PathBuf,
    /// How it is confined.
    pub tier: Tier,
    /// The directory of its own: its `HOME`. `TMPDIR` is `tmp` in it.
    pub container: PathBuf,
    /// The directory of all group containers, which it is told and may not read.
    pub group_containers: PathBuf,
    /// The directories of its groups.
    pub groups: Vec<PathBuf>,
    /// The home of the user, in whose settings the places of folders are.
    pub home: PathBuf,
    /// What the user has excepted.
    pub exceptions: Vec<Exception>,
    /// What no exception is for, nor anything below it: it would lead out. That of the user's
    /// containers, settings and logs is in it; whoever starts the program adds what else there is.
    pub kept_out: Vec<PathBuf>,
    /// The program's variables, if the launcher is privileged: then it is started without them,
    /// because some of them decide what programs do before they do anything. Otherwise it has them.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether it may make connections.
    pub client: bool,
    /// Whether it may wait for connections.
    pub server: bool,
}

impl Profile {
    /// The profile of a program. Nothing is asked of the machine, and nothing is made.
    ///
    /// # Errors
    ///
    /// [`ProfileError`]
    pub fn resolve(
        entitlements: &Entitlements,
        label: &JobLabel,
        program: &Path,
        home: &Home,
        tier: Tier,
    ) -> Result<Self, ProfileError> {
        // The program's own path may have .. in it: only what is granted is compared with others.
        let has_nul = program.as_os_str().as_bytes().contains(&0);
        let wrong = [(program, program.is_absolute() && !has_nul)]
            .into_iter()
            .chain([&home.path, &home.data].map(|path| (path.as_path(), is_plain(path))))
            .find(|(_, right)| !right);
        if let Some((path, _)) = wrong {
            return Err(ProfileError::NotAbsolute {
                path: path.to_owned(),
            });
        }
        let groups = entitlements.application_groups.iter();
        Ok(Self {
            label: label.clone(),
            program: program.to_owned(),
            tier,
            container: home.container(label),
            group_containers: home.group_containers(),
            groups: groups.map(|group| home.group_container(group)).collect(),
            home: home.path.clone(),
            exceptions: exceptions(entitlements, &home.path),
            kept_out: kept_out(home),
            environment: Vec::new(),
            client: entitlements.network_client,
            server: entitlements.network_server,
        })
    }

    /// The home that it was made for.
    #[must_use]
    pub fn home(&self) -> Home {
        // The group containers are in `portolan`, which is in it.
        let data = self.group_containers.ancestors().nth(2);
        Home::new(self.home.clone(), data.map(Path::to_owned))
    }

    /// What the filter of its system calls lets through.
    #[must_use]
    pub fn allowances(&self) -> Allowances {
        let own_tree = self.tier == Tier::T2;
        Allowances {
            own_tree,
            client: self.client,
            server: self.server,
            group_sockets: own_tree && !self.groups.is_empty(),
        }
    }

    /// Writes it to memory that nobody can change any more. The descriptor is close-on-exec.
    ///
    /// # Errors
    ///
    /// What memfd_create(2), write(2) or fcntl(2) says.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("portolan-profile", flags)?;
        let mut file = File::from(memory);
        file.write_all(&bytes::encode(self))?;
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        Ok(file.into())
    }

    /// Reads what [`seal`](Self::seal) has written.
    ///
    /// # Errors
    ///
    /// [`UnsealError`]; also if the memory could still be changed.
    pub fn unseal(memory: OwnedFd) -> Result<Self, UnsealError> {
        let seals = rustix::fs::fcntl_get_seals(&memory).map_err(io::Error::from)?;
        if !seals.contains(SEALS) {
            return Err(UnsealError::NotSealed);
        }
        let mut bytes = vec![0; MAX_BYTES + 1];
        let len = rustix::io::pread(&memory, &mut *bytes, 0).map_err(io::Error::from)?;
        bytes.truncate(len);
        Ok(bytes::decode(&bytes)?)
    }
}

const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// The longest profile in bytes: an entitlement file is shorter, and home is added to its paths. An
/// environment is no longer than what the kernel gives a program.
const MAX_BYTES: usize = 4 << 20;

fn exceptions(entitlements: &Entitlements, home: &Path) -> Vec<Exception> {
    let Entitlements {
        read_only_absolute,
        read_write_absolute,
        read_only_home,
        read_write_home,
        read_only_folders,
        read_write_folders,
        ..
    } = entitlements;
    let root = Path::new("/");
    let paths = [
        (read_only_absolute, root, false),
        (read_write_absolute, root, true),
        (read_only_home, home, false),
        (read_write_home, home, true),
    ];
    let paths = paths.into_iter().flat_map(|(paths, base, write)| {
        let what = move |path: &ExceptedPath| match path.is_tree() {
            true => Excepted::Tree(path.below(base)),
            false => Excepted::File(path.below(base)),
        };
        let what = paths.iter().map(what);
        what.map(move |what| Exception { what, write })
    });
    let folders = [(read_only_folders, false), (read_write_folders, true)];
    let folders = folders.into_iter().flat_map(|(folders, write)| {
        let what = folders.iter().copied().map(Excepted::Folder);
        what.map(move |what| Exception { what, write })
    });
    paths.chain(folders).collect()
}

/// Where Portolan keeps what is not one program's: whoever writes there decides what is started.
fn kept_out(home: &Home) -> Vec<PathBuf> {
    let data = home.data.join("portolan");
    let others = [".config", ".local/state", ".local/share"];
    let others = others.map(|name| home.path.join(name).join("portolan"));
    [data].into_iter().chain(others).collect()
}

/// Absolute, and without `..` and NUL, so that what it says is what the kernel makes of it.
fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && !path.components().any(|one| one == Component::ParentDir)
        && !path.as_os_str().as_bytes().contains(&0)
}

/// Entitlements cannot be made into a profile.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The program or the home has no absolute path.
    #[error("{} is not an absolute path, or has .. in it", path.display())]
    NotAbsolute {
        /// The path.
        path: PathBuf,
    },
}

/// Memory does not hold a profile.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UnsealError {
    /// It cannot be read, or is no memory.
    #[error("cannot read the profile")]
    Unreadable(#[from] io::Error),
    /// Somebody could still change it.
    #[error("the profile is not sealed")]
    NotSealed,
    /// It is something else.
    #[error("not a profile")]
    Wrong(#[from] DecodeError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> JobLabel {
        text.parse().expect("a label")
    }

    fn home() -> Home {
        Home::new("/home/alice".into(), None)
    }

    fn resolve(toml: &str) -> Result<Profile, ProfileError> {
        let entitlements = Entitlements::parse(toml.as_bytes()).expect("entitlements");
        let program = Path::new("/usr/bin/app");
        Profile::resolve(&entitlements, &label("a.b"), program, &home(), Tier::T2)
    }

    const FILES: &str = "com.apple.security.temporary-exception.files";

    #[test]
    fn containers_are_below_the_data_home() {
        let profile = resolve("\"com.apple.security.application-groups\" = \"group.x\"");
        let profile = profile.expect("a profile");
        let data = Path::new("/home/alice/.local/share/portolan");
        assert_eq!(profile.container, data.join("Containers/a.b/Data"));
        assert_eq!(profile.groups, [data.join("Group Containers/group.x")]);
        assert_eq!(profile.home(), home());
        let relative = Home::new("/h".into(), Some("x".into()));
        assert_eq!(relative.data, Path::new("/h/.local/share"));
        assert_eq!(
            Home::new("/h".into(), Some("/x".into())).data,
            Path::new("/x")
        );
    }

    #[test]
    fn a_label_is_one_directory_of_its_own() {
        let labels = ["a/b", "a%2Fb", "..", ".", "a", "%2E"];
        let names = labels.map(component);
        for (at, name) in names.iter().enumerate() {
            let components: Vec<_> = Path::new(name).components().collect();
            assert!(matches!(*components, [Component::Normal(_)]), "{name:?}");
            assert!(!names[..at].contains(name), "{name:?} is there twice");
        }
    }

    #[test]
    fn exceptions_are_absolute_or_below_the_home() {
        let profile = resolve(&format!(
            "\"{FILES}.absolute-path.read-only\" = \"/opt/data/\"\n\
             \"{FILES}.home-relative-path.read-write\" = [\"/notes.txt\", \"/\"]\n\
             \"com.apple.security.files.downloads.read-write\" = true\n\
             \"com.apple.security.assets.music.read-only\" = true\n\
             \"com.apple.security.assets.movies.read-only\" = false\n\
             \"com.apple.security.network.client\" = true"
        ))
        .expect("a profile");
        let exception = |what, write| Exception { what, write };
        let expected = [
            exception(Excepted::Tree("/opt/data".into()), false),
            exception(Excepted::File("/home/alice/notes.txt".into()), true),
            exception(Excepted::Tree("/home/alice".into()), true),
            exception(Excepted::Folder(Folder::Music), false),
            exception(Excepted::Folder(Folder::Downloads), true),
        ];
        assert_eq!(profile.exceptions, expected);
        assert!(profile.allowances().client && !profile.allowances().server);
    }

    #[test]
    fn a_profile_is_read_as_it_was_sealed() {
        let profile = resolve(&format!(
            "\"{FILES}.absolute-path.read-write\" = [\"/a\", \"/b/\"]\n\
             \"com.apple.security.assets.pictures.read-only\" = true\n\
             \"com.apple.security.application-groups\" = [\"group.x\", \"group.y\"]\n\
             \"com.apple.security.network.server\" = true"
        ))
        .expect("a profile");
        let profile = Profile {
            environment: vec![("NAME".into(), "value=".into())],
            ..profile
        };
        let memory = profile.seal().expect("memory");
        assert!(rustix::io::write(&memory, b"x").is_err(), "it is sealed");
        assert_eq!(Profile::unseal(memory).expect("a profile"), profile);
    }

    #[test]
    fn what_can_be_changed_is_refused() {
        let profile = resolve("").expect("a profile");
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(rustix::fs::memfd_create("x", flags).expect("memory"));
        file.write_all(&bytes::encode(&profile)).expect("write");
        let error = Profile::unseal(file.into()).expect_err("no seals");
        assert!(matches!(error, UnsealError::NotSealed), "{error}");
        let null = File::open("/dev/null").expect("open");
        let error = Profile::unseal(null.into()).expect_err("no memory");
        assert!(matches!(error, UnsealError::Unreadable(_)), "{error}");
    }

    #[test]
    fn an_isolation_is_written_as_it_is_read() {
        for text in ["required:T2", "best", "T1"] {
            let isolation: Isolation = text.parse().expect("an isolation");
            assert_eq!(isolation.to_string(), text);
        }
        assert!("required:T3".parse::<Isolation>().is_err());
    }
}
