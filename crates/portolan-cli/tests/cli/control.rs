//! What is done to jobs: what the server is asked, and what is said of its answer.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use portolan::bootstrap::jobs::{FailureKind, Refusal, StartFailure};
use portolan::{BootstrapCode, JobLabel};
use portolan_wire::bootstrap::{Reply, Request};

use crate::fake::{Fake, done, explain, refuse};
use crate::world::{Ran, World};

const GOOD: &str = "Label = 'org.example.good'\nProgram = '/bin/true'\n\
                    LimitLoadToSessionType = 'Aqua'\n";

const FINDING: &str = "good.toml:3:1: warning: LimitLoadToSessionType: has no meaning on Linux";

fn label(text: &str) -> JobLabel {
    text.parse().expect("label")
}

/// A file that nobody else can change, whatever the umask of whoever runs the tests.
fn file(world: &World, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = world.write(name, text);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("permissions");
    path
}

fn load(world: &World, files: &[&Path]) -> Ran {
    let mut command = world.command(["load"]);
    crate::world::ran(command.args(files).output().expect("run"))
}

#[test]
fn a_file_that_is_good_is_loaded() {
    let fake = Fake::new(|_| done(&Reply::Done));
    let world = fake.world();
    let path = file(world, "good.toml", GOOD);
    let ran = load(world, &[&path]);
    assert!(ran.stderr.contains(FINDING), "{}", ran.stderr);
    ran.ok();
    let mut again = world.command(["load", "-w", "good.toml"]);
    let again = again.current_dir(world.path("")).output().expect("run");
    assert_eq!(again.status.code(), Some(0));
    let asked = |enable| Request::Load {
        enable,
        path: path.display().to_string().into(),
        file: GOOD.into(),
    };
    assert_eq!(fake.asked(), [asked(false), asked(true)]);
}

#[test]
fn a_file_that_is_wrong_is_told_before_the_server_is_asked() {
    let world = World::new();
    let wrong = file(
        &world,
        "wrong.toml",
        "Label = 'a'\nProgramm = '/bin/true'\n",
    );
    let ran = load(&world, &[&wrong]);
    let finding = "wrong.toml:2:1: error: Programm: unknown key, did you mean Program?";
    assert!(ran.stderr.contains(finding), "{}", ran.stderr);
    ran.fails(78, "wrong.toml cannot be used");
    load(&world, &[&world.path("missing.toml")]).fails(78, "cannot open");
    load(&world, &[&world.path("")]).fails(78, "is not a file");
    let long = file(&world, "long.toml", vec![b'#'; (256 << 10) + 1]);
    load(&world, &[&long]).fails(78, "long.toml has more than 262144 bytes");
    assert!(!world.runtime().exists(), "no server is asked");
}

#[test]
fn a_file_that_others_can_change_is_refused() {
    let world = World::new();
    let path = file(&world, "good.toml", GOOD);
    for (mode, who) in [
        (0o620, "its group"),
        (0o602, "everybody"),
        (0o666, "everybody"),
    ] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("permissions");
        let says = format!("good.toml can be changed by {who}");
        let ran = load(&world, &[&path]);
        let advice = format!("`chmod go-w {}`", path.display());
        assert!(ran.stderr.contains(&advice), "{}", ran.stderr);
        ran.fails(78, &says);
    }
    // Only root can give files away.
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("permissions");
        chown(&path, Some(12_345), None).expect("chown");
        load(&world, &[&path]).fails(78, "belongs to user 12345");
    }
    assert!(!world.runtime().exists(), "no server is asked");
}

#[test]
fn one_failure_does_not_keep_the_others_and_the_first_one_counts() {
    let fake = Fake::new(|request| match request {
        Request::Load { .. } => done(&Reply::Done),
        Request::Stop { label } if label.as_str() == "a" => refuse(BootstrapCode::JOB_NOT_FOUND),
        _ => refuse(BootstrapCode::JOB_NOT_RUNNING),
    });
    let world = fake.world();
    let good = file(world, "good.toml", GOOD);
    let wrong = file(world, "wrong.toml", "a");
    load(world, &[&wrong, &good]).fails(78, "portolan: 1 of 2 failed");
    world.run(["stop", "a", "b"]).fails(3, "2 of 2 failed");
    world.run(["stop", "b", "a"]).fails(10, "2 of 2 failed");
    let asked = fake.asked();
    assert!(matches!(asked[0], Request::Load { .. }));
    assert_eq!(asked.len(), 1 + 4);
}

