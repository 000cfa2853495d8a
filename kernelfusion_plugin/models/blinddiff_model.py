"""``BlindDiffModel``: trains MCFormer with Algorithm 1 of BlindDiff and restores images with Algorithm 2."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from torch import Tensor, nn

from ..atomic import write_atomically
from ..core.blinddiff import BlindDiffConfig, training_loss
from ..core.blinddiff_sampling import SampleState, image_generator, sample
from ..core.diffusion import noise_like
from ..core.kernel_align import normalise
from ..core.restore import Progress
from ..core.sections import section_of
from ..entries import Entry
from .blinddiff_options import BLINDDIFF, BlindDiffGlue, build_net, load_into, parse_section
from .options import read_scale
from .outputs import Restored
from .training import check_training, pairs_kernel_size
from .validation import ImageByImage


class BlindDiffModel(ImageByImage, BaseModel):
    """BlindDiff (Li et al. 2024) as a BasicSR model.

    Training needs a data set that yields ``lq``, ``gt`` and ``kernel`` (RandomBlurDataset). Its random numbers depend
    only on ``manual_seed``, iteration and rank, so a resumed run ends with the same weights (on a GPU, up to
    rounding). Options, besides BasicSR's own: ``scale``; ``network_g`` (MCFormer); ``blinddiff:``, keys of
    :class:`~kernelfusion_plugin.core.blinddiff.BlindDiffConfig` and of :class:`.blinddiff_options.BlindDiffGlue`.

    Raises:
        ValueError: an option is unknown or out of range, or weights are missing or do not fit the network.
    """

    PLACES = BLINDDIFF

    def __init__(self, opt: dict[str, Any]) -> None:
        self.scale, (self.config, files, self.preset), net = self.read_options(opt)
        super().__init__(opt)
        self.start(files)
        self.schedule, self.together = self.config.schedule(), self.files.batch
        self.net_g = self.model_to_device(net)
        path = opt['path'].get('pretrain_network_g')
        if path:
            wanted = 'params' if self.is_train else opt['path'].get('param_key_g', 'params_ema')
            load_into(self.get_bare_model(self.net_g), path, wanted)
        self.ahead: dict[int, dict[str, Any]] = {}
        if self.is_train:
            self.start_training(path)
        else:
            self.net_g.requires_grad_(False)

    @classmethod
    def read_options(cls, opt: Mapping[str, Any]
                     ) -> tuple[int, tuple[BlindDiffConfig, BlindDiffGlue, str], nn.Module]:
        """Scale, section ``blinddiff:`` and the network; see :class:`.validation.ImageByImage`."""
        super().read_options(opt)
        scale, section = read_scale(opt), parse_section(section_of(opt, 'blinddiff'))
        if not opt['is_train'] and not opt['path'].get('pretrain_network_g'):
            raise ValueError('path.pretrain_network_g must name trained weights of MCFormer, which BlindDiff '
                             'needs; to train some, see options/train_blinddiff_iso.yml')
        net = build_net(opt, scale)
        if opt['is_train']:
            check_training(cls, opt)
            size, own = pairs_kernel_size(opt, 'BlindDiff'), getattr(net, 'kernel_size', None)
            if own is not None and size not in (None, own):
                raise ValueError(f"the training set's kernels are {size} x {size}, but network_g.kernel_size is {own}: "
                                 'they must be equal')
        return scale, section, net

    # Training

    def start_training(self, pretrained: str | None) -> None:
        """Set up the moving average of the weights, the optimizer and the learning-rate schedule."""
        options = self.opt['train']
        self.net_g.train()
        self.ema_decay = float(options.get('ema_decay', 0))
        if self.ema_decay > 0:
            self.net_g_ema = build_net(self.opt, self.scale).to(self.device).eval().requires_grad_(False)
            if pretrained:
                load_into(self.net_g_ema, pretrained, 'params_ema')
            else:
                self.net_g_ema.load_state_dict(self.get_bare_model(self.net_g).state_dict())
        optimizer = dict(options['optim_g'])
        self.optimizer_g = self.get_optimizer(optimizer.pop('type'), list(self.net_g.parameters()), **optimizer)
        self.optimizers.append(self.optimizer_g)
        self.setup_schedulers()

    def optimize_parameters(self, current_iter: int) -> None:
        """Lines 2 to 7 of Algorithm 1 on the current batch.

        Raises:
            ValueError: the batch lacks ground truth or kernels.
        """
        if self.gt is None or self.k_true is None:
            raise ValueError('BlindDiff is trained on pairs and their kernels: datasets.train.type must be '
                             'RandomBlurDataset, or another that yields lq, gt and kernel')
        rank = self.opt.get('rank', 0)
        generator = image_generator(int(self.opt['manual_seed'] or 0), f'iteration {current_iter}, rank {rank}',
                                    self.device)
        x0, y = self.gt * 2 - 1, self.rgb(self.lq)
        t = torch.randint(self.schedule.steps, (len(x0),), generator=generator, device=self.device)
        eps = noise_like(x0, generator)
        losses = training_loss(self.net_g, x0, y, self.k_true, t, eps, self.schedule, self.config)
        self.optimizer_g.zero_grad()
        losses.total.backward()
        self.optimizer_g.step()
        if self.ema_decay > 0:
            self.model_ema(self.ema_decay)
        parts = {'l_noise': losses.noise, 'l_kernel': losses.kernel, 'l_variance': losses.variance}
        self.log_dict = self.reduce_loss_dict(OrderedDict((name, value.detach()) for name, value in parts.items()
                                                          if value is not None))

    def save(self, epoch: int, current_iter: int) -> None:
        """Save weights (``params``, ``params_ema``) and training state to the files that BasicSR uses."""
        if self.opt.get('rank', 0) != 0:
            return
        nets = {'params': self.get_bare_model(self.net_g)}
        if self.ema_decay > 0:
            nets['params_ema'] = self.net_g_ema
        weights = {key: {name: value.cpu() for name, value in net.state_dict().items()} for key, net in nets.items()}
        number = 'latest' if current_iter == -1 else current_iter
        write_atomically(Path(self.opt['path']['models'], f'net_g_{number}.pth'),
                         lambda file: torch.save(weights, file))
        if current_iter != -1:
            state = {'epoch': epoch, 'iter': current_iter, 'optimizers': [o.state_dict() for o in self.optimizers],
                     'schedulers': [s.state_dict() for s in self.schedulers]}
            write_atomically(Path(self.opt['path']['training_states'], f'{current_iter}.state'),
                             lambda file: torch.save(state, file))

    # Restoration

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Also take ``lq_path`` (B paths) and, if known, ``name`` (B), see :class:`.validation.ImageByImage`."""
        super().feed_data(data)
        paths = data.get('lq_path') or [''] * len(self.lq)
        self.names = list(data.get('name') or (Path(path).stem for path in paths))

    def test(self) -> None:
        """Run Algorithm 2 on the batch; sets ``output`` (B, C, s·h, s·w) and ``kernel`` (B, K, K)."""
        if self.files.kernel_oracle and self.k_true is None:
            raise ValueError(f'blinddiff.kernel_oracle needs true kernels, but that of {self.names[0]!r} is unknown')
        net = self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)
        training = net.training
        net.eval()
        generators = [image_generator(self.config.seed, name, self.device) for name in self.names]
        states = sample(net, self.rgb(self.lq), self.scale, self.config, generators,
                        self.k_true if self.files.kernel_oracle else None)
        state = self._drain(states)
        net.train(training)
        self.set_result((state.x_t.clamp(-1, 1) + 1) / 2,
                        torch.stack([normalise(k.clamp_min(0)) for k in state.kernel.double().cpu()]).float())

    def _drain(self, states: Any) -> SampleState:  # noqa: ANN401
        """Run all steps and show their progress."""
        show, start = self.progress(self.title or ', '.join(self.names)), time.perf_counter()
        try:
            for state in states:
                show(Progress('blinddiff', state.step, state.total, float(state.residual.mean()),
                              time.perf_counter() - start))
        finally:
            show.close()
        self.seconds = (time.perf_counter() - start) / len(self.names)
        return state

    def restore_entry(self, entry: Entry, dataset: str, save_img: bool) -> dict[str, Any]:
        """Restore one image, write its results, and return its row of ``scores.csv``."""
        if entry.index not in self.ahead:
            self._restore_group(entry)
        done = self.ahead.pop(entry.index)
        visuals, k_true = done['visuals'], done['k_true']
        title = f'x{self.scale}, {self.preset}, {self.config.steps} steps'
        image = Restored(entry.name, visuals, self.scale, title, done['kernel'], k_true, 'BlindDiff')
        return self.written(entry, image, self.folder(dataset, save_img),
                            {'seconds_phase1': 0.0, 'seconds_phase2': done['seconds'], 'seed': self.config.seed,
                             'solver': 'blinddiff', 'preset': self.preset, 'lambda': self.config.guidance_weight})

    def _restore_group(self, entry: Entry) -> None:
        """Restore this image together with those of the same size in its batch; puts all results into ``ahead``."""
        first = self._read(entry)
        group = {entry.index: first}
        for other in self.behind:
            try:
                data = self._read(other)
            except ValueError:
                continue  # read again, and reported, in its turn
            if _shapes(data) == _shapes(first):
                group[other.index] = data
        self.feed_data({key: [data[key] for data in group.values()] if key == 'name'
                        else torch.cat([data[key] for data in group.values()]) for key in first})
        self.test()
        visuals = self.get_current_visuals()
        kernels = visuals.pop('kernel')
        for i, (index, data) in enumerate(group.items()):
            self.ahead[index] = {'visuals': {key: value[i:i + 1] for key, value in visuals.items()},
                                 'kernel': kernels[i], 'k_true': data['kernel'][0] if 'kernel' in data else None,
                                 'seconds': self.seconds}

    def _read(self, entry: Entry) -> dict[str, Any]:
        """lq and, if known, gt and kernel, each with a batch dimension of 1, and the name."""
        item = self.read_entry(entry)
        data = {key: item[key] for key in ('lq', 'gt') if key in item}
        k_true = self.true_kernel(entry, item, needed=self.files.kernel_oracle)
        if k_true is not None:
            data['kernel'] = k_true[None]
        return {**data, 'name': entry.name}

    def about_run(self) -> dict[str, Any]:
        """``config`` of ``summary.json``."""
        return {'config': {'preset': self.preset, **dataclasses.asdict(self.config), **dataclasses.asdict(self.files)}}


def _shapes(data: Mapping[str, Any]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in data.items() if isinstance(value, Tensor)}
