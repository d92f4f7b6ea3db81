//! The `.cal` format: golden files, hostile files, damage of every kind.
//!
//! `cargo test --test calibration_file -- --ignored` writes the committed files anew. Do that for a new format version
//! only, under new names: files of old versions stay for ever.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use qat_kernels::calibration::*;
use qat_kernels::crc32::crc32;
use qat_kernels::{Error, FileFault, Grid, QuantGranularity, TensorFault, What};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

type Artifact<'a> = CalibrationArtifact<'a, 8>;

const HEADER: usize = 12;

fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// What [`Artifact`] holds, but with nothing checked: a pen for forgers.
#[derive(Clone, Serialize)]
struct Raw {
    sha256: [u8; 32],
    samples: u64,
    unix_time: u64,
    method: CalibrationMethod,
    domains: heapless::Vec<(&'static str, u64), 17>,
    tensors: heapless::Vec<RawTensor, 9>,
}

#[derive(Clone, Serialize)]
struct RawTensor {
    name: heapless::String<160>,
    config: CalibrationConfig,
    parts: heapless::Vec<u8, 64>,
}

/// `lo`, `hi`, `scale`, `zero_point`.
fn packed(parts: &[(f32, f32, f32, i8)]) -> heapless::Vec<u8, 64> {
    parts
        .iter()
        .flat_map(|&(lo, hi, scale, z)| {
            [lo, hi, scale].map(f32::to_le_bytes).concat().into_iter().chain([z as u8])
        })
        .collect()
}

fn name(name: &str) -> heapless::String<160> {
    name.try_into().unwrap()
}

fn payload(raw: &impl Serialize) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    postcard::to_slice(raw, &mut buffer).unwrap().to_vec()
}

/// Header and checksum around a payload.
fn sealed(payload: &[u8]) -> Vec<u8> {
    let mut file = CAL_MAGIC.to_vec();
    file.extend(CAL_VERSION.to_le_bytes());
    file.extend([0, 0]);
    file.extend((payload.len() as u32 + 16).to_le_bytes());
    file.extend(payload);
    reseal_into(file)
}

fn reseal_into(mut body: Vec<u8>) -> Vec<u8> {
    let crc = crc32(&body);
    body.extend(crc.to_le_bytes());
    body
}

/// The file with another checksum after a change of its body.
fn changed(file: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut body = file[..file.len() - 4].to_vec();
    change(&mut body);
    reseal_into(body)
}

fn small() -> Raw {
    Raw {
        sha256: Sha256::digest(b"ten digits").into(),
        samples: 10,
        unix_time: 1_750_000_000,
        method: CalibrationMethod::MinMax,
        domains: [("digits", 10)].into_iter().collect(),
        tensors: [RawTensor {
            name: name("input"),
            config: CalibrationConfig::default(),
            parts: packed(&[(0.0, 2.55, 0.01, -128)]),
        }]
        .into_iter()
        .collect(),
    }
}

/// Every method, scheme, grid and granularity, and optional fields both ways.
fn full() -> Raw {
    let c = CalibrationConfig::default();
    let tensor =
        |name: &str, config, parts: &[_]| RawTensor { name: self::name(name), config, parts: packed(parts) };
    Raw {
        samples: 1200,
        unix_time: 1_760_000_000,
        method: CalibrationMethod::Mse,
        domains: [("audio", 200), ("écriture", 1000)].into_iter().collect(),
        tensors: [
            tensor("block.0.in", c.with_method(CalibrationMethod::Mse), &[(-1.0, 1.55, 0.01, -28)]),
            tensor(
                "block.0.out",
                c.with_method(CalibrationMethod::Percentile { share: 0.9999 }).with_outlier_limit(1e4),
                &[(0.0, 5.1, 0.02, -128)],
            ),
            tensor(
                "block.1.weight",
                c.with_bits(2)
                    .with_method(CalibrationMethod::Entropy)
                    .with_scheme(QuantScheme::Symmetric(Grid::MidRise))
                    .with_granularity(QuantGranularity::PerChannel),
                &[(-0.75, 0.75, 0.5, 0), (-0.1, 0.375, 0.25, 0), (0.0, 0.0, 1.0, 0)],
            ),
            tensor(
                "block.2.weight",
                c.with_bits(3)
                    .with_method(CalibrationMethod::MovingAverage { momentum: 0.9 })
                    .with_scheme(QuantScheme::Symmetric(Grid::MidTread))
                    .with_granularity(QuantGranularity::PerGroup(300)),
                &[(-3.0, 3.0, 1.0, 0), (-6.0, 1.0, 2.0, 0)],
            ),
            tensor("tokens", c.with_granularity(QuantGranularity::PerToken), &[]),
        ]
        .into_iter()
        .collect(),
        ..small()
    }
}

