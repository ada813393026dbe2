"""What a user can rely on of pickles from elsewhere: plain data is read, nothing else made."""

import pickle
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqv.pickles import read_pickle

NUMBERS = st.integers(-(2**200), 2**200) | st.floats(allow_nan=False)
SIMPLE = st.none() | st.booleans() | NUMBERS | st.text()
KEYS = st.text() | st.integers(-5, 70_000)
DATA = st.recursive(
    SIMPLE,
    lambda inner: (
        st.lists(inner) | st.lists(inner, max_size=5).map(tuple) | st.dictionaries(KEYS, inner)
    ),
)


@given(DATA, st.sampled_from(range(pickle.HIGHEST_PROTOCOL + 1)))
def test_plain_data_is_read_as_by_pythons_own_machine(data: Any, protocol: int) -> None:
    found = read_pickle(pickle.dumps([data, data], protocol))
    assert found == [data, data] and repr(found) == repr([data, data])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_name_is_refused_and_told(protocol: int) -> None:
    for named in (complex(1, 2), OrderedDict, ValueError("x")):
        with pytest.raises(pickle.UnpicklingError, match=r"\w"):
            read_pickle(pickle.dumps([named], protocol))


PIECES = [bytes([opcode]) for opcode in range(256)]
PIECES += [b"\x85R", b"(K\x01u", b"]q\x00h\x00a", b"ccollections\nOrderedDict\n", b"X\x01\0\0\0a"]


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=30).map(b"".join))
def test_any_bytes_are_plain_data_or_refused(data: bytes) -> None:
    known = {"collections OrderedDict": dict}
    try:
        read_pickle(b"\x80\x02" + data + b".", known, persistent=str)
    except (MemoryError, RecursionError) as error:
        raise AssertionError(data) from error
    except Exception:
        return


def nested(depth: int) -> bytes:
    return b"\x80\x02)" + b"\x85" * depth


def test_what_would_end_or_fill_pythons_own_machine_is_refused() -> None:
    hostile = [
        b"\x80\x02}" + nested(200_000)[2:] + b"K\x01s.",  # a hash as deep
        b"\x80\x02r\xff\xff\xff\xff.",  # a memory of four billion
        b"\x80\x02B\xff\xff\xff\x7f.",  # bytes that are not there
        b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",  # a bytearray of a terabyte
        b"I" + b"9" * 100_000 + b"\n.",  # digits whose reading takes the square of their number
        b"\x80\x02" + b"]" * 30_000 + b".",
        b"\x80\x02" + b"(" * 30_000 + b".",
    ]
    for data in hostile:
        with pytest.raises((ValueError, IndexError, KeyError)):
            read_pickle(data, max_steps=20_000)


def test_depth_is_no_danger() -> None:
    found = read_pickle(nested(200_000) + b".")
    assert len(found) == 1
