"""Live sources: a paced file and a microphone, with a stand-in for the driver."""

import builtins
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmx.errors import InputError, MediaError
from mmx.streaming.client import microphone as mic
from mmx.streaming.client.microphone import FileSource, Microphone, find_device, list_devices
from mmx.streaming.client.speech import Loudspeaker
from mmx.tasks.result import SpokenSegment

RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)


# -------------------- a file


class Clock:
    """Time that passes only when somebody waits, or is told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.waits.append(seconds)
        self.now += seconds


def paced(x: np.ndarray) -> tuple[FileSource, Clock]:
    clock = Clock()
    return FileSource(x, realtime=True, clock=clock, sleep=clock.sleep), clock


def drain(source: Any) -> tuple[np.ndarray, list[tuple[float, int, bool]]]:
    parts, shape = [], []
    while True:
        heard = source.read()
        parts.append(heard.samples)
        shape.append((heard.start_s, len(heard.samples), heard.final))
        if heard.final:
            return np.concatenate(parts), shape


def test_a_file_comes_whole_and_in_order_as_fast_as_it_is_read():
    x = noise(1.234)
    got, shape = drain(FileSource(x))
    np.testing.assert_array_equal(got, x)
    assert [f for *_, f in shape] == [False] * (len(shape) - 1) + [True]
    ends = np.cumsum([n for _, n, _ in shape])
    assert [round(s * RATE) for s, *_ in shape] == [0, *ends[:-1].tolist()]


def test_a_paced_file_waits_for_sound_to_have_played():
    x = noise(1.0)
    source, clock = paced(x)
    begun = clock.now
    for _ in range(4):
        heard = source.read()
        assert clock.now - begun == pytest.approx(heard.start_s + len(heard.samples) / RATE)
    assert source.pending_s == pytest.approx(0.0)


def test_who_comes_late_to_a_paced_file_gets_all_that_has_played():
    x = noise(2.0)
    source, clock = paced(x)
    first = source.read()
    clock.now += 0.75
    assert source.pending_s == pytest.approx(0.75)
    late = source.read()
    assert len(late.samples) == pytest.approx(0.7 * RATE, abs=0.11 * RATE)
    assert late.start_s == pytest.approx(len(first.samples) / RATE)
    rest, _ = drain(source)
    np.testing.assert_array_equal(np.concatenate([first.samples, late.samples, rest]), x)


def test_a_stopped_file_gives_what_has_played_and_no_more():
    source, clock = paced(noise(5.0))
    source.read()
    clock.now += 1.0
    source.stop()
    got, _ = drain(source)
    assert len(got) == pytest.approx(1.0 * RATE, abs=0.11 * RATE)
    assert source.pending_s == 0.0
    fast = FileSource(noise(5.0))
    fast.read()
    fast.stop()
    assert fast.read().final


def test_a_missing_file_is_told_at_once():
    with pytest.raises(MediaError, match=r"nowhere\.wav"):
        FileSource("nowhere.wav")


# -------------------- a stand-in for sounddevice


class PortAudioError(Exception):
    pass


class Driver:
    """What sounddevice offers, with devices and failures to order."""

    PortAudioError = PortAudioError

    def __init__(self) -> None:
        self.devices = [
            {"name": "HDMI", "max_input_channels": 0, "max_output_channels": 8, "default_samplerate": 48_000.0},
            {"name": "USB Headset", "max_input_channels": 1, "max_output_channels": 2, "default_samplerate": 44_100.0},
            {"name": "Laptop Array", "max_input_channels": 2, "max_output_channels": 0, "default_samplerate": 48_000.0},
        ]
        self.default = SimpleNamespace(device=[2, 0])
        self.rates, self.mono = {RATE, 44_100, 48_000}, True
        self.failure: tuple[str, int] | None = None
        self.opened: list[dict[str, Any]] = []

    def query_devices(self) -> list[dict[str, Any]]:
        return self.devices

    def _stream(self, **options: Any) -> Any:
        if self.failure:
            raise PortAudioError(*self.failure)
        if options["samplerate"] not in self.rates:
            raise PortAudioError("Error opening InputStream: Invalid sample rate [PaErrorCode -9997]", -9997)
        if options["channels"] == 1 and not self.mono:
            raise PortAudioError("Error opening InputStream: Invalid number of channels [PaErrorCode -9998]", -9998)
        self.opened.append(options)
        return SimpleNamespace(
            active=True,
            start=lambda: None,
            stop=lambda: None,
            abort=lambda: None,
            close=lambda: None,
            callback=options["callback"],
        )

    InputStream = OutputStream = _stream

    def speak(self, samples: np.ndarray, overflow: bool = False) -> None:
        """Call back with the blocks of `(N,)` or `(N, C)` samples, as the driver's thread does."""
        options = self.opened[-1]
        x_NC = samples if samples.ndim == 2 else np.repeat(samples[:, None], options["channels"], 1)
        size = options["blocksize"]
        for at in range(0, len(x_NC), size):
            block = x_NC[at : at + size].copy()
            status = SimpleNamespace(input_overflow=overflow)
            options["callback"](block, len(block), None, status if overflow else None)
            block[:] = np.nan  # the driver's buffer is its own again
            overflow = False


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    fake = Driver()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)  # type: ignore[arg-type]
    return fake


