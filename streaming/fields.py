"""Raw JSON objects to columns of plain values, one field a column; must not know what becomes of a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec.json import Decoder

from streaming.texts import MISSING

Form: TypeAlias = Literal["word", "words", "number"]
Raw: TypeAlias = msgspec.Raw | bytes
Column: TypeAlias = Sequence[Any]
"""A value a row, None where it is missing: str, int or bool for a word; a list of those for words; float or int for a number."""

_Address: TypeAlias = tuple[str, ...]  # the keys to descend by
_Word: TypeAlias = str | int | bool
_Words: TypeAlias = list[msgspec.Raw]
_Object: TypeAlias = dict[str, msgspec.Raw]

# What a place must hold for all the fields that read it to be content. A field that is not then takes the slow road.
_STRICT: dict[frozenset[Form], Any] = {
    frozenset[Form](["word"]): _Word | None,
    frozenset[Form](["words"]): list[_Word] | None,
    frozenset[Form](["number"]): float | None,
    # An hour, say, used as an id and as a number: integers that a float holds exactly.
    frozenset[Form](["word", "number"]): Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] | None,
}
# The same for a glance, which leaves a list as it is written.
_QUICK = _STRICT | {frozenset[Form](["words"]): msgspec.Raw}
# In place of two lists that stand where one field is read: it is none, so `read` will look at both.
_TWO_LISTS = b"0"
_REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_object: Decoder[_Object | None] = Decoder(_Object | None)
_NONE = type(None)

_word: Decoder[_Word | None] = Decoder(_Word | None)
_words: Decoder[_Words | None] = Decoder(_Words | None)
_number: Decoder[float | None] = Decoder(float | None)


@dataclass(frozen=True, slots=True)
class Field:
    """One thing to be read.

    Args:
        name: what its faults are counted under.
        path: its key. A path with dots is looked up as a key first and then, where that holds nothing, descends into objects;
            it does not descend where another field stands on the way.
        form: `word` is a string, an integer or a bool; `words` a list of them; `number` any number but no bool.
    """

    name: str
    path: str
    form: Form


class FieldReader:
    """Reads the same fields out of many objects.

    null or nothing is missing. What has the wrong form is missing too, and counted; a wrong element of a list is left
    out, and counted; null in a list is left out. Of a key that stands twice the last counts. What became of one object never
    depends on the others.

    Args:
        fields: what to read.

    Attributes:
        faults: field -> values of a wrong form, of all objects so far. An object that is none is a fault of each field.

    Raises:
        ValueError: a path holds a quotation mark, a backslash or a control character.

    Example:
        >>> reader = FieldReader([Field("user", "user.id", "word"), Field("price", "price", "number")])
        >>> reader.read([b'{"user":{"id":"u7"},"price":3}', b'{"user":null,"price":true}'])
        [['u7', None], [3.0, None]]
        >>> reader.faults
        {'price': 1}
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        paths = {field.path for field in fields}
        self._fields = [(field, _addresses(field.path, paths)) for field in fields]
        self._forms: dict[_Address, frozenset[Form]] = {}
        for field, addresses in self._fields:
            for address in addresses:
                self._forms[address] = self._forms.get(address, frozenset()) | {field.form}
        self._strict = _Shape.of({address: (_STRICT.get(forms, _NONE), None) for address, forms in self._forms.items()})
        self._quick: _Shape | None = None
        self.faults: dict[str, int] = {}

    def read(self, raws: Sequence[Raw]) -> list[Column]:
        """The columns of these objects, in the order of the fields."""
        columns, strays = self._look(self._strict, raws)
        if strays:
            copies = [list(column) for column in columns]
            for row in strays:
                for column, value in zip(copies, self._read_stray(raws[row]), strict=True):
                    column[row] = value
            return list(copies)
        return columns

    def glance(self, raws: Sequence[Raw]) -> tuple[list[Column], list[int]]:
        """The columns of these objects as far as they are in order, at three quarters of the cost of `read`.

        Returns:
            the columns, where a list of words is still the JSON that stands there, whatever it is, and a missing word may be MISSING;
            and the numbers of the objects that are not in order. For those, and for one whose JSON proves to be no list of words,
            only `read` gives the values, and counts the faults.
        """
        if self._quick is None:
            self._quick = self._shape_like(raws)
        return self._look(self._quick, raws)

    def _shape_like(self, raws: Sequence[Raw]) -> _Shape:
        """The shape for a glance, its fields in the order in which they stand in the first of these objects.

        msgspec looks for a key first behind the one before it: 0.9 us an object, where in any order it is 1.0.
        """
        try:
            keys = list(_object.decode(raws[0]) or ()) if raws else []
        except _REFUSED:
            keys = []
        several = {address for _, addresses in self._fields if len(addresses) > 1 for address in addresses}
        types: dict[_Address, tuple[Any, Any]] = {}
        for address, forms in sorted(self._forms.items(), key=lambda place: (*keys, place[0][0]).index(place[0][0])):
            # Of two places the second counts where the first is None. Else MISSING spares a look at each word.
            is_word = forms == {"word"} and address not in several
            types[address] = _QUICK.get(forms, _NONE), MISSING if is_word else None
        return _Shape.of(types)

    def _look(self, shape: _Shape, raws: Sequence[Raw]) -> tuple[list[Column], list[int]]:
        """The columns of the objects that have this shape, and the numbers of those that have not and are empty in every column."""
        # One typed object a row: 1.8 us for 350 bytes. Decoding all as one list, joined by commas, was no faster (1.5 to 2.3)
        # after paying 0.4 for the joining.
        strays: list[int] = []
        try:
            objects = list(map(shape.decode, raws))
        except _REFUSED:
            objects = []
            for row, raw in enumerate(raws):
                try:
                    objects.append(shape.decode(raw))
                except _REFUSED:
                    objects.append(shape.type())
                    strays.append(row)
        places = dict(zip(shape.addresses, shape.columns(objects), strict=True))
        columns = []
        for field, addresses in self._fields:
            two = _TWO_LISTS if shape is self._quick and field.form == "words" else None
            column = places[addresses[0]]
            for address in addresses[1:]:
                column = [
                    other if value is None else value if other is None else two or value
                    for value, other in zip(column, places[address], strict=True)
                ]
            columns.append(column)
        return columns, strays

    def _read_stray(self, raw: Raw) -> list[Any]:
        """The values of an object of which something is wrong: whatever can be read is."""
        try:
            stray = _object.decode(raw) or {}
        except _REFUSED:
            for field, _ in self._fields:
                self._count(field, 1)
            return [None] * len(self._fields)
        values = []
        for field, addresses in self._fields:
            first = None
            for address in addresses:
                value, faults = _read_place(stray, address, field.form)
                self._count(field, faults)
                first = value if first is None else first
            values.append(first)
        return values

    def _count(self, field: Field, faults: int) -> None:
        if faults:
            self.faults[field.name] = self.faults.get(field.name, 0) + faults


