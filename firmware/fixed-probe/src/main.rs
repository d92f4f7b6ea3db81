//! Every public function of `qat_kernels::fixed`, on 16- and 32-bit words, with inputs that the compiler cannot know.
//!
//! Nothing here is run. Linked for a core without an FPU, the program names every run-time routine that the fixed-point
//! path needs: `xtask`'s soft-float check reads them and refuses any that belongs to floats or to panicking.
#![no_std]
#![no_main]

use core::hint::black_box;

use cortex_m_rt::entry;
use qat_kernels::fixed::{
    Adaptation, Fixed, FixedQuantizer, FixedSte, Head, HeadBuffers, Q32, Sgd, Word, cross_entropy_gradient,
    lsq_gradient_scale, lsq_step_gradient, pi_over, pi_step,
};
use qat_kernels::infer::LastLinear;
use qat_kernels::{Grid, Levels, LsqMask, Result, SteVariant};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[entry]
fn main() -> ! {
    loop {
        black_box(exercise::<i16>(black_box(7)).is_ok());
        black_box(exercise::<i32>(black_box(7)).is_ok());
        #[cfg(feature = "float")]
        black_box(black_box(1.5_f32) * black_box(2.5_f32));
    }
}

fn exercise<W: Word>(seed: i64) -> Result<()> {
    let x = Fixed::<W, 12>::saturating_from_raw(black_box(seed));
    let y = Fixed::<W, 9>::from_raw(W::saturate(black_box(seed)));
    arithmetic(x, y)?;

    let bits = black_box(3);
    for grid in [Grid::MidTread, Grid::MidRise] {
        for mask in [LsqMask::Exact, LsqMask::Rounded] {
            let levels = Levels::new(bits, black_box(grid))?;
            black_box(FixedQuantizer::new(levels, x)?.levels());
            let quantizer = FixedQuantizer::pi(levels, x, black_box(3))?;
            forward(&quantizer, x)?;
            backward(&quantizer, black_box(mask), x, y)?;
        }
    }
    training(x, y)?;
    adaptation(x)
}

fn arithmetic<W: Word>(x: Fixed<W, 12>, y: Fixed<W, 9>) -> Result<()> {
    black_box([x.saturating_add(x), x.saturating_sub(x), x.saturating_neg(), x.saturating_abs()]);
    black_box([x.saturating_mul(y), x.saturating_div(y), y.convert(), Fixed::MIN, Fixed::MAX]);
    black_box(x.convert::<i16, 15>());
    black_box(x.convert::<i32, 0>());
    black_box(x.raw());
    black_box(Fixed::<W, 12>::from_ratio(black_box(5), black_box(7)));
    black_box(Fixed::<W, 12>::from_f32_bits(black_box(0x3fc0_0000))?);
    black_box(Fixed::<W, 12>::from_f32(f32::from_bits(black_box(0x3fc0_0000)))?);
    black_box([x.to_f32_bits(), x.to_f32().to_bits()]);
    black_box(pi_over::<W, 12>(black_box(2))?);
    black_box(pi_step(x, black_box(5))?);
    Ok(())
}

fn forward<W: Word>(quantizer: &FixedQuantizer<W, 12>, w: Fixed<W, 12>) -> Result<()> {
    let code = quantizer.quantize(w);
    black_box((quantizer.dequantize(black_box(code)), quantizer.fake_quantize(w), quantizer.step()));
    let (weights, mut codes, mut out) = (black_box([w; 3]), [0; 3], [w; 3]);
    quantizer.quantize_slice(&weights, black_box(&mut codes))?;
    quantizer.dequantize_slice(black_box(&codes), &mut out)?;
    quantizer.fake_quantize_slice(&weights, black_box(&mut out))?;
    black_box(out);
    Ok(())
}

fn backward<W: Word>(
    quantizer: &FixedQuantizer<W, 12>,
    mask: LsqMask,
    w: Fixed<W, 12>,
    g: Fixed<W, 9>,
) -> Result<()> {
    black_box(quantizer.passes(w, mask));
    let variants = [
        SteVariant::Standard,
        SteVariant::Clipped { clip_val: f32::from_bits(black_box(0x3f80_0000)) },
        SteVariant::LearnedStepSize,
        SteVariant::Ewgs { lambda: f32::from_bits(black_box(0x3e80_0000)) },
    ];
    let weights = black_box([w; 3]);
    for variant in variants {
        let ste = FixedSte::from_variant(black_box(variant))?;
        ste.validate()?;
        black_box(ste.backward(quantizer, mask, w, g));
        ste.backward_slice(quantizer, mask, &weights, black_box(&mut [g; 3]))?;
    }
    let scale = lsq_gradient_scale(black_box(100), quantizer.levels())
        .saturating_mul(pi_over::<i32, 30>(black_box(3))?);
    black_box(lsq_step_gradient(quantizer, mask, &weights, &black_box([g; 3]), scale)?);
    Ok(())
}

fn training<W: Word>(w: Fixed<W, 12>, g: Fixed<W, 9>) -> Result<()> {
    let sgd = Sgd::new(Q32::from_ratio(1, black_box(100)), Q32::from_ratio(9, black_box(10)))?;
    black_box((sgd.rate(), sgd.updated(w, g), sgd.updated_alpha(w, g), sgd.velocity(g, g)));
    let (mut weights, gradients) = (black_box([w; 3]), black_box([g; 3]));
    sgd.step(&mut weights, &gradients)?;
    sgd.step_momentum(&mut weights, black_box(&mut [g; 3]), &gradients)?;
    black_box(weights);
    Ok(())
}

fn adaptation<W: Word>(step: Fixed<W, 12>) -> Result<()> {
    let (mut steps, mut weights, mut codes) = (black_box([step; 4]), black_box([step; 8]), [0; 8]);
    let (mut bias, mut logits, mut gradient) =
        ([Q32::default(); 2], [Q32::default(); 2], [Q32::default(); 2]);
    cross_entropy_gradient(black_box(&logits), black_box(1), &mut gradient)?;
    let buffers = HeadBuffers {
        steps: &mut steps,
        weights: &mut weights,
        codes: &mut codes,
        bias: &mut bias,
        logits: &mut logits,
        gradient: &mut gradient,
    };
    // Reading a model is not part of the fixed-point path (it compares scales, which are floats); its last layer is.
    let mut head = match black_box(None::<LastLinear<'_>>) {
        Some(layer) => Head::from_layer(&layer, buffers)?,
        None => Head::new(Levels::new(black_box(2), Grid::MidRise)?, black_box(2), black_box(-3), buffers)?,
    };
    let how = Adaptation::default().decayed(black_box(3), black_box(10));
    black_box(head.learn(&how, &black_box([7; 4]), black_box(1))?);
    black_box(head.predict(&black_box([7; 4]))?);
    black_box(head.logits(&black_box([7; 4]))?);
    black_box((head.weights(), head.codes(), head.bias(), head.digest()));
    Ok(())
}
