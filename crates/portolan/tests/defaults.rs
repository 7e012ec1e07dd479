//! Shared defaults: several processes at once, writers that are killed, files that others put there,
//! and those who watch.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use portolan::bootstrap::Bootstrap;
use portolan::defaults::{
    Change, Defaults, GetError, KeyError, NextError, ReadError, SetError, Value, Watch, WatchError,
};
use portolan::{GroupId, Message, SendRight, Timeout};
use portolan_testkit::process::{self, Process};
use portolan_testkit::wait::is_readable;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// A folder for defaults, with a bootstrap server inside this process.
struct World {
    folder: TempDir,
    bootstrap: Bootstrap,
}

impl World {
    fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a folder"),
            bootstrap: Bootstrap::private().expect("a server"),
        }
    }

    fn defaults(&self) -> Defaults {
        let bootstrap = self.bootstrap.copy().expect("a right");
        Defaults::open_in(self.folder.path(), &group(), bootstrap)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("group.a.defaults")
    }

    /// Another process with these defaults; its part is what comes before the colon.
    fn play(&self, part: &str) -> Process {
        let right = self.bootstrap.copy().expect("a right").into_right();
        let socket = right.into_socket().expect("not used");
        let folder = self.folder.path().to_str().expect("a path");
        process::play(&format!("{part}:{folder}"), socket)
    }
}

fn group() -> GroupId {
    "group.a".parse().expect("a group")
}

#[test]
fn play_a_part() {
    let Some((part, socket)) = process::part() else {
        return;
    };
    let (part, folder) = part.split_once(':').expect("a part and a folder");
    let right = SendRight::from_socket(socket).expect("a right");
    let bootstrap = Bootstrap::from_right(right);
    let defaults = Defaults::open_in(Path::new(folder), &group(), bootstrap);
    match part {
        "count" => count(&defaults, Path::new(folder)),
        name => write_much(&defaults, name),
    }
}

/// So many changes of `count` are kept in any case.
const AHEAD: i64 = 20;

/// Until it is killed; says beside the defaults how far it is, and is never further ahead of who
/// watches than what is kept.
fn count(defaults: &Defaults, folder: &Path) {
    let done = File::options().write(true).open(folder.join("done"));
    let done = done.expect("a file");
    let padding = Value::from(vec![7; 2000]);
    for n in number(defaults) + 1.. {
        let value = Value::Array(vec![n.into(), padding.clone()]);
        while n > read_number(&folder.join("seen")) + AHEAD {
            thread::yield_now();
        }
        defaults.set("n", value).expect("set");
        done.write_all_at(&n.to_ne_bytes(), 0).expect("write");
    }
}

fn read_number(path: &Path) -> i64 {
    let bytes = fs::read(path).expect("a file");
    i64::from_ne_bytes(bytes.try_into().expect("a number"))
}

fn number(defaults: &Defaults) -> i64 {
    let value = defaults.get("n").expect("whole defaults");
    value.map_or(0, |value| first(&value))
}

