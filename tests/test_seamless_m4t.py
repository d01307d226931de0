"""SeamlessM4T v2 as a composition: every task equals transformers', and every published key has its place.

Letters: B rows, T feature frames, U tokens, D width, V vocabulary, N samples.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmx import api
from mmx.errors import CheckpointError, InputError
from mmx.generate import SearchOptions, search
from mmx.interfaces import Speech
from mmx.model import Model
from mmx.models import seamless_m4t
from mmx.models.seamless_m4t import KEYS, Config, SpeechTables, build, config_from
from mmx.models.seamless_m4t.units import spell
from mmx.seq import Seq, pad
from mmx.tasks.speak import written_states
from mmx.weights.convert import convert, plan

V2_LARGE = 2_309_249_669
"""Parameters; times four bytes this is the `total_size` of the published index."""

TINY: dict[str, Any] = {
    "vocab_size": 67, "t2u_vocab_size": 41, "char_vocab_size": 23, "hidden_size": 16, "max_position_embeddings": 64,
    "encoder_layers": 2, "encoder_ffn_dim": 24, "encoder_attention_heads": 4,
    "decoder_layers": 2, "decoder_ffn_dim": 20, "decoder_attention_heads": 2,
    "speech_encoder_layers": 2, "speech_encoder_attention_heads": 2, "speech_encoder_intermediate_size": 28,
    "feature_projection_input_dim": 12, "conv_depthwise_kernel_size": 5, "num_adapter_layers": 1,
    "left_max_position_embeddings": 6, "right_max_position_embeddings": 3,
    "t2u_encoder_layers": 2, "t2u_encoder_ffn_dim": 24, "t2u_encoder_attention_heads": 2,
    "t2u_decoder_layers": 2, "t2u_decoder_ffn_dim": 20, "t2u_decoder_attention_heads": 2,
    "t2u_variance_predictor_embed_dim": 16, "t2u_variance_predictor_hidden_dim": 8, "t2u_max_position_embeddings": 512,
    "unit_hifi_gan_vocab_size": 30, "unit_embed_dim": 12, "lang_embed_dim": 4, "spkr_embed_dim": 4,
    "vocoder_num_langs": 3, "vocoder_num_spkrs": 4, "upsample_initial_channel": 32,
    "upsample_rates": [5, 4], "upsample_kernel_sizes": [11, 8],
    "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3], [1, 3]],
}  # fmt: skip
EOS, LANGUAGE = 3, 60
TEXT = (7, 9, 11, 8, 12)
PIECES = {"7": "▁the", "8": "re", "9": "▁cat", "11": ".", "12": "▁on"}
CHARACTERS = {c: i for i, c in enumerate("▁thecaron.", start=2)}
VOICES = {
    "id_to_text": PIECES, "char_to_id": CHARACTERS,
    "vocoder_lang_code_to_id": {"eng": 0, "deu": 2}, "t2u_lang_code_to_id": {"eng": 35, "deu": 36},
}  # fmt: skip


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def theirs() -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[bench]'")
    model = transformers.SeamlessM4Tv2Model(transformers.SeamlessM4Tv2Config(**TINY)).eval()
    generator = random(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
        model.t2u_model.model.decoder.duration_predictor.proj.bias.fill_(1.2)  # about two units a character
    return model


@pytest.fixture(scope="module")
def ours(theirs: Any) -> Model:
    source = dict(theirs.state_dict())
    model = build(Config(**config_from("hf", theirs.config.to_dict(), {})))
    shapes = {k: tuple(v.shape) for k, v in model.named_parameters()}
    api.fill(model, dict(convert(source, KEYS["hf"], shapes)))
    synth: Any = model.synth
    synth.tables = SpeechTables(PIECES, CHARACTERS, {"eng": 0, "deu": 2}, {})
    return model.eval()


def speech(model: Model, memory: Seq, rows: Sequence[Sequence[int]], language: str, **options: Any) -> Speech:
    """Texts as a voice reads them: with the decoder's states over prompt, text and end."""
    states = written_states(model, memory, [[*PREFIX, *row, EOS] for row in rows])
    return Speech(texts=[""] * len(rows), tokens=rows, language=language, encoded=states, **options)


def features(seconds: int = 40) -> Tensor:
    return torch.randn(1, seconds, 12, generator=random(2))


def heard(model: Model, x: Tensor) -> Seq:
    """The memory of features, which the front end would make of a waveform."""
    seq = Seq(x, torch.tensor([x.shape[1]]), 50.0)
    return model.adapters["speech"](model.encoders["speech"](seq))


