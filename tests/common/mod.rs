//! Scenes for the tests of the trace.
#![allow(dead_code, reason = "each test file uses a part")]

use candle_core::{Device, Result, Tensor};
use candle_radfoam::geometry::{Adjacency, nearest_cell, sentinels};
use candle_radfoam::ops::{TraceInputs, TraceSettings, Traced, trace_rays};
use candle_radfoam::rng::{Rng, Stream};

/// A foam with rays through it, in f64 on the host.
#[derive(Clone)]
pub struct Scene {
    pub name: String,
    /// Real points, then the eight sentinels.
    pub points: Vec<[f64; 3]>,
    pub density: Vec<f64>,
    /// `[P, K, 3]`.
    pub sh: Vec<f64>,
    pub num_coefficients: usize,
    pub adjacency: Adjacency,
    pub origins: Vec<[f64; 3]>,
    pub directions: Vec<[f64; 3]>,
    pub quantiles: Vec<f64>,
}

pub fn normalize(v: [f64; 3]) -> [f64; 3] {
    let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    v.map(|x| x / length)
}

/// Random numbers of a test, one after the other.
pub struct Random {
    rng: Rng,
    index: u32,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed, Stream::Synthetic, 99), index: 0 }
    }

    pub fn uniform(&mut self) -> f64 {
        self.index += 1;
        f64::from(self.rng.uniform(self.index))
    }

    pub fn within(&mut self, half: f64) -> [f64; 3] {
        [0; 3].map(|_| half * (2.0 * self.uniform() - 1.0))
    }

    pub fn direction(&mut self) -> [f64; 3] {
        self.index += 1;
        normalize(self.rng.direction(self.index).map(f64::from))
    }
}

impl Scene {
    /// A scene of the given points (rounded to f32, so that both precisions see the same), with random densities and
    /// colours of `degree`, and rays from around it towards its middle.
    pub fn new(name: &str, points: Vec<[f32; 3]>, degree: usize, num_rays: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let num_real = points.len();
        let num_coefficients = (degree + 1) * (degree + 1);
        let all: Vec<[f32; 3]> = points.iter().copied().chain(sentinels([0.0; 3], 20.0)).collect();
        let adjacency = Adjacency::build(&all).expect("triangulation");
        let mut density: Vec<f64> = (0..num_real).map(|_| 4.0 * random.uniform().powi(2)).collect();
        density.resize(all.len(), 0.0);
        let mut sh: Vec<f64> = (0..num_real * num_coefficients * 3).map(|_| 0.8 * (random.uniform() - 0.4)).collect();
        sh.resize(all.len() * num_coefficients * 3, 0.0);
        let origins: Vec<[f64; 3]> = (0..num_rays).map(|_| random.direction().map(|x| 2.5 * x)).collect();
        let directions = origins
            .iter()
            .map(|origin| {
                let target = random.within(0.7);
                normalize([0, 1, 2].map(|axis| target[axis] - origin[axis]))
            })
            .collect();
        Self {
            name: name.into(),
            points: all.iter().map(|p| p.map(f64::from)).collect(),
            density,
            sh,
            num_coefficients,
            adjacency,
            origins,
            directions,
            quantiles: vec![0.8, 0.4],
        }
    }

    pub fn random(name: &str, num_points: usize, degree: usize, num_rays: usize, seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let points = (0..num_points).map(|_| random.within(1.0).map(|x| x as f32)).collect();
        Self::new(name, points, degree, num_rays, seed)
    }

    pub fn start_cells(&self) -> Vec<u32> {
        let points: Vec<[f32; 3]> = self.points.iter().map(|p| p.map(|x| x as f32)).collect();
        self.origins.iter().map(|o| nearest_cell(&points, &self.adjacency, o.map(|x| x as f32), 0)).collect()
    }

    /// points, density, sh as tensors of f64.
    pub fn parameters(&self) -> Result<[Tensor; 3]> {
        let (d, p) = (&Device::Cpu, self.points.len());
        Ok([
            Tensor::from_vec(self.points.concat(), (p, 3), d)?,
            Tensor::from_vec(self.density.clone(), p, d)?,
            Tensor::from_vec(self.sh.clone(), (p, self.num_coefficients, 3), d)?,
        ])
    }

    pub fn inputs(&self, start_cells: &[u32]) -> Result<TraceInputs> {
        let (d, r, q) = (&Device::Cpu, self.origins.len(), self.quantiles.len());
        let quantiles: Vec<f64> = self.quantiles.iter().copied().cycle().take(r * q).collect();
        Ok(TraceInputs {
            origins: Tensor::from_vec(self.origins.concat(), (r, 3), d)?,
            directions: Tensor::from_vec(self.directions.concat(), (r, 3), d)?,
            start_cells: Tensor::from_slice(start_cells, r, d)?,
            offsets: Tensor::from_slice(&self.adjacency.offsets, self.adjacency.offsets.len(), d)?,
            neighbors: Tensor::from_slice(&self.adjacency.neighbors, self.adjacency.neighbors.len(), d)?,
            quantiles: if q > 0 { Some(Tensor::from_vec(quantiles, (r, q), d)?) } else { None },
        })
    }

    pub fn trace(&self, settings: &TraceSettings) -> Result<Traced> {
        let [points, density, sh] = self.parameters()?;
        trace_rays(&points, &density, &sh, &self.inputs(&self.start_cells())?, settings)
    }
}

/// Follows every ray to its end: nothing is cut off, nothing is taken to be empty.
pub fn exact() -> TraceSettings {
    TraceSettings { transmittance_threshold: 0.0, density_threshold: 0.0, max_cells: 100_000, grazing_cosine: 0.0 }
}
