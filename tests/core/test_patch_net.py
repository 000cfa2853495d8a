"""PD: receptive field by gradient, sizes, and the conditioning on t in every block."""

import pytest
import torch

from kernelfusion_plugin.core.nets.patch_net import RECEPTIVE_FIELD, PatchDiffusionNet, sinusoidal_embedding


def make(channels):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PatchDiffusionNet(channels).double()


@pytest.mark.parametrize('channels', [128, 64, 8])
def test_receptive_field_is_exactly_15(channels):
    net = make(channels)
    x = torch.randn(1, 3, 31, 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    net(x, torch.tensor([500]))[0, :, 15, 16].sum().backward()
    seen = x.grad[0].abs().sum(0) > 0
    rows, cols = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    half = RECEPTIVE_FIELD // 2
    assert RECEPTIVE_FIELD == 15
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (15 - half, 15 + half, 16 - half, 16 + half)
    assert seen[8:23, 9:24].all()  # the corners too


def test_layers_are_the_papers():
    net = PatchDiffusionNet()
    kernels = [(block.conv1.kernel_size[0], block.conv2.kernel_size[0]) for block in net.blocks]
    assert kernels == [(3, 3)] + [(3, 1)] * 5
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {m.stride for m in convs} == {(1, 1)}
    assert all(block.conv1.out_channels == block.conv2.out_channels == 128 for block in net.blocks)


@pytest.mark.parametrize('size', [(1, 1), (5, 15), (16, 17)])
def test_any_size_goes_in(size):
    net = make(8)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert net(x, torch.tensor([0, 999])).shape == x.shape


def test_an_image_is_its_patches():
    """No global layer: the middle of a 15 x 15 patch comes out as in the whole image."""
    net = make(8)
    x, t = torch.randn(1, 3, 25, 25, dtype=torch.float64), torch.tensor([100])
    torch.testing.assert_close(net(x[..., 5:20, 4:19], t)[..., 7, 7], net(x, t)[..., 12, 11])


def test_samples_of_a_batch_are_independent():
    net = make(8)
    x, t = torch.randn(3, 3, 9, 9, dtype=torch.float64), torch.tensor([5, 300, 800])
    out = net(x, t)
    for i in range(3):
        torch.testing.assert_close(net(x[i:i + 1], t[i:i + 1])[0], out[i])


def test_every_block_is_conditioned_on_t():
    """With the modulation of all other blocks cut, t still reaches the output through this one."""
    x = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    early, late = torch.tensor([10]), torch.tensor([900])
    for only in range(6):
        net = make(8)
        before = net(x, early)
        with torch.no_grad():
            for i, block in enumerate(net.blocks):
                if i != only:
                    block.modulation.weight.zero_()
        assert not torch.allclose(net(x, early), net(x, late)), f'block {only} does not see t'
        with torch.no_grad():
            net.blocks[only].modulation.weight.zero_()
        torch.testing.assert_close(net(x, early), net(x, late))  # and there is no other way
        assert not torch.allclose(net(x, early), before)


def test_gradient_reaches_every_parameter():
    net = make(8)
    net(torch.randn(1, 3, 16, 16, dtype=torch.float64), torch.tensor([300])).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_embedding_tells_steps_apart():
    e = sinusoidal_embedding(torch.arange(1000), 128)
    assert e.shape == (1000, 128)
    assert torch.cdist(e, e).fill_diagonal_(9).min() > 0.1
