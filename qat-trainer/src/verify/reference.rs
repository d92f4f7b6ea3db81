//! A second engine: the arithmetic of `qat-kernels/docs/format.md` in straight loops over wide integers, from the bytes of
//! the file. It shares no code with the engine that it judges, and is free to be slow.

use super::layouts::Packing;

/// A tensor of the model.
struct Tensor {
    shape: [usize; 3],
    zero_point: i64,
}

/// An operator of a file.
pub(super) struct Operator<'a> {
    record: &'a [u8],
    parameters: &'a [u8],
    /// What weights multiply with, `m_g·level2(q)`, row by row; of depthwise layers a row for each tap.
    weights: Vec<i64>,
    /// The tensors read.
    inputs: [usize; 2],
}

/// A model, as the format's page describes it.
pub(super) struct Reference<'a> {
    tensors: Vec<Tensor>,
    operators: Vec<Operator<'a>>,
}

impl<'a> Reference<'a> {
    /// Reads a file that the engine has found sound; `None` if this reader cannot follow it.
    pub(super) fn read(file: &'a [u8]) -> Option<Self> {
        let section = |wanted: u16| {
            (0..usize::from(u16_at(file, 6)?)).map(|i| 16 + 12 * i).find_map(|entry| {
                let (start, len) = (u32_at(file, entry + 4)? as usize, u32_at(file, entry + 8)? as usize);
                (u16_at(file, entry)? == wanted).then(|| file.get(start..start + len))?
            })
        };
        let (program, parameters) = (section(1)?, section(2).unwrap_or_default());
        let shape = |bytes: &[u8], at: usize| -> Option<[usize; 3]> {
            Some([u16_at(bytes, at)?, u16_at(bytes, at + 2)?, u16_at(bytes, at + 4)?].map(usize::from))
        };
        let mut tensors = vec![Tensor { shape: shape(program, 0)?, zero_point: i8_at(program, 6)? }];
        let mut operators = Vec::new();
        for i in 0..usize::from(u16_at(program, 12)?) {
            let record = program.get(32 + 64 * i..96 + 64 * i)?;
            let inputs = [usize::from(u16_at(record, 8)?), usize::from(u16_at(record, 10)?)];
            let result = Tensor { shape: shape(record, 40)?, zero_point: i8_at(record, 46)? };
            let weights = weights(record, parameters, tensors.get(inputs[0])?, &result)?;
            operators.push(Operator { record, parameters, weights, inputs });
            tensors.push(result);
        }
        Some(Self { tensors, operators })
    }

    /// The results of all operators for an input.
    pub(super) fn run(&self, input: &[i8]) -> Option<Vec<Vec<i8>>> {
        let mut values: Vec<Vec<i64>> = vec![input.iter().map(|&x| i64::from(x)).collect()];
        for (operator, result) in self.operators.iter().zip(self.tensors.iter().skip(1)) {
            let operand = |which: usize| Some((values.get(which)?, self.tensors.get(which)?));
            let [first, second] = operator.inputs;
            let value = operator.run(operand(first)?, operand(second)?, result)?;
            values.push(value);
        }
        let narrow = |value: Vec<i64>| value.into_iter().map(|y| i8::try_from(y).ok()).collect();
        values.into_iter().skip(1).map(narrow).collect()
    }
}

type Operand<'a> = (&'a Vec<i64>, &'a Tensor);

