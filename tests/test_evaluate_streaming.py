"""Quality against latency: whose words, when, and what is written of it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_stream import build, sound

from mmx.errors import InputError
from mmx.evaluate import streaming as evaluate
from mmx.evaluate.streaming import Figures, Recording, instances, measure, read_recordings, run, table, write
from mmx.tasks.events import Event

RATE = 16_000


class Script:
    """A listener that writes what it was told, by the second."""

    def __init__(self, by_second: dict[int, list[str]], cost: list[float] | None = None):
        self.by_second, self.heard = by_second, 0

    def push(self, chunk: np.ndarray, final: bool = False) -> list[Event]:
        self.heard += len(chunk)
        at_s = self.heard / RATE
        return [Event(0, t, at_s - 1, at_s - 0.5, at_s, final, "en") for t in self.by_second.get(int(at_s), [])]


TALK = Recording("talk.wav", np.zeros(4 * RATE, np.float32), "one two three")


def test_words_have_the_time_at_which_they_were_whole():
    heard = run(Script({1: [" one"], 2: [" tw"], 3: ["o", ",", " three"]}), TALK, Figures("x", 1.0), 1.0)
    assert heard.words == ["one", "two,", "three"]
    assert heard.delays_ms == [1000, 3000, 3000]
    assert heard.source_ms == 4000
    assert heard.reference == ["one", "two", "three"]


def test_computing_time_adds_up_only_where_it_makes_the_listener_late(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 0.5, 10.0, 12.5, 20.0, 20.25, 30.0, 30.25])  # looks of 0.5, 2.5, 0.25, 0.25 s
    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: next(clock))
    heard = run(Script({1: [" a"], 2: [" b"], 3: [" c"], 4: [" d"]}), TALK, Figures("x", 1.0), 1.0)
    # The second look ends at 2 + 2.5, the third cannot begin before, nor the fourth before 4.75.
    assert heard.elapsed_ms == [1500, 4500, 4750, 5000]


def test_a_system_is_measured_over_all_recordings():
    found = measure(lambda: Script({1: [" one"], 4: [" two three"]}), [TALK, TALK], system="x", step_s=1.0,
                    score=lambda references, texts: float(references == texts))  # fmt: skip
    assert found.score == 1.0
    assert found.audio_s == 8
    assert found.lag_s == 0.5
    assert found.latency["StartOffset"] == 1000
    assert found.latency["EndOffset"] == 0
    assert "StreamLAAL" not in found.latency
    assert "| x | 1 | 1.00 |" in table([found])


def test_latency_counts_characters_where_texts_are_written_letter_by_letter():
    word = Recording("word.pose", np.zeros(4 * RATE, np.float32), "abcd")
    found = measure(lambda: Script({1: [" a"], 2: ["b"], 3: ["c"], 4: ["d"]}), [word], system="x", step_s=1.0,
                    score=lambda references, texts: float(references == texts), by_character=True)  # fmt: skip
    assert found.score == 1.0 and found.texts[0].words == ["abcd"]
    assert found.characters[0].words == list("abcd") and found.characters[0].delays_ms == [1000, 2000, 3000, 4000]
    assert found.latency["LAAL"] == 1000  # each letter a second after one that had no delay; the word alone has 4000


def test_logs_are_those_of_simuleval(tmp_path: Path):
    figures = measure(lambda: Script({1: [" one"]}), [TALK], system="a:1", step_s=1.0, score=lambda *_: 1.0)
    line = json.loads(instances(figures, [TALK]))
    assert line["prediction"] == "one"
    assert line["delays"] == [1000]
    assert line["source_length"] == 4000
    assert line["reference"] == "one two three"
    assert set(line) == {
        "index", "prediction", "delays", "elapsed", "prediction_length", "reference", "source", "source_length",
    }  # fmt: skip
    made = {p.relative_to(tmp_path).as_posix() for p in write([figures], [TALK], tmp_path)}
    drawn = {"quality-latency.png"} if importlib.util.find_spec("matplotlib") else set()
    assert made == {"table.md", "a-1_1s/instances.log"} | drawn
    assert not drawn or (tmp_path / "quality-latency.png").read_bytes().startswith(b"\x89PNG")


def save(path: Path) -> Path:
    soundfile.write(path, sound(3), RATE)
    return path


def test_references_lie_beside_the_recordings(tmp_path: Path):
    one, two = save(tmp_path / "one.wav"), save(tmp_path / "two.wav")
    (tmp_path / "one.txt").write_text("the text\nof one", "utf-8")
    (tmp_path / "two.tsv").write_text("start\tend\ttext\n0\t1000\tfirst of two\n1000\t3000\tand last\n", "utf-8")
    first, second = read_recordings([one, two])
    assert first.reference == "the text of one"
    assert not first.sentences
    assert second.reference == "first of two and last"
    assert [(list(s.words), s.start_ms, s.end_ms) for s in second.sentences][1] == (["and", "last"], 1000, 3000)
    figures = measure(lambda: Script({1: [" first of"], 3: [" two last"]}), [second], system="x", step_s=1.0,
                      score=lambda *_: 0.0)  # fmt: skip
    assert figures.latency["StreamLAAL"] > 0


def test_a_manifest_names_recordings_too(tmp_path: Path):
    save(tmp_path / "one.wav")
    table = tmp_path / "test.tsv"
    table.write_text("audio\tstart_s\tduration_s\ttext\none.wav\t1\t2\tthe end of one\n", "utf-8")
    (only,) = read_recordings([table], "en")
    assert only.reference == "the end of one"
    assert only.duration_s == 2
    with pytest.raises(InputError, match="src_lang"):
        read_recordings([table])


@pytest.mark.parametrize(("name", "text", "words"), [("a.txt", None, "got neither"), ("a.txt", " \n", "empty"),
                                                     ("a.tsv", "0\tx\ty", "line 1")])  # fmt: skip
def test_references_that_are_none(tmp_path: Path, name: str, text: str | None, words: str):
    if text is not None:
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(InputError, match=words):
        read_recordings([save(tmp_path / "a.wav")])


def test_every_policy_at_every_step(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluate, "word_errors", lambda references, texts, language: float(bool(texts[0])))
    seen: list[str] = []
    recording = Recording("noise", sound(5), "whatever")
    found = evaluate.evaluate_streaming(build("whole"), [recording], policies=["hold-n:1", "hold-n:9"],
                                        steps_s=[0.5, 1.0], language="en",
                                        on_done=lambda f: seen.append(f.system))  # fmt: skip
    assert [(f.system, f.step_s) for f in found] == [
        ("hold-n:1", 0.5), ("hold-n:1", 1.0), ("hold-n:9", 0.5), ("hold-n:9", 1.0),
    ]  # fmt: skip
    assert seen == ["hold-n:1", "hold-n:1", "hold-n:9", "hold-n:9"]
    assert all(f.compute_s > 0 and f.texts[0].source_ms == 5000 for f in found)
