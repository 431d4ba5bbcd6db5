"""The words of the command that measures. What it needs is imported when it runs: other commands go without it."""

from __future__ import annotations

from pathlib import Path

from latentrt.engines.errors import InputError

from . import bench_options as b
from .guard import console, needing_extra
from .option_types import BundleArgument


def bench(
    bundle: BundleArgument,
    source: b.Source = None,
    against: b.Against = None,
    engine: b.Engines = None,
    precision: b.Precision = None,
    size: b.Size = None,
    steps: b.Steps = 20,
    sampler: b.Sampler = "euler",
    guidance_scale: b.GuidanceScale = 7.5,
    prompts: b.Prompts = None,
    seed: b.Seed = 0,
    rounds: b.Rounds = None,
    pictures: b.Pictures = None,
    cold_starts: b.ColdStarts = None,
    calls: b.Calls = None,
    batch: b.Batch = None,
    concurrency: b.Concurrency = None,
    threads: b.Threads = None,
    time_limit: b.TimeLimit = 600,
    environment: b.Given = None,
    cache: b.Cache = None,
    output: b.Output = Path("bench"),
    fresh: b.Fresh = False,
    baseline: b.Baseline = None,
    max_slowdown: b.MaxSlowdown = None,
    max_memory_growth: b.MaxMemoryGrowth = None,
    min_psnr: b.MinPsnr = None,
    min_ssim: b.MinSsim = None,
    other_machine: b.OtherMachine = False,
) -> None:
    """Measure latency, memory and accuracy beside PyTorch and the peers; with limits, fail where one is crossed."""
    with needing_extra("bench"):
        from latentrt.benchmarks.contestants.environments import default_cache
        from latentrt.benchmarks.trial.choose import Counts, Wishes
        from latentrt.benchmarks.trial.field import Places, names, parse_environments
        from latentrt.benchmarks.trial.gate import Limits

        from .bench import Asked, bench_command
    from latentrt.engines.size import parse_size

    from .words import share, whole_numbers

    if baseline is None and not (max_slowdown is None and max_memory_growth is None):
        option = "--max-slowdown" if max_slowdown is not None else "--max-memory-growth"
        raise InputError(f"{option} is held against an earlier run: name its results.json with --baseline")
    asked = Asked(
        contestants=names(engine or [], precision, [name for name in (against or "").split(",") if name]),
        wishes=Wishes(
            steps=steps,
            sampler=sampler,
            guidance_scale=guidance_scale,
            size=None if size is None else parse_size(size),
            prompts=prompts,
            seed=seed,
        ),
        counts=Counts(rounds=rounds, pictures=pictures, cold_starts=cold_starts, calls=calls),
        places=Places(
            bundle=bundle,
            source=source,
            cache=cache or default_cache(),
            given=parse_environments(environment or []),
            threads=threads,
        ),
        batches=() if batch is None else whole_numbers("--batch", batch),
        concurrency=() if concurrency is None else whole_numbers("--concurrency", concurrency),
        time_limit=time_limit,
        output=output,
        fresh=fresh,
        baseline=baseline,
        limits=Limits(
            max_slowdown=share("--max-slowdown", max_slowdown),
            max_memory_growth=share("--max-memory-growth", max_memory_growth),
            min_psnr=min_psnr,
            min_ssim=min_ssim,
            other_machine=other_machine,
        ),
    )
    bench_command(console, asked)
