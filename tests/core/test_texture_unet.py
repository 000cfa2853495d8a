import pytest
import torch
from torch import nn

from kernelfusion_plugin.core.nets.texture_unet import TextureUNet
from kernelfusion_plugin.core.texture_prior import load_texture_prior

SMALL = (4, 6, 8)


def make(channels=SMALL):
    """All weights random and in float64: freshly built, the net gives zeros."""
    torch.manual_seed(0)
    net = TextureUNet(channels).double()
    for value in net.parameters():
        nn.init.normal_(value, std=0.1)
    return net


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize('channels', [(4,), (4, 6), SMALL, (4, 4, 6, 6)])
@pytest.mark.parametrize('size', [(1, 1), (3, 2), (17, 33), (32, 32), (45, 20)])
def test_any_size_goes_in_and_comes_out(channels, size):
    out = make(channels)(random(2, 3, *size), torch.tensor([0, 399]))
    assert out.shape == (2, 3, *size) and torch.isfinite(out).all()


@pytest.mark.parametrize('size', [(16, 13), (15, 16), (9, 18)])
def test_other_sizes_are_continued_at_the_lower_right_and_cut(size):
    net, x, t = make(), random(1, 3, *size), torch.tensor([50])
    down, right = (-n % 4 for n in size)
    wide = torch.cat([x, *[x[..., -1:, :]] * down], dim=-2)
    wide = torch.cat([wide, *[wide[..., -1:]] * right], dim=-1)
    assert wide.shape[-2] % 4 == wide.shape[-1] % 4 == 0
    torch.testing.assert_close(net(x, t), net(wide, t)[..., :size[0], :size[1]])


def test_a_new_net_says_velocity_zero():
    out = TextureUNet(SMALL)(torch.randn(1, 3, 16, 16), torch.tensor([10]))
    assert torch.equal(out, torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize('channels', [(4,), (4, 6), SMALL])
def test_the_reach_is_finite_and_no_farther_than_it_says(channels):
    net = make(channels)
    side = 2 * net.reach + 24
    for at in (side // 2, side // 2 + 1):
        x = random(1, 3, side, side).requires_grad_()
        net(x, torch.tensor([100]))[0, :, at, at].sum().backward()
        seen = x.grad[0].abs().sum(0).nonzero() - at
        farthest = int(seen.abs().max())
        assert net.reach / 2 < farthest <= net.reach


def test_a_piece_is_that_of_the_whole():
    """Away from its edges by the reach, at a multiple of the coarsest level."""
    net = make()
    x, t, n = random(1, 3, 2 * net.reach + 40, 2 * net.reach + 24), torch.tensor([100]), net.reach
    torch.testing.assert_close(net(x[..., 8:, 4:], t)[..., n:-n, n:-n], net(x, t)[..., 8 + n:-n, 4 + n:-n])


def test_samples_of_a_batch_are_independent():
    net = make()
    x, t = random(3, 3, 9, 9), torch.tensor([5, 300, 399])
    for i in range(3):
        torch.testing.assert_close(net(x[i:i + 1], t[i:i + 1])[0], net(x, t)[i])


def test_one_picture_without_gradient_is_that_with_one():
    """Where no gradient is asked for, the modulation is put into the weights; the input stays as it was."""
    net, x = make(), random(1, 3, 17, 20)
    before, weights = x.clone(), {name: value.clone() for name, value in net.named_parameters()}
    for t in (torch.tensor([5]), torch.tensor([390])):
        expected = net(x, t)
        with torch.no_grad():
            torch.testing.assert_close(net(x, t), expected.detach(), rtol=1e-10, atol=1e-10)
    assert torch.equal(x, before) and all(torch.equal(value, weights[name]) for name, value in net.named_parameters())


def test_every_block_is_conditioned_on_t():
    """With the modulation of all other blocks cut, t still reaches the output through this one."""
    x, early, late = random(1, 3, 8, 8), torch.tensor([10]), torch.tensor([390])
    count = sum(name.endswith('modulation.weight') for name, _ in make().named_parameters())
    assert count == 2 * (2 + 1 + 2)
    for only in range(count):
        net = make()
        with torch.no_grad():
            for i, layer in enumerate(m for name, m in net.named_modules() if name.endswith('modulation')):
                if i != only:
                    layer.weight.zero_()
        assert not torch.allclose(net(x, early), net(x, late)), f'block {only} does not see t'


def test_gradient_reaches_every_parameter():
    net = make()
    net(random(1, 3, 16, 20), torch.tensor([300])).square().mean().backward()
    for name, value in net.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, name


def test_the_weights_that_ship_are_this_nets():
    shapes = {name: value.shape for name, value in TextureUNet().state_dict().items()}
    shipped = load_texture_prior().net.state_dict()
    assert {name: value.shape for name, value in shipped.items()} == shapes
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in shipped.values())
