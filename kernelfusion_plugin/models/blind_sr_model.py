"""``BlindSRModel``: tests and trains SR networks, with or without kernel estimation, in BasicSR."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from basicsr.losses import build_loss
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from torch import Tensor, nn

from ..core.sections import check_number
from ..entries import Entry
from .adapters import adapter, picture
from .build import build
from .levels import places_of
from .networks import Sizes, check_weights, enlarge, load_strictly, network_options, size_multiple
from .options import FileOptions, file_options, read_scale
from .outputs import Restored
from .training import check_training, pairs_kernel_size
from .validation import ImageByImage


@dataclass(frozen=True)
class BlindSROptions(FileOptions):
    """Keys of the section ``blind_sr:``.

    Attributes:
        tile: side of tiles in LR pixels; 0: no tiles; auto: tiles only above 1 Mpx.
        overlap: LR pixels of context around a tile, on each side.
    """

    SECTION: ClassVar[str] = 'blind_sr'

    tile: int | str = 'auto'
    overlap: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tile != 'auto':
            check_number('blind_sr.tile', self.tile, 0, whole=True)
        check_number('blind_sr.overlap', self.overlap, 0, whole=True)


def check_pairs(net: nn.Module, network: Mapping[str, Any], opt: Mapping[str, Any]) -> None:
    """Check that ``net`` can be trained with the given losses and training pairs.

    Args:
        network: the options from which ``net`` was built.

    Raises:
        ValueError: it cannot; the message names the option.
    """
    train, pairs, kind = opt['train'], opt['datasets']['train'], network['type']
    if not train.get('pixel_opt') and not train.get('perceptual_opt'):
        raise ValueError("'train' needs pixel_opt or perceptual_opt, the loss on the picture")
    side, multiple = pairs.get('gt_size'), opt['scale'] * size_multiple(network)
    if side and side % multiple:
        raise ValueError(f'datasets:train:gt_size must be a multiple of {multiple} for {kind}, got {side}')
    reader = adapter(net)
    if reader.learns_kernels:
        reader.check_pairs(net, pairs_kernel_size(opt, kind), side and side // opt['scale'])


class BlindSRModel(ImageByImage, SRModel):
    """An SR network trained on many pictures: SwinIR, RRDBNet, DAN, DANv2, DCLS or another one.

    Testing takes greyscale and colour pictures of any size, saves the network's kernel estimate, if any, and writes
    the same files and tables as ``KernelFusionModel``. Training minimises ``train.pixel_opt`` on the picture (DAN: of
    the last round), ``train.perceptual_opt`` if given and, for networks that estimate kernels, ``train.kernel_opt``
    (default L1) on these; the data set must then yield the true kernels, as RandomBlurDataset does.

    Options, besides BasicSR's own: ``scale``; ``network_g``; ``path.pretrain_network_g``, loaded strictly (key
    ``params_ema`` or ``params``, or none; ``path.param_key_g`` chooses); ``blind_sr:``, see :class:`BlindSROptions`.

    Raises:
        ValueError: an option is unknown or out of range, or weights are missing or do not fit the network.
    """

    PLACES = places_of(BlindSROptions.SECTION, BlindSROptions)

    def __init__(self, opt: dict[str, Any]) -> None:
        self.scale, files, opt['network_g'], net = self.read_options(opt)
        BaseModel.__init__(self, opt)
        self.start(files)
        self.weights = opt['path'].get('pretrain_network_g')
        self.kind = opt['network_g']['type']
        self.sizes = Sizes(self.scale, size_multiple(opt['network_g']), self.files.tile, self.files.overlap)
        self.net_g = self.model_to_device(net)
        self.adapter = adapter(self.net)
        if self.weights:
            self.load_network(self.net_g, self.weights, param_key=opt['path'].get('param_key_g'))
        elif not self.is_train:
            self.logger.warning(f'{self.kind} has random weights, as path.pretrain_network_g is not set')
        self._check_pca()
        if self.is_train:
            self.init_training_settings()

    @classmethod
    def read_options(cls, opt: Mapping[str, Any]) -> tuple[int, BlindSROptions, dict[str, Any], nn.Module]:
        """Scale, section ``blind_sr:``, network options and the network; see :class:`.validation.ImageByImage`."""
        super().read_options(opt)
        scale, files = read_scale(opt), file_options(BlindSROptions, opt)
        check_weights(opt['path'].get('pretrain_network_g'))  # before building a large network
        network = network_options(opt)
        net = build('network_g', network)
        if opt['is_train']:
            check_training(cls, opt)
            check_pairs(net, network, opt)
        return scale, files, network, net

    @property
    def net(self) -> nn.Module:
        """The network without its multi-GPU wrapper."""
        return self.get_bare_model(self.net_g)

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = None) -> None:
        """Load weights strictly. ``param_key`` None: prefers EMA weights for testing, the plain ones for training."""
        keys = ('params', 'params_ema') if self.is_train else ('params_ema', 'params')
        if param_key == 'params_ema':  # BasicSR asks for this key when it loads the EMA
            keys = ('params_ema', 'params')
        elif param_key is not None:
            keys = (param_key,)
        load_strictly(self.get_bare_model(net), load_path, keys)
        self.logger.info(f'{self.kind}: weights from {load_path}')

    def init_training_settings(self) -> None:
        """Set up losses, EMA, optimizer and schedule from ``train:`` as BasicSR's SRModel does, and the kernel loss."""
        options = self.opt['train'].get('kernel_opt') or {'type': 'L1Loss', 'loss_weight': 1.0}
        self.cri_kernel = build_loss(options).to(self.device)
        super().init_training_settings()

    def optimize_parameters(self, current_iter: int) -> None:
        """One optimizer step on the current batch."""
        self.optimizer_g.zero_grad()
        output = self.net_g(self.lq)
        self.output = picture(output)
        losses = self._losses(output)
        sum(losses.values()).backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(losses)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def test(self) -> None:
        """Set ``estimate``, ``output`` and ``kernel`` (B, K, K); uses the EMA weights if there are any."""
        net = getattr(self, 'net_g_ema', self.net_g)
        training = net.training
        net.eval()
        try:
            with torch.no_grad():
                self.estimate, side = enlarge(lambda y: self.adapter.estimate(self.get_bare_model(net), net(y)),
                                              self._colours(self.lq), self.sizes)
        finally:
            net.train(training)
        if side:
            self.logger.info(f'{self.title}: processed in tiles of {side} x {side}; the kernel, if any, is their mean')
        self.set_result(self.estimate.sr.clamp(0, 1), self.estimate.kernel)

    def restore_entry(self, entry: Entry, dataset: str, save_img: bool) -> dict[str, Any]:
        """Restore one image, write its results, and return its row of ``scores.csv``."""
        data = self.read_entry(entry)
        k_true = self.true_kernel(entry, data)
        self.feed_data(data)
        start = time.perf_counter()
        self.test()
        visuals = self.get_current_visuals()  # on the CPU, so the GPU has finished
        seconds = time.perf_counter() - start
        kernel = visuals.pop('kernel', None)
        image = Restored(entry.name, visuals, self.scale, title=f'x{self.scale}, {self._weights_name()}',
                         kernel=None if kernel is None else kernel[0], k_true=k_true, method=self.kind,
                         kernel_space=self.estimate.kernel_space)
        row = self.written(entry, image, self.folder(dataset, save_img),
                           {'seconds_phase1': 0.0, 'seconds_phase2': seconds, 'solver': self.kind,
                            'preset': self._weights_name()})
        self.lq = self.gt = self.output = self.kernel = self.estimate = None
        return row

    def about_run(self) -> dict[str, Any]:
        """``network`` and ``weights`` of ``summary.json``."""
        return {'network': self.kind, 'weights': self._weights_name()}

    def _losses(self, output: Any) -> OrderedDict[str, Tensor]:  # noqa: ANN401
        losses: OrderedDict[str, Tensor] = OrderedDict()
        if self.cri_pix:
            losses['l_pix'] = self.cri_pix(self.output, self.gt)
        if self.cri_perceptual:
            parts = zip(('l_percep', 'l_style'), self.cri_perceptual(self.output, self.gt), strict=True)
            losses.update((name, value) for name, value in parts if value is not None)
        if self.adapter.learns_kernels:
            if self.k_true is None:
                raise ValueError(f'{self.kind} learns kernels: the training set must yield them (RandomBlurDataset)')
            losses['l_kernel'] = self.adapter.kernel_loss(self.net, output, self.k_true, self.lq, self.gt,
                                                          self.cri_kernel)
        return losses

    def _colours(self, lq: Tensor) -> Tensor:
        """lq with as many channels as the network takes; greyscale is replicated."""
        given = (self.opt['network_g'].get(name) for name in ('in_nc', 'in_chans', 'num_in_ch'))
        wanted = next((int(number) for number in given if number is not None), 3)
        if lq.shape[1] == wanted:
            return lq
        if lq.shape[1] != 1:
            raise ValueError(f'the network takes {wanted} channel{"s" if wanted > 1 else ""}, but the picture has '
                             f'{lq.shape[1]}')
        return lq.expand(-1, wanted, -1, -1)

    def _check_pca(self) -> None:
        if hasattr(self.net, 'has_pca') and not self.net.has_pca():
            raise ValueError(f'{self.kind} needs a PCA matrix: set path.pretrain_network_g to weights with one, or '
                             'network_g.pca_matrix_path to a file made by "kernelfusion pca"')

    def _weights_name(self) -> str:
        return Path(self.weights).stem if self.weights else 'trained here' if self.is_train else 'random weights'
