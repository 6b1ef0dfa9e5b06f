//! Batches for a training loop: drawn, turned into rays with colours, and told how well they were met.

#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
pub(crate) use device::DeviceBatch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::sampler::{Draw, DrawHeader, Sampler, SamplerConfig, SamplerHeader, check_errors};
use super::{Batch, Pixels};
use crate::{Error, Result};

/// What the tensors of a draw that waits begin with in [`Loader::state`].
const PENDING: &str = "pending.";

/// Gives batches without end, and takes back the errors of their rays.
///
/// With `lag` ([`SamplerConfig::lag`]) 0, draw `k` uses the error map as it was after update `k - 1`; with 1, as it was
/// after update `k - 2`, and the next batch is prepared on a thread of its own from the moment on that one is handed
/// out. At equal lag the bits are the same with that thread or without.
///
/// A loop for a model of one's own, here one that knows a single colour:
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use candle_radfoam::camera::{Camera, Lens, Pose};
/// use candle_radfoam::data::{Image, Loader, Pixels, SamplerConfig, View};
///
/// # fn main() -> candle_radfoam::Result<()> {
/// # let camera = Camera {
/// #     width: 8, height: 8, fx: 9.0, fy: 9.0, cx: 4.0, cy: 4.0, lens: Lens::Pinhole, world_from_camera: Pose::IDENTITY,
/// # };
/// # let views = [View::new("one", camera, Image::new(8, 8, 3, [255, 128, 0].repeat(64))?)];
/// let config = SamplerConfig { batch_size: 32, importance_exponent: 1.0, ..Default::default() };
/// let mut loader = Loader::new(Pixels::new(&views)?, config)?;
/// let color = Var::zeros(3, candle_core::DType::F32, &Device::Cpu)?;
/// for batch in loader.by_ref().take(100) {
///     let batch = batch?;
///     let rays = batch.rays().to_tensors(&Device::Cpu)?; // origins, directions, rgba
///     let difference = color.broadcast_sub(&rays.rgba.narrow(1, 0, 3)?)?;
///     let squared = difference.sqr()?.mean(1)?;
///     let loss = (&squared * batch.draw().weights()?)?.mean_all()?;
///     let grads = loss.backward()?;
///     color.set(&(color.as_tensor() - (grads.get(&color).unwrap() * 0.5)?)?)?;
///     batch.report(&squared.detach())?; // an error a ray: where it is large the next rays are drawn
/// }
/// assert!((color.to_vec1::<f32>()?[1] - 128.0 / 255.0).abs() < 1e-3);
/// assert_eq!(loader.stats()?.visited_fraction, 1.0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Loader {
    sampler: Arc<Sampler>,
    pixels: Arc<Pixels>,
    reports: Reports,
    next: Next,
    threaded: bool,
    seconds: LoaderSeconds,
    #[cfg(feature = "cuda")]
    device: Option<device::OnDevice>,
}

/// Errors that were reported and are not entered yet.
type Reports = Arc<Mutex<Vec<Report>>>;

#[derive(Debug)]
struct Report {
    draw: Draw,
    errors: Tensor,
}

/// The batch after the one that was handed out last.
#[derive(Debug)]
enum Next {
    /// Not begun.
    Open,
    /// Being prepared.
    Under(JoinHandle<Result<Prepared>>),
    /// Drawn; the sampler has moved on past it.
    Ready(Box<Prepared>),
    /// It could not be prepared, which whoever asks for it will be told.
    Failed(Error),
}

#[derive(Debug)]
struct Prepared {
    draw: Draw,
    rays: Batch,
    seconds: LoaderSeconds,
}

/// Where a [`Loader`]'s time went, in seconds since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoaderSeconds {
    /// Drawing rays, on whatever thread.
    pub draw: f64,
    /// Gathering their pixels and making rays of them, on whatever thread.
    pub gather: f64,
    /// Waiting for a batch that was being prepared.
    pub wait: f64,
    /// Entering errors into the map.
    pub update: f64,
}

