"""The options of bench.py."""

from dataclasses import dataclass


@dataclass
class BenchSettings:
    """Measure kqv beside its peers. WHAT is train, train-pairs, time-to-loss, likeness, sample,
    translate, prepare, attention, start, scale or safety."""

    nanogpt: str = ""
    """folder of a nanoGPT checkout, its data/shakespeare_char prepared"""
    aiayn: str = ""
    """folder of a checkout of attention-is-all-you-need-pytorch"""
    rounds: int = 3
    """how often each side is measured, in turn; likeness: seeds"""
    gigabytes: float = 1.0
    """prepare: size of the text"""
    max_iters: int = 130
    """time-to-loss: steps of kqv"""
    translate_iters: int = 600
    """translate: steps that the model learns before; not measured"""
    long_iters: int = 20_000
    """safety: steps of the long run; twenty times the number of texts"""
    out_dir: str = "out-bench"
    """folder for the JSON files and pictures"""
