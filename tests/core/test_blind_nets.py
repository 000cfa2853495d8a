"""DAN, DANv2, DCLS: counts of the published weights, shapes, gradients, and their equations written out anew."""

import pytest
import torch
import torch.nn.functional as F

from kernelfusion_plugin.core.nets import danv2, dcls
from kernelfusion_plugin.core.nets.dan import DAN
from kernelfusion_plugin.core.nets.danv2 import DANv2
from kernelfusion_plugin.core.nets.dcls import DCLS

PUBLISHED = {  # parameters, keys: of the official networks
    'DAN x4': (DAN, {}, 4_329_511, 379),
    'DANv2 x4': (DANv2, {}, 4_707_708, 463),
    'DANv2 x4 anisotropic': (DANv2, {'input_para': 15, 'kernel_size': 31}, 4_741_828, 463),
    'DCLS x4': (DCLS, {}, 13_626_187, 964),
    'DCLS x4 anisotropic': (DCLS, {'kernel_size': 31}, 19_054_027, 966),
}
SMALL = {
    DAN: {'nf': 16, 'nb': 2, 'input_para': 4, 'kernel_size': 11, 'loop': 2},
    DANv2: {'nf': 8, 'nb': 2, 'ng': 2, 'input_para': 4, 'kernel_size': 11, 'loop': 2},
    DCLS: {'nf': 16, 'nb': 2, 'ng': 2, 'input_para': 16, 'kernel_size': 11},
}


def make(kind, seed=0, **changes):
    options = {**SMALL[kind], **changes}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind is not DCLS:
            options['pca'] = torch.randn(options['kernel_size'] ** 2, options['input_para'])
        return kind(**options).double()


