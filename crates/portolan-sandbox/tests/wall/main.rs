//! Attempts to get out of the walls, in each tier that this machine has. Each is made outside too,
//! where it must succeed: an attempt that fails everywhere proves nothing.
//!
//! If the tests are root's, the programs are run as `nobody`; else as the user of the tests.

mod world;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;

use portolan_sandbox::probe::Part;
use portolan_sandbox::profile::Tier;

use world::{NOTHING, World, as_user, available, is_root};

/// All of them get out outside, and none does inside.
fn none_gets_out(names: &[&str]) {
    none_gets_out_with(NOTHING, names);
}

fn none_gets_out_with(entitlements: &str, names: &[&str]) {
    for tier in available() {
        let mut world = World::new();
        let inside = world.inside(tier, entitlements, names);
        for name in names {
            let reason = inside.get(*name).map(String::as_str);
            assert!(
                reason.is_some_and(|reason| reason != "out"),
                "{tier} {name}: {inside:?}"
            );
        }
        assert!(world.victim_is_alive(), "{tier}");
        let outside = world.outside(names);
        for name in names {
            assert_eq!(
                outside.get(*name).map(String::as_str),
                Some("out"),
                "{name} outside"
            );
        }
    }
}

/// Attempts that need privileges, or a part of the kernel, which there may not be outside either.
fn none_gets_out_here(names: &[&str]) {
    for tier in available() {
        let inside = World::new().inside(tier, NOTHING, names);
        for name in names {
            let reason = inside.get(*name).map(String::as_str);
            assert!(
                reason.is_some_and(|reason| reason != "out"),
                "{tier} {name}: {inside:?}"
            );
        }
    }
}

fn all_work_with(entitlements: &str, tier: Tier, names: &[&str]) {
    let inside = World::new().inside(tier, entitlements, names);
    for name in names {
        assert_eq!(
            inside.get(*name).map(String::as_str),
            Some("out"),
            "{tier} {name}"
        );
    }
}

#[test]
fn w01_files_outside_are_not_read() {
    none_gets_out(&[
        "read_passwd",
        "read_other_home",
        "read_home_file",
        "read_own_0600",
        "list_root",
        "list_home",
        "symlink_to_secret",
        "open_fifo",
    ]);
    none_gets_out_here(&["read_shadow", "dotdot_from_container"]);
}

#[test]
fn w02_files_outside_are_not_changed() {
    none_gets_out(&[
        "write_outside",
        "truncate_outside",
        "rename_out",
        "link_out",
        "symlink_outside",
        "mkdir_outside",
        "write_tmp",
        "link_in",
        "rename_in",
        "remove_outside",
    ]);
    none_gets_out_here(&["bind_read_only_system"]);
}

#[test]
fn w03_attributes_of_files_outside_are_not_changed() {
    none_gets_out(&[
        "chmod_outside",
        "fchmodat2_outside",
        "chown_outside",
        "lchown_outside",
        "utimes_outside",
        "setxattr_outside",
        "getxattr_outside",
        "path_fd_chmod",
        "inotify_outside",
    ]);
    for tier in available() {
        all_work_with(NOTHING, tier, &["fchmod_own"]);
    }
}

#[test]
fn w04_there_is_no_socket_of_any_family() {
    none_gets_out(&["each_family", "netlink"]);
    none_gets_out_here(&["vsock"]);
}

#[test]
fn w05_sockets_with_a_path_are_not_reached() {
    none_gets_out(&["unix_stream", "unix_datagram"]);
}

#[test]
fn w06_no_detour_leads_to_a_socket() {
    none_gets_out(&["unix_stream_by_symlink", "unix_stream_by_descriptor"]);
}

#[test]
fn w07_pairs_and_inherited_sockets_reach_nobody_else() {
    none_gets_out(&[
        "pair_datagram_sendto",
        "pair_datagram_sendmsg",
        "pair_datagram_connect",
        "pair_raw_sendmsg",
        "pair_datagram_abstract",
    ]);
    none_gets_out_here(&[
        "pair_stream_connect",
        "bootstrap_reconnect",
        "bootstrap_address",
    ]);
}

