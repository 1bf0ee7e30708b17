import pytest
import torch

from lmeval.densities.layers import ACTIVATIONS, Linear, check_layers, linear_layers, run_layers
from lmeval.errors import DensityError

LAYER = Linear(torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]]), torch.tensor([0.0, 1.0, -1.0]))


def test_layers_are_applied_in_order():
    h = torch.tensor([[1.0, 2.0], [-1.0, 0.0]])
    assert run_layers((LAYER, "relu"), h).tolist() == [[0.0, 1.5, 5.0], [0.0, 0.5, 0.0]]
    assert run_layers(("relu", LAYER), h).tolist() == [[-3.0, 1.5, 5.0], [0.0, 1.0, -1.0]]
    assert run_layers((), h) is h


def test_any_number_of_leading_dimensions():
    h = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run_layers((LAYER, "tanh"), h)[3, 1], run_layers((LAYER, "tanh"), h[3, 1]))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_those_of_torch(name: str):
    module = {"relu": "ReLU", "elu": "ELU", "tanh": "Tanh", "softplus": "Softplus", "sigmoid": "Sigmoid"}.get(
        name, "LeakyReLU"
    )
    h = torch.linspace(-5, 5, 41)
    assert torch.equal(ACTIVATIONS[name](h), getattr(torch.nn, module)()(h))


def test_affine_layers_of_a_network():
    assert linear_layers((LAYER, "relu")) == (LAYER,)


def test_a_network_that_fits_gives_its_width():
    assert check_layers((LAYER, "relu"), 2, 3, "net") == 3
    assert check_layers((), 7, None, "net") == 7


@pytest.mark.parametrize(
    ("layers", "n_in", "n_out", "says"),
    [
        ((LAYER, "relo"), 2, 3, "net: unknown activation 'relo' (did you mean 'relu'?)"),
        ((LAYER,), 4, 3, "weight is [3, 2] and its bias [3], but 4 inputs reach it"),
        ((LAYER, LAYER), 2, 3, "but 3 inputs reach it"),
        ((Linear(LAYER.weight, torch.zeros(2)),), 2, 3, "its bias [2]"),
        ((Linear(LAYER.bias, LAYER.bias),), 3, 3, "weight is [3]"),
        ((LAYER,), 2, 4, "gives 3 numbers, and 4 are needed"),
        ((Linear(LAYER.weight, LAYER.bias / 0),), 2, 3, "NaN or infinity"),
    ],
)
def test_a_network_that_does_not_fit(layers, n_in, n_out, says):
    with pytest.raises(DensityError) as found:
        check_layers(layers, n_in, n_out, "net")
    assert says in str(found.value) and str(found.value).startswith("net: ") and "\n" not in str(found.value)