/// A batch of a [`Loader`]: rays with colours, the draw that they come from, and the way back for their errors.
#[derive(Debug)]
pub struct LoadedBatch {
    draw: Draw,
    rays: Batch,
    reports: Reports,
}

impl LoadedBatch {
    /// The rays, with the colours of their pixels.
    pub fn rays(&self) -> &Batch {
        &self.rays
    }

    /// Which rays they are, with what probability and weight.
    pub fn draw(&self) -> &Draw {
        &self.draw
    }

    /// Tells the loader the errors of the rays, `[B]` f32 in the batch's order. They are in the map when the draw that
    /// is to use them is made. A batch need not be reported; those that are, in the order in which they were loaded.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] where `errors` is of another length or dtype.
    pub fn report(self, errors: &Tensor) -> Result<()> {
        check_errors(errors, self.draw.len())?;
        let report = Report { draw: self.draw, errors: errors.detach() };
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
        Ok(())
    }
}

/// Everything of a loader but its tensors and pixels, ready for a checkpoint's JSON header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoaderHeader {
    /// That of the sampler.
    pub sampler: SamplerHeader,
    /// That of the draw that waits for the next step.
    pub pending: Option<DrawHeader>,
}

fn prepare(sampler: &Sampler, pixels: &Pixels) -> Result<Prepared> {
    let started = Instant::now();
    let draw = sampler.prepare()?;
    let drawn = Instant::now();
    let rays = pixels.batch(draw.indices_slice())?;
    let seconds = LoaderSeconds {
        draw: (drawn - started).as_secs_f64(),
        gather: drawn.elapsed().as_secs_f64(),
        ..Default::default()
    };
    Ok(Prepared { draw, rays, seconds })
}

impl Loader {
    /// A loader of the pixels in use.
    ///
    /// # Errors
    ///
    /// Those of [`Sampler::with_in_use`].
    pub fn new(pixels: Pixels, config: SamplerConfig) -> Result<Self> {
        let sampler = Sampler::with_in_use(&pixels.shapes(), pixels.in_use(), config)?;
        Ok(Self::from_sampler(sampler, pixels))
    }

    fn from_sampler(sampler: Sampler, pixels: Pixels) -> Self {
        Self {
            sampler: Arc::new(sampler),
            pixels: Arc::new(pixels),
            reports: Reports::default(),
            next: Next::Open,
            threaded: true,
            seconds: LoaderSeconds::default(),
            #[cfg(feature = "cuda")]
            device: None,
        }
    }

    /// Whether a batch may be prepared on a thread of its own, where the lag allows it; it may if nothing is said.
    pub fn set_threaded(&mut self, threaded: bool) {
        self.threaded = threaded;
    }

    /// The pixels.
    pub fn pixels(&self) -> &Pixels {
        &self.pixels
    }

    /// The sampler, as it was when errors were last entered: see [`Loader::flush`].
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Where the time went so far.
    pub fn seconds(&self) -> LoaderSeconds {
        self.seconds
    }

    /// Enters what was reported, and says what the sampler has done so far.
    ///
    /// # Errors
    ///
    /// Those of [`Loader::flush`].
    pub fn stats(&mut self) -> Result<super::SamplerStats> {
        self.flush()?;
        Ok(self.sampler.stats())
    }

    /// The next batch; [`Iterator::next`] without the `Option`, which is always there.
    ///
    /// # Errors
    ///
    /// Those of [`Sampler::draw`], of [`Pixels::batch`], and of [`Sampler::update`] with what was reported.
    pub fn next_batch(&mut self) -> Result<LoadedBatch> {
        self.flush()?;
        let Prepared { draw, rays, .. } = match std::mem::replace(&mut self.next, Next::Open) {
            Next::Ready(prepared) => *prepared,
            Next::Failed(error) => return Err(error),
            _ => self.prepare_here()?,
        };
        if self.sampler.config().lag == 1 {
            // The errors of the batch that is handed out are not known yet: the next draw does without them.
            self.next = match self.spawn() {
                Some(thread) => Next::Under(thread),
                None => self.prepare_here().map_or_else(Next::Failed, |prepared| Next::Ready(Box::new(prepared))),
            };
        }
        Ok(LoadedBatch { draw, rays, reports: self.reports.clone() })
    }