def _addresses(path: str, paths: set[str]) -> list[_Address]:
    """Where a path may stand, first choice first."""
    keys = tuple(path.split("."))
    if len(keys) == 1 or any(".".join(keys[:end]) in paths for end in range(1, len(keys))):
        return [(path,)]
    return [(path,), keys]


def _read_place(fields: _Object, address: _Address, form: Form) -> tuple[Any, int]:
    """The value at an address, None if there is none, and how many values of a wrong form were met."""
    try:
        for key in address[:-1]:
            fields = _object.decode(fields.get(key, b"null")) or {}
        raw = fields.get(address[-1], b"null")
        if form == "number":
            return _number.decode(raw), 0
        if form == "word":
            return _word.decode(raw), 0
        elements = _words.decode(raw)
    except _REFUSED:
        return None, 1
    if elements is None:
        return None, 0
    found, faults = [], 0
    for element in elements:
        try:
            word = _word.decode(element)
        except _REFUSED:
            faults += 1
            continue
        if word is not None:
            found.append(word)
    return found, faults


@dataclass(frozen=True, slots=True)
class _Shape:
    """A struct type that holds the wanted places of an object and steps over the rest.

    Args:
        addresses: the places, in the order of `columns`: its own, then those of each inner object.
        type: the struct, own places first.
        decode: JSON to that struct.
        own: how many places are its own.
        inner: the shapes of the objects in it.
    """

    addresses: tuple[_Address, ...]
    type: type[msgspec.Struct]
    decode: Callable[[Raw], msgspec.Struct]
    own: int
    inner: tuple[_Shape, ...]

    @classmethod
    def of(cls, types: dict[_Address, tuple[Any, Any]], prefix: _Address = ()) -> _Shape:
        """The shape of these places: what each may hold, and what it is where it is not there."""
        depth = len(prefix)
        own = {address[depth]: wanted for address, wanted in types.items() if len(address) == depth + 1}
        beneath: dict[str, dict[_Address, tuple[Any, Any]]] = {}
        for address, wanted in types.items():
            if len(address) > depth + 1:
                beneath.setdefault(address[depth], {})[address] = wanted
        inner = {key: cls.of(types, (*prefix, key)) for key, types in beneath.items()}
        wire = own | {key: (shape.type | None, None) for key, shape in inner.items()}
        names = {f"f{number}": key for number, key in enumerate(wire)}
        try:
            struct = msgspec.defstruct(
                "Features",
                [(name, *wire[key]) for name, key in names.items()],
                rename=names,
                # Nothing in it can form a cycle. Spares the collector 2,048 objects a batch: 0.3 us a row.
                gc=False,
            )
        except ValueError as error:
            raise ValueError(
                f"a feature path cannot hold a quotation mark, a backslash or a control character (got one of {sorted(wire)!r}): "
                "give the key another name where it is logged"
            ) from error
        addresses = [(*prefix, key) for key in own] + [
            address for shape in inner.values() for address in shape.addresses
        ]
        return cls(
            addresses=tuple(addresses),
            type=struct,
            decode=Decoder(struct).decode,
            own=len(own),
            inner=tuple(inner.values()),
        )

    def columns(self, objects: Sequence[msgspec.Struct]) -> list[Column]:
        if not objects:
            return [()] * len(self.addresses)
        # 0.4 us a row for 14 fields; an attrgetter of all names takes 0.8, a map for each name 0.7.
        columns: list[Column] = list(zip(*map(msgspec.structs.astuple, objects), strict=True))
        places = columns[: self.own]
        for shape, column in zip(self.inner, columns[self.own :], strict=True):
            empty = shape.type()
            places += shape.columns([empty if value is None else value for value in column])
        return places
