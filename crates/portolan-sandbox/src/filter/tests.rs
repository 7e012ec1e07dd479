use super::assemble::{
    ALLOW, AND, ERRNO, JUMP, JUMP_EQUAL, JUMP_GREATER_EQUAL, KILL_PROCESS, LOAD, RETURN, WAIT, X32,
};
use super::table::{CALLS, Case, Condition, ENOSYS, EPERM, Needs, Rule};
use super::*;

/// What the kernel lets a filter look at.
#[derive(Clone, Copy, Debug)]
struct Data {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

/// The kernel's interpreter, as far as filters here use it. `None` if the program is not valid.
fn run(program: &[Instruction], data: &Data) -> Option<u32> {
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        let instruction = program.get(at)?;
        at += 1;
        let operand = instruction.operand;
        let jump = |holds| {
            usize::from(if holds {
                instruction.jump_true
            } else {
                instruction.jump_false
            })
        };
        match instruction.code {
            LOAD => accumulator = word(data, operand)?,
            AND => accumulator &= operand,
            JUMP => at += usize::try_from(operand).ok()?,
            JUMP_EQUAL => at += jump(accumulator == operand),
            JUMP_GREATER_EQUAL => at += jump(accumulator >= operand),
            RETURN => return Some(operand),
            _ => return None,
        }
    }
}

fn word(data: &Data, offset: u32) -> Option<u32> {
    match offset {
        0 => Some(data.number),
        4 => Some(data.architecture),
        _ => {
            let index = usize::try_from(offset.checked_sub(16)? / 8).ok()?;
            let argument = *data.arguments.get(index)?;
            let half = if offset.is_multiple_of(8) {
                argument
            } else {
                argument >> 32
            };
            Some(half as u32)
        }
    }
}

/// What the table says, found without any of what makes programs of it.
fn expected(
    architecture: Architecture,
    allowances: Allowances,
    number: u32,
    arguments: &[u64],
) -> u32 {
    let rule = CALLS.iter().find_map(|(_, numbers, rule)| {
        let known = match architecture {
            Architecture::X86_64 => numbers.x86_64,
            Architecture::Aarch64 => numbers.aarch64,
        };
        (known == Some(number)).then_some(*rule)
    });
    let Some(Rule { cases, errno }) = rule else {
        return ERRNO | u32::from(ENOSYS);
    };
    let holds = |condition: &Condition| match *condition {
        Condition::OneOf(index, mask, values) => {
            values.contains(&(arguments[usize::from(index)] as u32 & mask))
        }
        Condition::Null(index) => arguments[usize::from(index)] == 0,
    };
    let allows = |case: &Case| case.needs.are_met(allowances) && case.conditions.iter().all(holds);
    match cases.iter().any(allows) {
        true => ALLOW,
        false => ERRNO | u32::from(errno),
    }
}

const ARCHITECTURES: [Architecture; 2] = [Architecture::X86_64, Architecture::Aarch64];

fn all_allowances() -> impl Iterator<Item = Allowances> {
    (0..16u8).map(|bits| Allowances {
        own_tree: bits & 1 != 0,
        client: bits & 2 != 0,
        server: bits & 4 != 0,
        group_sockets: bits & 8 != 0,
    })
}

/// Values of arguments that could matter to any condition, with other bits set above and below.
fn interesting() -> Vec<u64> {
    let conditions = CALLS
        .iter()
        .flat_map(|(_, _, rule)| rule.cases)
        .flat_map(|case| case.conditions);
    let values = conditions.flat_map(|condition| match condition {
        Condition::OneOf(_, _, values) => *values,
        Condition::Null(_) => &[],
    });
    let mut all: Vec<u64> = values.map(|value| u64::from(*value)).collect();
    all.extend([
        0x5412,
        0x541c,
        0x1000_0000,
        0x0002_0000,
        262,
        0x2000,
        0o6755,
        u64::MAX,
    ]);
    all.sort_unstable();
    all.dedup();
    let high = all.clone().into_iter().map(|value| value | 1 << 32);
    let flagged: Vec<u64> = all.iter().map(|value| value | 0o2_004_000).collect();
    let high: Vec<u64> = high.collect();
    [all, high, flagged].concat()
}

