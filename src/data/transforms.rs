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
/// What is not supported and would be wrong to ignore: instant-ngp's lenses that are none of these, its transparency of
/// a colour, and nerfstudio's circle around the middle of a fisheye's image.
const REFUSED: [&str; 7] = [
    "ftheta_p0",
    "latlong",
    "equirectangular",
    "orthographic",
    "white_transparent",
    "black_transparent",
    "fisheye_crop_radius",
];
/// nerfstudio's order of `distortion_params`.
const DISTORTION: [fn(&Lensed) -> Option<f64>; 6] = [|l| l.k1, |l| l.k2, |l| l.k3, |l| l.k4, |l| l.p1, |l| l.p2];
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
    distortion_params: Option<Vec<f64>>,
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
    train_filenames: Vec<String>,
    #[serde(default)]
    val_filenames: Vec<String>,
    #[serde(default)]
    test_filenames: Vec<String>,
    ftheta_p0: Option<serde_json::Value>,
    latlong: Option<serde_json::Value>,
    equirectangular: Option<serde_json::Value>,
    orthographic: Option<serde_json::Value>,
    white_transparent: Option<serde_json::Value>,
    black_transparent: Option<serde_json::Value>,
    fisheye_crop_radius: Option<serde_json::Value>,
    #[serde(flatten)]
    lensed: Lensed,
}

impl Lensed {
    /// The intrinsics of a frame: its own entries first, then those at the top of the file.
    fn intrinsics(frame: &Self, top: &Self) -> Result<Intrinsics> {
        let value = |get: fn(&Self) -> Option<f64>| get(frame).or_else(|| get(top));
        let model = frame.camera_model.as_deref().or(top.camera_model.as_deref());
        let model = model.unwrap_or("PERSPECTIVE").to_ascii_uppercase();
        let says_fisheye = frame.is_fisheye.or(top.is_fisheye) == Some(true);
        let is_fisheye = says_fisheye || FISHEYE.contains(&model.as_str());
        let known = [&PERSPECTIVE[..], &FISHEYE, &[SPHERE]].concat();
        if !known.contains(&model.as_str()) {
            return Err(Error::config("camera_model", known.join(", "), model));
        }
        if says_fisheye && (model.ends_with("PINHOLE") || model == SPHERE) {
            return Err(Error::config("camera_model", "one of a fisheye, as is_fisheye says", model));
        }
        let size = both(value(|l| l.w), value(|l| l.h));
        if let Some([w, h]) = size
            && !(w >= 1.0 && h >= 1.0 && w <= f64::from(u32::MAX) && h <= f64::from(u32::MAX))
        {
            return Err(Error::config("w, h", "a size in pixels", format!("{w}, {h}")));
        }
        let center = [value(|l| l.cx), value(|l| l.cy)];
        // A frame's angle beside the file's pixels would be half of each.
        let Self { fl_x: x, fl_y: y, camera_angle_x: angle, camera_angle_y: angle_y, .. } =
            *if frame.has_focal() { frame } else { top };
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
            (None, _, Some(x)) => Focal::Angles(x, angle_y),
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
        let (own, shared) = (frame.distortion()?, top.distortion()?);
        let [k1, k2, k3, k4, p1, p2] = [0, 1, 2, 3, 4, 5].map(|i| own[i].or(shared[i]).unwrap_or(0.0));
        let (radial, tangential) = ([k1, k2, k3, k4], [p1, p2]);
        let lens = if model.ends_with("PINHOLE") {
            Lens::Pinhole
        } else if is_fisheye {
            Lens::fisheye(radial, tangential)
        } else {
            Lens::brown(radial, tangential)
        };
        Ok(Intrinsics { size, focal, center, lens })
    }

    fn has_focal(&self) -> bool {
        self.fl_x.or(self.fl_y).or(self.camera_angle_x).or(self.camera_angle_y).is_some()
    }

    /// The coefficients by the order of [`DISTORTION`], of `distortion_params` if it is there.
    fn distortion(&self) -> Result<[Option<f64>; 6]> {
        match self.distortion_params.as_deref() {
            None => Ok(DISTORTION.map(|get| get(self))),
            Some(&[k1, k2, k3, k4, p1, p2]) => Ok([k1, k2, k3, k4, p1, p2].map(Some)),
            Some(other) => {
                let expected = "6 numbers: k1, k2, k3, k4, p1, p2";
                Err(Error::config("distortion_params", expected, other.len().to_string()))
            }
        }
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

/// The names that `transforms_test.json` in `root` lists, if there is such a file.
pub(super) fn test_names(root: &Path) -> Result<Option<BTreeSet<String>>> {
    let path = root.join("transforms_test.json");
    if !path.is_file() {
        return Ok(None);
    }
    Ok(Some(parse(&path)?.frames.into_iter().map(|frame| clean(&frame.file_path)).collect()))
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
    let Transforms { white_transparent, black_transparent, fisheye_crop_radius, .. } = &transforms;
    let lenses = [ftheta_p0, latlong, equirectangular, orthographic];
    let others = [white_transparent, black_transparent, fisheye_crop_radius];
    for (name, entry) in REFUSED.into_iter().zip(lenses.into_iter().chain(others)) {
        if let Some(entry) = entry.as_ref().filter(|entry| **entry != serde_json::Value::Bool(false)) {
            return Err(Error::file(path, name, "no such entry, which is not supported", entry.to_string()));
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
    // But a focal length may be missing there where frames have their own: a frame without is that frame's matter.
    let own = |frame: &Frame| frame.lensed.camera_model.is_some() || frame.lensed.has_focal();
    let mut frames = transforms.frames.iter();
    let only_in_frames = if transforms.lensed.has_focal() { frames.all(own) } else { frames.any(own) };
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
    split(path, &transforms, &mut capture)?;
    capture.applied_transform =
        applied(transforms.applied_transform.as_deref(), transforms.applied_scale).map_err(|e| in_file(path, e))?;
    Ok(capture)
}

/// Splits `capture` as nerfstudio's lists in `transforms` say. As with the files of three splits, test is held out if
/// it is there, and val is left out then; with a list of train, so is what no list names.
fn split(path: &Path, transforms: &Transforms, capture: &mut Capture) -> Result<()> {
    let known: BTreeSet<String> = transforms.frames.iter().map(|frame| clean(&frame.file_path)).collect();
    let set = |field: &str, names: &[String]| -> Result<Option<BTreeSet<String>>> {
        let names: BTreeSet<String> = names.iter().map(|name| clean(name)).collect();
        match names.difference(&known).next() {
            Some(name) => Err(Error::file(path, field, "the file_path of a frame", name.clone())),
            None => Ok((!names.is_empty()).then_some(names)),
        }
    };
    let train = set("train_filenames", &transforms.train_filenames)?;
    let val = set("val_filenames", &transforms.val_filenames)?;
    let test = set("test_filenames", &transforms.test_filenames)?;
    let (held_out, unused) = if test.is_some() { (test, val) } else { (val, None) };
    let lists = |set: &Option<BTreeSet<String>>, name: &str| set.as_ref().is_some_and(|set| set.contains(name));
    let uses = |name: &str| {
        let listed = lists(&train, name) || lists(&held_out, name);
        listed || (train.is_none() && !lists(&unused, name))
    };
    let (used, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut capture.listed).into_iter().partition(|v| uses(&v.name));
    capture.listed = used;
    let reason = "neither in train_filenames nor held out";
    capture.skipped.extend(rest.into_iter().map(|view| Skipped { name: view.name, reason: reason.into() }));
    capture.test = held_out;
    Ok(())
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
