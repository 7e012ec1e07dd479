//! `portolan run --report` and `ReportRefusals`: what the kernel refuses is in the log.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::world::{Ran, Running, World, ran, wait_for_line};

const TIERS: [&str; 2] = ["T1", "best"];

const ALONE: &str = "\"com.apple.security.app-sandbox\" = true\n";

const FILES: &str = "com.apple.security.temporary-exception.files";

/// A directory that nobody is granted. That it is opened is reported after what was refused before.
const MARKER: &str = "/var/lib";

fn reporting(world: &World, isolation: &str, entitlements: &str) -> Command {
    let file = world.write("entitlements.toml", entitlements);
    let mut command = world.command(["run", "--report", "--label", "test.app"]);
    command.args(["--isolation", isolation, "--entitlements"]);
    command.arg(file).arg("--");
    command
}

fn script(world: &World, isolation: &str, entitlements: &str, script: &str) -> Ran {
    let mut command = reporting(world, isolation, entitlements);
    ran(command.args(["sh", "-c", script]).output().expect("run"))
}

fn lines(world: &World) -> Vec<Value> {
    let text = world.run(["sandbox", "log", "--json"]).ok();
    let text = String::from_utf8(text).expect("text");
    let line = |line| serde_json::from_str(line).expect("JSON");
    text.lines().map(line).collect()
}

/// The refusals of this operation on this name, once there is one: the server may have taken another
/// request before the report.
fn refusal(world: &World, after: u64, operation: &str, name: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let lines = lines(world);
        let is_it = |line: &&Value| {
            let number = line["number"].as_u64().expect("a number");
            let is_name = match name {
                "" => line["name"] == Value::Null,
                name => line["name"] == name,
            };
            number > after && line["operation"] == operation && is_name
        };
        match lines.iter().find(is_it) {
            Some(found) => return found.clone(),
            None => assert!(Instant::now() < deadline, "{operation} {name}: {lines:?}"),
        }
    }
}

fn last(world: &World) -> u64 {
    let lines = lines(world);
    let last = lines.last();
    last.map_or(0, |line| line["number"].as_u64().expect("a number"))
}

/// As a line of an entitlement file.
fn remedy(line: &Value) -> String {
    let key = line["key"].as_str().expect("a key");
    match line["value"].as_str() {
        Some(value) => format!("{key:?} = [{value:?}]\n"),
        None => format!("{key:?} = true\n"),
    }
}

/// What else is reported of a script by the time that the refusal at its end is.
fn reported(world: &World, isolation: &str, entitlements: &str, what: &str) -> (Ran, Vec<Value>) {
    let before = last(world);
    let marked = format!("({what}); code=$?; cat {MARKER}; exit $code");
    let ran = script(world, isolation, entitlements, &marked);
    let marker = refusal(world, before, "file-read", MARKER);
    let number = |line: &Value| line["number"].as_u64().expect("a number");
    let within = before + 1..number(&marker);
    let lines = lines(world).into_iter();
    let lines = lines.filter(|line| within.contains(&number(line)));
    (ran, lines.collect())
}

