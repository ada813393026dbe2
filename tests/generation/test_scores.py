"""Figures of answers: what they count, beside their definitions and sacrebleu."""

import functools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqv.generation.scores import describe, score, sentence_scores

WORDS = st.text("abç", max_size=70)


def distance_by_definition(left: str, right: str) -> int:
    """Levenshtein's recursion, written out: delete, insert, or replace the last symbol."""

    @functools.cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        replaced = distance(i - 1, j - 1) + (left[i - 1] != right[j - 1])
        return min(replaced, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(left), len(right))


@given(WORDS, WORDS.filter(bool))
def test_the_character_error_rate_counts_levenshteins_edits(answer: str, reference: str) -> None:
    edits = distance_by_definition(answer, reference)
    assert score([answer], [reference])["character_error_rate"] == edits / len(reference)
    symbols = score([" ".join(answer)], [" ".join(reference)], symbols=True)
    assert symbols["character_error_rate"] == edits / len(reference)


def test_symbols_are_compared_whole_and_spaces_between_them_do_not_count() -> None:
    figures = score(["t͡ʃ  ɑ ", "t ɑ"], ["t͡ʃ ɑ", "t͡ʃ ɑ"], symbols=True)
    assert (figures["pairs"], figures["exact_matches"]) == (2, 1)
    assert figures["word_error_rate"] == 0.5
    assert figures["character_error_rate"] == 1 / 4


def test_characters_are_compared_one_by_one_and_spaces_count() -> None:
    figures = score(["a  b", "abc"], ["a b", "abd"])
    assert figures["exact_matches"] == 0
    assert figures["character_error_rate"] == 2 / 6


def test_an_empty_answer_costs_its_whole_reference() -> None:
    assert score(["", "abc"], ["abc", "abc"])["character_error_rate"] == 0.5


def test_each_answer_has_one_reference_also_where_a_source_occurs_twice() -> None:
    assert score(["r iː d"] * 2, ["r iː d", "r ɛ d"], symbols=True)["exact_matches"] == 1


def test_as_many_references_as_answers_are_needed() -> None:
    with pytest.raises(ValueError):
        score(["a"], ["a", "b"])


def test_the_figures_are_printed_in_a_few_lines() -> None:
    figures = score(["k ɝ n ə l", "k æ t"], ["k ɝ n ə l", "k ʌ t s"], symbols=True)
    assert describe(figures, symbols=True) == [
        "exact matches: 1 of 2, word error rate 50.00 %",
        "symbol error rate: 22.22 %",
    ]


def test_without_sacrebleu_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    lines = describe(score(["A dog."], ["A cat."]))
    assert lines[-1] == "BLEU and chrF need the package sacrebleu: pip install sacrebleu"
    assert len(lines) == 3


def test_bleu_and_chrf_are_sacrebleus_and_their_signatures_are_printed() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    references = ["Two dogs run over the green meadow.", "A man reads the paper at home."]
    answers = ["two dogs run over a green meadow.", "A man reads the paper at home."]
    figures = score(answers, references)
    assert figures["bleu"] == sacrebleu.corpus_bleu(answers, [references]).score
    lower = sacrebleu.corpus_bleu(answers, [references], lowercase=True).score
    assert figures["bleu_lowercase"] == lower > figures["bleu"]
    assert figures["chrf"] == sacrebleu.corpus_chrf(answers, [references]).score
    lines = describe(figures)
    assert "case:mixed" in lines[2] and "tok:13a" in lines[2]
    assert "case:lc" in lines[3] and "chrF" in lines[4]


def test_right_translations_have_a_bleu_and_chrf_of_100() -> None:
    pytest.importorskip("sacrebleu")
    lines = ["Two dogs run over the green meadow."] * 3
    figures = sentence_scores(lines, lines)
    names = ("bleu", "bleu_lowercase", "chrf")
    assert [round(float(figures[name]), 6) for name in names] == [100, 100, 100]
