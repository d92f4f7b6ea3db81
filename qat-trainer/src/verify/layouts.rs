//! Where the weights of a layer lie, from the pages of `qat-kernels/docs` on the packed orders. Nothing here is the engine's:
//! what one of the two misreads, the other does not.

/// The matrix of a layer, as its record describes it.
#[derive(Clone, Copy)]
pub(super) struct Packing {
    pub(super) layout: u8,
    pub(super) bits: usize,
    /// Weights per divisor, 0 where k is fixed.
    pub(super) group: usize,
    /// Linear, not a convolution.
    pub(super) linear: bool,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Packing {
    /// The code of a weight.
    pub(super) fn code(&self, bytes: &[u8], row: usize, column: usize) -> Option<i64> {
        match self.layout {
            1 => self.cortex_m4(bytes, row, column),
            2 | 4 if self.bits < 8 => self.planes(bytes, row, column),
            3 => self.cortex_m55(bytes, row, column),
            _ => self.portable(bytes, row, column),
        }
    }

    /// k of the group of a weight.
    pub(super) fn divisor(&self, bytes: &[u8], row: usize, column: usize) -> Option<i64> {
        let (group, groups) = (column / self.group, self.columns / self.group);
        let (byte, bit) = match self.layout {
            1 if self.linear => {
                let band = groups + if self.group == 8 { groups % 2 } else { 0 };
                (row / 4 * band + group, row % 4 * 2)
            }
            1 => {
                let (band, nibble) = match self.group {
                    8 => (groups.div_ceil(2), group),
                    16 => (groups.div_ceil(2), group + groups % 2),
                    _ => (groups, 2 * group),
                };
                (row / 2 * band + nibble / 2, nibble % 2 * 4 + row % 2 * 2)
            }
            2 | 4 => (group * self.rows.div_ceil(4) + row / 4, row % 4 * 2),
            3 => (row / 4 * groups + group, row % 4 * 2),
            _ => (row * groups.div_ceil(4) + group / 4, group % 4 * 2),
        };
        Some(i64::from(bytes.get(byte)? >> bit & 3) + 2)
    }

    fn portable(&self, bytes: &[u8], row: usize, column: usize) -> Option<i64> {
        let start = row * (self.columns * self.bits).div_ceil(8) * 8 + column * self.bits;
        let field = (0..self.bits).try_fold(0, |field, i| Some(field | bit(bytes, start + i)? << i))?;
        Some(self.signed(field))
    }

    fn cortex_m4(&self, bytes: &[u8], row: usize, column: usize) -> Option<i64> {
        let bits = self.bits;
        let band = if bits == 2 && !self.linear { 2 } else { 4 };
        let (r, c) = (row % band, column % 16);
        let (turn, half) = (2 * (c / 4) + c % 2, c / 2 % 2);
        let step = (row / band * self.columns.div_ceil(16) + column / 16) * (bits * band / 2);
        let mut field = 0;
        for i in 0..bits {
            let (word, place) = match bits {
                2 => (turn / 4 * (band / 2) + r / 2, turn % 4 * 4 + r % 2 * 14 + i),
                3 => {
                    let s = 3 * turn + if r < 3 { r } else { i };
                    (s / 4, s % 4 * 4 + if r < 3 { 13 + i } else { 0 })
                }
                4 => (turn, 4 * r + i),
                _ => (2 * turn + r / 2, r % 2 * 8 + i),
            };
            field |= bit(bytes, (step + word) * 32 + (place + 16 * half) % 32)? << i;
        }
        let unsigned = match bits {
            3 => r == 3,
            4 => r != 3,
            _ => r % 2 == 0,
        };
        let code = if unsigned { self.offset(field) } else { self.signed(field) };
        Some(if self.group > 0 && r % 2 == 0 { -1 - code } else { code })
    }

    fn planes(&self, bytes: &[u8], row: usize, column: usize) -> Option<i64> {
        let step = if self.linear && self.group == 0 { 32 } else { 16 };
        let (byte, place) = (column % step / 16 * 2 + column / 2 % 2, column % 16 / 4 * 2 + column % 2);
        let mut field = 0;
        for i in 0..self.bits {
            let plane = (column / step * self.rows + row) * self.bits + self.bits - 1 - i;
            field |= bit(bytes, (plane * (step / 8) + byte) * 8 + place)? << i;
        }
        Some(self.signed(field))
    }

    fn cortex_m55(&self, bytes: &[u8], row: usize, column: usize) -> Option<i64> {
        let (bits, steps, step) = (self.bits, self.columns.div_ceil(16), column / 16);
        let (quad, r, lane) = (row / 4, row % 4, column % 16);
        // In vectors: where the step's unit begins in its quad, how large the unit is, how large the quad.
        let (start, unit, whole) = match bits {
            // A first step without a partner is a unit of two, all others are units of three for two steps.
            3 => {
                let odd = steps % 2;
                let unit = if step < odd { 2 } else { 3 };
                let start = if step < odd { 0 } else { 2 * odd + (step - odd) / 2 * 3 };
                (start, unit, 2 * odd + steps / 2 * 3)
            }
            _ => {
                let unit = if bits == 2 { 1 } else { bits / 2 };
                (step * unit, unit, steps * unit)
            }
        };
        let paired = self.linear && (quad | 1) < self.rows.div_ceil(4);
        let vector = match paired {
            true => quad / 2 * 2 * whole + 2 * start + quad % 2 * unit,
            false => quad * whole + start,
        };
        let at = |number: usize, place: usize| bit(bytes, ((vector + number) * 16 + lane) * 8 + place);
        let field = |number: usize, place: usize| {
            (0..bits).try_fold(0, |field, i| Some(field | at(number, place + i)? << i))
        };
        let (field, last) = match bits {
            2 => (field(0, 2 * r)?, r == 3),
            4 => (field(r / 2, r % 2 * 4)?, r % 2 == 1),
            8 => (field(r, 0)?, true),
            _ => {
                let earlier = (steps - step).is_multiple_of(2) || step < steps % 2;
                let (own, up) = if earlier { (1, 4) } else { (2, 0) };
                match r {
                    0 | 1 => (field(own, 3 * r)?, false),
                    2 => (field(0, up)?, false),
                    _ => (at(0, up + 3)? | at(own, 6)? << 1 | at(own, 7)? << 2, true),
                }
            }
        };
        Some(if last { self.signed(field) } else { self.offset(field) })
    }

    /// Two's complement.
    fn signed(&self, field: i64) -> i64 {
        if field >> (self.bits - 1) > 0 { field - (1 << self.bits) } else { field }
    }

    /// Without a sign.
    fn offset(&self, field: i64) -> i64 {
        field - (1 << (self.bits - 1))
    }
}

fn bit(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from(bytes.get(at / 8)? >> (at % 8) & 1))
}