fn executable(world: &World, name: &str) -> String {
    let path = world.write(name, "#!/bin/sh\necho ran\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
    path.display().to_string()
}

/// With what the log says the same is allowed, and nothing is reported any more.
fn is_reported_and_granted(world: &World, what: &str, (operation, name, key): (&str, &str, &str)) {
    for isolation in TIERS {
        let before = last(world);
        let refused = script(world, isolation, ALONE, what);
        assert_ne!(refused.code, Some(0), "{isolation} {what}");
        let line = refusal(world, before, operation, name);
        assert_eq!(line["label"], "test.app");
        assert_eq!(line["key"], key, "{isolation} {line}");
        assert!(line["pid"].as_u64().is_some_and(|pid| pid > 1), "{line}");
        let granted = format!("{ALONE}{}", remedy(&line));
        let (ran, lines) = reported(world, isolation, &granted, what);
        ran.ok();
        let again = lines.iter().find(|again| {
            ["operation", "name"]
                .iter()
                .all(|key| again[key] == line[key])
        });
        assert_eq!(again, None, "{isolation} {granted}");
    }
}

#[test]
fn a_file_that_is_read_or_written_is_reported_with_its_exception() {
    let world = World::of_a_user();
    let letters = world.path("letters");
    fs::create_dir(&letters).expect("mkdir");
    world.give(&letters);
    let notes = world.write("notes", "x").display().to_string();
    world.give(Path::new(&notes));
    let letter = letters.join("new").display().to_string();
    let letters = letters.display().to_string();
    let read = format!("{FILES}.home-relative-path.read-only");
    let write = format!("{FILES}.home-relative-path.read-write");
    let list = format!("exec python3 -c 'import os; os.listdir({letters:?})'");
    let make = format!("echo y > {letter} && rm {letter}");
    for (what, operation, name, key) in [
        (format!("cat {notes}"), "file-read", &notes, &read),
        (format!("echo y >> {notes}"), "file-write", &notes, &write),
        (make, "file-write", &letter, &write),
        (list, "file-read", &letters, &read),
    ] {
        is_reported_and_granted(&world, &what, (operation, name, key));
    }
}

/// In namespaces the home is made of what is in it, and can be listed; without, it cannot.
#[test]
fn a_home_that_is_granted_piece_by_piece_is_reported_if_it_is_not_listed() {
    let world = World::of_a_user();
    let home = world.path("").display().to_string();
    let home = home.trim_end_matches('/');
    let granted = format!("{ALONE}\"{FILES}.home-relative-path.read-only\" = [\"/\"]\n");
    let list = format!("exec python3 -c 'import os; os.listdir({home:?})'");
    for isolation in TIERS {
        let (ran, lines) = reported(&world, isolation, &granted, &list);
        let is_reported = lines.iter().any(|line| line["name"] == home);
        assert_eq!(is_reported, ran.code != Some(0), "{isolation}");
    }
}

#[test]
fn a_program_that_is_executed_is_reported_with_its_exception() {
    let world = World::of_a_user();
    let tool = executable(&world, "tool");
    let key = format!("{FILES}.home-relative-path.read-only");
    is_reported_and_granted(&world, &tool, ("process-exec", &tool, &key));
}

#[test]
fn the_network_is_reported_with_its_entitlement() {
    let world = World::of_a_user();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let connect = format!(
        "exec python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))'"
    );
    let client = "com.apple.security.network.client";
    is_reported_and_granted(&world, &connect, ("network-outbound", "", client));
    // Who has one of the two entitlements makes sockets, and is refused what the other one is for.
    for isolation in TIERS {
        let server = "com.apple.security.network.server";
        let granted = |key: &str| format!("{ALONE}{key:?} = true\n");
        let before = last(&world);
        let to = format!("127.0.0.1:{port}");
        script(&world, isolation, &granted(server), &connect);
        let line = refusal(&world, before, "network-outbound", &to);
        assert_eq!(line["key"], client);
        let bind = "exec python3 -c 'import socket; socket.create_server((\"::1\", 0), family=10)'";
        script(&world, isolation, &granted(client), bind);
        let line = refusal(&world, before, "network-inbound", "[::1]:0");
        assert_eq!(line["key"], server);
    }
}

/// The arguments say it themselves: nobody has to look into the program.
#[test]
fn a_program_that_nobody_can_look_into_is_reported_to_make_a_socket() {
    let world = World::of_a_user();
    let program = "import ctypes, socket\n\
         PR_SET_DUMPABLE = 4\n\
         assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0) == 0\n\
         socket.socket()\n";
    for isolation in TIERS {
        let before = last(&world);
        let mut command = reporting(&world, isolation, ALONE);
        let output = command.args(["python3", "-c", program]).output();
        ran(output.expect("run")).fails(1, "PermissionError");
        refusal(&world, before, "network-outbound", "");
    }
}

#[test]
fn without_the_option_and_without_walls_nothing_is_reported() {
    let world = World::of_a_user();
    let notes = world.write("notes", "x").display().to_string();
    let mut command = world.confined("best", &world.entitlements(ALONE));
    let refused = ran(command.args(["cat", &notes]).output().expect("run"));
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    script(&world, "best", "", &format!("cat {notes}")).ok();
    // Nor has who is not confined the right to report.
    let count = "ls /proc/self/fd | wc -l";
    let mut plain = world.confined("best", &world.write("entitlements.toml", ""));
    let plain = ran(plain.args(["sh", "-c", count]).output().expect("run"));
    assert_eq!(script(&world, "best", "", count).ok(), plain.ok());
    script(&world, "best", ALONE, &format!("cat {MARKER}"));
    refusal(&world, 0, "file-read", MARKER);
    let names: Vec<_> = lines(&world)
        .iter()
        .map(|line| line["name"].clone())
        .collect();
    assert_eq!(names, [MARKER]);
    let both = world.run(["run", "--trace", "--report", "--", "true"]);
    both.fails(2, "--report");
}

#[test]
fn who_follows_reads_it_in_words() {
    let world = World::of_a_user();
    let notes = world.write("notes", "x").display().to_string();
    world.run(["list"]).ok();
    let mut following = Running::start(&mut world.command(["sandbox", "log", "-f"]));
    let out = following.child.stdout.take().expect("piped");
    script(&world, "best", ALONE, &format!("cat {notes} /proc/version"));
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(out));
    let mut next = || lines.next().expect("a line").expect("text");
    let says =
        format!("]: deny file-read \"{notes}\"; allowed by {FILES}.home-relative-path.read-only");
    let line = next();
    assert!(line.contains(&says), "{line}");
    let mut log = String::new();
    fs::File::open(world.runtime().join("bootstrap.log"))
        .and_then(|mut file| file.read_to_string(&mut log))
        .expect("the log");
    assert!(log.contains(&says[3..]), "{log}");
}

