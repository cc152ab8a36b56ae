"""Threads that wait in known lines, for the image of an interpreter."""
import asyncio
import importlib.util
import os
import queue
import select
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

lock = threading.Lock()
here, there = socket.socketpair()


class Stock:
    def __init__(self, wait):
        self.count = 1
        if wait:
            lock.acquire()

    def reserve(self):
        self.count -= 1
        with lock:
            self.count += 1

    @property
    def left(self):
        return [
            self.count
            for _ in range(1)
            if time.sleep(9999) is None
        ]


def received():
    data = b""
    while not data:

        data = here.recv(
            100,
        )


def epoll():
    poll = select.epoll()
    poll.register(here.fileno(), select.EPOLLERR)
    while True:
        poll.poll()


def lines():
    for number in range(3):
        yield number
        if number == 1:
            time.sleep(9999)


def outer():
    def inner(depth):
        if depth:
            return inner(depth - 1)
        return (lambda: time.sleep(9999))()
    return sum(inner(2) for _ in "a")


def initialized():
    for number in range(99):
        Stock(number == 98)


async def waits():
    await asyncio.sleep(9999)


def main():
    lock.acquire()
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "заказ_é.py")
    spec = importlib.util.spec_from_file_location("orders", path)
    orders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(orders)
    targets = [
        Stock(False).reserve,
        lambda: Stock(False).left,
        received,
        epoll,
        lambda: list(lines()),
        outer,
        initialized,
        lambda: asyncio.run(waits()),
        orders.größe,
        queue.Queue().get,
    ]
    pool = ThreadPoolExecutor(2)
    for _ in range(2):
        pool.submit(time.sleep, 0.2)
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    print("ready", os.getpid(), sys.version.split()[0], flush=True)
    threads[0].join()


main()
