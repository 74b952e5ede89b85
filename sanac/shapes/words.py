"""The shapes world's vocabulary: shapes, colours, relations, and caption phrasings."""

from typing import NamedTuple

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = {  # RGB in 0..1, before a scene's jitter
    "red": (0.88, 0.10, 0.10),
    "yellow": (0.96, 0.82, 0.08),
    "green": (0.08, 0.72, 0.14),
    "blue": (0.10, 0.26, 0.90),
    "purple": (0.62, 0.08, 0.78),
    "black": (0.06, 0.06, 0.06),
}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}  # image axes: y points down
NUMBERS = {2: "two", 3: "three", 4: "four"}
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


class Kind(NamedTuple):
    """Colour and shape of an item."""

    color: str
    shape: str


HELD_OUT = frozenset({Kind("yellow", "cross"), Kind("green", "square"), Kind("purple", "triangle")})

SAYING = {  # relation -> its wordings
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPENINGS = ("", "a picture of ", "an image of ", "a drawing of ", "a photo of ", "this is ")
CLOSINGS = ("", " on a plain background", " on a light background")


def plural(shape: str) -> str:
    """Plural of a shape: 'cross' -> 'crosses'."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


VOCABULARY = tuple(  # every word that can occur in a caption
    dict.fromkeys(
        word
        for text in (
            *(f"{shape} {plural(shape)}" for shape in SHAPES),
            *COLORS,
            *NUMBERS.values(),
            *(form for forms in SAYING.values() for form in forms),
            *OPENINGS,
            *CLOSINGS,
            "a one exactly that is and with",
        )
        for word in text.split()
    )
)
