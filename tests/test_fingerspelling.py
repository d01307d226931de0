"""Fingerspelling: its parts keep the contract, its head writes text, and words are joined from recorded letters.

Letters: B rows, T frames, H hands, J points, C coordinates, M memory frames.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from contract import verify_contract

import mmx
from mmx.datasets.hands import Hands, mirrored, varied
from mmx.datasets.recipes import fingerspelling as recipe
from mmx.datasets.recipes import fingerspelling_joiner as joiner
from mmx.datasets.recipes import fingerspelling_last_step as last_step
from mmx.errors import InputError
from mmx.evaluate.streaming import evaluate_streaming, read_recordings
from mmx.experiments import fingerspelling_changes as changes
from mmx.experiments import fingerspelling_controls as controls
from mmx.model import Model, tensors
from mmx.models import fingerspelling
from mmx.nn.ctc import NAME, CTCHead
from mmx.seq import Seq
from mmx.streaming import encoders
from mmx.streaming.stream import Stream
from mmx.tasks.ctc_recognizer import best_paths
from mmx.tasks.events import Event
from mmx.text import character_tokenizer
from mmx.train.batch import IGNORED, Batch
from mmx.train.manifest import read_manifest
from mmx.train.objectives.ctc import CTCLoss, ctc_loss
from mmx.weights.folder import write_model

POINTS = recipe.POINTS


def poses(lengths: Sequence[int], seed: int) -> Seq:
    """Points of two hands; in some frames one of them was not found."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), 2, POINTS, 3, generator=g) * 40 + 200
    x[torch.rand(*x.shape[:3], generator=g) < 0.3] = 0
    return Seq(x.flatten(2, 3), torch.tensor(lengths), 25.0)


def features(lengths: Sequence[int], seed: int) -> Seq:
    x = torch.randn(len(lengths), max(lengths), fingerspelling.HandFront.width)
    return Seq(x, torch.tensor(lengths), 25.0)


def tiny(languages: int = 2, head_layers: int = 0) -> Model:
    torch.manual_seed(0)
    tok = character_tokenizer.character_tokenizer(" abcdefghijklmnopqrstuvwxyzв", ["ase_Latn", "ukl_Cyrl"][:languages])
    model = fingerspelling.build(
        fingerspelling.Config(vocab=tok.n_vocab, width=8, dilations=(1, 2), head_layers=head_layers)
    ).eval()
    model.tokenizer = tok
    return model


def test_its_blocks_keep_the_contract() -> None:
    verify_contract(fingerspelling.HandFront(), poses)
    verify_contract(tiny().encoders["signs"], features)


def test_who_spells_with_the_left_hand_is_seen_in_a_mirror() -> None:
    front, seq = fingerspelling.HandFront(), poses([12], 3)
    right = seq.x.unflatten(2, (2, POINTS)).clone()
    right[:, :, 0] = 0  # the left hand is not there
    left = right.flip(2) * torch.tensor([-1.0, 1.0, 1.0])
    same = [front(seq._replace(x=x.flatten(2, 3))).x for x in (right, left)]
    torch.testing.assert_close(*same)


def test_features_know_no_place_and_no_size() -> None:
    front, seq = fingerspelling.HandFront(), poses([9], 0)
    here = (seq.x.unflatten(2, (2, POINTS)) != 0).any(-1, keepdim=True).flatten(2, 3)
    moved = seq._replace(x=torch.where(here, seq.x * 0.5 + torch.tensor([30.0, -20.0, 5.0]), 0.0))
    torch.testing.assert_close(front(moved).x, front(seq).x, rtol=1e-4, atol=1e-4)
    assert not front(seq._replace(x=torch.zeros_like(seq.x))).x.any()


