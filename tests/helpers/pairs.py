"""Pairs of texts that tests make: dates in words and as ISO 8601 writes them.

the third of may 2019    2019-05-03
"""

import random
from datetime import date, timedelta
from pathlib import Path

FIRST_DAY, DAYS = date(1900, 1, 1), 200 * 365
MONTHS = [
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
]  # fmt: skip
ORDINALS = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth",
    "eighteenth", "nineteenth", "twentieth",
]  # fmt: skip
ORDINALS += [f"twenty-{ordinal}" for ordinal in ORDINALS[:9]] + ["thirtieth", "thirty-first"]


def in_words(day: date) -> str:
    """A date as one says it: "the third of may 2019"."""
    return f"the {ORDINALS[day.day - 1]} of {MONTHS[day.month - 1]} {day.year}"


def date_pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """So many different dates in a random order, in words and in digits; the same for a seed."""
    days = random.Random(seed).sample(range(DAYS), count)
    dates = [FIRST_DAY + timedelta(days=day) for day in days]
    return [(in_words(day), day.isoformat()) for day in dates]


def write_pairs(path: Path, pairs: list[tuple[str, str]]) -> Path:
    """A .tsv file of pairs: source, tab, target on each line."""
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs), encoding="utf-8")
    return path