/// Each refusal has a line of its own, or is in the number of a line after it.
#[test]
fn of_a_flood_the_log_has_a_part_and_the_number() {
    const FLOOD: u64 = 200;
    for isolation in TIERS {
        let world = World::of_a_user();
        let notes = world.write("notes", "x").display().to_string();
        (0..100).for_each(|number| drop(world.write(&format!("after{number}"), "x")));
        let after = world.path("after").display().to_string();
        let flood = format!(
            "import os, time\n\
             def refused(name):\n\
             \x20   try: os.open(name, 0)\n\
             \x20   except OSError: pass\n\
             for _ in range({FLOOD}): refused({notes:?})\n\
             for number in range(100):\n\
             \x20   time.sleep(.1)\n\
             \x20   refused({after:?} + str(number))\n"
        );
        world.run(["list"]).ok();
        let mut command = reporting(&world, isolation, ALONE);
        let flooding = Running::start(command.args(["python3", "-c", &flood]));
        let (part, end) = until(&world, &notes, &after);
        flooding.kill();
        let left_out = |line: &Value| line["left_out"].as_u64().expect("a number");
        let name = end["name"].as_str().expect("a name");
        let number: u64 = name[after.len()..].parse().expect("its number");
        assert!(part.len() <= 128, "{} are kept", part.len());
        let told = part.iter().map(|line| 1 + left_out(line)).sum::<u64>() + left_out(&end);
        assert_eq!(told, FLOOD + number, "{isolation}");
        // Another that was refused nothing as often is in the log nevertheless.
        let mut other = world.confined("best", &world.entitlements(ALONE));
        other.args(["sh", "-c", "$portolan lookup other.x"]);
        ran(other.output().expect("run")).fails(4, "1100");
    }
}

/// The refusals of a name, and the first one of a name that begins with another.
fn until(world: &World, name: &str, end: &str) -> (Vec<Value>, Value) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let lines = lines(world);
        let is_end = |line: &Value| {
            line["name"]
                .as_str()
                .is_some_and(|name| name.starts_with(end))
        };
        if let Some(at) = lines.iter().position(is_end) {
            let part = lines[..at].iter().filter(|line| line["name"] == name);
            return (part.cloned().collect(), lines[at].clone());
        }
        assert!(Instant::now() < deadline, "{lines:?}");
    }
}

/// Calls that wait fail, also those of a process that outlives the program; nothing is let through.
#[test]
fn when_the_reporter_is_killed_nothing_opens() {
    let world = World::of_a_user();
    let notes = world.write("notes", "x").display().to_string();
    let program = format!(
        "import errno, os, signal, socket\n\
         if os.fork(): signal.pause()\n\
         os.write(2, b'ready\\n')\n\
         def failure(what):\n\
         \x20   try: what()\n\
         \x20   except OSError as error: return error.errno\n\
         while not failure(lambda: os.close(os.open('/usr', 0))): pass\n\
         for what in (lambda: os.open('/usr', 0), lambda: os.open({notes:?}, 0), lambda: \
         os.execv('/bin/true', ['true']), lambda: socket.socket(2, 1)):\n\
         \x20   os.write(1, (errno.errorcode[failure(what)] + ' ').encode())\n"
    );
    for isolation in TIERS {
        let mut command = reporting(&world, isolation, ALONE);
        command.args(["python3", "-c", &program]);
        let mut running = Running::start(&mut command);
        wait_for_line(&mut running.child, "ready");
        let pid = Pid::from_raw(running.pid().cast_signed()).expect("a process");
        kill_process(pid, Signal::KILL).expect("kill");
        let mut said = String::new();
        let out = running.child.stdout.as_mut().expect("piped");
        out.read_to_string(&mut said).expect("its end");
        let whole = "ENOSYS ".repeat(4);
        match isolation {
            "T1" => assert_eq!(said, whole),
            // In namespaces all of it ends, at some time.
            _ => assert!(whole.starts_with(&said), "{said}"),
        }
    }
}

