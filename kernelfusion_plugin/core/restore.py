"""From y to Result: input checks, seeds, Phase 1, Phase 2, progress. The one entry for library users."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import KernelFusionConfig
from .degradation import Degradation
from .diffusion import Schedule
from .journal import Journal
from .nets.patch_net import RECEPTIVE_FIELD, PatchDiffusionNet
from .nets.texture_unet import TextureUNet
from .patch_prior import PatchPrior, PriorConfig, fit_patch_prior
from .plan import Plan, make_plan
from .regional_degradation import RegionalDegradation, choose_grid
from .seeds import derived
from .solver import Factory, Problem
from .solvers import SOLVERS
from .texture_prior import load_texture_net, load_texture_prior


@dataclass(frozen=True)
class Progress:
    """Where a run stands after one step.

    Attributes:
        phase: ``prior``, ``half``, ``tuned`` (Phase 1: PD; PD of y at half size; the texture prior), ``em`` or
            ``joint`` (Phase 2).
        step, total: number of this step, 1 … ``total``, within the phase.
        loss: the phase's loss at this step.
        seconds: since the phase began.
        x0_hat: HR estimate (1, 3, s·h, s·w) in about [-1, 1]; None in Phase 1.
        kernel: (K, K), sums to 1; None in Phase 1.
        kernels: (R, C, K, K) where ``regions`` asks for several, once all are found; else None.
        losses: the loss's parts by name.
        snapshot: gives what ``resume`` of :func:`restore_steps` takes, to go on behind this step; plain values and
            tensors on the CPU, for ``torch.save``. To be called before the next step, and not at a phase's last.
    """

    phase: str
    step: int
    total: int
    loss: float
    seconds: float
    x0_hat: Tensor | None = None
    kernel: Tensor | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    snapshot: Callable[[], dict[str, Any]] = field(default=dict, repr=False, compare=False)
    kernels: Tensor | None = None

    @property
    def eta(self) -> float:
        """Seconds left in this phase at its mean pace so far."""
        return self.seconds / self.step * (self.total - self.step)


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        sr: the restored picture (1, 3, s·h, s·w) in [-1, 1], on y's device.
        kernel: (K, K) float32 on the CPU, sums to 1, as drawn: y = (x * k)↓s with ``*`` as in ``F.conv2d``.
        seconds: of ``phase1`` (0 with weights at hand) and ``phase2``.
        prior_state: what Phase 1 found: PD's weights, those of the half-size one (``half.…``) and of the tuned
            texture prior (``tuned.…``), on the CPU; give them to :func:`restore` again to skip it. Empty where there
            was none.
        config: the settings used.
        trace: one row of numbers per step of Phase 2, and every hundredth of Phase 1.
        kernels: (R, C, K, K) float32 on the CPU, where each region has its own; ``kernel`` is then the whole picture's,
            which regions without one of their own have too. None with one region.
        surprise: how unlikely the kernel makes y, see :func:`~.restarts.surprise`: the less, the likelier; it tells
            gross faults of one seed from another's. None where the kernel was known, with regions and with ``joint``.
    """

    sr: Tensor
    kernel: Tensor
    seconds: dict[str, float]
    prior_state: dict[str, Tensor]
    config: KernelFusionConfig
    trace: list[dict[str, float | str]]
    kernels: Tensor | None = None
    surprise: float | None = None


def restore(y: Tensor, config: KernelFusionConfig | None = None, *,
            on_progress: Callable[[Progress], None] | None = None, **options: object) -> Result:
    """Sharp picture x and kernel k of y = (x * k)↓s, from y alone (KernelFusion, ICLR 2026).

    Args:
        y: float RGB, (3, h, w) or (1, 3, h, w), in [-1, 1], at least 15 x 15; the result stays on its device.
        config: settings; default :class:`KernelFusionConfig`.
        on_progress: called after every step.
        **options: as of :func:`restore_steps`.

    Raises:
        ValueError: y is not such an image, or the weights do not fit; one line that says what was required.
    """
    steps = restore_steps(y, config, **options)
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value
        if on_progress is not None:
            on_progress(progress)


