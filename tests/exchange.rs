//! Do foams survive the way through the files of other programs?

#[path = "common/foams.rs"]
mod foams;

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::exchange::{
    ConstantColor, Density, Scene, read_model_pt, read_point_cloud, read_scene_ply, write_point_cloud, write_scene_ply,
};
use candle_radfoam::foam::{Foam, ShPrecision};
use candle_radfoam::geometry::{Adjacency, NUM_SENTINELS};
use candle_radfoam::train::metrics::psnr_db;
use candle_radfoam::{Error, Result};
use foams::{TorchTensor, difference, random_foam, render, torch_file, torch_pickle};
use serde_json::json;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Renderings of foams whose raw densities were rounded anew: 1e-6 of a density, through exponentials and sums.
const ROUNDING: f32 = 1e-4;
/// Half a level of 8 bits. A pixel is a mean of colours, clamped from below, so it errs by no more than they do.
const HALF_LEVEL: f32 = 0.5 / 255.0;

#[test]
fn a_scene_with_float_colours_comes_back_whole_and_renders_the_same() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("scene.ply");
    for degree in 0..=3 {
        let foam = random_foam(300, degree, 1)?;
        let scene = foam.to_scene()?;
        write_scene_ply(&path, &scene, ConstantColor::Float)?;
        let read = read_scene_ply(&path)?;
        assert!(read == scene, "degree {degree}: other arrays");
        let again = Foam::from_scene(&read, foam.density_scale(), &Device::Cpu)?;
        assert_eq!(again.num_cells(), 300);
        assert_eq!(again.topology().adjacency(), foam.topology().adjacency(), "degree {degree}");
        assert_eq!(again.topology().sentinels(), foam.topology().sentinels());
        let worst = difference(&render(&foam)?, &render(&again)?);
        assert!(worst < ROUNDING, "degree {degree}: a channel differs by {worst}");
        // A scale of its own gives the same densities.
        let rescaled = Foam::from_scene(&read, 1.0, &Device::Cpu)?;
        let worst = difference(&render(&foam)?, &render(&rescaled)?);
        assert!(worst < ROUNDING, "degree {degree}, scale 1: a channel differs by {worst}");
    }
    Ok(())
}

#[test]
fn a_scene_with_byte_colours_errs_by_half_a_level() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("scene.ply");
    let foam = random_foam(300, 3, 2)?;
    let scene = foam.to_scene()?;
    write_scene_ply(&path, &scene, ConstantColor::Bytes)?;
    let read = read_scene_ply(&path)?;
    assert!(read.points == scene.points && read.density == scene.density && read.neighbors == scene.neighbors);
    for (cell, (a, b)) in scene.sh.chunks_exact(48).zip(read.sh.chunks_exact(48)).enumerate() {
        assert_eq!(a[3..], b[3..], "cell {cell}");
        let error = (0..3).fold(0f32, |most, c| most.max((a[c] - b[c]).abs()));
        assert!(error * 0.2820948 <= 1.001 * HALF_LEVEL, "cell {cell} errs by {error}");
    }
    let again = Foam::from_scene(&read, foam.density_scale(), &Device::Cpu)?;
    let worst = difference(&render(&foam)?, &render(&again)?);
    println!("8-bit constant colours: a channel differs by {:.3} levels at most", 255.0 * worst);
    assert!(worst < HALF_LEVEL + ROUNDING, "a channel differs by {worst}");
    assert!(worst > 0.1 * HALF_LEVEL, "nothing was rounded: is this the 8-bit file?");

    // What is outside of [0, 1] is cut off.
    let mut bright = scene;
    bright.sh[0] = 5.0;
    write_scene_ply(&path, &bright, ConstantColor::Bytes)?;
    let white = 0.5 / 0.2820948;
    assert!((read_scene_ply(&path)?.sh[0] - white).abs() < 1e-5);
    Ok(())
}

