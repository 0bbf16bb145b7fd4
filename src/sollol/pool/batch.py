"""What the three kinds of batches are to the engine, and their results as an iterator."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar

from sollol.core.batch import MOST, Board
from sollol.core.types import Priority, Task
from sollol.engine.batch import Batch, Settled
from sollol.engine.dispatch import FRESH_SECONDS
from sollol.errors import BadValue, BatchError, NoNodeForModel, SollolError
from sollol.pool import bodies
from sollol.pool.async_pieces import AsyncPieces
from sollol.pool.batch_inputs import count, pieces
from sollol.pool.batch_progress import Progress, Shown
from sollol.pool.batch_results import Gathered, InArray, InList, numpy
from sollol.pool.inside import Inside, decoded
from sollol.pool.replies import ChatReply, GenerateReply, wrap
from sollol.pool.settings import Wishes
from sollol.wire.vectors import vectors

T = TypeVar("T")
FIXED: Final = 16
"""Texts of a request where nothing is to be learned and the caller names no number."""
WORKERS: Final = 8
"""Requests at a time where nothing is to be learned and the caller names no number."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a batch is to be worked on. ``adaptive`` false: ``workers`` requests at a time with ``size`` items each."""

    adaptive: bool = True
    workers: int | None = None
    size: int | None = None
    errors: str = "raise"

    def __post_init__(self) -> None:
        for name, value in (("max_workers", self.workers), ("batch_size", self.size)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise BadValue(f"{name} has to be a whole number from 1 on, not {value!r}")
        if self.errors not in ("raise", "return"):
            raise BadValue(f'errors has to be "raise" or "return", not {self.errors!r}')


@dataclass(frozen=True, slots=True)
class Texts:
    """A batch of texts to embed; ``array``: vectors are rows of NumPy."""

    model: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    array: bool = False
    path: str = "/api/embed"
    what: str = "inputs"
    single: bool = False

    def check(self, one: Any) -> str:
        """Why it is nothing that can be sent; empty when it is."""
        return "" if isinstance(one, str) else f"a text is needed, not {type(one).__name__}"

    def body(self, inputs: Sequence[str]) -> bytes:
        """The body of one request."""
        return bodies.encoded({"model": self.model, "input": inputs, **self.fields})

    def probe(self) -> bytes:
        """The body of a request like those of this batch."""
        return self.body(["text"])

    def read(self, body: bytes, inputs: int, node: str) -> Sequence[Any]:
        """The results in a reply. Raises `BadReply`."""
        found = vectors(body, inputs, node)
        return numpy().asarray(found, dtype="float32") if self.array and len({len(one) for one in found}) == 1 else found


@dataclass(frozen=True, slots=True)
class Chats:
    """A batch of conversations to continue."""

    model: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    path: str = "/api/chat"
    what: str = "conversations"
    single: bool = True

    def check(self, one: Any) -> str:
        """Why it is nothing that can be sent; empty when it is."""
        try:
            return "" if bodies.messages(one) else "a conversation needs a message"
        except BadValue as error:
            return str(error)
        except TypeError:
            return f"a conversation is a list of messages, not {type(one).__name__}"

    def body(self, inputs: Sequence[Any]) -> bytes:
        """The body of one request."""
        tools = bodies.tools(self.fields.get("tools"))
        fields = {**self.fields, "model": self.model, "messages": bodies.messages(inputs[0]), "tools": tools}
        return bodies.encoded({**fields, "stream": False})

    def probe(self) -> bytes:
        """The body of a request like those of this batch."""
        return self.body([[{"role": "user", "content": "text"}]])

    def read(self, body: bytes, inputs: int, node: str) -> Sequence[ChatReply]:
        """The results in a reply."""
        return [wrap(ChatReply, decoded(body))]


@dataclass(frozen=True, slots=True)
class Prompts:
    """A batch of prompts to continue."""

    model: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    path: str = "/api/generate"
    what: str = "prompts"
    single: bool = True

    def check(self, one: Any) -> str:
        """Why it is nothing that can be sent; empty when it is."""
        return "" if isinstance(one, str) and one else "a prompt that is not empty is needed"

    def body(self, inputs: Sequence[str]) -> bytes:
        """The body of one request."""
        images = bodies.images(self.fields.get("images"))
        fields = {**self.fields, "model": self.model, "prompt": inputs[0], "images": images}
        return bodies.encoded({**fields, "stream": False})

    def probe(self) -> bytes:
        """The body of a request like those of this batch."""
        return self.body(["text"])

    def read(self, body: bytes, inputs: int, node: str) -> Sequence[GenerateReply]:
        """The results in a reply."""
        return [wrap(GenerateReply, decoded(body))]


Work = Texts | Chats | Prompts


async def begin(inside: Inside, work: Work, inputs: Any, wishes: Wishes, manner: Manner) -> Batch[Any, Any]:
    """Begin a batch. Raises a `SollolError` when no node could ever do it."""
    model = work.model
    await inside.somebody_has(model)
    timeout = wishes.timeout
    priority = Priority.BATCH if wishes.priority is None else wishes.priority
    wishes = replace(wishes, timeout=None, hedge=None, cache=False, priority=int(priority))
    engine = inside.house.engine
    probe = inside.task(work.path, work.probe(), wishes)
    await _hoped_for(inside, probe, model)
    total = count(inputs)
    routed = work.single or not manner.adaptive
    size = _fixed(work, manner, total) if routed else None
    workers = manner.workers if manner.adaptive else manner.workers or WORKERS
    board = Board(most=manner.size or MOST, fixed=size, workers=workers)
    if total is not None:
        board.expect(total)

    async def send(some: Sequence[Any], pin: str | None, made: Callable[[Task], None]) -> Sequence[Any]:
        task = inside.task(work.path, work.body(some), wishes)
        if not work.single:  # nobody sees how vectors were routed
            task.details = False
            task.headers = tuple(header for header in task.headers if header[0] != b"x-sollol-details")
        if pin is not None:
            task.pin, task.once = pin, True
        made(task)
        return work.read(await inside.carry(task), len(some), pin or "the node")

    return Batch(
        engine,
        board,
        pieces(inputs),
        send,
        probe=probe,
        speeds=inside.speeds,
        check=work.check,
        routed=routed,
        timeout=timeout,
    )


async def _hoped_for(inside: Inside, probe: Task, model: str) -> None:
    """Raises the reason when no node could ever serve requests like ``probe``; somebody may have got the model just now."""
    engine = inside.house.engine
    began = engine.clock.now()
    hopeless = engine.scheduler.hopeless(probe, began)
    if isinstance(hopeless, NoNodeForModel):
        if await inside.house.monitor.afresh(began - FRESH_SECONDS):
            hopeless = engine.scheduler.hopeless(probe, engine.clock.now())
        if isinstance(hopeless, NoNodeForModel):
            raise NoNodeForModel(model)
    if hopeless is not None:
        raise hopeless


def _fixed(work: Work, manner: Manner, total: int | None) -> int:
    if work.single:
        return 1
    workers = manner.workers or WORKERS
    return manner.size or (FIXED if total is None else max(1, min(FIXED, -(-total // workers))))


Start = Callable[[], Coroutine[Any, Any, tuple[Inside, Batch[Any, Any]]]]


class AsyncResults(AsyncPieces[tuple[int, T]], Generic[T]):
    """Results of a batch as they come: (index of the input, result), in no order.

    It begins when the first one is asked for; `aclose`, or forgetting it, ends it early. At the end `BatchError` says which
    items failed, if any did; with ``errors="return"`` each error comes in the place of a result instead.
    """

    def __init__(self, start: Start, errors: str) -> None:
        super().__init__()
        self._start: Start | None = start
        self._keep_errors = errors == "return"
        self._batch: Batch[Any, T] | None = None
        self._inside: Inside | None = None
        self._errors: dict[int, SollolError] = {}
        self._count = 0

    async def take(self) -> list[tuple[int, Any]]:
        """All that have come by now, one at least; empty at the end. Raises `BatchError` there."""
        if self._start is not None:
            start, self._start = self._start, None
            self._inside, self._batch = await start()
        found: list[tuple[int, Any]] = []
        while self._batch is not None and not found:
            settled = await _counted(self._inside, self._batch)
            if not settled:
                self._batch = None
            for index, result, error in settled:
                self._count += 1
                if error is None or self._keep_errors:
                    found.append((index, result if error is None else error))
                else:
                    self._errors[index] = error
        if self._errors and not found:
            errors, self._errors = self._errors, {}
            raise BatchError(errors, total=self._count)
        return found

    def close(self) -> None:
        """`aclose` without waiting; in the loop of the pool."""
        self._start = None
        self._waiting.clear()
        self._errors.clear()
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.close()

    def __del__(self) -> None:
        inside, batch = self._inside, self._batch
        if inside is not None and batch is not None and not inside.loop.is_closed():
            inside.loop.call_soon_threadsafe(batch.close)


async def _counted(inside: Inside | None, batch: Batch[Any, T]) -> list[Settled[T]]:
    assert inside is not None
    return await inside.counted(batch.take())


def gathered(total: int | None, manner: Manner, *, array: bool) -> Gathered:
    """Where results go. Raises `BadValue` for what does not go together, or where NumPy is missing."""
    if not array:
        return InList(manner.errors == "return")
    if manner.errors == "return":
        raise BadValue('an array has no place for errors: errors="return" and as_array=True do not go together')
    return InArray(total)


def progress_of(given: bool | Progress, what: str) -> Progress | None:
    """Whom to tell how far it is."""
    if isinstance(given, bool):
        return Shown(what) if given else None
    return given


async def whole(batch: Batch[Any, Any], into: Gathered, total: int | None, told: Progress | None) -> Any:
    """All results, in the order of the inputs. Raises `BatchError` when items have none."""
    done = 0
    try:
        while settled := await batch.take():
            for index, result, error in settled:
                if error is None:
                    into.put(index, result)
                else:
                    into.errors[index] = error
            done += len(settled)
            if told is not None:
                told(done, total)
    finally:
        batch.close()
    results = into.all(done)
    if into.errors:
        raise BatchError(into.errors, results, done)
    if told is not None and total is None:
        told(done, done)
    return results
