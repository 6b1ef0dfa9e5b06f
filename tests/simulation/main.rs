//! The kernels of `cuda/`, compiled as C++ and run on the CPU, against the bodies that define the ops: ordinary and
//! nasty inputs, blocks of several sizes, several orders of blocks and threads. With `RADFOAM_SANITIZE=address,undefined`
//! an access out of bounds or an undefined operation ends the run.
//!
//! What this cannot show: races between blocks (they run one after another), and the GPU's own exp, log, sin and cos.

#[path = "../common/mod.rs"]
mod common;
mod kernels;
mod loss;
mod patches;
mod pixel_rays;
mod rows;
mod sampler;
mod step;
mod strategies;
mod trace;

use candle_core::{Device, Tensor, WithDType};
use candle_radfoam::rng::{Rng, Stream};

/// Sizes around the borders of warps and blocks.
const SIZES: [usize; 9] = [1, 2, 31, 32, 33, 255, 256, 257, 1000];

/// Numbers of a test.
fn rng(case: usize) -> Rng {
    Rng::new(11, Stream::Synthetic, case as u64)
}

fn tensor<T: WithDType>(values: &[T]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
}

/// To be compared. Which of all NaN comes out of an operation is left open, on either machine.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}

/// What went wrong, told at once at the end.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: impl std::fmt::Display, found: &[T], expected: &[T]) {
        if found.len() != expected.len() {
            self.0.push(format!("{what}: {} values, expected {}", found.len(), expected.len()));
        } else if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
            self.0.push(format!("{what}: at {at} {:?}, expected {:?}", found[at], expected[at]));
        }
    }
}

impl Drop for Failures {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "{} failures\n{}", self.0.len(), self.0.join("\n"));
        }
    }
}
