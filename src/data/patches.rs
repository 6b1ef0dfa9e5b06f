//! Map entries as patches of pixels: which rays an entry stands for.
//!
//! Each view is cut into rows and columns of patches of nearly equal size (sides differ by one pixel at most), so
//! that no sliver at a border is drawn as often as a full patch. Entries count row by row, view by view, as rays do.
//! Pixels that are not in use are no rays: a patch has those that are left, and one without any has no entry.

use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Bitmap;
use crate::{Error, Result};

/// The pixels of one patch: top left corner and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patch {
    pub y: u32,
    pub x: u32,
    pub height: u32,
    pub width: u32,
}

/// One view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    pub height: u32,
    pub width: u32,
    /// Patches from top to bottom.
    pub rows: u32,
    /// Patches from left to right.
    pub columns: u32,
    /// Pixels of the views before.
    first_pixel: u32,
    /// Patches of the views before.
    first_patch: u32,
}

/// Where part `part` of `parts` nearly equal parts of `size` starts.
fn part_start(part: u32, parts: u32, size: u32) -> u32 {
    (u64::from(part) * u64::from(size) / u64::from(parts)) as u32
}

/// The part that holds `at`; the inverse of [`part_start`].
fn part_of(at: u32, parts: u32, size: u32) -> u32 {
    (((u64::from(at) + 1) * u64::from(parts) - 1) / u64::from(size)) as u32
}

impl Grid {
    fn num_pixels(&self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }

    /// The patches of this view.
    pub fn patches(&self) -> Range<u32> {
        self.first_patch..self.first_patch + self.rows * self.columns
    }

    pub fn patch(&self, row: u32, column: u32) -> Patch {
        let (y, x) = (part_start(row, self.rows, self.height), part_start(column, self.columns, self.width));
        Patch {
            y,
            x,
            height: part_start(row + 1, self.rows, self.height) - y,
            width: part_start(column + 1, self.columns, self.width) - x,
        }
    }

    fn pixel(&self, y: u32, x: u32) -> u32 {
        self.first_pixel + y * self.width + x
    }

    /// Pixel `at` of a patch, counted row by row.
    fn pixel_in_patch(&self, patch: Patch, at: u32) -> u32 {
        self.pixel(patch.y + at / patch.width, patch.x + at % patch.width)
    }

    /// The pixels of a patch, a run for each of its rows.
    fn runs(&self, patch: Patch) -> impl Iterator<Item = Range<u32>> {
        (patch.y..patch.y + patch.height).map(move |y| {
            let first = self.pixel(y, patch.x);
            first..first + patch.width
        })
    }
}

/// What is left where some pixels are not in use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct InUse {
    pixels: Bitmap,
    /// The patches that have any; none of its own where a patch is a pixel.
    patches: Option<Bitmap>,
    /// Rays before each entry, and in all; empty where a patch is a pixel.
    first_rays: Vec<u32>,
}

impl InUse {
    fn patches(&self) -> &Bitmap {
        self.patches.as_ref().unwrap_or(&self.pixels)
    }

    fn in_run(&self, run: &Range<u32>) -> u32 {
        self.pixels.rank(run.end as usize) - self.pixels.rank(run.start as usize)
    }

    /// Pixel `at` among those of a patch that are in use.
    fn pixel_in_patch(&self, grid: &Grid, patch: Patch, at: u32) -> Option<u32> {
        let mut rest = at;
        for run in grid.runs(patch) {
            let count = self.in_run(&run);
            if rest < count {
                return self.pixels.select(self.pixels.rank(run.start as usize) + rest);
            }
            rest -= count;
        }
        None
    }
}

/// All views.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "PatchesHeader", try_from = "PatchesHeader")]
pub(super) struct Patches {
    grids: Vec<Grid>,
    patch: u32,
    num_pixels: u32,
    num_patches: u32,
    in_use: Option<InUse>,
}

/// What [`Patches`] follow from, but for which pixels are in use.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct PatchesHeader {
    shapes: Vec<[u32; 2]>,
    patch: u32,
}

impl From<Patches> for PatchesHeader {
    fn from(patches: Patches) -> Self {
        Self { shapes: patches.shapes(), patch: patches.patch }
    }
}

impl TryFrom<PatchesHeader> for Patches {
    type Error = Error;

    fn try_from(header: PatchesHeader) -> Result<Self> {
        Self::new(&header.shapes, header.patch, None)
    }
}

