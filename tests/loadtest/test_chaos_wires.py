"""A wire that holds, loses and refuses what it carries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from loadtest.chaos.wires import HOST, Carries, Wire
from loadtest.processes import free_ports


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """To a server that says everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    port, to_port = free_ports(2)
    one = Wire(port, to_port)
    async with await asyncio.start_server(echo, HOST, to_port):
        await one.start()
        yield one
        one.close()


async def test_bytes_pass_both_ways_and_so_does_an_end(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection(HOST, wire.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    async with asyncio.timeout(5):
        assert await reader.read() == b""
        while wire.pairs:  # noqa: ASYNC110 - both ends close in their own turn
            await asyncio.sleep(0)


async def test_what_is_held_comes_later_and_whole(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection(HOST, wire.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    await wire.change(Carries.HELD)
    writer.write(b"b")
    new_reader, new_writer = await asyncio.open_connection(HOST, wire.port)
    new_writer.write(b"c")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reader.read(1)
    await wire.change(Carries.ALL)
    assert (await reader.readexactly(1), await new_reader.readexactly(1)) == (b"b", b"c")
    for one in (writer, new_writer):
        one.close()


async def test_what_is_lost_never_comes_and_its_connection_is_reset(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection(HOST, wire.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    await wire.change(Carries.LOST)
    writer.write(b"b")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reader.read(1)
    await wire.change(Carries.ALL)
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.close()
    reader, writer = await asyncio.open_connection(HOST, wire.port)
    writer.write(b"c")
    assert await reader.readexactly(1) == b"c"
    writer.close()


async def test_a_cut_wire_resets_and_refuses_until_it_is_mended(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection(HOST, wire.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    await wire.change(Carries.NONE)
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, wire.port)
    await wire.change(Carries.ALL)
    reader, writer = await asyncio.open_connection(HOST, wire.port)
    writer.write(b"c")
    assert await reader.readexactly(1) == b"c"
    writer.close()


async def test_a_connection_to_nobody_is_reset(wire: Wire) -> None:
    nobody = Wire(*free_ports(2))
    await nobody.start()
    reader, writer = await asyncio.open_connection(HOST, nobody.port)
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.close()
    nobody.close()
