//! What can go wrong, said so that it can be mended: the file or tensor, what was expected, what was found.

use std::path::{Path, PathBuf};

/// The result of everything in this crate but the ops, which return [`candle_core::Result`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was read, and what is in it is not what it should be.
    #[error("{}: {field}: expected {expected}, found {found}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The field, line or entry inside it.
        field: String,
        /// What was expected there.
        expected: String,
        /// What was found there.
        found: String,
    },
    /// A tensor has the wrong shape, dtype, device or values.
    #[error("tensor {name}: expected {expected}, found {found}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What was expected of it.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A setting is out of its range, or contradicts another.
    #[error("setting {field}: expected {expected}, found {found}")]
    Config {
        /// The setting.
        field: String,
        /// What was expected.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A loss, gradient or parameter became NaN or infinite. Nothing was updated from it.
    #[error("tensor {tensor}: {count} non-finite value(s) at step {step}, the first at {first}")]
    NonFinite {
        /// The tensor.
        tensor: String,
        /// How many of its values are not finite.
        count: usize,
        /// Where the first of them is, counted row by row.
        first: usize,
        /// The step at which that was seen.
        step: u64,
    },
    /// The set of points cannot be triangulated.
    #[error("geometry: {0}")]
    Geometry(String),
    /// Candle reported an error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// An [`Error::File`]: in `path`, `field` should be `expected` and is `found`.
    pub fn file(
        path: impl AsRef<Path>,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::File {
            path: path.as_ref().to_path_buf(),
            field: field.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// An [`Error::Tensor`]: `name` should be `expected` and is `found`.
    pub fn tensor(name: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), expected: expected.into(), found: found.into() }
    }

    /// An [`Error::Config`]: `field` should be `expected` and is `found`.
    pub fn config(field: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Config { field: field.into(), expected: expected.into(), found: found.into() }
    }
}
