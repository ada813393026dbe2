"""What a user can rely on of beam search: it finds what an exhaustive search finds, and what
transformers finds."""

import itertools

import pytest
import torch
from helpers.translation import ENDS, TARGETS, padded, translating_model
from torch import Tensor, nn

from kqv.exchange.config_json import from_config_json
from kqv.exchange.families import to_ours
from kqv.generation.beam import beam_search
from kqv.generation.decoder import Decoder
from kqv.generation.targets import Ends
from model import GPT

WORDS = ("abc", "jihgfedcba", "a", "feed")


@torch.inference_mode()
def every_target(model: GPT, source: Tensor, limit: int, penalty: float) -> list[list[int]]:
    """All targets of one source (1, source_time), by brute force, best first."""
    letters = [i for i in range(TARGETS.vocab_size) if i not in (ENDS.begin, ENDS.end)]
    scored = []
    for length in range(limit + 1):
        for middle in itertools.product(letters, repeat=length):
            ids = [*middle, ENDS.end][:limit]
            inputs = torch.tensor([[ENDS.begin, *ids[:-1]]])
            log_probabilities = model(inputs, source=source).log_softmax(-1)[0]
            total = sum(float(log_probabilities[t, token]) for t, token in enumerate(ids))
            scored.append((total / len(ids) ** penalty, ids))
    return [ids for _, ids in sorted(scored, reverse=True)]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all_targets(penalty: float) -> None:
    model, limit = translating_model(spread=0.5), 3
    found = beam_search(Decoder(model), padded(*WORDS), ENDS, 5**limit, limit, penalty)
    for word, targets in zip(WORDS, found, strict=True):
        assert [target.ids for target in targets[:20]] == every_target(
            model, padded(word), limit, penalty
        )[:20]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 3},
        {"mask": "none"},
        {"position": "relative"},
        {"position": "learned", "norm": "layernorm", "mlp": "relu", "norm_first": False},
        {"attention_score": "squared"},
        {"attention_score": "linear", "encoder_layers": 1},
    ],
)
@pytest.mark.parametrize("k", [2, 5])
def test_a_source_gets_the_same_alone_or_among_others_and_with_or_without_caches(
    options: dict, k: int
) -> None:
    model = translating_model(spread=0.5, **options)
    together = beam_search(Decoder(model), padded(*WORDS), ENDS, k, 12, 1.0)
    for cached in (True, False):
        decoder = Decoder(model, cached=cached)
        for word, targets in zip(WORDS, together, strict=True):
            (alone,) = beam_search(decoder, padded(word), ENDS, k, 12, 1.0)
            assert [target.ids for target in alone] == [target.ids for target in targets]
            assert len(targets) == k


@torch.inference_mode()
def test_log_probabilities_are_the_model_s_own() -> None:
    model = translating_model(spread=0.5)
    found = beam_search(Decoder(model), padded(*WORDS), ENDS, 5, 12, 1.0)
    assert len({tuple(targets[0].ids) for targets in found}) > 1
    for targets, word in zip(found, WORDS, strict=True):
        for target in targets:
            inputs = torch.tensor([[ENDS.begin, *target.ids[:-1]]])
            logits = model(inputs, source=padded(word))
            expected = logits.log_softmax(-1)[0, range(len(target.ids)), target.ids]
            assert target.log_probabilities == pytest.approx(expected.tolist(), abs=1e-4)
            assert target.finished == (target.ids[-1] == ENDS.end)
            assert ENDS.begin not in target.ids
        scores = [target.score(1.0) for target in targets]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("k", [2, 4])
@torch.no_grad()
def test_targets_and_scores_are_those_of_transformers(penalty: float, k: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=17, d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=2, n_positions=32,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    theirs.lm_head.weight = nn.Parameter(torch.empty(17, 16))
    generator = torch.Generator().manual_seed(0)
    for weight in theirs.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator))
    model = GPT(from_config_json(config.to_dict())).eval()
    weights = {n: w for n, w in theirs.state_dict().items() if "embed_tokens" not in n}
    model.load_state_dict(to_ours(weights, model.config, "huggingface"))
    source = torch.randint(2, 17, (8, 7), generator=generator)
    limit = 10
    expected = theirs.generate(
        source, num_beams=k, num_return_sequences=k, length_penalty=penalty, max_new_tokens=limit,
        do_sample=False, early_stopping=False, return_dict_in_generate=True, output_scores=True,
        bad_words_ids=[[0]],
    )  # fmt: skip
    found = beam_search(Decoder(model), source, Ends(0, 1, 17), k, limit, penalty)
    flat = [target for targets in found for target in targets]
    for target, ids, score in zip(
        flat, expected.sequences.tolist(), expected.sequences_scores.tolist(), strict=True
    ):
        assert target.ids == ids[1 : len(target.ids) + 1]  # what follows the end is filled up
        assert target.score(penalty) == pytest.approx(score, abs=1e-4)
    assert 1 < sum(target.finished for target in flat) < len(flat)
