//! How two files differ.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use safetensors::tensor::TensorView;
use serde::Serialize;
use serde_json::Value;

use super::contents::{Contents, for_each, leaves};

/// A tensor that is in both files, with other values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changed {
    /// Type and shape in each file, if those differ; then nothing else is compared.
    pub kinds: Option<[String; 2]>,
    /// Values that differ.
    pub count: u64,
    /// The largest difference, and the largest as a share of the larger value; NaN where only one of the two is.
    pub absolute: f64,
    pub relative: f64,
}

/// Everything in which two files differ.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Difference {
    pub only_in_a: Vec<String>,
    pub only_in_b: Vec<String>,
    pub changed: BTreeMap<String, Changed>,
    /// Header fields and metadata that differ: both values, `null` where there is none.
    pub header: BTreeMap<String, [Option<String>; 2]>,
}

impl Difference {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    pub fn of(a: &Contents, b: &Contents) -> Result<Self> {
        let (of_a, of_b) = (a.tensors()?, b.tensors()?);
        let only = |one: &BTreeMap<String, TensorView>, other: &BTreeMap<String, TensorView>| {
            one.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
        };
        let both = of_a.iter().filter_map(|(name, a)| Some((name, a, of_b.get(name)?)));
        let changed = both.filter_map(|(name, a, b)| Some((name.clone(), changed(a, b)?)));
        let (fields_a, fields_b) = (fields(a), fields(b));
        let names: BTreeSet<&String> = fields_a.keys().chain(fields_b.keys()).collect();
        let header = names.into_iter().filter_map(|name| {
            let pair = [fields_a.get(name).cloned(), fields_b.get(name).cloned()];
            (pair[0] != pair[1]).then(|| (name.clone(), pair))
        });
        Ok(Self {
            only_in_a: only(&of_a, &of_b),
            only_in_b: only(&of_b, &of_a),
            changed: changed.collect(),
            header: header.collect(),
        })
    }
}

fn fields(contents: &Contents) -> BTreeMap<String, String> {
    let mut fields = leaves(contents.header.as_ref().unwrap_or(&Value::Null), usize::MAX);
    fields.extend(contents.metadata.iter().map(|(key, value)| (format!("metadata {key}"), value.clone())));
    fields
}

fn changed(a: &TensorView, b: &TensorView) -> Option<Changed> {
    let kind = |tensor: &TensorView| format!("{:?} {:?}", tensor.dtype(), tensor.shape());
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        let kinds = Some([kind(a), kind(b)]);
        return Some(Changed { kinds, count: 0, absolute: 0.0, relative: 0.0 });
    }
    if a.data() == b.data() {
        return None;
    }
    let values = |tensor: &TensorView| {
        let mut values = Vec::new();
        for_each(tensor, |value| values.push(value)).then_some(values)
    };
    let (Some(of_a), Some(of_b)) = (values(a), values(b)) else {
        // Of a type whose values are not known here.
        let count = a.data().iter().zip(b.data()).filter(|(a, b)| a != b).count() as u64;
        return Some(Changed { kinds: None, count, absolute: f64::NAN, relative: f64::NAN });
    };
    let mut found = Changed { kinds: None, count: 0, absolute: 0.0, relative: 0.0 };
    // NaN beats every number, and stays.
    let larger = |most: f64, x: f64| if most.is_nan() || x <= most { most } else { x };
    for (a, b) in of_a.into_iter().zip(of_b) {
        // The same bits, so that a NaN equals itself and 0 does not equal -0.
        if a.to_bits() != b.to_bits() {
            found.count += 1;
            let absolute = if a == b { 0.0 } else { (a - b).abs() };
            let size = a.abs().max(b.abs());
            found.absolute = larger(found.absolute, absolute);
            found.relative = larger(found.relative, if absolute == 0.0 { 0.0 } else { absolute / size });
        }
    }
    Some(found)
}
