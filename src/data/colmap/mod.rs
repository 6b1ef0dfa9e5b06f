//! COLMAP's reconstructions, binary (`cameras.bin`, `images.bin`, `points3D.bin`) and text (`.txt`); camera models:
//! `src/colmap/sensor/models.h`.
//!
//! Since version 3.12 there are `rigs` and `frames` beside them, which say how cameras are mounted together. They are
//! not read: `images` still holds the pose of every image in the world, as its rig and frame give it.

pub(super) mod binary;
pub(super) mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::capture::{Capture, Focal, Format, Intrinsics, Listed, same_file};
use super::dataset::Skipped;
use super::mask::MaskFile;
use crate::camera::{Camera, Lens, Pose};
use crate::exchange::{PointCloud, describe, is_lfs_pointer};
use crate::{Error, Result};

/// Names of COLMAP's camera models, by their id.
const MODELS: [&str; 18] = [
    "SIMPLE_PINHOLE",
    "PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "OPENCV_FISHEYE",
    "FULL_OPENCV",
    "FOV",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
    "THIN_PRISM_FISHEYE",
    "RAD_TAN_THIN_PRISM_FISHEYE",
    "SIMPLE_DIVISION",
    "DIVISION",
    "SIMPLE_FISHEYE",
    "FISHEYE",
    "EUCM",
    "EQUIRECTANGULAR",
];
const SUPPORTED: &str = "SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV, OPENCV_FISHEYE, FULL_OPENCV, \
    SIMPLE_RADIAL_FISHEYE, RADIAL_FISHEYE or THIN_PRISM_FISHEYE";

/// Where a reconstruction may lie in a capture, the usual place first.
const FOLDERS: [&str; 3] = ["sparse/0", "sparse", "."];
/// The two kinds of files, the exact one first.
const ENDINGS: [&str; 2] = ["bin", "txt"];
/// Files of captures of other kinds.
const OTHERS: [&str; 3] = ["transforms_train.json", "transforms.json", "poses_bounds.npy"];
/// What is appended to the names of the folders of images and masks, the largest size first.
const SIZES: [&str; 4] = ["", "_2", "_4", "_8"];

/// A camera model, and the number of its parameters.
type Model = (&'static str, usize);

/// An image as the reconstruction lists it.
#[derive(Debug, PartialEq)]
pub(super) struct Image {
    pub id: u32,
    pub camera: u32,
    /// The path below the folder of images, in the bytes that the file has.
    pub name: Vec<u8>,
    pub pose: Pose,
}

/// A point as the reconstruction lists it: id, position, colour, length of the track.
pub(super) type Point = (u64, [f64; 3], [u8; 3], u32);

/// The cameras by their id.
pub(super) type Cameras = BTreeMap<u32, Intrinsics>;

/// Whether anything has that name: a folder or a link that leads nowhere is for the reader to complain about.
fn present(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn file(folder: &Path, name: &str, ending: &str) -> PathBuf {
    folder.join(format!("{name}.{ending}"))
}

/// The ending of the reconstruction's files in `folder`: of cameras and images, or else of whichever is there.
fn ending(folder: &Path) -> Option<&'static str> {
    whole(folder).or_else(|| ENDINGS.into_iter().find(|ending| present(&file(folder, "cameras", ending))))
}

/// The ending of the cameras and the images in `folder`, if it holds both.
fn whole(folder: &Path) -> Option<&'static str> {
    let holds = |name: &str, ending: &str| present(&file(folder, name, ending));
    ENDINGS.into_iter().find(|ending| holds("cameras", ending) && holds("images", ending))
}

/// The folder of `root` that holds a reconstruction: cameras and images, or if there is no capture of another kind,
/// cameras alone, of which the reader says what they lack.
pub(super) fn find(root: &Path) -> Result<Option<&'static str>> {
    let first = |holds: fn(&Path) -> Option<&'static str>| {
        FOLDERS.into_iter().find(|folder| holds(&root.join(folder)).is_some())
    };
    let other = OTHERS.into_iter().any(|name| root.join(name).is_file());
    Ok(first(whole).or_else(|| first(ending).filter(|_| !other)))
}

