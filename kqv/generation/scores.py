"""How good answers are: exact matches, character error rate, BLEU and chrF.

Each answer is compared with the one reference of its pair, line by line, as the evaluation script
of SIGMORPHON's shared task does. Where a source occurs twice with different targets, an answer can
therefore match only one of them. (In the data of that task no source occurs twice.)
"""

import importlib.util
from collections.abc import Sequence

PERCENT = 100.0

Figures = dict[str, float | str]


def score(answers: Sequence[str], references: Sequence[str], symbols: bool = False) -> Figures:
    """Compare answers with references, of which there must be equally many, at least one.

    `symbols` tells that spaces separate the symbols of a text, such as sounds. Edits then count
    symbols, not characters, and BLEU and chrF, made for sentences, are left out.

    pairs                 how many
    exact_matches         answers that equal their reference
    word_error_rate       share of the others, from 0 to 1, as in SIGMORPHON 2021
    character_error_rate  insertions, deletions and replacements that turn answers into references
                          (Levenshtein distance) / length of all references
    bleu, bleu_lowercase, chrf, and their ..._signature    see `sentence_scores`

    >>> figures = score(["k ɝ n ə l", "k æ t"], ["k ɝ n ə l", "k ʌ t s"], symbols=True)
    >>> figures["word_error_rate"], figures["character_error_rate"]
    (0.5, 0.2222222222222222)
    """
    from rapidfuzz.distance import Levenshtein  # here: training scores nothing

    split = str.split if symbols else list
    pairs = [(split(a), split(r)) for a, r in zip(answers, references, strict=True)]
    exact = sum(answer == reference for answer, reference in pairs)
    edits = sum(Levenshtein.distance(answer, reference) for answer, reference in pairs)
    figures: Figures = {
        "pairs": len(pairs),
        "exact_matches": exact,
        "word_error_rate": 1 - exact / len(pairs),
        "character_error_rate": edits / sum(len(reference) for _, reference in pairs),
    }
    if not symbols and importlib.util.find_spec("sacrebleu"):
        figures |= sentence_scores(answers, references)
    return figures


def sentence_scores(answers: Sequence[str], references: Sequence[str]) -> Figures:
    """BLEU as written and in lower case, and chrF, from 0 to 100, with sacrebleu's signatures.

    A signature says how a figure was computed: case, tokenization (13a for BLEU), smoothing,
    version. BLEU: Papineni et al. 2002; chrF: Popović 2015; sacrebleu: Post 2018.
    """
    from sacrebleu.metrics import BLEU, CHRF

    metrics = {"bleu": BLEU(), "bleu_lowercase": BLEU(lowercase=True, force=True), "chrf": CHRF()}
    figures: Figures = {}
    for name, metric in metrics.items():
        figures[name] = metric.corpus_score(answers, [references]).score
        figures[f"{name}_signature"] = str(metric.get_signature())
    return figures


def describe(figures: Figures, symbols: bool = False) -> list[str]:
    """The figures of `score` as lines to print; `symbols` as there."""
    exact, pairs, wrong = (figures[n] for n in ("exact_matches", "pairs", "word_error_rate"))
    unit = "symbol" if symbols else "character"
    lines = [
        f"exact matches: {exact:,} of {pairs:,}, word error rate {PERCENT * float(wrong):.2f} %",
        f"{unit} error rate: {PERCENT * float(figures['character_error_rate']):.2f} %",
    ]
    for name, title in (("bleu", "BLEU"), ("bleu_lowercase", "BLEU, lower case"), ("chrf", "chrF")):
        if name in figures:
            lines.append(f"{title}: {figures[name]:.2f} ({figures[f'{name}_signature']})")
    if not symbols and "bleu" not in figures:
        lines.append("BLEU and chrF need the package sacrebleu: pip install sacrebleu")
    return lines
