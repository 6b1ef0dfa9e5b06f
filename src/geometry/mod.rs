//! Delaunay triangulation, Voronoi neighbours, and the cell that holds a point.
//!
//! A ray that is followed from Voronoi cell to Voronoi cell needs to know, of each cell, all neighbours that it
//! shares a face with; a missing one makes the ray overshoot. The neighbours of a cell are the Delaunay neighbours of
//! its site, so the triangulation here is **exact**: its predicates have the sign of real arithmetic, whatever the
//! input.
//!
//! | module | what it holds |
//! |---|---|
//! | [`delaunay`] | the triangulation and its certificate |
//! | [`adjacency`] | the neighbours of every cell as compressed rows, the sentinels |
//! | [`nearest`] | the cell that holds a point, the distance to the nearest site |
//! | [`repair`] | a triangulation that follows its points |
//! | [`order`] | orders in which neighbours in space are neighbours in memory |
//!
//! ```
//! use candle_radfoam::geometry::{Adjacency, nearest_cell, sentinels};
//!
//! let mut points = vec![[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.25, 0.0]];
//! points.extend(sentinels([0.0; 3], 4.0));
//! let adjacency = Adjacency::build(&points)?;
//! assert!(adjacency.neighbors_of(0).contains(&1));
//! assert_eq!(nearest_cell(&points, &adjacency, [0.4, 0.1, 0.0], 2), 1);
//! # Ok::<(), candle_radfoam::Error>(())
//! ```

pub mod adjacency;
pub mod delaunay;
mod flips;
mod insert;
mod mesh;
pub mod nearest;
pub mod order;
mod predicates;
mod remove;
pub mod repair;
mod scan;
mod sites;
mod stars;
mod worker;

pub use adjacency::{Adjacency, NUM_SENTINELS, sentinels};
pub use delaunay::{Certificate, Delaunay};
pub use nearest::{nearest_brute, nearest_cell, nearest_neighbor_distances};
pub use order::{brio_order, hilbert_order};
pub use repair::Repair;
