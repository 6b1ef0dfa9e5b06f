//! Are the data of a JPEG file whole? The decoder does not say: it fills with grey, or with noise, what it cannot read.
//!
//! The codes are walked through without their values (ITU-T T.81, annexes F and G). A file is refused
//! - that ends before its end-of-image marker;
//! - where a code is none of its table's, or goes past the 64 coefficients of a block;
//! - where the data of a scan, or of a restart interval, end before its last block, or go on after it;
//! - where restart markers are missing, doubled or out of order, or a component has no scan.
//!
//! What cannot be seen: the format has no checksums. Bits that change into other codes, as many and as long, are a
//! picture like any other; so are those in the tables of a header.

mod bits;

use bits::{Bits, Codes, Fault, RESTARTS};

/// Bits of the largest difference of two mean values of blocks of 8-bit levels (T.81, table F.1).
const MOST_DC_BITS: u8 = 11;
/// The decoder takes no more scans than these.
const MOST_SCANS: usize = 100;

const TEMPORARY: u8 = 0x01;
const BASELINE: u8 = 0xc0;
const EXTENDED: u8 = 0xc1;
const PROGRESSIVE: u8 = 0xc2;
const TABLES: u8 = 0xc4;
const START: u8 = 0xd8;
const END: u8 = 0xd9;
const SCAN: u8 = 0xda;
const INTERVAL: u8 = 0xdd;

/// What is wrong with the data of the JPEG file `bytes`, or `None`.
///
/// Of coding that the decoder does not know either, no more is asked than that it goes on to its end.
pub(super) fn damage(bytes: &[u8]) -> Option<String> {
    let mut walk = Walk::default();
    let mut rest = bytes;
    while let Some(at) = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff)) {
        let marker = rest[at + 1];
        rest = &rest[at + 2..];
        if marker == END {
            return walk.missing();
        }
        if marker == START || marker == TEMPORARY || RESTARTS.contains(&marker) {
            continue;
        }
        // A length counts itself. Skipping segments skips the thumbnails in them, which have ends of their own.
        let length = rest.first_chunk().map_or(usize::MAX, |&length| usize::from(u16::from_be_bytes(length)));
        let segment = rest.get(2..length).unwrap_or_default();
        rest = rest.get(length..).unwrap_or_default();
        match marker {
            BASELINE | EXTENDED | PROGRESSIVE => walk.frame = Frame::parse(segment, marker == PROGRESSIVE),
            TABLES => walk.tables(segment),
            INTERVAL => {
                walk.interval = segment.first_chunk().map_or(0, |&units| usize::from(u16::from_be_bytes(units)))
            }
            SCAN => match walk.scan(segment, rest) {
                Some(Ok(length)) => rest = &rest[length..],
                Some(Err(found)) => return Some(found),
                // Not understood: on to the next marker.
                None => {}
            },
            _ => {}
        }
    }
    Some("the end of the file before the end-of-image marker".into())
}

/// What the headers so far have said.
#[derive(Default)]
struct Walk {
    frame: Option<Frame>,
    dc: [Option<Codes>; 4],
    ac: [Option<Codes>; 4],
    /// Units between restart markers; 0 for none.
    interval: usize,
    scans: usize,
}

struct Frame {
    progressive: bool,
    width: usize,
    height: usize,
    components: Vec<Component>,
}

struct Component {
    id: u8,
    across: usize,
    down: usize,
    /// Whether a scan has its mean values.
    seen: bool,
    /// The coefficients of each block that are not zero so far, in a progressive file.
    nonzero: Vec<u64>,
}

impl Frame {
    fn parse(segment: &[u8], progressive: bool) -> Option<Self> {
        let &[8, y1, y0, x1, x0, count, ref rest @ ..] = segment else { return None };
        let components = rest.chunks_exact(3).take(usize::from(count)).map(|part| {
            let (across, down) = (usize::from(part[1] >> 4), usize::from(part[1] & 15));
            Component { id: part[0], across, down, seen: false, nonzero: Vec::new() }
        });
        let [width, height] = [[x1, x0], [y1, y0]].map(|side| usize::from(u16::from_be_bytes(side)));
        let components: Vec<_> = components.collect();
        let known = components.iter().all(|part| (1..=4).contains(&part.across) && (1..=4).contains(&part.down));
        (known && width > 0 && height > 0).then_some(Self { progressive, width, height, components })
    }

