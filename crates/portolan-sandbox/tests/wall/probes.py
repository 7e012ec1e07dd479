"""Attempts to get out of a sandbox, and a victim outside of it.

    probes.py victim DIR        sets everything up in DIR, says "ready", and stays until its
                                standard input ends
    probes.py alone PROGRAM...  becomes the program in a user namespace that may have no others
    probes.py namespaces        says whether this user can make some and mount a /proc there
    probes.py terminal PROGRAM  runs the program in a terminal of its own
    probes.py probe DIR NAME... makes each attempt in a process of its own and prints
                                "NAME out" or "NAME REASON"

An attempt that returns has got out. It is a function named after the attempt; `D` is the directory,
`P` the process id of the victim. The program runs outside as well, where attempts must succeed.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import signal
import socket
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
D = P = None
NULL = None


def call(number, *arguments):
    """A system call by its number, with pointers and numbers of 64 bits."""
    arguments = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    LIBC.syscall.restype = ctypes.c_long
    result = LIBC.syscall(ctypes.c_long(number), *arguments)
    if -4096 < result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def by_name(name):
    """The number of a call on x86_64 and aarch64."""
    both = {
        "ptrace": (101, 117), "process_vm_readv": (310, 270), "kcmp": (312, 272),
        "pidfd_getfd": (438, 438), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
        "prlimit64": (302, 261), "ioprio_set": (251, 30), "rt_sigqueueinfo": (129, 138),
        "tgkill": (234, 131), "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190),
        "semctl": (66, 191), "msgget": (68, 186), "msgsnd": (69, 189), "add_key": (248, 217),
        "keyctl": (250, 219), "unshare": (272, 97), "clone": (56, 220), "clone3": (435, 435),
        "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51), "pivot_root": (155, 41),
        "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429),
        "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
        "io_uring_setup": (425, 425), "open_by_handle_at": (304, 265),
        "name_to_handle_at": (303, 264), "syslog": (103, 116), "personality": (135, 92),
        "kexec_load": (246, 104), "init_module": (175, 105), "fchmodat2": (452, 452),
        "inotify_init1": (294, 26), "inotify_add_watch": (254, 27), "mq_open": (240, 180),
        "capget": (125, 90), "ioctl": (16, 29), "socket": (41, 198), "fanotify_init": (300, 262),
        "process_madvise": (440, 440), "quotactl": (179, 60), "statmount": (457, 457),
        "memfd_create": (319, 279), "setxattr": (188, 5),
    }
    return both[name][0 if X86 else 1]


def do(name, *arguments):
    return call(by_name(name), *arguments)


def refuse():
    raise PermissionError(errno.EPERM, "nothing came of it")


def path(name):
    return os.path.join(D, name)


# Files.

def read_shadow():
    open("/etc/shadow", "rb").read()


def read_passwd():
    open("/etc/passwd", "rb").read(1)


def read_other_home():
    open(path("other/readable"), "rb").read()


def read_home_file():
    open(path("home/secret"), "rb").read()


def read_own_0600():
    open(path("secret"), "rb").read()


def list_root():
    if "etc" not in os.listdir("/") or not os.listdir("/etc"):
        refuse()


def list_home():
    os.listdir(path("home"))


def write_tmp():
    with open(path("written"), "w"):
        pass


def write_outside():
    with open(path("victim.txt"), "a") as file:
        file.write("x")


def truncate_outside():
    os.truncate(path("victim.txt"), 0)


def rename_out():
    own = os.path.join(os.environ["HOME"], "mine")
    open(own, "w").close()
    os.rename(own, path("moved"))


def rename_in():
    os.rename(path("movable"), os.path.join(os.environ["HOME"], "moved"))


def link_in():
    os.link(path("victim.txt"), os.path.join(os.environ["HOME"], "linked"))


def link_out():
    own = os.path.join(os.environ["HOME"], "own")
    open(own, "w").close()
    os.link(own, path("linked"))


def symlink_to_secret():
    link = os.path.join(os.environ["HOME"], "link%d" % os.getpid())
    os.symlink(path("secret"), link)
    open(link).read()


def symlink_outside():
    os.symlink("/", path("symlink"))


def remove_outside():
    os.unlink(path("removable"))


def mkdir_outside():
    os.mkdir(path("made"))


def open_fifo():
    os.open(path("fifo"), os.O_RDWR | os.O_NONBLOCK)


def stat_outside():
    os.stat(path("secret"))


def access_outside():
    if not os.access(path("secret"), os.F_OK):
        raise OSError(errno.ENOENT, "no")


def readlink_outside():
    os.readlink(path("points"))


def chdir_outside():
    os.chdir(path("other"))


def dotdot_from_container():
    open(os.path.join(os.environ["HOME"], "../../../../../../secret_up"), "rb").read()


def bind_read_only_system():
    with open("/usr/portolan-probe", "w"):
        pass


# What files are like.

def chmod_outside():
    os.chmod(path("victim.txt"), 0o640)


def fchmodat2_outside():
    do("fchmodat2", 0xffffff9c, path("victim.txt").encode(), 0o640, 0)


def chown_outside():
    os.chown(path("victim.txt"), os.getuid(), os.getgid())


def lchown_outside():
    os.lchown(path("victim.txt"), os.getuid(), os.getgid())


def utimes_outside():
    os.utime(path("victim.txt"), (1, 1))


def setxattr_outside():
    os.setxattr(path("victim.txt"), "user.portolan", b"x")


def getxattr_outside():
    os.getxattr(path("victim.txt"), "user.there")


def path_fd_chmod():
    fd = os.open(path("victim.txt"), os.O_PATH)
    os.chmod("/proc/self/fd/%d" % fd, 0o640)


def inotify_outside():
    fd = do("inotify_init1", 0)
    do("inotify_add_watch", fd, path("other").encode(), 0xfff)


def fchmod_own():
    fd = os.open(os.path.join(os.environ["HOME"], "mode"), os.O_RDWR | os.O_CREAT)
    os.fchmod(fd, 0o600)


# Devices and /proc.

def mknod_block():
    os.mknod(os.path.join(os.environ["HOME"], "block"), 0o60600, os.makedev(8, 0))


def open_tty():
    os.open("/dev/tty", os.O_RDWR)


def open_kmsg():
    os.open("/dev/kmsg", os.O_RDONLY)


def write_core_pattern():
    os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)


def read_proc_sys():
    open("/proc/sys/kernel/ostype").read()


def read_proc_net():
    if path("stream") not in open("/proc/self/net/unix").read():
        refuse()


def open_shm():
    open("/dev/shm/" + os.path.basename(D) + "-shm", "rb").read()


def create_shm():
    name = "/dev/shm/portolan-probe-%d" % os.getpid()
    open(name, "w").close()
    os.unlink(name)


# Descriptors.

def leaked_descriptor():
    for fd in range(3, 256):
        try:
            os.fstat(fd)
        except OSError:
            continue
        if fd == int(os.environ.get("PORTOLAN_BOOTSTRAP_FD", "-1")):
            continue
        return
    raise OSError(errno.EBADF, "none")


# Sockets.

def each_family():
    for family in range(46):
        for kind in (1, 2, 3, 5):
            for protocol in (0, 1, 6, 132, 262):
                try:
                    fd = do("socket", family, kind, protocol)
                except OSError:
                    continue
                os.close(fd)
                return
    refuse()


def tcp_connect():
    socket.create_connection(("127.0.0.1", port("tcp")), timeout=5)


def tcp_fast_open():
    s = socket.socket()
    s.sendto(b"x", 0x20000000, ("127.0.0.1", port("tcp")))


def mptcp_connect():
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).connect(("127.0.0.1", port("tcp")))


def udp_send():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port("udp")))


def tcp_listen():
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen()


def udp_bind():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("127.0.0.1", 0))


def tcp_listen_without_bind():
    socket.socket().listen()


def netlink():
    socket.socket(16, socket.SOCK_RAW, 0)


def vsock():
    socket.socket(40, socket.SOCK_STREAM)


def unix_stream():
    socket.socket(socket.AF_UNIX).connect(path("stream"))


def unix_stream_by_symlink():
    link = os.path.join(os.environ["HOME"], "socket%d" % os.getpid())
    os.symlink(path("stream"), link)
    socket.socket(socket.AF_UNIX).connect(link)


def unix_stream_by_descriptor():
    fd = os.open(path("stream"), os.O_PATH)
    socket.socket(socket.AF_UNIX).connect("/proc/self/fd/%d" % fd)


def unix_datagram():
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", path("datagram"))


def pair(kind):
    return socket.socketpair(socket.AF_UNIX, kind)[0]


def pair_datagram_sendto():
    pair(socket.SOCK_DGRAM).sendto(b"x", path("datagram"))


def pair_datagram_sendmsg():
    pair(socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, path("datagram"))


def pair_datagram_connect():
    pair(socket.SOCK_DGRAM).connect(path("datagram"))


def pair_raw_sendmsg():
    pair(socket.SOCK_RAW).sendmsg([b"x"], [], 0, path("datagram"))


def pair_datagram_abstract():
    pair(socket.SOCK_DGRAM).sendto(b"x", abstract("datagram"))


def pair_stream_connect():
    pair(socket.SOCK_STREAM).connect(path("stream"))


def abstract(kind):
    return "\0" + path("abstract-" + kind)


def abstract_stream():
    socket.socket(socket.AF_UNIX).connect(abstract("stream"))


def abstract_datagram():
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", abstract("datagram"))


def port(kind):
    return int(open_setting(kind))


def open_setting(name):
    return os.environ["PROBE_" + name.upper()]


def io_uring():
    do("io_uring_setup", 4, ctypes.create_string_buffer(256))


# Shared memory and names.

def sysv_shm():
    do("shmat", do("shmget", key(), 0, 0), 0, 0)


def sysv_semaphore():
    do("semctl", do("semget", key(), 0, 0), 0, 12, 0)


def sysv_queue():
    do("msgsnd", do("msgget", key(), 0), ctypes.create_string_buffer(struct.pack("l", 1) + b"x"), 1,
       0o4000)


def key():
    return int(open_setting("key"))


def message_queue():
    do("mq_open", open_setting("queue").encode(), os.O_RDWR, 0, 0)


def add_key():
    do("add_key", b"user", b"portolan-probe", b"x", 1, 0xfffffffc)


def read_keyring():
    do("keyctl", 6, 0xfffffffc, b"", 0)


# Other processes.

def kill_victim():
    os.kill(P, 0)


def kill_all():
    os.kill(-1, 0)


def tgkill_victim():
    do("tgkill", P, P, 0)


def queue_signal():
    info = ctypes.create_string_buffer(128)
    struct.pack_into("iii", info, 0, 10, 0, -1)
    do("rt_sigqueueinfo", P, 0, info)


def pidfd_signal():
    do("pidfd_send_signal", do("pidfd_open", P, 0), 0, NULL, 0)


def own_by_signal():
    """SIGIO for the victim: what matters is that it stays alive, which is looked at elsewhere."""
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, P)


def ptrace_seize():
    do("ptrace", 0x4206, P, 0, 0)


def read_memory():
    buffer = ctypes.create_string_buffer(8)
    here = struct.pack("PL", ctypes.addressof(buffer), 8)
    there = struct.pack("PL", int(open_setting("address")), 8)
    do("process_vm_readv", P, here, 1, there, 1, 0)


def environ_victim():
    open("/proc/%d/environ" % P, "rb").read(1)


def cmdline_victim():
    open("/proc/%d/cmdline" % P, "rb").read(1)


def mem_victim():
    os.open("/proc/%d/mem" % P, os.O_RDONLY)


def root_victim():
    os.listdir(os.path.join("/proc", str(P), "root", "."))


def fds_victim():
    os.listdir("/proc/%d/fd" % P)


def exe_victim():
    os.readlink("/proc/%d/exe" % P)


def stat_victim():
    os.stat("/proc/%d" % P)


def oom_victim():
    open("/proc/%d/oom_score_adj" % P, "w").write("1000")


def getfd_victim():
    do("pidfd_getfd", do("pidfd_open", P, 0), 0, 0)


def kcmp_victim():
    do("kcmp", os.getpid(), P, 1, 0, 0)


def limit_victim():
    do("prlimit64", P, 0, struct.pack("QQ", 2**64 - 1, 2**64 - 1), NULL)


def priority_victim():
    os.setpriority(os.PRIO_PROCESS, P, 19)


def priority_user():
    os.setpriority(os.PRIO_USER, os.getuid(), 19)


def affinity_victim():
    os.sched_setaffinity(P, os.sched_getaffinity(0))


def read_affinity_victim():
    os.sched_getaffinity(P)


def scheduler_victim():
    os.sched_setscheduler(P, os.SCHED_BATCH, os.sched_param(0))


def io_priority_victim():
    do("ioprio_set", 1, P, 0x6000)


def session_victim():
    os.getsid(P)


# New worlds.

def new_user():
    do("unshare", 0x10000000)


def clone_user():
    pid = do("clone", 0x10000011, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def clone3_user():
    pid = do("clone3", struct.pack("8Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0), 64)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def mount_tmpfs():
    do("mount", b"x", os.environ["HOME"].encode(), b"tmpfs", 0, NULL)


def unmount():
    do("umount2", b"/usr", 2)


def change_root():
    do("chroot", os.environ["HOME"].encode())


def turn_root():
    do("pivot_root", b"/usr", b"/usr")


def join_victim():
    do("setns", os.open("/proc/%d/ns/net" % P, os.O_RDONLY), 0)


def clone_tree():
    do("open_tree", 0xffffff9c, b"/usr", 1)


def move_tree():
    do("move_mount", 0xffffff9c, b"/usr", 0xffffff9c, b"/usr", 0)


# The kernel.

def load_bpf():
    do("bpf", 0, ctypes.create_string_buffer(128), 128)


def perf():
    attributes = ctypes.create_string_buffer(128)
    struct.pack_into("II", attributes, 0, 1, 128)
    struct.pack_into("Q", attributes, 40, 1 << 5 | 1 << 6)
    do("perf_event_open", attributes, 0, 0xffffffffffffffff, 0xffffffffffffffff, 0)


def user_faults():
    do("userfaultfd", 1)


def open_by_handle():
    do("open_by_handle_at", 0xffffff9c, struct.pack("Ii8s", 8, 1, b"x" * 8), 0)


def handle_of():
    handle = ctypes.create_string_buffer(136)
    struct.pack_into("I", handle, 0, 128)
    do("name_to_handle_at", 0xffffff9c, path("secret").encode(), handle,
       ctypes.create_string_buffer(8), 0)


def kernel_log():
    do("syslog", 3, ctypes.create_string_buffer(64), 64)


def no_randomization():
    do("personality", 0x0040000)


def load_kernel():
    do("kexec_load", 0, 0, NULL, 0)


def load_module():
    do("init_module", b"", 0, b"")


def far_number():
    call(4000)


def interrupt_80():
    """getpid by its i386 number, in a child: a filter kills it."""
    if not X86:
        raise OSError(errno.ENOSYS, "not here")
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    if ctypes.CFUNCTYPE(ctypes.c_int)(address)() <= 0:
        raise OSError(errno.ENOSYS, "no")


def x32_socket():
    call(0x40000000 | 41, 1, 1, 0)


def type_into_terminal():
    do("ioctl", 0, 0x5412, b"x")


def type_into_terminal_high():
    do("ioctl", 0, 1 << 32 | 0x5412, b"x")


def paste_into_terminal():
    do("ioctl", 0, 0x541c, b"\2")


def controlling_terminal():
    os.tcgetpgrp(0)


def has_terminal():
    """Must work: the program talks to the terminal that it was started in."""
    assert os.isatty(0) and os.get_terminal_size(1)


# Privileges.

def set_user_id():
    pid = os.fork()
    if pid == 0:
        os.execv(path("setuid-python"), ["x", "-c", "import os; os._exit(os.geteuid() == 0)"])
    if os.waitpid(pid, 0)[1] == 0:
        refuse()


def become_root():
    os.setuid(0)


def any_capability():
    header = struct.pack("Ii", 0x20080522, 0)
    sets = ctypes.create_string_buffer(24)
    do("capget", header, sets)
    if not any(struct.unpack("6I", sets.raw)):
        refuse()


def new_privileges():
    if LIBC.prctl(39, 0, 0, 0, 0) == 1:
        refuse()


# What must work.

def own_container():
    name = os.path.join(os.environ["HOME"], "file")
    with open(name, "w") as file:
        file.write("x")
    os.rename(name, name + "2")
    assert open(name + "2").read() == "x"
    os.mkdir(name + "-dir%d" % os.getpid())


def temporary_files():
    import tempfile
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x")


def group_container():
    group = open_setting("group")
    with open(os.path.join(group, "Library/Caches/x"), "w") as file:
        file.write("x")


def group_socket():
    name = os.path.join(open_setting("group"), "socket%d" % os.getpid())
    server = socket.socket(socket.AF_UNIX)
    server.bind(name)
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(name)
    server.accept()


def pair_sequenced():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    a.send(b"x")
    assert b.recv(9) == b"x"


def pass_descriptor():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = os.memfd_create("ring")
    os.ftruncate(fd, 4096)
    socket.send_fds(a, [b"x"], [fd])
    received = socket.recv_fds(b, 9, 1)[1][0]
    mmap.mmap(received, 4096)[0:1] = b"y"
    assert mmap.mmap(fd, 4096)[0:1] == b"y"


def own_child():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def run_program():
    import subprocess
    assert subprocess.run(["/bin/sh", "-c", "ls / >/dev/null 2>&1; echo a | cat"],
                          capture_output=True).stdout == b"a\n"


def threads():
    import threading
    done = []
    thread = threading.Thread(target=lambda: done.append(1))
    thread.start()
    thread.join()
    assert done


def bootstrap():
    fd = int(os.environ["PORTOLAN_BOOTSTRAP_FD"])
    s = socket.socket(fileno=os.dup(fd))
    s.send(b"ping")
    assert s.recv(9) == b"pong"


def bootstrap_reconnect():
    socket.socket(fileno=int(os.environ["PORTOLAN_BOOTSTRAP_FD"])).connect(path("stream"))


def bootstrap_address():
    s = socket.socket(fileno=int(os.environ["PORTOLAN_BOOTSTRAP_FD"]))
    s.sendto(b"x", path("stream"))


def sqlite():
    import sqlite3
    database = sqlite3.connect(os.path.join(os.environ["HOME"], "data.sqlite"))
    database.execute("pragma journal_mode = wal")
    database.execute("create table if not exists t (x)")
    database.execute("insert into t values (1)")
    database.commit()


def own_program():
    """Runs a program that it has written itself."""
    name = os.path.join(os.environ["HOME"], "program")
    fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"#!/bin/sh\nexit 3\n")
    os.fchmod(fd, 0o700)
    os.close(fd)
    assert os.spawnl(os.P_WAIT, name, name) == 3


def victim():
    os.makedirs(path("home"), exist_ok=True)
    for name in ("secret", "home/secret", "removable", "movable", "victim.txt"):
        with open(path(name), "w") as file:
            file.write("secret")
        os.chmod(path(name), 0o600)
    try:
        os.setxattr(path("victim.txt"), "user.there", b"x")
    except OSError:
        pass
    os.mkfifo(path("fifo"))
    os.symlink("secret", path("points"))
    open("/dev/shm/" + os.path.basename(D) + "-shm", "w").close()
    kept = []
    for kind, name in ((socket.SOCK_STREAM, "stream"), (socket.SOCK_DGRAM, "datagram")):
        for address in (path(name), abstract(name)):
            s = socket.socket(socket.AF_UNIX, kind)
            s.bind(address)
            if kind == socket.SOCK_STREAM:
                s.listen(64)
            else:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            kept.append(s)
    tcp = socket.create_server(("127.0.0.1", 0), backlog=64)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    number = 0x50000000 | os.getpid()
    ipc = 0o1600
    segment, set_, queue = (do("shmget", number, 4096, ipc), do("semget", number, 1, ipc),
                            do("msgget", number, ipc))
    name = "portolan-probe-%d" % os.getpid()
    do("mq_open", name.encode(), os.O_RDWR | os.O_CREAT, 0o600, 0)
    buffer = ctypes.create_string_buffer(8)
    print("TCP=%d UDP=%d KEY=%d QUEUE=%s ADDRESS=%d" % (
        tcp.getsockname()[1], udp.getsockname()[1], number, name, ctypes.addressof(buffer)))
    print("ready", flush=True)
    try:
        sys.stdin.buffer.read()
    finally:
        LIBC.shmctl(segment, 0, None)
        LIBC.semctl(set_, 0, 0, 0)
        LIBC.msgctl(queue, 0, None)
        LIBC.syscall(ctypes.c_long(241 if X86 else 181), name.encode())
        os.unlink("/dev/shm/" + os.path.basename(D) + "-shm")


def alone(program):
    user, group = os.getuid(), os.getgid()
    do("unshare", 0x10000000)
    for name, text in (("self/setgroups", "deny"), ("self/uid_map", "%d %d 1" % (user, user)),
                       ("self/gid_map", "%d %d 1" % (group, group)),
                       ("sys/user/max_user_namespaces", "0")):
        with open("/proc/" + name, "w") as file:
            file.write(text)
    os.execv(program[0], program)


def namespaces():
    user = os.getuid()
    try:
        do("unshare", 0x38020000)
        with open("/proc/self/uid_map", "w") as file:
            file.write("%d %d 1" % (user, user))
    except OSError:
        return
    pid = os.fork()
    if pid == 0:
        do("mount", b"none", b"/", b"none", 0x44000, NULL)
        do("mount", b"proc", b"/proc", b"proc", 0, NULL)
        os._exit(0)
    print("no" if os.waitpid(pid, 0)[1] else "yes")


def terminal(program):
    import pty
    pid, master = pty.fork()
    if pid == 0:
        os.execv(program[0], program)
    while True:
        try:
            output = os.read(master, 65536)
        except OSError:
            break
        if not output:
            break
        sys.stdout.buffer.write(output.replace(b"\r", b""))
    sys.stdout.flush()
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)


def attempt(name):
    """In a process of its own: it may be killed for it, and leaves nothing to the next one."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            globals()[name]()
            reason = "out"
        except OSError as error:
            reason = errno.errorcode.get(error.errno, str(error))
        except BaseException as error:
            reason = "%s:%s" % (type(error).__name__, str(error).replace(" ", "_"))
        print(name, reason, flush=True)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        print(name, signal.Signals(os.WTERMSIG(status)).name, flush=True)


if __name__ == "__main__":
    D = sys.argv[2] if len(sys.argv) > 2 else None
    if sys.argv[1] == "victim":
        victim()
    elif sys.argv[1] == "alone":
        alone(sys.argv[2:])
    elif sys.argv[1] == "namespaces":
        namespaces()
    elif sys.argv[1] == "terminal":
        terminal(sys.argv[2:])
    else:
        P = int(os.environ["PROBE_PID"])
        for name in sys.argv[3:]:
            attempt(name)
