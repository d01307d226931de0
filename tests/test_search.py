"""Search: words in transcripts, examples token by token, an index that no crash breaks.

Letters: M tokens of the query, N tokens of a document, D width.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from mmx.cli.app import main
from mmx.errors import InputError
from mmx.evaluate import collection, retrieval
from mmx.experiments import many_spans
from mmx.media.frame_folder import read_picture
from mmx.model import Model, tensors
from mmx.models import fingerspelling, gfslt
from mmx.nn import similarity
from mmx.search import index as index_module
from mmx.search import nearest, preview, query, words
from mmx.search.embed import Embedder
from mmx.search.index import Entry, Index, ModelMark, Said, Vectors, writing
from mmx.search.similarity import late_interaction
from mmx.seq import Seq, pad
from mmx.text import byte_tokenizer, character_tokenizer
from mmx.weights.folder import write_model

MARK = ModelMark("tiny", "1" * 64)
WIDTH = 8


def vectors(seed: int) -> Vectors:
    g = np.random.default_rng(seed)
    tokens = g.normal(size=(int(g.integers(1, 9)), WIDTH)).astype(np.float32)
    pooled = tokens.mean(0)
    return Vectors(pooled / np.linalg.norm(pooled), tokens)


def embedded(*seeds: int) -> list[tuple[Entry, Vectors | None]]:
    return [(Entry(source=f"/{s}.pose", start_s=0, end_s=1, modality="signs"), vectors(s)) for s in seeds]


def filled(folder: Path, count: int) -> Index:
    index = Index.create(folder)
    with writing(index):
        index.update(embedded(*range(count)), mark=MARK)
    return Index(folder)


def cico(query_MD: np.ndarray, document_ND: np.ndarray, tau: float) -> float:
    """The equation, a token at a time, in float64."""
    E = [[float(q @ t / np.linalg.norm(q) / np.linalg.norm(t)) for t in document_ND] for q in query_MD]

    def soft(row: list[float]) -> float:
        weights = np.exp(np.array(row) / tau)
        return float((weights / weights.sum() * np.array(row)).sum())

    back = list(zip(*E, strict=True))
    return float(np.mean([soft(r) for r in E]) + np.mean([soft(list(r)) for r in back])) / 2


@pytest.mark.parametrize("cells", [1, 30, 2**16])
def test_similarity_is_that_of_the_paper(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmx.search.similarity.CELLS", cells)
    q, documents = vectors(0).tokens, [vectors(s).tokens for s in range(1, 6)]
    expected = [cico(q.astype(np.float64), d.astype(np.float64), 0.07) for d in documents]
    np.testing.assert_allclose(late_interaction(np.asarray(q), documents), expected, atol=1e-5)
    assert late_interaction(np.eye(3, dtype=np.float32), [np.eye(3)])[0] == pytest.approx(1, abs=1e-4)
    forth, back = similarity.late_interaction(pad([torch.tensor(q)]), pad([torch.tensor(d) for d in documents]))
    # What training compares is what search ranks.
    np.testing.assert_allclose((forth + back)[0] / 2, expected, atol=1e-5)


def test_words_are_found_written_otherwise_and_a_little_wrong() -> None:
    text = "Well, good morning! The weather: GOOD mornings all."
    said = [Said(w, float(i), i + 0.5) for i, w in enumerate(text.split())]
    exact, near = words.find("Good Morning", said)
    assert (exact.first, exact.last, exact.score) == (1, 3, 1.0)
    assert (near.first, near.last) == (5, 7) and 0.75 < near.score < 1
    assert words.find("evening", said) == []
    with pytest.raises(InputError, match="expected words"):
        words.find("?!", said)


def test_an_index_keeps_what_it_was_given(tmp_path: Path) -> None:
    index = filled(tmp_path, 5)
    with writing(index):
        index.update(embedded(7), removed=["/1.pose", "/7.pose"], mark=MARK)
    again = Index(tmp_path)
    assert sorted(e.source for _, _, e in again.live()) == ["/0.pose", "/2.pose", "/3.pose", "/4.pose", "/7.pose"]
    for segment, row, entry in again.live():
        seed = int(Path(entry.source).stem)
        np.testing.assert_array_equal(segment.tokens(row), vectors(seed).tokens.astype(np.float16))
    with pytest.raises(InputError, match="search with that model"):
        again.update(embedded(8), mark=ModelMark("other", "2" * 64))


def test_the_nearest_are_those_of_comparing_all(tmp_path: Path) -> None:
    index = filled(tmp_path, 300)
    for seed in range(1000, 1010):
        example = vectors(seed)
        brute = query.by_example(index, example, 5)
        assert query.by_example(index, example, 5, candidate_count=300, few=0) == brute
        some = query.by_example(index, example, 5, candidate_count=150, few=0)
        assert len({h.source for h in some} & {h.source for h in brute}) >= 3
    for i in range(300):
        assert query.by_example(index, vectors(i), 1, candidate_count=10, few=0)[0].source == f"/{i}.pose"
    with writing(index):  # the graph on disk is older than the index now
        index.update(embedded(1000), removed=["/42.pose"], mark=MARK)
    sources = [h.source for h in query.by_example(index, vectors(42), 10, candidate_count=10, few=0)]
    assert "/42.pose" not in sources
    assert query.by_example(index, vectors(1000), 1, candidate_count=10, few=0)[0].source == "/1000.pose"


def test_the_experiment_with_many_spans_asks_as_a_search_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"spans": 300, "tokens": 8, "queries": 6, "compared": 6}
    ten, first, same = many_spans.run(tmp_path / "once", sentences=300, **size)
    assert 0.95 < ten <= 1.0 and first == same == 1.0
    assert f"found of the exact ten best {100 * ten:.1f} %" in capsys.readouterr().out
    monkeypatch.setattr(query.by_example, "__defaults__", (12, nearest.FEW))  # fewer candidates than are alike
    ten, first, same = many_spans.run(tmp_path / "once", sentences=300, **size)
    assert 0.2 < ten < 0.9 and first == same == 1.0
    assert many_spans.run(tmp_path / "often", sentences=30, **size)[0] > 0.95  # ten recordings of each


def test_without_the_extra_the_pooled_vectors_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, example = filled(tmp_path, 60), vectors(7)
    monkeypatch.setattr(nearest.importlib.util, "find_spec", lambda name: None)
    rows = nearest.candidates(index, example.pooled, 10, few=0)
    best = np.argsort(-(index.segments[0].pooled @ example.pooled))[:10]
    assert {row for _, row in rows} == set(best.tolist())


def intact(folder: Path, batch: int) -> int:
    """Check each entry of an index, whole batches only; how many there are."""
    index = Index(folder)
    for segment, row, entry in index.live():
        expected = vectors(int(Path(entry.source).stem)).tokens.astype(np.float16)
        np.testing.assert_array_equal(segment.tokens(row), expected)
    assert len(index) % batch == 0
    return len(index)


class Killed(BaseException):
    """In place of a signal."""


def test_stopped_at_any_step_of_an_update_it_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 4)
    step = done = 0
    while not done:
        left, index = step, Index(tmp_path)

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def run(*args: Any, **options: Any) -> Any:
                nonlocal left
                if not left:
                    raise Killed
                left -= 1
                return call(*args, **options)

            return run

        with monkeypatch.context() as patched, contextlib.suppress(Killed), writing(index):
            patched.setattr(os, "fsync", counted(os.fsync))
            patched.setattr(Path, "replace", counted(Path.replace))
            patched.setattr(index_module.np, "save", counted(np.save))
            index.update(embedded(4, 5), removed=["/0.pose", "/1.pose"], mark=MARK)
            done = 1
        sources = {e.source for _, _, e in Index(tmp_path).live()}
        assert sources in ({f"/{i}.pose" for i in range(4)}, {f"/{i}.pose" for i in range(2, 6)})
        assert intact(tmp_path, 2) == 4
        step += 1
        if not done and "/5.pose" in sources:  # renamed, then stopped: back to where it began
            with writing(Index(tmp_path)) as index:
                index.update(embedded(0, 1), removed=["/4.pose", "/5.pose"], mark=MARK)
    assert step > 8
    with writing(Index(tmp_path)) as index:
        assert len(list((tmp_path / "segments").iterdir())) == len(index.segments)


WRITER = """
import sys
import numpy as np
from mmx.search.index import Entry, Index, ModelMark, Vectors, writing

