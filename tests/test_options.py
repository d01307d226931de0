"""One source of options: the command line and Python have the names, types, defaults and help of dataclasses."""

import dataclasses
import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import typer

import mmx.api
from mmx.cli import app as cli
from mmx.cli.flags import Defaults, Only, Without, flag, with_flags
from mmx.cli.options import OutputOptions
from mmx.errors import InputError
from mmx.evaluate.options import DecodeOptions, Scoring, StreamingOptions
from mmx.make.compose import compose
from mmx.make.vocabulary import extend, trim
from mmx.model import Model
from mmx.options import Option, check, default_of, given, options_of, type_of
from mmx.streaming.client.options import LiveOptions
from mmx.streaming.server.settings import ServeOptions, Settings
from mmx.streaming.stream import Stream
from mmx.tasks.options import DubOptions, Options, SpeakOptions
from mmx.weights.options import LoadOptions

VERBS: list[tuple[str, type, set[str]]] = [
    ("transcribe", LoadOptions, {"text_model"}),
    ("transcribe", Options, {"to", "bilingual", "speaker", "shortlist"}),
    ("transcribe", OutputOptions, set()),
    ("translate", LoadOptions, set()),
    ("translate", Options, {"task"}),
    ("translate", SpeakOptions, {"language", "range", "steps", "seed", "verify"}),
    ("translate", DubOptions, set()),
    ("translate", OutputOptions, set()),
    ("live", LoadOptions, set()),
    ("live", LiveOptions, set()),
    ("serve", LoadOptions, set()),
    ("serve", ServeOptions, set()),
    ("serve", Settings, set()),
    ("evaluate", LoadOptions, {"model", "text_model"}),
    ("evaluate", Scoring, set()),
    ("evaluate", DecodeOptions, set()),
    ("evaluate", StreamingOptions, set()),
]
"""Verbs, the dataclasses of their options, and what of these a verb has no flag for."""
OWN_DEFAULTS = {("translate", "to"): ""}
OWN = {"model", "speak", "language"}
"""Flags that a verb has by itself: `evaluate` takes several models, `translate` a file to speak into; the language of
a translation's speech is that of the translation."""


def parameters(verb: str) -> dict[str, tuple[Any, Any, Any]]:
    """The parameters of a verb as typer is given them: type, what is known of it, default."""
    (callback,) = (c.callback for c in cli.app.registered_commands if c.callback and c.callback.__name__ == verb)
    found = inspect.signature(callback).parameters.values()
    return {p.name: (*get_args(p.annotation), p.default) for p in found}


def flag_type(kind: type, name: str) -> Any:
    """The type of a flag: choices, several numbers, and texts with commas are one text, others several flags."""
    annotation = type_of(kind, name)
    if get_origin(annotation) is Literal or get_args(annotation)[:1] == (float,) or options_of(kind)[name].commas:
        return str
    return list[get_args(annotation)[0]] | None if get_origin(annotation) is tuple else annotation


def shown(kind: type, name: str, verb: str) -> Any:
    """The default of a flag: several numbers, or texts with commas, are one text."""
    default = OWN_DEFAULTS.get((verb, name), default_of(kind, name))
    if not isinstance(default, tuple):
        return default
    one_text = options_of(kind)[name].commas or (default and isinstance(default[0], float))
    return ",".join(v if isinstance(v, str) else f"{v:g}" for v in default) if one_text else None


