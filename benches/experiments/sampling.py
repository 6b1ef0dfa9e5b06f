#!/usr/bin/env python3
"""Does drawing rays by error pay? PSNR against rays: captures x strategies x seeds.

    cargo build --release --example train
    python3 benches/experiments/sampling.py --out runs/sampling \\
        --capture tiny-chair=PATH --capture chair200=PATH --capture fox=PATH --capture snowmiku=PATH

The first capture is run with every strategy, the others with uniform drawing and the two that were best on the first.
Every run has a fixed number of steps, so that what else the machine does matters to the time only. Runs that have
ended are kept: stopped and called again, the script goes on. It leaves `results.md`, `results.json` and a plot a
capture under --out.
"""

import argparse
import concurrent.futures
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

# Steps, cells and how the images are reduced; rays a step are the trainer's default.
CAPTURES = {
    "tiny-chair": {"steps": 1000, "max_cells": 20_000, "resize": []},
    "chair200": {"steps": 2000, "max_cells": 40_000, "resize": ["--downsample", "2"]},
    "fox": {"steps": 2000, "max_cells": 40_000, "resize": ["--size", "152x270"]},
    "snowmiku": {"steps": 2000, "max_cells": 40_000, "resize": ["--downsample", "4"]},
}
# What each is called, and its lines under [train.sampler]. All else is the default: a patch of 8 pixels, a uniform share
# of 0.15, |residual|, 50 steps of warm-up, no weights.
STRATEGIES = {
    "uniform": ['strategy = "uniform"'],
    "epoch": ['strategy = "epoch"'],
    "error-weighted, patch 8": ['strategy = "error-weighted"'],
    "error-weighted, patch 1": ['strategy = "error-weighted"', "patch = 1"],
    "spatial, patch 16": ["strategy = { spatial = { patch = 16 } }"],
    "top-k, pool 0.1": ["strategy = { top-k = { pool = 0.1 } }"],
    "top-k, pool 0.5": ["strategy = { top-k = { pool = 0.5 } }"],
    "mixed, 0.7": ["strategy = { mixed = { error_fraction = 0.7 } }"],
    "adaptive": ['strategy = "adaptive"'],
    "squared error": ['strategy = "error-weighted"', "error_power = 1.0"],
    "weights, b = 0.6": ['strategy = "error-weighted"', "importance_exponent = 0.6", "importance_ramp_steps = 500"],
    "weights, b = 1": ['strategy = "error-weighted"', "importance_exponent = 1.0"],
}
BASE = "uniform"
LOOKS = 20
# Okabe and Ito, "Color universal design", 2008, and greys.
PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#777777"]


def slug(name):
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in name).replace("--", "-")


