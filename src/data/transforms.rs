//! Captures described by `transforms.json`: Blender (NeRF-synthetic), instant-ngp, nerfstudio.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::dataset::{Capture, Focal, Intrinsics, Listed, Skipped};
use crate::camera::{Lens, Pose};
use crate::exchange::read_point_cloud;
use crate::{Error, Result};

/// Camera models that are [`Lens::OpenCv`] with some coefficients zero.
const MODELS: [&str; 6] = ["PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE"];
/// Endings that are tried when a listed file is not there, as Blender's lists have none.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "PNG", "JPG", "JPEG"];
/// Focal lengths that differ by more than this between the axes are a calibration that failed: not even anamorphic
/// lenses exceed 2.
const MOST_ANAMORPHIC: f64 = 4.0;

/// The part of an entry that may stand at the top of the file or in each frame.
#[derive(Debug, Default, Deserialize)]
struct Lensed {
    camera_model: Option<String>,
    is_fisheye: Option<bool>,
    camera_angle_x: Option<f64>,
    camera_angle_y: Option<f64>,
    fl_x: Option<f64>,
    fl_y: Option<f64>,
    cx: Option<f64>,
    cy: Option<f64>,
    w: Option<f64>,
    h: Option<f64>,
    k1: Option<f64>,
    k2: Option<f64>,
    k3: Option<f64>,
    k4: Option<f64>,
    p1: Option<f64>,
    p2: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Frame {
    file_path: String,
    transform_matrix: [[f64; 4]; 4],
    #[serde(flatten)]
    lensed: Lensed,
}

#[derive(Debug, Deserialize)]
struct Transforms {
    frames: Vec<Frame>,
    ply_file_path: Option<String>,
    #[serde(default)]
    val_filenames: Vec<String>,
    #[serde(default)]
    test_filenames: Vec<String>,
    #[serde(flatten)]
    lensed: Lensed,
}

impl Lensed {
    /// The intrinsics of a frame: its own entries first, then those at the top of the file.
    fn intrinsics(frame: &Self, top: &Self) -> Result<Intrinsics> {
        let model = frame.camera_model.as_deref().or(top.camera_model.as_deref());
        if let Some(model) = model
            && !MODELS.contains(&model.to_ascii_uppercase().as_str())
        {
            return Err(Error::config("camera_model", MODELS.join(", "), model));
        }
        if frame.is_fisheye.or(top.is_fisheye) == Some(true) {
            return Err(Error::config("is_fisheye", "false", "true"));
        }
        let value = |get: fn(&Self) -> Option<f64>| get(frame).or_else(|| get(top));
        for (name, k) in [("k3", value(|l| l.k3)), ("k4", value(|l| l.k4))] {
            if let Some(k) = k.filter(|&k| k != 0.0) {
                return Err(Error::config(name, "0, as the lens model has k1 k2 p1 p2", k.to_string()));
            }
        }
        let size = match (value(|l| l.w), value(|l| l.h)) {
            (Some(w), Some(h)) => Some([w, h]),
            _ => None,
        };
        let angle_x = value(|l| l.camera_angle_x);
        let focal = match (value(|l| l.fl_x), value(|l| l.fl_y), angle_x) {
            (Some(x), y, _) | (None, y @ Some(x), None) => Focal::Pixels([x, y.unwrap_or(x)]),
            (None, _, Some(x)) => Focal::Angles(x, value(|l| l.camera_angle_y)),
            (None, None, None) => return Err(Error::config("fl_x", "fl_x or camera_angle_x", "neither")),
        };
        if let Focal::Pixels([x, y]) = focal
            && (x / y).max(y / x) > MOST_ANAMORPHIC
        {
            let expected = format!("within a factor of {MOST_ANAMORPHIC} of fl_x = {x}");
            return Err(Error::config("fl_y", expected, y.to_string()));
        }
        let center = match (value(|l| l.cx), value(|l| l.cy)) {
            (Some(x), Some(y)) => Some([x, y]),
            _ => None,
        };
        let [k1, k2] = [value(|l| l.k1), value(|l| l.k2)].map(|k| k.unwrap_or(0.0));
        let [p1, p2] = [value(|l| l.p1), value(|l| l.p2)].map(|p| p.unwrap_or(0.0));
        Ok(Intrinsics { size, focal, center, lens: Lens::open_cv(k1, k2, p1, p2) })
    }
}

/// What `root`'s files of transforms describe, or `None` if there are none.
pub(super) fn read(root: &Path) -> Result<Option<Capture>> {
    let holds = |name: &str| root.join(name).is_file();
    if !holds("transforms_train.json") {
        return holds("transforms.json").then(|| read_single(&root.join("transforms.json"))).transpose();
    }
    let train = root.join("transforms_train.json");
    let mut capture = read_file(root, &train)?;
    capture.layout = "transforms_train.json".into();
    let held_out = ["transforms_test.json", "transforms_val.json"].into_iter().find(|name| holds(name));
    if let Some(name) = held_out {
        let other = read_file(root, &root.join(name))?;
        capture.layout += &format!(" and {name}");
        capture.test = Some(other.listed.iter().map(|view| view.name.clone()).collect());
        let known: BTreeSet<_> = capture.listed.iter().map(|view| view.name.clone()).collect();
        capture.listed.extend(other.listed.into_iter().filter(|view| !known.contains(&view.name)));
        capture.skipped.extend(other.skipped);
    }
    Ok(Some(capture))
}

/// Reads one file that lists all views, with nerfstudio's split if it gives one.
pub(super) fn read_single(path: &Path) -> Result<Capture> {
    read_file(path.parent().unwrap_or(Path::new(".")), path)
}

/// The file names that `transforms_test.json` in `root` lists, without their folders, if there is such a file.
pub(super) fn test_names(root: &Path) -> Result<Option<BTreeSet<String>>> {
    let path = root.join("transforms_test.json");
    if !path.is_file() {
        return Ok(None);
    }
    let names = parse(&path)?.frames.into_iter().map(|frame| file_name(&frame.file_path).to_string());
    Ok(Some(names.collect()))
}

fn parse(path: &Path) -> Result<Transforms> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let expected = "frames with file_path and a 4x4 transform_matrix";
        Error::file(path, format!("line {}, column {}", e.line(), e.column()), expected, e.to_string())
    })
}