def picture(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def results(net, y):
    """Picture and kernel, or code, of the last round."""
    out = net(y)
    return (out[0], out[1]) if isinstance(net, DCLS) else (out[0][-1], out[-1][-1])


@pytest.mark.parametrize('name', PUBLISHED)
def test_parameters_and_keys_are_those_of_the_published_weights(name):
    kind, options, parameters, keys = PUBLISHED[name]
    net = kind(**options)
    assert sum(p.numel() for p in net.parameters()) == parameters and len(net.state_dict()) == keys
    again = kind(**options)
    again.load_state_dict(net.state_dict(), strict=True)


@pytest.mark.parametrize('kind', [DAN, DANv2])
def test_buffers_of_dan(kind):
    net = kind()
    assert {name: tuple(b.shape) for name, b in net.named_buffers()} == {
        'encoder': (1, 441, 10), 'init_kernel': (1, 21, 21), 'init_ker_map': (1, 10)}
    assert not net.has_pca()
    matrix = torch.randn(441, 10)
    net.load_state_dict({**net.state_dict(), 'encoder': matrix})  # without the leading 1, as in the file of the matrix
    assert net.has_pca() and torch.equal(net.encoder[0], matrix)
    assert torch.equal(kind(pca=matrix).init_ker_map[0], matrix[220])
    with pytest.raises(ValueError, match='must be 441 x 10, got 225 x 10'):
        kind(pca=torch.zeros(225, 10))


@pytest.mark.parametrize('kind', SMALL)
@pytest.mark.parametrize(('scale', 'size', 'colours', 'batch'),
                         [(4, (13, 9), 3, 2), (3, (8, 11), 1, 1), (2, (7, 7), 3, 1)])
def test_shapes(kind, scale, size, colours, batch):
    net = make(kind, upscale=scale, in_nc=colours)
    y = picture(batch, colours, *size)
    x, k = results(net, y)
    assert x.shape == (batch, colours, scale * size[0], scale * size[1])
    assert k.shape == {DAN: (batch, 4), DANv2: (batch, 121), DCLS: (batch, 1, 11, 11)}[kind]
    if kind is not DAN:
        torch.testing.assert_close(k.flatten(1).sum(1), torch.ones(batch, dtype=torch.float64))
    for i in range(batch):
        torch.testing.assert_close(results(net, y[i:i + 1])[0][0], x[i])


@pytest.mark.parametrize('kind', SMALL)
def test_gradients_reach_all_parameters(kind):
    reached = set()
    for seed in range(5):  # a narrow attention may be off (ReLU) for one picture and some weights
        net = make(kind, seed)
        x, k = results(net, picture(2, 3, 12, 13, seed=seed))
        weights = picture(*k.shape, seed=2)  # a plain sum would be constant: kernels sum to 1
        ((x - 0.5).square().sum() + (k * weights).sum()).backward()
        reached |= {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name for name, _ in net.named_parameters()} == reached


@pytest.mark.parametrize('kind', SMALL)
def test_no_gradient_crosses_from_one_network_to_the_other(kind):
    net = make(kind)
    x, _ = results(net, picture(1, 3, 12, 13))
    x.sum().backward()
    assert all(p.grad is None for p in net.Estimator.parameters())
    assert all(p.grad is not None for p in net.Restorer.parameters())


@pytest.mark.parametrize('kind', [DAN, DANv2])
def test_the_rounds_share_their_weights(kind):
    """Three rounds are: Restorer and Estimator, called in turn by hand."""
    net, y = make(kind, loop=3), picture(2, 3, 10, 9)
    out = net(y)
    code = net.init_ker_map.expand(2, -1)
    for i in range(3):
        x = net.Restorer(y, code)
        found = net.Estimator(x, y)
        code = found if kind is DAN else found @ net.encoder[0]
        torch.testing.assert_close(out[0][i], x)
        torch.testing.assert_close(out[1][i], code)
    assert not torch.allclose(out[0][0], out[0][2])


@pytest.mark.parametrize('kind', SMALL)
def test_all_tensors_are_on_the_inputs_device(kind):
    """On the device 'meta', which refuses to mix with another one."""
    net = make(kind).to('meta')
    assert all(part.device.type == 'meta' for part in results(net, picture(1, 3, 8, 9).to('meta')))


def in_place(body, f, g):
    """A group as the published weights know it: the list is overwritten by its blocks, then added to itself."""
    x = [f, g]
    y = x
    for block in body:
        y[0], y[1] = block(y[0], y[1])
    y[0] = x[0] + y[0]
    y[1] = x[1] + y[1]
    return y


def test_groups_return_twice_their_body():
    f, g = picture(1, 8, 6, 7), picture(1, 8, 1, 1, seed=1)
    group = danv2.DualPathGroup(danv2.DualPathBlock(8, 8, 3, 1) for _ in range(2)).double()
    for one, other in zip(group(f, g), in_place(group.body, f, g), strict=True):
        torch.testing.assert_close(one, other)
    f, g = picture(1, 16, 6, 7), picture(1, 8, 6, 7, seed=1)
    group = dcls.DualPathGroup(dcls.DualPathBlock(16, 8) for _ in range(2)).double()
    for one, other in zip(group(f, g), in_place(group.body, f, g), strict=True):
        torch.testing.assert_close(one, other)


def test_dcls_kernel_is_the_filters_one_after_the_other():
    """An impulse through each picture's own chain of filters, without groups, is its kernel."""
    net = make(DCLS, in_nc=1).Estimator
    with torch.no_grad():
        for layer in net.dec:
            layer.weight.normal_(generator=torch.Generator().manual_seed(0))
    y = picture(2, 1, 9, 9)
    k = net(y)
    for i in range(2):
        latent = net.tail(net.body(net.head(y[i:i + 1])) + net.head(y[i:i + 1]))[0]
        impulse = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
        impulse[..., 15, 15] = 1
        for layer, shape in zip(net.dec, net.shapes, strict=True):
            impulse = F.conv2d(impulse, layer(latent).reshape(shape), padding=shape[-1] // 2)
        expected = impulse[0, 0].flip(0, 1)[10:21, 10:21]
        torch.testing.assert_close(k[i, 0], expected / expected.sum())


def test_dcls_deconvolution_by_its_official_steps():
    """Complex division per channel, psf laid round the corner by hand."""
    head = dcls.Deconvolution(16, 4).double()
    f, k = picture(2, 16, 12, 9), picture(2, 1, 5, 5, seed=1)
    g = head.reduce_feature(f)
    p = head.grad_filter(g).exp()
    p = p - p.mean((2, 3), keepdim=True)
    wide = F.pad(g, (5, 5, 5, 5), mode='replicate')

    def otf(psf):
        grid = torch.zeros(wide.shape[-2:], dtype=torch.float64)
        half = psf.shape[-1] // 2
        for i in range(psf.shape[-1]):
            for j in range(psf.shape[-1]):
                grid[(i - half) % grid.shape[0], (j - half) % grid.shape[1]] = psf[i, j]
        return torch.fft.fft2(grid)

    clear = torch.zeros_like(g)
    for b in range(2):
        for c in range(4):
            K, P = otf(k[b, 0]), otf(p[b, c])
            found = torch.fft.ifft2(K.conj() / (K.abs() ** 2 + P.abs() ** 2) * torch.fft.fft2(wide[b, c])).real
            clear[b, c] = found[5:-5, 5:-5]
    torch.testing.assert_close(head(f, k), head.expand_feature(clear))


def test_dcls_starts_without_blur():
    torch.manual_seed(0)
    for size in dcls.FILTERS:
        net = DCLS(nf=16, nb=1, ng=1, input_para=16, kernel_size=size)
        k = net.Estimator(picture(1, 3, 16, 16).float())[0, 0].detach()
        assert float(k[size // 2, size // 2]) > 0.5 and float(k.abs().sum()) < 3


def test_softmax_kernels_are_positive():
    assert bool((results(make(DCLS, softmax=True), picture(1, 3, 9, 9))[1] > 0).all())


@pytest.mark.parametrize(('kind', 'changes', 'message'), [
    (DAN, {'upscale': 5}, 'upscale must be 2, 3 or 4, got 5'),
    (DCLS, {'kernel_size': 15}, 'kernel_size of DCLS must be one of 11, 21, 31, got 15'),
    (DCLS, {'nf': 8}, 'nf is too small: channel attention divides 2 channels by 4'),
])
def test_networks_that_there_are_not(kind, changes, message):
    with pytest.raises(ValueError, match=message):
        make(kind, **changes)


def test_dcls_says_that_a_picture_is_too_small():
    with pytest.raises(ValueError, match='at least 7 x 7, got 20 x 6'):
        make(DCLS)(picture(1, 3, 6, 20))
