//! The numbers of models of other people, as another reader says them.

use std::fs;
use std::path::{Path, PathBuf};

use candle_radfoam::camera::Lens;
use candle_radfoam::data::{Dataset, LoadOptions, load};

use super::model::{Model, POSE, close, read, views};

fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("RADFOAM_DATA").map(PathBuf::from);
    let root = root.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data").into());
    let path = root.join(name);
    if !path.exists() {
        println!("skipped: no {name} in {}", root.display());
    }
    path.exists().then_some(path)
}

type Vector = [f64; 3];

/// Position, colour and length of the track.
type Point = (Vector, [u8; 3], u32);

/// What a reconstruction holds, as another reader says it.
struct Known {
    name: &'static str,
    /// Number of cameras; size, focal length and first coefficient of the first and the last image's.
    cameras: (usize, u32, u32, [f64; 2], [f64; 2]),
    /// Names of the first and the last image, their positions and axes.
    images: (usize, [&'static str; 2], [Vector; 2], [Vector; 2]),
    /// Number of points; the first and the last one with its colour and track; bounds; sum of tracks.
    points: (usize, [Point; 2], [Vector; 2], u32),
    /// A size of images with the aspect of the camera's.
    thumbnail: (u32, u32),
    tolerance: f64,
}

fn known() -> Vec<Known> {
    let statue = |tolerance| Known {
        name: "statue-bin+txt",
        cameras: (1, 800, 1200, [2395.646389027504, -0.6841223679480687], [2395.646389027504, -0.6841223679480687]),
        images: (
            40,
            ["14268549464_8c6bd2338d_o.jpg", "90772798_17c2fd261e_o.jpg"],
            [
                [2.484210926929696, -1.1433492078666974, 3.1025305241403833],
                [-2.0458162769871406, 0.42891177095977223, -0.686546514801921],
            ],
            [
                [-0.8417616966734216, 0.17062094206102796, 0.5121774498586307],
                [0.011690431270150953, -0.02826417847504049, 0.9995321255626799],
            ],
        ),
        points: (
            1816,
            [
                ([-2.0684424673345196, -0.031047747206176934, 5.351369723754061], [19, 67, 49], 5),
                ([-1.7878194753770236, 0.4297265711708551, 5.008526048687657], [118, 152, 146], 25),
            ],
            [
                [-4.021650846262611, -1.5293116260370179, 3.5961318779151736],
                [0.16328069738798445, 2.04440000599295, 10.927801987952025],
            ],
            7760,
        ),
        thumbnail: (2, 3),
        tolerance,
    };
    let sceaux = |name, tolerance| Known {
        name,
        cameras: (
            1,
            2832,
            2128,
            [2971.7121131949616, -0.16422363658183442],
            [2971.7121131949616, -0.16422363658183442],
        ),
        images: (
            11,
            ["100_7100.JPG", "100_7110.JPG"],
            [
                [-6.56885841219482, 0.1025642989828277, 0.25979749837445154],
                [4.021721463905401, 0.9753689874419817, 4.94316177780852],
            ],
            [
                [0.3108156760236677, -0.03484966932268972, 0.9498310987149503],
                [-0.6881744651210115, 0.02762701237856649, 0.7250190712956757],
            ],
        ),
        points: (
            7862,
            [
                ([-3.3731808500679317, -2.381388901875243, 12.007178687782025], [66, 61, 81], 8),
                ([1.0916492034213687, 1.5592121410567121, 9.56530909635586], [66, 61, 42], 11),
            ],
            [
                [-13.80498546341833, -3.37910890723855, 1.7035537870141966],
                [2.846336401358949, 9.501577087997198, 60.647532447982606],
            ],
            37123,
        ),
        thumbnail: (4, 3),
        tolerance,
    };
    vec![
        statue(1e-9),
        sceaux("sceaux-colmap-bin", 1e-9),
        // Six digits of numbers up to 60 and 3000.
        sceaux("sceaux-colmap-txt", 1e-4),
        Known {
            name: "opencv-50",
            cameras: (
                1,
                640,
                480,
                [525.3451117901204, 0.014458866008202715],
                [525.3451117901204, 0.014458866008202715],
            ),
            images: (
                50,
                ["0.306.png", "9.907.png"],
                [
                    [4.152387845804218, -1.1198622788853467, -1.0124230291378655],
                    [-5.613157089534624, 0.7912502927542826, 2.4985980539956527],
                ],
                [
                    [0.024408907280787054, -0.02373827141669614, 0.9994201817631587],
                    [0.7009407139105278, 0.14036378888351234, 0.6992711365077671],
                ],
            ),
            points: (
                5255,
                [
                    ([0.19282690941516462, -1.220578010795309, 9.760929256438919], [255, 255, 255], 19),
                    ([0.2827852253285522, 5.567226505410202, 12.14248072220568], [166, 163, 161], 10),
                ],
                [
                    [-5.055278710587031, -18.849977974013978, 0.9184959934055874],
                    [16.749153580968564, 9.35630242771643, 50.31373281500311],
                ],
                55090,
            ),
            thumbnail: (4, 3),
            tolerance: 1e-9,
        },
        Known {
            name: "maupertuis-txt/reconstruction",
            cameras: (1, 1919, 1079, [1847.53, 0.0], [1847.53, 0.0]),
            images: (
                4,
                ["00.jpg", "03.jpg"],
                [
                    [-3.4532960594898614, 2.278669037092447, 0.30831100949460594],
                    [9.64359623575288, -2.7098883870860497, 2.6617560205077115],
                ],
                [
                    [0.07689134731703284, 0.001689091211446007, 0.9970380472573004],
                    [-0.5846866313148392, 0.2783531854344473, 0.7620111858235424],
                ],
            ),
            points: (
                1039,
                [([-4.77071, -7.81788, 35.4377], [77, 87, 50], 2), ([-1.7166, -0.00194674, 15.1182], [0, 0, 0], 2)],
                [[-18.081, -7.95712, 12.6197], [8.02396, 7.86448, 35.4377]],
                3355,
            ),
            thumbnail: (16, 9),
            tolerance: 1e-9,
        },
        Known {
            name: "food-txt",
            cameras: (
                1,
                1920,
                1080,
                [3237.920802494066, -0.06465707341697229],
                [3237.920802494066, -0.06465707341697229],
            ),
            images: (
                4,
                ["0004.jpg", "0010.jpg"],
                [
                    [5.104620067100978, 0.07956538568569753, -0.4679211041040755],
                    [-5.975607344158276, 0.3709480219007821, 0.8674801783828043],
                ],
                [
                    [-0.18115500121539804, -0.035460723655968876, 0.9828150398790426],
                    [0.3312469777028196, -0.018922975073659656, 0.9433543134883676],
                ],
            ),
            points: (
                1925,
                [
                    ([1.7229600552250148, -2.406924084166883, 21.471428643037044], [206, 193, 146], 3),
                    ([6.088112231869747, -2.555868397748356, 21.39634725217705], [205, 179, 118], 2),
                ],
                [
                    [-5.151550971257316, -4.757789089427816, 10.799030644748655],
                    [10.23972471132394, 1.8720178457697771, 29.97984598991374],
                ],
                5143,
            ),
            thumbnail: (16, 9),
            tolerance: 1e-9,
        },
    ]
}

/// The reconstruction `from`, only its files of that ending if one is given, with images of the size `thumbnail`.
fn with_thumbnails(from: &Path, ending: Option<&str>, (width, height): (u32, u32)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let sparse = folder.path().join("sparse");
    fs::create_dir(&sparse).unwrap();
    for file in fs::read_dir(from).unwrap().map(|file| file.unwrap().path()) {
        if ending.is_none_or(|ending| file.extension().is_some_and(|found| found == ending)) {
            fs::write(sparse.join(file.file_name().unwrap()), fs::read(&file).unwrap()).unwrap();
        }
    }
    for view in views(folder.path()).unwrap().0 {
        let path = folder.path().join("images").join(&view.name);
        // PNG, whatever the name says: it is the contents that count.
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::new(width, height).save_with_format(path, image::ImageFormat::Png).unwrap();
    }
    folder
}

fn lens_k1(lens: Lens) -> f64 {
    match lens {
        Lens::Pinhole => 0.0,
        Lens::OpenCv { k1, .. } => k1,
        other => panic!("{other:?}"),
    }
}

#[test]
fn numbers_of_the_models_of_other_people() {
    let mut failures = Vec::new();
    for known in known() {
        let Some(path) = shared("loader-fixtures").map(|root| root.join(known.name)) else { return };
        let (name, tolerance) = (known.name, known.tolerance);
        let (mut views, skipped) = views(&path).unwrap();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        let ends = [&views[0], &views[views.len() - 1]];
        let mut check = |what: &str, right: bool| {
            if !right {
                failures.push(format!("{name}: {what}"));
            }
        };
        let (_, width, height, first, last) = known.cameras;
        for (view, [focal, k1]) in ends.iter().zip([first, last]) {
            let camera = view.camera;
            check("size", (camera.width, camera.height) == (width, height));
            check("focal length", (camera.fx - focal).abs() <= tolerance.max(1e-9) * 1e3);
            check("k1", (lens_k1(camera.lens) - k1).abs() <= tolerance);
        }
        let (count, names, centers, axes) = known.images;
        check("number of images", views.len() == count && skipped.is_empty());
        for i in 0..2 {
            let pose = ends[i].camera.world_from_camera;
            check("name", ends[i].name == names[i]);
            check("position", close(pose.position, centers[i], tolerance));
            check("axis", close(pose.forward(), axes[i], tolerance));
        }

        let folder = with_thumbnails(&path, None, known.thumbnail);
        let dataset = load(folder.path(), &LoadOptions::default()).unwrap();
        check("views", dataset.train.len() + dataset.test.len() == count && dataset.skipped.is_empty());
        let (cameras, ..) = known.cameras;
        check("number of cameras", dataset.layout.contains(&format!("{cameras} camera")));
        let cloud = dataset.point_cloud.as_ref().unwrap();
        let world: Vec<_> = cloud.points.iter().map(|&point| dataset.normalization.invert(point)).collect();
        let (count, ends, bounds, observations) = known.points;
        check("number of points", world.len() == count);
        for (index, (position, color, track)) in [0, world.len() - 1].into_iter().zip(ends) {
            check("point", close(world[index], position, tolerance));
            check("colour", cloud.colors.as_ref().unwrap()[index] == color);
            check("track", cloud.tracks.as_ref().unwrap()[index] == track);
        }
        let fold =
            |start: f64, f: fn(f64, f64) -> f64| [0, 1, 2].map(|i| world.iter().map(|point| point[i]).fold(start, f));
        check("least", close(fold(f64::MAX, f64::min), bounds[0], tolerance.max(1e-9) * 10.0));
        check("most", close(fold(f64::MIN, f64::max), bounds[1], tolerance.max(1e-9) * 10.0));
        check("observations", cloud.tracks.as_ref().unwrap().iter().sum::<u32>() == observations);
        println!("{name}: {}, {} points", dataset.layout, world.len());
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The largest difference of positions in two captures, in normalised units, and of relative focal lengths.
fn differences(a: &Dataset, b: &Dataset) -> [f64; 2] {
    let distance = |a: [f64; 3], b: [f64; 3]| (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt();
    let views = a.train.iter().chain(&a.test).zip(b.train.iter().chain(&b.test));
    let mut worst = [0.0_f64; 2];
    for (a, b) in views {
        assert_eq!(a.name, b.name);
        let place = distance(a.camera.world_from_camera.position, b.camera.world_from_camera.position);
        worst[0] = worst[0]
            .max(place)
            .max(distance(a.camera.world_from_camera.forward(), b.camera.world_from_camera.forward()));
        worst[1] = worst[1].max((a.camera.fx / b.camera.fx - 1.0).abs());
    }
    let [points, others] = [a, b].map(|dataset| dataset.point_cloud.as_ref().unwrap());
    assert_eq!((&points.colors, &points.tracks), (&others.colors, &others.tracks));
    for (&a, &b) in points.points.iter().zip(&others.points) {
        worst[0] = worst[0].max(distance(a, b));
    }
    worst
}

#[test]
fn binary_and_text_are_the_same_capture() {
    let Some(root) = shared("loader-fixtures") else { return };
    let pairs = [
        [("statue-bin+txt", "bin"), ("statue-bin+txt", "txt")],
        [("sceaux-colmap-bin", "bin"), ("sceaux-colmap-txt", "txt")],
    ];
    for (pair, thumbnail) in pairs.into_iter().zip([(2, 3), (4, 3)]) {
        let [binary, text] = pair.map(|(name, ending)| {
            let folder = with_thumbnails(&root.join(name), Some(ending), thumbnail);
            load(folder.path(), &LoadOptions::default()).unwrap()
        });
        assert!(text.layout.contains("text") && !binary.layout.contains("text"));
        assert_eq!((binary.train.len(), binary.test.len()), (text.train.len(), text.test.len()));
        let [place, focal] = differences(&binary, &text);
        println!("{}: {place:e}, {focal:e}", pair[0].0);
        // The text has six digits.
        assert!(place < 2e-5 && focal < 2e-6, "{}: {place}, {focal}", pair[0].0);
    }
}

#[test]
fn cameras_alone() {
    let Some(root) = shared("loader-fixtures") else { return };
    // Without their images these models are refused; with one image for each camera they are read.
    let cases = [
        (
            "cattoy-78cams",
            "bin",
            78,
            (1440, 1080),
            [982.0027373948917, 1053.2122302081673],
            [-0.07178733317851738, -0.11486662699536629],
        ),
        ("simple-pinhole-77", "bin", 77, (800, 600), [589.0271238562469, 603.6147652689057], [0.0; 2]),
        ("sceaux-notshared-cameras", "txt", 11, (2832, 2128), [2986.17, 2953.11], [-0.177315, -0.132766]),
    ];
    for (name, ending, count, size, focal, k1) in cases {
        let error = views(&root.join(name)).unwrap_err().to_string();
        assert!(error.contains(&format!("images.{ending}")), "{name}: {error}");
        let bytes = fs::read(root.join(name).join(format!("cameras.{ending}"))).unwrap();
        let ids: Vec<u32> = (0..200).collect();
        let read_with = |ids: &[u32]| {
            let image = |&id: &u32| (id, POSE, id, format!("{id:04}.png").into_bytes(), 0);
            let model = Model { cameras: vec![], images: ids.iter().map(image).collect(), points: vec![] };
            let [_, images, points] = if ending == "bin" { model.binary() } else { model.text() };
            read(ending, &[bytes.clone(), images, points])
        };
        let known: Vec<u32> = ids.into_iter().filter(|&id| read_with(&[id]).is_ok()).collect();
        let views = read_with(&known).unwrap().0;
        assert_eq!(views.len(), count, "{name}");
        for (view, (focal, k1)) in [&views[0], &views[count - 1]].into_iter().zip(focal.into_iter().zip(k1)) {
            assert_eq!((view.camera.width, view.camera.height), size, "{name}");
            assert_eq!((view.camera.fx, lens_k1(view.camera.lens)), (focal, k1), "{name}");
        }
    }
}
