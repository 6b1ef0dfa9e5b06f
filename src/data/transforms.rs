//! Captures described by `transforms.json`: Blender (NeRF-synthetic), instant-ngp, nerfstudio, and what other tools
//! (Polycam, Record3D) export for these.
//!
//! What the entries mean is what the tools do with them: `nerfstudio/data/dataparsers/nerfstudio_dataparser.py`,
//! `nerfstudio/cameras/cameras.py`, and instant-ngp's `src/nerf_loader.cu`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::capture::{Capture, Focal, Format, Intrinsics, Listed, same_file};
use super::dataset::Skipped;
use super::mask::MaskFile;
use crate::camera::{Lens, Pose};
use crate::exchange::{describe, read_point_cloud};
use crate::{Error, Result};

/// Camera models that are radial and tangential distortion of a perspective image, some coefficients being zero.
const PERSPECTIVE: [&str; 6] = ["PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE"];
/// Those of a fisheye.
const FISHEYE: [&str; 4] = ["OPENCV_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"];
/// Longitude and latitude.
const SPHERE: &str = "EQUIRECTANGULAR";
/// Lenses of instant-ngp that are none of these.
const OTHER_LENSES: [&str; 4] = ["ftheta_p0", "latlong", "equirectangular", "orthographic"];
/// Endings that are tried when a listed file is not there, as Blender's lists have none.
const ENDINGS: [&str; 12] = ["png", "jpg", "jpeg", "webp", "tif", "tiff", "PNG", "JPG", "JPEG", "WEBP", "TIF", "TIFF"];
/// Focal lengths that differ by more than this between the axes are a calibration that failed: not even anamorphic
/// lenses exceed 2.
const MOST_ANAMORPHIC: f64 = 4.0;
/// An applied transform whose determinant is less than this fraction of its entries' size cannot be undone.
const SINGULAR: f64 = 1e-9;

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
    /// Four rows, or three: some exporters leave the last one out.
    transform_matrix: Option<Vec<[f64; 4]>>,
    mask_path: Option<String>,
    #[serde(flatten)]
    lensed: Lensed,
}

#[derive(Debug, Deserialize)]
struct Transforms {
    frames: Vec<Frame>,
    ply_file_path: Option<String>,
    applied_transform: Option<Vec<[f64; 4]>>,
    applied_scale: Option<f64>,
    #[serde(default)]
    val_filenames: Vec<String>,
    #[serde(default)]
    test_filenames: Vec<String>,
    ftheta_p0: Option<serde_json::Value>,
    latlong: Option<serde_json::Value>,
    equirectangular: Option<serde_json::Value>,
    orthographic: Option<serde_json::Value>,
    #[serde(flatten)]
    lensed: Lensed,
}

impl Lensed {
    /// The intrinsics of a frame: its own entries first, then those at the top of the file.
    fn intrinsics(frame: &Self, top: &Self) -> Result<Intrinsics> {
        let value = |get: fn(&Self) -> Option<f64>| get(frame).or_else(|| get(top));
        let model = frame.camera_model.as_deref().or(top.camera_model.as_deref());
        let model = model.unwrap_or("PERSPECTIVE").to_ascii_uppercase();
        let is_fisheye = frame.is_fisheye.or(top.is_fisheye) == Some(true) || FISHEYE.contains(&model.as_str());
        if !is_fisheye && model != SPHERE && !PERSPECTIVE.contains(&model.as_str()) {
            let known = [&PERSPECTIVE[..], &FISHEYE, &[SPHERE]].concat().join(", ");
            return Err(Error::config("camera_model", known, model));
        }
        let size = both(value(|l| l.w), value(|l| l.h));
        if let Some([w, h]) = size
            && !(w >= 1.0 && h >= 1.0 && w <= f64::from(u32::MAX) && h <= f64::from(u32::MAX))
        {
            return Err(Error::config("w, h", "a size in pixels", format!("{w}, {h}")));
        }
        let center = both(value(|l| l.cx), value(|l| l.cy));
        let (x, y, angle) = (value(|l| l.fl_x), value(|l| l.fl_y), value(|l| l.camera_angle_x));
        if model == SPHERE {
            // nerfstudio's focal lengths are pixels a half turn here, and a radian's are wanted.
            let focal = match x.or(y) {
                Some(focal) => {
                    Focal::Pixels([x.unwrap_or(focal), y.unwrap_or(focal)].map(|f| f / std::f64::consts::PI))
                }
                None => Focal::Sphere,
            };
            return Ok(Intrinsics { size, focal, center, lens: Lens::Equirectangular });
        }
        let focal = match (x, y, angle) {
            (Some(x), y, _) | (None, y @ Some(x), None) => Focal::Pixels([x, y.unwrap_or(x)]),
            (None, _, Some(x)) => Focal::Angles(x, value(|l| l.camera_angle_y)),
            (None, None, None) => return Err(Error::config("fl_x", "fl_x or camera_angle_x", "neither")),
        };
        match focal {
            Focal::Pixels([x, y]) if (x / y).max(y / x) > MOST_ANAMORPHIC => {
                let expected = format!("within a factor of {MOST_ANAMORPHIC} of fl_x = {x}");
                return Err(Error::config("fl_y", expected, y.to_string()));
            }
            Focal::Angles(x, y) => {
                for (name, angle) in [("camera_angle_x", x), ("camera_angle_y", y.unwrap_or(x))] {
                    if !(angle > 0.0 && angle < std::f64::consts::PI) {
                        return Err(Error::config(name, "an angle between 0 and π", angle.to_string()));
                    }
                }
            }
            _ => {}
        }
        let [k1, k2, k3, k4, p1, p2]: [fn(&Self) -> Option<f64>; 6] =
            [|l| l.k1, |l| l.k2, |l| l.k3, |l| l.k4, |l| l.p1, |l| l.p2];
        let radial = [k1, k2, k3, k4].map(|k| value(k).unwrap_or(0.0));
        let tangential = [p1, p2].map(|p| value(p).unwrap_or(0.0));
        let lens = if model.ends_with("PINHOLE") {
            Lens::Pinhole
        } else if is_fisheye {
            Lens::fisheye(radial, tangential)
        } else {
            Lens::brown(radial, tangential)
        };
        Ok(Intrinsics { size, focal, center, lens })
    }
}

