"""The prompt language: known answers of A1111's own parser, and no input that breaks it."""

from __future__ import annotations

import random

import pytest

from latentdiff.conditioning.prompt_choices import choose, read_word_lists
from latentdiff.conditioning.prompt_language import parse
from latentdiff.conditioning.prompt_schedule import scheduled
from latentdiff.conditioning.prompt_weights import (
    Span,
    WeightedText,
    weighted,
    weighted_as_comfyui,
)
from latentdiff.conditioning.settings import SYNTAXES
from latentdiff.errors import UserError

Pairs = list[tuple[str, float]]


def pairs(text: WeightedText) -> Pairs:
    return [(span.text, span.weight) for span in text.spans]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        # The examples of `parse_prompt_attention` in A1111's modules/prompt_parser.py, to the bit.
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.5730000000000004),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641000000000006),
                (".", 1.1),
            ],
        ),
        ("", [("", 1.0)]),
        ("a cat)", [("a cat)", 1.0)]),
        ("at 10:30", [("at 10:30", 1.0)]),
        ("(x:y)", [("x:y", 1.1)]),
        ("(x:1.2.3)", [("x:1.2.3", 1.1)]),
        ("(x: -0.5 )", [("x", -0.5)]),
        (r"C:\\x", [("C:\\x", 1.0)]),
    ],
)
def test_weights_are_those_of_a1111(prompt: str, expected: Pairs) -> None:
    assert pairs(weighted(prompt)) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a [b] (c)", [("a [b] ", 1.0), ("c", 1.1)]),
        ("(a (b) c:1.5)", [("a ", 1.5), ("b", 1.5 * 1.1), (" c", 1.5)]),
        ("((a:1.5):0.5)", [("a", 1.5)]),  # a named weight holds, whatever stands around it
        (r"\(a\) (b", [("(a) (b", 1.0)]),
        ("(:2)", [(":2", 1.1)]),
    ],
)
def test_weights_of_comfyui_are_its_own(prompt: str, expected: Pairs) -> None:
    assert pairs(weighted_as_comfyui(prompt)) == expected


def test_break_begins_a_chunk_and_keeps_its_weight() -> None:
    assert weighted("a BREAK b (c BREAK d:1.2)").spans == (
        Span("a"),
        Span("b ", breaks=True),
        Span("c", 1.2),
        Span("d", 1.2, breaks=True),
    )
    assert weighted("BREAKFAST").spans == (Span("BREAKFAST"),)


def by_step(prompt: str, steps: int) -> list[str]:
    return [parse(prompt).at(step, steps)[0].plain for step in range(steps)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a [cat:dog:0.5]", ["a cat", "a cat", "a dog", "a dog"]),
        ("a [cat:dog:3]", ["a cat", "a cat", "a cat", "a dog"]),
        ("a [cat:dog:30]", ["a cat"] * 4),
        ("[cat:0.25]", ["", "cat", "cat", "cat"]),
        ("[cat::2]", ["cat", "cat", "", ""]),
        ("[a[b:c:1]:d:2]", ["ab", "ac", "d", "d"]),
        ("[cat|dog|owl]", ["cat", "dog", "owl", "cat"]),
        ("[(cat:1.2)|]", ["cat", "", "cat", ""]),
        ("[a:b] c", ["a:b c"] * 4),
        (r"\[a:b:0.5\]", ["[a:b:0.5]"] * 4),
        ("[a (b:c:0.5]", ["a b:c:0.5"] * 4),
    ],
)
def test_schedules_and_alternation_say_the_text_of_each_step(
    prompt: str, expected: list[str]
) -> None:
    assert by_step(prompt, 4) == expected


def test_a_weight_may_stand_around_a_schedule_and_inside_one() -> None:
    around = parse("([cat:dog:1]:1.5)").texts(2)
    inside = parse("[(cat:1.5):(dog:0.5):1]").texts(2)
    assert [pairs(text) for text in around] == [[("cat", 1.5)], [("dog", 1.5)]]
    assert [pairs(text) for text in inside] == [[("cat", 1.5)], [("dog", 0.5)]]


def test_and_joins_parts_with_weights() -> None:
    prompt = parse("a cat :1.2 AND a (dog) AND snow:-0.5")
    assert prompt.weights == (1.2, 1.0, -0.5)
    assert [text.plain for text in prompt.at(0, 1)] == ["a cat", "a dog", "snow"]
    assert len(parse("a BAND and a brAND").parts) == 1
    assert len(parse("a AND b", composed=False).parts) == 1
    assert parse("a ratio of 16:9").weights == (1.0,)


