//! What the jobs of these tests do. A part that fails is a job that fails.

use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use portolan::bootstrap::{Bootstrap, BootstrapError};
use portolan::group_socket::{self, SocketError, SocketKind};
use portolan::semaphore::{self, Semaphore};
use portolan::shm::{self, ObjectName, SharedMemory};
use portolan::{BootstrapCode, GroupId, Message, ServiceName, Timeout};

/// The environment variable that says which part a process plays, in words.
pub(crate) const PART: &str = "PORTOLAN_GROUP_PART";

/// The environment variable that names the container of the group, for those who are not told.
pub(crate) const CONTAINER: &str = "PORTOLAN_GROUP_TEST_CONTAINER";

/// The service of the member that is there first.
pub(crate) const HOST: &str = "group.a.host";

pub(crate) const GROUP: &str = "group.a";

/// Where the socket is, below the container.
const SOCKET: &str = "sockets/host";

const PATIENCE: Timeout = Timeout::after(Duration::from_secs(30));

/// How a program comes by a socket.
#[derive(Clone, Copy)]
enum Way {
    /// It makes it.
    Own,
    /// The server makes it.
    Lent,
}

pub(crate) struct Part {
    words: Vec<String>,
    bootstrap: Bootstrap,
}

impl Part {
    pub(crate) fn of_this_process() -> Option<Self> {
        let words = env::var(PART).ok()?;
        Some(Self {
            words: words.split(' ').map(str::to_owned).collect(),
            bootstrap: Bootstrap::from_env().expect("a bootstrap right"),
        })
    }

    pub(crate) fn play(&self) {
        match (
            self.words[0].as_str(),
            self.words.get(1).map(String::as_str),
        ) {
            ("host", Some("own")) => self.host(Way::Own),
            ("host", Some("lent")) => self.host(Way::Lent),
            ("guest", Some("own")) => self.visit(Way::Own),
            ("guest", Some("lent")) => self.visit(Way::Lent),
            ("stranger", None) => self.find_nothing(),
            ("posix", None) => self.share_by_name(),
            (other, _) => panic!("no part {other}"),
        }
    }

    fn host(&self, way: Way) {
        let memory = SharedMemory::create_new(&self.bootstrap, &object("frames"), 4096);
        let memory = memory.expect("memory").map().expect("map");
        memory.write(0, b"from host");
        let turn = Semaphore::create_new(&self.bootstrap, &object("turn"), 0).expect("semaphore");
        let listener = self.listen(way);
        // Whoever finds this finds all of it.
        let port = self.bootstrap.check_in(&name(HOST)).expect("check in");

        let mut request = port.receive(PATIENCE).expect("a request");
        assert_eq!(request.bytes(), b"hello");
        let reply = request.take_reply().expect("it is asked");
        reply
            .send(Message::new(0).with_bytes("HELLO"))
            .expect("answer");
        turn.wait(PATIENCE).expect("a post");
        let mut read = [0; 10];
        memory.read(100, &mut read);
        assert_eq!(&read, b"from guest");
        let (mut peer, _) = listener.accept().expect("accept");
        let mut read = [0; 4];
        peer.read_exact(&mut read).expect("read");
        read.reverse();
        peer.write_all(&read).expect("write");
    }

    /// By the names of the group, and not by those of the machine.
    fn share_by_name(&self) {
        find_no_posix();
        let memory = SharedMemory::create(&self.bootstrap, &object("own"), 1 << 20);
        let memory = memory.expect("memory").map().expect("map");
        memory.write((1 << 20) - 1, b"x");
        let turn = Semaphore::create(&self.bootstrap, &object("own"), 0).expect("semaphore");
        assert!(turn.wait(Timeout::after(Duration::from_millis(1))).is_err());
        turn.post().expect("post");
        turn.wait(PATIENCE).expect("it was posted");
        shm::unlink(&self.bootstrap, &object("own")).expect("unlink");
        semaphore::unlink(&self.bootstrap, &object("own")).expect("unlink");
    }

    fn listen(&self, way: Way) -> UnixListener {
        let path = container().join(SOCKET);
        let directory = path.parent().expect("a directory");
        fs::create_dir_all(directory).expect("mkdir");
        // What an earlier one has left.
        fs::remove_file(&path).ok();
        match way {
            Way::Own => UnixListener::bind(&path).expect("bind"),
            Way::Lent => {
                let kind = SocketKind::Stream;
                let made = group_socket::listen(&self.bootstrap, &group(), SOCKET, kind, 8);
                made.expect("a socket").into()
            }
        }
    }

