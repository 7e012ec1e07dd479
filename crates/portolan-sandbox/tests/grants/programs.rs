//! Programs that know nothing of walls, with what they need and without it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread::{self, JoinHandle};

use portolan_sandbox::profile::{Home, Tier};

use crate::site::{Site, errors, output, tiers};

const CLIENT: &str = "\"com.apple.security.network.client\" = true\n";
const SERVER: &str = "\"com.apple.security.network.server\" = true\n";
const GROUP: &str = "\"com.apple.security.application-groups\" = \"group.granted\"\n";

const PYTHON: &str = "/usr/bin/python3";

/// Answers requests of HTTP until its connection is closed, and counts them.
fn web(requests: usize) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = thread::spawn(move || {
        for _ in 0..requests {
            let (mut connection, _) = listener.accept().expect("a client");
            let mut request = [0; 4096];
            let read = connection.read(&mut request).expect("a request");
            assert!(request[..read].starts_with(b"GET /page "));
            let answer = b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n";
            connection.write_all(answer).expect("an answer");
        }
    });
    (port, server)
}

#[test]
fn curl_gets_a_page_with_network_client_and_not_without() {
    let tiers = tiers();
    let (port, server) = web(2 * tiers.len());
    for tier in tiers {
        let site = Site::new();
        for host in ["127.0.0.1", "localhost"] {
            let url = format!("http://{host}:{port}/page");
            let arguments = ["-sS", "--ipv4", "--noproxy", "*", &url];
            let ran = site.run(tier, CLIENT, "/usr/bin/curl", &arguments);
            assert_eq!(output(&ran), "hello\n", "{tier} {}", errors(&ran));
            for without in ["", SERVER] {
                let ran = site.run(tier, without, "/usr/bin/curl", &arguments);
                assert!(!ran.status.success(), "{tier} {host}");
                assert_eq!(output(&ran), "", "{tier} {host}");
            }
        }
    }
    server.join().expect("all pages were asked for");
}

