"""A server with a task for each connection.

/order takes the lock of the ledger; after /audit, a task has it and never releases it. /report asks the backend.
/forget answers and keeps the connection. Everything else is answered, and the connection closed.
"""

import asyncio

forgotten = []


async def reserve(ledger):
    async with ledger:
        return b"ok\n"


async def report():
    reader, writer = await asyncio.open_connection("127.0.0.1", 8081)
    writer.write(b"report\n")
    answer = await reader.read(4096)
    writer.close()
    return answer


async def audit(ledger):
    async with ledger:
        await asyncio.sleep(1e6)


async def main():
    ledger = asyncio.Lock()
    audits = []

    async def serve(reader, writer):
        path = (await reader.read(4096)).split(b" ")[1]
        answer = b"ok\n"
        if path == b"/order":
            answer = await reserve(ledger)
        elif path == b"/report":
            answer = await report()
        elif path == b"/audit":
            audits.append(asyncio.create_task(audit(ledger)))
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + answer)
        if path == b"/forget":
            forgotten.append(writer)
        else:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 8080, backlog=64)
    await server.serve_forever()


asyncio.run(main())