#[test]
fn each_command_asks_what_it_says() {
    let fake = Fake::new(|_| done(&Reply::Done));
    let world = fake.world();
    world.run(["unload", "a", "b"]).ok();
    world.run(["enable", "a"]).ok();
    world.run(["disable", "a"]).ok();
    world.run(["stop", "a"]).ok();
    world.run(["restart"]).ok();
    let (a, b) = (label("a"), label("b"));
    let expected = [
        Request::Unload { label: a.clone() },
        Request::Unload { label: b },
        Request::Enable { label: a.clone() },
        Request::Disable { label: a.clone() },
        Request::Stop { label: a },
        Request::Restart,
    ];
    assert_eq!(fake.asked(), expected);
}

#[test]
fn a_bare_refusal_comes_with_advice_and_an_exit_code() {
    let fake = Fake::new(|request| match request {
        Request::Unload { .. } => refuse(BootstrapCode::JOB_NOT_FOUND),
        Request::Stop { .. } => refuse(BootstrapCode::JOB_NOT_RUNNING),
        Request::Enable { .. } => refuse(BootstrapCode::NOT_PRIVILEGED),
        Request::Kickstart { .. } => refuse(BootstrapCode::JOB_DISABLED),
        Request::Load { .. } => refuse(BootstrapCode::JOB_LOADED),
        _ => refuse(BootstrapCode::BAD_OPERATION),
    });
    let world = fake.world();
    let unload = world.run(["unload", "a"]);
    assert_eq!(
        unload.stderr,
        "portolan: a is not unloaded: No such job (1200)\n\
         portolan: `portolan jobs` lists the jobs that are loaded\n"
    );
    unload.fails(3, "");
    world.run(["stop", "a"]).fails(10, "`portolan print` tells");
    world
        .run(["enable", "a"])
        .fails(4, "a is not enabled: Permission denied (1100)");
    world
        .run(["kickstart", "a"])
        .fails(10, "`portolan enable` lets");
    let good = file(world, "good.toml", GOOD);
    load(world, &[&good]).fails(
        10,
        "org.example.good is not loaded: The job is loaded already",
    );
    world
        .run(["disable", "a"])
        .fails(1, "older than this command");
    world.run(["unload", "a", "b"]).fails(3, "2 of 2 failed");
    world.run(["stop", "a\nb"]).fails(2, "control characters");
}

#[test]
fn the_words_of_the_server_are_printed_and_stay_words() {
    let why = Refusal::Text("job.toml:3: \x1b[2Jno\nmend it".into());
    let fake = Fake::new(move |_| explain(BootstrapCode::BAD_JOB_FILE, &why));
    let ran = fake.world().run(["enable", "a"]);
    assert_eq!(
        ran.stderr,
        "portolan: a is not enabled: The job file cannot be used (1202): job.toml:3: \\u{1b}[2Jno\n\
         mend it\n"
    );
    ran.fails(78, "");
}

#[test]
fn a_kickstart_prints_the_process() {
    let fake = Fake::new(|request| {
        let waits = matches!(request, Request::Kickstart { wait: true, .. });
        done(&Reply::Kickstarted(waits.then_some(12)))
    });
    let world = fake.world();
    assert_eq!(world.run(["kickstart", "a"]).ok(), b"a  pid 12\n");
    let later = world.run(["kickstart", "-k", "--timeout", "0", "a"]).ok();
    assert_eq!(later, b"a  not running yet\n");
    let json = world.run(["kickstart", "--json", "a"]).ok();
    assert_eq!(json, b"{\"label\":\"a\",\"pid\":12}\n");
    let kills = fake.asked().into_iter().map(|request| match request {
        Request::Kickstart { kill, .. } => kill,
        other => panic!("{other:?}"),
    });
    assert_eq!(kills.collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn a_job_that_cannot_be_started_says_why() {
    let why = Refusal::Start(StartFailure {
        label: label("a"),
        kind: FailureKind::Exec {
            errno: 2,
            path: "/opt/a".into(),
        },
        text: "install it".into(),
    });
    let fake = Fake::new(move |_| explain(BootstrapCode::START_FAILED, &why));
    let says = "a is not started: The job could not be started (1206): job a cannot execute \
                /opt/a: No such file or directory (os error 2); install it";
    fake.world().run(["kickstart", "a"]).fails(11, says);
}

#[test]
fn nothing_is_started_to_be_restarted() {
    let world = World::new();
    world
        .run(["restart"])
        .fails(7, "no bootstrap server listens at");
    assert!(!world.runtime().exists(), "nothing was made");
}