fn both(a: Option<f64>, b: Option<f64>) -> Option<[f64; 2]> {
    Some([a?, b?])
}

impl Frame {
    fn pose(&self) -> Result<Pose> {
        let rows = self.transform_matrix.as_deref().unwrap_or_default();
        match *rows {
            [a, b, c, d] => Pose::from_opengl(&[a, b, c, d]),
            [a, b, c] => Pose::from_opengl(&[a, b, c, [0.0, 0.0, 0.0, 1.0]]),
            _ => Err(Error::config("transform_matrix", "4 rows of 4 numbers", format!("{} rows", rows.len()))),
        }
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
    // With both, val is for choosing settings, which nothing here does: it is neither trained on nor scored.
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
    parse_bytes(path, &bytes)
}

/// What `bytes` describe, which are those of the file `path`.
fn parse_bytes(path: &Path, bytes: &[u8]) -> Result<Transforms> {
    // Some editors put a mark of the byte order in front, which JSON does not allow.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let transforms: Transforms = serde_json::from_slice(bytes).map_err(|e| {
        let expected = "frames with file_path and a 4x4 transform_matrix";
        let found = if bytes.first() == Some(&b'{') { e.to_string() } else { describe(bytes) };
        Error::file(path, format!("line {}, column {}", e.line(), e.column()), expected, found)
    })?;
    let Transforms { ftheta_p0, latlong, equirectangular, orthographic, .. } = &transforms;
    for (name, lens) in OTHER_LENSES.into_iter().zip([ftheta_p0, latlong, equirectangular, orthographic]) {
        if lens.as_ref().is_some_and(|lens| *lens != serde_json::Value::Bool(false)) {
            return Err(Error::file(path, name, "a lens that is not of this kind", "one that is"));
        }
    }
    Ok(transforms)
}

fn read_file(root: &Path, path: &Path) -> Result<Capture> {
    let transforms = parse(path)?;
    let listed = transforms.ply_file_path.as_ref().map(|name| root.join(clean(name)));
    let mut capture = list(root, path, transforms)?;
    let beside = root.join("points3D.ply");
    // The points are in the world of the poses: the tools that write an applied transform write both after it.
    capture.cloud = match listed {
        Some(path) => Some(read_point_cloud(path)?),
        None if beside.is_file() => Some(read_point_cloud(beside)?),
        None => None,
    };
    Ok(capture)
}

/// What the fuzzer sees: the views in `bytes`, without a start cloud.
#[cfg(fuzzing)]
pub(super) fn listed(root: &Path, path: &Path, bytes: &[u8]) -> Result<Capture> {
    list(root, path, parse_bytes(path, bytes)?)
}

