//! The statements about walls. What is attempted is in the table of `portolan_sandbox::selftest`.

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;

use portolan_sandbox::probe::Part;
use portolan_sandbox::profile::Tier;
use portolan_sandbox::selftest::{Outcome, Selftest, Verdict, Want, attempts};
use rustix::io::Errno;

use crate::ways::{self, LAUNCHER, comes_to, is_root, remark, statement, statement_and};
use crate::world::{World, as_user};

#[test]
fn w01_files_outside_are_not_read() {
    statement(1, &["read_shadow"]);
}

#[test]
fn w02_files_outside_are_not_changed() {
    statement(2, &["write_system"]);
}

#[test]
fn w03_attributes_of_files_outside_are_not_changed() {
    // Not every file system has extended attributes.
    statement(3, &["setxattr_outside", "getxattr_outside"]);
}

#[test]
fn w04_there_is_no_socket_of_any_family() {
    statement(4, &[]);
}

#[test]
fn w05_sockets_with_a_path_are_not_reached() {
    statement(5, &["session_bus", "system_bus", "systemd_run"]);
}

#[test]
fn w06_no_detour_leads_to_the_servers_socket() {
    statement(6, &[]);
}

#[test]
fn w07_pairs_and_inherited_sockets_reach_nobody_else() {
    // The kernel itself lets nobody do that with connected sockets.
    let connected = [
        "pair_stream_connect",
        "bootstrap_connect",
        "bootstrap_sendmsg",
    ];
    statement(7, &connected);
}

#[test]
fn w08_abstract_sockets_are_not_reached() {
    statement(8, &[]);
}

#[test]
fn w09_the_network_is_reached_with_an_entitlement_only() {
    // Modules, and what only root has.
    statement(
        9,
        &["mptcp_connect", "sctp", "vsock", "alg", "icmp", "packet"],
    );
}

#[test]
fn w10_other_processes_are_not_told_anything() {
    // What would harm others is not made outside, and root's test is itself the parent.
    statement(10, &["signal_all", "priority_user", "kill_parent"]);
}

/// Else a victim that is said to be unchanged would show nothing.
#[test]
fn w10_a_victim_notices_what_is_done_to_it() {
    ways::each(|way| {
        for name in NOTICED {
            let attempts: Vec<_> = attempts().filter(|one| one.name == *name).collect();
            let report = way.selftest.run(&[], &attempts).expect("a report");
            assert!(report.noticed, "{name}");
        }
    });
}

const NOTICED: &[&str] = &[
    "signal_victim",
    "pidfd_signal",
    "queue_signal",
    "limit_victim",
    "priority_victim",
    "scheduler_victim",
    "io_priority_victim",
    "oom_victim",
    "chmod_outside",
    "utimes_outside",
    "truncate_outside",
    "remove_outside",
];

#[test]
fn w11_other_processes_are_not_looked_into() {
    statement(11, &["madvise_victim"]);
}

#[test]
fn w12_nothing_is_shared_by_name() {
    statement(12, &[]);
}

#[test]
fn w13_there_are_no_new_namespaces_and_mounts() {
    let harmful = ["unmount", "move_tree", "set_mount", "turn_root"];
    // Where user namespaces are off, only root can show these.
    let roots = [
        "new_user",
        "clone_user",
        "clone3_user",
        "mount_tmpfs",
        "new_filesystem",
        "clone_tree",
        "change_root",
        "join_victim",
    ];
    statement(13, &[&harmful[..], &roots[..]].concat());
}

