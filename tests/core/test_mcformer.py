"""MCFormer: the released weights' counts and names, shapes, what modulates what; the kernel basis."""

import pathlib

import pytest
import torch
import yaml

from kernelfusion_plugin.core.kernel_basis import kernel_basis
from kernelfusion_plugin.core.kernels import gaussian
from kernelfusion_plugin.core.nets.mcformer import ModulatedTransformer

OPTIONS = pathlib.Path(__file__).resolve().parents[2] / 'options'
RELEASED = {key: value for key, value in yaml.safe_load((OPTIONS / 'blinddiff_released.yml').read_text())[
    'network_g'].items() if key in ('predictor_layers', 'learned_variance', 'upsampling')}
TINY = {'dim': 8, 'num_blocks': (1, 1, 1, 1), 'num_refinement_blocks': 1}
PREFIXES = {'t_embedder', 'patch_embed', 'predictor', 'encoder_level1', 'encoder_level2', 'encoder_level3', 'down1_2',
            'down2_3', 'down3_4', 'latent', 'up4_3', 'up3_2', 'up2_1', 'reduce_chan_level3', 'reduce_chan_level2',
            'decoder_level3', 'decoder_level2', 'decoder_level1', 'refinement', 'k_mlp', 'output'}


def gaussians(size=21, count=60):
    return torch.stack([gaussian(size, sigmas=float(s)) for s in torch.linspace(0.2, 4, count)])


def tiny(**options):
    torch.manual_seed(0)
    return ModulatedTransformer(**{**TINY, 'basis': kernel_basis(gaussians(), 6), **options})


def inputs(batch=2, height=16, width=24, scale=4):
    g = torch.Generator().manual_seed(0)
    return (torch.randn(batch, 3, height, width, generator=g), torch.tensor([3, 700])[:batch],
            torch.rand(batch, 3, height // scale, width // scale, generator=g) * 2 - 1)


def test_the_released_form_has_the_released_weights_names_and_sizes():
    net = ModulatedTransformer(**RELEASED)
    state = net.state_dict()
    assert sum(p.numel() for p in net.parameters()) == 26_509_267 and len(state) == 448
    assert {key.split('.')[0] for key in state} == PREFIXES
    block = {key.removeprefix('latent.7.') for key in state if key.startswith('latent.7.')}
    assert block == {*(f'{norm}.body.{part}' for norm in ('norm1', 'norm2') for part in ('weight', 'bias')),
                     'attn.temperature', *(f'attn.{part}.weight' for part in ('qkv', 'qkv_dwconv', 'project_out')),
                     *(f'ffn.{part}.weight' for part in ('project_in', 'dwconv', 'project_out')),
                     'modulation.1.weight', 'modulation.1.bias'}
    assert state['predictor.13.weight'].shape == (441, 48, 1, 1) and state['k_mlp.0.weight'].shape == (48, 441)
    assert state['predictor.6.weight'].shape == (48, 48, 5, 5) and state['output.weight'].shape == (6, 96, 3, 3)
    assert state['latent.0.attn.temperature'].shape == (8, 1, 1)
    assert state['t_embedder.1.weight'].shape == (192, 48) and state['t_embedder.3.weight'].shape == (48, 192)


@pytest.mark.parametrize('options', [{}, {'basis': None}, {'learned_variance': True}, {**RELEASED, 'basis': None},
                                     {'modulation': False}, {'scale': 2}])
def test_shapes(options):
    net = tiny(**options)
    x_t, t, y = inputs(scale=options.get('scale', 4))
    said = net(x_t, t, y)
    assert said.eps.shape == x_t.shape and said.kernel.shape == (2, 21, 21)
    assert (said.v is None) != net.learned_variance and (said.v is None or said.v.shape == x_t.shape)
    torch.testing.assert_close(said.kernel.sum((1, 2)), torch.ones(2), atol=1e-5, rtol=0)
    for i in range(2):  # an image does not depend on its batch
        alone = net(x_t[i:i + 1], t[i:i + 1], y[i:i + 1])
        torch.testing.assert_close(alone.eps, said.eps[i:i + 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone.kernel, said.kernel[i:i + 1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize('options', [{}, {**RELEASED, 'basis': None}])
def test_all_weights_learn(options):
    net = tiny(**options)
    said = net(*inputs())
    (said.eps.square().mean() + said.kernel.square().sum() + (0 if said.v is None else said.v.mean())).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().any()] == []


def test_the_kernel_modulates_the_blocks_unless_it_is_told_not_to():
    """With an estimator that says something else, eps changes; without modulation it does not."""
    for modulation in (True, False):
        net = tiny(modulation=modulation).eval()
        before = net(*inputs()).eps
        with torch.no_grad():
            net.predictor[9].bias += 1
        assert torch.equal(net(*inputs()).eps, before) != modulation


def test_time_matters_and_both_inputs_reach_the_kernel():
    net = tiny().eval()
    x_t, t, y = inputs()
    said = net(x_t, t, y)
    assert not torch.equal(net(x_t, t + 100, y).eps, said.eps)
    assert torch.equal(net(x_t, t + 100, y).kernel, said.kernel)  # Eq. 15: of y and x_t alone
    assert not torch.equal(net(x_t, t, 0.5 * y).kernel, said.kernel)
    with torch.no_grad():
        net.predictor[0].weight[:, :3] += 0.1  # it starts blind to x_t
    said = net(x_t, t, y)
    assert not torch.equal(net(0.5 * x_t, t, y).kernel, said.kernel)


@pytest.mark.parametrize(('options', 'message'), [
    ({'dim': 7}, 'dim'), ({'heads': (3, 2, 4, 8)}, 'heads'), ({'num_blocks': (1, 1, 1)}, 'four entries'),
    ({'upsampling': 'nearest'}, 'upsampling'), ({'kernel_size': 19}, 'basis')])
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_wrong_sizes():
    x_t, t, y = inputs(height=20)
    with pytest.raises(ValueError, match='multiples of 8'):
        tiny()(x_t, t, y)


def test_basis_of_gaussians():
    k = gaussians(count=200)
    mean, components = kernel_basis(k, 8)
    assert (components.amax(1) == components.abs().amax(1)).all()  # the largest entry is positive
    assert float(mean.sum()) == pytest.approx(1, abs=1e-5) and components.sum(1).abs().max() < 1e-5
    rows = k.flatten(1) - mean
    gram = components @ components.T
    torch.testing.assert_close(gram, gram.diag().diag(), atol=1e-8, rtol=0)
    code = rows @ components.T / gram.diag()
    torch.testing.assert_close(code.square().mean(0), torch.ones(8), atol=1e-3, rtol=0)
    assert (rows - code @ components).abs().sum(1).mean() < 2e-3  # of a kernel's sum of 1
    values = torch.linalg.svdvals(rows.double())[:8] / 200 ** 0.5  # an independent way to the same lengths
    torch.testing.assert_close(components.double().norm(dim=1), values, rtol=1e-3, atol=1e-7)


def test_a_basis_that_cannot_be():
    with pytest.raises(ValueError, match='components'):
        kernel_basis(gaussians(count=5), 6)
    with pytest.raises(ValueError, match='must be'):
        kernel_basis(torch.ones(5, 4, 3), 2)