/// Reads the reconstruction in `root`/`folder`, binary if it is there in both kinds.
///
/// Images are looked for in `root`/images, or if there is no such folder in images_2, _4 or _8, or in `root`; masks
/// likewise in masks or masks_2, _4, _8, as `NAME.png` or with the ending replaced by `png`. Of several images of one
/// name the first counts.
///
/// # Errors
///
/// If a file is broken, or a camera model is not supported.
pub(super) fn read(root: &Path, folder: &str) -> Result<Capture> {
    let model = root.join(folder);
    let ending = ending(&model).unwrap_or(ENDINGS[0]);
    let text = ending == "txt";
    let path = |name: &str| file(&model, name, ending);

    let at = path("cameras");
    let cameras = if text { text::cameras(&at, &bytes(&at)?) } else { binary::cameras(&at, &bytes(&at)?) }?;
    let at = path("images");
    let images = if text { text::images(&at, &bytes(&at)?) } else { binary::images(&at, &bytes(&at)?) }?;
    let size = SIZES.into_iter().find(|size| root.join(format!("images{size}")).is_dir());
    let (listed, skipped) = list(&at, root, size.unwrap_or_default(), &cameras, images)?;
    let at = path("points3D");
    let cloud = match present(&at) {
        true if text => Some(cloud(text::points(&at, &bytes(&at)?)?)),
        true => Some(cloud(binary::points(&at, &bytes(&at)?)?)),
        false => None,
    };
    let mut layout = format!("COLMAP ({folder}, {} camera{}", cameras.len(), if cameras.len() == 1 { "" } else { "s" });
    if text {
        layout += ", text";
    }
    if let Some(size) = size.filter(|size| !size.is_empty()) {
        layout += &format!(", images{size}");
    }
    Ok(Capture { format: Format::Colmap, layout: layout + ")", listed, cloud, skipped, ..Capture::default() })
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    if is_lfs_pointer(&bytes) {
        return Err(Error::file(path, "contents", "a file of a COLMAP reconstruction", describe(&bytes)));
    }
    Ok(bytes)
}

/// The points in the order of their ids: COLMAP writes them in the order of a hash table, another one in each file.
fn cloud(mut points: Vec<Point>) -> PointCloud {
    points.sort_by_key(|&(id, ..)| id);
    PointCloud {
        points: points.iter().map(|&(_, position, ..)| position).collect(),
        colors: Some(points.iter().map(|&(_, _, color, _)| color).collect()),
        tracks: Some(points.iter().map(|&(.., track)| track).collect()),
    }
}

/// The views of a reconstruction, those after the first of one name as skipped.
fn list(
    path: &Path,
    root: &Path,
    size: &str,
    cameras: &Cameras,
    images: Vec<Image>,
) -> Result<(Vec<Listed>, Vec<Skipped>)> {
    let mut ids: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let (mut listed, mut skipped) = (Vec::with_capacity(images.len()), Vec::new());
    for Image { id, camera, name: raw, pose } in images {
        let Some(&intrinsics) = cameras.get(&camera) else {
            let expected = format!("one of the {} cameras of the reconstruction", cameras.len());
            return Err(Error::file(path, format!("image {id}: camera id"), expected, camera.to_string()));
        };
        // Names that are not UTF-8 are told by their bytes, which keeps different ones apart.
        let name = String::from_utf8(raw.clone()).unwrap_or_else(|_| raw.escape_ascii().to_string());
        if let Some(first) = ids.get(&raw) {
            skipped.push(Skipped { name, reason: format!("image {id} has the name of image {first}") });
            continue;
        }
        let relative = relative(&raw);
        let places = [root.join(format!("images{size}")).join(&relative), root.join(&relative)];
        let file = places.iter().find(|place| place.is_file()).unwrap_or(&places[0]).clone();
        // An absolute name would lead out of the folder of masks, to the image itself.
        let last = relative.file_name().filter(|_| relative.has_root()).map(PathBuf::from);
        let relative = last.unwrap_or(relative);
        let mut whole = relative.clone().into_os_string();
        whole.push(".png");
        let folders = [root.join(format!("masks{size}")), root.join("masks")];
        let named = |folder: &PathBuf| [folder.join(&whole), folder.join(relative.with_extension("png"))];
        let mask = folders.iter().flat_map(named).find(|place| place.is_file() && !same_file(place, &file));
        ids.insert(raw, id);
        let mask = mask.map(MaskFile::Keeps);
        listed.push(Listed { name, file, mask, intrinsics, pose });
    }
    Ok((listed, skipped))
}

/// A name as the system wants it. Where names are bytes, they stay the bytes that COLMAP read from the folder.
fn relative(name: &[u8]) -> PathBuf {
    #[cfg(unix)]
    let path = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
    #[cfg(not(unix))]
    let path = PathBuf::from(String::from_utf8_lossy(name).into_owned());
    path
}

/// The model of that name, if it is supported.
fn model(name: &str) -> Option<Model> {
    let count = match name {
        "SIMPLE_PINHOLE" => 3,
        "PINHOLE" | "SIMPLE_RADIAL" | "SIMPLE_RADIAL_FISHEYE" => 4,
        "RADIAL" | "RADIAL_FISHEYE" => 5,
        "OPENCV" | "OPENCV_FISHEYE" => 8,
        "FULL_OPENCV" | "THIN_PRISM_FISHEYE" => 12,
        _ => return None,
    };
    MODELS.into_iter().find(|&known| known == name).map(|name| (name, count))
}

