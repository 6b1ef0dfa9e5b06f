//! A foam as named tensors, and back.

use super::compact::decoded_sh;
use super::{Foam, NUM_SENTINELS, Topology};
use crate::checkpoint::{Checkpoint, in_file};
use crate::ops::moved;
use crate::{Error, Result};
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;
use std::path::Path;

impl Foam {
    /// Everything of the foam by tensor name, under `foam.`, on the host.
    ///
    /// # Errors
    ///
    /// Those of Candle.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let (topology, device) = (self.topology(), &Device::Cpu);
        let copy = |var: &Var| -> Result<Tensor> {
            // Of variables on the host, which change in place; what is read back from a device is a copy already.
            Ok(if var.device().is_cpu() { var.copy()? } else { moved(var, device)? })
        };
        let adjacency = topology.adjacency();
        let built_at = topology.built_at();
        Ok(BTreeMap::from([
            ("foam.points".into(), copy(self.points())?),
            ("foam.raw_density".into(), copy(self.raw_density())?),
            ("foam.sh".into(), copy(self.sh())?),
            ("foam.offsets".into(), Tensor::from_slice(&adjacency.offsets, adjacency.offsets.len(), device)?),
            ("foam.neighbors".into(), Tensor::from_slice(&adjacency.neighbors, adjacency.neighbors.len(), device)?),
            ("foam.built_at".into(), Tensor::from_slice(built_at.as_flattened(), (built_at.len(), 3), device)?),
        ]))
    }

    /// The foam of a [`Foam::state`] or [`Foam::compact_state`], read from the checkpoint at `path`.
    ///
    /// # Errors
    ///
    /// Tensors that are missing, of another dtype or shape, or not finite; an adjacency that is none.
    pub fn from_checkpoint(checkpoint: &Checkpoint, path: &Path) -> Result<Self> {
        Self::read(checkpoint, path).map_err(|error| in_file(path, error))
    }

    fn read(checkpoint: &Checkpoint, path: &Path) -> Result<Self> {
        // A compact file has the points once: its adjacency is taken to be theirs.
        let built_at = if checkpoint.tensors.contains_key("foam.sentinels") {
            let sentinels = checkpoint.values::<f32>(path, "foam.sentinels")?;
            if sentinels.len() != 3 * NUM_SENTINELS {
                let expected = format!("[{NUM_SENTINELS}, 3]");
                return Err(Error::file(path, "foam.sentinels", expected, format!("{} values", sentinels.len())));
            }
            [checkpoint.values(path, "foam.points")?, sentinels].concat()
        } else {
            checkpoint.values::<f32>(path, "foam.built_at")?
        };
        let topology = Topology::from_parts(
            checkpoint.values(path, "foam.offsets")?,
            checkpoint.values(path, "foam.neighbors")?,
            built_at.as_chunks::<3>().0.to_vec(),
        )?;
        Self::from_parts(
            checkpoint.tensor(path, "foam.points")?.clone(),
            checkpoint.tensor(path, "foam.raw_density")?.clone(),
            decoded_sh(checkpoint, path)?,
            checkpoint.field(path, "density_scale")?,
            topology,
        )
    }
}
