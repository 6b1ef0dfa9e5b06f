//! What a CUDA body reads back makes the host wait for the device: each such place is counted here, and listed with its
//! reason in cuda/README.md.

use std::fs;
use std::path::{Path, PathBuf};

/// Reads back, by file below `src`, how often.
const ALLOWED: [(&str, usize); 14] = [
    // The one way back; bounds and order of indices from anywhere; the index that is refused; a batch to be sorted.
    ("ops/launch.rs", 4),
    // Its counts.
    ("ops/scatter_ema/cuda.rs", 1),
    // Counts that are asked for; the whole map, copied to the host; what it sums to, where nothing is drawn evenly.
    ("ops/error_map/cuda.rs", 3),
    // What an adaptive sampler learns.
    ("ops/mixed_rays.rs", 1),
    // The first weight that is none and the largest; the one that is refused.
    ("ops/weighted_draw/cuda.rs", 2),
    // The first mistake of each kind.
    ("ops/trace/cuda.rs", 1),
    // Statistics for a refinement; the report of a step, and of a device that is tried out.
    ("ops/cuda_foam.rs", 4),
    // Tensors between devices, for those that are listed here.
    ("ops/transfer.rs", 5),
    // A draw for a checkpoint, and one from there.
    ("data/sampler/device.rs", 9),
    // Moments of a run that moves to a device; the report of a step; statistics for a refinement.
    ("train/device.rs", 3),
    // A refinement, which is gone through on the host.
    ("foam/refine.rs", 3),
    // Values of a foam for whoever asks on the host (of the steps, only the look at how far points have moved); moves of a
    // whole foam; rays of one's own loop.
    ("foam/mod.rs", 6),
    // A checkpoint, written and read.
    ("foam/state.rs", 3),
    ("train/state.rs", 5),
];

/// What copies from the device, or waits for it.
const READS: [&str; 10] = [
    "clone_dtoh",
    "memcpy_dtoh",
    "read_back(",
    ".read()",
    ".to_vec",
    "to_scalar",
    "synchronize",
    "to_cpu_storage",
    "Device::Cpu",
    "moved(",
];

/// Files of steps on a device that launch nothing themselves.
const ON_DEVICE: [&str; 9] = [
    "ops/launch.rs",
    "ops/transfer.rs",
    "data/sampler/device.rs",
    "data/loader/device.rs",
    "train/device.rs",
    "foam/refine.rs",
    "foam/mod.rs",
    "foam/state.rs",
    "train/state.rs",
];

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn nothing_is_read_back_but_what_is_listed() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files.sort();
    let mut failures = Vec::new();
    let mut num_files = 0;
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
        // The CUDA bodies are those that launch kernels.
        if !source.contains("launch::kernel(") && !ON_DEVICE.contains(&&*name) {
            continue;
        }
        num_files += 1;
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        let found = code.map(|line| READS.iter().map(|read| line.matches(read).count()).sum::<usize>()).sum::<usize>();
        let allowed = ALLOWED.iter().find(|(allowed, _)| *allowed == name).map_or(0, |(_, count)| *count);
        if found != allowed {
            failures.push(format!("{name}: {found} reads back, expected {allowed}"));
        }
    }
    assert!(num_files > 12, "{num_files} files with CUDA bodies");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
