//! Jobs that are started and ended, seen from inside and from outside.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use portoland::job::{Job, Reading};
use portoland::launch::{
    Exit, Inheritance, Instance, Launcher, StartError, become_subreaper, random_instance,
    reap_strays,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

/// Long enough for a loaded machine; a test that waits this long has failed.
const LONG: Duration = Duration::from_secs(20);

fn job(keys: &str) -> Job {
    let reading = Reading::of(format!("Label = \"org.example.launch\"\n{keys}").as_bytes());
    assert!(reading.errors.is_empty(), "{:?}", reading.errors);
    reading.job.expect("a job")
}

/// A job that is a shell with this script.
fn shell(script: &str, keys: &str) -> Job {
    let arguments = list(&["/bin/sh", "-c", script]);
    job(&format!("ProgramArguments = {arguments}\n{keys}"))
}

/// A list of texts in TOML.
fn list(texts: &[&str]) -> String {
    let texts: Vec<toml::Value> = texts.iter().map(|text| (*text).into()).collect();
    toml::Value::from(texts).to_string()
}

fn inheritance(bootstrap: BorrowedFd<'_>) -> Inheritance<'_> {
    Inheritance {
        reporter: None,
        bootstrap,
        standard_in: None,
        standard_out: None,
        standard_error: None,
        sockets: &[],
        environment: &[],
        instance: random_instance().expect("a number"),
    }
}

fn nothing() -> OwnedFd {
    File::open("/dev/null").expect("open").into()
}

/// With cgroups where there are any, and without.
fn launchers() -> [Launcher; 2] {
    [Launcher::new(), Launcher::without_cgroups()]
}

fn wait(process: impl AsFd) {
    let time = Timespec::try_from(LONG).expect("short");
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    assert_eq!(
        poll(&mut ended, Some(&time)).expect("poll"),
        1,
        "it runs on"
    );
}

fn exit_of(instance: &Instance) -> Exit {
    wait(instance.pidfd());
    instance.reap().expect("waitid").expect("it has ended")
}

/// Starts a job that ends by itself, and gives what it wrote.
fn output_with(job: &Job, like: &Inheritance<'_>) -> String {
    let (mut reader, writer) = io::pipe().expect("pipe");
    let instance = Launcher::new().start(
        job,
        &Inheritance {
            standard_out: Some(writer.as_fd()),
            ..*like
        },
    );
    let instance = instance.expect("a job");
    drop(writer);
    let mut output = String::new();
    reader.read_to_string(&mut output).expect("its output");
    assert_eq!(exit_of(&instance), Exit::Status(0), "{output}");
    output
}

fn output_of(job: &Job) -> String {
    output_with(job, &inheritance(nothing().as_fd()))
}

fn failure_of(job: &Job) -> StartError {
    let started = Launcher::new().start(job, &inheritance(nothing().as_fd()));
    started.map(|_| ()).expect_err("it cannot be started")
}

#[test]
fn a_job_has_its_descriptors_and_no_others() {
    let extra: Vec<File> = (0..100)
        .map(|_| {
            let file = File::open("/dev/null").expect("open");
            fcntl_setfd(&file, FdFlags::empty()).expect("fcntl");
            file
        })
        .collect();
    let script = "ls /proc/$$/fd; readlink /proc/$$/fd/$PORTOLAN_BOOTSTRAP_FD; exit 0";
    let bootstrap = File::open("/etc/passwd").expect("open");
    let output = output_with(&shell(script, ""), &inheritance(bootstrap.as_fd()));
    assert_eq!(output, "0\n1\n2\n3\n/etc/passwd\n");

    let sockets = [
        ("web".to_owned(), extra[0].as_fd()),
        ("admin:1".to_owned(), extra[99].as_fd()),
    ];
    let script =
        format!("{script}; echo $LISTEN_FDS $LISTEN_FDNAMES; [ $LISTEN_PID = $$ ] && echo own")
            .replace("; exit 0", "");
    let output = output_with(
        &shell(&script, ""),
        &Inheritance {
            sockets: &sockets,
            ..inheritance(bootstrap.as_fd())
        },
    );
    let expected = "0\n1\n2\n3\n4\n5\n/etc/passwd\n2 web:admin_1\nown\n";
    assert_eq!(output, expected);
}

#[test]
fn the_environment_is_clean_and_the_jobs_own_variables_are_in_it() {
    let keys = "[EnvironmentVariables]\nA = \"from the job\"\nLANG = \"C\"\n\
        PORTOLAN_INSTANCE = \"a lie\"\nLISTEN_PID = \"a lie\"\nB = \"overridden\"\n";
    let job = shell("tr '\\0' '\\n' </proc/$$/environ; exit 0", keys);
    let extra = [("B".to_owned(), "from the server".to_owned())];
    let nothing = nothing();
    let like = Inheritance {
        environment: &extra,
        ..inheritance(nothing.as_fd())
    };
    let output = output_with(&job, &like);
    assert!(!output.contains("a lie"), "{output}");
    let has = |line: &str| output.lines().any(|found| found == line);
    let mark = format!(
        "PORTOLAN_INSTANCE=org.example.launch/{:016x}\n",
        like.instance
    );
    assert!(output.starts_with(&mark), "{output}");
    assert!(
        has("A=from the job") && has("B=from the server") && has("LANG=C"),
        "{output}"
    );
    assert!(has("PORTOLAN_BOOTSTRAP_FD=3"), "{output}");
    let known = [
        "A",
        "B",
        "HOME",
        "LANG",
        "LOGNAME",
        "PATH",
        "PORTOLAN_BOOTSTRAP_FD",
        "PORTOLAN_INSTANCE",
        "SHELL",
        "TMPDIR",
        "USER",
        "XDG_RUNTIME_DIR",
    ];
    let names = output.lines().filter_map(|line| line.split('=').next());
    for name in names {
        assert!(known.contains(&name), "{name}");
    }
}

#[test]
fn files_for_the_standard_streams_are_appended_to() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("in"), "read").expect("write");
    let keys = format!(
        "WorkingDirectory = {:?}\nStandardInPath = \"in\"\nStandardOutPath = \"out\"\n\
         StandardErrorPath = {:?}\nUmask = 0\n",
        directory.path(),
        directory.path().join("err"),
    );
    let job = shell("cat; echo error >&2; pwd -P", &keys);
    for _ in 0..2 {
        assert_eq!(output_of(&job), "");
    }
    let real = directory.path().canonicalize().expect("it exists");
    let once = format!("read{}\n", real.display());
    let read = |name| fs::read_to_string(directory.path().join(name)).expect("the file");
    assert_eq!(read("out"), once.repeat(2));
    assert_eq!(read("err"), "error\nerror\n");
    let found = fs::metadata(directory.path().join("out")).expect("the file");
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
}

