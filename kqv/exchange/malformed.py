"""One UserError for whatever a malformed file raises."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kqv.errors import UserError

_MALFORMED = (
    *(LookupError, TypeError, ValueError, AttributeError),
    *(RuntimeError, ArithmeticError, RecursionError),
)
MAX_DETAIL = 200  # characters of another library's message


@contextmanager
def refuse_malformed(path: Path, verdict: str = "cannot be used") -> Iterator[None]:
    """Map what a malformed file raises while its content is interpreted to one UserError.

    A UserError gets the path in front. Any other error becomes "PATH VERDICT: its message".
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{path} cannot be used: {one_line(error)}") from None
    except _MALFORMED as error:
        raise UserError(f"{path} {verdict}: {one_line(error)[:MAX_DETAIL]}") from None


def one_line(error: Exception) -> str:
    """The message of an error, with its line breaks and indents as single spaces."""
    return " ".join(str(error).split())
