"""An empty figure for everything that draws, and its colours."""

import os
from typing import Any

# Eight colours that the colour-blind can tell apart (Okabe & Ito 2008, with grey for their yellow), then other lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")


def import_matplotlib() -> None:
    """Import matplotlib whatever MPLBACKEND says. A notebook sets it for the processes that it starts, to a module that need not
    be installed where they run, and matplotlib then refuses to be imported. Pictures that become files show in no backend."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib  # noqa: F401
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def empty_figure(width: float, height: float) -> Any:
    """A figure of so many inches. Its class alone, without pyplot: no window system is asked for, and it loads in half the
    time."""
    import_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