@pytest.mark.parametrize("prompt", ["(a:1.3) [b|c] {d|e} \\(f\\) AND g BREAK", "((", "x:-1"])
def test_plain_prompts_are_text_to_the_last_character(prompt: str) -> None:
    (text,) = parse(prompt, "plain").texts(10)
    assert text == WeightedText((Span(prompt),))


def test_texts_that_differ_in_a_weight_alone_are_other_keys() -> None:
    same, other = (parse(p).at(0, 1)[0] for p in ("a (cat:1.2)", "a (cat:1.3)"))
    assert same.plain == other.plain
    assert len({same, other, parse("a (cat:1.20)").at(0, 1)[0]}) == 2


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("(a:1000)", "comes to 1000; expected -100 … 100"),
        ("(" * 60 + "a" + ")" * 60, "comes to"),
        ("[" * 70 + "a", "more than 64 deep"),
        (" AND ".join("abcdefghijklmnopq"), "AND joins 17 prompts"),
        ("a AND b:101", "comes to 101"),
        ("(a:" + "9" * 400 + ")", "comes to inf"),
    ],
)
def test_what_is_out_of_bounds_is_one_line(prompt: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(prompt)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_text_breaks_the_parser() -> None:
    draw = random.Random(5)
    letters = ["(", ")", "[", "]", ":", "|", "\\", "{", "}", "_", "__a__", " AND ", " BREAK ", ".5"]
    letters += ["1", "-", "a", "cat ", "\n", "\0", "雪", "\ud800", ",", "0.5]", ":1.2)"]
    lists = {"a": ("x", "{y|z}", "(b")}
    for round_ in range(1500):
        text = "".join(draw.choices(letters, k=draw.randrange(1, 60)))
        try:
            written = choose(text, round_, "p", lists if round_ % 2 else None)
            for syntax in SYNTAXES:
                prompt = parse(written, syntax)
                for one in prompt.texts(5):
                    assert one.spans
                    assert one.is_plain == (one.spans == (Span(one.plain),))
        except UserError as error:
            assert "\n" not in str(error)


def test_long_prompts_are_read_in_time_that_grows_with_their_length() -> None:
    for text in (
        "(" * 40 + "a" * 50_000,
        "()" * 20_000,
        "[a|b]" * 5_000,
        "{a|b}" * 5_000,
        ":" * 9**5,
    ):
        assert parse(choose(text, 0, "p")).texts(2)


# Choices


def test_a_choice_is_made_by_the_seed_alone_and_every_option_comes() -> None:
    drawn = [choose("a {red|blue|grey} {cat|dog}", seed, "p") for seed in range(200)]
    assert drawn == [choose("a {red|blue|grey} {cat|dog}", seed, "p") for seed in range(200)]
    assert len(set(drawn)) == 6
    assert choose("{a|b} {a|b} {a|b} {a|b}", 1, "p") != choose("{a|b} {a|b} {a|b} {a|b}", 1, "q")


@pytest.mark.parametrize("text", ["a {cat}", "a {cat", "cat}", "a | b", r"\{a|b\}", "__name__", ""])
def test_braces_that_offer_nothing_are_text(text: str) -> None:
    assert choose(text, 0, "p") == text


def test_choices_stand_in_choices_and_in_word_lists(tmp_path: object) -> None:
    lists = {"colour": ("{dark|light} red",), "thing": ("a __colour__ cat",)}
    found = {choose("{__thing__|{x}}", seed, "p", lists) for seed in range(40)}
    assert found == {"a dark red cat", "a light red cat", "{x}"}


def test_word_lists_are_files_with_a_line_for_each_word(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "place").mkdir()
    (folder / "colour.txt").write_text("\ufeffred\n\n# a remark\n blue \n", "utf-8")
    (folder / "place" / "sea.txt").write_text("on the beach\n", "utf-8")
    lists = read_word_lists(folder)
    assert lists == {"colour": ("red", "blue"), "place/sea": ("on the beach",)}
    assert choose("a __colour__ cat __place/sea__", 0, "p", lists).endswith(" cat on the beach")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("__color__", "did you mean 'colour'"),
        ("__empty__", "the word list empty is empty"),
        ("__loop__", "in a circle"),
        ("__grow__", "in a circle"),
    ],
)
def test_a_word_list_that_cannot_answer_is_one_line(text: str, said: str) -> None:
    lists = {"colour": ("red",), "empty": (), "loop": ("__loop__",), "grow": ("__grow__ " * 9,)}
    with pytest.raises(UserError, match=said):
        choose(text, 0, "p", lists)


def test_the_tree_of_a_prompt_without_schedules_is_one_text() -> None:
    assert scheduled("a (cat:1.3) [in] the snow") == ("a (cat:1.3) [in] the snow",)
