"""Damages messages of protobuf field by field, whatever they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor

from tests.fuzz.mutators import FLOATS, INTEGERS, TEXTS, Random, chosen, mutated_bytes, steps

__all__ = ["Parts", "mutated_model"]

_INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}
_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}
_SMALL = tuple(range(-2, 30))
_TEXTS = tuple(text for text in TEXTS if text.isascii() or text.isprintable())

# How often the way into a model ends at a message, and not at a field of it.
_STOPPING = 0.15

# Longer texts are documents, which have mutations of their own.
_LONGEST_NAME = 100


class Parts:
    """What a model is made of, as far as it may come in at another place of it.

    Attributes:
        model: The model.
        texts: Its names.
        messages: Its messages by the names of their types.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        texts: set[str] = set()
        self.messages: dict[str, list[Any]] = defaultdict(list)
        for value in _values(model):
            if isinstance(value, str) and len(value) < _LONGEST_NAME:
                texts.add(value)
            elif hasattr(value, "DESCRIPTOR"):
                self.messages[value.DESCRIPTOR.full_name].append(value)
        self.texts = sorted(texts)


def mutated_model(parts: Parts, random: Random) -> bytes:
    """The bytes of a model in which fields are set, cleared, repeated, exchanged, and copied from one to another."""
    changed = onnx.ModelProto()
    changed.CopyFrom(parts.model)
    for _ in steps(random):
        message, field = _somewhere(changed, random)
        if field.is_repeated:
            _mutate_list(message, field, parts, random)
        else:
            _mutate_field(message, field, parts, random)
    return bytes(changed.SerializeToString())


def _values(message: Any) -> Iterator[Any]:
    """All values of a message and of those in it."""
    for field, value in message.ListFields():
        for item in value if field.is_repeated else (value,):
            yield item
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                yield from _values(item)


def _somewhere(message: Any, random: Random) -> tuple[Any, FieldDescriptor]:
    """A field of a message, or of one of those in it; now and then one that is not set."""
    while True:
        present = message.ListFields()
        if not present or random.random() < 0.05:
            return message, chosen(random, message.DESCRIPTOR.fields)
        field, value = chosen(random, present)
        if field.type != FieldDescriptor.TYPE_MESSAGE or random.random() < _STOPPING:
            return message, field
        message = chosen(random, value) if field.is_repeated else value


def _mutate_list(message: Any, field: FieldDescriptor, parts: Parts, random: Random) -> None:
    items = getattr(message, field.name)
    number = int(random.integers(len(items))) if len(items) else 0
    match int(random.integers(6)):
        case 0 if len(items):
            del items[number]
        case 1 if len(items):
            _exchange(items, number, int(random.integers(len(items))))
        case 2 if len(items):
            items.append(items[number])
        case 3 if random.random() < 0.3:
            message.ClearField(field.name)
        case _ if field.type == FieldDescriptor.TYPE_MESSAGE:
            items.append(_another(field, parts, random))
        case _ if len(items):
            items[number] = _scalar(field, items[number], parts, random)
        case _:
            items.append(_scalar(field, None, parts, random))


def _exchange(items: Any, one: int, other: int) -> None:
    values = [_copied(value) if hasattr(value, "DESCRIPTOR") else value for value in items]
    values[one], values[other] = values[other], values[one]
    del items[:]
    items.extend(values)


def _mutate_field(message: Any, field: FieldDescriptor, parts: Parts, random: Random) -> None:
    if random.random() < 0.15:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(message, field.name).CopyFrom(_another(field, parts, random))
    else:
        setattr(message, field.name, _scalar(field, getattr(message, field.name), parts, random))


def _another(field: FieldDescriptor, parts: Parts, random: Random) -> Any:
    """A message of the type of a field, from elsewhere in the model if there is one."""
    found = parts.messages.get(field.message_type.full_name)
    return _copied(chosen(random, found)) if found else field.message_type._concrete_class()


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _scalar(field: FieldDescriptor, value: Any, parts: Parts, random: Random) -> Any:
    """A value for a field that holds no message."""
    if field.cpp_type in _INTEGERS:
        number = chosen(random, ((value or 0) + 1, (value or 0) - 1, chosen(random, _SMALL), chosen(random, INTEGERS)))
        bits = 32 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else 64
        if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64:
            return number % 2**64
        return (number + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return chosen(random, [item.number for item in field.enum_type.values])
    if field.cpp_type in _FLOATS:
        return chosen(random, FLOATS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return mutated_bytes(value or b"", random)
    return chosen(random, (*(chosen(random, parts.texts) for _ in range(3)), chosen(random, _TEXTS), f"{value or ''}_"))
