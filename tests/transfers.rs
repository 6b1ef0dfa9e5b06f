//! What a CUDA body reads back makes the host wait for the device: each such place is counted here, and listed with its
//! reason in cuda/README.md.

use std::fs;
use std::path::{Path, PathBuf};

/// Reads back, by file, how often.
const ALLOWED: [(&str, usize); 4] = [
    // Bounds and order of indices from anywhere; the index that is refused; a batch to be sorted.
    ("launch.rs", 3),
    // Its counts.
    ("scatter_ema/cuda.rs", 1),
    // Counts that are asked for; the whole map, copied to the host.
    ("error_map/cuda.rs", 2),
    // The first mistake of each kind; neighbours too far apart.
    ("trace/cuda.rs", 2),
];

/// What copies from the device, or waits for it.
const READS: [&str; 8] =
    ["clone_dtoh", "memcpy_dtoh", ".to_vec", "to_scalar", "to_device", "synchronize", "to_cpu_storage", "Device::Cpu"];

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
    let ops = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
    let mut files = Vec::new();
    rust_files(&ops, &mut files);
    files.sort();
    let mut failures = Vec::new();
    let mut num_files = 0;
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&ops).unwrap().to_str().unwrap().replace('\\', "/");
        // The CUDA bodies are those that launch kernels.
        if !source.contains("launch::kernel(") && name != "launch.rs" {
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
    assert!(num_files > 5, "{num_files} files with CUDA bodies");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
