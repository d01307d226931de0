"""Synthetic talking mouths: words that lips confuse, mouth shapes of phonemes with coarticulation, and grey pictures.

No person and no recording is behind them. A mouth is seven numbers a frame; each phoneme belongs to one of 16 groups
that look alike (visemes) and pulls the numbers towards its target, the firmer the more it dominates its neighbours (the
form of Cohen and Massaro 1993). A face is drawn for each clip: shape, skin, light, beard, focus, how much it moves.
Values in some bands of what makes faces and voices are for tests alone. `mmx.experiments.talking_mouths` gives them
sound and files.

Letters: T frames, P numbers of a mouth, H height, W width.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError

Array = NDArray[np.floating[Any]]
RATE = 25.0
SIZE = 48
WORDS = """
pat bat mat bad man pack back pig big pill bill pin bin pen men bet pie buy my pay may
pour more pull bull push bush park bark mark pole bowl peach beach peak beak pound mound pear bear
time dime tip dip ten tie die tear dear town down toe dough tuck duck too do tank dank tent dent
sip seal zeal sue said sat seat neat night knot not net nine line light lie lead led
fan van fat fine vine face vase ferry very fail veil few view leaf leave safe save half have
thin then thank those think thick thing bath bathe teeth
chin gin cheap choke joke share chair shine shoe chew ship sheep shop chop shade jade
cold gold coat goat came game card guard cap gap could good class glass crow grow curl girl hot got hat cat hill kill
win wing wine wait wake walk wall warm wash water wave way wear week west wet wild window winter
rain race road roof room rose round run red read ring river right rock
yes yard year yellow young you used
lamp land last late law leg lemon lip list live lock long look loud love low lunch
apple animal answer arm artist awful album army
baby basket better bottle brother butter button bubble body book boat boot
cabin camera candle castle carpet corner cousin coffee cover kitchen
dinner doctor dollar dream drink driver
eagle early east egg engine evening every ocean open orange office other
family farmer father feather finger flower forest forget friday funny fruit
garden ginger giraffe green grass
hammer happy harbor heavy hello honey hotel house hundred
island jacket jelly juice jungle
lady ladder lawyer leather letter library lucky
machine magic market melody mirror modern monday money monkey morning mother mountain music movie
napkin nature number never
palace paper parrot party pepper perfect picture pillow planet pocket problem purple
rabbit radio remember ribbon robot
salad sailor school secret seven shadow silver sister spider spoon summer sunday sugar
table teacher temple thunder ticket tiger tomato tower travel tree truck tunnel turtle
uncle under umbrella valley village violin visit volume
"""
"""What train and test sentences are made of: sets of words that differ in one phoneme, and words that stand alone."""
UNSEEN = """
map bag pick beat meal post bone mint pipe top dog tune side nest fence vote thumb cheese jump sharp code gate wood roll
youth leap lake arch beam deep fish hope rope soap voice wife barber camel danger effort fabric gallop hunter member
packet powder shower timber wonder
"""
"""Words of no training sentence."""
MOST, SHORTEST, LONGEST = 8000, 3, 8
"""Of wordfreq's list, how many are looked at; letters of the words that are taken."""