#[test]
fn every_number_gets_what_the_table_says() {
    for architecture in ARCHITECTURES {
        for allowances in all_allowances() {
            let program = filter(architecture, allowances);
            for number in (0..2000).chain([X32 - 1]) {
                for arguments in [[0; 6], [1 << 32; 6], [u64::MAX; 6]] {
                    let data = Data {
                        number,
                        architecture: architecture.token(),
                        arguments,
                    };
                    let expected = expected(architecture, allowances, number, &arguments);
                    assert_eq!(run(&program, &data), Some(expected), "{data:?}");
                }
            }
        }
    }
}

#[test]
fn every_condition_is_checked_as_the_table_has_it() {
    let values = interesting();
    for architecture in ARCHITECTURES {
        for allowances in [NOTHING, CLIENT, SERVER, EVERYTHING] {
            let program = filter(architecture, allowances);
            for (_, numbers, rule) in CALLS {
                let number = match architecture {
                    Architecture::X86_64 => numbers.x86_64,
                    Architecture::Aarch64 => numbers.aarch64,
                };
                let conditional = rule.cases.iter().any(|case| !case.conditions.is_empty());
                let (Some(number), true) = (number, conditional) else {
                    continue;
                };
                for arguments in variations(rule, &values) {
                    let data = Data {
                        number,
                        architecture: architecture.token(),
                        arguments,
                    };
                    let expected = expected(architecture, allowances, number, &arguments);
                    assert_eq!(run(&program, &data), Some(expected), "{data:?}");
                }
            }
        }
    }
}

/// One argument of interest at a time, while the others are such that the conditions hold.
fn variations(rule: &Rule, values: &[u64]) -> Vec<[u64; 6]> {
    let mut all = Vec::new();
    for case in rule.cases {
        let mut good = [0; 6];
        for condition in case.conditions {
            if let Condition::OneOf(index, _, [first, ..]) = condition {
                good[usize::from(*index)] = u64::from(*first);
            }
        }
        for index in 0..6 {
            for value in values {
                let mut arguments = good;
                arguments[index] = *value;
                all.push(arguments);
            }
        }
    }
    all
}

/// What whoever is asked about a call that waits makes of it.
fn answered(architecture: Architecture, allowances: Allowances, data: &Data) -> u32 {
    match verdict(architecture, allowances, data.number, &data.arguments) {
        Verdict::Allowed => ALLOW,
        Verdict::Refused(errno) => refused(errno),
    }
}

/// Nothing comes of a call by being asked about that the ordinary filter would not have made of it:
/// above all, none goes on that it refuses.
#[test]
fn who_is_asked_says_what_the_ordinary_filter_says_call_by_call() {
    let values = interesting();
    for architecture in ARCHITECTURES {
        for allowances in [NOTHING, CLIENT, SERVER, EVERYTHING, OWN_TREE, SOCKETS] {
            let ordinary = filter(architecture, allowances);
            let reporting = reporting(architecture, allowances);
            assert!(reporting.len() < 4096, "the kernel takes no longer ones");
            for number in (0..2000).chain([X32 - 1, X32, u32::MAX]) {
                for arguments in variations_of(architecture, number, &values) {
                    let data = Data {
                        number,
                        architecture: architecture.token(),
                        arguments,
                    };
                    let expected = run(&ordinary, &data).expect("an answer");
                    let found = match run(&reporting, &data) {
                        Some(WAIT) => answered(architecture, allowances, &data),
                        other => other.expect("an answer"),
                    };
                    assert_eq!(found, expected, "{allowances:?} {data:x?}");
                }
            }
        }
    }
}