def run(args, capture, strategy, seed):
    """Trains, unless that was done before; the run's result.json."""
    settings = CAPTURES.get(capture, CAPTURES["snowmiku"])
    steps = args.steps or settings["steps"]
    folder = args.out / capture / f"{slug(strategy)}-{seed}"
    result, config = folder / "result.json", folder.with_name(folder.name + ".toml")
    lines = [f"# {args.captures[capture]} {' '.join(settings['resize'])}"]
    lines += [f"[train]\nsteps = {steps}\nseed = {seed}", f"[train.refine]\nmax_cells = {settings['max_cells']}"]
    text = "\n".join([*lines, "[train.sampler]", *STRATEGIES[strategy]]) + "\n"
    # A run that was stopped half-way, or made with other settings, is made anew.
    if not (result.exists() and config.exists() and config.read_text() == text):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(text)
        command = [args.train, args.captures[capture], "--config", config, "--out", folder, "--quiet"]
        command += ["--threads", args.threads, "--eval-every", max(1, steps // LOOKS), "--profile"]
        command += settings["resize"]
        with open(folder.with_name(folder.name + ".log"), "w") as log:
            subprocess.run([str(part) for part in command], check=True, stdout=log, stderr=subprocess.STDOUT)
    found = json.loads(result.read_text())
    print(f"{capture}, {strategy}, seed {seed}: {found['psnr_db']:.3f} dB", flush=True)
    return {key: found[key] for key in ("psnr_db", "ssim", "rays", "cpu_seconds", "curve")}


def run_all(args, capture, strategies):
    """results[strategy][seed] of a capture."""
    jobs = [(strategy, seed) for seed in range(args.seeds) for strategy in strategies]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        futures = {job: pool.submit(run, args, capture, *job) for job in jobs}
        return {s: [futures[s, seed].result() for seed in range(args.seeds)] for s in strategies}


def mean_curve(runs):
    """(rays, mean PSNR) where all seeds were looked at."""
    curves = [{look["rays"]: look["psnr_db"] for look in run["curve"]} for run in runs]
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    return [(rays, statistics.mean(curve[rays] for curve in curves)) for rays in shared]


def rays_to(curve, psnr_db):
    """Where the curve first reaches a PSNR, by straight lines between looks."""
    for (rays, low), (more, high) in zip(curve, curve[1:]):
        if high >= psnr_db:
            return rays + (more - rays) * max(0.0, (psnr_db - low) / (high - low))
    return None


def final(runs):
    return statistics.mean(run["psnr_db"] for run in runs)


def table(capture, results):
    goal = mean_curve(results[BASE])[-1][1]
    base = [run["psnr_db"] for run in results[BASE]]
    lines = [f"### {capture}: {len(base)} seeds, {results[BASE][0]['rays'] / 1e6:.1f} M rays each", ""]
    lines += [
        "| strategy | PSNR in dB | spread over seeds | against uniform, seed by seed | SSIM "
        "| rays to uniform's end, share | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for strategy, runs in sorted(results.items(), key=lambda item: -final(item[1])):
        psnr = [run["psnr_db"] for run in runs]
        apart = [a - b for a, b in zip(psnr, base)]
        rays = rays_to(mean_curve(runs), goal)
        share = "-" if rays is None else f"{rays / results[BASE][0]['rays']:.2f}"
        differences = ", ".join(f"{d:+.2f}" for d in apart)
        lines.append(
            f"| {strategy} | {statistics.mean(psnr):.2f} | {max(psnr) - min(psnr):.2f} | "
            f"{statistics.mean(apart):+.2f} ({differences}) | {statistics.mean(r['ssim'] for r in runs):.3f} | "
            f"{share} | {statistics.mean(r['cpu_seconds'] or 0 for r in runs):.0f} |"
        )
    return "\n".join(lines) + "\n"


def plot(path, capture, results):
    """PSNR against rays, mean over the seeds, as SVG."""
    curves = {name: mean_curve(runs) for name, runs in results.items()}
    # The first fifth rises too steeply to tell anything apart.
    points = [p for curve in curves.values() for p in curve[len(curve) // 5 :]]
    right, low, high = max(x for x, _ in points), min(y for _, y in points), max(y for _, y in points)
    left, width, height, margin = min(x for x, _ in points), 640, 400, 60
    high = high if high > low else low + 1
    x = lambda rays: margin + (rays - left) / max(right - left, 1) * width
    y = lambda db: margin + (high - db) / (high - low) * height
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width + 4 * margin + 30}" height="{height + 2 * margin}" '
        'font-family="sans-serif" font-size="13" fill="#3c3c42">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{margin}" y="30" font-size="18">{capture}: PSNR against rays</text>',
    ]
    for k in range(6):
        rays, db = left + (right - left) * k / 5, low + (high - low) * k / 5
        svg.append(f'<path d="M{margin} {y(db):.1f}h{width}" stroke="#e2e2e6"/>')
        svg.append(f'<text x="{margin - 8}" y="{y(db) + 4:.1f}" text-anchor="end">{db:.2f}</text>')
        svg.append(f'<text x="{x(rays):.1f}" y="{margin + height + 20}" text-anchor="middle">{rays / 1e6:.1f} M</text>')
    order = sorted(curves, key=lambda name: -final(results[name]))
    for k, name in enumerate(order):
        colour, dash = PALETTE[k % len(PALETTE)], ' stroke-dasharray="5 3"' if k >= len(PALETTE) else ""
        shown = " ".join(f"{x(rays):.1f},{y(db):.1f}" for rays, db in curves[name] if rays >= left)
        svg.append(f'<polyline points="{shown}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        row = margin + 18 * k
        svg.append(f'<path d="M{margin + width + 12} {row}h20" stroke="{colour}" stroke-width="2"{dash}/>')
        svg.append(f'<text x="{margin + width + 38}" y="{row + 4}">{name}</text>')
    path.write_text("\n".join(svg) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--train", default="target/release/examples/train", help="the example, built")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps a run, instead of the capture's own number")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads a run")
    parser.add_argument("--only", action="append", choices=list(STRATEGIES), help="these strategies, on every capture")
    args = parser.parse_args()
    args.captures = dict(pair.split("=", 1) for pair in args.capture)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)

    everything, strategies = {}, args.only or list(STRATEGIES)
    if BASE not in strategies:
        strategies.insert(0, BASE)
    for number, capture in enumerate(args.captures):
        results = run_all(args, capture, strategies)
        everything[capture] = results
        plot(args.out / f"{capture}.svg", capture, results)
        (args.out / "results.md").write_text("\n".join(table(c, r) for c, r in everything.items()))
        (args.out / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
        if number == 0 and not args.only:
            best = sorted((s for s in strategies if s != BASE), key=lambda s: -final(results[s]))
            strategies = [BASE, *best[:2]]
    print((args.out / "results.md").read_text())


if __name__ == "__main__":
    sys.exit(main())
