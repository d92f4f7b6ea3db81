//! A model without a trainer: built from real numbers, written, read back, run in integers:
//! `cargo run -p qat-kernels --features alloc --example build_and_run`.
#![allow(missing_docs)]

use qat_kernels::artifact::{Metadata, ModelBuilder, Output, Steps, TensorSpec, Weights};
use qat_kernels::infer::{Model, argmax};
use qat_kernels::{Grid, Levels, Result};

/// Which of four inputs is the largest, by a layer of 2 bits and one of 4.
fn largest(inputs: [i8; 4]) -> Result<usize> {
    let mut builder = ModelBuilder::new(TensorSpec { shape: [1, 1, 4], scale: 1.0 / 64.0, zero_point: 0 });
    let input = builder.input();
    // Rows of levels 1.5 and −0.5 in steps of ½.
    let codes = [1, -1, -1, -1, -1, 1, -1, -1, -1, -1, 1, -1, -1, -1, -1, 1];
    let weights = Weights {
        levels: Levels::new(2, Grid::MidRise)?,
        codes: &codes,
        steps: Steps::PerChannel(&[0.5; 4]),
    };
    let hidden = builder.linear(input, &weights, &[0.0; 4], Output::new(1.0 / 32.0, -128).relu())?;
    let codes: Vec<i8> = (0..16).map(|i| if i % 5 == 0 { 7 } else { -1 }).collect();
    let weights = Weights {
        levels: Levels::new(4, Grid::MidTread)?,
        codes: &codes,
        steps: Steps::PerChannel(&[0.1; 4]),
    };
    builder.linear(hidden, &weights, &[0.0; 4], Output::new(1.0 / 16.0, 0))?;
    let file = builder.finish(&Metadata { name: "largest", ..Metadata::default() }, &[])?;

    // From here on it is what a device does: no heap, no float.
    let model = Model::parse(&file)?;
    let (mut logits, mut arena) = ([0; 4], vec![0; model.arena_len()]);
    model.run(&inputs, &mut logits, &mut arena)?;
    println!("{} bytes, {} MACs, {inputs:?} → {logits:?}", file.len(), model.macs());
    Ok(argmax(&logits))
}

fn main() -> Result<()> {
    println!("input {} is the largest", largest([12, -40, 90, 31])?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_input_wins() -> Result<()> {
        for winner in 0..4 {
            let mut inputs = [10; 4];
            inputs[winner] = 80;
            assert_eq!(largest(inputs)?, winner);
        }
        main()
    }
}
