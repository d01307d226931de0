"""Corpora of signing in the forms that they are published in become manifests, whose mistakes are all named."""

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmx.cli import app as cli
from mmx.datasets.readers.csl_daily import read_csl_daily
from mmx.datasets.readers.plain_pickle import read_plain_pickle
from mmx.datasets.recipes import signing
from mmx.errors import InputError, MediaError
from mmx.media.video import open_video
from mmx.train.data_check import check_data
from mmx.train.manifest import read_manifest, require_recordings

av = pytest.importorskip("av")


def frames(folder: Path, count: int, size: tuple[int, int] = (24, 16), name: str = "images%04d.png") -> Path:
    """Pictures whose grey is ten times their number."""
    folder.mkdir(parents=True)
    for i in range(count):
        with av.open(str(folder / (name % (i + 1))), "w", format="image2") as out:
            stream = out.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = size[0], size[1], "rgb24"
            picture = np.full((size[1], size[0], 3), 10 * i + 10, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            out.mux(stream.encode())
    return folder


def packed(path: Path, content: Any) -> Path:
    path.write_bytes(gzip.compress(pickle.dumps(content)))
    return path


def prepared(*arguments: object) -> list[Any]:
    """The rows of the manifest that the recipe writes."""
    assert signing.main([str(a) for a in arguments]) == 0
    return read_manifest(str(arguments[1]))


# -------------------- the forms


def test_phoenix_in_its_three_forms_is_one_corpus(tmp_path: Path) -> None:
    frames(tmp_path / "f" / "test" / "25Oct_1", 12)
    table = tmp_path / "PHOENIX-2014-T.test.corpus.csv"
    head, row = "name|video|start|end|speaker|orth|translation", 'REGEN MORGEN|am "tag" regen'
    table.write_text(f"{head}\n25Oct_1|25Oct_1/1/*.png|-1|-1|Signer08|{row}\n", "utf-8")
    entry = {"name": "test/25Oct_1", "gloss": "REGEN MORGEN", "text": 'am "tag" regen', "length": 12}
    labels = packed(tmp_path / "labels.test", {"test/25Oct_1": entry | {"imgs_path": ["test/25Oct_1/images0001.png"]}})
    sign = torch.randn(12, 6)
    neccam = packed(tmp_path / "pami0.test", [entry | {"sign": sign, "signer": "Signer08", "text": "regen ."}])

    (official,) = prepared("phoenix", tmp_path / "a.tsv", table, tmp_path / "f" / "test")
    (gfslt,) = prepared("gfslt", tmp_path / "b.tsv", labels, tmp_path / "f")
    (features,) = prepared("neccam", tmp_path / "c.tsv", neccam)
    assert official.target == gfslt.target == 'am "tag" regen' and features.target == "regen ."
    assert official.media == gfslt.media == {"video": str(tmp_path / "f" / "test" / "25Oct_1")}
    assert (official.src_lang, official.tgt_lang, official.task) == ("gsg", "de", "translate")
    assert np.array_equal(np.load(features.media["features"]), sign.numpy())
    require_recordings([official, features], "a.tsv")


def test_csl_daily_how2sign_and_tables_of_others(tmp_path: Path) -> None:
    info = [{"name": f"S00000{i}_P0001_T00", "label_char": list("他好"), "label_gloss": ["他", "好"]} for i in (1, 2)]
    sentences = tmp_path / "csl2020ct_v2.pkl"
    sentences.write_bytes(pickle.dumps({"info": info, "gloss_map": ["他"]}))
    splits = tmp_path / "split_1.txt"
    splits.write_text("name|split\nS000001_P0001_T00|train\nS000002_P0001_T00|test\n", "utf-8")
    (row,) = prepared("csl-daily", tmp_path / "a.tsv", sentences, splits, tmp_path / "f", "test")
    assert (row.id, row.target, row.src_lang, row.tgt_lang) == ("S000002_P0001_T00", "他好", "csl", "zh")
    assert row.media["video"] == str(tmp_path / "f" / "S000002_P0001_T00")
    with pytest.raises(InputError, match=r"clips of 'dev'.*'test', 'train'"):
        list(read_csl_daily(sentences, splits, tmp_path, "dev"))

    table = tmp_path / "how2sign_realigned_val.csv"
    head = "VIDEO_ID\tVIDEO_NAME\tSENTENCE_ID\tSENTENCE_NAME\tSTART_REALIGNED\tEND_REALIGNED\tSENTENCE"
    table.write_text(f'{head}\nv\tv-5\tv_1\tv_1-5\t1.5\t4.25\tHe said "hi.\n', "utf-8")
    (row,) = prepared("how2sign", tmp_path / "b.tsv", table, tmp_path / "raw")
    assert (row.target, row.start_s, row.duration_s) == ('He said "hi.', 1.5, 2.75)
    assert row.media["video"].endswith("raw/v-5.mp4")
    (row,) = prepared("how2sign-clips", tmp_path / "c.tsv", table, tmp_path / "clips")
    assert row.media["video"].endswith("clips/v_1-5.mp4") and row.duration_s is None

    table = tmp_path / "test.tsv"
    table.write_text("signal\tsignal_start\tsignal_end\tencoder_prompt\toutput\na.pose\t500\t1750\t\thello\n", "utf-8")
    (row,) = prepared("multimodalhugs", tmp_path / "d.tsv", table, "ase", "en")
    assert (row.media, row.start_s, row.duration_s) == ({"pose": str(tmp_path / "a.pose")}, 0.5, 1.25)
    (tmp_path / "own").mkdir()
    for name, text in (("a.pose", ""), ("a.txt", "one\n"), ("b.mp4", ""), ("b.txt", "two")):
        (tmp_path / "own" / name).write_text(text)
    rows = prepared("folder", tmp_path / "e.tsv", tmp_path / "own", "ase", "en")
    assert [(list(r.media), r.target) for r in rows] == [(["pose"], "one"), (["video"], "two")]


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "labels.test"
    for content in (pickle.dumps({"a": Evil()}), gzip.compress(pickle.dumps([Evil()]))):
        path.write_bytes(content)
        with pytest.raises(InputError, match="nothing was executed"):
            read_plain_pickle(path)
    assert not (tmp_path / "ran").exists()
    for content in (b"\x1f\x8bnot gzip", pickle.dumps({"a": torch.ones(3)})[:-40], b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged|expected a pickle"):
            read_plain_pickle(path)
    stale = torch.arange(12.0).reshape(3, 4)
    packed(path, {"t": stale.T[1:], "n": stale[:, 2]})
    found = read_plain_pickle(path)
    assert np.array_equal(found["t"], stale.T[1:].numpy()) and np.array_equal(found["n"], stale[:, 2].numpy())


def test_a_tensor_outside_of_its_numbers_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps(torch.arange(5.0), protocol=2)
    assert data.count(b"K\x05\x85") == 1  # the size (5,)
    path = tmp_path / "p.pkl"
    path.write_bytes(data.replace(b"K\x05\x85", b"K\x63\x85"))
    with pytest.raises(InputError, match="damaged"):
        read_plain_pickle(path)


# -------------------- folders of frames


def test_a_folder_of_frames_is_a_film(tmp_path: Path) -> None:
    folder = frames(tmp_path / "clip", 12, name="images%d.png")  # 10 comes after 9
    with open_video(str(folder), rate=25.0, shape=(16, 24, 3)) as reader:
        x = np.concatenate(list(reader))
    assert reader.duration_s == 12 / 25 and x.shape == (12, 16, 24, 3)
    assert x[:, 8, 12, 0].tolist() == [10 * i + 10 for i in range(12)]
    with open_video(str(folder), rate=12.5, shape=(16, 24)) as reader:
        assert np.concatenate(list(reader))[:, 8, 12].tolist() == pytest.approx([20 * i + 10 for i in range(6)], abs=2)
    (folder / "images4.png").write_bytes(b"nothing")
    with pytest.raises(MediaError, match=r"images4\.png: expected a picture"), open_video(str(folder)) as reader:
        list(reader)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="folder without any"):
        open_video(str(tmp_path / "empty"))


# -------------------- the data doctor


def test_what_is_wrong_with_a_corpus_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, texts in (("train", ["wind", "Regen, morgen", "sonne"]), ("test", ["regen morgen", "schnee"])):
        rows = ["name|video|start|end|speaker|orth|translation"]
        for i, text in enumerate(texts):
            rows.append(f"{split}{i}|x|-1|-1|S|G|{text}")
            if (split, i) != ("train", 2):
                frames(tmp_path / split / f"{split}{i}", 25)
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n", "utf-8")
        prepared("phoenix", tmp_path / f"{split}.tsv", tmp_path / f"{split}.csv", tmp_path / split)
    test = str(tmp_path / "test.tsv")
    assert cli.main(["data", "check", str(tmp_path / "train.tsv"), "--held-out", test, "--threads", "1"]) == 1
    out = capsys.readouterr().out
    assert "3 examples, 2 problems" in out
    assert "line 3: expected a text that is not held out, got 'Regen, morgen'" in out and "test.tsv, line 2" in out
    assert "line 4:" in out and "no such file" in out

    head = "video\ttarget\tsrc_lang\ttgt_lang\tstart_s\tduration_s\n"
    film = tmp_path / "test" / "test0"
    times = [(0.2, 0.4), (0.6, 3.0), (0.5, -0.2)]
    rows = [f"{film}\ttext {i}\tase\ten\t{start}\t{long}\n" for i, (start, long) in enumerate(times)]
    (tmp_path / "h.tsv").write_text(head + "".join(rows), "utf-8")
    found = check_data(tmp_path / "h.tsv", threads=1, held_out=[test]).problems
    assert any(p.startswith("line 2:") and "not held out" in p for p in found)  # the same film
    assert any(p.startswith("line 3:") and "expected 3 s from 0.6 s on" in p for p in found)
    assert any(p.startswith("line 4:") and "duration_s of 0.05" in p for p in found)
