//! How well each scheme keeps weights, against the bits that it really stores.
//!
//!     cargo run --release -p qat-benches --bin sqnr
//!
//! SQNR = 10·log₁₀(Σw² / Σ(w − ŵ)²) in dB, without any training, over matrices whose rows are channels:
//! - `gaussian`, `laplace`: generated, 256 rows of 384, fixed seeds;
//! - `minilm`: the first 384 numbers of each row of MiniLM's `encoder.layer.5.output.dense.weight`, so that rows are as
//!   long as the generated ones;
//! - `minilmfull`: all 36 matrices of MiniLM's six layers, 10.6 million weights, rows as they are.
//!
//! Bits per weight count everything that decoding needs: codes, scales and divisors. α of Pi quantisers counts as
//! binary16 and is rounded to it before the codes are made (an f32 would add 16 bits a row, 0.04 on 384). With
//! `_hadamard`, each row is rotated first; a rotation changes no squared error by itself.
//!
//! Writes `benches/results/sqnr.csv`.

mod data;
mod minilm;
mod schemes;

use anyhow::Result;
use data::Matrix;
use qat_benches::results::{self, Figure};
use qat_kernels::hadamard::Rotation;
use schemes::Scheme;

/// The seed of the rotations.
const ROTATION: u64 = 1;

fn main() -> Result<()> {
    let model = minilm::Model::fetch()?;
    let sets = [
        ("gaussian", vec![data::gaussian(256, 384)]),
        ("laplace", vec![data::laplace(256, 384)]),
        ("minilm", vec![model.matrix("encoder.layer.5.output.dense.weight")?.first_columns(384)]),
        ("minilmfull", model.layers()?),
    ];
    let mut figures = Vec::new();
    for (name, matrices) in &sets {
        let mut rotated = matrices.clone();
        for matrix in &mut rotated {
            Rotation::new(ROTATION).rotate_rows(&mut matrix.weights, matrix.columns)?;
        }
        for bits in [2, 3] {
            println!("{name}, {bits} bits                    bits/weight   SQNR dB   rotated");
            let mut rivals = [None; 2];
            for scheme in Scheme::ALL {
                let plain = total(scheme, bits, matrices)?;
                let with_rotation = total(scheme, bits, &rotated)?;
                let label = scheme.name();
                println!(
                    "  {label:32} {:11.3} {:9.2} {:9.2}",
                    plain.bits,
                    plain.decibels(),
                    with_rotation.decibels()
                );
                for ((found, suffix), rival) in
                    [(plain, ""), (with_rotation, "_hadamard")].into_iter().zip(&mut rivals)
                {
                    if scheme == Scheme::RIVAL {
                        *rival = Some(found.decibels());
                    }
                    let case = format!("{name}_{bits}bit_{label}{suffix}");
                    let goal = goal(&case);
                    let compared = rival.filter(|_| scheme.is_adaptive());
                    let rival =
                        compared.map(|decibels| (format!("{}{suffix}", Scheme::RIVAL.name()), decibels));
                    let number = |value: f64| format!("{value:.3}");
                    let mut sqnr = Figure::new(case.clone(), "sqnr_db", number(found.decibels()), "dB");
                    if let Some(goal) = goal {
                        sqnr = sqnr.with_goal(format!("{goal:.2}"));
                    }
                    if let Some((name, value)) = rival {
                        sqnr = sqnr.with_rival(name, number(value));
                    }
                    figures.push(sqnr);
                    figures.push(Figure::new(case, "bits_per_weight", number(found.bits), "bit"));
                }
            }
        }
    }
    results::replace("sqnr", "cargo run --release -p qat-benches --bin sqnr", &figures)
}

/// What the sketch of this study measured, less 0.1 dB.
fn goal(case: &str) -> Option<f64> {
    match case {
        "gaussian_2bit_adaptive_k_g16_midrise" => Some(9.87),
        "minilm_2bit_adaptive_k_g16_midrise" => Some(8.99),
        "gaussian_2bit_adaptive_k_g8_midrise" => Some(10.59),
        "minilm_2bit_adaptive_k_g8_midrise" => Some(9.77),
        "gaussian_3bit_adaptive_k_g16_midrise" => Some(15.59),
        _ => None,
    }
}

/// Power of signal and noise, and bits per weight.
#[derive(Clone, Copy)]
struct Quality {
    signal: f64,
    noise: f64,
    bits: f64,
}

impl Quality {
    fn decibels(&self) -> f64 {
        10.0 * (self.signal / self.noise).log10()
    }
}

/// A scheme over all matrices together.
fn total(scheme: Scheme, bits: u8, matrices: &[Matrix]) -> Result<Quality> {
    let (mut signal, mut noise, mut stored, mut count) = (0.0, 0.0, 0.0, 0.0);
    for matrix in matrices {
        let (decoded, bits) = scheme.decode(bits, matrix)?;
        for (&w, &w_hat) in matrix.weights.iter().zip(&decoded) {
            signal += f64::from(w).powi(2);
            noise += (f64::from(w) - f64::from(w_hat)).powi(2);
        }
        stored += bits;
        count += matrix.weights.len() as f64;
    }
    Ok(Quality { signal, noise, bits: stored / count })
}
