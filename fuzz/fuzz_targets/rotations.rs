//! Hadamard rotations: exactly invertible in integers, of the right size in floats, and the same on every way to them.
#![no_main]

use fuzz::finite;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use qat_kernels::hadamard::Rotation;

fuzz_target!(|bytes: &[u8]| {
    // What runs out of bytes says nothing.
    let _ = check(&mut Unstructured::new(bytes));
});

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let len = u.int_in_range(0..=300usize)?;
    let rotation = match u.arbitrary()? {
        true => Rotation::new(u.arbitrary()?),
        false => Rotation::even(u.arbitrary()?, len.max(1)).expect("not empty"),
    };
    let Ok(rotation) = rotation.with_max_block(u.int_in_range(0..=512)?) else { return Ok(()) };
    assert_eq!(rotation.blocks(len).map(|b| b.len()).sum::<usize>(), len);

    let x: Vec<i32> = (0..len).map(|_| u.arbitrary()).collect::<Result<_>>()?;
    let mut rotated = x.clone();
    match rotation.rotate_i32(&mut rotated) {
        Ok(()) => {
            rotation.rotate_back_i32(&mut rotated).expect("not empty");
            assert_eq!(rotated, x);
        }
        Err(_) => assert_eq!(rotated, x, "untouched"),
    }

    let (x, zero_point): (Vec<i8>, i8) =
        ((0..len).map(|_| u.arbitrary()).collect::<Result<_>>()?, u.arbitrary()?);
    let (mut wide, mut narrow) = (vec![0i32; len], vec![0i16; len]);
    if rotation.rotate_i8_to_i32(&x, zero_point, &mut wide).is_ok()
        && rotation.rotate_i8_to_i16(&x, zero_point, &mut narrow).is_ok()
    {
        assert!(narrow.iter().zip(&wide).all(|(&a, &b)| i32::from(a) == b));
    }

    let x: Vec<f32> = (0..len).map(|_| finite(u)).collect::<Result<_>>()?;
    let mut rotated = x.clone();
    if rotation.rotate(&mut rotated).is_ok() {
        let square = |v: &[f32]| v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        let (before, after) = (square(&x), square(&rotated));
        assert!((before - after).abs() <= 1e-4 * before + 1e-30, "{before} {after}");
    }
    Ok(())
}
