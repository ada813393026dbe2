"""An empty matplotlib figure, and the colours that all pictures use."""

import os
from types import ModuleType
from typing import Any

# Eight colours that the colour-blind can tell apart (Okabe & Ito 2008, with grey for their yellow).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")


def import_matplotlib() -> ModuleType:
    """Import matplotlib with all that `figure` imports, whatever MPLBACKEND says, and return it.

    A notebook sets MPLBACKEND for the processes it starts. Its backend need not be installed where
    they run, and then matplotlib refuses to be imported. Pictures that become files need no
    backend. The import waits until something is drawn, as it takes a while.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib.figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return matplotlib


def empty_figure(width: float, height: float) -> Any:
    """A figure of that size in inches.

    The Figure class alone, without pyplot: pyplot takes twice as long to import and looks for a
    window system.
    """
    figure_class = import_matplotlib().figure.Figure
    return figure_class(figsize=(width, height), layout="constrained")
