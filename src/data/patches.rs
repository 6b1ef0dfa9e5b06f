//! Map entries as patches of pixels: which rays an entry stands for.
//!
//! Each view is cut into rows and columns of patches of nearly equal size (sides differ by one pixel at most), so
//! that no sliver at a border is drawn as often as a full patch. Entries count row by row, view by view, as rays do.

use serde::{Deserialize, Serialize};

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
    first_ray: u32,
    first_entry: u32,
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
    fn num_rays(&self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }

    pub fn num_entries(&self) -> usize {
        self.rows as usize * self.columns as usize
    }

    /// The entries of this view.
    pub fn entries(&self) -> std::ops::Range<usize> {
        let first = self.first_entry as usize;
        first..first + self.num_entries()
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

    fn ray(&self, y: u32, x: u32) -> u32 {
        self.first_ray + y * self.width + x
    }
}

/// All views.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "PatchesHeader", try_from = "PatchesHeader")]
pub(super) struct Patches {
    grids: Vec<Grid>,
    patch: u32,
    num_rays: u32,
    num_entries: usize,
}

/// What [`Patches`] follow from.
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
        Self::new(&header.shapes, header.patch)
    }
}

impl Patches {
    pub fn new(shapes: &[[u32; 2]], patch: u32) -> Result<Self> {
        if patch == 0 {
            return Err(Error::config("patch", "a side of at least 1 pixel", "0"));
        }
        let mut grids = Vec::with_capacity(shapes.len());
        let (mut first_ray, mut first_entry) = (0u64, 0u64);
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
                first_ray: first_ray as u32,
                first_entry: first_entry as u32,
            };
            first_ray += grid.num_rays();
            first_entry += grid.num_entries() as u64;
            // Also leaves u32::MAX free, which Candle's index ops read as "skip".
            if first_ray >= u64::from(u32::MAX) {
                return Err(Error::config("shapes", "fewer than 2^32 - 1 rays in all", format!("{first_ray} or more")));
            }
            grids.push(grid);
        }
        if grids.is_empty() {
            return Err(Error::config("shapes", "at least one view", "none"));
        }
        Ok(Self { grids, patch, num_rays: first_ray as u32, num_entries: first_entry as usize })
    }

    pub fn num_rays(&self) -> u32 {
        self.num_rays
    }

    pub fn num_entries(&self) -> usize {
        self.num_entries
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

    /// The view and patch of an entry.
    pub fn patch_of_entry(&self, entry: u32) -> (&Grid, Patch) {
        let grid = &self.grids[self.grids.partition_point(|grid| grid.first_entry <= entry) - 1];
        let within = entry - grid.first_entry;
        (grid, grid.patch(within / grid.columns, within % grid.columns))
    }

    /// Pixel `pixel` of a patch, counted row by row, as a ray.
    pub fn ray_in_patch(grid: &Grid, patch: Patch, pixel: u32) -> u32 {
        grid.ray(patch.y + pixel / patch.width, patch.x + pixel % patch.width)
    }

    /// The `place`-th ray, and its entry, when all rays are counted entry by entry; `place` below the number of rays.
    pub fn ray_in_entry_order(&self, place: u32) -> (u32, u32) {
        let grid = &self.grids[self.grids.partition_point(|grid| grid.first_ray <= place) - 1];
        let place = place - grid.first_ray;
        // A row of patches holds whole rows of pixels, and inside it a patch holds whole columns of that height.
        let row = part_of(place / grid.width, grid.rows, grid.height);
        let Patch { y, height, .. } = grid.patch(row, 0);
        let place = place - y * grid.width;
        let column = part_of(place / height, grid.columns, grid.width);
        let patch = grid.patch(row, column);
        let pixel = place - patch.x * height;
        (Self::ray_in_patch(grid, patch, pixel), grid.first_entry + row * grid.columns + column)
    }

    /// Carries a map over to views of other sizes: each entry takes the mean of the visited old entries that its
    /// patch overlaps in the image, by the overlapping area; `unvisited` where there are none.
    pub fn resample(&self, old: &Self, values: &[f32], unvisited: f32) -> Vec<f32> {
        let mut new_values = Vec::with_capacity(self.num_entries);
        for (grid, old_grid) in self.grids.iter().zip(&old.grids) {
            let rows: Vec<_> = (0..grid.rows).map(|row| overlaps(row, grid.rows, old_grid.rows)).collect();
            let columns: Vec<_> =
                (0..grid.columns).map(|column| overlaps(column, grid.columns, old_grid.columns)).collect();
            let values = &values[old_grid.entries()];
            for row in &rows {
                for column in &columns {
                    let (mut sum, mut area) = (0.0, 0.0);
                    for &(old_row, height) in row {
                        for &(old_column, width) in column {
                            let value = values[(old_row * old_grid.columns + old_column) as usize];
                            if value.is_sign_positive() {
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

    #[test]
    fn every_ray_lies_in_one_patch_and_entries_ascend() {
        for patch in [1, 2, 5, 8, 64] {
            let patches = Patches::new(&SHAPES, patch).unwrap();
            let mut seen = vec![0; patches.num_rays() as usize];
            let mut last_entry = 0;
            for place in 0..patches.num_rays() {
                let (ray, entry) = patches.ray_in_entry_order(place);
                assert!(entry == last_entry || entry == last_entry + 1, "patch {patch}, place {place}");
                last_entry = entry;
                seen[ray as usize] += 1;
                if patch == 1 {
                    assert_eq!((ray, entry), (place, place));
                }
                let (grid, Patch { y, x, height, width }) = patches.patch_of_entry(entry);
                let (ray_y, ray_x) = ((ray - grid.first_ray) / grid.width, (ray - grid.first_ray) % grid.width);
                assert!((y..y + height).contains(&ray_y) && (x..x + width).contains(&ray_x));
                assert!(height <= patch && width <= patch);
            }
            assert_eq!(last_entry as usize + 1, patches.num_entries());
            assert!(seen.iter().all(|&count| count == 1), "patch {patch}");
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
