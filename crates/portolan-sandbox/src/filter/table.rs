//! Every system call that there is up to Linux 6.18: its numbers, and when a confined program may
//! make it.
//!
//! A call that is not here is unknown: it gives `ENOSYS`, which programs cope with, because they
//! run on kernels that lack it too. `clone3` is left out for that reason: its flags are in memory,
//! where a filter cannot look, and the C library falls back to `clone`.

use super::Allowances;

/// A system call by its name, its numbers, and its rule.
pub(super) type Call = (&'static str, Numbers, Rule);

/// The numbers of a call, for the architectures that have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) x86_64: Option<u32>,
    pub(super) aarch64: Option<u32>,
}

/// A call is allowed if one of the cases holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) cases: &'static [Case],
    /// What it gives otherwise.
    pub(super) errno: u16,
}

/// All of the conditions, for a program that has what is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) needs: Needs,
    pub(super) conditions: &'static [Condition],
}

/// What adds a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// A tree of files in which there is nothing but what is granted.
    OwnTree,
    /// `com.apple.security.network.client`.
    Client,
    /// `com.apple.security.network.server`.
    Server,
    /// Either of them.
    Network,
    /// Sockets in the directories of application groups.
    GroupSockets,
    /// Sockets of application groups, and no addresses of the network that are not granted.
    GroupServer,
}

impl Needs {
    pub(super) fn are_met(self, allowances: Allowances) -> bool {
        let Allowances {
            own_tree,
            client,
            server,
            group_sockets,
        } = allowances;
        match self {
            Self::Nothing => true,
            Self::OwnTree => own_tree,
            Self::Client => client,
            Self::Server => server,
            Self::Network => client || server,
            Self::GroupSockets => group_sockets,
            Self::GroupServer => group_sockets && (server || !client),
        }
    }

    /// Whether an entitlement for the network would meet them.
    pub(super) fn are_of_the_network(self) -> bool {
        matches!(self, Self::Client | Self::Server | Self::Network)
    }
}

/// A condition on an argument. The kernel takes an `int` from the lower 32 bits, whatever is above
/// them, and so does the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The masked argument is one of these.
    OneOf(u8, u32, &'static [u32]),
    /// The pointer is null, all of its 64 bits.
    Null(u8),
}

impl Condition {
    pub(super) fn holds(self, arguments: &[u64; 6]) -> bool {
        let argument = |number: u8| arguments.get(usize::from(number)).copied();
        match self {
            Self::OneOf(number, mask, values) => {
                argument(number).is_some_and(|value| values.contains(&(value as u32 & mask)))
            }
            Self::Null(number) => argument(number) == Some(0),
        }
    }
}

use Condition::{Null, OneOf};

pub(super) const EPERM: u16 = 1;
pub(super) const ENOSYS: u16 = 38;
pub(super) const EOPNOTSUPP: u16 = 95;

const ALL: u32 = u32::MAX;

const ALLOWED: Rule = cases(&[when(&[])]);
const DENIED: Rule = cases(&[]);
const WITH_OWN_TREE: Rule = cases(&[needing(Needs::OwnTree, &[])]);

/// With a null pointer for the path it is about an open file.
const TIMES: Rule = cases(&[needing(Needs::OwnTree, &[]), when(&[Null(1)])]);

const ATTRIBUTES: Rule = Rule {
    errno: EOPNOTSUPP,
    ..WITH_OWN_TREE
};

/// Ordinary files and FIFOs; no devices, whatever privileges there may be.
const KIND: u32 = 0o170_000;
const KINDS: &[u32] = &[0, 0o100_000, 0o010_000];
const NODES_MODE1: Rule = cases(&[when(&[OneOf(1, KIND, KINDS)])]);
const NODES_MODE2: Rule = cases(&[when(&[OneOf(2, KIND, KINDS)])]);