#[test]
fn w08_abstract_sockets_are_not_reached() {
    none_gets_out(&["abstract_stream", "abstract_datagram"]);
}

#[test]
fn w09_the_network_is_not_reached() {
    none_gets_out(&[
        "tcp_connect",
        "tcp_fast_open",
        "udp_send",
        "udp_bind",
        "tcp_listen",
        "tcp_listen_without_bind",
    ]);
    none_gets_out_here(&["mptcp_connect"]);
}

const CLIENT: &str = "\"com.apple.security.app-sandbox\" = true\n\
                      \"com.apple.security.network.client\" = true\n";
const SERVER: &str = "\"com.apple.security.app-sandbox\" = true\n\
                      \"com.apple.security.network.server\" = true\n";

#[test]
fn w09_a_client_connects_and_does_not_listen() {
    for tier in available() {
        all_work_with(CLIENT, tier, &["tcp_connect", "udp_send"]);
        all_work_with(SERVER, tier, &["tcp_listen", "udp_bind"]);
    }
    none_gets_out_with(
        CLIENT,
        &["tcp_listen", "udp_bind", "netlink", "abstract_stream"],
    );
    none_gets_out_with(SERVER, &["tcp_connect", "tcp_fast_open", "unix_stream"]);
}

#[test]
fn w10_other_processes_are_not_told_anything() {
    none_gets_out(&[
        "kill_victim",
        "tgkill_victim",
        "queue_signal",
        "pidfd_signal",
        "own_by_signal",
        "limit_victim",
        "priority_victim",
        "affinity_victim",
        "scheduler_victim",
        "io_priority_victim",
    ]);
    none_gets_out_here(&["priority_user"]);
    // It is no error, but reaches nobody: the victim lives.
    for tier in available() {
        let mut world = World::new();
        world.inside(tier, NOTHING, &["kill_all"]);
        assert!(world.victim_is_alive());
    }
}

#[test]
fn w11_other_processes_are_not_looked_into() {
    none_gets_out(&[
        "ptrace_seize",
        "read_memory",
        "environ_victim",
        "cmdline_victim",
        "mem_victim",
        "root_victim",
        "fds_victim",
        "exe_victim",
        "oom_victim",
        "getfd_victim",
        "kcmp_victim",
        "read_affinity_victim",
    ]);
}

#[test]
fn w12_nothing_is_shared_by_name() {
    none_gets_out(&[
        "open_shm",
        "create_shm",
        "sysv_shm",
        "sysv_semaphore",
        "sysv_queue",
        "add_key",
        "read_keyring",
        "message_queue",
    ]);
}

#[test]
fn w13_there_are_no_new_namespaces_and_mounts() {
    none_gets_out_here(&[
        "new_user",
        "clone_user",
        "clone3_user",
        "mount_tmpfs",
        "unmount",
        "change_root",
        "turn_root",
        "join_victim",
        "clone_tree",
        "move_tree",
    ]);
}