/// The bytes of the reference implementation's writer, put together here by its layout.
fn reference_ply(scene: &Scene, density: &[f32]) -> Vec<u8> {
    let columns = 3 * (scene.num_coefficients - 1);
    let mut bytes = format!("ply\nformat binary_little_endian 1.0\nelement vertex {}\n", scene.points.len());
    bytes += "property float x\nproperty float y\nproperty float z\n";
    bytes += "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty float density\n";
    bytes += "property uint adjacency_offset\n";
    (0..columns).for_each(|i| bytes += &format!("property float color_sh_{i}\n"));
    bytes += &format!("element adjacency {}\nproperty uint adjacency\nend_header\n", scene.neighbors.len());
    let mut bytes = bytes.into_bytes();
    for cell in 0..scene.points.len() {
        bytes.extend(scene.points[cell].iter().flat_map(|v| v.to_le_bytes()));
        let row = &scene.sh[cell * (columns + 3)..][..columns + 3];
        bytes.extend(row[..3].iter().map(|dc| (255.0 * (0.5 + 0.282_094_8 * dc)).round() as u8));
        bytes.extend(density[cell].to_le_bytes());
        bytes.extend(scene.offsets[cell + 1].to_le_bytes());
        bytes.extend(row[3..].iter().flat_map(|v| v.to_le_bytes()));
    }
    bytes.extend(scene.neighbors.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

/// A scene as the reference implementation has it: without sentinels.
fn unbounded(foam: &Foam, raw: bool) -> Result<Scene> {
    let scene = foam.to_scene()?;
    let num_cells = foam.num_cells();
    let points = scene.points[..num_cells].to_vec();
    let Adjacency { offsets, neighbors } = Adjacency::build(&points)?;
    let density = match raw {
        true => Density::Raw(foam.raw_density().to_vec1()?),
        false => Density::Activated(scene.density.values()[..num_cells].to_vec()),
    };
    let sh = scene.sh[..num_cells * scene.num_coefficients * 3].to_vec();
    Ok(Scene { points, density, sh, offsets, neighbors, ..scene })
}

#[test]
fn a_file_of_the_reference_implementation_is_read_and_written() -> Result<()> {
    let folder = folder();
    let (theirs, ours) = (folder.path().join("theirs.ply"), folder.path().join("ours.ply"));
    let scene = unbounded(&random_foam(200, 2, 3)?, false)?;
    let bytes = reference_ply(&scene, scene.density.values());
    fs::write(&theirs, &bytes).expect("a file");
    let read = read_scene_ply(&theirs)?;
    assert!(read.points == scene.points && read.density == scene.density);
    assert!(read.offsets == scene.offsets && read.neighbors == scene.neighbors);
    write_scene_ply(&ours, &read, ConstantColor::Bytes)?;
    assert!(fs::read(&ours).expect("a file") == bytes, "read and written again, the file has other bytes");
    Ok(())
}

/// Cells that were unbounded are empty, all others as they were; and there is something to see.
#[test]
fn an_unbounded_foam_is_closed_by_sentinels() -> Result<()> {
    let foam = random_foam(400, 1, 4)?;
    for raw in [false, true] {
        let scene = unbounded(&foam, raw)?;
        let scale = if raw { foam.density_scale() } else { 1.0 };
        let closed = Foam::from_scene(&scene, scale, &Device::Cpu)?;
        assert_eq!(closed.num_cells(), 400);
        let density = |foam: &Foam| foam.density().and_then(|d| Ok(d.to_vec1::<f32>()?));
        let (before, after) = (density(&foam)?, density(&closed)?);
        let (mut emptied, mut kept) = (0, 0);
        for cell in 0..400 {
            let neighbors = closed.topology().adjacency().neighbors_of(cell as u32);
            if neighbors.iter().any(|&j| j >= 400) {
                emptied += 1;
                assert!(after[cell] < 1e-30, "cell {cell} reaches a sentinel and has a density of {}", after[cell]);
            } else {
                kept += 1;
                let error = (after[cell] / before[cell] - 1.0).abs();
                assert!(error < 1e-5, "cell {cell}: {} became {}", before[cell], after[cell]);
            }
        }
        assert!(emptied > 20 && kept > 200, "{emptied} cells emptied, {kept} kept");
    }
    Ok(())
}

fn model(scene: &Scene) -> Vec<TorchTensor> {
    let (n, columns) = (scene.points.len(), 3 * (scene.num_coefficients - 1));
    let rows = || scene.sh.chunks_exact(columns + 3);
    let dc: Vec<f32> = rows().flat_map(|row| row[..3].to_vec()).collect();
    let rest: Vec<f32> = rows().flat_map(|row| row[3..].to_vec()).collect();
    let wide = |values: &[u32]| values.iter().map(|&v| i64::from(v)).collect::<Vec<_>>();
    vec![
        TorchTensor::floats("xyz", &[n, 3], scene.points.as_flattened()),
        TorchTensor::floats("density", &[n, 1], scene.density.values()),
        TorchTensor::floats("color_dc", &[n, 3], &dc),
        TorchTensor::floats("color_sh", &[n, columns], &rest),
        TorchTensor::longs("adjacency", &wide(&scene.neighbors)),
        TorchTensor::longs("adjacency_offsets", &wide(&scene.offsets)),
    ]
}

#[test]
fn a_model_pt_is_read() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("model.pt");
    for degree in 0..=3 {
        let scene = unbounded(&random_foam(60, degree, 5)?, true)?;
        let mut tensors = model(&scene);
        // Parameters, a storage that holds more than the tensor, and another type.
        tensors[0].is_parameter = true;
        tensors[1].bytes.splice(0..0, [9; 12]);
        tensors[1].offset = 3;
        tensors[2].storage = "DoubleStorage";
        tensors[2].bytes = tensors[2]
            .bytes
            .as_chunks()
            .0
            .iter()
            .flat_map(|&b| f64::from(f32::from_le_bytes(b)).to_le_bytes())
            .collect();
        fs::write(&path, torch_file(&tensors, &torch_pickle(&tensors))).expect("a file");
        assert!(read_model_pt(&path)? == scene, "degree {degree}");
    }
    Ok(())
}

#[test]
fn a_point_cloud_holds_the_dense_cells() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("points.ply");
    let foam = random_foam(300, 2, 6)?;
    let density = foam.density()?.to_vec1::<f32>()?;
    let least = 1.0;
    write_point_cloud(&path, &foam.point_cloud(least)?)?;
    let cloud = read_point_cloud(&path)?;
    let dense: Vec<usize> = (0..300).filter(|&cell| density[cell] >= least).collect();
    assert!(dense.len() > 50 && dense.len() < 250, "{} of 300 cells", dense.len());
    assert_eq!(cloud.points.len(), dense.len());
    let (points, sh) = (foam.points_host()?, foam.sh().flatten_from(1)?.to_vec2::<f32>()?);
    for (row, &cell) in dense.iter().enumerate() {
        assert_eq!(cloud.points[row], points[cell].map(f64::from));
        let color = cloud.colors.as_ref().expect("colours")[row];
        let expected = [0, 1, 2].map(|c| 0.5 + 0.282_094_8 * sh[cell][c]);
        let error = (0..3).fold(0f32, |most, c| most.max((f32::from(color[c]) / 255.0 - expected[c]).abs()));
        assert!(error <= 1.001 * HALF_LEVEL, "cell {cell} errs by {error}");
    }
    Ok(())
}