fn variations_of(architecture: Architecture, number: u32, values: &[u64]) -> Vec<[u64; 6]> {
    let known =
        { CALLS.iter() }.find(|(_, numbers, _)| architecture.one_of(*numbers) == Some(number));
    let conditional = known.filter(|(_, _, rule)| {
        let mut cases = rule.cases.iter();
        cases.any(|case| !case.conditions.is_empty())
    });
    let fixed = [[0; 6], [1 << 32; 6], [u64::MAX; 6]];
    let varied = conditional.map(|(_, _, rule)| variations(rule, values));
    varied.into_iter().flatten().chain(fixed).collect()
}

#[test]
fn what_landlock_judges_waits_and_what_an_entitlement_for_the_network_would_allow() {
    let answer = |allowances, name: &str, arguments: &[u64]| {
        let number = Architecture::X86_64.number(name).expect("a call");
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        let program = reporting(Architecture::X86_64, allowances);
        run(&program, &call(number, all)).expect("an answer")
    };
    for name in [
        "open", "openat", "openat2", "execve", "unlinkat", "truncate",
    ] {
        assert_eq!(answer(NOTHING, name, &[]), WAIT, "{name}");
    }
    assert_eq!(answer(NOTHING, "read", &[]), ALLOW);
    assert_eq!(answer(NOTHING, "unshare", &[]), refused(EPERM));
    // No entitlement would allow it in T1; in T2 its path is looked at.
    assert_eq!(answer(NOTHING, "chmod", &[]), refused(EPERM));
    assert_eq!(answer(OWN_TREE, "chmod", &[]), WAIT);
    assert_eq!(answer(NOTHING, "socket", &[2, 1]), WAIT);
    assert_eq!(answer(CLIENT, "socket", &[2, 1]), ALLOW);
    for never in [[1, 1], [2, 3], [16, 3]] {
        let answer = answer(NOTHING, "socket", &never);
        assert_eq!(answer, refused(EPERM), "{never:?}");
    }
    assert_eq!(answer(NOTHING, "connect", &[3]), WAIT);
    assert_eq!(answer(SERVER, "connect", &[3]), WAIT);
    assert_eq!(answer(CLIENT, "connect", &[3]), ALLOW);
    assert_eq!(answer(CLIENT, "bind", &[3]), WAIT);
}

#[test]
fn other_architectures_and_x32_are_killed() {
    for architecture in ARCHITECTURES {
        let program = filter(architecture, Allowances::default());
        // i386, ARM of 32 bits, the other of the two, and none at all.
        let others = ARCHITECTURES.map(Architecture::token);
        for other in [0x4000_0003, 0x4000_0028, 0].into_iter().chain(
            others
                .into_iter()
                .filter(|one| *one != architecture.token()),
        ) {
            let data = Data {
                number: 39,
                architecture: other,
                arguments: [0; 6],
            };
            assert_eq!(run(&program, &data), Some(KILL_PROCESS), "{other:#x}");
        }
    }
    let program = filter(Architecture::X86_64, Allowances::default());
    for number in [X32, X32 | 41, X32 | 512, X32 | 547, u32::MAX - 1] {
        assert_eq!(
            run(&program, &call(number, [0; 6])),
            Some(KILL_PROCESS),
            "{number:#x}"
        );
    }
    assert_eq!(
        run(&program, &call(u32::MAX, [0; 6])),
        Some(refused(ENOSYS))
    );
}

fn call(number: u32, arguments: [u64; 6]) -> Data {
    Data {
        number,
        architecture: Architecture::X86_64.token(),
        arguments,
    }
}

fn refused(errno: u16) -> u32 {
    ERRNO | u32::from(errno)
}

fn answer(allowances: Allowances, name: &str, arguments: &[u64]) -> u32 {
    let (_, numbers, _) = CALLS
        .iter()
        .find(|(known, ..)| *known == name)
        .expect("a call");
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let data = call(numbers.x86_64.expect("a number"), all);
    run(&filter(Architecture::X86_64, allowances), &data).expect("a program that ends")
}

const NOTHING: Allowances = Allowances {
    own_tree: false,
    client: false,
    server: false,
    group_sockets: false,
};
const EVERYTHING: Allowances = Allowances {
    own_tree: true,
    client: true,
    server: true,
    group_sockets: true,
};
const OWN_TREE: Allowances = Allowances {
    own_tree: true,
    ..NOTHING
};
const SOCKETS: Allowances = Allowances {
    group_sockets: true,
    ..NOTHING
};
const CLIENT: Allowances = Allowances {
    client: true,
    ..NOTHING
};
const SERVER: Allowances = Allowances {
    server: true,
    ..NOTHING
};

