//! Does training take the gradients it should, learn, spend its rays where the error is, and stop at what is not
//! finite?

#[path = "common/capture.rs"]
mod capture;

use candle_core::{DType, Device, Tensor, Var};
use candle_radfoam::data::{Batch, Dataset, Draw, Image, Pixels, Sampler, SamplerConfig, Strategy};
use candle_radfoam::foam::{Foam, InitConfig, RefineConfig, RefineStatistics, RowMap, Topology, initial_cells};
use candle_radfoam::geometry::{Adjacency, nearest_cell};
use candle_radfoam::ops::{AdamSettings, TraceInputs, TraceSettings, Traced, adam_step, trace_rays};
use candle_radfoam::rng::{Rng, Stream};
use candle_radfoam::train::{
    Adam, Background, Evaluation, LossConfig, OptimConfig, PriorConfig, Rate, ResolutionStage, TopologyConfig,
    TrainConfig, Trainer, ViewScore, evaluate_views,
};
use candle_radfoam::{Error, Result};
use capture::{config, dataset, fingerprint, on_threads, trainer};
use serde_json::Value;

const PARAMETERS: [&str; 3] = ["points", "raw_density", "sh"];

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|t| t.to_vec1()).expect("f32")
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, v| most.max(v.abs()))
}

/// The rays that the trainer's next step will draw: a draw is a pure function of the sampler's state.
fn next_draw(trainer: &Trainer) -> Result<Draw> {
    let (tensors, header) = trainer.sampler().state()?;
    Sampler::from_state(&tensors, header)?.draw()
}

/// The loss of the trainer's next step, spelled out in Candle's ops.
struct NextLoss {
    config: TrainConfig,
    batch: Batch,
    weights: Vec<f32>,
    background: Vec<f32>,
    /// `[R, 2]`, descending.
    quantiles: Vec<f32>,
    quantile_weight: f64,
}

impl NextLoss {
    fn of(trainer: &Trainer) -> Result<Self> {
        let (config, step) = (trainer.config().clone(), trainer.step_count());
        let draw = next_draw(trainer)?;
        let batch = Pixels::new(&trainer.dataset().train)?.batch(draw.indices_slice())?;
        let rays = 0..batch.len() as u32;
        let behind = Rng::new(config.seed, Stream::Background, step);
        let background = rays.clone().flat_map(|ray| match trainer.background() {
            Background::White => [1.0; 3],
            Background::Black => [0.0; 3],
            Background::Random => [0, 1, 2].map(|channel| behind.uniform4(ray)[channel]),
        });
        let rng = Rng::new(config.seed, Stream::Quantile, step);
        let quantiles = rays.clone().flat_map(|ray| {
            let [a, b, ..] = rng.uniform4(ray).map(|u| u.clamp(1e-3, 1.0 - 1e-3));
            [a.max(b), a.min(b)]
        });
        Ok(Self {
            weights: draw.importance_vec(config.loss.importance_exponent),
            background: background.collect(),
            quantiles: quantiles.collect(),
            quantile_weight: f64::from(config.loss.quantile_weight) * (2.0 * trainer.progress()).min(1.0),
            batch,
            config,
        })
    }

    fn rows(&self, values: &[f32], columns: usize, dtype: DType) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, (values.len() / columns, columns), &Device::Cpu)?.to_dtype(dtype)?)
    }

    fn value(&self, traced: &Traced) -> Result<Tensor> {
        let dtype = traced.rgb.dtype();
        let behind = self.rows(&self.background, 3, dtype)?;
        let truth = self.rows(self.batch.rgba.as_flattened(), 4, dtype)?;
        let (truth, alpha) = (truth.narrow(1, 0, 3)?, truth.narrow(1, 3, 1)?);
        let opacity = traced.opacity.unsqueeze(1)?;
        let seen = (&traced.rgb + behind.broadcast_mul(&(1.0 - &opacity)?)?)?;
        let truth = (truth + behind.broadcast_mul(&(1.0 - &alpha)?)?)?;
        let mut loss = ((seen - truth)?.sqr()?.sum_keepdim(1)? / 3.0)?;
        loss = (loss + ((opacity - alpha)?.sqr()? * f64::from(self.config.loss.opacity_weight))?)?;
        if let Some(depth) = &traced.depth {
            let (near, far) = (depth.narrow(1, 0, 1)?, depth.narrow(1, 1, 1)?);
            let reached = far.ge(0.0)?.to_dtype(dtype)?;
            loss = (loss + (((far - near)?.abs()? * reached)? * self.quantile_weight)?)?;
        }
        Ok((loss * self.rows(&self.weights, 1, dtype)?)?.mean_all()?)
    }

    /// Through [`Foam::trace`], in f32.
    fn of_foam(&self, foam: &Foam) -> Result<Tensor> {
        let rays = self.batch.to_tensors(&Device::Cpu)?;
        let quantiles = self.rows(&self.quantiles, 2, DType::F32)?;
        self.value(&foam.trace(&rays.origins, &rays.directions, Some(&quantiles), &self.config.trace)?)
    }

    /// Through [`trace_rays`] with parameters of f64: points, raw densities, SH coefficients.
    fn of_parameters(&self, foam: &Foam, [points, raw_density, sh]: [&Tensor; 3]) -> Result<Tensor> {
        let topology = foam.topology();
        let mut sites = foam.points_host()?;
        sites.extend(topology.sentinels());
        let start: Vec<u32> = self.batch.origins.iter().map(|&origin| topology.cell_at(&sites, origin, 0)).collect();
        let (device, adjacency, num_sentinels) = (&Device::Cpu, topology.adjacency(), topology.sentinels().len());
        let inputs = TraceInputs {
            origins: self.rows(self.batch.origins.as_flattened(), 3, DType::F64)?,
            directions: self.rows(self.batch.directions.as_flattened(), 3, DType::F64)?,
            start_cells: Tensor::from_slice(&start, start.len(), device)?,
            offsets: Tensor::from_slice(&adjacency.offsets, adjacency.offsets.len(), device)?,
            neighbors: Tensor::from_slice(&adjacency.neighbors, adjacency.neighbors.len(), device)?,
            quantiles: Some(self.rows(&self.quantiles, 2, DType::F64)?),
        };
        // density = scale * ln(1 + e^(10 raw)) / 10, which is safe in f64 for the raw densities of a short run.
        let density = ((((raw_density * 10.0)?.exp()? + 1.0)?.log()? / 10.0)? * foam.density_scale())?;
        let sentinels = self.rows(topology.sentinels().as_flattened(), 3, DType::F64)?;
        let traced = trace_rays(
            &Tensor::cat(&[points, &sentinels], 0)?,
            &density.pad_with_zeros(0, 0, num_sentinels)?,
            &sh.pad_with_zeros(0, 0, num_sentinels)?,
            &inputs,
            &self.config.trace,
        )?;
        self.value(&traced)
    }
}

