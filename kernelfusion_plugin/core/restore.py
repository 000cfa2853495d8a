"""Restore one image: seeds, Phase 1, Phase 2, progress. The entry point for library users."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .config import KernelFusionConfig
from .diffusion import Schedule
from .inputs import inspected
from .journal import Journal
from .patch_prior import PatchPrior, PriorConfig, fit_patch_prior
from .phase1 import PHASES, factory, join, load_into, phase1_images, split
from .plan import Plan, make_plan
from .seeds import derived, own_random_state
from .solver import Factory, Problem, check_found
from .solvers import SOLVERS
from .texture_prior import load_texture_net, load_texture_prior


@dataclass(frozen=True)
class Progress:
    """The state of a run after one step.

    Attributes:
        phase: ``prior``, ``half`` or ``tuned`` (Phase 1: PD; PD of y at half size; the texture prior tuned to y),
            ``em`` or ``joint`` (Phase 2).
        step, total: number of this step within the phase, 1 … ``total``.
        loss: the phase's loss at this step.
        seconds: time spent in the phase so far.
        x0_hat: HR estimate (1, 3, s·h, s·w) in about [-1, 1]; None in Phase 1.
        kernel: (K, K), sums to 1; None in Phase 1.
        kernels: (R, C, K, K) with several ``regions``, once all kernels have been found; else None.
        losses: the terms of the loss by name.
        snapshot: returns the value for ``resume`` of :func:`restore_steps`, to continue after this step: plain values
            and CPU tensors, suitable for ``torch.save``. Call it before the next step, and not at a phase's last step.
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
        """Estimated seconds left in this phase, from its mean pace so far."""
        return self.seconds / self.step * (self.total - self.step)


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        sr: the restored picture (1, 3, s·h, s·w) in [-1, 1], on y's device.
        kernel: (K, K) float32 on the CPU, sums to 1; y = (x * k)↓s, where ``*`` is cross-correlation as in
            ``F.conv2d``.
        seconds: duration of ``phase1`` (0 if weights were given) and ``phase2``.
        prior_state: the weights from Phase 1, on the CPU: PD's, the half-size PD's (``half.…``) and the tuned texture
            prior's (``tuned.…``). Pass them to :func:`restore` to skip Phase 1. Empty if there was no Phase 1.
        config: the settings used.
        trace: one row of numbers per step of Phase 2; about a hundred rows per net of Phase 1, each with the mean loss
            since the one before (of the losses last read, on a GPU: one in 25).
        kernels: (R, C, K, K) float32 on the CPU if there are several regions, else None. ``kernel`` is then that of the
            whole picture, also used for regions that have none of their own.
        surprise: how unlikely y is under the kernel, see :func:`~.restarts.surprise`; lower is better. It reveals gross
            failures when seeds are compared. None with a known kernel, with several regions, and with ``joint``.
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
    """Estimate the sharp picture x and the kernel k in y = (x * k)↓s from y alone (KernelFusion, ICLR 2026).

    Args:
        y: float RGB, (3, h, w) or (1, 3, h, w), in [-1, 1], at least 15 x 15; the result is on the same device.
        config: settings; default :class:`KernelFusionConfig`.
        on_progress: called after every step.
        **options: passed to :func:`restore_steps`.

    Raises:
        ValueError: y is not such an image, or the weights do not fit; a one-line message says what is required.
    """
    if isinstance(y, Tensor) and y.is_floating_point() and y.numel() and 0 <= y.min() < y.max() <= 1:
        warnings.warn('all values of y are in [0, 1], but its range is taken to be [-1, 1]: if it is [0, 1], pass '
                      '2 * y - 1', stacklevel=2)
    with torch.inference_mode(False), torch.enable_grad():  # the caller may have turned gradients off
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
    """:func:`restore` as a generator: yields after every step and returns the result. Gradients must be enabled.

    Args:
        y, config: see :func:`restore`.
        name: name of the image. Together with ``config.seed`` it seeds all randomness, so that a result does not
            depend on which other images are restored, or in which order.
        kernel: the true kernel (K, K) if known, or one for each of R x C regions, (R, C, K, K). It is used as it is,
            whatever ``regions`` says, and only x is estimated (``em`` only).
        prior_state: weights for this image, to skip Phase 1; networks without weights are trained.
        make_patch_net, make_refine_net, make_kernel_model: factories that replace the config's networks; each is
            called under the image's own seed.
        resume: a ``Progress.snapshot()`` of a run with the same arguments (which is not checked). Continues after that
            step, with bit-identical results on the same machine (on a GPU see :func:`repeatable`).
    """
    config = KernelFusionConfig() if config is None else config
    if not isinstance(config, KernelFusionConfig):
        raise ValueError(f'the config must be a KernelFusionConfig, got {type(config).__name__}: '
                         'KernelFusionConfig.from_dict converts a dict')
    y, kernel, degradation = inspected(y, config, kernel)
    schedule = Schedule(config.prior.timesteps)
    seeds = _Seeds(config.seed, name, y.device)
    journal = Journal(resume)

    plan = plan_memory(tuple(y.shape[-2:]), y.device, config, kernel is not None, make_patch_net, make_refine_net)
    tiles = plan.tiles
    images = phase1_images(y, config, kernel is not None)
    nets = {phase: seeds.build(f'{phase}_net', factory(phase, config, make_patch_net)) for phase in images}
    yield from _fit_priors(nets, images, {**split(prior_state), **journal.weights}, schedule, seeds, journal)
    priors = {phase: PatchPrior(net, schedule, config.prior.precision, tiles) for phase, net in nets.items()}
    if config.uses_textures:
        priors['textures'] = load_texture_prior(y.device, config.prior.precision, tiles, config.texture_weights)

    generator = seeds.generator(config.solver)
    place, seconds = journal.begin(config.solver, generator)
    start = time.perf_counter() - seconds
    problem = Problem(y, config, degradation, priors, generator, seeds.build,
                      {'refine': make_refine_net, 'kernel': make_kernel_model}, kernel, place, plan.recompute)
    rate = f'{config.solver}.lr' if hasattr(config.phase2, 'lr') else ''
    state = None
    for state in SOLVERS[config.solver].solve(problem):
        loss, seconds = state.losses.get('total', sum(state.losses.values())), time.perf_counter() - start
        _check_loss(loss, state.step, config.solver, rate)
        journal.trace.append({'phase': config.solver, 'step': state.step, 't': state.t, **state.losses})
        yield Progress(config.solver, state.step, state.total, loss, seconds, degradation.crop(state.x0_hat),
                       state.kernel, state.losses,
                       partial(journal.snapshot, config.solver, state.snapshot, generator, seconds), state.kernels)
    check_found(state, problem)
    return Result(degradation.crop(state.x0_hat).clamp(-1, 1), state.kernel.float().cpu(),
                  {'phase1': journal.phase1, 'phase2': time.perf_counter() - start},
                  join(nets), config, journal.trace,
                  None if state.kernels is None else state.kernels.float().cpu(), state.surprise)


