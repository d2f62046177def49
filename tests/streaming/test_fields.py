"""Fields of raw JSON objects: what is found, what is missing, what is counted."""

import json

import msgspec
import pytest

from streaming.fields import Field, FieldReader
from streaming.texts import MISSING


def read_one(raw, *fields):
    reader = FieldReader(fields)
    return [column[0] for column in reader.read([raw])], reader.faults


def word(path):
    return Field("f", path, "word")


@pytest.mark.parametrize(
    ("form", "raw", "value", "faults"),
    [
        pytest.param("word", b'"a"', "a", 0, id="text"),
        pytest.param("word", b'""', "", 0, id="empty text is a value"),
        pytest.param("word", b"7", 7, 0, id="integer"),
        pytest.param("word", b"-123456789012345678901234567890", -123456789012345678901234567890, 0, id="huge integer"),
        pytest.param("word", b"true", True, 0, id="bool is a word"),
        pytest.param("word", b"null", None, 0, id="null word is missing"),
        pytest.param("word", b"7.0", None, 1, id="a number with a point is no word"),
        pytest.param("word", b'["a"]', None, 1, id="a list is no word"),
        pytest.param("word", b'{"a":1}', None, 1, id="an object is no word"),
        pytest.param("word", b'"\xff"', None, 1, id="a text that is not UTF-8"),
        pytest.param("number", b"7", 7.0, 0, id="an integer is a number"),
        pytest.param("number", b"-2.5e-3", -0.0025, 0, id="number"),
        pytest.param("number", b"null", None, 0, id="null number is missing"),
        pytest.param("number", b"false", None, 1, id="a bool is no number"),
        pytest.param("number", b'"7"', None, 1, id="a text is no number"),
        pytest.param("number", b"1e999", None, 1, id="a number beyond all floats"),
        pytest.param("words", b'["a",7,true]', ["a", 7, True], 0, id="words"),
        pytest.param("words", b"[]", [], 0, id="no words"),
        pytest.param("words", b"null", None, 0, id="null words are missing"),
        pytest.param("words", b'"a"', None, 1, id="a text is no list"),
        pytest.param(
            "words", b'["a",null,1.5,{},"b"]', ["a", "b"], 2, id="wrong elements are left out, null is not counted"
        ),
        pytest.param("words", b"[1.5]", [], 1, id="only wrong elements"),
    ],
)
def test_a_value_is_read_missing_or_counted(form, raw, value, faults):
    values, counted = read_one(b'{"other":[{}],"f":' + raw + b"}", Field("f", "f", form))
    assert values == [value]
    assert type(values[0]) is type(value)
    assert counted == ({"f": faults} if faults else {})


def test_a_field_that_is_absent_is_missing_and_no_fault():
    assert read_one(b"{}", word("f"), Field("g", "g", "words"), Field("h", "h.i", "number")) == ([None, None, None], {})


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ({"user": {"home": {"city": "x"}}}, "x"),
        ({"user.home.city": "x"}, "x"),
        ({"user.home.city": "x", "user": {"home": {"city": "y"}}}, "x"),
        ({"user.home.city": None, "user": {"home": {"city": "y"}}}, "y"),
        ({"user": {"home": None}}, None),
        ({"user": {}}, None),
        ({"user": None}, None),
    ],
)
def test_dots_are_a_key_first_and_then_descend(raw, value):
    assert read_one(json.dumps(raw).encode(), word("user.home.city")) == ([value], {})
    assert read_one(json.dumps(raw | {"f": 1.5}).encode(), word("user.home.city"), word("f")) == (
        [value, None],
        {"f": 1},
    )


def test_what_stands_where_an_object_should_is_a_fault_of_the_fields_within():
    fields = (Field("city", "user.city", "word"), Field("age", "user.age", "number"), Field("f", "f", "word"))
    assert read_one(b'{"user":5,"f":"x"}', *fields) == ([None, None, "x"], {"city": 1, "age": 1})


@pytest.mark.parametrize("path", ["item.price", "item.price.net", "item.price.net.eur"])
def test_a_path_does_not_descend_where_another_field_stands(path):
    raw = json.dumps({"item": "i7", path: 3}).encode()
    assert read_one(raw, word("item"), Field("price", path, "number")) == (["i7", 3.0], {})


@pytest.mark.parametrize(
    ("raw", "hour", "hour_number", "faults"),
    [(b"7", 7, 7.0, {}), (b"7.5", None, 7.5, {"hour": 1}), (b'"7"', "7", None, {"hour_number": 1})],
)
def test_two_fields_may_read_one_key_each_in_its_form(raw, hour, hour_number, faults):
    fields = (Field("hour", "hour", "word"), Field("hour_number", "hour", "number"))
    assert read_one(b'{"hour":' + raw + b"}", *fields) == ([hour, hour_number], faults)