/// The gradients of the trainer's last step, if beta1 is 0: the first moments are the gradients then, to the bit.
fn last_gradients(trainer: &Trainer) -> Result<[Vec<f32>; 3]> {
    assert_eq!(trainer.config().optim.adam.beta1, 0.0, "else the moments are means");
    let tensors = trainer.checkpoint(Value::Null)?.tensors;
    Ok(PARAMETERS.map(|name| values(&tensors[&format!("optim.{name}")].get(0).expect("moments"))))
}

fn no_prior() -> PriorConfig {
    PriorConfig { density: 0.0, smooth_color: 0.0, free_space: 0.0, ..PriorConfig::default() }
}

/// Everything that a loss can have, on a trace without cut-offs, on cells that are triangulated at every step.
fn smooth_config() -> TrainConfig {
    TrainConfig {
        sh_degree: 2,
        background: Some(Background::Random),
        sampler: SamplerConfig { batch_size: 400, warmup_steps: 2, patch: 4, ..SamplerConfig::default() },
        trace: TraceSettings {
            transmittance_threshold: 0.0,
            density_threshold: 0.0,
            grazing_cosine: 0.0,
            max_cells: 4096,
        },
        loss: LossConfig { opacity_weight: 0.1, quantile_weight: 0.02, importance_exponent: 0.7 },
        optim: OptimConfig { adam: AdamSettings { beta1: 0.0, ..AdamSettings::default() }, ..OptimConfig::default() },
        prior: no_prior(),
        topology: TopologyConfig { check_every: 1, moved_limit: 0.0, moved_share: 0.0 },
        refine: RefineConfig { rounds: 0, ..RefineConfig::default() },
        ..config(8)
    }
}

#[test]
fn every_parameter_gets_a_gradient() -> Result<()> {
    for sh_degree in 0..=3 {
        let trainer = trainer(TrainConfig { sh_degree, ..smooth_config() })?;
        let grads = NextLoss::of(&trainer)?.of_foam(trainer.foam())?.backward()?;
        for (name, var) in trainer.foam().named_vars() {
            let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient at degree {sh_degree}"));
            assert_eq!(grad.dims(), var.dims(), "{name}");
            let grad = values(grad);
            assert!(grad.iter().all(|g| g.is_finite()), "{name}: a gradient is not finite at degree {sh_degree}");
            assert!(grad.iter().any(|&g| g != 0.0), "{name}: all gradients are zero at degree {sh_degree}");
        }
    }
    Ok(())
}

