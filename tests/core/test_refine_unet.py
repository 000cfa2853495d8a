import pytest
import torch
from torch import nn

from kernelfusion_plugin.core.nets.refine_unet import RefineUNet

SMALL = (4, 6, 8, 10, 12)


@pytest.mark.parametrize('size', [(1, 1), (17, 33), (32, 32), (45, 20), (64, 80)])
def test_any_size_goes_in_and_comes_out(size):
    torch.manual_seed(0)
    out = RefineUNet(SMALL)(torch.rand(1, 3, *size) * 2 - 1)
    assert out.shape == (1, 3, *size)
    assert out.abs().max() <= 1


def test_architecture_is_that_of_the_appendix():
    net = RefineUNet()
    convs = [m for block in [*net.down, *net.up] for m in block if isinstance(m, nn.Conv2d)]
    assert len(convs) == 2 * (5 + 4)
    assert [block[0].out_channels for block in net.down] == [32, 64, 128, 256, 512]
    assert [block[0].in_channels for block in net.up] == [512 + 256, 256 + 128, 128 + 64, 64 + 32]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == len(convs)


def test_a_multiple_of_16_is_not_padded():
    torch.manual_seed(0)
    net = RefineUNet(SMALL)
    seen = []
    net.down[0].register_forward_hook(lambda module, args, output: seen.append(args[0].shape[-2:]))
    net(torch.rand(1, 3, 48, 64))
    net(torch.rand(1, 3, 49, 63))
    assert [tuple(size) for size in seen] == [(48, 64), (64, 64)]


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    net = RefineUNet(SMALL)
    net(torch.rand(1, 3, 32, 48)).square().mean().backward()
    for name, value in net.named_parameters():
        assert value.grad is not None and torch.isfinite(value.grad).all(), name


def test_learns_an_image():
    torch.manual_seed(0)
    net = RefineUNet(SMALL)
    x = torch.linspace(-0.8, 0.8, 32 * 32 * 3).reshape(1, 32, 32, 3).permute(0, 3, 1, 2)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (net(x) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10


def test_no_level_is_refused():
    with pytest.raises(ValueError, match='at least one level'):
        RefineUNet(())
