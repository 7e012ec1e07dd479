//! Sockets that jobs inherit: made, found by clients, given back.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use portoland::job::{Job, Reading};
use portoland::sockets::{Listeners, SocketCause, SocketError};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt;

/// A job with this table of sockets.
fn job(sockets: &str) -> Job {
    let text = format!("Label = 'org.example.job'\nProgram = '/bin/job'\n{sockets}");
    let reading = Reading::of(text.as_bytes());
    assert!(reading.errors.is_empty(), "{:?}", reading.errors);
    reading.job.expect("a job")
}

fn unix(path: &Path, more: &str) -> Job {
    job(&format!(
        "Sockets.a = {{ SockPathName = '{}'{more} }}",
        path.display()
    ))
}

fn open(job: &Job) -> Listeners {
    Listeners::open(job).expect("sockets")
}

fn refused(job: &Job) -> SocketError {
    Listeners::open(job).expect_err("no sockets")
}

fn is_in_use(error: &SocketError) -> bool {
    matches!(&error.cause, SocketCause::System(error) if error.kind() == ErrorKind::AddrInUse)
}

fn readable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let no_time = Timespec::default();
    rustix::event::poll(&mut fds, Some(&no_time)).expect("poll") == 1
}

fn port(listeners: &Listeners, at: usize) -> u16 {
    let (_, fd) = listeners.names_and_fds().nth(at).expect("a socket");
    let address = rustix::net::getsockname(fd).expect("getsockname");
    let address = std::net::SocketAddr::try_from(address);
    address.expect("an address of IP").port()
}

#[test]
fn a_unix_socket_is_there_until_it_is_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let listeners = open(&unix(&path, ", SockPathMode = 0o622"));
    let found = fs::metadata(&path).expect("metadata");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o7777, 0o622);
    let (name, fd) = listeners.fds().next().expect("a socket");
    assert_eq!(name, "a");
    assert!(!readable(fd));
    let _client = UnixStream::connect(&path).expect("connect");
    assert!(readable(fd));
    let address = rustix::net::getsockname(fd).expect("getsockname");
    let address = rustix::net::SocketAddrUnix::try_from(address).expect("a Unix address");
    assert_eq!(
        address.path_bytes(),
        Some(path.as_os_str().as_encoded_bytes()),
        "sd_is_socket_unix() compares it"
    );
    listeners.remove();
    assert!(!path.exists());
}

#[test]
fn each_type_of_unix_socket_is_made() {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, expected) in [
        ("stream", rustix::net::SocketType::STREAM),
        ("dgram", rustix::net::SocketType::DGRAM),
        ("seqpacket", rustix::net::SocketType::SEQPACKET),
    ] {
        let path = directory.path().join(name);
        let job = unix(&path, &format!(", SockType = '{name}'"));
        let listeners = open(&job);
        let (_, fd) = listeners.fds().next().expect("a socket");
        assert_eq!(sockopt::socket_type(fd), Ok(expected));
        let listens = sockopt::socket_acceptconn(fd).expect("getsockopt");
        assert_eq!(listens, name != "dgram");
        assert!(is_in_use(&refused(&job)), "{name}");
        drop(listeners);
        assert!(path.exists());
        open(&job).remove();
        assert!(!path.exists(), "what was left over is replaced: {name}");
    }
}

#[test]
fn a_socket_of_somebody_else_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let theirs = UnixListener::bind(&path).expect("bind");
    assert!(is_in_use(&refused(&unix(&path, ""))));
    let as_datagrams = refused(&unix(&path, ", SockType = 'dgram'"));
    assert!(is_in_use(&as_datagrams), "{as_datagrams:?}");
    UnixStream::connect(&path).expect("still there");
    drop(theirs);
    open(&unix(&path, "")).remove();
    fs::write(&path, "a file").expect("write");
    let error = refused(&unix(&path, ""));
    assert!(matches!(error.cause, SocketCause::NotASocket), "{error:?}");
    assert_eq!(fs::read(&path).expect("read"), b"a file");
}

