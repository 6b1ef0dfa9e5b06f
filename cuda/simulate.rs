//! Compiles the kernels as C++ for the CPU, for tests (feature `simulate`), and writes Rust functions that launch them.
//!
//! | variable | meaning |
//! |---|---|
//! | `CXX` | the C++ compiler, `c++` unless given |
//! | `RADFOAM_SANITIZE` | sanitizers to compile the kernels with, `address,undefined`; see `.ci/run` for how to run them |

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rust's arithmetic: no operation is fused with another. Pragmas are nvcc's.
const FLAGS: [&str; 12] = [
    "-std=c++17",
    "-O1",
    "-g",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-omit-frame-pointer",
    // Its longjmp refuses to leave one stack for another.
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Werror",
    "-Wno-unknown-pragmas",
];

/// Links a library of the simulated `sources` into the crate, and leaves `simulated.rs` in `out`.
pub fn build(sources: &[PathBuf], out: &Path) -> Result<()> {
    for variable in ["CXX", "RADFOAM_SANITIZE"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let sanitize = env::var("RADFOAM_SANITIZE").ok().filter(|list| !list.is_empty());
    let mut flags: Vec<String> = FLAGS.map(String::from).to_vec();
    if let Some(list) = &sanitize {
        flags.extend([format!("-fsanitize={list}"), "-fno-sanitize-recover=all".into()]);
        // Rust links without the compiler's own libraries. That of the address sanitizer must come before all others:
        // whoever runs the tests preloads it.
        for (name, library) in [("address", "asan"), ("undefined", "ubsan")] {
            if list.split(',').any(|sanitizer| sanitizer == name) {
                println!("cargo::rustc-link-arg-tests=-l{library}");
            }
        }
    }
    let compiler = env::var("CXX").unwrap_or("c++".into());
    let mut objects = Vec::new();
    let mut functions = String::new();
    for source in sources.iter().map(PathBuf::as_path).chain([Path::new("cuda/simulate.cpp")]) {
        let object = out.join(source.file_stem().unwrap_or_default()).with_extension("o");
        let mut command = Command::new(&compiler);
        command.args(&flags).args(["-include", "cuda/simulate.h", "-x", "c++", "-c", "-o"]).arg(&object).arg(source);
        run(&mut command, "the feature `simulate` needs a C++ compiler (CXX)")?;
        objects.push(object);
        if source.extension().is_some_and(|extension| extension == "cu") {
            functions += &launchers(&fs::read_to_string(source)?)?;
        }
    }
    let library = out.join("libradfoam_simulated.a");
    let _ = fs::remove_file(&library);
    run(Command::new("ar").arg("crs").arg(&library).args(&objects), "the feature `simulate` needs `ar`")?;
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static=radfoam_simulated");
    fs::write(out.join("simulated.rs"), functions)?;
    Ok(())
}

fn run(command: &mut Command, need: &str) -> Result<()> {
    let status = command.status().map_err(|error| format!("{need}, and {command:?} cannot be run: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed: {status}").into()) }
}

/// For each kernel of a file a function with the kernel's name and parameters, after the launch: slices for what is
/// read and for what is written, none for a null pointer.
fn launchers(source: &str) -> Result<String> {
    let code: String = source.lines().map(|line| line.split("//").next().unwrap_or("").to_string() + "\n").collect();
    let mut functions = String::new();
    for kernel in code.split("extern \"C\" __global__ void ").skip(1) {
        let head = kernel.split(") {").next().unwrap_or(kernel);
        // A bound of the launch may come before the name.
        let head = head.strip_prefix("__launch_bounds__(").and_then(|h| h.split_once(") ")).map_or(head, |(_, h)| h);
        let (name, parameters) = head.split_once('(').ok_or_else(|| format!("a kernel without parameters: {head}"))?;
        let (mut raw, mut typed, mut passed) = (String::new(), String::new(), String::new());
        for parameter in parameters.split(',').map(str::trim) {
            let (kind, name) = parameter.rsplit_once([' ', '*']).ok_or_else(|| format!("parameter {parameter}"))?;
            let is_pointer = parameter.contains('*');
            let is_const = kind.contains("const ");
            let scalar = kind.replace("const ", "").replace("__restrict__", "").replace('*', "");
            let scalar = match scalar.trim() {
                "float" => "f32",
                "double" => "f64",
                "unsigned char" => "u8",
                "float4" => "[f32; 4]",
                scalar @ ("u32" | "u64" | "i32") => scalar,
                other => return Err(format!("kernel {name}: no Rust type for {other}").into()),
            };
            let (in_c, in_rust, value) = match (is_pointer, is_const) {
                (true, true) => {
                    (format!("*const {scalar}"), format!("impl Pointer<{scalar}>"), format!("{name}.pointer()"))
                }
                (true, false) => {
                    (format!("*mut {scalar}"), format!("impl PointerMut<{scalar}>"), format!("{name}.pointer_mut()"))
                }
                _ => (scalar.to_string(), scalar.to_string(), name.to_string()),
            };
            raw += &format!("{name}: {in_c}, ");
            typed += &format!("{name}: {in_rust}, ");
            passed += &format!("{value}, ");
        }
        functions += &format!(
            "#[allow(dead_code, clippy::too_many_arguments)]\n\
             pub fn {name}(launch: &Launch, {typed}) {{\n\
             unsafe extern \"C\" {{ fn {name}({raw}); }}\n\
             let arguments = ({passed});\n\
             launch.run(|| {{\nlet ({names}) = arguments;\n\
             // SAFETY: pointers are those of slices; whether they are long enough is for the sanitizer to see.\n\
             unsafe {{ {name}({names}) }}\n}});\n}}\n",
            names =
                typed.split(", ").filter_map(|p| p.split_once(':')).fold(String::new(), |all, (n, _)| all + n + ", "),
        );
    }
    Ok(functions)
}
