//! What it costs a job to fail, and what those who wait for it are told.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use portolan::bootstrap::jobs::{FailureKind, JobState, Kickstart};
use portolan::{Message, ReplyError, SendRight};
use portolan_testkit::soak;
use portoland::job::Reading;
use portoland::supervisor::{self, Action, Exit, PROBE, START_LIMIT, Supervisor};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::part::{ECHO, EXIT};
use crate::site::{NAME, PATIENCE, Site, TIME, ask, label, name, request, show, typical, until};

#[test]
fn l34_a_helper_that_exits_well_is_never_throttled() {
    let site = Site::with("serve", "");
    let right = site.look_up();
    call_cold_helper(&site, &right, 20, || {});
}

/// As a helper is called that nobody keeps: once a second.
#[test]
fn soak_l34_a_helper_that_exits_well_is_never_throttled() {
    let site = Site::with("serve", "");
    let right = site.look_up();
    for _ in soak::rounds() {
        let second = Instant::now() + Duration::from_secs(1);
        call_cold_helper(&site, &right, 1, || {
            while Instant::now() < second {
                thread::park_timeout(second.saturating_duration_since(Instant::now()));
            }
        });
    }
}

fn call_cold_helper(site: &Site, right: &SendRight, calls: u32, pause: impl Fn()) {
    let runs = site.job().runs;
    let times = (0..calls).map(|_| {
        site.until_state(JobState::Idle);
        let start = Instant::now();
        request(right, EXIT, b"").expect("answer");
        let time = start.elapsed();
        pause();
        time
    });
    let times: Vec<_> = times.collect();
    let job = site.job();
    assert_eq!((job.runs - runs, job.failures), (calls, 0));
    show(&format!("first answers of a cold helper after {times:?}"));
    // One call alone says little.
    assert!(calls == 1 || typical(times) < Duration::from_millis(10));
}

#[test]
fn l34_a_job_that_fails_is_started_ever_later_and_recovers_by_itself() {
    let site = Site::with("fail-while", "");
    site.write("cause", "");
    let right = site.look_up();
    let before = cpu_time(&site);
    let pending = right
        .begin_request(Message::new(ECHO), PATIENCE)
        .expect("send");
    until("it was started five times", || {
        site.lines("started").len() == 5
    });
    let spent = cpu_time(&site) - before;
    fs::remove_file(site.path("cause")).expect("remove the cause");
    pending.wait(PATIENCE).expect("answer");

    let starts = site.bootstrap.blame().expect("blame");
    let mut ago: Vec<_> = starts.iter().map(|blame| blame.start.ms_ago).collect();
    ago.sort_unstable();
    ago.reverse();
    let delays: Vec<_> = ago.windows(2).map(|pair| pair[0] - pair[1]).collect();
    show(&format!(
        "ms from start to start: {delays:?}; {spent:?} of CPU time"
    ));
    assert_eq!(delays.len(), 5);
    for (delay, expected) in delays.iter().zip([100, 200, 400, 800, 1600]) {
        let slow = if expected == 1600 { 2000 } else { 1000 };
        assert!(
            (expected * 8 / 10..expected * 12 / 10 + slow).contains(delay),
            "{delays:?}"
        );
    }
    // Twenty such runs are what ten minutes see.
    let share = spent.as_secs_f64() / 5.0 * f64::from(START_LIMIT) / 600.0;
    assert!(share < 0.01, "{share}");
}

/// `USER_HZ`, the same on all architectures.
const TICKS_PER_SECOND: u32 = 100;

/// What the server, its holder, and the jobs that they have waited for have used.
fn cpu_time(site: &Site) -> Duration {
    let server = site.server().expect("a server").as_raw_pid();
    let pids = [server.cast_unsigned(), site.holder()];
    let times = pids.map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        let fields = stat.rsplit_once(") ").expect("proc_pid_stat(5)").1;
        let ended = fields.split(' ').skip(13).take(2);
        let ticks: u64 = ended.map(|time| time.parse::<u64>().expect("ticks")).sum();
        let ended = Duration::from_secs(ticks) / TICKS_PER_SECOND;
        // Ticks are too long for what a server does in between.
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
        let own = threads.map(|thread| {
            let text = fs::read_to_string(thread.expect("a thread").path().join("schedstat"));
            let text = text.expect("schedstat");
            let time = text.split(' ').next().and_then(|time| time.parse().ok());
            Duration::from_nanos(time.expect("nanoseconds"))
        });
        own.sum::<Duration>() + ended
    });
    times.iter().sum()
}

