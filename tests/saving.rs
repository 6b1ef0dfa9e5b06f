//! Is the last checkpoint whole whatever happens while the next is written: SIGKILL, a full disk, a folder that cannot
//! be written?
#![cfg(target_os = "linux")]

#[path = "common/capture.rs"]
mod capture;
#[path = "common/refused.rs"]
mod refused;
#[allow(dead_code, reason = "what the program asks of it besides")]
#[path = "../examples/train/saver.rs"]
mod saver;

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use candle_core::{Device, Tensor};
use candle_radfoam::checkpoint::{Checkpoint, Kept, write_atomically};
use candle_radfoam::data::synthetic::{SyntheticOptions, write_capture};
use candle_radfoam::data::{Dataset, LoadOptions, load};
use candle_radfoam::foam::InitConfig;
use candle_radfoam::rng::{Rng, Stream};
use candle_radfoam::train::{TrainConfig, Trainer};
use candle_radfoam::{Error, Result};
use rustix::process::{Resource, Rlimit, setrlimit};
use saver::{Saver, newest_whole};
use serde_json::{Value, json};

/// Tells a child of these tests which folder is its own.
const FOLDER: &str = "RADFOAM_TEST_FOLDER";
const NAME: &str = "checkpoint.safetensors";

/// This program again, as `test` alone, with a folder.
fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--nocapture"]).env(FOLDER, folder).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The folder of a child; none in the test itself.
fn own_folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

fn config() -> TrainConfig {
    let init = InitConfig { num_cells: 60, num_outer_cells: 8, ..InitConfig::default() };
    let mut config = TrainConfig { init, sh_degree: 0, ..capture::config(1_000_000) };
    config.sampler.batch_size = 64;
    config
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().expect("a name")).collect();
    names.sort_unstable();
    names
}

fn parts(folder: &Path) -> usize {
    names(folder).iter().filter(|name| name.ends_with(".part")).count()
}

fn small(step: u64) -> Checkpoint {
    let tensor = Tensor::full(step as f32, 1000, &Device::Cpu).expect("a tensor");
    Checkpoint { tensors: [("x".to_string(), tensor)].into(), header: json!({ "step": step }) }
}

/// The capture beside a run.
fn dataset(run: &Path) -> Result<Dataset> {
    load(run.with_file_name("capture"), &LoadOptions::default())
}

/// In the child: goes on from the newest checkpoint, saving after every step.
fn train_and_save(run: &Path) -> Result<()> {
    let kept = Kept::new(run.join(NAME), 3)?;
    let mut trainer = match kept.newest().exists() {
        true => Trainer::resume(kept.newest(), dataset(run)?, &Device::Cpu)?,
        false => Trainer::new(dataset(run)?, config(), &Device::Cpu)?,
    };
    loop {
        trainer.step()?;
        for _ in 0..4 {
            kept.save(&trainer.checkpoint(Value::Null)?)?;
        }
    }
}

