#!/usr/bin/env python3
"""Times a sampling step in numpy and torch (CPU): draw, gather of 6 + 3 floats, update of the error map.

    RAYON_NUM_THREADS=1 RADFOAM_BENCH_JSON=runs/sampling.json cargo bench --bench sampling_growth
    python3 benches/sampling_baselines.py --ours runs/sampling.json

Makes a virtual environment with numpy and torch (--venv) and runs itself in it. Milliseconds are medians of wall time
on --threads threads; a ratio says how many times as long as candle-radfoam's step, from the file, the row takes. Above
2^24 entries torch.multinomial is an error, and the search in a running sum of doubles stands alone. The Python loop
is timed over --loop iterations and scaled to the batch.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import venv

MULTINOMIAL_LIMIT = 1 << 24
DECAY = 0.9
MIN_WEIGHT = 1e-3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", default="842400,10000000", help="map entries, with commas")
    parser.add_argument("--batches", default="65536,842400", help="batch sizes, with commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loop", type=int, default=5000, help="iterations of the Python loop")
    parser.add_argument("--ours", type=pathlib.Path, help="what sampling_growth wrote to RADFOAM_BENCH_JSON")
    parser.add_argument("--venv", type=pathlib.Path, default=pathlib.Path("target/sampling-venv"))
    parser.add_argument("--torch-index", help="an index with CPU builds of torch, which are smaller than pip's own")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_in_venv(args):
    python = args.venv / "bin" / "python"
    ready = args.venv / "ready"
    if not ready.exists():
        # What an earlier run had to leave half-way is gone on with.
        if not python.exists():
            venv.create(args.venv, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "numpy"], check=True)
        index = ["--index-url", args.torch_index] if args.torch_index else []
        subprocess.run([*pip, *index, "torch"], check=True)
        ready.touch()
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [python, os.path.abspath(__file__), "--inside", *sys.argv[1:]]
    sys.exit(subprocess.run(command, env={**os.environ, **threads}).returncode)


def milliseconds(work, repeats):
    times = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        work()
        if repeat:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def rows_of_torch(torch, n, b, args):
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    errors = torch.exp(torch.randn(n) - 3).clamp(max=1)
    rays, colors = torch.rand(n, 6), torch.rand(n, 3)
    losses = torch.rand(b)

    def multinomial():
        return torch.multinomial(errors + MIN_WEIGHT, b, replacement=True)

    def search():
        ends = torch.cumsum((errors + MIN_WEIGHT).double(), 0)
        points = torch.rand(b, dtype=torch.float64) * ends[-1]
        return torch.searchsorted(ends, points, right=True).clamp_(max=n - 1)

    def update(index):
        errors[index] = DECAY * errors[index] + (1 - DECAY) * losses

    def loop(index):
        for i, loss in zip(index[: args.loop], losses[: args.loop]):
            errors[i] = DECAY * errors[i] + (1 - DECAY) * loss.item()

    index = search()
    parts = {
        "gather": milliseconds(lambda: (rays[index], colors[index]), args.repeats),
        "update": milliseconds(lambda: update(index), args.repeats),
    }
    looped = milliseconds(lambda: loop(index), 1) * b / min(args.loop, b)
    drawn = milliseconds(search, args.repeats)
    if n <= MULTINOMIAL_LIMIT:
        yield "torch.multinomial", {"draw": milliseconds(multinomial, args.repeats), **parts}
    else:
        try:
            multinomial()
            print(f"torch.multinomial took {n} entries after all", file=sys.stderr)
        except RuntimeError as error:
            yield f"torch.multinomial: {str(error).splitlines()[0]}", {}
    yield "torch, f64 running sum", {"draw": drawn, **parts}
    yield "torch, f64 running sum, Python loop", {"draw": drawn, **parts, "update": looped}


def rows_of_numpy(np, n, b, args):
    rng = np.random.default_rng(0)
    errors = np.minimum(np.exp(rng.standard_normal(n, dtype=np.float32) - 3), 1)
    rays, colors = rng.random((n, 6), dtype=np.float32), rng.random((n, 3), dtype=np.float32)
    losses = rng.random(b, dtype=np.float32)

    def search(points):
        ends = np.cumsum(errors + MIN_WEIGHT, dtype=np.float64)
        return np.minimum(np.searchsorted(ends, points * ends[-1], side="right"), n - 1)

    def choice():
        p = (errors + MIN_WEIGHT).astype(np.float64)
        return rng.choice(n, b, p=p / p.sum())

    def update(index):
        errors[index] = DECAY * errors[index] + (1 - DECAY) * losses

    def stratified():
        return search((np.arange(b) + rng.random(b)) / b)

    for name, draw in [("numpy choice", choice), ("numpy, f64 running sum, stratified", stratified)]:
        index = draw()
        yield name, {
            "draw": milliseconds(draw, args.repeats),
            "gather": milliseconds(lambda: (rays.take(index, 0), colors.take(index, 0)), args.repeats),
            "update": milliseconds(lambda: update(index), args.repeats),
        }


def main():
    args = arguments()
    if not args.inside:
        run_in_venv(args)
    import numpy as np
    import torch

    ours = {}
    if args.ours:
        ours = {(row["entries"], row["batch"]): row for row in json.loads(args.ours.read_text())}
    names = ["draw", "gather", "update", "step"]
    print(f"torch {torch.__version__}, numpy {np.__version__}, {args.threads} thread(s), ms (times candle-radfoam's)")
    print(f"{'':<38} {'entries':>11} {'batch':>9} " + " ".join(f"{name:>20}" for name in names))
    for n in map(int, args.entries.split(",")):
        for b in map(int, args.batches.split(",")):
            own = ours.get((n, b))
            rows = [("candle-radfoam", own)] if own else []
            rows += [*rows_of_torch(torch, n, b, args), *rows_of_numpy(np, n, b, args)]
            for name, parts in rows:
                if parts and "step" not in parts:
                    parts["step"] = sum(parts.values())
                cells = []
                for part in names:
                    ratio = f" ({parts[part] / own[part]:7.1f}x)" if own and part in parts else ""
                    cells.append(f"{parts[part]:10.2f}{ratio}" if part in parts else "-")
                print(f"{name:<38.38} {n:>11} {b:>9} " + " ".join(f"{cell:>20}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
