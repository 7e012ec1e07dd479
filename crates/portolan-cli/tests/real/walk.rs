//! What a newcomer meets: each mistake says what, where and what to do, and each state of a job is
//! told by `portolan print`.

use std::fs;

use rustix::process::Signal;

use crate::world::{Running, World};
use crate::{eventually, job_file, load, pid, print, signal, wait_until_idle};

/// Fails the test unless the command failed and said all of this.
fn fails<const N: usize>(world: &World, arguments: [&str; N], code: i32, says: &[&str]) {
    let ran = world.run(arguments);
    for text in says {
        assert!(
            ran.stderr.contains(text),
            "{text:?} is not in {:?}",
            ran.stderr
        );
    }
    ran.fails(code, "");
}

fn printed(world: &World, label: &str) -> String {
    String::from_utf8(world.run(["print", label]).ok()).expect("text")
}

#[test]
fn without_a_server_it_says_how_to_have_one() {
    let world = World::new();
    let mut jobs = world.command(["jobs"]);
    let output = jobs.env("PORTOLAN_AUTOSTART", "0").output().expect("run");
    let ran = crate::world::ran(output);
    assert!(
        ran.stderr.contains("`portolan bootstrap` runs one"),
        "{}",
        ran.stderr
    );
    ran.fails(7, "no bootstrap server listens at");
}

#[test]
fn a_label_that_is_not_loaded() {
    let world = World::new();
    let what = "no job with the label test.none is loaded";
    let advice = "`portolan jobs` lists the jobs that are loaded";
    for command in ["print", "unload", "kickstart", "stop"] {
        fails(&world, [command, "test.none"], 3, &[what, advice]);
    }
    fails(
        &world,
        ["log", "test.none"],
        1,
        &["there is no log at", "is not loaded"],
    );
    // Said in advance, and true when the job is loaded.
    world.run(["disable", "test.none"]).ok();
    load(
        &world,
        "none.toml",
        "Label = 'test.none'\nProgram = '/bin/true'\n",
    )
    .ok();
    assert_eq!(print(&world, "test.none")["state"], "disabled");
}

#[test]
fn a_job_that_is_disabled_loaded_or_not_running() {
    let world = World::new();
    let job = "Label = 'test.job'\nProgram = '/bin/true'\n";
    load(&world, "job.toml", job).ok();
    load(&world, "job.toml", job).fails(10, "job.toml: test.job is not loaded");
    load(&world, "job.toml", job).fails(10, "unload it first");
    let advice = "`portolan print` tells how it ended";
    fails(
        &world,
        ["stop", "test.job"],
        10,
        &["no instance of test.job runs", advice],
    );
    world.run(["disable", "test.job"]).ok();
    let advice = "`portolan enable` lets it be started again";
    fails(
        &world,
        ["kickstart", "test.job"],
        10,
        &["the job test.job is disabled", advice],
    );
    assert!(printed(&world, "test.job").contains("state       disabled"));
    world.run(["enable", "test.job"]).ok();
    world.run(["kickstart", "test.job"]).ok();
}

#[test]
fn a_name_that_somebody_else_has() {
    let world = World::new();
    let job = |label: &str| {
        format!("Label = '{label}'\nProgram = '/bin/true'\nMachServices.'test.name' = true\n")
    };
    load(&world, "first.toml", &job("test.first")).ok();
    load(&world, "second.toml", &job("test.second")).ok();
    let note = "somebody else has the name test.name";
    assert!(printed(&world, "test.second").contains(note));
    assert!(!printed(&world, "test.first").contains(note));
    let says = "test.name belongs to the job test.first, and only its program serves it";
    fails(&world, ["serve", "test.name", "--echo"], 4, &[says]);
    let server = world.serve(["--echo", "test.own"]);
    fails(
        &world,
        ["serve", "test.own", "--echo"],
        4,
        &["cannot publish test.own"],
    );
    let job = "Label = 'test.late'\nProgram = '/bin/true'\nMachServices.'test.own' = true\n";
    load(&world, "late.toml", job).ok();
    let print = printed(&world, "test.late");
    assert!(
        print.contains("somebody else has the name test.own"),
        "{print}"
    );
    server.kill();
}

#[test]
fn what_is_missing_is_named_to_callers_and_in_print() {
    let world = World::new();
    let missing = [
        (
            "Program = '/opt/none'",
            "cannot execute /opt/none: No such file or directory",
        ),
        (
            "Program = '/bin/true'\nWorkingDirectory = '/opt/none'",
            "cannot enter the working directory /opt/none: No such file or directory",
        ),
        (
            "Program = '/bin/true'\nStandardOutPath = '/opt/none/out'",
            "cannot open /opt/none/out: No such file or directory",
        ),
        ("ProgramArguments = ['no-such-program']", "no-such-program"),
    ];
    for (at, (keys, says)) in missing.into_iter().enumerate() {
        let label = format!("test.missing{at}");
        let job = format!("Label = '{label}'\n{keys}\nMachServices.'{label}' = true\n");
        load(&world, "missing.toml", &job).ok();
        fails(
            &world,
            ["call", &label],
            6,
            &[&format!("job {label} "), says],
        );
        let print = printed(&world, &label);
        assert!(print.contains(says), "{says:?} is not in {print}");
        assert!(!print.contains("cannot execute cannot"), "{print}");
        fails(&world, ["kickstart", &label], 11, &[says]);
    }
}