impl Patches {
    pub fn new(shapes: &[[u32; 2]], patch: u32, in_use: Option<&Bitmap>) -> Result<Self> {
        if patch == 0 {
            return Err(Error::config("patch", "a side of at least 1 pixel", "0"));
        }
        let mut grids = Vec::with_capacity(shapes.len());
        let (mut first_pixel, mut first_patch) = (0u64, 0u64);
        for (view, &[height, width]) in shapes.iter().enumerate() {
            if height == 0 || width == 0 {
                let found = format!("{height} x {width}");
                return Err(Error::config(format!("shapes[{view}]"), "at least one pixel", found));
            }
            let (rows, columns) = (height.div_ceil(patch), width.div_ceil(patch));
            let grid = Grid {
                height,
                width,
                rows,
                columns,
                // Checked right below: too large a value is never used.
                first_pixel: first_pixel as u32,
                first_patch: first_patch as u32,
            };
            first_pixel += grid.num_pixels();
            first_patch += u64::from(rows) * u64::from(columns);
            // Also leaves u32::MAX free, which Candle's index ops read as "skip".
            if first_pixel >= u64::from(u32::MAX) {
                let found = format!("{first_pixel} or more");
                return Err(Error::config("shapes", "fewer than 2^32 - 1 rays in all", found));
            }
            grids.push(grid);
        }
        if grids.is_empty() {
            return Err(Error::config("shapes", "at least one view", "none"));
        }
        let (num_pixels, num_patches) = (first_pixel as u32, first_patch as u32);
        let mut patches = Self { grids, patch, num_pixels, num_patches, in_use: None };
        patches.in_use = in_use.map(|pixels| patches.left_over(pixels)).transpose()?;
        Ok(patches)
    }

    fn left_over(&self, pixels: &Bitmap) -> Result<InUse> {
        if pixels.len() != self.num_pixels as usize {
            let expected = format!("{} pixels, those of the views", self.num_pixels);
            return Err(Error::config("in_use", expected, pixels.len().to_string()));
        }
        if pixels.count() == 0 {
            return Err(Error::config("in_use", "at least one pixel in use", "none"));
        }
        let mut in_use = InUse { pixels: pixels.clone(), patches: None, first_rays: Vec::new() };
        if self.patch == 1 {
            return Ok(in_use);
        }
        let count = |patch: u32| {
            let (grid, patch) = self.grid_of_patch(patch);
            grid.runs(patch).map(|run| in_use.in_run(&run)).sum::<u32>()
        };
        let counts: Vec<u32> = (0..self.num_patches).into_par_iter().map(count).collect();
        in_use.patches = Some(Bitmap::from_fn(counts.len(), |patch| counts[patch] > 0)?);
        let mut rays = 0;
        in_use.first_rays.push(0);
        for count in counts.into_iter().filter(|&count| count > 0) {
            rays += count;
            in_use.first_rays.push(rays);
        }
        Ok(in_use)
    }

    /// The number of rays: of pixels in use.
    pub fn num_rays(&self) -> u32 {
        self.in_use.as_ref().map_or(self.num_pixels, |in_use| in_use.pixels.count())
    }

    pub fn num_entries(&self) -> usize {
        self.in_use.as_ref().map_or(self.num_patches, |in_use| in_use.patches().count()) as usize
    }

    pub fn num_views(&self) -> usize {
        self.grids.len()
    }

    pub fn grid(&self, view: usize) -> Option<&Grid> {
        self.grids.get(view)
    }

    pub fn shapes(&self) -> Vec<[u32; 2]> {
        self.grids.iter().map(|grid| [grid.height, grid.width]).collect()
    }

    /// The pixels in use, or `None` where that is all of them.
    pub fn in_use(&self) -> Option<&Bitmap> {
        self.in_use.as_ref().map(|in_use| &in_use.pixels)
    }

    fn grid_of_patch(&self, patch: u32) -> (&Grid, Patch) {
        let grid = &self.grids[self.grids.partition_point(|grid| grid.first_patch <= patch) - 1];
        let within = patch - grid.first_patch;
        (grid, grid.patch(within / grid.columns, within % grid.columns))
    }

    /// The view and patch of an entry.
    fn patch_of_entry(&self, entry: u32) -> (&Grid, Patch) {
        let patch = match &self.in_use {
            Some(in_use) => in_use.patches().select(entry).unwrap_or(0),
            None => entry,
        };
        self.grid_of_patch(patch)
    }

    /// The entry of a patch, if it has one.
    pub fn entry_of_patch(&self, patch: u32) -> Option<u32> {
        match &self.in_use {
            Some(in_use) => in_use.patches().get(patch as usize).then(|| in_use.patches().rank(patch as usize)),
            None => Some(patch),
        }
    }

    /// The number of rays of an entry.
    pub fn num_rays_of(&self, entry: u32) -> u32 {
        match &self.in_use {
            Some(in_use) if in_use.patches.is_some() => {
                in_use.first_rays[entry as usize + 1] - in_use.first_rays[entry as usize]
            }
            Some(_) => 1,
            None => {
                let Patch { height, width, .. } = self.patch_of_entry(entry).1;
                height * width
            }
        }
    }

