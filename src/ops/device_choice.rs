//! Where to compute: a GPU if there is one that works, else the CPU.

use candle_core::Device;

use crate::{Error, Result};

/// A device, and why it was taken.
#[derive(Debug, Clone)]
pub struct DeviceChoice {
    /// The device.
    pub device: Device,
    /// Why, to be told to whoever asked.
    pub reason: String,
}

/// The device of this name: `cpu`, `cuda` (the first GPU) or `cuda:N`; without a name the first GPU if the crate was
/// built with the feature `cuda` and one of its kernels runs there, else the CPU.
///
/// All work on such a GPU belongs on the thread that calls this; see [`crate::train::Trainer::new`].
///
/// # Errors
///
/// [`Error::Config`] for a name that is none of these, or a GPU that was asked for by name and does not work.
///
/// ```
/// use candle_radfoam::ops::choose_device;
///
/// # fn main() -> candle_radfoam::Result<()> {
/// let choice = choose_device(None)?;
/// println!("{:?}: {}", choice.device.location(), choice.reason);
/// assert!(choose_device(Some("cpu"))?.device.is_cpu());
/// # Ok(())
/// # }
/// ```
pub fn choose_device(name: Option<&str>) -> Result<DeviceChoice> {
    let wrong = |found: String| Error::config("device", "cpu, cuda or cuda:N", found);
    let Some(name) = name else {
        return Ok(match working_gpu(0) {
            Ok(device) => DeviceChoice { device, reason: "the first GPU, which works".into() },
            Err(why) => DeviceChoice { device: Device::Cpu, reason: why },
        });
    };
    let ordinal = match name.split_once(':') {
        None if name == "cpu" => return Ok(DeviceChoice { device: Device::Cpu, reason: "as asked".into() }),
        None if name == "cuda" => 0,
        Some(("cuda", ordinal)) => ordinal.parse().map_err(|_| wrong(name.to_string()))?,
        _ => return Err(wrong(name.to_string())),
    };
    let device = working_gpu(ordinal).map_err(|why| Error::config("device", format!("{name} that works"), why))?;
    Ok(DeviceChoice { device, reason: "as asked".into() })
}

/// The GPU, or why it cannot be used.
#[cfg(feature = "cuda")]
fn working_gpu(ordinal: usize) -> Result<Device, String> {
    let device = Device::new_cuda(ordinal).map_err(|error| format!("no GPU {ordinal} to be had: {error}"))?;
    // A driver that is too old for the kernels says so only here.
    let tried = super::StepReport::new(&device).and_then(|report| report.try_out(&device));
    match tried {
        Ok(()) => Ok(device),
        Err(error) => Err(format!("GPU {ordinal} does not run this crate's kernels: {error}")),
    }
}

#[cfg(not(feature = "cuda"))]
fn working_gpu(_: usize) -> Result<Device, String> {
    Err("built without the feature `cuda`".into())
}
