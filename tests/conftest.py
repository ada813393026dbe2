"""What all tests share: the same examples in each property test, one thread, and how a mistake must look."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import hypothesis
import pytest
import torch

from kqv.errors import UserError

hypothesis.settings.load_profile("ci")  # the same examples on each run, no deadline, no database
torch.set_num_threads(1)  # small models gain nothing from more, and lose much where other processes compute


@pytest.fixture(scope="session")
def refused() -> Callable[..., AbstractContextManager[None]]:
    """`with refused("words", "of it"):` the block must raise a UserError of one line that contains these words."""

    @contextmanager
    def check(*parts: str) -> Iterator[None]:
        with pytest.raises(UserError) as caught:
            yield
        message = str(caught.value)
        assert len(message.splitlines()) == 1, f"not one line: {message!r}"
        for part in parts:
            assert part in message

    return check
