//! Are PLY files of every kind read, and broken ones refused?

use std::fs;

use candle_radfoam::exchange::{PointCloud, read_point_cloud, write_point_cloud};

fn read_ply(bytes: &[u8]) -> candle_radfoam::Result<PointCloud> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cloud.ply");
    fs::write(&path, bytes).unwrap();
    read_point_cloud(&path)
}

const MIXED_HEADER: &str = "comment made up\nobj_info nothing\nelement face 2\nproperty list uchar int vertex_indices\n\
    property float area\nelement vertex 2\nproperty uchar blue\nproperty double z\nproperty list ushort float extra\n\
    property short x\nproperty float y\nproperty ushort red\nproperty float green\nelement edge 5\nproperty int a\n\
    end_header\n";

/// The rows that [`MIXED_HEADER`] announces, without the edges, in either byte order.
fn mixed_rows(little: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    macro_rules! put {
        ($($value:expr),*) => { $( bytes.extend(if little { $value.to_le_bytes() } else { $value.to_be_bytes() }); )* };
    }
    put!(3_u8, 0_i32, 1_i32, 2_i32, 0.5_f32, 0_u8, 0.25_f32);
    put!(7_u8, 3.5_f64, 2_u16, 1.0_f32, 2.0_f32, -1_i16, 2.25_f32, 65535_u16, 1.0_f32);
    put!(9_u8, -4.0_f64, 0_u16, 300_i16, 0.125_f32, 0_u16, 0.5_f32);
    bytes
}

#[test]
fn ply_of_every_kind() {
    let expected = PointCloud {
        points: vec![[-1.0, 2.25, 3.5], [300.0, 0.125, -4.0]],
        colors: Some(vec![[255, 255, 7], [0, 128, 9]]),
        tracks: None,
    };
    let edges = [0; 20];
    for (name, little) in [("binary_little_endian", true), ("binary_big_endian", false)] {
        let header = format!("ply\nformat {name} 1.0\n{MIXED_HEADER}");
        let bytes = [header.as_bytes(), &mixed_rows(little), &edges].concat();
        assert_eq!(read_ply(&bytes).unwrap(), expected, "{name}");
        for length in 0..bytes.len() - edges.len() {
            assert!(read_ply(&bytes[..length]).is_err(), "{name} cut to {length} bytes was accepted");
        }
    }
    let rows = "3 0 1 2 0.5\n0 0.25\n7 3.5 2 1 2 -1 2.25 65535 1\n9 -4e0 0 300 .125 0 0.5\n1\n2\n3\n4\n5";
    let text = format!("ply\r\nformat ascii 1.0\r\n{MIXED_HEADER}{rows}");
    assert_eq!(read_ply(text.as_bytes()).unwrap(), expected);

    let without = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n\
        end_header\n1 2 3";
    let plain = PointCloud { points: vec![[1.0, 2.0, 3.0]], colors: None, tracks: None };
    assert_eq!(read_ply(without.as_bytes()).unwrap(), plain);
    let folder = tempfile::tempdir().unwrap();
    for cloud in [plain, expected, PointCloud::default()] {
        write_point_cloud(folder.path().join("cloud.ply"), &cloud).unwrap();
        assert_eq!(read_point_cloud(folder.path().join("cloud.ply")).unwrap(), cloud);
    }
    let uneven = PointCloud { points: vec![[0.0; 3]], colors: Some(vec![]), tracks: None };
    assert!(write_point_cloud(folder.path().join("cloud.ply"), &uneven).is_err());
}

#[test]
fn hostile_ply_files() {
    let xyz = "property float x\nproperty float y\nproperty float z\n";
    let huge = 1_u64 << 60;
    let cases = [
        ("empty", String::new(), "empty"),
        ("another format", "solid cube".into(), "solid cube"),
        ("LFS", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n".into(), "Git LFS"),
        ("no end", format!("ply\nformat ascii 1.0\nelement vertex 1\n{xyz}"), "end_header"),
        ("no format", format!("ply\nelement vertex 0\n{xyz}end_header\n"), "format"),
        ("format 2", format!("ply\nformat ascii 2.0\nelement vertex 0\n{xyz}end_header\n"), "ascii 2.0"),
        ("type", "ply\nformat ascii 1.0\nelement vertex 1\nproperty half x\nend_header\n".into(), "half"),
        ("no element", "ply\nformat ascii 1.0\nproperty float x\nend_header\n".into(), "element"),
        ("no vertex", "ply\nformat ascii 1.0\nelement face 0\nend_header\n".into(), "vertex"),
        (
            "no z",
            "ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\nend_header\n".into(),
            "z",
        ),
        ("count", format!("ply\nformat ascii 1.0\nelement vertex -1\n{xyz}end_header\n"), "-1"),
        (
            "2^60 vertices",
            format!("ply\nformat binary_little_endian 1.0\nelement vertex {huge}\n{xyz}end_header\n"),
            "rows",
        ),
        ("2^60 in text", format!("ply\nformat ascii 1.0\nelement vertex {huge}\n{xyz}end_header\n1 2 3\n"), "rows"),
        (
            "2^60 faces",
            format!(
                "ply\nformat binary_big_endian 1.0\nelement face {huge}\nproperty double a\nelement vertex 1\n{xyz}end_header\n"
            ),
            "face",
        ),
        (
            "2^60 lists",
            format!(
                "ply\nformat ascii 1.0\nelement face {huge}\nproperty list int int a\nelement vertex 1\n{xyz}end_header\n1 2 3\n"
            ),
            "face",
        ),
        (
            "short",
            format!("ply\nformat ascii 1.0\nelement vertex 2\n{xyz}end_header\n1.25 2.50 3.75 4.25 5.5"),
            "property z",
        ),
        ("letters", format!("ply\nformat ascii 1.0\nelement vertex 1\n{xyz}end_header\n1 two 3\n"), "two"),
        ("nan", format!("ply\nformat ascii 1.0\nelement vertex 1\n{xyz}end_header\n1 nan 3\n"), "finite"),
    ];
    let mut failures = Vec::new();
    for (name, text, expected) in cases {
        match read_ply(text.as_bytes()) {
            Ok(cloud) => failures.push(format!("{name}: read {} points", cloud.points.len())),
            Err(error) if !error.to_string().contains(expected) => failures.push(format!("{name}: {error}")),
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