def test_a_list_and_a_word_at_one_key_are_told_apart_row_by_row():
    reader = FieldReader([Field("one", "f", "word"), Field("many", "f", "words")])
    assert reader.read([b'{"f":"a"}', b'{"f":["b"]}', b"{}"]) == [["a", None, None], [None, ["b"], None]]
    assert reader.faults == {"one": 1, "many": 1}


@pytest.mark.parametrize(
    "raw", [b"5", b'"x"', b"[]", b"", b'{"f":', b'{"f":"a"},{"f":"b"}', b'{"g":' + b"[" * 5000 + b"]" * 5000 + b"}"]
)
def test_what_is_no_object_leaves_every_field_missing_and_its_neighbours_alone(raw):
    reader = FieldReader([word("f"), Field("g", "g.h", "number")])
    assert reader.read([b'{"f":"a"}', raw, b'{"f":"b"}']) == [["a", None, "b"], [None, None, None]]
    assert reader.faults == {"f": 1, "g": 1}


def test_null_in_place_of_the_object_is_missing_and_no_fault():
    assert read_one(b"null", word("f")) == ([None], {})


def test_of_a_key_that_stands_twice_the_last_counts():
    assert read_one(b'{"f":"a","f":"b"}', word("f")) == (["b"], {})
    assert read_one(b'{"f":"a","f":"b","g":1.5}', word("f"), Field("g", "g", "word")) == (["b", None], {"g": 1})


def test_keys_may_be_escaped_or_not_ascii():
    assert read_one(b'{"\\u0066":"a","gr\xc3\xb6\xc3\x9fe":2}', word("f"), Field("size", "größe", "number")) == (
        ["a", 2.0],
        {},
    )


def test_raws_and_bytes_are_read_alike():
    reader = FieldReader([word("f")])
    (column,) = reader.read([msgspec.Raw(b'{"f":"a"}'), b'{"f":"b"}'])
    assert list(column) == ["a", "b"]


def test_no_rows_have_empty_columns_and_no_fields_no_columns():
    assert [len(column) for column in FieldReader([word("f"), word("g.h")]).read([])] == [0, 0]
    assert FieldReader([]).read([b"{}"]) == []


def test_a_path_that_json_must_escape_is_refused():
    with pytest.raises(ValueError, match="cannot hold a quotation mark"):
        FieldReader([word('a"b')])


def test_a_glance_leaves_a_list_as_json_and_names_what_is_not_in_order():
    reader = FieldReader([word("f"), Field("g", "g", "words"), Field("h", "h.i", "number")])
    raws = [b'{"f":"a","g":["x", 5],"h":{"i":1}}', b'{"f":[],"g":[]}', b"{}", b'{"g":true,"f":null}', b"[]"]
    (f, g, h), strays = reader.glance(raws)
    assert list(f) == ["a", MISSING, MISSING, None, MISSING]
    assert [value and bytes(value) for value in g] == [b'["x", 5]', None, None, b"true", None]
    assert list(h) == [1.0, None, None, None, None]
    assert strays == [1, 4]
    assert reader.faults == {}


@pytest.mark.parametrize("first", [b'{"f":"a","g":1,"h":2}', b'{"h":2,"x":0,"g":1,"f":"a"}', b"{", b"null"])
def test_a_glance_sees_the_same_whatever_order_it_met_first(first):
    reader = FieldReader([word("f"), Field("g", "g", "number"), Field("h", "h", "number")])
    reader.glance([first])
    columns, strays = reader.glance([b'{"g":1,"f":"a","h":2}', b'{"h":2,"g":1,"f":"a"}'])
    assert [list(column) for column in columns] == [["a", "a"], [1.0, 1.0], [2.0, 2.0]]
    assert strays == []


def test_of_two_lists_at_one_path_a_glance_gives_neither():
    reader = FieldReader([Field("f", "a.b", "words")])
    raws = [b'{"a.b":["x"],"a":{"b":[1.5]}}', b'{"a":{"b":["y"]}}', b'{"a.b":["z"]}']
    ((one, other, third),), strays = reader.glance(raws)
    assert (bytes(one), bytes(other), bytes(third), strays) == (b"0", b'["y"]', b'["z"]', [])
    assert reader.read(raws) == [[["x"], ["y"], ["z"]]]
    assert reader.faults == {"f": 1}


def test_a_glance_at_nothing_is_nothing():
    columns, strays = FieldReader([word("f"), word("g.h")]).glance([])
    assert ([len(column) for column in columns], strays) == ([0, 0], [])