#[test]
fn w14_the_insides_of_the_kernel_are_out_of_reach() {
    // What only root has, or not every kernel.
    let not_everywhere = [
        "load_bpf",
        "perf",
        "user_faults",
        "io_uring",
        "open_by_handle",
        "handle_of",
        "kernel_log",
        "load_kernel",
        "load_module",
        "load_module_file",
        "fanotify",
        "unknown_number",
    ];
    statement_and(14, &not_everywhere, |report| {
        comes_to(report, "unknown_number", &Outcome::Refused(Errno::NOSYS));
        comes_to(report, "io_uring", &Outcome::Refused(Errno::PERM));
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn w15_other_kinds_of_numbers_kill() {
    const SIGSYS: i32 = 31;
    // Most kernels have no x32, and some no i386.
    statement_and(15, &["x32_socket", "interrupt_80"], |report| {
        comes_to(report, "interrupt_80", &Outcome::Killed(SIGSYS));
        comes_to(report, "x32_socket", &Outcome::Killed(SIGSYS));
    });
}

#[test]
fn w16_there_is_no_terminal_to_type_into() {
    let typing = ["type_into", "type_into_high", "paste_into"];
    // Most kernels let only root type for somebody else.
    statement_and(16, &typing, |report| {
        for name in typing {
            comes_to(report, name, &Outcome::Refused(Errno::PERM));
        }
    });
}

#[test]
fn w17_there_are_no_privileges_and_none_to_gain() {
    let roots = [
        "set_user_id",
        "become_root",
        "any_capability",
        "mknod_block",
    ];
    statement(17, &roots);
    if !is_root() {
        remark("MISSING: a program that sets its user id to root's, which only root can make");
    }
}

#[test]
fn w18_of_a_hundred_open_descriptors_none_is_inherited() {
    statement(18, &[]);
}

#[test]
fn w19_settings_and_devices_of_the_kernel_are_not_opened() {
    statement(19, &["open_kmsg", "open_disk", "write_settings"]);
}

#[test]
fn w19_a_program_of_roots_is_refused() {
    if !is_root() {
        remark("MISSING: started by root");
        return;
    }
    let mut command = Command::new(LAUNCHER);
    let output = command.args(["3", "x"]).output().expect("portolan-launch");
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
    "stat_victim",
    "session_victim",
];

#[test]
fn w20_only_the_known_metadata_leaks_and_none_in_t2() {
    let leaks = attempts().filter(|one| one.wanted(Tier::T1) == Want::Leak);
    assert_eq!(leaks.map(|one| one.name).collect::<Vec<_>>(), LEAKS);
    assert!(attempts().all(|one| one.wanted(Tier::T2) != Want::Leak));
    ways::each(|way| {
        for row in way.run(LEAKS).rows {
            for tier in &way.tiers {
                let expected = match tier {
                    Tier::T1 => Verdict::Leak,
                    Tier::T2 => Verdict::Held,
                };
                assert_eq!(
                    row.verdict(*tier),
                    Some(expected),
                    "{tier} {}",
                    way.says(&row)
                );
            }
        }
    });
}

#[test]
fn w21_the_walls_are_the_same_for_files_when_refusals_are_reported() {
    hold_with_reports(1..=3);
}

#[test]
fn w21_the_walls_are_the_same_for_sockets_when_refusals_are_reported() {
    hold_with_reports(4..=9);
}

#[test]
fn w21_the_walls_are_the_same_for_processes_when_refusals_are_reported() {
    hold_with_reports(10..=13);
}

#[test]
fn w21_the_walls_are_the_same_for_all_else_when_refusals_are_reported() {
    hold_with_reports(14..=21);
}

/// Who is asked about a call lets none through that the walls would not.
fn hold_with_reports(statements: RangeInclusive<u8>) {
    let all: Vec<_> = attempts()
        .filter(|one| statements.contains(&one.statement))
        .collect();
    ways::each(|way| {
        let selftest = Selftest::new(Path::new(LAUNCHER)).expect("portolan-probe");
        let selftest = selftest.with_reports(true);
        let report = selftest.run(&way.tiers, &all).expect("a report");
        for row in &report.rows {
            for tier in &way.tiers {
                let verdict = row.verdict(*tier).expect("it was made");
                assert!(verdict.is_good(), "{tier} {verdict:?} {}", way.says(row));
            }
        }
        assert_eq!(report.changes, []);
    });
}

/// All other attempts are made by the tests of their statements.
#[test]
fn w21_what_a_program_needs_works_and_each_attempt_has_a_statement() {
    assert!(attempts().all(|one| (1..=21).contains(&one.statement)));
    statement(21, &[]);
}

/// What cannot be built is named and not tested. So something else has to say what can be built.
#[test]
fn w21_t2_is_there_where_the_user_has_namespaces() {
    let all = "--user --map-current-user --mount --pid --fork --mount-proc --ipc --net --uts";
    let mut command = as_user(Command::new("unshare"));
    let made = command.args(all.split(' ')).arg("true").output();
    let made = made.expect("unshare, of util-linux").status.success();
    let selftest = Selftest::new(Path::new(LAUNCHER)).expect("portolan-probe");
    let found = selftest.tiers().expect("tiers").t2;
    assert_eq!(found.is_ok(), made, "{found:?}");
}

#[test]
fn w22_a_missing_tier_is_named_and_nothing_is_started() {
    let world = World::without_namespaces();
    let missing = world.tiers().t2.expect_err("T2 needs user namespaces");
    assert_eq!(missing.part, Part::Namespaces);
    let output = world.confined(Tier::T2, "", "/bin/echo", &["started"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(output.stdout.is_empty(), "nothing is started");
    let sentence = String::from_utf8_lossy(&output.stderr);
    assert!(sentence.contains("T2 needs user namespaces"), "{sentence}");
}

#[test]
fn w42_channels_and_shared_memory_are_the_same_inside() {
    let needed = [
        "bootstrap",
        "pair_sequenced",
        "shared_ring",
        "own_child",
        "threads",
    ];
    ways::each(|way| {
        let report = way.run(&needed);
        for row in &report.rows {
            assert_eq!(row.outside, Some(Outcome::Out), "{}", way.says(row));
            for (tier, outcome) in &row.inside {
                assert_eq!(*outcome, Outcome::Out, "{tier} {}", way.says(row));
            }
        }
    });
}