def item(seed):  # without torch, which takes longer to import than all the rest
    g = np.random.default_rng(seed)
    tokens = g.normal(size=(int(g.integers(1, 9)), 8)).astype(np.float32)
    return Entry(source=f"/{seed}.pose", start_s=0, end_s=1, modality="signs"), Vectors(tokens.mean(0), tokens)

with writing(Index.create(sys.argv[1])) as index:
    while True:
        n = len(index)
        index.update([item(n), item(n + 1), item(n + 2)], mark=ModelMark("tiny", "1" * 64))
        print(n + 3, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_killed_while_it_adds_it_is_never_broken(tmp_path: Path) -> None:
    kills, told = int(os.environ.get("MMX_KILLS", "2")), 0
    g = np.random.default_rng(0)
    for _ in range(kills):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(int(g.integers(1, 9))):
                told = int(writer.stdout.readline())
            writer.kill()
        assert intact(tmp_path, 3) >= told
    assert told >= 3 * kills


# ---------------------------------------------------------------------------------------------- the command line


def transcript(folder: Path, name: str, text: str) -> Path:
    """A recording, of which nothing is read, and its transcript."""
    said = [{"word": f" {w}", "start": i * 0.5, "end": i * 0.5 + 0.4} for i, w in enumerate(text.split())]
    segment = {"start": 0.0, "end": len(said) * 0.5, "text": text, "words": said}
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.wav").write_bytes(b"RIFF")
    (folder / f"{name}.json").write_text(json.dumps({"text": text, "language": "en", "segments": [segment]}), "utf-8")
    return folder / f"{name}.wav"


def test_where_they_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talks, where, page = tmp_path / "talks", ["--index", str(tmp_path / "index")], tmp_path / "hits.html"
    first = transcript(talks, "a", "so good night to all")
    second = transcript(talks, "b", "well good morning all <of> you")
    assert main(["index", "build", str(talks), *where]) == 0
    assert main(["index", "add", str(talks), *where]) == 0
    assert capsys.readouterr().out.splitlines() == ["added 2, unchanged 0, failed 0", "added 0, unchanged 2, failed 0"]
    assert main(["search", "Good morning", "--json", "--preview", str(page), *where]) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(h["source"], h["start_s"], h["end_s"]) for h in hits] == [(str(second), 0.5, 1.4)]
    assert f"{second.as_uri()}#t=0.50,1.40" in page.read_text("utf-8") and "&lt;of&gt;" in page.read_text("utf-8")
    transcript(talks, "a", "now good morning to all of you")  # changed, so it is read again
    assert main(["index", "build", str(talks), *where]) == 0
    assert main(["search", "good morning", *where]) == 0
    assert "added 1, unchanged 1" in (out := capsys.readouterr().out) and str(first) in out
    assert main(["index", "remove", str(talks), *where]) == 0
    assert main(["search", "good morning", *where]) == 3
    assert main(["search", "x", "--index", str(tmp_path / "none")]) == 2
    assert "mmx index build" in capsys.readouterr().err


LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCAB = character_tokenizer.character_tokenizer(LETTERS, ["ase_Latn"]).n_vocab


def speller(seed: int) -> Model:
    torch.manual_seed(seed)
    model = fingerspelling.build(fingerspelling.Config(vocab=VOCAB, width=16, dilations=(1, 2))).eval()
    model.tokenizer = character_tokenizer.character_tokenizer(LETTERS, ["ase_Latn"])
    return model


def signer() -> Model:
    """With a text encoder."""
    torch.manual_seed(0)
    vocab = byte_tokenizer.LANGUAGES + 2
    sizes = {"ctx": 64, "width": 16, "heads": 2, "layers": (1, 1, 1), "hidden": 32}
    model = gfslt.build(gfslt.Config(vocab=vocab, reads="pose", **sizes)).eval()  # type: ignore[arg-type]
    model.tokenizer = byte_tokenizer.byte_tokenizer(["ase_Latn", "eng_Latn"])
    return model


def test_recordings_are_found_by_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, where = tmp_path / "poses", ["--index", str(tmp_path / "index")]
    folder.mkdir()
    for i in range(4):
        held = np.random.default_rng(i).normal(size=(1, 42, 3)) * 40 + 200
        np.save(folder / f"{i}.npy", np.repeat(held, 20, 0) + np.random.default_rng(9).normal(size=(20, 42, 3)))
    config = {"vocab": VOCAB, "width": 16, "dilations": [1, 2]}
    card = {"name": "x", "summary": "a test", "license": "Apache-2.0", "commercial": True}
    character_tokenizer.make([LETTERS], ["ase"], tmp_path)
    for name, seed in (("one", 0), ("two", 1)):
        held = tensors(speller(seed)).items()
        write_model(tmp_path / name, held, family="fingerspelling", config=config, card=card, tokenizer=tmp_path)
    model = ["--model", str(tmp_path / "one")]
    assert main(["index", "build", str(folder), *model, *where]) == 0
    assert main(["search", str(folder / "2.npy"), *model, "--json", "--preview", str(tmp_path / "p.html"), *where]) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()[1:]]
    assert hits[0]["source"] == str(folder / "2.npy") and len(hits) == 4
    assert "<svg" in (tmp_path / "p.html").read_text("utf-8")
    assert main(["search", str(folder / "2.npy"), *model, "--preview", str(tmp_path / "p.png"), *where]) == 0
    sheet = read_picture(tmp_path / "p.png").to_ndarray(format="rgb24")
    assert sheet.shape == (4 * preview.SIDE, preview.FRAMES * preview.SIDE, 3)
    assert all((tile < 100).any() for row in np.split(sheet, 4) for tile in np.split(row, preview.FRAMES, axis=1))
    assert main(["search", str(folder / "2.npy"), *model, "--preview", str(tmp_path / "p.jpg"), *where]) == 2
    assert main(["search", str(folder / "2.npy"), "--model", str(tmp_path / "two"), *where]) == 2
    assert "search with that model" in capsys.readouterr().err
    # The index knows what made it, and serves recordings that are spoken beside those that are signed.
    assert main(["search", str(folder / "2.npy"), "--json", *where]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == hits
    talk = transcript(tmp_path / "talks", "talk", "they say abc here")
    assert main(["index", "add", str(talk), *where]) == 0
    assert main(["search", "abc", *where]) == 0
    assert str(talk) in (out := capsys.readouterr().out) and ".npy" not in out
    assert main(["search", "ba", "--json", *where]) == 0
    assert [json.loads(line)["by"] for line in capsys.readouterr().out.splitlines()] == ["ctc"] * 4
    assert main(["search", "abc", *model, "--json", *where]) == 0
    assert all(json.loads(line)["by"] == "ctc" for line in capsys.readouterr().out.splitlines())
    shutil.rmtree(tmp_path / "one")
    (tmp_path / "two").rename(tmp_path / "one")  # trained anew since
    assert main(["search", "ba", *where]) == 2
    assert "search with that model" in capsys.readouterr().err
    alone = ["--index", str(tmp_path / "alone")]
    assert main(["index", "build", str(tmp_path / "talks"), *alone]) == 0
    assert main(["search", str(folder / "2.npy"), *alone]) == 2
    assert "build it with --model" in capsys.readouterr().err


def test_a_sheet_shows_the_place_in_a_film(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "film.mp4"), "w") as out:
        stream: Any = out.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for t in range(75):  # dark, then bright, then dark
            picture = np.full((64, 64, 3), 220 if 25 <= t < 50 else 20, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode())
    hits = [query.Hit(str(tmp_path / name), 1.0, 2.0, 1.0, "words") for name in ("film.mp4", "gone.mp4")]
    sheet = read_picture(preview.write(tmp_path / "p.png", "x", hits)).to_ndarray(format="rgb24")
    film, gone = np.split(sheet, 2)
    assert all(tile.mean() > 180 for tile in np.split(film, preview.FRAMES, axis=1)) and gone.min() > 250