#[test]
fn w14_the_insides_of_the_kernel_are_out_of_reach() {
    none_gets_out_here(&[
        "load_bpf",
        "perf",
        "user_faults",
        "io_uring",
        "open_by_handle",
        "handle_of",
        "kernel_log",
        "no_randomization",
        "load_kernel",
        "load_module",
    ]);
    for tier in available() {
        let inside = World::new().inside(tier, NOTHING, &["far_number", "io_uring"]);
        assert_eq!(inside["far_number"], "ENOSYS");
        assert_eq!(inside["io_uring"], "EPERM");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn w15_other_kinds_of_numbers_kill() {
    for tier in available() {
        let inside = World::new().inside(tier, NOTHING, &["interrupt_80", "x32_socket"]);
        for name in ["interrupt_80", "x32_socket"] {
            assert_eq!(inside[name], "SIGSYS", "{tier} {name}");
        }
    }
}

#[test]
fn w16_there_is_no_terminal() {
    let typing = [
        "type_into_terminal",
        "type_into_terminal_high",
        "paste_into_terminal",
    ];
    for tier in available() {
        let world = World::in_a_terminal();
        let names = [
            &typing[..],
            &["open_tty", "controlling_terminal", "has_terminal"],
        ]
        .concat();
        let inside = world.inside(tier, NOTHING, &names);
        for name in typing {
            assert_eq!(inside[name], "EPERM", "{tier} {name}");
        }
        assert_ne!(inside["open_tty"], "out", "{tier}");
        assert_eq!(inside["controlling_terminal"], "ENOTTY", "{tier}");
        assert_eq!(inside["has_terminal"], "out", "{tier}");
    }
}

#[test]
fn w17_there_are_no_privileges_and_none_to_gain() {
    none_gets_out_here(&["become_root", "any_capability", "mknod_block"]);
    for tier in available() {
        let inside = World::new().inside(tier, NOTHING, &["new_privileges"]);
        assert_eq!(inside["new_privileges"], "EPERM", "it has no_new_privs");
    }
    if is_root() {
        for tier in available() {
            let world = World::new();
            assert_eq!(world.outside(&["set_user_id"])["set_user_id"], "out");
            let program = world::path_of(&world, "setuid-python");
            let entitlements = format!(
                "{NOTHING}\"com.apple.security.temporary-exception.files.absolute-path.read-only\" \
                 = [{program:?}]"
            );
            let inside = world.inside(tier, &entitlements, &["set_user_id"]);
            assert_eq!(inside["set_user_id"], "EPERM", "{tier}");
        }
    }
}

#[test]
fn w18_nothing_else_is_inherited() {
    none_gets_out_here(&["leaked_descriptor"]);
}

#[test]
fn w19_settings_of_the_kernel_are_not_opened() {
    none_gets_out_here(&["write_core_pattern", "open_kmsg"]);
    none_gets_out(&["read_proc_sys", "read_proc_net"]);
}

#[test]
fn w19_root_is_refused() {
    if !is_root() {
        return;
    }
    let output = Command::new(world::LAUNCHER)
        .args(["3", "x"])
        .output()
        .expect("portolan-launch");
    assert_eq!(output.status.code(), Some(78));
    let sentence = String::from_utf8_lossy(&output.stderr);
    assert!(sentence.contains("UserName"), "{sentence}");
}

/// What T1 cannot hide. The documentation lists the same.
const LEAKS: &[&str] = &[
    "stat_outside",
    "access_outside",
    "readlink_outside",
    "chdir_outside",
    "session_victim",
    "stat_victim",
];

#[test]
fn w20_only_the_known_metadata_leaks_and_none_in_t2() {
    for tier in available() {
        let world = World::new();
        let (outside, inside) = (world.outside(LEAKS), world.inside(tier, NOTHING, LEAKS));
        for name in LEAKS {
            assert_eq!(outside[*name], "out", "{name} outside");
            match tier {
                Tier::T1 => assert_eq!(inside[*name], "out", "{name}: no longer a leak"),
                Tier::T2 => assert_ne!(inside[*name], "out", "{name}"),
            }
        }
    }
}

#[test]
fn w21_t1_holds_where_user_namespaces_are_off() {
    let mut world = World::without_namespaces();
    assert_eq!(world.tiers().t1, Ok(()));
    let names = [
        "read_own_0600",
        "truncate_outside",
        "chmod_outside",
        "inotify_outside",
        "unix_stream",
        "pair_datagram_sendto",
        "abstract_datagram",
        "udp_send",
        "kill_victim",
        "limit_victim",
        "ptrace_seize",
        "sysv_shm",
        "add_key",
        "io_uring",
        "new_user",
    ];
    let inside = world.inside(Tier::T1, NOTHING, &names);
    for name in names {
        assert_ne!(inside[name], "out", "{name}");
    }
    assert_eq!(
        world.inside(Tier::T1, NOTHING, &["bootstrap"])["bootstrap"],
        "out"
    );
    assert!(world.victim_is_alive());
}

#[test]
fn w21_t2_is_there_where_user_namespaces_are_on() {
    let t2 = World::new().tiers().t2;
    assert_eq!(t2.is_ok(), World::user_has_namespaces(), "{t2:?}");
}

#[test]
fn w22_a_missing_tier_is_named_and_nothing_is_started() {
    let world = World::without_namespaces();
    let missing = world.tiers().t2.expect_err("T2 needs user namespaces");
    assert_eq!(missing.part, Part::Namespaces);
    let output = world.confined(Tier::T2, NOTHING, "/bin/echo", &["started"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(output.stdout.is_empty(), "nothing is started");
    let sentence = String::from_utf8_lossy(&output.stderr);
    assert!(sentence.contains("T2 needs user namespaces"), "{sentence}");
}

#[test]
fn a_client_gets_its_answer_and_shells_and_databases_work() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let tiers = available();
    let count = tiers.len();
    let server = std::thread::spawn(move || {
        for _ in 0..count {
            let (mut connection, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let read = connection.read(&mut request).expect("a request");
            assert!(request[..read].starts_with(b"GET / "));
            let answer = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi";
            connection.write_all(answer).expect("an answer");
        }
    });
    for tier in tiers {
        let world = World::new();
        let script = format!(
            "curl -sS http://{address}/; cat <<X\n here\nX\n\
             sqlite3 $HOME/a.db 'create table t(x); insert into t values(2); select x from t'"
        );
        let output = world.confined(tier, CLIENT, "/bin/sh", &["-c", &script]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"hi here\n2\n", "{tier} {errors}");
    }
    server.join().expect("all clients came");
}

#[test]
fn members_of_a_group_share_a_socket_with_a_path_in_t2() {
    let group = format!("{NOTHING}\"com.apple.security.application-groups\" = \"group.wall\"\n");
    if !available().contains(&Tier::T2) {
        return;
    }
    let world = World::new();
    let names = [
        "group_socket",
        "unix_stream",
        "abstract_stream",
        "unix_datagram",
    ];
    let inside = world.inside(Tier::T2, &group, &names);
    assert_eq!(inside["group_socket"], "out");
    for outside in &names[1..] {
        assert_ne!(inside[*outside], "out", "{outside}");
    }
    let t1 = world.inside(Tier::T1, &group, &["group_socket"]);
    assert_eq!(t1["group_socket"], "EPERM");
}

#[test]
fn what_a_program_needs_works() {
    let group = format!("{NOTHING}\"com.apple.security.application-groups\" = \"group.wall\"\n");
    for tier in available() {
        all_work_with(
            &group,
            tier,
            &[
                "own_container",
                "temporary_files",
                "group_container",
                "pair_sequenced",
                "pass_descriptor",
                "own_child",
                "run_program",
                "own_program",
                "threads",
                "bootstrap",
                "sqlite",
            ],
        );
    }
}

#[test]
fn containers_are_their_owners_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let tier = available()[0];
    let world = World::new();
    world.confined(tier, NOTHING, "/bin/true", &[]);
    let container = world
        .home()
        .container(&"org.example.wall".parse().expect("a label"));
    for directory in [container.join("tmp"), container] {
        let mode = fs::metadata(&directory)
            .expect("it was made")
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o700, "{directory:?}");
    }
}

#[test]
fn a_program_ends_as_it_does_without_walls() {
    for tier in available() {
        let world = World::new();
        let ended = |script| {
            world
                .confined(tier, NOTHING, "/bin/sh", &["-c", script])
                .status
        };
        let status = ended("exit 7");
        assert_eq!(status.code(), Some(7), "{tier} {status}");
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(ended("kill -TERM $$").signal(), Some(15), "{tier}");
        assert_eq!(ended("kill -KILL $$").signal(), Some(9), "{tier}");
        let missing = world.confined(tier, NOTHING, "/no/such/program", &[]);
        assert_eq!(missing.status.code(), Some(127), "{tier}");
        let sentence = String::from_utf8_lossy(&missing.stderr);
        assert!(sentence.contains("/no/such/program"), "{sentence}");
    }
}

#[test]
fn a_profile_that_can_be_changed_is_refused() {
    use std::os::fd::AsRawFd as _;
    let file = fs::File::open("/dev/null").expect("open");
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).expect("fcntl");
    let number = file.as_raw_fd().to_string();
    let output = as_user(Command::new(world::LAUNCHER))
        .args([&number, "x"])
        .output();
    assert_eq!(output.expect("portolan-launch").status.code(), Some(71));
}
