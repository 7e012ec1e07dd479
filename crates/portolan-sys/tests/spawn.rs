//! Programs that are started with `spawn`, seen from inside and from outside.

#![allow(
    unsafe_code,
    reason = "descriptors without close-on-exec, and ignored and caught signals"
)]

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process;

use portolan_sys::spawn::{Descriptor, Identity, Limit, Spawn, SpawnError, Spawned, Step, spawn};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, WaitId, WaitIdOptions, WaitIdStatus, waitid};
use rustix::thread::CapabilitySet;

const NOTHING: Descriptor<'_> = Descriptor::File {
    path: c"/dev/null",
    flags: OFlags::RDWR,
    mode: Mode::empty(),
};

/// A program with no wishes.
const PLAIN: Spawn<'_> = Spawn {
    program: c"/bin/sh",
    arguments: &[],
    environment: &[],
    pid_variable: None,
    directory: None,
    descriptors: &[],
    umask: None,
    nice: None,
    batch: false,
    limits: &[],
    identity: None,
    session: false,
    cgroup: None,
};

fn wait(child: &Spawned) -> WaitIdStatus {
    let id = WaitId::PidFd(child.pidfd.as_fd());
    let status = waitid(id, WaitIdOptions::EXITED).expect("a child");
    status.expect("it has ended")
}

/// What a shell writes that runs `script` with the wishes of `like`.
fn output_of(script: &str, like: &Spawn<'_>) -> String {
    let (mut reader, writer) = io::pipe().expect("pipe");
    let writer = OwnedFd::from(writer);
    let descriptors = [NOTHING, Descriptor::Inherited(writer.as_fd()), NOTHING];
    let arguments = [c"sh", c"-c"].map(CStr::to_owned);
    let mut arguments = arguments.to_vec();
    arguments.push(CString::new(script).expect("no NUL"));
    let child = spawn(&Spawn {
        arguments: &arguments,
        descriptors: if like.descriptors.is_empty() {
            &descriptors
        } else {
            like.descriptors
        },
        ..*like
    });
    let child = child.expect("a shell");
    drop(writer);
    let mut output = String::new();
    reader.read_to_string(&mut output).expect("its output");
    assert_eq!(wait(&child).exit_status(), Some(0), "{script}: {output}");
    output
}

fn failure_of(like: &Spawn<'_>) -> SpawnError {
    spawn(like).expect_err("it cannot be started")
}

/// A directory of one test, removed with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portolan-spawn-{name}-{}", process::id()));
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("remove it");
    }
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL")
}

#[test]
fn a_program_runs_and_is_waited_for() {
    let arguments = [c"sh", c"-c", c"exit 7"].map(CStr::to_owned);
    let child = spawn(&Spawn {
        arguments: &arguments,
        ..PLAIN
    });
    let child = child.expect("a shell");
    assert_eq!(wait(&child).exit_status(), Some(7));
    let flags = rustix::io::fcntl_getfd(&child.pidfd).expect("fcntl");
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn only_the_descriptors_that_are_named_are_there() {
    let extra = (0..100).map(|_| {
        let file = File::open("/dev/null").expect("open");
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("fcntl");
        file
    });
    let extra: Vec<File> = extra.collect();
    let (mut reader, writer) = io::pipe().expect("pipe");
    let out = Descriptor::Inherited(writer.as_fd());
    let last = Descriptor::Inherited(extra[99].as_fd());
    let descriptors = [NOTHING, out, out, last];
    let script = "ls /proc/$$/fd; readlink /proc/$$/fd/3; exit 0";
    let arguments = ["sh", "-c", script].map(|text| CString::new(text).expect("no NUL"));
    let child = spawn(&Spawn {
        arguments: &arguments,
        environment: &[c"PATH=/usr/bin:/bin".to_owned()],
        descriptors: &descriptors,
        ..PLAIN
    });
    let child = child.expect("a shell");
    drop(writer);
    let mut output = String::new();
    reader.read_to_string(&mut output).expect("its output");
    assert_eq!(output, "0\n1\n2\n3\n/dev/null\n");
    wait(&child);
}

#[test]
fn descriptors_that_are_in_each_others_places_get_to_their_own() {
    let files: Vec<File> = (0..6)
        .map(|k| {
            let name = CString::new(format!("portolan-{k}")).expect("no NUL");
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::memfd_create(&name, flags).expect("memfd"));
            write!(file, "{k}").expect("write");
            file
        })
        .collect();
    // Whatever numbers the test has open below 40: each of these goes to a place that is the number
    // of another one, as long as the files' numbers are below the number of places.
    let (mut reader, writer) = io::pipe().expect("pipe");
    let mut places = vec![NOTHING; 40];
    places[1] = Descriptor::Inherited(writer.as_fd());
    let numbers: Vec<usize> = files
        .iter()
        .map(|file| usize::try_from(file.as_raw_fd()).expect("a number"))
        .collect();
    let mut expected = String::new();
    for (k, number) in numbers.iter().enumerate() {
        let other = (k + 1) % numbers.len();
        assert!(*number < 40, "few descriptors are open in a test");
        places[*number] = Descriptor::Inherited(files[other].as_fd());
        expected.push_str(&format!("/memfd:portolan-{other} (deleted)\n"));
    }
    let list: Vec<String> = numbers.iter().map(usize::to_string).collect();
    let script = format!(
        "for k in {}; do readlink /proc/$$/fd/$k; done",
        list.join(" ")
    );
    let arguments = ["sh", "-c", &script].map(|text| CString::new(text).expect("no NUL"));
    let child = spawn(&Spawn {
        arguments: &arguments,
        environment: &[c"PATH=/usr/bin:/bin".to_owned()],
        descriptors: &places,
        ..PLAIN
    });
    let child = child.expect("a shell");
    drop(writer);
    let mut output = String::new();
    reader.read_to_string(&mut output).expect("its output");
    assert_eq!(output, expected);
    wait(&child);
}

