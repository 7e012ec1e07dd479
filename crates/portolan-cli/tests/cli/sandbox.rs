//! `portolan sandbox`: what confined programs may do, and what they were refused.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;

use crate::world::{Ran, Running, World, ran};

const GROUP: &str = "\"com.apple.security.app-sandbox\" = true\n\
                     \"com.apple.security.application-groups\" = [\"group.a\"]\n";

/// The tiers that a program can be asked to be locked in by: with and without namespaces, where there
/// are any.
const TIERS: [&str; 2] = ["T1", "best"];

/// The name that the seed of the specification registers: nobody can know it.
const RANDOM: &str = "E030B15B-3EC6-4A21-A415-668AD0CB1B52";

fn json(ran: Ran) -> Value {
    serde_json::from_slice(&ran.stdout).expect("JSON")
}

fn text(ran: Ran) -> String {
    String::from_utf8(ran.ok()).expect("text")
}

fn lines(world: &World) -> Vec<Value> {
    let text = text(world.run(["sandbox", "log", "--json"]));
    let line = |line| serde_json::from_str(line).expect("JSON");
    text.lines().map(line).collect()
}

/// Runs a shell script, confined, that has the command for `$portolan`.
fn confined(world: &World, granted: &str, isolation: &str, script: &str) -> Ran {
    let mut command = world.confined(isolation, &world.entitlements(granted));
    ran(command.args(["sh", "-c", script]).output().expect("run"))
}

fn check(world: &World, words: &[&str]) -> Ran {
    let mut command = world.command(["sandbox", "check", "--json"]);
    ran(command.args(words).output().expect("run"))
}

#[test]
fn a_check_tells_the_rule_and_what_would_allow_it() {
    let world = World::new();
    let file = world.write("org.example.app.toml", GROUP);
    let file = file.to_str().expect("path");
    let about = |words: &[&str]| {
        let ran = check(&world, &[&["--entitlements", file][..], words].concat());
        let code = ran.code;
        (code, json(ran))
    };
    for (words, rule) in [
        (["mach-register", "group.a.x"], "application group group.a"),
        (["mach-lookup", "org.example.app.x"], "a name of its own"),
        (["ipc-posix-shm", "group.a/x"], "application group group.a"),
        (
            ["network-outbound", "group.a/s"],
            "application group group.a",
        ),
        (
            ["network-bind", "group.a/run/s"],
            "application group group.a",
        ),
        (["file-read", "/usr/lib"], "every program has /usr"),
        (["process-exec", "/bin/sh"], "every program has"),
    ] {
        let (code, answer) = about(&words);
        assert_eq!(
            (code, &answer["allowed"]),
            (Some(0), &true.into()),
            "{words:?}"
        );
        let told = answer["rule"].as_str().expect("text");
        assert!(told.contains(rule), "{told}");
    }
    let home = world.write("notes", "x");
    let home = home.to_str().expect("path");
    fs::create_dir(world.path("letters")).expect("mkdir");
    let letter = world.path("letters/new");
    let letter = letter.to_str().expect("path");
    let files = "com.apple.security.temporary-exception.files";
    for (words, key, value) in [
        (["mach-lookup", "x"], "mach-lookup.global-name", "x".into()),
        (
            ["mach-register", "b.c.d"],
            "application-groups",
            "b.c".into(),
        ),
        (
            ["ipc-posix-sem", "group.b/x"],
            "application-groups",
            "group.b".into(),
        ),
        (
            ["file-read", home],
            "home-relative-path.read-only",
            "/notes".into(),
        ),
        (
            ["file-write", home],
            "home-relative-path.read-write",
            "/notes".into(),
        ),
        (
            ["file-write", letter],
            "home-relative-path.read-write",
            "/letters/".into(),
        ),
        (
            ["file-write", "/usr"],
            "absolute-path.read-write",
            "/usr/".into(),
        ),
        (
            ["network-outbound", "group.b/s"],
            "application-groups",
            "group.b".into(),
        ),
        (
            ["network-bind", "group.b/s"],
            "application-groups",
            "group.b".into(),
        ),
        (
            ["network-outbound", "/run/s"],
            "network.client",
            Value::Null,
        ),
        (["network-outbound", "a:80"], "network.client", Value::Null),
        (["network-server", ""], "network.server", Value::Null),
    ] {
        let (code, answer) = about(&words);
        assert_eq!(
            (code, &answer["allowed"]),
            (Some(1), &false.into()),
            "{words:?}"
        );
        let told = answer["allowed_by"]["key"].as_str().expect("text");
        assert!(told.ends_with(key), "{told}");
        assert_eq!(
            told.starts_with(files),
            words[0].starts_with("file"),
            "{told}"
        );
        assert_eq!(answer["allowed_by"]["value"], value);
    }
    let (code, answer) = about(&["file-read", "/proc/1/environ"]);
    assert_eq!(
        (code, &answer["allowed_by"]),
        (Some(1), &Value::Null),
        "no exception is for that"
    );
    check(&world, &["--entitlements", file, "fly", "x"]).fails(2, "\"fly\" is no operation");
    check(&world, &["--entitlements", file, "file-read"]).fails(2, "on what?");
    check(&world, &["mach-lookup"]).fails(2, "which program");
    check(&world, &["org.example.none", "mach-lookup", "x"]).fails(3, "org.example.none");
}

