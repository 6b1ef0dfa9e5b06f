//! Small foams, a camera to look at them with, and the files that `torch.save` would make.
#![allow(dead_code, reason = "each test file uses a part")]

use std::io::Write;

use candle_core::{Device, Tensor};
use candle_radfoam::Result;
use candle_radfoam::camera::{Camera, Lens, Pose};
use candle_radfoam::foam::{Foam, Rendering, Topology};
use candle_radfoam::ops::TraceSettings;
use candle_radfoam::rng::{Rng, Stream};

/// A foam of random cells around the origin, colours of `degree` well within [0, 1] at their mean.
pub fn random_foam(num_cells: usize, degree: usize, seed: u64) -> Result<Foam> {
    let rng = Rng::new(seed, Stream::Synthetic, 7);
    let k = (degree + 1) * (degree + 1);
    let points: Vec<[f32; 3]> = (0..num_cells as u32)
        .map(|i| {
            let u = rng.uniform4(i);
            [0, 1, 2].map(|axis| 2.0 * u[axis] - 1.0)
        })
        .collect();
    let raw: Vec<f32> = (0..num_cells as u32).map(|i| 0.5 * rng.uniform4(i)[3] - 0.3).collect();
    let values = Rng::new(seed, Stream::Synthetic, 8);
    let sh: Vec<f32> = (0..num_cells * k * 3)
        .map(|i| {
            let u = values.uniform(i as u32) - 0.5;
            // A constant coefficient of 1.77 is white.
            if i / 3 % k == 0 { 3.0 * u } else { 0.6 * u }
        })
        .collect();
    Foam::from_parts(
        Tensor::from_slice(points.as_flattened(), (num_cells, 3), &Device::Cpu)?,
        Tensor::from_vec(raw, num_cells, &Device::Cpu)?,
        Tensor::from_vec(sh, (num_cells, k, 3), &Device::Cpu)?,
        20.0,
        Topology::build(&points, 300.0)?,
    )
}

/// Looks at the origin from outside.
pub fn camera(width: u32) -> Camera {
    let (size, focal) = (f64::from(width), 1.2 * f64::from(width));
    Camera {
        width,
        height: width,
        fx: focal,
        fy: focal,
        cx: 0.5 * size,
        cy: 0.5 * size,
        lens: Lens::Pinhole,
        world_from_camera: Pose::new([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0.1, -0.2, -2.6])
            .expect("a pose"),
    }
}

pub fn render(foam: &Foam) -> Result<Rendering> {
    foam.renderer()?.render(&camera(48), [1.0, 1.0, 1.0], &TraceSettings::default())
}

/// The largest difference of a channel of two renderings.
pub fn difference(a: &Rendering, b: &Rendering) -> f32 {
    let pairs = a.rgb.as_flattened().iter().zip(b.rgb.as_flattened());
    pairs.fold(0f32, |most, (a, b)| most.max((a - b).abs()))
}

/// A tensor as `torch.save` pickles it.
#[derive(Clone)]
pub struct TorchTensor {
    pub name: &'static str,
    pub storage: &'static str,
    pub offset: i32,
    pub shape: Vec<i32>,
    pub strides: Vec<i32>,
    pub is_parameter: bool,
    pub bytes: Vec<u8>,
}

impl TorchTensor {
    /// A contiguous tensor of its own storage.
    pub fn new(name: &'static str, storage: &'static str, shape: &[usize], bytes: Vec<u8>) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis].max(1) as i32;
        }
        let shape = shape.iter().map(|&dim| dim as i32).collect();
        Self { name, storage, offset: 0, shape, strides, is_parameter: false, bytes }
    }

    pub fn floats(name: &'static str, shape: &[usize], values: &[f32]) -> Self {
        Self::new(name, "FloatStorage", shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn longs(name: &'static str, values: &[i64]) -> Self {
        Self::new(name, "LongStorage", &[values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.as_bytes());
}

fn int(pickle: &mut Vec<u8>, value: i32) {
    pickle.push(b'J');
    pickle.extend(value.to_le_bytes());
}

fn tuple(pickle: &mut Vec<u8>, values: &[i32]) {
    pickle.push(b'(');
    values.iter().for_each(|&value| int(pickle, value));
    pickle.push(b't');
}

fn tensor(pickle: &mut Vec<u8>, tensor: &TorchTensor, key: usize) {
    if tensor.is_parameter {
        pickle.extend(b"ctorch._utils\n_rebuild_parameter\n(");
    }
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\nq\x01((");
    text(pickle, "storage");
    pickle.extend(b"q\x02ctorch\n");
    pickle.extend(tensor.storage.as_bytes());
    pickle.extend(b"\nq\x03");
    text(pickle, &key.to_string());
    text(pickle, "cpu");
    int(pickle, tensor.bytes.len() as i32 / 4);
    pickle.extend(b"tQ");
    int(pickle, tensor.offset);
    tuple(pickle, &tensor.shape);
    tuple(pickle, &tensor.strides);
    pickle.extend(b"\x89ccollections\nOrderedDict\nq\x04)RtR");
    if tensor.is_parameter {
        pickle.extend(b"\x88h\x04)RtR");
    }
}

/// The pickle of a dictionary of tensors, as protocol 2 has it.
pub fn torch_pickle(tensors: &[TorchTensor]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}q\x00(".to_vec();
    for (key, entry) in tensors.iter().enumerate() {
        text(&mut pickle, entry.name);
        tensor(&mut pickle, entry, key);
    }
    pickle.extend(b"u.");
    pickle
}

/// A zip archive of stored files.
pub fn stored_zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in files {
        zip.start_file(*name, options).expect("a file in the archive");
        zip.write_all(bytes).expect("its bytes");
    }
    zip.finish().expect("an archive").into_inner()
}

/// The archive that `torch.save` makes of a dictionary of tensors, with a pickle of one's own choice.
pub fn torch_file(tensors: &[TorchTensor], pickle: &[u8]) -> Vec<u8> {
    let names: Vec<String> = (0..tensors.len()).map(|key| format!("model/data/{key}")).collect();
    let mut files: Vec<(&str, &[u8])> = vec![("model/data.pkl", pickle), ("model/byteorder", b"little")];
    files.extend(names.iter().zip(tensors).map(|(name, tensor)| (name.as_str(), &tensor.bytes[..])));
    files.push(("model/version", b"3\n"));
    stored_zip(&files)
}