    /// A thread that prepares the next batch, where one is wanted and to be had.
    fn spawn(&self) -> Option<JoinHandle<Result<Prepared>>> {
        let (sampler, pixels) = (self.sampler.clone(), self.pixels.clone());
        let work = move || prepare(&sampler, &pixels);
        self.threaded.then(|| std::thread::Builder::new().spawn(work).ok()).flatten()
    }

    fn prepare_here(&mut self) -> Result<Prepared> {
        let prepared = prepare(&self.sampler, &self.pixels)?;
        self.take_over(&prepared)?;
        Ok(prepared)
    }

    fn take_over(&mut self, prepared: &Prepared) -> Result<()> {
        self.seconds.draw += prepared.seconds.draw;
        self.seconds.gather += prepared.seconds.gather;
        self.sampler_mut()?.commit(&prepared.draw);
        Ok(())
    }

    /// The sampler, which nobody else holds while no batch is being prepared.
    fn sampler_mut(&mut self) -> Result<&mut Sampler> {
        let shared = || Error::config("loader", "a sampler of its own", "one that is in use elsewhere");
        Arc::get_mut(&mut self.sampler).ok_or_else(shared)
    }

    /// Waits for the batch that is being prepared, if one is.
    fn join(&mut self) -> Result<()> {
        self.next = match std::mem::replace(&mut self.next, Next::Open) {
            Next::Under(thread) => {
                let started = Instant::now();
                let panicked = |_| Err(Error::config("loader", "a batch", "a panic while it was prepared"));
                let joined = thread.join().unwrap_or_else(panicked);
                self.seconds.wait += started.elapsed().as_secs_f64();
                match joined {
                    Ok(prepared) => {
                        self.take_over(&prepared)?;
                        Next::Ready(Box::new(prepared))
                    }
                    Err(error) => Next::Failed(error),
                }
            }
            next => next,
        };
        Ok(())
    }

