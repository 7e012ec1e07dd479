"""A service manager, as far as a service with Type=notify and a descriptor store sees of systemd.

Usage: manager.py LISTENER COMMAND [ARGUMENT]...

LISTENER is the path of a socket to make for the service, or `-`. Each line of standard input is an
order: `restart` stops the service and starts it again with what it has stored, `stop` ends it for
good, `kept` tells how many descriptors are kept. Each order is answered with a line.
"""

import array
import os
import select
import signal
import socket
import sys
import tempfile

LIMIT = 4096
store = {}


def main():
    listener, command = sys.argv[1], sys.argv[2:]
    given = []
    if listener != "-":
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server.bind(listener)
        server.listen(16)
        given = [("portolan-bootstrap", server.fileno())]
    with tempfile.TemporaryDirectory() as folder:
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(folder + "/notify")
        pid = start(command, notify, given)
        say("ready %d" % pid)
        for order in sys.stdin:
            order = order.strip()
            if order == "kept":
                drain(notify)
                say("kept %d" % sum(map(len, store.values())))
                continue
            status = stop(pid, notify)
            kept = sum(map(len, store.values()))
            if order == "stop":
                say("stopped %d %d" % (status, kept))
                return
            pid = start(command, notify, given)
            say("ready %d" % pid)
        stop(pid, notify)


def say(line):
    print(line, flush=True)


def start(command, notify, given):
    passed = given + [(name, fd) for name, fds in store.items() for fd in fds]
    pid = os.fork()
    if pid == 0:
        os.environ["NOTIFY_SOCKET"] = notify.getsockname()
        os.environ["FDSTORE"] = str(LIMIT)
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.environ["LISTEN_FDS"] = str(len(passed))
        os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in passed)
        # Out of the way of the numbers that they are to have.
        high = [os.dup2(fd, 5000 + at) for at, (_, fd) in enumerate(passed)]
        for at, fd in enumerate(high):
            os.dup2(fd, 3 + at, inheritable=True)
        os.closerange(3 + len(passed), 10000)
        os.execvp(command[0], command)
    while not take(notify):
        pass
    return pid


def stop(pid, notify):
    os.kill(pid, signal.SIGTERM)
    ended = os.pidfd_open(pid)
    while True:
        # As systemd does, what was said before the end is heard before the end.
        ready, _, _ = select.select([notify, ended], [], [])
        if notify in ready:
            take(notify)
        elif ended in ready:
            os.close(ended)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def drain(notify):
    while select.select([notify], [], [], 0)[0]:
        take(notify)


def take(notify):
    """Takes one notification, and tells whether it says that the service is ready."""
    text, ancillary, _, _ = notify.recvmsg(4096, socket.CMSG_SPACE(253 * 4))
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data)
    fields = dict(line.split("=", 1) for line in text.decode().splitlines())
    if "FDSTORE" in fields:
        kept = store.setdefault(fields["FDNAME"], [])
        kept.extend(fds)
    elif "FDSTOREREMOVE" in fields:
        for fd in store.pop(fields["FDNAME"], []):
            os.close(fd)
    else:
        # That closes it is the answer to BARRIER=1.
        for fd in fds:
            os.close(fd)
    return "READY" in fields


main()
