"""Pieces in the order of a list beside a checkpoint: auto-AVSR's and AV-HuBERT's, from their files to text.

Letters: T frames.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
from contract_tokenizer import verify_tokenizer
from test_auto_avsr import TINY, at_random, published
from test_av_hubert import TINY as HUBERT
from test_av_hubert import fairseq_file, randomized
from test_av_hubert import published as of_fairseq

import mmx
from mmx.errors import CheckpointError, InputError, MmxWarning
from mmx.make.export import convert_model
from mmx.models import auto_avsr, av_hubert
from mmx.seq import Seq
from mmx.text import piece_tokenizer

TEXTS = ("HE WAS NOT", "A", "I SAID NO TWICE")


def write_pieces(folder: Path, lower: bool = False) -> list[str]:
    """A SentencePiece model, and the list of its pieces backwards, as a list need not keep the model's order."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    lines = [text.lower() if lower else text for text in (*TEXTS, "THE QUICK BROWN FOX JUMPS OVER A LAZY DOG")]
    name = "tokenizer" if lower else "unigram60"
    SentencePieceTrainer.Train(
        sentence_iterator=iter(lines * 20), model_prefix=str(folder / name), vocab_size=60, model_type="unigram",
        hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    cut = SentencePieceProcessor(model_file=str(folder / f"{name}.model"))
    held = (i for i in reversed(range(cut.get_piece_size())) if not cut.is_control(i) and not cut.is_unknown(i))
    pieces = [cut.id_to_piece(i) for i in held]
    if lower:
        (folder / "dict.en.txt").write_text("".join(f"{piece} 1\n" for piece in pieces), "utf-8")
        return pieces
    pieces.insert(0, "<unk>")
    numbered = "".join(f"{piece} {i}\n" for i, piece in enumerate(pieces, 1))
    (folder / "unigram60_units.txt").write_text(numbered, "utf-8")
    return pieces


def flat_file(folder: Path, pieces: list[str]) -> tuple[Path, mmx.Model]:
    """Auto-AVSR at random, with so many pieces."""
    config = dataclasses.replace(TINY, vocab=len(pieces) + 2, decoder_layers=1, decoder_hidden=24)
    model = at_random(config)
    out = model.heads["ctc"].out
    with torch.no_grad():  # each frame by what tells it from the others, so that CTC writes more than a letter
        model.require_decoder().head.weight *= 30
        weight, bias = out.parameters()
        bias.copy_(-weight @ model.memory(clip(20)).x[0].mean(0))
    torch.save(published(model), folder / "vsr.pth")
    return folder / "vsr.pth", model


def mouths(n_frames: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {"lips": torch.randint(0, 256, (n_frames, 96, 96), dtype=torch.uint8, generator=generator)}


def clip(n_frames: int) -> dict[str, Seq]:
    return {"lips": Seq(mouths(n_frames)["lips"][None], torch.tensor([n_frames]), 25.0)}


def test_auto_avsrs_file_is_converted_with_its_pieces_and_writes_text_three_ways(tmp_path: Path) -> None:
    pieces = write_pieces(tmp_path)
    path, source = flat_file(tmp_path, pieces)
    model = mmx.load(convert_model(path, tmp_path / "converted"), dtype="float32")
    verify_tokenizer(model.require_tokenizer(), ["en"], TEXTS)
    film = mouths(20)
    found = {
        weight: model.transcribe(film, language="en", ctc_weight=weight, beam_size=3, max_tokens=12).text.strip()
        for weight in (0.0, 0.3, 1.0)
    }
    with torch.no_grad():
        scores_TV = source.heads["ctc"].out(source.memory(clip(20)).x[0])
    scores_TV[:, [1, -1]] = -torch.inf  # <unk> and the end are no text
    tokens = scores_TV.argmax(-1).unique_consecutive().tolist()
    by_hand = "".join(["", *pieces][i] for i in tokens).replace("\u2581", " ").strip()
    assert len(by_hand) > 3 and found[1.0] == by_hand
    assert all(found.values()) and len(set(found.values())) == 3


def test_av_huberts_file_is_converted_with_its_dictionary_and_writes_text(tmp_path: Path) -> None:
    pieces = write_pieces(tmp_path, lower=True)
    source = randomized(av_hubert.build(dataclasses.replace(HUBERT, vocab=len(pieces) + 4, width=64, heads=1)))
    tokens_VD = source.require_decoder().token.weight
    tokens_VD.data.mul_(20)[2] = 0.0  # the end, from which a text begins, is not what is most like itself
    weights = of_fairseq(source)
    folder = convert_model(fairseq_file(tmp_path / "muavic.pt", weights), tmp_path / "converted")
    assert {"pieces.txt", "pieces.model"} <= {p.name for p in folder.iterdir()}
    model = mmx.load(folder, dtype="float32")
    tok = model.require_tokenizer()
    verify_tokenizer(tok, ["en"], [text.lower() for text in TEXTS])
    assert (
        tok.prompt("en") == [2] and tok.decode([4, 5]).strip() == (pieces[0] + pieces[1]).replace("\u2581", " ").strip()
    )
    assert tok.encode("HE WAS NOT") == tok.encode("he was not") and 3 in tok.encode("\u00df")
    lips, sound = mouths(12), {"speech": torch.randn(7680, generator=torch.Generator().manual_seed(0))}
    for modality, film in (("av", lips | sound), ("audio", sound), ("video", lips)):
        assert model.transcribe(film, language="en", modality=modality, vad=False, max_tokens=9).text.strip()


def test_a_list_of_another_model_is_refused_with_both_numbers(tmp_path: Path) -> None:
    pieces = write_pieces(tmp_path)
    path, _ = flat_file(tmp_path, [*pieces, "MORE", "STILL"])
    with pytest.raises(
        CheckpointError, match=rf"expected {len(pieces) + 2} pieces .* got {len(pieces)}: take the list"
    ):
        mmx.load(path)
    (tmp_path / "other_units.txt").write_text("<unk> 1\n")
    with pytest.raises(CheckpointError, match=r"expected one list of pieces .*other_units.txt, unigram60_units.txt"):
        mmx.load(path)


@pytest.mark.parametrize("text", ["", "<unk> 1\nHE\n", "\x00\ufffd", "<unk> 1\nHE 2\nHE 3\n", "HE 1\nWAS 2\nNOT 3\n"])
def test_a_damaged_list_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a_units.txt"
    file.write_text(text)
    with pytest.raises(CheckpointError, match="expected"):
        piece_tokenizer.from_list(file, ["<blank>"], ["</s>"], 5)


def test_without_the_list_there_is_no_text_and_without_the_model_no_cutting(tmp_path: Path) -> None:
    pieces = write_pieces(tmp_path)
    (tmp_path / "unigram60.model").unlink()
    path, _ = flat_file(tmp_path, pieces)
    with pytest.raises(InputError, match="SentencePiece model next to"):
        mmx.load(path).require_tokenizer().encode("HE")
    (tmp_path / "unigram60_units.txt").unlink()
    with pytest.raises(InputError, match="tokenizer"):
        mmx.load(path).transcribe(mouths(5), language="en")
    with pytest.warns(MmxWarning, match=r"expected a list of pieces \(\*_units.txt\)"):
        convert_model(path, tmp_path / "converted")


def test_a_model_that_only_encodes_needs_no_pieces(tmp_path: Path) -> None:
    assert auto_avsr.tokenizer(tmp_path, TINY) is None and av_hubert.tokenizer(tmp_path, av_hubert.Config()) is None
