//! Every strategy of the sampler, those with a setting with one.

use candle_radfoam::data::Strategy;

pub const STRATEGIES: [Strategy; 8] = [
    Strategy::None,
    Strategy::Uniform,
    Strategy::Epoch,
    Strategy::ErrorWeighted,
    Strategy::Spatial { patch: 2 },
    Strategy::TopK { pool: 0.2 },
    Strategy::Mixed { error_fraction: 0.7 },
    Strategy::Adaptive,
];