# opening, width, rounding, upper teeth, tongue, lips pressed, lower lip under the teeth; then how firmly they are held
_VISEMES: Sequence[tuple[str, tuple[float, ...], float]] = (
    ("pbm", (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0), 3.0),
    ("fv", (0.12, 0.1, 0.0, 0.9, 0.0, 0.0, 1.0), 2.5),
    ("θð", (0.22, 0.1, 0.0, 0.7, 1.0, 0.0, 0.0), 1.6),
    ("tdnszɾT", (0.20, 0.25, 0.0, 0.9, 0.3, 0.0, 0.0), 1.0),
    ("l", (0.32, 0.1, 0.0, 0.5, 0.8, 0.0, 0.0), 1.0),
    ("ʃʒʧʤ", (0.28, -0.4, 0.6, 0.9, 0.0, 0.0, 0.0), 1.6),
    ("kɡŋh", (0.30, 0.0, 0.0, 0.3, 0.1, 0.0, 0.0), 0.4),
    ("w", (0.10, -0.9, 1.0, 0.0, 0.0, 0.0, 0.0), 2.2),
    ("ɹ", (0.20, -0.5, 0.6, 0.2, 0.0, 0.0, 0.0), 1.3),
    ("j", (0.18, 0.6, 0.0, 0.6, 0.0, 0.0, 0.0), 0.9),
    ("iɪᵻ", (0.25, 0.8, 0.0, 0.6, 0.1, 0.0, 0.0), 1.3),
    ("ɛæ", (0.60, 0.5, 0.0, 0.5, 0.2, 0.0, 0.0), 1.4),
    ("ʌəɐᵊɜ", (0.50, 0.1, 0.0, 0.3, 0.2, 0.0, 0.0), 1.0),
    ("ɑa", (0.85, 0.1, 0.0, 0.2, 0.2, 0.0, 0.0), 1.5),
    ("ɔ", (0.60, -0.5, 0.6, 0.1, 0.1, 0.0, 0.0), 1.5),
    ("uʊ", (0.15, -0.8, 0.95, 0.0, 0.0, 0.0, 0.0), 1.6),
)
GROUP: Mapping[str, int] = {phone: i for i, (phones, _, _) in enumerate(_VISEMES) for phone in phones}
"""The viseme of each phoneme, in the symbols of `mmx.text.phonemes`."""
DIPHTHONGS: Mapping[str, str] = {"A": "ɛi", "I": "ɑi", "O": "ɔu", "W": "ɑu", "Y": "ɔi", "Q": "əu"}
_TARGET = {p: np.array(target) for phones, target, _ in _VISEMES for p in phones}
_HOLD = {p: hold for phones, _, hold in _VISEMES for p in phones}
_REST, _REST_HOLD = np.array((0.04, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0)), 0.5
OPENING, WIDTH, ROUNDING, TEETH, TONGUE, PRESSED, TUCKED = range(7)


class Phone(NamedTuple):
    """A phoneme and when it is spoken, in seconds."""

    symbol: str
    start_s: float
    stop_s: float


def visemes(symbols: str) -> tuple[int, ...]:
    """The groups that a word's phonemes show one after the other; a vowel that glides shows two."""
    return tuple(GROUP[p] for s in symbols for p in DIPHTHONGS.get(s, s) if p in GROUP)


def homophene_floor(spoken: Mapping[str, str]) -> float:
    """Share of words that the best reader of lips gets wrong, each word as likely as the others.

    Of words that show the same groups none can be told from the next (homophenes), so one of each set is right. That
    the groups last as long as the phonemes, and neighbours colour them, is left out: a reader may do a little better.

    Args:
        spoken: the phonemes of each word.
    """
    sets = Counter(visemes(symbols) for symbols in spoken.values())
    return 1.0 - len(sets) / len(spoken)


def frequent_words(phonemes: Callable[[str], str]) -> list[str]:
    """Frequent English words of the letters a to z, the most frequent first; none of, and none that sounds like one of,
    `UNSEEN`. They are wordfreq's (its data CC-BY-SA 4.0).

    Args:
        phonemes: how a word sounds.

    Raises:
        InputError: wordfreq is not installed.
    """
    try:
        from wordfreq import top_n_list  # type: ignore[import-not-found]
    except ImportError as e:
        raise InputError("expected the package wordfreq, which has lists of words, got none: pip install it") from e
    unseen = set(UNSEEN.split())
    taken = unseen | {phonemes(word) for word in unseen}
    words = [w for w in top_n_list("en", MOST) if w.isascii() and w.isalpha() and SHORTEST <= len(w) <= LONGEST]
    return [w for w in words if not {w, phonemes(w)} & taken]


# -------------------- what is held out


BANDS, HELD_OUT = 7, (2, 5)


def drawn(rng: np.random.Generator, low: float, high: float, held_out: bool) -> float:
    """A number between two, of whose seven equal bands the third and the sixth are for tests alone."""
    allowed = HELD_OUT if held_out else [b for b in range(BANDS) if b not in HELD_OUT]
    return low + (high - low) * (float(rng.choice(allowed)) + float(rng.uniform())) / BANDS


