"""What a user can rely on of big texts: the same ids on any number of cores."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.byte_pairs import WITH_END
from helpers.texts import ids_of

from kqv.text import formats, tokenizing
from kqv.text.datasets import prepare_dataset
from kqv.text.tokenizer import Tokenizer
from kqv.text.tokenizing import map_in_order


@pytest.mark.parametrize("tokenizer", ["char", "bytes", WITH_END], ids=["char", "bytes", "bpe"])
def test_ids_are_the_same_on_any_number_of_cores(
    tokenizer: Tokenizer | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.txt"
    path.write_text(
        "".join(f"the cat number {i} sat on mat {i * i % 97}. Жук\n" for i in range(9000))
    )
    monkeypatch.setattr(formats, "PIECE_SIZE", 5000)
    found = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(tokenizing, "core_count", lambda cores=cores: cores)
        found.append(ids_of(prepare_dataset([path], tmp_path / str(cores), tokenizer=tokenizer)))
    assert found[0] == found[1] == found[2]


def test_work_is_done_at_once_taken_in_order_and_never_much_of_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizing, "core_count", lambda: 2)
    together, asked = threading.Barrier(2, timeout=20), []

    def items() -> Iterator[int]:
        for number in range(40):
            asked.append(number)
            yield number

    def work(number: int) -> int:
        together.wait()  # ends only if another thread is at work too
        return number**2

    taken = 0
    for number, square in map_in_order(work, items()):
        assert (number, square) == (taken, taken**2) and len(asked) <= taken + 5 + 1
        taken += 1
    assert taken == 40