def restore_steps(y: Tensor, config: KernelFusionConfig | None = None, *, name: str = '',
                  kernel: Tensor | None = None, prior_state: Mapping[str, Tensor] | None = None,
                  make_patch_net: Factory | None = None, make_refine_net: Factory | None = None,
                  make_kernel_model: Factory | None = None,
                  resume: Mapping[str, Any] | None = None) -> Generator[Progress, None, Result]:
    """:func:`restore` as a generator: yields after every step, returns the result.

    Args:
        y, config: as of :func:`restore`.
        name: of the image. With ``config.seed`` it seeds all randomness, so that a result does not depend on
            which other images are restored, or in which order.
        kernel: the true kernel (K, K), if it is known, or one for each of R x C regions, (R, C, K, K): used as it is,
            whatever ``regions`` says, and only x is estimated (``em``).
        prior_state: weights for this image, to skip Phase 1; what is needed and not among them is trained.
        make_patch_net, make_refine_net, make_kernel_model: give other networks than the config's; each is
            called under the image's own seed.
        resume: a ``Progress.snapshot()`` of a run of the same arguments: goes on behind that step, to the same bits
            on the same machine (on a GPU see :func:`repeatable`). That the arguments are the same is the caller's care.
    """
    config = KernelFusionConfig() if config is None else config
    if not isinstance(config, KernelFusionConfig):
        raise ValueError(f'the config must be a KernelFusionConfig, got {type(config).__name__}: '
                         'KernelFusionConfig.from_dict makes one of a dict')
    y, kernel, degradation = inspected(y, config, kernel)
    schedule = Schedule(config.prior.timesteps)
    seeds = _Seeds(config.seed, name, y.device)
    journal = Journal(resume)

    plan = plan_memory(tuple(y.shape[-2:]), y.device, config, kernel is not None, make_patch_net, make_refine_net)
    tiles = plan.tiles
    images = phase1_images(y, config, kernel is not None)
    make_patch_net = make_patch_net or (lambda: PatchDiffusionNet(config.prior.channels))
    makers = {'tuned': partial(load_texture_net, config.texture_weights)}
    nets = {phase: seeds.build(f'{phase}_net', makers.get(phase, make_patch_net)) for phase in images}
    yield from _fit_priors(nets, images, {**_split(prior_state), **journal.weights}, schedule, seeds, journal)
    priors = {phase: PatchPrior(net, schedule, config.prior.precision, tiles) for phase, net in nets.items()}
    if config.uses_textures:
        priors['textures'] = load_texture_prior(y.device, config.prior.precision, tiles, config.texture_weights)

    generator = seeds.generator(config.solver)
    place, seconds = journal.begin(config.solver, generator)
    start = time.perf_counter() - seconds
    problem = Problem(y, config, degradation, priors, generator, seeds.build,
                      {'refine': make_refine_net, 'kernel': make_kernel_model}, kernel, place, plan.recompute)
    for state in SOLVERS[config.solver].solve(problem):
        loss, seconds = state.losses.get('total', sum(state.losses.values())), time.perf_counter() - start
        journal.trace.append({'phase': config.solver, 'step': state.step, 't': state.t, **state.losses})
        yield Progress(config.solver, state.step, state.total, loss, seconds, degradation.crop(state.x0_hat),
                       state.kernel, state.losses,
                       partial(journal.snapshot, config.solver, state.snapshot, generator, seconds), state.kernels)
    return Result(degradation.crop(state.x0_hat).clamp(-1, 1), state.kernel.float().cpu(),
                  {'phase1': journal.phase1, 'phase2': time.perf_counter() - start},
                  _join(nets), config, journal.trace,
                  None if state.kernels is None else state.kernels.float().cpu(), state.surprise)


def repeatable(device: torch.device) -> AbstractContextManager[None]:
    """A context in which cuDNN takes the algorithms that give the same bits every time.

    On a GPU ``em`` with border ``valid`` is meant to give the same bits in it (not tried on one), other borders and
    ``joint`` the same but for rounding: the adjoint of a continued picture, and the gradients of the U-Net's own
    continuation and enlargement, are summed there in any order.
    """
    return _deterministic_cudnn() if device.type == 'cuda' else nullcontext()


