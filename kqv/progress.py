"""Progress of long work: a bar in a terminal, plain lines elsewhere."""

import contextlib
import functools
import os
import sys
import time

from tqdm import tqdm

QUIET_SECONDS = 2.0  # before a LongBar is shown; most work takes less
LINE_INTERVAL = 10.0  # seconds between two lines where there is no terminal


@functools.cache
def say_once(text: str) -> None:
    """Print a line above any bar, once per process, and only on rank 0."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):
            tqdm.write(text, file=sys.stderr)


class Bar:
    """The progress of a run: a bar in a terminal, with lines above it; elsewhere only lines."""

    def __init__(self, total: int, done: int = 0, what: str = "step", **options: object) -> None:
        """`what` is counted; `options` are those of tqdm."""
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total,
            initial=done,
            disable=not self.terminal,
            dynamic_ncols=True,
            bar_format=what + " {n_fmt}/{total_fmt} |{bar}| {remaining} left{postfix}",
            **options,
        )

    def move(self, done: int, text: str = "") -> None:
        """Show that `done` of the total are done, with a text beside it."""
        self.bar.n = done
        self.bar.set_postfix_str(text)

    def say(self, text: str) -> None:
        """Print a line to stderr.

        Errors are ignored: a full disk or a reader that has left does not end a run.
        """
        with contextlib.suppress(OSError):
            if self.terminal:
                self.bar.write(text, file=sys.stderr)
            else:
                print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()


class LongBar(Bar):
    """The progress of work that may take long: a bar, or a line now and then.

    What takes less than QUIET_SECONDS shows nothing.
    """

    def __init__(self, what: str, total: int, unit: str = "bytes") -> None:
        super().__init__(total, 0, what, unit_scale=True, delay=QUIET_SECONDS, leave=False)
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.started = time.monotonic()
        self.last_line = self.started + QUIET_SECONDS - LINE_INTERVAL

    def move(self, done: int, text: str = "") -> None:
        """Show that `done` of the total are done. Cheap: call it for every piece."""
        self.done, now = done, time.monotonic()
        if self.terminal:
            self.bar.update(done - self.bar.n)
        elif now - self.last_line > LINE_INTERVAL:
            self.last_line = now
            left = (now - self.started) * (self.total - done) / max(done, 1)
            self.say(
                f"{self.what}: {done:,} of {self.total:,} {self.unit}, "
                f"{tqdm.format_interval(left)} left"
            )