#[test]
fn without_entitlements_there_is_no_socket() {
    for family in 0..=45 {
        for kind in [1, 2, 3, 5, 10] {
            assert_eq!(answer(NOTHING, "socket", &[family, kind]), refused(EPERM));
        }
    }
}

#[test]
fn a_pair_of_sockets_has_a_type_that_is_connected() {
    for (kind, expected) in [
        (1, ALLOW),
        (5, ALLOW),
        (2, refused(EPERM)),
        (3, refused(EPERM)),
    ] {
        for flags in [0, 0o2_000_000, 0o2_004_000, 1 << 32] {
            assert_eq!(
                answer(NOTHING, "socketpair", &[1, kind | flags]),
                expected,
                "{kind} {flags:#x}"
            );
        }
    }
    assert_eq!(answer(NOTHING, "socketpair", &[2, 1]), refused(EPERM));
}

#[test]
fn network_entitlements_add_tcp_and_udp_and_no_more() {
    for network in [CLIENT, SERVER] {
        assert_eq!(answer(network, "socket", &[2, 1, 0]), ALLOW);
        assert_eq!(answer(network, "socket", &[10, 2 | 0o2_004_000, 17]), ALLOW);
        // MPTCP, SCTP, raw, ICMP, Unix, netlink, packet, vsock.
        for other in [
            [2, 1, 262],
            [2, 1, 132],
            [2, 3, 1],
            [2, 2, 1],
            [1, 1, 0],
            [16, 3, 0],
            [17, 3, 0],
            [40, 1, 0],
        ] {
            assert_eq!(
                answer(network, "socket", &other),
                refused(EPERM),
                "{other:?}"
            );
        }
    }
    assert_eq!(answer(CLIENT, "connect", &[3]), ALLOW);
    assert_eq!(answer(CLIENT, "bind", &[3]), refused(EPERM));
    assert_eq!(answer(SERVER, "bind", &[3]), ALLOW);
    assert_eq!(answer(SERVER, "connect", &[3]), refused(EPERM));
}

#[test]
fn an_address_is_not_sent_to_without_an_entitlement() {
    assert_eq!(answer(NOTHING, "sendto", &[3, 1, 1, 0, 0]), ALLOW);
    // An address in memory whose lower half is zero is one too.
    for address in [1, 1 << 32] {
        let arguments = [3, 1, 1, 0, address];
        assert_eq!(answer(NOTHING, "sendto", &arguments), refused(EPERM));
        assert_eq!(answer(CLIENT, "sendto", &arguments), ALLOW);
    }
    let fast_open = [3, 1, 1, 0x2000_0000, 1];
    assert_eq!(answer(SERVER, "sendto", &fast_open), refused(EPERM));
}

#[test]
fn terminals_are_not_typed_into_whatever_the_upper_bits_are() {
    for request in [0x5412u64, 0x541c] {
        for above in [0, 1 << 32, u64::MAX << 32] {
            assert_eq!(
                answer(NOTHING, "ioctl", &[0, request | above]),
                refused(EPERM)
            );
        }
    }
    assert_eq!(answer(NOTHING, "ioctl", &[0, 0x5401]), ALLOW);
}

#[test]
fn no_child_has_namespaces_of_its_own() {
    const FORK: u64 = 0x0120_0011;
    assert_eq!(answer(NOTHING, "clone", &[FORK]), ALLOW);
    for bit in [17, 25, 26, 27, 28, 29, 30] {
        assert_eq!(answer(NOTHING, "clone", &[FORK | 1 << bit]), refused(EPERM));
    }
    for name in [
        "unshare",
        "setns",
        "mount",
        "chroot",
        "io_uring_setup",
        "bpf",
    ] {
        assert_eq!(answer(NOTHING, name, &[]), refused(EPERM), "{name}");
    }
    // clone3.
    let program = filter(Architecture::X86_64, NOTHING);
    assert_eq!(run(&program, &call(435, [0; 6])), Some(refused(ENOSYS)));
}

