//! The server of root and of another user. Only root can be both.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::process::{Command, Stdio};

use crate::world::{World, ran};
use crate::{eventually, load, pid, print, skipped};

/// A user that need not have an account.
const USER: u32 = 64_123;

/// The command in this world as another user, with no capabilities and no groups.
fn as_user(world: &World, arguments: &[&str]) -> Command {
    let id = USER.to_string();
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            &id,
            "--regid",
            &id,
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .arg("--no-new-privs")
        .arg(env!("CARGO_BIN_EXE_portolan"))
        .args(arguments)
        .env("PORTOLAN_RUNTIME_DIR", world.runtime())
        .env("HOME", world.path(""))
        .env_remove("PORTOLAN_BOOTSTRAP_FD")
        .env_remove("PORTOLAN_AUTOSTART")
        .env("PORTOLAN_SERVER", "")
        .stdin(Stdio::null());
    command
}

/// Whether the user can execute the command at all: a checkout below /root is not for others.
fn can_execute() -> bool {
    let world = World::new();
    let output = as_user(&world, &["--version"]).output();
    output.is_ok_and(|output| output.status.success())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_users_server_runs_jobs_as_that_user() {
    if !is_root() || !can_execute() {
        return skipped("only root can be another user, and that one has to reach the command");
    }
    let world = World::new();
    let home = world.path("");
    chown(&home, Some(USER), Some(USER)).expect("chown");
    let output = world.path("who");
    let job = format!(
        "Label = 'test.who'\nProgramArguments = ['sh', '-c', 'id -u; id -G']\n\
         StandardOutPath = '{}'\n",
        output.display()
    );
    let file = crate::job_file(&world, "who.toml", &job);
    chown(&file, Some(USER), Some(USER)).expect("chown");
    let run = |arguments: &[&str]| ran(as_user(&world, arguments).output().expect("setpriv"));
    run(&["load", file.to_str().expect("a path")]).ok();
    run(&["kickstart", "test.who"]).ok();
    let said = eventually("what it says", || {
        let said = fs::read_to_string(&output).ok()?;
        (said.lines().count() == 2).then_some(said)
    });
    assert_eq!(said, format!("{USER}\n{USER}\n"));
    let socket = fs::metadata(world.runtime().join("bootstrap")).expect("a socket");
    assert_eq!(
        (socket.uid(), socket.permissions().mode() & 0o777),
        (USER, 0o600)
    );
    // Another identity is not his to give, and the job's log says so.
    fs::remove_file(&output).expect("remove");
    let job = job.replace("test.who", "test.root") + "UserName = 'root'\n";
    let file = crate::job_file(&world, "root.toml", &job);
    chown(&file, Some(USER), Some(USER)).expect("chown");
    run(&["load", file.to_str().expect("a path")]).ok();
    run(&["kickstart", "test.root"]).ok();
    let said = eventually("what it says", || {
        let said = fs::read_to_string(&output).ok()?;
        (said.lines().count() == 2).then_some(said)
    });
    assert_eq!(said, format!("{USER}\n{USER}\n"));
    let log = String::from_utf8(run(&["log", "test.root"]).ok()).expect("text");
    assert!(
        log.contains("UserName and GroupName have no effect"),
        "{log}"
    );
    run(&["shutdown"]).ok();
    eventually("the end of the server", || {
        (!world.runtime().join("bootstrap").exists()).then_some(())
    });
}

#[test]
fn roots_server_runs_a_job_as_another_user() {
    if !is_root() {
        return skipped("only root has a server that can");
    }
    let world = World::new();
    let directory = world.path("open");
    fs::create_dir(&directory).expect("directory");
    chown(&directory, Some(65_534), None).expect("chown");
    // The job has to get there.
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).expect("permissions");
    let output = directory.join("who");
    let script = format!(
        "id -un > {0}.new; id -G >> {0}.new; mv {0}.new {0}; exec sleep 1000",
        output.display()
    );
    let job = format!(
        "Label = 'test.nobody'\nUserName = 'nobody'\nProgramArguments = ['sh', '-c', '{script}']\n"
    );
    load(&world, "nobody.toml", &job).ok();
    world.run(["kickstart", "test.nobody"]).ok();
    let said = eventually("what it says", || fs::read_to_string(&output).ok());
    assert_eq!(said, "nobody\n65534\n");
    let running = pid(&world, "test.nobody").expect("it runs");
    let process = fs::metadata(format!("/proc/{running}")).expect("a process");
    assert_eq!(process.uid(), 65_534);
    let missing = "Label = 'test.missing'\nUserName = 'no-such-user'\nProgram = '/bin/true'\n";
    load(&world, "missing.toml", missing).ok();
    let ran = world.run(["kickstart", "test.missing"]);
    assert!(!ran.stderr.contains("cannot execute"), "{}", ran.stderr);
    ran.fails(
        11,
        "job test.missing cannot be started: there is no user no-such-user",
    );
    let note = print(&world, "test.missing");
    assert!(
        note["note"]
            .as_str()
            .is_some_and(|note| note.contains("no-such-user")),
        "{note}"
    );
}

#[test]
fn w19_a_job_of_roots_with_entitlements_needs_a_user() {
    if !is_root() {
        return skipped("only root has a server that can");
    }
    let world = World::new();
    let started = world.path("started");
    let job = format!(
        "Label = 'test.walled'\nProgramArguments = ['touch', '{}']\n\
         [Entitlements]\n'com.apple.security.app-sandbox' = true\n",
        started.display()
    );
    load(&world, "walled.toml", &job).ok();
    let ran = world.run(["kickstart", "test.walled"]);
    ran.fails(
        11,
        "a program of root's is not confined: the job needs a UserName",
    );
    assert!(!started.exists(), "nothing is started");
}

#[test]
fn a_job_that_runs_as_another_user_has_no_say_in_roots_server() {
    if !is_root() {
        return skipped("only root has a server that can");
    }
    let world = World::new();
    let directory = world.path("open");
    fs::create_dir(&directory).expect("directory");
    chown(&directory, Some(65_534), None).expect("chown");
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).expect("permissions");
    let command = world.path("portolan");
    fs::copy(world.program(), &command).expect("copy");
    let mine = directory.join("mine.toml");
    fs::write(&mine, "Label = 'test.mine'\nProgram = '/bin/true'\n").expect("write");
    let (output, command) = (directory.join("said"), command.display());
    let script = format!(
        "{command} load {} > {1}.new 2>&1; {command} stop test.other >> {1}.new 2>&1; \
         mv {1}.new {1}",
        mine.display(),
        output.display(),
    );
    let other = "Label = 'test.other'\nProgramArguments = ['sleep', '1000']\nRunAtLoad = true\n";
    load(&world, "other.toml", other).ok();
    let job = format!(
        "Label = 'test.nobody'\nUserName = 'nobody'\nProgramArguments = ['sh', '-c', '{script}']\n"
    );
    load(&world, "nobody.toml", &job).ok();
    world.run(["kickstart", "test.nobody"]).ok();
    let said = eventually("what it says", || fs::read_to_string(&output).ok());
    let refusals = said.matches("the job runs as another").count();
    assert_eq!(refusals, 2, "{said}");
    let printed = world.run(["print", "test.mine"]);
    assert_ne!(printed.code, Some(0), "it was loaded");
    assert!(pid(&world, "test.other").is_some());
}
