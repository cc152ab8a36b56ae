"""A server that starts a job for each request, answers, and closes; the jobs inherit the connections and the listener."""

import os
import socket
import subprocess
import sys

JOB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "convert_job.py")

listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
# What a library does that has its own socket(), accept() and fork(), as that of PHP.
listener.set_inheritable(True)
done = 0
while True:
    connection, _ = listener.accept()
    connection.set_inheritable(True)
    connection.recv(4096)
    subprocess.Popen([sys.executable, JOB], close_fds=False, start_new_session=True)
    connection.sendall(b"ok\n")
    connection.close()
    done += 1
    if done == 4:
        print("four jobs run", flush=True)