def finish(microphone: Microphone) -> np.ndarray:
    microphone.stop()
    return drain(microphone)[0]


def test_a_microphone_gives_what_the_driver_gave(driver: Driver):
    x = noise(0.5)
    source = Microphone()
    assert source.name == "Laptop Array" and driver.opened[0]["device"] == 2
    driver.speak(x)
    assert source.pending_s == pytest.approx(0.5)
    first = source.read()
    assert source.pending_s == 0 and not first.final
    np.testing.assert_array_equal(first.samples, x)
    y = noise(0.2, 1)
    driver.speak(y)
    np.testing.assert_array_equal(finish(source), y)
    assert source.notes() == []


def test_the_reader_waits_for_sound(driver: Driver):
    source = Microphone()
    x = noise(0.1)
    timer = threading.Timer(0.15, lambda: driver.speak(x))
    timer.start()
    np.testing.assert_array_equal(source.read().samples, x)
    timer.join()


def test_lost_sound_is_counted_told_and_leaves_its_place(driver: Driver):
    source = Microphone(buffer_s=0.3)
    x = noise(1.0)
    driver.speak(x)  # 0.3 s fit
    got = [source.read().samples]
    driver.speak(x[: RATE // 10])
    got.append(source.read().samples)
    joined = np.concatenate(got)
    assert len(joined) == 1.1 * RATE  # times after the hole stay true
    np.testing.assert_array_equal(joined[: round(0.3 * RATE)], x[: round(0.3 * RATE)])
    assert not joined[round(0.3 * RATE) : RATE].any()
    np.testing.assert_array_equal(joined[RATE:], x[: RATE // 10])
    (note,) = source.notes()
    assert "0.7 s of audio were lost" in note
    assert source.lost_s == pytest.approx(0.7) and source.notes() == []


def test_sound_lost_at_the_end_leaves_its_place(driver: Driver):
    source = Microphone(buffer_s=0.3)
    driver.speak(noise(1.0))
    assert len(finish(source)) == RATE


def test_what_the_driver_lost_is_told(driver: Driver):
    source = Microphone()
    driver.speak(noise(0.2), overflow=True)
    source.read()
    assert source.notes() == ["the microphone's driver lost sound 1 times"]


@pytest.mark.parametrize("mono", [True, False])
def test_a_device_of_another_rate_is_resampled(driver: Driver, mono: bool):
    driver.rates, driver.mono = {48_000}, mono
    source = Microphone()
    t = np.arange(48_000) / 48_000
    tone = 0.5 * np.sin(2 * np.pi * 440 * t).astype(np.float32)
    driver.speak(tone)
    assert driver.opened[-1]["channels"] == (1 if mono else 2)
    got = finish(source)
    assert len(got) == RATE
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(got[500:-500], wanted[500:-500], atol=2e-3)


def test_channels_are_mixed_down(driver: Driver):
    driver.mono = False
    source = Microphone()
    driver.speak(np.stack([noise(0.1, 1), noise(0.1, 2)], 1))
    np.testing.assert_allclose(finish(source), (noise(0.1, 1) + noise(0.1, 2)) / 2, atol=1e-6)


# -------------------- what can be missing


def test_without_sounddevice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(InputError, match=r"pip install 'mmx\[live\]'"):
        Microphone()


def test_without_the_portaudio_library(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def no_library(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sounddevice":
            raise OSError("PortAudio library not found")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_library)
    with pytest.raises(InputError, match=r"PortAudio library not found.*apt install libportaudio2"):
        list_devices()


def test_without_a_microphone(driver: Driver):
    driver.devices = driver.devices[:1]
    with pytest.raises(MediaError, match=r"expected a microphone, found none: plug one in.*--file"):
        Microphone()
    driver.devices = []
    with pytest.raises(MediaError, match="expected a loudspeaker, found none"):
        Loudspeaker()


def test_a_busy_microphone(driver: Driver):
    driver.failure = ("Error opening InputStream: Device unavailable [PaErrorCode -9985]", -9985)
    with pytest.raises(MediaError, match=r"'Laptop Array': .*unavailable.*another program uses it.*--microphone"):
        Microphone()


def test_a_microphone_that_cannot_be_opened(driver: Driver):
    driver.failure = ("Error opening InputStream: Internal PortAudio error [PaErrorCode -9986]", -9986)
    with pytest.raises(MediaError, match=r"Internal PortAudio error.*sound settings"):
        Microphone()


def test_a_sound_system_that_does_not_answer(driver: Driver, monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise PortAudioError("Error querying host API -9979")

    monkeypatch.setattr(driver, "query_devices", fail)
    with pytest.raises(MediaError, match="sound system that answers"):
        list_devices()


def test_an_unplugged_microphone(driver: Driver, monkeypatch: pytest.MonkeyPatch):
    source = Microphone()
    source._stream.active = False
    with pytest.raises(MediaError, match="unplugged"):
        source.read()
    monkeypatch.setattr(Microphone, "SILENT_S", 0.2)
    source._stream.active = True
    with pytest.raises(MediaError, match="unplugged"):
        source.read()


@pytest.mark.parametrize(("wanted", "index"), [(None, 2), ("1", 1), ("usb headset", 1), ("array", 2)])
def test_devices_are_found_by_name_part_and_number(driver: Driver, wanted: str | None, index: int):
    assert find_device(wanted).index == index


def test_a_wrong_name_suggests_the_nearest(driver: Driver):
    with pytest.raises(InputError, match=r"got 'USB Hedset'\. Did you mean 'USB Headset'"):
        Microphone("USB Hedset")
    with pytest.raises(InputError, match="got '0'"):  # it has no input
        Microphone("0")
    driver.devices[1]["name"] = "Other Array"
    with pytest.raises(InputError, match=r"1: Other Array, 2: Laptop Array.*number"):
        Microphone("array")


def test_the_list_says_which_is_the_default(driver: Driver):
    assert [(d.index, d.default) for d in list_devices()] == [(1, False), (2, True)]
    assert [d.name for d in list_devices("output")] == ["HDMI", "USB Headset"]


# -------------------- a loudspeaker


def test_a_loudspeaker_says_one_thing_after_the_other(driver: Driver):
    speaker = Loudspeaker()
    fill = driver.opened[-1]["callback"]
    a, b = noise(0.1, 1), noise(0.05, 2)
    speaker.play(SpokenSegment(0.0, a))
    speaker.play(SpokenSegment(0.0, b))
    assert speaker.busy
    out = np.full((4, 1000, 1), np.nan, np.float32)
    for block in out:
        fill(block, 1000, None, None)
    np.testing.assert_array_equal(out.reshape(-1)[:2400], np.concatenate([a, b]))
    assert not out.reshape(-1)[2400:].any() and not speaker.busy
    speaker.close()


@pytest.mark.parametrize("active", [True, False])
def test_a_loudspeaker_that_is_gone_is_not_waited_for(driver: Driver, monkeypatch: pytest.MonkeyPatch, active: bool):
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        assert len(waits) < 1000, "it waits for ever"

    def fails() -> None:
        raise PortAudioError("Device unavailable", mic.UNAVAILABLE)

    monkeypatch.setattr("time.sleep", sleep)
    speaker = Loudspeaker()
    speaker._stream.active, speaker._stream.abort = active, fails
    speaker.play(SpokenSegment(0.0, noise(0.1)))
    with pytest.raises(MediaError, match="'HDMI' plays no more"):
        speaker.close()
    assert sum(waits) == pytest.approx(Loudspeaker.STILL_S if active else mic.BLOCK_S, abs=0.2)


def test_a_loudspeaker_that_plays_is_waited_for(driver: Driver, monkeypatch: pytest.MonkeyPatch):
    speaker = Loudspeaker()
    out, said = np.zeros((800, 1), np.float32), noise(20.0)
    monkeypatch.setattr("time.sleep", lambda s: driver.opened[-1]["callback"](out, len(out), None, None))
    speaker.play(SpokenSegment(0.0, said))
    speaker.close()
    assert not speaker.busy


def test_a_busy_loudspeaker(driver: Driver):
    driver.failure = ("Device unavailable", mic.UNAVAILABLE)
    with pytest.raises(MediaError, match=r"cannot play to 'HDMI'.*--speak out\.wav"):
        Loudspeaker()