/// What is told allowed works, and what is told denied does not; with the entitlement that is told,
/// it works.
#[test]
fn what_is_told_is_what_happens() {
    let world = World::of_a_user();
    let file = world.path("notes");
    fs::write(&file, "x").expect("write");
    let shown = file.display().to_string();
    let script = format!("cat {shown}");
    let granted = world.entitlements(GROUP);
    let told = |granted: &PathBuf| {
        let granted = granted.to_str().expect("path");
        check(&world, &["--entitlements", granted, "file-read", &shown])
    };
    assert_ne!(confined(&world, GROUP, "best", &script).code, Some(0));
    let answer = json(told(&granted));
    let by = &answer["allowed_by"];
    let (key, value) = (by["key"].as_str(), by["value"].as_str());
    let line = format!(
        "{:?} = [{:?}]\n",
        key.expect("a key"),
        value.expect("a value")
    );
    let more = format!("{GROUP}{line}");
    assert_eq!(told(&world.entitlements(&more)).code, Some(0));
    for isolation in TIERS {
        assert_eq!(confined(&world, &more, isolation, &script).ok(), b"x");
    }
}

fn job(world: &World, name: &str, command: &str) -> PathBuf {
    let portolan = world.program();
    let bin = world.path("bin/");
    let file = world.write(
        &format!("{name}.toml"),
        format!(
            "Label = 'test.{name}'\n\
             ProgramArguments = [{portolan:?}, 'serve', 'group.a.{name}', '--', 'sh', '-c', {command:?}]\n\
             Isolation = 'T1'\n\
             [MachServices]\n\
             'group.a.{name}' = true\n\
             [Entitlements]\n\
             {GROUP}\
             'com.apple.security.temporary-exception.files.absolute-path.read-only' = [{bin:?}]\n"
        ),
    );
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("permissions");
    file
}

#[test]
fn a_job_is_explained_as_it_was_loaded() {
    let world = World::of_a_user();
    let file = job(&world, "job", "cat");
    let path = file.to_str().expect("path");
    let before = text(world.run(["sandbox", "explain", path]));
    world.run(["load", path]).ok();
    // What is in the file by now is not what binds the job.
    fs::write(&file, "Label = 'test.job'\nProgram = '/bin/true'\n").expect("write");
    let explained = text(world.run(["sandbox", "explain", "test.job"]));
    assert_eq!(explained, before);
    for part in [
        "T1 (isolation T1)",
        "group.a: ",
        "test.job.*",
        "network     none",
    ] {
        assert!(explained.contains(part), "{part:?} is not in {explained}");
    }
    let view = json(world.run(["sandbox", "explain", "--json", "test.job"]));
    let container = world.path("data/portolan/Containers/test.job/Data");
    assert_eq!(view["container"], container.to_str().expect("path"));
    assert_eq!(view["network"]["client"], false);
    assert_eq!(view["names"]["any"][2], "group.a.*");
    assert_eq!(view["shared"][0], "group.a/*");
    let allowed = check(&world, &["test.job", "mach-register", "group.a.x"]);
    assert_eq!(allowed.code, Some(0), "{}", allowed.stderr);
    let now = text(world.run(["sandbox", "explain", path]));
    assert!(now.contains("confined    no"), "{now}");
}

#[test]
fn what_a_tier_lacks_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    let file = world.write("app.toml", GROUP);
    let file = file.to_str().expect("path");
    let view = json(world.run(["sandbox", "explain", "--json", "--entitlements", file]));
    assert_eq!(view["tier"], Value::Null);
    for (at, tier) in ["T1", "T2"].into_iter().enumerate() {
        assert_eq!(view["missing"][at]["tier"], tier);
        assert_eq!(view["missing"][at]["part"], "user");
    }
}

