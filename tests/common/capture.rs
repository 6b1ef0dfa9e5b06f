//! A small capture to train on, and what the tests of training ask of a trainer.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};
use candle_radfoam::Result;
use candle_radfoam::checkpoint::Checkpoint;
use candle_radfoam::data::synthetic::{SyntheticOptions, write_capture};
use candle_radfoam::data::{Dataset, LoadOptions, SamplerConfig, load};
use candle_radfoam::foam::{InitConfig, RefineConfig};
use candle_radfoam::train::{TrainConfig, Trainer};
use serde_json::Value;

/// 24 + 4 views of 32 x 32 pixels.
pub fn dataset() -> Dataset {
    static DATASET: OnceLock<Dataset> = OnceLock::new();
    let made = DATASET.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let options = SyntheticOptions { size: 32, train_views: 24, test_views: 4, samples: 3, seed: 1 };
        write_capture(folder.path(), &options, &|_, _| {}).expect("a capture");
        load(folder.path(), &LoadOptions::default()).expect("a dataset")
    });
    made.clone()
}

/// A run of `steps` steps that takes seconds; refined from step `0.4 steps` on.
pub fn config(steps: u64) -> TrainConfig {
    TrainConfig {
        steps: Some(steps),
        seed: 5,
        init: InitConfig { num_cells: 500, num_outer_cells: 40, ..InitConfig::default() },
        sampler: SamplerConfig { batch_size: 1024, warmup_steps: 10, patch: 4, ..SamplerConfig::default() },
        refine: RefineConfig { rounds: 3, from: 0.4, until: 0.8, max_cells: 1000, ..RefineConfig::default() },
        ..TrainConfig::default()
    }
}

pub fn trainer(config: TrainConfig) -> Result<Trainer> {
    Trainer::new(dataset(), config, &Device::Cpu)
}

/// Runs `work` on `threads` threads.
pub fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool").install(work)
}

/// The values of a tensor as bits, so that NaN equals itself and 0 does not equal -0.
pub fn bits(tensor: &Tensor) -> Vec<u64> {
    let flat = tensor.flatten_all().expect("a tensor");
    match tensor.dtype() {
        DType::F32 => flat.to_vec1::<f32>().expect("f32").iter().map(|x| u64::from(x.to_bits())).collect(),
        DType::U32 => flat.to_vec1::<u32>().expect("u32").iter().map(|&x| u64::from(x)).collect(),
        other => panic!("no checkpoint holds {other:?}"),
    }
}

/// What a trainer is made of, to the bit.
pub fn fingerprint(trainer: &Trainer) -> Result<(BTreeMap<String, Vec<u64>>, Value)> {
    let Checkpoint { tensors, header } = trainer.checkpoint(Value::Null)?;
    Ok((tensors.iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect(), header))
}