fn compact(foam: &Foam, precision: ShPrecision, path: &Path) -> Result<Foam> {
    let header = json!({ "density_scale": foam.density_scale() });
    Checkpoint { tensors: foam.compact_state(precision)?, header }.save(path)?;
    Foam::from_checkpoint(&Checkpoint::load(path, &Device::Cpu)?, path)
}

#[test]
fn compact_files_are_small_and_near() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("compact.safetensors");
    let foam = random_foam(400, 3, 7)?;
    let before = render(&foam)?;
    let full: usize = foam.state()?.values().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum();
    // The worst channel, with a margin over what was measured (1.5e-4, 7e-4, 1.9e-3), and the share of the bytes.
    for (precision, worst, share) in
        [(ShPrecision::F16, 8e-4, 0.65), (ShPrecision::Bf16, 4e-3, 0.65), (ShPrecision::U8, 1e-2, 0.5)]
    {
        let again = compact(&foam, precision, &path)?;
        let after = render(&again)?;
        let found = difference(&before, &after);
        let bytes = fs::metadata(&path).expect("a file").len() as f64;
        // Cells may be brighter than white; pictures are not.
        let truth: Vec<f32> = before.rgb.as_flattened().iter().map(|value| value.clamp(0.0, 1.0)).collect();
        let psnr = psnr_db(after.rgb.as_flattened(), &truth)?;
        println!("{precision}: {:.2} of the bytes, worst {found:.5}, {psnr:.1} dB", bytes / full as f64);
        assert!(found > 0.0 && found < worst, "{precision}: a channel differs by {found}");
        assert!(bytes < share * full as f64, "{precision}: {bytes} of {full} bytes");
        assert_eq!(again.topology().adjacency(), foam.topology().adjacency());
        assert_eq!(precision.to_string().parse::<ShPrecision>()?, precision);
    }
    assert!("f8".parse::<ShPrecision>().is_err());
    Ok(())
}