def repeatable(device: torch.device) -> AbstractContextManager[None]:
    """A context in which cuDNN uses deterministic algorithms only.

    On a GPU, ``em`` with border ``valid`` should then be bit-reproducible (not tested on one). Other borders and
    ``joint`` are reproducible up to rounding: the adjoint of padding, and the gradients of the U-Net's padding and
    upsampling, are summed in no fixed order.
    """
    return _deterministic_cudnn() if device.type == 'cuda' else nullcontext()


@contextmanager
def _deterministic_cudnn() -> Iterator[None]:
    """Avoids ``torch.backends.cudnn.flags``: it also sets TF32, an error if the user has set that per operator."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def plan_memory(size: tuple[int, int], device: torch.device, config: KernelFusionConfig, kernel_known: bool = False,
                make_patch_net: Factory | None = None, make_refine_net: Factory | None = None) -> Plan:
    """How :func:`restore_steps` keeps within a device's memory, for y of ``size`` (h, w).

    Raises:
        ValueError: it does not fit; a one-line message.
    """
    solver = SOLVERS[config.solver]
    training = solver.training(config, kernel_known)
    makers = {phase: factory(phase, config, make_patch_net) for phase in training}
    if config.uses_textures:
        makers['textures'] = partial(load_texture_net, config.texture_weights)
    makers.update(solver.networks({'refine': make_refine_net}))
    with own_random_state():
        nets = {name: make().eval().to(device, memory_format=torch.channels_last) for name, make in makers.items()}
    return make_plan(size, config, device, nets, training, kernel_known)


def _fit_priors(nets: dict[str, nn.Module], images: Mapping[str, tuple[Tensor, PriorConfig]],
                weights: Mapping[str, Mapping[str, Tensor]], schedule: Schedule, seeds: _Seeds,
                journal: Journal) -> Generator[Progress, None, None]:
    """Phase 1: load the nets that have ``weights``, and fit the others to their images.

    Afterwards ``nets`` holds the nets to use (the moving averages, if any), and ``journal`` the time taken.
    """
    for phase, (image, config) in images.items():
        if phase in weights:
            load_into(nets[phase], weights[phase], phase)
        else:
            generator = seeds.generator(phase)
            place, seconds = journal.begin(phase, generator)
            start = time.perf_counter() - seconds
            for state in fit_patch_prior(nets[phase], image, schedule, config, generator, place):
                seconds = time.perf_counter() - start
                _check_loss(state.loss, state.step, PHASES[phase].label, f'{PHASES[phase].section}.lr')
                journal.note(phase, state.step, state.total, state.loss)
                yield Progress(phase, state.step, state.total, state.loss, seconds,
                               snapshot=partial(journal.snapshot, phase, state.snapshot, generator, seconds))
            nets[phase] = state.net
            journal.phase1 += seconds
        journal.finish(phase, nets[phase])


def _check_loss(loss: float, step: int, what: str, rate: str) -> None:
    """Raise ValueError if a phase has diverged. ``rate``: name of its learning rate option; '' if it has none."""
    if not math.isfinite(loss):
        hint = f': lower {rate}, if you have set it' if rate else ''
        raise ValueError(f'{what} has diverged: its loss is {loss} at step {step}{hint}')


class _Seeds:
    """Independent random streams for one image, so that skipping a phase does not affect the others."""

    def __init__(self, seed: int, name: str, device: torch.device) -> None:
        self._root = seed, name
        self._device = device

    def _seed(self, purpose: str) -> int:
        return derived(*self._root, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(self._seed(purpose))

    def build(self, purpose: str, factory: Factory) -> nn.Module:
        """The module made by ``factory``, initialised under this seed; leaves the global random state unchanged."""
        with own_random_state():
            torch.default_generator.manual_seed(self._seed(purpose))
            return factory().to(self._device)
