"""Settings of all tests, and the fixtures that several rooms use."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import hypothesis
import pytest
import torch

from kqv.errors import UserError

# Small models gain nothing from more threads, and lose much where other processes compute.
torch.set_num_threads(1)

DEFAULT_HANDLERS = {signal.SIGINT: signal.default_int_handler}
if hasattr(signal, "SIGHUP"):  # not on Windows
    DEFAULT_HANDLERS[signal.SIGHUP] = signal.SIG_DFL


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=4, help="how often test_never_lose.py kills a run"
    )
    parser.addoption(
        "--cases", type=int, default=100, help="how many examples a property test tries"
    )


def pytest_configure(config: pytest.Config) -> None:
    # The same examples on each run, no deadline, no database.
    hypothesis.settings.register_profile(
        "kqv", hypothesis.settings.get_profile("ci"), max_examples=config.getoption("--cases")
    )
    hypothesis.settings.load_profile("kqv")
    # A shell ignores SIGINT in its background jobs, and nohup ignores SIGHUP. The processes that
    # tests start would inherit that, and wait for ever.
    for number, default in DEFAULT_HANDLERS.items():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, default)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests that download, unless -m asks for them: -m "not slow" does not."""
    if "network" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("network")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def refused() -> Callable[..., AbstractContextManager[None]]:
    """`with refused("part", "other part"):` expects a UserError of one line with these parts."""

    @contextmanager
    def check(*parts: str) -> Iterator[None]:
        with pytest.raises(UserError) as caught:
            yield
        message = str(caught.value)
        assert len(message.splitlines()) == 1, f"not one line: {message!r}"
        for part in parts:
            assert part in message

    return check


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Limit the size of files; a write beyond it fails as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
