//! Processes of jobs: how they start, what they inherit, and how all of them are ended.
//!
//! There is no event loop and no policy here: [`Launcher::start`] returns when the program runs or
//! could not be started, and an [`Instance`] is told what to do with it.
//!
//! All processes of an instance are to be found when it is ended, also one that has left its
//! session and its parent. Where a cgroup tree of version 2 is delegated to the server, each
//! instance gets a leaf in it, `portolan-<label>-<instance>`. Elsewhere they are the session and
//! the group of the first process, its descendants, and every process with the mark of the
//! instance in its environment, [`MARK`]. One that has left all of those is not found.

mod account;
mod cgroup;
mod confined;
mod confinement;
mod environment;
mod error;
mod instance;
mod places;
mod processes;
mod program;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use portolan_sandbox::probe::LAUNCHER;
use portolan_sandbox::report::REPORT;
use portolan_sys::spawn::{Descriptor, Limit, Spawn, SpawnError, Step, spawn};
use portolan_wire::instance::mark as instance_mark;
use portolan_wire::label::JobLabel;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource};

use crate::job::{Job, ProcessType};
use account::Account;
use cgroup::{Leaf, Tree};
use confinement::{Confinement, Walls};
use places::Places;

pub use confined::Leader;
pub(crate) use confinement::home_here;
pub use confinement::{Stance, Ward, stance};
pub use environment::MARK;
pub use error::StartError;
pub use instance::{Exit, Instance};
pub use processes::{become_subreaper, reap_strays, with_ancestors};

/// Starts jobs.
#[derive(Debug)]
pub struct Launcher {
    tree: Option<Tree>,
    places: Places,
    walls: Walls,
}

/// What a job inherits from the server, besides what its file says.
#[derive(Clone, Copy, Debug)]
pub struct Inheritance<'a> {
    /// Its bootstrap right. The number of its descriptor there is in `PORTOLAN_BOOTSTRAP_FD`.
    pub bootstrap: BorrowedFd<'a>,
    /// With what its launcher reports what is refused to it, if it is confined; nothing is reported if
    /// not given.
    pub reporter: Option<BorrowedFd<'a>>,
    /// What it reads from, if the job has no `StandardInPath`; nothing if not given.
    pub standard_in: Option<BorrowedFd<'a>>,
    /// What it writes to, if the job has no `StandardOutPath`; to nowhere if not given.
    pub standard_out: Option<BorrowedFd<'a>>,
    /// Where its errors go, if the job has no `StandardErrorPath`; nowhere if not given.
    pub standard_error: Option<BorrowedFd<'a>>,
    /// Its sockets, with their names in `LISTEN_FDNAMES`. Their descriptors begin at 3, before the
    /// bootstrap right, as sd_listen_fds(3) has it.
    pub sockets: &'a [(String, BorrowedFd<'a>)],
    /// Variables that are set whatever the job's file says.
    pub environment: &'a [(String, String)],
    /// The number of the instance, which no other process on this machine has: a random one, see
    /// [`random_instance`].
    pub instance: u64,
}

/// A number for an instance.
///
/// # Errors
///
/// What getrandom(2) says.
pub fn random_instance() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

const NOTHING: &CStr = c"/dev/null";

/// Behind the sockets are the bootstrap right and then the profile of a confined program, which the
/// right to report with follows, and the first socket's number is 3.
const PROFILE_BEHIND_SOCKETS: usize = 4;

/// What a job of the category `Background` gets if it does not say otherwise.
const BACKGROUND_NICE: i8 = 10;