def test_the_best_path_has_no_repeats_and_no_blanks() -> None:
    blank, rows = 3, [[3, 0, 0, 3, 0, 1, 1], [2, 2, 3, 3, 3, 3, 3]]
    scores = torch.full((2, 7, 4), -9.0)
    for b, row in enumerate(rows):
        scores[b, torch.arange(7), row] = 0.0
    first, second = best_paths(scores, torch.tensor([7, 2]), blank)
    assert first.tokens == [0, 0, 1] and first.frames == [1, 4, 5]
    assert second.tokens == [2] and second.log_prob == 0.0


def test_the_head_is_told_the_language_and_may_forget_it_in_training() -> None:
    head, x = CTCHead(8, 20, first_language=17, languages=3, forget=1.0), torch.randn(2, 5, 8)
    told = torch.tensor([17, 19])
    plain = head.eval()(x)
    assert plain.shape == (2, 5, 21) and head.blank == 20
    assert not torch.equal(head(x, told), plain)
    assert torch.equal(head.train()(x, told), plain)


def test_the_loss_takes_each_rows_language_from_its_prompt() -> None:
    model = tiny()
    tok = model.require_tokenizer()
    rows = [(tok.prompt(lang), [*tok.encode(text), tok.eot]) for lang, text in (("ase_Latn", "ab"), ("ukl_Cyrl", "в"))]
    n = max(len(p) + len(t) for p, t in rows)
    tokens = torch.tensor([(p + t + [0] * n)[:n] for p, t in rows])
    wanted = [[IGNORED] * len(p) + t + [IGNORED] * n for p, t in rows]
    targets = torch.tensor([row[:n] for row in wanted])
    batch = Batch({"signs": poses([12, 9], 0)}, tokens[:, :-1], targets[:, 1:], ("a", "b"))
    with torch.no_grad():
        got = CTCLoss()(model, batch).total["ctc"]
        told = torch.tensor([p[-1] for p, _ in rows])
        by_hand = ctc_loss(
            lambda x: model.heads[NAME](x, told), model.memory(batch.inputs), [torch.tensor(t[:-1]) for _, t in rows]
        )
    torch.testing.assert_close(got, by_hand)