#[test]
fn the_reporter_is_out_of_the_programs_reach() {
    let world = World::of_a_user();
    let attempts = "import os, signal\n\
         for pid in (os.getppid(), -os.getppid(), 0, -1):\n\
         \x20   try: os.kill(pid, signal.SIGSTOP if pid > 0 else signal.SIGCONT)\n\
         \x20   except OSError: pass\n\
         for name in ('mem', 'environ', 'fd', 'maps'):\n\
         \x20   try:\n\
         \x20       os.open(f'/proc/{os.getppid()}/{name}', 0)\n\
         \x20       print('it could', name)\n\
         \x20   except OSError: pass\n\
         for fd in range(3, 200):\n\
         \x20   if fd != int(os.environ['PORTOLAN_BOOTSTRAP_FD']):\n\
         \x20       try:\n\
         \x20           os.fstat(fd)\n\
         \x20           print('it has', fd)\n\
         \x20       except OSError: pass\n\
         print(open('/etc/localtime', 'rb').read(4), os.getsid(0) == os.getpid())\n";
    for isolation in TIERS {
        let mut command = reporting(&world, isolation, ALONE);
        let output = command.args(["python3", "-c", attempts]).output();
        let said = ran(output.expect("run")).ok();
        assert_eq!(
            String::from_utf8_lossy(&said),
            "b'TZif' True\n",
            "{isolation}"
        );
    }
}

#[test]
fn a_program_ends_and_is_signalled_as_without() {
    let world = World::of_a_user();
    for isolation in TIERS {
        assert_eq!(script(&world, isolation, ALONE, "exit 7").code, Some(7));
        let killed = reporting(&world, isolation, ALONE)
            .args(["sh", "-c", "kill -9 $$"])
            .status();
        let signal = std::os::unix::process::ExitStatusExt::signal(&killed.expect("run"));
        assert_eq!(signal, Some(9), "{isolation}");
        let mut command = reporting(&world, isolation, ALONE);
        let trap = "trap 'echo got' TERM; trap 'exit 3' USR1; echo ready >&2; \
                    while :; do read never < $HOME/fifo; done";
        let script = format!("mkfifo $HOME/fifo 2>/dev/null; {trap}");
        command.args(["sh", "-c", &script]).process_group(0);
        let mut running = Running::start(&mut command);
        wait_for_line(&mut running.child, "ready");
        let group = Pid::from_raw(running.pid().cast_signed()).expect("a process");
        kill_process_group(group, Signal::TERM).expect("kill");
        let mut said = [0; 4];
        let out = running.child.stdout.as_mut().expect("piped");
        out.read_exact(&mut said).expect("it got it");
        kill_process_group(group, Signal::USR1).expect("kill");
        let ended = running.finish();
        assert_eq!(
            (ended.code, &ended.stdout[..]),
            (Some(3), &b""[..]),
            "{isolation}"
        );
    }
}

#[test]
fn what_the_program_has_started_ends_with_it() {
    let world = World::of_a_user();
    let daemon = "import os, signal\n\
         reader, writer = os.pipe()\n\
         if os.fork() == 0:\n\
         \x20   os.setsid()\n\
         \x20   if os.fork() == 0:\n\
         \x20       os.write(writer, b'x')\n\
         \x20       signal.pause()\n\
         \x20   os._exit(0)\n\
         os.read(reader, 1)\n";
    for isolation in TIERS {
        // Whoever has the pipe open keeps its reader waiting.
        let mut command = reporting(&world, isolation, ALONE);
        let output = command.args(["python3", "-c", daemon]).output();
        ran(output.expect("run")).ok();
    }
}