impl Launcher {
    /// Gives each instance a leaf of this process's cgroup, if it may have children.
    ///
    /// To be made while this process has few descriptors: it reserves some low numbers, without
    /// which starting a program takes the longer the more there are.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tree: Tree::find(),
            places: Places::reserve(),
            walls: Walls::default(),
        }
    }

    /// Makes no cgroups, for a server that is a guest in another program. See also
    /// [`new`](Self::new).
    #[must_use]
    pub fn without_cgroups() -> Self {
        Self {
            tree: None,
            places: Places::reserve(),
            walls: Walls::default(),
        }
    }

    /// Whether instances get leaves of a cgroup.
    #[must_use]
    pub fn has_cgroups(&self) -> bool {
        self.tree.is_some()
    }

    /// Starts a job and returns when its program runs.
    ///
    /// The program leads a session of its own. It has the descriptors 0, 1 and 2, its sockets and
    /// its bootstrap right, and no others. Of this process's environment it gets `PATH`, `LANG`
    /// and what tells of the user; then come the job's variables, those of `inheritance`, and the
    /// server's own. It runs in `/` if the job does not say where.
    ///
    /// A job with entitlements for a sandbox is confined before it is its program. What goes wrong
    /// with that is written where its errors go, and its exit status is 78 or 71.
    ///
    /// `UserName` and `GroupName` are heeded if this process is root's.
    ///
    /// # Errors
    ///
    /// [`StartError`]. Nothing is left of the process or of its leaf then.
    pub fn start(&self, job: &Job, inheritance: &Inheritance<'_>) -> Result<Instance, StartError> {
        let account = Account::of(job)?;
        let directory = job.working_directory.as_deref().unwrap_or(Path::new("/"));
        let mut variables = environment::variables(job, inheritance, account.as_ref());
        let program = program::find(job, directory, variables.get(OsStr::new("PATH")))?;
        let confinement = self
            .walls
            .of(job, directory, &program, account.as_ref(), &variables)?;
        let mut identity = account.map(|account| account.identity);
        if let (Some(confinement), Some(identity)) = (&confinement, &mut identity)
            && !confinement.capabilities.is_empty()
        {
            identity.capabilities = confinement.capabilities;
            variables.retain(|name, _| environment::is_ours(name));
        }
        let mut texts = Texts::new(job, directory, &program, &variables, inheritance.instance)?;
        if let Some(confinement) = &confinement {
            let profile = inheritance.sockets.len() + PROFILE_BEHIND_SOCKETS;
            texts.confine(confinement, profile, inheritance.reporter.is_some())?;
        }
        let leaf = self.leaf(&job.label, inheritance.instance)?;
        let opened = match &leaf {
            Some(leaf) => Some(leaf.open()?),
            None => None,
        };
        let (nice, batch) = priority(job);
        let wishes = Spawn {
            program: &texts.program,
            arguments: &texts.arguments,
            environment: &texts.environment,
            pid_variable: (!inheritance.sockets.is_empty()).then_some(c"LISTEN_PID"),
            directory: Some(&texts.directory),
            descriptors: &[],
            umask: job.umask.map(|mask| Mode::from_bits_truncate(mask.into())),
            nice,
            batch,
            limits: &limits(job),
            identity: identity.as_ref(),
            session: true,
            cgroup: opened.as_ref().map(OwnedFd::as_fd),
        };
        let started = self.places.lend(
            &descriptors(&texts, inheritance, confinement.as_ref()),
            |descriptors| {
                spawn(&Spawn {
                    descriptors,
                    ..wishes
                })
            },
        );
        let mark = instance_mark(&job.label, inheritance.instance);
        match started {
            Ok(child) => Ok(Instance::new(child.pid, child.pidfd, mark, leaf)),
            Err(error) => Err(explain(error, job, directory, program, leaf)),
        }
    }

    /// How a job would be confined; not at all if it has no entitlements for a sandbox.
    ///
    /// # Errors
    ///
    /// [`StartError`], as starting it would say.
    pub fn ward(&self, job: &Job) -> Result<Option<Ward>, StartError> {
        let account = Account::of(job)?;
        self.walls.ward(job, account.as_ref())
    }

    /// An instance that was started before, by another process or by this one when it was another
    /// program. `pidfd` is that of its first process, `instance` the number that it was started
    /// with.
    #[must_use]
    pub fn adopt(&self, pid: Pid, pidfd: OwnedFd, label: &JobLabel, instance: u64) -> Instance {
        let tree = self.tree.as_ref();
        let leaf = tree.and_then(|tree| tree.existing(&cgroup::leaf_name(label, instance)));
        Instance::new(pid, pidfd, instance_mark(label, instance), leaf)
    }

    fn leaf(&self, label: &JobLabel, instance: u64) -> Result<Option<Leaf>, StartError> {
        let Some(tree) = &self.tree else {
            return Ok(None);
        };
        tree.make(&cgroup::leaf_name(label, instance)).map(Some)
    }
}

impl Default for Launcher {
    fn default() -> Self {
        Self::new()
    }
}

/// What a program is told, as the kernel takes it.
struct Texts {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
    /// Input, output and errors, for those that have a path.
    standard: [Option<CString>; 3],
}