    fn visit(&self, way: Way) {
        let host = self.bootstrap.look_up(&name(HOST)).expect("look up");
        let hello = Message::new(0).with_bytes("hello");
        let answer = host.request(hello, PATIENCE, PATIENCE).expect("an answer");
        assert_eq!(answer.bytes(), b"HELLO");
        let memory = SharedMemory::open(&self.bootstrap, &object("frames")).expect("memory");
        let memory = memory.map().expect("map");
        let mut read = [0; 9];
        memory.read(0, &mut read);
        assert_eq!(&read, b"from host");
        memory.write(100, b"from guest");
        let turn = Semaphore::open(&self.bootstrap, &object("turn")).expect("semaphore");
        turn.post().expect("post");
        let mut peer = self.connect(way);
        peer.write_all(b"1234").expect("write");
        let mut read = [0; 4];
        peer.read_exact(&mut read).expect("read");
        assert_eq!(&read, b"4321");
    }

    fn connect(&self, way: Way) -> UnixStream {
        match way {
            Way::Own => UnixStream::connect(container().join(SOCKET)).expect("connect"),
            Way::Lent => self.ask_for_connection().expect("a socket").into(),
        }
    }

    fn ask_for_connection(&self) -> Result<OwnedFd, SocketError> {
        group_socket::connect(&self.bootstrap, &group(), SOCKET, SocketKind::Stream)
    }

    /// The host is there, with all that a member shares.
    fn find_nothing(&self) {
        let found = self.bootstrap.look_up(&name(HOST)).map(drop);
        denied("look up", found);
        let frames = SharedMemory::open(&self.bootstrap, &object("frames")).map(drop);
        denied_memory("open", frames);
        let made = SharedMemory::create(&self.bootstrap, &object("frames"), 4096).map(drop);
        denied_memory("create", made);
        denied("unlink", shm::unlink(&self.bootstrap, &object("frames")));
        denied(
            "unlink",
            semaphore::unlink(&self.bootstrap, &object("turn")),
        );
        match Semaphore::open(&self.bootstrap, &object("turn")) {
            Err(semaphore::OpenError::Bootstrap(error)) => denied("semaphore", Err(error)),
            other => panic!("{other:?}"),
        }
        denied_socket(self.ask_for_connection());
        let kind = SocketKind::SeqPacket;
        denied_socket(group_socket::listen(
            &self.bootstrap,
            &group(),
            "own",
            kind,
            1,
        ));
        // Nor by itself, with the path at hand.
        let directory = PathBuf::from(env::var_os(CONTAINER).expect(CONTAINER));
        assert!(UnixStream::connect(directory.join(SOCKET)).is_err());
        assert!(fs::read_dir(&directory).is_err());
        assert!(UnixListener::bind(directory.join("own")).is_err());
        assert!(shm::list(&self.bootstrap).expect("list").is_empty());
    }
}

/// None of what the C library has by these names, for the files of which there is no place.
fn find_no_posix() {
    assert!(fs::read_dir("/dev/shm").is_err());
    assert!(fs::File::create(format!("/dev/shm/portolan-{}", process::id())).is_err());
}

fn denied(what: &str, result: Result<(), BootstrapError>) {
    let code = result.expect_err(what).code();
    assert_eq!(code, Some(BootstrapCode::NOT_PRIVILEGED), "{what}");
}

fn denied_memory(what: &str, result: Result<(), shm::OpenError>) {
    match result {
        Err(shm::OpenError::Bootstrap(error)) => denied(what, Err(error)),
        other => panic!("{what}: {other:?}"),
    }
}

fn denied_socket(result: Result<OwnedFd, SocketError>) {
    match result {
        Err(SocketError::Bootstrap(error)) => denied("socket", Err(error)),
        other => panic!("{other:?}"),
    }
}

/// The container, as a member is told.
fn container() -> PathBuf {
    let all = env::var_os("PORTOLAN_GROUP_CONTAINERS").expect("a confined program");
    PathBuf::from(all).join(GROUP)
}

fn group() -> GroupId {
    GROUP.parse().expect("a group")
}

fn name(text: &str) -> ServiceName {
    text.parse().expect("a name")
}

fn object(name: &str) -> ObjectName {
    format!("{GROUP}/{name}").parse().expect("a name")
}
