//! The server under a service manager that keeps its descriptors while it does not run.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::world::World;
use crate::{eventually, job_file, load, pid, print};

/// A manager and its service, which both end with the test.
struct Manager<'a> {
    world: &'a World,
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl<'a> Manager<'a> {
    /// Starts the server of this world and waits until it is ready.
    fn start(world: &'a World, listener: &str) -> Self {
        let server = world.command(["bootstrap"]);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/manager.py");
        let mut command = Command::new("python3");
        command
            .args([script, listener])
            .arg(server.get_program())
            .args(server.get_args());
        for (variable, value) in server.get_envs() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        command.env("PORTOLAN_JOBS_DIR", world.path("jobs"));
        let log = std::fs::File::create(world.path("server.log")).expect("a file");
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start the manager");
        let answers = BufReader::new(process.stdout.take().expect("stdout"));
        let orders = process.stdin.take();
        let mut manager = Self {
            world,
            process,
            orders,
            answers,
        };
        assert!(manager.answer().starts_with("ready "));
        manager
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("read");
        assert!(!line.is_empty(), "the manager has ended");
        line.trim().to_owned()
    }

    fn order(&mut self, order: &str) -> String {
        writeln!(self.orders.as_ref().expect("orders"), "{order}").expect("write");
        self.answer()
    }
}

/// Ends the service. Its socket stays, for a manager would give it to the next one.
impl Drop for Manager<'_> {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.process.wait().ok();
        std::fs::remove_file(self.world.runtime().join("bootstrap")).ok();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.world.path("server.log"));
            crate::skipped(&log.unwrap_or_default());
        }
    }
}

const SINK: &str = "Label = 'test.sink'\nMachServices.'test.sink' = true\n";

/// A job that keeps what it is told in a file, and the file.
fn load_sink(world: &World) -> std::path::PathBuf {
    let out = world.path("out");
    let command = env!("CARGO_BIN_EXE_portolan");
    let job = format!(
        "{SINK}ProgramArguments = ['{command}', 'serve', 'test.sink', '--jobs', '1', '--', 'sh', '-c', \
         'cat >> {}']\n",
        out.display()
    );
    load(world, "sink.toml", &job).ok();
    out
}

#[test]
fn what_is_queued_outlives_a_restart_of_the_unit() {
    let world = World::new();
    let mut manager = Manager::start(&world, "-");
    let out = load_sink(&world);
    world.run(["disable", "test.sink"]).ok();
    for word in ["one ", "two ", "three "] {
        world.feed(["send", "test.sink"], word.as_bytes()).ok();
    }
    let queued = print(&world, "test.sink")["services"][0]["queued"].clone();
    assert_eq!(queued, 3);
    for _ in 0..3 {
        assert!(manager.order("restart").starts_with("ready "));
        assert_eq!(
            manager.order("kept"),
            "kept 0",
            "nothing is kept that is in use"
        );
        assert_eq!(print(&world, "test.sink")["services"][0]["queued"], queued);
    }
    world.run(["enable", "test.sink"]).ok();
    // Each has a sender of its own, and between those there is no order.
    eventually("all of them", || {
        let written = std::fs::read_to_string(&out).ok()?;
        let mut words: Vec<_> = written.split_whitespace().collect();
        words.sort_unstable();
        (words == ["one", "three", "two"]).then_some(())
    });
    let stopped = manager.order("stop");
    let kept: usize = stopped
        .strip_prefix("stopped 0 ")
        .expect("a number")
        .parse()
        .expect("a number");
    assert!(kept > 5, "{stopped}");
}

#[test]
fn clients_and_sockets_outlive_a_restart_and_jobs_are_started_again() {
    let world = World::new();
    let mut manager = Manager::start(&world, "-");
    let socket = world.path("cat.socket");
    let job = format!(
        "Label = 'test.cat'\nRunAtLoad = true\n\
         ProgramArguments = ['python3', '-c', '''\nimport socket\n\
         s = socket.socket(fileno=3)\nwhile True:\n    c, _ = s.accept()\n    c.sendall(b\"miau\")\n    c.close()\n''']\n\
         EnvironmentVariables.PATH = '{}'\n\
         Sockets.cat.SockPathName = '{}'\n",
        std::env::var("PATH").expect("PATH"),
        socket.display()
    );
    load(&world, "cat.toml", &job).ok();
    // Published by a process that is no job, and that goes on.
    let _server = world.serve(["--echo", "test.echo"]);
    let first = eventually("the job", || pid(&world, "test.cat"));
    assert!(manager.order("restart").starts_with("ready "));
    assert_eq!(
        world.feed(["call", "test.echo"], b"still there").ok(),
        b"still there"
    );
    let second = eventually("the job again", || pid(&world, "test.cat"));
    assert_ne!(first, second);
    let mut text = String::new();
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("connect");
    std::io::Read::read_to_string(&mut stream, &mut text).expect("read");
    assert_eq!(text, "miau");
    assert!(manager.order("stop").starts_with("stopped 0"));
    let process = std::path::PathBuf::from(format!("/proc/{second}"));
    assert!(!process.exists(), "the job has ended");
}

#[test]
fn files_that_came_meanwhile_are_loaded() {
    let world = World::new();
    let jobs = world.path("jobs");
    std::fs::create_dir(&jobs).expect("directory");
    let job = |name: &str| format!("Label = '{name}'\nProgram = '/bin/true'\n");
    job_file(&world, "jobs/a.toml", &job("test.a"));
    let mut manager = Manager::start(&world, "-");
    assert_eq!(labels(&world), ["test.a"]);
    job_file(&world, "jobs/b.toml", &job("test.b"));
    job_file(&world, "jobs/ignored.txt", &job("test.ignored"));
    assert!(manager.order("restart").starts_with("ready "));
    assert_eq!(labels(&world), ["test.a", "test.b"]);
    drop(manager);
    let log = std::fs::read_to_string(world.path("server.log")).expect("the log");
    assert!(!log.contains("not loaded"), "{log}");
}

fn labels(world: &World) -> Vec<String> {
    let jobs = world.run(["jobs", "--json"]).ok();
    let jobs: Vec<serde_json::Value> = serde_json::from_slice(&jobs).expect("JSON");
    let labels = jobs.iter().filter_map(|job| job["label"].as_str());
    labels.map(str::to_owned).collect()
}

#[test]
fn the_managers_socket_is_listened_on_and_stays() {
    let world = World::new();
    std::fs::create_dir(world.runtime()).expect("directory");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(world.runtime(), mode).expect("permissions");
    let socket = world.runtime().join("bootstrap");
    let mut manager = Manager::start(&world, socket.to_str().expect("a path"));
    let _server = world.serve(["--echo", "test.echo"]);
    assert_eq!(world.feed(["call", "test.echo"], b"a").ok(), b"a");
    assert!(manager.order("restart").starts_with("ready "));
    assert_eq!(world.feed(["call", "test.echo"], b"b").ok(), b"b");
    world.run(["restart"]).ok();
    assert_eq!(world.feed(["call", "test.echo"], b"c").ok(), b"c");
    assert!(manager.order("stop").starts_with("stopped 0"));
    assert!(socket.exists(), "it is the manager's");
}