@dataclass(frozen=True)
class Face:
    """What does not change within a clip.

    Attributes:
        skin, lips: brightness of the skin in 0 to 1; what the lips differ by.
        half_width: of the mouth at rest, where the picture reaches from -1 to 1.
        upper, lower: thickness of the lips.
        scale, turn: of the head: smaller is nearer; radians.
        gain: how far this person opens, spreads and rounds the lips.
        beard: how dark; 0 for none.
        focus: sharpness of edges.
        seed: of all that matters less.
    """

    skin: float
    lips: float
    half_width: float
    upper: float
    lower: float
    scale: float
    turn: float
    gain: tuple[float, float, float]
    beard: float
    focus: float
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, held_out: bool) -> "Face":
        """A face; skin, lips, width and scale are of the bands that are, or are not, held out."""
        low, mid, high = (float(g) for g in rng.uniform(0.75, 1.2, 3))
        return cls(
            skin=drawn(rng, 0.35, 0.8, held_out),
            lips=drawn(rng, -0.26, -0.1, held_out),
            half_width=drawn(rng, 0.46, 0.62, held_out),
            upper=float(rng.uniform(0.11, 0.19)),
            lower=float(rng.uniform(0.15, 0.25)),
            scale=drawn(rng, 0.68, 0.95, held_out),
            turn=float(rng.uniform(-0.1, 0.1)),
            gain=(low, mid, high),
            beard=float(rng.uniform(0.05, 0.3)) if rng.random() < 0.35 else 0.0,
            focus=float(rng.uniform(0.7, 1.4)),
            seed=int(rng.integers(2**31)),
        )


# -------------------- movement


def mouth_track(phones: Sequence[Phone], n_frames: int, face: Face, rng: np.random.Generator) -> Array:
    """The seven numbers of the mouth in each frame, `(T, 7)`; the lips run up to 40 ms ahead of the sound.

    Args:
        phones: with their times in the clip; those without a viseme are passed over.
        n_frames: T, at 25 a second.
        face: whose mouth it is.
        rng: of lead, sluggishness and trembling.
    """
    t_T = (np.arange(n_frames) + 0.5) / RATE
    lead_s, slow_s = rng.uniform(0, 0.04), rng.uniform(0.03, 0.05)
    pulled, weights = np.zeros((n_frames, 7)), np.full((n_frames, 1), 1e-6)
    for target, hold, start_s, stop_s in _targets(phones, n_frames / RATE):
        start_s, stop_s = start_s - lead_s, stop_s - lead_s
        away_T = np.maximum(np.maximum(start_s - t_T, t_T - stop_s), 0)
        from_middle_T = np.abs(t_T - (start_s + stop_s) / 2) / max(0.06, (stop_s - start_s) / 2)
        weight_T1 = (hold * np.exp(-away_T / slow_s) * (0.3 + 0.7 * np.exp(-from_middle_T)))[:, None]
        pulled += weight_T1 * target
        weights += weight_T1
    track = pulled / weights
    track[:, :TEETH] *= face.gain
    return (track + 0.03 * wander(rng, n_frames, 7, 5)).astype(np.float32)


def _targets(phones: Sequence[Phone], total_s: float) -> list[tuple[NDArray[np.float64], float, float, float]]:
    """Target, firmness, start and stop of each thing that the mouth does; it rests before and after."""
    start_s, stop_s = (phones[0].start_s, phones[-1].stop_s) if phones else (total_s, total_s)
    out = [(_REST, _REST_HOLD, -1.0, start_s), (_REST, _REST_HOLD, stop_s, total_s + 1.0)]
    for symbol, start_s, stop_s in phones:
        parts = [p for p in DIPHTHONGS.get(symbol, symbol) if p in GROUP]
        middle_s = start_s + 0.55 * (stop_s - start_s)
        bounds = [start_s, middle_s, stop_s] if len(parts) == 2 else [start_s, stop_s]
        out += [(_TARGET[p], _HOLD[p], a, b) for p, a, b in zip(parts, bounds, bounds[1:], strict=False)]
    return out


