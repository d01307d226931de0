"""Transcripts and their writers, read back with other people's parsers."""

import csv
import errno
import html
import io
import itertools
import json
import math
import os
import stat
import unicodedata
from datetime import timedelta
from pathlib import Path

import pytest
import srt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from mmx.errors import InputError, OutputError
from mmx.files import atomic_write
from mmx.tasks.result import FORMATS, Note, Segment, Transcript, Word


def make(*segments: Segment, source: str = "talks/hello.wav", notes: tuple[Note, ...] = ()) -> Transcript:
    duration_s = max((s.end_s for s in segments), default=0.0)
    return Transcript(source, segments, "en", 0.98, duration_s, "transcribe", "base", notes)


def said(text: str, step_s: float = 0.3, start_s: float = 0.0, language: str = "en") -> Segment:
    """A segment whose words, parted at spaces, last `step_s` each."""
    parts = [f" {part}" for part in text.split(" ")]
    words = tuple(Word(p, start_s + i * step_s, start_s + (i + 1) * step_s, 0.9) for i, p in enumerate(parts))
    return Segment(start_s, start_s + step_s * len(parts), " " + text, language, words=words)


SMALL = make(
    Segment(
        0.0,
        1.5,
        " Hello, wörld.",
        "en",
        tokens=(15947, 11),
        avg_logprob=-0.25,
        no_speech_prob=0.01,
        words=(Word(" Hello,", 0.0, 0.5, 0.9), Word(" wörld.", 0.6, 1.5, 0.8)),
    ),
    Segment(2.0, 3.25, " Fish & <chips>", "en"),
    notes=(Note(3.25, 9.0, "skipped", "no speech"),),
)


# --- exact output ----------------------------------------------------------------------------------------


def test_txt_exactly():
    assert SMALL.to_txt() == "Hello, wörld.\nFish & <chips>\n"


def test_srt_exactly():
    assert SMALL.to_srt() == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello, wörld.\n\n2\n00:00:02,000 --> 00:00:03,250\nFish & <chips>\n\n"
    )


def test_vtt_exactly():
    assert SMALL.to_vtt() == (
        "WEBVTT\n"
        "\n00:00:00.000 --> 00:00:01.500\nHello, wörld.\n"
        "\n00:00:02.000 --> 00:00:03.250\nFish &amp; &lt;chips&gt;\n"
    )


def test_tsv_exactly():
    assert SMALL.to_tsv() == "start\tend\ttext\n0\t1500\tHello, wörld.\n2000\t3250\tFish & <chips>\n"


def test_json_exactly():
    figures = '"temperature": 0.0, "avg_logprob": %s, "compression_ratio": 1.0, "no_speech_prob": %s'
    assert SMALL.to_json() == (
        '{"schema": 1, "source": "talks/hello.wav", "model": "base", "task": "transcribe", '
        '"language": "en", "language_probability": 0.98, "duration": 3.25, '
        '"text": "Hello, wörld. Fish & <chips>", "segments": ['
        '{"id": 0, "start": 0.0, "end": 1.5, "text": " Hello, wörld.", "language": "en", '
        f'"tokens": [15947, 11], {figures % (-0.25, 0.01)}, "words": ['
        '{"word": " Hello,", "start": 0.0, "end": 0.5, "probability": 0.9}, '
        '{"word": " wörld.", "start": 0.6, "end": 1.5, "probability": 0.8}]}, '
        '{"id": 1, "start": 2.0, "end": 3.25, "text": " Fish & <chips>", "language": "en", '
        f'"tokens": [], {figures % (0.0, 0.0)}, "words": []}}], '
        '"notes": [{"start": 3.25, "end": 9.0, "action": "skipped", "reason": "no speech"}]}\n'
    )


def test_empty_transcript_is_valid_in_every_format():
    empty = make()
    assert empty.text == "" and empty.words == ()
    assert empty.to_txt() == "" and empty.to_srt() == "" and empty.to_tsv() == "start\tend\ttext\n"
    assert webvtt.from_string(empty.to_vtt()).captions == [] and empty.to_vtt().startswith("WEBVTT\n")
    assert Transcript.from_dict(json.loads(empty.to_json())) == empty