    /// Enters all errors that were reported; the next batch does so by itself.
    ///
    /// # Errors
    ///
    /// Those of [`Sampler::update`], as where a batch was reported after a later one. A report that is refused is
    /// dropped, and so are those after it.
    pub fn flush(&mut self) -> Result<()> {
        // What is being prepared does not see the errors that are entered here, whenever they were reported.
        self.join()?;
        let started = Instant::now();
        let reports = std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner));
        for Report { draw, errors } in reports {
            self.sampler_mut()?.update(draw, &errors)?;
        }
        self.seconds.update += started.elapsed().as_secs_f64();
        Ok(())
    }

    /// Takes back the last batch, for a step that failed: loader and sampler are as they were before it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] where it is not the last one.
    pub fn put_back(&mut self, batch: LoadedBatch) -> Result<()> {
        self.flush()?;
        let LoadedBatch { draw, rays, .. } = batch;
        match std::mem::replace(&mut self.next, Next::Open) {
            // The draw after it saw the map that a new one would see: taken back, it will be the same again.
            Next::Ready(after) => {
                if !draw.is_just_before(&after.draw) {
                    let found = format!("that of step {}", draw.step());
                    let expected = format!("the last batch, of step {}", after.draw.step().saturating_sub(1));
                    self.next = Next::Ready(after);
                    return Err(Error::config("batch", expected, found));
                }
                self.sampler_mut()?.put_back(after.draw)?;
                self.next = Next::Ready(Box::new(Prepared { draw, rays, seconds: LoaderSeconds::default() }));
            }
            _ => self.sampler_mut()?.put_back(draw)?,
        }
        Ok(())
    }

    /// Goes on with the same views at another resolution: the map is carried over, and a draw that waits is made anew.
    ///
    /// # Errors
    ///
    /// Those of [`Sampler::resample_in_use`].
    pub fn set_pixels(&mut self, pixels: Pixels) -> Result<()> {
        self.flush()?;
        let pixels = Arc::new(pixels);
        #[cfg(feature = "cuda")]
        if self.set_pixels_on_device(&pixels)? {
            return Ok(());
        }
        if let Next::Ready(prepared) = std::mem::replace(&mut self.next, Next::Open) {
            self.sampler_mut()?.put_back(prepared.draw)?;
        }
        self.sampler_mut()?.resample_in_use(&pixels.shapes(), pixels.in_use())?;
        self.pixels = pixels;
        Ok(())
    }

    /// Everything the next batch depends on, but for the pixels. Errors that were reported and not entered yet (see
    /// [`Loader::flush`]) are no part of it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] while a batch is being prepared: flush before. Where Candle cannot make a tensor.
    pub fn state(&self) -> Result<(BTreeMap<String, Tensor>, LoaderHeader)> {
        let (mut tensors, sampler) = self.sampler.state()?;
        #[cfg(feature = "cuda")]
        let on_device = self.pending_on_device()?;
        #[cfg(not(feature = "cuda"))]
        let on_device: Option<Draw> = None;
        let pending = match &self.next {
            Next::Under(_) => return Err(Error::config("loader", "to be flushed", "a batch being prepared")),
            Next::Ready(prepared) => Some(&prepared.draw),
            Next::Open | Next::Failed(_) => on_device.as_ref(),
        };
        let pending = pending.map(Draw::state).transpose()?.map(|(draw, header)| {
            tensors.extend(draw.into_iter().map(|(name, tensor)| (format!("{PENDING}{name}"), tensor)));
            header
        });
        Ok((tensors, LoaderHeader { sampler, pending }))
    }

    /// The loader that [`Loader::state`] was asked of, with the same pixels. It goes on with the same bits.
    ///
    /// # Errors
    ///
    /// Those of [`Sampler::from_state`]; [`Error::Config`] where the pixels are not those of the sampler, by size or by
    /// which are in use; [`Error::Tensor`] where the draw that waits is incomplete or has rays that are none.
    pub fn from_state(tensors: &BTreeMap<String, Tensor>, header: LoaderHeader, pixels: Pixels) -> Result<Self> {
        let sampler = Sampler::from_state(tensors, header.sampler)?;
        let (expected, found) = (pixels.shapes(), sampler.shapes());
        if found != expected {
            let view = expected.iter().zip(&found).position(|(a, b)| a != b);
            let view = view.unwrap_or(expected.len().min(found.len()));
            let told = |shapes: &[[u32; 2]]| format!("{} views, view {view} of {:?}", shapes.len(), shapes.get(view));
            return Err(Error::config("header.sampler", told(&expected), told(&found)));
        }
        if sampler.in_use() != pixels.in_use() {
            let found = format!("{} others", sampler.num_rays());
            let count = pixels.in_use().map_or(pixels.len(), |in_use| in_use.count() as usize);
            return Err(Error::config("header.sampler", format!("the {count} pixels in use"), found));
        }
        let mut loader = Self::from_sampler(sampler, pixels);
        if let Some(header) = header.pending {
            let named = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(PENDING)?.into(), tensor.clone()));
            let mut draw = Draw::from_state(&tensors.iter().filter_map(named).collect(), header)?;
            loader.sampler.tell_pending(&mut draw);
            loader.sampler.check_pending(&draw)?;
            let rays = loader.pixels.batch(draw.indices_slice())?;
            loader.next = Next::Ready(Box::new(Prepared { draw, rays, seconds: LoaderSeconds::default() }));
        }
        Ok(loader)
    }
}

/// Without end: for a number of steps, `loader.by_ref().take(steps)`.
impl Iterator for Loader {
    type Item = Result<LoadedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_batch())
    }
}
