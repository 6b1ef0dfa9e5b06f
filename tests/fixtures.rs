//! Are the files that other tools wrote read as another program reads them?

#[path = "common/folders.rs"]
mod folders;

use candle_radfoam::camera::Lens;
use candle_radfoam::data::{LoadOptions, Resize, list_views, load, recognise};
use candle_radfoam::exchange::read_point_cloud;
use folders::shared;

#[test]
fn fixtures_of_other_tools() {
    let Some(root) = shared("loader-fixtures") else { return };
    let load = |name: &str| load(root.join(name), &LoadOptions::default());

    // Intrinsics in the frames only, a start cloud, one image of several.
    let brush = load("json/brush").unwrap();
    println!("brush: {} views, {:?}", brush.train.len(), brush.skipped);
    assert_eq!(brush.train[0].camera.fx, 50.0);

    let cases = [
        ("json/trex-bad", "fl_y"),
        ("json/perso", "no such file"),
        ("json/food", "no such file"),
        ("json/fruit", "no such file"),
        ("json/cattoy", "no such file"),
        ("food-txt", "no such file"),
        ("statue-bin+txt", "no such file"),
        ("opencv-50", "no such file"),
        ("sceaux-colmap-bin", "no such file"),
        ("cattoy-78cams", "images.bin"),
        ("ply", "none of them"),
    ];
    let mut failures = Vec::new();
    for (name, expected) in cases {
        match load(name) {
            Ok(dataset) => failures.push(format!("{name}: loaded {} views", dataset.train.len())),
            Err(error) if !error.to_string().contains(expected) => failures.push(format!("{name}: {error}")),
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");

    assert_eq!(read_point_cloud(root.join("ply/points3D.ply")).unwrap().points.len(), 25784);
    assert_eq!(read_point_cloud(root.join("json/brush/init.ply")).unwrap().points.len(), 100);
    let error = read_point_cloud(root.join("ply/lfs-pointer.ply")).unwrap_err().to_string();
    assert!(error.contains("Git LFS"), "{error}");
}

/// What each file of transforms says, read by another program: cameras, and the pose of one view.
#[test]
fn fixtures_in_json() {
    let Some(root) = shared("loader-fixtures") else { return };
    struct Expected {
        path: &'static str,
        layout: &'static str,
        views: usize,
        name: &'static str,
        size: [u32; 2],
        intrinsics: [f64; 4],
        lens: [f64; 4],
        position: [f64; 3],
        forward: [f64; 3],
    }
    let cattoy = "/home/lijingwen/Projects/code/data/images";
    let expected = [
        Expected {
            path: "json/brush",
            layout: "transforms.json",
            views: 1,
            name: "train/r_0.png",
            size: [50, 50],
            intrinsics: [50.0, 50.0, 25.0, 25.0],
            lens: [0.0; 4],
            position: [-0.05379832163453102, 3.845470428466797, 1.2080823183059692],
            forward: [0.013345719315111637, -0.95394366979599, -0.29968830943107605],
        },
        Expected {
            path: "json/cattoy",
            layout: "transforms.json",
            views: 93,
            name: &format!("{cattoy}/1.jpeg").leak()[..],
            size: [1430, 1071],
            intrinsics: [1005.5420794547935, 1007.9013840044224, 715.0, 535.5],
            lens: [0.0; 4],
            position: [0.36828035135319664, 3.315365041431855, 2.6684000897576254],
            forward: [-0.06660652483468858, -0.7335391216917059, -0.6763755819037227],
        },
        Expected {
            path: "json/cattoy/images",
            layout: "transforms_train.json and transforms_test.json",
            views: 78,
            name: &format!("{cattoy}/11.png").leak()[..],
            size: [1440, 1080],
            intrinsics: [1053.2122302081673, 1053.2122302081673, 720.0, 540.0],
            lens: [-0.11486662699536629, 0.0, 0.0, 0.0],
            position: [1.6518881156120162, -1.6869487369561593, 3.322472594707288],
            forward: [-0.4023929244610439, 0.4242536712289253, -0.8112266987682033],
        },
        Expected {
            path: "json/food",
            layout: "transforms.json",
            views: 4,
            name: "images/0010.jpg",
            size: [1920, 1080],
            intrinsics: [3237.920802494066, 4047.5391562395735, 706.1406532815847, 775.8694874346173],
            lens: [-0.06465707341697229, 0.33334225150477836, -0.034586633003488354, -0.010843387094129525],
            position: [3.629891088338011, -1.5238160883558882, -0.2547309013923871],
            forward: [-0.9208346583662769, 0.38672468503237756, 0.05007544244433011],
        },
        Expected {
            path: "json/fruit",
            layout: "transforms.json",
            views: 81,
            name: "newfruit_small/IMG_3636.jpg",
            size: [605, 806],
            intrinsics: [627.7892920055245, 616.5045858981639, 318.7892546755043, 395.3261158329061],
            lens: [-0.002424982541550144, -0.021257945251103607, 0.011019473319143252, 0.009578062266784074],
            position: [1.7261286157331763, 2.563875415681642, 1.9640941767940983],
            forward: [-0.5480320873915556, -0.6649293949457517, -0.5074738722171593],
        },
        Expected {
            path: "json/perso",
            layout: "transforms.json",
            views: 302,
            name: "images/frame_00302.png",
            size: [1920, 1080],
            intrinsics: [1676.0808995417506, 1676.2155921512979, 961.425586425964, 530.8448837891121],
            lens: [0.08796112054957828, -0.18122490106802203, 0.0008874401497774508, -0.00017879014667705656],
            position: [2.884432798907426, 4.222620586661338, 1.6351505600272316],
            forward: [0.19638046794375386, -0.02733538149400573, 0.9801466669477427],
        },
    ];
    let mut failures = Vec::new();
    for e in &expected {
        let found = recognise(root.join(e.path)).unwrap();
        let own_split = e.path.ends_with("images");
        let layout = (found.layout.as_str(), found.num_views, found.num_points, found.has_split);
        if layout != (e.layout, e.views, 0, own_split) || !found.skipped.is_empty() {
            failures.push(format!("{}: {found:?}", e.path));
        }
        let (views, skipped) = list_views(root.join(e.path), Resize::None, None).unwrap();
        let camera = views.iter().find(|view| view.name == e.name).map(|view| view.camera).unwrap();
        let off = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let pose = camera.world_from_camera;
        let [k1, k2, p1, p2] = e.lens;
        let same = (views.len(), skipped.len(), [camera.width, camera.height]) == (e.views, 0, e.size)
            && off(&[camera.fx, camera.fy, camera.cx, camera.cy], &e.intrinsics) < 1e-9
            && camera.lens == Lens::open_cv(k1, k2, p1, p2)
            && off(&pose.position, &e.position) == 0.0
            // Rotations are made exactly orthonormal.
            && off(&pose.forward(), &e.forward) < 1e-6;
        if !same {
            failures.push(format!("{}: {} views, {camera:?}, {skipped:?}", e.path, views.len()));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    let error = recognise(root.join("json/trex-bad")).unwrap_err().to_string();
    for part in ["json/trex-bad/transforms.json", "fl_y", "466.744", "12692.47"] {
        assert!(error.contains(part), "{error}");
    }
    // What is listed at one size and stored at another keeps its field of view; brush's is listed as stored.
    let (views, _) = list_views(root.join("json/perso"), Resize::Downsample(4), None).unwrap();
    assert_eq!((views[0].camera.width, views[0].camera.fx), (480, 1676.0808995417506 / 4.0));
}
