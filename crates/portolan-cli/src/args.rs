//! What can be typed. Help, completions and the man page are made from this.

pub(crate) mod sandbox;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use portolan::shm::ObjectName;
use portolan::{GroupId, JobLabel, ServiceName};
use portolan_sandbox::profile::Isolation;

use crate::exit;

/// Mach IPC for Linux: ports, rights, and names for them.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, after_long_help = exit::HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what Portolan does, with real processes, in a few seconds.
    Demo(Demo),
    /// Serve a name: each request's bytes go to a command, its output is the answer.
    Serve(Serve),
    /// Send a request to a name and print the answer.
    Call(Call),
    /// Send a message to a name without waiting for an answer.
    Send(Send),
    /// List the published names. `portolan jobs` lists jobs.
    List(List),
    /// Check that a name can be looked up.
    Lookup(Lookup),
    /// Tell whether a name's service is active.
    Status(Status),
    /// Run a program that is known by its entitlements.
    Run(Run),
    /// Have programs started when they are needed: hand their job files to the server.
    ///
    /// Each file is checked first, and what is found is printed with its place, as `portolan job
    /// lint` does. A file that somebody else can write to is refused, because whoever writes it
    /// decides what is run as this user.
    Load(Load),
    /// End jobs and forget them, with their names and what is queued at them.
    Unload(Labels),
    /// Let jobs be started again after `portolan disable`.
    Enable(Labels),
    /// Let nothing start jobs, also when they are loaded again. What runs goes on.
    Disable(Labels),
    /// Start a job now, also one that failed or is throttled, and print its pid.
    Kickstart(Kickstart),
    /// End what runs of jobs. The next message to one of their names starts them again.
    Stop(Labels),
    /// List the jobs: pid, last exit, state, label.
    ///
    /// The last exit is a status, a signal's name, `no start` if the program could not be executed,
    /// `?` if nobody saw it, and `-` if nothing has ended yet. This is what `launchctl list` lists;
    /// `portolan list` lists names.
    Jobs(Jobs),
    /// Print everything about a job.
    Print(Print),
    /// Tell why jobs were started, and which process asked for it.
    Blame(Blame),
    /// Print everything about all jobs and names.
    Dump(Dump),
    /// Print what a job has written to its standard output and error.
    ///
    /// Each line has the time and the pid. Nothing is asked of the server, and a job is not held up
    /// by whoever reads its log. What goes to a file of the job's own (`StandardOutPath`) is there.
    Log(Log),
    /// Check and convert job files, without the server.
    #[command(subcommand)]
    Job(Job),
    /// Read, write and watch the settings that the members of an application group share.
    #[command(subcommand)]
    Defaults(Defaults),
    /// List and unlink memory that the members of an application group share by name.
    #[command(subcommand)]
    Shm(Shared),
    /// List and unlink semaphores that the members of an application group share by name.
    #[command(subcommand)]
    Sem(Shared),
    /// Tell what confined programs may do and what they were refused, and try their walls.
    #[command(subcommand)]
    Sandbox(sandbox::Sandbox),
    /// Run the bootstrap server of this user in the foreground.
    Bootstrap(Bootstrap),
    /// Have the bootstrap server go on in a new process image, such as that of a newer version, with
    /// all names, messages and jobs.
    Restart,
    /// End the bootstrap server of this user.
    Shutdown,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the man pages.
    Man {
        /// Write one page for each command into this directory instead of one page to standard
        /// output.
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Round trips of each kind that are timed.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rounds: u32,
    /// The part of the story that this process plays.
    #[arg(long, hide = true)]
    pub(crate) part: Option<Part>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Part {
    Server,
    Client,
    Outsider,
    Talker,
    SocketEcho,
    PortEcho,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The name to publish.
    pub(crate) name: ServiceName,
    /// Answer each request with its own bytes.
    #[arg(long, conflicts_with = "command", required_unless_present = "command")]
    pub(crate) echo: bool,
    /// Requests that are served at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
    /// The command and its arguments.
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    #[command(flatten)]
    pub(crate) message: Outgoing,
    /// Print the answer's id and length as JSON to standard error.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    #[command(flatten)]
    pub(crate) message: Outgoing,
}

#[derive(Debug, Args)]
pub(crate) struct Outgoing {
    /// The name of the service.
    pub(crate) name: ServiceName,
    /// The message's id.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) id: i32,
    /// Seconds to wait for room in the service's queue, and again for its answer.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// File with the message's bytes; `-` or nothing for standard input.
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Lookup {
    /// The name of the service.
    pub(crate) name: ServiceName,
    /// The process that registered the name for itself.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The name of the service.
    pub(crate) name: ServiceName,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// File with the program's entitlements: TOML, or a property list.
    #[arg(long, required_unless_present = "trace", conflicts_with = "trace")]
    pub(crate) entitlements: Option<PathBuf>,
    /// Do not lock it in, and print at the end which entitlements it would need.
    ///
    /// The program has its container for a home as it would with them, and gains nothing by
    /// set-user-ID programs. What it only asks for the attributes of is not noted. The exit code is
    /// the program's.
    #[arg(long)]
    pub(crate) trace: bool,
    /// With `--trace`: the file for the entitlements; standard error if not given.
    #[arg(long, value_name = "FILE", requires = "trace")]
    pub(crate) output: Option<PathBuf>,
    /// Have what the kernel refuses to it in `portolan sandbox log` too: files, programs and the network.
    ///
    /// That costs each open and each start of a program a detour through another process, and when
    /// the program ends, what it has started ends too. Without it, the log has the refusals of the
    /// bootstrap server only.
    ///
    /// It is for finding out what a program lacks, not for programs that nobody trusts: the walls hold,
    /// but each path that the program names is looked at outside of them, which somebody there may see.
    #[arg(long, conflicts_with = "trace")]
    pub(crate) report: bool,
    /// What the program is called in the log and the list; its file name if not given.
    #[arg(long)]
    pub(crate) label: Option<JobLabel>,
    /// How it is locked in: `T1` with Landlock and a filter of system calls, `required:T2` with
    /// namespaces too, or the `best` that there is.
    #[arg(long, default_value_t, value_name = "TIER")]
    pub(crate) isolation: Isolation,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub(crate) program: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Enable the jobs first, whatever their files or `portolan disable` say.
    #[arg(short = 'w', long)]
    pub(crate) enable: bool,
    /// The job files.
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Labels {
    /// The labels of the jobs.
    #[arg(required = true)]
    pub(crate) labels: Vec<JobLabel>,
}

#[derive(Debug, Args)]
pub(crate) struct Kickstart {
    /// End what runs of it first.
    #[arg(short, long)]
    pub(crate) kill: bool,
    /// Seconds to wait until it runs; with 0 it is not waited for.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The label of the job.
    pub(crate) label: JobLabel,
}

#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Print {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The label of the job.
    pub(crate) label: JobLabel,
}

#[derive(Debug, Args)]
pub(crate) struct Blame {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The label of the only job that is of interest.
    pub(crate) label: Option<JobLabel>,
}

#[derive(Debug, Args)]
pub(crate) struct Dump {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// Go on with what is written from now on.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print only so many lines of what is there.
    #[arg(short = 'n', long)]
    pub(crate) lines: Option<usize>,
    /// The label of the job.
    pub(crate) label: JobLabel,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Check job files and print each error and warning with its place.
    ///
    /// A job file says how a program is to be started, in launchd's keys, as TOML or as a property
    /// list in XML or binary. Each line is `FILE:LINE:COLUMN: error|warning: KEY: what, and what to
    /// do`; binary files have no lines. With warnings only, the exit code is 0.
    Lint(Lint),
    /// Write a job file in another format to standard output.
    ///
    /// All keys and values are kept, also those without a meaning on Linux; comments are not. A
    /// file that has errors, or says what the other format cannot, is refused.
    Convert(Convert),
}

#[derive(Debug, Args)]
pub(crate) struct Lint {
    /// Print JSON, with each job as it was read.
    #[arg(long)]
    pub(crate) json: bool,
    /// The job files.
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// The format to write.
    #[arg(long)]
    pub(crate) to: JobFormat,
    /// The job file.
    pub(crate) file: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum JobFormat {
    /// TOML.
    Toml,
    /// A property list in XML.
    Xml,
    /// A binary property list.
    Binary,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Defaults {
    /// Print the value of a key, or all values as lines of `KEY = VALUE`.
    ///
    /// A string is printed as it is if its key was asked for, and as in JSON otherwise; arrays and
    /// dictionaries are printed as JSON, data in hexadecimal, dates as in RFC 3339. Without such a key
    /// the exit code is 3.
    Read(ReadDefaults),
    /// Set the value of a key.
    ///
    /// When this returns, the value is on the disk, and whoever watches has been told.
    Write(WriteDefaults),
    /// Remove a key, or all of them, also if their file is broken.
    Delete(DeleteDefaults),
    /// Print each change from now on, once and in order: `KEY = VALUE`, or `KEY removed`.
    Watch(WatchDefaults),
}

#[derive(Debug, Args)]
pub(crate) struct ReadDefaults {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// The id of the group.
    pub(crate) group: GroupId,
    /// The key.
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WriteDefaults {
    /// The id of the group.
    pub(crate) group: GroupId,
    /// The key.
    pub(crate) key: String,
    /// The value: a string, or its kind and then the value, as in `-int 3`.
    ///
    /// The kinds are `-string TEXT`, `-int NUMBER`, `-float NUMBER`, `-bool true|yes|false|no`, `-data
    /// HEXADECIMAL`, `-date` as in RFC 3339 (2026-03-01T12:00:00Z), `-array` with any number of values
    /// and `-dict` with any number of keys and values. In those, values can have kinds other than
    /// `-array` and `-dict`; `--json` takes one of any depth: `--json '{"a": [1, 2]}'`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) value: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteDefaults {
    /// The id of the group.
    pub(crate) group: GroupId,
    /// The key; all of them if not given.
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WatchDefaults {
    /// Print JSON, one line for each change; the value of a key that was removed is null.
    #[arg(long)]
    pub(crate) json: bool,
    /// End after so many changes.
    #[arg(short = 'n', long)]
    pub(crate) count: Option<u64>,
    /// The id of the group.
    pub(crate) group: GroupId,
    /// The only key that is of interest.
    pub(crate) key: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Shared {
    /// List what has a name, of memory with its bytes.
    List(ListShared),
    /// Take names away. Whoever has what they named keeps it.
    Unlink {
        /// The names, `GROUP/NAME`.
        #[arg(required = true)]
        names: Vec<ObjectName>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListShared {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Bootstrap {
    /// Go to the background.
    #[arg(long, hide = true)]
    pub(crate) detach: bool,
    /// Already in the background.
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub(crate) detached: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