/// Kills a run that does nothing but save, takes it up again, and so on; in the end it has the bits of a run that was
/// never killed.
#[test]
fn killed_two_hundred_times() -> Result<()> {
    const KILLS: u32 = 220;
    /// The longest life after the first save of its own, in microseconds; some hundred saves.
    const LONGEST: f32 = 30_000.0;
    if let Some(folder) = own_folder() {
        return train_and_save(&folder);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let run = &folder.path().join("run");
    fs::create_dir(run).expect("a folder");
    let options = SyntheticOptions { size: 12, train_views: 3, test_views: 1, samples: 1, seed: 1 };
    write_capture(&folder.path().join("capture"), &options, &|_, _| {})?;
    let dataset = dataset(run)?;
    let kept = Kept::new(run.join(NAME), 3)?;
    let step_of = |path: &Path| Checkpoint::load_header(path).map(|header| header["step"].as_u64().unwrap_or(0));
    let rng = Rng::new(1, Stream::Synthetic, 0);
    let (mut last, mut under_way, mut failures) = (0, 0, Vec::new());
    for kill in 0..KILLS {
        let mut child: Child = child("killed_two_hundred_times", run).spawn().expect("a child");
        // Until it has saved once itself.
        while kept.newest().metadata().is_err() || step_of(kept.newest()).expect("a header") == last {
            assert!(child.try_wait().expect("a child").is_none(), "kill {kill}: the child ended by itself");
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros((LONGEST * rng.uniform(kill)) as u64));
        child.kill().expect("killed");
        assert_eq!(child.wait().expect("a status").signal(), Some(9), "kill {kill}");
        under_way += usize::from(parts(run) > 0);

        let all = kept.all();
        let steps: Vec<u64> = all.iter().map(|path| step_of(path)).collect::<Result<_>>()?;
        // Between two links, the newest has two names.
        let in_order = steps.windows(2).all(|pair| pair[0] >= pair[1]) && steps.first() > Some(&last);
        if !in_order || all.len() > 4 || parts(run) > 1 {
            failures.push(format!("kill {kill}: from {last}, steps {steps:?} in {:?}", names(run)));
        }
        for path in &all {
            if let Err(error) = Trainer::resume(path, dataset.clone(), &Device::Cpu) {
                failures.push(format!("kill {kill}: {error}"));
            }
        }
        last = steps[0];
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    println!("{KILLS} kills, {under_way} of them while a file was written, {last} steps");
    assert!(under_way >= 20, "only {under_way} of {KILLS} kills came while a file was written");

    let mut whole = Trainer::new(dataset.clone(), config(), &Device::Cpu)?;
    for _ in 0..last {
        whole.step()?;
    }
    let path = run.join("whole");
    whole.save(&path, Value::Null)?;
    let bytes = |path: &Path| fs::read(path).expect("a file");
    assert!(bytes(&path) == bytes(kept.newest()), "another run after {last} steps");
    // What the last one that was killed left behind goes with the next save.
    kept.save(&whole.checkpoint(Value::Null)?)?;
    assert_eq!(parts(run), 0, "{:?}", names(run));
    Ok(())
}

#[test]
fn the_last_few_are_kept() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(Kept::new(folder.path().join(NAME), 0).is_err());
    let older = |step: u64| format!("checkpoint-{step:08}.safetensors");
    let save = |keep: usize, step: u64| Kept::new(folder.path().join(NAME), keep)?.save(&small(step));
    let cases: [(usize, u64, &[u64]); 9] = [
        (1, 10, &[]),
        (2, 20, &[10]),
        (2, 30, &[20]),
        // The same step again is no older one.
        (2, 30, &[20]),
        (4, 40, &[20, 30]),
        (4, 50, &[20, 30, 40]),
        (4, 60, &[30, 40, 50]),
        // Taken up again from an older one: the later ones are of a course that was left.
        (4, 45, &[30, 40, 60]),
        (1, 70, &[]),
    ];
    let mut failures = Vec::new();
    for (keep, step, expected) in cases {
        save(keep, step)?;
        let mut expected: Vec<String> = expected.iter().map(|&step| older(step)).collect();
        expected.push(NAME.into());
        let found = names(folder.path());
        if found != expected {
            failures.push(format!("keep {keep}, step {step}: {found:?}"));
        }
        let newest = Checkpoint::load(folder.path().join(NAME), &Device::Cpu)?;
        assert_eq!(newest.header["step"], step);
        assert!(newest.values::<f32>(Path::new(NAME), "x")?.iter().all(|&x| x == step as f32));
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));

    // Names of others, and a newest one that is none.
    for name in ["checkpoint-1.safetensors", "checkpoint-0000000x.safetensors", "checkpoint-00000001.txt"] {
        fs::write(folder.path().join(name), b"mine").expect("written");
    }
    fs::write(folder.path().join(NAME), b"broken").expect("written");
    save(2, 80)?;
    save(2, 90)?;
    let kept = Kept::new(folder.path().join(NAME), 2)?;
    assert_eq!(kept.all(), [folder.path().join(NAME), folder.path().join(older(80))]);
    assert_eq!(names(folder.path()).len(), 5);
    Ok(())
}

/// A newest one whose header is whole and whose tensors are not: the next save must not keep it in place of a good one.
#[test]
fn a_good_one_takes_the_place_of_a_damaged_one() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = Kept::new(folder.path().join(NAME), 2)?;
    kept.save(&small(10))?;
    kept.save(&small(20))?;
    let mut bytes = fs::read(kept.newest()).expect("a file");
    // NaN, where there were ones.
    bytes.iter_mut().rev().take(4).for_each(|byte| *byte = 0xff);
    fs::write(kept.newest(), bytes).expect("written");
    let good = newest_whole(&kept).expect("a checkpoint");
    assert_eq!(good.file_name(), Some("checkpoint-00000010.safetensors".as_ref()));
    kept.restore(&good)?;
    assert_eq!(newest_whole(&kept).expect("a checkpoint"), kept.newest());
    assert_eq!(Checkpoint::load_header(kept.newest())?["step"], 10);
    kept.save(&small(15))?;
    let whole = kept.all().iter().map(|path| Checkpoint::load(path, &Device::Cpu)).collect::<Result<Vec<_>>>()?;
    assert_eq!(whole.iter().map(|one| one.header["step"].as_u64()).collect::<Vec<_>>(), [Some(15), Some(10)]);
    // None to take the place: all stays.
    assert!(kept.restore(folder.path().join("none")).is_err());
    assert_eq!((kept.all().len(), parts(folder.path())), (2, 0));
    Ok(())
}