@contextmanager
def _deterministic_cudnn() -> Iterator[None]:
    """Without ``torch.backends.cudnn.flags``, which asks for TF32 too: an error where a user has set it by operator."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def plan_memory(size: tuple[int, int], device: torch.device, config: KernelFusionConfig, kernel_known: bool = False,
                make_patch_net: Factory | None = None, make_refine_net: Factory | None = None) -> Plan:
    """How :func:`restore_steps` keeps within the memory of a device, for y of ``size`` (h, w).

    Raises:
        ValueError: it cannot; in one line.
    """
    solver = SOLVERS[config.solver]
    training = solver.training(config, kernel_known)
    patch_net = make_patch_net or (lambda: PatchDiffusionNet(config.prior.channels))
    makers = {phase: TextureUNet if phase == 'tuned' else patch_net for phase in training}
    if config.uses_textures:
        makers['textures'] = TextureUNet
    makers.update(solver.networks({'refine': make_refine_net}))
    with torch.random.fork_rng(devices=[]):
        nets = {name: make().eval().to(device, memory_format=torch.channels_last) for name, make in makers.items()}
    return make_plan(size, config, device, nets, training, kernel_known)


def inspected(y: Tensor, config: KernelFusionConfig,
              kernel: Tensor | None = None) -> tuple[Tensor, Tensor | None, Degradation]:
    """What a run begins with: y (1, 3, h, w), the known kernel and the forward model, on y's device.

    Raises:
        ValueError: :func:`checked`, :func:`known_kernel`, :func:`forward_model` or the solver refuse it, in one line.
    """
    y, kernel = checked(y), known_kernel(kernel, config)
    kernel = None if kernel is None else kernel.to(y.device)
    degradation = forward_model(y, config, kernel)
    SOLVERS[config.solver].check(tuple(y.shape[-2:]), config, kernel is not None)
    return y, kernel, degradation


def forward_model(y: Tensor, config: KernelFusionConfig, kernel: Tensor | None = None) -> Degradation:
    """How y (1, 3, h, w) came about: with a kernel per region where the config, or a known ``kernel``, has several.

    Raises:
        ValueError: the regions would be too small.
    """
    degradation = Degradation(config.scale, config.kernel_size, config.border)
    size = y.shape[-2:]
    grid = choose_grid(config.regions, size) if kernel is None else kernel.shape[:-2]
    return RegionalDegradation(degradation, size, grid) if math.prod(grid) > 1 else degradation


def phase1_images(y: Tensor, config: KernelFusionConfig, kernel_known: bool) -> dict[str, tuple[Tensor, PriorConfig]]:
    """What Phase 1 fits a net to, and how: y, and y at half size where the kernel is found with that."""
    return {phase: (half_size(y) if phase == 'half' else y, how)
            for phase, how in SOLVERS[config.solver].training(config, kernel_known).items()}


def unused_weights(state: Mapping[str, Tensor], config: KernelFusionConfig) -> list[str]:
    """Phases that ``state``, a run's ``prior_state``, has weights for, but a run of ``config`` has not."""
    return [phase for phase in _split(state) if phase not in SOLVERS[config.solver].training(config)]


def _fit_priors(nets: dict[str, nn.Module], images: Mapping[str, tuple[Tensor, PriorConfig]],
                weights: Mapping[str, Mapping[str, Tensor]], schedule: Schedule, seeds: _Seeds,
                journal: Journal) -> Generator[Progress, None, None]:
    """Phase 1: load the nets that have ``weights``, fit the others to their images.

    ``nets`` then holds the nets to use (the moving average, where there is one); ``journal`` gets the time it took.
    """
    for phase, (image, config) in images.items():
        if phase in weights:
            _load(nets[phase], weights[phase], phase)
        else:
            generator = seeds.generator(phase)
            place, seconds = journal.begin(phase, generator)
            start = time.perf_counter() - seconds
            for state in fit_patch_prior(nets[phase], image, schedule, config, generator, place):
                seconds = time.perf_counter() - start
                if state.step % 100 == 0 or state.step in (1, state.total):
                    journal.trace.append({'phase': phase, 'step': state.step, 'loss': state.loss})
                yield Progress(phase, state.step, state.total, state.loss, seconds,
                               snapshot=partial(journal.snapshot, phase, state.snapshot, generator, seconds))
            nets[phase] = state.net
            journal.phase1 += seconds
        journal.finish(phase, nets[phase])


