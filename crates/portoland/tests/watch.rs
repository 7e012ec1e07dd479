//! Paths that start jobs: what happens to them is noticed, and nothing else.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use portoland::watch::{Fired, State, Watches, What};
use rustix::event::{PollFd, PollFlags, Timespec};
use tempfile::TempDir;

struct Stage {
    root: TempDir,
    watches: Watches,
}

impl Stage {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().expect("a directory"),
            watches: Watches::new().expect("inotify"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn watch(&mut self, token: u64, what: What, name: &str) -> State {
        let path = self.path(name);
        self.watches.add(token, what, &path).expect("a watch")
    }

    /// What has fired. Events are there when the call that made them returns.
    fn fired(&mut self) -> Vec<(u64, State)> {
        let fired = self.watches.take();
        fired
            .into_iter()
            .map(|fired| (fired.token, fired.state))
            .collect()
    }

    fn is_readable(&self) -> bool {
        let mut fds = [PollFd::new(&self.watches, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&Timespec::default())).expect("poll") == 1
    }
}

fn touch(path: &Path) {
    File::create(path).expect("create");
}

const CHANGED: State = State::Changed { exists: true };
const REMOVED: State = State::Changed { exists: false };

#[test]
fn each_change_of_a_file_fires() {
    let mut stage = Stage::new();
    let path = stage.path("file");
    touch(&path);
    assert_eq!(stage.watch(1, What::Change, "file"), CHANGED);
    assert_eq!(stage.fired(), []);
    let mut file = OpenOptions::new().append(true).open(&path).expect("open");
    assert_eq!(stage.fired(), [], "opening is no change");
    file.write_all(b"a").expect("write");
    assert!(stage.is_readable());
    assert_eq!(stage.fired(), [(1, CHANGED)]);
    assert_eq!(stage.fired(), []);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
    assert_eq!(stage.fired(), [(1, CHANGED)]);
    fs::read(&path).expect("read");
    assert_eq!(stage.fired(), [], "reading is no change");
    let other = stage.path("other");
    fs::write(&other, "b").expect("write");
    assert_eq!(stage.fired(), [], "another file");
    fs::rename(&other, &path).expect("rename");
    assert_eq!(stage.fired(), [(1, CHANGED)], "replaced");
    fs::write(&path, "c").expect("write");
    assert_eq!(stage.fired(), [(1, CHANGED)], "the new one");
    fs::remove_file(&path).expect("remove");
    assert_eq!(stage.fired(), [(1, REMOVED)]);
    touch(&path);
    assert_eq!(stage.fired(), [(1, CHANGED)], "created");
}

#[test]
fn an_entry_that_comes_or_goes_changes_a_directory() {
    let mut stage = Stage::new();
    fs::create_dir(stage.path("dir")).expect("mkdir");
    stage.watch(1, What::Change, "dir");
    touch(&stage.path("dir/file"));
    assert_eq!(stage.fired(), [(1, CHANGED)]);
    fs::write(stage.path("dir/file"), "a").expect("write");
    let mode = Permissions::from_mode(0o600);
    fs::set_permissions(stage.path("dir/file"), mode).expect("chmod");
    assert_eq!(stage.fired(), [], "only what is in the file");
    fs::remove_file(stage.path("dir/file")).expect("remove");
    assert_eq!(stage.fired(), [(1, CHANGED)]);
    fs::remove_dir(stage.path("dir")).expect("rmdir");
    assert_eq!(stage.fired(), [(1, REMOVED)]);
}

#[test]
fn a_path_without_its_parents_is_waited_for() {
    let mut stage = Stage::new();
    let exists = |exists| vec![(1, State::Exists(exists))];
    let first = stage.watch(1, What::Existence, "a/b/c");
    assert_eq!(first, State::Exists(false));
    touch(&stage.path("x"));
    assert_eq!(stage.fired(), [], "something else");
    fs::create_dir(stage.path("a")).expect("mkdir");
    assert_eq!(stage.fired(), []);
    fs::create_dir(stage.path("a/b")).expect("mkdir");
    touch(&stage.path("a/b/c"));
    assert_eq!(stage.fired(), exists(true));
    fs::write(stage.path("a/b/c"), "a").expect("write");
    assert_eq!(stage.fired(), [], "it did exist");
    fs::remove_dir_all(stage.path("a")).expect("remove");
    assert_eq!(stage.fired(), exists(false));
    fs::create_dir_all(stage.path("a/b/c")).expect("mkdir");
    assert_eq!(stage.fired(), exists(true), "all at once");
    fs::rename(stage.path("a"), stage.path("z")).expect("rename");
    assert_eq!(stage.fired(), exists(false), "the way to it was renamed");
    fs::rename(stage.path("z"), stage.path("a")).expect("rename");
    assert_eq!(stage.fired(), exists(true));
}

#[test]
fn symbolic_links_on_the_way_may_be_set_to_something_else() {
    let mut stage = Stage::new();
    for version in ["v1", "v2"] {
        fs::create_dir(stage.path(version)).expect("mkdir");
        fs::write(stage.path(version).join("config"), version).expect("write");
    }
    symlink("v1", stage.path("current")).expect("symlink");
    stage.watch(1, What::Change, "current/config");
    fs::write(stage.path("v2/config"), "x").expect("write");
    assert_eq!(stage.fired(), [], "not this one");
    symlink("v2", stage.path("next")).expect("symlink");
    fs::rename(stage.path("next"), stage.path("current")).expect("rename");
    assert_eq!(stage.fired(), [(1, CHANGED)]);
    fs::write(stage.path("v2/config"), "y").expect("write");
    assert_eq!(stage.fired(), [(1, CHANGED)]);
    fs::write(stage.path("v1/config"), "y").expect("write");
    assert_eq!(stage.fired(), [], "not this one any more");
}

#[test]
fn a_link_to_nothing_is_waited_for() {
    let mut stage = Stage::new();
    symlink(stage.path("there/target"), stage.path("link")).expect("symlink");
    let first = stage.watch(1, What::Existence, "link");
    assert_eq!(first, State::Exists(false));
    fs::create_dir(stage.path("there")).expect("mkdir");
    touch(&stage.path("there/target"));
    assert_eq!(stage.fired(), [(1, State::Exists(true))]);
}

#[test]
fn links_in_a_circle_are_no_path() {
    let mut stage = Stage::new();
    symlink("b", stage.path("a")).expect("symlink");
    symlink("a", stage.path("b")).expect("symlink");
    let first = stage.watch(1, What::Existence, "a/x");
    assert_eq!(first, State::Exists(false));
    fs::remove_file(stage.path("b")).expect("remove");
    fs::create_dir(stage.path("b")).expect("mkdir");
    touch(&stage.path("b/x"));
    assert_eq!(stage.fired(), [(1, State::Exists(true))]);
}

#[test]
fn a_queue_fires_while_it_is_not_empty() {
    let mut stage = Stage::new();
    let filled = |filled| vec![(1, State::Filled(filled))];
    let first = stage.watch(1, What::Queue, "queue");
    assert_eq!(first, State::Filled(false));
    fs::create_dir(stage.path("queue")).expect("mkdir");
    assert_eq!(stage.fired(), [], "empty");
    touch(&stage.path("queue/1"));
    assert_eq!(stage.fired(), filled(true));
    touch(&stage.path("queue/2"));
    assert_eq!(stage.fired(), filled(true), "one more");
    fs::remove_file(stage.path("queue/1")).expect("remove");
    assert_eq!(stage.fired(), filled(true), "one is left");
    let states = |stage: &Stage| -> Vec<State> {
        stage.watches.states(1).map(|fired| fired.state).collect()
    };
    assert_eq!(states(&stage), [State::Filled(true)]);
    fs::remove_file(stage.path("queue/2")).expect("remove");
    assert_eq!(stage.fired(), []);
    assert_eq!(states(&stage), [State::Filled(false)]);
}

#[test]
fn what_is_removed_fires_no_more_and_others_do() {
    let mut stage = Stage::new();
    touch(&stage.path("file"));
    stage.watch(1, What::Change, "file");
    stage.watch(2, What::Change, "file");
    stage.watch(2, What::Existence, "other");
    fs::write(stage.path("file"), "a").expect("write");
    stage.watches.remove(1);
    assert_eq!(stage.fired(), [(2, CHANGED)]);
    fs::write(stage.path("file"), "b").expect("write");
    touch(&stage.path("other"));
    assert_eq!(stage.fired(), [(2, CHANGED), (2, State::Exists(true))]);
    stage.watches.remove(2);
    // What removing itself makes inotify say.
    assert_eq!(stage.fired(), []);
    fs::write(stage.path("file"), "c").expect("write");
    fs::remove_file(stage.path("other")).expect("remove");
    assert!(!stage.is_readable(), "nothing is watched");
}

#[test]
fn a_busy_directory_above_does_not_wake_the_server() {
    let mut stage = Stage::new();
    fs::create_dir_all(stage.path("a/b")).expect("mkdir");
    touch(&stage.path("a/b/file"));
    stage.watch(1, What::Change, "a/b/file");
    stage.watch(1, What::Existence, "a/b/other");
    touch(&stage.path("x"));
    touch(&stage.path("a/x"));
    assert!(!stage.is_readable());
}

#[test]
fn after_too_many_events_all_fire() {
    let mut stage = Stage::new();
    touch(&stage.path("quiet"));
    fs::create_dir(stage.path("busy")).expect("mkdir");
    stage.watch(1, What::Change, "quiet");
    stage.watch(2, What::Change, "busy");
    stage.watch(3, What::Existence, "quiet");
    stage.watch(4, What::Queue, "busy");
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("limit");
    let limit: usize = limit.trim().parse().expect("a number");
    let (one, two) = (stage.path("busy/1"), stage.path("busy/2"));
    touch(&one);
    // Each renaming is two events, and no two after each other are equal.
    for _ in 0..=limit / 4 {
        fs::rename(&one, &two).expect("rename");
        fs::rename(&two, &one).expect("rename");
    }
    let mut fired: Vec<Fired> = Vec::new();
    while stage.is_readable() {
        fired.extend(stage.watches.take());
    }
    for token in 1..=4 {
        assert!(fired.iter().any(|fired| fired.token == token), "{token}");
    }
    fs::write(stage.path("quiet"), "a").expect("write");
    assert_eq!(stage.fired(), [(1, CHANGED)], "and it goes on");
}

#[test]
fn paths_are_absolute() {
    let mut watches = Watches::new().expect("inotify");
    let error = watches.add(1, What::Change, Path::new("file"));
    let error = error.expect_err("relative");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(watches.states(1).count(), 0);
    let root = watches.add(1, What::Existence, Path::new("/"));
    assert_eq!(root.expect("a watch"), State::Exists(true));
}