#[test]
fn w27_names_that_are_not_its_own_are_refused_and_logged() {
    let world = World::of_a_user();
    for isolation in TIERS {
        let mut running = world.confined(isolation, &world.entitlements(GROUP));
        let serve = ["sh", "-c", "exec $portolan serve --echo group.a.x"];
        drop(Running::serving(running.args(serve)));
        let alone = "\"com.apple.security.app-sandbox\" = true\n";
        for (granted, name) in [(GROUP, RANDOM), (GROUP, "group.ax"), (alone, "group.a.x")] {
            let serve = format!("$portolan serve --echo {name}");
            confined(&world, granted, isolation, &serve).fails(4, "Permission denied (1100)");
            let violation = lines(&world).pop().expect("a violation");
            assert_eq!(violation["label"], "test.app");
            assert_eq!(violation["operation"], "mach-register");
            assert_eq!(violation["name"], name);
            let key = violation["key"].as_str().expect("a key");
            assert!(key.starts_with("com.apple.security."), "{key}");
            let line = format!("test.app: deny mach-register \"{name}\"; allowed by {key}");
            assert!(
                world.log().contains(&line),
                "{line:?} is not in {}",
                world.log()
            );
        }
    }
}

#[test]
fn w29_a_job_cannot_change_its_file_and_one_that_anybody_can_change_is_refused() {
    let world = World::of_a_user();
    let file = world.path("probe.toml");
    let shown = file.display();
    let attempts = format!(
        "for what in 'echo x >> {shown}' 'rm {shown}' 'mv {shown} $HOME/x' 'chmod 666 {shown}' \
         'echo x > $HOME/x; mv $HOME/x {shown}' 'ln {shown} $HOME/y && echo x >> $HOME/y'; \
         do sh -c \"$what\" 2>/dev/null && echo \"it could: $what\"; done; echo tried"
    );
    for isolation in ["'T1'", "'best'"] {
        let path = job(&world, "probe", &attempts);
        let text = fs::read_to_string(&path).expect("read");
        let text = text.replace("'T1'", isolation);
        fs::write(&path, &text).expect("write");
        if rustix::process::geteuid().is_root() {
            let owner = Some(65_534);
            std::os::unix::fs::chown(&path, owner, owner).expect("chown");
        }
        let path = path.to_str().expect("path");
        world.run(["load", path]).ok();
        assert_eq!(world.run(["call", "group.a.probe"]).ok(), b"tried\n");
        assert_eq!(fs::read_to_string(&file).expect("it is there"), text);
        world.run(["unload", "test.probe"]).ok();
    }
    fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("permissions");
    let refused = world.run(["load", file.to_str().expect("path")]);
    refused.fails(78, &format!("{shown} can be changed by everybody"));
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("permissions");
    let inside = world.path("data/portolan/Containers/test.probe/Data/probe.toml");
    fs::copy(&file, &inside).expect("copy");
    let refused = world.run(["load", inside.to_str().expect("path")]);
    refused.fails(78, "is in a container");
}

/// The process that made the socket which is listened on.
fn first_server(world: &World) -> rustix::process::Pid {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket, sockopt};
    let client = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    let address = SocketAddrUnix::new(world.runtime().join("bootstrap")).expect("an address");
    connect(&client, &address).expect("connect");
    sockopt::socket_peercred(&client).expect("a peer").pid
}

#[test]
fn violations_outlive_the_server_that_noted_them() {
    let world = World::of_a_user();
    confined(
        &world,
        GROUP,
        "best",
        "$portolan lookup other.x; $portolan shutdown",
    );
    let before = lines(&world);
    let told = |of: &[Value], key: &str| -> Vec<String> {
        of.iter().map(|line| line[key].to_string()).collect()
    };
    let operations = ["\"mach-lookup\"", "\"bootstrap-shutdown\""];
    assert_eq!(told(&before, "operation"), operations);
    assert_eq!(before[1]["key"], Value::Null, "no entitlement allows that");
    let killed = first_server(&world);
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).expect("kill");
    assert_eq!(lines(&world), before);
    world.run(["restart"]).ok();
    assert_eq!(lines(&world), before);
    confined(&world, GROUP, "best", "$portolan lookup other.y");
    let after = lines(&world);
    assert_eq!(after[..2], before[..]);
    assert_eq!(after[2]["name"], "other.y");
    confined(&world, GROUP, "best", "$portolan sandbox log").fails(4, "1100");
    let other = text(world.run(["sandbox", "log", "test.other"]));
    assert_eq!(other, "");
}

#[test]
fn who_follows_is_told_at_once_and_across_a_restart() {
    let world = World::of_a_user();
    world.run(["list"]).ok();
    let mut following = Running::start(&mut world.command(["sandbox", "log", "-f"]));
    let out = following.child.stdout.take().expect("piped");
    let mut out = BufReader::new(out).lines();
    let mut next = || out.next().expect("a line").expect("text");
    for name in ["other.x", "other.y"] {
        confined(&world, GROUP, "best", &format!("$portolan lookup {name}"));
        let line = next();
        let (time, rest) = line.split_once(' ').expect("a time");
        assert!(time.ends_with('Z'), "{line}");
        let says = format!("]: deny mach-lookup \"{name}\"; allowed by com.apple.security.");
        assert!(
            rest.starts_with("test.app[") && rest.contains(&says),
            "{line}"
        );
        world.run(["restart"]).ok();
    }
}