# --- what the result holds -------------------------------------------------------------------------------


def test_text_joins_with_one_space_and_none_in_chinese():
    assert make(Segment(0, 1, "One.", "en"), Segment(1, 2, " Two.", "en")).text == "One. Two."
    assert make(Segment(0, 1, "One.", "en"), Segment(1, 2, "Two.", "en")).text == "One. Two."
    assert make(Segment(0, 1, "一。", "zh"), Segment(1, 2, "二。", "zh")).text == "一。二。"


def test_words_are_those_of_all_segments():
    assert [w.text for w in make(said("a b"), said("c", start_s=1)).words] == [" a", " b", " c"]


def test_round_trip_through_json():
    assert Transcript.from_dict(json.loads(SMALL.to_json())) == SMALL


def test_numbers_that_json_lacks_become_null():
    text = make(Segment(0, math.inf, "x", "en", avg_logprob=math.nan)).to_json()
    segment = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["segments"][0]
    assert segment["avg_logprob"] is None and segment["end"] is None
    assert math.isnan(Transcript.from_dict(json.loads(text)).segments[0].avg_logprob)


def test_reads_the_json_of_openai_whisper():
    theirs = {
        "text": " Hi.",
        "language": "en",
        "segments": [{"id": 0, "seek": 0, "start": 0, "end": 2, "text": " Hi."}],
    }
    transcript = Transcript.from_dict(theirs)
    assert transcript.text == "Hi." and transcript.duration_s == 2.0 and transcript.segments[0].language == "en"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({**SMALL.to_dict(), "schema": 99}, "schema 1 or older, got 99"),
        ({"language": "en"}, "'segments'"),
        ({"language": "en", "segments": [3]}, "not a transcript"),
        ({**SMALL.to_dict(), "notes": [{"action": "eaten", "reason": ""}]}, "eaten"),
        ([], "schema"),
    ],
)
def test_refuses_what_is_no_transcript(data, message):
    with pytest.raises(InputError, match=message):
        Transcript.from_dict(data)


# --- cues ------------------------------------------------------------------------------------------------


def cues(transcript: Transcript) -> list[srt.Subtitle]:
    return list(srt.parse(transcript.to_srt()))


def texts(transcript: Transcript) -> list[str]:
    return [cue.content for cue in cues(transcript)]


def test_a_long_segment_is_cut_after_its_sentences():
    sentence = "I think that we should go there tomorrow morning."
    found = cues(make(said(f"{sentence} But nobody knows what the weather will be like.")))
    assert [cue.content.replace("\n", " ") for cue in found] == [
        sentence,
        "But nobody knows what the weather will be like.",
    ]
    assert [cue.start for cue in found] == [timedelta(0), timedelta(seconds=2.7)]
    assert found[0].end == timedelta(seconds=2.7) and found[1].end == timedelta(seconds=5.4)


def test_without_punctuation_the_cue_ends_at_the_pause():
    before = said("and then we walked along the river for a very long time")
    after = said("until the sun went down behind all the old houses", start_s=before.end_s + 0.5)
    both = Segment(0, after.end_s, before.text + after.text, "en", words=before.words + after.words)
    assert [t.replace("\n", " ") for t in texts(make(both))] == [before.text.strip(), after.text.strip()]


def test_lines_break_after_a_comma():
    assert texts(make(said("When the rain stops, all of the children will go out to play"))) == [
        "When the rain stops,\nall of the children will go out to play"
    ]


@pytest.mark.parametrize("name", ["Mr.", "(Mrs.", "J.", "\u201cDr.", "M.", "Sra."])
def test_no_line_ends_after_an_abbreviation(name):
    found = texts(make(said(f"She had not been told of it and {name} Dashwood had then no more to say")))
    assert len(found) == 1 and f"{name} Dashwood" in found[0]
    found = texts(
        make(said(f"It was all that she had left to her, and {name} Dashwood had then leisure to consider it."))
    )
    assert f"{name} Dashwood" in "\n\n".join(found)


