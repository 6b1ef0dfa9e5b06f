//! Are files that lie, stop short or want to run code refused, each for what is wrong with it?

#[path = "common/foams.rs"]
mod foams;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::exchange::{ConstantColor, read_model_pt, read_point_cloud, read_scene_ply, write_scene_ply};
use candle_radfoam::foam::Foam;
use candle_radfoam::{Error, Result};
use foams::{TorchTensor, random_foam, stored_zip, torch_file, torch_pickle};
use serde_json::json;

/// A file, and what the error about it must name.
struct Hostile {
    what: String,
    bytes: Vec<u8>,
    must_say: Vec<String>,
}

fn hostile(what: impl Into<String>, bytes: impl Into<Vec<u8>>, must_say: &[&str]) -> Hostile {
    Hostile { what: what.into(), bytes: bytes.into(), must_say: must_say.iter().map(|s| s.to_string()).collect() }
}

/// Gives every file to `read`, which must refuse it with an error that names the file and says what it must.
fn refused<T>(files: Vec<Hostile>, read: impl Fn(&Path) -> Result<T>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hostile");
    let mut failures = Vec::new();
    for Hostile { what, bytes, must_say } in files {
        fs::write(&path, &bytes).expect("a file");
        match read(&path) {
            Ok(_) => failures.push(format!("{what}: taken")),
            Err(error) => {
                let said = error.to_string();
                match &error {
                    Error::File { path: named, field, expected, found }
                        if *named == path && !field.is_empty() && !expected.is_empty() && !found.is_empty() => {}
                    _ => failures.push(format!("{what}: {error:?}")),
                }
                if let Some(missing) = must_say.iter().find(|text| !said.contains(*text)) {
                    failures.push(format!("{what}: no word of {missing:?}: {said}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Every beginning of a file but the whole.
fn cut(what: &str, whole: &[u8]) -> Vec<Hostile> {
    (0..whole.len()).map(|len| hostile(format!("{what} cut at {len} of {}", whole.len()), &whole[..len], &[])).collect()
}

fn written(write: impl Fn(&Path) -> Result<()>) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("written");
    write(&path).expect("a file to begin with");
    fs::read(path).expect("its bytes")
}

fn scene_bytes() -> Vec<u8> {
    let scene = random_foam(12, 1, 1).and_then(|foam| foam.to_scene()).expect("a scene");
    written(|path| write_scene_ply(path, &scene, ConstantColor::Float))
}

#[test]
fn a_scene_cut_at_any_byte() {
    refused(cut("scene", &scene_bytes()), |path| read_scene_ply(path));
}

/// `find` replaced, once, in the bytes of a file.
fn replaced(bytes: &[u8], find: &str, with: &str) -> Vec<u8> {
    let at = bytes.windows(find.len()).position(|window| window == find.as_bytes()).expect("something to replace");
    [&bytes[..at], with.as_bytes(), &bytes[at + find.len()..]].concat()
}

const ASCII: &str = "ply
format ascii 1.0
element vertex 2
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
property float density
property uint adjacency_offset
element adjacency 2
property uint adjacency
end_header
0 0 0 10 20 30 0.5 1
1 0 0 10 20 30 0.5 2
1
0
";

#[test]
fn scenes_that_lie() {
    let binary = scene_bytes();
    let huge = (1u64 << 60).to_string();
    let text = |find: &str, with: &str| replaced(ASCII.as_bytes(), find, with);
    let vertex = "element vertex 20\n";
    let adjacency = {
        let head = String::from_utf8_lossy(&binary).into_owned();
        head.lines().find(|line| line.starts_with("element adjacency")).expect("a line").to_string()
    };
    let files = vec![
        hostile("2^60 vertices", replaced(&binary, vertex, &format!("element vertex {huge}\n")), &["vertex", &huge]),
        hostile("2^60 ASCII vertices", text("vertex 2", &format!("vertex {huge}")), &["vertex", &huge]),
        hostile(
            "2^60 neighbours",
            replaced(&binary, &adjacency, &format!("element adjacency {huge}")),
            &["adjacency", &huge],
        ),
        hostile("2^64 vertices", text("vertex 2", "vertex 18446744073709551616"), &["element NAME COUNT"]),
        hostile("-1 vertices", text("vertex 2", "vertex -1"), &["element NAME COUNT", "-1"]),
        hostile("no vertices", text("vertex 2", "vertex 0"), &["points", "at least one"]),
        hostile("one vertex too few", replaced(&binary, vertex, "element vertex 19\n"), &[]),
        hostile("one vertex too many", replaced(&binary, vertex, "element vertex 21\n"), &[]),
        hostile("one neighbour too few", text("adjacency 2", "adjacency 1"), &["offsets", "from 0 to 1"]),
        hostile("no neighbours at all", text("element adjacency 2\nproperty uint adjacency\n", ""), &["adjacency"]),
        hostile(
            "an adjacency of another name",
            text("uint adjacency\n", "uint a\n"),
            &["adjacency", "a property adjacency"],
        ),
        hostile("no density", text("float density", "float opacity"), &["vertex", "density"]),
        hostile("no colour", text("uchar blue", "uchar bleu"), &["vertex", "blue"]),
        hostile("a list for an x", text("float x", "list uchar float x"), &["vertex", "property x"]),
        hostile(
            "one SH column",
            text("element adj", "property float color_sh_0\nelement adj"),
            &["color_sh", "1 of them"],
        ),
        hostile("SH columns with a gap", replaced(&binary, "color_sh_4", "color_sh_X"), &["color_sh", "4 of them"]),
        hostile("offsets that descend", text("0.5 1\n", "0.5 3\n"), &["offsets", "ascending", "3 and then 2"]),
        hostile("an offset of 1.5", text("0.5 1\n", "0.5 1.5\n"), &["adjacency_offset of row 0", "1.5"]),
        hostile("an offset of -1", text("0.5 1\n", "0.5 -1\n"), &["adjacency_offset of row 0", "-1"]),
        hostile("an offset of 2^32", text("0.5 1\n", "0.5 4294967296\n"), &["adjacency_offset of row 0", "4294967296"]),
        hostile("a neighbour that is not there", text("\n1\n0\n", "\n2\n0\n"), &["neighbors", "below 2"]),
        hostile("a neighbour of 1e99", text("\n1\n0\n", "\n1e99\n0\n"), &["adjacency of row 0"]),
        hostile("a position that is not finite", text("1 0 0 10", "1 nan 0 10"), &["points", "finite", "NaN"]),
        hostile("a position beyond f32", text("1 0 0 10", "1 1e300 0 10"), &["points", "finite"]),
        hostile("a negative density", text("30 0.5 1", "30 -0.5 1"), &["density", "at least 0", "-0.5"]),
        hostile("an infinite density", text("30 0.5 1", "30 inf 1"), &["density", "finite"]),
        hostile("a word for a density", text("30 0.5 1", "30 much 1"), &["vertex 0", "density", "much"]),
        hostile(
            "adjacency before the vertices",
            "ply\nformat ascii 1.0\nelement adjacency 1\nproperty uint adjacency\nelement vertex 0\nend_header\n0\n",
            &["vertex"],
        ),
        hostile("a PNG", b"\x89PNG\r\n\x1a\n and so on".to_vec(), &["PLY"]),
    ];
    refused(files, |path| read_scene_ply(path));
    // What they are all made from is fine.
    let path = tempfile::NamedTempFile::new().expect("a file");
    for good in [ASCII.as_bytes(), &binary] {
        fs::write(path.path(), good).expect("a file");
        read_scene_ply(path.path()).expect("the file without the lie");
    }
}

#[test]
fn point_clouds_that_lie() {
    let huge = (1u64 << 60).to_string();
    let head = |count: &str| {
        format!(
            "ply\nformat binary_little_endian 1.0\nelement vertex {count}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
        )
    };
    let files = vec![
        hostile("2^60 points", head(&huge), &["vertex", &huge]),
        hostile("one point and no byte", head("1"), &["vertex", "1 rows"]),
        hostile("NaN", [head("1").as_bytes(), &[255; 12]].concat(), &["vertex 0", "finite"]),
    ];
    refused(files, |path| read_point_cloud(path));
}

fn small_checkpoint() -> Vec<u8> {
    let tensors = BTreeMap::from([
        ("a.wide".to_string(), Tensor::new(&[1i64, 2], &Device::Cpu).expect("a tensor")),
        ("b.float".to_string(), Tensor::new(&[[1f32, 2., 3.], [4., 5., 6.]], &Device::Cpu).expect("a tensor")),
        ("c.byte".to_string(), Tensor::new(&[1u8, 2, 3], &Device::Cpu).expect("a tensor")),
    ]);
    let checkpoint = Checkpoint { tensors, header: json!({ "step": 3 }) };
    written(|path| checkpoint.save(path))
}

fn load(path: &Path) -> Result<Checkpoint> {
    Checkpoint::load(path, &Device::Cpu)
}

#[test]
fn a_checkpoint_cut_at_any_byte() {
    refused(cut("checkpoint", &small_checkpoint()), load);
}

/// With a header of one's own, its length set right.
fn with_header(json: &str, data: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), data].concat()
}

#[test]
fn checkpoints_that_lie() {
    let good = small_checkpoint();
    let length = u64::from_le_bytes(*good.first_chunk().expect("8 bytes")) as usize;
    let header = String::from_utf8(good[8..8 + length].to_vec()).expect("JSON");
    let data = &good[8 + length..];
    let lie = |find: &str, with: &str| {
        assert!(header.contains(find), "{header}");
        with_header(&header.replacen(find, with, 1), data)
    };
    let announced = |length: u64| [&length.to_le_bytes()[..], &good[8..]].concat();
    let metadata = r#""__metadata__":{"candle_radfoam":"{}"}"#;
    let one = |info: &str, data: &[u8]| with_header(&format!("{{{metadata},\"x\":{info}}}"), data);
    let deep = "[".repeat(100_000);
    let files = vec![
        hostile("a larger shape", lie("[2,3]", "[2,4]"), &["header", "shape"]),
        hostile("a smaller shape", lie("[2,3]", "[2,2]"), &["header", "shape"]),
        hostile("a shape of 2^80", lie("[2,3]", "[1099511627776,1099511627776]"), &["header", "overflow"]),
        hostile("a shape of 2^63", lie("[2,3]", "[9223372036854775808]"), &["header", "overflow"]),
        hostile("a negative shape", lie("[2,3]", "[-2,3]"), &["header"]),
        hostile("another type", lie("\"F32\"", "\"F16\""), &["header"]),
        hostile("a type that there is not", lie("\"F32\"", "\"F128\""), &["header", "F128"]),
        hostile(
            "a type that Candle has not",
            one(r#"{"dtype":"U64","shape":[1],"data_offsets":[0,8]}"#, &[0; 8]),
            &["x", "U64"],
        ),
        hostile(
            "2^60 bytes",
            one(r#"{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}"#, &[0; 8]),
            &["tensors", "1152921504606846976", "8 bytes"],
        ),
        hostile("overlapping tensors", lie("[16,40]", "[8,32]"), &["header", "offset"]),
        hostile("tensors that run backwards", lie("[16,40]", "[40,16]"), &["header", "offset"]),
        hostile("a header of 2^64 - 1 bytes", announced(u64::MAX), &["header", "18446744073709551615"]),
        hostile("a header of 2^40 bytes", announced(1 << 40), &["header", "1099511627776"]),
        hostile("a header one byte longer", announced(length as u64 + 1), &[]),
        hostile("a header one byte shorter", announced(length as u64 - 1), &[]),
        hostile("a byte too many", [&good[..], &[0]].concat(), &["tensors", "bytes"]),
        hostile("a header of deep nesting", with_header(&deep, &[]), &["header"]),
        hostile(
            "our header of deep nesting",
            with_header(&format!("{{\"__metadata__\":{{\"candle_radfoam\":\"{deep}\"}}}}"), &[]),
            &["candle_radfoam"],
        ),
        hostile(
            "our header not of JSON",
            with_header(r#"{"__metadata__":{"candle_radfoam":"{"}}"#, &[]),
            &["candle_radfoam"],
        ),
        hostile(
            "no header of ours",
            with_header(r#"{"__metadata__":{"format":"pt"}}"#, &[]),
            &["metadata", "candle_radfoam"],
        ),
        hostile("NaN in f32", one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#, &[255; 4]), &["x", "finite"]),
        hostile("NaN in f64", one(r#"{"dtype":"F64","shape":[1],"data_offsets":[0,8]}"#, &[255; 8]), &["x", "finite"]),
        hostile("NaN in f16", one(r#"{"dtype":"F16","shape":[1],"data_offsets":[0,2]}"#, &[255; 2]), &["x", "finite"]),
        hostile(
            "infinity in bf16",
            one(r#"{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}"#, &[0x80, 0x7f]),
            &["x", "finite"],
        ),
    ];
    refused(files, load);
}

/// Nothing between the names of the tensors and the foam may be taken on trust.
#[test]
fn adjacencies_that_lead_astray() -> Result<()> {
    let foam = random_foam(20, 0, 2)?;
    let good = Checkpoint { tensors: foam.state()?, header: json!({ "density_scale": 20.0 }) };
    let offsets: Vec<u32> = good.tensors["foam.offsets"].to_vec1()?;
    let neighbors: Vec<u32> = good.tensors["foam.neighbors"].to_vec1()?;
    let vector = |values: Vec<u32>| Tensor::from_vec(values.clone(), values.len(), &Device::Cpu);
    let changed = |values: &[u32], at: usize, value: u32| {
        let mut values = values.to_vec();
        values[at] = value;
        values
    };
    let last = offsets.len() - 1;
    let mut files = Vec::new();
    for (what, name, values) in [
        ("offsets out of order", "foam.offsets", changed(&offsets, 3, offsets[5])),
        ("offsets that begin late", "foam.offsets", changed(&offsets, 0, 1)),
        ("offsets that end early", "foam.offsets", changed(&offsets, last, offsets[last] - 1)),
        ("offsets that end late", "foam.offsets", changed(&offsets, last, u32::MAX)),
        ("an offset too many", "foam.offsets", [&offsets[..], &[offsets[last]]].concat()),
        ("no offsets", "foam.offsets", Vec::new()),
        ("a neighbour too many", "foam.neighbors", [&neighbors[..], &[0]].concat()),
        ("a neighbour that is not there", "foam.neighbors", changed(&neighbors, 7, 28)),
        ("no neighbours", "foam.neighbors", Vec::new()),
    ] {
        let mut checkpoint = good.clone();
        checkpoint.tensors.insert(name.into(), vector(values)?);
        files.push(hostile(what, written(|path| checkpoint.save(path)), &["foam."]));
    }
    refused(files, |path| Foam::from_checkpoint(&load(path)?, path));
    Ok(())
}

fn model() -> Vec<TorchTensor> {
    vec![
        TorchTensor::floats("xyz", &[2, 3], &[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]),
        TorchTensor::floats("density", &[2, 1], &[0.5, -0.5]),
        TorchTensor::floats("color_dc", &[2, 3], &[0.1; 6]),
        TorchTensor::floats("color_sh", &[2, 9], &[0.2; 18]),
        TorchTensor::longs("adjacency", &[1, 0]),
        TorchTensor::longs("adjacency_offsets", &[0, 1, 2]),
    ]
}

fn saved(tensors: &[TorchTensor]) -> Vec<u8> {
    torch_file(tensors, &torch_pickle(tensors))
}

#[test]
fn a_model_cut_at_any_byte() {
    refused(cut("model.pt", &saved(&model())), |path| read_model_pt(path));
}

#[test]
fn models_that_lie() -> Result<()> {
    let good = model();
    let changed = |at: usize, change: &dyn Fn(&mut TorchTensor)| {
        let mut tensors = good.clone();
        change(&mut tensors[at]);
        saved(&tensors)
    };
    let huge = 1 << 30;
    let mut files = vec![
        hostile("2^60 points", changed(0, &|t| t.shape = vec![huge, huge]), &["xyz"]),
        hostile("2^90 points", changed(0, &|t| t.shape = vec![huge, huge, huge]), &["xyz"]),
        hostile(
            "points of two axes",
            changed(0, &|t| (t.shape, t.strides) = (vec![3, 2], vec![2, 1])),
            &["xyz", "[N, 3]", "[3, 2]"],
        ),
        hostile("a row too many", changed(0, &|t| t.shape = vec![3, 3]), &["xyz", "36 bytes", "24"]),
        hostile("a negative size", changed(0, &|t| t.shape = vec![-2, 3]), &["xyz"]),
        hostile("transposed", changed(0, &|t| t.strides = vec![1, 2]), &["xyz", "contiguous"]),
        hostile("one stride", changed(0, &|t| t.strides = vec![1]), &["xyz", "contiguous"]),
        hostile("beyond its storage", changed(0, &|t| t.offset = 1), &["xyz", "28 bytes"]),
        hostile("far beyond its storage", changed(0, &|t| t.offset = i32::MAX), &["xyz"]),
        hostile("before its storage", changed(0, &|t| t.offset = -1), &["xyz"]),
        hostile("points in bytes", changed(0, &|t| t.storage = "LongStorage"), &["xyz", "FloatStorage", "LongStorage"]),
        hostile("NaN", changed(0, &|t| t.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes())), &["points", "finite"]),
        hostile("a density for one of two", changed(1, &|t| t.shape = vec![1, 1]), &["density", "[2, 1]", "[1, 1]"]),
        hostile(
            "four colours",
            changed(2, &|t| (t.shape, t.strides) = (vec![1, 4], vec![4, 1])),
            &["color_dc", "[2, 3]"],
        ),
        hostile(
            "ten columns of SH",
            changed(3, &|t| (t.shape, t.strides) = (vec![1, 10], vec![10, 1])),
            &["color_sh", "[1, 10]"],
        ),
        hostile("a negative neighbour", changed(4, &|t| t.bytes[7] = 255), &["adjacency", "32 bits"]),
        hostile("a neighbour that is not there", changed(4, &|t| t.bytes[0] = 2), &["neighbors", "below 2"]),
        hostile(
            "neighbours in a square",
            changed(4, &|t| (t.shape, t.strides) = (vec![1, 2], vec![2, 1])),
            &["adjacency", "one dimension"],
        ),
        hostile("offsets out of order", changed(5, &|t| t.bytes[8] = 3), &["offsets", "3 and then 2"]),
        hostile("offsets that begin late", changed(5, &|t| t.bytes[0] = 1), &["offsets", "from 0 to 2"]),
    ];
    for at in 0..good.len() {
        let mut tensors = good.clone();
        let name = tensors.remove(at).name;
        files.push(hostile(format!("without {name}"), saved(&tensors), &[name, "none of that name"]));
    }
    let pickle = torch_pickle(&good);
    files.push(hostile("no values", stored_zip(&[("model/data.pkl", &pickle)]), &["model/data/0"]));
    files.push(hostile("no pickle", stored_zip(&[("model/version", b"3\n")]), &["data.pkl"]));
    files.push(hostile("an empty archive", stored_zip(&[]), &["data.pkl"]));
    let big = [("model/data.pkl", &pickle[..]), ("model/byteorder", b"big")];
    files.push(hostile("big-endian", stored_zip(&big), &["byteorder", "little", "big"]));
    files.push(hostile("a bare pickle", pickle.clone(), &["zip"]));
    files.push(hostile(
        "a flipped bit",
        {
            let mut bytes = saved(&good);
            let at = bytes.windows(8).position(|w| w == [0.1f32.to_le_bytes(); 2].concat()).expect("a colour");
            bytes[at] ^= 1;
            bytes
        },
        &["model/data/2"],
    ));
    // As if deflated; such archives are none of torch.save's, and could be bombs.
    files.push(hostile(
        "a compressed archive",
        {
            let mut bytes = saved(&good);
            for start in 0..bytes.len() - 12 {
                match &bytes[start..start + 4] {
                    b"PK\x03\x04" => bytes[start + 8] = 8,
                    b"PK\x01\x02" => bytes[start + 10] = 8,
                    _ => {}
                }
            }
            bytes
        },
        &["compression"],
    ));
    refused(files, |path| read_model_pt(path));
    Ok(())
}

/// A pickle that asks Python to run something, or that is made to exhaust its reader.
#[test]
fn pickles_that_want_more_than_to_be_read() {
    let code = |name: &str| [b"\x80\x02c".as_slice(), name.as_bytes(), b"\nX\x02\x00\x00\x00id\x85R."].concat();
    let nested = |op: u8| [&b"\x80\x02N"[..], &vec![op; 10_000], b"."].concat();
    let dictionary = |value: &[u8]| [b"\x80\x02}(X\x03\x00\x00\x00xyz".as_slice(), value, b"u."].concat();
    let rebuild = |args: &[u8]| dictionary(&[b"ctorch._utils\n_rebuild_tensor_v2\n".as_slice(), args, b"R"].concat());
    // Each line twice the one before: 2^200 objects.
    let doubling = (0..200u8).fold(b"\x80\x02N\x85q\x00".to_vec(), |pickle, i| {
        [&pickle[..], &[b'h', i, b'h', i, 0x86, b'q', i + 1]].concat()
    });
    // A wide object, put aside a thousand times.
    let wide = [
        &b"\x80\x02("[..],
        &[b'N'; 5000],
        b"t",
        &(0..1000u32).flat_map(|i| [&[b'r'][..], &i.to_le_bytes()].concat()).collect::<Vec<u8>>(),
        b".",
    ]
    .concat();
    let pickles = [
        ("os.system", code("os\nsystem"), "os.system"),
        ("posix.system", code("posix\nsystem"), "posix.system"),
        ("eval", code("builtins\neval"), "builtins.eval"),
        ("exec in Python 2", code("__builtin__\nexec"), "__builtin__.exec"),
        ("subprocess", code("subprocess\nPopen"), "subprocess.Popen"),
        ("torch's own loader", code("torch.serialization\nload"), "torch.serialization.load"),
        ("torch.load under a known module", code("torch\nload"), "torch.load"),
        ("a name like a known one", code("torch._utils\n_rebuild_tensor_v2 "), "_rebuild_tensor_v2 "),
        ("a name that is not UTF-8", b"\x80\x02c\xff\n\xfe\n.".to_vec(), "nothing to run"),
        ("INST", b"(S'ls'\nios\nsystem\n.".to_vec(), "0x53"),
        ("protocol 4", b"\x80\x04\x8c\x02os\x8c\x06system\x93.".to_vec(), "0x8c"),
        ("an extension", b"\x80\x02\x82\x01.".to_vec(), "0x82"),
        ("deep tuples", nested(0x85), "levels"),
        ("deep persistent names", nested(b'Q'), "levels"),
        ("deep lists", [&b"\x80\x02"[..], &[b']'; 5000], &[b'a'; 4999], b"."].concat(), "levels"),
        ("doubling", doubling, "copied"),
        ("a wide object put aside", wide, "copied"),
        ("a string of 4 GB", b"\x80\x02X\xff\xff\xff\xff.".to_vec(), "4294967295 bytes"),
        ("a number of 255 bytes", [&b"\x80\x02\x8a\xff"[..], &[1; 255], b"."].concat(), "255 bytes"),
        ("a pickle of 17 kB", vec![b'N'; 17_000], "at most"),
        ("an empty stack", b"\x80\x02R.".to_vec(), "stack"),
        ("nothing", b"".to_vec(), "the end"),
        ("no value", b"\x80\x02.".to_vec(), "a value"),
        ("no mark", b"\x80\x02t.".to_vec(), "mark"),
        ("no stop", b"\x80\x02N".to_vec(), "the end"),
        ("half a name", b"\x80\x02ctorch".to_vec(), "nothing to run"),
        ("a memo that is not there", b"\x80\x02h\x07.".to_vec(), "memo"),
        ("an odd dictionary", b"\x80\x02}(Nu.".to_vec(), "even"),
        ("a list", b"\x80\x02].".to_vec(), "dictionary"),
        ("None for a tensor", dictionary(b"N"), "xyz"),
        ("a class for a tensor", dictionary(b"ctorch\nFloatStorage\n"), "xyz"),
        ("a tensor of no arguments", rebuild(b")"), "xyz"),
        ("a tensor of one argument", rebuild(b"N\x85"), "xyz"),
        ("a tensor without a tuple", rebuild(b"N"), "xyz"),
        ("a tensor of an empty storage", rebuild(b"()Q)))t"), "xyz"),
        ("a tensor of a number for a storage", rebuild(b"(K\x01QK\x00))t"), "xyz"),
        ("a parameter of no arguments", dictionary(b"ctorch._utils\n_rebuild_parameter\n)R"), "xyz"),
        ("a key that is no text", b"\x80\x02}(K\x01Nu.".to_vec(), "xyz"),
    ];
    let files = pickles.into_iter().map(|(what, pickle, word)| hostile(what, torch_file(&model(), &pickle), &[word]));
    refused(files.collect(), |path| read_model_pt(path));
}
