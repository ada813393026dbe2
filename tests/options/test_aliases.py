"""What a user can rely on after a slip: the name that was meant is said."""

from collections.abc import Callable

import pytest

from kqv.options.aliases import ALSO_CALLED
from kqv.options.command_line import read_arguments
from kqv.options.option_types import option_types
from kqv.options.settings import SETTINGS, SampleSettings


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("--prompt=x", "start"),
        ("--text=x", "start"),
        ("--length=5", "max_new_tokens"),
        ("--max_tokens=5", "max_new_tokens"),
        ("--temp=1", "temperature"),
        ("--model=out", "out_dir"),
        ("--checkpoint=out", "out_dir"),
        ("--n=3", "num_samples"),
    ],
)
def test_what_other_programs_call_an_option_of_sampling_is_understood(
    argument: str, meant: str, refused: Callable
) -> None:
    with refused(f"did you mean {meant}?"):
        read_arguments(SampleSettings, [argument])


def test_only_options_that_there_are_have_other_names() -> None:
    assert set(ALSO_CALLED) <= {
        name for settings_class in SETTINGS.values() for name in option_types(settings_class)
    }
