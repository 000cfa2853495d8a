"""LPIPS as a metric of the toolbox; with a stand-in for the package, and with the package where it is installed."""

import sys
import types

import numpy as np
import pytest
import torch
from glue_helpers import run_toolbox, scores, texture, toy_options, write_pair

from kernelfusion_plugin.metrics import calculate_lpips, perceptual
from kernelfusion_plugin.models.toolbox import check_metrics


@pytest.fixture
def lpips(monkeypatch):
    """A package lpips whose distance is the mean difference of the red channel; it keeps what it was given."""
    class Distance(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            self.net, self.given = net, []
            module.made.append(self)

        def forward(self, x, x_true):
            self.given.append((x, x_true))
            return (x - x_true)[:, :1].abs().mean(dim=(1, 2, 3), keepdim=True)

    module = types.SimpleNamespace(LPIPS=Distance, made=[])
    monkeypatch.setitem(sys.modules, 'lpips', module)
    perceptual._network.cache_clear()
    yield module
    perceptual._network.cache_clear()


def test_images_are_rgb_from_minus_1_to_1_without_their_border(lpips):
    a, b = (np.zeros((40, 60, 3), np.uint8) for _ in range(2))
    a[2:-2, 3:-3, 2] = 255  # red in BGR, inside 5 % of each side
    a[:2] = 77
    assert calculate_lpips(a, b) == 2
    x, x_true = lpips.made[0].given[0]
    assert x.shape == (1, 3, 36, 54) and x.dtype == torch.float32 and x_true.unique().tolist() == [-1]
    assert [float(channel.mean()) for channel in x[0]] == [1, -1, -1]
    assert calculate_lpips(a.transpose(2, 0, 1), b.transpose(2, 0, 1), border=0, net='vgg', input_order='CHW') < 2
    assert [each.net for each in lpips.made] == ['alex', 'vgg']


def test_a_column_of_its_own(lpips, tmp_path, monkeypatch):
    write_pair(tmp_path, 'one', 1)
    opt = toy_options(tmp_path, model_type='BicubicModel',
                      val__metrics={'lpips': {'type': 'calculate_lpips', 'better': 'lower'}})
    assert run_toolbox(opt, tmp_path, monkeypatch) == 0
    assert float(scores(tmp_path)[0]['val_lpips']) > 0 and len(lpips.made) == 1


def test_what_is_missing_is_said_before_the_work(lpips, monkeypatch):
    opt = {'val': {'metrics': {'lpips': {'type': 'calculate_lpips', 'bordr': 4}}}}
    with pytest.raises(ValueError, match="did you mean 'border'"):
        check_metrics(opt)
    opt['val']['metrics']['lpips'] = {'type': 'calculate_lpips', 'net': 'resnet'}
    with pytest.raises(ValueError, match='net of calculate_lpips must be one of alex'):
        check_metrics(opt)
    opt['val']['metrics']['lpips'] = {'type': 'calculate_lpips'}

    def no_weights(**_):
        raise OSError('<urlopen error no route to host>')

    lpips.LPIPS = no_weights
    with pytest.raises(ValueError, match='the weights of alex are not available: <urlopen'):
        check_metrics(opt)
    monkeypatch.setitem(sys.modules, 'lpips', None)
    with pytest.raises(ValueError, match=r"pip install 'kernelfusion-plugin\[perceptual\]'"):
        check_metrics(opt)


def test_the_package_itself(monkeypatch):
    """With random weights of AlexNet, so that nothing is fetched."""
    package = pytest.importorskip('lpips')
    net = package.LPIPS(net='alex', pnet_rand=True, verbose=False).eval()
    monkeypatch.setattr(perceptual, '_network', lambda name: net)
    a, b = texture(80, 90, 1), texture(80, 90, 2)
    x, y = (torch.from_numpy(z[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for z in (a, b))
    assert calculate_lpips(a, a) == 0
    with torch.no_grad():
        assert calculate_lpips(a, b, border=0) == pytest.approx(float(net(x, y)), rel=1e-5)