/// The intrinsics of camera `id` of the file `path`: the size and the parameters of its model.
fn intrinsics(path: &Path, id: u32, (name, count): Model, size: [u64; 2], parameters: &[f64]) -> Result<Intrinsics> {
    let refuse = |field: &str, expected: String, found: String| {
        Err(Error::file(path, format!("camera {id}: {field}"), expected, found))
    };
    if parameters.len() != count {
        return refuse("parameters", format!("{count} for {name}"), parameters.len().to_string());
    }
    let [Ok(width), Ok(height)] = size.map(u32::try_from) else {
        let [width, height] = size;
        return refuse("size", format!("sides of at most {} pixels", u32::MAX), format!("{width}x{height}"));
    };
    // The models with one focal length, and the others.
    let (focal, rest) = match (name, parameters) {
        ("PINHOLE" | "OPENCV" | "OPENCV_FISHEYE" | "FULL_OPENCV" | "THIN_PRISM_FISHEYE", &[x, y, ref rest @ ..]) => {
            ([x, y], rest)
        }
        (_, &[both, ref rest @ ..]) => ([both; 2], rest),
        (_, []) => return refuse("parameters", format!("{count} for {name}"), "none".into()),
    };
    let (center, k) = rest.split_at(2);
    let k = |index: usize| k.get(index).copied().unwrap_or(0.0);
    let lens = match name {
        "SIMPLE_RADIAL_FISHEYE" | "RADIAL_FISHEYE" | "OPENCV_FISHEYE" => {
            Lens::fisheye([k(0), k(1), k(2), k(3)], [0.0; 2])
        }
        "FULL_OPENCV" => {
            let (k1, k2, p1, p2, k3, k4, k5, k6) = (k(0), k(1), k(2), k(3), k(4), k(5), k(6), k(7));
            Lens::FullOpenCv { k1, k2, p1, p2, k3, k4, k5, k6 }
        }
        "THIN_PRISM_FISHEYE" => {
            let (k1, k2, p1, p2, k3, k4, sx1, sy1) = (k(0), k(1), k(2), k(3), k(4), k(5), k(6), k(7));
            Lens::ThinPrismFisheye { k1, k2, p1, p2, k3, k4, sx1, sy1 }
        }
        _ => Lens::open_cv(k(0), k(1), k(2), k(3)),
    };
    let ([fx, fy], center) = (focal, [center[0], center[1]]);
    let world_from_camera = Pose::IDENTITY;
    let camera = Camera { width, height, fx, fy, cx: center[0], cy: center[1], lens, world_from_camera };
    camera.check().map_err(|error| match error {
        Error::Config { field, expected, found } => Error::file(path, format!("camera {id}: {field}"), expected, found),
        other => other,
    })?;
    let size = [f64::from(width), f64::from(height)];
    Ok(Intrinsics { size: Some(size), focal: Focal::Pixels(focal), center: center.map(Some), lens })
}

/// Enters a camera, the only one of its `id`.
fn insert(path: &Path, cameras: &mut Cameras, id: u32, intrinsics: Intrinsics) -> Result<()> {
    match cameras.insert(id, intrinsics) {
        None => Ok(()),
        Some(_) => Err(Error::file(path, format!("camera {id}: id"), "one camera of it", "a second one")),
    }
}

fn unsupported(path: &Path, id: u32, found: &str) -> Error {
    Error::file(path, format!("camera {id}: model"), SUPPORTED, found)
}

/// An image as its fields say it.
fn image(path: &Path, id: u32, quaternion: [f64; 4], translation: [f64; 3], camera: u32, name: &[u8]) -> Result<Image> {
    if name.is_empty() {
        return Err(Error::file(path, format!("image {id}: name"), "the name of a file", "none"));
    }
    let pose = Pose::from_colmap(quaternion, translation);
    let pose = pose.map_err(|e| Error::file(path, format!("image {id}: pose"), "a rigid pose", e.to_string()))?;
    Ok(Image { id, camera, name: name.to_vec(), pose })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{MaskFile, read};

    #[test]
    fn masks_lie_beside_the_images() {
        // Where the mask of `left/a.jpg` may lie, the best place first, and whether images are in `images_2`.
        let places = ["masks/left/a.jpg.png", "masks/left/a.png"];
        let smaller = ["masks_2/left/a.jpg.png", "masks_2/left/a.png", "masks/left/a.jpg.png", "masks/left/a.png"];
        for (images, places) in [("images", &places[..]), ("images_2", &smaller[..])] {
            let folder = tempfile::tempdir().unwrap();
            let write = |name: &str, text: &str| {
                let path = folder.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            };
            write("cameras.txt", "1 PINHOLE 8 6 7 7 4 3\n");
            write("images.txt", "1 1 0 0 0 0 0 0 1 left/a.jpg\n\n");
            write(&format!("{images}/left/a.jpg"), "");
            let mask = || read(folder.path(), ".").unwrap().listed[0].mask.clone();
            assert_eq!(mask(), None);
            for place in places.iter().rev() {
                write(place, "");
                assert_eq!(mask(), Some(MaskFile::Keeps(folder.path().join(place))));
            }
        }
    }
}
