"""What a user can rely on of the pictures of a comparison: lines and names can be told apart."""

from kqv.comparison.pictures import label, styles


def test_no_two_of_many_lines_look_the_same() -> None:
    assert len({tuple(style.values()) for style in styles(32)}) == 32 and len(styles(40)) == 40
    first = styles(8)
    assert len({style["color"] for style in first}) == 8
    assert {style["linestyle"] for style in first} == {"-"}


def test_names_are_no_formulas() -> None:
    assert label("$x^$") == r"\$x^\$" and not label("_x").startswith("_")