#[test]
fn a_job_that_does_not_check_in_is_told_with_its_time() {
    let world = World::new();
    let job = "Label = 'test.deaf'\nProgramArguments = ['sleep', '1000']\nTimeOut = 1\n\
               MachServices.'test.deaf' = true\n";
    load(&world, "deaf.toml", job).ok();
    let call = world.command(["call", "test.deaf"]);
    let mut call = call;
    let call = Running::start(&mut call);
    eventually("a start", || pid(&world, "test.deaf"));
    let note = "it has not checked in test.deaf";
    assert!(printed(&world, "test.deaf").contains(note));
    let ran = call.finish();
    ran.fails(6, "job test.deaf runs and did not check in within 1");
    eventually("its end", || {
        pid(&world, "test.deaf").is_none().then_some(())
    });
    let note = "the last time: it did not check in its services in time";
    let print = printed(&world, "test.deaf");
    assert!(
        print.contains(note) || print.contains("throttled"),
        "{print}"
    );
}

#[test]
fn an_answer_that_does_not_come_says_where_to_look() {
    let world = World::new();
    let command = env!("CARGO_BIN_EXE_portolan");
    let job = format!(
        "Label = 'test.slow'\nMachServices.'test.slow' = true\n\
         ProgramArguments = ['{command}', 'serve', 'test.slow', '--', 'sleep', '1000']\n"
    );
    load(&world, "slow.toml", &job).ok();
    let says = ["timed out", "`portolan print` what became of the job"];
    fails(&world, ["call", "--timeout", "0.1", "test.slow"], 5, &says);
}

#[test]
fn every_state_is_printed() {
    let world = World::new();
    let state = |label: &str| print(&world, label)["state"].as_str().map(str::to_owned);
    load(
        &world,
        "a.toml",
        "Label = 'test.idle'\nProgram = '/bin/true'\n",
    )
    .ok();
    assert_eq!(state("test.idle").as_deref(), Some("idle"));
    let runs = "ProgramArguments = ['sleep', '1000']\nRunAtLoad = true\n";
    load(&world, "b.toml", &format!("Label = 'test.running'\n{runs}")).ok();
    eventually("running", || {
        (state("test.running").as_deref() == Some("running")).then_some(())
    });
    let print = printed(&world, "test.running");
    assert!(print.contains("state       running, pid "), "{print}");
    assert!(print.contains("ago: it was loaded"), "{print}");
    load(
        &world,
        "c.toml",
        &format!("Label = 'test.disabled'\n{runs}Disabled = true\n"),
    )
    .ok();
    assert_eq!(state("test.disabled").as_deref(), Some("disabled"));
    let fails = "ProgramArguments = ['sh', '-c', 'exit 3']\nKeepAlive = true\n";
    load(
        &world,
        "d.toml",
        &format!("Label = 'test.failing'\n{fails}"),
    )
    .ok();
    eventually("throttled", || {
        (state("test.failing").as_deref() == Some("throttled")).then_some(())
    });
    let print = eventually("why", || {
        let print = printed(&world, "test.failing");
        print
            .contains("note        throttled, next start in ")
            .then_some(print)
    });
    assert!(print.contains("it exited with status 3"), "{print}");
    assert!(
        print.contains("last exit   exited with status 3"),
        "{print}"
    );
    let deaf = "ProgramArguments = ['sh', '-c', 'trap \"\" TERM; echo deaf; while :; do sleep 1000; done']\n\
                RunAtLoad = true\nExitTimeOut = 1000\n";
    load(
        &world,
        "e.toml",
        &format!("Label = 'test.stopping'\n{deaf}"),
    )
    .ok();
    eventually("deafness", || {
        let log = world.run(["log", "test.stopping"]).stdout;
        String::from_utf8_lossy(&log)
            .contains(": deaf")
            .then_some(())
    });
    world.run(["stop", "test.stopping"]).ok();
    assert_eq!(state("test.stopping").as_deref(), Some("stopping"));
    let running = pid(&world, "test.stopping").expect("it runs");
    signal(running, Signal::KILL);
    wait_until_idle(&world, "test.stopping");
    assert!(printed(&world, "test.stopping").contains("last exit   ended by SIGKILL"));
}

#[test]
fn a_directory_of_jobs_is_loaded_with_the_server() {
    let world = World::new();
    let config = world.path("config");
    let jobs = config.join("portolan/jobs");
    fs::create_dir_all(&jobs).expect("directory");
    let job = |label: &str| format!("Label = '{label}'\nProgram = '/bin/true'\n");
    job_file(&world, "config/portolan/jobs/a.toml", &job("test.a"));
    job_file(
        &world,
        "config/portolan/jobs/b.toml",
        "Label = 'test.b'\nProgramm = '/bin/true'\n",
    );
    job_file(&world, "config/portolan/jobs/c.toml", &job("test.a"));
    let open = job_file(&world, "config/portolan/jobs/d.toml", &job("test.d"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(open, mode).expect("permissions");
    job_file(&world, "config/portolan/jobs/README", "not a job");
    let mut command = world.command(["bootstrap"]);
    command.env("PORTOLAN_JOBS_DIR", &jobs);
    let server = Running::start(&mut command);
    eventually("the jobs", || {
        let mut ran = world.command(["jobs"]);
        let ran = ran.env("PORTOLAN_AUTOSTART", "0").output().expect("run");
        String::from_utf8_lossy(&ran.stdout)
            .contains("test.a")
            .then_some(())
    });
    let listed = String::from_utf8(world.run(["jobs"]).ok()).expect("text");
    assert_eq!(listed.lines().count(), 1, "{listed}");
    world.run(["shutdown"]).ok();
    let said = server.finish().stderr;
    for says in [
        "b.toml:2:1: Programm: unknown key, did you mean Program?",
        "chmod go-w",
        "unload it first",
    ] {
        assert!(said.contains(says), "{says:?} is not in {said}");
    }
}
