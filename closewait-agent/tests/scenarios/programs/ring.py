"""A server that answers twelve clients, gives their sockets to an io_uring as direct descriptors, and closes its copies."""

import ctypes
import os
import socket
import sys
import time

IO_URING_SETUP, IO_URING_REGISTER = 425, 427
IORING_REGISTER_FILES = 2

libc = ctypes.CDLL(None, use_errno=True)
# struct io_uring_params, all zero.
ring = libc.syscall(IO_URING_SETUP, 4, ctypes.create_string_buffer(120))
if ring < 0:
    print("no io_uring:", os.strerror(ctypes.get_errno()), flush=True)
    sys.exit()
listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
connections = []
for _ in range(12):
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(b"ok\n")
    connections.append(connection)
files = (ctypes.c_int * len(connections))(*(connection.fileno() for connection in connections))
if libc.syscall(IO_URING_REGISTER, ring, IORING_REGISTER_FILES, files, len(files)) < 0:
    sys.exit("io_uring_register: " + os.strerror(ctypes.get_errno()))
for connection in connections:
    connection.close()
print("registered", flush=True)
time.sleep(150)
