//! Two tensors, row by row.

/// Calls `each` with every whole row of `len` values of `x` and the row at the same place of `out`.
///
/// Not a zip of two `chunks_exact`: that divides by the length to know how many there are, and where the compiler saves
/// space instead of inlining it, the check for a zero comes with it, and a panic.
pub(super) fn each_row(
    x: &[i8],
    out: &mut [i8],
    len: usize,
    mut each: impl FnMut(&[i8], &mut [i8]) -> Option<()>,
) -> Option<()> {
    let len = len.max(1);
    let (mut x, mut out) = (x, out);
    while let (Some((row, x_rest)), Some((out_row, out_rest))) =
        (x.split_at_checked(len), core::mem::take(&mut out).split_at_mut_checked(len))
    {
        each(row, out_row)?;
        (x, out) = (x_rest, out_rest);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_rows_meet_and_the_rest_is_left() {
        let x = [1, 2, 3, 4, 5, 6, 7];
        for len in 1..9 {
            let mut out = [0; 7];
            each_row(&x, &mut out, len, |x, out| {
                out.copy_from_slice(x);
                Some(())
            })
            .unwrap();
            let whole = 7 / len * len;
            assert_eq!((&out[..whole], &out[whole..]), (&x[..whole], &[0; 7][whole..]), "{len}");
        }
        let mut calls = 0;
        let stopped = each_row(&x, &mut [0; 7], 2, |_, _| {
            calls += 1;
            (calls < 2).then_some(())
        });
        assert_eq!((stopped, calls), (None, 2));
    }
}
