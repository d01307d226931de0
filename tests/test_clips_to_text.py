"""Recordings of any medium to text: poses, films of lips, lips with speech, from files, folders and in windows."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from toys import data
from toys.folders import new_toy, write_toy

import mmx
from mmx.cli.app import main
from mmx.clip import SPEECH, Clip, cut, join
from mmx.errors import InputError, MediaError
from mmx.media.clips import open_clip
from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State
from mmx.streaming import encoders
from mmx.streaming.encoders import IncrementalEncoder, WindowEncoder
from mmx.streaming.stream import Stream
from mmx.tasks import transcribe
from mmx.tasks.segment import SegmentOptions, split
from mmx.tasks.window import Gap, Window, halves

RATE = data.RATE
ENGLISH: dict[str, Any] = {"language": "en", "beam_size": 1, "max_tokens": 8}


def film(path: Path, text: str = "one two", silence_s: float = 0.0) -> Path:
    """A speaker's film with its sound, after a silence in which the mouth is shut."""
    import av

    lips, wave = data.lips(text, 0), data.speech(text, 0)
    n = round(silence_s * data.FPS)
    pictures = np.concatenate([np.repeat(lips[:1], n, 0), lips])
    wave = np.concatenate([np.zeros(round(silence_s * RATE), np.float32), wave])
    opened: Any = av.open(str(path), "w")
    with opened as out:
        video, audio = out.add_stream("ffv1", rate=data.FPS), out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        video.height, video.width, video.pix_fmt = *pictures.shape[1:3], "bgr0"
        for i, picture in enumerate(pictures):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            part = wave[i * RATE // data.FPS : (i + 1) * RATE // data.FPS]
            frame = av.AudioFrame.from_ndarray((part * 32767).astype(np.int16)[None], "s16", "mono")
            frame.sample_rate = RATE
            out.mux(audio.encode(frame))
        out.mux(video.encode())
        out.mux(audio.encode())
    return path


class Seen:
    """Stands in for a model's `memory`: what it was given."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch):
        self.inputs: list[dict[str, Seq]] = []
        real = model.memory

        def memory(inputs: Mapping[str, Seq], *rest: Any, state: State | None = None) -> Seq:
            self.inputs.append(dict(inputs))
            return real(inputs, *rest, state=state)

        monkeypatch.setattr(model, "memory", memory)


# -------------------- windows


class LoudVad:
    """Speech is where sound is."""

    def init_state(self, batch: int, capacity: int = 0) -> State:
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        x = torch.nn.functional.pad(seq.x, (0, -seq.x.shape[1] % 512)).unflatten(1, (-1, 512))
        return Seq((x.abs().amax(-1) > 0.01).float(), torch.tensor([x.shape[1]]))


def numbered(seconds: float, spoken: Sequence[tuple[float, float]]) -> dict[str, Seq]:
    """Pictures that are their number, and a sound that tells the same, loud where speech is."""
    n = round(seconds * RATE)
    wave = torch.zeros(n)
    for a, b in spoken:
        wave[round(a * RATE) : round(b * RATE)] = 0.1 + torch.arange(round(a * RATE), round(b * RATE)) / n / 2
    frames = torch.arange(round(seconds * 25))
    return {
        SPEECH: Seq(wave[None], torch.tensor([n]), float(RATE)),
        "lips": Seq(frames[None, :, None], torch.tensor([len(frames)]), 25.0),
    }


@pytest.mark.parametrize("block_s", [0.5, 1.3, 100.0])
def test_all_modalities_are_cut_where_the_sound_is(block_s: float) -> None:
    spoken = [(2.0, 5.0), (20.013, 24.5), (31.007, 33.0), (50.0, 55.0)]
    whole = numbered(60.0, spoken)
    clips = (cut(whole, a * block_s, (a + 1) * block_s) for a in range(int(60 / block_s) + 1))
    found = list(split(clips, LoudVad(), SegmentOptions(max_window_s=12.0)))
    windows = [w for w in found if isinstance(w, Window)]
    assert sum(len(w.pieces) for w in windows) == 4 > len(windows) and any(isinstance(g, Gap) for g in found)
    alone = list(split([whole[SPEECH].x[0].numpy()], LoudVad(), SegmentOptions(max_window_s=12.0)))
    assert [w.pieces for w in windows] == [w.pieces for w in alone if isinstance(w, Window)]
    for w in windows:
        pictures = w.clip["lips"].x[0, :, 0].tolist()
        assert len(pictures) == pytest.approx(w.duration_s * 25, abs=1)
        for i, picture in enumerate(pictures):
            assert abs(w.file_time(i / 25) - picture / 25) <= 0.041, "each picture is of its time"
        first, second = halves(w)
        assert [*first.clip["lips"].x[0, :, 0], *second.clip["lips"].x[0, :, 0]] == pictures


def test_what_has_no_sound_is_cut_by_length() -> None:
    lips = {"lips": numbered(70.0, [])["lips"]}
    clips = [cut(lips, a, a + 2.0) for a in range(0, 70, 2)]
    windows = [w for w in split(clips, None) if isinstance(w, Window)]
    assert [(w.start_s, w.end_s) for w in windows] == [(0, 30), (30, 60), (60, 70)]
    assert torch.equal(torch.cat([w.clip["lips"].x for w in windows], 1), lips["lips"].x)
    assert [h.duration_s for h in halves(windows[2])] == [5.0, 5.0]


def test_pictures_beyond_the_end_of_the_sound_are_kept() -> None:
    whole = numbered(5.0, [(0.0, 2.0)])
    short = {SPEECH: cut(whole, 0.0, 2.0)[SPEECH], "lips": whole["lips"]}
    for clips in ([short], [cut(short, a / 2, a / 2 + 0.5) for a in range(10)]):
        (window,) = [w for w in split(clips, None) if isinstance(w, Window)]
        assert window.end_s == 5.0 and int(window.clip["lips"].lengths[0]) == 125
        assert not window.samples[2 * RATE :].any()


def test_little_of_a_long_silence_is_held() -> None:
    given: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def clips() -> Iterator[Clip]:
        for _ in range(120):
            alive.append(sum(picture() is not None for picture in given))
            x = torch.zeros(1, 25, 1)
            given.append(weakref.ref(x))
            yield {
                SPEECH: Seq(torch.zeros(1, RATE), torch.tensor([RATE]), float(RATE)),
                "lips": Seq(x, torch.tensor([25]), 25.0),
            }

    assert all(isinstance(g, Gap) for g in split(clips(), LoudVad()))
    assert max(alive) < 12


# -------------------- from file to text


def test_poses_to_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_toy("pose_to_text")
    x = np.concatenate([data.pose("one two", i) for i in range(50)])  # 40 s
    np.save(tmp_path / "signs.npy", x)
    seen = Seen(model, monkeypatch)
    done = model.transcribe(tmp_path / "signs.npy", **ENGLISH)
    (batch,) = seen.inputs
    assert batch["pose"].lengths.tolist() == [750, 250] and done.duration_s == 40.0 and done.source == "signs.npy"
    assert torch.equal(batch["pose"].x[0], torch.from_numpy(x[:750]))
    assert done.segments and all(0 <= s.start_s <= s.end_s <= 40.0 for s in done.segments)
    again = model.transcribe(x, **ENGLISH)
    assert [s.text for s in again.segments] == [s.text for s in done.segments]
    with pytest.raises(MediaError, match="find the points"):
        model.transcribe(film(tmp_path / "a.mkv"), **ENGLISH)
    with pytest.raises(InputError, match="channels"):
        model.transcribe(x, channels="left", **ENGLISH)


def test_lips_with_speech_to_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcribe, "vad", LoudVad)
    model, path = new_toy("lips_with_speech"), film(tmp_path / "a.mkv", silence_s=6.0)
    seen = Seen(model, monkeypatch)
    done = model.transcribe(path, **ENGLISH)
    (batch,) = seen.inputs
    with open_clip(path, model.recorded) as reader:
        whole = join(list(reader))
    window_s = batch["speech"].x.shape[1] / RATE
    assert 0.8 <= window_s <= 1.2 and batch["lips"].x.shape[1] == round(window_s * 25)
    part: Clip = cut(whole, 6.8 - window_s, 6.8)
    assert torch.equal(batch["lips"].x, part["lips"].x) and torch.equal(batch["speech"].x, part["speech"].x)
    assert done.segments[0].start_s >= 5.5 and done.notes[0].action == "skipped"

    # one of the two
    with_lips = model.transcribe({"video": path}, vad=False, **ENGLISH)
    assert list(seen.inputs[-1]) == ["lips"] and "speech is left out" in " ".join(n.reason for n in with_lips.notes)
    soundfile.write(tmp_path / "a.wav", data.speech("one two", 0), RATE)
    with_speech = model.transcribe(tmp_path / "a.wav", **ENGLISH)
    assert list(seen.inputs[-1]) == ["speech"] and "lips is left out" in " ".join(n.reason for n in with_speech.notes)


def test_one_of_two_modalities_is_read_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = new_toy("lips_with_speech"), film(tmp_path / "a.mkv")
    seen = Seen(model, monkeypatch)
    for modality, read in (("audio", "speech"), ("video", "lips")):
        model.transcribe(path, vad=False, modality=modality, **ENGLISH)
        assert list(seen.inputs[-1]) == [read]
    with pytest.raises(MediaError):
        soundfile.write(tmp_path / "a.wav", data.speech("one two", 0), RATE)
        model.transcribe(tmp_path / "a.wav", modality="video", **ENGLISH)
    with pytest.raises(InputError, match=r"a modality that .* reads \(pose\), got 'video'"):
        new_toy("pose_to_text").transcribe(np.zeros((20, 4, 2), np.float32), modality="video", **ENGLISH)


def test_a_batch_of_recordings_with_and_without_a_medium(tmp_path: Path) -> None:
    """What is written of one does not depend on what stands beside it."""
    model, both = new_toy("lips_with_speech"), film(tmp_path / "a.mkv")
    sources: list[Any] = [both, {"video": both}, {"audio": both}, film(tmp_path / "b.mkv", "four three four")]
    alone = [model.transcribe(s, vad=False, batch_size=1, **ENGLISH) for s in sources]
    together = list(model.transcribe_many(sources, vad=False, **ENGLISH))
    assert [t.text for t in together] == [t.text for t in alone]
    scores = [t.segments[0].avg_logprob for t in alone]
    assert len({round(score, 4) for score in scores}) == 4
    assert [t.segments[0].avg_logprob for t in together] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("toy", ["pose_to_text", "lips_with_speech"])
def test_the_command_finds_what_the_model_reads(
    tmp_path: Path, toy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model, folder = write_toy(toy, tmp_path / "model"), tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    np.save(folder / "signs.npy", data.pose("one two", 0))
    film(folder / "deep" / "talk.mkv")
    (folder / "notes.txt").write_text("no recording")
    name = "signs" if toy == "pose_to_text" else "deep/talk"
    for given in (str(folder), str(folder / "**" / f"{Path(name).name}.*")):
        out = tmp_path / "out"
        assert main(["transcribe", given, "--model", str(model), "--language", "en", "--output-dir", str(out),
                     "--no-vad"]) == 0, capsys.readouterr().err  # fmt: skip
        assert [p.stem for p in out.rglob("*.txt")] == [Path(name).name]
        for p in out.rglob("*"):
            if p.is_file():
                p.unlink()


# -------------------- live


def pieces(clip: Clip, lag_s: float = 0.0) -> Iterator[tuple[Clip, bool]]:
    """A clip in pieces of any length, the pictures by some time later than the sound."""
    rng, at_s, end_s = np.random.default_rng(0), 0.0, max(float(s.durations_s.max()) for s in clip.values())
    while at_s < end_s + lag_s:
        until_s = at_s + float(rng.uniform(0.01, 0.5))
        part: dict[str, Seq] = {}
        for name, seq in clip.items():
            lag = 0.0 if name == SPEECH else lag_s
            part |= cut({name: seq}, max(0.0, at_s - lag), max(0.0, until_s - lag))
        yield part, until_s >= end_s + lag_s
        at_s = until_s


@pytest.mark.parametrize("toy", ["pose_to_text", "lips_with_speech"])
def test_a_stream_reads_what_the_file_reads(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_toy(toy)
    if toy == "pose_to_text":
        whole: Clip = {"pose": Seq(torch.from_numpy(data.pose("one two four", 0))[None], torch.tensor([30]), 25.0)}
    else:
        whole = speaker()
    with torch.inference_mode():
        want = model.memory(whole)
    texts, seen = [], []
    for lag_s in (0.0, 0.3):
        stream = Stream(model, language="en", vad=None, step_s=0.2)
        assert isinstance(stream.listener.encoder, IncrementalEncoder)
        monkeypatch.setattr(stream.listener.encoder, "drop", lambda before: None)  # to compare all of it
        for part, final in pieces(whole, lag_s):
            stream.push(part, final)
        got = stream.listener.encoder.memory()
        torch.testing.assert_close(got.x, want.x, atol=1e-5, rtol=0)
        assert got.rate == want.rate
        texts.append(stream.text)
        seen.append(stream.source_s)
    assert texts[0] == texts[1] and seen == pytest.approx([1.2, 1.2])
    with pytest.raises(InputError, match="smell"):
        Stream(model, language="en", vad=None).push({"smell": next(iter(whole.values()))})


def speaker(text: str = "one two four") -> dict[str, Seq]:
    """Somebody's lips and voice."""
    lips, wave = torch.from_numpy(data.lips(text, 0)), torch.from_numpy(data.speech(text, 0))
    return {"lips": Seq(lips[None], torch.tensor([len(lips)]), 25.0),
            SPEECH: Seq(wave[None], torch.tensor([len(wave)]), float(RATE))}  # fmt: skip


def parts_of(clip: Clip, step_s: float = 0.2) -> list[dict[str, Seq]]:
    """A clip in pieces of one length."""
    count = round(max(float(s.durations_s.max()) for s in clip.values()) / step_s)
    return [cut(clip, i * step_s, (i + 1) * step_s) for i in range(count)]


@pytest.mark.parametrize("kind", [IncrementalEncoder, WindowEncoder])
def test_a_session_of_two_modalities_goes_on_in_another_process(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_toy("lips_with_speech")
    monkeypatch.setattr(encoders, "streams", lambda *_: kind is IncrementalEncoder)
    parts = [*parts_of(speaker()), {}]

    def new() -> Stream:
        return Stream(model, language="en", vad=None, step_s=0.3, policy="local-agreement")

    whole, first = new(), new()
    assert isinstance(whole.listener.encoder, kind)
    for i, part in enumerate(parts):
        whole.push(part, i == len(parts) - 1)
        if i < 4:  # 0.8 s, of which 0.2 s wait
            first.push(part)
    first.save(tmp_path / "session.safetensors")
    again = Stream.restore(model, tmp_path / "session.safetensors", vad=None)
    for i, part in enumerate(parts[4:]):
        again.push(part, i == len(parts) - 5)
    assert again.text == whole.text and again.source_s == whole.source_s
    got, want = again.listener.encoder.memory(), whole.listener.encoder.memory()
    torch.testing.assert_close(got.x, want.x, atol=0, rtol=0)


def test_a_face_that_is_lost_for_a_while_is_black_as_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    model, parts = new_toy("lips_with_speech"), parts_of(speaker())
    seen = [part if i not in (2, 3) else {SPEECH: part[SPEECH]} for i, part in enumerate(parts)]
    assert int(join(seen)["lips"].lengths[0]) == 30
    with torch.inference_mode():
        want = model.memory(join(seen))
    stream = Stream(model, language="en", vad=None, step_s=0.2)
    monkeypatch.setattr(stream.listener.encoder, "drop", lambda before: None)
    for i, part in enumerate(seen):
        stream.push(part, i == len(seen) - 1)
    torch.testing.assert_close(stream.listener.encoder.memory().x, want.x, atol=1e-5, rtol=0)


def test_a_session_is_told_what_it_will_have() -> None:
    model, part = new_toy("lips_with_speech"), parts_of(speaker())[0]
    with pytest.raises(InputError, match="modalities="):
        stream = Stream(model, language="en", vad=None)
        stream.push({SPEECH: part[SPEECH]})
        stream.push(part)
    stream = Stream(model, language="en", vad=None, modalities=["lips", SPEECH])
    stream.push({SPEECH: part[SPEECH]})
    stream.push(part, final=True)
    assert stream.source_s == pytest.approx(0.4)
    alone = Stream(model, language="en", modalities=["lips"])  # nobody is heard, so all may be speech
    assert alone.listener.voice.vad is None
    alone.push({"lips": part["lips"]}, final=True)
    assert set(alone.listener.encoder.names) == {"lips"}  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="25 frames a second"):
        Stream(model, language="en").push({"lips": part["lips"]._replace(rate=30.0)})


@pytest.mark.parametrize("toy", ["pose_to_text", "lips_with_speech"])
def test_encoders_read_features_in_their_own_precision(toy: str) -> None:
    model = mmx.api.prepare(new_toy(toy), torch.device("cpu"), mmx.api.Precision("bfloat16", "float32"))
    for name, what in model.recorded.items():
        x = torch.zeros(1, round((what.rate or 0) / 5), *what.shape)
        features = model.encode(name, Seq(x, torch.tensor([x.shape[1]]), what.rate), end="encoders")
        assert features.x.dtype == torch.float32
        assert model.encode(name, features, "encoders").x.dtype == torch.bfloat16