/// Without links the older ones are copies; the newest is there all the time even so.
#[test]
fn a_file_system_without_links_keeps_copies() -> Result<()> {
    const STEPS: u64 = 100;
    let folder = tempfile::tempdir().expect("a folder");
    let kept = Kept::new(folder.path().join(NAME), 3)?;
    kept.save(&small(0))?;
    let (saved, looks) = std::thread::scope(|scope| {
        let saver = scope.spawn(|| {
            if let Err(error) = refused::refuse_links_and_locks() {
                println!("skipped: no system call can be refused here ({error})");
                return Ok(false);
            }
            assert!(fs::hard_link(kept.newest(), folder.path().join("link")).is_err());
            (1..=STEPS).try_for_each(|step| kept.save(&small(step)))?;
            Ok(true)
        });
        let mut looks = 0;
        while !saver.is_finished() {
            assert!(kept.newest().exists(), "the newest was gone after {looks} looks");
            looks += 1;
        }
        let saved: Result<bool> = saver.join().expect("a thread");
        (saved, looks)
    });
    if saved? {
        println!("{looks} looks at {STEPS} saves");
        let older = [STEPS - 2, STEPS - 1].map(|step| format!("checkpoint-{step:08}.safetensors"));
        assert_eq!(names(folder.path()), [&older[0], &older[1], NAME]);
        for (path, step) in kept.all().iter().zip([STEPS, STEPS - 1, STEPS - 2]) {
            assert_eq!(Checkpoint::load(path, &Device::Cpu)?.header["step"], step);
        }
    }
    Ok(())
}

/// Of version 1, which has the step among the progress alone.
#[test]
fn an_old_one_is_kept_by_its_step() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = Kept::new(folder.path().join(NAME), 2)?;
    let old = Checkpoint { header: json!({ "format_version": 1, "progress": { "step": 10 } }), ..small(10) };
    old.save(kept.newest())?;
    kept.save(&small(20))?;
    assert_eq!(names(folder.path()), ["checkpoint-00000010.safetensors", NAME]);
    Ok(())
}

/// There may be room for it by then.
#[test]
fn a_save_that_failed_does_not_stop_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept = Kept::new(folder.path().join(NAME), 1).expect("a checkpoint");
    let mut saver = Saver::new(kept.clone(), folder.path().join("error_map"));
    assert!(saver.is_free());
    let mut begin = |step: u64, fails: bool| {
        let end = move || if fails { Err(anyhow::anyhow!("of step {step}")) } else { Ok(()) };
        saver.begin(move || Ok((small(step), None, end)))
    };
    begin(1, true).expect("begun");
    let failed = begin(2, false).expect_err("the one before");
    assert_eq!(failed.to_string(), "of step 1");
    saver.finish().expect("the second");
    assert!(saver.is_free() && saver.costs.count == 2 && saver.costs.longest <= saver.costs.waited);
    assert_eq!(Checkpoint::load_header(kept.newest()).expect("a header")["step"], 2);
}

#[test]
fn parts_of_the_living_stay_and_those_of_the_dead_go() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notes.json");
    let part = |middle: &str| folder.path().join(format!("notes.json.{middle}.part"));
    for middle in ["1-0", "4294967295-7", "77"] {
        fs::write(part(middle), b"half").expect("written");
    }
    let living = fs::File::create(part("2-0")).expect("a file");
    living.lock().expect("a lock");
    fs::write(part("x"), b"of somebody else").expect("written");
    write_atomically(&path, b"whole")?;
    assert_eq!(names(folder.path()), ["notes.json", "notes.json.2-0.part", "notes.json.x.part"]);
    drop(living);
    write_atomically(&path, b"whole again")?;
    assert_eq!(names(folder.path()), ["notes.json", "notes.json.x.part"]);
    // In the current folder, and many at the same time.
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8u8)
            .map(|i| {
                let path = &path;
                scope.spawn(move || (0..20).try_for_each(|_| write_atomically(path, &[i; 10_000])))
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a thread"))
    })?;
    let bytes = fs::read(&path).expect("a file");
    assert!(bytes.len() == 10_000 && bytes.iter().all(|&b| b == bytes[0]), "of several writers");
    assert_eq!(names(folder.path()), ["notes.json", "notes.json.x.part"]);
    Ok(())
}