#[test]
fn limits_umask_and_priority_are_the_jobs() {
    let keys = "Umask = 0o027\nProcessType = \"Background\"\n\
        [SoftResourceLimits]\nNumberOfFiles = 50\n\
        [HardResourceLimits]\nNumberOfFiles = 60\nCore = 0\n";
    let script = "ulimit -S -n; ulimit -H -n; ulimit -H -c; umask; \
        cut -d' ' -f6,19 /proc/$$/stat; echo $$; exit 0";
    let output = output_of(&shell(script, keys));
    let words: Vec<&str> = output.split_whitespace().collect();
    let [limits @ .., session, nice, pid] = &words[..] else {
        panic!("{output}")
    };
    assert_eq!(limits, ["50", "60", "0", "0027"]);
    assert_eq!(*nice, "10");
    assert_eq!(session, pid, "it leads its session");
    let interactive = shell("cut -d' ' -f19 /proc/$$/stat; exit 0", "Nice = 3");
    assert_eq!(output_of(&interactive), "3\n");
}

#[test]
fn a_name_is_looked_for_in_the_jobs_path() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("greet");
    fs::write(&program, "#!/bin/sh\necho hello $0\n").expect("write");
    let keys = format!(
        "ProgramArguments = [\"greet\"]\nEnvironmentVariables.PATH = \"/nothing:{}\"\n",
        directory.path().display()
    );
    let error = failure_of(&job(&keys));
    assert!(matches!(error, StartError::NotInPath { .. }), "{error}");
    assert_eq!(error.errno(), Errno::NOENT);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    assert_eq!(
        output_of(&job(&keys)),
        format!("hello {}\n", program.display())
    );
}

