"""Run scripts in forks of a process that has imported torch and matplotlib, which takes seconds.

    python forked.py ADDRESS                            the process that is forked
    python -I -S forked.py ADDRESS SCRIPT WORDS...      as `python SCRIPT WORDS...`, but in a fork

The second has the standard streams, folder, environment and exit status of the script, and if it
ends, the script ends. What is under test is imported by the fork, as in any process.
"""

import json
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

LENGTH_BYTES = 8  # of a request


def run_in_fork(address: str, words: list[str]) -> None:
    """Let the server at this address run a script, and end as it ends."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        request = {"words": words, "folder": os.getcwd(), "variables": dict(os.environ)}
        text = json.dumps(request).encode()
        socket.send_fds(server, [len(text).to_bytes(LENGTH_BYTES)], [0, 1, 2])
        server.sendall(text)
        status = int(server.makefile().read())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(address: str) -> dict[str, Any]:
    """Wait for requests until standard input is closed. Returns in a fork, with the request that it
    is to run."""
    import matplotlib.figure  # noqa: F401  # here, since run_in_fork is to take milliseconds
    import torch  # noqa: F401

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    print("listening", flush=True)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return answer(connection)
        connection.close()
        with suppress(ChildProcessError):  # there is none
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
    os._exit(0)


def answer(connection: socket.socket) -> dict[str, Any]:
    """Fork once more, send the fork's exit status, and end. Returns in the fork."""
    length, streams, *_ = socket.recv_fds(connection, LENGTH_BYTES, 3)
    request = json.loads(connection.makefile("rb").read(int.from_bytes(length)))
    script = os.fork()
    if script == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        connection.close()
        return request
    for stream in (0, 1, 2, *streams):
        os.close(stream)
    if connection in select.select([connection, os.pidfd_open(script)], [], [])[0]:
        os.kill(script, signal.SIGKILL)  # who asked has gone
    _, status = os.waitpid(script, 0)
    connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        run_in_fork(sys.argv[1], sys.argv[2:])
    request = serve(sys.argv[1])
    # The server's own stream objects remember whether its files were seekable.
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["variables"])
    sys.argv = request["words"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