def wander(rng: np.random.Generator, n: int, k: int, width: int) -> NDArray[np.float64]:
    """`k` slow random walks around 0 of unit variance, `(n, k)`."""
    x = rng.standard_normal((n + 6 * width, k))
    h = np.hanning(2 * width + 3)
    h /= np.sqrt((h**2).sum())
    smooth = np.stack([np.convolve(column, h, "same") for column in x.T], 1)
    return smooth[3 * width : 3 * width + n]


# -------------------- pictures


def _step(x: Array, sharpness: float) -> Array:
    """From 0 to 1 where `x` passes 0."""
    return 1 / (1 + np.exp(-np.clip(x * np.float32(sharpness), -30, 30)))


class _Mouth(NamedTuple):
    """Places of a frame in the coordinates of the mouth, and its edges there: all `(T, H, W)` or `(T, 1, 1)`."""

    x: Array
    y: Array
    across: Array
    inner_top: Array
    inner_bottom: Array
    outer_top: Array
    outer_bottom: Array
    opening: Array


def render(track_TP: Array, face: Face, size: int = SIZE) -> NDArray[np.uint8]:
    """Pictures `(T, size, size)` of a mouth that moves so; all else is drawn from the face's seed."""
    rng = np.random.default_rng(face.seed)
    walk_T5 = wander(rng, len(track_TP), 5, 12).astype(np.float32)[:, :, None, None]
    mouth = _placed(track_TP, face, walk_T5, rng, size)
    numbers = track_TP.astype(np.float32)[..., None, None]
    image = _skin(mouth, face, numbers, walk_T5, rng)
    image = _lips(image, mouth, face, rng)
    image = _inside(image, mouth, face, numbers, rng)
    light = rng.uniform(0.8, 1.1) * np.clip(image, 0.01, 1.3) ** rng.uniform(0.75, 1.3) + rng.uniform(-0.04, 0.04)
    grain = rng.standard_normal(light.shape, dtype=np.float32) * np.float32(rng.uniform(0.004, 0.022))
    return (np.clip(light + grain, 0, 1) * 255).astype(np.uint8)


def _placed(track_TP: Array, face: Face, walk_T5: Array, rng: np.random.Generator, size: int) -> _Mouth:
    """Where the head is, and where the edges of the lips are."""
    opening, width, rounding, _, _, pressed, tucked = (track_TP[:, i, None, None].astype(np.float32) for i in range(7))
    opening = np.clip(opening, 0, 1.2) * (1 - np.clip(pressed, 0, 1))
    rounding, tucked = np.clip(rounding, 0, 1), np.clip(tucked, 0, 1)
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    row, column = np.meshgrid(grid, grid, indexing="ij")
    angle = np.float32(face.turn) + 0.05 * walk_T5[:, 0]
    scale = np.float32(face.scale) * (1 + 0.02 * walk_T5[:, 1])
    across = column - (np.float32(rng.uniform(-0.08, 0.08)) + 0.03 * walk_T5[:, 2])
    down = row - (np.float32(rng.uniform(-0.1, 0.1)) + 0.03 * walk_T5[:, 3])
    aside = np.float32(rng.uniform(-0.2, 0.2)) + 0.05 * walk_T5[:, 4]
    x = (across * np.cos(angle) + down * np.sin(angle)) * scale
    y = (-across * np.sin(angle) + down * np.cos(angle)) * scale
    x = x * (1 + aside * x)  # of a head that is turned aside one half is shorter
    q = x / (np.float32(face.half_width) * (1 + 0.22 * width - 0.18 * rounding))
    arch = np.clip(1 - q * q, 0, None)
    corner = np.float32(rng.uniform(-0.04, 0.04)) * q * q
    bow = np.float32(rng.uniform(0, 0.035)) * np.exp(-((q / 0.18) ** 2))
    upper = np.float32(face.upper) * (1 + 0.35 * rounding)
    lower = np.float32(face.lower) * (1 + 0.35 * rounding) * (1 - 0.45 * tucked)
    top = -0.15 * opening * arch + corner  # the jaw drops further than the upper lip rises
    bottom = (0.52 * opening - 0.03 * tucked) * arch**0.8 + corner
    return _Mouth(x, y, q, top, bottom, top - upper * arch**0.7 + bow, bottom + lower * arch**0.6, opening)


