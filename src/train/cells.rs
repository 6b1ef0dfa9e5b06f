//! The cells as a step walks through them on the host, and where its rays start.

use rayon::prelude::*;

use super::Trainer;
use crate::camera::Camera;
use crate::data::{Batch, Dataset, View};
use crate::foam::Foam;
use crate::ops::fused::Faces;

impl Trainer {
    /// The cell that holds each ray's origin: one search per view of the batch, from where its camera was when the
    /// cells were triangulated.
    pub(super) fn start_cells(&self, batch: &Batch) -> Vec<u32> {
        let mut views = batch.views.clone();
        views.sort_unstable();
        views.dedup();
        let cameras = self.loader.pixels().cameras();
        let mut cell_of_view = self.built_cells.clone();
        let found: Vec<u32> = views
            .par_iter()
            .map(|&view| {
                let (camera, hint) = (&cameras[view as usize], self.built_cells[view as usize]);
                self.foam.topology().cell_at(&self.faces.sites, position_f32(camera), hint)
            })
            .collect();
        for (view, cell) in views.into_iter().zip(found) {
            cell_of_view[view as usize] = cell;
        }
        batch.views.iter().map(|&view| cell_of_view[view as usize]).collect()
    }
}

/// Room for the faces of a foam's present adjacency.
pub(super) fn new_faces(foam: &Foam) -> Faces<f32> {
    let adjacency = foam.topology().adjacency();
    Faces::new(&adjacency.offsets, &adjacency.neighbors)
}

/// The cell of each training camera when the cells were triangulated, in the order of the views.
pub(super) fn built_cells(foam: &Foam, dataset: &Dataset) -> Vec<u32> {
    let topology = foam.topology();
    let mut hint = 0;
    let mut cell_of = |view: &View| {
        hint = topology.cell_at(topology.built_at(), position_f32(&view.camera), hint);
        hint
    };
    dataset.train.iter().map(&mut cell_of).collect()
}

pub(super) fn position_f32(camera: &Camera) -> [f32; 3] {
    camera.world_from_camera.position.map(|x| x as f32)
}