    /// Where some pixels are not in use and patches are of more than one: the share of a whole patch that an entry has
    /// in rays. Errors are stored times these shares, so that rays of equal error are equally probable.
    pub fn shares(&self) -> Option<impl Fn(u32) -> f32 + Sync> {
        let whole = self.patch as f32 * self.patch as f32;
        self.in_use.as_ref()?.patches.as_ref()?;
        Some(move |entry| self.num_rays_of(entry) as f32 / whole)
    }

    /// Pixels of a whole patch.
    #[cfg(feature = "cuda")]
    pub fn whole(&self) -> f32 {
        self.patch as f32 * self.patch as f32
    }

    /// The mean of [`Patches::shares`]; 1 where there are none.
    pub fn mean_share(&self) -> f64 {
        let whole = f64::from(self.patch) * f64::from(self.patch);
        self.shares().map_or(1.0, |_| f64::from(self.num_rays()) / (whole * self.num_entries() as f64))
    }

    /// One of an entry's rays, and how many there are: `choose` is given their number and says which.
    pub fn ray_of_entry(&self, entry: u32, choose: impl FnOnce(u64) -> u64) -> (u32, u32) {
        let (grid, patch) = self.patch_of_entry(entry);
        let Some(in_use) = &self.in_use else {
            let count = patch.height * patch.width;
            return (grid.pixel_in_patch(patch, choose(u64::from(count)) as u32), count);
        };
        let count = self.num_rays_of(entry);
        let at = choose(u64::from(count)) as u32;
        (in_use.pixel_in_patch(grid, patch, at).unwrap_or(0), count)
    }

    /// The `place`-th ray, and its entry, when all rays are counted entry by entry; `place` below the number of rays.
    pub fn ray_in_entry_order(&self, place: u32) -> (u32, u32) {
        match &self.in_use {
            None => self.pixel_in_patch_order(place),
            // The pixel is that of the ray; there always is one.
            Some(InUse { pixels, patches: None, .. }) => (pixels.select(place).unwrap_or(0), place),
            Some(InUse { first_rays, .. }) => {
                let entry = (first_rays.partition_point(|&first| first <= place) - 1) as u32;
                let at = place - first_rays[entry as usize];
                (self.ray_of_entry(entry, |_| u64::from(at)).0, entry)
            }
        }
    }

    fn pixel_in_patch_order(&self, place: u32) -> (u32, u32) {
        let grid = &self.grids[self.grids.partition_point(|grid| grid.first_pixel <= place) - 1];
        let place = place - grid.first_pixel;
        // A row of patches holds whole rows of pixels, and inside it a patch holds whole columns of that height.
        let row = part_of(place / grid.width, grid.rows, grid.height);
        let Patch { y, height, .. } = grid.patch(row, 0);
        let place = place - y * grid.width;
        let column = part_of(place / height, grid.columns, grid.width);
        let patch = grid.patch(row, column);
        let at = place - patch.x * height;
        (grid.pixel_in_patch(patch, at), grid.first_patch + row * grid.columns + column)
    }

    /// A row a view: first pixel, first patch, height, width, rows and columns of patches.
    #[cfg(feature = "cuda")]
    pub fn views(&self) -> Vec<[u32; 6]> {
        let row = |grid: &Grid| {
            let Grid { height, width, rows, columns, first_pixel, first_patch } = *grid;
            [first_pixel, first_patch, height, width, rows, columns]
        };
        self.grids.iter().map(row).collect()
    }

    /// Where some pixels are not in use, the rays entry by entry, and where each entry begins (nothing where each is
    /// one ray).
    #[cfg(feature = "cuda")]
    pub fn ray_order(&self) -> Option<(Vec<u32>, &[u32])> {
        let in_use = self.in_use.as_ref()?;
        let rays = (0..self.num_rays()).into_par_iter().map(|place| self.ray_in_entry_order(place).0).collect();
        Some((rays, &in_use.first_rays))
    }

    /// The number of pixels, those that are not in use included.
    #[cfg(feature = "cuda")]
    pub fn num_pixels(&self) -> u32 {
        self.num_pixels
    }

