//! The vector code against the definition, and the sums against a rebuild.

use super::{
    lanes::{LANES, MAX_UNIFORM, Rule, Scalar, Sums},
    sums::{BLOCK_COUNT_SHIFT, widen},
    *,
};
use crate::{
    ops::{Jitter, weighted_draw::cpu},
    rng::{Rng, Stream},
};

/// Sizes around the borders of groups, blocks and tasks.
const SIZES: [usize; 6] = [1, 17, 255, 256, 300, 10_007];

fn on_threads<R: Send>(num: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(num).build().unwrap().install(f)
}

/// A map of uneven errors, some of them zero, some at the cap, some unvisited.
fn uneven_map(len: usize, kind: u64) -> ErrorMap {
    let rng = Rng::new(21, Stream::Init, kind);
    let value = |i: u32| match (kind, rng.below(i, 11)) {
        (0, _) => -0.0,
        (1, _) => 1.0,
        (2, 0..9) => 0.0,
        (_, 0) => 0.0,
        (_, 1) => 1.0,
        (_, 2..4) => -0.25,
        _ => rng.uniform4(i)[3].powi(6),
    };
    ErrorMap::from_values((0..len as u32).map(value).collect(), ErrorMapSettings::default()).unwrap()
}

/// Dense and sparse, on any number of threads: every bit is that of the cursor.
#[test]
fn draws_are_those_of_the_definition() {
    let mut wrong = Vec::new();
    for len in SIZES {
        for kind in 0..5 {
            let map = uneven_map(len, kind);
            for num in [1, 63, 700, 20_000] {
                for fraction in [0.0, 0.3, 0.5, 0.99] {
                    for jitter in [Jitter::Stratified, Jitter::Systematic] {
                        let masses = map.masses(fraction);
                        let strata = |total| Strata::with_jitter(jitter, num, total, 5, 2);
                        let expected = cpu::draw(&masses, num, strata);
                        let bits = |draws: &HostDraws| {
                            let p: Vec<u32> = draws.probability.iter().map(|p| p.to_bits()).collect();
                            (draws.indices.clone(), p)
                        };
                        let expected = bits(&expected);
                        for (name, body) in draw::bodies() {
                            if bits(&draw::draw_by(body, &masses, num, strata)) != expected {
                                wrong.push(format!("{name}: {num} of {len}, {kind}, {fraction}, {jitter:?}"));
                            }
                        }
                        for threads in if num > 10_000 { vec![1, 2, 3, 8] } else { vec![] } {
                            if bits(&on_threads(threads, || draw::draw(&masses, num, strata))) != expected {
                                wrong
                                    .push(format!("{num} of {len}, {kind}, {fraction}, {jitter:?}, {threads} threads"));
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn vector_sums_are_the_scalar_ones() {
    #[cfg(target_arch = "x86_64")]
    use super::lanes::Sse2 as Fast;
    // What another processor has instead.
    #[cfg(not(target_arch = "x86_64"))]
    use super::lanes::Scalar as Fast;

    let leaf = Leaf::new(1.0);
    for (kind, prior, uniform) in
        [(0, FULL_MASS, MAX_UNIFORM as u32), (1, 0, MAX_UNIFORM as u32), (3, 1023, 1), (4, 1024, 5), (4, 3_000_001, 77)]
    {
        let rule = Rule { scale: leaf.scale, prior, uniform };
        let map = uneven_map(10_007, kind);
        for (lane, group) in map.values.as_chunks::<LANES>().0.iter().enumerate() {
            check(Fast::of_entries(group, &rule), Scalar::of_entries(group, &rule), lane as u32);
        }
        for (lane, block) in map.groups.as_chunks::<LANES>().0.iter().enumerate() {
            check(Fast::of_groups(block, &rule), Scalar::of_groups(block, &rule), lane as u32);
        }
    }

    fn check(fast: impl Sums, scalar: Scalar, k: u32) {
        assert_eq!(fast.before(), scalar.before());
        let total = scalar.before()[LANES];
        let random = Rng::new(1, Stream::Init, 0).below(k, u64::from(total)) as u32;
        let borders = scalar.before().iter().flat_map(|&sum| [sum.saturating_sub(1), sum]);
        for point in borders.chain([random]).filter(|&point| point < total) {
            assert_eq!(fast.find(point), scalar.find(point), "{point} in {:?}", scalar.before());
        }
    }
}

/// Masses without memory: indices close to 2^32, the vector code's arithmetic excepted.
#[test]
fn the_last_of_four_billion_entries_is_drawn() {
    struct Even(usize);
    impl Masses for Even {
        fn len(&self) -> usize {
            self.0
        }
        fn entry(&self, _entry: usize) -> u64 {
            // The most that an entry can have: full, and 99 parts of uniform share on one of its own.
            100 * u64::from(FULL_MASS)
        }
        fn block(&self, block: usize) -> u64 {
            self.entry(0) * cpu::block_len(self.0, block) as u64
        }
    }
    let len = u32::MAX as usize - 1;
    let num = 1000;
    let draws = cpu::draw(&Even(len), num, |total| Strata::new(num, total, 3, 0));
    for (k, &index) in draws.indices.iter().enumerate() {
        let (from, to) = (k * len / num, (k + 1) * len / num);
        assert!((from..=to).contains(&(index as usize)), "draw {k}: {index}, expected {from} to {to}");
    }
    assert_eq!(draws.probability, vec![(1.0 / len as f64) as f32; num]);
}

fn assert_sums_are_a_rebuild(map: &ErrorMap, what: &str) {
    let rebuilt = ErrorMap::from_slice(map.values(), map.settings).unwrap();
    assert_eq!(map.groups[..], rebuilt.groups[..], "groups, {what}");
    assert_eq!(map.blocks, rebuilt.blocks, "blocks, {what}");
}

#[test]
fn sums_equal_a_rebuild_after_many_updates() {
    for len in SIZES {
        for duplicates in [Duplicates::Sequential, Duplicates::Mean] {
            let mut map = ErrorMap::new(len, ErrorMapSettings { duplicates, ..Default::default() }).unwrap();
            for step in 0..300 {
                let rng = Rng::new(11, Stream::Init, step);
                let batch = 1 + rng.below(u32::MAX, 2 * len as u64) as u32;
                let mut indices: Vec<u32> = (0..batch).map(|k| rng.below(k, len as u64) as u32).collect();
                if step % 2 == 0 {
                    indices.sort_unstable();
                }
                // From -0.25 to 2.25, so that negative and capped values occur, and now and then a NaN.
                let value = |k: u32| if k % 97 == 13 { f32::NAN } else { 2.5 * rng.uniform4(k)[3] - 0.25 };
                let values: Vec<f32> = (0..batch).map(value).collect();
                map.update_host(&indices, &values).unwrap();
            }
            assert_sums_are_a_rebuild(&map, &format!("{len} entries, {duplicates:?}"));
            assert!(map.visited_fraction() > 0.5, "the updates reached {} of {len}", map.visited_fraction());
        }
    }
}

/// A million updates of a few entries each: integers do not drift.
#[test]
fn sums_do_not_drift_in_a_million_updates() {
    let mut map = ErrorMap::new(2000, ErrorMapSettings { cap: 0.7, ..Default::default() }).unwrap();
    on_threads(1, || {
        for step in 0..1_000_000 {
            let [a, b, c, d] = Rng::new(12, Stream::Init, step).block(0);
            let indices = [a % 2000, a % 2000, b % 2000];
            let unit = |x: u32| x as f32 / u32::MAX as f32;
            map.update_host(&indices, &[unit(c), unit(d), unit(c ^ d)]).unwrap();
        }
    });
    assert_sums_are_a_rebuild(&map, "a million updates");
    assert_eq!(map.visited_fraction(), 1.0);
}

#[test]
fn full_groups_and_counts_do_not_run_into_each_other() {
    let full = ErrorMap::from_values(vec![1.0; BLOCK], ErrorMapSettings::default()).unwrap();
    assert_eq!(full.blocks, [u64::from(FULL_MASS) * BLOCK as u64]);
    assert_eq!(full.visited_fraction(), 1.0);
    let none = ErrorMap::new(BLOCK, ErrorMapSettings::default()).unwrap();
    assert_eq!(none.blocks, [(BLOCK as u64) << BLOCK_COUNT_SHIFT]);
    assert_eq!((none.visited_fraction(), none.mean()), (0.0, 0.0));
    assert_eq!(none.max_error_bounds(), [0.0, 0.0]);
}

#[test]
fn growth_is_the_difference_of_the_widened_words() {
    let leaf = Leaf::new(1.0);
    for (old, new) in [(-0.0, 0.0), (-0.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.25, 0.5), (0.5, 0.25)] {
        let (old, new) = (leaf.word(old), leaf.word(new));
        assert_eq!(sums::growth(old, new), (new.wrapping_sub(old), widen(new).wrapping_sub(widen(old))));
    }
}

#[test]
fn the_largest_error_lies_within_its_bounds() {
    for len in SIZES {
        for kind in 0..5 {
            let map = uneven_map(len, kind);
            let max = map.values().iter().filter(|v| v.is_sign_positive()).fold(0.0, |max: f32, &v| max.max(v));
            let [low, high] = map.max_error_bounds();
            // Errors are seen rounded down to 2^-22.
            let max = f64::from((max * FULL_MASS as f32).floor() / FULL_MASS as f32);
            assert!(low <= max && max <= high, "{len} entries, {kind}: {max} outside {low} to {high}");
        }
    }
    let mut values = vec![0.0; 1000];
    values[700] = 0.5;
    let map = ErrorMap::from_values(values, ErrorMapSettings::default()).unwrap();
    assert_eq!(map.max_error_bounds(), [0.5, 0.5]);
}

/// Map, sums and the running sums of a draw.
#[test]
fn an_entry_takes_4_3_bytes() {
    let len = 1_000_000;
    let map = ErrorMap::new(len, ErrorMapSettings::default()).unwrap();
    let bytes = size_of_val(&map.values[..]) + size_of_val(&map.groups[..]) + 2 * size_of_val(&map.blocks[..]);
    assert!(bytes as f64 / len as f64 <= 4.32, "{} bytes an entry", bytes as f64 / len as f64);
}
