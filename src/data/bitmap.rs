//! A set of pixels, one bit each, that counts and finds its members.

use rayon::prelude::*;

use crate::{Error, Result};

/// Words between two stored counts: one count every 512 pixels costs 1/16 of a bit each.
const WORDS: usize = 8;
const WORD_BITS: usize = u64::BITS as usize;

/// Which pixels are in use, by flat index.
///
/// `rank` and `select` go between the flat index of a pixel and its place among those in use; neither looks at more
/// than 64 bytes of the set beside a table of `len / 512` counts (Jacobson, "Space-efficient Static Trees and
/// Graphs", FOCS 1989).
///
/// ```
/// use candle_radfoam::data::Bitmap;
///
/// # fn main() -> candle_radfoam::Result<()> {
/// let odd = Bitmap::from_fn(1000, |i| i % 2 == 1)?;
/// assert_eq!((odd.count(), odd.get(7), odd.rank(7), odd.select(3)), (500, true, 3, Some(7)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    len: usize,
    words: Vec<u64>,
    /// Pixels in use before each group of [`WORDS`] words, and in all.
    counts: Vec<u32>,
}

impl Bitmap {
    /// The set of the pixels below `len` for which `in_use` holds.
    ///
    /// # Errors
    ///
    /// If `len` is not below 2^32.
    pub fn from_fn(len: usize, in_use: impl Fn(usize) -> bool + Sync) -> Result<Self> {
        if u32::try_from(len).is_err() {
            return Err(Error::config("pixels", "fewer than 2^32", len.to_string()));
        }
        let word = |word: usize| {
            let pixels = word * WORD_BITS..((word + 1) * WORD_BITS).min(len);
            pixels.rev().fold(0, |bits, pixel| bits << 1 | u64::from(in_use(pixel)))
        };
        Ok(Self::from_words(len, (0..len.div_ceil(WORD_BITS)).into_par_iter().map(word).collect()))
    }

    fn from_words(len: usize, words: Vec<u64>) -> Self {
        let mut counts = Vec::with_capacity(words.len() / WORDS + 2);
        let mut count = 0;
        for group in words.chunks(WORDS) {
            counts.push(count);
            count += group.iter().map(|word| word.count_ones()).sum::<u32>();
        }
        counts.push(count);
        Self { len, words, counts }
    }

    /// The number of pixels, in use or not.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no pixels at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of pixels in use.
    pub fn count(&self) -> u32 {
        self.counts.last().copied().unwrap_or(0)
    }

    /// Whether `pixel` is in use; false beyond the last.
    #[inline]
    pub fn get(&self, pixel: usize) -> bool {
        pixel < self.len && self.words[pixel / WORD_BITS] >> (pixel % WORD_BITS) & 1 == 1
    }

    /// The number of pixels in use below `pixel`.
    #[inline]
    pub fn rank(&self, pixel: usize) -> u32 {
        if pixel >= self.len {
            return self.count();
        }
        let (word, group) = (pixel / WORD_BITS, pixel / (WORDS * WORD_BITS));
        let whole: u32 = self.words[group * WORDS..word].iter().map(|word| word.count_ones()).sum();
        let below = self.words[word] & ((1 << (pixel % WORD_BITS)) - 1);
        self.counts[group] + whole + below.count_ones()
    }

    /// The pixel in use of rank `rank`, or `None` where there are not that many.
    #[inline]
    pub fn select(&self, rank: u32) -> Option<u32> {
        if rank >= self.count() {
            return None;
        }
        let group = self.counts.partition_point(|&count| count <= rank) - 1;
        let mut rest = rank - self.counts[group];
        let mut at = group * WORDS;
        while self.words[at].count_ones() <= rest {
            rest -= self.words[at].count_ones();
            at += 1;
        }
        let mut word = self.words[at];
        for _ in 0..rest {
            word &= word - 1;
        }
        Some((at * WORD_BITS) as u32 + word.trailing_zeros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_and_select_agree_with_counting() {
        for len in [0, 1, 63, 64, 65, 511, 512, 513, 5000] {
            let patterns: [fn(usize) -> bool; 5] = [
                |_| true,
                |_| false,
                |i| i % 3 == 1,
                |i| i / 600 % 2 == 1,
                |i| i.wrapping_mul(2_654_435_761) >> 7 & 3 == 0,
            ];
            for (pattern, in_use) in patterns.iter().enumerate() {
                let set = Bitmap::from_fn(len, in_use).unwrap();
                let members: Vec<usize> = (0..len).filter(|&i| in_use(i)).collect();
                assert_eq!(set.count() as usize, members.len(), "{len}, pattern {pattern}");
                for (rank, &pixel) in members.iter().enumerate() {
                    assert_eq!(set.select(rank as u32), Some(pixel as u32), "{len}, pattern {pattern}");
                }
                assert_eq!(set.select(members.len() as u32), None);
                for pixel in 0..len + 2 {
                    let below = members.iter().filter(|&&member| member < pixel).count();
                    assert_eq!((set.rank(pixel) as usize, set.get(pixel)), (below, members.contains(&pixel)));
                }
            }
        }
    }
}