    /// Blocks across and down: of the units of a scan of several components, or of the one component of a scan.
    fn grid(&self, alone: Option<&Component>) -> [usize; 2] {
        let across = self.components.iter().map(|part| part.across).max().unwrap_or(1);
        let down = self.components.iter().map(|part| part.down).max().unwrap_or(1);
        let (own_across, own_down) = alone.map_or((1, 1), |part| (part.across, part.down));
        [(self.width * own_across).div_ceil(8 * across), (self.height * own_down).div_ceil(8 * down)]
    }
}

/// What a scan has of each of its blocks.
#[derive(Clone, Copy)]
enum Kind {
    Whole,
    FirstDc,
    MoreDc,
    FirstAc,
    MoreAc,
}

impl Walk {
    fn tables(&mut self, mut segment: &[u8]) {
        while let [place, rest @ ..] = segment {
            let Some((codes, length)) = Codes::parse(rest) else { return };
            let tables = if place >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            if let Some(table) = tables.get_mut(usize::from(place & 15)) {
                *table = Some(codes);
            }
            segment = &rest[length..];
        }
    }

    fn missing(&self) -> Option<String> {
        let parts = &self.frame.as_ref()?.components;
        let missing = parts.iter().position(|part| !part.seen)?;
        (self.scans > 0).then(|| format!("no scan of component {missing} of {}", parts.len()))
    }

    /// The length of the data of the scan whose header is `segment`, at the start of `data`; or what is wrong with
    /// them; or `None` where the header is not understood.
    fn scan(&mut self, segment: &[u8], data: &[u8]) -> Option<Result<usize, String>> {
        self.scans += 1;
        let frame = self.frame.as_mut().filter(|_| self.scans <= MOST_SCANS)?;
        let (&count, rest) = segment.split_first()?;
        let (parts, &[first, last, steps]) = rest.split_at_checked(2 * usize::from(count))? else { return None };
        let kind = match (frame.progressive, first, steps >> 4) {
            (false, ..) => Kind::Whole,
            (true, 0, 0) => Kind::FirstDc,
            (true, 0, _) => Kind::MoreDc,
            (true, _, 0) => Kind::FirstAc,
            (true, ..) => Kind::MoreAc,
        };
        // Place of the component, blocks a unit, tables.
        let mut members = Vec::new();
        for part in parts.chunks_exact(2) {
            let place = frame.components.iter().position(|component| component.id == part[0])?;
            let component = &mut frame.components[place];
            component.seen |= first == 0 && steps >> 4 == 0;
            let blocks = if count == 1 { 1 } else { component.across * component.down };
            members.push((place, blocks, usize::from(part[1] >> 4), usize::from(part[1] & 15)));
        }
        let alone = (count == 1).then(|| &frame.components[members[0].0]);
        let [across, down] = frame.grid(alone);
        let num_units = across * down;
        let mut nonzero = Vec::new();
        if matches!(kind, Kind::FirstAc | Kind::MoreAc) {
            let &[(place, ..)] = &members[..] else { return None };
            if last > 63 || first > last {
                return None;
            }
            nonzero = std::mem::take(&mut frame.components[place].nonzero);
            nonzero.resize(num_units, 0);
        }

        let none = Codes::none();
        let needs_dc = matches!(kind, Kind::Whole | Kind::FirstDc);
        let needs_ac = !matches!(kind, Kind::FirstDc | Kind::MoreDc);
        let mut tables = Vec::new();
        for &(_, blocks, dc, ac) in &members {
            let dc = if needs_dc { self.dc.get(dc)?.as_ref()? } else { &none };
            let ac = if needs_ac { self.ac.get(ac)?.as_ref()? } else { &none };
            tables.push((blocks, dc, ac));
        }

        let mut bits = Bits::new(data);
        // Blocks that are known to have nothing more.
        let mut ended = 0;
        let band = first..last + 1;
        let mut unit = |bits: &mut Bits, at: usize| {
            for &(blocks, dc, ac) in &tables {
                for _ in 0..blocks {
                    match kind {
                        Kind::Whole => whole_block(bits, dc, ac)?,
                        Kind::FirstDc => first_dc(bits, dc)?,
                        Kind::MoreDc => bits.skip(1)?,
                        Kind::FirstAc => first_ac(bits, ac, band.clone(), &mut ended, &mut nonzero[at])?,
                        Kind::MoreAc => more_ac(bits, ac, band.clone(), &mut ended, &mut nonzero[at])?,
                    }
                }
            }
            Ok(())
        };
        for at in 0..num_units {
            let place = || format!("unit {at} of {num_units} in scan {}", self.scans);
            if self.interval > 0
                && at > 0
                && at % self.interval == 0
                && let Err(found) = bits.restart((at / self.interval - 1) % 8)
            {
                return Some(Err(format!("{found} before {}", place())));
            }
            if let Err(fault) = unit(&mut bits, at) {
                let found = match fault {
                    Fault::Invalid => "a code that means nothing".to_string(),
                    Fault::Short => bits.next_marker(),
                };
                return Some(Err(format!("{found} in {}", place())));
            }
        }
        if let Err(spare) = bits.finish() {
            return Some(Err(format!("{spare} bytes after the last of {num_units} units in scan {}", self.scans)));
        }
        if let (false, [(place, ..), ..]) = (nonzero.is_empty(), &members[..]) {
            frame.components[*place].nonzero = nonzero;
        }
        Some(Ok(bits.at()))
    }
}