class Spelling(torch.nn.Module):
    """A head that writes a word, whatever it sees: a frame for each letter and a blank after it."""

    def __init__(self, word: str):
        super().__init__()
        tok = tiny().require_tokenizer()
        self.ids, self.scores = tok.encode(word), tok.n_vocab + 1

    def forward(self, x_BMD: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(*x_BMD.shape[:2], self.scores)
        for m in range(x_BMD.shape[1]):
            out[:, m, self.ids[m // 2] if m % 2 == 0 and m // 2 < len(self.ids) else -1] = 9.0
        return out


def test_a_file_of_poses_becomes_text_with_times(tmp_path: Path) -> None:
    model = tiny()
    model.heads[NAME] = Spelling("book")
    x = poses([20], 1).x[0].numpy()
    np.savez(tmp_path / "word.npz", pose=x, rate=25.0)
    made = mmx.api.transcribe(model, str(tmp_path / "word.npz"), language="asl", word_timestamps=True)
    assert made.text == "book" and made.language == "ase"
    (word,) = made.words
    assert (word.start_s, word.end_s) == (0.0, 7 / 25)
    model.heads[NAME] = Spelling("")
    silent = mmx.api.transcribe(model, str(tmp_path / "word.npz"), language="ase")
    assert silent.text == "" and "no text" in silent.notes[0].reason
    with pytest.raises(InputError, match="--language"):
        mmx.api.transcribe(model, str(tmp_path / "word.npz"))
    with pytest.raises(InputError, match="this model has, got British Sign Language"):
        mmx.api.transcribe(model, str(tmp_path / "word.npz"), language="bfi")


def test_a_written_folder_writes_the_same(tmp_path: Path) -> None:
    model = tiny()
    folder = tmp_path / "model"
    made = character_tokenizer.make(["abc", "вб"], ["ase", "ukl"], tmp_path)
    model = fingerspelling.build(fingerspelling.Config(vocab=made.n_vocab, width=8, dilations=(1, 2))).eval()
    config = {"vocab": made.n_vocab, "width": 8, "dilations": [1, 2]}
    card = {"name": "x", "summary": "a test", "license": "Apache-2.0", "commercial": True}
    write_model(folder, tensors(model).items(), family="fingerspelling", config=config, card=card, tokenizer=tmp_path)
    again, seq = mmx.load(folder, dtype="float32"), poses([11, 4], 2)
    with torch.no_grad():
        torch.testing.assert_close(again.memory({"signs": seq}).x, model.memory({"signs": seq}).x)
        for dtype in ("bfloat16", "int8"):
            near = mmx.load(folder, dtype=dtype).memory({"signs": seq}).x
            torch.testing.assert_close(near.float(), model.memory({"signs": seq}).x, atol=0.1, rtol=0.1)


# -------------------- the recipe


def letter(text: str, n: int = 20, moves: bool = False) -> recipe.Letter:
    """A right hand that stands still, or goes to the side."""
    rng = np.random.default_rng(sum(map(ord, text)))
    points = np.zeros((n, 2, POINTS, 3), np.float32)
    points[:, 1] = rng.normal(0, 0.2, (POINTS, 3))
    points[:, 1, :, 0] += np.linspace(0, 1, n)[:, None] if moves else 0
    present = np.zeros((n, 2), bool)
    present[:, 1] = True
    return recipe.Letter(text, Hands(points, present), 2, n - 2, moves)


ALPHABET = {c: letter(c) for c in ("a", "b", "c", "h", "s", "sch", "ch")}


def test_words_are_cut_into_the_longest_letters() -> None:
    assert recipe.spelled("schah", ALPHABET) == ["sch", "a", "h"]
    assert recipe.spelled("bach", ALPHABET) == ["b", "a", "ch"]
    assert recipe.spelled("bäh", ALPHABET) == ["b", "a", "h"]  # the accent is not in the alphabet
    assert recipe.spelled("box", ALPHABET) is None


def test_accents_do_not_let_a_word_into_both_sets() -> None:
    words = ("café", "déjà", "señor", "über", "niño")
    plain = ("cafe", "deja", "senor", "uber", "nino")
    assert [recipe.split_of(w) for w in words] == [recipe.split_of(w) for w in plain]
    splits = [recipe.split_of(f"{a}{b}{c}") for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyzabcd"]
    assert 70 < splits.count("test") < 130 and 70 < splits.count("valid") < 130


def test_letters_are_joined_without_jumps_and_at_the_pace_asked_for() -> None:
    rng = np.random.default_rng(0)
    word = [ALPHABET[c] for c in ("a", "b", "c")]
    slow, fast = (np.mean([len(recipe.join(word, rng, pace).hands) for _ in range(30)]) for pace in (0.7, 2.2))
    assert fast < 0.6 * slow
    made = recipe.join(word, rng, 1.0).hands
    assert made.present[:, 1].all() and not made.present[:, 0].any()
    steps = np.linalg.norm(np.diff(made.points[:, 1], axis=0), axis=-1).max(1)
    apart = np.linalg.norm(word[0].hands.points[0, 1] - word[1].hands.points[0, 1], axis=-1).max()
    assert steps.max() < 0.9 * apart


def test_a_letter_twice_is_seen_twice() -> None:
    made = recipe.join([ALPHABET["a"]] * 2, np.random.default_rng(1), 1.0).hands
    wrist = made.points[:, 1, recipe.WRIST, :2]
    assert np.linalg.norm(wrist - wrist[0], axis=-1).max() > 0.04


def test_a_word_of_the_other_hand_is_its_mirror_image() -> None:
    made = recipe.join([ALPHABET["a"]], np.random.default_rng(0), 1.0).hands
    other = Hands(*mirrored(made))
    assert np.array_equal(other.present, made.present[:, ::-1])
    assert np.array_equal(other.points[:, 0, :, 0], -made.points[:, 1, :, 0])
    assert np.array_equal(Hands(*mirrored(other)).points, made.points)


def test_what_is_varied_keeps_its_time_and_loses_some_frames() -> None:
    made = recipe.join([ALPHABET[c] for c in ("a", "b", "c", "s")], np.random.default_rng(0), 0.8).hands
    many = [varied(made, np.random.default_rng(i), 0.5) for i in range(20)]
    assert {len(v) for v in many} == {len(made)}
    lost = np.mean([1 - v.present.sum() / made.present.sum() for v in many])
    assert 0.01 < lost < 0.12
    left = np.mean([v.present[:, 0].any() for v in many])
    assert 0.2 < left < 0.8


def test_a_hand_that_comes_and_goes_is_resampled_where_it_is() -> None:
    points = np.zeros((4, 2, POINTS, 3), np.float32)
    points[:2, 0], points[2:, 1] = 1.0, 2.0
    present = np.array([[True, False], [True, False], [False, True], [False, True]])
    made = recipe.resampled(Hands(points, present), 7)
    assert made.filled[made.present[:, 0], 0].min() == 1.0 and made.filled[made.present[:, 1], 1].min() == 2.0
    assert math.isclose(made.present.mean(), 0.5, abs_tol=0.1)


def test_the_weights_that_ship_read_words_that_training_did_not_have() -> None:
    model = mmx.load("fingerspelling", dtype="float32", device="cpu")
    for word in ("lives", "moves"):
        assert recipe.split_of(word) == "test"
        file = Path(__file__).parent / "data" / "fingerspelling" / f"{word}.npz"
        assert mmx.api.transcribe(model, str(file), language="ase").text == word


# -------------------- live


def spelling_model() -> Model:
    """A model of random weights that writes much: its blank is unlikely, and so are all but a few letters."""
    model = tiny()
    with torch.no_grad():
        bias = cast(CTCHead, model.heads[NAME]).out.bias
        bias.fill_(-30.0)
        bias[model.require_tokenizer().encode("abcd ")] = 0.0
        bias[model.require_tokenizer().encode(" ")] = -1.5
        bias[-1] = 0.5
    return model


@pytest.fixture(scope="module")
def speller() -> Model:
    return spelling_model()


def listen(stream: Stream, seq: Seq, sizes: Sequence[int]) -> list[Event]:
    """Push poses in pieces of some sizes of frames, again and again."""
    out, at, more = [], 0, itertools.cycle(sizes)
    while at < seq.x.shape[1]:
        size = next(more)
        part = {"signs": seq._replace(x=seq.x[:, at : at + size], lengths=(seq.lengths - at).clamp(0, size))}
        at += size
        out += stream.push(part, at >= seq.x.shape[1])
    return out


@pytest.mark.parametrize("causal", [True, False])
def test_a_live_session_spells_what_the_file_does(
    speller: Model, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "streams", lambda *_: causal)
    seq = poses([80], 3)
    whole = mmx.api.transcribe(speller, seq.x[0].numpy(), language="ase", word_timestamps=True)
    assert len(whole.text) > 20
    for sizes in ([5], [1, 7, 30]):
        stream = Stream(speller, language="ase", step_s=0.2, policy="local-agreement")
        events = listen(stream, seq, sizes)
        assert "".join(e.text for e in events) == f" {whole.text}" and events[-1].final
        (segment,) = stream.transcript().segments
        assert [w.text for w in segment.words] == [w.text for w in whole.words]
        for ours, theirs in zip(segment.words, whole.words, strict=True):
            assert (ours.start_s, ours.end_s) == pytest.approx((theirs.start_s, theirs.end_s))
        if causal:  # nothing waits but for the end of a step
            assert all(e.at_s - e.end_s < 0.2 + 1e-6 for e in events if e.text.strip())
            assert stream.listener.encoder.memory().x.shape[1] == 0


def test_spelling_goes_on_from_a_file(speller: Model, tmp_path: Path) -> None:
    seq = poses([60], 4)
    whole, first = (Stream(speller, language="ase", step_s=0.2) for _ in range(2))
    listen(whole, seq, [10])
    for at in (0, 13):
        first.push({"signs": seq._replace(x=seq.x[:, at : at + 13], lengths=torch.tensor([13]))})
    first.save(tmp_path / "session.safetensors")
    again = Stream.restore(speller, tmp_path / "session.safetensors")
    listen(again, seq._replace(x=seq.x[:, 26:], lengths=torch.tensor([34])), [9])
    assert again.text == whole.text and [e.at_s for e in again.events] == [e.at_s for e in whole.events]


def test_letters_beyond_ascii_and_rests() -> None:
    model = tiny()
    model.heads[NAME] = Spelling("в a")
    stream = Stream(model, language="ase", step_s=0.2)
    events = stream.push({"signs": Seq(torch.ones(1, 60, 2 * POINTS, 3), torch.tensor([60]), 25.0)})
    assert "".join(e.text for e in events).startswith(" в") and all("\ufffd" not in e.text for e in events)
    assert not stream._ended and sum(e.final for e in events) == 0
    with pytest.raises(InputError, match="--language"):
        Stream(model)


def test_quality_and_latency_of_spelling_are_measured(speller: Model, tmp_path: Path) -> None:
    lines = ["pose\ttarget\tsrc_lang"]
    for i, seq in enumerate((poses([50], 5), poses([40], 6))):
        np.save(tmp_path / f"{i}.npy", seq.x[0].numpy())
        text = mmx.api.transcribe(speller, seq.x[0].numpy(), language="ase").text
        lines.append(f"{i}.npy\t{text if i else text[:-1] + 'zz'}\tase")
    (tmp_path / "test.tsv").write_text("\n".join(lines) + "\n")
    recordings = read_recordings([tmp_path / "test.tsv"], "ase", speller.recorded)
    assert [r.duration_s for r in recordings] == [2.0, 1.6]
    (figures,) = evaluate_streaming(
        speller, recordings, policies=["alignatt"], steps_s=[0.2], language="ase", quality="cer"
    )
    assert 0 < figures.score < 30  # the end of the first reference is another
    assert figures.texts[1].words == recordings[1].reference.split()
    assert set(figures.latency) >= {"LAAL", "EndOffset"} and 0 <= (figures.lag_s or 0) <= 0.2


def test_each_frame_is_labelled_with_the_character_that_is_seen_a_little_before() -> None:
    places = np.array([-1, 0, 0, 0, 0, -1, 1, 1, 1, 1, -1, -1])
    now = recipe.character_places(["a", "b"], places, 0).tolist()
    assert now == [-1, -1, -1, 0, 0, -1, -1, -1, 1, 1, -1, -1]
    later = recipe.character_places(["sch", "a"], places, 2).tolist()
    assert later == [-1, -1, -1, 0, 0, 1, 2, -1, -1, -1, 3, 3]  # a letter is said in the second half of its sign
    twice = recipe.character_places(["bb"], np.array([0, 0, 0, 0]), 0).tolist()
    assert twice == [0, 0, -1, 1]  # between the two, CTC needs a blank
    word = recipe.join([ALPHABET[c] for c in ("a", "b")], np.random.default_rng(2), 1.0)
    assert len(word.places) == len(word.hands) and set(word.places) == {-1, 0, 1}


def test_words_are_joined_as_the_package_joins_them() -> None:
    pytest.importorskip("spoken_to_signed")
    folder = recipe.lexicon_folder()
    files = recipe._files(folder)
    for language, word in (("ase", "zoo"), ("cse", "ta"), ("gss", "σοφ")):  # doubled, two hands, a few frames each
        letters = [joiner.read(files[language, c]) for c in word]
        points, present, places = joiner.join(letters)
        theirs = recipe._joined_by_package([files[language, c] for c in word])
        ours = recipe.join_as_packaged(letters, np.random.default_rng(0), plain=True)
        assert len(ours.hands) == len(theirs) == len(ours.places)
        assert (ours.hands.present == theirs.present).mean() > 0.97
        assert not theirs.points[:, :, recipe.WRIST, 2].any()  # depth is seen from the wrist, so that 16 bits hold it
        both = ours.hands.present & theirs.present
        shapes = [(h.points - h.points[:, :, :1])[both] for h in (ours.hands, theirs)]
        assert np.abs(shapes[0] - shapes[1]).mean() < 0.01
        assert len(points) == len(present) and set(places) >= {0, 1} and places.max() == len(word) - 1


def test_rests_have_no_letter() -> None:
    word = recipe.join([ALPHABET[c] for c in ("a", "b")], np.random.default_rng(2), 1.0)
    made = [recipe._with_rests(word, np.random.default_rng(i)) for i in range(40)]
    assert {len(m.hands) == len(m.places) for m in made} == {True}
    longer = [m for m in made if len(m.hands) > len(word.hands)]
    assert 4 < len(longer) < 25
    for m in longer:
        shown = m.places >= 0
        assert np.array_equal(m.places[shown], word.places[word.places >= 0])
        assert not m.hands.present[[0, -1]].all()


def test_the_head_knows_which_letters_a_language_has() -> None:
    model = tiny(head_layers=1)
    head, tok = model.heads[NAME], model.require_tokenizer()
    ase, ukl = (tok.language_ids[name] for name in ("ase_Latn", "ukl_Cyrl"))
    with torch.no_grad():
        head.letters.weight[ase + 1, tok.encode("в")] = -5.0  # type: ignore[union-attr, index, operator]
    scores = head(torch.randn(2, 5, 8), torch.tensor([ase, ukl]))[..., tok.encode("в")[0]]
    assert scores[0].max() < -30 < scores[1].min()


def test_a_word_at_another_pace_keeps_what_each_frame_shows() -> None:
    word = recipe.join([ALPHABET[c] for c in ("a", "b", "c")], np.random.default_rng(2), 1.0)
    for frames in (12, 75):
        made = recipe.at_pace(word, frames)
        assert len(made.hands) == len(made.places) == frames
        kept = [int(p) for p in dict.fromkeys(made.places.tolist())]
        assert kept == [int(p) for p in dict.fromkeys(word.places.tolist())]
        shares = [np.mean(w.places == 1) for w in (word, made)]
        assert abs(shares[0] - shares[1]) < 0.1


def test_clips_are_changed_and_read_again(tmp_path: Path) -> None:
    hands = recipe.join([ALPHABET[c] for c in ("a", "b", "c")], np.random.default_rng(2), 1.0).hands
    recipe.save(tmp_path / "word.npz", hands)
    row = {"id": "0", "pose": "word.npz", "text": "abc", "src_lang": "ase"}
    sizes = {}
    for change in changes.CHANGES:
        written = changes.write(tmp_path / "changed", [row], tmp_path / "test.tsv", change)
        made = changes.read(written.parent / "0.npz")
        sizes[change] = len(made), int(made.present.any(1).sum())
    assert sizes.pop("no hands") == (len(hands), 0)
    paces = (4, 5, 6, 20, 24, 30)
    assert [sizes.pop(f"{n} frames a letter") for n in paces] == [(3 * n, 3 * n) for n in paces]
    lost = sizes.pop("30 % of the frames without hands")[1]
    assert 0.5 * len(hands) < lost < 0.9 * len(hands)
    assert set(sizes.values()) == {(len(hands), len(hands))}


def test_unseen_alphabets_are_read_by_model_and_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    alphabets = {x: {c: letter(c) for c in "abc"} for x in ("ase", "gsg")}  # the same recordings in both
    monkeypatch.setattr(controls, "named", lambda _, sign: "b")
    found = controls.read([model], alphabets, ["ase"], ["gsg"])
    assert found.by_model.tolist() == [False, True, False] and found.by_neighbour.all()
    assert str(found) == "| 3 | 33.3 | 100.0 | 0 and 2 | 0.500 |"
    seeds = [controls.Read(np.array(x) > 0, np.array([1, 0] * 20) > 0) for x in ([1, 1] * 20, [1, 0] * 20)]
    assert controls.over_seeds(seeds).startswith("75.0 against 50.0: +25.0 points (+17.5 to +32.5)")
    assert controls.exact_p(1, 9) == pytest.approx(22 / 1024) and controls.exact_p(4, 4) == 1.0


def test_a_model_that_must_name_a_letter_names_the_one_that_it_scores_highest() -> None:
    def sure_of(text: str, score: float) -> Model:
        model = tiny()
        with torch.no_grad():
            bias = cast(CTCHead, model.heads[NAME]).out.bias
            bias[-1], bias[model.require_tokenizer().encode(text)] = 90.0, score  # it would write nothing
        return model

    models = [sure_of("q", 30.0), sure_of("x", 13.0), sure_of("x", 13.0)]
    assert controls.named(models[:1], letter("a")) == "q" and controls.named(models[1:2], letter("a")) == "x"
    assert controls.named(models, letter("a")) == "x"  # two thirds of the probability, though another is surer


def test_shuffled_labels_are_others_in_each_clip(tmp_path: Path) -> None:
    rows = [f"{i}\t{i}.npz\tabca\t{x}\t1.0\t{i}.labels.npz" for i, x in enumerate(("ase", "gsg", "ase"))]
    header = "id\tpose\ttext\tsrc_lang\tduration_s\ttarget_features"
    (tmp_path / "train.tsv").write_text("\n".join((header, *rows)) + "\n")
    table = controls.subset(tmp_path / "train.tsv", ["ase"], tmp_path / "out" / "some.tsv").read_text().splitlines()
    assert [line.split("\t")[2:4] for line in table[1:]] == [["abca", "ase"]] * 2
    shuffled = ""
    for seed in range(4):
        shuffled = controls.subset(tmp_path / "train.tsv", ["ase"], tmp_path / "out" / "other.tsv", seed).read_text()
        texts = [line.split("\t")[2] for line in shuffled.splitlines()[1:]]
        assert all(t[0] == t[3] and len(set(t)) == 3 for t in texts)
    assert str(tmp_path / "2.npz") in shuffled


def test_a_hand_that_is_lost_between_is_joined_by_a_straight_line() -> None:
    points = np.zeros((4, 2, POINTS, 3), np.float32)
    points[3, 1] = 3.0
    present = np.array([[False, True], [False, False], [False, False], [False, True]])
    made = recipe._kept_between(Hands(points, present))
    assert made.present[:, 1].all() and not made.present[:, 0].any()
    np.testing.assert_allclose(made.points[:, 1, 0, 0], [0, 1, 2, 3], atol=1e-6)


def test_the_last_steps_words_have_their_shares(tmp_path: Path) -> None:
    pytest.importorskip("spoken_to_signed", reason="needs spoken-to-signed: pip install spoken-to-signed")
    pytest.importorskip("wordfreq", reason="needs wordfreq: pip install wordfreq")
    (tmp_path / "train.tsv").write_text(
        "\t".join(last_step.COLUMNS) + "\nold\tx.npz\tword\tgsg\t1.00\tx.labels.npz\n" * 9
    )
    manifest = last_step.prepare(tmp_path / "new", tmp_path, share=0.02)
    found = read_manifest(manifest)
    assert len(found) == 22 + 14 + 18 + 9  # of 1,100, 700, 18 times 60 and 3,000, of which there are nine here
    assert sum(e.src_lang == "ase" for e in found) == 36 and len({e.src_lang for e in found}) == 19
    assert found[-1].media["pose"] == str(tmp_path / "x.npz")
    paces = {
        kind: [float(e.duration_s or 0) * 25 / len(e.target) for e in found if e.id.startswith(kind)]
        for kind in ("d", "asef")
    }
    assert np.mean(paces["d"]) > 1.5 * np.mean(paces["asef"])