/// The views of `transforms`, read from `path`, whose images are looked for in `root`.
fn list(root: &Path, path: &Path, transforms: Transforms) -> Result<Capture> {
    let layout = file_name(&path.to_string_lossy()).into();
    let mut capture = Capture { format: Format::Transforms, layout, ..Capture::default() };
    // What is wrong at the top of the file is wrong for every frame, and is the file's error rather than a frame's.
    let only_in_frames = transforms.frames.iter().all(|frame| {
        let Lensed { camera_model, camera_angle_x, fl_x, fl_y, .. } = &frame.lensed;
        camera_model.is_some() || camera_angle_x.or(*fl_x).or(*fl_y).is_some()
    });
    if !only_in_frames {
        Lensed::intrinsics(&Lensed::default(), &transforms.lensed).map_err(|e| in_file(path, e))?;
    }
    for frame in &transforms.frames {
        let name = clean(&frame.file_path);
        let file = find_image(root, &name);
        let view = Lensed::intrinsics(&frame.lensed, &transforms.lensed).and_then(|intrinsics| {
            Ok((intrinsics, frame.pose()?, find_mask(root, &file, frame.mask_path.as_deref())?))
        });
        match view {
            Ok((intrinsics, pose, mask)) => capture.listed.push(Listed { name, file, mask, intrinsics, pose }),
            Err(error) => capture.skipped.push(Skipped { name, reason: error.to_string() }),
        }
    }
    let held_out = [transforms.test_filenames, transforms.val_filenames].into_iter().find(|names| !names.is_empty());
    capture.test = held_out.map(|names| names.iter().map(|name| clean(name)).collect());
    capture.applied_transform =
        applied(transforms.applied_transform.as_deref(), transforms.applied_scale).map_err(|e| in_file(path, e))?;
    Ok(capture)
}

/// Rows `[A | t]` of what was applied to the world of a reconstruction: nerfstudio's `applied_transform`, then its
/// `applied_scale`.
fn applied(transform: Option<&[[f64; 4]]>, scale: Option<f64>) -> Result<Option<[[f64; 4]; 3]>> {
    const IDENTITY: [[f64; 4]; 3] = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    let rows = match transform {
        None if scale.is_none() => return Ok(None),
        None => IDENTITY,
        Some(&[a, b, c] | &[a, b, c, [0.0, 0.0, 0.0, 1.0]]) => [a, b, c],
        Some(rows) => {
            let expected = "3 rows of 4 numbers, or 4 of which the last is [0, 0, 0, 1]";
            return Err(Error::config("applied_transform", expected, format!("{rows:?}")));
        }
    };
    let rows = rows.map(|row| row.map(|v| v * scale.unwrap_or(1.0)));
    let [a, b, c] = rows;
    let cross = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
    let det = c[0] * cross[0] + c[1] * cross[1] + c[2] * cross[2];
    let size = rows.iter().flat_map(|row| &row[..3]).fold(0.0_f64, |most, v| most.max(v.abs()));
    if det.is_finite() && det.abs() > SINGULAR * size.powi(3) {
        return Ok(Some(rows));
    }
    Err(Error::config("applied_transform", "a transform that can be undone", format!("{rows:?}")))
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
    find(&[root.join(name), root.join("images").join(last), root.join(last)])
}

/// The first of `places` that is a file, as it is or with another ending; the first of them if none is.
fn find(places: &[PathBuf]) -> PathBuf {
    let candidates = |place: &PathBuf| {
        let known = place.extension().is_some_and(|ending| ENDINGS.iter().any(|e| ending.eq_ignore_ascii_case(e)));
        let stem = if known { place.with_extension("") } else { place.clone() };
        let with = |ending: &str| PathBuf::from(format!("{}.{ending}", stem.display()));
        let mut candidates = vec![place.clone()];
        candidates.extend(ENDINGS.map(with));
        candidates
    };
    let found = places.iter().flat_map(candidates).find(|path| path.is_file());
    found.or_else(|| places.first().cloned()).unwrap_or_default()
}

/// The mask of the image `file`: the one that its frame lists, or instant-ngp's, which lies beside it unlisted.
///
/// A listed mask is not looked for where images are: a photograph of its name would hide whatever is black in it. Only
/// for the absolute path of another machine there is another place, `root`/masks.
fn find_mask(root: &Path, file: &Path, listed: Option<&str>) -> Result<Option<MaskFile>> {
    if let Some(name) = listed.filter(|name| !name.is_empty()) {
        let name = clean(name);
        let absolute = name.starts_with('/') || name.as_bytes().get(1) == Some(&b':');
        let mut places = vec![root.join(&name)];
        places.extend(absolute.then(|| root.join("masks").join(file_name(&name))));
        let mask = find(&places);
        if same_file(&mask, file) {
            return Err(Error::config("mask_path", "another file than the image", name));
        }
        return Ok(Some(MaskFile::Keeps(mask)));
    }
    let Some(stem) = file.file_stem() else { return Ok(None) };
    let beside = file.with_file_name(format!("dynamic_mask_{}.png", stem.to_string_lossy()));
    Ok(beside.is_file().then_some(MaskFile::Hides(beside)))
}