/// The trainer takes gradients ray by ray, without Candle's graph. Three other ways must agree with it: the same
/// loss in Candle's ops through [`Foam::trace`], the same in f64, and central differences of that.
#[test]
fn the_trainer_takes_the_gradients_of_its_loss() -> Result<()> {
    // Rounding in f32, as a share of the largest gradient; sums of hundreds of rays, each over tens of cells.
    const SINGLE: f64 = 2e-4;
    // Steps of 1e-6 leave a share of 1e-10 to rounding, and more to curvature where a ray grazes a face.
    const DIFFERENCES: f64 = 2e-5;
    let mut failures = Vec::new();
    let plain = TrainConfig { loss: LossConfig::default(), background: Some(Background::White), ..smooth_config() };
    for (case, config, steps_before) in [("plain", plain, 3), ("all terms", smooth_config(), 4)] {
        let mut trainer = trainer(config)?;
        for _ in 0..steps_before {
            trainer.step()?;
        }
        let loss = NextLoss::of(&trainer)?;
        let foam = trainer.foam();
        let grads = loss.of_foam(foam)?.backward()?;
        let by_candle = foam.named_vars().map(|(_, var)| values(grads.get(var).expect("a gradient")));
        let wide = [foam.points(), foam.raw_density(), foam.sh()]
            .map(|var| var.to_dtype(DType::F64).and_then(|t| Var::from_tensor(&t)));
        let wide: Vec<Var> = wide.into_iter().collect::<candle_core::Result<_>>()?;
        let value = loss.of_parameters(foam, [&wide[0], &wide[1], &wide[2]])?;
        let (exact, grads) = (value.to_scalar::<f64>()?, value.backward()?);
        let in_f64: Vec<Vec<f64>> = wide
            .iter()
            .map(|var| grads.get(var).expect("a gradient").flatten_all()?.to_vec1())
            .collect::<candle_core::Result<_>>()?;

        for (k, name) in PARAMETERS.iter().enumerate() {
            let most = largest(&in_f64[k]);
            // Entries from all over the range of sizes, the largest among them.
            let mut order: Vec<usize> = (0..in_f64[k].len()).filter(|&i| in_f64[k][i] != 0.0).collect();
            order.sort_unstable_by(|&a, &b| in_f64[k][b].abs().total_cmp(&in_f64[k][a].abs()));
            let stride = (order.len() / 12).max(1);
            for &i in order.iter().step_by(stride) {
                let host: Vec<f64> = wide[k].flatten_all()?.to_vec1()?;
                let at = |offset: f64| -> Result<f64> {
                    let mut moved = host.clone();
                    moved[i] += offset;
                    let moved = Tensor::from_vec(moved, wide[k].shape(), &Device::Cpu)?;
                    let mut parameters = [wide[0].as_tensor(), wide[1].as_tensor(), wide[2].as_tensor()];
                    parameters[k] = &moved;
                    Ok(loss.of_parameters(foam, parameters)?.to_scalar()?)
                };
                const H: f64 = 1e-6;
                let difference = (at(H)? - at(-H)?) / (2.0 * H);
                if (difference - in_f64[k][i]).abs() > DIFFERENCES * most {
                    failures.push(format!("{case}: {name}[{i}]: differences {difference:e}, f64 {:e}", in_f64[k][i]));
                }
            }
        }

        let stats = trainer.step()?;
        assert!((stats.loss - exact).abs() < 1e-6 * exact, "{case}: loss {} and {exact}", stats.loss);
        for (k, gradient) in last_gradients(&trainer)?.iter().enumerate() {
            let most = largest(&in_f64[k]);
            for (way, others) in
                [("Foam::trace", by_candle[k].iter().map(|&g| f64::from(g)).collect()), ("f64", in_f64[k].clone())]
            {
                let others: Vec<f64> = others;
                let off: Vec<f64> = gradient.iter().zip(&others).map(|(&a, b)| f64::from(a) - b).collect();
                let worst = largest(&off) / most;
                println!("{case}: {}: trainer and {way}: {worst:.1e} of the largest, {most:.1e}", PARAMETERS[k]);
                if worst.is_nan() || worst > SINGLE {
                    failures
                        .push(format!("{case}: {}: trainer and {way} differ by {worst:e} of {most:e}", PARAMETERS[k]));
                }
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

/// One step with and one without, from the same checkpoint of cells with colours: the gradients differ by what the
/// documentation of the prior says.
#[test]
fn the_prior_adds_its_gradient() -> Result<()> {
    let prior = PriorConfig { density: 0.3, smooth_color: 0.2, ..no_prior() };
    let mut before = trainer(smooth_config())?;
    for _ in 0..4 {
        before.step()?;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("before.safetensors");
    before.save(&path, Value::Null)?;
    let with = |prior| {
        let config = TrainConfig { prior, ..before.config().clone() };
        Trainer::resume_with(&path, dataset(), config, &Device::Cpu)
    };
    let (mut plain, mut more) = (with(no_prior())?, with(prior)?);
    let mut free = with(PriorConfig { density: 0.3, free_space: 0.7, ..no_prior() })?;
    let foam = more.foam().deep_clone()?;
    plain.step()?;
    more.step()?;
    let ([_, raw_without, sh_without], [_, raw_with, sh_with]) = (last_gradients(&plain)?, last_gradients(&more)?);
    let (raw, sh) = (values(foam.raw_density()), values(foam.sh()));
    let (num_cells, width) = (raw.len(), sh.len() / raw.len());
    let mut failures = Vec::new();
    let mut check = |what: String, found: f32, expected: f64, scale: f32| {
        if (f64::from(found) - expected).abs() > 1e-5 * f64::from(scale.abs()) + 1e-3 * expected.abs() {
            failures.push(format!("{what}: {found:e}, expected {expected:e}"));
        }
    };
    for cell in 0..num_cells {
        // The derivative of softplus is the logistic function.
        let expected = 0.3 / num_cells as f64 / (1.0 + (-10.0 * f64::from(raw[cell])).exp());
        check(format!("raw_density[{cell}]"), raw_with[cell] - raw_without[cell], expected, raw_with[cell]);
        let neighbors: Vec<usize> = foam.topology().neighbors(cell).collect();
        for k in 0..width {
            let i = cell * width + k;
            let mean =
                neighbors.iter().map(|j| f64::from(sh[j * width + k])).sum::<f64>() / neighbors.len().max(1) as f64;
            // Every fourth step, this one among them, with four times the weight.
            let expected = 4.0 * 2.0 * 0.2 / num_cells as f64 * (f64::from(sh[i]) - mean);
            let expected = if neighbors.is_empty() { 0.0 } else { expected };
            check(format!("sh[{i}]"), sh_with[i] - sh_without[i], expected, sh_with[i].abs().max(1e-6));
        }
    }
    // Each of 1024 places adds the same to the density of its cell, on top of what all cells get.
    free.step()?;
    let [_, raw_free, _] = last_gradients(&free)?;
    let each = 0.7 * free.dataset().extent / 1024.0;
    let (mut num_places, mut num_cells_free) = (0.0, 0);
    for cell in 0..num_cells {
        let slope = free.foam().density_scale() / (1.0 + (-10.0 * f64::from(raw[cell])).exp());
        let added = f64::from(raw_free[cell]) - f64::from(raw_without[cell]);
        let places = (added - 0.3 / num_cells as f64 / (1.0 + (-10.0 * f64::from(raw[cell])).exp())) / (each * slope);
        let off = (places - places.round()).abs();
        let rounding = 2e-6 * f64::from(raw_free[cell].abs().max(raw_without[cell].abs())) / (each * slope);
        if places < -0.1 || off > 1e-3 + 1e-5 * places + rounding {
            failures.push(format!("{places} places in cell {cell}"));
        }
        num_places += places.round();
        num_cells_free += u32::from(places > 0.5);
    }
    println!("{num_places} places in {num_cells_free} of {num_cells} cells");
    if !(900.0..=1024.0).contains(&num_places) || !(5..num_cells as u32 / 2).contains(&num_cells_free) {
        failures.push(format!("{num_places} places in {num_cells_free} of {num_cells} cells"));
    }
    assert!(failures.is_empty(), "\n{}", failures[..failures.len().min(20)].join("\n"));
    Ok(())
}

#[test]
fn it_learns() -> Result<()> {
    let mut trainer = trainer(config(200))?;
    let before = trainer.evaluate(|_, _, _| Ok(()))?;
    while !trainer.is_finished() {
        trainer.step()?;
    }
    let after = trainer.evaluate(|_, _, _| Ok(()))?;
    println!("PSNR {:.2} -> {:.2} dB, SSIM {:.3} -> {:.3}", before.psnr_db, after.psnr_db, before.ssim, after.ssim);
    assert_eq!(trainer.num_rays(), 200 * 1024);
    assert!(after.psnr_db > 19.0, "{:.2} dB", after.psnr_db);
    assert!(after.psnr_db > before.psnr_db + 4.0, "{:.2} dB from {:.2}", after.psnr_db, before.psnr_db);
    assert!(after.ssim > before.ssim, "SSIM {} from {}", after.ssim, before.ssim);
    Ok(())
}

#[test]
fn same_seed_same_bits_on_any_number_of_threads() -> Result<()> {
    let run = |threads: usize, seed: u64| {
        on_threads(threads, || -> Result<_> {
            let mut trainer = trainer(TrainConfig { seed, ..config(60) })?;
            let mut losses = Vec::new();
            while !trainer.is_finished() {
                losses.push(trainer.step()?.loss.to_bits());
            }
            Ok((losses, fingerprint(&trainer)?))
        })
    };
    let one = run(1, 5)?;
    assert_eq!(one, run(2, 5)?, "two threads");
    assert_eq!(one, run(3, 5)?, "three threads");
    assert_ne!(one.0, run(1, 6)?.0, "another seed");
    Ok(())
}

/// Noise in a square of some training views, which no foam can explain.
fn with_planted_errors(mut dataset: Dataset) -> (Dataset, Vec<bool>) {
    let mut planted = Vec::new();
    let rng = Rng::new(3, Stream::Synthetic, 7);
    for (i, view) in dataset.train.iter_mut().enumerate() {
        let Image { width, channels, .. } = view.image;
        for (pixel, levels) in view.image.data.chunks_exact_mut(channels).enumerate() {
            let (col, row) = (pixel as u32 % width, pixel as u32 / width);
            let inside = i % 6 == 2 && (8..20).contains(&col) && (8..20).contains(&row);
            if inside {
                let level = if rng.uniform(planted.len() as u32) < 0.5 { 0 } else { u8::MAX };
                levels.fill(level);
                levels[3..].fill(u8::MAX);
            }
            planted.push(inside);
        }
    }
    (dataset, planted)
}

/// The map of a sampler, an entry a ray; negative where nothing was seen.
fn error_map(trainer: &Trainer) -> Result<Vec<f32>> {
    Ok(values(&trainer.sampler().state()?.0["error_map"]))
}

#[test]
fn planted_errors_draw_rays_in_proportion_to_the_map() -> Result<()> {
    const WARMUP: u64 = 30;
    const UNIFORM: f64 = 0.3;
    const BINS: usize = 50;
    let (dataset, planted) = with_planted_errors(dataset());
    let sampler = SamplerConfig {
        batch_size: 2048,
        warmup_steps: WARMUP,
        patch: 1,
        uniform_fraction: UNIFORM,
        ..Default::default()
    };
    let mut trainer = Trainer::new(dataset, TrainConfig { sampler, ..config(80) }, &Device::Cpu)?;
    let num_rays = planted.len() as f64;
    let planted_share = planted.iter().filter(|&&p| p).count() as f64 / num_rays;

    // Draws of planted pixels, and how many the map asks for: in warm-up and after it.
    let (mut drawn, mut asked, mut all) = ([0.0; 2], [0.0; 2], [0.0; 2]);
    let (mut bins_drawn, mut bins_asked) = ([0.0; BINS], [0.0; BINS]);
    while !trainer.is_finished() {
        let after = usize::from(trainer.step_count() >= WARMUP);
        let draw = next_draw(&trainer)?;
        let before = error_map(&trainer)?;
        trainer.step()?;
        // That these are the rays that the step drew shows in the map: it has changed there, and nowhere else.
        let mut was_drawn = vec![false; before.len()];
        draw.indices_slice().iter().for_each(|&ray| was_drawn[ray as usize] = true);
        let changed = |(ray, new): (usize, &f32)| (new.to_bits() != before[ray].to_bits()).then_some(ray);
        let changed: Vec<usize> = error_map(&trainer)?.iter().enumerate().filter_map(changed).collect();
        assert!(changed.iter().all(|&ray| was_drawn[ray]), "an entry changed that was not drawn");
        let num_drawn = was_drawn.iter().filter(|&&d| d).count();
        assert!(changed.len() * 100 > num_drawn * 95, "{} of {num_drawn} entries changed", changed.len());

        // The probabilities, spelled out: unseen entries count as the mean of the seen ones.
        let seen: Vec<f64> = before.iter().filter(|e| e.is_sign_positive()).map(|&e| f64::from(e)).collect();
        let mean = seen.iter().sum::<f64>() / (seen.len() as f64).max(1.0);
        let weight = |&e: &f32| if e.is_sign_positive() { f64::from(e) } else { mean };
        let total: f64 = before.iter().map(weight).sum();
        let batch = draw.len() as f64;
        let expected: Vec<f64> = before
            .iter()
            .map(|e| {
                let weighted =
                    if after == 1 { UNIFORM / num_rays + (1.0 - UNIFORM) * weight(e) / total } else { 1.0 / num_rays };
                batch * weighted
            })
            .collect();
        for (&ray, &p) in draw.indices_slice().iter().zip(draw.probability_slice()) {
            let ray = ray as usize;
            let expected = expected[ray] / batch;
            assert!((f64::from(p) - expected).abs() < 1e-4 * expected, "ray {ray}: p = {p}, expected {expected}");
            drawn[after] += f64::from(u8::from(planted[ray]));
        }
        asked[after] += expected.iter().zip(&planted).filter(|(_, planted)| **planted).map(|(e, _)| e).sum::<f64>();
        all[after] += batch;
        if after == 1 {
            let mut bin_of: Vec<usize> = (0..before.len()).collect();
            bin_of.sort_by(|&a, &b| weight(&before[a]).total_cmp(&weight(&before[b])));
            let mut bins = vec![0; before.len()];
            bin_of.iter().enumerate().for_each(|(rank, &ray)| bins[ray] = rank * BINS / before.len());
            draw.indices_slice().iter().for_each(|&ray| bins_drawn[bins[ray as usize]] += 1.0);
            expected.iter().zip(&bins).for_each(|(e, &bin)| bins_asked[bin] += e);
        }
    }
    let share = |which: usize| drawn[which] / all[which];
    println!("planted: {planted_share:.4} of the pixels, {:.4} then {:.4} of the draws", share(0), share(1));
    for which in 0..2 {
        // Five deviations of a Poisson number, which varies more than stratified draws do.
        let off = (drawn[which] - asked[which]).abs();
        assert!(off < 5.0 * asked[which].sqrt(), "{} planted pixels drawn, {} expected", drawn[which], asked[which]);
    }
    assert!(share(1) > 2.0 * planted_share, "planted pixels have {planted_share} of the pixels, {} of draws", share(1));
    let chi_squared: f64 = bins_drawn.iter().zip(&bins_asked).map(|(d, a)| (d - a) * (d - a) / a).sum();
    let limit = BINS as f64 + 5.0 * (2.0 * BINS as f64).sqrt();
    assert!(chi_squared < limit, "chi-squared {chi_squared} of {BINS} bins by the map's value");
    Ok(())
}

#[test]
fn a_strategy_without_a_map_keeps_none() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("error_map.safetensors");
    for (strategy, kept) in [(Strategy::None, false), (Strategy::Uniform, true), (Strategy::ErrorWeighted, true)] {
        let sampler = SamplerConfig { strategy, ..config(1).sampler };
        let mut trainer = trainer(TrainConfig { sampler, ..config(12) })?;
        while !trainer.is_finished() {
            trainer.step()?;
        }
        let names = trainer.checkpoint(Value::Null)?.tensors.into_keys();
        assert_eq!(names.filter(|name| name.starts_with("sampler.")).count(), usize::from(kept), "{strategy:?}");
        assert_eq!(trainer.sampler().stats().visited_fraction > 0.0, kept, "{strategy:?}");
        let weighted_share = if strategy == Strategy::ErrorWeighted { 2.0 / 12.0 } else { 0.0 };
        assert_eq!(trainer.sampler().stats().weighted_share, weighted_share, "{strategy:?}");
        assert_eq!(trainer.save_error_map(&path)?, kept, "{strategy:?}");
        assert_eq!(path.exists(), kept, "{strategy:?}");
    }
    Ok(())
}

#[test]
fn what_is_not_finite_stops_the_step_before_it_updates_anything() -> Result<()> {
    let mut failures = Vec::new();
    for (poison, expected) in [(f32::NAN, None), (f32::INFINITY, None), (1e30, Some("loss"))] {
        for (k, name) in PARAMETERS.into_iter().enumerate() {
            // A large finite density is opaque, and nothing is wrong with that; a large finite point has left the
            // scene, which is an error of its own when the cells are triangulated.
            if expected.is_some() && name != "sh" {
                continue;
            }
            let mut trainer = trainer(config(40))?;
            for _ in 0..3 {
                trainer.step()?;
            }
            let var = trainer.foam().named_vars()[k].1;
            let mut poisoned = values(var);
            let len = poisoned.len();
            poisoned[len / 2..len / 2 + 30].fill(poison);
            var.set(&Tensor::from_vec(poisoned, var.shape(), &Device::Cpu)?)?;
            let before = fingerprint(&trainer)?;
            let case = format!("{poison} in {name}");
            match trainer.step() {
                Err(Error::NonFinite { tensor, count, first, step }) => {
                    if tensor != expected.unwrap_or(name)
                        || (expected.is_none() && first != len / 2)
                        || step != 3
                        || count == 0
                        || (expected.is_none() && count != 30)
                    {
                        failures.push(format!("{case}: {count} of {tensor} at step {step}"));
                    }
                }
                other => failures.push(format!("{case}: {other:?}")),
            }
            let after = fingerprint(&trainer)?;
            for (name, bits) in &before.0 {
                if after.0.get(name) != Some(bits) {
                    failures.push(format!("{case}: {name} has changed"));
                }
            }
            // Rays had been drawn for a loss: they were put back.
            if after.1 != before.1 {
                failures.push(format!("{case}: {} from {}", after.1, before.1));
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Ok(())
}

#[test]
fn the_map_outlives_a_change_of_resolution() -> Result<()> {
    let stages = vec![ResolutionStage { until: 0.5, factor: 2 }, ResolutionStage { until: 1.0, factor: 1 }];
    let sampler = SamplerConfig { batch_size: 500, warmup_steps: 5, patch: 4, ..SamplerConfig::default() };
    let mut trainer = trainer(TrainConfig { resolution: stages, sampler, ..config(24) })?;
    for _ in 0..12 {
        assert_eq!(trainer.sampler().num_rays(), 24 * 16 * 16);
        trainer.step()?;
    }
    // What the sampler's own resampling gives, and the rays that are drawn from it.
    let (tensors, header) = trainer.sampler().state()?;
    let mut expected = Sampler::from_state(&tensors, header)?;
    expected.resample(&[[32, 32]; 24])?;
    let carried = values(&expected.state()?.0["error_map"]);
    assert!(carried.iter().any(|&e| e > 0.0), "nothing was learned at half the resolution");
    let draw = expected.draw()?;

    let stats = trainer.step()?;
    assert!(stats.squared_error.is_finite());
    assert_eq!(trainer.sampler().num_rays(), 24 * 32 * 32);
    let mut drawn = vec![false; carried.len()];
    let entry_of = |ray: u32| {
        let (view, row, col) = (ray / 1024, ray % 1024 / 32, ray % 32);
        (view * 64 + row / 4 * 8 + col / 4) as usize
    };
    draw.indices_slice().iter().for_each(|&ray| drawn[entry_of(ray)] = true);
    for (entry, (new, old)) in error_map(&trainer)?.iter().zip(&carried).enumerate() {
        assert!(drawn[entry] || new.to_bits() == old.to_bits(), "entry {entry}: {old} became {new}");
    }
    while !trainer.is_finished() {
        trainer.step()?;
    }
    Ok(())
}

#[test]
fn rows_of_the_optimiser_follow_the_cells() -> Result<()> {
    const STEPS: u64 = 60;
    // With rates of zero the parameters move in refinement only; with few rays most rows see no gradient in a step.
    let still = Rate { initial: 0.0, last: 0.0 };
    let mut trainer = trainer(TrainConfig {
        optim: OptimConfig { points: still, density: still, color: still, ..OptimConfig::default() },
        sampler: SamplerConfig { batch_size: 40, ..SamplerConfig::default() },
        refine: RefineConfig {
            rounds: 1,
            from: 0.5,
            until: 0.9,
            max_cells: 700,
            prune_weight: 0.3,
            ..config(1).refine
        },
        ..config(STEPS)
    })?;
    for _ in 0..STEPS / 2 {
        assert_eq!(trainer.step()?.refined, None);
    }
    let before = trainer.checkpoint(Value::Null)?;
    let statistics = RefineStatistics {
        gradient: values(&before.tensors["refine.gradient"]),
        max_weight: values(&before.tensors["refine.max_weight"]),
        steps: STEPS / 2,
    };
    let mut foam = trainer.foam().deep_clone()?;
    let num_before = foam.num_cells();
    let map = foam.refine(&statistics, &trainer.config().refine, 700, trainer.config().seed, STEPS / 2)?;
    let num_new = map.is_new.iter().filter(|&&new| new).count();

    let stats = trainer.step()?;
    assert_eq!(stats.refined, Some((map.num_pruned, num_new)));
    assert!(map.num_pruned > 0 && num_new > 0, "{} removed, {num_new} added", map.num_pruned);
    assert_eq!(trainer.foam().num_cells(), num_before - map.num_pruned + num_new);
    for ((name, var), (_, expected)) in trainer.foam().named_vars().into_iter().zip(foam.named_vars()) {
        assert_eq!(capture::bits(var), capture::bits(expected), "{name}");
    }

    let after = trainer.checkpoint(Value::Null)?;
    // Statistics start anew, so that a row without gradient was left alone by the step.
    let touched = values(&after.tensors["refine.gradient"]);
    let beta1 = trainer.config().optim.adam.beta1 as f32;
    let old = before.tensors["optim.points"].get(0)?.to_vec2::<f32>()?;
    let new = after.tensors["optim.points"].get(0)?.to_vec2::<f32>()?;
    let mut checked = 0;
    for (row, &source) in map.source.iter().enumerate() {
        if touched[row] == 0.0 {
            let kept = if map.is_new[row] { 0.0 } else { beta1 };
            for (new, old) in new[row].iter().zip(&old[source as usize]) {
                assert!((new - kept * old).abs() <= 1e-6 * old.abs(), "row {row} of {source}: {new} from {old}");
                checked += usize::from(*new != 0.0);
            }
        }
    }
    assert!(checked > 50, "only {checked} moments could be compared");
    for name in PARAMETERS {
        assert_eq!(after.tensors[&format!("optim.{name}")].dims()[1], trainer.foam().num_cells(), "{name}");
    }
    while !trainer.is_finished() {
        trainer.step()?;
    }
    Ok(())
}

#[test]
fn any_batch_size_works() -> Result<()> {
    let mut few = dataset();
    few.train.truncate(2);
    for batch_size in [1, 3000, 1_048_576] {
        let sampler = SamplerConfig { batch_size, warmup_steps: 1, ..SamplerConfig::default() };
        let mut trainer = Trainer::new(few.clone(), TrainConfig { sampler, ..config(2) }, &Device::Cpu)?;
        for _ in 0..2 {
            let stats = trainer.step()?;
            assert_eq!(stats.num_rays, batch_size);
            assert!(stats.loss.is_finite(), "{batch_size}: loss {}", stats.loss);
        }
        let visited = trainer.sampler().stats().visited_fraction;
        assert!(batch_size == 1 || visited == 1.0, "{batch_size}: {visited} visited");
    }
    Ok(())
}

#[test]
fn the_cells_at_the_start_are_no_more_than_asked_for() -> Result<()> {
    let refine = RefineConfig { max_cells: 100, ..config(1).refine };
    let trainer = trainer(TrainConfig { refine, ..config(2) })?;
    assert!((98..=100).contains(&trainer.foam().num_cells()), "{} cells", trainer.foam().num_cells());
    let init = &trainer.config().init;
    assert_eq!(init.num_cells + init.num_outer_cells, trainer.foam().num_cells());
    assert_eq!(trainer.config().sampler.seed, trainer.config().seed);
    for max_cells in [0, 1] {
        let refine = RefineConfig { max_cells, ..config(1).refine };
        assert_eq!(TrainConfig { refine, ..config(2) }.validate().is_ok(), max_cells > 0);
    }
    Ok(())
}

#[test]
fn no_foam_shares_its_variables() -> Result<()> {
    let trainer = trainer(config(2))?;
    let foam = trainer.foam();
    let [points, raw_density, sh] = foam.named_vars().map(|(_, var)| var.as_tensor().clone());
    let built = Foam::from_parts(points, raw_density, sh, 1.0, foam.topology().clone())?;
    for copy in [built, foam.deep_clone()?] {
        let before = values(foam.raw_density());
        copy.raw_density().set(&copy.raw_density().ones_like()?)?;
        assert_eq!(values(foam.raw_density()), before);
        assert!(values(copy.raw_density()).iter().all(|&x| x == 1.0));
    }
    Ok(())
}

/// A step of Adam that is refused has written nothing; one after more updates than an i32 counts is an ordinary one.
#[test]
fn adam_refuses_what_it_cannot_do() -> Result<()> {
    let d = &Device::Cpu;
    let (param, grad) = (Tensor::new(&[[1f32, 2.], [3., 4.]], d)?, Tensor::ones((2, 2), DType::F32, d)?);
    let moments = Tensor::zeros((2, 2, 2), DType::F32, d)?;
    let settings = AdamSettings::default();
    let beta = |beta2| AdamSettings { beta2, ..AdamSettings::default() };
    let cases = [
        ("grad", adam_step(&param, &grad.to_dtype(DType::F64)?, &moments, &[0.1], 1, &settings)),
        ("moments", adam_step(&param, &grad, &moments.to_dtype(DType::F64)?, &[0.1], 1, &settings)),
        ("moments", adam_step(&param, &grad, &moments.transpose(1, 2)?, &[0.1], 1, &settings)),
        ("param", adam_step(&param.t()?, &grad, &moments, &[0.1], 1, &settings)),
        ("rates", adam_step(&param, &grad, &moments, &[0.1, f64::NAN], 1, &settings)),
        ("rates", adam_step(&param, &grad, &moments, &[0.1; 3], 1, &settings)),
        ("count", adam_step(&param, &grad, &moments, &[0.1], 0, &settings)),
        ("beta2", adam_step(&param, &grad, &moments, &[0.1], 1, &beta(1.0))),
        ("beta2", adam_step(&param, &grad, &moments, &[0.1], 1, &beta(f64::NAN))),
        ("eps", adam_step(&param, &grad, &moments, &[0.1], 1, &AdamSettings { eps: 0.0, ..settings.clone() })),
    ];
    for (name, result) in cases {
        let said = result.expect_err(name).to_string();
        assert!(said.contains(name), "{name}: {said}");
    }
    assert_eq!(values(&param), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(values(&moments), [0.0; 8]);
    adam_step(&param, &grad, &moments, &[0.1], u64::MAX, &settings)?;
    // Both corrections are 1: 0.1 * (1 - beta1) / sqrt(1 - beta2).
    let moved = 1.0 - values(&param)[0];
    assert!((moved - 0.1).abs() < 1e-6, "moved by {moved}");
    Ok(())
}

#[test]
fn odd_questions_to_a_foam_have_answers() -> Result<()> {
    let trainer = trainer(config(2))?;
    let (foam, d) = (trainer.foam(), &Device::Cpu);
    let topology = foam.topology();
    assert_eq!(topology.neighbors(usize::MAX).count() + topology.neighbors(foam.num_cells() + 8).count(), 0);
    assert_eq!(topology.moved_share(&vec![[0.0; 3]; foam.num_cells() + 1], 0.1), 1.0);
    let points = foam.points_host()?;
    assert_eq!(topology.moved_share(&points, 0.1), 0.0);
    let few = Topology::from_parts(vec![0; 4], Vec::new(), vec![[0.0; 3]; 3]).expect_err("three points");
    assert!(few.to_string().contains("foam.built_at"), "{few}");
    let nowhere = Adjacency { offsets: vec![0, 1, 2], neighbors: vec![7, 9] };
    assert_eq!(nearest_cell(&[[0.0; 3], [1.0; 3]], &nowhere, [1.0; 3], 0), 0);
    for origins in [Tensor::zeros(3, DType::F32, d)?, Tensor::zeros((1, 2), DType::F32, d)?] {
        let error = foam.trace(&origins, &origins, None, &TraceSettings::default()).expect_err("no origins");
        assert!(error.to_string().contains("origins"), "{error}");
    }
    let at_once = RefineConfig { from: 0.2, until: 0.2, ..RefineConfig::default() };
    assert_eq!([0.1, 0.9].map(|progress| at_once.rounds_at(progress)), [0, at_once.rounds]);
    let mut adam = Adam::for_named(&foam.named_vars(), AdamSettings::default())?;
    let map = RowMap { source: vec![0, 1], is_new: vec![false, true], num_pruned: foam.num_cells() - 1 };
    let error = adam.follow("raw_density", foam.raw_density(), &map).expect_err("two rows for all cells");
    assert!(error.to_string().contains("raw_density"), "{error}");
    assert_eq!(adam.state()?.0["raw_density"].dims(), [2, foam.num_cells()]);
    let cloud = [[0.0; 3], [1.0; 3]];
    let error = initial_cells(&config(1).init, 1.0, Some((&cloud, Some(&cloud[..1]))), &[], 0).expect_err("a colour");
    assert!(error.to_string().contains("cloud.colors"), "{error}");
    for init in [
        InitConfig { box_half: f32::NAN, ..InitConfig::default() },
        InitConfig { cloud_jitter: -1.0, ..InitConfig::default() },
        InitConfig { raw_density: f32::INFINITY, ..InitConfig::default() },
    ] {
        assert!(
            initial_cells(&init, 1.0, None, &[], 0).is_err() && TrainConfig { init, ..config(1) }.validate().is_err()
        );
    }
    let none = evaluate_views(foam, &[], [1.0; 3], &TraceSettings::default(), |_, _, _| Ok(()));
    assert!(matches!(none, Err(Error::Config { .. })), "{none:?}");
    let score = |psnr_db| ViewScore { name: String::new(), psnr_db, ssim: 1.0 };
    assert_eq!(Evaluation::of(vec![score(f64::INFINITY), score(20.0)]).psnr_db, 60.0);
    Ok(())
}
