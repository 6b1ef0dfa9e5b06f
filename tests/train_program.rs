//! Does the program `train` save when it is interrupted, go on as if it had not been, and refuse what it should?
#![cfg(unix)]

#[cfg(target_os = "linux")]
#[path = "common/refused.rs"]
mod refused;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use candle_core::Device;
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::data::synthetic::{SyntheticOptions, write_capture};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program, built like this test.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().expect("this program");
        let folder = test.ancestors().nth(2).expect("target/debug");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--example", "train", "--manifest-path"]);
        build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        build.arg("--target-dir").arg(folder.parent().expect("target"));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let output = build.output().expect("cargo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder.join("examples/train")
    })
}

/// A small capture, a config, and runs beside them.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// `train` is the `[train]` table of the config, beyond what makes it small.
    fn new(train: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        let options = SyntheticOptions { size: 24, train_views: 6, test_views: 2, samples: 1, seed: 1 };
        write_capture(&place.path("capture"), &options, &|_, _| {}).expect("a capture");
        place.configure("config.toml", train);
        place
    }

    fn configure(&self, name: &str, train: &str) {
        let text = format!(
            "[train]\n{train}\n[train.init]\nnum_cells = 200\nnum_outer_cells = 20\n[train.sampler]\nbatch_size = 256\n\
             warmup_steps = 5\npatch = 4\n[train.refine]\nrounds = 4\nfrom = 0.3\nuntil = 0.8\nmax_cells = 500\n"
        );
        fs::write(self.path(name), text).expect("written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.folder.path()).args(args).arg("--quiet");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A new run in the folder `out`.
    fn begin(&self, out: &str, args: &[&str]) -> Command {
        self.command(&[&["capture", "--config", "config.toml", "--out", out], args].concat())
    }

    /// The program where no file has more than so many blocks of 512 bytes, as on a full disk.
    fn limited(&self, blocks: u32, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        command.current_dir(self.folder.path()).args(["-c", &script, "sh"]).arg(program()).args(args).arg("--quiet");
        command
    }

    fn checkpoint(&self, run: &str) -> Vec<u8> {
        fs::read(self.path(run).join("checkpoint.safetensors")).expect("a checkpoint")
    }

    fn step(&self, run: &str) -> u64 {
        let header = Checkpoint::load_header(self.path(run).join("checkpoint.safetensors")).expect("a header");
        header["step"].as_u64().expect("a step")
    }

    fn metrics(&self, run: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until the run has taken some steps.
    fn wait_for_steps(&self, child: &mut Child, run: &str, steps: usize) {
        let started = Instant::now();
        while self.metrics(run).len() < steps {
            assert!(child.try_wait().expect("a child").is_none(), "{run} ended by itself");
            assert!(started.elapsed() < PATIENCE, "{run} takes no steps");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn succeed(mut command: Command) -> String {
    let output = command.output().expect("train");
    assert!(output.status.success(), "{:?}: {}", command.get_args(), told(&output));
    told(&output)
}

/// What a run that must fail says.
fn fail(mut command: Command) -> String {
    let output = command.output().expect("train");
    assert_eq!(output.status.code(), Some(1), "{:?}: {}", command.get_args(), told(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("a signal");
}

/// Through densification and a change of resolution, on any number of threads, with and without a draw that waits.
#[test]
fn stopped_and_resumed_is_the_same_file() {
    let stages = "[[train.resolution]]\nuntil = 0.6\nfactor = 2\n[[train.resolution]]\nuntil = 1.0\nfactor = 1\n";
    let place = Place::new("seed = 3\nsteps = 60");
    let config = fs::read_to_string(place.path("config.toml")).expect("a config");
    for lag in [0, 1] {
        let text = config.replace("patch = 4", &format!("patch = 4\nlag = {lag}")) + stages;
        fs::write(place.path("config.toml"), text).expect("written");
        let name = |what: &str| format!("{what}-{lag}");
        succeed(place.begin(&name("whole"), &["--threads", "1"]));
        let refined = |line: &&Value| !line["refined"].is_null();
        let metrics = place.metrics(&name("whole"));
        let (before, after) = metrics.split_at(30);
        assert!(before.iter().any(|line| refined(&line)) && after.iter().any(|line| refined(&line)), "lag {lag}");
        for [first, second] in [["1", "2"], ["2", "1"]] {
            let run = name(&format!("run-{first}"));
            succeed(place.begin(&run, &["--stop-after", "30", "--threads", first]));
            assert_eq!(place.step(&run), 30);
            succeed(place.command(&["--resume", &run, "--threads", second]));
            assert!(place.checkpoint(&run) == place.checkpoint(&name("whole")), "lag {lag}, threads {first}, {second}");
        }
    }
}

#[test]
fn an_interrupted_run_saves_and_goes_on_as_if_it_had_not_been() {
    let place = Place::new("seed = 3\nsteps = 100000");
    for (number, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let run = format!("run-{status}");
        let mut child = place.begin(&run, &[]).spawn().expect("train");
        place.wait_for_steps(&mut child, &run, 5);
        signal(&child, number);
        let output = child.wait_with_output().expect("train");
        assert_eq!(output.status.code(), Some(status), "{}", told(&output));
        let step = place.step(&run);
        assert!(step >= 5 && told(&output).contains(&format!("saved after {step} steps")), "{}", told(&output));
        assert!(!place.path(&run).join("result.json").exists(), "an interrupted run has no result");
        let end = (step + 10).to_string();
        succeed(place.command(&["--resume", &run, "--stop-after", &end]));
        let whole = format!("whole-{status}");
        succeed(place.begin(&whole, &["--stop-after", &end]));
        assert!(place.checkpoint(&run) == place.checkpoint(&whole), "{number:?} after step {step}");
    }
}

#[test]
fn a_second_signal_leaves_at_once() {
    // A step of a million rays takes seconds.
    let place = Place::new("steps = 100000");
    let mut child = place.begin("run", &["--rays-per-batch", "1048576", "--threads", "1"]).spawn().expect("train");
    let started = Instant::now();
    while !place.path("run/metrics.jsonl").exists() {
        assert!(started.elapsed() < PATIENCE && child.try_wait().expect("a child").is_none(), "no run");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(100));
    assert!(child.try_wait().expect("a child").is_none(), "the first signal waits for the step");
    let second = Instant::now();
    signal(&child, Signal::INT);
    assert_eq!(child.wait().expect("train").code(), Some(130));
    assert!(second.elapsed() < Duration::from_secs(1), "{:?}", second.elapsed());
    assert!(!place.path("run/checkpoint.safetensors").exists());
}

#[test]
fn a_folder_in_use_is_refused_until_the_run_is_killed() {
    let place = Place::new("steps = 100000");
    let mut child = place.begin("run", &["--checkpoint-every", "0", "--keep", "3"]).spawn().expect("train");
    place.wait_for_steps(&mut child, "run", 10);
    let said = fail(place.command(&["--resume", "run"]));
    assert!(said.contains("in use") && said.contains(&child.id().to_string()), "{said}");
    child.kill().expect("killed");
    child.wait().expect("a status");
    let step = place.step("run");
    succeed(place.command(&["--resume", "run", "--stop-after", &(step + 1).to_string(), "--keep", "3"]));
    let files = fs::read_dir(place.path("run")).expect("a folder").flatten();
    let names = files.map(|file| file.file_name().into_string().expect("a name"));
    let kept = names.filter(|name| name.starts_with("checkpoint") && name.ends_with("safetensors")).count();
    assert_eq!(kept, 3);

    // A disk that lost the newest one: the one before it is taken.
    fs::write(place.path("run/checkpoint.safetensors"), b"lost").expect("written");
    let said = succeed(place.command(&["--resume", "run", "--stop-after", &(step + 2).to_string()]));
    assert!(said.contains("warning") && said.contains(&format!("resuming at step {step}")), "{said}");
    let good = place.path("run").join(format!("checkpoint-{step:08}.safetensors"));
    assert!(good.exists(), "the one that was gone on from");
}

/// As on some that are mounted over a network.
#[test]
#[cfg(target_os = "linux")]
fn a_file_system_without_links_and_locks_will_do() {
    use std::os::unix::process::CommandExt;
    let place = Place::new("seed = 3\nsteps = 30");
    let without = |mut command: Command| {
        // SAFETY: between fork and exec, this makes a filter in memory of the child's own and tells the system of it.
        unsafe { command.pre_exec(refused::refuse_links_and_locks) };
        let output = match command.output() {
            Ok(output) => output,
            Err(error) => {
                println!("skipped: no system call can be refused here ({error})");
                return None;
            }
        };
        assert!(output.status.success(), "{}", told(&output));
        Some(told(&output))
    };
    let every = ["--checkpoint-every", "0", "--keep", "3"];
    let Some(said) = without(place.begin("run", &[&every[..], &["--stop-after", "15"]].concat())) else { return };
    assert!(said.contains("cannot be locked") && !said.contains("not saved"), "{said}");
    let said = without(place.command(&[&["--resume", "run"], &every[..]].concat())).expect("no locks, as before");
    assert!(said.contains("cannot be locked") && said.contains("resuming at step 15"), "{said}");
    for older in ["checkpoint-00000028.safetensors", "checkpoint-00000029.safetensors"] {
        let read = Checkpoint::load(place.path("run").join(older), &Device::Cpu);
        assert!(read.is_ok(), "{older}: {:?}", read.err());
    }
    succeed(place.begin("whole", &[]));
    assert!(place.checkpoint("run") == place.checkpoint("whole"), "other bytes than with links");
}

/// What cannot be saved is no reason to end before the end; then it is.
#[test]
fn a_full_disk_leaves_the_last_checkpoint_to_go_on_from() {
    let place = Place::new("seed = 3\nsteps = 30");
    succeed(place.begin("whole", &[]));
    succeed(place.begin("run", &["--stop-after", "10"]));
    // A checkpoint has more blocks, and metrics and settings have less.
    let mut limited = place.limited(24, &["--resume", "run", "--checkpoint-every", "0"]);
    let output = limited.output().expect("train");
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("warning: not saved") && said.contains("checkpoint.safetensors"), "{said}");
    assert_eq!((place.metrics("run").len(), place.step("run")), (30, 10), "{said}");
    succeed(place.command(&["--resume", "run"]));
    assert!(place.checkpoint("run") == place.checkpoint("whole"));
}

/// Nor are metrics that cannot be written; the checkpoint at the end is.
#[test]
fn a_full_disk_costs_lines_of_the_metrics() {
    let place = Place::new("seed = 3\nsteps = 100");
    let said = fail(place.limited(24, &["capture", "--config", "config.toml", "--out", "run"]));
    assert!(said.contains("checkpoint.safetensors"), "{said}");
    let output = place.limited(24, &["capture", "--config", "config.toml", "--out", "again"]).output().expect("train");
    assert_eq!(told(&output).matches("metrics.jsonl").count(), 1, "{}", told(&output));
    let text = fs::read_to_string(place.path("again/metrics.jsonl")).expect("metrics");
    assert!(text.ends_with('\n') && (20..100).contains(&text.lines().count()), "{} lines", text.lines().count());
    assert_eq!(place.metrics("again").len(), text.lines().count(), "half a line");
}

/// What is beside a checkpoint may be lost, and it goes on.
#[test]
fn damage_beside_the_checkpoint_is_no_reason_to_stop() {
    let place = Place::new("seed = 3\nsteps = 20");
    succeed(place.begin("whole", &[]));
    succeed(place.begin("run", &["--stop-after", "10"]));
    let path = place.path("run/metrics.jsonl");
    let text = fs::read_to_string(&path).expect("metrics");
    fs::write(&path, text.replacen("{\"", "\0\0", 1)).expect("written");
    fs::write(place.path("run/clock.json"), b"{").expect("written");
    let said = succeed(place.command(&["--resume", "run"]));
    assert!(said.contains("metrics.jsonl: 1 lines dropped") && said.contains("clock.json"), "{said}");
    assert_eq!(place.metrics("run").len(), 19);
    assert!(place.checkpoint("run") == place.checkpoint("whole"));
}

/// A run of version 1, made of one of the present: what its config.toml says is of that time.
#[test]
fn a_run_of_an_earlier_version_goes_on() {
    let place = Place::new("seed = 3\nsteps = 20");
    succeed(place.begin("whole", &[]));
    succeed(place.begin("run", &["--stop-after", "10"]));
    let path = place.path("run/checkpoint.safetensors");
    let mut checkpoint = Checkpoint::load(&path, &Device::Cpu).expect("a checkpoint");
    let header = checkpoint.header.as_object_mut().expect("a header");
    header.insert("format_version".into(), 1.into());
    for key in ["step", "seed", "metrics", "cameras"] {
        header.remove(key);
    }
    checkpoint.save(&path).expect("saved");
    let own = place.path("run/config.toml");
    let text = fs::read_to_string(&own).expect("a config");
    fs::write(&own, text.replace("seed = 3\n", "seed = 0\n") + "\n[train.forgotten]\n").expect("written");
    succeed(place.command(&["--resume", "run"]));
    assert!(place.path("run/checkpoint-00000010.safetensors").exists());
    assert!(place.checkpoint("run") == place.checkpoint("whole"));
    assert_eq!(fs::read_to_string(&own).expect("a config"), text);
}

/// The file that a run was begun with is no other than the run, with what it fills in by itself.
#[test]
fn the_config_of_the_beginning_may_be_named_again() {
    let place = Place::new("");
    let mut failures = Vec::new();
    for (case, train, flags) in [
        ("no plan", "", &[][..]),
        ("exponent", "steps = 20\n[train.loss]\nimportance_exponent = 0.5", &[]),
        ("capped", "steps = 20", &["--max-cells", "100"]),
        ("strategy", "steps = 20\nsh_degree = 2", &["--sampling", "top-k", "--downsample", "2", "--sh-degree", "1"]),
        ("set", "steps = 20", &["--set", "prior.density=0.5"]),
        ("flags", "steps = 10\nbackground = \"white\"", &["--steps", "20", "--background", "black", "--seed", "4"]),
    ] {
        place.configure("config.toml", train);
        let run = case.replace(' ', "-");
        succeed(place.begin(&run, &[flags, &["--stop-after", "5"]].concat()));
        // With the flags, and without: they are not said anew then.
        for (step, flags) in [("6", flags), ("7", &[])] {
            if flags.contains(&"--set") {
                continue; // There is no such flag with --resume.
            }
            let again = ["--resume", &run, "--config", "config.toml", "--stop-after", step];
            let output = place.command(&[&again, flags].concat()).output().expect("train");
            if !output.status.success() {
                failures.push(format!("{case}, to step {step}: {}", told(&output)));
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));

    // What the file says anew is, and what flags say that the file said then.
    place.configure("config.toml", "steps = 10\nseed = 5\nbackground = \"white\"");
    let again = &["--resume", "flags", "--config", "config.toml", "--stop-after", "8"];
    let said = fail(place.command(again));
    assert!(said.contains("config.toml: seed: 4 in the run, 5 now"), "{said}");
    assert!(!said.contains("background") && !said.contains("steps"), "{said}");
    place.configure("config.toml", "steps = 10\nbackground = \"white\"");
    let said = fail(place.command(&[&again[..], &["--background", "white"]].concat()));
    assert!(said.contains("flags: background") && !said.contains("seed"), "{said}");
}

#[test]
fn settings_that_do_not_match_are_listed_and_some_may_change() {
    let place = Place::new("seed = 3\nsteps = 20");
    succeed(place.begin("run", &[]));
    succeed(place.command(&["--resume", "run", "--config", "config.toml"]));
    let mut failures = Vec::new();
    let mut refused = |args: &[&str], words: &[&str]| {
        let said = fail(place.command(&[&["--resume", "run"], args].concat()));
        if let Some(missing) = words.iter().find(|word| !said.contains(*word)) {
            failures.push(format!("{args:?}: no word of {missing}: {said}"));
        }
    };
    refused(
        &["--steps", "40", "--sh-degree", "2", "--max-cells", "300", "--downsample", "2"],
        &[
            "steps: 20 in the run, 40 now (--override steps=40",
            "sh_degree: 1 in the run, 2 now (it cannot change: colours",
            "refine.max_cells: 500 in the run, 300 now (--override",
            "resize: \"none\" in the run",
        ],
    );
    refused(&["--override", "sh_degree=2"], &["sh_degree", "colours and their moments have its shape"]);
    refused(&["--override", "sampler.patch=8"], &["sampler.patch", "the error map was gathered with it"]);
    refused(&["--override", "seed=4"], &["seed", "everything random"]);
    refused(&["--override", "no.such=1"], &["no.such", "one of", "optim.points.initial"]);
    refused(&["--override", "steps"], &["key=value"]);
    refused(&["--override", "steps=many"], &["many"]);
    refused(&["--override", "steps=0"], &["steps", "at least 1"]);
    refused(&["--override", "optim=1"], &["optim", "one of"]);
    place.configure("other.toml", "seed = 3\nsteps = 20\nbackground = \"black\"");
    refused(&["--config", "other.toml"], &["other.toml: background", "trained in front of it"]);
    let own = place.path("run/config.toml");
    let text = fs::read_to_string(&own).expect("a config");
    fs::write(&own, text.replace("steps = 20", "steps = 30")).expect("written");
    refused(&[], &["config.toml: steps: 20 in the run, 30 now"]);
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));

    // The disk was full for the checkpoint, and not for config.toml: the same command once more.
    fs::write(&own, &text).expect("written");
    let changed = ["--resume", "run", "--override", "steps=25"];
    let said = fail(place.limited(24, &changed));
    assert!(said.contains("checkpoint.safetensors"), "{said}");
    assert!(fs::read_to_string(&own).expect("a config").contains("steps = 25"), "written last");
    succeed(place.command(&changed));
    assert_eq!(place.step("run"), 25);

    // The same as an override says is no difference.
    let rate = "optim.points.initial=0.001";
    succeed(place.command(&["--resume", "run", "--override", "steps=30", "--override", rate, "--steps", "30"]));
    assert_eq!(place.step("run"), 30);
    let header = Checkpoint::load_header(place.path("run/checkpoint.safetensors")).expect("a header");
    assert_eq!(
        (&header["config"]["steps"], &header["config"]["optim"]["points"]["initial"]),
        (&30.into(), &0.001.into())
    );
    let text = fs::read_to_string(&own).expect("a config");
    assert!(text.contains("steps = 30") && text.contains("initial = 0.001"), "{text}");
    // And goes on without saying it again.
    succeed(place.command(&["--resume", "run"]));
}

#[test]
fn what_is_not_finite_is_traced_to_where_it_began() {
    // Colours of 1e25 have squares that f32 does not hold.
    let place = Place::new("seed = 3\nsteps = 1000");
    let rates = |plan: &str| format!("seed = 3\n{plan}\n[train.optim.color]\ninitial = 1e25\nfinal = 1e25");
    for (case, plan, args, words) in [
        ("from a checkpoint", "steps = 1000", &["--checkpoint-every", "0"][..], "the last good checkpoint is"),
        ("by time", "time_limit = 1000.0", &["--checkpoint-every", "0"], "the last good checkpoint is"),
        ("from the beginning", "steps = 1000", &[], "no checkpoint had been written"),
    ] {
        place.configure("config.toml", &rates(plan));
        let run = case.replace(' ', "-");
        let said = fail(place.begin(&run, &[args, &["--debug-nonfinite"]].concat()));
        assert!(said.contains(words) && said.contains("it began in tensor"), "{case}: {said}");
        let text = fs::read(place.path(&run).join("non_finite.json")).expect("what was found");
        let found: Value = serde_json::from_slice(&text).expect("JSON");
        println!("{case}: {found}");
        let step = found["step"].as_u64().expect("a step");
        let [tensor, index] = ["tensor", "index"].map(|key| found[key].to_string());
        assert!(said.contains(&format!("at step {step}, the first at {index}")), "{case}: {said}");
        assert!(tensor.len() > 2 && said.contains(tensor.trim_matches('"')), "{case}: {said}");
        assert!(found["replayed_from"].as_u64() <= Some(step), "{case}: {found}");
        if words.contains("last good") {
            assert_eq!(found["replayed_from"].as_u64(), Some(place.step(&run)), "{case}");
        }
    }
    place.configure("config.toml", &rates("steps = 1000"));
    let said = fail(place.begin("plain", &[]));
    assert!(said.contains("--debug-nonfinite") && !place.path("plain/non_finite.json").exists(), "{said}");
}

#[test]
fn seconds_between_checkpoints_are_a_number() {
    let place = Place::new("steps = 1");
    for every in ["nan", "-1", "-inf", "often"] {
        let output = place.begin("run", &[&format!("--checkpoint-every={every}")]).output().expect("train");
        assert_eq!(output.status.code(), Some(2), "{every}: {}", told(&output));
    }
    assert!(!place.path("run").exists());
}

#[test]
fn memory_is_foretold_and_watched() {
    let place = Place::new("time_limit = 4.0");
    let said = fail(place.begin("large", &["--max-cells", "4000000000"]));
    for word in ["MB more are needed", "--max-cells", "--any-memory"] {
        assert!(said.contains(word), "no word of {word}: {said}");
    }
    let said = fail(place.begin("larger", &["--max-cells", &usize::MAX.to_string()]));
    assert!(said.contains("fewer --max-cells"), "{said}");
    // Some two hundred checkpoints.
    let said = succeed(place.begin("run", &["--checkpoint-every", "0.02"]));
    assert!(said.contains("memory: about"), "{said}");
    let files: Vec<u64> = place.metrics("run").iter().filter_map(|line| line["open_files"].as_u64()).collect();
    assert!(files.len() >= 3, "{files:?}");
    // A checkpoint may be under way beside the training: its file, the folder.
    assert!(files.iter().all(|&count| count.abs_diff(files[0]) <= 4), "{files:?}");
    let bytes: Vec<u64> = place.metrics("run").iter().filter_map(|line| line["memory_bytes"].as_u64()).collect();
    // From the second on: the first comes with the first step.
    assert!(bytes[bytes.len() - 1] < bytes[1] + bytes[1] / 4 + (8 << 20), "{bytes:?}");
    let plot = fs::read_to_string(place.path("run/memory.svg")).expect("a plot");
    assert!(plot.contains("<svg") && plot.contains("open files"), "no curves");
}

/// What a run's config.toml says.
fn settings(place: &Place, run: &str) -> toml::Table {
    let text = fs::read_to_string(place.path(run).join("config.toml")).expect("config.toml");
    text.parse().expect("TOML")
}

#[test]
fn preset_config_set_and_flags_come_on_top_of_one_another() {
    let place = Place::new("seed = 1");
    let small = "[train.init]\nnum_cells = 200\nnum_outer_cells = 20\n[train.sampler]\nbatch_size = 128\n";
    let partial = "[train.optim.density]\nfinal = 0.03\n";
    fs::write(place.path("partial.toml"), format!("[train]\nsh_degree = 2\n{small}{partial}")).expect("written");
    fs::write(place.path("steps.toml"), format!("[train]\nsteps = 1\n{small}")).expect("written");
    fs::write(place.path("named.toml"), format!("preset = \"best\"\n[train]\nseed = 4\n{small}")).expect("written");
    fs::write(place.path("cells.toml"), format!("{small}[train.refine]\nmax_cells = 777\n")).expect("written");
    let cells_for = |seconds: f64| candle_radfoam::train::TrainConfig::cells_for(seconds) as i64;
    let planned = |seconds: f64| vec![("refine.max_cells", toml::Value::from(cells_for(seconds)))];
    // Where a configuration says nothing of cells, they are planned for the time all the same.
    type Expected = Vec<(&'static str, toml::Value)>;
    let cases: Vec<(&str, &[&str], Expected)> = vec![
        ("limited", &["--config", "partial.toml", "--time-limit", "30"], planned(30.0)),
        ("default", &["--config", "partial.toml"], planned(60.0)),
        (
            "fast",
            &["--config", "partial.toml", "--preset", "fast"],
            vec![
                ("time_limit", 20.0.into()),
                ("refine.max_cells", cells_for(20.0).into()),
                ("sh_degree", 2.into()),
                ("optim.density.final", 0.03.into()),
                ("optim.density.initial", 0.2.into()),
            ],
        ),
        (
            "stepped",
            &["--config", "steps.toml", "--preset", "fast"],
            vec![("steps", 1.into()), ("refine.max_cells", 40_000.into())],
        ),
        ("named", &["--config", "named.toml"], vec![("time_limit", 900.0.into()), ("seed", 4.into())]),
        ("renamed", &["--config", "named.toml", "--preset", "fast"], vec![("time_limit", 20.0.into())]),
        (
            "set",
            &[
                "--config",
                "partial.toml",
                "--set",
                "sh_degree=3",
                "--set",
                "steps = 5",
                "--set",
                "seed=8",
                "--seed",
                "9",
            ],
            vec![("sh_degree", 3.into()), ("steps", 5.into()), ("seed", 9.into())],
        ),
        ("said", &["--config", "cells.toml", "--time-limit", "30"], vec![("refine.max_cells", 777.into())]),
        (
            "told",
            &["--config", "cells.toml", "--time-limit", "30", "--max-cells", "300"],
            vec![("refine.max_cells", 300.into())],
        ),
        (
            "reference",
            &["--preset", "reference", "--config", "steps.toml", "--max-cells", "400"],
            vec![("optim.adam.beta2", 0.999.into()), ("sh_degree", 3.into()), ("steps", 1.into())],
        ),
    ];
    let mut failures = Vec::new();
    for (run, args, expected) in cases {
        succeed(place.command(&[&["capture", "--out", run, "--threads", "1", "--stop-after", "1"], args].concat()));
        let found = settings(&place, run);
        for (key, value) in expected {
            let at = key.split('.').try_fold(&found["train"], |table, part| table.get(part));
            if at != Some(&value) {
                failures.push(format!("{run}: {key} is {at:?}, not {value}"));
            }
        }
        let plans = ["steps", "time_limit"].map(|key| found["train"].get(key).is_some());
        if plans == [true, true] {
            failures.push(format!("{run} has two plans"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    let presets =
        ["limited", "fast", "named", "renamed", "reference"].map(|run| settings(&place, run)["preset"].clone());
    assert_eq!(
        presets.map(|p| p.as_str().map(String::from)),
        ["default", "fast", "best", "fast", "reference"].map(|p| Some(p.into()))
    );
    let header = Checkpoint::load_header(place.path("named").join("checkpoint.safetensors")).expect("a header");
    assert_eq!(header["run"]["preset"], "best");

    // What a file leaves to preset and plan is no difference where the run is taken up again.
    for run in ["limited", "fast", "named"] {
        let file = if run == "named" { "named.toml" } else { "partial.toml" };
        succeed(place.command(&["--resume", run, "--config", file, "--threads", "1", "--stop-after", "2"]));
    }
    // A flag that is none: the exit status is another one.
    let output = place.command(&["capture", "--out", "none", "--preset", "quick"]).output().expect("train");
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("fast, default, best or reference"), "{}", told(&output));
    let said = fail(place.command(&["capture", "--out", "none", "--set", "sh_degre=2"]));
    assert!(said.contains("sh_degree"), "{said}");
}