#[test]
fn a_job_that_cannot_be_started_says_what_is_missing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("plain"), "no program").expect("write");
    fs::write(path("script"), "#! /no/such/interpreter -x\n").expect("write");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path("script"), executable).expect("chmod");
    let cases = [
        (
            format!("Program = {:?}", path("missing")),
            Errno::NOENT,
            path("missing"),
        ),
        (
            format!("Program = {:?}", path("plain")),
            Errno::ACCESS,
            path("plain"),
        ),
        (
            format!("Program = {:?}", path("script")),
            Errno::NOENT,
            "/no/such/interpreter".into(),
        ),
        (
            format!(
                "Program = \"./missing\"\nWorkingDirectory = {:?}",
                directory.path()
            ),
            Errno::NOENT,
            "./missing".into(),
        ),
        (
            format!(
                "Program = \"/bin/true\"\nWorkingDirectory = {:?}",
                path("nowhere")
            ),
            Errno::NOENT,
            path("nowhere"),
        ),
        (
            format!(
                "Program = \"/bin/true\"\nStandardOutPath = {:?}",
                path("no/where")
            ),
            Errno::NOENT,
            path("no/where"),
        ),
    ];
    for (keys, errno, path) in cases {
        let error = failure_of(&job(&keys));
        assert_eq!(error.errno(), errno, "{}", error.reason());
        assert_eq!(error.path(), Some(path.as_path()), "{}", error.reason());
    }
    let script = failure_of(&job(&format!("Program = {:?}", path("script"))));
    let expected = format!(
        "cannot execute {}: its interpreter /no/such/interpreter is missing",
        path("script").display()
    );
    assert_eq!(script.reason(), expected);
    assert_eq!(script.path(), Some(Path::new("/no/such/interpreter")));
    let nothing = nothing();
    let like = inheritance(nothing.as_fd());
    let started = Launcher::new().start(&job(&format!("Program = {:?}", path("script"))), &like);
    assert!(started.is_err());
    assert!(!has_leaf(like.instance), "its cgroup is left");
}

#[test]
fn a_variable_with_a_nul_in_it_is_refused() {
    let (nothing, extra) = (nothing(), [("A".to_owned(), "a\0b".to_owned())]);
    let started = Launcher::new().start(
        &job("Program = \"/bin/true\""),
        &Inheritance {
            environment: &extra,
            ..inheritance(nothing.as_fd())
        },
    );
    let error = started.map(|_| ()).expect_err("it cannot be told");
    assert!(matches!(error, StartError::Nul { .. }), "{error}");
    assert_eq!(error.errno(), Errno::INVAL);
}

/// Whether there is a leaf for this instance in this process's cgroup.
fn has_leaf(instance: u64) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let own = fs::read_to_string("/proc/self/cgroup").expect("cgroup");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let (Some(own), Some(at)) = (own, mount.and_then(|line| line.split(' ').nth(4))) else {
        return false;
    };
    let leaf = format!("portolan-org.example.launch-{instance:016x}");
    Path::new(at).join(own).join(leaf).exists()
}

/// A user and a group that every Debian and Fedora system has.
const USER: &str = "daemon";

