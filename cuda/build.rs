//! Compiles the kernels to PTX for the `cuda` feature, and as C++ for the feature `simulate` (`cuda/simulate.rs`);
//! without either there is nothing to do.
//!
//! | variable | meaning |
//! |---|---|
//! | `RADFOAM_NVCC` | the compiler for this crate's kernels, where it is not the one that other crates are to use |
//! | `NVCC`, then `CUDA_HOME` (its `bin`), then `PATH` | where nvcc is looked for otherwise |
//! | `CUDA_COMPUTE_CAP` | the oldest GPU that is to run the kernels; 80 unless given. No GPU is asked |

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

mod simulate;

/// Ampere: the oldest target of Candle's own bf16 kernels. Newer drivers translate its PTX for newer GPUs.
const DEFAULT_COMPUTE_CAP: &str = "80";

/// Rust never fuses a product and a sum into one rounding: neither may a kernel that is to give the CPU's bits.
const NO_FUSING: &str = "--fmad=false";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=cuda/build.rs");
    let enabled = |feature: &str| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    if !enabled("CUDA") && !enabled("SIMULATE") {
        return Ok(());
    }
    println!("cargo::rerun-if-changed=cuda");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut sources: Vec<PathBuf> =
        fs::read_dir("cuda")?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    if enabled("SIMULATE") {
        simulate::build(&sources, &out)?;
    }
    if enabled("CUDA") {
        compile_all(&sources, &out)?;
    }
    Ok(())
}

/// Writes the PTX of each source, and `ptx.rs`, which embeds it.
fn compile_all(sources: &[PathBuf], out: &Path) -> Result<(), Box<dyn Error>> {
    for variable in ["RADFOAM_NVCC", "NVCC", "CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let nvcc = find_nvcc();
    let cap = env::var("CUDA_COMPUTE_CAP").unwrap_or(DEFAULT_COMPUTE_CAP.to_string()).replace('.', "");
    let mut modules = String::new();
    for source in sources {
        let name = source.file_stem().and_then(|name| name.to_str()).ok_or("a kernel file with an odd name")?;
        compile(&nvcc, &cap, source, &out.join(name).with_extension("ptx"))?;
        modules += &format!(
            "/// The kernels of `{}`.\npub(crate) const {}: Module = \
             Module {{ name: \"candle-radfoam/{name}\", ptx: include_str!(\"{name}.ptx\") }};\n",
            source.display(),
            name.to_uppercase()
        );
    }
    fs::write(out.join("ptx.rs"), modules)?;
    Ok(())
}

fn find_nvcc() -> PathBuf {
    let given = env::var_os("RADFOAM_NVCC").or(env::var_os("NVCC")).map(PathBuf::from);
    let home = || env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc")).filter(|nvcc| nvcc.exists());
    given.or_else(home).unwrap_or("nvcc".into())
}

fn compile(nvcc: &Path, cap: &str, source: &Path, ptx: &Path) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(nvcc);
    command
        .args(["--ptx", "-O3", "-lineinfo", NO_FUSING])
        .arg(format!("-arch=compute_{cap}"))
        .arg("-o")
        .arg(ptx)
        .arg(source);
    let status = command.status().map_err(|error| {
        format!(
            "the feature `cuda` needs nvcc, and {} cannot be run ({error}): install CUDA 12 or newer, or set \
             RADFOAM_NVCC, NVCC or CUDA_HOME (cuda/README.md says how to get one without an installation)",
            nvcc.display()
        )
    })?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}").into()) }
}
