"""What a command line of train.py asks for."""

from kqv.training.request import names_pairs, take_pairs


def test_a_tsv_file_names_pairs_and_other_words_do_not() -> None:
    assert names_pairs(["novel.txt", "words.tsv"]) and names_pairs(["words.tsv.zst"])
    assert not names_pairs([]) and not names_pairs(["words.jsonl", "train.de", "train.tsv.txt"])


def test_pairs_take_an_encoder_decoder_unless_an_architecture_is_given() -> None:
    given: dict[str, object] = {}
    assert "encoder-decoder" in take_pairs(given, ["words.tsv"])
    assert given == {"architecture": "encoder_decoder"}
    given = {"architecture": "decoder"}
    assert take_pairs(given, ["words.tsv"]) == ""
    assert given == {"architecture": "decoder"}