#[test]
fn a_user_is_taken_on_by_root_and_by_nobody_else() {
    let job = shell(
        "id -u; id -g; echo $USER $HOME; exit 0",
        "UserName = \"daemon\"",
    );
    let output = output_of(&job);
    let unknown = shell("exit 0", "UserName = \"no-such-user\"");
    let lines: Vec<&str> = output.lines().collect();
    if !rustix::process::geteuid().is_root() {
        let own = rustix::process::geteuid().as_raw().to_string();
        assert_eq!(lines[0], own);
        assert_eq!(output_of(&unknown), "");
        return;
    }
    let users = fs::read_to_string("/etc/passwd").expect("passwd");
    let line = users
        .lines()
        .find(|line| line.starts_with(&format!("{USER}:")));
    let fields: Vec<&str> = line.expect("a user").split(':').collect();
    assert_eq!(lines[..2], [fields[2], fields[3]]);
    assert_eq!(lines[2], format!("{USER} {}", fields[5]));
    let error = failure_of(&unknown);
    assert_eq!(
        error.reason(),
        "there is no user no-such-user: UserName has to be in /etc/passwd"
    );
    let error = failure_of(&shell("exit 0", "GroupName = \"no-such-group\""));
    assert_eq!(
        error.reason(),
        "there is no group no-such-group: GroupName has to be in /etc/group"
    );
    let group = shell("id -u; id -g; exit 0", "GroupName = \"daemon\"");
    assert_eq!(output_of(&group), format!("0\n{}\n", fields[3]));
}

#[test]
fn files_of_a_job_are_opened_as_its_user() {
    let directory = tempfile::tempdir().expect("a directory of this user only");
    let path = directory.path().join("out");
    let keys = format!("UserName = \"daemon\"\nStandardOutPath = {path:?}\n");
    let job = shell("exit 0", &keys);
    if rustix::process::geteuid().is_root() {
        let error = failure_of(&job);
        assert!(matches!(error, StartError::StandardFile { .. }), "{error}");
        assert_eq!(error.errno(), Errno::ACCESS);
        assert!(!path.exists());
    } else {
        output_of(&job);
        assert!(path.exists());
    }
}

/// Does what a job can do to be left running: each of its four processes ignores SIGTERM and says
/// its process id. Two are in sessions of their own, without a parent.
const STUBBORN: &str = r#"
    trap '' TERM
    lurk='echo $$; while :; do read never <"$FIFO"; done'
    (setsid sh -c "$lurk" &)
    (setsid sh -c "(sh -c '$lurk' &); exit" &)
    sh -c "$lurk" &
    eval "$lurk"
"#;

/// A job whose shells say their process ids and wait for ever.
struct Running {
    instance: Instance,
    pids: Vec<Pid>,
    processes: Vec<OwnedFd>,
    /// Has the FIFO that they read from.
    _directory: TempDir,
}

impl Running {
    fn start(launcher: &Launcher, script: &str, count: usize, instance: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let fifo = fifo(&directory);
        let keys = format!("EnvironmentVariables.FIFO = {fifo:?}\n");
        let (reader, writer) = io::pipe().expect("pipe");
        let nothing = nothing();
        let started = launcher.start(
            &shell(script, &keys),
            &Inheritance {
                standard_out: Some(writer.as_fd()),
                instance,
                ..inheritance(nothing.as_fd())
            },
        );
        let instance = started.expect("a job");
        let lines = BufReader::new(reader).lines().take(count);
        let pids = lines.map(|line| {
            let pid = line.expect("its output").parse().expect("a number");
            Pid::from_raw(pid).expect("a process id")
        });
        let pids: Vec<Pid> = pids.collect();
        let open = |pid: &Pid| pidfd_open(*pid, PidfdFlags::empty()).expect("it runs");
        let processes = pids.iter().map(open).collect();
        Self {
            instance,
            pids,
            processes,
            _directory: directory,
        }
    }
}

impl Drop for Running {
    /// A test that fails leaves none of them.
    fn drop(&mut self) {
        for process in &self.processes {
            pidfd_send_signal(process, Signal::KILL).ok();
            // So that their cgroup can be removed.
            let time = Timespec::try_from(LONG).expect("short");
            poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&time)).ok();
        }
    }
}

