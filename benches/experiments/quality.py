#!/usr/bin/env python3
"""What makes a foam good for the time it is given? Captures x settings x budgets x seeds, one after the other.

    cargo build --release --example train
    python3 benches/experiments/quality.py --out runs/quality --capture fox=PATH --capture snowmiku=PATH \\
        --setting default= --setting 'no SH=sh_degree = 0' --setting 'gentle=optim.density.final = 0.01; init.raw_density = -0.2' \\
        --budget 2000x40000 --budget 75s --seeds 0,1,2

A setting is a name and lines as they stand under [train] in a run's config.toml, apart by semicolons; none for the
defaults. A budget is STEPSxCELLS, so that what else the machine does matters to the time only, or seconds of training
on --threads threads, which plan the cells as well. Each run that has ended adds a line to runs.jsonl, and is not made
again when the script is called again with more to do; delete lines to have them made anew. The last pictures of each
run stay in its folder; the table, of all that is asked for, goes to the terminal and to table.md.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

RESIZE = {
    "chair200": ["--downsample", "2"],
    "fox": ["--size", "152x270"],
    "snowmiku": ["--downsample", "4"],
    # A quarter of the pixels: what takes 330 s above shows here with a quarter of the rays and cells.
    "fox-small": ["--size", "76x135"],
    "snowmiku-small": ["--downsample", "8"],
}
KEPT = ("psnr_db", "ssim", "train_psnr_db", "train_ssim", "cells", "rays", "steps", "seconds", "cpu_seconds")


def pair(text):
    name, _, value = text.partition("=")
    return name.strip(), value.strip()


def toml(setting, budget, seed):
    """The configuration of a run: dotted keys, since a setting may belong to any table."""
    lines = [f"train.{line.strip()}" for line in setting.split(";") if line.strip()]
    lines.append(f"train.seed = {seed}")
    if not budget.endswith("s"):
        steps, cells = budget.split("x")
        lines += [f"train.steps = {steps}"]
        if not any(line.startswith("train.refine.max_cells") for line in lines):
            lines += [f"train.refine.max_cells = {cells}"]
    return "\n".join(lines) + "\n"


def key_of(args, capture, setting, budget, seed):
    return [capture, toml(args.settings[setting], budget, seed), budget, args.tag]


def run(args, capture, setting, budget, seed):
    key = key_of(args, capture, setting, budget, seed)
    folder = args.out / "runs" / f"{capture}-{hashlib.sha1(json.dumps(key).encode()).hexdigest()[:10]}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.with_name(folder.name + ".toml")
    config.write_text(f"# {capture}, {setting}, {budget}\n{key[1]}")
    command = [args.train, args.captures[capture], "--out", folder, "--quiet", "--threads", args.threads]
    command += ["--eval-every", 10**9, "--keep", 1, *RESIZE.get(capture, [])]
    if budget.endswith("s"):
        # Cells by the time come with no configuration only: without settings of its own, a run is the plain command.
        command += ["--time-limit", budget[:-1], "--seed", seed]
        command += ["--config", config] if args.settings[setting] else []
    else:
        command += ["--config", config]
    with open(folder.with_name(folder.name + ".log"), "w") as log:
        subprocess.run([str(part) for part in command], check=True, stdout=log, stderr=subprocess.STDOUT)
    found = json.loads((folder / "result.json").read_text())
    if not args.keep:
        for file in folder.glob("*.safetensors*"):
            file.unlink()
    return {"key": key, "setting": setting, "seed": seed, "folder": folder.name} | {k: found.get(k) for k in KEPT}


def table(args, done):
    """Mean over the seeds that are there, and each seed's PSNR."""
    lines = [
        "| capture | budget | setting | PSNR dB (seeds) | SSIM | train PSNR | cells | M rays | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for capture in args.captures:
        for budget in args.budget:
            for setting in args.settings:
                keys = [json.dumps(key_of(args, capture, setting, budget, seed)) for seed in args.seeds]
                runs = [done[key] for key in keys if key in done]
                if not runs:
                    continue
                mean = lambda k: statistics.mean(run[k] for run in runs)
                seeds = ", ".join(f"{run['psnr_db']:.2f}" for run in runs)
                lines.append(
                    f"| {capture} | {budget} | {setting} | {mean('psnr_db'):.2f} ({seeds}) | {mean('ssim'):.3f} | "
                    f"{mean('train_psnr_db'):.2f} | {mean('cells') / 1e3:.0f} k | {mean('rays') / 1e6:.1f} | "
                    f"{mean('cpu_seconds'):.0f} |"
                )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", action="append", required=True, type=pair, metavar="NAME=PATH")
    parser.add_argument("--setting", action="append", type=pair, metavar="NAME=LINES", help="default: none")
    parser.add_argument("--budget", action="append", metavar="STEPSxCELLS|SECONDSs", help="default: 2000x40000")
    parser.add_argument("--seeds", default="0", help="apart by commas")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--train", default="target/release/examples/train", help="the example, built")
    parser.add_argument("--tag", default="", help="tells the results of one build from those of another")
    parser.add_argument("--threads", type=int, default=1, help="threads a run")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints too")
    args = parser.parse_args()
    args.captures, args.settings = dict(args.capture), dict(args.setting or [("default", "")])
    args.seeds, args.budget = [int(seed) for seed in args.seeds.split(",")], args.budget or ["2000x40000"]
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)

    lines = args.out / "runs.jsonl"
    known = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    done = {json.dumps(found["key"]): found for found in known}
    jobs = [(c, s, b, seed) for seed in args.seeds for b in args.budget for c in args.captures for s in args.settings]
    for job in jobs:
        key = json.dumps(key_of(args, *job))
        if key not in done:
            done[key] = run(args, *job)
            with open(lines, "a") as file:
                file.write(json.dumps(done[key]) + "\n")
        capture, setting, budget, seed = job
        found = done[key]
        print(
            f"{capture}, {budget}, {setting}, seed {seed}: {found['psnr_db']:.2f} dB, "
            f"training views {found['train_psnr_db']:.2f} dB, {found['cpu_seconds']:.0f} CPU s",
            flush=True,
        )
    text = table(args, done)
    (args.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
