"""Round trip of voices: sentences are spoken, recognized by the default model, and compared with what was to be said.

    python -m mmx.experiments.voices --model kokoro --languages es,fr --voices all

It bounds intelligibility from above: errors are those of the voice, its phonemes and the recognizer together. The
sentences are in `voices.toml`.
"""

import argparse
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soxr

import mmx
from mmx.evaluate.metrics import measure
from mmx.model import Model
from mmx.text.languages import has_spaces
from mmx.text.phonemes import phonemes
from mmx.text.phonemes.symbols import PUNCTUATION
from mmx.text.spoken import spoken as spoken_words

SENTENCES = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Trip:
    """What came back.

    Attributes:
        language: of the sentences.
        voice: that spoke them.
        wer: word error rate of all sentences, in percent; of a language without spaces, the error rate of phonemes, as
            its writers may choose between characters that are read alike.
        rtf: seconds of synthesis for each second of speech.
        heard: what was recognized of each sentence.
    """

    language: str
    voice: str
    wer: float
    rtf: float
    heard: tuple[str, ...]


def round_trip(synth: Model, recognizer: Model, language: str, voice: str, sentences: Sequence[str]) -> Trip:
    """Speak and recognize sentences."""
    took_s = spoken_s = 0.0
    heard = []
    for sentence in sentences:
        begin = time.perf_counter()
        spoken = synth.speak(sentence, voice=voice, language=language)
        took_s += time.perf_counter() - begin
        spoken_s += len(spoken.samples) / spoken.rate
        wave = soxr.resample(spoken.samples, spoken.rate, 16_000)
        heard.append(recognizer.transcribe(wave, language=language.partition("-")[0]).text)
    in_words = [" ".join(w.said for w in spoken_words(text, language)) for text in heard]  # "7" is "sept"
    if not has_spaces(sentences[0]):
        said, got = ([_read(text, language) for text in texts] for texts in (sentences, in_words))
        errors = measure("cer", got, said, normalize="none", bootstrap=0).value
        return Trip(language, voice, errors, took_s / spoken_s, tuple(heard))
    wer = measure("wer", in_words, sentences, language=language.partition("-")[0], normalize="basic", bootstrap=0)
    return Trip(language, voice, wer.value, took_s / spoken_s, tuple(heard))


def _read(text: str, language: str) -> str:
    """The phonemes of a text, without pauses, marks and tones."""
    return "".join(c for _, symbols in phonemes(text, language) for c in symbols if c not in PUNCTUATION + " →↗↘↓")


def main(argv: Sequence[str] | None = None) -> None:
    """See above."""
    parser = argparse.ArgumentParser(description="Round trip of voices.")
    parser.add_argument("--model", default="kokoro")
    parser.add_argument("--languages", default="en,es,fr,it,pt")
    parser.add_argument("--voices", default="", help="all, or some with commas; else the first")
    parser.add_argument("--show", action="store_true", help="what came back otherwise than it was to be said")
    asked = parser.parse_args(argv)
    table = tomllib.loads(SENTENCES.read_text("utf-8"))
    synth, recognizer = mmx.load(asked.model), mmx.load()
    for language in asked.languages.split(","):
        names = list(synth.require_synth().voices(language))
        wanted = names if asked.voices == "all" else [n for n in asked.voices.split(",") if n in names] or names[:1]
        for name in wanted:
            trip = round_trip(synth, recognizer, language, name, table[language])
            print(f"{language:6} {name:12} WER {trip.wer:5.1f} %   real-time factor {trip.rtf:.3f}", flush=True)
            if asked.show:
                for said, got in zip(table[language], trip.heard, strict=True):
                    print(f"    {said}\n  > {got}" if said != got else "", end="\n" if said != got else "")


if __name__ == "__main__":
    main()