fn fifo(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("fifo");
    path
}

/// Fails if one of the processes is alive, or stays a zombie.
fn assert_gone(pids: &[Pid]) {
    let deadline = Instant::now() + LONG;
    while pids
        .iter()
        .any(|pid| Path::new(&format!("/proc/{pid}")).exists())
    {
        reap_strays(|pid| !pids.contains(&pid)).expect("reap");
        assert!(Instant::now() < deadline, "there is one left");
        std::thread::yield_now();
    }
}

fn kill_everything(instance: &Instance) {
    let deadline = Instant::now() + LONG;
    while !instance.kill_everything().expect("kill") {
        assert!(Instant::now() < deadline, "it does not die");
    }
}

#[test]
fn a_job_that_forks_twice_leaves_its_session_and_ignores_sigterm_is_ended() {
    become_subreaper().expect("prctl");
    for launcher in launchers() {
        let number = random_instance().expect("a number");
        let job = Running::start(&launcher, STUBBORN, 4, number);
        assert_eq!(has_leaf(number), launcher.has_cgroups());
        job.instance.signal(Signal::TERM).expect("signal");
        assert_eq!(job.instance.reap().expect("waitid"), None);
        assert!(job.instance.has_left_overs().expect("processes"));
        kill_everything(&job.instance);
        assert!(!job.instance.has_left_overs().expect("processes"));
        job.processes.iter().for_each(wait);
        let killed = Exit::Signal {
            signal: Signal::KILL.as_raw(),
            core: false,
        };
        assert_eq!(exit_of(&job.instance), killed);
        assert_gone(&job.pids);
        drop(job);
        assert!(!has_leaf(number), "its cgroup is left");
    }
}

#[test]
fn what_the_first_process_left_behind_is_found_after_its_end() {
    become_subreaper().expect("prctl");
    for launcher in launchers() {
        let number = random_instance().expect("a number");
        let job = Running::start(&launcher, STUBBORN, 4, number);
        let instance = &job.instance;
        pidfd_send_signal(instance.pidfd(), Signal::KILL).expect("kill");
        assert!(matches!(exit_of(instance), Exit::Signal { signal: 9, .. }));
        instance
            .signal(Signal::KILL)
            .expect("does nothing any more");
        assert!(instance.has_left_overs().expect("processes"));
        kill_everything(instance);
        assert!(!instance.has_left_overs().expect("processes"));
        assert_gone(&job.pids);
    }
}

#[test]
fn an_adopted_instance_is_ended_like_any_other() {
    become_subreaper().expect("prctl");
    for launcher in launchers() {
        let number = random_instance().expect("a number");
        let job = Running::start(&launcher, STUBBORN, 4, number);
        let pidfd = job.instance.pidfd().try_clone_to_owned().expect("dup");
        let label = "org.example.launch".parse().expect("a label");
        let adopted = launcher.adopt(job.instance.pid(), pidfd, &label, number);
        assert_eq!(adopted.reap().expect("waitid"), None);
        kill_everything(&adopted);
        assert!(matches!(exit_of(&job.instance), Exit::Signal { .. }));
        assert_eq!(exit_of(&adopted), Exit::Unknown, "it is nobody's child");
        assert_gone(&job.pids);
    }
}

#[test]
fn a_signal_goes_to_the_group_of_the_first_process() {
    become_subreaper().expect("prctl");
    let script = "lurk='echo $$; while :; do read never <\"$FIFO\"; done'\n\
        sh -c \"$lurk\" & eval \"$lurk\"";
    let number = random_instance().expect("a number");
    let job = Running::start(&Launcher::new(), script, 2, number);
    job.instance.signal(Signal::TERM).expect("signal");
    job.processes.iter().for_each(wait);
    assert!(matches!(
        exit_of(&job.instance),
        Exit::Signal { signal: 15, .. }
    ));
    assert_gone(&job.pids);
}