impl Operator<'_> {
    fn run(&self, (x, from): Operand<'_>, (other, other_from): Operand<'_>, to: &Tensor) -> Option<Vec<i64>> {
        let r = self.record;
        let (shift, params) = (u32::from(*r.get(5)?), u32_at(r, 28)? as usize);
        let (lo, hi) = (i8_at(r, 6)?, i8_at(r, 7)?);
        let clamp = |y: i64| y.clamp(lo, hi);
        let multipliers = [i32_at(r, 32)?, i32_at(r, 36)?];
        // ⌊sum/2^n + ½⌋, and the zero point.
        let rounded = |sum: i128| {
            let half = if shift > 0 { 1i128 << (shift - 1) } else { 0 };
            i64::try_from((sum + half) >> shift).ok().map(|y| clamp(to.zero_point + y))
        };
        let channel = |acc: i64, channel: usize| {
            let (bias, m) = (
                i32_at(self.parameters, params + 8 * channel)?,
                i32_at(self.parameters, params + 8 * channel + 4)?,
            );
            rounded(i128::from(acc + bias) * i128::from(m))
        };
        let (pixels, channels) = (to.shape[0] * to.shape[1], to.shape[2]);
        let constant = |at: usize| self.parameters.get(params + at);
        let zero = from.zero_point;
        match r.first()? {
            1 => (0..channels)
                .map(|o| channel(self.weights.iter().skip(o * x.len()).zip(x).map(|(w, x)| w * x).sum(), o))
                .collect(),
            2 => {
                let mut y = Vec::new();
                for pixel in 0..pixels {
                    let taps = self.taps(pixel, from, to)?;
                    for o in 0..channels {
                        let (depth, row) = (from.shape[2], o * taps.len() * from.shape[2]);
                        let mut acc = 0;
                        for (t, tap) in taps.iter().enumerate() {
                            for c in 0..depth {
                                let x = tap.map_or(Some(zero), |at| x.get(at * depth + c).copied())?;
                                acc += self.weights.get(row + t * depth + c)? * x;
                            }
                        }
                        y.push(channel(acc, o)?);
                    }
                }
                Some(y)
            }
            3..=5 => {
                let mut y = Vec::new();
                for pixel in 0..pixels {
                    let taps = self.taps(pixel, from, to)?;
                    for c in 0..channels {
                        let seen = |tap: &Option<usize>| tap.and_then(|at| x.get(at * channels + c).copied());
                        y.push(match r.first()? {
                            3 => {
                                let terms = taps.iter().enumerate().map(|(t, tap)| {
                                    Some(self.weights.get(t * channels + c)? * seen(tap).unwrap_or(zero))
                                });
                                channel(terms.sum::<Option<i64>>()?, c)?
                            }
                            4 => clamp(taps.iter().filter_map(seen).max()?),
                            _ => {
                                let acc: i64 = taps.iter().filter_map(seen).map(|x| x - zero).sum();
                                rounded(i128::from(acc) * i128::from(multipliers[0]))?
                            }
                        });
                    }
                }
                Some(y)
            }
            6 => x
                .iter()
                .zip(other)
                .map(|(a, b)| {
                    let terms = (a - zero) * multipliers[0] + (b - other_from.zero_point) * multipliers[1];
                    rounded(terms.into())
                })
                .collect(),
            7 => {
                let most = x.iter().max()?;
                let [low, high] = (x.iter().position(|x| x == most)? as u16).to_le_bytes();
                Some([low, high].map(|byte| i64::from(byte.cast_signed())).to_vec())
            }
            8 => x.iter().map(|x| Some(i64::from(constant((x + 128) as usize)?.cast_signed()))).collect(),
            9 => {
                let mut y = Vec::new();
                for pixel in x.chunks(from.shape[2].max(1)) {
                    let most = pixel.iter().max()?;
                    let e =
                        |x: &i64| u16_at(self.parameters, params + 2 * (most - x) as usize).map(i64::from);
                    let sum = pixel.iter().map(e).sum::<Option<i64>>()?;
                    for x in pixel {
                        y.push(clamp((256 * e(x)? + sum / 2).checked_div(sum)? - 128));
                    }
                }
                Some(y)
            }
            10 => {
                let seed = u64::from(u32_at(self.parameters, params)?)
                    | u64::from(u32_at(self.parameters, params + 4)?) << 32;
                let block = u32_at(self.parameters, params + 8)? as usize;
                let signed = |(i, x): (usize, &i64)| if negative(seed, i) { zero - x } else { x - zero };
                let x: Vec<i64> = x.iter().enumerate().map(signed).collect();
                let mut y = Vec::new();
                for block in x.chunks(block.max(1)) {
                    for i in 0..block.len() {
                        let sign = |j: usize| 1 - 2 * i64::from((i & j).count_ones() % 2);
                        let acc: i64 = block.iter().enumerate().map(|(j, x)| sign(j) * x).sum();
                        y.push(rounded(i128::from(acc) * i128::from(multipliers[0]))?);
                    }
                }
                Some(y)
            }
            _ => None,
        }
    }

    /// The pixels of the input under the window at an output pixel, `None` for padding.
    fn taps(&self, pixel: usize, from: &Tensor, to: &Tensor) -> Option<Vec<Option<usize>>> {
        let r = self.record;
        let [height, width, _] = from.shape;
        let [kernel_h, kernel_w] = [u16_at(r, 12)?, u16_at(r, 14)?].map(usize::from);
        let [down, right, above, left] = [16, 17, 18, 19].map(|at| r.get(at).map(|&n| usize::from(n)));
        let top = pixel / to.shape[1] * down?;
        let start = pixel % to.shape[1] * right?;
        let mut taps = Vec::new();
        for y in 0..kernel_h {
            for x in 0..kernel_w {
                let y = (top + y).checked_sub(above?).filter(|&y| y < height);
                let x = (start + x).checked_sub(left?).filter(|&x| x < width);
                taps.push(y.zip(x).map(|(y, x)| y * width + x));
            }
        }
        Some(taps)
    }
}

/// Whether a rotation negates value i: SplitMix64's output function on its counter.
fn negative(seed: u64, i: usize) -> bool {
    let z = seed.wrapping_add((i as u64 / 64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) >> (i % 64) & 1 == 1
}

/// `m_g·level2(q)` of every weight; none for operators without.
fn weights(record: &[u8], parameters: &[u8], from: &Tensor, to: &Tensor) -> Option<Vec<i64>> {
    let taps = usize::from(u16_at(record, 12)?) * usize::from(u16_at(record, 14)?);
    let [height, width, depth] = from.shape;
    let (rows, columns) = match record.first()? {
        1 => (to.shape[2], height * width * depth),
        2 => (to.shape[2], taps * depth),
        3 => (taps, depth),
        _ => return Some(Vec::new()),
    };
    let depthwise = record.first() == Some(&3);
    let packing = Packing {
        layout: if depthwise { 0 } else { *record.get(3)? },
        bits: usize::from(*record.get(1)?),
        group: usize::from(*record.get(4)?),
        linear: record.first() == Some(&1),
        rows,
        columns,
    };
    let grid = i64::from(*record.get(2)?);
    let (codes, divisors) =
        (parameters.get(u32_at(record, 20)? as usize..)?, parameters.get(u32_at(record, 24)? as usize..)?);
    let mut weights = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let level2 = 2 * packing.code(codes, row, column)? + grid;
            let m = if packing.group > 0 { 60 / packing.divisor(divisors, row, column)? } else { 1 };
            weights.push(m * level2);
        }
    }
    Some(weights)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&b| u16::from_le_bytes(b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|&b| u32::from_le_bytes(b))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at..)?.first_chunk().map(|&b| i32::from_le_bytes(b).into())
}

fn i8_at(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at).map(|b| b.cast_signed().into())
}