fn read_file(root: &Path, path: &Path) -> Result<Capture> {
    let transforms = parse(path)?;
    let mut capture = Capture { layout: file_name(&path.to_string_lossy()).into(), ..Capture::default() };
    // What is wrong at the top of the file is wrong for every frame, and is the file's error rather than a frame's.
    let only_in_frames = transforms.frames.iter().all(|frame| {
        frame.lensed.fl_x.is_some() || frame.lensed.fl_y.is_some() || frame.lensed.camera_angle_x.is_some()
    });
    if !only_in_frames {
        Lensed::intrinsics(&Lensed::default(), &transforms.lensed).map_err(|e| in_file(path, e))?;
    }
    for frame in &transforms.frames {
        let name = clean(&frame.file_path);
        let view = Lensed::intrinsics(&frame.lensed, &transforms.lensed)
            .and_then(|intrinsics| Ok((intrinsics, Pose::from_opengl(&frame.transform_matrix)?)));
        match view {
            Ok((intrinsics, pose)) => {
                let file = find_image(root, &name);
                capture.listed.push(Listed { name, file, mask: None, intrinsics, pose });
            }
            Err(error) => capture.skipped.push(Skipped { name, reason: error.to_string() }),
        }
    }
    let held_out = [transforms.test_filenames, transforms.val_filenames].into_iter().find(|names| !names.is_empty());
    capture.test = held_out.map(|names| names.iter().map(|name| clean(name)).collect());
    let listed = transforms.ply_file_path.map(|name| root.join(clean(&name)));
    let beside = root.join("points3D.ply");
    capture.cloud = match listed {
        Some(path) => Some(read_point_cloud(path)?),
        None if beside.is_file() => Some(read_point_cloud(beside)?),
        None => None,
    };
    Ok(capture)
}

/// An error about a setting, told as one about the file that holds it.
fn in_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Config { field, expected, found } => Error::file(path, field, expected, found),
        other => other,
    }
}

/// A listed path without the leading `./` and with forward slashes.
fn clean(path: &str) -> String {
    let path = path.replace('\\', "/");
    path.strip_prefix("./").unwrap_or(&path).to_string()
}

/// The last part of a path with either kind of slash.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// The file that `name` means: as it is listed, with an ending added or replaced, or (for lists with the absolute
/// paths of another machine) under its last part in `root` or `root`/images. The listed path if there is none.
fn find_image(root: &Path, name: &str) -> PathBuf {
    let last = file_name(name);
    let places = [root.join(name), root.join("images").join(last), root.join(last)];
    let candidates = |place: &PathBuf| {
        let known = place.extension().is_some_and(|ending| ENDINGS.iter().any(|e| ending.eq_ignore_ascii_case(e)));
        let stem = if known { place.with_extension("") } else { place.clone() };
        let with = |ending: &str| PathBuf::from(format!("{}.{ending}", stem.display()));
        let mut candidates = vec![place.clone()];
        candidates.extend(ENDINGS.map(with));
        candidates
    };
    let found = places.iter().flat_map(candidates).find(|path| path.is_file());
    found.unwrap_or_else(|| places[0].clone())
}
