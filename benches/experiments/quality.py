#!/usr/bin/env python3
"""What makes a foam good for the time it is given? Captures x settings x budgets x seeds, one after the other.

    cargo build --release --example train
    python3 benches/experiments/quality.py --out runs/quality --capture fox=PATH --capture snowmiku=PATH \\
        --setting default= --setting 'no SH=sh_degree = 0' --setting 'gentle=optim.density.final = 0.01; init.raw_density = -0.2' \\
        --budget 2000x40000 --budget 75s --seeds 0,1,2

A setting is a name and lines as they stand under [train] in a run's config.toml, apart by semicolons; none for the
defaults. A budget is STEPSxCELLS, so that what else the machine does matters to the time only; seconds of training
on --threads threads, which plan the cells as well; or a preset, as `fast`.

Each run that has ended adds a line to runs.jsonl, and is not made again when the script is called again, with the same
or with more to do; delete lines to have them made anew. So it can be stopped at any time, and loses the run under way. A
run that fails is named in the end, and the others are made. With --table no run is made, and the table is of those that
have been.

The table, of all that is asked for, goes to the terminal and to table.md: means over the seeds, PSNR of each seed, its
difference from the first setting's mean over the seeds that both have, and the worst view of all. Where that is far
below the mean, two seeds say nothing. Pictures of the test views stay in the runs' folders and, by name, in pictures/.
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
PRESETS = ("fast", "default", "best", "reference")
KEPT = ("psnr_db", "ssim", "train_psnr_db", "train_ssim", "cells", "rays", "steps", "seconds", "cpu_seconds")


def pair(text):
    name, _, value = text.partition("=")
    return name.strip(), value.strip()


def is_steps(budget):
    return budget not in PRESETS and not budget.endswith("s")


def toml(setting, budget, seed):
    """The configuration of a run: dotted keys, since a setting may belong to any table."""
    lines = [f"train.{line.strip()}" for line in setting.split(";") if line.strip()]
    lines.append(f"train.seed = {seed}")
    if is_steps(budget):
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
    command += ["--config", config]
    if budget in PRESETS:
        command += ["--preset", budget]
    elif not is_steps(budget):
        command += ["--time-limit", budget[:-1]]
    with open(folder.with_name(folder.name + ".log"), "w") as log:
        subprocess.run([str(part) for part in command], check=True, stdout=log, stderr=subprocess.STDOUT)
    found = json.loads((folder / "result.json").read_text())
    if (folder / "test.png").exists():
        pictures = args.out / "pictures"
        pictures.mkdir(exist_ok=True)
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in f"{capture} {budget} {setting} {seed}")
        shutil.copyfile(folder / "test.png", pictures / f"{name}.png")
    if not args.keep:
        for file in folder.glob("*.safetensors*"):
            file.unlink()
    worst = min((view["psnr_db"] for view in found.get("per_view", [])), default=None)
    named = {"key": key, "setting": setting, "seed": seed, "folder": folder.name, "worst_psnr_db": worst}
    return named | {k: found.get(k) for k in KEPT}


def mean(values):
    """Their mean, or NaN where there is none: a run from before a value was kept has it not."""
    values = [value for value in values if value is not None]
    return statistics.mean(values) if values else float("nan")


def table(args, done):
    """A line for each capture, budget and setting of which there is a run."""
    columns = "capture | budget | setting | PSNR dB (seeds) | against the first | SSIM | worst view"
    columns += " | train PSNR | cells | M rays | CPU s"
    lines = [f"| {columns} |", "|---" * len(columns.split("|")) + "|"]
    for capture in args.captures:
        for budget in args.budget:
            first = None
            for setting in args.settings:
                keys = {seed: json.dumps(key_of(args, capture, setting, budget, seed)) for seed in args.seeds}
                runs = {seed: done[key] for seed, key in keys.items() if key in done}
                first = runs if first is None else first
                if not runs:
                    continue
                of = lambda k: mean(run.get(k) for run in runs.values())
                seeds = ", ".join(f"{run['psnr_db']:.2f}" for run in runs.values())
                both = [run["psnr_db"] - first[seed]["psnr_db"] for seed, run in runs.items() if seed in first]
                gain = f"{mean(both):+.2f}" if both and runs is not first else ""
                worst = min((run["worst_psnr_db"] for run in runs.values() if run.get("worst_psnr_db")), default=float("nan"))
                lines.append(
                    f"| {capture} | {budget} | {setting} | {of('psnr_db'):.2f} ({seeds}) | {gain} | {of('ssim'):.3f} | "
                    f"{worst:.1f} | {of('train_psnr_db'):.2f} | {of('cells') / 1e3:.0f} k | {of('rays') / 1e6:.1f} | "
                    f"{of('cpu_seconds'):.0f} |"
                )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", action="append", required=True, type=pair, metavar="NAME=PATH")
    parser.add_argument("--setting", action="append", type=pair, metavar="NAME=LINES", help="default: none")
    parser.add_argument("--budget", action="append", metavar="STEPSxCELLS|SECONDSs|PRESET", help="default: 2000x40000")
    parser.add_argument("--seeds", default="0", help="apart by commas")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--train", default="target/release/examples/train", help="the example, built")
    parser.add_argument("--tag", default="", help="tells the results of one build from those of another")
    parser.add_argument("--threads", type=int, default=1, help="threads a run")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints too")
    parser.add_argument("--table", action="store_true", help="make no run")
    args = parser.parse_args()
    args.captures, args.settings = dict(args.capture), dict(args.setting or [("default", "")])
    args.seeds, args.budget = [int(seed) for seed in args.seeds.split(",")], args.budget or ["2000x40000"]
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)

    lines = args.out / "runs.jsonl"
    known = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    done = {json.dumps(found["key"]): found for found in known}
    jobs = [(c, s, b, seed) for seed in args.seeds for b in args.budget for c in args.captures for s in args.settings]
    failed = []
    for job in [] if args.table else jobs:
        key = json.dumps(key_of(args, *job))
        capture, setting, budget, seed = job
        if key not in done:
            try:
                done[key] = run(args, *job)
            except (subprocess.CalledProcessError, OSError, ValueError) as error:
                failed.append(f"{capture}, {budget}, {setting}, seed {seed}: {error}")
                print(failed[-1], flush=True)
                continue
            with open(lines, "a") as file:
                file.write(json.dumps(done[key]) + "\n")
        found = done[key]
        print(
            f"{capture}, {budget}, {setting}, seed {seed}: {found['psnr_db']:.2f} dB, "
            f"training views {found['train_psnr_db']:.2f} dB, {found['cpu_seconds']:.0f} CPU s",
            flush=True,
        )
    text = table(args, done)
    (args.out / "table.md").write_text(text)
    print(text)
    for failure in failed:
        print(f"failed: {failure}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