#[test]
fn colours_beyond_half_precision_are_refused() -> Result<()> {
    let foam = random_foam(20, 0, 8)?;
    let mut sh: Vec<f32> = foam.sh().flatten_all()?.to_vec1()?;
    sh[4] = 1e6;
    foam.sh().set(&Tensor::from_vec(sh, (20, 1, 3), &Device::Cpu)?)?;
    for (precision, refused) in [(ShPrecision::F16, true), (ShPrecision::Bf16, false), (ShPrecision::U8, true)] {
        match foam.compact_state(precision) {
            Err(Error::Tensor { name, found, .. }) if refused => {
                assert!(name.starts_with("foam.sh") && found == "1000000", "{precision}: {name}, {found}");
            }
            Ok(_) if !refused => {}
            other => panic!("{precision}: {other:?}"),
        }
    }
    Ok(())
}

#[test]
fn a_broken_compact_file_is_refused() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("compact.safetensors");
    let foam = random_foam(30, 1, 9)?;
    let good = Checkpoint {
        tensors: foam.compact_state(ShPrecision::U8)?,
        header: json!({ "density_scale": foam.density_scale() }),
    };
    let mut failures = Vec::new();
    let scale = &good.tensors["foam.sh_scale"];
    for (name, tensor) in [
        ("foam.sh_scale", scale.narrow(0, 0, 29)?),
        ("foam.sh_scale", scale.flatten_all()?.narrow(0, 0, 59)?),
        ("foam.sh_scale", scale.to_dtype(DType::F32)?),
        ("foam.sh", good.tensors["foam.sh"].narrow(0, 0, 29)?),
        ("foam.sh", Tensor::zeros((30, 5, 3), DType::U8, &Device::Cpu)?),
        ("foam.sh", Tensor::zeros((30, 0, 3), DType::U8, &Device::Cpu)?),
        ("foam.sentinels", Tensor::zeros((7, 3), DType::F32, &Device::Cpu)?),
        ("foam.sentinels", Tensor::zeros((8, 2), DType::F32, &Device::Cpu)?),
        ("foam.raw_density", good.tensors["foam.raw_density"].to_dtype(DType::F16)?),
    ] {
        let mut broken = good.clone();
        let what = format!("{name} of {:?} {:?}", tensor.dtype(), tensor.dims());
        broken.tensors.insert(name.into(), tensor);
        match Foam::from_checkpoint(&broken, &path) {
            Err(Error::File { path: named, field, .. }) if named == path && field.starts_with("foam.") => {}
            other => failures.push(format!("{what}: {:?}", other.map(|_| "taken"))),
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

#[test]
fn scenes_that_do_not_fit_together_are_not_written() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("scene.ply");
    let good = random_foam(20, 1, 10)?.to_scene()?;
    let num_cells = 20 + NUM_SENTINELS;
    let mut failures = Vec::new();
    let mut check = |name: &str, change: &dyn Fn(&mut Scene)| {
        let mut scene = good.clone();
        change(&mut scene);
        for result in [
            write_scene_ply(&path, &scene, ConstantColor::Bytes),
            Foam::from_scene(&scene, 1.0, &Device::Cpu).map(|_| ()),
        ] {
            match result {
                Err(Error::Tensor { name: found, .. }) if found == name => {}
                other => failures.push(format!("{name}: {other:?}")),
            }
        }
    };
    check("points", &|s| s.points.clear());
    check("points", &|s| s.points[3][1] = f32::NAN);
    check("density", &|s| s.density = Density::Activated(vec![0.0; 5]));
    check("density", &|s| s.density = Density::Activated(vec![-1.0; num_cells]));
    check("density", &|s| s.density = Density::Raw(vec![f32::INFINITY; num_cells]));
    check("sh", &|s| s.num_coefficients = 5);
    check("sh", &|s| s.sh.truncate(7));
    check("sh", &|s| s.sh[7] = f32::NEG_INFINITY);
    check("offsets", &|s| s.offsets.truncate(4));
    check("offsets", &|s| s.offsets[0] = 1);
    check("offsets", &|s| s.offsets.swap(4, 5));
    check("offsets", &|s| s.offsets[num_cells] += 1);
    check("neighbors", &|s| s.neighbors[5] = num_cells as u32);
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(!path.exists(), "a file was begun");
    let raw = Scene { density: Density::Raw(vec![0.0; num_cells]), ..good };
    assert!(write_scene_ply(&path, &raw, ConstantColor::Bytes).is_err(), "raw densities are not what the file holds");
    assert!(Foam::from_scene(&raw, 0.0, &Device::Cpu).is_err());
    Ok(())
}