@pytest.mark.parametrize(("verb", "kind", "left_out"), VERBS, ids=lambda x: x if isinstance(x, str) else None)
def test_the_command_line_has_the_options_of_its_dataclasses(
    verb: str, kind: type, left_out: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = parameters(verb)
    assert left_out <= options_of(kind).keys()
    assert cli.main([verb, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, option in options_of(kind).items():
        if not option.shell or name in left_out:
            assert name not in flags or name in OWN, name
            continue
        annotation, info, default = flags[name]
        assert default == shown(kind, name, verb), name
        assert option.help.strip() and info.help == option.help and info.envvar == option.env, name
        assert {flag(name), *option.flags} == {n for d in (info.default, *info.param_decls) for n in d.split("/")} - {
            flag(f"no-{name}")
        }, name
        assert annotation == flag_type(kind, name), name
        limits = (option.least, option.most) if int in (annotation, *get_args(annotation)) else (None, None)
        assert (info.min, info.max) == limits, name
        assert flag(name) in text and option.help in text, name


def test_every_flag_is_an_option_of_a_dataclass_or_one_of_a_few() -> None:
    """What is typed into the signature of a verb is about that verb alone."""
    own = {
        "transcribe": {"files"}, "translate": {"files", "text", "speak"}, "live": {"list_devices"}, "serve": set[str](),
        "evaluate": {"manifest", "model", "hypotheses", "references", "language", "output", "streaming", "retrieval"},
    }  # fmt: skip
    for verb, names in own.items():
        of_kinds = {n for v, kind, _ in VERBS if v == verb for n in options_of(kind)}
        assert parameters(verb).keys() - of_kinds == names - of_kinds, verb


@pytest.mark.parametrize("kind", dict.fromkeys(kind for _, kind, _ in VERBS), ids=lambda kind: kind.__name__)
def test_every_field_is_an_option_whose_default_may_be(kind: type) -> None:
    assert list(options_of(kind)) == [f.name for f in dataclasses.fields(kind)]
    assert given(kind()) == [], "the defaults are what their types say, and pass the checks"


def test_python_has_the_same_options() -> None:
    for method in (Model.transcribe, Model.transcribe_many):
        own = list(inspect.signature(method).parameters.values())[2:]
        assert {p.name: p.default for p in own} == {f.name: f.default for f in dataclasses.fields(Options)}
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in own)
    loading = {p.name: p.default for p in inspect.signature(mmx.api.load).parameters.values()}
    assert loading == {n: default_of(LoadOptions, n) for n in ("model", "device", "dtype")} | {"download": True}
    stream = {p.name: p.default for p in inspect.signature(Stream).parameters.values()}
    for kind in (LiveOptions, ServeOptions):
        assert {n: stream[n] for n in ("policy", "step_s")} == {n: default_of(kind, n) for n in ("policy", "step_s")}


@pytest.mark.parametrize(("verb", "function"), [("compose", compose), ("extend", extend), ("trim", trim)])
def test_what_makes_models_has_the_defaults_of_python(verb: str, function: Any) -> None:
    """Their signatures are written twice, as no options travel: a function is called."""
    python = {p.name: p.default for p in inspect.signature(function).parameters.values()}
    for name, (_, info, default) in parameters(verb).items():
        assert info.help and name in python, name
        if default is not inspect.Parameter.empty and default != "":  # "" says that a text is not given
            assert python[name] == default, name


def test_formats_are_those_of_the_writers() -> None:
    from mmx.tasks.result import FORMATS

    assert OutputOptions(output_format="all", output_dir=Path()).formats == FORMATS


# -------------------------------------------------------------------------------------------- values that cannot be


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Options, {"beam_size": 0}), (Options, {"beam_size": "5"}), (Options, {"temperature": (-1.0,)}),
        (Options, {"temperature": math.nan}), (Options, {"task": "sing"}), (Options, {"channels": "both"}),
        (Options, {"track": 0}), (Options, {"vad": 1}), (Options, {"language": 3}), (Options, {"max_tokens": 0}),
        (LoadOptions, {"dtype": "float61"}), (LoadOptions, {"threads": 1025}), (LiveOptions, {"step_s": 0.0}),
        (Settings, {"max_audio_s": 0.0}), (Settings, {"grace_s": math.inf}), (Settings, {"max_queue": -1}),
        (ServeOptions, {"port": 65536}), (Scoring, {"metrics": ("wre",)}), (Scoring, {"normalize": "some"}),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_told_by_name(kind: Any, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=rf"expected {name} = .*, got .*\({name}: "):
        kind(**wrong)


def test_what_means_the_same_is_taken() -> None:
    assert Options(temperature=0).temperature == (0,)  # type: ignore[arg-type]
    assert Options(temperature=[0.0, 0.5]).temperature == (0.0, 0.5)  # type: ignore[arg-type]
    assert Settings(state_dir="here").state_dir == Path("here")  # type: ignore[arg-type]
    assert LoadOptions(model=Path("a") / "b").model == str(Path("a") / "b")  # type: ignore[arg-type]
    assert Settings(max_audio_s=math.inf).max_audio_s == math.inf
    assert Options(logprob_threshold=-math.inf).logprob_threshold == -math.inf


def test_all_slips_are_told_at_once() -> None:
    with pytest.raises(InputError, match=r"task = transcribe or translate.*beam_size = a whole number of 1 or more"):
        Options(beam_size=-1, task="sing")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- a verb of our own


@dataclass(frozen=True, kw_only=True)
class Baking:
    """Options of every shape."""

    degrees: Annotated[float, Option("How hot.", above=0, most=300)] = 180.0
    times_s: Annotated[tuple[float, ...], Option("How long.", least=0)] = (60.0, 1.5)
    loaves: Annotated[int, Option("How many.", least=1, flags=("--bread",))] = 2
    kind: Annotated[Literal["rye", "wheat"], Option("Of which.")] = "rye"
    seeds: Annotated[tuple[str, ...], Option("Sown on top.")] = ()
    tins: Annotated[tuple[str, ...], Option("In what.", commas=True)] = ("long", "round")
    steam: Annotated[bool, Option("Wet.")] = True
    slow: Annotated[bool, Option("Cold.")] = False
    baker: Annotated[str | None, Option("Who.", env="MMX_TEST_BAKER")] = None
    secret: Annotated[int, Option("Not told.", shell=False)] = 7

    def __post_init__(self) -> None:
        check(self)


def baked(arguments: list[str], *how: Any) -> Baking:
    """What a verb is called with."""
    got: list[Baking] = []
    app = typer.Typer(rich_markup_mode=None)

    def bake(*, what: Annotated[Baking, "as given", *how], name: str = "x") -> None:
        got.append(what)

    app.command()(with_flags(bake))
    app(args=arguments, standalone_mode=False)
    return got[0]


def test_flags_of_every_shape() -> None:
    assert baked([]) == Baking()
    asked = "--degrees 200 --times-s 1,2.5 --bread 3 --kind wheat --seeds sesame --seeds poppy --tins square --no-steam"
    assert baked([*asked.split(), "--slow", "--baker", "Ann", "--name", "y"]) == Baking(
        degrees=200.0, times_s=(1.0, 2.5), loaves=3, kind="wheat", seeds=("sesame", "poppy"), tins=("square",),
        steam=False, slow=True, baker="Ann",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--degrees", "301"], r"expected --degrees = a number above 0 to 300, got 301.0 \(--degrees: How hot\)"),
        (["--times-s", "1,-2"], r"expected --times-s = a list of numbers of 0 or more, got \(1.0, -2.0\)"),
        (["--times-s", "soon"], r"expected numbers such as 60,1.5 for --times-s, got 'soon'"),
        (["--kind", "wheet"], r"expected --kind = rye or wheat, got 'wheet'. Did you mean 'wheat'\?"),
        (["--kind", "oat", "--degrees", "0"], r"expected --degrees = .*; expected --kind = "),
    ],
)
def test_a_slip_on_the_command_line_is_told_by_flag(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        baked(arguments)


def test_an_environment_variable_is_read_and_an_empty_one_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMX_TEST_BAKER", "Bea")
    assert baked([]).baker == "Bea" and baked(["--baker", "Ann"]).baker == "Ann"
    monkeypatch.setenv("MMX_TEST_BAKER", "")
    assert baked([]).baker is None


def test_a_verb_has_what_it_chooses() -> None:
    assert baked(["--loaves", "4"], Only("loaves")) == baked(["--loaves", "4"], Without("kind")) == Baking(loaves=4)
    assert baked([], Defaults(loaves=9)) == Baking(loaves=9)
    for arguments, how in (
        (["--kind", "rye"], Only("loaves")),
        (["--kind", "rye"], Without("kind")),
        (["--secret", "8"], 0),
    ):
        with pytest.raises(Exception, match="No such option"):
            baked(arguments, how)