fn first(value: &Value) -> i64 {
    match value {
        Value::Array(values) => match values.as_slice() {
            [Value::Integer(n), Value::Data(padding)] => {
                assert_eq!(padding, &[7; 2000]);
                *n
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

const MUCH: i64 = 50;

fn write_much(defaults: &Defaults, name: &str) {
    for n in 0..MUCH {
        defaults.set(&format!("{name}{n}"), n).expect("set");
        let more = |sum: Option<&Value>| match sum {
            Some(Value::Integer(sum)) => Some((sum + 1).into()),
            _ => Some(1.into()),
        };
        defaults.update("sum", more).expect("update");
    }
}

#[test]
fn each_kind_of_value_comes_back() {
    let world = World::new();
    let defaults = world.defaults();
    assert_eq!(defaults.all().expect("nothing"), BTreeMap::new());
    assert!(!world.file().exists());
    let now = SystemTime::now();
    let list = vec![Value::from(1), "two".into()];
    let names = BTreeMap::from([("k".to_owned(), Value::from(2.5))]);
    defaults.set("boolean", true).expect("set");
    defaults.set("integer", i64::MIN).expect("set");
    defaults.set("real", -0.5).expect("set");
    defaults.set("string", "grün").expect("set");
    defaults.set("data", vec![0u8, 255]).expect("set");
    defaults.set("date", now).expect("set");
    defaults.set("array", list.clone()).expect("set");
    defaults.set("dictionary", names.clone()).expect("set");

    let other = world.defaults();
    assert_eq!(other.get_as("boolean").expect("get"), Some(true));
    assert_eq!(other.get_as("integer").expect("get"), Some(i64::MIN));
    assert_eq!(other.get_as("real").expect("get"), Some(-0.5));
    assert_eq!(
        other.get_as("string").expect("get"),
        Some("grün".to_owned())
    );
    assert_eq!(other.get_as("data").expect("get"), Some(vec![0u8, 255]));
    assert_eq!(other.get_as("date").expect("get"), Some(now));
    assert_eq!(other.get_as("array").expect("get"), Some(list));
    assert_eq!(other.get_as("dictionary").expect("get"), Some(names));
    assert_eq!(other.get_as::<bool>("missing").expect("get"), None);
    let wrong = other.get_as::<i64>("real").expect_err("a real number");
    assert!(matches!(wrong, GetError::Kind(kind) if kind.found == "a real number"));
    assert_eq!(other.keys().expect("keys").len(), 8);

    assert!(other.remove("date").expect("remove"));
    assert!(!other.remove("date").expect("remove"));
    assert_eq!(defaults.get("date").expect("get"), None);
    defaults.clear().expect("clear");
    assert_eq!(other.all().expect("nothing"), BTreeMap::new());
}

#[test]
fn what_cannot_be_set_changes_nothing() {
    let world = World::new();
    let defaults = world.defaults();
    defaults.set("k", 1).expect("set");
    let before = fs::read(world.file()).expect("the file");
    let empty = defaults.set("", 1);
    assert!(
        matches!(empty, Err(SetError::Key(KeyError::Empty))),
        "{empty:?}"
    );
    let long = defaults.set("k", vec![0u8; 5 << 20]);
    assert!(matches!(long, Err(SetError::Limit(_))), "{long:?}");
    defaults.set("k", 1).expect("nothing to do");
    assert_eq!(fs::read(world.file()).expect("the file"), before);
}

#[test]
fn processes_that_write_at_once_lose_nothing() {
    let world = World::new();
    let mut writers = ["a", "b", "c"].map(|name| world.play(name));
    writers.iter_mut().for_each(Process::finish);
    let defaults = world.defaults();
    assert_eq!(defaults.get_as("sum").expect("get"), Some(3 * MUCH));
    assert_eq!(defaults.keys().expect("keys").len() as i64, 3 * MUCH + 1);
}

/// Each life is as long as it takes to see some changes and then a random moment.
#[test]
fn a_writer_killed_at_any_moment_leaves_the_old_or_the_new_value_and_no_watcher_waits() {
    let world = World::new();
    let done = world.path("done");
    fs::write(&done, 0i64.to_ne_bytes()).expect("write");
    fs::write(world.path("seen"), 0i64.to_ne_bytes()).expect("write");
    let said = File::options().write(true).open(world.path("seen"));
    let said = said.expect("a file");
    let defaults = world.defaults();
    let mut watch = defaults.watch(Some("n")).expect("watch");
    let mut seen = 0;
    let mut random = Random(1);
    for life in 0..200 {
        let mut writer = world.play("count");
        let start = seen;
        while seen <= start + (life % 5) {
            seen = in_order(&mut watch, seen, PATIENCE).expect("a change");
            said.write_all_at(&seen.to_ne_bytes(), 0).expect("write");
        }
        random.moment();
        writer.kill();

        let told = read_number(&done);
        let found = number(&defaults);
        assert!(found == told || found == told + 1, "{found} after {told}");
        while seen < found {
            seen = in_order(&mut watch, seen, PATIENCE).expect("what the killed writer did");
        }
        assert_eq!(seen, found);
        said.write_all_at(&seen.to_ne_bytes(), 0).expect("write");
        fs::write(&done, found.to_ne_bytes()).expect("write");
    }
    let nothing = in_order(&mut watch, seen, Duration::ZERO);
    assert!(matches!(nothing, Err(NextError::TimedOut)), "{nothing:?}");
}

struct Random(u64);

impl Random {
    /// Lets up to two milliseconds pass.
    fn moment(&mut self) {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let end = Instant::now() + Duration::from_nanos(self.0 >> 43);
        while Instant::now() < end {
            thread::yield_now();
        }
    }
}

/// Receives the number that comes after this one.
fn in_order(watch: &mut Watch, seen: i64, timeout: Duration) -> Result<i64, NextError> {
    let change = watch.receive(timeout)?;
    let n = first(change.value.as_ref().expect("a value"));
    assert_eq!(n, seen + 1);
    Ok(n)
}

#[test]
fn what_somebody_else_put_there_is_refused_and_left_alone() {
    let world = World::new();
    let defaults = world.defaults();
    let file = world.file();
    let refused = |what: &str| {
        assert!(defaults.get("k").is_err(), "{what}");
        assert!(defaults.set("k", 1).is_err(), "{what}");
        assert!(defaults.watch(None).is_err(), "{what}");
        defaults.get("k").expect_err(what)
    };

    fs::write(&file, "junk").expect("write");
    assert!(matches!(refused("junk"), ReadError::Broken(_)));
    fs::write(&file, "").expect("write");
    assert!(matches!(refused("nothing"), ReadError::Broken(_)));
    let huge = File::create(&file).expect("create");
    huge.set_len(1 << 40).expect("a hole");
    assert!(matches!(refused("huge"), ReadError::Broken(_)));
    fs::remove_file(&file).expect("remove");

    let elsewhere = world.path("elsewhere");
    fs::write(&elsewhere, "precious").expect("write");
    symlink(&elsewhere, &file).expect("link");
    assert!(matches!(refused("a link"), ReadError::NotAFile));
    fs::remove_file(&file).expect("remove");

    let cwd = rustix::fs::CWD;
    rustix::fs::mkfifoat(cwd, &file, rustix::fs::Mode::RUSR).expect("a pipe");
    assert!(matches!(refused("a pipe"), ReadError::NotAFile));
    fs::remove_file(&file).expect("remove");

    symlink(&elsewhere, world.path("group.a.new")).expect("link");
    fs::remove_file(world.path("group.a.lock")).expect("remove");
    defaults.set("k", 1).expect("the link is removed");
    assert_eq!(fs::read(&elsewhere).expect("read"), b"precious");
    fs::remove_file(world.path("group.a.lock")).expect("remove");
    symlink(&elsewhere, world.path("group.a.lock")).expect("link");
    assert!(defaults.set("k", 2).is_err());
    assert_eq!(defaults.get_as("k").expect("get"), Some(1i64));
}

#[test]
fn broken_defaults_can_be_cleared() {
    let world = World::new();
    let defaults = world.defaults();
    fs::write(world.file(), "junk").expect("write");
    defaults.clear().expect("clear");
    defaults.set("k", 1).expect("set");
    assert_eq!(defaults.keys().expect("keys"), ["k"]);
}

#[test]
fn a_folder_that_others_can_write_to_is_refused() {
    let world = World::new();
    let defaults = world.defaults();
    defaults.set("k", 1).expect("set");
    let folder = world.folder.path();
    fs::set_permissions(folder, Permissions::from_mode(0o770)).expect("chmod");
    let refused = defaults.get("k");
    assert!(
        matches!(refused, Err(ReadError::UnsafeFolder)),
        "{refused:?}"
    );
    fs::set_permissions(folder, Permissions::from_mode(0o700)).expect("chmod");
    assert_eq!(defaults.get_as("k").expect("get"), Some(1i64));
}

#[test]
fn a_watcher_sees_each_change_once_and_in_order() {
    let world = World::new();
    let defaults = world.defaults();
    defaults.set("before", 1).expect("set");
    let mut all = defaults.watch(None).expect("watch");
    let mut one = defaults.watch(Some("b")).expect("watch");
    defaults.set("a", 1).expect("set");
    defaults.set("b", 2).expect("set");
    defaults.set("b", 2).expect("nothing to do");
    defaults.set("b", 3).expect("set");
    defaults.remove("a").expect("remove");
    let expected = [("a", Some(1)), ("b", Some(2)), ("b", Some(3)), ("a", None)];
    for (key, value) in expected {
        assert_eq!(all.receive(PATIENCE).expect("a change"), change(key, value));
    }
    for value in [2, 3] {
        assert_eq!(
            one.receive(PATIENCE).expect("a change"),
            change("b", Some(value))
        );
    }
    for mut watch in [all, one] {
        assert!(matches!(
            watch.receive(Timeout::POLL),
            Err(NextError::TimedOut)
        ));
    }
}

#[test]
fn the_first_changes_of_all_are_seen_like_others() {
    let world = World::new();
    let defaults = world.defaults();
    let mut watch = defaults.watch(None).expect("watch");
    for n in 1..=3 {
        defaults.set("n", n).expect("set");
    }
    for n in 1..=3 {
        let received = watch.receive(PATIENCE).expect("a change");
        assert_eq!(received, change("n", Some(n)));
    }
}

#[test]
fn changes_of_several_processes_are_seen_in_one_order() {
    let world = World::new();
    let mut watch = world.defaults().watch(None).expect("watch");
    let mut writers = ["a", "b"].map(|name| world.play(name));
    let mut next = BTreeMap::from([("a", 0), ("b", 0), ("sum", 1)]);
    for _ in 0..4 * MUCH {
        let Change { key, value } = watch.receive(PATIENCE).expect("a change");
        let writer = match key.as_str() {
            "sum" => "sum",
            other => &other[..1],
        };
        let next = next.get_mut(writer).expect("a writer");
        assert_eq!(value, Some((*next).into()));
        *next += 1i64;
    }
    assert_eq!(
        next,
        BTreeMap::from([("a", MUCH), ("b", MUCH), ("sum", 2 * MUCH + 1)])
    );
    writers.iter_mut().for_each(Process::finish);
    assert!(matches!(
        watch.receive(Timeout::POLL),
        Err(NextError::TimedOut)
    ));
}

#[test]
fn a_watcher_that_is_far_behind_gets_the_difference() {
    let world = World::new();
    let defaults = world.defaults();
    defaults.set("gone", 1).expect("set");
    let mut watch = defaults.watch(None).expect("watch");
    for n in 1..=300 {
        defaults.set("n", n).expect("set");
    }
    defaults.remove("gone").expect("remove");
    let mut received = Vec::new();
    while let Ok(change) = watch.receive(Timeout::POLL) {
        received.push(change);
    }
    assert_eq!(received, [change("gone", None), change("n", Some(300))]);
    defaults.clear().expect("clear");
    assert_eq!(
        watch.receive(PATIENCE).expect("a change"),
        change("n", None)
    );
}

/// The queue is emptied while somebody writes, at a random moment of that.
#[test]
fn a_watcher_with_a_full_queue_holds_up_nobody_and_misses_nothing() {
    let world = World::new();
    let defaults = world.defaults();
    let mut watch = defaults.watch(None).expect("watch");
    let names = world.bootstrap.list().expect("list");
    let name = &names.first().expect("the watcher").name;
    let mut random = Random(2);
    for n in 1..=20 {
        while world.bootstrap.look_up(name).is_ok() {}
        thread::scope(|scope| {
            scope.spawn(|| defaults.set("k", n).expect("set"));
            random.moment();
            let received = watch.receive(PATIENCE).expect("a change");
            assert_eq!(received, change("k", Some(n)));
        });
    }
}

#[test]
fn lies_of_a_member_cost_a_watcher_nothing() {
    let world = World::new();
    let defaults = world.defaults();
    let mut watch = defaults.watch(None).expect("watch");
    let names = world.bootstrap.list().expect("list");
    let name = &names.first().expect("the watcher").name;
    let right = world.bootstrap.look_up(name).expect("its port");
    let never = portolan::ReceiveRight::new().expect("a port");
    for _ in 0..40 {
        let writer = never.make_send().expect("a right");
        let message = Message::new(1).with_bytes("x").with_right(writer);
        right.send(message, PATIENCE).expect("sent");
    }
    assert!(matches!(
        watch.receive(Timeout::POLL),
        Err(NextError::TimedOut)
    ));
    defaults.set("k", 1).expect("set");
    assert_eq!(
        watch.receive(PATIENCE).expect("a change"),
        change("k", Some(1))
    );
}

#[test]
fn the_descriptor_of_a_watcher_tells_of_changes() {
    let world = World::new();
    let defaults = world.defaults();
    let mut watch = defaults.watch(None).expect("watch");
    assert!(!is_readable(&watch, Duration::ZERO));
    defaults.set("k", 1).expect("set");
    assert!(is_readable(&watch, PATIENCE));
    assert_eq!(
        watch.receive(Timeout::POLL).expect("a change"),
        change("k", Some(1))
    );
    assert!(matches!(
        watch.receive(Timeout::POLL),
        Err(NextError::TimedOut)
    ));
    assert!(!is_readable(&watch, Duration::ZERO));
}

#[test]
fn a_watcher_ends_with_its_server_and_leaves_no_name() {
    let world = World::new();
    let defaults = world.defaults();
    let mut watch = defaults.watch(None).expect("watch");
    drop(defaults.watch(None).expect("watch"));
    let start = Instant::now();
    while world.bootstrap.list().expect("list").len() > 1 {
        assert!(start.elapsed() < PATIENCE, "the name of a watcher stays");
        thread::yield_now();
    }
    world.bootstrap.shutdown().expect("shutdown");
    let gone = watch.receive(PATIENCE);
    assert!(matches!(gone, Err(NextError::ServerGone)), "{gone:?}");
}

#[test]
fn a_group_with_a_long_id_has_defaults_and_no_watchers() {
    let world = World::new();
    let group: GroupId = format!("group.{}", "x".repeat(120))
        .parse()
        .expect("a group");
    let bootstrap = world.bootstrap.copy().expect("a right");
    let defaults = Defaults::open_in(world.folder.path(), &group, bootstrap);
    defaults.set("k", 1).expect("set");
    assert_eq!(defaults.get_as("k").expect("get"), Some(1i64));
    assert!(matches!(defaults.watch(None), Err(WatchError::Name(_))));
}

fn change(key: &str, value: Option<i64>) -> Change {
    let (key, value) = (key.to_owned(), value.map(Value::from));
    Change { key, value }
}