#[test]
fn l34_a_job_that_goes_on_failing_has_failed_until_somebody_starts_it() {
    let site = Site::with("fail-while", "ThrottleInterval = 0\n");
    site.write("cause", "");
    let right = site.look_up();
    assert_failed(&ask(&right));
    assert_eq!(site.state(), JobState::Failed);
    assert_eq!(site.lines("started").len(), START_LIMIT as usize);
    let start = Instant::now();
    assert_failed(&ask(&right));
    show(&format!(
        "who comes later is told after {:?}",
        start.elapsed()
    ));
    assert!(start.elapsed() < Duration::from_secs(1));
    let probe = site.job().next_start_ms.expect("it is tried again");
    assert!((590_000..=600_000).contains(&probe), "{probe}");

    fs::remove_file(site.path("cause")).expect("remove the cause");
    let wait = Kickstart {
        kill: false,
        wait: Some(PATIENCE),
    };
    let pid = site.bootstrap.kickstart(&label(), wait).expect("kickstart");
    assert_eq!(ask(&right).ok(), pid);
}

fn assert_failed(answer: &Result<u32, ReplyError>) {
    match answer {
        Err(ReplyError::Failed(why)) => assert_eq!(why.kind, FailureKind::Exited { status: 1 }),
        other => panic!("{other:?}"),
    }
}

/// The ten minutes as the state machine sees them, which has no clock of its own.
#[test]
fn l34_a_job_that_has_failed_is_tried_again_by_itself() {
    let mut supervisor = Supervisor::new(7);
    let text = format!("Label = '{NAME}'\nProgram = '/x'\nMachServices.'{NAME}' = true\n");
    let job = Reading::of(text.as_bytes()).job.expect("a job");
    let mut now = Duration::ZERO;
    let key = supervisor.load(job, now).expect("load");
    supervisor.demand(&name(), now);
    let (mut starts, left) = (Vec::new(), [(name(), 1)]);
    let state = |supervisor: &Supervisor| supervisor.status(key).expect("status").state;
    loop {
        while let Some(action) = supervisor.next_action() {
            if action == Action::Start(key) {
                starts.push(now);
                supervisor.started(key, 1, now);
                supervisor.exited(key, Exit::Status(1), &left, now);
            }
        }
        if matches!(state(&supervisor), supervisor::JobState::Failed { .. }) {
            break;
        }
        now = supervisor.next_timer().expect("it is tried again");
        supervisor.timer(now);
    }
    assert_eq!(starts.len(), START_LIMIT as usize);
    let delays = starts
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_secs_f64());
    show(&format!(
        "seconds from start to start: {:.1?}",
        delays.collect::<Vec<_>>()
    ));

    let failed = now;
    now = supervisor.next_timer().expect("a probe");
    assert_eq!(now - failed, PROBE);
    supervisor.timer(now);
    assert_eq!(supervisor.next_action(), Some(Action::Start(key)));
    supervisor.started(key, 2, now);
    supervisor.checked_in(key, &name(), now);
    supervisor.exited(key, Exit::Status(0), &[], now);
    assert_eq!(state(&supervisor), supervisor::JobState::Idle);
}

#[test]
fn l35_whoever_waits_for_a_program_that_cannot_be_executed_is_told_at_once() {
    let site = Site::new();
    let plain = site.write("plain", "");
    let script = site.write("script", "#!/nowhere/interpreter\n");
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(&script, mode).expect("permissions");
    let missing = site.path("missing");
    let cases = [
        (
            "missing",
            program(&missing),
            Errno::NOENT,
            missing.as_path(),
        ),
        ("plain", program(&plain), Errno::ACCESS, plain.as_path()),
        (
            "script",
            program(&script),
            Errno::NOENT,
            Path::new("/nowhere/interpreter"),
        ),
        (
            "directory",
            format!(
                "{}WorkingDirectory = '{}'\n",
                program(Path::new("/bin/true")),
                missing.display()
            ),
            Errno::NOENT,
            missing.as_path(),
        ),
    ];
    for (case, keys, errno, path) in cases {
        let rounds = 0..3;
        let times = rounds
            .map(|round| time_to_be_told(&site, &format!("{case}{round}"), &keys, errno, path));
        assert!(
            typical(times.collect()) < Duration::from_millis(50),
            "{case}"
        );
    }
}