    /// Carries a map over to views of other sizes: each entry takes the mean of the visited old entries that its
    /// patch overlaps in the image, by the overlapping area; `unvisited` where there are none.
    pub fn resample(&self, old: &Self, values: &[f32], unvisited: f32) -> Vec<f32> {
        let mut new_values = Vec::with_capacity(self.num_entries());
        for (grid, old_grid) in self.grids.iter().zip(&old.grids) {
            let rows: Vec<_> = (0..grid.rows).map(|row| overlaps(row, grid.rows, old_grid.rows)).collect();
            let columns: Vec<_> =
                (0..grid.columns).map(|column| overlaps(column, grid.columns, old_grid.columns)).collect();
            for (row, old_rows) in (0..).zip(&rows) {
                for (column, old_columns) in (0..).zip(&columns) {
                    if self.entry_of_patch(grid.first_patch + row * grid.columns + column).is_none() {
                        continue;
                    }
                    let (mut sum, mut area) = (0.0, 0.0);
                    for &(old_row, height) in old_rows {
                        for &(old_column, width) in old_columns {
                            let patch = old_grid.first_patch + old_row * old_grid.columns + old_column;
                            let value = old.entry_of_patch(patch).map(|entry| values[entry as usize]);
                            if let Some(value) = value.filter(|value| value.is_sign_positive()) {
                                let overlap = height as f64 * width as f64;
                                sum += overlap * f64::from(value);
                                area += overlap;
                            }
                        }
                    }
                    new_values.push(if area > 0.0 { (sum / area) as f32 } else { unvisited });
                }
            }
        }
        new_values
    }
}

/// Which of `old_parts` equal parts of a side overlap part `part` of `parts`, and by how much (in units of
/// `1 / (parts * old_parts)`).
fn overlaps(part: u32, parts: u32, old_parts: u32) -> Vec<(u32, u64)> {
    let (parts, old_parts) = (u64::from(parts), u64::from(old_parts));
    let (start, end) = (u64::from(part) * old_parts, (u64::from(part) + 1) * old_parts);
    (start / parts..end.div_ceil(parts))
        .map(|old| (old as u32, end.min((old + 1) * parts) - start.max(old * parts)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: [[u32; 2]; 5] = [[1, 1], [9, 17], [8, 8], [3, 40], [33, 5]];

    /// Every pixel; every third; a view without any and patches without any.
    fn bitmaps() -> [Option<Bitmap>; 3] {
        let len = SHAPES.iter().map(|[height, width]| (height * width) as usize).sum();
        let bitmap = |in_use: &(dyn Fn(usize) -> bool + Sync)| Some(Bitmap::from_fn(len, in_use).unwrap());
        [None, bitmap(&|pixel| pixel % 3 == 1), bitmap(&|pixel| pixel > 9 && pixel / 20 % 3 != 0)]
    }

    #[test]
    fn every_ray_lies_in_one_patch_and_entries_ascend() {
        for in_use in bitmaps() {
            for patch in [1, 2, 5, 8, 64] {
                let patches = Patches::new(&SHAPES, patch, in_use.as_ref()).unwrap();
                let is_ray = |pixel: usize| in_use.as_ref().is_none_or(|in_use| in_use.get(pixel));
                let mut seen = vec![0; patches.num_pixels as usize];
                let mut of_entry = vec![Vec::new(); patches.num_entries()];
                let mut last_entry = 0;
                for place in 0..patches.num_rays() {
                    let (ray, entry) = patches.ray_in_entry_order(place);
                    assert!(entry == last_entry || entry == last_entry + 1, "patch {patch}, place {place}");
                    last_entry = entry;
                    seen[ray as usize] += 1;
                    of_entry[entry as usize].push(ray);
                    if patch == 1 {
                        let expected = in_use.as_ref().map_or(Some(place), |in_use| in_use.select(place));
                        assert_eq!((Some(ray), entry), (expected, place));
                    }
                    let (grid, Patch { y, x, height, width }) = patches.patch_of_entry(entry);
                    let within = ray - grid.first_pixel;
                    let (ray_y, ray_x) = (within / grid.width, within % grid.width);
                    assert!((y..y + height).contains(&ray_y) && (x..x + width).contains(&ray_x));
                    assert!(height <= patch && width <= patch);
                }
                assert_eq!(last_entry as usize + 1, patches.num_entries());
                for (pixel, &count) in seen.iter().enumerate() {
                    assert_eq!(count, u32::from(is_ray(pixel)), "patch {patch}, pixel {pixel}");
                }
                for (entry, rays) in (0..).zip(&of_entry) {
                    assert_eq!(patches.num_rays_of(entry) as usize, rays.len(), "patch {patch}, entry {entry}");
                    for (k, &ray) in (0..).zip(rays) {
                        assert_eq!(patches.ray_of_entry(entry, |_| k), (ray, rays.len() as u32));
                    }
                }
            }
        }
    }

    #[test]
    fn overlaps_cover_the_part() {
        for (parts, old_parts) in [(1, 1), (4, 2), (2, 4), (3, 7), (7, 3)] {
            for part in 0..parts {
                let overlaps = overlaps(part, parts, old_parts);
                assert!(overlaps.iter().all(|&(old, size)| old < old_parts && size > 0));
                assert_eq!(overlaps.iter().map(|o| o.1).sum::<u64>(), u64::from(old_parts));
            }
        }
    }
}
