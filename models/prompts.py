"""What a scene is called: prompts in the model's XML form or as tags, with parts left out as people leave them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from models.painter import Character, Scene

# Tags that change nothing in a picture: a prompt may hold them, and most do.
IDLE_APPEARANCE: Final = ("chibi", "bangs", "very_long_hair_ornament", "solo_focus")
IDLE_QUALITY: Final = ("high_resolution", "detailed", "masterpiece", "best_quality", "very_aesthetic")
IDLE_STYLE: Final = ("anime_style", "digital_art", "flat_color", "cartoon")
IDLE_ACTIONS: Final = ("standing", "sitting", "walking", "running", "holding", "looking_at_viewer", "holding_briefcase")
IDLE_MOODS: Final = ("cheerful", "calm", "dark", "bright", "very_aesthetic", "indoors", "outdoors", "sunset", "night")
IDLE_THINGS: Final = (
    "briefcase",
    "book",
    "flower",
    "sword",
    "ribbon",
    "braid",
    "serafuku",
    "alternate_costume",
    "city",
)
# How often each of those is in a prompt, and letters at random, which stand for all that the tokenizer does not know.
IDLE: Final = 0.2
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz_()\\&:.'ABC0123"
MOODS: Final = {"smile": "happy, smile", "sad": "sad", "angry": "angry", "surprised": "surprised, open_mouth"}
PLACED: Final = {"left": ("left", "center_left"), "center": ("center",), "right": ("right", "center_right")}
COUNTS: Final = {
    ("girl",): "1girl, solo",
    ("boy",): "1boy, solo",
    ("girl", "girl"): "2girls, multiple_girls",
    ("boy", "boy"): "2boys, multiple_boys",
}
# How often a part is left out of a prompt in training, so that what is not said is free.
DROP: Final = 0.12


def xml_prompt(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """The whole scene in the model's XML form; with ``rng`` as varied as in training."""
    parts = [_character(number, who, scene, rng) for number, who in enumerate(scene.characters, start=1)]
    general = _general(scene, rng)
    if rng is not None and rng.random() < 0.1:
        parts.insert(0, general)
    else:
        parts.append(general)
    return "\n".join(parts)


def tag_prompt(scene: Scene, rng: np.random.Generator) -> str:
    """The scene of one character as a list of tags, the other form that the model reads."""
    who = scene.characters[0]
    tags = [_counted(scene), *_appearance(who, rng), who.clothing, MOODS.get(who.expression, who.expression)]
    tags += [rng.choice(PLACED[who.place]), f"{scene.background}_background"]
    return ", ".join(tag for tag in tags if rng.random() >= DROP)


def _character(number: int, who: Character, scene: Scene, rng: np.random.Generator | None) -> str:
    name = f"$character_{number}$" if rng is None or rng.random() < 0.5 else ""
    lines = [f"<n>{name}</n>"]
    fields = {
        "gender": f"1{who.gender}",
        "appearance": ", ".join(_appearance(who, rng)),
        "clothing": who.clothing,
        "expression": MOODS.get(who.expression, who.expression),
        "action": ", ".join(_idle(IDLE_ACTIONS, rng)),
    }
    lines += [f"<{tag}>{text}</{tag}>" for tag, text in fields.items() if text and not _left_out(rng)]
    place = PLACED[who.place]
    # One character is in the centre unless told otherwise; of two, the first is left and the second right.
    if not _left_out(rng) or (len(scene.characters) == 1 and who.place != "center"):
        lines.append(f"<position>{place[-1] if rng is None else rng.choice(place)}</position>")
    body = "\n".join(lines)
    return f"<character_{number}>\n{body}\n</character_{number}>"


def _general(scene: Scene, rng: np.random.Generator | None) -> str:
    fields = {
        "count": _counted(scene),
        "style": ", ".join(_some(IDLE_STYLE, rng)),
        "background": ", ".join([f"{scene.background}_background", *_some(("simple_background",), rng)]),
        "atmosphere": ", ".join(_idle(IDLE_MOODS, rng)),
        "quality": ", ".join(_some(IDLE_QUALITY, rng)),
        "objects": ", ".join(_idle(IDLE_THINGS, rng)),
        "other": _letters(rng),
    }
    lines = [f"<{tag}>{text}</{tag}>" for tag, text in fields.items() if text and not _left_out(rng)]
    return "\n".join(["<general_tags>", *lines, "</general_tags>"])


def _appearance(who: Character, rng: np.random.Generator | None) -> list[str]:
    tags = [f"{who.hair}_hair", who.style, f"{who.eyes}_eyes"]
    if rng is None:
        return tags
    kept = [tag for tag in tags if rng.random() >= DROP]
    kept += [tag for tag in IDLE_APPEARANCE if rng.random() < 0.1]
    rng.shuffle(kept)
    return kept


def _counted(scene: Scene) -> str:
    return COUNTS.get(tuple(who.gender for who in scene.characters), "1girl, 1boy")


def _some(words: Sequence[str], rng: np.random.Generator | None) -> list[str]:
    return [word for word in words if rng is None or rng.random() < 0.4]


def _idle(words: Sequence[str], rng: np.random.Generator | None) -> list[str]:
    if rng is None or rng.random() >= IDLE:
        return []
    return [str(word) for word in rng.choice(words, size=rng.integers(1, 4), replace=False)]


def _letters(rng: np.random.Generator | None) -> str:
    if rng is None or rng.random() >= IDLE:
        return ""
    return "".join(rng.choice(list(LETTERS), size=rng.integers(2, 16)))


def _left_out(rng: np.random.Generator | None) -> bool:
    return rng is not None and rng.random() < DROP