#[test]
fn the_environment_is_what_was_given_and_knows_the_pid() {
    let environment = [c"A=1".to_owned(), c"B=two words".to_owned()];
    let output = output_of(
        "tr '\\0' '\\n' </proc/$$/environ; echo $$; exit 0",
        &Spawn {
            environment: &[&environment[..], &[c"PATH=/usr/bin:/bin".to_owned()]].concat(),
            pid_variable: Some(c"LISTEN_PID"),
            ..PLAIN
        },
    );
    let (environment, pid) = output.trim_end().rsplit_once('\n').expect("two parts");
    let expected = format!("A=1\nB=two words\nPATH=/usr/bin:/bin\nLISTEN_PID={pid}");
    assert_eq!(environment, expected);
}

#[test]
fn directory_umask_and_priority_are_as_asked() {
    let directory = Directory::new("wishes");
    let path = c(&directory.0);
    let output = output_of(
        "pwd -P; umask; cut -d' ' -f19,41 /proc/$$/stat; exit 0",
        &Spawn {
            directory: Some(&path),
            umask: Some(Mode::from_bits_truncate(0o027)),
            nice: Some(7),
            batch: true,
            environment: &[c"PATH=/usr/bin:/bin".to_owned()],
            ..PLAIN
        },
    );
    let real = directory.0.canonicalize().expect("it exists");
    // 3 is SCHED_BATCH.
    assert_eq!(output, format!("{}\n0027\n7 3\n", real.display()));
}

#[test]
fn files_are_opened_in_the_programs_directory() {
    let directory = Directory::new("files");
    let path = c(&directory.0);
    let output = Descriptor::File {
        path: c"out",
        flags: OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND,
        mode: Mode::RUSR | Mode::WUSR,
    };
    let script = "echo once; grep flags /proc/$$/fdinfo/1 >&2; exit 0";
    for _ in 0..2 {
        let (mut reader, writer) = io::pipe().expect("pipe");
        let descriptors = [NOTHING, output, Descriptor::Inherited(writer.as_fd())];
        output_of(
            script,
            &Spawn {
                descriptors: &descriptors,
                directory: Some(&path),
                environment: &[c"PATH=/usr/bin:/bin".to_owned()],
                ..PLAIN
            },
        );
        drop(writer);
        let mut flags = String::new();
        reader.read_to_string(&mut flags).expect("its errors");
        let flags = flags.split_whitespace().nth(1).expect("the flags");
        let flags = u32::from_str_radix(flags, 8).expect("octal");
        assert_eq!(flags & OFlags::NONBLOCK.bits(), 0);
    }
    let written = fs::read_to_string(directory.0.join("out")).expect("the file");
    assert_eq!(written, "once\nonce\n");
}

#[test]
fn limits_are_set_and_a_soft_one_is_never_above_the_hard_one() {
    let limits = [
        Limit {
            resource: Resource::Nofile,
            soft: Some(100),
            hard: None,
        },
        Limit {
            resource: Resource::Core,
            soft: Some(u64::MAX),
            hard: Some(0),
        },
        Limit {
            resource: Resource::Fsize,
            soft: None,
            hard: Some(1 << 20),
        },
    ];
    let output = output_of(
        "ulimit -S -n; ulimit -S -c; ulimit -H -c; ulimit -S -f",
        &Spawn {
            limits: &limits,
            ..PLAIN
        },
    );
    let blocks = (1 << 20) / 512;
    assert_eq!(output, format!("100\n0\n0\n{blocks}\n"));
}

