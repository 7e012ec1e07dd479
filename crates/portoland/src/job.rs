//! Job files: how a program is to be started, in launchd's keys.
//!
//! A file is TOML, an XML property list or a binary one; all three are read into a [`Job`]. A file
//! for launchd is read as it is: one of launchd's keys that has no effect here is a warning. Any
//! other key is an error, with its place and the key that was probably meant.
//!
//! [`supervisor`](crate::supervisor) decides when a job runs, [`launch`](crate::launch) makes a process
//! of it.
//!
//! ```
//! use portoland::job::Reading;
//!
//! let reading = Reading::of(
//!     br#"
//!     Label = "org.example.echo"
//!     ProgramArguments = ["/usr/bin/echo-server", "--quiet"]
//!     MachServices."org.example.echo" = true
//!     KeepAlive = { SuccesfulExit = false }
//!     "#,
//! );
//! let error = reading.errors[0].to_string();
//! assert_eq!(error, "KeepAlive.SuccesfulExit: unknown key, did you mean SuccessfulExit?");
//! ```

mod finding;
mod keys;
mod known;
mod read;
mod text;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_sandbox::Entitlements;
use portolan_sandbox::document::Document;
use portolan_sandbox::profile::Isolation;
use portolan_wire::label::JobLabel;
use portolan_wire::name::ServiceName;
use serde::Serialize;

pub use finding::{Finding, JobError, MAX_FINDINGS, Warning};

/// The longest job file, in bytes.
pub const MAX_JOB_BYTES: usize = 256 << 10;

/// What came of reading a job file.
#[derive(Debug)]
#[non_exhaustive]
pub struct Reading {
    /// The keys and values, if the file is in one of the formats.
    pub document: Option<Document>,
    /// The job, if there is no error.
    pub job: Option<Job>,
    /// What must be changed, in the order of the text; no more than [`MAX_FINDINGS`].
    pub errors: Vec<Finding<JobError>>,
    /// What has another effect than it would have under launchd; no more than [`MAX_FINDINGS`].
    pub warnings: Vec<Finding<Warning>>,
}

impl Reading {
    /// Reads the contents of a file.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        read::read(bytes)
    }
}

/// Whether a file is in the container of a program or of a group, whoever's that is. The program
/// could change it, and so what it may do when it is loaded the next time.
///
/// # Errors
///
/// If it cannot be told where the file is.
pub fn is_in_container(file: &File) -> io::Result<bool> {
    const EACH: [&str; 2] = ["Containers", "Group Containers"];
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let parts: Vec<_> = path.iter().collect();
    let mut pairs = parts.windows(2);
    Ok(pairs.any(|two| two[0] == "portolan" && EACH.iter().any(|each| two[1] == *each)))
}

/// Reads a file that is no longer than [`MAX_JOB_BYTES`].
///
/// # Errors
///
/// [`io::Error`]; [`io::ErrorKind::FileTooLarge`] for one that is longer.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_opened(File::open(path)?)
}

pub(crate) fn read_opened(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MAX_JOB_BYTES as u64;
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_JOB_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// A job.
///
/// The fields are launchd's keys, and it is serialized with them. Paths, users and groups are as
/// the file has them: whether there are such is not asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct Job {
    /// What it is called; no other job has the same.
    #[serde(serialize_with = "text::one")]
    pub label: JobLabel,
    /// Not to be loaded, unless the user says otherwise.
    pub disabled: bool,
    /// The program; the first of the arguments if not given.
    pub program: Option<PathBuf>,
    /// The arguments, with the program's name as the first. They are not empty if there is no
    /// `program`.
    pub program_arguments: Vec<String>,
    /// Where it runs.
    pub working_directory: Option<PathBuf>,
    /// What is added to its environment.
    pub environment_variables: BTreeMap<String, String>,
    /// The user it runs as.
    pub user_name: Option<String>,
    /// The group it runs as.
    pub group_name: Option<String>,
    /// Which permissions its files do not get, up to 0777.
    pub umask: Option<u16>,
    /// The nice value, -20 to 20.
    pub nice: Option<i8>,
    /// How important it is.
    pub process_type: ProcessType,
    /// Limits that it may raise up to the hard ones.
    pub soft_resource_limits: ResourceLimits,
    /// Limits that it cannot raise.
    pub hard_resource_limits: ResourceLimits,
    /// The file that it reads from.
    pub standard_in_path: Option<PathBuf>,
    /// The file to which its output is appended.
    pub standard_out_path: Option<PathBuf>,
    /// The file to which its errors are appended.
    pub standard_error_path: Option<PathBuf>,
    /// Started when it is loaded.
    pub run_at_load: bool,
    /// When it is started again. `OnDemand = false`, the older key, is read as `KeepAlive = true`.
    pub keep_alive: KeepAlive,
    /// Started each time so many seconds have passed, at least 1.
    pub start_interval: Option<u32>,
    /// Started at each of these times.
    pub start_calendar_interval: Vec<CalendarInterval>,
    /// Started when one of these changes.
    pub watch_paths: Vec<PathBuf>,
    /// Started while one of these directories is not empty.
    pub queue_directories: Vec<PathBuf>,
    /// Seconds from start to start at the least.
    pub throttle_interval: Option<u32>,
    /// Seconds from being told to end to being killed, 0 for no limit; 20 if not given.
    pub exit_time_out: u32,
    /// Seconds in which it has to check in a service that somebody waits for, 0 for no limit; 30 if
    /// not given.
    pub time_out: Option<u32>,
    /// Not started again before the next load.
    pub launch_only_once: bool,
    /// Processes of its group are left alone when it has ended.
    pub abandon_process_group: bool,
    /// The names that it serves.
    #[serde(serialize_with = "text::keys")]
    pub mach_services: BTreeMap<ServiceName, MachService>,
    /// The sockets that it inherits (`LISTEN_FDS`), by their name in `LISTEN_FDNAMES`.
    pub sockets: BTreeMap<String, Vec<Socket>>,
    /// What it may do. Without them it is not confined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entitlements: Option<Entitlements>,
    /// How strong the walls are in which its entitlements keep it.
    pub isolation: Isolation,
    /// Whether what the kernel refuses to it is in `portolan sandbox log` too. What it has started ends
    /// with its first process then, whatever `AbandonProcessGroup` says.
    pub report_refusals: bool,
    /// Jobs that are started before it, if they are started.
    #[serde(serialize_with = "text::each")]
    pub after: Vec<JobLabel>,
    /// Jobs without which it is not started.
    #[serde(serialize_with = "text::each")]
    pub requires: Vec<JobLabel>,
}