#[test]
fn only_the_own_socket_file_is_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let listeners = open(&unix(&path, ""));
    fs::rename(&path, directory.path().join("moved")).expect("rename");
    let _theirs = UnixListener::bind(&path).expect("bind");
    listeners.remove();
    UnixStream::connect(&path).expect("still there");
}

#[test]
fn of_many_servers_one_gets_the_path() {
    let directory = tempfile::tempdir().expect("a directory");
    for round in 0..20 {
        let path = directory.path().join(format!("socket-{round}"));
        drop(UnixListener::bind(&path).expect("bind"));
        let job = unix(&path, "");
        let start = Barrier::new(4);
        let attempt = || {
            start.wait();
            Listeners::open(&job)
        };
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(attempt)).collect();
            let threads = threads.into_iter();
            threads
                .map(|thread| thread.join().expect("no panic"))
                .collect()
        });
        let winners = results.iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1, "round {round}: {results:?}");
        UnixStream::connect(&path).expect("the winner is there");
    }
    let files = fs::read_dir(directory.path()).expect("directory").count();
    assert_eq!(files, 20, "nothing is left aside");
}

#[test]
fn while_another_server_makes_the_socket_it_is_in_use() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let job = unix(&path, "");
    let lock = directory.path().join(".socket.lock");
    let theirs = File::create(&lock).expect("create");
    theirs.lock().expect("flock");
    assert!(is_in_use(&refused(&job)));
    drop(theirs);
    open(&job).remove();
    assert!(!lock.exists(), "one that is left over is used and removed");
}

#[test]
fn a_socket_that_is_not_passive_is_connected() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let job = unix(&path, ", SockType = 'dgram', SockPassive = false");
    let error = refused(&job);
    assert!(
        error
            .to_string()
            .starts_with("Sockets.a: cannot connect to /"),
        "{error}"
    );
    let server = UnixDatagram::bind(&path).expect("bind");
    let listeners = open(&job);
    assert_eq!(listeners.fds().count(), 0, "it is no demand");
    let (_, fd) = listeners.names_and_fds().next().expect("a socket");
    let client = UnixDatagram::from(fd.try_clone_to_owned().expect("dup"));
    client.send(b"x").expect("send");
    assert_eq!(server.recv(&mut [0; 8]).expect("receive"), 1);
    listeners.remove();
    assert!(path.exists(), "the server's");
}

#[test]
fn a_port_for_each_version_of_ip() {
    let tcp = job("Sockets.web = { SockServiceName = '0', SockNodeName = 'localhost' }");
    let listeners = open(&tcp);
    let names: Vec<&str> = listeners.names_and_fds().map(|(name, _)| name).collect();
    let versions = 1 + usize::from(TcpListener::bind("[::1]:0").is_ok());
    assert_eq!(names, vec!["web"; versions]);
    let address = (Ipv4Addr::LOCALHOST, port(&listeners, 0));
    let _client = TcpStream::connect(address).expect("connect");
    let (_, fd) = listeners.fds().next().expect("a socket");
    assert!(readable(fd));
    assert_eq!(sockopt::socket_reuseaddr(fd), Ok(true));
}

#[test]
fn a_socket_for_ipv6_leaves_ipv4_to_others() {
    let six = job("Sockets.web = { SockServiceName = '0', SockFamily = 'IPv6' }");
    match Listeners::open(&six) {
        Ok(listeners) => {
            let (_, fd) = listeners.fds().next().expect("a socket");
            assert_eq!(sockopt::ipv6_v6only(fd), Ok(true));
        }
        // Where there is no IPv6 at all, that is said.
        Err(error) => assert!(UdpSocket::bind("[::]:0").is_err(), "{error:?}"),
    }
}

