"""The gateway as one object: `SOLLOL(config).start()`, and `run`, which is `sollol up`."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import msgspec

from sollol.announce import Announce, tell
from sollol.config import Config, Log, NodeSettings
from sollol.config_sources import load
from sollol.drivers.loop_thread import LoopThread
from sollol.drivers.loops import LoopFactory, fastest
from sollol.errors import ConfigError, SollolError
from sollol.gateway.running import RunningGateway, open_gateway
from sollol.signals import Asked, heard
from sollol.stand_ins import StandIns
from sollol.wire.address import parse_address


class SOLLOLConfig:
    """Settings of a gateway in one place, as an application gives them.

    ``hosts`` are nodes in any form ("host", "host:port", "http://host:port", a dict). Without hosts the gateway looks for nodes
    by itself. ``ray_workers`` and ``dask_workers`` are accepted and start nothing: routing needs no workers. ``metrics_port`` 0
    leaves the metrics on the gateway's own port (`/metrics`). Settings that are not named here come from the environment and
    `sollol.toml`, as for `sollol up`. Raises `ConfigError` for a value out of range.
    """

    def __init__(
        self,
        *,
        hosts: Iterable[str | Mapping[str, Any]] | None = None,
        gateway_port: int | None = None,
        metrics_port: int | None = None,
        host: str | None = None,
        ray_workers: int = 0,
        dask_workers: int = 0,
        discover: bool | None = None,
    ) -> None:
        for name, workers in (("ray_workers", ray_workers), ("dask_workers", dask_workers)):
            if not isinstance(workers, int) or workers < 0:
                raise ConfigError(f"{name}: expected a number of workers from 0, got {workers!r}")
        self.hosts = None if hosts is None else list(hosts)
        self.gateway_port = gateway_port
        self.metrics_port = metrics_port
        self.host = host
        self.ray_workers = ray_workers
        self.dask_workers = dask_workers
        self.discover = discover

    @classmethod
    def auto_discover(cls, **settings: Any) -> Self:
        """Settings for a gateway that finds its nodes by itself; nothing is searched before it starts."""
        return cls(discover=True, **settings)

    def to_config(self) -> Config:
        """The whole tree: the environment and file, and over them what was given here."""
        given: dict[str, object] = {}
        if self.gateway_port is not None:
            given["gateway.port"] = self.gateway_port
        if self.metrics_port is not None:
            given["gateway.metrics_port"] = self.metrics_port
        if self.host is not None:
            given["gateway.host"] = self.host
        discover = self.discover if self.discover is not None else (False if self.hosts is not None else None)
        if discover is not None:
            given["discovery.enabled"] = discover
        config = load(arguments=given).config
        if self.hosts is None:
            return config
        return msgspec.structs.replace(config, nodes=tuple(_node_settings(host) for host in self.hosts))


class SOLLOL:
    """A gateway in this process: ``SOLLOL(config)`` or ``SOLLOL(port=8000, hosts=[...])``.

    `start` blocks until Ctrl-C, SIGTERM or `stop`; ``start(blocking=False)`` returns once the port answers and runs it on a
    thread of its own. As a context manager it starts without blocking and stops at the end of the block.
    """

    def __init__(self, config: SOLLOLConfig | Config | None = None, *, port: int | None = None, **settings: Any) -> None:
        if config is None:
            config = SOLLOLConfig(gateway_port=port, **settings)
        elif port is not None or settings:
            raise ConfigError("give a config or single settings, not both")
        # What was given as a whole is not read again; what the environment and a file may say differently is.
        self._read = config.to_config if isinstance(config, SOLLOLConfig) else None
        self._config = config.to_config() if isinstance(config, SOLLOLConfig) else config
        self._thread: LoopThread[str] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._address = ""

    @property
    def address(self) -> str:
        """Where it answers ("http://host:port"); empty while it does not run."""
        return self._address

    def start(self, blocking: bool = True) -> None:
        """Start the gateway. Raises `PortTaken` when the port is in use; it never returns as if it ran."""
        if self._thread is not None and self._thread.running:
            raise SollolError("this gateway runs already")
        loop = loop_factory(self._config)
        if blocking:
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(self._serve(Future(), signals=threading.current_thread() is threading.main_thread()))
            return
        serve = partial(self._serve, signals=False)
        self._thread = LoopThread(serve, name="sollol gateway", daemon=True, loop_factory=loop)
        self._thread.start()

    def stop(self) -> None:
        """End it: running answers may finish for as long as configured. Harmless when it does not run."""
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            with suppress(RuntimeError):  # the loop may have closed in the meantime
                loop.call_soon_threadsafe(stop.set)
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start(blocking=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def _serve(self, ready: Future[str], *, signals: bool) -> None:
        asked = Asked()
        self._loop, self._stop = asyncio.get_running_loop(), asked.stop
        with heard(asked) if signals else nullcontext():
            async with _opened(self._config, asked, read=self._read) as (gateway, stand_ins):
                self._address = gateway.address
                ready.set_result(gateway.address)
                starting = asyncio.create_task(stand_ins.start_if_empty()) if stand_ins is not None else None
                try:
                    await asked.stop.wait()
                finally:
                    self._address = ""
                    self._loop = self._stop = None
                    if starting is not None:
                        starting.cancel()
                        await asyncio.gather(starting, return_exceptions=True)


def run(
    config: Config, *, announce: Announce, read: Callable[[], Config] | None = None, tell: Callable[[Log], TextIO | None]
) -> int:
    """`sollol up`: run until a signal. Says through `announce` what was found, the address, and a line to try.

    ``read`` and ``tell`` are `open_gateway`'s: for SIGHUP, and where the line of each request goes. Returns the exit code: 0,
    or 128 and the number of the second signal where that cut running answers off. Raises `PortTaken` when the port is in use.
    """
    with asyncio.Runner(loop_factory=loop_factory(config)) as runner:
        return runner.run(_up(config, announce, read, tell))


async def _up(
    config: Config, announce: Announce, read: Callable[[], Config] | None, tell_log: Callable[[Log], TextIO | None]
) -> int:
    asked = Asked()
    with heard(asked):
        async with _opened(config, asked, read=read, tell_log=tell_log) as (gateway, stand_ins):
            _settle_memory()
            record = _recorded(config.data_dir, gateway.address, announce)
            demo = stand_ins.start_if_empty if stand_ins is not None else None
            teller = asyncio.create_task(tell(gateway, announce, demo=demo))
            try:
                await asked.stop.wait()
                announce(_stopping_words(gateway))
            finally:
                teller.cancel()
                await asyncio.gather(teller, return_exceptions=True)
                if record is not None:
                    record.unlink(missing_ok=True)
    return 128 + asked.number if asked.number else 0


def _stopping_words(gateway: RunningGateway) -> str:
    running = sum(node.in_flight for node in gateway.house.engine.state.nodes.values())
    if not running:
        return "stopping"
    seconds = gateway.gateway.config.gateway.shutdown_seconds
    answers = "1 running answer" if running == 1 else f"{running} running answers"
    return f"stopping: {answers} may finish for {seconds:g} s; once more Ctrl-C ends them"


@asynccontextmanager
async def _opened(
    config: Config,
    asked: Asked,
    *,
    read: Callable[[], Config] | None,
    tell_log: Callable[[Log], TextIO | None] | None = None,
) -> AsyncIterator[tuple[RunningGateway, StandIns | None]]:
    """A gateway, and the emulated nodes that it may need; those go last, so that running answers can finish."""
    gateway = await open_gateway(config, read=read, tell=tell_log)
    stand_ins = StandIns(gateway) if config.discovery.demo_if_empty else None
    asked.reload = gateway.reload_as_asked
    try:
        yield gateway, stand_ins
    finally:
        asked.reload = None
        await gateway.close(hurry=asked.hurry)
        if stand_ins is not None:
            await stand_ins.close()


def _settle_memory() -> None:
    """What was loaded stays: the collector need not look at it again, and looks at the rest less often (12 % of the CPU)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _recorded(data_dir: Path, address: str, announce: Announce) -> Path | None:
    """Write the record; where that cannot be, the gateway runs all the same, and says what it does without."""
    try:
        return write_record(data_dir, address)
    except OSError as error:
        announce(f"note: `sollol down` will not find this gateway: {data_dir} cannot be written ({error.strerror})")
        return None


def write_record(data_dir: Path, address: str) -> Path:
    """Note in ``data_dir`` that a gateway runs, so that `sollol down` finds it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    record = data_dir / f"gateway-{address.rpartition(':')[2]}.json"
    part = record.with_suffix(".part")
    part.write_bytes(msgspec.json.encode({"pid": os.getpid(), "url": address, "started": time.time()}))
    part.replace(record)  # whoever reads it finds all of it
    return record


def loop_factory(config: Config) -> LoopFactory | None:
    """uvloop's loop where it is installed and not turned off; None means asyncio's own."""
    wanted = config.gateway.uvloop
    found = fastest() if wanted else None
    if found is None and wanted is True:
        raise ConfigError("gateway.uvloop is true, but uvloop is not installed: pip install 'sollol[fast]'")
    return found


def _node_settings(host: str | Mapping[str, Any]) -> NodeSettings:
    address = parse_address(host)
    return NodeSettings(address.endpoint.url, name=address.name, priority=address.priority or 5)
