//! Job files: those of launchd load unchanged, and what is wrong is said with its place.

use std::path::{Path, PathBuf};

use portoland::job::{
    CalendarInterval, Drain, Job, JobError, KeepAlive, MAX_FINDINGS, MAX_JOB_BYTES, ProcessType,
    Reading, SocketAddress, SocketFamily, SocketType, Warning, read_file,
};

fn file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jobs");
    read_file(&folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The job of a file that has no errors.
fn job_of(bytes: &[u8]) -> Job {
    let reading = Reading::of(bytes);
    assert!(reading.errors.is_empty(), "{:?}", reading.errors);
    reading.job.expect("a job")
}

fn launchd(name: &str) -> Job {
    job_of(&file(name))
}

/// A job with these lines in it.
fn with(toml: &str) -> Reading {
    let start = "Label = 'org.example.job'\nProgram = '/bin/job'\n";
    Reading::of(format!("{start}{toml}").as_bytes())
}

/// The only error, with its place and key.
fn error(toml: &str) -> (String, String, JobError) {
    let mut reading = with(toml);
    assert_eq!(reading.errors.len(), 1, "{toml}: {:?}", reading.errors);
    assert!(reading.job.is_none());
    let error = reading.errors.remove(0);
    let at = error.at.expect("a position").to_string();
    (at, error.key, error.what)
}

/// The warnings of a job without errors, with their keys.
fn warnings(reading: &Reading) -> Vec<(&str, &Warning)> {
    assert!(reading.errors.is_empty(), "{:?}", reading.errors);
    let warnings = reading.warnings.iter();
    warnings
        .map(|warning| (warning.key.as_str(), &warning.what))
        .collect()
}

const LAUNCHD: &[(&str, &[&str])] = &[
    (
        "agent.plist",
        &[
            "7:2 LimitLoadToSessionType: has no meaning on Linux and is ignored",
            "9:2 AssociatedBundleIdentifiers: has no meaning on Linux and is ignored",
            "15:3 MachServices.\"com.example.updater.old\": the name is served although the value \
             is false; take it out if it is not to be",
            "22:2 LaunchEvents: has no meaning on Linux and is ignored",
        ],
    ),
    (
        "build-worker.plist",
        &[
            "5:2 label: is read as Label, write it so",
            "11:2 SessionCreate: has no meaning on Linux and is ignored",
            "26:3 KeepAlive.NetworkState: is not supported and is ignored; the job must do \
             without it",
        ],
    ),
    (
        "calendar.plist",
        &["31:2 LowPriorityIO: is not supported and is ignored; the job must do without it"],
    ),
    ("calendar-one.plist", &[]),
    (
        "cups.plist",
        &[
            "17:2 EnableTransactions: has no meaning on Linux and is ignored",
            "44:2 ServiceIPC: has no meaning on Linux and is ignored",
        ],
    ),
    (
        "homebrew-postgresql.plist",
        &["14:2 LimitLoadToSessionType: has no meaning on Linux and is ignored"],
    ),
    (
        "nix-daemon.plist",
        &["32:7 SoftResourceLimits.ResidentSetSize: has no meaning on Linux and is ignored"],
    ),
    (
        "ssh-agent.plist",
        &[
            "14:3 Sockets.Listeners: the socket is left out; give it SockPathName or \
             SockServiceName",
            "16:4 Sockets.Listeners.SecureSocketWithKey: is not supported and is ignored; the \
             job must do without it",
            "20:2 EnableTransactions: has no meaning on Linux and is ignored",
        ],
    ),
    (
        "ssh.plist",
        &[
            "22:4 Sockets.Listeners.Bonjour: is not supported and is ignored; the job must do \
             without it",
            "29:2 inetdCompatibility: is not supported and is ignored; the job must do without it",
            "38:2 SHAuthorizationRight: has no meaning on Linux and is ignored",
            "40:2 POSIXSpawnType: has no meaning on Linux and is ignored",
        ],
    ),
    (
        "syslogd.plist",
        &[
            "7:2 OnDemand: is obsolete; write KeepAlive = true in its place",
            "9:2 HopefullyExitsLast: has no meaning on Linux and is ignored",
            "11:2 POSIXSpawnType: has no meaning on Linux and is ignored",
            "13:2 JetsamProperties: has no meaning on Linux and is ignored",
            "34:4 MachServices.\"com.apple.system.logger\".HostSpecialPort: has no meaning on \
             Linux and is ignored",
        ],
    ),
    (
        "tftp.plist",
        &[
            "15:2 inetdCompatibility: is not supported and is ignored; the job must do without it",
            "20:2 InitGroups: is not supported and is ignored; the job must do without it",
        ],
    ),
    (
        "watch.plist",
        &[
            "18:2 StartOnMount: is not supported and is ignored; the job must do without it",
            "20:2 RootDirectory: is not supported and is ignored; the job must do without it",
        ],
    ),
    ("xnu-mach-port.plist", &[]),
];

#[test]
fn files_of_launchd_load_unchanged() {
    for (name, expected) in LAUNCHD {
        let reading = Reading::of(&file(name));
        assert!(reading.job.is_some(), "{name}: {:?}", reading.errors);
        let warnings = reading.warnings.iter().map(|warning| {
            let at = warning.at.expect("XML has positions");
            format!("{at} {warning}")
        });
        assert_eq!(warnings.collect::<Vec<_>>(), *expected, "{name}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jobs");
    let names = std::fs::read_dir(folder)
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name());
    let xml = names.filter(|name| !name.to_string_lossy().contains(".binary."));
    assert_eq!(xml.count(), LAUNCHD.len(), "each is checked");
}

#[test]
fn binary_files_of_others_are_the_same_jobs() {
    for name in [
        "build-worker",
        "calendar",
        "cups",
        "syslogd",
        "xnu-mach-port",
    ] {
        let binary = file(&format!("{name}.binary.plist"));
        assert!(binary.starts_with(b"bplist00"));
        let reading = Reading::of(&binary);
        assert!(reading.warnings.iter().all(|warning| warning.at.is_none()));
        assert_eq!(
            reading.job.expect("a job"),
            launchd(&format!("{name}.plist"))
        );
    }
}

#[test]
fn what_is_run_and_how() {
    let worker = launchd("build-worker.plist");
    assert_eq!(worker.label.as_str(), "org.example.worker");
    assert_eq!(worker.program_arguments, ["/usr/local/bin/worker", ""]);
    assert_eq!(worker.user_name.as_deref(), Some("builder"));
    assert_eq!(worker.group_name.as_deref(), Some("staff"));
    assert!(worker.abandon_process_group && !worker.launch_only_once && !worker.disabled);
    assert_eq!(worker.standard_in_path, Some("/dev/null".into()));
    assert_eq!(worker.standard_out_path, Some("/var/log/worker.log".into()));
    assert_eq!(
        (worker.time_out, worker.throttle_interval),
        (Some(30), None)
    );
    assert_eq!(worker.umask, Some(0o022));

    let postgres = launchd("homebrew-postgresql.plist");
    assert_eq!(postgres.environment_variables["LC_ALL"], "en_US.UTF-8");
    assert_eq!(postgres.working_directory, Some("/opt/homebrew".into()));
    assert_eq!(postgres.standard_error_path, postgres.standard_out_path);
    assert_eq!(postgres.process_type, ProcessType::Standard);

    let nix = launchd("nix-daemon.plist");
    assert_eq!(nix.soft_resource_limits.number_of_files, Some(1_048_576));
    assert_eq!(nix.hard_resource_limits.cpu, Some(3600));
    assert_eq!(
        nix.program_arguments[2],
        "/bin/wait4path /nix/store && exec /nix/store/bin/nix-daemon"
    );

    let ssh = launchd("ssh.plist");
    assert_eq!(ssh.program, Some("/usr/libexec/sshd-keygen-wrapper".into()));
    assert!(ssh.disabled);
}

#[test]
fn when_it_is_run() {
    let backup = launchd("calendar.plist");
    let [monday, new_year, always] = backup.start_calendar_interval.as_slice() else {
        panic!("{:?}", backup.start_calendar_interval);
    };
    assert_eq!(
        (monday.weekday, monday.hour, monday.minute, monday.day),
        (Some(1), Some(9), Some(30), None)
    );
    assert_eq!((new_year.day, new_year.month), (Some(31), Some(12)));
    assert_eq!(*always, CalendarInterval::default());
    assert_eq!(backup.nice, Some(20));
    assert_eq!(backup.process_type, ProcessType::Background);
    let daily = launchd("calendar-one.plist").start_calendar_interval;
    assert_eq!((daily.len(), daily[0].weekday), (1, Some(7)));

    let watch = launchd("watch.plist");
    assert_eq!(
        watch.watch_paths,
        [PathBuf::from("/etc/hosts"), "/var/db/incoming.stamp".into()]
    );
    assert_eq!(
        watch.queue_directories,
        [PathBuf::from("/var/spool/incoming")]
    );
    assert_eq!(launchd("agent.plist").start_interval, Some(3600));
    assert_eq!(launchd("cups.plist").exit_time_out, 60);
    let xnu = launchd("xnu-mach-port.plist");
    assert!(xnu.launch_only_once && !xnu.run_at_load);
    assert_eq!((xnu.throttle_interval, xnu.exit_time_out), (Some(1), 20));
}

#[test]
fn when_it_is_kept_alive() {
    let postgres = launchd("homebrew-postgresql.plist");
    assert_eq!(postgres.keep_alive, KeepAlive::Always(true));
    assert!(postgres.run_at_load);
    let agent = launchd("agent.plist");
    assert_eq!(agent.keep_alive, KeepAlive::Always(false));

    let KeepAlive::While(conditions) = launchd("cups.plist").keep_alive else {
        panic!("conditions");
    };
    let path = Path::new("/private/var/spool/cups/cache/org.cups.cupsd");
    assert_eq!(conditions.path_state.get(path), Some(&true));
    let KeepAlive::While(conditions) = launchd("build-worker.plist").keep_alive else {
        panic!("conditions");
    };
    assert_eq!(
        (conditions.successful_exit, conditions.crashed),
        (Some(false), Some(true))
    );
    assert_eq!(conditions.after_initial_demand, Some(false));
    assert_eq!(conditions.other_job_enabled.len(), 1);
}

#[test]
fn the_older_opposite_of_keep_alive() {
    assert_eq!(launchd("syslogd.plist").keep_alive, KeepAlive::Always(true));
    let both = with("OnDemand = false\nKeepAlive = false\n");
    assert_eq!(
        both.job.expect("a job").keep_alive,
        KeepAlive::Always(false)
    );
}

#[test]
fn names_that_it_serves() {
    let syslog = launchd("syslogd.plist").mach_services;
    let logger = &syslog["com.apple.system.logger"];
    assert!(logger.reset_at_close && logger.hide_until_check_in);
    assert_eq!(logger.drain_messages_on_crash, Some(Drain::All));
    let action = &syslog["com.apple.system.logger.action"];
    assert!(!action.reset_at_close && !action.hide_until_check_in);
    assert_eq!(action.drain_messages_on_crash, None);
    assert_eq!(launchd("agent.plist").mach_services.len(), 2);
}

#[test]
fn sockets_that_it_inherits() {
    let syslog = launchd("syslogd.plist").sockets;
    let [bsd] = syslog["BSDSystemLogger"].as_slice() else {
        panic!("{syslog:?}");
    };
    assert_eq!((bsd.sock_type, bsd.sock_passive), (SocketType::Dgram, true));
    let SocketAddress::Unix {
        sock_path_name,
        sock_path_mode,
    } = &bsd.address
    else {
        panic!("{bsd:?}");
    };
    assert_eq!(sock_path_name, Path::new("/var/run/syslog"));
    assert_eq!(*sock_path_mode, Some(0o666));

    let cups = launchd("cups.plist").sockets;
    let [unix, inet] = cups["Listeners"].as_slice() else {
        panic!("{cups:?}");
    };
    assert!(matches!(unix.address, SocketAddress::Unix { .. }));
    assert_eq!(inet.sock_type, SocketType::Stream);
    let SocketAddress::Inet {
        sock_node_name,
        sock_service_name,
        sock_family,
    } = &inet.address
    else {
        panic!("{inet:?}");
    };
    assert_eq!(sock_node_name.as_deref(), Some("localhost"));
    assert_eq!(sock_service_name, "631");
    assert_eq!(*sock_family, None);

    let tftp = &launchd("tftp.plist").sockets["Listeners"][0];
    assert_eq!(tftp.sock_type, SocketType::Dgram);
    assert!(matches!(
        tftp.address,
        SocketAddress::Inet {
            sock_family: Some(SocketFamily::V4),
            ..
        }
    ));
    assert!(launchd("ssh-agent.plist").sockets.is_empty());
    let left_out = with("Sockets.a = [{ SecureSocketWithKey = 'A' }]");
    assert!(left_out.job.expect("a job").sockets.is_empty());
}

#[test]
fn the_keys_that_launchd_does_not_have() {
    let job = with(
        "After = ['org.example.a']\nRequires = ['org.example.b', 'org.example.c']\n\
         [Entitlements]\n'com.apple.security.app-sandbox' = true\n\
         com.apple.security.application-groups = ['group.a']\n",
    );
    let job = job.job.expect("a job");
    assert_eq!((job.after.len(), job.requires.len()), (1, 2));
    let entitlements = job.entitlements.expect("entitlements");
    assert!(entitlements.app_sandbox);
    assert_eq!(entitlements.application_groups[0].as_str(), "group.a");
}

#[test]
fn a_misspelt_key_is_an_error_with_its_place_and_the_nearest_key() {
    let xml = String::from_utf8(file("xnu-mach-port.plist")).expect("text");
    let misspelt = xml
        .replace("ThrottleInterval", "ThrotleInterval")
        .replace("ResetAtClose", "ResetOnClose");
    let errors = Reading::of(misspelt.as_bytes()).errors;
    let errors: Vec<_> = errors
        .iter()
        .map(|error| format!("{} {error}", error.at.expect("a position")))
        .collect();
    assert_eq!(
        errors,
        [
            "15:4 MachServices.\"com.apple.xnu.test.mach_port\".ResetOnClose: unknown key, did \
             you mean ResetAtClose?",
            "19:2 ThrotleInterval: unknown key, did you mean ThrottleInterval?",
        ]
    );

    let mut binary = file("xnu-mach-port.binary.plist");
    let at = binary
        .windows(12)
        .position(|bytes| bytes == b"ResetAtClose")
        .expect("the key");
    binary[at..at + 12].copy_from_slice(b"ResetOnClose");
    let errors = Reading::of(&binary).errors;
    assert_eq!((errors.len(), errors[0].at), (1, None));
    assert_eq!(
        errors[0].key,
        "MachServices.\"com.apple.xnu.test.mach_port\".ResetOnClose"
    );

    let (at, key, what) = error("[SoftResourceLimits]\nNumberOfFile = 1\n");
    assert_eq!(
        (at.as_str(), key.as_str()),
        ("4:1", "SoftResourceLimits.NumberOfFile")
    );
    let JobError::UnknownKey { nearest } = what else {
        panic!("{what:?}");
    };
    assert_eq!(nearest, Some("NumberOfFiles"));
    let (_, _, what) = error("Frobnicate = true\n");
    assert!(matches!(what, JobError::UnknownKey { nearest: None }));
    let (_, _, what) = error("LimitLoadToSesionType = 'Aqua'\n");
    assert!(
        matches!(
            what,
            JobError::UnknownKey {
                nearest: Some("LimitLoadToSessionType")
            }
        ),
        "{what:?}"
    );
}

#[test]
fn every_error_is_told_in_the_order_of_the_file() {
    let reading = Reading::of(b"Nice = 99\nLabel = ''\nUmask = true\nProgramm = 'x'\n");
    let keys: Vec<_> = reading.errors.iter().map(|error| &error.key).collect();
    assert_eq!(keys, ["Nice", "Label", "Umask", "Programm"]);

    let many: String = (0..2 * MAX_FINDINGS)
        .map(|number| format!("Frobnicate{number} = 1\n"))
        .collect();
    assert_eq!(with(&many).errors.len(), MAX_FINDINGS);
    let many: String = (0..2 * MAX_FINDINGS)
        .map(|number| format!("a{number} = false\n"))
        .collect();
    let reading = with(&format!("[MachServices]\n{many}"));
    assert_eq!(reading.warnings.len(), MAX_FINDINGS);
}

#[test]
fn a_job_has_a_label_and_something_to_run() {
    let errors = Reading::of(b"").errors;
    let [label] = errors.as_slice() else {
        panic!("{errors:?}");
    };
    assert!(matches!(label.what, JobError::NoLabel));
    assert_eq!(
        label.at.map(|at| at.to_string()).as_deref(),
        Some("1:1"),
        "a text has positions"
    );
    for program in ["", "ProgramArguments = []", "BundleProgram = 'x'"] {
        let errors = Reading::of(format!("Label = 'a'\n{program}").as_bytes()).errors;
        assert!(
            matches!(errors.as_slice(), [error] if matches!(error.what, JobError::NoProgram)),
            "{program}: {errors:?}"
        );
    }
    let job = job_of(b"Label = 'a'\nProgramArguments = ['/bin/true']\n");
    assert_eq!(job.program, None);
    let errors = Reading::of(b"Label = \"a\\nb\"\nProgram = 'x'\n").errors;
    assert!(matches!(errors[0].what, JobError::Label(_)), "{errors:?}");
}

#[test]
fn values_of_another_type_are_refused() {
    for (toml, expected) in [
        ("RunAtLoad = 1", "true or false"),
        ("UserName = 501", "a text"),
        ("WorkingDirectory = ['/']", "a text"),
        ("ProgramArguments = '/bin/true'", "an array"),
        ("ProgramArguments = ['/bin/true', 7]", "a text"),
        ("WatchPaths = '/etc'", "an array"),
        ("Nice = '5'", "a whole number"),
        ("StartInterval = 1.5", "a whole number"),
        ("KeepAlive = 'yes'", "true, false or a dictionary"),
        ("KeepAlive.Crashed = 'yes'", "true or false"),
        ("KeepAlive.PathState = ['/a']", "a dictionary"),
        ("StartCalendarInterval = 5", "a dictionary"),
        ("StartCalendarInterval = [{}, 5]", "a dictionary"),
        ("MachServices = ['a']", "a dictionary"),
        ("MachServices.a = 'yes'", "true or a dictionary"),
        ("Sockets.a = true", "a dictionary"),
        ("EnvironmentVariables.A = 1", "a text"),
        ("Umask = true", "a whole number"),
        ("Umask = '09'", "permissions such as \"022\""),
        ("Umask = '+2'", "permissions such as \"022\""),
        ("Entitlements = []", "a dictionary"),
        ("After = 'org.example.a'", "an array"),
        ("ThrottleInterval = 1979-05-27", "a whole number"),
    ] {
        let (_, _, what) = error(toml);
        let JobError::WrongType { expected: said } = what else {
            panic!("{toml}: {what:?}");
        };
        assert_eq!(said, expected, "{toml}");
    }
}

#[test]
fn numbers_have_limits() {
    for (key, min, max) in [
        ("Nice", -20, 20),
        ("Umask", 0, 0o777),
        ("StartInterval", 1, i64::from(u32::MAX)),
        ("ThrottleInterval", 0, i64::from(u32::MAX)),
        ("ExitTimeOut", 0, i64::from(u32::MAX)),
        ("TimeOut", 0, i64::from(u32::MAX)),
        ("StartCalendarInterval.Minute", 0, 59),
        ("StartCalendarInterval.Hour", 0, 23),
        ("StartCalendarInterval.Day", 1, 31),
        ("StartCalendarInterval.Weekday", 0, 7),
        ("StartCalendarInterval.Month", 1, 12),
    ] {
        for value in [min, max] {
            let reading = with(&format!("{key} = {value}"));
            assert!(reading.job.is_some(), "{key}: {:?}", reading.errors);
        }
        for value in [min - 1, max + 1] {
            let (at, _, what) = error(&format!("{key} = {value}"));
            let JobError::OutOfRange {
                min: low,
                max: high,
            } = what
            else {
                panic!("{key} = {value}: {what:?}");
            };
            assert_eq!((low, high), (min.into(), max.into()), "{key}");
            assert!(at.starts_with("3:"), "{key}: {at}");
        }
    }
    let (_, key, what) = error("StartCalendarInterval = [{}, { Year = 2000 }]");
    assert!(matches!(what, JobError::UnknownKey { .. }), "{what:?}");
    assert_eq!(key, "StartCalendarInterval.Year");
    for port in [0, 65535] {
        assert!(
            with(&format!("Sockets.a.SockServiceName = {port}"))
                .job
                .is_some()
        );
    }
    for limit in [
        "Core",
        "CPU",
        "Data",
        "FileSize",
        "MemoryLock",
        "NumberOfFiles",
        "NumberOfProcesses",
        "Stack",
    ] {
        let (_, key, what) = error(&format!("HardResourceLimits.{limit} = -1"));
        assert!(matches!(what, JobError::OutOfRange { .. }), "{what:?}");
        assert_eq!(key, format!("HardResourceLimits.{limit}"));
    }
}

#[test]
fn permissions_as_c_reads_them() {
    for (text, mode) in [
        ("022", 0o22),
        ("18", 18),
        ("0x12", 0x12),
        ("0", 0),
        ("0777", 0o777),
    ] {
        let job = with(&format!("Umask = '{text}'\n")).job.expect(text);
        assert_eq!(job.umask, Some(mode), "{text}");
    }
    let (_, _, what) = error("Umask = '01000'");
    assert!(matches!(what, JobError::OutOfRange { max: 0o777, .. }));
}

#[test]
fn a_soft_limit_is_no_higher_than_the_hard_one() {
    let limits = |soft, hard| {
        format!(
            "[HardResourceLimits]\nCPU = {hard}\n[SoftResourceLimits]\nCore = 9\nCPU = {soft}\n"
        )
    };
    assert!(with(&limits(7, 7)).job.is_some());
    let (at, key, what) = error(&limits(8, 7));
    assert!(
        matches!(what, JobError::AboveHardLimit { hard: 7 }),
        "{what:?}"
    );
    assert_eq!(
        (at.as_str(), key.as_str()),
        ("7:1", "SoftResourceLimits.CPU")
    );
}

#[test]
fn words_are_among_those_that_there_are() {
    let (_, _, what) = error("ProcessType = 'Foreground'");
    assert_eq!(
        what.to_string(),
        "must be one of Background, Standard, Adaptive, Interactive"
    );
    let job = with("ProcessType = 'adaptive'").job.expect("a job");
    assert_eq!(job.process_type, ProcessType::Adaptive);
    for toml in [
        "MachServices.a.DrainMessagesOnCrash = 'Two'",
        "Sockets.a = { SockPathName = '/a', SockType = 'raw' }",
        "Sockets.a = { SockServiceName = '80', SockFamily = 'IPX' }",
        "Sockets.a = { SockServiceName = '80', SockProtocol = 'SCTP' }",
    ] {
        let (_, _, what) = error(toml);
        assert!(
            matches!(what, JobError::UnknownWord { .. }),
            "{toml}: {what:?}"
        );
    }
}

#[test]
fn a_socket_has_one_address() {
    for socket in [
        "{}",
        "{ SockPathName = '/a', SockServiceName = '80' }",
        "{ SockPathName = '/a', SockFamily = 'IPv4' }",
        "{ SockServiceName = '80', SockFamily = 'Unix' }",
        "{ SockNodeName = 'localhost' }",
    ] {
        let (at, _, what) = error(&format!("[Sockets]\na = {socket}"));
        assert!(
            matches!(what, JobError::SocketAddress),
            "{socket}: {what:?}"
        );
        assert_eq!(at, "4:1");
    }
    let (_, _, what) = error("Sockets.a = { SockServiceName = '80', SockProtocol = 'UDP' }");
    assert!(matches!(what, JobError::SocketProtocol), "{what:?}");
    let (_, _, what) = error("Sockets.a.SockServiceName = 65536");
    assert!(
        matches!(what, JobError::OutOfRange { max: 65535, .. }),
        "{what:?}"
    );
    let unix =
        with("Sockets.a = { SockPathName = '/a', SockFamily = 'Unix', SockPassive = false }");
    let unix = unix.job.expect("a job");
    assert!(!unix.sockets["a"][0].sock_passive);
}

#[test]
fn keys_of_the_other_kind_of_socket_are_told_of() {
    for (socket, key) in [
        (
            "SockPathName = '/a', SockNodeName = 'localhost'",
            "Sockets.a.SockNodeName",
        ),
        (
            "SockServiceName = '80', SockPathMode = 438",
            "Sockets.a.SockPathMode",
        ),
    ] {
        let reading = with(&format!("Sockets.a = {{ {socket} }}"));
        assert_eq!(warnings(&reading), [(key, &Warning::OtherKindOfSocket)]);
    }
}

#[test]
fn texts_that_no_program_can_be_given() {
    for toml in [
        "ProgramArguments = [\"a\\u0000\"]",
        "WorkingDirectory = \"a\\u0000\"",
        "EnvironmentVariables.A = \"\\u0000\"",
        "EnvironmentVariables.\"\\u0000\" = 'a'",
        "Sockets.a.SockPathName = \"\\u0000\"",
    ] {
        let (_, _, what) = error(toml);
        assert!(matches!(what, JobError::Nul), "{toml}: {what:?}");
    }
    let (_, _, what) = error("StandardOutPath = ''");
    assert!(matches!(what, JobError::Empty), "{what:?}");
    for name in ["", "A=B"] {
        let (at, _, what) = error(&format!("[EnvironmentVariables]\n'{name}' = 'x'"));
        assert!(matches!(what, JobError::Variable), "{name}: {what:?}");
        assert_eq!(at, "4:1");
    }
}

#[test]
fn names_and_labels_are_checked() {
    let long = "x".repeat(128);
    let (_, _, what) = error(&format!("MachServices.{long} = true"));
    assert!(matches!(what, JobError::Name(_)), "{what:?}");
    let (_, _, what) = error(&format!("Requires = ['{long}']"));
    assert!(matches!(what, JobError::Label(_)), "{what:?}");
    let (_, _, what) = error(&format!("KeepAlive.OtherJobEnabled.{long} = true"));
    assert!(matches!(what, JobError::Label(_)), "{what:?}");
}

#[test]
fn a_name_that_toml_takes_apart() {
    let (at, key, what) = error("[MachServices]\norg.example.a = true");
    assert!(matches!(what, JobError::UnquotedName), "{what:?}");
    assert_eq!(
        (at.as_str(), key.as_str()),
        ("4:5", "MachServices.org.example")
    );
    let xml = String::from_utf8(file("xnu-mach-port.plist")).expect("text");
    let errors = Reading::of(xml.replace("ResetAtClose", "example").as_bytes()).errors;
    assert!(
        matches!(errors[0].what, JobError::UnknownKey { nearest: None }),
        "{errors:?}"
    );
}

#[test]
fn a_job_does_not_wait_for_itself() {
    for key in ["After", "Requires"] {
        let (at, found, what) = error(&format!("{key} = ['org.example.a', 'org.example.job']"));
        assert!(matches!(what, JobError::WaitsForItself), "{what:?}");
        assert_eq!((at.as_str(), found.as_str()), ("3:1", key));
    }
}

#[test]
fn a_key_has_one_value() {
    let xml = |inner: &str| {
        let text = format!(
            "<plist><dict>\n<key>Label</key><string>a</string>\n<key>Program</key>\
             <string>b</string>\n{inner}\n</dict></plist>"
        );
        let errors = Reading::of(text.as_bytes()).errors;
        let [error] = errors.as_slice() else {
            panic!("{inner}: {errors:?}");
        };
        assert!(matches!(error.what, JobError::Repeated), "{error:?}");
        assert_eq!(error.at.map(|at| at.line), Some(5));
    };
    xml("<key>Nice</key><integer>1</integer>\n<key>nice</key><integer>1</integer>");
    xml(
        "<key>EnvironmentVariables</key><dict><key>A</key><string>1</string>\n\
         <key>A</key><string>2</string></dict>",
    );
}

#[test]
fn the_spelling_of_keys_is_told_of() {
    let reading = with("runatload = true\nKeepAlive = { crashed = true }\n");
    assert_eq!(
        warnings(&reading),
        [
            ("runatload", &Warning::Spelling { key: "RunAtLoad" }),
            ("KeepAlive.crashed", &Warning::Spelling { key: "Crashed" }),
        ]
    );
    assert!(reading.job.expect("a job").run_at_load);
}

#[test]
fn a_job_has_no_parent_to_inherit_a_sandbox_from() {
    let (_, key, what) = error(
        "[Entitlements]\n'com.apple.security.app-sandbox' = true\n\
         'com.apple.security.inherit' = true\n",
    );
    assert!(matches!(what, JobError::InheritedSandbox), "{what:?}");
    assert_eq!(key, "Entitlements");
}

#[test]
fn entitlements_without_an_effect_are_warnings_at_their_places() {
    let table = "[Entitlements]\n'com.apple.security.app-sandbox' = true\n\
                 'com.apple.security.files.user-selected.read-only' = true\n";
    let text = format!("Label = \"a\"\nProgram = \"/bin/true\"\n{table}");
    let reading = Reading::of(text.as_bytes());
    assert!(reading.job.is_some(), "{:?}", reading.errors);
    let [warning] = &reading.warnings[..] else {
        panic!("{:?}", reading.warnings)
    };
    assert_eq!(warning.at.map(|at| (at.line, at.column)), Some((5, 1)));
    assert!(warning.to_string().contains("user-selected"), "{warning}");
}

#[test]
fn refusals_are_reported_of_jobs_that_are_confined() {
    let keys = "Label = \"a\"\nProgram = \"/bin/true\"\nReportRefusals = true\n";
    let reading = |more: &str| Reading::of(format!("{keys}{more}").as_bytes());
    let sandbox = reading("[Entitlements]\n'com.apple.security.app-sandbox' = true\n");
    assert!(sandbox.job.as_ref().is_some_and(|job| job.report_refusals));
    assert_eq!(warnings(&sandbox), []);
    for without in [
        "",
        "[Entitlements]\n'com.apple.security.network.client' = true\n",
    ] {
        let reading = reading(without);
        assert_eq!(
            warnings(&reading),
            [("ReportRefusals", &Warning::NothingRefused)]
        );
    }
    assert!(!with("").job.expect("a job").report_refusals);
}

#[test]
fn entitlements_are_checked_with_their_places() {
    let (at, key, what) = error(
        "[Entitlements]\n'com.apple.security.app-sandbox' = true\n\
         'com.apple.security.aplication-groups' = []\n",
    );
    assert!(matches!(what, JobError::Entitlements(_)), "{what:?}");
    assert_eq!((at.as_str(), key.as_str()), ("5:1", "Entitlements"));
}

#[test]
fn what_is_no_document_at_all() {
    for bytes in [
        &b"a = 1\nb = ["[..],
        b"<plist><dict>\n<key>a</key></plist>",
        b"<plist><array/></plist>",
        b"a = '\xff'",
        b"bplist00",
    ] {
        let reading = Reading::of(bytes);
        assert!(reading.job.is_none() && reading.document.is_none());
        assert!(
            matches!(reading.errors.as_slice(), [error] if matches!(error.what, JobError::Document(_)))
        );
    }
    let at = Reading::of(b"a = 1\nb = [").errors[0].at;
    assert_eq!(at.map(|at| at.line), Some(2));
}

#[test]
fn a_file_that_is_too_long_is_not_read() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("job.toml");
    std::fs::write(&path, vec![b'\n'; MAX_JOB_BYTES]).expect("write");
    assert_eq!(
        read_file(&path).map(|bytes| bytes.len()).ok(),
        Some(MAX_JOB_BYTES)
    );
    std::fs::write(&path, vec![b'\n'; MAX_JOB_BYTES + 1]).expect("write");
    let error = read_file(&path).expect_err("too long");
    assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
}