/// Not `F_SETOWN`, `F_SETOWN_EX`, `F_SETSIG` and `F_NOTIFY`, which are about signals to others, nor
/// `F_SETLEASE`, which makes files that nobody else can open.
const COMMANDS: &[u32] = &[
    // F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_GETLK, F_SETLK, F_SETLKW, F_GETOWN, F_GETSIG, F_GETOWN_EX.
    0, 1, 2, 3, 5, 6, 7, 9, 11, 16, // F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW.
    36, 37, 38, // F_GETLEASE, F_DUPFD_QUERY, F_CREATED_QUERY, F_DUPFD_CLOEXEC.
    1025, 1027, 1028, 1030, // F_SETPIPE_SZ, F_GETPIPE_SZ, F_ADD_SEALS, F_GET_SEALS.
    1031, 1032, 1033, 1034,
    // F_GET_RW_HINT, F_SET_RW_HINT, F_GET_FILE_RW_HINT, F_SET_FILE_RW_HINT.
    1035, 1036, 1037, 1038,
];
/// A terminal signals the processes in its foreground whenever it can be read, if its open file has
/// `O_ASYNC`, and nobody has to own it.
const O_ASYNC: u32 = 0o20_000;
/// `F_SETFL` is 4.
const FCNTL: Rule = cases(&[
    when(&[OneOf(1, ALL, COMMANDS)]),
    when(&[OneOf(1, ALL, &[4]), OneOf(2, O_ASYNC, &[0])]),
]);

/// Without a tree of its own a program can reach files to read that are its user's. They do not get
/// another user's or group's rights.
const MODES: Rule = cases(&[
    needing(Needs::OwnTree, &[]),
    when(&[OneOf(1, 0o6000, &[0])]),
]);

/// What terminals, pipes and files of a disk are asked. `TIOCSTI`, `TIOCLINUX` and the others that
/// type for somebody else or belong to devices are not in it.
const REQUESTS: &[u32] = &[
    // TCGETS, TCSETS, TCSETSW, TCSETSF, TCGETA, TCSETA, TCSETAW, TCSETAF.
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x5405,
    0x5406,
    0x5407,
    0x5408,
    // TCSBRK, TCXONC, TCFLSH.
    0x5409,
    0x540a,
    0x540b,
    // TIOCGPGRP, TIOCSPGRP, TIOCOUTQ, TIOCGWINSZ, TIOCSWINSZ.
    0x540f,
    0x5410,
    0x5411,
    0x5413,
    0x5414,
    // FIONREAD, FIONBIO, TIOCNOTTY, TCSBRKP, TIOCGSID.
    0x541b,
    0x5421,
    0x5422,
    0x5425,
    0x5429,
    // TCGETS2, TCSETS2, TCSETSW2, TCSETSF2.
    0x802c_542a,
    0x402c_542b,
    0x402c_542c,
    0x402c_542d,
    // FIONCLEX, FIOCLEX.
    0x5450,
    0x5451,
    // FICLONE, FICLONERANGE, FS_IOC_GETFLAGS, FS_IOC_FIEMAP.
    0x4004_9409,
    0x4020_940d,
    0x8008_6601,
    0xc020_660b,
    // SIOCATMARK.
    0x8905,
];
/// Names, numbers, addresses and flags of interfaces: SIOCGIFNAME, SIOCGIFCONF, SIOCGIFFLAGS,
/// SIOCGIFADDR, SIOCGIFBRDADDR, SIOCGIFNETMASK, SIOCGIFMTU, SIOCGIFINDEX.
const OF_INTERFACES: &[u32] = &[
    0x8910, 0x8912, 0x8913, 0x8915, 0x8919, 0x891b, 0x8921, 0x8933,
];
const IOCTL: Rule = cases(&[
    when(&[OneOf(1, ALL, REQUESTS)]),
    needing(Needs::Network, &[OneOf(1, ALL, OF_INTERFACES)]),
]);

/// No new namespaces, and no child of somebody else (`CLONE_PARENT`).
const CLONE: Rule = cases(&[when(&[OneOf(0, 0x7e02_8000, &[0])])]);

/// Asking which it is, and `PER_LINUX`.
const PERSONALITY: Rule = cases(&[when(&[OneOf(0, ALL, &[ALL, 0])])]);