def test_long_texts_of_two_languages_are_cut_together():
    source = (
        "Er war kein schlechter junger Mann, es sei denn, dass man ein kaltes Herz und einige Selbstsucht schlecht "
        "nennen will. Im Allgemeinen aber achtete man ihn, denn er benahm sich in seinen Pflichten mit Anstand."
    )
    text = (
        "He was not an ill-disposed young man, unless to be rather cold hearted and rather selfish is to be "
        "ill-disposed. But he was, in general, well respected, for he conducted himself with propriety."
    )
    found = cues(make(Segment(10.0, 22.0, text, "en", source_text=source)))
    blocks = [cue.content.split("\n") for cue in found]
    assert [len(b) for b in blocks] == [4, 4, 4] and all(len(line) <= 42 for b in blocks for line in b)
    assert " ".join(line for b in blocks for line in b[:2]) == source
    assert " ".join(line for b in blocks for line in b[2:]) == text
    assert [cue.start.total_seconds() for cue in found] == pytest.approx([10.0, 14.0, 18.0], abs=0.8)
    assert all(a.end == b.start for a, b in itertools.pairwise(found)) and found[-1].end == timedelta(seconds=22)


def test_texts_of_two_languages_are_cut_after_their_sentences():
    source = ["Die Familie Dashwood wohnte seit langer Zeit in Sussex.", "Ihr Gut war groß, und man achtete sie."]
    text = ["The family of Dashwood had long been settled in Sussex.", "Their estate was large, and all was well."]
    found = texts(make(Segment(0.0, 9.0, " ".join(text), "en", source_text=" ".join(source))))
    assert [f.replace("\n", " ") for f in found] == [f"{a} {b}" for a, b in zip(source, text, strict=True)]


@given(
    st.lists(st.text("ab.,", min_size=1, max_size=60), max_size=40), st.lists(st.text("cd!", min_size=1), max_size=40)
)
@settings(max_examples=60, deadline=None)
def test_no_word_of_two_languages_is_lost(above, below):
    found = texts(make(Segment(0.0, 9.0, " ".join(below), "en", source_text=" ".join(above) or "a")))
    words = " ".join(found).split()
    assert [w for w in words if set(w) <= set("ab.,")] == (above or ["a"])
    assert [w for w in words if not set(w) <= set("ab.,")] == below


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("th", "สวัสดีครับวันนี้อากาศดีมากเราควรออกไปเดินเล่นที่สวนสาธารณะใกล้บ้านแล้วกินข้าวกลางวันด้วยกันนะครับ"),
        ("km", "ថ្ងៃនេះអាកាសធាតុល្អណាស់យើងគួរតែចេញទៅដើរលេងនៅឧទ្យានជិតផ្ទះហើយញ៉ាំអាហារថ្ងៃត្រង់ជាមួយគ្នា"),
        ("my", "ဒီနေ့ရာသီဥတုအရမ်းကောင်းတယ်ကျွန်တော်တို့အိမ်နားကပန်းခြံမှာလမ်းလျှောက်ပြီးနေ့လယ်စာအတူစားကြရအောင်" * 2),
    ],
)
def test_two_languages_of_which_one_has_no_spaces_keep_to_their_lines(language: str, text: str):
    english = "The weather is very good today."
    for above, below, tag in ((english, text, language), (text, english, "en")):
        found = texts(make(Segment(0.0, 12.0, below, tag, source_text=above)))
        lines = [line for cue in found for line in cue.split("\n")]
        widths = [sum(unicodedata.category(c)[0] != "M" for c in line) for line in lines]
        assert max(widths) <= 42
        assert "".join(line for line in lines if not line.isascii()) == text


def test_a_cue_lasts_at_most_seven_seconds():
    found = cues(make(said("one two three four five six seven eight", step_s=2.0)))
    assert len(found) > 2 and all(cue.end - cue.start <= timedelta(seconds=7) for cue in found)
    assert cues(make(said("endless", step_s=60.0)))[0].end == timedelta(seconds=7)


