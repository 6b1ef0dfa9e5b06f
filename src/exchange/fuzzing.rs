//! The parsers of this room as functions of bytes, for `tests/fuzz`; there is no such module in an ordinary build.

use super::{model_pt, scene_ply};
use std::io::Cursor;
use std::path::Path;

/// A `scene.ply`: an error, or a scene that passes its own checks.
pub fn scene_ply(bytes: &[u8]) {
    if let Ok(scene) = scene_ply::parse(Path::new("fuzzed"), bytes) {
        assert!(scene.validate().is_ok());
    }
}

/// A `model.pt`, archive and all.
pub fn model_pt(bytes: &[u8]) {
    if let Ok(scene) = model_pt::read(Path::new("fuzzed"), Cursor::new(bytes)) {
        assert!(scene.validate().is_ok());
    }
}

/// The pickle of a `model.pt`, which a fuzzer would not find its way to through the checksums of an archive.
pub fn model_pickle(bytes: &[u8]) {
    let _ = model_pt::unpickle(Path::new("fuzzed"), bytes);
}
