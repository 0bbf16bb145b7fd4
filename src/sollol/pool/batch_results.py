"""Where the results of a batch are gathered: a list, or one array of NumPy."""

from __future__ import annotations

from typing import Any, Protocol

from sollol.errors import BadReply, BadValue, SollolError


class Gathered(Protocol):
    """Takes results in any order; ``errors`` are those of the items without one."""

    errors: dict[int, SollolError]

    def put(self, index: int, result: Any) -> None: ...
    def all(self, total: int) -> Any: ...


class InList:
    """Results as a list, in the order of the inputs; ``keep_errors`` puts each error in the place of its result."""

    def __init__(self, keep_errors: bool) -> None:
        self.errors: dict[int, SollolError] = {}
        self._keep_errors = keep_errors
        self._results: list[Any] = []

    def put(self, index: int, result: Any) -> None:
        """A result; the list grows as needed."""
        missing = index + 1 - len(self._results)
        if missing > 0:
            self._results.extend([None] * missing)
        self._results[index] = result

    def all(self, total: int) -> list[Any]:
        """All of them."""
        if total:
            self.put(total - 1, self._results[total - 1] if len(self._results) == total else None)
        if self._keep_errors:
            for index, error in self.errors.items():
                self._results[index] = error
            self.errors = {}
        return self._results


class InArray:
    """Vectors as one array of 32-bit floats, a row for each; nan where there is none. ``total``: how many, where known."""

    def __init__(self, total: int | None) -> None:
        self.errors: dict[int, SollolError] = {}
        self._numpy = numpy()
        self._array: Any = None
        self._total = total

    def put(self, index: int, result: Any) -> None:
        """A row; all have to be of one length."""
        array = self._array
        if array is None:
            array = self._array = self._empty(self._total or 1_024, len(result))
        if len(result) != array.shape[1]:
            text = f"a vector of {len(result)} numbers among others of {array.shape[1]}: the nodes have different models"
            self.errors[index] = BadReply("the node", text)
            return
        if index >= len(array):
            more = self._empty(max(index + 1 - len(array), len(array) // 2), array.shape[1])
            array = self._array = self._numpy.concatenate([array, more])
        array[index] = result

    def all(self, total: int) -> Any:
        """All of them."""
        array = self._array
        if array is None:
            return self._empty(total, 0)
        if len(array) < total:
            array = self._numpy.concatenate([array, self._empty(total - len(array), array.shape[1])])
        return array[:total]

    def _empty(self, rows: int, columns: int) -> Any:
        return self._numpy.full((rows, columns), float("nan"), dtype="float32")


def numpy() -> Any:
    """NumPy. Raises `BadValue` where it is not installed."""
    try:
        import numpy as found  # noqa: PLC0415 - SOLLOL does not need it
    except ImportError:
        raise BadValue("as_array=True needs NumPy: pip install numpy") from None
    return found