def test_a_text_is_looked_for_by_its_likelihood() -> None:
    embedder = Embedder(speller(0))
    memories = [np.random.default_rng(i).normal(size=(n, 16)).astype(np.float32) for i, n in enumerate((7, 1, 12))]
    got = embedder.likelihoods("ab", memories)
    head = embedder.model.heads["ctc"]
    for score, memory in zip(got, memories, strict=True):
        with torch.inference_mode():
            logp = head(torch.tensor(memory)[None])[0].log_softmax(-1).double().numpy()
        a, b = embedder.model.require_tokenizer().encode("ab")
        blank = logp.shape[1] - 1
        path = [blank, a, blank, b, blank]
        alpha = np.full(5, -np.inf)
        alpha[:2] = logp[0, [blank, a]]
        for frame in logp[1:]:
            before = alpha.copy()
            for s in range(5):
                options = [before[s]] + ([before[s - 1]] if s else []) + ([before[1]] if s == 3 else [])
                alpha[s] = np.logaddexp.reduce(options) + frame[path[s]]
        expected = (np.logaddexp(alpha[3], alpha[4]) - logp.max(1).sum()) / 2
        assert score == pytest.approx(expected, abs=1e-3)


def test_ranks_share_ties_and_take_the_best_right_answer() -> None:
    scores = np.array([[3.0, 2, 1, 0], [1, 1, 1, 1], [5, 4, 3, 2], [1, 2, 3, 4]])
    right = np.array([[0, 1, 1, 0], [0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]], bool)
    counted = np.ones_like(right)
    counted[2, 0] = False  # the query itself
    assert retrieval.ranks(scores, right, counted).tolist() == [2, 2.5, 3]
    got = retrieval.measure(scores, right, counted)
    assert (got.r1, got.r5, got.median_rank, got.queries) == (0, 1, 2.5, 3)


