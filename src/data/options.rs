//! What to load of a capture: the size of its images, and which views are held out.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Every how manieth view is held out when a capture has no split of its own, as Mip-NeRF 360 does it.
const HELD_OUT: usize = 8;

/// The size at which images are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resize {
    /// As in the files.
    #[default]
    None,
    /// Both sides divided by a factor, rounded.
    Downsample(u32),
    /// Every image at this size, not larger than in its file.
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
}

impl Resize {
    /// The size for an image of `width` x `height` pixels.
    ///
    /// # Errors
    ///
    /// If the setting has a zero in it, or asks for a size beyond the file's.
    pub fn size(self, width: u32, height: u32) -> Result<(u32, u32)> {
        match self {
            Self::None => Ok((width, height)),
            Self::Downsample(0) => Err(Error::config("resize", "a factor of at least 1", "0")),
            Self::Downsample(factor) => Ok((divide(width, factor), divide(height, factor))),
            Self::Size { width: w, height: h } if (1..=width).contains(&w) && (1..=height).contains(&h) => Ok((w, h)),
            Self::Size { width: w, height: h } => {
                let expected = format!("a size from 1x1 to the file's {width}x{height}");
                Err(Error::config("resize", expected, format!("{w}x{h}")))
            }
        }
    }
}

/// `length / factor`, rounded, at least one pixel.
fn divide(length: u32, factor: u32) -> u32 {
    let rounded = (u64::from(length) + u64::from(factor / 2)) / u64::from(factor);
    (rounded as u32).max(1)
}

impl FromStr for Resize {
    type Err = Error;

    /// `none`, a factor (`4`) or a size (`640x480`).
    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.split_once('x') {
            _ if text == "none" => Some(Self::None),
            Some((w, h)) => w.parse().ok().zip(h.parse().ok()).map(|(width, height)| Self::Size { width, height }),
            None => text.parse().ok().map(Self::Downsample),
        };
        let positive = parsed
            .filter(|resize| !matches!(resize, Self::Downsample(0)))
            .filter(|resize| !matches!(resize, Self::Size { width, height } if *width == 0 || *height == 0));
        positive.ok_or_else(|| Error::config("resize", "none, a factor or WIDTHxHEIGHT", format!("\"{text}\"")))
    }
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Downsample(factor) => write!(f, "{factor}"),
            Self::Size { width, height } => write!(f, "{width}x{height}"),
        }
    }
}

/// Which views are held out for testing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TestViews {
    /// The capture's own split; if it has none, every 8th view by name, the first included.
    #[default]
    Default,
    /// Every `n`th of all views by name, beginning with the one of index `offset < n`.
    Every {
        /// One of how many is held out.
        n: usize,
        /// Index of the first that is.
        offset: usize,
    },
    /// The views of these names, with or without folder and ending.
    Names(Vec<String>),
}

impl FromStr for TestViews {
    type Err = Error;

    /// `default`, `every:N[:OFFSET]` or `NAME,NAME,...`.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |found: &str| {
            let expected = "default, every:N[:OFFSET] with OFFSET < N, or NAME,NAME,...";
            Error::config("test_views", expected, format!("\"{found}\""))
        };
        if text == "default" {
            return Ok(Self::Default);
        }
        if let Some(every) = text.strip_prefix("every:") {
            let (n, offset) = every.split_once(':').unwrap_or((every, "0"));
            let (n, offset) = n.parse().ok().zip(offset.parse().ok()).ok_or_else(|| refuse(text))?;
            return if offset < n { Ok(Self::Every { n, offset }) } else { Err(refuse(text)) };
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_string()).collect();
        if names.iter().any(String::is_empty) {
            return Err(refuse(text));
        }
        Ok(Self::Names(names))
    }
}

impl fmt::Display for TestViews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Every { n, offset } => write!(f, "every:{n}:{offset}"),
            Self::Names(names) => f.write_str(&names.join(",")),
        }
    }
}

/// What to load of a capture, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// The size at which images are kept. Default: as in the files.
    pub resize: Resize,
    /// Which views are held out. Default: the capture's own split, or every 8th.
    pub test_views: TestViews,
}

/// For each of the sorted `names`, whether it is held out.
pub(super) fn held_out(names: &[&str], test_views: &TestViews, own: Option<&BTreeSet<String>>) -> Result<Vec<bool>> {
    let every = |n: usize, offset: usize| (0..names.len()).map(|i| i % n == offset).collect();
    match (test_views, own) {
        (TestViews::Default, Some(own)) => Ok(names.iter().map(|&name| own.contains(name)).collect()),
        // A single view is for training.
        (TestViews::Default, None) if names.len() == 1 => Ok(vec![false]),
        (TestViews::Default, None) => Ok(every(HELD_OUT, 0)),
        (&TestViews::Every { n, offset }, _) if offset < n => Ok(every(n, offset)),
        (TestViews::Every { n, offset }, _) => {
            Err(Error::config("test_views", format!("an offset below {n}"), offset.to_string()))
        }
        (TestViews::Names(wanted), _) => {
            let mut held_out = vec![false; names.len()];
            for wanted in wanted {
                let exact = names.iter().position(|name| name == wanted);
                let alike = || (0..names.len()).filter(|&i| same_view(names[i], wanted)).collect();
                match exact.map_or_else(alike, |i| vec![i])[..] {
                    [one] => held_out[one] = true,
                    ref found => {
                        let found = found.iter().map(|&i| names[i]).collect::<Vec<_>>().join(", ");
                        let found = if found.is_empty() { "none".to_string() } else { found };
                        return Err(Error::config("test_views", format!("one view named {wanted}"), found));
                    }
                }
            }
            Ok(held_out)
        }
    }
}

/// Whether `wanted` is the last part of `name`, with or without its ending.
fn same_view(name: &str, wanted: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last == wanted || last.rsplit_once('.').is_some_and(|(stem, _)| stem == wanted)
}