#[test]
fn nothing_that_a_job_inherits_is_kept() {
    let launcher = Launcher::new();
    let (nothing, (mut reader, writer)) = (nothing(), io::pipe().expect("pipe"));
    let like = Inheritance {
        standard_out: Some(writer.as_fd()),
        ..inheritance(nothing.as_fd())
    };
    let instance = launcher.start(&shell("echo done", ""), &like);
    let instance = instance.expect("a job");
    drop(writer);
    assert_eq!(exit_of(&instance), Exit::Status(0));
    // A hang-up is waited for without being asked for. It comes when nobody can write any more,
    // which another test's process may do until it has executed its program.
    let time = Timespec::try_from(LONG).expect("short");
    let mut hung_up = [PollFd::new(&reader, PollFlags::empty())];
    let ready = poll(&mut hung_up, Some(&time)).expect("poll");
    assert_eq!(ready, 1, "somebody can write");
    let mut output = String::new();
    reader.read_to_string(&mut output).expect("read");
    assert_eq!(output, "done\n");
}

#[test]
fn an_exit_is_told_as_it_was() {
    let nothing = nothing();
    let exit = |script: &str| {
        let job = shell(script, "HardResourceLimits.Core = 0");
        let started = Launcher::new().start(&job, &inheritance(nothing.as_fd()));
        exit_of(&started.expect("a job"))
    };
    assert_eq!(exit("exit 3"), Exit::Status(3));
    let killed = Exit::Signal {
        signal: Signal::QUIT.as_raw(),
        core: false,
    };
    assert_eq!(exit("kill -QUIT $$"), killed);
}

#[test]
fn other_processes_are_left_alone() {
    for launcher in launchers() {
        let nothing = nothing();
        let wait_for_input = shell("read never", "");
        let (reader, writer) = io::pipe().expect("pipe");
        let start = || {
            let like = Inheritance {
                standard_in: Some(reader.as_fd()),
                ..inheritance(nothing.as_fd())
            };
            launcher.start(&wait_for_input, &like).expect("a job")
        };
        let (one, other) = (start(), start());
        kill_everything(&one);
        assert!(matches!(exit_of(&one), Exit::Signal { .. }));
        assert!(other.has_left_overs().expect("processes"));
        assert_eq!(other.reap().expect("waitid"), None);
        drop(writer);
        assert_eq!(
            exit_of(&other),
            Exit::Status(1),
            "it came to the end of its input"
        );
    }
}

/// A directory of the user that confined jobs run as: root confines none of its own.
fn data_of_a_user() -> (TempDir, &'static str) {
    let data = TempDir::new().expect("a directory");
    if !rustix::process::geteuid().is_root() {
        return (data, "");
    }
    let daemon = 1;
    std::os::unix::fs::chown(data.path(), Some(daemon), Some(daemon)).expect("chown");
    (data, "UserName = \"daemon\"\n")
}

fn confined(script: &str, keys: &str, data: &Path) -> Job {
    let keys = format!(
        "{keys}EnvironmentVariables.XDG_DATA_HOME = {data:?}\n\
         [Entitlements]\n\"com.apple.security.app-sandbox\" = true\n"
    );
    shell(script, &keys)
}

#[test]
fn a_job_with_entitlements_is_confined() {
    let (data, user) = data_of_a_user();
    let secret = data.path().join("secret");
    fs::write(&secret, "x").expect("write");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("chmod");
    let script = format!(
        "cat {} 2>/dev/null || echo refused\n\
         echo $HOME; echo kept > $HOME/file\n\
         echo $PORTOLAN_BOOTSTRAP_FD; : <&$PORTOLAN_BOOTSTRAP_FD && echo open\n\
         (: <&4) 2>/dev/null || echo closed",
        secret.display()
    );
    let container = data
        .path()
        .join("portolan/Containers/org.example.launch/Data");
    for isolation in ["T1", "best"] {
        let keys = format!("{user}Isolation = \"{isolation}\"\n");
        let output = output_of(&confined(&script, &keys, data.path()));
        let expected = format!("refused\n{}\n3\nopen\nclosed\n", container.display());
        assert_eq!(output, expected, "{isolation}");
        let kept = fs::read_to_string(container.join("file")).expect("it was written");
        assert_eq!(kept, "kept\n");
    }
}

