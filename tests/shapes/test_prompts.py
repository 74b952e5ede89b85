"""Every prompt says what it asks for; training never sees what tests ask."""

import pytest

from sanac.shapes.prompts import Content, ItemSpec, contents, is_held_out, phrasings, prompts_of, split_of, suite
from sanac.shapes.words import COLORS, HELD_OUT, SHAPES, TAGS, VOCABULARY, Kind, plural

SPLITS = ("train", "tune", "test", "held-out")


def test_every_prompt_belongs_to_one_split_and_none_is_empty() -> None:
    for tag in TAGS:
        found = [prompt.text for split in SPLITS for prompt in prompts_of(tag, split)]
        everything = [prompt.text for content in contents(tag) for prompt in phrasings(content)]
        assert sorted(found) == sorted(everything)
        assert all(prompts_of(tag, split) for split in ("train", "tune", "test"))


def test_no_text_stands_for_two_contents() -> None:
    texts = [prompt.text for tag in TAGS for content in contents(tag) for prompt in phrasings(content)]
    assert len(texts) == len(set(texts))


def test_test_texts_are_never_training_texts() -> None:
    train = {prompt.text for tag in TAGS for prompt in prompts_of(tag, "train")}
    for split in ("tune", "test", "held-out"):
        assert not train & {prompt.text for tag in TAGS for prompt in prompts_of(tag, split)}


def test_what_is_held_out_is_in_no_other_split() -> None:
    for tag in TAGS:
        for split in ("train", "tune", "test"):
            for prompt in prompts_of(tag, split):
                assert not HELD_OUT & set(prompt.content.kinds)
                assert not is_held_out(prompt.content.kinds)
    combination = (Kind("red", "circle"), Kind("blue", "square"))
    assert is_held_out(combination) == is_held_out(combination[::-1])
    pairs = {content.kinds for content in contents("color_attr")}
    share = sum(is_held_out(pair) for pair in pairs if not HELD_OUT & set(pair)) / len(pairs)
    assert 0.03 < share < 0.25


def test_texts_name_what_is_wanted() -> None:
    for tag in TAGS:
        for prompt in prompts_of(tag, "test"):
            words = prompt.text.split()
            for item in prompt.content.wanted:
                assert (item.shape if item.count == 1 else plural(item.shape)) in words
                assert item.color is None or item.color in words


def test_the_vocabulary_holds_every_word() -> None:
    words = {word for tag in TAGS for content in contents(tag) for p in phrasings(content) for word in p.text.split()}
    assert words <= set(VOCABULARY)


def test_metadata_is_genevals() -> None:
    near = Content("position", (ItemSpec("circle"), ItemSpec("square")), "left of")
    assert phrasings(near)[0].metadata == {
        "tag": "position",
        "include": [
            {"class": "square", "count": 1},
            {"class": "circle", "count": 1, "position": ["left of", 0]},
        ],
        "prompt": "a circle left of a square",
    }
    three = Content("counting", (ItemSpec("cross", "red", 3),))
    assert phrasings(three)[0].metadata == {
        "tag": "counting",
        "include": [{"class": "cross", "count": 3, "color": "red"}],
        "exclude": [{"class": "cross", "count": 4}],
        "prompt": "three red crosses",
    }


def test_a_suite_takes_tasks_in_turn_and_spreads_over_contents() -> None:
    asked = suite("test", 240)
    assert [prompt.content.tag for prompt in asked[:6]] == list(TAGS)
    assert asked == suite("test", 300)[:240], "a shorter suite is the beginning of a longer one"
    colors = {prompt.content for prompt in asked if prompt.content.tag == "colors"}
    assert len(colors) == len(COLORS) * len(SHAPES) - len(HELD_OUT)
    singles = [prompt.text for prompt in suite("test", 6 * 28) if prompt.content.tag == "single_object"]
    assert len(set(singles)) == 28, "all are used before one is repeated"


@pytest.mark.parametrize("tag", ["single_object", "two_object", "position"])
def test_tasks_without_colours_hold_nothing_out(tag: str) -> None:
    assert prompts_of(tag, "held-out") == ()
    assert all(split_of(prompt) == "test" for prompt in prompts_of(tag, "test"))


def test_seven_in_ten_prompts_are_for_training_one_for_tuning_two_for_tests() -> None:
    splits = [split_of(prompt) for tag in TAGS for content in contents(tag) for prompt in phrasings(content)]
    seen = [split for split in splits if split != "held-out"]
    shares = [seen.count(split) / len(seen) for split in ("train", "tune", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.02)