fn first_dc(bits: &mut Bits, dc: &Codes) -> Result<(), Fault> {
    if bits.code(dc)? > MOST_DC_BITS { Err(Fault::Invalid) } else { Ok(()) }
}

#[inline]
fn whole_block(bits: &mut Bits, dc: &Codes, ac: &Codes) -> Result<(), Fault> {
    first_dc(bits, dc)?;
    let mut at = 1;
    while at < 64 {
        let symbol = bits.code(ac)?;
        if symbol & 15 == 0 && symbol >> 4 < 15 {
            break;
        }
        at += symbol >> 4;
        at += 1;
    }
    if at > 64 { Err(Fault::Invalid) } else { Ok(()) }
}

/// Coefficients `band` of a block, of which none was known (G.1.2.2).
fn first_ac(
    bits: &mut Bits,
    ac: &Codes,
    band: std::ops::Range<u8>,
    ended: &mut u32,
    nonzero: &mut u64,
) -> Result<(), Fault> {
    if *ended > 0 {
        *ended -= 1;
        return Ok(());
    }
    let mut at = band.start;
    while at < band.end {
        let symbol = bits.code(ac)?;
        let (run, size) = (symbol >> 4, symbol & 15);
        if size == 0 && run < 15 {
            *ended = (1 << run) - 1 + bits.take(run.into())?;
            return Ok(());
        }
        at += run;
        if size > 0 && at < band.end {
            *nonzero |= 1 << at;
        }
        at += 1;
    }
    if at > band.end { Err(Fault::Invalid) } else { Ok(()) }
}

/// One more bit of coefficients `band` of a block: of those that are known, and those that begin with it (G.1.2.3).
fn more_ac(
    bits: &mut Bits,
    ac: &Codes,
    band: std::ops::Range<u8>,
    ended: &mut u32,
    nonzero: &mut u64,
) -> Result<(), Fault> {
    let mut at = band.start;
    while *ended == 0 && at < band.end {
        let symbol = bits.code(ac)?;
        let (run, size) = (symbol >> 4, symbol & 15);
        if size > 1 {
            return Err(Fault::Invalid);
        }
        if size == 0 && run < 15 {
            *ended = (1 << run) + bits.take(run.into())?;
            break;
        }
        let mut zeros = run;
        while at < band.end {
            if *nonzero >> at & 1 == 1 {
                bits.skip(1)?;
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            at += 1;
        }
        if size == 1 {
            if at >= band.end {
                return Err(Fault::Invalid);
            }
            *nonzero |= 1 << at;
        }
        at += 1;
    }
    if *ended > 0 {
        *ended -= 1;
        let known = (at..band.end).filter(|&at| *nonzero >> at & 1 == 1).count() as u32;
        bits.skip(known / 2)?;
        bits.skip(known - known / 2)?;
    }
    Ok(())
}