fn golden_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![("small-v1.cal", sealed(&payload(&small()))), ("full-v1.cal", sealed(&payload(&full())))]
}

/// One hostile file for every error that reading can give.
fn hostile_files() -> Vec<(&'static str, Vec<u8>, Error)> {
    let good = sealed(&payload(&small()));
    let file = |at, fault| Error::File { at, fault };
    let forged = |change: &dyn Fn(&mut Raw)| {
        let mut raw = small();
        change(&mut raw);
        sealed(&payload(&raw))
    };
    let tensor = |change: &dyn Fn(&mut RawTensor)| forged(&|raw| change(&mut raw.tensors[0]));
    let part = |part| tensor(&|t| t.parts = packed(&[part]));
    let fault = |fault| Error::Tensor { tensor: 0, fault };
    let lacks = |what| Error::Provenance { what };
    let domains =
        |domains: &[(&'static str, u64)]| forged(&|raw| raw.domains = domains.iter().copied().collect());
    let (len, end) = (good.len(), good.len() - 4);

    let mut longer = good.clone();
    longer.push(0);
    let trailing = payload(&small()).into_iter().chain([0]).collect::<Vec<_>>();
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    // The count of tensors is the byte after the provenance: 32 + 1 + 5 + 1 + (1 + 1 + 6 + 1).
    let count_at = HEADER + 48;
    let zero = CalibrationConfig::default();

    vec![
        ("magic", changed(&good, |b| b[1] = b'X'), file(0, FileFault::Magic)),
        ("version", changed(&good, |b| b[4] = 2), file(4, FileFault::Version { version: 2 })),
        ("header-cut", good[..11].to_vec(), file(0, FileFault::Truncated { got: 11 })),
        (
            "no-room-for-crc",
            [&CAL_MAGIC[..], &[1, 0, 0, 0, 12, 0, 0, 0]].concat(),
            file(0, FileFault::Truncated { got: 12 }),
        ),
        ("cut", good[..len - 1].to_vec(), file(8, FileFault::TotalLength { stated: len, got: len - 1 })),
        ("longer", longer, file(8, FileFault::TotalLength { stated: len, got: len + 1 })),
        ("flipped", flipped, file(end, FileFault::Crc)),
        ("reserved", changed(&good, |b| b[7] = 1), file(6, FileFault::Reserved)),
        ("trailing", sealed(&trailing), file(end, FileFault::TrailingBytes)),
        ("no-payload", sealed(&[]), file(HEADER, FileFault::Metadata)),
        ("cut-in-provenance", sealed(&payload(&small())[..40]), file(HEADER, FileFault::Metadata)),
        ("cut-in-count", sealed(&payload(&small())[..48]), file(count_at, FileFault::Metadata)),
        ("cut-in-tensor", sealed(&payload(&small())[..70]), file(count_at + 1, FileFault::Metadata)),
        ("count-too-large", changed(&good, |b| b[count_at] = 2), file(end, FileFault::Metadata)),
        ("not-utf8", changed(&good, |b| b[count_at + 2] = 0xFF), file(count_at + 1, FileFault::Metadata)),
        (
            "too-many-domains",
            forged(&|raw| raw.domains = (0..17).map(|_| ("a", 1)).collect()),
            file(HEADER, FileFault::Metadata),
        ),
        (
            "too-many-tensors",
            forged(&|raw| {
                raw.tensors = (0..9)
                    .map(|i| RawTensor { name: name(&i.to_string()), ..raw.tensors[0].clone() })
                    .collect();
            }),
            Error::Capacity { what: What::Tensors, capacity: 8 },
        ),
        ("no-tensors", forged(&|raw| raw.tensors.clear()), Error::Empty { what: What::Tensors }),
        ("no-dataset", forged(&|raw| raw.sha256 = [0; 32]), lacks(What::Dataset)),
        ("no-samples", forged(&|raw| raw.samples = 0), lacks(What::SampleCount)),
        ("no-time", forged(&|raw| raw.unix_time = 0), lacks(What::Time)),
        ("no-domains", domains(&[]), lacks(What::Domains)),
        ("domain-nameless", domains(&[("", 10)]), lacks(What::Domains)),
        ("domain-empty", domains(&[("a", 10), ("b", 0)]), lacks(What::Domains)),
        ("domain-twice", domains(&[("a", 4), ("a", 6)]), lacks(What::Domains)),
        ("domain-sum", domains(&[("a", 4), ("b", 7)]), lacks(What::Domains)),
        ("domain-overflow", domains(&[("a", u64::MAX), ("b", 11)]), lacks(What::Domains)),
        (
            "method",
            forged(&|raw| raw.method = CalibrationMethod::Percentile { share: 2.0 }),
            Error::Range { what: What::Share, value: 2.0, min: 0.5f32.next_up(), max: 1.0 },
        ),
        ("nameless", tensor(&|t| t.name.clear()), fault(TensorFault::Name)),
        ("long-name", tensor(&|t| t.name = name(&"n".repeat(MAX_TENSOR_NAME + 1))), fault(TensorFault::Name)),
        (
            "same-name",
            forged(&|raw| raw.tensors.extend([raw.tensors[0].clone()])),
            Error::Tensor { tensor: 1, fault: TensorFault::DuplicateName },
        ),
        ("bits", tensor(&|t| t.config.bits = 9), fault(TensorFault::Config)),
        (
            "momentum-nan",
            tensor(&|t| t.config.method = CalibrationMethod::MovingAverage { momentum: f32::NAN }),
            fault(TensorFault::Config),
        ),
        ("limit-negative", tensor(&|t| t.config.outlier_limit = Some(-1.0)), fault(TensorFault::Config)),
        ("no-parts", tensor(&|t| t.parts.clear()), fault(TensorFault::Parts { got: 0 })),
        ("half-a-part", tensor(&|t| t.parts.extend([0])), fault(TensorFault::Parts { got: 1 })),
        (
            "parts-per-token",
            tensor(&|t| t.config = zero.with_granularity(QuantGranularity::PerToken)),
            fault(TensorFault::Parts { got: 1 }),
        ),
        ("range-nan", part((f32::NAN, 1.0, 0.01, 0)), fault(TensorFault::Range { part: 0 })),
        ("range-infinite", part((0.0, f32::INFINITY, 0.01, 0)), fault(TensorFault::Range { part: 0 })),
        ("range-swapped", part((1.0, 0.0, 0.01, 0)), fault(TensorFault::Range { part: 0 })),
        ("scale-zero", part((0.0, 1.0, 0.0, 0)), fault(TensorFault::Scale { part: 0 })),
        ("scale-negative", part((0.0, 1.0, -0.01, 0)), fault(TensorFault::Scale { part: 0 })),
        ("scale-nan", part((0.0, 1.0, f32::NAN, 0)), fault(TensorFault::Scale { part: 0 })),
        ("scale-infinite", part((0.0, 1.0, f32::INFINITY, 0)), fault(TensorFault::Scale { part: 0 })),
        ("scale-subnormal", part((0.0, 1.0, 1e-40, 0)), fault(TensorFault::Scale { part: 0 })),
        (
            "zero-point-beyond-bits",
            tensor(&|t| {
                t.config.bits = 4;
                t.parts = packed(&[(0.0, 1.0, 0.1, 8)]);
            }),
            fault(TensorFault::ZeroPoint { part: 0 }),
        ),
        (
            "zero-point-symmetric",
            tensor(&|t| {
                t.config = zero
                    .with_scheme(QuantScheme::Symmetric(Grid::MidTread))
                    .with_granularity(QuantGranularity::PerChannel);
                t.parts = packed(&[(0.0, 1.0, 0.1, 0), (0.0, 1.0, 0.1, 1)]);
            }),
            fault(TensorFault::ZeroPoint { part: 1 }),
        ),
    ]
}

#[test]
#[ignore = "writes the committed files"]
fn write_golden_files() {
    for (name, bytes) in golden_files() {
        std::fs::write(golden_path(name), bytes).unwrap();
    }
    for (name, bytes, _) in hostile_files() {
        std::fs::write(golden_path(&format!("hostile-{name}.cal")), bytes).unwrap();
    }
}

#[test]
fn committed_files_are_what_the_generator_writes() {
    let hostile = hostile_files().into_iter().map(|(name, bytes, _)| (format!("hostile-{name}.cal"), bytes));
    let golden = golden_files().into_iter().map(|(name, bytes)| (name.to_string(), bytes));
    let expected: std::collections::BTreeMap<String, Vec<u8>> = golden.chain(hostile).collect();
    for (name, bytes) in &expected {
        assert_eq!(&std::fs::read(golden_path(name)).unwrap(), bytes, "{name}");
    }
    let committed =
        std::fs::read_dir(golden_path("")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(committed.filter(|n| n.ends_with(".cal")).count(), expected.len());
}

#[test]
fn golden_files_are_read_and_written_back_byte_for_byte() {
    for (name, bytes) in golden_files() {
        let artifact = Artifact::from_bytes(&bytes).unwrap();
        let mut out = [0; 2048];
        assert_eq!(artifact.to_slice(&mut out).unwrap(), bytes, "{name}");
        assert_eq!(artifact.file_len(), Ok(bytes.len()));
    }
}

#[test]
fn golden_values_are_read() {
    let (_, bytes) = &golden_files()[1];
    let a = Artifact::from_bytes(bytes).unwrap();
    let p = a.provenance();
    assert_eq!(p.dataset_sha256[..], Sha256::digest(b"ten digits")[..]);
    assert_eq!((p.samples, p.unix_time, p.method), (1200, 1_760_000_000, CalibrationMethod::Mse));
    assert_eq!(
        p.domains[..],
        [DomainCount { name: "audio", examples: 200 }, DomainCount { name: "écriture", examples: 1000 }]
    );
    assert_eq!(a.tensors().len(), 5);
    let t = a.tensor("block.1.weight").unwrap();
    assert_eq!((t.config.bits, t.parts.len()), (2, 3));
    let Calibrated { range, params } = t.parts.get(1).unwrap();
    assert_eq!((range.lo(), range.hi(), params), (-0.1, 0.375, AffineParams { scale: 0.25, zero_point: 0 }));
    assert_eq!(t.parts.iter().nth(1), t.parts.get(1));
    assert_eq!(t.parts.get(3), None);
    assert!(a.tensor("tokens").unwrap().parts.is_empty());
    assert_eq!(a.tensor("nothing"), None);
    // Zero copy: names and parts lie in the file.
    assert!(bytes.as_ptr_range().contains(&t.name.as_ptr()));
}

#[test]
fn every_flipped_bit_and_every_truncation_is_detected() {
    for (name, good) in golden_files() {
        let mut bytes = good.clone();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Artifact::from_bytes(&bytes), Err(Error::File { .. })), "{name}, bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..good.len() {
            assert!(
                matches!(Artifact::from_bytes(&good[..len]), Err(Error::File { .. })),
                "{name}, {len} bytes"
            );
        }
        assert_eq!(bytes, good);
    }
}

#[test]
fn every_hostile_file_gives_its_error() {
    for (name, bytes, expected) in hostile_files() {
        assert_eq!(Artifact::from_bytes(&bytes).unwrap_err(), expected, "{name}");
    }
}

/// A forger who repairs the checksum gets an error, or an artifact that keeps every promise.
#[test]
fn flips_under_a_repaired_checksum_never_get_past_validation() {
    let mut accepted = 0;
    for (_, good) in golden_files() {
        for bit in 0..(good.len() - 4) * 8 {
            let bytes = changed(&good, |b| b[bit / 8] ^= 1 << (bit % 8));
            let Ok(artifact) = Artifact::from_bytes(&bytes) else { continue };
            accepted += 1;
            artifact.validate().unwrap();
            for t in artifact.tensors() {
                t.validate().unwrap();
                assert!(t.parts.iter().all(|p| p.params.scale > 0.0 && p.params.scale.is_normal()));
            }
            let mut out = [0; 2048];
            let again = artifact.to_slice(&mut out).unwrap();
            assert_eq!(Artifact::from_bytes(again).unwrap(), artifact);
        }
    }
    assert!(accepted > 100, "flips in hashes and ranges are valid files: {accepted}");
}

#[test]
fn what_is_not_valid_is_not_written() {
    let bytes = &golden_files()[0].1;
    let good = Artifact::from_bytes(bytes).unwrap();
    let mut out = [0; 2048];

    let empty = Artifact::new(good.provenance().clone());
    assert_eq!(empty.to_slice(&mut out), Err(Error::Empty { what: What::Tensors }));

    let timeless = Provenance { unix_time: 0, ..good.provenance().clone() };
    let mut artifact = Artifact::new(timeless);
    artifact.push(good.tensors()[0]).unwrap();
    assert_eq!(artifact.to_slice(&mut out), Err(Error::Provenance { what: What::Time }));
    assert!(out.iter().all(|&b| b == 0));

    let len = bytes.len();
    let short = Error::Length { what: What::Output, expected: len, got: len - 1 };
    assert_eq!(good.to_slice(&mut out[..len - 1]), Err(short));
    assert_eq!(good.to_slice(&mut out[..len]).unwrap(), bytes);

    let mut full = CalibrationArtifact::<1>::new(good.provenance().clone());
    full.push(good.tensors()[0]).unwrap();
    let other = TensorCalibration { name: "other", ..good.tensors()[0] };
    assert_eq!(full.push(other), Err(Error::Capacity { what: What::Tensors, capacity: 1 }));
    let fault = |fault| Err(Error::Tensor { tensor: 1, fault });
    assert_eq!(full.push(good.tensors()[0]), fault(TensorFault::DuplicateName));
    assert_eq!(full.push(TensorCalibration { name: "", ..other }), fault(TensorFault::Name));
    let mut small = [0; 12];
    let one = [good.tensors()[0].parts.get(0).unwrap()];
    assert_eq!(
        Parts::pack(&one, &mut small),
        Err(Error::Length { what: What::Output, expected: 13, got: 12 })
    );
}

fn any_config() -> impl Strategy<Value = CalibrationConfig> {
    let method = prop_oneof![
        Just(CalibrationMethod::MinMax),
        (0.0f32..1.0).prop_map(|momentum| CalibrationMethod::MovingAverage { momentum }),
        (0.51f32..=1.0).prop_map(|share| CalibrationMethod::Percentile { share }),
        Just(CalibrationMethod::Mse),
        Just(CalibrationMethod::Entropy),
    ];
    let scheme = prop::sample::select(vec![
        QuantScheme::Affine,
        QuantScheme::Symmetric(Grid::MidTread),
        QuantScheme::Symmetric(Grid::MidRise),
    ]);
    let granularity = prop_oneof![
        Just(QuantGranularity::PerTensor),
        Just(QuantGranularity::PerChannel),
        (1usize..=u32::MAX as usize).prop_map(QuantGranularity::PerGroup),
        Just(QuantGranularity::PerToken),
    ];
    let limit = prop::option::of(0.1f32..f32::MAX);
    (method, 2u8..=8, scheme, granularity, limit).prop_map(
        |(method, bits, scheme, granularity, outlier_limit)| CalibrationConfig {
            method,
            bits,
            scheme,
            granularity,
            outlier_limit,
        },
    )
}

proptest! {
    #[test]
    fn artifacts_survive_the_file(
        sha in any::<[u8; 32]>(),
        time in 1..=u64::MAX,
        counts in prop::collection::btree_map("\\PC{1,6}", 1..=u64::MAX / 16, 1..=MAX_DOMAINS),
        tensors in prop::collection::btree_map(
            "\\PC{1,32}",
            (any_config(), prop::collection::vec((-1e30f32..1e30, 0.0f32..1e30), 1..20)),
            1..=8,
        ),
    ) {
        prop_assume!(sha != [0; 32]);
        let mut domains = Domains::new();
        for (name, &n) in &counts {
            domains.add(name, n).unwrap();
        }
        let calibrated: Vec<Vec<Calibrated>> = tensors
            .values()
            .map(|(config, ranges)| {
                let n = match config.granularity {
                    QuantGranularity::PerTensor => 1,
                    QuantGranularity::PerToken => 0,
                    _ => ranges.len(),
                };
                let of = |&(lo, width): &(f32, f32)| {
                    let range = ClipRange::new(lo, lo + width).unwrap();
                    Calibrated { range, params: AffineParams::from_range(range, config.bits, config.scheme).unwrap() }
                };
                ranges.iter().take(n).map(of).collect()
            })
            .collect();
        let mut buffers: Vec<Vec<u8>> = calibrated.iter().map(|c| vec![0; Parts::packed_len(c.len())]).collect();
        let mut artifact = Artifact::new(Provenance::new(sha, time, CalibrationMethod::Mse, &domains));
        for (((name, (config, _)), calibrated), buffer) in tensors.iter().zip(&calibrated).zip(&mut buffers) {
            let parts = Parts::pack(calibrated, buffer).unwrap();
            artifact.push(TensorCalibration { name, config: *config, parts }).unwrap();
        }

        let names = counts.keys().chain(tensors.keys()).map(String::len).sum();
        let parts = calibrated.iter().map(Vec::len).sum();
        let mut file = vec![0; max_file_len(counts.len(), tensors.len(), parts, names)];
        let bytes = &*artifact.to_slice(&mut file).unwrap();
        prop_assert_eq!(artifact.file_len().unwrap(), bytes.len());
        let read = Artifact::from_bytes(bytes).unwrap();
        prop_assert_eq!(&read, &artifact);
        for (t, expected) in read.tensors().iter().zip(&calibrated) {
            prop_assert_eq!(&t.parts.iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn noise_is_refused_without_harm(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Artifact::from_bytes(&noise).is_err());
        // The same behind a header and a checksum that hold.
        let _ = Artifact::from_bytes(&sealed(&noise)).map(|a| a.validate().unwrap());
    }
}