#[test]
fn sockets_of_a_confined_job_are_its_own() {
    let (data, user) = data_of_a_user();
    let socket = File::open("/dev/null").expect("open");
    let script = "[ $LISTEN_PID = $$ ] && echo own $LISTEN_FDS $PORTOLAN_BOOTSTRAP_FD; : <&3\n\
                  for more in 5 6 7; do (: <&$more) 2>/dev/null && echo $more; done; true";
    let bootstrap = nothing();
    // A right that takes nothing: what is refused is not waited with.
    let right = nothing();
    for isolation in ["T1", "best"] {
        let keys = format!("{user}Isolation = \"{isolation}\"\n");
        let job = confined(script, &keys, data.path());
        for reporter in [None, Some(right.as_fd())] {
            let output = output_with(
                &job,
                &Inheritance {
                    sockets: &[("a".to_owned(), socket.as_fd())],
                    reporter,
                    ..inheritance(bootstrap.as_fd())
                },
            );
            assert_eq!(output, "own 1 4\n", "{isolation}");
        }
    }
}

#[test]
fn a_confined_job_is_ended_and_its_end_is_told() {
    let (data, user) = data_of_a_user();
    let start = |script| {
        let job = confined(script, user, data.path());
        let (reader, writer) = io::pipe().expect("pipe");
        let bootstrap = nothing();
        let inheritance = Inheritance {
            standard_out: Some(writer.as_fd()),
            ..inheritance(bootstrap.as_fd())
        };
        let instance = Launcher::new().start(&job, &inheritance).expect("a job");
        drop(writer);
        (instance, BufReader::new(reader))
    };
    let (instance, _output) = start("exit 7");
    assert_eq!(exit_of(&instance), Exit::Status(7));
    let (instance, mut output) =
        start("trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    let mut line = String::new();
    output.read_line(&mut line).expect("ready");
    instance.signal(Signal::TERM).expect("signal");
    output.read_line(&mut line).expect("told");
    assert_eq!(
        (line.as_str(), exit_of(&instance)),
        ("ready\ntold\n", Exit::Status(3))
    );
    let (instance, mut output) = start("echo ready; setsid sleep 1000 & sleep 1000");
    output.read_line(&mut line).expect("ready");
    assert!(
        instance.kill_everything().expect("kill"),
        "all of it has ended"
    );
    exit_of(&instance);
    let mut rest = String::new();
    output
        .read_to_string(&mut rest)
        .expect("nobody has it open");
}

#[test]
fn what_cannot_be_confined_is_not_started() {
    let (data, user) = data_of_a_user();
    let keys = format!("{user}Program = \"/no/such/program\"\n");
    let missing = failure_of(&confined("", &keys, data.path()));
    assert!(matches!(missing, StartError::Exec { .. }), "{missing}");
    assert_eq!(missing.errno(), Errno::NOENT);
    if rustix::process::geteuid().is_root() {
        let root = failure_of(&confined("exit 0", "", data.path()));
        assert!(matches!(root, StartError::Root), "{root}");
    }
}

/// Makes a user namespace with all users in it, in which there can be no other one, and becomes a
/// program there: its root is root of everything but user namespaces.
const WITHOUT_USER_NAMESPACES: &str = "
import ctypes, os, sys
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    assert ctypes.CDLL(None).unshare(0x10000000) == 0
    os.write(ready[1], b'x')
    os.read(go[0], 1)
    os.setgid(0)
    os.setuid(0)
    open('/proc/sys/user/max_user_namespaces', 'w').write('0')
    os.execv(sys.argv[1], sys.argv[1:])
os.read(ready[0], 1)
for name in 'uid_map', 'gid_map':
    open('/proc/%d/%s' % (child, name), 'w').write('0 0 65536')
os.write(go[1], b'x')
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
";

const INSIDE: &str = "PORTOLAN_TEST_WITHOUT_USER_NAMESPACES";

#[test]
fn w19_w21_root_needs_no_user_namespaces_for_jobs_of_others_in_t2() {
    if !rustix::process::geteuid().is_root() {
        // Only root's server runs jobs of other users.
        return;
    }
    if std::env::var_os(INSIDE).is_some() {
        return in_t2_without_user_namespaces();
    }
    let program = std::env::current_exe().expect("this program");
    let name = "w19_w21_root_needs_no_user_namespaces_for_jobs_of_others_in_t2";
    let output = Command::new("python3")
        .args(["-c", WITHOUT_USER_NAMESPACES])
        .arg(program)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "")
        .output()
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{output:?}");
    assert!(said.contains("1 passed"), "{said}");
    in_t2_without_user_namespaces();
}

