//! Every operation of every backend against the arrays of the portable one, or against plain arithmetic.

use super::{GROUP_FACTORS, HALF_SCALE, IntKernel, Ints};
use crate::arch::Backend;
use crate::quantizer::F16;

/// Bytes without a pattern.
fn noise(seed: u32) -> [u8; 64] {
    let mut state = seed.wrapping_mul(2_654_435_761);
    core::array::from_fn(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
}

struct Operations {
    seed: u32,
    name: &'static str,
}

impl IntKernel for Operations {
    type Output = ();

    fn run<V: Ints<LEN>, const LEN: usize>(self, v: V) {
        let Self { seed, name } = self;
        let (raw, other): ([u8; 64], [u8; 64]) = (noise(seed), noise(seed + 1000));
        // All activations minimal, all maximal, or any.
        let x: [u8; 64] = match seed % 4 {
            0 => [0x80; 64],
            1 => [0x7F; 64],
            _ => other,
        };
        let first = |bytes: &[u8; 64]| *bytes.first_chunk::<LEN>().unwrap();
        let (packed, activations) = (v.bytes(&first(&raw)), v.bytes(&first(&x)));
        let bytes = |of: V::Bytes| {
            // The only way out of a vector: products with one, which are the bytes, an index at a time.
            let at = |i: usize| {
                let mut one = [0; LEN];
                one[i] = 1;
                let low = v.total(v.dot(v.zero(), v.field::<0>(of, 0x7F), v.bytes(&one)));
                low + 128 * v.total(v.dot(v.zero(), v.field::<7>(of, 1), v.bytes(&one)))
            };
            (0..LEN).map(at).collect::<Vec<i32>>()
        };
        let each = |f: &dyn Fn(u8) -> u8| raw[..LEN].iter().map(|&b| f(b).into()).collect::<Vec<i32>>();
        assert_eq!(bytes(packed), each(&|b| b), "{name}");
        assert_eq!(bytes(v.flip(packed, 0xA5)), each(&|b| b ^ 0xA5), "{name}");
        assert_eq!(bytes(v.field::<2>(packed, 3)), each(&|b| b >> 2 & 3), "{name}");
        assert_eq!(bytes(v.field::<4>(packed, 15)), each(&|b| b >> 4), "{name}");
        assert_eq!(bytes(v.field::<6>(packed, 3)), each(&|b| b >> 6), "{name}");

        let half = v.field::<1>(packed, 0x7F);
        assert_eq!(bytes(v.double(half)), each(&|b| b & 0xFE), "{name}");

        let thirds = v.thirds(packed).map(bytes);
        for (eight, three) in raw[..LEN / 4 * 3].as_chunks::<3>().0.iter().enumerate() {
            let word = u32::from_le_bytes([three[0], three[1], three[2], 0]);
            for (i, (which, place)) in
                [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)].into_iter().enumerate()
            {
                assert_eq!(thirds[which][4 * eight + place], (word >> (3 * i) & 7) as i32, "{name}");
            }
        }

        let products = |weight: &dyn Fn(u8) -> i32| {
            raw[..LEN]
                .iter()
                .zip(&x)
                .map(|(&w, &x)| weight(w) * i32::from(x.cast_signed()))
                .collect::<Vec<_>>()
        };
        // The largest weights that are allowed, where they matter most.
        let full = |b: u8| if seed % 4 < 2 { 127 } else { b & 127 };
        let weights = v.bytes(&core::array::from_fn(|i| full(raw[i])));
        let expected = products(&|w| full(w).into());
        let total: i32 = expected.iter().sum();
        let seven = v.dot(
            v.zero(),
            v.bytes(&[1; LEN]),
            v.bytes(&{
                let mut seven = [0; LEN];
                seven[0] = 7;
                seven
            }),
        );
        assert_eq!(v.total(v.dot(seven, weights, activations)), 7 + total, "{name}");
        let signed = products(&|w| i32::from(w.cast_signed()) + V::SIGNED_OFFSET);
        assert_eq!(
            v.total(v.dot_signed(seven, packed, activations)),
            7 + signed.iter().sum::<i32>(),
            "{name}"
        );
        let fifteen = v.bytes(&[15; LEN]);
        let sum: i32 = x[..LEN].iter().map(|&x| 15 * i32::from(x.cast_signed())).sum();
        assert_eq!(v.total(v.dot_small(seven, [fifteen; 4], [activations; 4])), 7 + 4 * sum, "{name}");
        assert_eq!(v.total(v.dot_small(seven, [fifteen], [activations])), 7 + sum, "{name}");

        let two = v.dot_small(seven, [v.double(fifteen); 2], [activations; 2]);
        assert_eq!(v.total(two), 7 + 4 * sum, "{name}");

        let words = |of: V::Words| {
            let mut to = [0; LEN];
            v.store(of, &mut to);
            to.as_chunks::<2>().0.iter().map(|&w| i16::from_le_bytes(w).into()).collect::<Vec<i32>>()
        };
        let pairs = v.pairs(weights, activations);
        let two: Vec<i32> = expected.chunks(2).map(|two| two.iter().sum()).collect();
        assert_eq!(words(pairs), two, "{name}");
        let loaded = v.words(&first(&raw));
        let plain: Vec<i16> = raw[..LEN].as_chunks::<2>().0.iter().map(|&w| i16::from_le_bytes(w)).collect();
        let sums = words(v.add(loaded, pairs));
        for ((sum, &a), b) in sums.iter().zip(&plain).zip(&two) {
            assert_eq!(*sum, i32::from(a.wrapping_add(*b as i16)), "{name}");
        }
        for log in 0..=4 {
            let fields = u64::from_le_bytes(*other.first_chunk().unwrap());
            let factors = v.factors(v.spread(log), fields);
            let factor = |i: usize| GROUP_FACTORS[(fields >> (2 * (i >> log)) & 3) as usize].into();
            let all: Vec<i32> = (0..LEN / 2).map(factor).collect();
            assert_eq!(words(factors), all, "{name}, log {log}");
            let scaled: i32 = plain.iter().zip(&all).map(|(&a, &b)| i32::from(a) * b).sum();
            assert_eq!(v.total(v.scaled(seven, loaded, factors)), 7 + scaled, "{name}");
        }

        let sums = |of: V::Sums| {
            let mut to = [0; LEN];
            v.store_sums(of, &mut to);
            to.as_chunks::<4>().0.iter().map(|&sum| i32::from_le_bytes(sum)).collect::<Vec<i32>>()
        };
        let plain: Vec<i32> = plain[..LEN / 4].iter().map(|&a| a.into()).collect();
        let mut stored = [0; LEN];
        stored.as_chunks_mut::<4>().0.iter_mut().zip(&plain).for_each(|(to, a)| *to = a.to_le_bytes());
        let loaded = v.sums(&stored);
        assert_eq!(sums(loaded), plain, "{name}");
        for log in 0..=3 {
            let fields = u32::from_le_bytes(*other.first_chunk().unwrap());
            let factors = v.sum_factors(v.sum_spread(log), fields);
            let factor = |i: usize| GROUP_FACTORS[(fields >> (2 * (i >> log)) & 3) as usize].into();
            let all: Vec<i32> = (0..LEN / 4).map(factor).collect();
            assert_eq!(sums(factors), all, "{name}, log {log}");
            let scaled: Vec<i32> = plain.iter().zip(&all).map(|(a, b)| a * b + a).collect();
            assert_eq!(sums(v.add_scaled(loaded, loaded, factors)), scaled, "{name}");
        }

        let fours = |products: &[i32]| -> Vec<i32> {
            products.chunks(4).zip(&plain).map(|(four, &a)| a + four.iter().sum::<i32>()).collect()
        };
        assert_eq!(sums(v.dot(loaded, weights, activations)), fours(&expected), "{name}");
        assert_eq!(sums(v.dot_signed_neighbours(loaded, packed, activations)), fours(&signed), "{name}");

        let numbers = |of: V::Reals| {
            let mut to = [0; LEN];
            v.store_reals(of, &mut to);
            to.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect::<Vec<f32>>()
        };
        let reals: Vec<f32> = plain.iter().map(|&a| a as f32 * 0.3).collect();
        let mut stored = [0; LEN];
        stored.as_chunks_mut::<4>().0.iter_mut().zip(&reals).for_each(|(to, a)| *to = a.to_le_bytes());
        let loaded_reals = v.reals(&stored);
        assert_eq!(numbers(loaded_reals), reals, "{name}");
        // Beyond 24 bits, where it rounds.
        let wide: Vec<i32> = raw[..LEN].as_chunks::<4>().0.iter().map(|&x| i32::from_le_bytes(x)).collect();
        let to_reals = numbers(v.to_reals(v.sums(&first(&raw))));
        assert_eq!(to_reals, wide.iter().map(|&x| x as f32).collect::<Vec<_>>(), "{name}");
        let b = v.to_reals(v.sums(&first(&raw)));
        let each = |f: &dyn Fn(f32, f32) -> f32| -> Vec<f32> {
            reals.iter().zip(&to_reals).map(|(&a, &b)| f(a, b)).collect()
        };
        assert_eq!(numbers(v.times(loaded_reals, b)), each(&|a, b| a * b), "{name}");
        assert_eq!(numbers(v.plus(loaded_reals, b)), each(&|a, b| a + b), "{name}");
        for log in 0..=4 {
            let halves = numbers(v.halves(v.half_spread(log), &first(&raw)));
            let half = |i: usize| {
                let bits = u16::from_le_bytes([raw[2 * (i >> log)], raw[2 * (i >> log) + 1]]);
                let expected = f32::from_bits(u32::from(bits) << 13) * HALF_SCALE;
                let number = F16::from_bits(bits);
                assert!(!number.is_positive() || number.to_f32() == expected, "{bits:04x}");
                expected
            };
            assert_eq!(halves, (0..LEN / 4).map(half).collect::<Vec<_>>(), "{name}, log {log}");
        }
    }
}

#[test]
fn every_operation_of_every_backend_is_its_definition() {
    for backend in Backend::available() {
        for seed in 0..40 {
            backend.run_ints(Operations { seed, name: backend.isa().name() });
        }
    }
}