def test_wide_characters_count_twice():
    text = "これは長い日本語の文章です。字幕を読みやすくするために、適切な位置で改行しなければなりません。"
    found = texts(make(Segment(0, 14, text, "ja")))
    assert "".join(found).replace("\n", "") == text
    lines = [line for cue in found for line in cue.split("\n")]
    assert all(len(line) <= 21 for line in lines)
    assert not any(line[0] in "。、" for line in lines)


def test_chinese_words_are_not_cut():
    words = ("今天", "天气", "很好", "我们", "应该", "出去", "走走") * 4
    timed = tuple(Word(w, i * 0.3, i * 0.3 + 0.3, 1.0) for i, w in enumerate(words))
    lines = "\n".join(texts(make(Segment(0, 9, "".join(words), "zh", words=timed)))).split("\n")
    assert len(lines) > 2
    for line in lines:
        assert all(line[i : i + 2] in words for i in range(0, len(line), 2))


def test_chinese_within_english_is_cut_to_lines():
    found = texts(make(said("今天天气很好" * 10, step_s=6.0)))
    assert len(found) > 1
    assert all(len(line) <= 21 for cue in found for line in cue.split("\n"))


def test_korean_is_cut_at_spaces_only():
    text = "안녕하세요 저는 한국에서 온 학생이고 지금은 베를린에서 컴퓨터 공학을 공부하고 있습니다"
    found = "\n".join(texts(make(Segment(0, 6, text, "ko"))))
    assert "\n" in found and found.split() == text.split()


def test_thai_without_words_is_cut_but_marks_stay_with_their_letter():
    text = "สวัสดีครับวันนี้อากาศดีมากเราควรออกไปเดินเล่นที่สวนสาธารณะใกล้บ้านแล้วกินข้าวกลางวันด้วยกันนะครับ"
    lines = "\n".join(texts(make(Segment(0, 10, text, "th")))).split("\n")
    assert len(lines) > 1 and "".join(lines) == text
    assert not any(line[0] in "ัิีึืุู็่้๊๋์ำ" or line[-1] in "เแโใไ" for line in lines[1:])


def test_a_word_is_never_cut_not_even_one_wider_than_a_line():
    word = "x" * 100
    assert word in "\n".join(texts(make(said(f"see {word} please")))).split("\n")


def test_pieces_of_a_word_stay_together():
    words = [Word(f" {c * 9}", i, i + 0.1, 1) for i, c in enumerate("abcdefgh")]
    words.insert(4, Word("-known", 3.1, 3.2, 1))
    found = "\n".join(texts(make(Segment(0, 8, "", "en", words=tuple(words))))).split()
    assert "ddddddddd-known" in found


@pytest.mark.parametrize(("unit", "language", "first"), [("あ」", "ja", "あ"), ("เก", "th", "เ")])
@pytest.mark.parametrize("n", range(11, 60, 2))
def test_no_line_begins_inside_what_belongs_together(unit, language, first, n):
    lines = "\n".join(texts(make(Segment(0, 20, unit * n, language)))).split("\n")
    assert "".join(lines) == unit * n and {line[0] for line in lines} == {first}


@pytest.mark.parametrize("n", range(5, 30, 2))
def test_no_line_begins_inside_a_word_of_several_pieces(n):
    pieces = tuple(Word(t, i, i + 0.1, 1) for i in range(n) for t in (" well", "-", "known"))
    found = "\n".join(texts(make(Segment(0, n, "", "en", words=pieces))))
    assert found.split() == ["well-known"] * n


def test_without_words_a_long_segment_is_shared_out_by_characters():
    text = "The quick brown fox jumps over the lazy dog near the river bank today. " * 2
    found = cues(make(Segment(10, 22, text, "en")))
    assert [cue.content.replace("\n", " ") for cue in found] == [text[:70].strip()] * 2
    assert found[0].start == timedelta(seconds=10) and found[1].end == timedelta(seconds=22)
    assert abs(found[1].start - timedelta(seconds=16)) < timedelta(seconds=0.2)