#[test]
fn a_job_is_reported_on_also_after_a_restart_of_the_server() {
    let world = World::of_a_user();
    let notes = world.write("notes", "x").display().to_string();
    for isolation in TIERS {
        let label = format!("test.{isolation}");
        let file = world.write(
            "job.toml",
            format!(
                "Label = '{label}'\nIsolation = '{isolation}'\nReportRefusals = true\n\
                 ProgramArguments = ['sh', '-c', 'trap \"cat {notes}\" USR1; cat {notes}; \
                 while :; do read never < $HOME/fifo || mkfifo $HOME/fifo; done']\n\
                 [Entitlements]\n{ALONE}"
            ),
        );
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("permissions");
        world.give(&file);
        let before = last(&world);
        world.run(["load", file.to_str().expect("path")]).ok();
        world.run(["kickstart", &label]).ok();
        let line = refusal(&world, before, "file-read", &notes);
        assert_eq!(line["label"], label.as_str());
        assert_eq!(line["value"], "/notes");
        let before = last(&world);
        world.run(["restart"]).ok();
        let job: Value =
            serde_json::from_slice(&world.run(["print", "--json", &label]).ok()).expect("JSON");
        let pid = job["pid"]
            .as_i64()
            .and_then(|pid| Pid::from_raw(pid as i32));
        kill_process(pid.expect("it runs on"), Signal::USR1).expect("kill");
        refusal(&world, before, "file-read", &notes);
        world.run(["unload", &label]).ok();
    }
}

/// The reporter is the job's user, who may do nothing else with root's server.
#[test]
fn a_job_of_roots_that_runs_as_a_user_is_reported_on() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).expect("permissions");
    let notes = world.write("notes", "x").display().to_string();
    let data = world.path("data");
    fs::create_dir(&data).expect("mkdir");
    std::os::unix::fs::chown(&data, Some(1), Some(1)).expect("chown");
    let key = format!("{FILES}.absolute-path.read-only");
    for isolation in TIERS {
        let label = format!("test.{isolation}");
        let file = world.write(
            "job.toml",
            format!(
                "Label = '{label}'\nUserName = 'daemon'\nIsolation = '{isolation}'\n\
                 ReportRefusals = true\nEnvironmentVariables.XDG_DATA_HOME = {data:?}\n\
                 ProgramArguments = ['cat', '{notes}']\n[Entitlements]\n{ALONE}"
            ),
        );
        world.run(["load", file.to_str().expect("path")]).ok();
        let before = last(&world);
        world.run(["kickstart", &label]).ok();
        let line = refusal(&world, before, "file-read", &notes);
        assert_eq!(line["label"], label.as_str());
        assert_eq!(
            (&line["key"], &line["value"]),
            (&key.as_str().into(), &notes.as_str().into())
        );
    }
}

#[test]
fn a_confined_program_reports_nothing() {
    let world = World::of_a_user();
    let run = format!(
        "printf '%s\\n' '{}' > $HOME/e.toml; \
         $portolan run --report --entitlements $HOME/e.toml -- true",
        ALONE.trim()
    );
    let mut command = world.confined("best", &world.entitlements(ALONE));
    ran(command.args(["sh", "-c", &run]).output().expect("run")).fails(4, "1100");
}

/// Each process that ends leaves another one, which is not the program's child.
#[test]
fn however_much_the_program_has_left_its_end_is_told_in_time() {
    let world = World::of_a_user();
    let chains = "import os, time\n\
         for _ in range(60):\n\
         \x20   if os.fork() == 0:\n\
         \x20       end = time.monotonic() + 8\n\
         \x20       while time.monotonic() < end:\n\
         \x20           os.setsid() if os.getpgrp() != os.getpid() else None\n\
         \x20           if os.fork() != 0:\n\
         \x20               os._exit(0)\n\
         \x20       os._exit(0)\n\
         os._exit(5)\n";
    for isolation in TIERS {
        let start = Instant::now();
        let mut command = reporting(&world, isolation, ALONE);
        let status = command.args(["python3", "-c", chains]).status();
        assert_eq!(status.expect("run").code(), Some(5), "{isolation}");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(20), "{isolation}: {took:?}");
    }
}

#[test]
fn what_is_ignored_stays_ignored() {
    let world = World::of_a_user();
    let file = world
        .write("entitlements.toml", ALONE)
        .display()
        .to_string();
    for isolation in TIERS {
        for report in [&["--report"][..], &[]] {
            let run = world.command(["run", "--label", "test.app", "--entitlements", &file]);
            let ignoring = ["-c", "trap '' HUP INT; exec \"$@\"", "sh"];
            let mut command = world.other_command("sh", ignoring);
            command.arg(run.get_program()).args(run.get_args());
            command.args(["--isolation", isolation]).args(report);
            command.args([
                "--",
                "sh",
                "-c",
                "kill -HUP $$; kill -INT $$; echo survived",
            ]);
            let output = ran(command.output().expect("run"));
            assert_eq!(output.stdout, b"survived\n", "{isolation} {report:?}");
        }
    }
}
