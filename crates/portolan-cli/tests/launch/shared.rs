//! Shared memory and semaphores outlive the server that gave them their names.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use portolan::BootstrapCode;
use portolan::bootstrap::Bootstrap;
use portolan::semaphore::{self, Semaphore};
use portolan::shm::{self, ObjectName, OpenError, SharedMemory};
use rustix::process::Signal;

use crate::site::{PATIENCE, Site, until};

fn name(text: &str) -> ObjectName {
    text.parse().expect("a name")
}

fn kill(site: &Site) {
    let server = site.signal_server(Signal::KILL);
    let next = || site.server().filter(|next| *next != server);
    until("there is another server", || next().is_some());
    answers(&site.bootstrap);
}

fn restart(site: &Site) {
    site.bootstrap.restart().expect("restart");
    answers(&site.bootstrap);
}

/// A server that was killed with a question in its hands is asked again.
fn answers(bootstrap: &Bootstrap) {
    until("the server answers", || bootstrap.list().is_ok());
}

#[test]
fn objects_survive_a_kill_and_a_restart_of_the_server() {
    let site = Site::new();
    let (memory, turn, gone) = (
        name("group.a/memory"),
        name("group.a/turn"),
        name("group.a/gone"),
    );
    let made = SharedMemory::create(&site.bootstrap, &memory, 5000).expect("make");
    let made = made.map().expect("map");
    let posted = Semaphore::create(&site.bootstrap, &turn, 3).expect("make");
    SharedMemory::create(&site.bootstrap, &gone, 1).expect("make");
    shm::unlink(&site.bootstrap, &gone).expect("unlink");
    for (round, end) in [kill, restart, kill].into_iter().enumerate() {
        let word = round.to_le_bytes();
        made.write(4992, &word);
        end(&site);
        // The same, not one like it.
        let found = SharedMemory::create(&site.bootstrap, &memory, 5000).expect("find");
        assert!(!found.is_new() && found.len() == 5000);
        let found = found.map().expect("map");
        let mut read = [0; 8];
        found.read(4992, &mut read);
        assert_eq!(read, word);
        found.write(0, b"x");
        made.read(0, &mut read[..1]);
        assert_eq!(read[0], b'x');
        let found = Semaphore::open(&site.bootstrap, &turn).expect("find");
        posted.post().expect("post");
        assert!(found.try_wait() && found.value() == 3);
        // What was unlinked stays so, and what is new is another one.
        let missing = SharedMemory::open(&site.bootstrap, &gone);
        assert!(missing.is_err());
        let fresh = name(&format!("group.a/fresh-{round}"));
        let fresh = SharedMemory::create_new(&site.bootstrap, &fresh, 1).expect("make");
        fresh.map().expect("map").read(0, &mut read[..1]);
        assert_eq!(read[0], 0);
    }
    let listed = shm::list(&site.bootstrap).expect("list");
    let listed: Vec<_> = listed
        .iter()
        .map(|object| (object.name.rest(), object.size))
        .collect();
    let fresh = ["fresh-0", "fresh-1", "fresh-2"].map(|name| (name, 1));
    assert_eq!(listed, [&fresh[..], &[("memory", 5000)]].concat());
}

#[test]
fn who_waits_does_not_need_the_server() {
    let site = Site::new();
    let turn = name("group.a/turn");
    let waits = Semaphore::create(&site.bootstrap, &turn, 0).expect("make");
    let posts = Semaphore::open(&site.bootstrap, &turn).expect("open");
    let waiting = thread::spawn(move || waits.wait(PATIENCE));
    kill(&site);
    posts.post().expect("post");
    waiting.join().expect("no panic").expect("it was posted");
    site.world().run(["shutdown"]).ok();
    posts.post().expect("though it has no name any more");
    assert!(posts.try_wait());
}

/// Whatever the moment of the kill, what is listed is there, with its size, and can be unlinked.
#[test]
fn a_kill_in_the_middle_of_a_change_leaves_whole_objects() {
    const KILLS: usize = 20;
    let site = Site::new();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let bootstrap = site.bootstrap.copy().expect("copy");
            for at in (0..8).cycle() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let churned = name(&format!("group.a/{at}"));
                // Either may fail while there is no server.
                SharedMemory::create(&bootstrap, &churned, 1000 + at).ok();
                let before = name(&format!("group.a/{}", (at + 4) % 8));
                shm::unlink(&bootstrap, &before).ok();
            }
        });
        let ended = End(&over);
        (0..KILLS).for_each(|_| kill(&site));
        drop(ended);
    });
    for object in shm::list(&site.bootstrap).expect("list") {
        let at: u64 = object.name.rest().parse().expect("a number");
        let found = SharedMemory::open(&site.bootstrap, &object.name).expect("open");
        assert_eq!((found.len(), object.size), (1000 + at, 1000 + at));
        found.map().expect("map").write(0, b"x");
        shm::unlink(&site.bootstrap, &object.name).expect("unlink");
    }
    assert!(shm::list(&site.bootstrap).expect("list").is_empty());
    let semaphores = semaphore::list(&site.bootstrap).expect("list");
    assert!(semaphores.is_empty());
}

/// The groups of different users are different groups, and nobody is taken for root.
#[test]
fn a_job_of_another_user_shares_with_that_users_programs() {
    let site = Site::new();
    let program = site.path("sharer");
    fs::copy(std::env::current_exe().expect("this program"), &program).expect("copy");
    let is_root = rustix::process::geteuid().is_root();
    let mut keys = "RunAtLoad = true\n".to_owned();
    if is_root {
        keys.push_str("UserName = 'nobody'\n");
        fs::set_permissions(site.path(""), Permissions::from_mode(0o777)).expect("chmod");
    }
    let memory = name("group.a/memory");
    SharedMemory::create(&site.bootstrap, &memory, 7).expect("make");
    site.load(&site.file_of(&program, "org.example.sharer", "share", &keys));
    until("it has asked", || site.lines("shared").len() == 2);
    let unsupported = BootstrapCode::UNSUPPORTED.raw();
    let expected = match is_root {
        true => [
            "(true, 7)".to_owned(),
            format!("refused Some({unsupported})"),
        ],
        false => ["(false, 7)".to_owned(), "there is no socket".to_owned()],
    };
    assert_eq!(site.lines("shared"), expected);
    assert_eq!(shm::list(&site.bootstrap).expect("list").len(), 1);
    shm::unlink(&site.bootstrap, &memory).expect("unlink");
    site.write("gate", "");
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn names_end_with_the_server_that_is_told_to_end() {
    let mut site = Site::new();
    let memory = name("group.a/memory");
    let made = SharedMemory::create(&site.bootstrap, &memory, 1).expect("make");
    let made = made.map().expect("map");
    site.world().run(["shutdown"]).ok();
    until("the server has ended", || site.has_ended());
    made.write(0, b"x");
    site.world().run(["list"]).ok();
    let bootstrap = Bootstrap::connect(&site.world().runtime()).expect("a new server");
    let missing = SharedMemory::open(&bootstrap, &memory).expect_err("it is gone");
    let OpenError::Bootstrap(missing) = missing else {
        panic!("{missing}")
    };
    assert_eq!(missing.code(), Some(BootstrapCode::UNKNOWN_SERVICE));
}