def test_a_collection_is_searched_by_text_and_by_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each text has a hand of its own, which two languages spell with another noise."""
    rows = ["pose\ttext\tsrc_lang"]
    for i, (text, language) in enumerate([(t, x) for t in "abc" for x in ("ase", "gsg")]):
        held = np.random.default_rng(ord(text)).normal(size=(1, 42, 3)) * 40 + 200
        np.save(tmp_path / f"{i}.npy", np.repeat(held, 20, 0) + np.random.default_rng(i).normal(size=(20, 42, 3)))
        rows.append(f"{i}.npy\t{text}\t{language}")
    (tmp_path / "test.tsv").write_text("\n".join(rows) + "\n")
    found = collection.evaluate_retrieval(tmp_path / "test.tsv", speller(0))
    by = {(r.asks, r.by): r for r in found}
    assert by[collection.EXAMPLE, collection.TOKENS].found.r1 == 1.0
    assert by[collection.EXAMPLE, collection.POOLED].found.r1 == 1.0
    assert by[collection.TEXT, collection.LIKELIHOOD].found.queries == 3
    assert by[collection.ITS_TEXT, collection.LIKELIHOOD].documents == 3
    assert by[collection.EXAMPLE, collection.RANDOM].found.queries == 6
    (tmp_path / "test.tsv").write_text("pose\ttext\tsrc_lang\n0.npy\ta\tase\n1.npy\tb\tase\n")
    silent = speller(0)
    del silent.heads["ctc"]
    with pytest.raises(InputError, match="texts that recur"):
        collection.evaluate_retrieval(tmp_path / "test.tsv", silent)
    assert main(["evaluate", str(tmp_path / "test.tsv"), "--retrieval"]) == 2
    assert "add --model" in capsys.readouterr().err


def test_texts_share_the_space_of_recordings_where_there_is_a_text_encoder(tmp_path: Path) -> None:
    embedder = Embedder(signer())
    signs = torch.randn(1, 30, 75, 3, generator=torch.Generator().manual_seed(0))
    (_, vectors), text = next(iter(embedder(signs[0].numpy()))), embedder.text("so")
    with torch.inference_mode():
        seq = Seq(signs, torch.tensor([30]), 25.0)
        want = embedder.model.embed_each({"signs": seq}).x[0].numpy()
        pooled = embedder.model.embed({"signs": seq})[0].numpy()
    np.testing.assert_allclose(embedder.shared(vectors.tokens), want, atol=1e-5)
    np.testing.assert_allclose(vectors.pooled, pooled, atol=1e-5)
    assert len(text.tokens) == 3 and np.linalg.norm(text.pooled) == pytest.approx(1, abs=1e-5)
    kinds = {r.by for r in collection.rankings(embedder, [vectors, vectors], ["so", "no"], ["ase", "ase"])}
    assert kinds == {collection.TOKENS, collection.POOLED, collection.RANDOM}
    with writing(Index.create(tmp_path / "index")) as index:
        entries = [Entry(source=x, start_s=0, end_s=1, modality="signs") for x in "ab"]
        index.update([(entry, vectors) for entry in entries], mark=embedder.mark)
    hits = query.by_text(Index(tmp_path / "index"), "so", embedder, 2)
    exact = late_interaction(np.asarray(text.tokens), [want])[0]
    assert [h.by for h in hits] == ["text", "text"] and hits[0].score == pytest.approx(exact, abs=1e-3)