/// In the child: what no file may exceed, as on a full disk. (There it is the space that is lacking; a write fails
/// all the same, in the middle of a file.)
fn save_on_a_full_disk(folder: &Path) -> Result<()> {
    let kept = Kept::new(folder.join(NAME), 2)?;
    kept.save(&small(1))?;
    let limit = Rlimit { current: Some(2000), maximum: Some(2000) };
    setrlimit(Resource::Fsize, limit).expect("a limit");
    // SAFETY: ignoring a signal installs no handler; the write then fails instead.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let failed = kept.save(&small(2));
    assert!(matches!(&failed, Err(Error::Io { path, .. }) if path == kept.newest()), "{failed:?}");
    // A child that fails this has another status.
    std::process::exit(43);
}

#[test]
fn a_full_disk_leaves_the_last_one() -> Result<()> {
    if let Some(folder) = own_folder() {
        return save_on_a_full_disk(&folder);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let status = child("a_full_disk_leaves_the_last_one", folder.path()).status().expect("a child");
    assert_eq!(status.code(), Some(43), "{status}");
    assert_eq!(names(folder.path()), [NAME]);
    assert_eq!(Checkpoint::load(folder.path().join(NAME), &Device::Cpu)?.header["step"], 1);
    Ok(())
}

/// A real one, where this system lets its users mount: a megabyte of memory.
#[test]
fn a_small_file_system_that_is_full_leaves_the_last_one() -> Result<()> {
    const TEST: &str = "a_small_file_system_that_is_full_leaves_the_last_one";
    if let Some(folder) = own_folder() {
        let kept = Kept::new(folder.join(NAME), 2)?;
        let large = |step: u64, len: usize| -> Result<Checkpoint> {
            let tensor = Tensor::full(step as f32, len, &Device::Cpu)?;
            Ok(Checkpoint { tensors: [("x".to_string(), tensor)].into(), header: json!({ "step": step }) })
        };
        kept.save(&large(1, 100_000)?)?;
        let failed = kept.save(&large(2, 200_000)?);
        let Err(Error::Io { source, .. }) = &failed else { panic!("{failed:?}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{source}");
        assert_eq!(names(&folder), [NAME]);
        assert_eq!(Checkpoint::load(kept.newest(), &Device::Cpu)?.values::<f32>(kept.newest(), "x")?, [1.0; 100_000]);
        std::process::exit(43);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let script = "mount -t tmpfs -o size=1m none \"$1\" || exit 44; exec \"$2\" --exact \"$3\" --nocapture";
    let program = std::env::current_exe().expect("this program");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([folder.path().as_os_str(), program.as_os_str(), TEST.as_ref()])
        .env(FOLDER, folder.path())
        .output();
    match status.map(|output| (output.status.code(), output)) {
        Ok((Some(43), _)) => {}
        // What the child itself ends with where a test fails.
        Ok((Some(101), output)) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        other => println!("skipped: nothing can be mounted here ({:?})", other.map(|(code, _)| code)),
    }
    Ok(())
}

/// Permissions do not stop root, so this thread ceases to be root as far as files are concerned.
#[test]
fn a_folder_that_cannot_be_written_leaves_the_last_one() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    const NOBODY: u32 = 65_534;
    let folder = tempfile::tempdir().expect("a folder");
    let inner = folder.path().join("run");
    fs::create_dir(&inner).expect("a folder");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    mode(folder.path(), 0o755);
    let kept = Kept::new(inner.join(NAME), 2)?;
    kept.save(&small(1))?;
    mode(&inner, 0o555);
    let failed = std::thread::scope(|scope| {
        let save = || {
            // SAFETY: concerns this thread alone, which ends with the closure; others than root are left as they are.
            unsafe { libc::setfsuid(NOBODY) };
            (kept.save(&small(2)), write_atomically(inner.join("notes"), b"x"))
        };
        scope.spawn(save).join().expect("a thread")
    });
    for result in [&failed.0, &failed.1] {
        match result {
            Err(Error::Io { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::PermissionDenied, "{source}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(names(&inner), [NAME]);
    assert_eq!(Checkpoint::load(kept.newest(), &Device::Cpu)?.header["step"], 1);
    // And goes on once it can be.
    mode(&inner, 0o755);
    kept.save(&small(3))?;
    assert_eq!(kept.all().len(), 2);
    Ok(())
}
