//! Copies between host and device, counted.

use std::cell::Cell;

use candle_core::{Device, Result, Tensor};

/// Bytes that a thread has copied between host and device through this crate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    pub to_device: u64,
    pub to_host: u64,
}

thread_local! {
    static COPIED: Cell<Copied> = const { Cell::new(Copied { to_device: 0, to_host: 0 }) };
}

/// What this thread has copied so far. Work on a device belongs on one thread, so that no other's is counted.
#[cfg(feature = "cuda")]
pub(crate) fn copied() -> Copied {
    COPIED.get()
}

pub(super) fn count_upload<T>(num: usize) {
    let copied = COPIED.get();
    COPIED.set(Copied { to_device: copied.to_device + (num * size_of::<T>()) as u64, ..copied });
}

pub(super) fn count_read_back<T>(num: usize) {
    let copied = COPIED.get();
    COPIED.set(Copied { to_host: copied.to_host + (num * size_of::<T>()) as u64, ..copied });
}

/// `tensor` on `device`: itself if that is where it is.
pub(crate) fn moved(tensor: &Tensor, device: &Device) -> Result<Tensor> {
    let num_bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
    match (tensor.device(), device) {
        (Device::Cpu, Device::Cpu) => {}
        (Device::Cpu, _) => count_upload::<u8>(num_bytes),
        (_, Device::Cpu) => count_read_back::<u8>(num_bytes),
        _ => {}
    }
    tensor.to_device(device)
}