const OPTIONS: &[u32] = &[
    // PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE.
    1,
    2,
    3,
    4,
    // PR_GET_KEEPCAPS, PR_SET_KEEPCAPS, PR_GET_TIMING, PR_SET_NAME, PR_GET_NAME.
    7,
    8,
    13,
    15,
    16,
    // PR_GET_SECCOMP, PR_SET_SECCOMP, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_GET_TSC.
    21,
    22,
    23,
    24,
    25,
    // PR_GET_SECUREBITS, PR_SET_TIMERSLACK, PR_GET_TIMERSLACK.
    27,
    29,
    30,
    // PR_MCE_KILL_GET, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER.
    34,
    36,
    37,
    // PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_GET_TID_ADDRESS.
    38,
    39,
    40,
    // PR_SET_THP_DISABLE, PR_GET_THP_DISABLE, PR_CAP_AMBIENT.
    41,
    42,
    47,
    // PR_SVE_SET_VL, PR_SVE_GET_VL, PR_GET_SPECULATION_CTRL, PR_SET_SPECULATION_CTRL.
    50,
    51,
    52,
    53,
    // PR_PAC_RESET_KEYS, PR_SET_TAGGED_ADDR_CTRL, PR_GET_TAGGED_ADDR_CTRL.
    54,
    55,
    56,
    // PR_PAC_SET_ENABLED_KEYS, PR_PAC_GET_ENABLED_KEYS, PR_SET_MDWE, PR_GET_MDWE.
    60,
    61,
    65,
    66,
    // PR_SET_VMA, PR_GET_AUXV.
    0x5356_4d41,
    0x4155_5856,
];
const PRCTL: Rule = cases(&[when(&[OneOf(0, ALL, OPTIONS)])]);

const OWN: Rule = cases(&[when(&[OneOf(0, ALL, &[0])])]);

/// The C library asks it of threads by their ids, and takes `ENOSYS` for a kernel without.
const OWN_AFFINITY: Rule = Rule {
    cases: &[when(&[OneOf(0, ALL, &[0])]), needing(Needs::OwnTree, &[])],
    errno: ENOSYS,
};

/// `PRIO_PROCESS` is 0, `IOPRIO_WHO_PROCESS` 1. A group may have others in it.
const PRIORITY: Rule = cases(&[when(&[OneOf(0, ALL, &[0]), OneOf(1, ALL, &[0])])]);
const IO_PRIORITY: Rule = cases(&[when(&[OneOf(0, ALL, &[1]), OneOf(1, ALL, &[0])])]);

const UNIX: u32 = 1;
const INTERNET: &[u32] = &[2, 10];
/// The type of a socket without `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
const TYPE: u32 = 0xf;
const STREAM: u32 = 1;
const DATAGRAM: u32 = 2;
const SEQUENCED: u32 = 5;

/// TCP and UDP, and neither MPTCP nor SCTP nor raw packets.
const SOCKET: Rule = cases(&[
    needing(
        Needs::Network,
        &[
            OneOf(0, ALL, INTERNET),
            OneOf(1, TYPE, &[STREAM]),
            OneOf(2, ALL, &[0, 6]),
        ],
    ),
    needing(
        Needs::Network,
        &[
            OneOf(0, ALL, INTERNET),
            OneOf(1, TYPE, &[DATAGRAM]),
            OneOf(2, ALL, &[0, 17]),
        ],
    ),
    needing(Needs::GroupSockets, CONNECTED_UNIX),
]);

/// Of a pair of datagram sockets, each may send to any path; `SOCK_RAW` makes such ones too.
const SOCKETPAIR: Rule = cases(&[when(CONNECTED_UNIX)]);
const CONNECTED_UNIX: &[Condition] =
    &[OneOf(0, ALL, &[UNIX]), OneOf(1, TYPE, &[STREAM, SEQUENCED])];

const CONNECT: Rule = cases(&[
    needing(Needs::Client, &[]),
    needing(Needs::GroupSockets, &[]),
]);
const BIND: Rule = cases(&[
    needing(Needs::Server, &[]),
    needing(Needs::GroupServer, &[]),
]);

/// `MSG_FASTOPEN` connects.
const FAST_OPEN: u32 = 0x2000_0000;
const SENDTO: Rule = cases(&[
    when(&[Null(4), OneOf(3, FAST_OPEN, &[0])]),
    needing(Needs::Client, &[]),
    needing(Needs::Server, &[OneOf(3, FAST_OPEN, &[0])]),
]);
const SENDMSG: Rule = cases(&[
    when(&[OneOf(2, FAST_OPEN, &[0])]),
    needing(Needs::Client, &[]),
]);
const SENDMMSG: Rule = cases(&[
    when(&[OneOf(3, FAST_OPEN, &[0])]),
    needing(Needs::Client, &[]),
]);

const fn cases(cases: &'static [Case]) -> Rule {
    Rule {
        cases,
        errno: EPERM,
    }
}

const fn when(conditions: &'static [Condition]) -> Case {
    needing(Needs::Nothing, conditions)
}

const fn needing(needs: Needs, conditions: &'static [Condition]) -> Case {
    Case { needs, conditions }
}

const fn both(x86_64: u32, aarch64: u32) -> Numbers {
    Numbers {
        x86_64: Some(x86_64),
        aarch64: Some(aarch64),
    }
}