#[test]
fn a_program_leads_its_group_or_its_session() {
    for session in [false, true] {
        let output = output_of(
            "echo $$; cut -d' ' -f5,6 /proc/$$/stat; exit 0",
            &Spawn {
                session,
                environment: &[c"PATH=/usr/bin:/bin".to_owned()],
                ..PLAIN
            },
        );
        let ids: Vec<&str> = output.split_whitespace().collect();
        let [pid, group, in_session] = ids[..] else {
            panic!("three numbers: {output}")
        };
        assert_eq!(pid, group);
        assert_eq!(pid == in_session, session);
    }
}

extern "C" fn ignore_it(_: libc::c_int) {}

#[test]
fn signals_have_their_default_action_and_are_not_blocked() {
    let handler = ignore_it as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler does nothing; no other test of this program cares for these signals.
    unsafe { libc::signal(libc::SIGUSR1, handler) };
    // SAFETY: takes no pointers.
    unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
    let status = output_of(
        "exec grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status",
        &Spawn {
            environment: &[c"PATH=/usr/bin:/bin".to_owned()],
            ..PLAIN
        },
    );
    let sets: Vec<u64> = status
        .lines()
        .map(|line| line.split_whitespace().nth(1).expect("a set"))
        .map(|set| u64::from_str_radix(set, 16).expect("hexadecimal"))
        .collect();
    let usual = 1 << (libc::SIGUSR1 - 1) | 1 << (libc::SIGUSR2 - 1) | 1 << (libc::SIGPIPE - 1);
    assert_eq!(sets[0], 0, "none is blocked");
    assert_eq!(sets[1], 0, "none is ignored");
    assert_eq!(sets[2] & usual, 0, "none of its parent's is caught");
}

fn blocked_signals() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("SigBlk"));
    line.expect("a set of signals").to_owned()
}

#[test]
fn signals_of_the_parent_are_as_before() {
    let before = blocked_signals();
    output_of("exit 0", &PLAIN);
    failure_of(&Spawn {
        program: c"/nothing/there",
        ..PLAIN
    });
    assert_eq!(blocked_signals(), before);
}

#[test]
fn a_failure_names_its_step_and_leaves_no_child() {
    let missing = Descriptor::File {
        path: c"/nothing/there",
        flags: OFlags::RDONLY,
        mode: Mode::empty(),
    };
    let temp = File::open(std::env::temp_dir()).expect("a directory");
    let limit = Limit {
        resource: Resource::Nofile,
        soft: None,
        hard: Some(u64::MAX),
    };
    let cases = [
        (
            Spawn {
                program: c"/nothing/there",
                ..PLAIN
            },
            Step::Exec,
            libc::ENOENT,
        ),
        (
            Spawn {
                program: c"/etc/passwd",
                ..PLAIN
            },
            Step::Exec,
            libc::EACCES,
        ),
        (
            Spawn {
                directory: Some(c"/etc/passwd"),
                ..PLAIN
            },
            Step::Directory,
            libc::ENOTDIR,
        ),
        (
            Spawn {
                descriptors: &[NOTHING, missing],
                ..PLAIN
            },
            Step::File(1),
            libc::ENOENT,
        ),
        (
            Spawn {
                limits: &[limit],
                ..PLAIN
            },
            Step::Limits,
            libc::EPERM,
        ),
        (
            Spawn {
                cgroup: Some(temp.as_fd()),
                ..PLAIN
            },
            Step::Cgroup,
            // Elsewhere the child misses `cgroup.procs` there.
            if cfg!(target_arch = "x86_64") {
                libc::EBADF
            } else {
                libc::ENOENT
            },
        ),
    ];
    for (wishes, step, errno) in cases {
        let error = failure_of(&wishes);
        assert_eq!(error.step, step, "{error}: {:?}", error.source);
        assert_eq!(error.source.raw_os_error(), Some(errno), "{error}");
    }
    let children = fs::read_to_string("/proc/thread-self/children").expect("children");
    assert_eq!(children, "");
}

/// A user that owns nothing.
const NOBODY: u32 = 65534;

