//! Fully connected layer.

use super::super::{Requant, WeightView};
use super::{begin, finish, rows, step_divisors, step_rows, table, wide};
use crate::arch::bytes::words_mut;
#[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
use crate::arch::factors::BYTE_FACTORS;
use crate::artifact::Target;
use crate::artifact::planes::{LINEAR_STEP, PAIR, QUAD};
use crate::infer::planes::{STEP_TABLES, TABLE_WORDS, Table, linear_steps};

#[inline(never)]
pub(in crate::infer) fn linear(
    x: &[i8],
    weights: &WeightView<'_>,
    requant: &Requant,
    scratch: &mut [i8],
    out: &mut [i8],
) -> Option<()> {
    if weights.spec.bits == 8 {
        return wide::linear(x, weights, requant, out);
    }
    let steps = linear_steps(Target::DEVICE.unwrap_or(weights.layout.target()));
    let (tables, sums) = words_mut(scratch).split_at_mut_checked(steps * STEP_TABLES * TABLE_WORDS)?;
    let (tables, sums) = (tables.as_chunks_mut().0.as_chunks_mut().0, sums.get_mut(..out.len())?);
    begin(weights, sums.as_chunks_mut().0, |bias| [bias])?;
    match weights.spec.bits {
        2 => accumulate::<2>(x, weights, tables, sums),
        3 => accumulate::<3>(x, weights, tables, sums),
        4 => accumulate::<4>(x, weights, tables, sums),
        _ => None,
    }?;
    finish(sums.as_chunks::<1>().0, 0, weights, requant, out)
}

/// Whether this build has cores that take two steps at once.
const TWO_STEPS: bool = !cfg!(core_family = "cortex-m0");

fn accumulate<const BITS: usize>(
    x: &[i8],
    weights: &WeightView<'_>,
    tables: &mut [[Table; STEP_TABLES]],
    sums: &mut [u32],
) -> Option<()> {
    if weights.spec.group == 0 {
        fixed::<BITS>(x, weights, tables, sums)
    } else {
        grouped::<BITS>(x, weights, tables.as_flattened_mut(), sums)
    }
}

fn fixed<const BITS: usize>(
    x: &[i8],
    weights: &WeightView<'_>,
    tables: &mut [[Table; STEP_TABLES]],
    sums: &mut [u32],
) -> Option<()> {
    let mut steps = (0..).map(|step| step_rows::<4, BITS>(weights, step));
    for x in x.chunks((LINEAR_STEP * tables.len()).max(1)) {
        fill(tables.as_flattened_mut(), x, weights.spec.grid != 0);
        let first = steps.next()??;
        match tables.first_chunk() {
            Some(tables) if TWO_STEPS && x.len() > LINEAR_STEP => {
                two_steps(tables, [first, steps.next()??], sums)?;
            }
            #[cfg(any(thumb1, thumb2))]
            _ => crate::arch::planes::linear(tables.first()?, first, sums),
            #[cfg(not(any(thumb1, thumb2)))]
            _ => rows::linear(tables.first()?, first, sums),
        }
    }
    Some(())
}

fn two_steps<const BITS: usize>(
    tables: &[[Table; STEP_TABLES]; 2],
    rows: [&[rows::Wide<BITS>]; 2],
    sums: &mut [u32],
) -> Option<()> {
    #[cfg(core_family = "riscv32")]
    let done = crate::arch::planes::linear(tables, rows, sums);
    #[cfg(not(core_family = "riscv32"))]
    let done = 0;
    let sums = sums.get_mut(done..)?;
    for (tables, rows) in tables.iter().zip(rows) {
        rows::linear(tables, rows.get(done..)?, sums);
    }
    Some(())
}

/// Steps that the loop with divisors takes at once.
#[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
use crate::arch::planes::GROUPED_STEPS;
#[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
const GROUPED_STEPS: usize = 1;

fn grouped<const BITS: usize>(
    x: &[i8],
    weights: &WeightView<'_>,
    tables: &mut [Table],
    sums: &mut [u32],
) -> Option<()> {
    let mut steps = 0..;
    for x in x.chunks((PAIR * tables.len()).max(1)) {
        fill(tables, x, weights.spec.grid != 0);
        let (tables, _) = tables.as_chunks::<GROUPED_STEPS>();
        for (tables, x) in tables.iter().zip(x.chunks(GROUPED_STEPS * PAIR)) {
            let (mut rows, mut divisors) = ([&[][..]; GROUPED_STEPS], [&[][..]; GROUPED_STEPS]);
            let here = rows.iter_mut().zip(&mut divisors).take(x.len().div_ceil(PAIR));
            for ((rows, divisors), step) in here.zip(&mut steps) {
                *rows = step_rows::<2, BITS>(weights, step)?;
                *divisors = step_divisors(weights, step)?;
            }
            #[cfg(any(core_family = "cortex-m0", core_family = "riscv32"))]
            let done = crate::arch::planes::grouped(tables, rows, divisors, &BYTE_FACTORS, sums);
            #[cfg(not(any(core_family = "cortex-m0", core_family = "riscv32")))]
            let done = 0;
            // What fills no turn of the loop in assembly.
            if done < sums.len() {
                for ((table, rows), divisors) in tables.iter().zip(rows).zip(divisors) {
                    let rest = (rows.get(done..), divisors.get(done / QUAD..), sums.get_mut(done..));
                    if let (Some(rows @ [_, ..]), Some(divisors), Some(sums)) = rest {
                        rows::grouped(table, rows, divisors, sums);
                    }
                }
            }
        }
    }
    Some(())
}

/// Tables of the first columns, sixteen each; columns that there are not count as zero.
fn fill(tables: &mut [Table], x: &[i8], mid_rise: bool) {
    let (columns, mut tail) = x.as_chunks();
    let whole = columns.len().min(tables.len());
    let Some((first, rest)) = tables.split_at_mut_checked(whole) else { return };
    table::linear(columns, mid_rise, first);
    for table in rest {
        let mut columns = [0; PAIR];
        columns.iter_mut().zip(tail).for_each(|(to, &from)| *to = from);
        tail = &[];
        table::linear(&[columns], mid_rise, core::slice::from_mut(table));
    }
}