impl Texts {
    fn new(
        job: &Job,
        directory: &Path,
        program: &Path,
        variables: &BTreeMap<OsString, OsString>,
        instance: u64,
    ) -> Result<Self, StartError> {
        let arguments: Vec<CString> = if job.program_arguments.is_empty() {
            vec![text(program.as_os_str())?]
        } else {
            let arguments = job.program_arguments.iter();
            arguments
                .map(|one| text(one.as_ref()))
                .collect::<Result<_, _>>()?
        };
        let variables = variables.iter().map(|(name, value)| {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            text(&variable)
        });
        // First, because whoever looks for it reads a part of an environment only.
        let mark = format!("{MARK}={}", instance_mark(&job.label, instance));
        let mark = text(mark.as_ref());
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| text(p.as_ref())).transpose();
        Ok(Self {
            program: text(program.as_os_str())?,
            arguments,
            environment: [mark]
                .into_iter()
                .chain(variables)
                .collect::<Result<_, _>>()?,
            directory: text(directory.as_os_str())?,
            standard: [
                path(&job.standard_in_path)?,
                path(&job.standard_out_path)?,
                path(&job.standard_error_path)?,
            ],
        })
    }

    /// Puts the launcher in the program's place. The program gets the same arguments from it.
    fn confine(
        &mut self,
        confinement: &Confinement,
        profile: usize,
        reports: bool,
    ) -> Result<(), StartError> {
        self.program = text(confinement.launcher.as_os_str())?;
        let mut before = vec![LAUNCHER.to_owned()];
        if reports {
            before.extend([REPORT.to_owned(), (profile + 1).to_string()]);
        }
        before.push(profile.to_string());
        let before = before.iter().map(|one| text(one.as_ref()));
        let before: Vec<CString> = before.collect::<Result<_, _>>()?;
        self.arguments.splice(0..0, before);
        Ok(())
    }
}

fn text(text: &OsStr) -> Result<CString, StartError> {
    CString::new(text.as_encoded_bytes()).map_err(|_| StartError::Nul {
        text: text.to_owned(),
    })
}

fn descriptors<'a>(
    texts: &'a Texts,
    inheritance: &Inheritance<'a>,
    confinement: Option<&'a Confinement>,
) -> Vec<Descriptor<'a>> {
    let read = OFlags::RDONLY;
    let append = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let [input, output, errors] = &texts.standard;
    let mut descriptors = vec![
        standard(input, inheritance.standard_in, read),
        standard(output, inheritance.standard_out, append),
        standard(errors, inheritance.standard_error, append),
    ];
    let sockets = inheritance.sockets.iter();
    descriptors.extend(sockets.map(|(_, socket)| Descriptor::Inherited(*socket)));
    descriptors.push(Descriptor::Inherited(inheritance.bootstrap));
    if let Some(confinement) = confinement {
        descriptors.push(Descriptor::Inherited(confinement.profile.as_fd()));
        descriptors.extend(inheritance.reporter.map(Descriptor::Inherited));
    }
    descriptors
}

fn standard<'a>(
    path: &'a Option<CString>,
    inherited: Option<BorrowedFd<'a>>,
    flags: OFlags,
) -> Descriptor<'a> {
    let mode = Mode::RUSR | Mode::WUSR;
    match (path, inherited) {
        (Some(path), _) => Descriptor::File { path, flags, mode },
        (None, Some(descriptor)) => Descriptor::Inherited(descriptor),
        (None, None) => Descriptor::File {
            path: NOTHING,
            flags: OFlags::RDWR,
            mode,
        },
    }
}

/// The nice value, and whether the job is a batch job.
fn priority(job: &Job) -> (Option<i8>, bool) {
    match job.process_type {
        ProcessType::Background => (job.nice.or(Some(BACKGROUND_NICE)), true),
        _ => (job.nice, false),
    }
}

fn limits(job: &Job) -> Vec<Limit> {
    let (soft, hard) = (&job.soft_resource_limits, &job.hard_resource_limits);
    let all = [
        (Resource::Core, soft.core, hard.core),
        (Resource::Cpu, soft.cpu, hard.cpu),
        (Resource::Data, soft.data, hard.data),
        (Resource::Fsize, soft.file_size, hard.file_size),
        (Resource::Memlock, soft.memory_lock, hard.memory_lock),
        (Resource::Nofile, soft.number_of_files, hard.number_of_files),
        (
            Resource::Nproc,
            soft.number_of_processes,
            hard.number_of_processes,
        ),
        (Resource::Stack, soft.stack, hard.stack),
    ];
    let given = all
        .into_iter()
        .filter(|(_, soft, hard)| soft.or(*hard).is_some());
    given
        .map(|(resource, soft, hard)| Limit {
            resource,
            soft,
            hard,
        })
        .collect()
}

fn explain(
    error: SpawnError,
    job: &Job,
    directory: &Path,
    program: PathBuf,
    leaf: Option<Leaf>,
) -> StartError {
    let source = error.source;
    let standard = [
        &job.standard_in_path,
        &job.standard_out_path,
        &job.standard_error_path,
    ];
    match error.step {
        Step::Directory => StartError::Directory {
            path: directory.to_owned(),
            source,
        },
        Step::File(place) => StartError::StandardFile {
            path: match standard.get(place) {
                Some(Some(path)) => directory.join(path),
                _ => OsStr::from_bytes(NOTHING.to_bytes()).into(),
            },
            source,
        },
        Step::Cgroup => StartError::Cgroup {
            path: leaf.map(|leaf| leaf.path().to_owned()).unwrap_or_default(),
            source,
        },
        Step::Exec => program::explain(program, directory, source),
        step => StartError::Process {
            program,
            source: SpawnError { step, source },
        },
    }
}