#[test]
fn paths_are_changed_only_in_a_tree_of_its_own() {
    for name in [
        "chmod",
        "fchmodat2",
        "chown",
        "setxattr",
        "inotify_add_watch",
    ] {
        assert_eq!(answer(NOTHING, name, &[]), refused(EPERM), "{name}");
        assert_eq!(answer(OWN_TREE, name, &[]), ALLOW, "{name}");
    }
    assert_eq!(answer(NOTHING, "utimensat", &[3, 0, 0]), ALLOW);
    assert_eq!(answer(NOTHING, "utimensat", &[3, 1 << 32]), refused(EPERM));
    assert_eq!(answer(NOTHING, "fchmod", &[3]), ALLOW);
}

#[test]
fn group_servers_do_not_let_a_network_client_listen() {
    assert_eq!(answer(SOCKETS, "socket", &[1, 5]), ALLOW);
    assert_eq!(answer(SOCKETS, "socket", &[1, 2]), refused(EPERM));
    assert_eq!(answer(SOCKETS, "bind", &[]), ALLOW);
    let client = Allowances {
        client: true,
        ..SOCKETS
    };
    assert_eq!(answer(client, "bind", &[]), refused(EPERM));
}

#[test]
fn no_number_is_there_twice() {
    for architecture in ARCHITECTURES {
        let numbers = CALLS
            .iter()
            .filter_map(|(_, numbers, _)| match architecture {
                Architecture::X86_64 => numbers.x86_64,
                Architecture::Aarch64 => numbers.aarch64,
            });
        let mut numbers: Vec<u32> = numbers.collect();
        numbers.sort_unstable();
        let all = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "{architecture:?}");
    }
}

#[test]
fn names_have_the_numbers_that_the_c_library_knows() {
    macro_rules! known {
        ($($name:ident)*) => { [$((stringify!($name).trim_start_matches("SYS_"), libc::$name)),*] };
    }
    let known = known!(
        SYS_read SYS_openat SYS_clone SYS_execve SYS_socket SYS_socketpair SYS_connect SYS_bind
        SYS_sendto SYS_sendmsg SYS_sendmmsg SYS_ioctl SYS_fcntl SYS_prctl SYS_ptrace SYS_mount
        SYS_umount2 SYS_unshare SYS_setns SYS_fchmodat SYS_fchownat SYS_setxattr SYS_utimensat
        SYS_prlimit64 SYS_kcmp SYS_bpf SYS_userfaultfd SYS_io_uring_setup SYS_pidfd_getfd
        SYS_process_vm_readv SYS_perf_event_open SYS_keyctl SYS_add_key SYS_shmget SYS_mq_open
        SYS_personality SYS_seccomp SYS_open_by_handle_at SYS_setpriority SYS_ioprio_set
        SYS_sched_setaffinity SYS_inotify_add_watch SYS_futex SYS_statx SYS_mseal
        SYS_landlock_restrict_self SYS_process_madvise SYS_mount_setattr SYS_pivot_root
    );
    let current = Architecture::current().expect("there are filters for it");
    for (name, number) in known {
        let (_, numbers, _) = CALLS
            .iter()
            .find(|(known, ..)| *known == name)
            .expect("a call");
        let found = match current {
            Architecture::X86_64 => numbers.x86_64,
            Architecture::Aarch64 => numbers.aarch64,
        };
        assert_eq!(found.map(i64::from), Some(number), "{name}");
    }
}

#[test]
fn every_need_makes_a_difference() {
    for needs in [
        Needs::OwnTree,
        Needs::Client,
        Needs::Server,
        Needs::Network,
        Needs::GroupSockets,
        Needs::GroupServer,
    ] {
        assert!(!needs.are_met(NOTHING), "{needs:?}");
        assert!(all_allowances().any(|all| needs.are_met(all)), "{needs:?}");
    }
}