PREFIX = (EOS, LANGUAGE)
WRITTEN = torch.tensor([[*PREFIX, *TEXT]])


@pytest.mark.parity
@torch.no_grad()
def test_speech_to_text_logits(theirs: Any, ours: Model) -> None:
    theirs.set_modality("speech")
    wanted = theirs(input_features=features(), decoder_input_ids=WRITTEN).logits
    torch.testing.assert_close(ours.decoder(WRITTEN, heard(ours, features())), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parity
@torch.no_grad()
def test_text_to_text_logits(theirs: Any, ours: Model) -> None:
    theirs.set_modality("text")
    source = torch.tensor([[LANGUAGE + 1, 5, 6, 7, EOS]])
    wanted = theirs(input_ids=source, decoder_input_ids=WRITTEN).logits
    got = ours({"text": Seq(source, torch.tensor([5]))}, WRITTEN)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def their_speech(theirs: Any, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Unit logits and waveform of `TEXT` over a memory, by transformers' parts in the order of its `generate`."""
    states = theirs.text_decoder(input_ids=WRITTEN, encoder_hidden_states=memory).last_hidden_state
    spelled = spell([TEXT], PIECES, CHARACTERS)
    logits, mask = theirs.t2u_model(
        inputs_embeds=states, char_input_ids=spelled.chars, char_count_per_id=spelled.per_token,
        attention_mask=torch.ones(1, states.shape[1]), return_dict=False,
    )[:2]  # fmt: skip
    assert bool(mask.all())
    units = logits[..., 4:34].argmax(-1)
    wave, _ = theirs.vocoder(input_ids=units, speaker_id=torch.tensor([[1]]), lang_id=torch.tensor([[2]]))
    return logits, wave


@pytest.mark.parity
@pytest.mark.parametrize("modality", ["speech", "text"])
@torch.no_grad()
def test_units_and_waveforms(modality: str, theirs: Any, ours: Model) -> None:
    synth: Any = ours.synth
    if modality == "speech":
        memory, their_memory = heard(ours, features()), theirs.speech_encoder(features()).last_hidden_state
    else:
        source = torch.tensor([[LANGUAGE + 1, 5, 6, 7, EOS]])
        memory = ours.memory({"text": Seq(source, torch.tensor([5]))})
        their_memory = theirs.text_encoder(source).last_hidden_state
    torch.testing.assert_close(memory.x, their_memory, atol=1e-5, rtol=1e-5)
    wanted_logits, wanted_wave = their_speech(theirs, their_memory)
    said = speech(ours, memory, [TEXT], "deu", voice=1)
    states, *spelling = synth.read(said)
    logits = synth.t2u(states, *spelling)
    torch.testing.assert_close(logits.x, wanted_logits, atol=1e-5, rtol=1e-5)
    units = synth.t2u.units(states, *spelling)
    # transformers predicts durations again in the vocoder; the authors do not, and neither do we unless asked.
    wave = synth.vocoder(units, torch.tensor([2]), torch.tensor([1]), predict_durations=True)
    torch.testing.assert_close(wave.x, wanted_wave.reshape(wave.x.shape), atol=1e-5, rtol=1e-5)
    spoken = synth.speak(said).wave
    assert spoken.rate == synth.rate and int(spoken.lengths[0]) == 20 * int(units.lengths[0])


@torch.no_grad()
def test_a_batch_speaks_as_single_rows_do(ours: Model) -> None:
    synth: Any = ours.synth
    sources = [torch.tensor([LANGUAGE, 5, 6, EOS]), torch.tensor([LANGUAGE, 9, 8, 7, 6, 5, EOS])]
    rows = [TEXT, TEXT[:2]]
    whole = synth.speak(speech(ours, ours.memory({"text": pad(sources)}), rows, "eng")).wave
    for i, (source, row) in enumerate(zip(sources, rows, strict=True)):
        one = synth.speak(speech(ours, ours.memory({"text": pad([source])}), [row], "eng")).wave
        n = int(one.lengths[0])
        assert int(whole.lengths[i]) == n
        torch.testing.assert_close(whole.x[i, :n], one.x[0], atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_one_memory_serves_text_and_speech(ours: Model) -> None:
    """The keys and values that the search made are enough: the memory is not needed again to speak."""
    memory = ours.memory({"text": pad([torch.tensor([LANGUAGE, 5, 6, EOS])])})
    state = ours.decoder.init_state(1, 8)
    ours.decoder(WRITTEN, memory, state)
    fresh = written_states(ours, memory, WRITTEN.tolist())
    gone = memory._replace(x=torch.full_like(memory.x, torch.nan))
    again = written_states(ours, gone, WRITTEN.tolist(), shared=state["memory"])
    torch.testing.assert_close(again.x, fresh.x, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_beam_and_greedy_run_over_speech(ours: Model) -> None:
    memory = heard(ours, features())
    prefix = torch.tensor([PREFIX])
    for beam in (1, 5):
        found = search(ours.decoder, memory, prefix, EOS, SearchOptions(beam_size=beam, max_tokens=12)).rows[0][0]
        assert 0 < len(found.tokens) <= 12


# -------------------- full size


@pytest.fixture(scope="module")
def full() -> Model:
    with torch.device("meta"):
        return build(Config(**tables()))


def tables() -> Any:
    """The card's numbers."""
    return api.find_card("seamless-m4t-v2-large").config


def test_v2_large_has_the_published_number_of_parameters(full: Model) -> None:
    assert sum(p.numel() for p in full.parameters()) == V2_LARGE


def test_every_key_of_the_published_index_is_accounted_for(full: Model) -> None:
    published = published_shapes()
    todo = plan(published, KEYS["hf"])
    ours = {k: tuple(p.shape) for k, p in full.named_parameters()}
    produced = {t for targets in todo.values() for t in targets or ()}
    assert produced == set(ours)
    for key, targets in todo.items():
        for target in targets or ():
            assert ours[target] == published[key], key
    assert sum(torch.Size(published[k]).numel() for k, t in todo.items() if t) >= V2_LARGE


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Key to shape of facebook/seamless-m4t-v2-large. `layers.{0-23}` stands for 24 keys."""
    out: dict[str, tuple[int, ...]] = {}
    for line in (Path(__file__).parent / "data" / "seamless_m4t_v2_large.tsv").read_text().splitlines():
        pattern, shape = line.split("\t")
        for key in expand(pattern):
            out[key] = tuple(int(n) for n in shape.split("x"))
    return out


def expand(pattern: str) -> list[str]:
    head, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    span, _, tail = rest.partition("}")
    first, _, last = span.partition("-")
    return [head + str(i) + t for i in range(int(first), int(last) + 1) for t in expand(tail)]


# -------------------- a checkpoint folder


@pytest.fixture
def folder(theirs: Any, tmp_path: Path) -> Path:
    import sentencepiece
    from safetensors.torch import save_file

    tensors = {k: v.contiguous().clone() for k, v in theirs.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    (tmp_path / "generation_config.json").write_text(json.dumps(VOICES))
    lines = ["the cat sat on there.", "a cat on the hat.", "there, the cat ate on."] * 20
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines), model_prefix=str(tmp_path / "spm"), vocab_size=40, model_type="bpe",
        hard_vocab_limit=False, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "spm.model").rename(tmp_path / "sentencepiece.bpe.model")
    added = {"60": {"content": "__deu__"}, "61": {"content": "__eng__"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    return tmp_path


@pytest.mark.parity
def test_a_published_folder_loads_by_its_path(folder: Path) -> None:
    model = api.load(folder, dtype="float32")
    assert model.card is not None and model.card.family == "seamless_m4t"
    (done,) = model.translate_text(["the cat on the hat."], src="en", to="German")
    assert done.to == "deu"
    synth: Any = model.synth
    assert synth.tables.language("deu") == 2 and synth.voices("deu")
    with pytest.raises(InputError, match=r"fra.*deu, eng"):
        synth.voices("fra")


@pytest.mark.parity
def test_a_missing_tensor_is_named(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["t2u_model.model.decoder.embed_char.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"synth\.t2u\.char\.weight"):
        api.load(folder, dtype="float32")


def test_voices_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="vocoder_lang_code_to_id"):
        SpeechTables.from_file(tmp_path / "generation_config.json")


def test_without_voices_the_remedy_is_named(ours: Model) -> None:
    synth = seamless_m4t.Synthesizer(ours.synth.t2u, ours.synth.vocoder)  # type: ignore[union-attr]
    memory = ours.memory({"text": pad([torch.tensor([LANGUAGE, 5, EOS])])})
    with pytest.raises(InputError, match=r"generation_config\.json"):
        synth.speak(speech(ours, memory, [TEXT], "eng"))