def test_two_words_in_half_a_minute_are_one_cue():
    assert [(c.content, c.end) for c in cues(make(Segment(0, 30, "Thank you.", "en")))] == [
        ("Thank you.", timedelta(seconds=7))
    ]


def test_text_cannot_break_the_file():
    nasty = "a\n\n2\n00:00:09,000 --> 00:00:10,000\nb\r\nc\td\x00e\u2028f &amp; <b>"
    transcript = make(Segment(0, 5, nasty, "en"), Segment(5.6, 6.6, "next", "en"))
    for found in (cues(transcript), webvtt.from_string(transcript.to_vtt()).captions):
        assert len(found) == 2
    assert transcript.to_srt().count("-->") == transcript.to_vtt().count("-->") == 2
    rows = list(csv.reader(io.StringIO(transcript.to_tsv()), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [len(row) for row in rows] == [3, 3, 3]
    assert len(transcript.to_txt().splitlines()) == 2


def test_lone_surrogates_can_be_written(tmp_path):
    transcript = make(Segment(0, 1, "a\ud83db \ud83d\ude00", "en", words=(Word(" a\udc00", 0, 1, 1),)))
    contents = [path.read_text(encoding="utf-8") for path in transcript.write(tmp_path, FORMATS)]
    assert contents[0] == "a\ufffdb 😀\n" and "\na\ufffd\n" in contents[1] and "a\ufffdb 😀" in contents[4]


def test_vtt_escape_reads_back():
    assert "Fish &amp; &lt;chips&gt;" in SMALL.to_vtt()
    assert html.unescape(webvtt.from_string(SMALL.to_vtt())[1].raw_text) == "Fish & <chips>"


def test_impossible_times_are_repaired():
    odd = [(-1.0, 2.0), (1.5, 1.2), (1.5, 3.0), (math.nan, math.nan), (2.0, math.inf), (4.0, 4.0)]
    texts = [f"s{i} {'is too long for one line' * 2}" for i in range(len(odd))]
    found = cues(make(*(Segment(a, b, text, "en") for (a, b), text in zip(odd, texts, strict=True))))
    assert [cue.content.replace("\n", " ") for cue in found] == texts
    assert found[0].start == timedelta(0)
    assert all(cue.end > cue.start for cue in found)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


def spans_of(*segments: Segment) -> list[tuple[float, float, str]]:
    return [(c.start.total_seconds(), c.end.total_seconds(), c.content) for c in cues(make(*segments))]


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("lasts_s", [0.0, 0.04, 0.3])
def test_a_cue_lasts_until_it_can_be_read_where_there_is_room(timed: bool, lasts_s: float):
    said = [(" Certainly.", 2.0), (" Perhaps.", 6.0), (" Good.", 7.0)]
    found = spans_of(
        *(Segment(a, a + lasts_s, t, "en", words=(Word(t, a, a + lasts_s, 0.9),) if timed else ()) for t, a in said)
    )
    assert [(a, text) for a, _, text in found] == [(a, t.strip()) for t, a in said]
    assert all(b - a >= 0.7 for a, b, _ in found)


def test_a_cue_without_room_begins_earlier():
    long = "A whole sentence that takes two lines of forty columns, and so is alone."
    found = spans_of(
        Segment(0.0, 3.0, long, "en"), Segment(4.0, 4.1, " Oh dear, what a day.", "en"), Segment(4.2, 7.0, long, "en")
    )
    assert [text.split()[0] for *_, text in found] == ["A", "Oh", "A"]
    assert found[1][1] - found[1][0] >= 0.7 and found[0][1] <= found[1][0] and found[1][1] <= found[2][0]


def test_brief_text_joins_its_neighbour():
    found = spans_of(Segment(1.0, 1.1, " Why?", "en"), Segment(1.2, 3.0, " Nobody can tell.", "en"))
    assert found == [(1.0, 3.0, "Why?\nNobody can tell.")]


def test_a_bit_of_a_sentence_is_no_cue_of_its_own():
    found = spans_of(
        Segment(0.0, 3.0, " The road was a good deal longer than", "en"), Segment(3.0, 3.4, " we thought.", "en")
    )
    assert [text.replace("\n", " ") for *_, text in found] == ["The road was a good deal longer than we thought."]
    apart = spans_of(
        Segment(0.0, 3.0, " The road was a good deal longer than", "en"), Segment(9.0, 9.4, " we thought.", "en")
    )
    assert len(apart) == 2 and apart[1][0] == 9.0 and apart[0][1] == 3.0


def test_no_cue_goes_on_over_a_pause_between_its_words():
    words = tuple(Word(t, a, a + 0.3, 0.9) for t, a in [(" Wait", 0.0), (" here", 0.4), (" for", 4.0), (" me.", 4.4)])
    assert spans_of(Segment(0.0, 4.7, " Wait here for me.", "en", words=words)) == [
        (0.0, 0.833, "Wait here"),
        (4.0, 4.833, "for me."),
    ]


def test_more_than_99_hours():
    transcript = make(Segment(360_000.0, 360_001.5, "late", "en"))
    assert "100:00:00,000 --> 100:00:01,500" in transcript.to_srt()
    assert "100:00:00.000 --> 100:00:01.500" in transcript.to_vtt()
    assert cues(transcript)[0].start == timedelta(hours=100)
    assert webvtt.from_string(transcript.to_vtt())[0].start_in_seconds == 360_000


# --- any text at all -------------------------------------------------------------------------------------

times = st.floats(-1, 40_000) | st.sampled_from([math.nan, math.inf, -math.inf])
any_text = st.text(st.characters(codec=None), max_size=60) | st.text("ab -->&<\n\t。字", max_size=120)
word_lists = st.lists(st.builds(Word, any_text, times, times, times), max_size=8).map(tuple)
any_segment = st.builds(
    Segment,
    times,
    times,
    any_text,
    st.sampled_from(["en", "zh", "th", "ko"]),
    avg_logprob=times,
    words=word_lists,
)
transcripts = st.lists(any_segment, max_size=5).map(lambda segments: make(*segments))


def letters(text: str) -> str:
    """What must survive every format: all characters but white space and controls."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(c for c in text if c.isprintable() and not c.isspace()).replace("-->", "→")


def shown(transcript: Transcript) -> str:
    """The letters that subtitles show: those of the words where there are any, else those of the segment."""
    return "".join(
        letters("".join(word.text for word in s.words) if any(map(visible, s.words)) else s.text)
        for s in transcript.segments
    )


def visible(word: Word) -> bool:
    return any(not c.isspace() and unicodedata.category(c) != "Cc" for c in word.text)


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.split(":")
    return round((int(hours) * 60 + int(minutes)) * 60 + float(rest), 3)


def check_cues(spans: list[tuple[float, float]]) -> None:
    assert all(0 <= start < end for start, end in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


@settings(max_examples=150, deadline=None)
@given(transcripts)
def test_any_text_survives_srt(transcript):
    text = transcript.to_srt()
    text.encode()
    found = list(srt.parse(text))
    assert letters("".join(cue.content for cue in found)) == letters(shown(transcript))
    check_cues([(cue.start.total_seconds(), cue.end.total_seconds()) for cue in found])
    assert all(len(cue.content.split("\n")) <= 2 for cue in found)


@settings(max_examples=150, deadline=None)
@given(transcripts)
def test_any_text_survives_vtt(transcript):
    text = transcript.to_vtt()
    text.encode()
    assert text.count("-->") == transcript.to_srt().count("-->")
    blocks = text.removeprefix("WEBVTT\n").split("\n\n")
    payload = "".join(line for block in blocks for line in block.split("\n") if "-->" not in line)
    for code, char in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        payload = payload.replace(code, char)
    assert letters(payload) == letters(shown(transcript))
    check_cues([(seconds(c.start), seconds(c.end)) for c in webvtt.from_string(text)])


@settings(max_examples=150, deadline=None)
@given(transcripts)
def test_any_text_survives_tsv_txt_and_json(transcript):
    rows = list(csv.reader(io.StringIO(transcript.to_tsv()), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [letters(row[2]) for row in rows[1:]] == [letters(s.text) for s in transcript.segments]
    assert all(0 <= int(row[0]) < int(row[1]) for row in rows[1:])
    assert letters(transcript.to_txt()) == letters("".join(s.text for s in transcript.segments))
    data = json.loads(transcript.to_json().encode())
    assert [letters(s["text"]) for s in data["segments"]] == [letters(s.text) for s in transcript.segments]
    again = Transcript.from_dict(data).to_dict()
    assert again == {**data, "duration": again["duration"]}


ascii_words = st.lists(st.text("abcdefghij.,", min_size=1, max_size=14), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(ascii_words, st.floats(0.05, 3.0))
def test_ordinary_text_keeps_the_limits_of_lines_and_time(parts, step_s):
    found = cues(make(said(" ".join(parts), step_s)))
    assert " ".join(cue.content for cue in found).split() == parts
    for cue in found:
        assert len(cue.content.split("\n")) <= 2 and max(map(len, cue.content.split("\n"))) <= 42
        assert cue.end - cue.start <= timedelta(seconds=7)


# --- writing ---------------------------------------------------------------------------------------------


def test_write_makes_the_folder_and_every_format(tmp_path):
    paths = SMALL.write(tmp_path / "new" / "folder", FORMATS)
    assert [path.name for path in paths] == [f"hello.{name}" for name in FORMATS]
    assert [path.read_bytes().decode() for path in paths] == [
        SMALL.to_txt(),
        SMALL.to_srt(),
        SMALL.to_vtt(),
        SMALL.to_tsv(),
        SMALL.to_json(),
    ]
    assert len(list(paths[0].parent.iterdir())) == len(FORMATS), "a temporary file stayed"


def test_names_of_the_files(tmp_path):
    assert SMALL.write(tmp_path, "srt", stem="talk.v2")[0].name == "talk.v2.srt"
    assert SMALL.write(tmp_path, [".TXT", "txt"], stem="../up")[0] == tmp_path / "up.txt"
    assert make(source="").write(tmp_path, ["txt"])[0].name == "transcript.txt"


def test_unknown_format_writes_nothing(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'srt'"):
        SMALL.write(tmp_path, ["txt", "str"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "may write to"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "another folder"),
    ],
)
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call, code, remedy):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError, match=remedy) as caught:
        atomic_write(path, "new and longer")
    assert "a.txt" in str(caught.value)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_halfway(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    class Full(io.FileIO):
        def write(self, data):
            super().write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.open", lambda file, mode: Full(file, mode))
    with pytest.raises(OutputError, match="disk is full"):
        atomic_write(path, "x" * 1000)
    monkeypatch.undo()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user that permissions bind")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="may write to"):
            atomic_write(tmp_path / "a.txt", "new")
    finally:
        tmp_path.chmod(0o700)


def test_bad_paths_say_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a folder"):
        atomic_write(tmp_path / "file" / "a.txt", "new")
    with pytest.raises(OutputError, match="a folder has this name"):
        atomic_write(tmp_path, "new")
    with pytest.raises(OutputError, match="shorter"):
        atomic_write(tmp_path / ("n" * 300), "new")
    with pytest.raises(OutputError, match="null"):
        atomic_write(tmp_path / "a\0b", "new")


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_permissions_and_links_are_kept(tmp_path):
    fresh, old, link = tmp_path / "fresh", tmp_path / "old", tmp_path / "link"
    old.write_text("old")
    old.chmod(0o640)
    link.symlink_to(old)
    before = os.umask(0o022)
    try:
        atomic_write(fresh, b"bytes")
        atomic_write(link, "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o644 and fresh.read_bytes() == b"bytes"
    assert link.is_symlink() and old.read_text() == "new" and stat.S_IMODE(old.stat().st_mode) == 0o640


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs /dev/null")
def test_a_device_is_written_to_and_not_replaced():
    atomic_write("/dev/null", "gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