def _skin(m: _Mouth, face: Face, numbers: Array, walk_T5: Array, rng: np.random.Generator) -> Array:
    """Skin in its light, with nose, chin, cheeks and beard; the fold of the chin goes down with the jaw."""
    u = rng.uniform
    jaw = 0.35 * m.opening
    image = face.skin + u(-0.15, 0.15) * m.x + u(-0.12, 0.12) * m.y + 0.03 * walk_T5[:, 0]
    image = image - u(0.02, 0.12) * np.exp(-(((m.y - 0.68 - jaw * 0.6) / 0.12) ** 2) - (m.x / 0.5) ** 2)
    image = image - u(0.05, 0.25) * _step(-0.62 - m.y, 14) * np.exp(-((m.x / 0.35) ** 2))
    cheek = (np.abs(m.x) - 0.75 - 0.05 * numbers[:, WIDTH]) / 0.08
    image = image - u(0, 0.08) * np.exp(-(cheek**2))
    if face.beard:
        hair = rng.standard_normal(image.shape[1:]).astype(np.float32) * 0.06
        above = np.exp(-(((m.y + 0.33) / 0.1) ** 2) - (m.x / 0.6) ** 2)
        image = image - face.beard * (above + 0.7 * _step(m.y - 0.55 - jaw, 9)) + hair * _step(np.abs(m.y) - 0.25, 9)
    return image.astype(np.float32)


def _edge(image: Array, face: Face) -> float:
    return image.shape[-1] / 2 * face.focus


def _lips(image: Array, m: _Mouth, face: Face, rng: np.random.Generator) -> Array:
    """Lips, darker or brighter than the skin, with a gloss on the lower one and a seam where they are shut."""
    k = _edge(image, face)
    within = _step((1 - np.abs(m.across)) * np.float32(face.half_width), 2 * k)
    lips = _step(m.y - m.outer_top, 2 * k) * _step(m.outer_bottom - m.y, 2 * k) * within
    middle = (m.inner_bottom + m.outer_bottom) / 2
    gloss = 0.1 * np.exp(-(((m.y - middle) / 0.05) ** 2) - (m.across / 0.5) ** 2) * np.float32(rng.uniform(0, 1))
    shade = np.float32(face.lips) * (1 + 0.5 * np.cos((m.y - m.inner_bottom) * 9)) + gloss
    shut = 1 - _step(m.opening - 0.05, 60)
    return image + lips * shade - shut * 0.16 * np.exp(-(((m.y - m.inner_top) / 0.03) ** 2)) * within


def _inside(image: Array, m: _Mouth, face: Face, numbers: Array, rng: np.random.Generator) -> Array:
    """The open mouth: dark, with tongue and upper teeth."""
    k, u = _edge(image, face), rng.uniform
    within = _step((1 - np.abs(m.across)) * np.float32(face.half_width), 2 * k)
    hole = _step(m.y - m.inner_top, 2 * k) * _step(m.inner_bottom - m.y, 2 * k) * within
    hole = hole * _step(m.opening - 0.05, 60)
    tongue, teeth = (np.clip(numbers[:, i], 0, 1) for i in (TONGUE, TEETH))
    height = 0.67 * m.opening
    blade = _step(m.y - (m.inner_bottom - (0.08 + 0.28 * tongue) * height * 1.6), 2 * k)
    inner = u(0.04, 0.14) + tongue * (0.5 * face.skin) * blade * np.exp(-((m.across / 0.6) ** 2))
    row = teeth * _step(m.inner_top + np.float32(u(0.09, 0.14)) - m.y, 2 * k) * _step(0.82 - np.abs(m.across), 20)
    ivory = u(0.65, 0.95) * (0.5 + 0.5 * face.skin) - 0.08 * np.abs(np.sin(m.across * 14))
    return (image * (1 - hole) + (inner * (1 - row) + ivory * row) * hole).astype(np.float32)


def contact_sheet(clips: Sequence[NDArray[np.uint8]], columns: int = 18) -> NDArray[np.uint8]:
    """Rows of pictures, one for each clip, for a person to look at: every other frame."""
    rows = [np.concatenate(list(clip[4 : 4 + 2 * columns : 2]), 1) for clip in clips if len(clip) >= 4 + 2 * columns]
    return np.concatenate(rows)