#[test]
fn one_socket_for_both_versions() {
    let both = job("Sockets.web = { SockServiceName = '0', SockFamily = 'IPv4v6' }");
    match Listeners::open(&both) {
        Ok(listeners) => {
            assert_eq!(listeners.fds().count(), 1);
            let address = (Ipv4Addr::LOCALHOST, port(&listeners, 0));
            TcpStream::connect(address).expect("connect by IPv4");
        }
        // Where there is no IPv6 at all, that is said.
        Err(error) => assert!(UdpSocket::bind("[::]:0").is_err(), "{error:?}"),
    }
}

#[test]
fn datagrams_are_demand() {
    let udp = "SockType = 'dgram', SockServiceName = '0', SockFamily = 'IPv4'";
    let listeners = open(&job(&format!("Sockets.a = {{ {udp} }}")));
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = (Ipv4Addr::LOCALHOST, port(&listeners, 0));
    client.send_to(b"x", address).expect("send");
    let (_, fd) = listeners.fds().next().expect("a socket");
    assert!(readable(fd));
}

#[test]
fn a_port_that_is_taken_is_said_with_key_and_address() {
    let theirs = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = theirs.local_addr().expect("address").port();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let error = refused(&job(&format!(
        "Sockets.a = {{ SockPathName = '{}' }}\n\
         Sockets.b = {{ SockServiceName = '{port}', SockNodeName = '127.0.0.1' }}",
        path.display()
    )));
    assert!(is_in_use(&error));
    assert_eq!(
        error.to_string(),
        format!("Sockets.b: cannot listen at 127.0.0.1:{port}")
    );
    assert!(!path.exists(), "all or nothing");
}

#[test]
fn names_of_nodes_are_not_looked_up() {
    let error = refused(&job(
        "Sockets.a = { SockServiceName = '80', SockNodeName = 'example.org' }",
    ));
    assert!(matches!(error.cause, SocketCause::NodeName), "{error:?}");
    assert_eq!(
        error.to_string(),
        "Sockets.a: cannot listen at example.org:80"
    );
    let error = refused(&job("Sockets.a = { SockServiceName = 'no-such-service' }"));
    assert!(matches!(error.cause, SocketCause::ServiceName), "{error:?}");
}

#[test]
fn paths_that_cannot_be_are_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let long = directory.path().join("x".repeat(108));
    let error = refused(&unix(&long, ""));
    assert!(matches!(error.cause, SocketCause::PathTooLong), "{error:?}");
    let error = refused(&unix(&directory.path().join("missing/socket"), ""));
    let SocketCause::System(cause) = &error.cause else {
        panic!("{error:?}");
    };
    assert_eq!(cause.kind(), ErrorKind::NotFound);
}

#[test]
fn sockets_outlive_the_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let job = job(&format!(
        "Sockets.'a:b' = {{ SockPathName = '{}' }}\n\
         Sockets.c = {{ SockServiceName = '0', SockFamily = 'IPv4', SockType = 'dgram' }}",
        path.display()
    ));
    let first = open(&job);
    let inode = fs::metadata(&path).expect("metadata").ino();
    let kept: Vec<(String, OwnedFd)> = first
        .names_and_fds()
        .map(|(name, fd)| (name.to_owned(), fd.try_clone_to_owned().expect("dup")))
        .collect();
    drop(first);
    let second = Listeners::resume(&job, kept);
    let names: Vec<&str> = second.fds().map(|(name, _)| name).collect();
    assert_eq!(names, ["a_b", "c"]);
    let _client = UnixStream::connect(&path).expect("connect");
    let (_, fd) = second.fds().next().expect("a socket");
    assert!(readable(fd));
    assert_eq!(fs::metadata(&path).expect("metadata").ino(), inode);
    second.remove();
    assert!(!path.exists());
}

#[test]
fn a_mode_that_the_umask_would_take_away_is_given() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("chmod");
    let path = directory.path().join("socket");
    open(&unix(&path, ", SockPathMode = 0o777"));
    let mode = fs::metadata(&path).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o7777, 0o777);
}
