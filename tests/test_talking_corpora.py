"""Corpora of lips and sound: the layouts that publishers give out become manifests that training reads."""

from pathlib import Path

import pytest

from mmx.datasets.readers.av_tables import read_auto_avsr, read_av_hubert
from mmx.datasets.readers.grid import read_grid
from mmx.datasets.readers.lrs import read_lrs
from mmx.datasets.recipes import talking
from mmx.errors import InputError
from mmx.train.manifest import read_manifest


def written(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_lrs_is_read_and_its_long_films_are_cut_at_pauses(tmp_path: Path):
    written(tmp_path / "spk/00001.mp4")
    written(tmp_path / "spk/00001.txt", "Text:  HELLO YOU\nConf:  3\n")
    written(tmp_path / "spk/00002.mp4")
    table = "WORD START END ASDSCORE\nONE 0.5 1.0 9\nTWO 1.2 9.0 9\nTHREE 9.5 16.0 9\n"
    written(tmp_path / "spk/00002.txt", f"Text:  ONE TWO THREE\nConf:  3\n\n{table}")
    clips = list(read_lrs(tmp_path))
    assert [(c.id, c.text) for c in clips] == [
        ("spk/00001", "hello you"), ("spk/00002/0", "one two"), ("spk/00002/1", "three"),
    ]  # fmt: skip
    assert (clips[1].start_s, clips[1].duration_s, clips[2].start_s) == (0.5, 8.5, 9.5) and clips[1].speaker == "spk"
    assert [c.id for c in read_lrs(tmp_path, written(tmp_path / "val.txt", "spk/00001\n"))] == ["spk/00001"]
    written(tmp_path / "spk/00001.txt", "HELLO")
    with pytest.raises(InputError, match="expected a first line 'Text:"):
        list(read_lrs(tmp_path))


def test_av_hubert_s_tables_are_read(tmp_path: Path):
    table = written(tmp_path / "test.tsv", "/data\na\tv/a.mp4\ts/a.wav:a\t50\t32000\nb\tv/b.mp4\ts/b.wav\t25\t16000\n")
    written(tmp_path / "test.wrd", "hello you\nbye\n")
    a, b = read_av_hubert(table, "en", "es")
    assert (a.video, a.audio, a.duration_s, a.text) == (Path("/data/v/a.mp4"), Path("/data/s/a.wav"), 2.0, "hello you")
    assert b.audio == Path("/data/s/b.wav") and b.tgt_lang == "es"
    written(tmp_path / "test.wrd", "hello you\n")
    with pytest.raises(InputError, match=r"a text for each of 2 clips .* got 1"):
        list(read_av_hubert(table))


def test_auto_avsr_s_tables_are_read(tmp_path: Path):
    units = written(tmp_path / "units.txt", "<unk> 1\n\u2581HEL 2\nLO 3\n\u2581YOU 4\n")
    table = written(tmp_path / "test.csv", "lrs3,test/a.mp4,75,2 3 4\n")
    (clip,) = read_auto_avsr(table, tmp_path, units)
    assert (clip.text, clip.duration_s, clip.audio.name) == ("hello you", 3.0, "a.wav")
    written(table, "lrs3,test/a.mp4,75,2 9\n")
    with pytest.raises(InputError, match=r"test.csv, line 1: expected dataset"):
        list(read_auto_avsr(table, tmp_path, units))


def test_grid_becomes_a_manifest_that_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    written(tmp_path / "films/s1/bbaf2n.mpg")
    words = "0 23750 sil\n23750 29500 bin\n29500 34000 blue\n34000 35000 sp\n35000 74500 now\n"
    written(tmp_path / "align/s1/bbaf2n.align", words)
    written(tmp_path / "align/s2/lost.align", words)
    (clip,) = read_grid(tmp_path / "films", tmp_path / "align")
    assert (clip.text, clip.duration_s, clip.speaker) == ("bin blue now", 2.98, "s1")
    assert not list(read_grid(tmp_path / "films", tmp_path / "align", ("s2",)))
    out = tmp_path / "grid.tsv"
    assert talking.main(["grid", str(out), str(tmp_path / "films"), str(tmp_path / "align")]) == 0
    (example,) = read_manifest(out)
    assert example.target == "bin blue now" and set(example.media) == {"video", "audio"} and example.duration_s == 2.98
    assert talking.main(["grid", str(out), str(tmp_path / "none"), str(tmp_path / "align")]) != 0
    assert "expected clips" in capsys.readouterr().err and talking.main(["grid"]) == 2
