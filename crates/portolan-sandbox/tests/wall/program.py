"""What an ordinary Python program does: it knows nothing of walls."""

import os
import socket
import sqlite3
import subprocess
import tempfile
import threading

database = sqlite3.connect(os.path.join(os.environ["HOME"], "data.sqlite"))
database.execute("pragma journal_mode = wal")
database.execute("create table if not exists t (x)")
database.execute("insert into t values (1)")
database.commit()

with tempfile.NamedTemporaryFile() as file:
    file.write(b"x")

done = []
thread = threading.Thread(target=lambda: done.append(1))
thread.start()
thread.join()
assert done

pipe = subprocess.run(["/bin/sh", "-c", "ls / >/dev/null 2>&1; echo a | cat"], capture_output=True)
assert pipe.stdout == b"a\n"

ours, theirs = socket.socketpair()
pid = os.fork()
if pid == 0:
    theirs.sendall(b"child")
    os._exit(3)
assert ours.recv(9) == b"child"
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3

print("unchanged")
