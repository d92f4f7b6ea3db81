//! Learning on the device: a last layer of arbitrary shape on arbitrary features and labels. Bad labels and lengths are
//! errors; otherwise a class comes out that exists, codes stay on the grid, and the same stream gives the same weights.
#![no_main]

use fuzz::levels;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use qat_kernels::fixed::{Adaptation, Head, HeadBuffers, Q32};

fuzz_target!(|bytes: &[u8]| {
    // What runs out of bytes says nothing.
    let _ = check(&mut Unstructured::new(bytes));
});

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let levels = levels(u)?;
    let (classes, features) = (u.int_in_range(1..=5usize)?, u.int_in_range(1..=24usize)?);
    let zero_point = u.arbitrary()?;
    let steps: Vec<Q32<24>> =
        (0..classes).map(|_| Ok(Q32::from_raw(u.arbitrary::<i32>()? >> 6))).collect::<Result<_>>()?;
    let weights: Vec<Q32<24>> =
        (0..classes * features).map(|_| Ok(Q32::from_raw(u.arbitrary()?))).collect::<Result<_>>()?;
    let stream: Vec<(Vec<i8>, usize)> = (0..u.int_in_range(1..=3u8)?)
        .map(|_| {
            let len = if u.ratio(1u8, 16u8)? { features + 1 } else { features };
            let x = (0..len).map(|_| u.arbitrary()).collect::<Result<_>>()?;
            Ok((x, u.int_in_range(0..=classes)?))
        })
        .collect::<Result<_>>()?;
    let run = || {
        let (mut steps, mut weights) = (steps.clone(), weights.clone());
        let (mut codes, mut bias) = (vec![0; weights.len()], vec![Q32::default(); classes]);
        let (mut logits, mut gradient) = (vec![Q32::default(); classes], vec![Q32::default(); classes]);
        let buffers = HeadBuffers {
            steps: &mut steps,
            weights: &mut weights,
            codes: &mut codes,
            bias: &mut bias,
            logits: &mut logits,
            gradient: &mut gradient,
        };
        let mut head = Head::new(levels, features, zero_point, buffers).ok()?;
        for (x, label) in &stream {
            let fits = x.len() == features && *label < classes;
            match head.learn(&Adaptation::default(), x, *label) {
                Ok(class) => assert!(fits && class < classes),
                Err(_) => assert!(!fits),
            }
        }
        assert!(head.codes().iter().all(|&q| (levels.lo()..=levels.hi()).contains(&i32::from(q))));
        Some(head.digest())
    };
    assert_eq!(run(), run());
    Ok(())
}
