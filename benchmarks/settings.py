"""The options of bench.py."""

from dataclasses import dataclass


@dataclass
class BenchSettings:
    """Measure kqv beside its peers. WHAT is train, time-to-loss, likeness, sample, prepare,
    attention, start, scale or safety."""

    nanogpt: str = ""
    """folder of a nanoGPT checkout, its data/shakespeare_char prepared"""
    rounds: int = 3
    """how often each side is measured, in turn; likeness: seeds"""
    gigabytes: float = 1.0
    """prepare: size of the text"""
    max_iters: int = 130
    """time-to-loss: steps of kqv"""
    long_iters: int = 20_000
    """safety: steps of the long run; twenty times the number of texts"""
    out_dir: str = "out-bench"
    """folder for the JSON files and pictures"""