fn in_t2_without_user_namespaces() {
    let (data, user) = data_of_a_user();
    let namespaces = Command::new("unshare").args(["--user", "true"]).status();
    let has_some = namespaces.expect("unshare").success();
    assert_eq!(has_some, std::env::var_os(INSIDE).is_none());
    let script = "id -u; readlink /proc/self/ns/user; set -- /proc/[0-9]*; echo $#
         grep -E '^(CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp)' /proc/self/status
         (: > /proc/sys/kernel/core_pattern) 2>/dev/null || echo no pattern
         echo $OF_THE_JOB $HOME";
    let keys = format!(
        "{user}Isolation = \"required:T2\"\n\
         EnvironmentVariables.OF_THE_JOB = \"its own\"\n"
    );
    let output = output_of(&confined(script, &keys, data.path()));
    let words: Vec<&str> = output.split_whitespace().collect();
    let namespace = fs::read_link("/proc/self/ns/user").expect("a link");
    let none = "0000000000000000";
    let home = data
        .path()
        .join("portolan/Containers/org.example.launch/Data");
    let expected = format!(
        "1 {} 2 CapPrm: {none} CapEff: {none} CapBnd: {none} CapAmb: {none} NoNewPrivs: 1 \
         Seccomp: 2 Seccomp_filters: 1 no pattern its own {}",
        namespace.display(),
        home.display()
    );
    assert_eq!(words.join(" "), expected);
}

/// A variable such as LD_PRELOAD makes a program do what its user likes before it does anything.
#[test]
fn a_privileged_launcher_has_no_variable_of_the_jobs() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (data, user) = data_of_a_user();
    let keys =
        format!("{user}Isolation = \"required:T2\"\nEnvironmentVariables.OF_THE_JOB = \"value\"\n");
    let job = confined("echo $OF_THE_JOB; read line", &keys, data.path());
    let (mut reader, output) = io::pipe().expect("pipe");
    let (input, hold) = io::pipe().expect("pipe");
    let bootstrap = nothing();
    let started = Launcher::new().start(
        &job,
        &Inheritance {
            standard_in: Some(input.as_fd()),
            standard_out: Some(output.as_fd()),
            ..inheritance(bootstrap.as_fd())
        },
    );
    let instance = started.expect("a job");
    drop(output);
    let mut line = [0; 6];
    reader.read_exact(&mut line).expect("its output");
    assert_eq!(&line, b"value\n");
    let pid = instance.pid();
    let variables = fs::read(format!("/proc/{pid}/environ")).expect("root may");
    let variables = String::from_utf8_lossy(&variables);
    assert!(variables.contains("PORTOLAN_INSTANCE="), "{variables}");
    assert!(!variables.contains("OF_THE_JOB"), "{variables}");
    drop(hold);
    exit_of(&instance);
}
