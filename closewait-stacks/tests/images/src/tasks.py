"""Tasks of asyncio that wait in known lines, for the image of an interpreter. With an argument, prints what each task itself says."""
import asyncio
import contextlib
import os
import sys
import types


class Orders:
    def __init__(self):
        self.lock = asyncio.Lock()
        self.stock = asyncio.Semaphore(0)
        self.queue = asyncio.Queue()
        self.ready = asyncio.Event()
        self.changed = asyncio.Condition()

    async def reserve(self):
        async with self.lock:
            await asyncio.sleep(1)

    async def book(self):
        await self.stock.acquire()

    async def work(self):
        while True:
            await self.queue.get()

    async def wait(self):
        await self.ready.wait()

    async def change(self):
        async with self.changed:
            await self.changed.wait()

    async def export(self):
        try:
            await asyncio.sleep(9999)
        finally:
            await asyncio.sleep(0)

    async def lines(self):
        yield 1
        async with self.transaction():
            await asyncio.sleep(9999)
        yield 2

    @contextlib.asynccontextmanager
    async def transaction(self):
        await self.lock.acquire()
        yield

    async def report(self):
        async for _ in self.lines():
            pass

    def __await__(self):
        return (yield from self.reserve().__await__())

    async def awaited(self):
        await self


@types.coroutine
def generator(orders):
    for _ in iter(lambda: next(iter([1])), 2):
        yield from orders.book().__await__()


async def generated(orders):
    await generator(orders)


async def deep(orders, depth):
    if depth:
        return await deep(orders, depth - 1)
    await orders.reserve()


async def handle(orders, number):
    await orders.reserve()


async def gathered(orders):
    await asyncio.gather(orders.export(), orders.book())


async def limited(orders):
    await asyncio.wait_for(orders.reserve(), 9999)


async def read(port):
    reader, _ = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()


async def received(loop, port):
    import socket
    client = socket.socket()
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_recv(client, 10)


async def served(reader, writer):
    await reader.readexactly(10)


class Named(asyncio.Task):
    pass


def lines(task):
    frames = []
    coroutine = task.get_coro()
    while coroutine is not None:
        for kind in "cr", "gi", "ag":
            if hasattr(coroutine, kind + "_frame"):
                frame = getattr(coroutine, kind + "_frame")
                name = coroutine.__qualname__ if sys.version_info >= (3, 11) else frame.f_code.co_name
                frames.append((name, frame.f_code.co_filename, frame.f_lineno))
                coroutine = getattr(coroutine, dict(cr="cr_await", gi="gi_yieldfrom", ag="ag_await")[kind])
                break
        else:
            import gc
            inner = [one for one in gc.get_referents(coroutine) if type(one).__name__ in ("coroutine", "async_generator")]
            is_step = type(coroutine).__name__ in ("coroutine_wrapper", "async_generator_asend", "async_generator_athrow")
            coroutine = inner[0] if inner and is_step else None
    return frames[::-1]


async def main():
    orders, loop = Orders(), asyncio.get_running_loop()
    await orders.lock.acquire()
    server = await asyncio.start_server(served, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    coroutines = [handle(orders, number) for number in range(20)]
    coroutines += [orders.book(), orders.work(), orders.wait(), orders.change(), orders.export(), orders.report(), orders.awaited()]
    coroutines += [generated(orders), deep(orders, 140), deep(orders, 5), gathered(orders), limited(orders), read(port)]
    coroutines += [received(loop, port)]
    tasks = [loop.create_task(one) for one in coroutines]
    tasks += [Named(orders.export(), loop=loop, name="nightly export")]
    ended = loop.create_task(asyncio.sleep(0))
    await asyncio.sleep(0.3)
    for task in sorted(asyncio.all_tasks() - {asyncio.current_task()} if len(sys.argv) > 1 else [], key=lambda task: task.get_name()):
        print("task", task.get_name() + ": waiting")
        for function, file, line in lines(task)[:128]:
            print("  {} ({}:{})".format(function, file, line))
    print("ready", os.getpid(), sys.version.split()[0], ended.done(), flush=True)
    await tasks[0]


asyncio.run(main())