#[test]
fn an_identity_is_taken_on_entirely_or_refused() {
    let identity = Identity {
        uid: NOBODY,
        gid: 123,
        groups: vec![7, 8],
        capabilities: CapabilitySet::empty(),
    };
    let wishes = Spawn {
        identity: Some(&identity),
        environment: &[c"PATH=/usr/bin:/bin".to_owned()],
        ..PLAIN
    };
    if !rustix::process::geteuid().is_root() {
        let error = failure_of(&wishes);
        assert_eq!(error.step, Step::Identity);
        assert_eq!(error.source.raw_os_error(), Some(libc::EPERM));
        return;
    }
    let output = output_of(
        "grep -E '^(Uid|Gid|Groups|CapPrm|CapEff)' /proc/$$/status; exit 0",
        &wishes,
    );
    let words: Vec<&str> = output.split_whitespace().collect();
    let expected = "Uid: 65534 65534 65534 65534 Gid: 123 123 123 123 Groups: 7 8 \
         CapPrm: 0000000000000000 CapEff: 0000000000000000";
    assert_eq!(words.join(" "), expected);
}

#[test]
fn privileges_are_kept_where_that_is_asked_for() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let identity = Identity {
        uid: NOBODY,
        gid: NOBODY,
        groups: Vec::new(),
        capabilities: CapabilitySet::SYS_ADMIN,
    };
    let wishes = Spawn {
        identity: Some(&identity),
        environment: &[c"PATH=/usr/bin:/bin".to_owned()],
        ..PLAIN
    };
    let output = output_of(
        "grep -E '^(Uid|CapPrm|CapEff|CapAmb)' /proc/self/status; exit 0",
        &wishes,
    );
    let words: Vec<&str> = output.split_whitespace().collect();
    let expected = "Uid: 65534 65534 65534 65534 CapPrm: 0000000000200000 \
                    CapEff: 0000000000200000 CapAmb: 0000000000200000";
    assert_eq!(words.join(" "), expected);
}

#[test]
fn files_and_directories_are_reached_as_the_programs_user() {
    let directory = Directory::new("private");
    rustix::fs::chmod(&directory.0, Mode::RWXU).expect("chmod");
    let (path, file) = (c(&directory.0), c(&directory.0.join("out")));
    let output = Descriptor::File {
        path: &file,
        flags: OFlags::WRONLY | OFlags::CREATE,
        mode: Mode::RUSR | Mode::WUSR,
    };
    let identity = Identity {
        uid: NOBODY,
        gid: NOBODY,
        groups: Vec::new(),
        capabilities: CapabilitySet::empty(),
    };
    let wishes = Spawn {
        identity: Some(&identity),
        ..PLAIN
    };
    let [in_directory, with_file] = [
        Spawn {
            directory: Some(&path),
            ..wishes
        },
        Spawn {
            descriptors: &[output],
            ..wishes
        },
    ]
    .map(|wishes| failure_of(&wishes));
    if rustix::process::geteuid().is_root() {
        assert_eq!(in_directory.step, Step::Directory);
        assert_eq!(in_directory.source.raw_os_error(), Some(libc::EACCES));
        assert_eq!(with_file.step, Step::File(0));
        assert_eq!(with_file.source.raw_os_error(), Some(libc::EACCES));
    } else {
        assert_eq!(in_directory.step, Step::Identity);
        assert_eq!(with_file.step, Step::Identity);
    }
    assert_eq!(fs::read_dir(&directory.0).expect("it exists").count(), 0);
}

/// A cgroup of version 2 that this process may make children in, if there is one.
fn own_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    let mount = mount.split(' ').nth(4)?;
    let own = fs::read_to_string("/proc/self/cgroup").expect("cgroup");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(own))
}

#[test]
fn a_cgroup_is_entered() {
    let name = format!("portolan-spawn-{}", process::id());
    let made = own_cgroup().map(|own| own.join(&name)).filter(|leaf| {
        // Not in every container, and not for every user.
        fs::create_dir(leaf).is_ok()
    });
    let Some(leaf) = made else {
        // The system call is made all the same, see `a_failure_names_its_step_and_leaves_no_child`.
        return;
    };
    let directory = File::open(&leaf).expect("open");
    let output = output_of(
        "cat /proc/$$/cgroup; exit 0",
        &Spawn {
            cgroup: Some(directory.as_fd()),
            environment: &[c"PATH=/usr/bin:/bin".to_owned()],
            ..PLAIN
        },
    );
    fs::remove_dir(&leaf).expect("nobody is in it any more");
    let inside = output.lines().find(|line| line.starts_with("0::"));
    let inside = inside.expect("it has a cgroup of version 2");
    assert!(inside.ends_with(&name), "{inside}");
}

#[test]
fn many_threads_start_programs_at_once() {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(output_of("echo $0", &PLAIN), "sh\n");
                }
            });
        }
    });
}
