//! Daemons that know nothing of Portolan, through `Sockets` and `LISTEN_FDS`.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use rustix::process::Signal;

use crate::world::World;
use crate::{eventually, is_installed, load, pid, print, signal, wait_until_idle};

/// Python's own server, nothing patched: it is given the socket that it would make itself. It ends
/// after so many requests.
const HTTP_SERVER: &str = r#"
import http.server, os, socket, sys
assert os.environ["LISTEN_FDS"] == "1" and os.environ["LISTEN_PID"] == str(os.getpid())
server = http.server.HTTPServer(("", 0), http.server.SimpleHTTPRequestHandler, False)
server.socket.close()
server.socket = socket.socket(fileno=3)
server.server_address = ("", 0)
if server.socket.family == socket.AF_UNIX:
    # A request's log line names the peer, which has no address here.
    http.server.SimpleHTTPRequestHandler.address_string = lambda self: "local"
for _ in range(int(sys.argv[1])):
    server.handle_request()
"#;

/// A port of the loopback that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("an address").port()
}

fn get(stream: impl std::io::Read + std::io::Write) -> String {
    let mut stream = stream;
    stream
        .write_all(b"GET /page.txt HTTP/1.0\r\n\r\n")
        .expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    answer
}

fn over_tcp(port: u16) -> String {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    get(TcpStream::connect(address).expect("connect"))
}

fn over_unix(path: &Path) -> String {
    get(UnixStream::connect(path).expect("connect"))
}

fn load_http_server(world: &World, requests: u32, socket: &str) {
    let pages = world.path("pages");
    fs::create_dir_all(&pages).expect("directory");
    fs::write(pages.join("page.txt"), "the page\n").expect("write");
    let script = world.write("server.py", HTTP_SERVER);
    let job = format!(
        "Label = 'test.http'\nProgramArguments = ['python3', '{}', '{requests}']\n\
         WorkingDirectory = '{}'\nEnvironmentVariables.PATH = '{}'\n[Sockets.web]\n{socket}\n",
        script.display(),
        pages.display(),
        std::env::var("PATH").expect("PATH"),
    );
    load(world, "http.toml", &job).ok();
}

#[test]
fn a_python_server_is_started_by_the_first_connection() {
    let world = World::new();
    let port = free_port();
    let socket = format!("SockNodeName = '127.0.0.1'\nSockServiceName = {port}");
    load_http_server(&world, 2, &socket);
    assert_eq!(pid(&world, "test.http"), None, "nobody has asked");
    for round in 1..=3 {
        let answers = [over_tcp(port), over_tcp(port)];
        for answer in answers {
            assert!(answer.ends_with("\r\n\r\nthe page\n"), "{answer}");
        }
        wait_until_idle(&world, "test.http");
        assert_eq!(print(&world, "test.http")["runs"], round);
    }
    let log = String::from_utf8(world.run(["log", "test.http"]).ok()).expect("text");
    assert_eq!(
        log.matches("\"GET /page.txt HTTP/1.0\" 200").count(),
        6,
        "{log}"
    );
}

#[test]
fn a_python_server_on_a_unix_socket_as_well() {
    let world = World::new();
    let path = world.path("web.socket");
    let socket = format!("SockPathName = '{}'\nSockPathMode = 0o600", path.display());
    load_http_server(&world, 1, &socket);
    for _ in 0..3 {
        assert!(over_unix(&path).ends_with("the page\n"));
    }
    wait_until_idle(&world, "test.http");
    world.run(["unload", "test.http"]).ok();
    assert!(!path.exists(), "the socket goes with the job");
}

#[test]
fn connections_that_wait_are_served_by_the_next_instance() {
    let world = World::new();
    let path = world.path("web.socket");
    let socket = format!("SockPathName = '{}'", path.display());
    // Each instance ends after one request, so most of these wait for another one.
    load_http_server(&world, 1, &socket);
    let answers = thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| over_unix(&path))).collect();
        let joined = asked
            .into_iter()
            .map(|asked| asked.join().expect("an answer"));
        joined.collect::<Vec<_>>()
    });
    for answer in answers {
        assert!(answer.ends_with("the page\n"), "{answer}");
    }
    wait_until_idle(&world, "test.http");
    let job = print(&world, "test.http");
    assert_eq!((&job["runs"], &job["failures"]), (&8.into(), &0.into()));
}

#[test]
fn a_server_that_was_killed_is_there_for_the_next_connection() {
    let world = World::new();
    let port = free_port();
    let socket = format!("SockNodeName = '127.0.0.1'\nSockServiceName = {port}");
    load_http_server(&world, 1000, &socket);
    assert!(over_tcp(port).ends_with("the page\n"));
    let first = pid(&world, "test.http").expect("it runs");
    signal(first, Signal::KILL);
    assert!(over_tcp(port).ends_with("the page\n"));
    let second = pid(&world, "test.http").expect("it runs");
    assert_ne!(first, second);
    assert_eq!(print(&world, "test.http")["last_exit"]["signal"], 9);
}

#[test]
fn nginx_takes_its_listening_socket_over() {
    if !is_installed("nginx") {
        crate::skipped("nginx is not installed");
        return;
    }
    let world = World::new();
    let port = free_port();
    let root = world.path("");
    // A master of root's gives its workers away, and they have to find the page.
    let user = match rustix::process::getuid().is_root() {
        true => "user root;",
        false => "",
    };
    let text = format!(
        "daemon off; {user} pid {0}/nginx.pid; error_log stderr; worker_processes 1;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;\n\
         fastcgi_temp_path {0}/fastcgi; uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;\n\
         server {{ listen 127.0.0.1:{port}; root {0}; }} }}\n",
        root.display()
    );
    let configuration = world.write("nginx.conf", text);
    world.write("page.txt", "the page\n");
    // It takes sockets over from the instance before it by this variable, and from anybody else.
    let job = format!(
        "Label = 'test.nginx'\nProgramArguments = ['nginx', '-e', 'stderr', '-c', '{}']\n\
         [EnvironmentVariables]\nPATH = '/usr/sbin:/usr/bin:/sbin:/bin'\nNGINX = '3;'\n\
         [Sockets.web]\nSockNodeName = '127.0.0.1'\nSockServiceName = {port}\n",
        configuration.display(),
    );
    load(&world, "nginx.toml", &job).ok();
    for _ in 0..2 {
        let answer = over_tcp(port);
        assert!(answer.ends_with("the page\n"), "{answer}");
        let running = pid(&world, "test.nginx").expect("it runs");
        world.run(["stop", "test.nginx"]).ok();
        eventually("its end", || {
            (pid(&world, "test.nginx") != Some(running)).then_some(())
        });
    }
    assert_eq!(print(&world, "test.nginx")["runs"], 2);
}
