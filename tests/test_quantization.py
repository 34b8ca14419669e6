"""torch.ao.quantization passes our layers over, and they say so."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import cellwright as cw

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def quantized(model):
    return torch.ao.quantization.quantize_dynamic(model, {nn.LSTM, nn.Linear})


@pytest.mark.parametrize(
    ("layer", "instead"),
    [
        (cw.LSTM(3, 4), r"torch\.nn\.LSTM\(…\) after its load_state_dict"),
        (cw.GRU(3, 4), r"torch\.nn\.GRU\(…\) after its load_state_dict"),
        (cw.Recurrent("lstm", 3, 4), r"cellwright\.to_torch\(layer\)"),
    ],
)
def test_a_layer_that_stays_in_float32_says_so(layer, instead):
    model = nn.Sequential(layer)
    x = torch.randn(5, 2, 3)
    expected = layer(x)[0].detach()
    with pytest.warns(UserWarning, match=rf"\[quantization\].*stays as it.*{instead}"):
        found = quantized(model)
    assert type(found[0]) is type(layer)
    torch.testing.assert_close(found[0](x)[0].detach(), expected)


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_what_the_message_names_is_quantized():
    layer = cw.LSTM(3, 4)
    module = nn.LSTM(3, 4)
    module.load_state_dict(layer.state_dict())
    try:
        found = quantized(nn.Sequential(module, nn.Identity()))
    except RuntimeError as error:  # a build of torch without an engine for it
        pytest.skip(str(error))
    assert "dynamic" in type(found[0]).__module__
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(found[0](x)[0], layer(x)[0].detach(), rtol=0, atol=0.05)


def test_a_layer_that_nobody_quantizes_has_no_such_attribute():
    layer = cw.LSTM(3, 4)
    assert not hasattr(layer, "qconfig")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer.qconfig = None
    again = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
    assert again.qconfig is None
    del layer.qconfig
    assert not hasattr(layer, "qconfig")