#[test]
fn a_web_server_serves_with_network_server_and_not_without() {
    let arguments = ["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"];
    for tier in tiers() {
        let site = Site::new();
        for without in ["", CLIENT] {
            let ran = site.run(tier, without, PYTHON, &arguments);
            assert!(!ran.status.success(), "{tier}");
            assert!(
                errors(&ran).contains("PermissionError"),
                "{tier} {}",
                errors(&ran)
            );
        }
        let (mut command, profile) = site.command(tier, SERVER, PYTHON, &arguments);
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut server = spawned.expect("portolan-launch");
        drop(profile);
        let mut lines = BufReader::new(server.stdout.take().expect("piped"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        let port = line.split(' ').skip_while(|word| *word != "port").nth(1);
        let port: u16 = port.and_then(|port| port.parse().ok()).expect("a port");
        let mut client = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        client
            .write_all(b"GET / HTTP/1.0\r\n\r\n")
            .expect("a request");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.0 200 OK"), "{tier} {answer}");
        server.kill().expect("kill");
        server.wait().expect("wait");
    }
}

/// How many rows each member writes.
const ROWS: usize = 40;

#[test]
fn two_members_of_a_group_write_to_one_database_at_once() {
    for tier in tiers() {
        for mode in ["delete", "wal"] {
            let mut site = Site::new();
            let group = "group.granted".parse().expect("a group");
            let container = Home::new(site.home(), None).group_container(&group);
            let database = container.join("shared.db");
            let make = format!(
                "sqlite3 {database:?} 'pragma journal_mode = {mode}; create table rows(who, row)'"
            );
            let ran = site.shell(tier, GROUP, &make);
            assert_eq!(output(&ran), format!("{mode}\n"), "{tier} {}", errors(&ran));
            let writers = write_as_two(&mut site, tier, &database.display().to_string());
            for writer in writers {
                let ended = writer.wait_with_output().expect("wait");
                assert!(ended.status.success(), "{tier} {mode} {}", errors(&ended));
            }
            let count =
                "select who, count(distinct row) from rows group by who; pragma integrity_check";
            let ran = site.run(
                tier,
                GROUP,
                "/usr/bin/sqlite3",
                &[&database.display().to_string(), count],
            );
            let expected = format!("python|{ROWS}\nshell|{ROWS}\nok\n");
            assert_eq!(output(&ran), expected, "{tier} {mode} {}", errors(&ran));
        }
    }
}

fn write_as_two(site: &mut Site, tier: Tier, database: &str) -> [std::process::Child; 2] {
    let shell = format!(
        "row=0; while [ $row -lt {ROWS} ]; do row=$((row + 1))
         sqlite3 -cmd '.timeout 60000' '{database}' \"insert into rows values('shell', $row)\" || exit
         done"
    );
    let python = format!(
        "import sqlite3\n\
         for row in range({ROWS}):\n    \
             connection = sqlite3.connect('{database}', timeout=60)\n    \
             connection.execute('insert into rows values(?, ?)', ('python', row))\n    \
             connection.commit()\n    \
             connection.close()\n"
    );
    [
        ("org.example.shell", "/bin/sh", shell),
        ("org.example.python", PYTHON, python),
    ]
    .map(|(label, program, script)| {
        site.label = label;
        let (mut command, profile) = site.command(tier, GROUP, program, &["-c", &script]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("portolan-launch");
        drop(profile);
        child
    })
}

#[test]
fn who_is_in_no_group_does_not_read_its_database() {
    for tier in tiers() {
        let mut site = Site::new();
        let group = "group.granted".parse().expect("a group");
        let container = Home::new(site.home(), None).group_container(&group);
        let database = container.join("shared.db").display().to_string();
        let make = format!("sqlite3 '{database}' 'create table rows(row)'");
        site.shell(tier, GROUP, &make);
        site.label = "org.example.other";
        let arguments = [&*database, "select * from rows; select 'read'"];
        let member = site.run(tier, GROUP, "/usr/bin/sqlite3", &arguments);
        assert_eq!(output(&member), "read\n", "{tier} {}", errors(&member));
        let ran = site.run(tier, "", "/usr/bin/sqlite3", &arguments);
        assert_eq!(output(&ran), "", "{tier}");
    }
}

#[test]
fn a_shell_and_a_python_program_run_unchanged() {
    const PROGRAM: &str = "
import concurrent.futures, hashlib, json, multiprocessing, os, pathlib, subprocess, tempfile, threading, time
def square(n):
    return n * n
with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory) / 'file.json'
    path.write_text(json.dumps({'n': [square(n) for n in range(4)]}))
    assert json.loads(path.read_text())['n'] == [0, 1, 4, 9]
    path.rename(path.with_suffix('.old'))
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(square, range(8))) == [n * n for n in range(8)]
read, write = multiprocessing.Pipe()
child = multiprocessing.get_context('fork').Process(target=lambda: write.send(os.getpid()))
child.start()
assert read.recv() == child.pid
child.join()
done = subprocess.run(['sort', '-r'], input='a\\nb\\n', text=True, capture_output=True, check=True)
assert done.stdout == 'b\\na\\n'
assert len(hashlib.sha256(os.urandom(32)).hexdigest()) == 64
assert time.localtime().tm_year > 2000
pathlib.Path.home().joinpath('kept').write_text('kept')
print('done')
";
    const SCRIPT: &str = "
set -eu
cd \"$HOME\"; mkdir -p made/deep; date > made/deep/date; grep -c : made/deep/date
tar cf made.tar made; tar tf made.tar | sort | tail -n 1; gzip -9 made.tar
find . -name '*.gz' -exec basename {} \\;
seq 3 | sed 's/^/n/' | xargs -n 1 echo | wc -l
cat <<END | awk '{ print $2 }'
a here document
END
(trap 'echo caught' TERM; kill -TERM $(exec sh -c 'echo $PPID')) 
mkfifo pipe; echo through > pipe & cat pipe; wait
rm -r made";
    for tier in tiers() {
        let site = Site::new();
        let ran = site.run(tier, "", PYTHON, &["-c", PROGRAM]);
        assert_eq!(output(&ran), "done\n", "{tier} {}", errors(&ran));
        let ran = site.shell(tier, "", SCRIPT);
        let expected = "1\nmade/deep/date\nmade.tar.gz\n3\nhere\ncaught\nthrough\n";
        assert_eq!(output(&ran), expected, "{tier} {}", errors(&ran));
    }
}
