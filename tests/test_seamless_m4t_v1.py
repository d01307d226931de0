"""SeamlessM4T v1 through the parts of v2: text and units equal transformers'.

Letters: B rows, T feature frames, U tokens, D width, V vocabulary, N samples.
"""

from typing import Any

import pytest
import torch
from test_seamless_m4t import CHARACTERS, EOS, LANGUAGE, PIECES, PREFIX, TEXT, TINY, WRITTEN, features, heard, random

from mmx import api
from mmx.errors import InputError
from mmx.interfaces import Speech
from mmx.model import Model
from mmx.models.seamless_m4t import SpeechTables
from mmx.models.seamless_m4t_v1 import KEYS, Config, build, config_from
from mmx.seq import Seq
from mmx.tasks.speak import written_states
from mmx.weights.convert import convert

V1 = {k: v for k, v in TINY.items() if not k.startswith(("left", "right", "char", "t2u_variance"))}


@pytest.fixture(scope="module")
def theirs() -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[bench]'")
    model = transformers.SeamlessM4TModel(transformers.SeamlessM4TConfig(**V1)).eval()
    generator = random(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def ours(theirs: Any) -> Model:
    model = build(Config(**config_from("hf", theirs.config.to_dict(), {})))
    shapes = {k: tuple(v.shape) for k, v in model.named_parameters()}
    api.fill(model, dict(convert(dict(theirs.state_dict()), KEYS["hf"], shapes)))
    synth: Any = model.synth
    synth.tables = SpeechTables(PIECES, CHARACTERS, {"deu": 2}, {"deu": 36})
    return model.eval()


@pytest.mark.parity
@torch.no_grad()
def test_speech_to_text_logits(theirs: Any, ours: Model) -> None:
    theirs.set_modality("speech")
    wanted = theirs(input_features=features(), decoder_input_ids=WRITTEN).logits
    torch.testing.assert_close(ours.decoder(WRITTEN, heard(ours, features())), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parity
@torch.no_grad()
def test_unit_logits_and_waveform(theirs: Any, ours: Model) -> None:
    synth: Any = ours.synth
    source = torch.tensor([[LANGUAGE + 1, 5, 6, 7, EOS]])
    memory = ours.memory({"text": Seq(source, torch.tensor([5]))})
    written = torch.tensor([[*PREFIX, *TEXT, EOS]])
    states = written_states(ours, memory, written.tolist())
    wanted = theirs.text_decoder(
        input_ids=written, encoder_hidden_states=theirs.text_encoder(source).last_hidden_state
    ).last_hidden_state
    torch.testing.assert_close(states.x, wanted, atol=1e-5, rtol=1e-5)
    begun = torch.tensor([[2, 36, 9, 12, 30]])
    logits = theirs.t2u_model(inputs_embeds=wanted, decoder_input_ids=begun).logits
    torch.testing.assert_close(synth.t2u({"states": states}, begun), logits, atol=1e-5, rtol=1e-5)
    units = synth.write(states, 36)
    assert int(units.x.min()) >= 0 and int(units.x.max()) < 30
    wave, _ = theirs.vocoder(input_ids=units.x, spkr_id=torch.tensor([[1]]), lang_id=torch.tensor([[2]]))
    spoken = synth.speak(Speech(texts=[""], tokens=[TEXT], language="deu", encoded=states, voice=1)).wave
    torch.testing.assert_close(spoken.x, wave.reshape(spoken.x.shape), atol=1e-5, rtol=1e-5)


def test_another_pace_is_refused(ours: Model) -> None:
    synth: Any = ours.synth
    with pytest.raises(InputError, match="only version 2"):
        synth.speak(Speech(texts=[""], tokens=[TEXT], language="deu", speed=1.2))