fn program(path: &Path) -> String {
    format!("Program = '{}'\n", path.display())
}

fn time_to_be_told(site: &Site, case: &str, keys: &str, errno: Errno, path: &Path) -> Duration {
    let name = format!("org.example.{case}");
    site.load(&format!(
        "Label = '{name}'\n{keys}MachServices.'{name}' = true\n"
    ));
    let right = site
        .bootstrap
        .look_up(&name.parse().expect("name"))
        .expect("look up");
    let start = Instant::now();
    let answer = ask(&right);
    let time = start.elapsed();
    let Err(ReplyError::Failed(why)) = answer else {
        panic!("{case}: {answer:?}");
    };
    let FailureKind::Exec {
        errno: found,
        path: about,
    } = &why.kind
    else {
        panic!("{case}: {why}");
    };
    // What is missing beside the program is said in words.
    let is_said = *found == 0 && why.to_string().contains(&path.display().to_string());
    let is_of_program = (*found, Path::new(&**about)) == (errno.raw_os_error(), path);
    let needs_more = case.starts_with("script") || case.starts_with("directory");
    let expected = if needs_more { is_said } else { is_of_program };
    assert!(expected, "{case}: {why}");
    show(&format!("{case}: told after {time:?}: {why}"));
    time
}

#[test]
fn l35_a_program_that_appears_is_started() {
    let site = Site::new();
    let program = site.path("program");
    let keys = format!("MachServices.'{NAME}' = true\n");
    site.load(&site.file_of(&program, NAME, "serve", &keys));
    let right = site.look_up();
    assert!(matches!(ask(&right), Err(ReplyError::Failed(_))));
    std::os::unix::fs::symlink(std::env::current_exe().expect("this program"), program)
        .expect("link");
    ask(&right).expect("answer");
}

/// How many messages, or connections, come at once.
const BURST: usize = 10_000;
const THREADS: usize = 4;

#[test]
fn l36_a_service_is_reachable_after_a_burst_of_messages() {
    // Each instance leaves most of them to the next.
    let site = Site::with("few 200", "");
    let right = site.look_up();
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let right = site.look_up();
                for number in 0..BURST / THREADS {
                    let message = Message::new(ECHO).with_bytes(number.to_string());
                    right.send(message, PATIENCE).expect("send");
                }
            });
        }
    });
    show(&format!("{BURST} messages in {:?}", start.elapsed()));
    ask(&right).expect("answer");
    // Nothing is lost: each instance but the last receives as many as it takes.
    let instances = u32::try_from(BURST).expect("few") / 200 + 1;
    until("all were received", || site.job().runs == instances);
    ask(&right).expect("answer");
    assert_eq!((site.state(), site.job().failures), (JobState::Running, 0));
}

#[test]
fn l36_a_service_is_reachable_after_a_burst_of_connections() {
    let site = Site::new();
    let socket = site.path("socket");
    let keys = format!("Sockets.Listener.SockPathName = '{}'\n", socket.display());
    site.load(&site.file(NAME, "accept 200", &keys));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..BURST / THREADS).for_each(|_| drop(connect(&socket))));
        }
    });
    show(&format!("{BURST} connections in {:?}", start.elapsed()));
    let start = Instant::now();
    until("it answers", || connect(&socket).is_some_and(is_answered));
    show(&format!("an answer {:?} later", start.elapsed()));
    assert_ne!(site.state(), JobState::Failed);
}

/// Connects, if there is room for one more.
fn connect(path: &Path) -> Option<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let socket = socket.expect("socket");
    let address = SocketAddrUnix::new(path).expect("address");
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Some(UnixStream::from(socket)),
        Err(Errno::AGAIN) => None,
        Err(other) => panic!("{other}"),
    }
}

/// Whether a byte comes back.
fn is_answered(mut stream: UnixStream) -> bool {
    stream.set_nonblocking(false).expect("blocking");
    stream.set_read_timeout(Some(TIME)).expect("time-out");
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read(&mut byte).is_ok_and(|n| n == 1)
}
