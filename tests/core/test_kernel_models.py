import pytest
import torch
from torch import nn

from kernelfusion_plugin.core.degradation import Degradation
from kernelfusion_plugin.core.kernel_models import (
    LEAK,
    DirectKernel,
    LinearCnnKernel,
    Siren,
    centre_of_mass_loss,
    leaky_sigmoid,
)

MODELS = {
    'siren': lambda size: Siren(size),
    'direct_relu': lambda size: DirectKernel(size, 'relu'),
    'direct_sigmoid': lambda size: DirectKernel(size, 'sigmoid'),
    'linear_cnn': lambda size: LinearCnnKernel(size),
}


def correlation(a, b):
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def l_kernel():
    k = torch.zeros(24, 24)
    k[4:20, 4:8] = 1
    k[16:20, 4:20] = 1
    return k / k.sum()


def fit(model, target, steps, lr=1e-4):
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        loss = (model() - target).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize('size', [8, 12, 23, 24, 31])
def test_kernel_has_the_size_and_sums_to_one(name, size):
    torch.manual_seed(0)
    k = MODELS[name](size)()
    assert k.shape == (size, size)
    assert k.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('name', MODELS)
def test_gradient_reaches_every_parameter(name):
    torch.manual_seed(0)
    model = MODELS[name](24)
    (model() * torch.randn(24, 24)).sum().backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, parameter


@pytest.mark.parametrize('name', ['siren', 'direct_relu', 'direct_sigmoid'])
def test_start_is_nearly_uniform(name):
    torch.manual_seed(0)
    k = MODELS[name](24)().detach() * 24 ** 2
    assert k.min() > 0.6 and k.max() < 1.5


def test_linear_cnn_starts_as_a_wide_centred_bell():
    torch.manual_seed(0)
    k = LinearCnnKernel(24)().detach()
    axis = torch.arange(24) - 11.5
    assert abs((k.sum(0) * axis).sum()) < 0.5 and abs((k.sum(1) * axis).sum()) < 0.5
    assert 2.5 < (k.sum(0) * axis.square()).sum().sqrt() < 4.5


def test_siren_fits_an_l():
    torch.manual_seed(0)
    model = Siren(24)
    assert correlation(model().detach(), l_kernel()) < 0.5
    fit(model, l_kernel(), steps=150)
    k = model().detach()
    assert correlation(k, l_kernel()) > 0.95
    assert model.raw().min() >= -LEAK and model.raw().max() <= 1
    assert k.sum().item() == pytest.approx(1, abs=1e-5)


def test_siren_is_the_network_of_the_appendix():
    model = Siren(24)
    assert [(layer.in_features, layer.out_features) for layer in model.layers] == [(2, 256)] + 4 * [(256, 256)]
    assert model.omega == 5
    assert model.layers[0].weight.abs().max() <= 1 / 2
    assert model.layers[1].weight.abs().max() <= (6 / 256) ** 0.5 / 5


def test_siren_state_dict_does_not_depend_on_the_kernel_size():
    Siren(31).load_state_dict(Siren(24).state_dict())


def test_leaky_sigmoid_reaches_below_zero():
    x = torch.tensor([-50.0, 0.0, 50.0])
    assert torch.allclose(leaky_sigmoid(x), torch.tensor([-1e-4, 0.5 - 0.5e-4, 1.0]), atol=1e-7)


def test_linear_cnn_equals_its_layers_applied_with_the_stride():
    torch.manual_seed(0)
    model = LinearCnnKernel(22)
    for layer in model.layers:
        nn.init.normal_(layer.weight, std=0.1)
    image = torch.randn(1, 1, 38, 42)
    expected = image
    for layer in model.layers[:-1]:
        expected = layer(expected)
    expected = nn.functional.conv2d(expected, model.layers[-1].weight, stride=4)
    raw = model()
    got = nn.functional.conv2d(image, raw[None, None], stride=4)
    assert got.shape == expected.shape
    assert abs(correlation(got.detach(), expected.detach())) > 1 - 1e-5  # equal up to normalisation


@pytest.mark.parametrize(('size', 'before'), [(24, 1), (25, 1), (26, 2)])
def test_linear_cnn_is_padded_around_its_centre(size, before):
    torch.manual_seed(0)
    k = LinearCnnKernel(size)().detach()
    rows = k.abs().sum(1).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1])) == (before, before + 21)


def test_centre_of_mass_loss():
    assert centre_of_mass_loss(torch.full((24, 24), 1 / 576)).item() == pytest.approx(0, abs=1e-9)
    corner = torch.zeros(24, 24)
    corner[0, 0] = 1
    assert centre_of_mass_loss(corner).item() == pytest.approx(2)
    off_by_one = torch.zeros(25, 25)
    off_by_one[12, 13] = 1
    assert centre_of_mass_loss(off_by_one).item() == pytest.approx(1 / 12 ** 2)


@pytest.mark.parametrize('make', [lambda: Siren(0), lambda: Siren(24, width=0), lambda: Siren(24, omega=0.0),
                                  lambda: DirectKernel(0), lambda: DirectKernel(24, 'tanh'),
                                  lambda: LinearCnnKernel(-1), lambda: LinearCnnKernel(24, 0)])
def test_bad_arguments_are_refused(make):
    with pytest.raises(ValueError, match='got'):
        make()


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_linear_cnn_stays_in_its_place_on_any_grid(scale):
    """Padded or cut, as long as nothing of it is: the LR picture is the same."""
    size, pictures = 18 + scale, {}
    x = torch.rand(1, 3, 12 * scale, 12 * scale, generator=torch.Generator().manual_seed(0))
    for grid in range(size - 6, size + 4):
        torch.manual_seed(0)
        model = LinearCnnKernel(grid, scale)
        with torch.no_grad():
            for layer in model.layers[:2]:  # of 7 x 7: without their outer taps, 6 rows and columns are empty all round
                middle = layer.weight[..., 3, 3].clone()
                layer.weight.zero_()
                layer.weight[..., 3, 3] = middle
        pictures[grid] = Degradation(scale, grid, 'replicate').forward(x, model().detach())
    for picture in pictures.values():
        torch.testing.assert_close(picture, pictures[size])
