//! The bits of a JPEG file's data, and the codes that they make.

/// Bits of a code that are looked up at once; few are longer.
const SHORT: u32 = 10;
/// Bits of the longest code.
const LONGEST: u32 = 16;
/// Bytes that may be left over after the last block, as some cameras leave them; where data are missing it is more.
const SPARE: usize = 2;
/// The second bytes of restart markers.
pub const RESTARTS: std::ops::RangeInclusive<u8> = 0xd0..=0xd7;

pub enum Fault {
    /// No such code, or one with no place for what it means.
    Invalid,
    /// The data end first.
    Short,
}

/// A table of Huffman codes.
pub struct Codes {
    /// By the next [`SHORT`] bits: length and symbol, or 0.
    short: Box<[u16; 1 << SHORT]>,
    /// By length: the first [`LONGEST`] bits beyond its codes, and what leads from a code to its place in `symbols`.
    ends: [u32; LONGEST as usize + 1],
    places: [i32; LONGEST as usize + 1],
    symbols: Vec<u8>,
}

impl Codes {
    pub fn none() -> Self {
        Self {
            short: Box::new([0; 1 << SHORT]),
            ends: [0; LONGEST as usize + 1],
            places: [0; LONGEST as usize + 1],
            symbols: Vec::new(),
        }
    }

    /// The table at the start of `bytes`, and how many of them it takes (B.2.4.2).
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (counts, rest) = bytes.split_at_checked(LONGEST as usize)?;
        let num_symbols = counts.iter().map(|&count| usize::from(count)).sum();
        let symbols = rest.get(..num_symbols)?.to_vec();
        let mut codes = Self { symbols, ..Self::none() };
        let (mut code, mut place) = (0_u32, 0);
        for (length, &count) in (1..=LONGEST).zip(counts) {
            codes.places[length as usize] = place as i32 - code as i32;
            for _ in 0..count {
                if code >> length > 0 {
                    return None;
                }
                if length <= SHORT {
                    let spare = SHORT - length;
                    let entry = (length as u16) << 8 | u16::from(codes.symbols[place]);
                    codes.short[(code << spare) as usize..][..1 << spare].fill(entry);
                }
                (code, place) = (code + 1, place + 1);
            }
            codes.ends[length as usize] = code << (LONGEST - length);
            code <<= 1;
        }
        Some((codes, LONGEST as usize + num_symbols))
    }

    /// The symbol and the length of the code, longer than [`SHORT`], that `bits` begin with.
    #[cold]
    fn long(&self, bits: u32) -> Option<(u8, u32)> {
        let length = (SHORT + 1..=LONGEST).find(|&length| bits < self.ends[length as usize])?;
        let place = (bits >> (LONGEST - length)) as i32 + self.places[length as usize];
        Some((*self.symbols.get(place as usize)?, length))
    }
}

/// The bits of data up to the next marker.
pub struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// `len` bits, from the highest on; zeros follow.
    bits: u64,
    len: u32,
}

impl<'a> Bits<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, bits: 0, len: 0 }
    }

    /// Where bytes are read next.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Reads on, to 32 bits at least if there are so many.
    #[inline]
    fn refill(&mut self) {
        if let Some(&word) = self.data[self.at..].first_chunk() {
            let word = u32::from_be_bytes(word);
            let holes = !word;
            // No byte is 0xff: none of `holes` is 0.
            if holes.wrapping_sub(0x0101_0101) & word & 0x8080_8080 == 0 {
                self.bits |= u64::from(word) << (32 - self.len);
                self.len += 32;
                self.at += 4;
                return;
            }
        }
        while self.len < 32 {
            let Some((byte, length)) = self.byte() else { return };
            self.bits |= u64::from(byte) << (56 - self.len);
            self.len += 8;
            self.at += length;
        }
    }

    /// The next byte of data and how many it takes, if no marker comes first. Any number of 0xff may go before those
    /// of a marker, and a 0 follows that of a byte.
    fn byte(&self) -> Option<(u8, usize)> {
        let rest = &self.data[self.at..];
        match *rest.first()? {
            0xff => {
                let fill = rest.iter().position(|&byte| byte != 0xff)?;
                (rest[fill] == 0).then_some((0xff, fill + 1))
            }
            byte => Some((byte, 1)),
        }
    }

    /// The next code's symbol; past it, and past the bits of the value that its low half gives the number of.
    #[inline]
    pub fn code(&mut self, codes: &Codes) -> Result<u8, Fault> {
        if self.len < 32 {
            self.refill();
        }
        let entry = codes.short[(self.bits >> (64 - SHORT)) as usize];
        let (symbol, length) = match entry {
            0 => match codes.long((self.bits >> (64 - LONGEST)) as u32) {
                Some(found) => found,
                None if self.len < LONGEST => return Err(Fault::Short),
                None => return Err(Fault::Invalid),
            },
            entry => (entry as u8, u32::from(entry >> 8)),
        };
        self.advance(length + u32::from(symbol & 15))?;
        Ok(symbol)
    }

    #[inline]
    fn advance(&mut self, num_bits: u32) -> Result<(), Fault> {
        if num_bits > self.len {
            return Err(Fault::Short);
        }
        self.bits <<= num_bits;
        self.len -= num_bits;
        Ok(())
    }

    /// Past at most 32 bits.
    pub fn skip(&mut self, num_bits: u32) -> Result<(), Fault> {
        self.take(num_bits).map(|_| ())
    }

    /// The next bits, at most 32.
    pub fn take(&mut self, num_bits: u32) -> Result<u32, Fault> {
        if self.len < 32 {
            self.refill();
        }
        let value = self.bits.checked_shr(64 - num_bits).unwrap_or(0) as u32;
        self.advance(num_bits)?;
        Ok(value)
    }

    /// On to the next marker, or to the end; or how many bytes of data are between, if that is too many.
    pub fn finish(&mut self) -> Result<(), usize> {
        self.bits <<= self.len % 8;
        let (mut spare, mut blank) = ((self.len / 8) as usize, self.bits == 0);
        (self.bits, self.len) = (0, 0);
        while let Some((byte, length)) = self.byte() {
            spare += 1;
            blank &= byte == 0;
            self.at += length;
        }
        // Zeros fill a block of a disk or of a bus.
        if spare > SPARE && !blank { Err(spare) } else { Ok(()) }
    }

    /// Past restart marker `number`, which must come next.
    pub fn restart(&mut self, number: usize) -> Result<(), String> {
        self.finish().map_err(|spare| format!("{spare} bytes too many"))?;
        let rest = &self.data[self.at..];
        let fill = rest.iter().position(|&byte| byte != 0xff).unwrap_or(rest.len());
        if rest.get(fill) != Some(&(RESTARTS.start() + number as u8)) {
            return Err(format!("{}, not restart marker {number},", self.next_marker()));
        }
        self.at += fill + 1;
        Ok(())
    }

    pub fn next_marker(&self) -> String {
        match self.data[self.at..].iter().find(|&&byte| byte != 0xff) {
            Some(marker) => format!("the end of the data (marker ff {marker:02x})"),
            None => "the end of the file".into(),
        }
    }
}