class _Seeds:
    """Independent random streams of one image, so that skipping one phase leaves the others as they are."""

    def __init__(self, seed: int, name: str, device: torch.device) -> None:
        self._root = seed, name
        self._device = device

    def _seed(self, purpose: str) -> int:
        return derived(*self._root, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(self._seed(purpose))

    def build(self, purpose: str, factory: Factory) -> nn.Module:
        """The module of ``factory`` with weights drawn under this seed; global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._seed(purpose))
            return factory().to(self._device)


def checked(y: Tensor) -> Tensor:
    """y as (1, 3, h, w) float32, contiguous, as :func:`stored`, or a ValueError that says what is wrong with it."""
    if not isinstance(y, Tensor):
        raise ValueError(f'y must be a tensor, got {type(y).__name__}')
    if y.ndim == 3:
        y = y[None]
    if y.ndim != 4 or y.shape[:2] != (1, 3):
        raise ValueError(f'y must be one RGB image, (3, h, w) or (1, 3, h, w), got {tuple(y.shape)}')
    if not y.is_floating_point():
        raise ValueError(f'y must be floating point in [-1, 1], got {y.dtype}: divide 8-bit values by 127.5, minus 1')
    if min(y.shape[-2:]) < RECEPTIVE_FIELD:
        raise ValueError(f'the image is {y.shape[-1]} x {y.shape[-2]} pixels (width x height): at least '
                         f'{RECEPTIVE_FIELD} x {RECEPTIVE_FIELD} are needed, the receptive field of the patch prior')
    if not torch.isfinite(y).all():
        raise ValueError('the image has NaN or infinite values')
    if y.min() < -1 - 1e-4 or y.max() > 1 + 1e-4:
        raise ValueError(f'y must lie in [-1, 1], got [{float(y.min()):.3g}, {float(y.max()):.3g}]: rescale it')
    return stored(y.detach()).contiguous()


def stored(y: Tensor) -> Tensor:
    """y as float32; what lies within rounding of a value 2n / 65535 - 1, as files of 8 and 16 bits hold, becomes that.

    EM makes much of the last bit. So a picture gives the same result in whatever arithmetic it was read.
    """
    exact = y.cpu().double()
    levels = (exact + 1) * (65535 / 2)
    nearest = levels.round()
    value = torch.where((levels - nearest).abs() < 0.01, nearest / (65535 / 2) - 1, exact)
    return value.to(y.device, torch.float32)


def known_kernel(kernel: Tensor | None, config: KernelFusionConfig) -> Tensor | None:
    """A kernel (K, K), or one for each of R x C regions, (R, C, K, K), scaled to sum 1; None, if none is known.

    K is the config's ``kernel_size``; a smaller kernel, by an even number, gets zeros around it.

    Raises:
        ValueError: the config cannot do with it; in one line.
    """
    if kernel is None:
        return None
    check_takes_kernels(config)
    if not isinstance(kernel, Tensor):
        raise ValueError(f'the known kernel must be a tensor, got {type(kernel).__name__}')
    size, square = config.kernel_size, kernel.ndim in (2, 4) and kernel.shape[-1] == kernel.shape[-2] > 0
    around, odd = divmod(size - kernel.shape[-1], 2) if square else (-1, 0)
    if around < 0 or odd:
        hint = f': set kernel_size to {grid_for(kernel.shape[-1], config.scale)}' if square else ''
        raise ValueError(f'the known kernel must be {size} x {size}, or R x C of that size, got '
                         f'{tuple(kernel.shape)}{hint}')
    kernel = F.pad(kernel, (around,) * 4)
    sums = kernel.sum((-2, -1), keepdim=True)
    if not torch.isfinite(kernel).all() or (sums <= 0).any():
        raise ValueError('the known kernel must be finite and have a positive sum')
    kernel = (kernel / sums).float()
    return kernel[0, 0] if kernel.shape[:-2] == (1, 1) else kernel


def check_takes_kernels(config: KernelFusionConfig) -> None:
    """ValueError, in one line, if the config's solver cannot do with a known kernel."""
    if not SOLVERS[config.solver].takes_kernels:
        raise ValueError(f'solver {config.solver!r} takes no known kernel: it always estimates it')


def grid_for(size: int, scale: int) -> int:
    """The ``kernel_size`` with which a known kernel of ``size`` can be used: its own, or the least larger one that a
    config takes, an even number more, so that its centre stays.
    """
    return max(size, 2 * scale + (size - 2 * scale) % 2)


def half_size(y: Tensor) -> Tensor:
    """y at half its size, with antialiasing: what the prior that finds the kernel is fitted to in ``internal``."""
    size = [max(n // 2, 1) for n in y.shape[-2:]]
    return F.interpolate(y, size=size, mode='bicubic', align_corners=False, antialias=True).clamp(-1, 1)


def _join(nets: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Weights of all nets as one state dict: PD's under their own names, others with their phase before."""
    return {('' if phase == 'prior' else f'{phase}.') + key: value.detach().cpu()
            for phase, net in nets.items() for key, value in net.state_dict().items()}


def _split(state: Mapping[str, Tensor] | None) -> dict[str, dict[str, Tensor]]:
    """The inverse of :func:`_join`; what is not there is left out."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in (state or {}).items():
        phase, _, name = key.partition('.')
        if phase not in ('half', 'tuned'):
            phase, name = 'prior', key
        parts.setdefault(phase, {})[name] = value
    return parts


def _load(net: nn.Module, state: Mapping[str, Tensor], phase: str) -> None:
    try:
        net.to(memory_format=torch.channels_last).load_state_dict(state)  # as it was trained: the layout rounds
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ValueError(f'the weights of the tuned texture prior do not fit its network ({first}): train anew'
                         if phase == 'tuned' else
                         f'the weights of the patch prior do not fit the network ({first}): '
                         'set prior.channels as they were trained with, or train anew') from None
