//! Images of a foam.

use super::{Foam, with_values};
use crate::Result;
use crate::camera::Camera;
use crate::ops::TraceSettings;
use crate::ops::fused::{self, Faces, PACKED_HEAD, Rays, Scene};
use rayon::prelude::*;

/// An image of a foam, row by row from the top left.
#[derive(Debug, Clone)]
pub struct Rendering {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `[H W]`: colour over the background, not clamped.
    pub rgb: Vec<[f32; 3]>,
    /// `[H W]`: opacity.
    pub opacity: Vec<f32>,
    /// `[H W]`: distance along the ray at which half of the light is absorbed, scene units; -1 where it never is.
    pub depth: Vec<f32>,
    /// Cells entered, over all rays.
    pub cells_entered: u64,
}

/// The transmittance at which a rendering's depth is taken: the median.
const DEPTH_QUANTILE: f32 = 0.5;

/// A foam prepared for many images.
#[derive(Debug)]
pub struct Renderer<'a> {
    foam: &'a Foam,
    faces: Faces<f32>,
    sites: Vec<[f32; 3]>,
}

impl Foam {
    /// Prepares the foam for rendering: its faces are laid out once for all images.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn renderer(&self) -> Result<Renderer<'_>> {
        let adjacency = self.topology.adjacency();
        let mut faces = Faces::new(&adjacency.offsets, &adjacency.neighbors);
        self.refresh(&mut faces)?;
        Ok(Renderer { foam: self, faces, sites: self.sites()? })
    }

    /// Moves `faces` to where the cells are now; returns the derivative of density by raw density.
    pub(crate) fn refresh(&self, faces: &mut Faces<f32>) -> Result<Vec<f32>> {
        let (density, derivative) = self.density_host()?;
        with_values(&self.points, |points: &[f32]| faces.refresh(points, &density, self.topology.sentinels()))?;
        Ok(derivative)
    }
}

impl Renderer<'_> {
    /// Renders what `camera` sees over `background`. Pixels outside the valid field of its lens are background.
    ///
    /// # Errors
    ///
    /// A setting out of range; those of Candle.
    pub fn render(&self, camera: &Camera, background: [f32; 3], settings: &TraceSettings) -> Result<Rendering> {
        settings.validate()?;
        let (width, height) = (camera.width, camera.height);
        let num_pixels = width as usize * height as usize;
        let rays: Vec<Option<crate::camera::Ray>> = (0..num_pixels)
            .into_par_iter()
            .with_min_len(1024)
            .map(|i| camera.ray((i % width as usize) as u32, (i / width as usize) as u32))
            .collect();
        let start = self.foam.topology.cell_at(&self.sites, camera.world_from_camera.position.map(|x| x as f32), 0);
        let valid: Vec<usize> = (0..num_pixels).filter(|&i| rays[i].is_some()).collect();
        let origins: Vec<f32> = rays.iter().flatten().flat_map(|ray| ray.origin).collect();
        let directions: Vec<f32> = rays.iter().flatten().flat_map(|ray| ray.direction).collect();
        let rays = Rays {
            origins: &origins,
            directions: &directions,
            start_cells: &vec![start; valid.len()],
            quantiles: &vec![DEPTH_QUANTILE; valid.len()],
            num_quantiles: 1,
        };
        let outputs = with_values(&self.foam.sh, |sh: &[f32]| {
            let scene = Scene { faces: &self.faces, sh, num_coefficients: self.foam.num_coefficients() };
            fused::forward(&scene, &rays, settings, false)
        })?;
        let mut rendering = Rendering {
            width,
            height,
            rgb: vec![background; num_pixels],
            opacity: vec![0.0; num_pixels],
            depth: vec![-1.0; num_pixels],
            cells_entered: outputs.cells_entered.iter().map(|&n| u64::from(n)).sum(),
        };
        for (row, &pixel) in outputs.packed.chunks_exact(PACKED_HEAD + 1).zip(&valid) {
            rendering.rgb[pixel] = [0, 1, 2].map(|c| row[c] + (1.0 - row[3]) * background[c]);
            rendering.opacity[pixel] = row[3];
            rendering.depth[pixel] = row[PACKED_HEAD];
        }
        Ok(rendering)
    }
}