const fn x86_64(number: u32) -> Numbers {
    Numbers {
        x86_64: Some(number),
        aarch64: None,
    }
}

/// Without those that only the kernels of other architectures have, or that none has had for long.
pub(super) const CALLS: &[Call] = &[
    // Files: Landlock decides which.
    ("open", x86_64(2), ALLOWED),
    ("openat", both(257, 56), ALLOWED),
    ("openat2", both(437, 437), ALLOWED),
    ("creat", x86_64(85), ALLOWED),
    ("close", both(3, 57), ALLOWED),
    ("close_range", both(436, 436), ALLOWED),
    ("read", both(0, 63), ALLOWED),
    ("write", both(1, 64), ALLOWED),
    ("readv", both(19, 65), ALLOWED),
    ("writev", both(20, 66), ALLOWED),
    ("pread64", both(17, 67), ALLOWED),
    ("pwrite64", both(18, 68), ALLOWED),
    ("preadv", both(295, 69), ALLOWED),
    ("pwritev", both(296, 70), ALLOWED),
    ("preadv2", both(327, 286), ALLOWED),
    ("pwritev2", both(328, 287), ALLOWED),
    ("lseek", both(8, 62), ALLOWED),
    ("dup", both(32, 23), ALLOWED),
    ("dup2", x86_64(33), ALLOWED),
    ("dup3", both(292, 24), ALLOWED),
    ("flock", both(73, 32), ALLOWED),
    ("fsync", both(74, 82), ALLOWED),
    ("fdatasync", both(75, 83), ALLOWED),
    ("sync", both(162, 81), ALLOWED),
    ("syncfs", both(306, 267), ALLOWED),
    ("sync_file_range", both(277, 84), ALLOWED),
    ("truncate", both(76, 45), ALLOWED),
    ("ftruncate", both(77, 46), ALLOWED),
    ("fallocate", both(285, 47), ALLOWED),
    ("fadvise64", both(221, 223), ALLOWED),
    ("readahead", both(187, 213), ALLOWED),
    ("sendfile", both(40, 71), ALLOWED),
    ("splice", both(275, 76), ALLOWED),
    ("tee", both(276, 77), ALLOWED),
    ("vmsplice", both(278, 75), ALLOWED),
    ("copy_file_range", both(326, 285), ALLOWED),
    ("getdents", x86_64(78), ALLOWED),
    ("getdents64", both(217, 61), ALLOWED),
    ("getcwd", both(79, 17), ALLOWED),
    ("chdir", both(80, 49), ALLOWED),
    ("fchdir", both(81, 50), ALLOWED),
    ("rename", x86_64(82), ALLOWED),
    ("renameat", both(264, 38), ALLOWED),
    ("renameat2", both(316, 276), ALLOWED),
    ("mkdir", x86_64(83), ALLOWED),
    ("mkdirat", both(258, 34), ALLOWED),
    ("rmdir", x86_64(84), ALLOWED),
    ("link", x86_64(86), ALLOWED),
    ("linkat", both(265, 37), ALLOWED),
    ("unlink", x86_64(87), ALLOWED),
    ("unlinkat", both(263, 35), ALLOWED),
    ("symlink", x86_64(88), ALLOWED),
    ("symlinkat", both(266, 36), ALLOWED),
    ("fchmod", both(91, 52), MODES),
    ("fchown", both(93, 55), ALLOWED),
    ("umask", both(95, 166), ALLOWED),
    ("fsetxattr", both(190, 7), ALLOWED),
    ("fgetxattr", both(193, 10), ALLOWED),
    ("flistxattr", both(196, 13), ALLOWED),
    ("fremovexattr", both(199, 16), ALLOWED),
    ("fstat", both(5, 80), ALLOWED),
    ("fstatfs", both(138, 44), ALLOWED),
    ("pipe", x86_64(22), ALLOWED),
    ("pipe2", both(293, 59), ALLOWED),
    ("memfd_create", both(319, 279), ALLOWED),
    // What files are like, which Landlock says nothing about.
    ("stat", x86_64(4), ALLOWED),
    ("lstat", x86_64(6), ALLOWED),
    ("newfstatat", both(262, 79), ALLOWED),
    ("statx", both(332, 291), ALLOWED),
    ("access", x86_64(21), ALLOWED),
    ("faccessat", both(269, 48), ALLOWED),
    ("faccessat2", both(439, 439), ALLOWED),
    ("readlink", x86_64(89), ALLOWED),
    ("readlinkat", both(267, 78), ALLOWED),
    ("statfs", both(137, 43), WITH_OWN_TREE),
    // Changes to files by their paths, which Landlock does not see.
    ("chmod", x86_64(90), WITH_OWN_TREE),
    ("fchmodat", both(268, 53), WITH_OWN_TREE),
    ("fchmodat2", both(452, 452), WITH_OWN_TREE),
    ("chown", x86_64(92), WITH_OWN_TREE),
    ("lchown", x86_64(94), WITH_OWN_TREE),
    ("fchownat", both(260, 54), WITH_OWN_TREE),
    ("setxattr", both(188, 5), WITH_OWN_TREE),
    ("lsetxattr", both(189, 6), WITH_OWN_TREE),
    ("removexattr", both(197, 14), WITH_OWN_TREE),
    ("lremovexattr", both(198, 15), WITH_OWN_TREE),
    ("setxattrat", both(463, 463), WITH_OWN_TREE),
    ("removexattrat", both(466, 466), WITH_OWN_TREE),
    ("utime", x86_64(132), WITH_OWN_TREE),
    ("utimes", x86_64(235), WITH_OWN_TREE),
    ("futimesat", x86_64(261), WITH_OWN_TREE),
    ("inotify_add_watch", both(254, 27), WITH_OWN_TREE),
    ("file_setattr", both(469, 469), WITH_OWN_TREE),
    ("utimensat", both(280, 88), TIMES),
    // Reading attributes by path. A file system may have none, so programs cope.
    ("getxattr", both(191, 8), ATTRIBUTES),
    ("lgetxattr", both(192, 9), ATTRIBUTES),
    ("listxattr", both(194, 11), ATTRIBUTES),
    ("llistxattr", both(195, 12), ATTRIBUTES),
    ("getxattrat", both(464, 464), ATTRIBUTES),
    ("listxattrat", both(465, 465), ATTRIBUTES),
    ("file_getattr", both(468, 468), ATTRIBUTES),
    ("mknod", x86_64(133), NODES_MODE1),
    ("mknodat", both(259, 33), NODES_MODE2),
    // Descriptors.
    ("fcntl", both(72, 25), FCNTL),
    ("ioctl", both(16, 29), IOCTL),
    ("select", x86_64(23), ALLOWED),
    ("pselect6", both(270, 72), ALLOWED),
    ("poll", x86_64(7), ALLOWED),
    ("ppoll", both(271, 73), ALLOWED),
    ("epoll_create", x86_64(213), ALLOWED),
    ("epoll_create1", both(291, 20), ALLOWED),
    ("epoll_ctl", both(233, 21), ALLOWED),
    ("epoll_wait", x86_64(232), ALLOWED),
    ("epoll_pwait", both(281, 22), ALLOWED),
    ("epoll_pwait2", both(441, 441), ALLOWED),
    ("eventfd", x86_64(284), ALLOWED),
    ("eventfd2", both(290, 19), ALLOWED),
    ("signalfd", x86_64(282), ALLOWED),
    ("signalfd4", both(289, 74), ALLOWED),
    ("timerfd_create", both(283, 85), ALLOWED),
    ("timerfd_settime", both(286, 86), ALLOWED),
    ("timerfd_gettime", both(287, 87), ALLOWED),
    ("inotify_init", x86_64(253), ALLOWED),
    ("inotify_init1", both(294, 26), ALLOWED),
    ("inotify_rm_watch", both(255, 28), ALLOWED),
    // Memory.
    ("mmap", both(9, 222), ALLOWED),
    ("mprotect", both(10, 226), ALLOWED),
    ("munmap", both(11, 215), ALLOWED),
    ("brk", both(12, 214), ALLOWED),
    ("mremap", both(25, 216), ALLOWED),
    ("msync", both(26, 227), ALLOWED),
    ("mincore", both(27, 232), ALLOWED),
    ("madvise", both(28, 233), ALLOWED),
    ("mlock", both(149, 228), ALLOWED),
    ("mlock2", both(325, 284), ALLOWED),
    ("munlock", both(150, 229), ALLOWED),
    ("mlockall", both(151, 230), ALLOWED),
    ("munlockall", both(152, 231), ALLOWED),
    ("mbind", both(237, 235), ALLOWED),
    ("get_mempolicy", both(239, 236), ALLOWED),
    ("set_mempolicy", both(238, 237), ALLOWED),
    ("pkey_mprotect", both(329, 288), ALLOWED),
    ("pkey_alloc", both(330, 289), ALLOWED),
    ("pkey_free", both(331, 290), ALLOWED),
    ("membarrier", both(324, 283), ALLOWED),
    ("mseal", both(462, 462), ALLOWED),
    ("map_shadow_stack", both(453, 453), ALLOWED),
    // Processes and threads.
    ("clone", both(56, 220), CLONE),
    ("fork", x86_64(57), ALLOWED),
    ("vfork", x86_64(58), ALLOWED),
    ("execve", both(59, 221), ALLOWED),
    ("execveat", both(322, 281), ALLOWED),
    ("exit", both(60, 93), ALLOWED),
    ("exit_group", both(231, 94), ALLOWED),
    ("wait4", both(61, 260), ALLOWED),
    ("waitid", both(247, 95), ALLOWED),
    ("set_tid_address", both(218, 96), ALLOWED),
    ("set_robust_list", both(273, 99), ALLOWED),
    ("rseq", both(334, 293), ALLOWED),
    ("futex", both(202, 98), ALLOWED),
    ("futex_waitv", both(449, 449), ALLOWED),
    ("futex_wake", both(454, 454), ALLOWED),
    ("futex_wait", both(455, 455), ALLOWED),
    ("futex_requeue", both(456, 456), ALLOWED),
    ("getpid", both(39, 172), ALLOWED),
    ("getppid", both(110, 173), ALLOWED),
    ("gettid", both(186, 178), ALLOWED),
    ("getuid", both(102, 174), ALLOWED),
    ("geteuid", both(107, 175), ALLOWED),
    ("getgid", both(104, 176), ALLOWED),
    ("getegid", both(108, 177), ALLOWED),
    ("getresuid", both(118, 148), ALLOWED),
    ("getresgid", both(120, 150), ALLOWED),
    ("getgroups", both(115, 158), ALLOWED),
    ("setuid", both(105, 146), ALLOWED),
    ("setgid", both(106, 144), ALLOWED),
    ("setreuid", both(113, 145), ALLOWED),
    ("setregid", both(114, 143), ALLOWED),
    ("setresuid", both(117, 147), ALLOWED),
    ("setresgid", both(119, 149), ALLOWED),
    ("setfsuid", both(122, 151), ALLOWED),
    ("setfsgid", both(123, 152), ALLOWED),
    ("setgroups", both(116, 159), ALLOWED),
    ("capget", both(125, 90), ALLOWED),
    ("capset", both(126, 91), ALLOWED),
    ("getpgrp", x86_64(111), ALLOWED),
    ("getpgid", both(121, 155), ALLOWED),
    ("getsid", both(124, 156), ALLOWED),
    ("setpgid", both(109, 154), ALLOWED),
    ("setsid", both(112, 157), ALLOWED),
    ("sched_yield", both(24, 124), ALLOWED),
    ("sched_get_priority_max", both(146, 125), ALLOWED),
    ("sched_get_priority_min", both(147, 126), ALLOWED),
    ("getcpu", both(309, 168), ALLOWED),
    ("getrusage", both(98, 165), ALLOWED),
    ("getrlimit", both(97, 163), ALLOWED),
    ("setrlimit", both(160, 164), ALLOWED),
    ("times", both(100, 153), ALLOWED),
    ("restart_syscall", both(219, 128), ALLOWED),
    ("pidfd_open", both(434, 434), ALLOWED),
    ("arch_prctl", x86_64(158), ALLOWED),
    ("seccomp", both(317, 277), ALLOWED),
    ("landlock_create_ruleset", both(444, 444), ALLOWED),
    ("landlock_add_rule", both(445, 445), ALLOWED),
    ("landlock_restrict_self", both(446, 446), ALLOWED),
    ("personality", both(135, 92), PERSONALITY),
    ("prctl", both(157, 167), PRCTL),
    // Calls that take the id of a process, for which Landlock has no right: on this one only.
    ("prlimit64", both(302, 261), OWN),
    ("sched_setaffinity", both(203, 122), OWN),
    ("sched_setscheduler", both(144, 119), OWN),
    ("sched_getscheduler", both(145, 120), OWN),
    ("sched_setparam", both(142, 118), OWN),
    ("sched_getparam", both(143, 121), OWN),
    ("sched_setattr", both(314, 274), OWN),
    ("sched_getattr", both(315, 275), OWN),
    ("sched_rr_get_interval", both(148, 127), OWN),
    ("get_robust_list", both(274, 100), OWN),
    ("sched_getaffinity", both(204, 123), OWN_AFFINITY),
    ("setpriority", both(141, 140), PRIORITY),
    ("getpriority", both(140, 141), PRIORITY),
    ("ioprio_set", both(251, 30), IO_PRIORITY),
    ("ioprio_get", both(252, 31), IO_PRIORITY),
    // Signals: Landlock keeps them inside.
    ("kill", both(62, 129), ALLOWED),
    ("tkill", both(200, 130), ALLOWED),
    ("tgkill", both(234, 131), ALLOWED),
    ("rt_sigaction", both(13, 134), ALLOWED),
    ("rt_sigprocmask", both(14, 135), ALLOWED),
    ("rt_sigreturn", both(15, 139), ALLOWED),
    ("rt_sigpending", both(127, 136), ALLOWED),
    ("rt_sigtimedwait", both(128, 137), ALLOWED),
    ("rt_sigqueueinfo", both(129, 138), ALLOWED),
    ("rt_tgsigqueueinfo", both(297, 240), ALLOWED),
    ("rt_sigsuspend", both(130, 133), ALLOWED),
    ("sigaltstack", both(131, 132), ALLOWED),
    ("pause", x86_64(34), ALLOWED),
    ("pidfd_send_signal", both(424, 424), ALLOWED),
    // Time.
    ("nanosleep", both(35, 101), ALLOWED),
    ("clock_nanosleep", both(230, 115), ALLOWED),
    ("clock_gettime", both(228, 113), ALLOWED),
    ("clock_getres", both(229, 114), ALLOWED),
    ("gettimeofday", both(96, 169), ALLOWED),
    ("time", x86_64(201), ALLOWED),
    ("getitimer", both(36, 102), ALLOWED),
    ("setitimer", both(38, 103), ALLOWED),
    ("alarm", x86_64(37), ALLOWED),
    ("timer_create", both(222, 107), ALLOWED),
    ("timer_settime", both(223, 110), ALLOWED),
    ("timer_gettime", both(224, 108), ALLOWED),
    ("timer_getoverrun", both(225, 109), ALLOWED),
    ("timer_delete", both(226, 111), ALLOWED),
    // The system.
    ("uname", both(63, 160), ALLOWED),
    ("sysinfo", both(99, 179), ALLOWED),
    ("getrandom", both(318, 278), ALLOWED),
    // Sockets.
    ("socket", both(41, 198), SOCKET),
    ("socketpair", both(53, 199), SOCKETPAIR),
    ("connect", both(42, 203), CONNECT),
    ("bind", both(49, 200), BIND),
    ("listen", both(50, 201), BIND),
    ("sendto", both(44, 206), SENDTO),
    ("sendmsg", both(46, 211), SENDMSG),
    ("sendmmsg", both(307, 269), SENDMMSG),
    ("accept", both(43, 202), ALLOWED),
    ("accept4", both(288, 242), ALLOWED),
    ("recvfrom", both(45, 207), ALLOWED),
    ("recvmsg", both(47, 212), ALLOWED),
    ("recvmmsg", both(299, 243), ALLOWED),
    ("shutdown", both(48, 210), ALLOWED),
    ("getsockname", both(51, 204), ALLOWED),
    ("getpeername", both(52, 205), ALLOWED),
    ("setsockopt", both(54, 208), ALLOWED),
    ("getsockopt", both(55, 209), ALLOWED),
    // Known, and for nobody here: other name spaces and mounts.
    ("unshare", both(272, 97), DENIED),
    ("setns", both(308, 268), DENIED),
    ("mount", both(165, 40), DENIED),
    ("umount2", both(166, 39), DENIED),
    ("pivot_root", both(155, 41), DENIED),
    ("chroot", both(161, 51), DENIED),
    ("move_mount", both(429, 429), DENIED),
    ("open_tree", both(428, 428), DENIED),
    ("open_tree_attr", both(467, 467), DENIED),
    ("fsopen", both(430, 430), DENIED),
    ("fsconfig", both(431, 431), DENIED),
    ("fsmount", both(432, 432), DENIED),
    ("fspick", both(433, 433), DENIED),
    ("mount_setattr", both(442, 442), DENIED),
    ("statmount", both(457, 457), DENIED),
    ("listmount", both(458, 458), DENIED),
    // Other processes and the insides of this one.
    ("ptrace", both(101, 117), DENIED),
    ("process_vm_readv", both(310, 270), DENIED),
    ("process_vm_writev", both(311, 271), DENIED),
    ("process_madvise", both(440, 440), DENIED),
    ("process_mrelease", both(448, 448), DENIED),
    ("pidfd_getfd", both(438, 438), DENIED),
    ("kcmp", both(312, 272), DENIED),
    ("perf_event_open", both(298, 241), DENIED),
    ("migrate_pages", both(256, 238), DENIED),
    ("move_pages", both(279, 239), DENIED),
    ("userfaultfd", both(323, 282), DENIED),
    ("bpf", both(321, 280), DENIED),
    ("io_uring_setup", both(425, 425), DENIED),
    ("io_uring_enter", both(426, 426), DENIED),
    ("io_uring_register", both(427, 427), DENIED),
    ("io_setup", both(206, 0), DENIED),
    ("io_destroy", both(207, 1), DENIED),
    ("io_submit", both(209, 2), DENIED),
    ("io_cancel", both(210, 3), DENIED),
    ("io_getevents", both(208, 4), DENIED),
    ("io_pgetevents", both(333, 292), DENIED),
    ("modify_ldt", x86_64(154), DENIED),
    ("iopl", x86_64(172), DENIED),
    ("ioperm", x86_64(173), DENIED),
    ("remap_file_pages", both(216, 234), DENIED),
    ("set_thread_area", x86_64(205), DENIED),
    ("get_thread_area", x86_64(211), DENIED),
    ("memfd_secret", both(447, 447), DENIED),
    // Names and memory that processes share without a descriptor.
    ("shmget", both(29, 194), DENIED),
    ("shmat", both(30, 196), DENIED),
    ("shmctl", both(31, 195), DENIED),
    ("shmdt", both(67, 197), DENIED),
    ("semget", both(64, 190), DENIED),
    ("semop", both(65, 193), DENIED),
    ("semctl", both(66, 191), DENIED),
    ("semtimedop", both(220, 192), DENIED),
    ("msgget", both(68, 186), DENIED),
    ("msgsnd", both(69, 189), DENIED),
    ("msgrcv", both(70, 188), DENIED),
    ("msgctl", both(71, 187), DENIED),
    ("mq_open", both(240, 180), DENIED),
    ("mq_unlink", both(241, 181), DENIED),
    ("mq_timedsend", both(242, 182), DENIED),
    ("mq_timedreceive", both(243, 183), DENIED),
    ("mq_notify", both(244, 184), DENIED),
    ("mq_getsetattr", both(245, 185), DENIED),
    ("add_key", both(248, 217), DENIED),
    ("request_key", both(249, 218), DENIED),
    ("keyctl", both(250, 219), DENIED),
    // The machine.
    ("name_to_handle_at", both(303, 264), DENIED),
    ("open_by_handle_at", both(304, 265), DENIED),
    ("fanotify_init", both(300, 262), DENIED),
    ("fanotify_mark", both(301, 263), DENIED),
    ("quotactl", both(179, 60), DENIED),
    ("quotactl_fd", both(443, 443), DENIED),
    ("acct", both(163, 89), DENIED),
    ("swapon", both(167, 224), DENIED),
    ("swapoff", both(168, 225), DENIED),
    ("reboot", both(169, 142), DENIED),
    ("sethostname", both(170, 161), DENIED),
    ("setdomainname", both(171, 162), DENIED),
    ("kexec_load", both(246, 104), DENIED),
    ("kexec_file_load", both(320, 294), DENIED),
    ("init_module", both(175, 105), DENIED),
    ("finit_module", both(313, 273), DENIED),
    ("delete_module", both(176, 106), DENIED),
    ("create_module", x86_64(174), DENIED),
    ("syslog", both(103, 116), DENIED),
    ("settimeofday", both(164, 170), DENIED),
    ("clock_settime", both(227, 112), DENIED),
    ("clock_adjtime", both(305, 266), DENIED),
    ("adjtimex", both(159, 171), DENIED),
    ("vhangup", both(153, 58), DENIED),
    ("uselib", x86_64(134), DENIED),
    ("ustat", x86_64(136), DENIED),
    ("sysfs", x86_64(139), DENIED),
    ("lookup_dcookie", both(212, 18), DENIED),
    ("nfsservctl", both(180, 42), DENIED),
    ("_sysctl", x86_64(156), DENIED),
    ("lsm_get_self_attr", both(459, 459), DENIED),
    ("lsm_set_self_attr", both(460, 460), DENIED),
    ("lsm_list_modules", both(461, 461), DENIED),
];
