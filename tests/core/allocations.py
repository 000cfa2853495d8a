"""What the tests of memory measure with: PyTorch's own record of every allocation on the CPU."""

import torch


def peak_memory(run):
    """Bytes: the highest sum of torch's live CPU allocations that ``run()`` made."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = run()
    live = peak = 0
    for event in sorted((e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]'),
                        key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    del kept
    return peak
