"""A table by descriptor. The kernel counts descriptors from the bottom, so a list holds them in a tenth of a dict."""

from collections.abc import Iterator, MutableMapping
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByDescriptor(MutableMapping[int, Value], Generic[Value]):
    """What belongs to descriptors, in their order."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: list[Value | None] = []

    def __getitem__(self, descriptor: int) -> Value:
        value = self._values[descriptor] if 0 <= descriptor < len(self._values) else None
        if value is None:
            raise KeyError(descriptor)
        return value

    def __setitem__(self, descriptor: int, value: Value) -> None:
        if descriptor < 0:
            raise KeyError(descriptor)
        self._values += [None] * (descriptor + 1 - len(self._values))
        self._values[descriptor] = value

    def __delitem__(self, descriptor: int) -> None:
        if descriptor not in self:
            raise KeyError(descriptor)
        self._values[descriptor] = None

    def __iter__(self) -> Iterator[int]:
        return (descriptor for descriptor, value in enumerate(self._values) if value is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)
