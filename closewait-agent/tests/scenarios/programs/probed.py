"""A server that takes a connection that is readable without a byte to read for one whose request is still to come."""

import array
import fcntl
import selectors
import socket
import termios

selector = selectors.DefaultSelector()
listener = socket.create_server(("127.0.0.1", 8080), backlog=64)
selector.register(listener, selectors.EVENT_READ)
waiting = []
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            connection, _ = listener.accept()
            selector.register(connection, selectors.EVENT_READ)
            continue
        connection = key.fileobj
        selector.unregister(connection)
        size = array.array("i", [0])
        fcntl.ioctl(connection, termios.FIONREAD, size)
        if size[0] == 0:
            waiting.append(connection)
        else:
            connection.recv(4096)
            connection.sendall(b"ok\n")
            connection.close()
