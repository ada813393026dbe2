"""How far something long is, for people: a bar in a terminal; elsewhere lines alone."""

import contextlib
import functools
import os
import sys
import time

from tqdm import tqdm

PATIENCE = 2.0  # seconds before anything is said of reading: most texts are done by then
BETWEEN_LINES = 10.0  # seconds, where there is no terminal


@functools.cache
def say_once(text: str) -> None:
    """A line for people, above any bar, that need not be said again; of several processes the first one says it."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):
            tqdm.write(text, file=sys.stderr)


class Bar:
    """How far a run is, a bar in a terminal; and lines for people, above it or, elsewhere, alone."""

    def __init__(self, total: int, done: int = 0, what: str = "step", **more: object) -> None:
        """`what` is counted; `more` is for tqdm."""
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total, initial=done, disable=not self.terminal, dynamic_ncols=True,
            bar_format=what + " {n_fmt}/{total_fmt} |{bar}| {remaining} left{postfix}", **more,
        )  # fmt: skip

    def move(self, done: int, text: str = "") -> None:
        """To `done` of the total, with a text beside it."""
        self.bar.n = done
        self.bar.set_postfix_str(text)

    def say(self, text: str) -> None:
        """A line. That a redirected stderr takes no more, for its disk is full or its reader has left, does not end a run."""
        with contextlib.suppress(OSError):
            if self.terminal:
                self.bar.write(text, file=sys.stderr)
            else:
                print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()


class ReadingBar(Bar):
    """How much of something large is read: a bar, or a line now and then. What is small is done before it says a word."""

    def __init__(self, what: str, total: int, unit: str = "bytes") -> None:
        super().__init__(total, 0, what, unit_scale=True, delay=PATIENCE, leave=False)
        self.what, self.total, self.done, self.unit, self.began = (
            what,
            total,
            0,
            unit,
            time.monotonic(),
        )
        self.said = self.began + PATIENCE - BETWEEN_LINES

    def move(self, done: int, text: str = "") -> None:
        """To `done` of the total. It may be called for every piece: what is shown changes less often."""
        self.done, now = done, time.monotonic()
        if self.terminal:
            self.bar.update(done - self.bar.n)
        elif now - self.said > BETWEEN_LINES:
            self.said = now
            left = tqdm.format_interval((now - self.began) * (self.total - done) / max(done, 1))
            self.say(f"{self.what}: {done:,} of {self.total:,} {self.unit}, {left} left")