/// `TimeOut` if none is given.
const DEFAULT_CHECK_IN: Duration = Duration::from_secs(30);

impl Job {
    /// Whether it is locked in by its entitlements.
    #[must_use]
    pub fn is_confined(&self) -> bool {
        let entitlements = self.entitlements.as_ref();
        entitlements.is_some_and(|all| all.app_sandbox)
    }

    /// How long it has to check in; nothing if there is no limit.
    #[must_use]
    pub fn check_in_time(&self) -> Option<Duration> {
        match self.time_out {
            None => Some(DEFAULT_CHECK_IN),
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds.into())),
        }
    }
}

/// How important a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum ProcessType {
    /// Work that nobody waits for.
    Background,
    /// Neither of the others.
    #[default]
    Standard,
    /// In the background until it has a request to answer.
    Adaptive,
    /// As important as a program that the user sees.
    Interactive,
}

/// Limits as of `setrlimit`, each in the unit of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct ResourceLimits {
    /// Bytes of a core file.
    pub core: Option<u64>,
    /// Seconds of processor time.
    #[serde(rename = "CPU")]
    pub cpu: Option<u64>,
    /// Bytes of data.
    pub data: Option<u64>,
    /// Bytes of a file.
    pub file_size: Option<u64>,
    /// Bytes of locked memory.
    pub memory_lock: Option<u64>,
    /// Open files.
    pub number_of_files: Option<u64>,
    /// Processes of the user.
    pub number_of_processes: Option<u64>,
    /// Bytes of stack.
    pub stack: Option<u64>,
}

/// When a job is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum KeepAlive {
    /// Always, or only on demand.
    Always(bool),
    /// While one of the conditions holds.
    While(Conditions),
}

/// Conditions of which one suffices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct Conditions {
    /// It has exited, with 0 or not.
    pub successful_exit: Option<bool>,
    /// A signal that tells of a fault has ended it, or not.
    pub crashed: Option<bool>,
    /// The path exists, or not.
    pub path_state: BTreeMap<PathBuf, bool>,
    /// The other job is loaded, or not.
    #[serde(serialize_with = "text::keys")]
    pub other_job_enabled: BTreeMap<JobLabel, bool>,
    /// The other job runs, or not.
    #[serde(serialize_with = "text::keys")]
    pub other_job_active: BTreeMap<JobLabel, bool>,
    /// The others count only after it was first needed.
    pub after_initial_demand: Option<bool>,
}

/// Times in the calendar; what is not given is any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct CalendarInterval {
    /// 0 to 59.
    pub minute: Option<u8>,
    /// 0 to 23.
    pub hour: Option<u8>,
    /// 1 to 31.
    pub day: Option<u8>,
    /// 0 to 7; 0 and 7 are Sunday.
    pub weekday: Option<u8>,
    /// 1 to 12.
    pub month: Option<u8>,
}

/// How a name is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct MachService {
    /// Clients' rights die with the process that served them.
    pub reset_at_close: bool,
    /// Nobody finds the name before the job has checked in.
    pub hide_until_check_in: bool,
    /// Which messages are dropped after a crash.
    pub drain_messages_on_crash: Option<Drain>,
}

/// Which messages are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Drain {
    /// The first.
    One,
    /// All.
    All,
}

/// A socket that a job inherits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct Socket {
    /// The type; a stream if not given.
    pub sock_type: SocketType,
    /// It listens, or else is connected; it listens if not given.
    pub sock_passive: bool,
    /// Where.
    #[serde(flatten)]
    pub address: SocketAddress,
}

/// The type of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SocketType {
    /// `SOCK_STREAM`
    #[default]
    Stream,
    /// `SOCK_DGRAM`
    Dgram,
    /// `SOCK_SEQPACKET`
    Seqpacket,
}

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum SocketAddress {
    /// In the file system.
    #[serde(rename_all = "PascalCase")]
    Unix {
        /// The path.
        sock_path_name: PathBuf,
        /// The permissions, up to 0777.
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text::some")]
        sock_path_mode: Option<u16>,
    },
    /// In the network.
    #[serde(rename_all = "PascalCase")]
    Inet {
        /// The host's name or address; all addresses of this one if not given.
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text::some")]
        sock_node_name: Option<String>,
        /// The service's name, or its port number.
        sock_service_name: String,
        /// The version of IP; both if not given.
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text::some")]
        sock_family: Option<SocketFamily>,
    },
}

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum SocketFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
    /// Both, on one socket.
    #[serde(rename = "IPv4v6")]
    Both,
}
